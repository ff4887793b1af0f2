/* The matrix product at the points of Winograd's filtering, and of feature maps' places. */

#ifndef WINOGRAD_GEMM_H
#define WINOGRAD_GEMM_H

#include "simd.h"

/* Of the matrix product: tiles, and vectors of outputs, at once, whose sums fill the CPU's
 * registers. */
enum { TILES = LANES == 16 ? 12 : 6, VECTORS = 2, GROUP = VECTORS * LANES, OUTPUTS = 16 };
enum { BLOCK = 2 * TILES, SMALL = 4 * BLOCK }; /* tiles: a core's cache holds what comes of them */
/* Samples between the matrix of a point's tiles and the next one's: a tile's points would otherwise
 * be a multiple of 512 bytes apart, and of such a cache has room for a few only. */
enum { PLANE_PADDING = 16 };

/* (TILES, inputs) of `points` times (inputs, vectors of outputs) of `weight`, which has OUTPUTS of
 * all inputs and, `next` words further on, the next
 * -> products, whose rows are GROUP long. Words of points and of weight are float32, or pairs of
 * bfloat16, for two inputs each. */
INLINE void gemm_vectors(const uint32_t *points, long channels, const uint32_t *weight, long inputs,
                         long next, float *products, long vectors, int bf16) {
    VecF32 sums[TILES][VECTORS];
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            sums[row][v] = (VecF32){0};
    long k = 0;
    do { /* at least once, or GCC would have the sums in memory before and after */
        VecU32 w[VECTORS];
        for (long v = 0; v < vectors; v++)
            w[v] =
                load_words(weight + v * LANES / OUTPUTS * next + k * OUTPUTS + v * LANES % OUTPUTS);
        for (long row = 0; row < TILES; row++)
            for (long v = 0; v < vectors; v++)
                sums[row][v] = dot_broadcast(sums[row][v], points + row * channels + k, w[v], bf16);
    } while (++k < inputs);
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            store(products, row * GROUP + v * LANES, sums[row][v], FLOAT32);
}

/* The weights of what begins with output c, of a product whose next OUTPUTS are `next` words
 * further on. */
INLINE const uint32_t *weights_from(const uint32_t *weight, long c, long next) {
    return weight + c / OUTPUTS * next + c % OUTPUTS;
}

INLINE long vectors_of(long outputs) /* of those at once */
{
    return (remaining(0, outputs, GROUP) + LANES - 1) / LANES;
}

/* A function of its own, so that all registers are the sums': with one of them in memory it takes
 * twice as long. */
static NOINLINE __attribute__((unused)) void gemm(const uint32_t *points, long channels,
                                                  const uint32_t *weight, long inputs, long next,
                                                  float *products, long vectors, int bf16) {
    switch ((vectors == VECTORS ? 2 : 0) + bf16) {
    case 0:
        gemm_vectors(points, channels, weight, inputs, next, products, 1, 0);
        break;
    case 1:
        gemm_vectors(points, channels, weight, inputs, next, products, 1, 1);
        break;
    case 2:
        gemm_vectors(points, channels, weight, inputs, next, products, VECTORS, 0);
        break;
    case 3:
        gemm_vectors(points, channels, weight, inputs, next, products, VECTORS, 1);
        break;
    }
}

#endif
