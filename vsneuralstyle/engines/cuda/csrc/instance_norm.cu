/* Instance normalisation, and what else is done to a feature map sample by sample. */

#include "common.cuh"

struct Moments {
    const Half *x;
    float *sums; /* (blocks, 2, channels): sums, and sums of squares, about the first pixel */
    Layout layout;
    int height, width, rows,
        part; /* squares' rows; a block's share of the vectors, a multiple of those of a pixel */
};

/* Threads: a multiple of a pixel's vectors. */
KERNEL(instance_norm_moments, Moments) {
    float *shared = (float *)memory; /* 16 a thread */
    const int channels = job.layout.channels, groups = channels / VEC, shift = job.layout.shift,
              squares = 1 << 2 * shift;
    const int channel = threadIdx.x % groups * VEC,
              all = job.rows * job.layout.columns * squares * groups;
    const int first = blockIdx.x * job.part, last = first + job.part < all ? first + job.part : all;
    /* About the first pixel, so that a mean far from 0 leaves the variance its digits. */
    const Float8 first_value = load(job.x + pixel_offset(job.layout, 0, 0) + channel);
    Float8 sum = {}, square = {};
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
    for (int start = first + threadIdx.x; start < last; start += UNROLL * blockDim.x) {
        Half8 vectors[UNROLL] = {};
        bool counted[UNROLL];
        for (int k = 0; k < UNROLL; k++) {
            const int n = start + k * blockDim.x;
            if ((counted[k] = counts(n)))
                vectors[k] = *(const Half8 *)(job.x + (Long)n * VEC);
        }
        for (int k = 0; k < UNROLL; k++) {
            if (!counted[k])
                continue;
            const Float8 vector = unpack(vectors[k]);
            for (int i = 0; i < VEC; i++) {
                const float value = vector.values[i] - first_value.values[i];
                sum.values[i] += value;
                square.values[i] += value * value;
            }
        }
    }
    for (int i = 0; i < VEC; i++) {
        shared[threadIdx.x * 2 * VEC + i] = sum.values[i];
        shared[threadIdx.x * 2 * VEC + VEC + i] = square.values[i];
    }
    __syncthreads();
    for (int n = threadIdx.x; n < 2 * channels; n += blockDim.x) {
        const int group = n % channels / VEC, at = n / channels * VEC + n % VEC;
        float total = 0;
        for (int thread = group; thread < blockDim.x; thread += groups)
            total += shared[thread * 2 * VEC + at];
        job.sums[(Long)blockIdx.x * 2 * channels + n] = total;
    }
}

struct Finalize {
    const float *sums;
    const Half *x;              /* about whose first pixel they are */
    const float *weight, *bias; /* (channels,) or NULL */
    float *scale;               /* (2, channels) */
    Layout layout;              /* of x */
    int parts;
    float count, eps;
};

/* A block is eight channels of so many slices. */
KERNEL(instance_norm_finalize, Finalize) {
    float *shared = (float *)memory; /* 2 a thread */
    const int channels = job.layout.channels, channel = blockIdx.x * VEC + threadIdx.x % VEC;
    const int slice = threadIdx.x / VEC, slices = blockDim.x / VEC;
    float sum[UNROLL] = {}, square[UNROLL] = {};
    for (int first = slice; first < job.parts; first += UNROLL * slices)
        for (int n = 0; n < UNROLL; n++) {
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
            shared[threadIdx.x * 2] += shared[(threadIdx.x + half * VEC) * 2];
            shared[threadIdx.x * 2 + 1] += shared[(threadIdx.x + half * VEC) * 2 + 1];
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
        ((float)mean + half_to_float(job.x[pixel_offset(job.layout, 0, 0) + channel])) * scale;
}

struct ScaleShift {
    const Half *x;
    const float *scale; /* (2, channels), what to multiply with and then to add; NULL: x as it is */
    const Half *residual; /* added at the end; may be NULL */
    Half *out;
    Layout from, beside, to; /* of x, of the residual, of what comes out with its border */
    int height, width, pad, repeats,
        relu; /* of x; whether the border is repeated, else reflected */
};

/* A thread eight channels of AT_ONCE pixels of what comes out, a block's columns apart. */
KERNEL(scale_shift_relu_add, ScaleShift) {
    const int channel = threadIdx.x * VEC, row = blockIdx.y,
              first = blockIdx.x * UNROLL * blockDim.y + threadIdx.y;
    const int width = job.width + 2 * job.pad, inside = row - job.pad;
    const int y = job.repeats ? clamp(inside, job.height - 1) : reflect(inside, job.height - 1);
    Half8 vectors[UNROLL] = {}, residuals[UNROLL] = {};
    for (int n = 0; n < UNROLL; n++) {
        const int column = first + n * blockDim.y, from = column - job.pad;
        if (column >= width)
            continue;
        const int x = job.repeats ? clamp(from, job.width - 1) : reflect(from, job.width - 1);
        vectors[n] = *(const Half8 *)(job.x + pixel_offset(job.from, y, x) + channel);
        if (job.residual)
            residuals[n] =
                *(const Half8 *)(job.residual + pixel_offset(job.beside, y, x) + channel);
    }
    Float8 factor = {}, shift = {};
    if (job.scale) {
        factor = load(job.scale + channel);
        shift = load(job.scale + job.from.channels + channel);
    }
    for (int n = 0; n < UNROLL; n++) {
        const int column = first + n * blockDim.y;
        if (column >= width)
            continue;
        Float8 vector = unpack(vectors[n]);
        const Float8 residual = unpack(residuals[n]);
        for (int i = 0; i < VEC; i++) {
            if (job.scale)
                vector.values[i] = vector.values[i] * factor.values[i] + shift.values[i];
            if (job.relu)
                vector.values[i] = vector.values[i] > 0 ? vector.values[i] : 0;
            vector.values[i] += residual.values[i];
        }
        store(job.out + pixel_offset(job.to, row, column) + channel, vector);
    }
}

struct BiasLeakyRelu {
    Half *x;           /* (vectors, 8) */
    const float *bias; /* (channels,) */
    int vectors, channels;
    float slope;
};

KERNEL(bias_leaky_relu, BiasLeakyRelu) {
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= job.vectors)
        return;
    const int channel = n % (job.channels / VEC) * VEC;
    Float8 vector = load(job.x + (Long)n * VEC);
    for (int i = 0; i < VEC; i++)
        vector.values[i] = leaky(vector.values[i] + job.bias[channel + i], job.slope);
    store(job.x + (Long)n * VEC, vector);
}
