/* Samples in vectors as wide as the CPU's own, and what is done to them. */

#ifndef SIMD_H
#define SIMD_H

#include "operations.h"
#include "parallel.h"

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Floats of the CPU's own vectors: wider ones would be kept in memory. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float VecF32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t VecU32 __attribute__((vector_size(4 * LANES)));
typedef int32_t VecI32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t VecU16 __attribute__((vector_size(2 * LANES)));

/* Keeps a value in a register: GCC would load it anew for each use. */
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(value) __asm__("" : "+v"(value))
#else
#define KEEP_IN_REGISTER(value) (void)0
#endif

/* Hides what is known of a pointer: GCC would keep what one step of a loop has loaded for the next
 * one, and sums in memory for it. */
#define HIDE_POINTER(pointer) __asm__("" : "+r"(pointer))

INLINE long sample_size(int dtype) /* in bytes */
{
    return dtype == FLOAT32 ? 4 : 2;
}

INLINE uint16_t to_bfloat16(float value) /* to the nearest, ties to even */
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

INLINE float from_bfloat16(uint16_t sample) {
    uint32_t word = (uint32_t)sample << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

INLINE void store_one(void *samples, long at, float value, int dtype) {
    if (dtype != FLOAT32)
        ((uint16_t *)samples)[at] = to_bfloat16(value);
    else
        ((float *)samples)[at] = value;
}

INLINE VecU32 widen_u16(VecU16 halves) /* GCC 12 does it in two parts, and puts these together */
{
#if defined(__AVX512F__)
    return (VecU32)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
    return (VecU32)_mm256_cvtepu16_epi32((__m128i)halves);
#else
    return __builtin_convertvector(halves, VecU32);
#endif
}

INLINE VecF32 load(const void *samples, long at, int dtype) {
    VecF32 values;
#if defined(__F16C__)
    if (dtype == FLOAT16) {
        VecU16 halves;
        memcpy(&halves, (const uint16_t *)samples + at, sizeof halves);
#if defined(__AVX512F__)
        return (VecF32)_mm512_cvtph_ps((__m256i)halves);
#else
        return (VecF32)_mm256_cvtph_ps((__m128i)halves);
#endif
    }
#endif
    if (dtype != FLOAT32) {
        VecU16 halves;
        memcpy(&halves, (const uint16_t *)samples + at, sizeof halves);
        VecU32 words = widen_u16(halves) << 16;
        memcpy(&values, &words, sizeof values);
    } else {
        memcpy(&values, (const float *)samples + at, sizeof values);
    }
    return values;
}

INLINE VecF32 load_partial(const float *samples,
                           long count) /* beyond `count` what is less than all */
{
    if (count >= LANES)
        return load(samples, 0, FLOAT32);
    VecF32 values = (VecF32){0} - __builtin_inff();
    for (long n = 0; n < count; n++)
        values[n] = samples[n];
    return values;
}

INLINE void store(void *samples, long at, VecF32 values, int dtype) {
#if defined(__F16C__)
    if (dtype == FLOAT16) {
#if defined(__AVX512F__)
        VecU16 halves =
            (VecU16)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
        VecU16 halves =
            (VecU16)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
        memcpy((uint16_t *)samples + at, &halves, sizeof halves);
        return;
    }
#endif
    if (dtype != FLOAT32) {
#if defined(__AVX512BF16__)
        __m256bh halves = _mm512_cvtneps_pbh((__m512)values);
#else
        VecU32 words;
        memcpy(&words, &values, sizeof words);
        VecU16 halves = __builtin_convertvector((words + 0x7fff + (words >> 16 & 1)) >> 16, VecU16);
#endif
        memcpy((uint16_t *)samples + at, &halves, sizeof halves);
    } else {
        memcpy((float *)samples + at, &values, sizeof values);
    }
}

/* To each lane, the product of those lanes' float32; of `bf16`, those of the two bfloat16 in each.
 */
INLINE VecF32 dot_lanes(VecF32 sum, VecU32 these, VecU32 those, int bf16) {
    VecF32 a, b;
    if (bf16) {
#if defined(__AVX512BF16__)
        return (VecF32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)these, (__m512bh)those);
#else
        VecU32 first = these << 16, other = those << 16;
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

/* To each lane, the product of the float32 at `word` with that lane of `words`; of `bf16`, those
 * of the two bfloat16 there with the lane's two. */
INLINE VecF32 dot_broadcast(VecF32 sum, const void *word, VecU32 words, int bf16) {
    uint32_t pair;
    float value;
    memcpy(&pair, word, sizeof pair);
    if (bf16)
        return dot_lanes(sum, pair + (VecU32){0}, words, 1);
    VecF32 values;
    memcpy(&value, word, sizeof value);
    memcpy(&values, &words, sizeof values);
    return sum + (value - (VecF32){0}) * values; /* a sum would cost one: it turns -0 into 0 */
}

INLINE VecU32 load_words(const uint32_t *words) {
    VecU32 vector;
    memcpy(&vector, words, sizeof vector);
    return vector;
}

INLINE void store_words(uint32_t *words, VecU32 vector) {
    memcpy(words, &vector, sizeof vector);
}

INLINE VecF32 vec_select(VecU32 condition, VecF32 yes,
                         VecF32 no) /* condition: all bits of a lane, or none */
{
    VecU32 a, b;
    memcpy(&a, &yes, sizeof a);
    memcpy(&b, &no, sizeof b);
    a = (condition & a) | (~condition & b);
    memcpy(&yes, &a, sizeof yes);
    return yes;
}

INLINE VecF32 vec_max(VecF32 a, VecF32 b) /* b where a is no number */
{
#if defined(__AVX512F__)
    return (VecF32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (VecF32)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (VecF32)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vec_select((VecU32)(a > b), a, b);
#endif
}

INLINE VecF32 vec_clamp(VecF32 x, float low, float high) /* what is no number is low */
{
    VecF32 least = (VecF32){0} + low, most = (VecF32){0} + high;
    x = vec_max(x, least);
    return vec_select((VecU32)(x > most), most, x);
}

INLINE VecF32 vec_round(VecF32 x) /* to the nearest integer, ties to even; of -2^22 to 2^22 */
{
    VecF32 round = (VecF32){0} + 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer */
    return (x + round) - round;
}

INLINE VecF32
vec_exp(VecF32 x) /* of -87 to 87, and of their bounds beyond; relative error below 1e-6 */
{
    VecF32 limit = (VecF32){0} + 87;
    x = vec_select((VecU32)(x > limit), limit, vec_select((VecU32)(x < -limit), -limit, x));
    /* exp(x) = 2^n exp(r), |r| <= ln 2 / 2: n by rounding, exp(r) by its series. */
    VecF32 t = x * 1.44269504f, n = vec_round(t), r = (t - n) * 0.693147181f;
    VecF32 e =
        1 +
        r * (1 + r * (0.5f + r * (0.166666667f + r * (0.0416666667f +
                                                      r * (8.33333333e-3f + r * 1.38888889e-3f)))));
    VecU32 power;
    VecF32 shifted = n + (12582912.0f + 127), scale;
    memcpy(&power, &shifted, sizeof power);
    power <<= 23;
    memcpy(&scale, &power, sizeof scale);
    return e * scale;
}

INLINE VecF32 vec_sigmoid(VecF32 x) {
    return 1 / (1 + vec_exp(-x));
}

/* Of LANES vectors, the lanes that differ from their vector's number in the bit s change places
 * with it. Unrolled, all of this but the shuffles is constant. */
INLINE void exchange_lanes(VecF32 *v, int s) {
    VecU32 low, high;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        low[lane] = (uint32_t)(lane & s ? LANES + lane - s : lane);
        high[lane] = (uint32_t)(lane & s ? LANES + lane : lane + s);
    }
#pragma GCC unroll 16
    for (int n = 0; n < LANES; n++)
        if (!(n & s)) {
            VecF32 a = v[n], b = v[n + s];
            v[n] = __builtin_shuffle(a, b, low);
            v[n + s] = __builtin_shuffle(a, b, high);
        }
}

/* LANES vectors, of which each becomes one lane of all. */
INLINE void transpose(VecF32 *v) {
#if LANES == 16
    exchange_lanes(v, 8);
#endif
#if LANES >= 8
    exchange_lanes(v, 4);
#endif
    exchange_lanes(v, 2);
    exchange_lanes(v, 1);
}

/* Pairs of bfloat16, of which `a` is the first. */
INLINE VecU32 pair_up(VecF32 a, VecF32 b) {
    VecU16 first, second;
    store(&first, 0, a, BFLOAT16);
    store(&second, 0, b, BFLOAT16);
    return widen_u16(first) | widen_u16(second) << 16;
}

/* Of LANES vectors, each one's sum of its lanes. */
INLINE VecF32 horizontal_sums(VecF32 *rows) {
    transpose(rows);
    VecF32 sum = rows[0];
    for (long n = 1; n < LANES; n++)
        sum += rows[n];
    return sum;
}

INLINE long padded_channels(long channels) /* to the next multiple of 16 */
{
    return (channels + 15) / 16 * 16;
}

INLINE long padded_lanes(long count) /* to whole vectors */
{
    return (count + LANES - 1) / LANES * LANES;
}

INLINE long remaining(long first, long size, long most) /* how many of `most` from `first` on */
{
    return size - first < most ? size - first : most;
}

INLINE long half_up(long size) /* rounded up */
{
    return (size + 1) / 2;
}

INLINE float max_float(float a, float b) {
    return a > b ? a : b;
}

INLINE long max_long(long a, long b) {
    return a > b ? a : b;
}

INLINE long clamp_index(long value, long last) {
    return value < 0 ? 0 : value > last ? last : value;
}

INLINE long reflect_index(long value,
                          long last) /* about the first and the last, which are not repeated */
{
    value = value < 0 ? -value : value;
    return clamp_index(value > last ? 2 * last - value : value, last);
}

INLINE float clamp_float(float value, float low, float high) {
    return !(value > low) ? low : value > high ? high : value; /* what is no number is low */
}

/* Adds to sums and, `channels` further on, sums of squares, those of `count` values, whose sum and
 * squares' sum were taken about a value. */
INLINE void add_moments(double *sums, long channels, VecF32 shift, VecF32 sum, VecF32 square,
                        long count) {
    for (long lane = 0; lane < LANES; lane++) {
        double a = shift[lane], s = sum[lane];
        sums[lane] += s + (double)count * a;
        sums[channels + lane] += square[lane] + 2 * a * s + (double)count * a * a;
    }
}

#endif
