/* What the kernels share: threads, and samples in vectors. Each exported function returns 0, or -1
 * without memory. */

#ifndef KERNELS_H
#define KERNELS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* --- threads
 * -------------------------------------------------------------------------------------------------------
 */

/* GOMP_parallel of the OpenMP runtime that PyTorch has loaded, so that its workers, awake from the
 * convolution before, do this, too; NULL: this thread alone. */
typedef void (*Fork)(void (*)(void *), void *, unsigned, unsigned);

/* omp_get_thread_num of that runtime; NULL: there is none. */
extern int (*worker_number)(void);

enum { MOST_WORKERS = 64 };

/* Parts in order, a range of them for each worker: what a worker made of a picture's rows is in its
 * own core's caches for the next layer. Who has done his own takes of the others'. */
typedef struct {
    void (*part)(const void *, long);
    void (*part_in_room)(const void *, long,
                         float *); /* or this, with room of `size` floats for each worker */
    const void *job;
    float *room;
    long parts, size;
    int workers;
    struct {
        _Alignas(64) atomic_long next;
    } ranges[MOST_WORKERS];
} Work;

static inline void drain(void *data) {
    Work *work = data;
    int number = work->workers > 1 ? worker_number() : 0;
    for (int n = 0; n < work->workers; n++) {
        int range = (number + n) % work->workers;
        long end = work->parts * (range + 1) / work->workers;
        for (long part; (part = atomic_fetch_add(&work->ranges[range].next, 1)) < end;)
            if (work->part_in_room)
                work->part_in_room(work->job, part, work->room + number * work->size);
            else
                work->part(work->job, part);
    }
}

static inline int workers_for(Fork fork, int threads, long parts) {
    int most = threads < MOST_WORKERS ? threads : MOST_WORKERS;
    return !fork || !worker_number || most < 2 || parts < 2 ? 1 : most < parts ? most : (int)parts;
}

static inline void run(Fork fork, Work *work) {
    for (int n = 0; n < work->workers; n++)
        atomic_init(&work->ranges[n].next, work->parts * n / work->workers);
    if (work->workers > 1)
        fork(drain, work, (unsigned)work->workers, 0);
    else
        drain(work);
}

static inline void share(Fork fork, int threads, void (*part)(const void *, long), const void *job,
                         long parts) {
    Work work = {
        .part = part, .job = job, .parts = parts, .workers = workers_for(fork, threads, parts)};
    run(fork, &work);
}

INLINE long floats_for(long samples, int half) /* in whole lines of a cache */
{
    return ((half ? (samples + 1) / 2 : samples) + 15) / 16 * 16;
}

INLINE float *room_for(long floats) /* NULL without memory */
{
    return aligned_alloc(64, (size_t)floats * sizeof(float));
}

enum { FIRST = 16 }; /* samples */

/* As `share`, and each worker has room for `size` floats, FIRST or more, of which the first of all
 * are 0 at first; its parts begin with what the last one left. Returns 0, or -1 without memory. */
static inline int share_in_room(Fork fork, int threads, void (*part)(const void *, long, float *),
                                const void *job, long parts, long size) {
    int workers = workers_for(fork, threads, parts);
    long padded = floats_for(size, 0);
    Work work = {.part_in_room = part,
                 .job = job,
                 .parts = parts,
                 .size = padded,
                 .workers = workers,
                 .room = room_for(workers * padded)};
    if (!work.room)
        return -1;
    for (int n = 0; n < workers; n++)
        memset(work.room + n * padded, 0, FIRST * sizeof *work.room);
    run(fork, &work);
    free(work.room);
    return 0;
}

/* --- samples
 * -------------------------------------------------------------------------------------------------------
 */

/* Floats of the CPU's own vectors: wider ones would be kept in memory. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

/* Keeps a value in a register: GCC would load it anew for each use. */
#if defined(__x86_64__)
#define KEEP(value) __asm__("" : "+v"(value))
#else
#define KEEP(value) (void)0
#endif

/* Hides what is known of a pointer: GCC would keep what one step of a loop has loaded for the next
 * one, and sums in memory for it. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

INLINE uint16_t to_half(float value) /* to the nearest, ties to even */
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

INLINE float from_half(uint16_t half) {
    uint32_t word = (uint32_t)half << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

INLINE void set(void *samples, long at, float value, int half) {
    if (half)
        ((uint16_t *)samples)[at] = to_half(value);
    else
        ((float *)samples)[at] = value;
}

INLINE Words widened(Halves halves) /* GCC 12 does it in two parts, and puts these together */
{
#if defined(__AVX512F__)
    return (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
    return (Words)_mm256_cvtepu16_epi32((__m128i)halves);
#else
    return __builtin_convertvector(halves, Words);
#endif
}

/* "half" of what `compose` keeps, where the CPU has F16C. */
enum { FLOAT16 = 2 };

INLINE Floats load(const void *samples, long at, int half) {
    Floats values;
#if defined(__F16C__)
    if (half == FLOAT16) {
        Halves halves;
        memcpy(&halves, (const uint16_t *)samples + at, sizeof halves);
#if defined(__AVX512F__)
        return (Floats)_mm512_cvtph_ps((__m256i)halves);
#else
        return (Floats)_mm256_cvtph_ps((__m128i)halves);
#endif
    }
#endif
    if (half) {
        Halves halves;
        memcpy(&halves, (const uint16_t *)samples + at, sizeof halves);
        Words words = widened(halves) << 16;
        memcpy(&values, &words, sizeof values);
    } else {
        memcpy(&values, (const float *)samples + at, sizeof values);
    }
    return values;
}

INLINE Floats load_some(const float *samples, long count) /* beyond `count` what is less than all */
{
    if (count >= LANES)
        return load(samples, 0, 0);
    Floats values = (Floats){0} - __builtin_inff();
    for (long n = 0; n < count; n++)
        values[n] = samples[n];
    return values;
}

INLINE void store(void *samples, long at, Floats values, int half) {
#if defined(__F16C__)
    if (half == FLOAT16) {
#if defined(__AVX512F__)
        Halves halves =
            (Halves)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
        Halves halves =
            (Halves)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
        memcpy((uint16_t *)samples + at, &halves, sizeof halves);
        return;
    }
#endif
    if (half) {
#if defined(__AVX512BF16__)
        __m256bh halves = _mm512_cvtneps_pbh((__m512)values);
#else
        Words words;
        memcpy(&words, &values, sizeof words);
        Halves halves = __builtin_convertvector((words + 0x7fff + (words >> 16 & 1)) >> 16, Halves);
#endif
        memcpy((uint16_t *)samples + at, &halves, sizeof halves);
    } else {
        memcpy((float *)samples + at, &values, sizeof values);
    }
}

/* To each lane, the product of those lanes' float32; of `pairs`, those of the two bfloat16 in each.
 */
INLINE Floats add_lanes(Floats sum, Words these, Words those, int pairs) {
    Floats a, b;
    if (pairs) {
#if defined(__AVX512BF16__)
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)these, (__m512bh)those);
#else
        Words first = these << 16, other = those << 16;
        memcpy(&a, &first, sizeof a);
        memcpy(&b, &other, sizeof b);
        sum += a * b;
        these &= 0xffff0000, those &= 0xffff0000;
#endif
    }
    memcpy(&a, &these, sizeof a);
    memcpy(&b, &those, sizeof b);
    return sum + a * b;
}

/* To each lane, the product of the float32 at `word` with that lane of `words`; of `pairs`, those
 * of the two bfloat16 there with the lane's two. */
INLINE Floats add_products(Floats sum, const void *word, Words words, int pairs) {
    uint32_t pair;
    float value;
    memcpy(&pair, word, sizeof pair);
    if (pairs)
        return add_lanes(sum, pair + (Words){0}, words, 1);
    Floats values;
    memcpy(&value, word, sizeof value);
    memcpy(&values, &words, sizeof values);
    return sum + (value - (Floats){0}) * values; /* a sum would cost one: it turns -0 into 0 */
}

INLINE Words load_words(const uint32_t *words) {
    Words vector;
    memcpy(&vector, words, sizeof vector);
    return vector;
}

INLINE void store_words(uint32_t *words, Words vector) {
    memcpy(words, &vector, sizeof vector);
}

INLINE Floats select(Words condition, Floats yes,
                     Floats no) /* condition: all bits of a lane, or none */
{
    Words a, b;
    memcpy(&a, &yes, sizeof a);
    memcpy(&b, &no, sizeof b);
    a = (condition & a) | (~condition & b);
    memcpy(&yes, &a, sizeof yes);
    return yes;
}

INLINE Floats maximum(Floats a, Floats b) /* b where a is no number */
{
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (Floats)_mm_max_ps((__m128)a, (__m128)b);
#else
    return select((Words)(a > b), a, b);
#endif
}

INLINE Floats between(Floats x, float low, float high) /* what is no number is low */
{
    Floats least = (Floats){0} + low, most = (Floats){0} + high;
    x = maximum(x, least);
    return select((Words)(x > most), most, x);
}

INLINE Floats rounded(Floats x) /* to the nearest integer, ties to even; of -2^22 to 2^22 */
{
    Floats round = (Floats){0} + 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer */
    return (x + round) - round;
}

INLINE Floats
exponential(Floats x) /* of -87 to 87, and of their bounds beyond; relative error below 1e-6 */
{
    Floats limit = (Floats){0} + 87;
    x = select((Words)(x > limit), limit, select((Words)(x < -limit), -limit, x));
    /* exp(x) = 2^n exp(r), |r| <= ln 2 / 2: n by rounding, exp(r) by its series. */
    Floats t = x * 1.44269504f, n = rounded(t), r = (t - n) * 0.693147181f;
    Floats e =
        1 +
        r * (1 + r * (0.5f + r * (0.166666667f + r * (0.0416666667f +
                                                      r * (8.33333333e-3f + r * 1.38888889e-3f)))));
    Words power;
    Floats shifted = n + (12582912.0f + 127), scale;
    memcpy(&power, &shifted, sizeof power);
    power <<= 23;
    memcpy(&scale, &power, sizeof scale);
    return e * scale;
}

INLINE Floats sigmoid(Floats x) {
    return 1 / (1 + exponential(-x));
}

/* Of LANES vectors, the lanes that differ from their vector's number in the bit s change places
 * with it. Unrolled, all of this but the shuffles is constant. */
INLINE void exchange(Floats *v, int s) {
    Words low, high;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        low[lane] = (uint32_t)(lane & s ? LANES + lane - s : lane);
        high[lane] = (uint32_t)(lane & s ? LANES + lane : lane + s);
    }
#pragma GCC unroll 16
    for (int n = 0; n < LANES; n++)
        if (!(n & s)) {
            Floats a = v[n], b = v[n + s];
            v[n] = __builtin_shuffle(a, b, low);
            v[n + s] = __builtin_shuffle(a, b, high);
        }
}

/* LANES vectors, of which each becomes one lane of all. */
INLINE void transpose(Floats *v) {
#if LANES == 16
    exchange(v, 8);
#endif
#if LANES >= 8
    exchange(v, 4);
#endif
    exchange(v, 2);
    exchange(v, 1);
}

/* Pairs of bfloat16, of which `a` is the first. */
INLINE Words pair_up(Floats a, Floats b) {
    Halves first, second;
    store(&first, 0, a, 1);
    store(&second, 0, b, 1);
    return widened(first) | widened(second) << 16;
}

/* Of LANES vectors, each one's sum of its lanes. */
INLINE Floats totals(Floats *rows) {
    transpose(rows);
    Floats sum = rows[0];
    for (long n = 1; n < LANES; n++)
        sum += rows[n];
    return sum;
}

enum { COLORS = 3, STRIDE = 4 }; /* of a frame; of its features */

INLINE long whole(long channels) /* to the next multiple of 16 */
{
    return (channels + 15) / 16 * 16;
}

INLINE long lanes(long count) /* to whole vectors */
{
    return (count + LANES - 1) / LANES * LANES;
}

INLINE long remaining(long first, long size, long most) /* how many of `most` from `first` on */
{
    return size - first < most ? size - first : most;
}

INLINE long half_of(long size) /* rounded up */
{
    return (size + 1) / 2;
}

INLINE long largest(long a, long b) {
    return a > b ? a : b;
}

INLINE long clamp(long value, long last) {
    return value < 0 ? 0 : value > last ? last : value;
}

INLINE long reflect(long value,
                    long last) /* about the first and the last, which are not repeated */
{
    value = value < 0 ? -value : value;
    return clamp(value > last ? 2 * last - value : value, last);
}

INLINE float bounded(float value, float low, float high) {
    return !(value > low) ? low : value > high ? high : value; /* what is no number is low */
}

/* Adds to sums and, `channels` further on, sums of squares, those of `count` values, whose sum and
 * squares' sum were taken about a value. */
INLINE void add_sums(double *sums, long channels, Floats about, Floats sum, Floats square,
                     long count) {
    for (long lane = 0; lane < LANES; lane++) {
        double a = about[lane], s = sum[lane];
        sums[lane] += s + (double)count * a;
        sums[channels + lane] += square[lane] + 2 * a * s + (double)count * a * a;
    }
}

/* --- along a flow
 * --------------------------------------------------------------------------------------------------
 */

/* Of LANES places on a line: samples, and their shares. */
typedef struct {
    int32_t at[4][LANES];
    float weight[4][LANES];
} Taps;

/* Samples of a line of `size` from `first` on, the border repeated, and their weights. */
INLINE void take(Taps *taps, Integers first, const Floats *weights, long count, long size) {
    Integers last = (Integers){0} + (int)(size - 1);
    for (long n = 0; n < count; n++) {
        Integers at = first + (int)n, before = at<0, behind = at> last;
        at = (at & ~before & ~behind) | (last & behind);
        memcpy(taps->at[n], &at, sizeof at);
        memcpy(taps->weight[n], &weights[n], sizeof *weights);
    }
}

INLINE void bilinear(Taps *taps, Floats place, long size) {
    place = between(place, 0, (float)(size - 1));
    Integers left = __builtin_convertvector(place, Integers);
    Floats t = place - __builtin_convertvector(left, Floats);
    take(taps, left, (Floats[]){1 - t, t}, 2, size);
}

INLINE void bicubic(Taps *taps, Floats place, long size) /* Keys's kernel */
{
    const float a = -0.5f;
    place = between(place, -2, (float)size + 1); /* further out all is border */
    Integers left = __builtin_convertvector(place + 2, Integers) - 2;
    Floats t = place - __builtin_convertvector(left, Floats), s = 1 - t;
    Floats outer = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
           other = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
    take(taps, left - 1,
         (Floats[]){outer, ((a + 2) * t - (a + 3)) * t * t + 1, ((a + 2) * s - (a + 3)) * s * s + 1,
                    other},
         4, size);
}

/* Where LANES pixels of a row lead to. */
typedef struct {
    Taps rows, columns;
} Places;

/* Of row y from `first` on, by the flow (2, height, width) times `pixels`. */
INLINE void follow_flow(Places *places, const float *flow, float pixels, long y, long first,
                        long height, long width, int cubic) {
    long start = y * width + first, count = remaining(first, width, LANES);
    Floats x, across = load_some(flow + start, count),
              down = load_some(flow + height * width + start, count);
    for (long n = 0; n < LANES; n++)
        x[n] = (float)(first + n);
    across = x + across * pixels;
    down = (float)y + down * pixels;
    if (cubic) {
        bicubic(&places->columns, across, width);
        bicubic(&places->rows, down, height);
    } else {
        bilinear(&places->columns, across, width);
        bilinear(&places->rows, down, height);
    }
}

/* One of them: its lines' and columns' first samples. */
typedef struct {
    long rows[4], columns[4];
    float row_weights[4], column_weights[4];
} Place;

INLINE void place_of(Place *place, const Places *places, long n, long taps, long width,
                     long channels) {
    for (long i = 0; i < taps; i++) {
        place->rows[i] = places->rows.at[i][n] * width * channels;
        place->columns[i] = places->columns.at[i][n] * channels;
        place->row_weights[i] = places->rows.weight[i][n];
        place->column_weights[i] = places->columns.weight[i][n];
    }
}

INLINE Floats sample(const void *source, const Place *place, long taps, long c, int half) {
    Floats value = {0};
    for (long i = 0; i < taps; i++) {
        Floats row = {0};
        for (long j = 0; j < taps; j++)
            row += place->column_weights[j] *
                   load(source, place->rows[i] + place->columns[j] + c, half);
        value += place->row_weights[i] * row;
    }
    return value;
}

/* --- layers
 * --------------------------------------------------------------------------------------------------------
 */

/* What a convolution is, whatever the picture; `convolve` says what is what. In __init__.py it is
 * _Layer. */
typedef struct {
    const void *weight;
    const float *bias, *norm_weight, *norm_bias;
    long inputs, outputs, reach;
    float slope, eps;
    int pairs, tiled, reflects;
} Layer;

enum { ENLARGING = 4, HALVING = 7 }; /* of a layer, its reach */

INLINE long size_after(const Layer *layer, long size) /* of what comes out, from x's */
{
    return layer->reach == ENLARGING ? 2 * size : layer->reach == HALVING ? half_of(size) : size;
}

/* Where a line of x is that is `place`; -1: beyond a border of 0. */
INLINE long line_at(long place, long size, long reach, int reflects) {
    if (reflects) /* of what is enlarged, the reflection is the edge repeated */
        return reach == ENLARGING ? clamp(place, size - 1) : reflect(place, size - 1);
    return place >= 0 && place < size ? place : -1;
}

/* As `convolve`, whose layer is `tiled`. */
int convolve_tiled(Fork fork, int threads, const void *x, long height, long width,
                   const Layer *layer, const float *scale, int relu, float *norm, void *out,
                   int half, int half_out);

/* `count` convolutions of stride 1, each of what the one before gives, and one to few outputs, of
 * which weight and bias are `few`'s. In __init__.py it is _Chain. */
typedef struct {
    const Layer *layers;
    long count;
    const float *weight, *bias;
    long outputs;
} Chain;

/* x (height, width, whole(inputs)) -> (outputs, height, width) float32. base: added to it; may be
 * NULL. */
int chain(Fork fork, int threads, const void *x, long height, long width, const void *chain,
          const float *base, float *out, int half);

/* The start of LitePWCNet: the flow to what matches best. In __init__.py it is _Start. */
typedef struct {
    const void *weight; /* and bias, pairs: of `compare` */
    const float *bias;
    int pairs;
    float sure;
} Start;

/* A level's estimator, the channels of its features, the radius of its cost volume, and of its
 * pixels what 1 of a flow is. In __init__.py it is _Estimator. */
typedef struct {
    Chain chain;
    long channels, radius;
    float pixels;
} Estimator;

/* The sums of `count` values, in parts as `add_sums` makes them -> scales and shifts as `convolve`
 * has them. */
void normalising(const double *sums, long parts, long channels, double count, const float *weight,
                 const float *bias, float eps, float *scale);

int normalise(Fork fork, int threads, const void *x, long height, long width, long channels,
              const float *scale, int relu, const void *residual, void *out, int half);

/* How alike two pictures are, place by place: of here and there (height, width, channels) a 1x1
 * convolution to as many channels, and the products of what it gives -> scores (places, places)
 * float32: of each of here with each of there. With `squares`, of each 2x2 the mean is a place.
 *
 * weight: (channels / 16, channels, 16) float32; with `pairs` bfloat16, (channels / 16, channels /
 * 2, 16, 2). bias: (channels). */
int compare(Fork fork, int threads, const void *here, const void *there, long height, long width,
            long channels, const void *weight, const float *bias, int pairs, int squares,
            float *scores, int half);

/* --- hosts' pictures
 * -----------------------------------------------------------------------------------------------
 */

/* A component's samples: the first one, and bytes to the next row and to the next sample. In
 * __init__.py it is _Component. */
typedef struct {
    char *samples;
    long row, step;
} Component;

#endif
