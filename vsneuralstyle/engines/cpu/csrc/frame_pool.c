/* A frame at quarter resolution, and the largest change between two. */

#include "simd.h"

enum { RUN = 16 * STRIDE }; /* columns at once */

typedef struct {
    const float *frame, *previous;
    float *squares, *out;
    long height, width;
} Pool;

INLINE long pooled(long size) {
    return (size + STRIDE - 1) / STRIDE;
}

static void downsample4_chunk(const void *data, long row) {
    const Pool *job = data;
    long y = row % pooled(job->height), channel = row / pooled(job->height),
         columns = pooled(job->width);
    long height = remaining(y * STRIDE, job->height, STRIDE);
    for (long first = 0; first < job->width; first += RUN) {
        long count = remaining(first, job->width, RUN);
        float sums[RUN] = {0};
        for (long i = 0; i < height; i++) {
            const float *from =
                job->frame + (channel * job->height + y * STRIDE + i) * job->width + first;
            for (long x = 0; x < count; x++)
                sums[x] += from[x];
        }
        for (long x = 0; x < count; x += STRIDE) {
            /* Beyond the border are zeros. */
            float sum = (sums[x] + sums[x + 1]) + (sums[x + 2] + sums[x + 3]);
            job->out[row * columns + (first + x) / STRIDE] =
                sum / (float)(height * remaining(x, count, STRIDE));
        }
    }
}

/* (3, height, width) float32 -> (3, ceil(height / 4), ceil(width / 4)): the mean of each square. */
int downsample4(Fork fork, int threads, const float *frame, long height, long width, float *out) {
    Pool job = {.frame = frame, .out = out, .height = height, .width = width};
    parallel_for(fork, threads, downsample4_chunk, &job, 3 * pooled(height));
    return 0;
}

static void block_change_chunk(const void *data, long y) {
    const Pool *job = data;
    long columns = pooled(job->width), height = remaining(y * STRIDE, job->height, STRIDE);
    for (long first = 0; first < job->width; first += RUN) {
        long count = remaining(first, job->width, RUN);
        float most[RUN] = {0};
        for (long c = 0; c < 3; c++)
            for (long i = 0; i < height; i++) {
                long at = (c * job->height + y * STRIDE + i) * job->width + first;
                for (long x = 0; x < count; x++)
                    most[x] = max_float(__builtin_fabsf(job->frame[at + x] - job->previous[at + x]),
                                        most[x]);
            }
        for (long x = 0; x < count; x += STRIDE)
            job->squares[y * columns + (first + x) / STRIDE] =
                max_float(max_float(most[x], most[x + 1]), max_float(most[x + 2], most[x + 3]));
    }
}

static void widen_change_chunk(const void *data, long y, float *line) {
    const Pool *job = data;
    long columns = pooled(job->width), last = pooled(job->height) - 1;
    const float *above = job->squares + clamp_index(y - 1, last) * columns,
                *here = job->squares + y * columns;
    const float *below = job->squares + clamp_index(y + 1, last) * columns;
    for (long x = 0; x < columns; x++)
        line[x + 1] = max_float(here[x], max_float(above[x], below[x]));
    line[0] = line[1];
    line[columns + 1] = line[columns];
    for (long x = 0; x < columns; x++)
        job->out[y * columns + x] = max_float(line[x + 1], max_float(line[x], line[x + 2]));
}

/* Two frames -> (ceil(height / 4), ceil(width / 4)) float32: the largest change of a sample in each
 * square and the eight about it; where their mean is below `repeats`, an eighth of them. */
int max_change(Fork fork, int threads, const float *frame, const float *previous, long height,
               long width, float repeats, float *out) {
    long rows = pooled(height), columns = pooled(width);
    float *squares = malloc(rows * columns * sizeof *squares);
    if (!squares)
        return -1;
    Pool job = {frame, previous, squares, out, height, width};
    parallel_for(fork, threads, block_change_chunk, &job, rows);
    int result = parallel_for_scratch(fork, threads, widen_change_chunk, &job, rows, columns + 2);
    free(squares);
    double sum = 0;
    for (long n = 0; n < rows * columns; n++)
        sum += out[n];
    if (sum / (double)(rows * columns) < repeats)
        for (long n = 0; n < rows * columns; n++)
            out[n] /= 8;
    return result;
}
