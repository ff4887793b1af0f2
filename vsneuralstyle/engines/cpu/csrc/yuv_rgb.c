/* Hosts' images, of Y, Cb and Cr or of R, G and B, to RGB and back: pixels.py says what their
 * samples mean, yuv.py where chroma lies.
 *
 * Samples are integers of one byte or two, wherever they are in the host's memory. A image's rows
 * are shared out among the team.
 */

#include "simd.h"

/* A component's samples: the first one, and bytes to the next row and to the next sample. In
 * packing.py it is _Component. */
typedef struct {
    char *samples;
    long row, step;
} Plane;

typedef struct {
    const Plane *planes; /* of Y (height, width), and of Cb and Cr (rows, columns): as many,
                                    or half as many, rounded up */
    float *rgb;          /* (3, height, width) */
    long bytes, height, width, rows, columns, cosited_rows, cosited_columns;
    const float (*map)[COLORS + 1]; /* weights, and what is added */
    float top, levels, unit;
} Image;

typedef uint8_t VecU8 __attribute__((vector_size(LANES)));

INLINE VecF32 from_bytes(const void *samples) {
    VecU8 bytes;
    memcpy(&bytes, samples, sizeof bytes);
#if defined(__AVX512F__)
    return (VecF32)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)bytes));
#else
    return __builtin_convertvector(__builtin_convertvector(bytes, VecI32), VecF32);
#endif
}

/* LANES samples, of `bytes` each, that lie `step` bytes apart; up to the next one's place all is
 * read. */
INLINE VecF32 samples_at(const char *samples, long step, long bytes) {
    VecU16 shorts;
    VecU32 words;
    if (step == 1)
        return from_bytes(samples);
    if (step == 2) {
        memcpy(&shorts, samples, sizeof shorts);
        words = widen_u16(shorts);
    } else {
        memcpy(&words, samples, sizeof words);
    }
    return __builtin_convertvector((VecI32)(words & (bytes == 1 ? 0xff : 0xffff)), VecF32);
}

/* A row's samples -> line. */
static void read_row(const Plane *from, long row, long count, long bytes, float *line) {
    const char *samples = from->samples + row * from->row;
    long x = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (from->step == 1 || from->step == 2 || from->step == 4)
        for (; x + LANES + (from->step > bytes) <= count; x += LANES)
            store(line, x, samples_at(samples + x * from->step, from->step, bytes), FLOAT32);
#endif
    for (; x < count; x++) {
        uint16_t sample; /* which may lie anywhere */
        if (bytes == 1)
            sample = *(const uint8_t *)(samples + x * from->step);
        else
            memcpy(&sample, samples + x * from->step, sizeof sample);
        line[x] = sample;
    }
}

/* Code values of a row -> its samples: rounded, limited, times the unit. */
static void write_row(const Image *job, long plane, long row, long count, float *line) {
    const Plane *to = &job->planes[plane];
    char *samples = to->samples + row * to->row;
    for (long x = 0; x < count; x += LANES) {
        VecF32 code = vec_round(vec_clamp(load(line, x, FLOAT32), 0, job->levels));
        VecI32 integers = __builtin_convertvector(code * job->unit, VecI32);
        if (to->step == job->bytes && x + LANES <= count) {
            VecU8 narrow = __builtin_convertvector(integers, VecU8);
            VecU16 shorts = __builtin_convertvector(integers, VecU16);
            if (job->bytes == 1)
                memcpy(samples + x, &narrow, sizeof narrow);
            else
                memcpy(samples + 2 * x, &shorts, sizeof shorts);
            continue;
        }
        for (long n = 0; n < remaining(x, count, LANES); n++) {
            uint16_t sample = (uint16_t)integers[n];
            if (job->bytes == 1)
                *(uint8_t *)(samples + (x + n) * to->step) = (uint8_t)sample;
            else
                memcpy(samples + (x + n) * to->step, &sample, sizeof sample);
        }
    }
}

/* Of LANES pixels the weighted sum of three components. */
INLINE VecF32 apply(const float *row, VecF32 first, VecF32 second, VecF32 third) {
    return row[0] * first + row[1] * second + row[2] * third + row[3];
}

enum {
    BESIDE = LANES
}; /* room before a line, of which the last sample repeats the line's first one */

INLINE void repeat_border(float *line, long count) {
    line[-1] = line[0];
    line[count] = line[count - 1];
}

/* The lanes of two vectors in turn, and the way back. */
INLINE void interleave(VecF32 *first, VecF32 *second) {
    VecU32 low, high;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        low[lane] = (uint32_t)(lane / 2 + (lane & 1 ? LANES : 0));
        high[lane] = low[lane] + LANES / 2;
    }
    VecF32 a = *first, b = *second;
    *first = __builtin_shuffle(a, b, low);
    *second = __builtin_shuffle(a, b, high);
}

INLINE void separate(VecF32 *first, VecF32 *second) {
    VecU32 even, odd;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        even[lane] = (uint32_t)(2 * lane);
        odd[lane] = even[lane] + 1;
    }
    VecF32 a = *first, b = *second;
    *first = __builtin_shuffle(a, b, even);
    *second = __builtin_shuffle(a, b, odd);
}

/* --- to RGB
 * ---------------------------------------------------------------------------------------------------------
 */

/* line += weight * (other - line) */
INLINE void mix(float *line, const float *other, float weight, long count) {
    for (long x = 0; x < count; x += LANES) {
        VecF32 here = load(line, x, FLOAT32);
        store(line, x, here + weight * (load(other, x, FLOAT32) - here), FLOAT32);
    }
}

INLINE void divide(float *line, float top, long count) {
    for (long x = 0; x < count && top != 1; x += LANES)
        store(line, x, load(line, x, FLOAT32) / top, FLOAT32);
}

/* A row of chroma at row y of luma -> line. spare: for another row. */
static void chroma_at(const Image *job, long plane, long y, float *line, float *spare) {
    const Plane *chroma = &job->planes[plane];
    if (job->rows == job->height) {
        read_row(chroma, y, job->columns, job->bytes, line);
        return;
    }
    long at = y / 2, other = clamp_index(y & 1               ? at + 1
                                         : job->cosited_rows ? at
                                                             : at - 1,
                                         job->rows - 1);
    read_row(chroma, at, job->columns, job->bytes, line);
    if (other != at) {
        read_row(chroma, other, job->columns, job->bytes, spare);
        mix(line, spare, job->cosited_rows ? 0.5f : 0.25f, job->columns);
    }
}

/* line (count) -> wide (2 count) */
static void widen(float *line, long count, long cosited, float *wide) {
    repeat_border(line, count);
    for (long x = 0; x < count; x += LANES) {
        VecF32 here = load(line, x, FLOAT32), first = here, second = load(line, x + 1, FLOAT32);
        if (cosited) {
            second = here + 0.5f * (second - here);
        } else {
            first = here + 0.25f * (load(line, x - 1, FLOAT32) - here);
            second = here + 0.25f * (second - here);
        }
        interleave(&first, &second);
        store(wide, 2 * x, first, FLOAT32);
        store(wide, 2 * x + LANES, second, FLOAT32);
    }
}

enum { PART = 8 }; /* rows */

INLINE long
line_scratch(long width) /* of a line, what is beside it, and what a vector may read beyond */
{
    return BESIDE + padded_lanes(width) + 2 * LANES;
}

static void planes_to_rgb_chunk(const void *data, long part, float *scratch) {
    const Image copy = *(const Image *)data, *job = &copy; /* which no store can change */
    long line = line_scratch(job->width);
    float *luma = scratch, *spare = scratch + line,
          *chroma[2] = {scratch + 2 * line + BESIDE, scratch + 3 * line + BESIDE};
    for (long y = part * PART; y < part * PART + remaining(part * PART, job->height, PART); y++) {
        const float *color[2];
        read_row(&job->planes[0], y, job->width, job->bytes, luma);
        divide(luma, job->top, job->width);
        for (long c = 0; c < 2; c++) {
            chroma_at(job, 1 + c, y, chroma[c], spare);
            divide(chroma[c], job->top, job->columns);
            color[c] = chroma[c];
            if (job->columns != job->width) {
                float *wide = scratch + (4 + c) * line;
                widen(chroma[c], job->columns, job->cosited_columns, wide);
                color[c] = wide;
            }
        }
        for (long i = 0; i < COLORS; i++) {
            float *to = job->rgb + (i * job->height + y) * job->width;
            for (long x = 0; x < job->width; x += LANES) {
                VecF32 value =
                    vec_clamp(apply(job->map[i], load(luma, x, FLOAT32), load(color[0], x, FLOAT32),
                                    load(color[1], x, FLOAT32)),
                              0, 1);
                long count = remaining(x, job->width, LANES);
                if (count == LANES)
                    store(to, x, value, FLOAT32);
                else
                    memcpy(to + x, &value, count * sizeof *to);
            }
        }
    }
}

/* components[3]: of Y (height, width), of Cb and Cr (rows, columns), as many or half as many,
 * rounded up, of `bytes` a sample -> rgb (3, height, width) float32, limited to 0..1.
 *
 * cosited: whether a sample of chroma lies on the first of its two of luma, else midway. top:
 * samples are divided by it. map: of R, G and B by what that gives. */
int planes_to_rgb(Fork fork, int threads, const void *planes, long bytes, long height, long width,
                  long rows, long columns, int cosited_rows, int cosited_columns, long top,
                  const void *map, float *rgb) {
    Image job = {planes,          rgb, bytes,      height, width, rows, columns, cosited_rows,
                 cosited_columns, map, (float)top, 0,      0};
    return parallel_for_scratch(fork, threads, planes_to_rgb_chunk, &job,
                                (height + PART - 1) / PART, 6 * line_scratch(width));
}

/* --- from RGB
 * -------------------------------------------------------------------------------------------------------
 */

static void rgb_to_planes_chunk(const void *data, long part, float *scratch) {
    const Image copy = *(const Image *)data, *job = &copy;
    long half = job->rows != job->height, halves = job->columns != job->width,
         line = line_scratch(job->width), plane = job->height * job->width;
    float *codes = scratch, *means[COLORS], *chroma = scratch + 4 * line + BESIDE;
    for (long i = 0; i < COLORS; i++)
        means[i] = scratch + (1 + i) * line;
    /* Of the rows before, of and behind one of chroma. */
    const float cosited[] = {0.25f, 0.5f, 0.25f}, midway[] = {0, 0.5f, 0.5f}, whole[] = {0, 1, 0};
    const float *down = !half ? whole : job->cosited_rows ? cosited : midway;
    for (long row = part * PART; row < part * PART + remaining(part * PART, job->rows, PART);
         row++) {
        for (long tap = 0, first = 1; tap < 3; tap++) {
            long y = (half ? 2 * row : row) + tap - 1;
            if (down[tap] == 0)
                continue;
            const float *from = job->rgb + clamp_index(y, job->height - 1) * job->width;
            for (long x = 0; x < job->width; x += LANES) {
                long count = remaining(x, job->width, LANES);
                VecF32 rgb[COLORS];
                for (long i = 0; i < COLORS; i++) {
                    rgb[i] = count == LANES ? load(from, i * plane + x, FLOAT32)
                                            : load_partial(from + i * plane + x, count);
                    VecF32 sum = down[tap] * rgb[i];
                    store(means[i], x, first ? sum : sum + load(means[i], x, FLOAT32), FLOAT32);
                }
                store(codes, x, apply(job->map[0], rgb[0], rgb[1], rgb[2]), FLOAT32);
            }
            first = 0;
            if (tap && y < job->height)
                write_row(job, 0, y, job->width, codes);
        }
        for (long c = 1; c < 3; c++) {
            for (long x = 0; x < job->width; x += LANES)
                store(chroma, x,
                      apply(job->map[c], load(means[0], x, FLOAT32), load(means[1], x, FLOAT32),
                            load(means[2], x, FLOAT32)),
                      FLOAT32);
            if (halves) {
                repeat_border(chroma, job->width);
                for (long x = 0; x < job->columns; x += LANES) {
                    VecF32 first = load(chroma, 2 * x, FLOAT32),
                           second = load(chroma, 2 * x + LANES, FLOAT32);
                    separate(&first, &second);
                    if (job->cosited_columns) {
                        VecF32 before = load(chroma, 2 * x - 1, FLOAT32),
                               other = load(chroma, 2 * x - 1 + LANES, FLOAT32);
                        separate(&before, &other);
                        first = 0.5f * first + 0.25f * (before + second);
                    } else {
                        first = 0.5f * (first + second);
                    }
                    store(codes, x, first, FLOAT32);
                }
            }
            write_row(job, c, row, job->columns, halves ? codes : chroma);
        }
    }
}

/* The way back: rounded to nearest, limited to 0..levels, times unit. map: of Y, Cb and Cr, in code
 * values, by R, G and B. */
int rgb_to_planes(Fork fork, int threads, const float *rgb, long height, long width,
                  const void *planes, long bytes, long rows, long columns, int cosited_rows,
                  int cosited_columns, const void *map, long levels, long unit) {
    Image job = {planes,       (float *)rgb,    bytes, height, width,         rows,       columns,
                 cosited_rows, cosited_columns, map,   1,      (float)levels, (float)unit};
    return parallel_for_scratch(fork, threads, rgb_to_planes_chunk, &job, (rows + PART - 1) / PART,
                                5 * line_scratch(width));
}
