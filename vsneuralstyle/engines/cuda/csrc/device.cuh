/* What is a GPU's own: its conversions and its matrix units. Tests put a CPU's in their place
 * (emulated.h). */

#pragma once

#ifndef KERNEL
#define KERNEL(name, Job) extern "C" __global__ void name(const Job job)
#define SHARED extern __shared__ /* as much as the launch says */

__device__ static float half_to_float(unsigned short half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

__device__ static unsigned short float_to_half(float value) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

/* first * second + third of each of the two. */
__device__ static unsigned int fma_pair(unsigned int first, unsigned int second,
                                        unsigned int third) {
    unsigned int pair;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(first), "r"(second), "r"(third));
    return pair;
}

/* What a thread has of a matrix of 16 x 8 TILES, in the order of `conv3x3_weight` in packing.py. */
template <int TILES> struct WeightTiles {
    uint4 pairs[TILES / 2];

    __device__ void load(const unsigned short *from) {
        for (int n = 0; n < TILES / 2; n++)
            pairs[n] = ((const uint4 *)from)[n * 32 + threadIdx.x % 32];
    }
};

__device__ static void mma_tile(float (&sums)[4], const unsigned int (&left)[4], unsigned int first,
                                unsigned int second) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(first), "r"(second));
}

/* A warp's: 16 x 16 of `from`, in shared memory, rows `stride` apart, a multiple of 8, times
 * `right` are added to 16 x 8 TILES sums. A thread has of each tile those of row lane / 4, columns
 * lane % 4 * 2 and the next, and then those eight rows below. */
template <int TILES>
__device__ static void mma(float (&sums)[TILES][4], const unsigned short *from, int stride,
                           const WeightTiles<TILES> &right) {
    const unsigned short *row = from + threadIdx.x % 16 * stride + threadIdx.x % 32 / 16 * 8;
    unsigned long long address;
    unsigned int left[4];
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(left[0]), "=r"(left[1]), "=r"(left[2]), "=r"(left[3])
                 : "l"(address));
    for (int n = 0; n < TILES / 2; n++) {
        mma_tile(sums[2 * n], left, right.pairs[n].x, right.pairs[n].y);
        mma_tile(sums[2 * n + 1], left, right.pairs[n].z, right.pairs[n].w);
    }
}
#endif
