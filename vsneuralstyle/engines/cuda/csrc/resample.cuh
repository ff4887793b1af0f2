/* Samples of a feature map along a flow, bilinear or bicubic. */

#pragma once

#include "common.cuh"

struct Taps {
    int at[4];
    float weight[4];
};

__device__ static Taps bilinear(float place, int size) {
    Taps taps;
    place = clamp_float(place, 0, (float)(size - 1));
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
    place = clamp_float(place, -2, (float)size + 1); /* further out all is border */
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
__device__ static Float8 sample(const Half *source, const Taps &rows, const Taps &columns,
                                int width, int channels) {
    /* Along a row in pairs of float16, which takes half of the time. Weights are rounded for it,
     * but their sum must be 1: what is resampled from frame to frame would grow or fade. */
    unsigned int weights[COUNT];
    float sum = 0;
    for (int j = 0; j < COUNT; j++) {
        weights[j] = pack_pair(columns.weight[j], columns.weight[j]);
        sum += low_half(weights[j]);
    }
    const float one = 1 / sum;
    Float8 value = {};
    for (int i = 0; i < COUNT; i++) {
        unsigned int row[VEC / 2] = {};
        for (int j = 0; j < COUNT; j++) {
            const Half8 tap =
                *(const Half8 *)(source + ((Long)rows.at[i] * width + columns.at[j]) * channels);
            for (int n = 0; n < VEC / 2; n++)
                row[n] = fma_pair(tap.pairs[n], weights[j], row[n]);
        }
        const float weight = rows.weight[i] * one;
        for (int n = 0; n < VEC; n++)
            value.values[n] += weight * (n % 2 ? high_half(row[n / 2]) : low_half(row[n / 2]));
    }
    return value;
}
