/* What lies between the convolutions of Net1, on a CPU: each function is one pass over memory, or two, in place of ten operators.
 *
 * Pictures are channels last, (height, width, channels), one at a time, their channels a multiple of 16 unless it says
 * otherwise; "half" says that their samples are bfloat16, else float32. Everything is computed in float32. A picture's rows are
 * shared out among the team, and no result depends on who computed it: sums are of rows that are always the same.
 */

#include "kernels.h"

int (*worker_number)(void);

/* number: omp_get_thread_num of the runtime whose GOMP_parallel the kernels get. Without it they compute by the calling thread alone. */
EXPORT void count_workers(int (*number)(void))
{
    worker_number = number;
}

#define ROWS 8 /* of a part */

INLINE long parts_of(long rows)
{
    return (rows + ROWS - 1) / ROWS;
}

INLINE long last_row(long part, long rows)
{
    return (part + 1) * ROWS < rows ? (part + 1) * ROWS : rows;
}

/* --- normalisation -------------------------------------------------------------------------------------------------- */

void normalising(const double *sums, long parts, long channels, double count, const float *weight, const float *bias, float eps,
                 float *scale)
{
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
    long height, width, channels, pad;
    int half, relu;
    double *sums;       /* of each part, then of each of both, channels */
    const float *scale; /* channels scales, then channels shifts; NULL: as they are */
} Normalise;

INLINE void sum_rows(const Normalise *job, long part, int half)
{
    double *sums = job->sums + part * 2 * job->channels;
    memset(sums, 0, 2 * job->channels * sizeof *sums);
    for (long y = part * ROWS; y < last_row(part, job->height); y++)
        for (long c = 0; c < job->channels; c += LANES) {
            /* About the row's first pixel, so that a mean far from 0 leaves the variance its digits. */
            Floats about = load(job->x, y * job->width * job->channels + c, half), sum[2] = {0}, square[2] = {0};
            for (long x = 0; x < job->width; x++) {
                Floats value = load(job->x, (y * job->width + x) * job->channels + c, half) - about;
                sum[x & 1] += value;
                square[x & 1] += value * value;
            }
            add_sums(sums + c, job->channels, about, sum[0] + sum[1], square[0] + square[1], job->width);
        }
}

static void sum_part(const void *data, long part)
{
    const Normalise *job = data;
    if (job->half)
        sum_rows(job, part, 1);
    else
        sum_rows(job, part, 0);
}

/* x (height, width, channels) -> scale: the scales and shifts, (2 channels), that bring each channel to mean 0 and variance 1, then to weight
 * and bias, (channels), which may be NULL. */
EXPORT int statistics(Fork fork, int threads, const void *x, long height, long width, long channels, const float *weight,
                      const float *bias, float eps, float *scale, int half)
{
    long parts = parts_of(height);
    Normalise job = {.x = x, .height = height, .width = width, .channels = channels, .half = half};
    job.sums = malloc(parts * 2 * channels * sizeof *job.sums);
    if (!job.sums)
        return -1;
    share(fork, threads, sum_part, &job, parts);
    normalising(job.sums, parts, channels, (double)height * width, weight, bias, eps, scale);
    free(job.sums);
    return 0;
}

INLINE void write_rows(Normalise job, long part, int half)
{
    long channels = job.channels, pad = job.pad, columns = job.width + 2 * pad, sample = half ? 2 : 4;
    for (long row = part * ROWS; row < last_row(part, job.height + 2 * pad); row++) {
        long y = reflect(row - pad, job.height - 1);
        char *line = (char *)job.out + row * columns * channels * sample;
        Floats least = (Floats){0} + (job.relu ? 0 : -__builtin_inff());
        for (long x = 0; x < job.width; x++)
            for (long c = 0; c < channels; c += LANES) {
                Floats value = load(job.x, (y * job.width + x) * channels + c, half);
                if (job.scale)
                    value = value * load(job.scale, c, 0) + load(job.scale, channels + c, 0);
                value = maximum(value, least);
                if (job.residual)
                    value += load(job.residual, (y * job.width + x) * channels + c, half);
                store(line, (x + pad) * channels + c, value, half);
            }
        for (long n = 1; n <= pad; n++) {
            long size = channels * sample, last = job.width - 1, inwards = clamp(n, last);
            memcpy(line + (pad - n) * size, line + (pad + inwards) * size, size);
            memcpy(line + (pad + last + n) * size, line + (pad + last - inwards) * size, size);
        }
    }
}

static void write_part(const void *data, long part)
{
    const Normalise *job = data;
    if (job->half)
        write_rows(*job, part, 1);
    else
        write_rows(*job, part, 0);
}

/* x (height, width, channels) -> out (height + 2 pad, width + 2 pad, channels), with its border reflected.
 *
 * scale: x times the first `channels` of these plus the others; NULL: x as it is.
 * relu: what is below 0 becomes 0.
 * residual: added at the end, (height, width, channels); may be NULL. */
EXPORT int normalise(Fork fork, int threads, const void *x, long height, long width, long channels, const float *scale,
                      int relu, const void *residual, void *out, long pad, int half)
{
    Normalise job = {x, residual, out, height, width, channels, pad, half, relu, NULL, scale};
    share(fork, threads, write_part, &job, parts_of(height + 2 * pad));
    return 0;
}

/* --- frames at a quarter of the resolution --------------------------------------------------------------------------- */

enum { STRIDE = 4 };

enum { RUN = 16 * STRIDE }; /* columns at once */

typedef struct {
    const float *frame, *previous;
    float *squares, *out;
    long height, width;
} Pool;

INLINE long pooled(long size)
{
    return (size + STRIDE - 1) / STRIDE;
}

static void mean_part(const void *data, long row)
{
    const Pool *job = data;
    long y = row % pooled(job->height), channel = row / pooled(job->height), columns = pooled(job->width);
    long height = remaining(y * STRIDE, job->height, STRIDE);
    for (long first = 0; first < job->width; first += RUN) {
        long count = remaining(first, job->width, RUN);
        float sums[RUN] = {0};
        for (long i = 0; i < height; i++) {
            const float *from = job->frame + (channel * job->height + y * STRIDE + i) * job->width + first;
            for (long x = 0; x < count; x++)
                sums[x] += from[x];
        }
        for (long x = 0; x < count; x += STRIDE) {
            /* Beyond the border are zeros. */
            float sum = (sums[x] + sums[x + 1]) + (sums[x + 2] + sums[x + 3]);
            job->out[row * columns + (first + x) / STRIDE] = sum / (float)(height * remaining(x, count, STRIDE));
        }
    }
}

/* (3, height, width) float32 -> (3, ceil(height / 4), ceil(width / 4)): the mean of each square. */
EXPORT int quarter(Fork fork, int threads, const float *frame, long height, long width, float *out)
{
    Pool job = {.frame = frame, .out = out, .height = height, .width = width};
    share(fork, threads, mean_part, &job, 3 * pooled(height));
    return 0;
}

INLINE float larger(float a, float b)
{
    return a > b ? a : b;
}

static void change_part(const void *data, long y)
{
    const Pool *job = data;
    long columns = pooled(job->width), height = remaining(y * STRIDE, job->height, STRIDE);
    for (long first = 0; first < job->width; first += RUN) {
        long count = remaining(first, job->width, RUN);
        float most[RUN] = {0};
        for (long c = 0; c < 3; c++)
            for (long i = 0; i < height; i++) {
                long at = (c * job->height + y * STRIDE + i) * job->width + first;
                for (long x = 0; x < count; x++)
                    most[x] = larger(__builtin_fabsf(job->frame[at + x] - job->previous[at + x]), most[x]);
            }
        for (long x = 0; x < count; x += STRIDE)
            job->squares[y * columns + (first + x) / STRIDE] = larger(larger(most[x], most[x + 1]), larger(most[x + 2], most[x + 3]));
    }
}

static void widen_part(const void *data, long y, float *line)
{
    const Pool *job = data;
    long columns = pooled(job->width), last = pooled(job->height) - 1;
    const float *above = job->squares + clamp(y - 1, last) * columns, *here = job->squares + y * columns;
    const float *below = job->squares + clamp(y + 1, last) * columns;
    for (long x = 0; x < columns; x++)
        line[x + 1] = larger(here[x], larger(above[x], below[x]));
    line[0] = line[1];
    line[columns + 1] = line[columns];
    for (long x = 0; x < columns; x++)
        job->out[y * columns + x] = larger(line[x + 1], larger(line[x], line[x + 2]));
}

/* Two frames -> (ceil(height / 4), ceil(width / 4)) float32: the largest change of a sample in each square and the eight about it. */
EXPORT int change(Fork fork, int threads, const float *frame, const float *previous, long height, long width, float *out)
{
    long rows = pooled(height), columns = pooled(width);
    float *squares = malloc(rows * columns * sizeof *squares);
    if (!squares)
        return -1;
    Pool job = {frame, previous, squares, out, height, width};
    share(fork, threads, change_part, &job, rows);
    int result = share_in_room(fork, threads, widen_part, &job, rows, columns + 2);
    free(squares);
    return result;
}

/* --- composition ---------------------------------------------------------------------------------------------------- */

typedef struct {
    long at[4];
    float weight[4];
} Taps;

INLINE void bilinear(Taps *taps, float place, long size)
{
    place = bounded(place, 0, (float)(size - 1));
    long left = (long)place;
    float t = place - (float)left;
    taps->at[0] = left;
    taps->at[1] = clamp(left + 1, size - 1);
    taps->weight[0] = 1 - t;
    taps->weight[1] = t;
}

INLINE void bicubic(Taps *taps, float place, long size) /* Keys's kernel */
{
    const float a = -0.5f;
    place = bounded(place, -2, (float)size + 1); /* further out all is border */
    long left = (long)(place + 2) - 2;
    float t = place - (float)left, s = 1 - t;
    for (long n = 0; n < 4; n++)
        taps->at[n] = clamp(left - 1 + n, size - 1);
    taps->weight[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    taps->weight[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    taps->weight[2] = ((a + 2) * s - (a + 3)) * s * s + 1;
    taps->weight[3] = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
}

/* Where taps of a row and of a column meet, in samples. */
typedef struct {
    long at[4][4];
    const Taps *rows, *columns;
} Meeting;

INLINE void meet(Meeting *meeting, const Taps *rows, const Taps *columns, long taps, long width, long channels)
{
    meeting->rows = rows, meeting->columns = columns;
    for (long i = 0; i < taps; i++)
        for (long j = 0; j < taps; j++)
            meeting->at[i][j] = (rows->at[i] * width + columns->at[j]) * channels;
}

INLINE Floats sample(const void *source, const Meeting *meeting, long taps, long c, int half)
{
    Floats value = {0};
    for (long i = 0; i < taps; i++) {
        Floats row = {0};
        for (long j = 0; j < taps; j++)
            row += meeting->columns->weight[j] * load(source, meeting->at[i][j] + c, half);
        value += meeting->rows->weight[i] * row;
    }
    return value;
}

typedef struct {
    const float *quarter, *previous, *flow;
    float *out;
    long height, width;
} Unexplained;

static void unexplained_part(const void *data, long y)
{
    const Unexplained *job = data;
    long plane = job->height * job->width;
    for (long x = 0; x < job->width; x++) {
        long at = y * job->width + x;
        Taps columns, rows;
        bilinear(&columns, (float)x + job->flow[at] / STRIDE, job->width);
        bilinear(&rows, (float)y + job->flow[plane + at] / STRIDE, job->height);
        const float *upper = job->previous + rows.at[0] * job->width, *lower = job->previous + rows.at[1] * job->width;
        for (long c = 0; c < 3 * plane; c += plane) {
            float above = columns.weight[0] * upper[c + columns.at[0]] + columns.weight[1] * upper[c + columns.at[1]];
            float below = columns.weight[0] * lower[c + columns.at[0]] + columns.weight[1] * lower[c + columns.at[1]];
            job->out[c + at] = __builtin_fabsf(job->quarter[c + at] - (rows.weight[0] * above + rows.weight[1] * below));
        }
    }
}

/* Two frames at quarter resolution (3, height, width) float32, flow (2, height, width) float32 in pixels of the frame -> (3, height, width): what
 * the second, sampled along the flow, leaves unexplained of the first. */
EXPORT int unexplained(Fork fork, int threads, const float *quarter, const float *previous, const float *flow, long height, long width,
                       float *out)
{
    Unexplained job = {quarter, previous, flow, out, height, width};
    share(fork, threads, unexplained_part, &job, height);
    return 0;
}

typedef struct {
    const float *previous, *flow, *unexplained;
    const void *feature;
    float *warped;
    void *difference;
    long height, width, channels;
    int cubic, half;
} Follow;

INLINE void follow_row(const Follow *job, long y, int cubic, int half)
{
    long width = job->width, channels = job->channels, all = whole(channels + 3), plane = job->height * width;
    for (long x = 0; x < width; x++) {
        long at = y * width + x;
        float to_x = (float)x + job->flow[at] / STRIDE, to_y = (float)y + job->flow[plane + at] / STRIDE;
        Taps columns, rows;
        if (cubic) {
            bicubic(&columns, to_x, width);
            bicubic(&rows, to_y, job->height);
        } else {
            bilinear(&columns, to_x, width);
            bilinear(&rows, to_y, job->height);
        }
        Meeting meeting;
        meet(&meeting, &rows, &columns, cubic ? 4 : 2, width, channels);
        for (long c = 0; c < channels; c += LANES) {
            Floats warped = sample(job->previous, &meeting, cubic ? 4 : 2, c, 0);
            Floats apart = load(job->feature, at * channels + c, half) - warped;
            store(job->warped, at * channels + c, warped, 0);
            store(job->difference, at * all + c, select((Words)(apart < 0), -apart, apart), half);
        }
        /* The source's differences are about a tenth of the features'. */
        for (long c = 0; c < 3; c++)
            set(job->difference, at * all + channels + c, 10 * job->unexplained[c * plane + at], half);
        for (long c = channels + 3; c < all; c++)
            set(job->difference, at * all + c, 0, half);
    }
}

static void follow_part(const void *data, long y)
{
    const Follow copy = *(const Follow *)data, *job = &copy;
    if (job->cubic && job->half)
        follow_row(job, y, 1, 1);
    else if (job->cubic)
        follow_row(job, y, 1, 0);
    else
        follow_row(job, y, 0, job->half);
}

/* The previous feature (height, width, channels) float32, sampled along flow (2, height, width) float32 in pixels of the frame ->
 * warped, like it, and difference (height, width, whole(channels + 3)): |feature - warped|, 10 unexplained (3, height, width) float32, and 0. */
EXPORT int follow(Fork fork, int threads, const float *previous, const float *flow, const void *feature, const float *unexplained,
                   long height, long width, long channels, int cubic, float *warped, void *difference, int half)
{
    Follow job = {previous, flow, unexplained, feature, warped, difference, height, width, channels, cubic, half};
    share(fork, threads, follow_part, &job, height);
    return 0;
}

typedef struct {
    const void *feature;
    const float *warped, *mask, *flow, *change;
    float *composite, *blended, *most;
    long height, width, channels;
    float still, hold, coherence, refresh, sharpen;
    int half;
} Blend;

static const float SETTLED = 0.25f; /* as in net1.py */

/* How far before the first or behind the last of so many pixels a place lies. */
static float beyond(float at, long size)
{
    float last = (float)(size - 1);
    return at < 0 ? -at : at > last ? at - last : 0;
}

static void blend_part(const void *data, long y)
{
    const Blend copy = *(const Blend *)data, *job = &copy;
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
            float above = beyond((float)y + down[at] / STRIDE, job->height), outside = aside > above ? aside : above;
            float mask = masks[x], change = job->change && job->change[at] < job->still ? job->change[at] / job->still : 1;
            mask += (1 - mask) * mask * job->hold * (1 - change);
            mask *= job->coherence * (1 - job->refresh * (float)moved) * (outside < 1 ? 1 - outside : 0);
            job->blended[at] = mask;
            job->most[at] = mask * (change < SETTLED ? change / SETTLED : 1) * job->sharpen;
            for (long c = at * job->channels; c < (at + 1) * job->channels; c += LANES) {
                Floats feature = load(job->feature, c, job->half), composite = feature + mask * (load(job->warped, c, 0) - feature);
                store(job->composite, c, composite, 0);
            }
        }
    }
}

/* Eq. 3: feature and warped (height, width, channels), mask (height, width) float32, before its sigmoid, change (height, width) float32
 * or NULL -> composite (height, width, channels), the mask as it was blended, and by how much detail may be raised, (height, width) each, all
 * float32. */
EXPORT int blend(Fork fork, int threads, const void *feature, const float *warped, const float *mask, const float *flow,
                 const float *change, long height, long width, long channels, float still, float hold, float coherence, float refresh,
                 float sharpen, float *composite, float *blended, float *most, int half)
{
    Blend job = {feature, warped, mask, flow, change, composite, blended, most,
                 height, width, channels, still, hold, coherence, refresh, sharpen, half};
    share(fork, threads, blend_part, &job, height);
    return 0;
}

typedef struct {
    const float *composite, *most;
    const void *feature;
    float *energy, *out; /* energy: of the composite's detail, then of the feature's, each summed over 9 in a row */
    long height, width, channels;
    int half;
} Sharpen;

enum { FAR = 4, STRETCH = 32 };

/* Of each channel in a column the sum of three rows' pixels, about row y. */
INLINE void sum_column(const Sharpen *job, const void *picture, long y, long x, float *sums, int half)
{
    long channels = job->channels, rows[3];
    for (long i = 0; i < 3; i++)
        rows[i] = (clamp(y + i - 1, job->height - 1) * job->width + clamp(x, job->width - 1)) * channels;
    for (long c = 0; c < channels; c += LANES)
        store(sums, c, load(picture, rows[0] + c, half) + load(picture, rows[1] + c, half) + load(picture, rows[2] + c, half), 0);
}

/* From the sums of a pixel's column and of those beside it to the next pixel's: all channels of a pixel are read before the next one's, as they lie
 * in memory. */
INLINE void next_column(const Sharpen *job, const void *picture, long y, long x, float **columns, int half)
{
    float *oldest = columns[0];
    columns[0] = columns[1], columns[1] = columns[2], columns[2] = oldest;
    sum_column(job, picture, y, x + 1, oldest, half);
}

/* Before a row's pixels from `first` on: the columns, of which there is room for three, so that the next one is that pixel's. */
INLINE void begin_columns(const Sharpen *job, const void *picture, long y, long first, float *room, float **columns, int half)
{
    for (long n = 0; n < 3; n++)
        columns[n] = room + n * job->channels;
    next_column(job, picture, y, first - 2, columns, half);
    next_column(job, picture, y, first - 1, columns, half);
}

/* A pixel's difference from the mean of the 3x3 about it. */
INLINE Floats detail_of(Floats pixel, float *const *columns, long c)
{
    return pixel - (load(columns[0], c, 0) + load(columns[1], c, 0) + load(columns[2], c, 0)) * (1.0f / 9);
}

INLINE void energy_row(const Sharpen *job, long y, const void *picture, float *out, float *room, int half)
{
    long width = job->width, channels = job->channels;
    float *columns[3], *line = room + 3 * channels + FAR;
    begin_columns(job, picture, y, 0, room, columns, half);
    for (long first = 0; first < width; first += LANES) {
        Floats squares[LANES] = {0};
        for (long x = 0; x < LANES && first + x < width; x++) {
            Floats sum = {0};
            next_column(job, picture, y, first + x, columns, half);
            for (long c = 0; c < channels; c += LANES) {
                Floats detail = detail_of(load(picture, (y * width + first + x) * channels + c, half), columns, c);
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

static void energy_part(const void *data, long y, float *room)
{
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
    energy_row(job, y, job->composite, job->energy, room, 0);
    if (job->half)
        energy_row(job, y, job->feature, job->energy + job->height * job->width, room, 1);
    else
        energy_row(job, y, job->feature, job->energy + job->height * job->width, room, 0);
}

static void sharpen_part(const void *data, long y, float *room)
{
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
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
            float all = 9 * 9 * (float)channels, more = __builtin_sqrtf(theirs[x] / all / (ours[x] / all + 1e-6f)) - 1;
            gain[x] = bounded(more, 0, job->most[y * width + first + x]);
            largest = larger(gain[x], largest);
        }
        long at = (y * width + first) * channels;
        if (largest == 0) {
            memcpy(job->out + at, job->composite + at, count * channels * sizeof *job->out);
            continue;
        }
        float *columns[3];
        begin_columns(job, job->composite, y, first, room, columns, 0);
        for (long x = 0; x < count; x++) {
            next_column(job, job->composite, y, first + x, columns, 0);
            for (long c = 0; c < channels; c += LANES, at += LANES) {
                Floats pixel = load(job->composite, at, 0);
                store(job->out, at, pixel + gain[x] * detail_of(pixel, columns, c), 0);
            }
        }
    }
}

/* `Net1.sharpened`: composite (height, width, channels) and most (height, width) float32, feature like the composite -> out, like the
 * composite. */
EXPORT int sharpened(Fork fork, int threads, const float *composite, const void *feature, const float *most,
                     long height, long width, long channels, float *out, int half)
{
    float *energy = malloc(2 * height * width * sizeof *energy);
    if (!energy)
        return -1;
    Sharpen job = {composite, most, feature, energy, out, height, width, channels, half};
    int result = share_in_room(fork, threads, energy_part, &job, height, 3 * channels + FAR + whole(width) + FAR);
    if (!result)
        result = share_in_room(fork, threads, sharpen_part, &job, height, 3 * channels);
    free(energy);
    return result;
}

/* --- a level of LitePWCNet -------------------------------------------------------------------------------------------- */

enum { MOST_DISPLACEMENTS = 64, MOST_ACROSS = 7 }; /* 49, to the next multiple of LANES */

typedef struct {
    const void *here, *there;
    const float *flow;
    void *known;
    long height, width, channels, radius;
    float pixels;
    int half;
} Match;

INLINE long lanes(long width)
{
    return (width + LANES - 1) / LANES * LANES;
}

INLINE long line_of(long width, long radius) /* samples of a warped row's channel, with what is beside the picture */
{
    return lanes(width) + lanes(2 * radius);
}

/* Row y of `there` along the flow -> warped (channels, line_of(width, radius)): in a line `radius` times 0, the samples, and 0; beyond the picture all is. */
INLINE void warp_row(const Match *job, long y, float *warped, int half)
{
    long width = job->width, channels = job->channels, plane = job->height * width, line = line_of(width, job->radius);
    memset(warped, 0, channels * line * sizeof *warped);
    if (y < 0 || y >= job->height)
        return;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES), start = y * width + first;
        float across[LANES] = {0}, down[LANES] = {0};
        memcpy(across, job->flow + start, count * sizeof *across);
        memcpy(down, job->flow + plane + start, count * sizeof *down);
        Taps columns[LANES], rows[LANES];
        Meeting meetings[LANES];
        for (long n = 0; n < LANES; n++) {
            bilinear(&columns[n], (float)(first + n) + across[n] * job->pixels, width);
            bilinear(&rows[n], (float)y + down[n] * job->pixels, job->height);
            meet(&meetings[n], &rows[n], &columns[n], 2, width, channels);
        }
        for (long c = 0; c < channels; c += LANES) {
            Floats there[LANES];
            for (long n = count; n < LANES; n++)
                there[n] = (Floats){0};
            for (long n = 0; n < count; n++)
                there[n] = sample(job->there, &meetings[n], 2, c, half);
            transpose(there);
            for (long lane = 0; lane < LANES; lane++)
                store(warped, (c + lane) * line + job->radius + first, there[lane], 0);
        }
    }
}

/* LANES pixels of a row of `here` from `first` on -> own (channels, LANES). */
INLINE void gather(const Match *job, long y, long first, float *own, int half)
{
    long count = remaining(first, job->width, LANES), start = y * job->width + first;
    for (long c = 0; c < job->channels; c += LANES) {
        Floats here[LANES];
        for (long n = 0; n < LANES; n++)
            here[n] = n < count ? load(job->here, (start + n) * job->channels + c, half) : (Floats){0};
        transpose(here);
        for (long lane = 0; lane < LANES; lane++)
            store(own, (c + lane) * LANES, here[lane], 0);
    }
}

/* warped: of each row of the window about y what `warp_row` made of it. own: room for (channels, LANES). */
INLINE void volume_row(const Match *job, long y, float *const *warped, float *own, long radius, int half)
{
    long channels = job->channels, across = 2 * radius + 1, volume = across * across, all = whole(volume + channels + 2);
    long plane = job->height * job->width, line = line_of(job->width, radius);
    for (long first = 0; first < job->width; first += LANES) {
        Floats values[MOST_DISPLACEMENTS]; /* = {0} would be a call's worth of time, for each few pixels */
        for (long n = volume; n < MOST_DISPLACEMENTS && n % LANES; n++)
            values[n] = (Floats){0};
        gather(job, y, first, own, half);
        for (long dy = 0; dy < across; dy++) {
            Floats sums[MOST_ACROSS];
            for (long dx = 0; dx < across; dx++)
                sums[dx] = (Floats){0};
            for (long c = 0; c < channels; c++) {
                Floats here = load(own, c * LANES, 0);
                for (long dx = 0; dx < across; dx++)
                    sums[dx] += here * load(warped[dy], c * line + first + dx, 0);
            }
            for (long dx = 0; dx < across; dx++) {
                Floats product = sums[dx] * (1 / (float)channels);
                values[dy * across + dx] = maximum(product, product * 0.1f);
            }
        }
        for (long n = 0; n < volume; n += LANES)
            transpose(values + n);
        for (long x = first; x < first + LANES && x < job->width; x++) {
            /* Vectors reach into what is written next, but for a row's last pixel, since another worker may be at the next row. */
            long at = y * job->width + x, size = half ? 2 : 4, next = at * all + volume;
            for (long n = 0; n < volume; n += LANES)
                store(job->known, at * all + n, values[n + x - first], half);
            for (long c = 0; c < channels; c += LANES, next += LANES)
                memcpy((char *)job->known + next * size, (const char *)job->here + (at * channels + c) * size, LANES * size);
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

/* A row, and of those about it what the worker's ring of warped rows hasn't. Which it has its first samples say, counted from 1 on: 0 is none. */
INLINE void match_part(const Match *job, long y, float *room, long radius, int half)
{
    long across = 2 * radius + 1, size = job->channels * line_of(job->width, radius);
    float *own = room + FIRST, *ring = own + job->channels * LANES, *warped[MOST_ACROSS];
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

static void row_part(const void *data, long y, float *room)
{
    const Match copy = *(const Match *)data, *job = &copy;
    switch (job->radius * 2 + job->half) {
    case 4: match_part(job, y, room, 2, 0); break;
    case 5: match_part(job, y, room, 2, 1); break;
    case 6: match_part(job, y, room, 3, 0); break;
    case 7: match_part(job, y, room, 3, 1); break;
    }
}

/* What a level's estimator sees: here and there (height, width, channels), flow (2, height, width) float32, of which 1 is
 * `pixels` pixels of this level -> known (height, width, whole((2 radius + 1)^2 + channels + 2)): the cost volume of here with there sampled along
 * the flow, through a leaky ReLU, here, the flow, and 0. radius: 2 or 3. */
EXPORT int match(Fork fork, int threads, const void *here, const void *there, const float *flow, float pixels, long height, long width,
                 long channels, long radius, void *known, int half)
{
    Match job = {here, there, flow, known, height, width, channels, radius, pixels, half};
    return share_in_room(fork, threads, row_part, &job, height, FIRST + channels * (LANES + (2 * radius + 1) * line_of(width, radius)));
}

/* --- where LitePWCNet starts from ----------------------------------------------------------------------------------- */

enum { SUPPORT = 2 }; /* as litepwcnet.py has it */

typedef struct {
    const void *scores;
    float *shares, *out; /* shares: of a row's places, (width, lanes(width)) */
    long height, width;
    int half;
} Supported;

/* One over how many neighbours along a side two places share, with themselves. */
INLINE float share_of_neighbours(int here, int there, int size)
{
    int before = here < there ? here : there, after = size - 1 - (here < there ? there : here);
    return 1 / (float)((before < SUPPORT ? before : SUPPORT) + (after < SUPPORT ? after : SUPPORT) + 1);
}

INLINE long summed(long width) /* samples of a line of sums, whose border is 0 */
{
    return SUPPORT + lanes(width) + SUPPORT;
}

INLINE Floats load_some(const void *samples, long at, long count, int half) /* beyond `count` what is less than all */
{
    if (count >= LANES)
        return load(samples, at, half);
    Floats values = (Floats){0} - __builtin_inff();
    for (long n = 0; n < count; n++)
        values[n] = get(samples, at + n, half);
    return values;
}

/* LANES scores from `at` on, and 0 for those behind the row's last one, of which there are `count`. */
INLINE Floats scores_at(const Supported *job, long at, long count, int half)
{
    long places = job->height * job->width, behind = places * places - at; /* all that is there to be read */
    Words lane;
    for (int n = 0; n < LANES; n++)
        lane[n] = (uint32_t)n;
    return select((Words)(lane < (uint32_t)count), load_some(job->scores, at, behind, half), (Floats){0});
}

/* A place of the first frame with all of the second: down the columns of both -> sums (height, summed(width)). */
INLINE void support_down(const Supported *job, long y, long x, float *sums, int half)
{
    long height = job->height, width = job->width, places = height * width;
    for (long v = 0; v < height; v++) {
        long before = -(y < v ? y : v), after = height - 1 - (y < v ? v : y);
        float share = share_of_neighbours((int)y, (int)v, (int)height);
        for (long u = 0; u < width; u += LANES) {
            Floats sum = {0};
            for (long d = before > -SUPPORT ? before : -SUPPORT; d <= after && d <= SUPPORT; d++)
                sum += share * scores_at(job, ((y + d) * width + x) * places + (v + d) * width + u, width - u, half);
            store(sums, v * summed(width) + SUPPORT + u, sum, 0);
        }
    }
}

/* A row of the first frame: of each place what `support_down` makes of it and of those beside it, which are in a ring, along the rows. */
INLINE void supported_row(const Supported *job, long y, float *ring, int half)
{
    enum { ACROSS = 2 * SUPPORT + 1 };
    long height = job->height, width = job->width, line = summed(width), size = height * line, places = height * width;
    memset(ring, 0, ACROSS * size * sizeof *ring);
    for (long x = -SUPPORT; x < width; x++) {
        float *next = ring + (x + ACROSS + SUPPORT) % ACROSS * size;
        if (x + SUPPORT < width)
            support_down(job, y, x + SUPPORT, next, half);
        else
            memset(next, 0, size * sizeof *next);
        for (long v = 0; v < height && x >= 0; v++)
            for (long u = 0; u < width; u += LANES) {
                Floats total = {0};
                for (long d = 0; d < ACROSS; d++)
                    total += load(ring, (x + d + ACROSS - SUPPORT) % ACROSS * size + v * line + d + u, 0);
                total *= load(job->shares, x * lanes(width) + u, 0);
                memcpy(job->out + (y * width + x) * places + v * width + u, &total, remaining(u, width, LANES) * sizeof *job->out);
            }
    }
}

static void supported_part(const void *data, long y, float *sums)
{
    const Supported *job = data;
    if (job->half)
        supported_row(job, y, sums, 1);
    else
        supported_row(job, y, sums, 0);
}

/* `litepwcnet.supported`: scores (height, width, height, width) -> the same size, float32. */
EXPORT int supported(Fork fork, int threads, const void *scores, long height, long width, float *out, int half)
{
    float *shares = malloc(width * lanes(width) * sizeof *shares);
    if (!shares)
        return -1;
    for (long x = 0; x < width; x++)
        for (long u = 0; u < lanes(width); u++)
            shares[x * lanes(width) + u] = u < width ? share_of_neighbours((int)x, (int)u, (int)width) : 0;
    Supported job = {scores, shares, out, height, width, half};
    int result = share_in_room(fork, threads, supported_part, &job, height, (2 * SUPPORT + 1) * height * summed(width));
    free(shares);
    return result;
}

typedef struct {
    const void *scores;
    float *most, *sum; /* of each column: the largest, and of exp(score - largest) */
    float *out;
    long height, width;
    float sure;
    int half;
} Global;

INLINE void column_sums(const Global *job, long first, int half)
{
    long places = job->height * job->width, count = remaining(first, places, LANES);
    Floats most = load_some(job->scores, first, count, half), sum = {0};
    for (long n = 1; n < places; n++) {
        Floats score = load_some(job->scores, n * places + first, count, half);
        most = select((Words)(score > most), score, most);
    }
    for (long n = 0; n < places; n++)
        sum += exponential(load_some(job->scores, n * places + first, count, half) - most);
    memcpy(job->most + first, &most, count * sizeof *job->most);
    memcpy(job->sum + first, &sum, count * sizeof *job->sum);
}

static void column_part(const void *data, long part)
{
    const Global *job = data;
    if (job->half)
        column_sums(job, part * LANES, 1);
    else
        column_sums(job, part * LANES, 0);
}

INLINE void match_place(const Global *job, long place, int half)
{
    long width = job->width, places = job->height * width, start = place * places;
    Floats largest = load_some(job->scores, start, places, half), sums = {0};
    Words block = {0}; /* in which each lane has its largest */
    for (uint32_t first = LANES; first < places; first += LANES) {
        Floats score = load_some(job->scores, start + first, places - first, half);
        Words more = (Words)(score > largest);
        largest = select(more, score, largest);
        block = (more & first) | (~more & block);
    }
    long best = block[0];
    float most = largest[0], total = 0;
    for (long lane = 1; lane < LANES; lane++) {
        long at = block[lane] + lane;
        if (largest[lane] > most || (largest[lane] == most && at < best)) { /* of equals the first */
            most = largest[lane];
            best = at;
        }
    }
    for (long first = 0; first < places; first += LANES)
        sums += exponential(load_some(job->scores, start + first, places - first, half) - most);
    for (long lane = 0; lane < LANES; lane++)
        total += sums[lane];
    float sure = exponential((Floats){0} + (most - job->most[best]))[0] / (total * job->sum[best]), x = 0, y = 0, weights = 0;
    for (long n = 0; n < 9 && sure > job->sure; n++) {
        long column = best % width + n % 3 - 1, row = best / width + n / 3 - 1;
        if (column < 0 || column >= width || row < 0 || row >= job->height)
            continue;
        float weight = exponential((Floats){0} + (get(job->scores, start + row * width + column, half) - most))[0];
        x += weight * (float)(column - place % width);
        y += weight * (float)(row - place / width);
        weights += weight;
    }
    job->out[place] = sure > job->sure ? x / weights : 0;
    job->out[places + place] = sure > job->sure ? y / weights : 0;
}

static void match_row(const void *data, long row)
{
    const Global *job = data;
    for (long place = row * job->width; place < (row + 1) * job->width; place++)
        if (job->half)
            match_place(job, place, 1);
        else
            match_place(job, place, 0);
}

/* `litepwcnet.global_match`: scores (height, width, height, width) -> (2, height, width) float32. */
EXPORT int global_match(Fork fork, int threads, const void *scores, long height, long width, float sure, float *out, int half)
{
    long places = height * width;
    float *most = malloc(2 * places * sizeof *most);
    if (!most)
        return -1;
    Global job = {scores, most, most + places, out, height, width, sure, half};
    share(fork, threads, column_part, &job, (places + LANES - 1) / LANES);
    share(fork, threads, match_row, &job, height);
    free(most);
    return 0;
}
