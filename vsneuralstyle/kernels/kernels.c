/* What lies between the convolutions of Net1, on a CPU: each function is one pass over memory, or two, in place of ten operators.
 *
 * Pictures are channels last, (height, width, channels), one at a time, their channels a multiple of 16 unless it says
 * otherwise; "half" says that their samples are bfloat16, else float32. Everything is computed in float32. A picture's rows are
 * shared out among the team, and no result depends on who computed it: sums are of rows that are always the same.
 */

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* --- threads ------------------------------------------------------------------------------------------------------- */

/* GOMP_parallel of the OpenMP runtime that PyTorch has loaded, so that its workers, awake from the convolution before, do this,
 * too; NULL: this thread alone. */
typedef void (*Fork)(void (*)(void *), void *, unsigned, unsigned);

typedef struct {
    void (*part)(const void *, long);
    const void *job;
    long parts;
    atomic_long next;
} Work;

static void drain(void *data)
{
    Work *work = data;
    for (long n; (n = atomic_fetch_add(&work->next, 1)) < work->parts;)
        work->part(work->job, n);
}

static void share(Fork fork, int threads, void (*part)(const void *, long), const void *job, long parts)
{
    Work work = {.part = part, .job = job, .parts = parts};
    atomic_init(&work.next, 0);
    if (fork && threads > 1 && parts > 1)
        fork(drain, &work, (unsigned)threads, 0);
    else
        drain(&work);
}

/* --- samples ------------------------------------------------------------------------------------------------------- */

#define LANES 16
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

INLINE float from_half(uint16_t half)
{
    uint32_t word = (uint32_t)half << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

INLINE uint16_t to_half(float value) /* to the nearest, ties to even */
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

INLINE float get(const void *samples, long at, int half)
{
    return half ? from_half(((const uint16_t *)samples)[at]) : ((const float *)samples)[at];
}

INLINE void set(void *samples, long at, float value, int half)
{
    if (half)
        ((uint16_t *)samples)[at] = to_half(value);
    else
        ((float *)samples)[at] = value;
}

INLINE Floats load(const void *samples, long at, int half)
{
    Floats values;
    if (half) {
        Halves halves;
        memcpy(&halves, (const uint16_t *)samples + at, sizeof halves);
        Words words = __builtin_convertvector(halves, Words) << 16;
        memcpy(&values, &words, sizeof values);
    } else {
        memcpy(&values, (const float *)samples + at, sizeof values);
    }
    return values;
}

INLINE void store(void *samples, long at, Floats values, int half)
{
    if (half) {
        Words words;
        memcpy(&words, &values, sizeof words);
        Halves halves = __builtin_convertvector((words + 0x7fff + (words >> 16 & 1)) >> 16, Halves);
        memcpy((uint16_t *)samples + at, &halves, sizeof halves);
    } else {
        memcpy((float *)samples + at, &values, sizeof values);
    }
}

INLINE Floats select(Words condition, Floats yes, Floats no) /* condition: all bits of a lane, or none */
{
    Words a, b;
    memcpy(&a, &yes, sizeof a);
    memcpy(&b, &no, sizeof b);
    a = (condition & a) | (~condition & b);
    memcpy(&yes, &a, sizeof yes);
    return yes;
}

INLINE Floats sigmoid(Floats x) /* relative error below 1e-6 */
{
    Floats limit = (Floats){0} + 87;
    x = select((Words)(x > limit), limit, select((Words)(x < -limit), -limit, x));
    /* exp(-x) = 2^n exp(r), |r| <= ln 2 / 2: n by rounding, exp(r) by its series. */
    Floats t = x * -1.44269504f, round = (Floats){0} + 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer */
    Floats n = (t + round) - round, r = (t - n) * 0.693147181f;
    Floats e = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (8.33333333e-3f + r * 1.38888889e-3f)))));
    Words power;
    Floats shifted = n + (12582912.0f + 127), scale;
    memcpy(&power, &shifted, sizeof power);
    power <<= 23;
    memcpy(&scale, &power, sizeof scale);
    return 1 / (1 + e * scale);
}

INLINE long clamp(long value, long last)
{
    return value < 0 ? 0 : value > last ? last : value;
}

INLINE long reflect(long value, long last) /* about the first and the last, which are not repeated */
{
    value = value < 0 ? -value : value;
    return clamp(value > last ? 2 * last - value : value, last);
}

INLINE float bounded(float value, float low, float high)
{
    return !(value > low) ? low : value > high ? high : value; /* what is no number is low */
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

/* --- a frame for a network ------------------------------------------------------------------------------------------ */

typedef struct {
    const float *frame;
    void *out;
    long height, width, full_height, full_width, pad;
    float offset, factor;
    int half;
} Pack;

static void pack_part(const void *data, long part)
{
    const Pack *job = data;
    long rows = job->full_height + 2 * job->pad, columns = job->full_width + 2 * job->pad;
    for (long row = part * ROWS; row < last_row(part, rows); row++) {
        long y = clamp(reflect(row - job->pad, job->full_height - 1), job->height - 1);
        for (long column = 0; column < columns; column++) {
            long x = clamp(reflect(column - job->pad, job->full_width - 1), job->width - 1);
            for (long c = 0; c < 3; c++) {
                float value = (job->frame[(c * job->height + y) * job->width + x] - job->offset) * job->factor;
                set(job->out, (row * columns + column) * 3 + c, value, job->half);
            }
        }
    }
}

/* (3, height, width) float32 -> (sample - offset) * factor, (full_height + 2 pad, full_width + 2 pad, 3): to the full size its border
 * is repeated, beyond that it is reflected. */
EXPORT void pack(Fork fork, int threads, const float *frame, long height, long width, long full_height, long full_width, long pad,
                 float offset, float factor, void *out, int half)
{
    Pack job = {frame, out, height, width, full_height, full_width, pad, offset, factor, half};
    share(fork, threads, pack_part, &job, parts_of(full_height + 2 * pad));
}

/* --- normalisation -------------------------------------------------------------------------------------------------- */

typedef struct {
    const void *x, *residual;
    void *out;
    long height, width, channels, pad, residual_pad;
    int half, corners, relu;
    double *sums;       /* of each part, then of each of both, channels */
    const float *scale; /* channels scales, then channels shifts; NULL: as they are */
} Normalise;

INLINE long pixel(const Normalise *job, long y, long x)
{
    if (!job->corners)
        return (y * job->width + x) * job->channels;
    long corner = ((y + 1) >> 1) * ((job->width >> 1) + 1) + ((x + 1) >> 1);
    return (corner * 4 + ((y + 1) & 1) * 2 + ((x + 1) & 1)) * job->channels;
}

INLINE void sum_rows(const Normalise *job, long part, int half)
{
    double *sums = job->sums + part * 2 * job->channels;
    memset(sums, 0, 2 * job->channels * sizeof *sums);
    for (long y = part * ROWS; y < last_row(part, job->height); y++)
        for (long c = 0; c < job->channels; c += LANES) {
            /* About the first pixel, so that a mean far from 0 leaves the variance its digits. */
            Floats about = load(job->x, pixel(job, 0, 0) + c, half), sum[2] = {0}, square[2] = {0};
            for (long x = 0; x < job->width; x++) {
                Floats value = load(job->x, pixel(job, y, x) + c, half) - about;
                sum[x & 1] += value;
                square[x & 1] += value * value;
            }
            sum[0] += sum[1];
            square[0] += square[1];
            for (long lane = 0; lane < LANES; lane++) {
                sums[c + lane] += sum[0][lane];
                sums[job->channels + c + lane] += square[0][lane];
            }
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

INLINE void write_rows(const Normalise *job, long part, int half)
{
    long channels = job->channels, pad = job->pad, columns = job->width + 2 * pad, sample = half ? 2 : 4;
    for (long row = part * ROWS; row < last_row(part, job->height + 2 * pad); row++) {
        long y = reflect(row - pad, job->height - 1);
        char *line = (char *)job->out + row * columns * channels * sample;
        long residual = ((y + job->residual_pad) * (job->width + 2 * job->residual_pad) + job->residual_pad) * channels;
        for (long x = 0; x < job->width; x++)
            for (long c = 0; c < channels; c += LANES) {
                Floats value = load(job->x, pixel(job, y, x) + c, half);
                if (job->scale)
                    value = value * load(job->scale, c, 0) + load(job->scale, channels + c, 0);
                if (job->relu)
                    value = select((Words)(value > 0), value, (Floats){0});
                if (job->residual)
                    value += load(job->residual, residual + x * channels + c, half);
                store(line, (x + pad) * channels + c, value, half);
            }
        for (long n = 1; n <= pad; n++) {
            long size = channels * sample, last = job->width - 1;
            memcpy(line + (pad - n) * size, line + (pad + clamp(n, last)) * size, size);
            memcpy(line + (pad + last + n) * size, line + (pad + clamp(last - n, last)) * size, size);
        }
    }
}

static void write_part(const void *data, long part)
{
    const Normalise *job = data;
    if (job->half)
        write_rows(job, part, 1);
    else
        write_rows(job, part, 0);
}

/* Instance normalisation, and what surrounds it: x (height, width, channels) -> out (height + 2 pad, width + 2 pad, channels), with its
 * border reflected.
 *
 * corners: x is (height / 2 + 1, width / 2 + 1, 2, 2, channels), four pixels about each corner of a picture of half the size, and those
 *     outside are dropped.
 * normalises: to mean 0 and variance 1, then weight and bias, (channels) float32, which may be NULL; else x as it is.
 * relu: what is below 0 becomes 0.
 * residual: added at the end, (height + 2 residual_pad, width + 2 residual_pad, channels); may be NULL.
 * Returns 0, or -1 without memory. */
EXPORT int normalise(Fork fork, int threads, const void *x, long height, long width, long channels, int corners, int normalises,
                     const float *weight, const float *bias, float eps, int relu, const void *residual, long residual_pad, void *out,
                     long pad, int half)
{
    long parts = parts_of(height);
    Normalise job = {x, residual, out, height, width, channels, pad, residual_pad, half, corners, relu, NULL, NULL};
    double *sums = NULL;
    float *scale = NULL;
    if (normalises) {
        job.sums = sums = malloc(parts * 2 * channels * sizeof *sums);
        scale = malloc(2 * channels * sizeof *scale);
        if (!sums || !scale) {
            free(sums);
            free(scale);
            return -1;
        }
        share(fork, threads, sum_part, &job, parts);
        double count = (double)height * width;
        for (long c = 0; c < channels; c++) {
            double sum = 0, square = 0;
            for (long part = 0; part < parts; part++) {
                sum += sums[part * 2 * channels + c];
                square += sums[(part * 2 + 1) * channels + c];
            }
            double mean = sum / count, variance = square / count - mean * mean;
            float root = __builtin_sqrtf((float)(variance > 0 ? variance : 0) + eps);
            scale[c] = (weight ? weight[c] : 1) / root;
            scale[channels + c] = (bias ? bias[c] : 0) - (float)(mean + get(x, pixel(&job, 0, 0) + c, half)) * scale[c];
        }
        job.scale = scale;
    }
    share(fork, threads, write_part, &job, parts_of(height + 2 * pad));
    free(sums);
    free(scale);
    return 0;
}

/* --- the picture ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const void *x;
    float *out;
    long height, width, full_width;
    int half;
} Picture;

enum { BLOCK_ROWS = 2, BLOCK_COLUMNS = 4, BLOCK = 3 * BLOCK_ROWS * BLOCK_COLUMNS, SEGMENT = 2 * LANES };

static void picture_part(const void *data, long part)
{
    const Picture *job = data;
    long blocks = job->full_width / BLOCK_COLUMNS;
    float values[SEGMENT * BLOCK];
    for (long first = 0; first < blocks; first += SEGMENT) {
        long count = blocks - first < SEGMENT ? blocks - first : SEGMENT, at = (part * blocks + first) * BLOCK, n = 0;
        for (; n + LANES <= count * BLOCK; n += LANES)
            store(values, n, sigmoid(2 * load(job->x, at + n, job->half)), 0);
        for (; n < count * BLOCK; n++)
            values[n] = sigmoid((Floats){0} + 2 * get(job->x, at + n, job->half))[0];
        for (long c = 0; c < 3; c++)
            for (long row = 0; row < BLOCK_ROWS && part * BLOCK_ROWS + row < job->height; row++) {
                float *line = job->out + (c * job->height + part * BLOCK_ROWS + row) * job->width;
                const float *from = values + (c * BLOCK_ROWS + row) * BLOCK_COLUMNS;
                long start = first * BLOCK_COLUMNS, columns = job->width - start;
                if (columns > count * BLOCK_COLUMNS)
                    columns = count * BLOCK_COLUMNS;
                for (long x = 0; x < columns; x++)
                    line[start + x] = from[x / BLOCK_COLUMNS * BLOCK + x % BLOCK_COLUMNS];
            }
    }
}

/* x (full_height / 2, full_width / 4, 3, 2, 4): blocks of the picture before tanh -> out (3, height, width) float32, 0..1. */
EXPORT void picture(Fork fork, int threads, const void *x, long full_height, long full_width, float *out, long height, long width,
                    int half)
{
    Picture job = {x, out, height, width, full_width, half};
    share(fork, threads, picture_part, &job, full_height / BLOCK_ROWS);
}

/* --- frames at a quarter of the resolution --------------------------------------------------------------------------- */

enum { STRIDE = 4 };

typedef struct {
    const float *frame, *previous;
    float *out;
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
    long height = job->height - y * STRIDE < STRIDE ? job->height - y * STRIDE : STRIDE;
    const float *from = job->frame + (channel * job->height + y * STRIDE) * job->width;
    for (long x = 0; x < columns; x++) {
        long width = job->width - x * STRIDE < STRIDE ? job->width - x * STRIDE : STRIDE;
        float sum = 0;
        for (long i = 0; i < height; i++)
            for (long j = 0; j < width; j++)
                sum += from[i * job->width + x * STRIDE + j];
        job->out[row * columns + x] = sum / (float)(height * width);
    }
}

/* (3, height, width) float32 -> (3, ceil(height / 4), ceil(width / 4)): the mean of each square. */
EXPORT void quarter(Fork fork, int threads, const float *frame, long height, long width, float *out)
{
    Pool job = {frame, NULL, out, height, width};
    share(fork, threads, mean_part, &job, 3 * pooled(height));
}

static void change_part(const void *data, long y)
{
    const Pool *job = data;
    long columns = pooled(job->width), height = job->height - y * STRIDE < STRIDE ? job->height - y * STRIDE : STRIDE;
    float *line = job->out + y * columns;
    memset(line, 0, columns * sizeof *line);
    for (long c = 0; c < 3; c++)
        for (long i = 0; i < height; i++) {
            long at = (c * job->height + y * STRIDE + i) * job->width;
            for (long x = 0; x < job->width; x++) {
                float change = __builtin_fabsf(job->frame[at + x] - job->previous[at + x]);
                line[x / STRIDE] = change > line[x / STRIDE] ? change : line[x / STRIDE];
            }
        }
}

/* Two frames -> (ceil(height / 4), ceil(width / 4)) float32: the largest change of a sample in each square. */
EXPORT void change(Fork fork, int threads, const float *frame, const float *previous, long height, long width, float *out)
{
    Pool job = {frame, previous, out, height, width};
    share(fork, threads, change_part, &job, pooled(height));
}

/* --- composition ---------------------------------------------------------------------------------------------------- */

typedef struct {
    long at[4];
    float weight[4];
} Taps;

INLINE Taps bilinear(float place, long size)
{
    place = bounded(place, 0, (float)(size - 1));
    long left = (long)place;
    float t = place - (float)left;
    return (Taps){{left, clamp(left + 1, size - 1)}, {1 - t, t}};
}

INLINE Taps bicubic(float place, long size) /* Keys's kernel, a = -0.75, as PyTorch's */
{
    const float a = -0.75f;
    place = bounded(place, -2, (float)size + 1); /* further out all is border */
    long left = (long)(place + 2) - 2;
    float t = place - (float)left, s = 1 - t;
    Taps taps;
    for (long n = 0; n < 4; n++)
        taps.at[n] = clamp(left - 1 + n, size - 1);
    taps.weight[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    taps.weight[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    taps.weight[2] = ((a + 2) * s - (a + 3)) * s * s + 1;
    taps.weight[3] = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
    return taps;
}

INLINE Floats sample(const void *source, long width, long channels, const Taps *y, const Taps *x, long taps, long c, int half)
{
    Floats value = {0};
    for (long i = 0; i < taps; i++) {
        Floats row = {0};
        for (long j = 0; j < taps; j++)
            row += x->weight[j] * load(source, (y->at[i] * width + x->at[j]) * channels + c, half);
        value += y->weight[i] * row;
    }
    return value;
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
    long width = job->width, channels = job->channels, plane = job->height * width;
    for (long x = 0; x < width; x++) {
        long at = y * width + x;
        float to_x = (float)x + job->flow[at] / STRIDE, to_y = (float)y + job->flow[plane + at] / STRIDE;
        Taps columns = cubic ? bicubic(to_x, width) : bilinear(to_x, width);
        Taps rows = cubic ? bicubic(to_y, job->height) : bilinear(to_y, job->height);
        for (long c = 0; c < channels; c += LANES) {
            Floats warped = sample(job->previous, width, channels, &rows, &columns, cubic ? 4 : 2, c, 0);
            Floats apart = load(job->feature, at * channels + c, half) - warped;
            store(job->warped, at * channels + c, warped, 0);
            store(job->difference, at * (channels + 3) + c, select((Words)(apart < 0), -apart, apart), half);
        }
        /* The source's differences are about a tenth of the features'. */
        for (long c = 0; c < 3; c++)
            set(job->difference, at * (channels + 3) + channels + c, 10 * job->unexplained[c * plane + at], half);
    }
}

static void follow_part(const void *data, long y)
{
    const Follow *job = data;
    if (job->cubic && job->half)
        follow_row(job, y, 1, 1);
    else if (job->cubic)
        follow_row(job, y, 1, 0);
    else
        follow_row(job, y, 0, job->half);
}

/* The previous feature (height, width, channels) float32, sampled along flow (2, height, width) float32 in pixels of the frame ->
 * warped, like it, and difference (height, width, channels + 3): |feature - warped| and 10 unexplained (3, height, width) float32. */
EXPORT void follow(Fork fork, int threads, const float *previous, const float *flow, const void *feature, const float *unexplained,
                   long height, long width, long channels, int cubic, float *warped, void *difference, int half)
{
    Follow job = {previous, flow, unexplained, feature, warped, difference, height, width, channels, cubic, half};
    share(fork, threads, follow_part, &job, height);
}

typedef struct {
    const void *feature, *mask;
    const float *warped, *flow, *change;
    float *composite, *blended;
    long height, width, channels;
    float still, hold, coherence, refresh;
    int half;
} Blend;

static void blend_part(const void *data, long y)
{
    const Blend *job = data;
    for (long x = 0; x < job->width; x++) {
        long at = y * job->width + x;
        int moved = job->flow[at] != 0 || job->flow[job->height * job->width + at] != 0;
        float mask = sigmoid((Floats){0} + get(job->mask, at, job->half))[0];
        if (job->change && job->change[at] < job->still)
            mask += (1 - mask) * mask * job->hold * (1 - job->change[at] / job->still);
        mask *= job->coherence * (1 - job->refresh * (float)moved);
        job->blended[at] = mask;
        for (long c = at * job->channels; c < (at + 1) * job->channels; c += LANES) {
            Floats feature = load(job->feature, c, job->half), composite = feature + mask * (load(job->warped, c, 0) - feature);
            store(job->composite, c, composite, 0);
        }
    }
}

/* Eq. 3: feature and warped (height, width, channels), mask (height, width) before its sigmoid, change (height, width) float32 or
 * NULL -> composite (height, width, channels)
 * and the mask as it was blended (height, width), both float32. */
EXPORT void blend(Fork fork, int threads, const void *feature, const float *warped, const void *mask, const float *flow,
                  const float *change, long height, long width, long channels, float still, float hold, float coherence, float refresh, float *composite, float *blended,
                  int half)
{
    Blend job = {feature, mask,   warped, flow,  change, composite, blended,
                 height,  width,  channels, still, hold,  coherence, refresh, half};
    share(fork, threads, blend_part, &job, height);
}

/* --- a level of LitePWCNet -------------------------------------------------------------------------------------------- */

enum { MOST_DISPLACEMENTS = 49, MOST_ACROSS = 7 };

typedef struct {
    const void *here, *there;
    const float *flow;
    void *known;
    float *planes; /* there, warped: (channels, height + 2 radius, columns), 0 around */
    float *lines;  /* a row of here for each of the rows: (height, channels, lanes of width) */
    long height, width, channels, radius, columns;
    float pixels;
    int half;
} Match;

INLINE long lanes(long width)
{
    return (width + LANES - 1) / LANES * LANES;
}

INLINE void warp_row(const Match *job, long y, int half)
{
    long channels = job->channels, plane = job->height * job->width, line = lanes(job->width);
    long stride = (job->height + 2 * job->radius) * job->columns;
    float *warped = job->planes + (y + job->radius) * job->columns + job->radius, *own = job->lines + y * channels * line;
    for (long x = 0; x < job->width; x++) {
        long at = y * job->width + x;
        Taps columns = bilinear((float)x + job->flow[at] * job->pixels, job->width);
        Taps rows = bilinear((float)y + job->flow[plane + at] * job->pixels, job->height);
        for (long c = 0; c < channels; c += LANES) {
            Floats values = sample(job->there, job->width, channels, &rows, &columns, 2, c, half);
            Floats here = load(job->here, at * channels + c, half);
            for (long lane = 0; lane < LANES; lane++) {
                warped[(c + lane) * stride + x] = values[lane];
                own[(c + lane) * line + x] = here[lane];
            }
        }
    }
}

static void warp_part(const void *data, long y)
{
    const Match *job = data;
    if (job->half)
        warp_row(job, y, 1);
    else
        warp_row(job, y, 0);
}

INLINE void volume_row(const Match *job, long y, long radius, int half)
{
    long channels = job->channels, across = 2 * radius + 1, volume = across * across, all = volume + channels + 2;
    long stride = (job->height + 2 * radius) * job->columns, plane = job->height * job->width, line = lanes(job->width);
    for (long first = 0; first < job->width; first += LANES) {
        Floats values[MOST_DISPLACEMENTS];
        const float *own = job->lines + y * channels * line + first;
        for (long dy = 0; dy < across; dy++) {
            const float *warped = job->planes + (y + dy) * job->columns + first;
            Floats sums[MOST_ACROSS] = {0};
            for (long c = 0; c < channels; c++) {
                Floats here = load(own, c * line, 0);
                for (long dx = 0; dx < across; dx++)
                    sums[dx] += here * load(warped, c * stride + dx, 0);
            }
            for (long dx = 0; dx < across; dx++) {
                Floats product = sums[dx] / (float)channels;
                values[dy * across + dx] = select((Words)(product > 0), product, product * 0.1f);
            }
        }
        for (long x = first; x < first + LANES && x < job->width; x++) {
            long at = y * job->width + x;
            for (long n = 0; n < volume; n++)
                set(job->known, at * all + n, values[n][x - first], half);
            long size = half ? 2 : 4;
            memcpy((char *)job->known + (at * all + volume) * size, (const char *)job->here + at * channels * size, channels * size);
            for (long n = 0; n < 2; n++)
                set(job->known, at * all + volume + channels + n, job->flow[n * plane + at], half);
        }
    }
}

static void volume_part(const void *data, long y)
{
    const Match *job = data;
    switch (job->radius * 2 + job->half) {
    case 4: volume_row(job, y, 2, 0); break;
    case 5: volume_row(job, y, 2, 1); break;
    case 6: volume_row(job, y, 3, 0); break;
    case 7: volume_row(job, y, 3, 1); break;
    }
}

/* What a level's estimator sees: here and there (height, width, channels), flow (2, height, width) float32, of which 1 is
 * `pixels` pixels of this level -> known (height, width, (2 radius + 1)^2 + channels + 2): the cost volume of here with there sampled along
 * the flow, through a leaky ReLU, here, and the flow. radius: 2 or 3. Returns 0, or -1 without memory. */
EXPORT int match(Fork fork, int threads, const void *here, const void *there, const float *flow, float pixels, long height, long width,
                 long channels, long radius, void *known, int half)
{
    long columns = lanes(width) + 2 * radius;
    float *planes = calloc(channels * (height + 2 * radius) * columns, sizeof *planes);
    float *lines = malloc(height * channels * lanes(width) * sizeof *lines);
    if (planes && lines) {
        Match job = {here, there, flow, known, planes, lines, height, width, channels, radius, columns, pixels, half};
        share(fork, threads, warp_part, &job, height);
        share(fork, threads, volume_part, &job, height);
    }
    int result = planes && lines ? 0 : -1;
    free(planes);
    free(lines);
    return result;
}
