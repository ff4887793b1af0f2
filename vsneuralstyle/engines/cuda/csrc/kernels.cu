/* What lies between the convolutions of Net1, on a GPU: each kernel is one pass over memory, or
 * two, in place of ten operators. The small convolutions of its flow and mask networks. And hosts'
 * samples to RGB and back.
 *
 * Compiled by NVRTC when a GPU is first used (gpu.py), without headers. A kernel takes one struct,
 * its job. Pictures are float16 unless it says otherwise, their channels last, a multiple of 8;
 * everything is computed in float32. No result depends on the order in which blocks run: sums are
 * of parts that are always the same, added in one order.
 */

#ifndef KERNEL
#define KERNEL(name, Job) extern "C" __global__ void name(const Job job)
#define SHARED extern __shared__ /* as much as the launch says */

__device__ static float widened(unsigned short half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

__device__ static unsigned short narrowed(float value) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

/* first * second + third of each of the two. */
__device__ static unsigned int fused_pair(unsigned int first, unsigned int second,
                                          unsigned int third) {
    unsigned int pair;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(first), "r"(second), "r"(third));
    return pair;
}

/* What a thread has of a matrix of 16 x 8 TILES, in the order of `convolution_weight` in gpu.py. */
template <int TILES> struct Right {
    uint4 pairs[TILES / 2];

    __device__ void load(const unsigned short *from) {
        for (int n = 0; n < TILES / 2; n++)
            pairs[n] = ((const uint4 *)from)[n * 32 + threadIdx.x % 32];
    }
};

__device__ static void multiply_tile(float (&sums)[4], const unsigned int (&left)[4],
                                     unsigned int first, unsigned int second) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(first), "r"(second));
}

/* A warp's: 16 x 16 of `from`, in shared memory, rows `stride` apart, a multiple of 8, times
 * `right` are added to 16 x 8 TILES sums. A thread has of each tile those of row lane / 4, columns
 * lane % 4 * 2 and the next, and then those eight rows below. */
template <int TILES>
__device__ static void multiply(float (&sums)[TILES][4], const unsigned short *from, int stride,
                                const Right<TILES> &right) {
    const unsigned short *row = from + threadIdx.x % 16 * stride + threadIdx.x % 32 / 16 * 8;
    unsigned long long address;
    unsigned int left[4];
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(left[0]), "=r"(left[1]), "=r"(left[2]), "=r"(left[3])
                 : "l"(address));
    for (int n = 0; n < TILES / 2; n++) {
        multiply_tile(sums[2 * n], left, right.pairs[n].x, right.pairs[n].y);
        multiply_tile(sums[2 * n + 1], left, right.pairs[n].z, right.pairs[n].w);
    }
}
#endif

typedef unsigned short Half;
typedef long long Long;

#define STRIDE 4      /* pixels of the frame to one of the feature, in each direction */
#define SETTLED 0.25f /* as in net1.py */

enum { EIGHT = 8 };

struct alignas(16) Halves { /* eight of them */
    unsigned int pairs[4];
};

struct alignas(16) Floats {
    float values[4];
};

struct Vector {
    float values[EIGHT];
};

enum { AT_ONCE = 4 };  /* loads that don't wait for each other */
enum { ABREAST = 32 }; /* columns of a warp */

SHARED Floats memory[]; /* of a block */

__device__ static float low(unsigned int pair) {
    return widened((Half)(pair & 0xffff));
}

__device__ static float high(unsigned int pair) {
    return widened((Half)(pair >> 16));
}

__device__ static Vector unpacked(const Halves &halves) {
    Vector vector;
    for (int n = 0; n < EIGHT; n += 2) {
        vector.values[n] = low(halves.pairs[n / 2]);
        vector.values[n + 1] = high(halves.pairs[n / 2]);
    }
    return vector;
}

__device__ static Vector load(const Half *from) {
    return unpacked(*(const Halves *)from);
}

__device__ static Vector load(const float *from) {
    const Floats first = ((const Floats *)from)[0], second = ((const Floats *)from)[1];
    Vector vector;
    for (int n = 0; n < 4; n++)
        vector.values[n] = first.values[n], vector.values[n + 4] = second.values[n];
    return vector;
}

__device__ static unsigned int pair(float first, float second) {
    return narrowed(first) | (unsigned int)narrowed(second) << 16;
}

struct alignas(8) Quad { /* four float16 */
    unsigned int pairs[2];
};

/* Four of them, or eight, at once. */
template <int COUNT> __device__ static void store(Half *to, const float (&values)[COUNT]) {
    if constexpr (COUNT == 4)
        *(Quad *)to = {{pair(values[0], values[1]), pair(values[2], values[3])}};
    else
        *(Halves *)to = {{pair(values[0], values[1]), pair(values[2], values[3]),
                          pair(values[4], values[5]), pair(values[6], values[7])}};
}

__device__ static void store(Half *to, const Vector &vector) {
    store<EIGHT>(to, vector.values);
}

__device__ static int clamp(int place, int last) {
    return place < 0 ? 0 : place > last ? last : place;
}

__device__ static int reflect(int place, int last) {
    place = place < 0 ? -place : place;
    return clamp(place > last ? 2 * last - place : place, last);
}

__device__ static float leaky(float value, float slope) {
    return value < 0 ? value * slope : value;
}

/* Where a picture's pixels are: in squares of 1 << shift, row by row, and in each of them row by
 * row; the first pixel is `edge` pixels below and right of the first square's corner. `columns`:
 * squares in a row. */
struct Layout {
    int shift, edge, columns, channels;
};

__device__ static Long place(const Layout &layout, int y, int x) {
    const int shift = layout.shift, inner = (1 << shift) - 1;
    y += layout.edge;
    x += layout.edge;
    const Long square = (Long)(y >> shift) * layout.columns + (x >> shift);
    return ((square << 2 * shift) + ((y & inner) << shift) + (x & inner)) * layout.channels;
}

/* --- frames for networks
 * -------------------------------------------------------------------------------------------- */

struct Enter {
    const float *frame; /* (3, height, width) */
    Half *out; /* (rows, columns, 4, 4, 3): of squares of 4x4, one more on each side than cover the
                  frame */
    int height, width, rows, columns;
};

/* A thread a row of a square. The frame's border is repeated to whole squares, and reflected
 * beyond. */
KERNEL(enter, Enter) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || row >= job.rows * STRIDE)
        return;
    const int y = clamp(reflect(row - STRIDE, (job.rows - 2) * STRIDE - 1), job.height - 1),
              first = (column - 1) * STRIDE;
    const Long plane = (Long)job.height * job.width, line = (Long)y * job.width;
    float samples[STRIDE][3];
    for (int color = 0; color < 3; color++) {
        const float *from = job.frame + color * plane + line;
        if (first >= 0 && first + STRIDE <= job.width && job.width % STRIDE == 0) {
            const Floats four = *(const Floats *)(from + first);
            for (int n = 0; n < STRIDE; n++)
                samples[n][color] = four.values[n];
        } else {
            for (int n = 0; n < STRIDE; n++)
                samples[n][color] =
                    from[clamp(reflect(first + n, (job.columns - 2) * STRIDE - 1), job.width - 1)];
        }
    }
    const float *sample = samples[0];
    Quad *out =
        (Quad *)(job.out + (((Long)(row / STRIDE) * job.columns + column) * STRIDE + row % STRIDE) *
                               STRIDE * 3);
    for (int n = 0; n < 3; n++) {
        Quad quad;
        quad.pairs[0] = pair(sample[4 * n], sample[4 * n + 1]);
        quad.pairs[1] = pair(sample[4 * n + 2], sample[4 * n + 3]);
        out[n] = quad;
    }
}

struct Leave {
    const Half *x;     /* (rows, columns, 4, 4, 3), in squares of 4x4 */
    const float *bias; /* (3,) */
    float *out;        /* (3, height, width) */
    int height, width, columns;
};

/* tanh, to 0..1, a thread a row of a square. */
KERNEL(leave, Leave) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              y = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || y >= job.height)
        return;
    const Quad *from =
        (const Quad *)(job.x + (((Long)(y / STRIDE) * job.columns + column) * STRIDE + y % STRIDE) *
                                   STRIDE * 3);
    float samples[STRIDE][3];
    for (int n = 0; n < 3; n++) {
        const Quad quad = from[n];
        for (int i = 0; i < 4; i++) {
            const float value =
                widened((Half)(quad.pairs[i / 2] >> 16 * (i % 2))) + job.bias[(4 * n + i) % 3];
            samples[(4 * n + i) / 3][(4 * n + i) % 3] = tanhf(value) * 0.5f + 0.5f;
        }
    }
    for (int color = 0; color < 3; color++) {
        float *to = job.out + ((Long)color * job.height + y) * job.width + column * STRIDE;
        if (job.width % STRIDE == 0) {
            Floats four;
            for (int n = 0; n < STRIDE; n++)
                four.values[n] = samples[n][color];
            *(Floats *)to = four;
        } else {
            for (int n = 0; n < STRIDE && column * STRIDE + n < job.width; n++)
                to[n] = samples[n][color];
        }
    }
}

/* --- normalisation
 * --------------------------------------------------------------------------------------------------
 */

struct Sums {
    const Half *x;
    float *sums; /* (blocks, 2, channels): sums, and sums of squares, about the first pixel */
    Layout layout;
    int height, width, rows,
        part; /* squares' rows; a block's share of the vectors, a multiple of those of a pixel */
};

/* Threads: a multiple of a pixel's vectors. */
KERNEL(sums, Sums) {
    float *shared = (float *)memory; /* 16 a thread */
    const int channels = job.layout.channels, groups = channels / EIGHT, shift = job.layout.shift,
              squares = 1 << 2 * shift;
    const int channel = threadIdx.x % groups * EIGHT,
              all = job.rows * job.layout.columns * squares * groups;
    const int first = blockIdx.x * job.part, last = first + job.part < all ? first + job.part : all;
    /* About the first pixel, so that a mean far from 0 leaves the variance its digits. */
    const Vector about = load(job.x + place(job.layout, 0, 0) + channel);
    Vector sum = {}, square = {};
    auto counts = [&](int n) { /* whether a vector is of the picture */
                               if (n >= last || !job.layout.edge)
                                   return n < last;
                               const int pixel = n / groups, inner = pixel & (squares - 1),
                                         corner = pixel >> 2 * shift;
                               const int y = (corner / job.layout.columns << shift) +
                                             (inner >> shift) - job.layout.edge;
                               const int x = (corner % job.layout.columns << shift) +
                                             (inner & ((1 << shift) - 1)) - job.layout.edge;
                               return y >= 0 && y < job.height && x >= 0 && x < job.width;
    };
    for (int start = first + threadIdx.x; start < last; start += AT_ONCE * blockDim.x) {
        Halves vectors[AT_ONCE] = {};
        bool counted[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++) {
            const int n = start + k * blockDim.x;
            if ((counted[k] = counts(n)))
                vectors[k] = *(const Halves *)(job.x + (Long)n * EIGHT);
        }
        for (int k = 0; k < AT_ONCE; k++) {
            if (!counted[k])
                continue;
            const Vector vector = unpacked(vectors[k]);
            for (int i = 0; i < EIGHT; i++) {
                const float value = vector.values[i] - about.values[i];
                sum.values[i] += value;
                square.values[i] += value * value;
            }
        }
    }
    for (int i = 0; i < EIGHT; i++) {
        shared[threadIdx.x * 2 * EIGHT + i] = sum.values[i];
        shared[threadIdx.x * 2 * EIGHT + EIGHT + i] = square.values[i];
    }
    __syncthreads();
    for (int n = threadIdx.x; n < 2 * channels; n += blockDim.x) {
        const int group = n % channels / EIGHT, at = n / channels * EIGHT + n % EIGHT;
        float total = 0;
        for (int thread = group; thread < blockDim.x; thread += groups)
            total += shared[thread * 2 * EIGHT + at];
        job.sums[(Long)blockIdx.x * 2 * channels + n] = total;
    }
}

struct Scales {
    const float *sums;
    const Half *x;              /* about whose first pixel they are */
    const float *weight, *bias; /* (channels,) or NULL */
    float *scale;               /* (2, channels) */
    Layout layout;              /* of x */
    int parts;
    float count, eps;
};

/* A block is eight channels of so many slices. */
KERNEL(scales, Scales) {
    float *shared = (float *)memory; /* 2 a thread */
    const int channels = job.layout.channels, channel = blockIdx.x * EIGHT + threadIdx.x % EIGHT;
    const int slice = threadIdx.x / EIGHT, slices = blockDim.x / EIGHT;
    float sum[AT_ONCE] = {}, square[AT_ONCE] = {};
    for (int first = slice; first < job.parts; first += AT_ONCE * slices)
        for (int n = 0; n < AT_ONCE; n++) {
            const int part = first + n * slices;
            if (part < job.parts) {
                sum[n] += job.sums[part * 2 * channels + channel];
                square[n] += job.sums[(part * 2 + 1) * channels + channel];
            }
        }
    shared[threadIdx.x * 2] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    shared[threadIdx.x * 2 + 1] = (square[0] + square[1]) + (square[2] + square[3]);
    /* Half of the slices to the other half, until one has all. */
    for (int half = slices / 2; half; half /= 2) {
        __syncthreads();
        if (slice < half) {
            shared[threadIdx.x * 2] += shared[(threadIdx.x + half * EIGHT) * 2];
            shared[threadIdx.x * 2 + 1] += shared[(threadIdx.x + half * EIGHT) * 2 + 1];
        }
    }
    if (slice)
        return;
    const double mean = shared[threadIdx.x * 2] / job.count,
                 variance = shared[threadIdx.x * 2 + 1] / job.count - mean * mean;
    const float scale = (job.weight ? job.weight[channel] : 1) /
                        sqrtf((float)(variance > 0 ? variance : 0) + job.eps);
    job.scale[channel] = scale;
    job.scale[channels + channel] =
        (job.bias ? job.bias[channel] : 0) -
        ((float)mean + widened(job.x[place(job.layout, 0, 0) + channel])) * scale;
}

struct Normalise {
    const Half *x;
    const float *scale; /* (2, channels), what to multiply with and then to add; NULL: x as it is */
    const Half *residual; /* added at the end; may be NULL */
    Half *out;
    Layout from, beside, to; /* of x, of the residual, of what comes out with its border */
    int height, width, pad, repeats,
        relu; /* of x; whether the border is repeated, else reflected */
};

/* A thread eight channels of AT_ONCE pixels of what comes out, a block's columns apart. */
KERNEL(normalise, Normalise) {
    const int channel = threadIdx.x * EIGHT, row = blockIdx.y,
              first = blockIdx.x * AT_ONCE * blockDim.y + threadIdx.y;
    const int width = job.width + 2 * job.pad, inside = row - job.pad;
    const int y = job.repeats ? clamp(inside, job.height - 1) : reflect(inside, job.height - 1);
    Halves vectors[AT_ONCE] = {}, residuals[AT_ONCE] = {};
    for (int n = 0; n < AT_ONCE; n++) {
        const int column = first + n * blockDim.y, from = column - job.pad;
        if (column >= width)
            continue;
        const int x = job.repeats ? clamp(from, job.width - 1) : reflect(from, job.width - 1);
        vectors[n] = *(const Halves *)(job.x + place(job.from, y, x) + channel);
        if (job.residual)
            residuals[n] = *(const Halves *)(job.residual + place(job.beside, y, x) + channel);
    }
    Vector factor = {}, shift = {};
    if (job.scale) {
        factor = load(job.scale + channel);
        shift = load(job.scale + job.from.channels + channel);
    }
    for (int n = 0; n < AT_ONCE; n++) {
        const int column = first + n * blockDim.y;
        if (column >= width)
            continue;
        Vector vector = unpacked(vectors[n]);
        const Vector residual = unpacked(residuals[n]);
        for (int i = 0; i < EIGHT; i++) {
            if (job.scale)
                vector.values[i] = vector.values[i] * factor.values[i] + shift.values[i];
            if (job.relu)
                vector.values[i] = vector.values[i] > 0 ? vector.values[i] : 0;
            vector.values[i] += residual.values[i];
        }
        store(job.out + place(job.to, row, column) + channel, vector);
    }
}

struct Activate {
    Half *x;           /* (vectors, 8) */
    const float *bias; /* (channels,) */
    int vectors, channels;
    float slope;
};

KERNEL(activate, Activate) {
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= job.vectors)
        return;
    const int channel = n % (job.channels / EIGHT) * EIGHT;
    Vector vector = load(job.x + (Long)n * EIGHT);
    for (int i = 0; i < EIGHT; i++)
        vector.values[i] = leaky(vector.values[i] + job.bias[channel + i], job.slope);
    store(job.x + (Long)n * EIGHT, vector);
}

/* --- convolution
 * -------------------------------------------------------------------------------------------------------
 */

struct Convolve {
    const Half *x;      /* (height, width, channels) */
    const Half *weight; /* (taps, steps) of 16 x 8 TILES, as `multiply` takes them */
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
__device__ static void convolved(const Convolve &job, int left, int top, Fill fill) {
    enum {
        COLUMNS = COLUMNS_ACROSS + SIDE - 1,
        PIXELS = (WARPS * ROWS + SIDE - 1) * COLUMNS,
        TAPS = SIDE * SIDE,
        UNROLLED = STEPS ? TAPS : 1
    };
    Half *tile = (Half *)memory; /* with a vector more a pixel, against bank conflicts */
    const int steps = STEPS ? STEPS : job.steps, groups = steps * STEP / EIGHT,
              stride = steps * STEP + EIGHT, size = TILES * 8 * STEP;
    const int last = TAPS * steps - 1;
    Right<TILES> now, next, later; /* loaded two steps ahead */
    now.load(job.weight);
    next.load(job.weight + (last ? size : 0));
    for (int first = threadIdx.x; first < PIXELS * groups; first += AT_ONCE * THREADS) {
        Halves vectors[AT_ONCE] = {};
        for (int i = 0; i < AT_ONCE; i++) {
            const int n = first + i * THREADS, pixel = n / groups;
            if (pixel < PIXELS)
                vectors[i] = fill(pixel / COLUMNS, pixel % COLUMNS, n % groups);
        }
        for (int i = 0; i < AT_ONCE; i++) {
            const int n = first + i * THREADS;
            if (n < PIXELS * groups)
                *(Halves *)(tile + n / groups * stride + n % groups * EIGHT) = vectors[i];
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
                multiply<TILES>(sums[n], from + n * COLUMNS * stride + step * STEP, stride, now);
            now = next;
            next = later;
        }
    }
    /* Of a pixel a thread has OWN channels, one after the other (`convolution_weight`), and stores
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
__device__ static void convolved_feature(const Convolve &job) {
    const int left = blockIdx.x * COLUMNS_ACROSS, top = blockIdx.y * WARPS * ROWS;
    convolved<TILES, 3, ROWS, STEPS>(job, left, top, [&](int row, int column, int group) {
        const int y = top + row - 1, x = left + column - 1, channel = group * EIGHT;
        Halves vector = {};
        if (y >= 0 && y < job.height && x >= 0 && x < job.width && channel < job.channels)
            vector = *(const Halves *)(job.x + ((Long)y * job.width + x) * job.channels + channel);
        return vector;
    });
}

#define CONVOLVE(tiles, rows, steps)                        \
    KERNEL(convolve_##tiles##_##rows##_##steps, Convolve) { \
        convolved_feature<tiles, rows, steps>(job);         \
    }

/* What gpu.py names, of every kind one for any number of steps. */
CONVOLVE(2, 1, 0)
CONVOLVE(4, 1, 0)
CONVOLVE(6, 1, 0)
CONVOLVE(8, 1, 0)
CONVOLVE(2, 2, 0)
CONVOLVE(4, 2, 0)
CONVOLVE(6, 2, 0)
CONVOLVE(8, 2, 0)
CONVOLVE(2, 2, 1)
CONVOLVE(2, 2, 2)
CONVOLVE(2, 2, 5)
CONVOLVE(4, 2, 2)
CONVOLVE(4, 2, 3)
CONVOLVE(2, 4, 1)
CONVOLVE(2, 4, 2)

struct Colors {
    const float *frame, *mean; /* (3, frame_height, frame_width); one number */
    Convolve layer; /* of 16 channels: four of each pixel of a square of 2x2, the last of them 0 */
    int frame_height, frame_width;
    int full_height, full_width; /* to which the frame's border is repeated; beyond are zeros */
};

/* 3x3 of stride 2 of (sample - mean) * 4: 2x2 of squares of 2x2, of which the first has the frame's
 * first pixel last. */
template <int ROWS> __device__ static void convolved_colors(const Colors &job) {
    const int left = blockIdx.x * COLUMNS_ACROSS, top = blockIdx.y * WARPS * ROWS;
    const Long plane = (Long)job.frame_height * job.frame_width;
    const float mean = *job.mean;
    convolved<2, 2, ROWS, 1>(
        job.layer, left, top,
        [&](int row, int column,
            int group) { /* group: of the square's rows */
                         const int y = (top + row) * 2 + group - 1, x = (left + column) * 2 - 1;
                         Halves vector = {};
                         if (y >= 0 && y < job.full_height) {
                             const float *line =
                                 job.frame + (Long)clamp(y, job.frame_height - 1) * job.frame_width;
                             for (int n = 0; n < 2; n++)
                                 if (x + n >= 0 && x + n < job.full_width) {
                                     const float *from = line + clamp(x + n, job.frame_width - 1);
                                     vector.pairs[2 * n] =
                                         pair((from[0] - mean) * 4, (from[plane] - mean) * 4);
                                     vector.pairs[2 * n + 1] =
                                         pair((from[2 * plane] - mean) * 4, 0);
                                 }
                         }
                         return vector;
        });
}

KERNEL(colors_1, Colors) {
    convolved_colors<1>(job);
}

KERNEL(colors_2, Colors) {
    convolved_colors<2>(job);
}

KERNEL(colors_4, Colors) {
    convolved_colors<4>(job);
}

/* --- frames at a quarter of the resolution
 * --------------------------------------------------------------------------- */

struct Change {
    const float *frame, *previous; /* (3, height, width) */
    float *out; /* (rows, columns): the largest change of a sample in each square of 4x4 */
    int height, width, rows, columns;
};

KERNEL(change, Change) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || row >= job.rows)
        return;
    float most = 0;
    for (int color = 0; color < 3; color++)
        for (int i = 0; i < STRIDE && row * STRIDE + i < job.height; i++) {
            const Long line = ((Long)color * job.height + row * STRIDE + i) * job.width;
            for (int x = column * STRIDE; x < column * STRIDE + STRIDE && x < job.width; x++)
                most = fmaxf(most, fabsf(job.frame[line + x] - job.previous[line + x]));
        }
    job.out[(Long)row * job.columns + column] = most;
}

/* --- resampling
 * -----------------------------------------------------------------------------------------------------
 */

struct Taps {
    int at[4];
    float weight[4];
};

__device__ static float bounded(float value, float least, float most) {
    return fminf(fmaxf(value, least), most);
}

__device__ static Taps bilinear(float place, int size) {
    Taps taps;
    place = bounded(place, 0, (float)(size - 1));
    const int left = (int)place;
    const float t = place - (float)left;
    taps.at[0] = left;
    taps.at[1] = clamp(left + 1, size - 1);
    taps.weight[0] = 1 - t;
    taps.weight[1] = t;
    return taps;
}

__device__ static Taps bicubic(float place, int size) /* Keys's kernel */
{
    const float a = -0.5f;
    Taps taps;
    place = bounded(place, -2, (float)size + 1); /* further out all is border */
    const int left = (int)(place + 2) - 2;
    const float t = place - (float)left, s = 1 - t;
    for (int n = 0; n < 4; n++)
        taps.at[n] = clamp(left - 1 + n, size - 1);
    taps.weight[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    taps.weight[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    taps.weight[2] = ((a + 2) * s - (a + 3)) * s * s + 1;
    taps.weight[3] = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
    return taps;
}

template <int COUNT>
__device__ static Vector sample(const Half *source, const Taps &rows, const Taps &columns,
                                int width, int channels) {
    /* Along a row in pairs of float16, which takes half of the time. Weights are rounded for it,
     * but their sum must be 1: what is resampled from frame to frame would grow or fade. */
    unsigned int weights[COUNT];
    float sum = 0;
    for (int j = 0; j < COUNT; j++) {
        weights[j] = pair(columns.weight[j], columns.weight[j]);
        sum += low(weights[j]);
    }
    const float one = 1 / sum;
    Vector value = {};
    for (int i = 0; i < COUNT; i++) {
        unsigned int row[EIGHT / 2] = {};
        for (int j = 0; j < COUNT; j++) {
            const Halves tap =
                *(const Halves *)(source + ((Long)rows.at[i] * width + columns.at[j]) * channels);
            for (int n = 0; n < EIGHT / 2; n++)
                row[n] = fused_pair(tap.pairs[n], weights[j], row[n]);
        }
        const float weight = rows.weight[i] * one;
        for (int n = 0; n < EIGHT; n++)
            value.values[n] += weight * (n % 2 ? high(row[n / 2]) : low(row[n / 2]));
    }
    return value;
}

struct Quarter {
    const float *frame; /* (3, height, width) */
    float *out; /* (3, rows, columns): the mean of each square of 4x4, of what there is of it at the
                   border */
    int height, width, rows, columns;
};

KERNEL(quarter, Quarter) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y, color = blockIdx.z;
    if (column >= job.columns || row >= job.rows)
        return;
    const int y = row * STRIDE, x = column * STRIDE;
    const int down = job.height - y < STRIDE ? job.height - y : STRIDE,
              across = job.width - x < STRIDE ? job.width - x : STRIDE;
    const float *from = job.frame + ((Long)color * job.height + y) * job.width + x;
    float sum = 0;
    for (int i = 0; i < down; i++, from += job.width) {
        if (job.width % STRIDE == 0) {
            const Floats four = *(const Floats *)from;
            sum += (four.values[0] + four.values[1]) + (four.values[2] + four.values[3]);
        } else {
            for (int j = 0; j < across; j++)
                sum += from[j];
        }
    }
    job.out[((Long)color * job.rows + row) * job.columns + column] = sum / (float)(down * across);
}

/* A block's sum, for its first thread: of a power of 2 threads, in shared memory for a number each.
 */
__device__ static float summed(float number) {
    float *shared = (float *)memory;
    shared[threadIdx.x] = number;
    for (int half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

struct Total {
    const float *frame; /* (3, height, width) */
    float *sums;        /* (blocks,) */
    int height, width;
    int full_height, full_width; /* to which its border is repeated, multiples of 4 */
};

/* A block has every so many-th row, a thread every so many-th four of its pixels. */
KERNEL(total, Total) {
    float sum[AT_ONCE] = {};
    for (int row = blockIdx.x; row < 3 * job.full_height; row += gridDim.x) {
        const int color = row / job.full_height, y = clamp(row % job.full_height, job.height - 1);
        const float *from = job.frame + ((Long)color * job.height + y) * job.width;
        for (int x = AT_ONCE * threadIdx.x; x < job.full_width; x += AT_ONCE * blockDim.x) {
            if (job.width % AT_ONCE == 0) {
                const Floats four = *(const Floats *)(from + x);
                for (int n = 0; n < AT_ONCE; n++)
                    sum[n] += four.values[n];
            } else {
                for (int n = 0; n < AT_ONCE && x + n < job.full_width; n++)
                    sum[n] += from[clamp(x + n, job.width - 1)];
            }
        }
    }
    const float total = summed((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (!threadIdx.x)
        job.sums[blockIdx.x] = total;
}

struct Brightness {
    const float *sums; /* (parts,) */
    float *mean;       /* one number */
    int parts;
    float count;
};

/* One block, of a power of 2 threads. */
KERNEL(brightness, Brightness) {
    float sum = 0;
    for (int n = threadIdx.x; n < job.parts; n += blockDim.x)
        sum += job.sums[n];
    const float total = summed(sum);
    if (!threadIdx.x)
        *job.mean = total / job.count;
}

struct Unexplained {
    const float *quarter, *previous,
        *flow;  /* (3, height, width) twice, (2, height, width) in pixels of the frame */
    float *out; /* (3, height, width): |quarter - previous along the flow| */
    int height, width;
};

KERNEL(unexplained, Unexplained) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= job.width || y >= job.height)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    const Taps columns = bilinear((float)x + job.flow[at] / STRIDE, job.width);
    const Taps rows = bilinear((float)y + job.flow[plane + at] / STRIDE, job.height);
    for (int color = 0; color < 3; color++) {
        const float *from = job.previous + color * plane;
        float value = 0;
        for (int i = 0; i < 2; i++) {
            const float *row = from + (Long)rows.at[i] * job.width;
            value += rows.weight[i] * (columns.weight[0] * row[columns.at[0]] +
                                       columns.weight[1] * row[columns.at[1]]);
        }
        job.out[color * plane + at] = fabsf(job.quarter[color * plane + at] - value);
    }
}

/* --- composition
 * ----------------------------------------------------------------------------------------------------
 */

struct Follow {
    const Half *previous, *feature; /* (height, width, channels) */
    const float *flow,
        *unexplained; /* (2, height, width) in pixels of the frame; (3, height, width) */
    Half *warped;     /* like the feature */
    Half *difference; /* (height, width, channels + 8): |feature - warped|, 10 unexplained, and 0 */
    int height, width, channels, cubic;
};

/* A thread eight channels of a pixel of the difference. */
KERNEL(follow, Follow) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y,
              channel = threadIdx.x * EIGHT;
    if (x >= job.width)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    Vector difference = {};
    if (channel == job.channels) {
        /* The source's differences are about a tenth of the features'. */
        for (int color = 0; color < 3; color++)
            difference.values[color] = 10 * job.unexplained[color * plane + at];
    } else {
        const float across = job.flow[at] / STRIDE, down = job.flow[plane + at] / STRIDE,
                    to_x = (float)x + across, to_y = (float)y + down;
        const Half *previous = job.previous + channel;
        Vector warped;
        if (across == 0 && down == 0)
            warped = load(previous + at * job.channels);
        else if (job.cubic)
            warped = sample<4>(previous, bicubic(to_y, job.height), bicubic(to_x, job.width),
                               job.width, job.channels);
        else
            warped = sample<2>(previous, bilinear(to_y, job.height), bilinear(to_x, job.width),
                               job.width, job.channels);
        const Vector feature = load(job.feature + at * job.channels + channel);
        for (int i = 0; i < EIGHT; i++)
            difference.values[i] = fabsf(feature.values[i] - warped.values[i]);
        store(job.warped + at * job.channels + channel, warped);
    }
    store(job.difference + at * (job.channels + EIGHT) + channel, difference);
}

struct Blend {
    const Half *feature, *warped;    /* (height, width, channels) */
    const float *mask, *flow;        /* (height, width), before its sigmoid; (2, height, width) */
    const float *change, *coherence; /* (height, width) or NULL; one number */
    Half *composite;                 /* like the feature */
    float *blended, *most;           /* (height, width) each */
    int height, width, channels;
    float still, hold, refresh, sharpen;
};

/* How far before the first or behind the last of so many pixels a place lies. */
__device__ static float beyond(float at, int size) {
    const float last = (float)(size - 1);
    return at < 0 ? -at : at > last ? at - last : 0;
}

/* A thread eight channels of a pixel. */
KERNEL(blend, Blend) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y,
              channel = threadIdx.x * EIGHT;
    if (x >= job.width)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    const float across = job.flow[at], down = job.flow[plane + at];
    const float outside = fmaxf(beyond((float)x + across / STRIDE, job.width),
                                beyond((float)y + down / STRIDE, job.height));
    const float change = job.change && job.change[at] < job.still ? job.change[at] / job.still : 1;
    float mask = 1 / (1 + expf(-job.mask[at]));
    mask += (1 - mask) * mask * job.hold * (1 - change);
    mask *= *job.coherence * (across != 0 || down != 0 ? 1 - job.refresh : 1) *
            (outside < 1 ? 1 - outside : 0);
    if (!channel) {
        job.blended[at] = mask;
        job.most[at] = mask * (change < SETTLED ? change / SETTLED : 1) * job.sharpen;
    }
    const Vector feature = load(job.feature + at * job.channels + channel);
    Vector composite = load(job.warped + at * job.channels + channel);
    for (int i = 0; i < EIGHT; i++)
        composite.values[i] = feature.values[i] + mask * (composite.values[i] - feature.values[i]);
    store(job.composite + at * job.channels + channel, composite);
}

enum {
    STRIP = 8
}; /* rows that a thread goes down, so that it reads three pixels for each instead of nine */

/* The sum of a pixel and those beside it; of the pixel itself, in *middle. */
__device__ static Vector three(const Half *picture, int y, int x, int height, int width,
                               int channels, Vector *middle) {
    const Half *row = picture + (Long)clamp(y, height - 1) * width * channels;
    const Vector left = load(row + (Long)clamp(x - 1, width - 1) * channels),
                 right = load(row + (Long)clamp(x + 1, width - 1) * channels);
    Vector sum;
    *middle = load(row + (Long)x * channels);
    for (int n = 0; n < EIGHT; n++)
        sum.values[n] = left.values[n] + middle->values[n] + right.values[n];
    return sum;
}

/* Detail: a pixel's difference from the mean of the 3x3 about it, the border repeated. Goes down a
 * strip, and tells of each pixel. */
template <typename Tell>
__device__ static void details(const Half *picture, int first, int x, int height, int width,
                               int channels, Tell tell) {
    Vector pixel, next;
    Vector above = three(picture, first - 1, x, height, width, channels, &pixel);
    Vector here = three(picture, first, x, height, width, channels, &pixel);
    for (int y = first; y < first + STRIP && y < height; y++) {
        const Vector below = three(picture, y + 1, x, height, width, channels, &next);
        Vector detail;
        for (int n = 0; n < EIGHT; n++)
            detail.values[n] =
                pixel.values[n] - (above.values[n] + here.values[n] + below.values[n]) * (1.0f / 9);
        tell(y, pixel, detail);
        above = here, here = below, pixel = next;
    }
}

struct Energy {
    const Half *composite, *feature; /* (height, width, channels) */
    float *energy; /* (2, height, width): of each one's detail, summed over the channels */
    int height, width, channels;
};

/* A block is so many columns, a pixel's vectors each. */
KERNEL(energy, Energy) {
    float *shared = (float *)memory; /* (2, STRIP, threads) */
    const int groups = job.channels / EIGHT, column = threadIdx.x / groups,
              columns = blockDim.x / groups;
    const int x = blockIdx.x * columns + column, first = blockIdx.y * STRIP,
              channel = threadIdx.x % groups * EIGHT;
    const int threads = blockDim.x, thread = threadIdx.x;
    for (int n = 0; n < 2 * STRIP; n++)
        shared[n * threads + thread] = 0;
    if (x < job.width) {
        auto keep = [&](int picture, int y, const Vector &detail) {
            float sum = 0;
            for (int n = 0; n < EIGHT; n++)
                sum += detail.values[n] * detail.values[n];
            shared[(picture * STRIP + y - first) * threads + thread] = sum;
        };
        details(job.composite + channel, first, x, job.height, job.width, job.channels,
                [&](int y, const Vector &, const Vector &detail) { keep(0, y, detail); });
        details(job.feature + channel, first, x, job.height, job.width, job.channels,
                [&](int y, const Vector &, const Vector &detail) { keep(1, y, detail); });
    }
    __syncthreads();
    for (int n = thread; n < 2 * STRIP * columns; n += threads) {
        const int at = blockIdx.x * columns + n % columns, line = n / columns,
                  y = first + line % STRIP;
        if (at >= job.width || y >= job.height)
            continue;
        float sum = 0;
        for (int group = 0; group < groups; group++)
            sum += shared[line * threads + n % columns * groups + group];
        job.energy[((Long)(line / STRIP) * job.height + y) * job.width + at] = sum;
    }
}

struct Gain {
    const float *energy, *most;
    float *gain; /* (height, width) */
    int height, width, channels;
};

/* A block is a tile of ABREAST columns. */
KERNEL(gain, Gain) {
    enum { FAR = 4, ROWS = 8, TALL = ROWS + 2 * FAR, WIDE = ABREAST + 2 * FAR };
    float *tile = (float *)memory,
          *across =
              tile +
              2 * TALL * WIDE; /* (2, TALL, WIDE); (2, TALL, ABREAST): sums of nine in a row */
    const int thread = threadIdx.x, left = blockIdx.x * ABREAST, top = blockIdx.y * ROWS;
    for (int n = thread; n < 2 * TALL * WIDE; n += ROWS * ABREAST) {
        const int y = clamp(top + n / WIDE % TALL - FAR, job.height - 1),
                  x = clamp(left + n % WIDE - FAR, job.width - 1);
        tile[n] = job.energy[((Long)(n / (TALL * WIDE)) * job.height + y) * job.width + x];
    }
    __syncthreads();
    for (int n = thread; n < 2 * TALL * ABREAST; n += ROWS * ABREAST) {
        float sum = 0;
        for (int j = 0; j <= 2 * FAR; j++)
            sum += tile[n / ABREAST * WIDE + n % ABREAST + j];
        across[n] = sum;
    }
    __syncthreads();
    const int x = left + thread % ABREAST, y = top + thread / ABREAST;
    if (x >= job.width || y >= job.height)
        return;
    float our = 0, their = 0;
    for (int i = 0; i <= 2 * FAR; i++) {
        our += across[thread + i * ABREAST];
        their += across[TALL * ABREAST + thread + i * ABREAST];
    }
    const float all = 9 * 9 * (float)job.channels,
                more = sqrtf(their / all / (our / all + 1e-6f)) - 1;
    const Long at = (Long)y * job.width + x;
    job.gain[at] = bounded(more, 0, job.most[at]);
}

struct Sharpen {
    const Half *composite; /* (height, width, channels) */
    const float *gain;     /* (height, width) */
    Half *out;             /* like the composite */
    int height, width, channels;
};

/* A thread eight channels of a strip. */
KERNEL(sharpen, Sharpen) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, channel = threadIdx.x * EIGHT;
    if (x >= job.width)
        return;
    details(job.composite + channel, blockIdx.y * STRIP, x, job.height, job.width, job.channels,
            [&](int y, Vector pixel, const Vector &detail) {
                const Long at = (Long)y * job.width + x;
                for (int i = 0; i < EIGHT; i++)
                    pixel.values[i] += job.gain[at] * detail.values[i];
                store(job.out + at * job.channels + channel, pixel);
            });
}

/* --- a level of LitePWCNet
 * ------------------------------------------------------------------------------------------- */

struct Match {
    const Half *here, *there; /* (height, width, channels) */
    const float *flow;        /* (2, height, width) */
    Half *known;              /* (height, width, all): here, the cost volume, the flow, and 0 */
    int height, width, channels, all;
    float pixels;
};

enum { TILE_ROWS = 4, TILE_COLUMNS = 16, SHARERS = 4 };

/* A block is a tile, of SHARERS threads a pixel, each of which has two of the displacements' rows.
 */
template <int RADIUS> __device__ static void matched(const Match &job) {
    enum {
        SIDE = 2 * RADIUS + 1,
        SHARE = 2,
        COLUMNS = TILE_COLUMNS + 2 * RADIUS,
        ROWS = TILE_ROWS + 2 * RADIUS
    };
    const int channels = job.channels, groups = channels / EIGHT, stride = channels + EIGHT;
    Half *warped = (Half *)memory; /* there, a border of RADIUS around; a vector more a pixel,
                                      against bank conflicts */
    Half *known = warped + ROWS * COLUMNS * stride; /* (TILE_ROWS, TILE_COLUMNS, all) */
    const int left = blockIdx.x * TILE_COLUMNS, top = blockIdx.y * TILE_ROWS;
    const Long plane = (Long)job.height * job.width;
    for (int n = threadIdx.x; n < ROWS * COLUMNS * groups; n += blockDim.x) {
        const int pixel = n / groups, channel = n % groups * EIGHT;
        const int y = top + pixel / COLUMNS - RADIUS, x = left + pixel % COLUMNS - RADIUS;
        Vector value = {};
        if (y >= 0 && y < job.height && x >= 0 && x < job.width) {
            const Long at = (Long)y * job.width + x;
            const Taps columns = bilinear((float)x + job.flow[at] * job.pixels, job.width);
            const Taps rows = bilinear((float)y + job.flow[plane + at] * job.pixels, job.height);
            value = sample<2>(job.there + channel, rows, columns, job.width, channels);
        }
        store(warped + pixel * stride + channel, value);
    }
    __syncthreads();
    enum { PIXELS = TILE_ROWS * TILE_COLUMNS };
    const int part = threadIdx.x / PIXELS, pixel = threadIdx.x % PIXELS, row = pixel / TILE_COLUMNS,
              column = pixel % TILE_COLUMNS;
    const int y = top + row, x = left + column, first = part * SHARE;
    if (y < job.height && x < job.width) {
        const Long at = (Long)y * job.width + x;
        float volume[SHARE][SIDE] = {};
        Half *mine = known + pixel * job.all;
        for (int channel = 0; channel < channels; channel += EIGHT) {
            const Halves here = *(const Halves *)(job.here + at * channels + channel);
            for (int i = 0; i < SHARE; i++)
                if (first + i < SIDE)
                    for (int j = 0; j < SIDE; j++) {
                        /* Four products to a sum in float16, the rest in float32. */
                        const Halves there =
                            *(const Halves *)(warped +
                                              ((row + first + i) * COLUMNS + column + j) * stride +
                                              channel);
                        unsigned int four = 0;
                        for (int n = 0; n < EIGHT / 2; n++)
                            four = fused_pair(here.pairs[n], there.pairs[n], four);
                        volume[i][j] += low(four) + high(four);
                    }
            if (channel / EIGHT % SHARERS == part)
                *(Halves *)(mine + channel) = here;
        }
        for (int i = 0; i < SHARE; i++)
            if (first + i < SIDE)
                for (int j = 0; j < SIDE; j++)
                    mine[channels + (first + i) * SIDE + j] =
                        narrowed(leaky(volume[i][j] / (float)channels, 0.1f));
        if (part == SHARERS - 1) {
            int n = channels + SIDE * SIDE;
            mine[n++] = narrowed(job.flow[at]);
            mine[n++] = narrowed(job.flow[plane + at]);
            for (; n < job.all; n++)
                mine[n] = 0;
        }
    }
    __syncthreads();
    /* A row of the tile lies in one piece. */
    const int vectors =
        (left + TILE_COLUMNS < job.width ? TILE_COLUMNS : job.width - left) * job.all / EIGHT;
    for (int n = threadIdx.x; n < TILE_ROWS * vectors; n += blockDim.x) {
        const int down = n / vectors;
        if (top + down < job.height)
            ((Halves *)(job.known +
                        ((Long)(top + down) * job.width + left) * job.all))[n % vectors] =
                ((const Halves *)(known + down * TILE_COLUMNS * job.all))[n % vectors];
    }
}

KERNEL(match2, Match) {
    matched<2>(job);
}

KERNEL(match3, Match) {
    matched<3>(job);
}

/* --- a match over the whole frame
 * ------------------------------------------------------------------------------------ */

#define SUPPORT 2 /* as litepwcnet.py has it */

struct Supported {
    const Half *scores; /* (height, width, height, width) */
    Half *out;
    int height, width;
};

/* A thread goes along a row of the first frame and a row of the second, one of their diagonals, and
 * has the last columns' sums at hand. */
KERNEL(supported, Supported) {
    const int width = job.width, height = job.height, y = blockIdx.y, v = blockIdx.z;
    const int apart = (int)(blockIdx.x * blockDim.x + threadIdx.x) - width + 1; /* of the columns */
    const int first = max(0, -apart), end = min(width, width - apart);
    const int before = min(min(y, v), SUPPORT), after = min(height - 1 - max(y, v), SUPPORT);
    const Long places = height * width;
    float sums[2 * SUPPORT + 1] = {};
    for (int last = first; apart < width && last < end + SUPPORT; last++) {
        for (int n = 0; n < 2 * SUPPORT; n++)
            sums[n] = sums[n + 1];
        sums[2 * SUPPORT] = 0;
        if (last < end)
            for (int d = -before; d <= after; d++)
                sums[2 * SUPPORT] += widened(
                    job.scores[((y + d) * width + last) * places + (v + d) * width + last + apart]);
        const int x = last - SUPPORT;
        if (x < first)
            continue;
        float total = 0;
        for (int n = 0; n <= 2 * SUPPORT; n++)
            total += sums[n];
        const int count =
            (before + after + 1) * (min(x - first, SUPPORT) + min(end - 1 - x, SUPPORT) + 1);
        job.out[(y * width + x) * places + v * width + x + apart] = narrowed(total / (float)count);
    }
}

struct Columns {
    const Half *scores; /* (places, places) */
    float *most; /* (2, places): of each column the largest, and the sum of exp(score - largest) */
    int places;
};

/* One score more of a softmax: the largest so far, and the sum of exp(score - largest). Whether it
 * is the largest. */
__device__ static bool counted(float score, float *most, float *sum) {
    const bool larger = score > *most;
    if (larger) {
        *sum *= expf(*most - score);
        *most = score;
    }
    *sum += expf(score - *most);
    return larger;
}

enum { ROWS_APART = 16 };

/* A block is ABREAST columns, ROWS_APART threads each. */
KERNEL(columns, Columns) {
    float *shared = (float *)memory; /* (2, ROWS_APART, ABREAST) */
    const int lane = threadIdx.x % ABREAST, slice = threadIdx.x / ABREAST,
              column = blockIdx.x * ABREAST + lane;
    float most = -1e30f, sum = 0;
    if (column < job.places)
        for (int row = slice; row < job.places; row += ROWS_APART)
            counted(widened(job.scores[(Long)row * job.places + column]), &most, &sum);
    shared[slice * ABREAST + lane] = most;
    shared[(ROWS_APART + slice) * ABREAST + lane] = sum;
    __syncthreads();
    if (slice || column >= job.places)
        return;
    for (int n = 1; n < ROWS_APART; n++)
        most = fmaxf(most, shared[n * ABREAST + lane]);
    sum = 0;
    for (int n = 0; n < ROWS_APART; n++)
        sum += shared[(ROWS_APART + n) * ABREAST + lane] * expf(shared[n * ABREAST + lane] - most);
    job.most[column] = most;
    job.most[job.places + column] = sum;
}

struct Rows {
    const Half *scores;
    const float *most; /* of the columns */
    float *flow;       /* (2, height, width) */
    int height, width;
    float sure;
};

/* A block a place of the first frame: the mean place in the 3x3 about the best match. */
KERNEL(rows, Rows) {
    float *shared = (float *)memory; /* (3, threads): the largest scores, where they are, sums */
    const int places = job.height * job.width, here = blockIdx.x, thread = threadIdx.x,
              threads = blockDim.x;
    const Half *scores = job.scores + (Long)here * places;
    float most = -1e30f, sum = 0;
    int best = 0;
    for (int n = thread; n < places; n += threads)
        if (counted(widened(scores[n]), &most, &sum))
            best = n;
    int *bests = (int *)(shared + threads);
    shared[thread] = most;
    bests[thread] = best;
    shared[2 * threads + thread] = sum;
    /* Half of the threads' to the other half, until one has all. */
    for (int half = threads / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) {
            const int other = thread + half;
            const float theirs = shared[other], larger = fmaxf(most, theirs);
            if (theirs > most || (theirs == most && bests[other] < best))
                best = bests[other];
            sum = sum * expf(most - larger) + shared[2 * threads + other] * expf(theirs - larger);
            most = larger;
            shared[thread] = most;
            bests[thread] = best;
            shared[2 * threads + thread] = sum;
        }
    }
    if (thread)
        return;
    float all = 0, to_x = 0, to_y = 0;
    const int column = best % job.width, row = best / job.width;
    for (int y = row - 1; y <= row + 1; y++)
        for (int x = column - 1; x <= column + 1; x++)
            if (y >= 0 && y < job.height && x >= 0 && x < job.width) {
                const float weight = expf(widened(scores[y * job.width + x]) - most);
                all += weight;
                to_x += weight * (float)x;
                to_y += weight * (float)y;
            }
    /* The dual softmax: of the best match, whose own score is the row's largest. */
    const int sure = expf(most - job.most[best]) / (sum * job.most[places + best]) > job.sure;
    job.flow[here] = sure ? to_x / all - (float)(here % job.width) : 0;
    job.flow[places + here] = sure ? to_y / all - (float)(here / job.width) : 0;
}

/* --- hosts' samples
 * ---------------------------------------------------------------------------------------------------
 */

/* Integers of one or two bytes. Four pixels of a row are a thread's, which reads and writes them at
 * once where they lie as such a word does: rows and planes start anywhere. */

enum { FOUR = 4 };

typedef unsigned char Byte;
typedef unsigned short Short;

template <typename Sample> struct Four; /* what is as large as four samples */
template <> struct Four<Byte> {
    typedef unsigned int Word;
};
template <> struct Four<Short> {
    typedef unsigned long long Word;
};

template <typename Word> __device__ static bool at_once(const void *address, int count) {
    return count >= FOUR && (unsigned long long)address % sizeof(Word) == 0;
}

/* Four from an address on, of which there are `count`, at least one; beyond, the last one again. */
template <typename Sample> __device__ static Floats four(const Sample *from, int count) {
    typedef typename Four<Sample>::Word Word;
    Floats floats;
    if (at_once<Word>(from, count)) {
        const Word word = *(const Word *)from;
        for (int n = 0; n < FOUR; n++)
            floats.values[n] = (float)(Sample)(word >> 8 * sizeof(Sample) * n);
    } else {
        for (int n = 0; n < FOUR; n++)
            floats.values[n] = (float)from[clamp(n, count - 1)];
    }
    return floats;
}

__device__ static Floats four(const float *from, int count) {
    if (at_once<Floats>(from, count))
        return *(const Floats *)from;
    Floats floats;
    for (int n = 0; n < FOUR; n++)
        floats.values[n] = from[clamp(n, count - 1)];
    return floats;
}

__device__ static void put(float *to, const Floats &floats, int count) {
    if (at_once<Floats>(to, count))
        *(Floats *)to = floats;
    else
        for (int n = 0; n < FOUR && n < count; n++)
            to[n] = floats.values[n];
}

struct Levels {
    float last; /* the highest code value */
    int unit;   /* what a sample is of its code value */
};

/* To nearest, of two as near to the even one, as PyTorch rounds; what is no number to 0. */
template <typename Sample> __device__ static Sample coded(float code, const Levels &levels) {
    return (Sample)((int)bounded(rintf(code), 0, levels.last) * levels.unit);
}

template <typename Sample>
__device__ static void put(Sample *to, const Floats &codes, int count, const Levels &levels) {
    typedef typename Four<Sample>::Word Word;
    if (at_once<Word>(to, count)) {
        Word word = 0;
        for (int n = 0; n < FOUR; n++)
            word |= (Word)coded<Sample>(codes.values[n], levels) << 8 * sizeof(Sample) * n;
        *(Word *)to = word;
    } else {
        for (int n = 0; n < FOUR && n < count; n++)
            to[n] = coded<Sample>(codes.values[n], levels);
    }
}

struct FromSamples {
    const void *samples; /* (count,) */
    float *out;          /* (count,): sample / top * scale + offset, limited to 0..1 */
    int count;
    float top, scale, offset;
};

template <typename Sample> __device__ static void from_samples(const FromSamples &job) {
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR, left = job.count - first;
    if (left <= 0)
        return;
    Floats floats = four((const Sample *)job.samples + first, left);
    for (int n = 0; n < FOUR; n++) {
        /* A quotient, not a product with what is nearly the inverse: the very number that a host
         * would have given. */
        floats.values[n] = bounded(floats.values[n] / job.top * job.scale + job.offset, 0, 1);
    }
    put(job.out + first, floats, left);
}

KERNEL(from_samples8, FromSamples) {
    from_samples<Byte>(job);
}

KERNEL(from_samples16, FromSamples) {
    from_samples<Short>(job);
}

struct ToSamples {
    const float *numbers; /* (count,) */
    void *out;            /* (count,): of code values number * scale + offset */
    int count;
    float scale, offset;
    Levels levels;
};

template <typename Sample> __device__ static void to_samples(const ToSamples &job) {
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR, left = job.count - first;
    if (left <= 0)
        return;
    Floats floats = four(job.numbers + first, left);
    for (int n = 0; n < FOUR; n++)
        floats.values[n] = floats.values[n] * job.scale + job.offset;
    put((Sample *)job.out + first, floats, left, job.levels);
}

KERNEL(to_samples8, ToSamples) {
    to_samples<Byte>(job);
}

KERNEL(to_samples16, ToSamples) {
    to_samples<Short>(job);
}

/* A row of R, G or B by Y, Cb and Cr, or the other way: what each of them weighs, and what is
 * added. */
struct Affine {
    float weights[3], offset;
};

__device__ static float apply(const Affine &row, float first, float second, float third) {
    return row.weights[0] * first + row.weights[1] * second + row.weights[2] * third + row.offset;
}

struct FromComponents {
    const void *samples; /* (height, width) of Y, and (2, rows, columns) of Cb and Cr: as many, or
                            half as many, rounded up */
    float *out;          /* (3, height, width), limited to 0..1 */
    int height, width, rows, columns;
    int cosited_rows, cosited_columns; /* whether a sample of chroma lies on the first of its two of
                                          luma, else midway */
    Affine map[3];
};

/* Where a pixel lies between samples of chroma along an axis. */
struct Between {
    int first, second;
    float weight; /* the second's */
};

__device__ static Between between(int place, int full, int count, int cosited) {
    if (count == full)
        return {place, place, 0};
    const int at = place / 2, odd = place % 2;
    return {clamp(at, count - 1),
            clamp(odd       ? at + 1
                  : cosited ? at
                            : at - 1,
                  count - 1),
            cosited ? 0.5f : 0.25f};
}

__device__ static float mixed(float first, float second, float weight) {
    return first + weight * (second - first);
}

/* A thread four pixels of a row. */
template <typename Sample> __device__ static void from_components(const FromComponents &job) {
    const int x = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR,
              y = blockIdx.y * blockDim.y + threadIdx.y, left = job.width - x;
    if (left <= 0 || y >= job.height)
        return;
    const Long plane = (Long)job.height * job.width, line = (Long)y * job.width + x;
    const Sample *luma = (const Sample *)job.samples, *chroma = luma + plane;
    const Between down = between(y, job.height, job.rows, job.cosited_rows);
    const Floats light = four(luma + line, left);
    Floats rgb[3];
    for (int n = 0; n < FOUR; n++) {
        const Between across =
            between(clamp(x + n, job.width - 1), job.width, job.columns, job.cosited_columns);
        float color[2];
        for (int i = 0; i < 2; i++) {
            const Sample *upper = chroma + ((Long)i * job.rows + down.first) * job.columns;
            const Sample *lower = chroma + ((Long)i * job.rows + down.second) * job.columns;
            color[i] =
                mixed(mixed(upper[across.first], upper[across.second], across.weight),
                      mixed(lower[across.first], lower[across.second], across.weight), down.weight);
        }
        for (int i = 0; i < 3; i++)
            rgb[i].values[n] =
                bounded(apply(job.map[i], light.values[n], color[0], color[1]), 0, 1);
    }
    for (int i = 0; i < 3; i++)
        put(job.out + i * plane + line, rgb[i], left);
}

KERNEL(from_components8, FromComponents) {
    from_components<Byte>(job);
}

KERNEL(from_components16, FromComponents) {
    from_components<Short>(job);
}

struct ToComponents {
    const float *rgb; /* (3, height, width) */
    void *out;        /* as FromComponents has its samples */
    int height, width, rows, columns;
    int cosited_rows, cosited_columns;
    Affine map[3]; /* to code values */
    Levels levels;
};

/* What a sample of chroma is the mean of along an axis: a pixel's place is the middle one, or its
 * two are the middle and the last one. */
struct Mean {
    float weights[3];
};

__device__ static Mean mean_of(int half, int cosited) {
    if (!half)
        return {{0, 1, 0}};
    if (cosited)
        return {{0.25f, 0.5f, 0.25f}};
    return {{0, 0.5f, 0.5f}};
}

/* A thread four columns of the one or two rows that belong to one of chroma; a sample of chroma is
 * of ACROSS columns. */
template <typename Sample, int ACROSS>
__device__ static void to_components(const ToComponents &job) {
    const int x = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR,
              row = blockIdx.y * blockDim.y + threadIdx.y, left = job.width - x;
    if (left <= 0 || row >= job.rows)
        return;
    const int half = job.rows != job.height, top = half ? 2 * row : row;
    const Long plane = (Long)job.height * job.width;
    Sample *luma = (Sample *)job.out, *chroma = luma + plane;
    const Mean down = mean_of(half, job.cosited_rows),
               across = mean_of(ACROSS == 2, job.cosited_columns);
    float means[3][1 + FOUR + 1] = {}; /* of the rows, from the column before on */
    for (int tap = 0; tap < 3; tap++) {
        const float weight = down.weights[tap];
        const int y = top + tap - 1;
        if (weight == 0)
            continue;
        const Long line = (Long)clamp(y, job.height - 1) * job.width + x;
        Floats rgb[3];
        for (int i = 0; i < 3; i++) {
            const float *from = job.rgb + i * plane + line;
            rgb[i] = four(from, left);
            means[i][0] += weight * from[x ? -1 : 0];
            for (int n = 0; n < FOUR; n++)
                means[i][1 + n] += weight * rgb[i].values[n];
        }
        if (tap && y < job.height) {
            Floats codes;
            for (int n = 0; n < FOUR; n++)
                codes.values[n] =
                    apply(job.map[0], rgb[0].values[n], rgb[1].values[n], rgb[2].values[n]);
            put(luma + line, codes, left, job.levels);
        }
    }
    for (int n = 0; n < FOUR / ACROSS; n++) {
        const int column = x / ACROSS + n;
        if (column >= job.columns)
            break;
        float rgb[3];
        for (int i = 0; i < 3; i++) {
            const float *means_of_rows = means[i] + n * ACROSS;
            rgb[i] = across.weights[0] * means_of_rows[0] + across.weights[1] * means_of_rows[1] +
                     across.weights[2] * means_of_rows[2];
        }
        for (int i = 0; i < 2; i++)
            chroma[((Long)i * job.rows + row) * job.columns + column] =
                coded<Sample>(apply(job.map[1 + i], rgb[0], rgb[1], rgb[2]), job.levels);
    }
}

template <typename Sample> __device__ static void to_components(const ToComponents &job) {
    if (job.columns == job.width)
        to_components<Sample, 1>(job);
    else
        to_components<Sample, 2>(job);
}

KERNEL(to_components8, ToComponents) {
    to_components<Byte>(job);
}

KERNEL(to_components16, ToComponents) {
    to_components<Short>(job);
}
