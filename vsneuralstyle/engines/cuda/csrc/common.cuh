/* What all kernels share: vectors of samples, and where a feature map's pixels lie. */

#pragma once

#include "constants.cuh"
#include "device.cuh"

typedef unsigned short Half;
typedef long long Long;

enum { VEC = 8 };

struct alignas(16) Half8 { /* eight of them */
    unsigned int pairs[4];
};

struct alignas(16) Float4 {
    float values[4];
};

struct Float8 {
    float values[VEC];
};

enum { UNROLL = 4 };     /* loads that don't wait for each other */
enum { WARP_SIZE = 32 }; /* columns of a warp */

SHARED Float4 memory[]; /* of a block */

__device__ static float low_half(unsigned int pair) {
    return half_to_float((Half)(pair & 0xffff));
}

__device__ static float high_half(unsigned int pair) {
    return half_to_float((Half)(pair >> 16));
}

__device__ static Float8 unpack(const Half8 &halves) {
    Float8 vector;
    for (int n = 0; n < VEC; n += 2) {
        vector.values[n] = low_half(halves.pairs[n / 2]);
        vector.values[n + 1] = high_half(halves.pairs[n / 2]);
    }
    return vector;
}

__device__ static Float8 load(const Half *from) {
    return unpack(*(const Half8 *)from);
}

__device__ static Float8 load(const float *from) {
    const Float4 first = ((const Float4 *)from)[0], second = ((const Float4 *)from)[1];
    Float8 vector;
    for (int n = 0; n < 4; n++)
        vector.values[n] = first.values[n], vector.values[n + 4] = second.values[n];
    return vector;
}

__device__ static unsigned int pack_pair(float first, float second) {
    return float_to_half(first) | (unsigned int)float_to_half(second) << 16;
}

struct alignas(8) Half4 { /* four float16 */
    unsigned int pairs[2];
};

/* Four of them, or eight, at once. */
template <int COUNT> __device__ static void store(Half *to, const float (&values)[COUNT]) {
    if constexpr (COUNT == 4)
        *(Half4 *)to = {{pack_pair(values[0], values[1]), pack_pair(values[2], values[3])}};
    else
        *(Half8 *)to = {{pack_pair(values[0], values[1]), pack_pair(values[2], values[3]),
                         pack_pair(values[4], values[5]), pack_pair(values[6], values[7])}};
}

__device__ static void store(Half *to, const Float8 &vector) {
    store<VEC>(to, vector.values);
}

__device__ static int clamp(int place, int last) {
    return place < 0 ? 0 : place > last ? last : place;
}

__device__ static int reflect(int place, int last) {
    place = place < 0 ? -place : place;
    return clamp(place > last ? 2 * last - place : place, last);
}

__device__ static float clamp_float(float value, float least, float most) {
    return fminf(fmaxf(value, least), most);
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

__device__ static Long pixel_offset(const Layout &layout, int y, int x) {
    const int shift = layout.shift, inner = (1 << shift) - 1;
    y += layout.edge;
    x += layout.edge;
    const Long square = (Long)(y >> shift) * layout.columns + (x >> shift);
    return ((square << 2 * shift) + ((y & inner) << shift) + (x & inner)) * layout.channels;
}
