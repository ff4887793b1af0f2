/* What a level of LitePWCNet's estimator sees: the feature, the cost volume, the flow. */

#include "resample.cuh"

struct CostVolume {
    const Half *here, *there; /* (height, width, channels) */
    const float *flow;        /* (2, height, width) */
    Half *estimator_input;    /* (height, width, all): here, the cost volume, the flow, and 0 */
    int height, width, channels, all;
    float pixels;
};

enum { TILE_ROWS = 4, TILE_COLUMNS = 16, SHARERS = 4 };

/* A block is a tile, of SHARERS threads a pixel, each of which has two of the displacements' rows.
 */
template <int RADIUS> __device__ static void cost_volume_tile(const CostVolume &job) {
    enum {
        SIDE = 2 * RADIUS + 1,
        SHARE = 2,
        COLUMNS = TILE_COLUMNS + 2 * RADIUS,
        ROWS = TILE_ROWS + 2 * RADIUS
    };
    const int channels = job.channels, groups = channels / VEC, stride = channels + VEC;
    Half *warped = (Half *)memory; /* there, a border of RADIUS around; a vector more a pixel,
                                      against bank conflicts */
    Half *estimator_input = warped + ROWS * COLUMNS * stride; /* (TILE_ROWS, TILE_COLUMNS, all) */
    const int left = blockIdx.x * TILE_COLUMNS, top = blockIdx.y * TILE_ROWS;
    const Long plane = (Long)job.height * job.width;
    for (int n = threadIdx.x; n < ROWS * COLUMNS * groups; n += blockDim.x) {
        const int pixel = n / groups, channel = n % groups * VEC;
        const int y = top + pixel / COLUMNS - RADIUS, x = left + pixel % COLUMNS - RADIUS;
        Float8 value = {};
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
        Half *mine = estimator_input + pixel * job.all;
        for (int channel = 0; channel < channels; channel += VEC) {
            const Half8 here = *(const Half8 *)(job.here + at * channels + channel);
            for (int i = 0; i < SHARE; i++)
                if (first + i < SIDE)
                    for (int j = 0; j < SIDE; j++) {
                        /* Four products to a sum in float16, the rest in float32. */
                        const Half8 there =
                            *(const Half8 *)(warped +
                                             ((row + first + i) * COLUMNS + column + j) * stride +
                                             channel);
                        unsigned int four = 0;
                        for (int n = 0; n < VEC / 2; n++)
                            four = fma_pair(here.pairs[n], there.pairs[n], four);
                        volume[i][j] += low_half(four) + high_half(four);
                    }
            if (channel / VEC % SHARERS == part)
                *(Half8 *)(mine + channel) = here;
        }
        for (int i = 0; i < SHARE; i++)
            if (first + i < SIDE)
                for (int j = 0; j < SIDE; j++)
                    mine[channels + (first + i) * SIDE + j] =
                        float_to_half(leaky(volume[i][j] / (float)channels, 0.1f));
        if (part == SHARERS - 1) {
            int n = channels + SIDE * SIDE;
            mine[n++] = float_to_half(job.flow[at]);
            mine[n++] = float_to_half(job.flow[plane + at]);
            for (; n < job.all; n++)
                mine[n] = 0;
        }
    }
    __syncthreads();
    /* A row of the tile lies in one piece. */
    const int vectors =
        (left + TILE_COLUMNS < job.width ? TILE_COLUMNS : job.width - left) * job.all / VEC;
    for (int n = threadIdx.x; n < TILE_ROWS * vectors; n += blockDim.x) {
        const int down = n / vectors;
        if (top + down < job.height)
            ((Half8 *)(job.estimator_input +
                       ((Long)(top + down) * job.width + left) * job.all))[n % vectors] =
                ((const Half8 *)(estimator_input + down * TILE_COLUMNS * job.all))[n % vectors];
    }
}

KERNEL(cost_volume_2, CostVolume) {
    cost_volume_tile<2>(job);
}

KERNEL(cost_volume_3, CostVolume) {
    cost_volume_tile<3>(job);
}
