/* The composite sharpened where it has lost detail to resampling. */

#include "common.cuh"

enum {
    STRIP = 8
}; /* rows that a thread goes down, so that it reads three pixels for each instead of nine */

/* The sum of a pixel and those beside it; of the pixel itself, in *middle. */
__device__ static Float8 sum_of_three(const Half *picture, int y, int x, int height, int width,
                                      int channels, Float8 *middle) {
    const Half *row = picture + (Long)clamp(y, height - 1) * width * channels;
    const Float8 left = load(row + (Long)clamp(x - 1, width - 1) * channels),
                 right = load(row + (Long)clamp(x + 1, width - 1) * channels);
    Float8 sum;
    *middle = load(row + (Long)x * channels);
    for (int n = 0; n < VEC; n++)
        sum.values[n] = left.values[n] + middle->values[n] + right.values[n];
    return sum;
}

/* Detail: a pixel's difference from the mean of the 3x3 about it, the border repeated. Goes down a
 * strip, and tells of each pixel. */
template <typename Tell>
__device__ static void for_each_detail(const Half *picture, int first, int x, int height, int width,
                                       int channels, Tell tell) {
    Float8 pixel, next;
    Float8 above = sum_of_three(picture, first - 1, x, height, width, channels, &pixel);
    Float8 here = sum_of_three(picture, first, x, height, width, channels, &pixel);
    for (int y = first; y < first + STRIP && y < height; y++) {
        const Float8 below = sum_of_three(picture, y + 1, x, height, width, channels, &next);
        Float8 detail;
        for (int n = 0; n < VEC; n++)
            detail.values[n] =
                pixel.values[n] - (above.values[n] + here.values[n] + below.values[n]) * (1.0f / 9);
        tell(y, pixel, detail);
        above = here, here = below, pixel = next;
    }
}

struct DetailEnergy {
    const Half *composite, *feature; /* (height, width, channels) */
    float *energy; /* (2, height, width): of each one's detail, summed over the channels */
    int height, width, channels;
};

/* A block is so many columns, a pixel's vectors each. */
KERNEL(detail_energy, DetailEnergy) {
    float *shared = (float *)memory; /* (2, STRIP, threads) */
    const int groups = job.channels / VEC, column = threadIdx.x / groups,
              columns = blockDim.x / groups;
    const int x = blockIdx.x * columns + column, first = blockIdx.y * STRIP,
              channel = threadIdx.x % groups * VEC;
    const int threads = blockDim.x, thread = threadIdx.x;
    for (int n = 0; n < 2 * STRIP; n++)
        shared[n * threads + thread] = 0;
    if (x < job.width) {
        auto keep = [&](int picture, int y, const Float8 &detail) {
            float sum = 0;
            for (int n = 0; n < VEC; n++)
                sum += detail.values[n] * detail.values[n];
            shared[(picture * STRIP + y - first) * threads + thread] = sum;
        };
        for_each_detail(job.composite + channel, first, x, job.height, job.width, job.channels,
                        [&](int y, const Float8 &, const Float8 &detail) { keep(0, y, detail); });
        for_each_detail(job.feature + channel, first, x, job.height, job.width, job.channels,
                        [&](int y, const Float8 &, const Float8 &detail) { keep(1, y, detail); });
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

struct SharpenGain {
    const float *energy, *most;
    float *gain; /* (height, width) */
    int height, width, channels;
};

/* A block is a tile of ABREAST columns. */
KERNEL(sharpen_gain, SharpenGain) {
    enum { FAR = 4, ROWS = 8, TALL = ROWS + 2 * FAR, WIDE = WARP_SIZE + 2 * FAR };
    float *tile = (float *)memory,
          *across =
              tile +
              2 * TALL * WIDE; /* (2, TALL, WIDE); (2, TALL, ABREAST): sums of nine in a row */
    const int thread = threadIdx.x, left = blockIdx.x * WARP_SIZE, top = blockIdx.y * ROWS;
    for (int n = thread; n < 2 * TALL * WIDE; n += ROWS * WARP_SIZE) {
        const int y = clamp(top + n / WIDE % TALL - FAR, job.height - 1),
                  x = clamp(left + n % WIDE - FAR, job.width - 1);
        tile[n] = job.energy[((Long)(n / (TALL * WIDE)) * job.height + y) * job.width + x];
    }
    __syncthreads();
    for (int n = thread; n < 2 * TALL * WARP_SIZE; n += ROWS * WARP_SIZE) {
        float sum = 0;
        for (int j = 0; j <= 2 * FAR; j++)
            sum += tile[n / WARP_SIZE * WIDE + n % WARP_SIZE + j];
        across[n] = sum;
    }
    __syncthreads();
    const int x = left + thread % WARP_SIZE, y = top + thread / WARP_SIZE;
    if (x >= job.width || y >= job.height)
        return;
    float our = 0, their = 0;
    for (int i = 0; i <= 2 * FAR; i++) {
        our += across[thread + i * WARP_SIZE];
        their += across[TALL * WARP_SIZE + thread + i * WARP_SIZE];
    }
    const float all = 9 * 9 * (float)job.channels,
                more = sqrtf(their / all / (our / all + 1e-6f)) - 1;
    const Long at = (Long)y * job.width + x;
    job.gain[at] = clamp_float(more, 0, job.most[at]);
}

struct Sharpen {
    const Half *composite; /* (height, width, channels) */
    const float *gain;     /* (height, width) */
    Half *out;             /* like the composite */
    int height, width, channels;
};

/* A thread eight channels of a strip. */
KERNEL(sharpen, Sharpen) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, channel = threadIdx.x * VEC;
    if (x >= job.width)
        return;
    for_each_detail(job.composite + channel, blockIdx.y * STRIP, x, job.height, job.width,
                    job.channels, [&](int y, Float8 pixel, const Float8 &detail) {
                        const Long at = (Long)y * job.width + x;
                        for (int i = 0; i < VEC; i++)
                            pixel.values[i] += job.gain[at] * detail.values[i];
                        store(job.out + at * job.channels + channel, pixel);
                    });
}
