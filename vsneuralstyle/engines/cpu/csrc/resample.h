/* Samples of a feature map or an image along a flow, bilinear or bicubic. */

#ifndef RESAMPLE_H
#define RESAMPLE_H

#include "simd.h"

/* Of LANES places on a line: samples, and their shares. */
typedef struct {
    int32_t at[4][LANES];
    float weight[4][LANES];
} Taps;

/* Samples of a line of `size` from `first` on, the border repeated, and their weights. */
INLINE void set_taps(Taps *taps, VecI32 first, const VecF32 *weights, long count, long size) {
    VecI32 last = (VecI32){0} + (int)(size - 1);
    for (long n = 0; n < count; n++) {
        VecI32 at = first + (int)n, before = at<0, behind = at> last;
        at = (at & ~before & ~behind) | (last & behind);
        memcpy(taps->at[n], &at, sizeof at);
        memcpy(taps->weight[n], &weights[n], sizeof *weights);
    }
}

INLINE void bilinear_taps(Taps *taps, VecF32 place, long size) {
    place = vec_clamp(place, 0, (float)(size - 1));
    VecI32 left = __builtin_convertvector(place, VecI32);
    VecF32 t = place - __builtin_convertvector(left, VecF32);
    set_taps(taps, left, (VecF32[]){1 - t, t}, 2, size);
}

INLINE void bicubic_taps(Taps *taps, VecF32 place, long size) /* Keys's kernel */
{
    const float a = -0.5f;
    place = vec_clamp(place, -2, (float)size + 1); /* further out all is border */
    VecI32 left = __builtin_convertvector(place + 2, VecI32) - 2;
    VecF32 t = place - __builtin_convertvector(left, VecF32), s = 1 - t;
    VecF32 outer = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
           other = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
    set_taps(taps, left - 1,
             (VecF32[]){outer, ((a + 2) * t - (a + 3)) * t * t + 1,
                        ((a + 2) * s - (a + 3)) * s * s + 1, other},
             4, size);
}

/* Where LANES pixels of a row lead to. */
typedef struct {
    Taps rows, columns;
} FlowTaps;

/* Of row y from `first` on, by the flow (2, height, width) times `pixels`. */
INLINE void taps_along_flow(FlowTaps *places, const float *flow, float pixels, long y, long first,
                            long height, long width, int cubic) {
    long start = y * width + first, count = remaining(first, width, LANES);
    VecF32 x, across = load_partial(flow + start, count),
              down = load_partial(flow + height * width + start, count);
    for (long n = 0; n < LANES; n++)
        x[n] = (float)(first + n);
    across = x + across * pixels;
    down = (float)y + down * pixels;
    if (cubic) {
        bicubic_taps(&places->columns, across, width);
        bicubic_taps(&places->rows, down, height);
    } else {
        bilinear_taps(&places->columns, across, width);
        bilinear_taps(&places->rows, down, height);
    }
}

/* One of them: its lines' and columns' first samples. */
typedef struct {
    long rows[4], columns[4];
    float row_weights[4], column_weights[4];
} PixelTaps;

INLINE void pixel_taps(PixelTaps *place, const FlowTaps *places, long n, long taps, long width,
                       long channels) {
    for (long i = 0; i < taps; i++) {
        place->rows[i] = places->rows.at[i][n] * width * channels;
        place->columns[i] = places->columns.at[i][n] * channels;
        place->row_weights[i] = places->rows.weight[i][n];
        place->column_weights[i] = places->columns.weight[i][n];
    }
}

INLINE VecF32 sample_taps(const void *source, const PixelTaps *place, long taps, long c,
                          int dtype) {
    VecF32 value = {0};
    for (long i = 0; i < taps; i++) {
        VecF32 row = {0};
        for (long j = 0; j < taps; j++)
            row += place->column_weights[j] *
                   load(source, place->rows[i] + place->columns[j] + c, dtype);
        value += place->row_weights[i] * row;
    }
    return value;
}

#endif
