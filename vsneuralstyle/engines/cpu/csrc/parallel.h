/* Threads: a loop's chunks shared out among PyTorch's OpenMP workers.
 *
 * Each exported function returns 0, or -1 without memory. */

#ifndef PARALLEL_H
#define PARALLEL_H

#include "operations.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* omp_get_thread_num of that runtime; NULL: there is none. */
extern int (*thread_number)(void);

enum { MAX_WORKERS = 64 };

/* Parts in order, a range of them for each worker: what a worker made of a feature map's rows is in
 * its own core's caches for the next layer. Who has done his own takes of the others'. */
typedef struct {
    void (*part)(const void *, long);
    void (*part_with_scratch)(const void *, long,
                              float *); /* or this, with room of `size` floats for each worker */
    const void *job;
    float *scratch;
    long parts, size;
    int workers;
    struct {
        _Alignas(64) atomic_long next;
    } ranges[MAX_WORKERS];
} Loop;

static inline void run_chunks(void *data) {
    Loop *loop = data;
    int number = loop->workers > 1 ? thread_number() : 0;
    for (int n = 0; n < loop->workers; n++) {
        int range = (number + n) % loop->workers;
        long end = loop->parts * (range + 1) / loop->workers;
        for (long part; (part = atomic_fetch_add(&loop->ranges[range].next, 1)) < end;)
            if (loop->part_with_scratch)
                loop->part_with_scratch(loop->job, part, loop->scratch + number * loop->size);
            else
                loop->part(loop->job, part);
    }
}

static inline int worker_count(Fork fork, int threads, long parts) {
    int most = threads < MAX_WORKERS ? threads : MAX_WORKERS;
    return !fork || !thread_number || most < 2 || parts < 2 ? 1 : most < parts ? most : (int)parts;
}

static inline void run_loop(Fork fork, Loop *loop) {
    for (int n = 0; n < loop->workers; n++)
        atomic_init(&loop->ranges[n].next, loop->parts * n / loop->workers);
    if (loop->workers > 1)
        fork(run_chunks, loop, (unsigned)loop->workers, 0);
    else
        run_chunks(loop);
}

static inline void parallel_for(Fork fork, int threads, void (*part)(const void *, long),
                                const void *job, long parts) {
    Loop loop = {
        .part = part, .job = job, .parts = parts, .workers = worker_count(fork, threads, parts)};
    run_loop(fork, &loop);
}

INLINE long padded_floats(long samples, int dtype) /* in whole lines of a cache */
{
    return ((dtype == FLOAT32 ? samples : (samples + 1) / 2) + 15) / 16 * 16;
}

INLINE float *alloc_floats(long floats) /* NULL without memory */
{
    return aligned_alloc(64, (size_t)floats * sizeof(float));
}

enum { SCRATCH_HEADER = 16 }; /* samples */

/* As `parallel_for`, and each worker has room for `size` floats, FIRST or more, of which the first
 * of all are 0 at first; its parts begin with what the last one left. Returns 0, or -1 without
 * memory. */
static inline int parallel_for_scratch(Fork fork, int threads,
                                       void (*part)(const void *, long, float *), const void *job,
                                       long parts, long size) {
    int workers = worker_count(fork, threads, parts);
    long padded = padded_floats(size, 0);
    Loop loop = {.part_with_scratch = part,
                 .job = job,
                 .parts = parts,
                 .size = padded,
                 .workers = workers,
                 .scratch = alloc_floats(workers * padded)};
    if (!loop.scratch)
        return -1;
    for (int n = 0; n < workers; n++)
        memset(loop.scratch + n * padded, 0, SCRATCH_HEADER * sizeof *loop.scratch);
    run_loop(fork, &loop);
    free(loop.scratch);
    return 0;
}

#endif
