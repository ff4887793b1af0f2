/* Where LitePWCNet starts from: every place of the coarsest features against every other. */

#include "flow.h"

typedef struct {
    const float *scores;
    float *shares, *out; /* shares: of a row's places, (width, lanes(width)) */
    long height, width;
} AggregateCosts;

/* One over how many neighbours along a side two places share, with themselves. */
INLINE float neighbour_weight(int here, int there, int size) {
    int before = here < there ? here : there, after = size - 1 - (here < there ? there : here);
    return 1 / (float)((before < AGGREGATION_RADIUS ? before : AGGREGATION_RADIUS) +
                       (after < AGGREGATION_RADIUS ? after : AGGREGATION_RADIUS) + 1);
}

INLINE long summed(long width) /* samples of a line of sums, whose border is 0 */
{
    return AGGREGATION_RADIUS + padded_lanes(width) + AGGREGATION_RADIUS;
}

/* LANES scores from `at` on, and 0 for those behind the row's last one, of which there are `count`.
 */
INLINE VecF32 scores_at(const AggregateCosts *job, long at, long count) {
    long places = job->height * job->width,
         behind = places * places - at; /* all that is there to be read */
    VecU32 lane;
    for (int n = 0; n < LANES; n++)
        lane[n] = (uint32_t)n;
    return vec_select((VecU32)(lane < (uint32_t)count), load_partial(job->scores + at, behind),
                      (VecF32){0});
}

/* A place of the first frame with all of the second: down the columns of both -> sums (height,
 * summed(width)). */
INLINE void support_down(const AggregateCosts *job, long y, long x, float *sums) {
    long height = job->height, width = job->width, places = height * width;
    for (long v = 0; v < height; v++) {
        long before = -(y < v ? y : v), after = height - 1 - (y < v ? v : y);
        float share = neighbour_weight((int)y, (int)v, (int)height);
        for (long u = 0; u < width; u += LANES) {
            VecF32 sum = {0};
            for (long d = before > -AGGREGATION_RADIUS ? before : -AGGREGATION_RADIUS;
                 d <= after && d <= AGGREGATION_RADIUS; d++)
                sum += share * scores_at(job, ((y + d) * width + x) * places + (v + d) * width + u,
                                         width - u);
            store(sums, v * summed(width) + AGGREGATION_RADIUS + u, sum, FLOAT32);
        }
    }
}

/* A row of the first frame: of each place what `support_down` makes of it and of those beside it,
 * which are in a ring, along the rows. */
static void aggregate_costs_chunk(const void *data, long y, float *ring) {
    enum { ACROSS = 2 * AGGREGATION_RADIUS + 1 };
    const AggregateCosts *job = data;
    long height = job->height, width = job->width, line = summed(width), size = height * line,
         places = height * width;
    memset(ring, 0, ACROSS * size * sizeof *ring);
    for (long x = -AGGREGATION_RADIUS; x < width; x++) {
        float *next = ring + (x + ACROSS + AGGREGATION_RADIUS) % ACROSS * size;
        if (x + AGGREGATION_RADIUS < width)
            support_down(job, y, x + AGGREGATION_RADIUS, next);
        else
            memset(next, 0, size * sizeof *next);
        for (long v = 0; v < height && x >= 0; v++)
            for (long u = 0; u < width; u += LANES) {
                VecF32 total = {0};
                for (long d = 0; d < ACROSS; d++)
                    total += load(ring,
                                  (x + d + ACROSS - AGGREGATION_RADIUS) % ACROSS * size + v * line +
                                      d + u,
                                  FLOAT32);
                total *= load(job->shares, x * padded_lanes(width) + u, FLOAT32);
                memcpy(job->out + (y * width + x) * places + v * width + u, &total,
                       remaining(u, width, LANES) * sizeof *job->out);
            }
    }
}

/* `litepwcnet.supported`: scores (height, width, height, width) -> the same size, float32. */
static int aggregate_costs(Fork fork, int threads, const float *scores, long height, long width,
                           float *out) {
    float *shares = malloc(width * padded_lanes(width) * sizeof *shares);
    if (!shares)
        return -1;
    for (long x = 0; x < width; x++)
        for (long u = 0; u < padded_lanes(width); u++)
            shares[x * padded_lanes(width) + u] =
                u < width ? neighbour_weight((int)x, (int)u, (int)width) : 0;
    AggregateCosts job = {scores, shares, out, height, width};
    int result = parallel_for_scratch(fork, threads, aggregate_costs_chunk, &job, height,
                                      (2 * AGGREGATION_RADIUS + 1) * height * summed(width));
    free(shares);
    return result;
}

typedef struct {
    const float *scores;
    float *most, *sum; /* of each column: the largest, and of exp(score - largest) */
    float *out;
    long height, width;
    float confidence;
} GlobalMatch;

static void column_chunk(const void *data, long part) {
    const GlobalMatch *job = data;
    long first = part * LANES;
    long places = job->height * job->width, count = remaining(first, places, LANES);
    VecF32 most = load_partial(job->scores + first, count), sum = {0};
    for (long n = 1; n < places; n++) {
        VecF32 score = load_partial(job->scores + n * places + first, count);
        most = vec_select((VecU32)(score > most), score, most);
    }
    for (long n = 0; n < places; n++)
        sum += vec_exp(load_partial(job->scores + n * places + first, count) - most);
    memcpy(job->most + first, &most, count * sizeof *job->most);
    memcpy(job->sum + first, &sum, count * sizeof *job->sum);
}

INLINE void match_place(const GlobalMatch *job, long place) {
    long width = job->width, places = job->height * width, start = place * places;
    VecF32 largest = load_partial(job->scores + start, places), sums = {0};
    VecU32 block = {0}; /* in which each lane has its largest */
    for (uint32_t first = LANES; first < places; first += LANES) {
        VecF32 score = load_partial(job->scores + start + first, places - first);
        VecU32 more = (VecU32)(score > largest);
        largest = vec_select(more, score, largest);
        block = (more & first) | (~more & block);
    }
    long best = block[0];
    float most = largest[0], total = 0;
    for (long lane = 1; lane < LANES; lane++) {
        long at = block[lane] + lane;
        if (largest[lane] > most ||
            (largest[lane] == most && at < best)) { /* of equals the first */
            most = largest[lane];
            best = at;
        }
    }
    for (long first = 0; first < places; first += LANES)
        sums += vec_exp(load_partial(job->scores + start + first, places - first) - most);
    for (long lane = 0; lane < LANES; lane++)
        total += sums[lane];
    float confidence =
              vec_exp((VecF32){0} + (most - job->most[best]))[0] / (total * job->sum[best]),
          x = 0, y = 0, weights = 0;
    for (long n = 0; n < 9 && confidence > job->confidence; n++) {
        long column = best % width + n % 3 - 1, row = best / width + n / 3 - 1;
        if (column < 0 || column >= width || row < 0 || row >= job->height)
            continue;
        float weight = vec_exp((VecF32){0} + (job->scores[start + row * width + column] - most))[0];
        x += weight * (float)(column - place % width);
        y += weight * (float)(row - place / width);
        weights += weight;
    }
    job->out[place] = confidence > job->confidence ? x / weights : 0;
    job->out[places + place] = confidence > job->confidence ? y / weights : 0;
}

static void match_row(const void *data, long row) {
    const GlobalMatch *job = data;
    for (long place = row * job->width; place < (row + 1) * job->width; place++)
        match_place(job, place);
}

/* `litepwcnet.global_match`: scores (height, width, height, width) -> (2, height, width) float32.
 */
static int global_match(Fork fork, int threads, const float *scores, long height, long width,
                        float confidence, float *out) {
    long places = height * width;
    float *most = malloc(2 * places * sizeof *most);
    if (!most)
        return -1;
    GlobalMatch job = {scores, most, most + places, out, height, width, confidence};
    parallel_for(fork, threads, column_chunk, &job, (places + LANES - 1) / LANES);
    parallel_for(fork, threads, match_row, &job, height);
    free(most);
    return 0;
}

/* `LitePWCNet.found`: of features here and there (height, width, channels) -> (2, height, width)
 * float32, or with `squares` half of that size. */
int global_flow(Fork fork, int threads, const void *here, const void *there, long height,
                long width, long channels, const Start *start, int squares, float *out, int dtype) {
    const Start own = *start;
    long rows = squares ? half_up(height) : height, columns = squares ? half_up(width) : width,
         places = rows * columns;
    float *scores = alloc_floats(2 * padded_floats(places * places, 0)),
          *means = scores + padded_floats(places * places, 0);
    int result = scores ? 0 : -1;
    if (!result)
        result = correlate(fork, threads, here, there, height, width, channels, own.weight,
                           own.bias, own.bf16, squares, scores, dtype);
    if (!result)
        result = aggregate_costs(fork, threads, scores, rows, columns, means);
    if (!result)
        result = global_match(fork, threads, means, rows, columns, own.confidence, out);
    free(scores);
    return result;
}
