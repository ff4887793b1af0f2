/* The CUDA kernels on a CPU: blocks one after the other, the threads of one that has shared memory
 * at the same time. */

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <immintrin.h>
#include <memory>
#include <thread>
#include <vector>

using std::max, std::min;

#define __device__
#define SHARED extern
#define KERNEL(name, Job)                                                                          \
    static void name##_thread(const Job job);                                                      \
    extern "C" int name(const void *job, long size, const unsigned *grid, const unsigned *threads, \
                        int shared) {                                                              \
        Job copy;                                                                                  \
        if (size != sizeof copy)                                                                   \
            return -1;                                                                             \
        memcpy(&copy, job, sizeof copy);                                                           \
        return launch([&] { name##_thread(copy); }, grid, threads, shared);                        \
    }                                                                                              \
    static void name##_thread(const Job job)

alignas(16) char room[1 << 17] asm("memory"); /* a block's shared memory */

struct Index {
    unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> together_at;

static void __syncthreads() {
    together_at->arrive_and_wait();
}

/* Nonzero where a block has written beyond its shared memory. */
template <typename Kernel>
static int launch(Kernel kernel, const unsigned *grid, const unsigned *threads, int shared) {
    const unsigned count = threads[0] * threads[1] * threads[2],
                   blocks = grid[0] * grid[1] * grid[2];
    blockDim = {threads[0], threads[1], threads[2]}, gridDim = {grid[0], grid[1], grid[2]};
    auto run = [&](unsigned block, unsigned thread) {
        blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
        threadIdx = {thread % threads[0], thread / threads[0] % threads[1],
                     thread / threads[0] / threads[1]};
        kernel();
    };
    memset(room + shared, 'x', sizeof room - shared);
    if (shared) {
        together_at = std::make_unique<std::barrier<>>(count);
        std::vector<std::thread> team;
        for (unsigned thread = 0; thread < count; thread++)
            team.emplace_back([&, thread] {
                for (unsigned block = 0; block < blocks; block++) {
                    run(block, thread);
                    __syncthreads();
                }
            });
        for (auto &member : team)
            member.join();
    } else {
        for (unsigned n = 0; n < blocks * count; n++)
            run(n / count, n % count);
    }
    for (const char *beyond = room + shared; beyond < room + sizeof room; beyond++)
        if (*beyond != 'x')
            return -2;
    return 0;
}

static float half_to_float(unsigned short half) {
    return _cvtsh_ss(half);
}

static unsigned short float_to_half(float value) {
    return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

static unsigned fma_pair(unsigned first, unsigned second, unsigned third) {
    unsigned pair = 0;
    for (int n = 0; n < 32; n += 16)
        pair |= (unsigned)float_to_half(fmaf(half_to_float(first >> n), half_to_float(second >> n),
                                             half_to_float(third >> n)))
                << n;
    return pair;
}

template <int TILES> struct WeightTiles {
    const unsigned short *from;

    void load(const unsigned short *address) {
        from = address;
    }
};

template <int TILES>
static void mma(float (&sums)[TILES][4], const unsigned short *from, int stride,
                const WeightTiles<TILES> &right) {
    const int lane = threadIdx.x % 32;
    for (int tile = 0; tile < TILES; tile++)
        for (int n = 0; n < 4; n++) {
            const int row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
            for (int k = 0; k < 16; k++) {
                const int owner = column * 4 + k % 8 / 2,
                          at = (tile / 2 * 32 + owner) * 8 + tile % 2 * 4 + k / 8 * 2 + k % 2;
                sums[tile][n] +=
                    half_to_float(from[row * stride + k]) * half_to_float(right.from[at]);
            }
        }
}
