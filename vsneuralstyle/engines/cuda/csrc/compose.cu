/* Eq. 1 to 3: the previous composite warped, masked, and blended with the feature. */

#include "resample.cuh"

struct WarpFeature {
    const Half *previous, *feature; /* (height, width, channels) */
    const float *flow,
        *residual;    /* (2, height, width) in pixels of the frame; (3, height, width) */
    Half *warped;     /* like the feature */
    Half *difference; /* (height, width, channels + 8): |feature - warped|, 10 unexplained, and 0 */
    int height, width, channels, cubic;
};

/* A thread eight channels of a pixel of the difference. */
KERNEL(warp_feature, WarpFeature) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y,
              channel = threadIdx.x * VEC;
    if (x >= job.width)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    Float8 difference = {};
    if (channel == job.channels) {
        /* The source's differences are about a tenth of the features'. */
        for (int color = 0; color < 3; color++)
            difference.values[color] = 10 * job.residual[color * plane + at];
    } else {
        const float across = job.flow[at] / STRIDE, down = job.flow[plane + at] / STRIDE,
                    to_x = (float)x + across, to_y = (float)y + down;
        const Half *previous = job.previous + channel;
        Float8 warped;
        if (across == 0 && down == 0)
            warped = load(previous + at * job.channels);
        else if (job.cubic)
            warped = sample<4>(previous, bicubic(to_y, job.height), bicubic(to_x, job.width),
                               job.width, job.channels);
        else
            warped = sample<2>(previous, bilinear(to_y, job.height), bilinear(to_x, job.width),
                               job.width, job.channels);
        const Float8 feature = load(job.feature + at * job.channels + channel);
        for (int i = 0; i < VEC; i++)
            difference.values[i] = fabsf(feature.values[i] - warped.values[i]);
        store(job.warped + at * job.channels + channel, warped);
    }
    store(job.difference + at * (job.channels + VEC) + channel, difference);
}

struct Blend {
    const Half *feature, *warped;    /* (height, width, channels) */
    const float *mask, *flow;        /* (height, width), before its sigmoid; (2, height, width) */
    const float *change, *coherence; /* (height, width) or NULL; one number */
    Half *composite;                 /* like the feature */
    float *blended, *max_gain;       /* (height, width) each */
    int height, width, channels;
    float still, hold, refresh, sharpen;
};

/* How far before the first or behind the last of so many pixels a place lies. */
__device__ static float distance_outside(float at, int size) {
    const float last = (float)(size - 1);
    return at < 0 ? -at : at > last ? at - last : 0;
}

/* A thread eight channels of a pixel. */
KERNEL(blend, Blend) {
    const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y,
              channel = threadIdx.x * VEC;
    if (x >= job.width)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    const float across = job.flow[at], down = job.flow[plane + at];
    const float outside = fmaxf(distance_outside((float)x + across / STRIDE, job.width),
                                distance_outside((float)y + down / STRIDE, job.height));
    const float change = job.change && job.change[at] < job.still ? job.change[at] / job.still : 1;
    float mask = 1 / (1 + expf(-job.mask[at]));
    mask += (1 - mask) * mask * job.hold * (1 - change);
    mask *= *job.coherence * (across != 0 || down != 0 ? 1 - job.refresh : 1) *
            (outside < 1 ? 1 - outside : 0);
    if (!channel) {
        job.blended[at] = mask;
        job.max_gain[at] = mask * (change < SETTLED ? change / SETTLED : 1) * job.sharpen;
    }
    const Float8 feature = load(job.feature + at * job.channels + channel);
    Float8 composite = load(job.warped + at * job.channels + channel);
    for (int i = 0; i < VEC; i++)
        composite.values[i] = feature.values[i] + mask * (composite.values[i] - feature.values[i]);
    store(job.composite + at * job.channels + channel, composite);
}
