/* 3x3 convolutions by matrix units. */

#include "common.cuh"

struct Conv3x3 {
    const Half *x;      /* (height, width, channels) */
    const Half *weight; /* (taps, steps) of 16 x 8 TILES, as `mma` takes them */
    const float *bias;  /* (outputs,) */
    Half *out;          /* (height, width, outputs), or NULL */
    float *planes;      /* (outputs, height, width) */
    int height, width, channels, steps, outputs; /* steps: of 16 channels each */
    float slope;                                 /* of what is negative */
};

enum { WARPS = 8, THREADS = 32 * WARPS, COLUMNS_ACROSS = 16, STEP = 16 };

/* SIDE x SIDE taps. A block is a tile, a warp ROWS of its rows. Where STEPS is 0, the job says how
 * many. `fill` gives eight channels, the n-th of them, of a pixel of the tile, whose first pixel is
 * the first tap's of the first pixel of what comes out. */
template <int TILES, int SIDE, int ROWS, int STEPS, typename Fill>
__device__ static void convolve_tile(const Conv3x3 &job, int left, int top, Fill fill) {
    enum {
        COLUMNS = COLUMNS_ACROSS + SIDE - 1,
        PIXELS = (WARPS * ROWS + SIDE - 1) * COLUMNS,
        TAPS = SIDE * SIDE,
        UNROLLED = STEPS ? TAPS : 1
    };
    Half *tile = (Half *)memory; /* with a vector more a pixel, against bank conflicts */
    const int steps = STEPS ? STEPS : job.steps, groups = steps * STEP / VEC,
              stride = steps * STEP + VEC, size = TILES * 8 * STEP;
    const int last = TAPS * steps - 1;
    WeightTiles<TILES> now, next, later; /* loaded two steps ahead */
    now.load(job.weight);
    next.load(job.weight + (last ? size : 0));
    for (int first = threadIdx.x; first < PIXELS * groups; first += UNROLL * THREADS) {
        Half8 vectors[UNROLL] = {};
        for (int i = 0; i < UNROLL; i++) {
            const int n = first + i * THREADS, pixel = n / groups;
            if (pixel < PIXELS)
                vectors[i] = fill(pixel / COLUMNS, pixel % COLUMNS, n % groups);
        }
        for (int i = 0; i < UNROLL; i++) {
            const int n = first + i * THREADS;
            if (n < PIXELS * groups)
                *(Half8 *)(tile + n / groups * stride + n % groups * VEC) = vectors[i];
        }
    }
    __syncthreads();
    const int row = threadIdx.x / 32 * ROWS, lane = threadIdx.x % 32;
    float sums[ROWS][TILES][4] = {};
#pragma unroll UNROLLED
    for (int tap = 0; tap < TAPS; tap++) {
        const Half *from = tile + ((row + tap / SIDE) * COLUMNS + tap % SIDE) * stride;
        for (int step = 0; step < steps; step++) {
            const int ahead = tap * steps + step + 2;
            later.load(job.weight + (ahead < last ? ahead : last) * size);
            for (int n = 0; n < ROWS; n++)
                mma<TILES>(sums[n], from + n * COLUMNS * stride + step * STEP, stride, now);
            now = next;
            next = later;
        }
    }
    /* Of a pixel a thread has OWN channels, one after the other (`conv3x3_weight`), and stores
     * so many at a time. */
    enum { OWN = 2 * TILES, AT_A_TIME = TILES % 4 ? 4 : 8 };
    const int own = lane % 4 * OWN;
    float bias[OWN];
    for (int i = 0; i < OWN; i++)
        bias[i] = own + i < job.outputs ? job.bias[own + i] : 0;
    for (int n = 0; n < ROWS * 2; n++) {
        const int down = n / 2, half = n % 2, y = top + row + down, x = left + lane / 4 + 8 * half;
        if (y >= job.height || x >= job.width)
            continue;
        const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
        for (int first = 0; first < OWN; first += AT_A_TIME) {
            const int channel = own + first;
            float values[AT_A_TIME];
            for (int i = 0; i < AT_A_TIME; i++)
                values[i] = leaky(sums[down][(first + i) / 2][2 * half + i % 2] + bias[first + i],
                                  job.slope);
            if (!job.out) {
                for (int i = 0; i < AT_A_TIME && channel + i < job.outputs; i++)
                    job.planes[(channel + i) * plane + at] = values[i];
            } else if (channel < job.outputs) {
                store<AT_A_TIME>(job.out + at * job.outputs + channel, values);
            }
        }
    }
}

/* 3x3, 0 about the border. */
template <int TILES, int ROWS, int STEPS>
__device__ static void convolve_feature(const Conv3x3 &job) {
    const int left = blockIdx.x * COLUMNS_ACROSS, top = blockIdx.y * WARPS * ROWS;
    convolve_tile<TILES, 3, ROWS, STEPS>(job, left, top, [&](int row, int column, int group) {
        const int y = top + row - 1, x = left + column - 1, channel = group * VEC;
        Half8 vector = {};
        if (y >= 0 && y < job.height && x >= 0 && x < job.width && channel < job.channels)
            vector = *(const Half8 *)(job.x + ((Long)y * job.width + x) * job.channels + channel);
        return vector;
    });
}

#define CONV3X3(tiles, rows, steps)                       \
    KERNEL(conv3x3_##tiles##_##rows##_##steps, Conv3x3) { \
        convolve_feature<tiles, rows, steps>(job);        \
    }

/* What packing.py names, of every kind one for any number of steps. */
CONV3X3(2, 1, 0)
CONV3X3(4, 1, 0)
CONV3X3(6, 1, 0)
CONV3X3(8, 1, 0)
CONV3X3(2, 2, 0)
CONV3X3(4, 2, 0)
CONV3X3(6, 2, 0)
CONV3X3(8, 2, 0)
CONV3X3(2, 2, 1)
CONV3X3(2, 2, 2)
CONV3X3(2, 2, 5)
CONV3X3(4, 2, 2)
CONV3X3(4, 2, 3)
CONV3X3(2, 4, 1)
CONV3X3(2, 4, 2)

struct Conv3x3FromRgb {
    const float *frame, *mean; /* (3, frame_height, frame_width); one number */
    Conv3x3 layer; /* of 16 channels: four of each pixel of a square of 2x2, the last of them 0 */
    int frame_height, frame_width;
    int full_height, full_width; /* to which the frame's border is repeated; beyond are zeros */
};

/* 3x3 of stride 2 of (sample - mean) * 4: 2x2 of squares of 2x2, of which the first has the frame's
 * first pixel last. */
template <int ROWS> __device__ static void convolve_rgb(const Conv3x3FromRgb &job) {
    const int left = blockIdx.x * COLUMNS_ACROSS, top = blockIdx.y * WARPS * ROWS;
    const Long plane = (Long)job.frame_height * job.frame_width;
    const float mean = *job.mean;
    convolve_tile<2, 2, ROWS, 1>(
        job.layer, left, top,
        [&](int row, int column,
            int group) { /* group: of the square's rows */
                         const int y = (top + row) * 2 + group - 1, x = (left + column) * 2 - 1;
                         Half8 vector = {};
                         if (y >= 0 && y < job.full_height) {
                             const float *line =
                                 job.frame + (Long)clamp(y, job.frame_height - 1) * job.frame_width;
                             for (int n = 0; n < 2; n++)
                                 if (x + n >= 0 && x + n < job.full_width) {
                                     const float *from = line + clamp(x + n, job.frame_width - 1);
                                     vector.pairs[2 * n] =
                                         pack_pair((from[0] - mean) * 4, (from[plane] - mean) * 4);
                                     vector.pairs[2 * n + 1] =
                                         pack_pair((from[2 * plane] - mean) * 4, 0);
                                 }
                         }
                         return vector;
        });
}

KERNEL(conv3x3_from_rgb_1, Conv3x3FromRgb) {
    convolve_rgb<1>(job);
}

KERNEL(conv3x3_from_rgb_2, Conv3x3FromRgb) {
    convolve_rgb<2>(job);
}

KERNEL(conv3x3_from_rgb_4, Conv3x3FromRgb) {
    convolve_rgb<4>(job);
}
