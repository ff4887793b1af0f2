/* LitePWCNet's parts, which `flow_decoder.c` puts together. */

#ifndef FLOW_H
#define FLOW_H

#include "layers.h"
#include "resample.h"

/* The start of LitePWCNet: the flow to what matches best. layers.py has it as _Start. */
typedef struct {
    const void *weight; /* and bias, pairs: of `correlate` */
    const float *bias;
    int bf16;
    float confidence;
} Start;

/* A level's estimator, the channels of its features, the radius of its cost volume, and of its
 * pixels what 1 of a flow is. layers.py has it as _Estimator. */
typedef struct {
    Chain chain;
    long channels, radius;
    float pixels;
} Estimator;

/* How alike two feature maps are, place by place: of here and there (height, width, channels) a 1x1
 * convolution to as many channels, and the products of what it gives -> scores (places, places)
 * float32: of each of here with each of there. With `squares`, of each 2x2 the mean is a place.
 *
 * weight: (channels / 16, channels, 16) float32; with `bf16` bfloat16, (channels / 16, channels /
 * 2, 16, 2). bias: (channels). */
int correlate(Fork fork, int threads, const void *here, const void *there, long height, long width,
              long channels, const void *weight, const float *bias, int bf16, int squares,
              float *scores, int dtype);

INLINE long
estimator_channels(long channels,
                   long radius) /* of what an estimator sees: costs, the feature, the flow, and 0 */
{
    return padded_channels((2 * radius + 1) * (2 * radius + 1) + channels + 2);
}

int cost_volume(Fork fork, int threads, const void *here, const void *there, const float *flow,
                float pixels, long height, long width, long channels, long radius,
                void *estimator_input, int dtype);

int global_flow(Fork fork, int threads, const void *here, const void *there, long height,
                long width, long channels, const Start *start, int squares, float *out, int dtype);

#endif
