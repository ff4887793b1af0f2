/* What lies between the convolutions of Net1, on a CPU: each function is one pass over memory, or
 * two, in place of ten operators.
 *
 * Pictures are channels last, (height, width, channels), one at a time, their channels a multiple
 * of 16 unless it says otherwise; "half" says that their samples are bfloat16, else float32.
 * Everything is computed in float32. A picture's rows are shared out among the team, and no result
 * depends on who computed it: sums are of rows that are always the same.
 */

#include "kernels.h"

int (*worker_number)(void);

/* number: omp_get_thread_num of the runtime whose GOMP_parallel the kernels get. Without it they
 * compute by the calling thread alone. */
EXPORT void count_workers(int (*number)(void)) {
    worker_number = number;
}

#define ROWS 8 /* of a part */

INLINE long parts_of(long rows) {
    return (rows + ROWS - 1) / ROWS;
}

INLINE long last_row(long part, long rows) {
    return (part + 1) * ROWS < rows ? (part + 1) * ROWS : rows;
}

/* --- normalisation
 * --------------------------------------------------------------------------------------------------
 */

void normalising(const double *sums, long parts, long channels, double count, const float *weight,
                 const float *bias, float eps, float *scale) {
    for (long c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (long part = 0; part < parts; part++) {
            sum += sums[part * 2 * channels + c];
            square += sums[(part * 2 + 1) * channels + c];
        }
        double mean = sum / count, variance = square / count - mean * mean;
        float root = __builtin_sqrtf((float)(variance > 0 ? variance : 0) + eps);
        scale[c] = (weight ? weight[c] : 1) / root;
        scale[channels + c] = (bias ? bias[c] : 0) - (float)mean * scale[c];
    }
}

typedef struct {
    const void *x, *residual;
    void *out;
    long height, width, channels;
    int half, relu;
    const float *scale; /* channels scales, then channels shifts; NULL: as they are */
} Normalise;

INLINE void write_rows(Normalise job, long part, int half) {
    long channels = job.channels;
    Floats least = (Floats){0} + (job.relu ? 0 : -__builtin_inff());
    for (long pixel = part * ROWS * job.width; pixel < last_row(part, job.height) * job.width;
         pixel++)
        for (long c = 0; c < channels; c += LANES) {
            Floats value = load(job.x, pixel * channels + c, half);
            if (job.scale)
                value = value * load(job.scale, c, 0) + load(job.scale, channels + c, 0);
            value = maximum(value, least);
            if (job.residual)
                value += load(job.residual, pixel * channels + c, half);
            store(job.out, pixel * channels + c, value, half);
        }
}

static void write_part(const void *data, long part) {
    const Normalise *job = data;
    if (job->half)
        write_rows(*job, part, 1);
    else
        write_rows(*job, part, 0);
}

/* x (height, width, channels) -> out, of the same size.
 *
 * scale: x times the first `channels` of these plus the others; NULL: x as it is.
 * relu: what is below 0 becomes 0.
 * residual: added at the end, (height, width, channels); may be NULL. */
EXPORT int normalise(Fork fork, int threads, const void *x, long height, long width, long channels,
                     const float *scale, int relu, const void *residual, void *out, int half) {
    Normalise job = {x, residual, out, height, width, channels, half, relu, scale};
    share(fork, threads, write_part, &job, parts_of(height));
    return 0;
}

/* --- frames at a quarter of the resolution
 * --------------------------------------------------------------------------- */

enum { RUN = 16 * STRIDE }; /* columns at once */

typedef struct {
    const float *frame, *previous;
    float *squares, *out;
    long height, width;
} Pool;

INLINE long pooled(long size) {
    return (size + STRIDE - 1) / STRIDE;
}

static void mean_part(const void *data, long row) {
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
EXPORT int quarter(Fork fork, int threads, const float *frame, long height, long width,
                   float *out) {
    Pool job = {.frame = frame, .out = out, .height = height, .width = width};
    share(fork, threads, mean_part, &job, 3 * pooled(height));
    return 0;
}

INLINE float larger(float a, float b) {
    return a > b ? a : b;
}

static void change_part(const void *data, long y) {
    const Pool *job = data;
    long columns = pooled(job->width), height = remaining(y * STRIDE, job->height, STRIDE);
    for (long first = 0; first < job->width; first += RUN) {
        long count = remaining(first, job->width, RUN);
        float most[RUN] = {0};
        for (long c = 0; c < 3; c++)
            for (long i = 0; i < height; i++) {
                long at = (c * job->height + y * STRIDE + i) * job->width + first;
                for (long x = 0; x < count; x++)
                    most[x] = larger(__builtin_fabsf(job->frame[at + x] - job->previous[at + x]),
                                     most[x]);
            }
        for (long x = 0; x < count; x += STRIDE)
            job->squares[y * columns + (first + x) / STRIDE] =
                larger(larger(most[x], most[x + 1]), larger(most[x + 2], most[x + 3]));
    }
}

static void widen_part(const void *data, long y, float *line) {
    const Pool *job = data;
    long columns = pooled(job->width), last = pooled(job->height) - 1;
    const float *above = job->squares + clamp(y - 1, last) * columns,
                *here = job->squares + y * columns;
    const float *below = job->squares + clamp(y + 1, last) * columns;
    for (long x = 0; x < columns; x++)
        line[x + 1] = larger(here[x], larger(above[x], below[x]));
    line[0] = line[1];
    line[columns + 1] = line[columns];
    for (long x = 0; x < columns; x++)
        job->out[y * columns + x] = larger(line[x + 1], larger(line[x], line[x + 2]));
}

/* Two frames -> (ceil(height / 4), ceil(width / 4)) float32: the largest change of a sample in each
 * square and the eight about it; where their mean is below `repeats`, an eighth of them. */
EXPORT int change(Fork fork, int threads, const float *frame, const float *previous, long height,
                  long width, float repeats, float *out) {
    long rows = pooled(height), columns = pooled(width);
    float *squares = malloc(rows * columns * sizeof *squares);
    if (!squares)
        return -1;
    Pool job = {frame, previous, squares, out, height, width};
    share(fork, threads, change_part, &job, rows);
    int result = share_in_room(fork, threads, widen_part, &job, rows, columns + 2);
    free(squares);
    double sum = 0;
    for (long n = 0; n < rows * columns; n++)
        sum += out[n];
    if (sum / (double)(rows * columns) < repeats)
        for (long n = 0; n < rows * columns; n++)
            out[n] /= 8;
    return result;
}

/* --- at a glance
 * ----------------------------------------------------------------------------------------------------
 */

/* As scene_descriptor.py has them: a thumbnail's size, and that of its structure, and bins of a
 * histogram.
 */
enum {
    THUMBNAIL_ROWS = 36,
    THUMBNAIL_COLUMNS = 64,
    BINS = 16,
    THUMBNAIL = THUMBNAIL_ROWS * THUMBNAIL_COLUMNS,
    STRUCTURE = THUMBNAIL / 4
};

typedef struct {
    const float *quarter;
    float *thumbnail;
    double *squares; /* the mean square of what is in each of its pixels */
    long height, width;
} Glimpse;

/* A row of a color of the thumbnail: means of what lies in each of its pixels, in whole or in part.
 */
static void thumbnail_part(const void *data, long part) {
    const Glimpse *job = data;
    long y = part % THUMBNAIL_ROWS, color = part / THUMBNAIL_ROWS;
    long top = y * job->height / THUMBNAIL_ROWS,
         bottom = ((y + 1) * job->height + THUMBNAIL_ROWS - 1) / THUMBNAIL_ROWS;
    for (long x = 0; x < THUMBNAIL_COLUMNS; x++) {
        long left = x * job->width / THUMBNAIL_COLUMNS,
             right = ((x + 1) * job->width + THUMBNAIL_COLUMNS - 1) / THUMBNAIL_COLUMNS;
        double sum = 0, square = 0, count = (double)((bottom - top) * (right - left));
        for (long row = top; row < bottom; row++)
            for (long column = left; column < right; column++) {
                double value = job->quarter[(color * job->height + row) * job->width + column];
                sum += value;
                square += value * value;
            }
        job->thumbnail[part * THUMBNAIL_COLUMNS + x] = (float)(sum / count);
        job->squares[part * THUMBNAIL_COLUMNS + x] = square / count;
    }
}

/* A color's structure about its mean, and histogram, each sample shared between its two nearest
 * bins. */
static void see_color(const float *thumbnail, float *structure, float *histogram) {
    double mean = 0, counts[BINS + 1] = {0};
    for (long n = 0; n < STRUCTURE; n++) {
        const float *from = thumbnail + n / (THUMBNAIL_COLUMNS / 2) * 2 * THUMBNAIL_COLUMNS +
                            n % (THUMBNAIL_COLUMNS / 2) * 2;
        structure[n] =
            (from[0] + from[1] + from[THUMBNAIL_COLUMNS] + from[THUMBNAIL_COLUMNS + 1]) / 4;
        mean += structure[n] / (double)STRUCTURE;
        float at = bounded(structure[n], 0, 1) * (BINS - 1);
        long bin = (long)at;
        counts[bin] += 1 - (at - (float)bin);
        counts[bin + 1] += at - (float)bin;
    }
    for (long n = 0; n < STRUCTURE; n++)
        structure[n] -= (float)mean;
    for (long bin = 0; bin < BINS; bin++)
        histogram[bin] = (float)(counts[bin] / STRUCTURE);
}

/* `scene_descriptor.glimpse`: a quarter (3, height, width) float32 -> its structure (3, 18, 32),
 * histograms (3, 16), the structure's squared length, the thumbnail (3, 36, 64), and the contrast.
 */
EXPORT int glimpse(Fork fork, int threads, const float *quarter, long height, long width,
                   float *out) {
    float *histograms = out + COLORS * STRUCTURE, *length = histograms + COLORS * BINS,
          *thumbnail = length + 1;
    double *squares = malloc(COLORS * THUMBNAIL * sizeof *squares), sum = 0, variance = 0;
    if (!squares)
        return -1;
    Glimpse job = {quarter, thumbnail, squares, height, width};
    share(fork, threads, thumbnail_part, &job, COLORS * THUMBNAIL_ROWS);
    for (long color = 0; color < COLORS; color++) {
        double mean = 0, square = 0;
        for (long n = color * THUMBNAIL; n < (color + 1) * THUMBNAIL; n++) {
            mean += thumbnail[n] / (double)THUMBNAIL;
            square += squares[n] / THUMBNAIL;
        }
        variance += (square - mean * mean) / COLORS;
        see_color(thumbnail + color * THUMBNAIL, out + color * STRUCTURE,
                  histograms + color * BINS);
    }
    free(squares);
    for (long n = 0; n < COLORS * STRUCTURE; n++)
        sum += (double)out[n] * out[n];
    *length = (float)sum;
    thumbnail[COLORS * THUMBNAIL] = variance > 0 ? (float)__builtin_sqrt(variance) : 0;
    return 0;
}

/* --- composition
 * ----------------------------------------------------------------------------------------------------
 */

typedef struct {
    const float *quarter, *previous, *flow;
    float *out;
    long height, width;
} Unexplained;

static void unexplained_part(const void *data, long y) {
    const Unexplained *job = data;
    long plane = job->height * job->width;
    for (long first = 0; first < job->width; first += LANES) {
        Places places;
        follow_flow(&places, job->flow, 1.0f / STRIDE, y, first, job->height, job->width, 0);
        for (long n = 0; n < remaining(first, job->width, LANES); n++) {
            Place place;
            place_of(&place, &places, n, 2, job->width, 1);
            for (long c = 0; c < 3; c++) {
                const float *upper = job->previous + c * plane + place.rows[0],
                            *lower = job->previous + c * plane + place.rows[1];
                float above = place.column_weights[0] * upper[place.columns[0]] +
                              place.column_weights[1] * upper[place.columns[1]];
                float below = place.column_weights[0] * lower[place.columns[0]] +
                              place.column_weights[1] * lower[place.columns[1]];
                long at = c * plane + y * job->width + first + n;
                job->out[at] = __builtin_fabsf(job->quarter[at] - (place.row_weights[0] * above +
                                                                   place.row_weights[1] * below));
            }
        }
    }
}

/* Two frames at quarter resolution (3, height, width) float32, flow (2, height, width) float32 in
 * pixels of the frame -> (3, height, width): what the second, sampled along the flow, leaves
 * unexplained of the first. */
EXPORT int unexplained(Fork fork, int threads, const float *quarter, const float *previous,
                       const float *flow, long height, long width, float *out) {
    Unexplained job = {quarter, previous, flow, out, height, width};
    share(fork, threads, unexplained_part, &job, height);
    return 0;
}

typedef struct {
    const float *flow, *unexplained;
    const void *previous, *feature;
    void *warped, *difference;
    long height, width, channels;
    int cubic, half, kept;
} Follow;

INLINE void follow_row(const Follow *job, long y, int cubic, int half, int kept) {
    long width = job->width, channels = job->channels, all = channels + 16,
         plane = job->height * width;
    for (long first = 0; first < width; first += LANES) {
        Places places;
        follow_flow(&places, job->flow, 1.0f / STRIDE, y, first, job->height, width, cubic);
        for (long n = 0; n < remaining(first, width, LANES); n++) {
            long at = y * width + first + n;
            Place place;
            place_of(&place, &places, n, cubic ? 4 : 2, width, channels);
            for (long c = 0; c < channels; c += LANES) {
                Floats warped = sample(job->previous, &place, cubic ? 4 : 2, c, kept);
                Floats apart = load(job->feature, at * channels + c, half) - warped;
                store(job->warped, at * channels + c, warped, kept);
                store(job->difference, at * all + c, select((Words)(apart < 0), -apart, apart),
                      half);
            }
            Floats unexplained = {0};
            for (long c = 0; c < 3;
                 c++) /* the source's differences are about a tenth of the features' */
                unexplained[c] = 10 * job->unexplained[c * plane + at];
            for (long c = 0; c < 16; c += LANES)
                store(job->difference, at * all + channels + c, c ? (Floats){0} : unexplained,
                      half);
        }
    }
}

static void follow_part(const void *data, long y) {
    const Follow copy = *(const Follow *)data, *job = &copy;
    if (job->cubic && job->kept)
        follow_row(job, y, 1, 1, FLOAT16);
    else if (job->cubic)
        follow_row(job, y, 1, job->half, 0);
    else
        follow_row(job, y, 0, job->half, job->kept);
}

/* The previous feature (height, width, channels), sampled along flow (2, height, width) float32 in
 * pixels of the frame -> warped, like it, and difference (height, width, channels + 16): |feature -
 * warped|, 10 unexplained (3, height, width) float32, and 0. kept: what half is, of the first two,
 * float32 or, beside bfloat16, FLOAT16. */
static int follow(Fork fork, int threads, const void *previous, const float *flow,
                  const void *feature, const float *unexplained, long height, long width,
                  long channels, int cubic, void *warped, void *difference, int half, int kept) {
    Follow job = {flow,   unexplained, previous, feature, warped, difference,
                  height, width,       channels, cubic,   half,   kept};
    share(fork, threads, follow_part, &job, height);
    return 0;
}

typedef struct {
    const void *feature, *warped;
    const float *mask, *flow, *change;
    void *composite;
    float *blended, *most;
    long height, width, channels;
    float still, hold, coherence, refresh, sharpen;
    int half, kept;
} Blend;

static const float SETTLED = 0.25f; /* as in net1.py */

/* How far before the first or behind the last of so many pixels a place lies. */
static float beyond(float at, long size) {
    float last = (float)(size - 1);
    return at < 0 ? -at : at > last ? at - last : 0;
}

INLINE void blend_row(const Blend *job, long y, int half, int kept) {
    const float *across = job->flow, *down = across + job->height * job->width;
    for (long first = 0; first < job->width; first += LANES) {
        long count = remaining(first, job->width, LANES), start = y * job->width + first;
        float masks[LANES] = {0};
        memcpy(masks, job->mask + start, count * sizeof *masks);
        store(masks, 0, sigmoid(load(masks, 0, 0)), 0);
        for (long x = 0; x < count; x++) {
            long at = start + x;
            int moved = across[at] != 0 || down[at] != 0;
            float aside = beyond((float)(first + x) + across[at] / STRIDE, job->width);
            float above = beyond((float)y + down[at] / STRIDE, job->height),
                  outside = aside > above ? aside : above;
            float mask = masks[x], change = job->change && job->change[at] < job->still
                                                ? job->change[at] / job->still
                                                : 1;
            mask += (1 - mask) * mask * job->hold * (1 - change);
            mask *= job->coherence * (1 - job->refresh * (float)moved) *
                    (outside < 1 ? 1 - outside : 0);
            job->blended[at] = mask;
            job->most[at] = mask * (change < SETTLED ? change / SETTLED : 1) * job->sharpen;
            for (long c = at * job->channels; c < (at + 1) * job->channels; c += LANES) {
                Floats feature = load(job->feature, c, half),
                       composite = feature + mask * (load(job->warped, c, kept) - feature);
                store(job->composite, c, composite, kept);
            }
        }
    }
}

static void blend_part(const void *data, long y) {
    const Blend copy = *(const Blend *)data, *job = &copy;
    if (job->kept)
        blend_row(job, y, 1, FLOAT16);
    else if (job->half)
        blend_row(job, y, 1, 0);
    else
        blend_row(job, y, 0, 0);
}

/* Eq. 3: feature and warped (height, width, channels), mask (height, width) float32, before its
 * sigmoid, change (height, width) float32 or NULL -> composite (height, width, channels), which may
 * be `warped`, the mask as it was blended, and by how much detail may be raised, (height, width)
 * float32 each. kept: what half is, of warped and the composite. */
static int blend(Fork fork, int threads, const void *feature, const void *warped, const float *mask,
                 const float *flow, const float *change, long height, long width, long channels,
                 float still, float hold, float coherence, float refresh, float sharpen,
                 void *composite, float *blended, float *most, int half, int kept) {
    Blend job = {feature, warped,   mask,  flow, change,    composite, blended, most, height,
                 width,   channels, still, hold, coherence, refresh,   sharpen, half, kept};
    share(fork, threads, blend_part, &job, height);
    return 0;
}

typedef struct {
    const void *composite, *feature;
    const float *most;
    float
        *energy; /* of the composite's detail, then of the feature's, each summed over 9 in a row */
    void *out;
    long height, width, channels;
    int half, kept;
} Sharpen;

enum { FAR = 4, STRETCH = 32 };

/* Of each channel in a column the sum of three rows' pixels, about row y. */
INLINE void sum_column(const Sharpen *job, const void *picture, long y, long x, float *sums,
                       int half) {
    long channels = job->channels, rows[3];
    for (long i = 0; i < 3; i++)
        rows[i] =
            (clamp(y + i - 1, job->height - 1) * job->width + clamp(x, job->width - 1)) * channels;
    for (long c = 0; c < channels; c += LANES)
        store(sums, c,
              load(picture, rows[0] + c, half) + load(picture, rows[1] + c, half) +
                  load(picture, rows[2] + c, half),
              0);
}

/* From the sums of a pixel's column and of those beside it to the next pixel's: all channels of a
 * pixel are read before the next one's, as they lie in memory. */
INLINE void next_column(const Sharpen *job, const void *picture, long y, long x, float **columns,
                        int half) {
    float *oldest = columns[0];
    columns[0] = columns[1], columns[1] = columns[2], columns[2] = oldest;
    sum_column(job, picture, y, x + 1, oldest, half);
}

/* Before a row's pixels from `first` on: the columns, of which there is room for three, so that the
 * next one is that pixel's. */
INLINE void begin_columns(const Sharpen *job, const void *picture, long y, long first, float *room,
                          float **columns, int half) {
    for (long n = 0; n < 3; n++)
        columns[n] = room + n * job->channels;
    next_column(job, picture, y, first - 2, columns, half);
    next_column(job, picture, y, first - 1, columns, half);
}

/* A pixel's difference from the mean of the 3x3 about it. */
INLINE Floats detail_of(Floats pixel, float *const *columns, long c) {
    return pixel -
           (load(columns[0], c, 0) + load(columns[1], c, 0) + load(columns[2], c, 0)) * (1.0f / 9);
}

INLINE void energy_row(const Sharpen *job, long y, const void *picture, float *out, float *room,
                       int half) {
    long width = job->width, channels = job->channels;
    float *columns[3], *line = room + 3 * channels + FAR;
    begin_columns(job, picture, y, 0, room, columns, half);
    for (long first = 0; first < width; first += LANES) {
        Floats squares[LANES] = {0};
        for (long x = 0; x < LANES && first + x < width; x++) {
            Floats sum = {0};
            next_column(job, picture, y, first + x, columns, half);
            for (long c = 0; c < channels; c += LANES) {
                Floats detail = detail_of(
                    load(picture, (y * width + first + x) * channels + c, half), columns, c);
                sum += detail * detail;
            }
            squares[x] = sum;
        }
        store(line, first, totals(squares), 0);
    }
    for (long n = 1; n <= FAR; n++) {
        line[-n] = line[0];
        line[width - 1 + n] = line[width - 1];
    }
    for (long x = 0; x < width; x++) {
        float sum = 0;
        for (long n = -FAR; n <= FAR; n++)
            sum += line[x + n];
        out[y * width + x] = sum;
    }
}

static void energy_part(const void *data, long y, float *room) {
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
    float *theirs = job->energy + job->height * job->width;
    if (job->kept)
        energy_row(job, y, job->composite, job->energy, room, FLOAT16);
    else
        energy_row(job, y, job->composite, job->energy, room, 0);
    if (job->half)
        energy_row(job, y, job->feature, theirs, room, 1);
    else
        energy_row(job, y, job->feature, theirs, room, 0);
}

INLINE void sharpen_row(const Sharpen *job, long y, float *room, int kept) {
    long width = job->width, plane = job->height * width, channels = job->channels;
    for (long first = 0; first < width; first += STRETCH) {
        long count = remaining(first, width, STRETCH);
        float ours[STRETCH] = {0}, theirs[STRETCH] = {0}, gain[STRETCH], largest = 0;
        for (long n = -FAR; n <= FAR; n++) {
            const float *energy = job->energy + clamp(y + n, job->height - 1) * width + first;
            for (long x = 0; x < count; x++) {
                ours[x] += energy[x];
                theirs[x] += energy[plane + x];
            }
        }
        for (long x = 0; x < count; x++) {
            float all = 9 * 9 * (float)channels,
                  more = __builtin_sqrtf(theirs[x] / all / (ours[x] / all + 1e-6f)) - 1;
            gain[x] = bounded(more, 0, job->most[y * width + first + x]);
            largest = larger(gain[x], largest);
        }
        long at = (y * width + first) * channels;
        if (largest == 0) {
            long size = kept ? 2 : 4;
            memcpy((char *)job->out + at * size, (const char *)job->composite + at * size,
                   count * channels * size);
            continue;
        }
        float *columns[3];
        begin_columns(job, job->composite, y, first, room, columns, kept);
        for (long x = 0; x < count; x++) {
            next_column(job, job->composite, y, first + x, columns, kept);
            for (long c = 0; c < channels; c += LANES, at += LANES) {
                Floats pixel = load(job->composite, at, kept);
                store(job->out, at, pixel + gain[x] * detail_of(pixel, columns, c), kept);
            }
        }
    }
}

static void sharpen_part(const void *data, long y, float *room) {
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
    if (job->kept)
        sharpen_row(job, y, room, FLOAT16);
    else
        sharpen_row(job, y, room, 0);
}

/* `Net1.sharpened`: composite (height, width, channels), most (height, width) float32, feature like
 * the composite -> out, like the composite. kept: what half is, of composite and out. */
static int sharpened(Fork fork, int threads, const void *composite, const void *feature,
                     const float *most, long height, long width, long channels, void *out, int half,
                     int kept) {
    float *energy = malloc(2 * height * width * sizeof *energy);
    if (!energy)
        return -1;
    Sharpen job = {composite, feature, most, energy, out, height, width, channels, half, kept};
    int result = share_in_room(fork, threads, energy_part, &job, height,
                               3 * channels + FAR + whole(width) + FAR);
    if (!result)
        result = share_in_room(fork, threads, sharpen_part, &job, height, 3 * channels);
    free(energy);
    return result;
}

/* `Net1.compose`: what `follow`, the mask network and `blend` make of their pictures, and
 * `sharpened` where there is something to raise -> composite and blended. mask: the network, a
 * Chain to one output. kept: what half is, of previous and the composite: 0, or beside bfloat16
 * FLOAT16. */
EXPORT int compose(Fork fork, int threads, const void *feature, const void *previous,
                   const float *flow, const float *unexplained, const float *change, long height,
                   long width, long channels, int cubic, const void *mask, float still, float hold,
                   float coherence, float refresh, float sharpen, void *composite, float *blended,
                   int half, int kept) {
    long pixels = floats_for(height * width, 0),
         samples = floats_for(height * width * channels, kept);
    float *most = room_for(pixels + samples + floats_for(height * width * (channels + 16), half));
    if (!most)
        return -1;
    float *seen = most + pixels, *difference = seen + samples;
    void *warped = sharpen > 0 ? seen : composite;
    int result = follow(fork, threads, previous, flow, feature, unexplained, height, width,
                        channels, cubic, warped, difference, half, kept);
    if (!result)
        result = chain(fork, threads, difference, height, width, mask, NULL, most, half);
    if (!result)
        result = blend(fork, threads, feature, warped, most, flow, change, height, width, channels,
                       still, hold, coherence, refresh, sharpen, warped, blended, most, half, kept);
    if (!result && sharpen > 0)
        result = sharpened(fork, threads, warped, feature, most, height, width, channels, composite,
                           half, kept);
    free(most);
    return result;
}
