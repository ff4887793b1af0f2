/* LitePWCNet between its features and its flow: litepwcnet.py says what it does.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

/* --- a level of LitePWCNet
 * -------------------------------------------------------------------------------------------- */

enum {
    MOST_LEVELS = 8,
    MOST_DISPLACEMENTS = 64,
    MOST_ACROSS = 7
}; /* 49, to the next multiple of LANES */

typedef struct {
    const void *here, *there;
    const float *flow;
    void *known;
    long height, width, channels, radius;
    float pixels;
    int half;
} Match;

INLINE long
known_channels(long channels,
               long radius) /* of what an estimator sees: costs, the feature, the flow, and 0 */
{
    return whole((2 * radius + 1) * (2 * radius + 1) + channels + 2);
}

INLINE long
line_of(long width,
        long radius) /* samples of a warped row's channel, with what is beside the picture */
{
    return lanes(width) + lanes(2 * radius);
}

/* Whether costs are of pairs of bfloat16: where samples are, and the CPU multiplies them. */
INLINE int paired(int half) {
#if defined(__AVX512BF16__)
    return half;
#else
    return half & 0;
#endif
}

/* LANES vectors, of a channel of each pixel -> words of LANES pixels, float32, or pairs of bfloat16
 * of two channels: lines of them, `line` apart. */
INLINE void store_channels(uint32_t *words, long line, Floats *pixels, int half) {
    transpose(pixels);
    for (long lane = 0; lane < LANES; lane += paired(half) ? 2 : 1)
        if (paired(half))
            store_words(words + lane / 2 * line, pair_up(pixels[lane], pixels[lane + 1]));
        else
            store(words, lane * line, pixels[lane], 0);
}

/* Row y of `there` along the flow -> warped (words of channels, line_of(width, radius)): in a line
 * `radius` times 0, the samples, and 0; beyond the picture all is. */
INLINE void warp_row(const Match *job, long y, uint32_t *warped, int half) {
    long width = job->width, channels = job->channels, line = line_of(width, job->radius),
         words = paired(half) ? 2 : 1;
    memset(warped, 0, channels / words * line * sizeof *warped);
    if (y < 0 || y >= job->height)
        return;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES);
        Places places;
        Place each[LANES];
        follow_flow(&places, job->flow, job->pixels, y, first, job->height, width, 0);
        for (long n = 0; n < count; n++)
            place_of(&each[n], &places, n, 2, width, channels);
        for (long c = 0; c < channels; c += LANES) {
            Floats there[LANES];
            for (long n = count; n < LANES; n++)
                there[n] = (Floats){0};
            for (long n = 0; n < count; n++)
                there[n] = sample(job->there, &each[n], 2, c, half);
            store_channels(warped + c / words * line + job->radius + first, line, there, half);
        }
    }
}

/* LANES pixels of a row of `here` from `first` on -> own (words of channels, LANES). */
INLINE void gather(const Match *job, long y, long first, uint32_t *own, int half) {
    long count = remaining(first, job->width, LANES), start = y * job->width + first,
         words = paired(half) ? 2 : 1;
    for (long c = 0; c < job->channels; c += LANES) {
        Floats here[LANES];
        for (long n = 0; n < LANES; n++)
            here[n] =
                n < count ? load(job->here, (start + n) * job->channels + c, half) : (Floats){0};
        store_channels(own + c / words * LANES, LANES, here, half);
    }
}

/* warped: of each row of the window about y what `warp_row` made of it. own: room for (words of
 * channels, LANES). */
INLINE void volume_row(const Match *job, long y, uint32_t *const *warped, uint32_t *own,
                       long radius, int half) {
    long channels = job->channels, across = 2 * radius + 1, volume = across * across,
         all = known_channels(channels, radius);
    long plane = job->height * job->width, line = line_of(job->width, radius);
    for (long first = 0; first < job->width; first += LANES) {
        Floats values[MOST_DISPLACEMENTS]; /* = {0} would be a call's worth of time, for each few
                                              pixels */
        for (long n = volume; n < MOST_DISPLACEMENTS && n % LANES; n++)
            values[n] = (Floats){0};
        gather(job, y, first, own, half);
        for (long dy = 0; dy < across; dy++) {
            Floats sums[MOST_ACROSS];
            for (long dx = 0; dx < across; dx++)
                sums[dx] = (Floats){0};
            for (long c = 0; c < (paired(half) ? channels / 2 : channels); c++) {
                Words here = load_words(own + c * LANES);
                for (long dx = 0; dx < across; dx++)
                    sums[dx] =
                        add_lanes(sums[dx], here, load_words(warped[dy] + c * line + first + dx),
                                  paired(half));
            }
            for (long dx = 0; dx < across; dx++) {
                Floats product = sums[dx] * (1 / (float)channels);
                values[dy * across + dx] = maximum(product, product * 0.1f);
            }
        }
        for (long n = 0; n < volume; n += LANES)
            transpose(values + n);
        for (long x = first; x < first + LANES && x < job->width; x++) {
            /* Vectors reach into what is written next, but for a row's last pixel, since another
             * worker may be at the next row. */
            long at = y * job->width + x, size = half ? 2 : 4, next = at * all + volume;
            for (long n = 0; n < volume; n += LANES)
                store(job->known, at * all + n, values[n + x - first], half);
            for (long c = 0; c < channels; c += LANES, next += LANES)
                memcpy((char *)job->known + next * size,
                       (const char *)job->here + (at * channels + c) * size, LANES * size);
            Floats flow = {job->flow[at], job->flow[plane + at]};
            if (x + 1 < job->width)
                for (long n = 0; n < 16; n += LANES)
                    store(job->known, next + n, n ? (Floats){0} : flow, half);
            else
                for (long n = 0; next + n < (at + 1) * all; n++)
                    set(job->known, next + n, n < 2 ? flow[n] : 0, half);
        }
    }
}

/* A row, and of those about it what the worker's ring of warped rows hasn't. Which it has its first
 * samples say, counted from 1 on: 0 is none. */
INLINE void match_part(const Match *job, long y, float *room, long radius, int half) {
    long across = 2 * radius + 1, channels = paired(half) ? job->channels / 2 : job->channels,
         size = channels * line_of(job->width, radius);
    uint32_t *own = (uint32_t *)room + FIRST, *ring = own + channels * LANES, *warped[MOST_ACROSS];
    for (long dy = 0; dy < across; dy++) {
        long row = y + dy - radius, place = (row + across) % across;
        warped[dy] = ring + place * size;
        if (room[place] != (float)(row + across)) {
            warp_row(job, row, warped[dy], half);
            room[place] = (float)(row + across);
        }
    }
    volume_row(job, y, warped, own, radius, half);
}

static void row_part(const void *data, long y, float *room) {
    const Match copy = *(const Match *)data, *job = &copy;
    switch (job->radius * 2 + job->half) {
    case 4:
        match_part(job, y, room, 2, 0);
        break;
    case 5:
        match_part(job, y, room, 2, 1);
        break;
    case 6:
        match_part(job, y, room, 3, 0);
        break;
    case 7:
        match_part(job, y, room, 3, 1);
        break;
    }
}

/* What a level's estimator sees: here and there (height, width, channels), flow (2, height, width)
 * float32, of which 1 is `pixels` pixels of this level -> known (height, width, known_channels):
 * the cost volume of here with there sampled along the flow, through a leaky ReLU, here, the flow,
 * and 0. radius: 2 or 3. */
static int match(Fork fork, int threads, const void *here, const void *there, const float *flow,
                 float pixels, long height, long width, long channels, long radius, void *known,
                 int half) {
    Match job = {here, there, flow, known, height, width, channels, radius, pixels, half};
    return share_in_room(fork, threads, row_part, &job, height,
                         FIRST + channels * (LANES + (2 * radius + 1) * line_of(width, radius)));
}

/* --- where LitePWCNet starts from
 * ----------------------------------------------------------------------------------- */

enum { SUPPORT = 2 }; /* as litepwcnet.py has it */

typedef struct {
    const float *scores;
    float *shares, *out; /* shares: of a row's places, (width, lanes(width)) */
    long height, width;
} Supported;

/* One over how many neighbours along a side two places share, with themselves. */
INLINE float share_of_neighbours(int here, int there, int size) {
    int before = here < there ? here : there, after = size - 1 - (here < there ? there : here);
    return 1 /
           (float)((before < SUPPORT ? before : SUPPORT) + (after < SUPPORT ? after : SUPPORT) + 1);
}

INLINE long summed(long width) /* samples of a line of sums, whose border is 0 */
{
    return SUPPORT + lanes(width) + SUPPORT;
}

/* LANES scores from `at` on, and 0 for those behind the row's last one, of which there are `count`.
 */
INLINE Floats scores_at(const Supported *job, long at, long count) {
    long places = job->height * job->width,
         behind = places * places - at; /* all that is there to be read */
    Words lane;
    for (int n = 0; n < LANES; n++)
        lane[n] = (uint32_t)n;
    return select((Words)(lane < (uint32_t)count), load_some(job->scores + at, behind),
                  (Floats){0});
}

/* A place of the first frame with all of the second: down the columns of both -> sums (height,
 * summed(width)). */
INLINE void support_down(const Supported *job, long y, long x, float *sums) {
    long height = job->height, width = job->width, places = height * width;
    for (long v = 0; v < height; v++) {
        long before = -(y < v ? y : v), after = height - 1 - (y < v ? v : y);
        float share = share_of_neighbours((int)y, (int)v, (int)height);
        for (long u = 0; u < width; u += LANES) {
            Floats sum = {0};
            for (long d = before > -SUPPORT ? before : -SUPPORT; d <= after && d <= SUPPORT; d++)
                sum += share * scores_at(job, ((y + d) * width + x) * places + (v + d) * width + u,
                                         width - u);
            store(sums, v * summed(width) + SUPPORT + u, sum, 0);
        }
    }
}

/* A row of the first frame: of each place what `support_down` makes of it and of those beside it,
 * which are in a ring, along the rows. */
static void supported_part(const void *data, long y, float *ring) {
    enum { ACROSS = 2 * SUPPORT + 1 };
    const Supported *job = data;
    long height = job->height, width = job->width, line = summed(width), size = height * line,
         places = height * width;
    memset(ring, 0, ACROSS * size * sizeof *ring);
    for (long x = -SUPPORT; x < width; x++) {
        float *next = ring + (x + ACROSS + SUPPORT) % ACROSS * size;
        if (x + SUPPORT < width)
            support_down(job, y, x + SUPPORT, next);
        else
            memset(next, 0, size * sizeof *next);
        for (long v = 0; v < height && x >= 0; v++)
            for (long u = 0; u < width; u += LANES) {
                Floats total = {0};
                for (long d = 0; d < ACROSS; d++)
                    total += load(ring,
                                  (x + d + ACROSS - SUPPORT) % ACROSS * size + v * line + d + u, 0);
                total *= load(job->shares, x * lanes(width) + u, 0);
                memcpy(job->out + (y * width + x) * places + v * width + u, &total,
                       remaining(u, width, LANES) * sizeof *job->out);
            }
    }
}

/* `litepwcnet.supported`: scores (height, width, height, width) -> the same size, float32. */
static int supported(Fork fork, int threads, const float *scores, long height, long width,
                     float *out) {
    float *shares = malloc(width * lanes(width) * sizeof *shares);
    if (!shares)
        return -1;
    for (long x = 0; x < width; x++)
        for (long u = 0; u < lanes(width); u++)
            shares[x * lanes(width) + u] =
                u < width ? share_of_neighbours((int)x, (int)u, (int)width) : 0;
    Supported job = {scores, shares, out, height, width};
    int result = share_in_room(fork, threads, supported_part, &job, height,
                               (2 * SUPPORT + 1) * height * summed(width));
    free(shares);
    return result;
}

typedef struct {
    const float *scores;
    float *most, *sum; /* of each column: the largest, and of exp(score - largest) */
    float *out;
    long height, width;
    float sure;
} Global;

static void column_part(const void *data, long part) {
    const Global *job = data;
    long first = part * LANES;
    long places = job->height * job->width, count = remaining(first, places, LANES);
    Floats most = load_some(job->scores + first, count), sum = {0};
    for (long n = 1; n < places; n++) {
        Floats score = load_some(job->scores + n * places + first, count);
        most = select((Words)(score > most), score, most);
    }
    for (long n = 0; n < places; n++)
        sum += exponential(load_some(job->scores + n * places + first, count) - most);
    memcpy(job->most + first, &most, count * sizeof *job->most);
    memcpy(job->sum + first, &sum, count * sizeof *job->sum);
}

INLINE void match_place(const Global *job, long place) {
    long width = job->width, places = job->height * width, start = place * places;
    Floats largest = load_some(job->scores + start, places), sums = {0};
    Words block = {0}; /* in which each lane has its largest */
    for (uint32_t first = LANES; first < places; first += LANES) {
        Floats score = load_some(job->scores + start + first, places - first);
        Words more = (Words)(score > largest);
        largest = select(more, score, largest);
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
        sums += exponential(load_some(job->scores + start + first, places - first) - most);
    for (long lane = 0; lane < LANES; lane++)
        total += sums[lane];
    float sure = exponential((Floats){0} + (most - job->most[best]))[0] / (total * job->sum[best]),
          x = 0, y = 0, weights = 0;
    for (long n = 0; n < 9 && sure > job->sure; n++) {
        long column = best % width + n % 3 - 1, row = best / width + n / 3 - 1;
        if (column < 0 || column >= width || row < 0 || row >= job->height)
            continue;
        float weight =
            exponential((Floats){0} + (job->scores[start + row * width + column] - most))[0];
        x += weight * (float)(column - place % width);
        y += weight * (float)(row - place / width);
        weights += weight;
    }
    job->out[place] = sure > job->sure ? x / weights : 0;
    job->out[places + place] = sure > job->sure ? y / weights : 0;
}

static void match_row(const void *data, long row) {
    const Global *job = data;
    for (long place = row * job->width; place < (row + 1) * job->width; place++)
        match_place(job, place);
}

/* `litepwcnet.global_match`: scores (height, width, height, width) -> (2, height, width) float32.
 */
static int global_match(Fork fork, int threads, const float *scores, long height, long width,
                        float sure, float *out) {
    long places = height * width;
    float *most = malloc(2 * places * sizeof *most);
    if (!most)
        return -1;
    Global job = {scores, most, most + places, out, height, width, sure};
    share(fork, threads, column_part, &job, (places + LANES - 1) / LANES);
    share(fork, threads, match_row, &job, height);
    free(most);
    return 0;
}

/* --- from level to level
 * ---------------------------------------------------------------------------------------------- */

typedef struct {
    const float *flow;
    float *out;
    long rows, columns, height, width; /* of the flow; of what comes out */
} Enlarge;

/* A row of a plane: of its two nearest rows and columns three quarters of the nearer one's, the
 * border repeated. line: room for columns + 2. */
static void enlarge_part(const void *data, long part, float *line) {
    const Enlarge copy = *(const Enlarge *)data, *job = &copy;
    long columns = job->columns, y = part % job->height, near = y / 2,
         far = clamp(y % 2 ? near + 1 : near - 1, job->rows - 1);
    const float *plane = job->flow + part / job->height * job->rows * columns,
                *nearer = plane + near * columns, *further = plane + far * columns;
    for (long x = 0; x < columns; x++)
        line[x + 1] = 0.75f * nearer[x] + 0.25f * further[x];
    line[0] = line[1];
    line[columns + 1] = line[columns];
    float *to = job->out + part * job->width;
    for (long x = 0; x < job->width; x++) {
        long at = x / 2 + 1;
        to[x] = 0.75f * line[at] + 0.25f * line[x % 2 ? at + 1 : at - 1];
    }
}

/* flow (2, rows, columns) -> twice that size, bilinear, of which out (2, height, width) is the
 * upper left. */
static int enlarge(Fork fork, int threads, const float *flow, long rows, long columns, float *out,
                   long height, long width) {
    Enlarge job = {flow, out, rows, columns, height, width};
    return share_in_room(fork, threads, enlarge_part, &job, 2 * height, columns + 2);
}

/* `LitePWCNet.found`: of features here and there (height, width, channels) -> (2, height, width)
 * float32, or with `squares` half of that size. */
static int found(Fork fork, int threads, const void *here, const void *there, long height,
                 long width, long channels, const Start *start, int squares, float *out, int half) {
    const Start own = *start;
    long rows = squares ? half_of(height) : height, columns = squares ? half_of(width) : width,
         places = rows * columns;
    float *scores = room_for(2 * floats_for(places * places, 0)),
          *means = scores + floats_for(places * places, 0);
    int result = scores ? 0 : -1;
    if (!result)
        result = compare(fork, threads, here, there, height, width, channels, own.weight, own.bias,
                         own.pairs, squares, scores, half);
    if (!result)
        result = supported(fork, threads, scores, rows, columns, means);
    if (!result)
        result = global_match(fork, threads, means, rows, columns, own.sure, out);
    free(scores);
    return result;
}

/* `LitePWCNet._refined`: from start (2, rows, columns), which is of the coarsest level's size or
 * half of that, rounded up, by each of the estimators, one for each of the levels, the coarsest
 * first, whose features are here and there -> flow (2, height, width), the finest's size. heights,
 * widths: of the levels. */
static int refine(Fork fork, int threads, const float *start, long rows, long columns,
                  const void *const *here, const void *const *there, const Estimator *estimator,
                  long levels, const long *heights, const long *widths, float *flow, int half) {
    long known = 0;
    for (long n = 0; n < levels; n++)
        known = largest(known, heights[n] * widths[n] *
                                   known_channels(estimator[n].channels, estimator[n].radius));
    long planes = floats_for(2 * heights[levels - 1] * widths[levels - 1], 0);
    float *room = room_for(2 * planes + floats_for(known, half)), *enlarged = room,
          *last = room + planes, *seen = last + planes;
    int result = room ? 0 : -1;
    for (long n = 0; n < levels && !result; n++) {
        const Estimator own = estimator[n];
        const float *from = n ? last : start;
        if (rows == heights[n] && columns == widths[n] && !n)
            memcpy(enlarged, from, 2 * rows * columns * sizeof *from);
        else
            result = enlarge(fork, threads, from, rows, columns, enlarged, heights[n], widths[n]);
        rows = heights[n], columns = widths[n];
        if (!result)
            result = match(fork, threads, here[n], there[n], enlarged, own.pixels, rows, columns,
                           own.channels, own.radius, seen, half);
        if (!result)
            result = chain(fork, threads, seen, rows, columns, &own.chain, enlarged,
                           n + 1 < levels ? last : flow, half);
    }
    free(room);
    return result;
}

/* LitePWCNet's flow between the features of two frames, in pixels of the frame, and 0 where the
 * change, (height, width), is not above `still`; where it is so everywhere, as between frames that
 * a codec's noise alone tells apart, nothing is computed. The features are of each of the levels,
 * the coarsest first; height and width are the finest's. change: may be NULL. flow: (2, height,
 * width) float32. */
EXPORT int motion(Fork fork, int threads, const void *const *here, const void *const *there,
                  const void *start, int squares, const void *estimators, long levels, float pixels,
                  long height, long width, const float *change, float still, float *flow,
                  int half) {
    const Estimator *estimator = estimators;
    long heights[MOST_LEVELS], widths[MOST_LEVELS], plane = height * width, changed = !change;
    for (long n = 0; n < plane && !changed; n++)
        changed = change[n] > still;
    if (!changed) {
        memset(flow, 0, 2 * plane * sizeof *flow);
        return 0;
    }
    for (long n = levels - 1, y = height, x = width; n >= 0; n--, y = half_of(y), x = half_of(x))
        heights[n] = y, widths[n] = x;
    long rows = squares ? half_of(heights[0]) : heights[0],
         columns = squares ? half_of(widths[0]) : widths[0], started = 2 * rows * columns;
    float *first = room_for(floats_for(started, 0));
    int result = first ? 0 : -1;
    if (!result)
        result = found(fork, threads, here[0], there[0], heights[0], widths[0], estimator->channels,
                       start, squares, first, half);
    for (long n = 0; n < started && !result; n++)
        first[n] *= (squares ? 2 : 1) / estimator->pixels;
    if (!result)
        result = refine(fork, threads, first, rows, columns, here, there, estimator, levels,
                        heights, widths, flow, half);
    for (long n = 0; n < 2 * plane && !result; n++)
        flow[n] = change && !(change[n % plane] > still) ? 0 : flow[n] * pixels;
    free(first);
    return result;
}
