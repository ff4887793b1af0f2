/* How alike two feature maps are, place by place. */

#include "layers.h"
#include "winograd_gemm.h"

typedef struct {
    const void *feature, *weight;
    const float *bias;
    uint32_t *rows; /* of what is multiplied, words of its channels: (places to the next multiple of
                       TILES, words) */
    uint32_t *turned; /* the same as `gemm` takes weights, (places / OUTPUTS rounded up, words,
                         OUTPUTS); NULL: rows */
    const uint32_t *others; /* turned */
    float *scores;
    long height, width, channels, places;
    int bf16, squares, dtype;
} Correlate;

INLINE long places_of(long size, int squares) /* in a line */
{
    return squares ? half_up(size) : size;
}

/* A place's channels from c on. */
INLINE VecF32 channels_at(const Correlate *job, long place, long c, int dtype) {
    long columns = places_of(job->width, job->squares), step = job->squares ? 2 : 1;
    long top = place / columns * step, left = place % columns * step;
    long rows = remaining(top, job->height, step), across = remaining(left, job->width, step);
    VecF32 sum = {0};
    for (long y = top; y < top + rows; y++)
        for (long x = left; x < left + across; x++)
            sum += load(job->feature, (y * job->width + x) * job->channels + c, dtype);
    return sum * (1 / (float)(rows * across));
}

/* TILES places through the convolution. scratch: for as many of their words, and of products. */
INLINE void project_places(const Correlate *job, long part, float *scratch, int dtype, int bf16) {
    long first = part * TILES, count = remaining(first, job->places, TILES),
         channels = job->channels, words = bf16 ? channels / 2 : channels;
    float *products = scratch + TILES * channels;
    memset(scratch, 0, TILES * channels * sizeof *scratch);
    for (long n = 0; n < count; n++)
        for (long c = 0; c < channels; c += LANES)
            store(scratch, n * channels + c, channels_at(job, first + n, c, dtype), bf16);
    for (long c = 0; c < channels; c += GROUP) {
        long vectors = vectors_of(channels - c);
        gemm((uint32_t *)scratch, words, weights_from(job->weight, c, OUTPUTS * words), words,
             OUTPUTS * words, products, vectors, bf16);
        for (long n = 0; n < TILES; n++)
            for (long v = 0; v < vectors; v++) {
                long at = c + v * LANES;
                VecF32 value =
                    load(products, n * GROUP + v * LANES, FLOAT32) + load(job->bias, at, FLOAT32);
                store(job->rows, (first + n) * channels + at, n < count ? value : (VecF32){0},
                      bf16);
            }
    }
    for (long n = first; n < first + TILES && job->turned; n++)
        for (long word = 0; word < words; word++)
            job->turned[(n / OUTPUTS * words + word) * OUTPUTS + n % OUTPUTS] =
                job->rows[n * words + word];
}

static void project_chunk(const void *data, long part, float *scratch) {
    const Correlate copy = *(const Correlate *)data, *job = &copy;
    switch (job->dtype * 2 + job->bf16) {
    case 0:
        project_places(job, part, scratch, 0, 0);
        break;
    case 1:
        project_places(job, part, scratch, 0, 1);
        break;
    case 2:
        project_places(job, part, scratch, 1, 0);
        break;
    case 3:
        project_places(job, part, scratch, 1, 1);
        break;
    }
}

/* TILES places with all of the others. scratch: for products. */
static void score_chunk(const void *data, long part, float *scratch) {
    const Correlate copy = *(const Correlate *)data, *job = &copy;
    long first = part * TILES, count = remaining(first, job->places, TILES),
         words = job->bf16 ? job->channels / 2 : job->channels;
    for (long c = 0; c < job->places; c += GROUP) {
        long columns = remaining(c, job->places, GROUP);
        gemm(job->rows + first * words, words, weights_from(job->others, c, OUTPUTS * words), words,
             OUTPUTS * words, scratch, vectors_of(columns), job->bf16);
        for (long n = 0; n < count; n++)
            memcpy(job->scores + (first + n) * job->places + c, scratch + n * GROUP,
                   columns * sizeof *scratch);
    }
}

int correlate(Fork fork, int threads, const void *here, const void *there, long height, long width,
              long channels, const void *weight, const float *bias, int bf16, int squares,
              float *scores, int dtype) {
    long places = places_of(height, squares) * places_of(width, squares),
         parts = (places + TILES - 1) / TILES;
    long rows = padded_floats((parts * TILES + OUTPUTS + GROUP) * channels,
                              bf16); /* turned they come in groups */
    uint32_t *scratch = (uint32_t *)alloc_floats(2 * rows);
    if (!scratch)
        return -1;
    Correlate job = {here,   weight, bias,     scratch, NULL, scratch + rows, scores,
                     height, width,  channels, places,  bf16, squares,        dtype},
              other = job;
    long each = TILES * channels + TILES * GROUP;
    int result = 0;
    /* What is turned is kept; its rows are written over. */
    other.feature = there, other.turned = scratch + rows;
    memset(other.turned, 0, rows * sizeof *scratch);
    result = parallel_for_scratch(fork, threads, project_chunk, &other, parts, each);
    if (!result)
        result = parallel_for_scratch(fork, threads, project_chunk, &job, parts, each);
    if (!result)
        result = parallel_for_scratch(fork, threads, score_chunk, &job, parts, TILES * GROUP);
    free(scratch);
    return result;
}
