/* The operations that others call: convolutions, their chains, normalisation.
 *
 * Feature maps are channels last, (height, width, channels), one at a time, their channels a
 * multiple of 16 unless it says otherwise; dtype says what their samples are. All is computed in
 * float32. Rows are shared out among the threads, and no result depends on who computed it: sums
 * are of rows that are always the same. */

#ifndef LAYERS_H
#define LAYERS_H

#include "simd.h"

/* What a convolution is, whatever the feature map; `conv3x3` says what is what. layers.py has it
 * as _Layer. */
typedef struct {
    const void *weight;
    const float *bias, *norm_weight, *norm_bias;
    long inputs, outputs, tile_size;
    float slope, eps;
    int bf16, amx, reflects;
} Layer;

INLINE long output_size(const Layer *layer, long size) /* of what comes out, from x's */
{
    return layer->tile_size == UPSAMPLE2 ? 2 * size
           : layer->tile_size == STRIDE2 ? half_up(size)
                                         : size;
}

/* Where a line of x is that is `place`; -1: beyond a border of 0. */
INLINE long source_index(long place, long size, long tile_size, int reflects) {
    if (reflects) /* of what is enlarged, the reflection is the edge repeated */
        return tile_size == UPSAMPLE2 ? clamp_index(place, size - 1)
                                      : reflect_index(place, size - 1);
    return place >= 0 && place < size ? place : -1;
}

/* As `conv3x3`, whose layer is `amx`. */
int conv3x3_amx(Fork fork, int threads, const void *x, long height, long width, const Layer *layer,
                const float *scale, int relu, float *norm, void *out, int dtype, int out_dtype);

/* `count` convolutions of stride 1, each of what the one before gives, and one to few outputs, of
 * which weight and bias are `conv3x3_few`'s. layers.py has it as _Chain. */
typedef struct {
    const Layer *layers;
    long count;
    const float *weight, *bias;
    long outputs;
} Chain;

/* The sums of `count` values, in parts as `add_moments` makes them -> scales and shifts as
 * `conv3x3` has them. */
void instance_norm_finalize(const double *sums, long parts, long channels, double count,
                            const float *weight, const float *bias, float eps, float *scale);

int sharpen_composite(Fork fork, int threads, const void *composite, const void *feature,
                      const float *max_gain, long height, long width, long channels, void *out,
                      int dtype, int state_dtype);

#endif
