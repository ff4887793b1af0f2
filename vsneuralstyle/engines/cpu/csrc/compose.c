/* Eq. 1 to 3: the previous composite warped, masked, and blended with the feature. */

#include "layers.h"
#include "resample.h"

typedef struct {
    const float *flow, *residual;
    const void *previous, *feature;
    void *warped, *difference;
    long height, width, channels;
    int cubic, dtype, state_dtype;
} WarpFeature;

INLINE void warp_feature_row(const WarpFeature *job, long y, int cubic, int dtype,
                             int state_dtype) {
    long width = job->width, channels = job->channels, all = channels + 16,
         plane = job->height * width;
    for (long first = 0; first < width; first += LANES) {
        FlowTaps places;
        taps_along_flow(&places, job->flow, 1.0f / STRIDE, y, first, job->height, width, cubic);
        for (long n = 0; n < remaining(first, width, LANES); n++) {
            long at = y * width + first + n;
            PixelTaps place;
            pixel_taps(&place, &places, n, cubic ? 4 : 2, width, channels);
            for (long c = 0; c < channels; c += LANES) {
                VecF32 warped = sample_taps(job->previous, &place, cubic ? 4 : 2, c, state_dtype);
                VecF32 apart = load(job->feature, at * channels + c, dtype) - warped;
                store(job->warped, at * channels + c, warped, state_dtype);
                store(job->difference, at * all + c, vec_select((VecU32)(apart < 0), -apart, apart),
                      dtype);
            }
            VecF32 residual = {0};
            for (long c = 0; c < 3;
                 c++) /* the source's differences are about a tenth of the features' */
                residual[c] = 10 * job->residual[c * plane + at];
            for (long c = 0; c < 16; c += LANES)
                store(job->difference, at * all + channels + c, c ? (VecF32){0} : residual, dtype);
        }
    }
}

static void warp_feature_chunk(const void *data, long y) {
    const WarpFeature copy = *(const WarpFeature *)data, *job = &copy;
    if (job->cubic && job->state_dtype)
        warp_feature_row(job, y, 1, 1, FLOAT16);
    else if (job->cubic)
        warp_feature_row(job, y, 1, job->dtype, 0);
    else
        warp_feature_row(job, y, 0, job->dtype, job->state_dtype);
}

/* The previous feature (height, width, channels), sampled along flow (2, height, width) float32 in
 * pixels of the frame -> warped, like it, and difference (height, width, channels + 16): |feature -
 * warped|, 10 unexplained (3, height, width) float32, and 0. state_dtype: of the first two,
 * float32 or, beside bfloat16, FLOAT16. */
static int warp_feature(Fork fork, int threads, const void *previous, const float *flow,
                        const void *feature, const float *residual, long height, long width,
                        long channels, int cubic, void *warped, void *difference, int dtype,
                        int state_dtype) {
    WarpFeature job = {flow,   residual, previous, feature, warped, difference,
                       height, width,    channels, cubic,   dtype,  state_dtype};
    parallel_for(fork, threads, warp_feature_chunk, &job, height);
    return 0;
}

typedef struct {
    const void *feature, *warped;
    const float *mask, *flow, *change;
    void *composite;
    float *blended, *max_gain;
    long height, width, channels;
    float still, hold, coherence, refresh, sharpen;
    int dtype, state_dtype;
} Blend;

/* How far before the first or behind the last of so many pixels a place lies. */
static float beyond(float at, long size) {
    float last = (float)(size - 1);
    return at < 0 ? -at : at > last ? at - last : 0;
}

INLINE void blend_row(const Blend *job, long y, int dtype, int state_dtype) {
    const float *across = job->flow, *down = across + job->height * job->width;
    for (long first = 0; first < job->width; first += LANES) {
        long count = remaining(first, job->width, LANES), start = y * job->width + first;
        float masks[LANES] = {0};
        memcpy(masks, job->mask + start, count * sizeof *masks);
        store(masks, 0, vec_sigmoid(load(masks, 0, FLOAT32)), FLOAT32);
        for (long x = 0; x < count; x++) {
            long at = start + x;
            int moved = across[at] != 0 || down[at] != 0;
            float aside = beyond((float)(first + x) + across[at] / STRIDE, job->width);
            float above = beyond((float)y + down[at] / STRIDE, job->height),
                  outside = aside > above ? aside : above;
            float mask = masks[x], change = job->change && job->change[at] < job->still
                                                ? job->change[at] / job->still
                                                : 1;
            mask += (1 - mask) * mask * job->hold * (1 - change);
            mask *= job->coherence * (1 - job->refresh * (float)moved) *
                    (outside < 1 ? 1 - outside : 0);
            job->blended[at] = mask;
            job->max_gain[at] = mask * (change < SETTLED ? change / SETTLED : 1) * job->sharpen;
            for (long c = at * job->channels; c < (at + 1) * job->channels; c += LANES) {
                VecF32 feature = load(job->feature, c, dtype),
                       composite = feature + mask * (load(job->warped, c, state_dtype) - feature);
                store(job->composite, c, composite, state_dtype);
            }
        }
    }
}

static void blend_chunk(const void *data, long y) {
    const Blend copy = *(const Blend *)data, *job = &copy;
    if (job->state_dtype)
        blend_row(job, y, 1, FLOAT16);
    else if (job->dtype)
        blend_row(job, y, 1, 0);
    else
        blend_row(job, y, 0, 0);
}

/* Eq. 3: feature and warped (height, width, channels), mask (height, width) float32, before its
 * sigmoid, change (height, width) float32 or NULL -> composite (height, width, channels), which may
 * be `warped`, the mask as it was blended, and by how much detail may be raised, (height, width)
 * float32 each. state_dtype: of warped and the composite. */
static int blend(Fork fork, int threads, const void *feature, const void *warped, const float *mask,
                 const float *flow, const float *change, long height, long width, long channels,
                 float still, float hold, float coherence, float refresh, float sharpen,
                 void *composite, float *blended, float *max_gain, int dtype, int state_dtype) {
    Blend job = {feature, warped,    mask,    flow,    change,   composite,
                 blended, max_gain,  height,  width,   channels, still,
                 hold,    coherence, refresh, sharpen, dtype,    state_dtype};
    parallel_for(fork, threads, blend_chunk, &job, height);
    return 0;
}

/* `Net1.compose`: what `warp_feature`, the mask network and `blend` make of their feature maps, and
 * `sharpen_composite` where there is something to raise -> composite and blended. mask: the
 * network, a Chain to one output. state_dtype: of previous and the composite: 0, or beside bfloat16
 * FLOAT16. */
int compose(Fork fork, int threads, const void *feature, const void *previous, const float *flow,
            const float *residual, const float *change, long height, long width, long channels,
            int cubic, const void *mask, float still, float hold, float coherence, float refresh,
            float sharpen, void *composite, float *blended, int dtype, int state_dtype) {
    long pixels = padded_floats(height * width, 0),
         samples = padded_floats(height * width * channels, state_dtype);
    float *max_gain =
        alloc_floats(pixels + samples + padded_floats(height * width * (channels + 16), dtype));
    if (!max_gain)
        return -1;
    float *seen = max_gain + pixels, *difference = seen + samples;
    void *warped = sharpen > 0 ? seen : composite;
    int result = warp_feature(fork, threads, previous, flow, feature, residual, height, width,
                              channels, cubic, warped, difference, dtype, state_dtype);
    if (!result)
        result =
            conv3x3_chain(fork, threads, difference, height, width, mask, NULL, max_gain, dtype);
    if (!result)
        result = blend(fork, threads, feature, warped, max_gain, flow, change, height, width,
                       channels, still, hold, coherence, refresh, sharpen, warped, blended,
                       max_gain, dtype, state_dtype);
    if (!result && sharpen > 0)
        result = sharpen_composite(fork, threads, warped, feature, max_gain, height, width,
                                   channels, composite, dtype, state_dtype);
    free(max_gain);
    return result;
}
