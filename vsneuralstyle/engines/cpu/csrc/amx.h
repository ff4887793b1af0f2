/* Convolutions by a CPU's matrix unit: Intel's AMX multiplies 16 rows of 32 bfloat16 with 32 by 16
 * others in the time of 16 vectors' sums. Minimal filtering, which conv3x3_winograd.c and
 * conv9x9_winograd.c save multiplications by, would take longer than they do: these are direct
 * convolutions, and all that lies between them, normalisation, border and sums, is done to a line
 * of the feature map while it is in the near cache.
 *
 * A line is a row of pixels with its border, all channels of a pixel side by side: what a row of a
 * kernel meets of it, three pixels for example, lies in one piece. So a tile's rows are such pieces
 * of pixels side by side, which overlap in memory, and nothing is gathered.
 *
 * Built for a CPU without the unit it computes the same, slowly: tests run it so.
 *
 * Feature maps are as layers.h says.
 */

#ifndef AMX_H
#define AMX_H

#include "layers.h"

/* A tile's rows, and the outputs of a tile of weights; a row's samples; bytes of such weights. */
enum { SIDE = 16, DEPTH = 32, BYTES = 2 * SIDE * DEPTH };
/* Tiles of products that are made at once: of so many tiles of rows, or of half as many and twice
 * SIDE outputs, which load the fewest. */
enum { ABREAST = 4, MAX_GROUPS = 2, PRODUCTS = ABREAST * SIDE * SIDE };

/* Before tiles and after them: oneDNN, which PyTorch computes with, has other sizes for them. */
INLINE void configure_tiles(void) {
#if defined(__AMX_BF16__)
    const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } sizes = {1,
               0,
               {0},
               {64, 64, 64, 64, 64, 64, 64, 64},
               {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    __asm__ volatile("ldtilecfg %0" ::"m"(sizes));
#endif
}

INLINE void release_tiles(void) {
#if defined(__AMX_BF16__)
    __asm__ volatile("tilerelease");
#endif
}

#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define LOAD(tile, from, step) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"(step) : "memory")
#define STORE(tile, to, step) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(step) : "memory")
#define ADD(sum, rows, weights) \
    __asm__ volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum::)

/* What is multiplied. Of each line `chunks` of DEPTH samples, `apart` bytes from one to the next,
 * from a row of a tile to the next one `step` bytes. The weights of a line and a chunk are (DEPTH /
 * 2, SIDE, 2), those of the next SIDE outputs `next` bytes on; of a line's chunks all are the same
 * ones where `same` says so. */
typedef struct {
    const char *const *lines;
    const char *weight;
    long count, chunks, apart, step, next;
    int same;
} Operands;

#if !defined(__AMX_BF16__)
/* To `sums` of SIDE outputs, the products of DEPTH samples. */
INLINE void add_row(const char *samples, const char *weight, float *sums) {
    for (long k = 0; k < DEPTH; k++) {
        uint16_t dtype[1], weights[2 * SIDE];
        memcpy(dtype, samples + 2 * k, sizeof dtype);
        memcpy(weights, weight + k / 2 * (long)sizeof weights, sizeof weights);
        for (long n = 0; n < SIDE; n++)
            sums[n] += from_bfloat16(dtype[0]) * from_bfloat16(weights[2 * n + k % 2]);
    }
}
#endif

/* SIDE rows of each of `residual_blocks`, times `groups` of SIDE outputs -> out (blocks * SIDE,
 * groups * SIDE). */
INLINE void gemm_tiles(const Operands *operands, float *out, long blocks, long groups) {
    const Operands own = *operands;
    const char *weight = own.weight;
#if defined(__AMX_BF16__)
    long further = SIDE * own.step, line = 4 * groups * SIDE; /* bytes */
    ZERO(0);
    ZERO(1);
    ZERO(2);
    ZERO(3);
    for (long n = 0; n < own.count; n++, weight += own.same ? BYTES : 0) {
        const char *rows = own.lines[n];
        for (long chunk = 0; chunk < own.chunks;
             chunk++, rows += own.apart, weight += own.same ? 0 : BYTES) {
            LOAD(4, rows, own.step);
            LOAD(7, weight, 64L);
            ADD(0, 4, 7);
            if (groups == 2) {
                LOAD(6, weight + own.next, 64L);
                ADD(1, 4, 6);
            }
            if (blocks > 1) {
                LOAD(5, rows + further, own.step);
                if (groups == 2) {
                    ADD(2, 5, 7);
                    ADD(3, 5, 6);
                } else {
                    ADD(1, 5, 7);
                }
            }
            if (blocks > 2) {
                LOAD(6, rows + 2 * further, own.step);
                ADD(2, 6, 7);
            }
            if (blocks > 3) {
                LOAD(4, rows + 3 * further, own.step);
                ADD(3, 4, 7);
            }
        }
    }
    long second = groups == 2 ? SIDE : SIDE * SIDE, third = 2 * SIDE * SIDE;
    STORE(0, out, line);
    if (blocks * groups > 1)
        STORE(1, out + second, line);
    if (blocks * groups > 2)
        STORE(2, out + third, line);
    if (blocks * groups > 3)
        STORE(3, out + third + second, line);
#else
    memset(out, 0, blocks * SIDE * groups * SIDE * sizeof *out);
    for (long n = 0; n < own.count; n++, weight += own.same ? BYTES : 0) {
        const char *rows = own.lines[n];
        for (long chunk = 0; chunk < own.chunks;
             chunk++, rows += own.apart, weight += own.same ? 0 : BYTES)
            for (long row = 0; row < blocks * SIDE; row++)
                for (long group = 0; group < groups; group++)
                    add_row(rows + row * own.step, weight + group * own.next,
                            out + (row * groups + group) * SIDE);
    }
#endif
}

static NOINLINE void gemm(const Operands *operands, float *out, long blocks, long groups) {
    switch (groups == 2 ? ABREAST + blocks : blocks) {
    case 1:
        gemm_tiles(operands, out, 1, 1);
        break;
    case 2:
        gemm_tiles(operands, out, 2, 1);
        break;
    case 3:
        gemm_tiles(operands, out, 3, 1);
        break;
    case 4:
        gemm_tiles(operands, out, 4, 1);
        break;
    case 5:
        gemm_tiles(operands, out, 1, 2);
        break;
    case 6:
        gemm_tiles(operands, out, 2, 2);
        break;
    }
}

INLINE long in_tiles(long pixels) /* to the next multiple of SIDE */
{
    return (pixels + SIDE - 1) / SIDE * SIDE;
}

/* How many of `count` tiles of rows are multiplied at once. */
INLINE long blocks_of(long pixels, long groups) {
    long blocks = in_tiles(pixels) / SIDE, most = ABREAST / groups;
    return blocks < most ? blocks : most;
}

/* Of the outputs of a row what is to be summed up: about the first of them, so that a mean far from
 * 0 leaves the variance its digits. */
typedef struct {
    VecF32 shift[SIDE / LANES], sum[SIDE / LANES], square[SIDE / LANES];
} Moments;

INLINE void begin_moments(Moments *sums) {
    for (long v = 0; v < SIDE / LANES; v++)
        sums->sum[v] = sums->square[v] = (VecF32){0};
}

/* Products of `count` pixels, so many floats apart -> outputs from `at` on, `step` samples apart;
 * `first`: the row's. */
INLINE void epilogue(const float *products, long apart, long count, const float *bias, float slope,
                     void *out, long at, long step, int first, Moments *sums, int dtype,
                     int summing) {
    for (long v = 0; v < SIDE / LANES; v++) {
        VecF32 add = load(bias, v * LANES, FLOAT32), shift, sum, square;
        if (summing) {
            if (first) {
                VecF32 value = load(products, v * LANES, FLOAT32) + add;
                sums->shift[v] = vec_max(value, value * slope);
            }
            shift = sums->shift[v], sum = sums->sum[v], square = sums->square[v];
        }
        for (long n = 0; n < count; n++) {
            VecF32 value = load(products, n * apart + v * LANES, FLOAT32) + add;
            value = vec_max(value, value * slope);
            store(out, at + n * step + v * LANES, value, dtype);
            if (summing) {
                VecF32 away = value - shift;
                sum += away;
                square += away * away;
            }
        }
        if (summing)
            sums->sum[v] = sum, sums->square[v] = square;
    }
}

static NOINLINE void epilogue_row(const float *products, long apart, long count, const float *bias,
                                  float slope, void *out, long at, long step, int first,
                                  Moments *sums, int dtype) {
    switch ((sums ? 2 : 0) + dtype) {
    case 0:
        epilogue(products, apart, count, bias, slope, out, at, step, first, sums, 0, 0);
        break;
    case 1:
        epilogue(products, apart, count, bias, slope, out, at, step, first, sums, 1, 0);
        break;
    case 2:
        epilogue(products, apart, count, bias, slope, out, at, step, first, sums, 0, 1);
        break;
    case 3:
        epilogue(products, apart, count, bias, slope, out, at, step, first, sums, 1, 1);
        break;
    }
}

INLINE void add_row_moments(double *to, long channels, const Moments *sums, long count) {
    for (long v = 0; v < SIDE / LANES; v++)
        add_moments(to + v * LANES, channels, sums->shift[v], sums->sum[v], sums->square[v], count);
}

#endif
