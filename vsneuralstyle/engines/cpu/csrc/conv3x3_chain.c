/* Convolutions in one call: chains that end with few channels, and residual blocks. */

#include "layers.h"

enum { MAX_FEW = 2 };

typedef struct {
    const void *x;
    const float *weight, *bias, *base;
    float *out;
    long height, width, channels, outputs;
    int dtype;
} Conv3x3Few;

enum { ABREAST = 4 }; /* pixels whose sums are in registers at a time, for two outputs */

/* Of ABREAST pixels from `first` on the sums, lane by lane, from sums[...][at] on. `inside`:
 * neither border is met beside them. */
INLINE void conv3x3_few_pixels(const Conv3x3Few *job, long y, long first, long outputs, int dtype,
                               VecF32 (*sums)[LANES], long at, int inside) {
    long width = job->width, channels = job->channels;
    VecF32 own[ABREAST][MAX_FEW] = {{{0}}};
    for (long i = -1; i <= 1; i++) {
        if (y + i < 0 || y + i >= job->height)
            continue;
        const float *weight = job->weight + (i + 1) * 3 * outputs * channels;
        for (long j = -1; j <= 1; j++)
            for (long c = 0; c < channels; c += LANES) {
                VecF32 w[MAX_FEW];
                for (long n = 0; n < outputs; n++)
                    w[n] = load(weight, ((j + 1) * outputs + n) * channels + c, FLOAT32);
                for (long x = 0; x < ABREAST; x++) {
                    long column = first + x + j;
                    if (!inside && (column < 0 || column >= width))
                        continue;
                    VecF32 value = load(job->x, ((y + i) * width + column) * channels + c, dtype);
                    for (long n = 0; n < outputs; n++)
                        own[x][n] += value * w[n];
                }
            }
    }
    for (long x = 0; x < ABREAST; x++)
        for (long n = 0; n < outputs; n++)
            sums[n][at + x] = own[x][n];
}

INLINE void conv3x3_few_row(const Conv3x3Few *job, long y, long outputs, int dtype) {
    long width = job->width, plane = job->height * width;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES);
        VecF32 sums[MAX_FEW][LANES];
        for (long x = 0; x < LANES; x += ABREAST) {
            if (first + x > 0 && first + x + ABREAST < width)
                conv3x3_few_pixels(job, y, first + x, outputs, dtype, sums, x, 1);
            else
                conv3x3_few_pixels(job, y, first + x, outputs, dtype, sums, x, 0);
        }
        for (long n = 0; n < outputs; n++) {
            long at = n * plane + y * width + first;
            VecF32 sum = horizontal_sums(sums[n]) + job->bias[n];
            if (job->base)
                sum += load_partial(job->base + at, count);
            memcpy(job->out + at, &sum, count * sizeof *job->out);
        }
    }
}

static void conv3x3_few_chunk(const void *data, long y) {
    const Conv3x3Few copy = *(const Conv3x3Few *)data, *job = &copy;
    switch (job->outputs * 2 + job->dtype) {
    case 2:
        conv3x3_few_row(job, y, 1, 0);
        break;
    case 3:
        conv3x3_few_row(job, y, 1, 1);
        break;
    case 4:
        conv3x3_few_row(job, y, 2, 0);
        break;
    case 5:
        conv3x3_few_row(job, y, 2, 1);
        break;
    }
}

/* A 3x3 convolution of stride 1 to 1 or 2 channels, 0 about the border: x (height, width, channels)
 * -> (outputs, height, width) float32.
 *
 * weight: (3, 3, outputs, channels). bias: (outputs). base: added to it; may be NULL. */
static int conv3x3_few(Fork fork, int threads, const void *x, long height, long width,
                       long channels, const float *weight, const float *bias, long outputs,
                       const float *base, float *out, int dtype) {
    Conv3x3Few job = {x, weight, bias, base, out, height, width, channels, outputs, dtype};
    parallel_for(fork, threads, conv3x3_few_chunk, &job, height);
    return 0;
}

/* x (height, width, padded_channels(inputs)) -> (outputs, height, width) float32. base: added to
 * it; may be NULL. */
int conv3x3_chain(Fork fork, int threads, const void *x, long height, long width, const void *chain,
                  const float *base, float *out, int dtype) {
    const Chain own = *(const Chain *)chain;
    long most = 0;
    for (long n = 0; n < own.count; n++)
        most = max_long(most, own.layers[n].outputs);
    long picture = padded_floats(height * width * most, dtype);
    float *scratch = alloc_floats(2 * picture);
    int result = scratch ? 0 : -1;
    for (long n = 0; n < own.count && !result; n++) {
        float *to = scratch + n % 2 * picture;
        result = conv3x3(fork, threads, x, height, width, own.layers + n, NULL, 0, NULL, to, dtype,
                         dtype);
        x = to;
    }
    if (!result)
        result = conv3x3_few(fork, threads, x, height, width, own.layers[own.count - 1].outputs,
                             own.weight, own.bias, own.outputs, base, out, dtype);
    free(scratch);
    return result;
}

/* Residual blocks: of x (height, width, channels) two convolutions of stride 1 and `channels`
 * outputs, normalised, a ReLU between, and x added; of that the next two. count: of convolutions,
 * two or more. out: like x. */
int residual_blocks(Fork fork, int threads, const void *x, long height, long width,
                    const void *layers, long count, void *out, int dtype) {
    const Layer *layer = layers;
    long channels = layer->outputs, picture = padded_floats(height * width * channels, dtype);
    float *first = alloc_floats(2 * picture + 4 * channels), *second = first + picture,
          *scales = second + picture;
    int result = first ? 0 : -1;
    for (long n = 0; n < count && !result; n += 2) {
        result = conv3x3(fork, threads, x, height, width, layer + n, NULL, 0, scales, first, dtype,
                         dtype);
        if (!result)
            result = conv3x3(fork, threads, first, height, width, layer + n + 1, scales, 1,
                             scales + 2 * channels, second, dtype, dtype);
        if (!result)
            result = scale_shift_relu_add(fork, threads, second, height, width, channels,
                                          scales + 2 * channels, 0, x, out, dtype);
        x = out; /* of which each sample is read before it is written */
    }
    free(first);
    return result;
}
