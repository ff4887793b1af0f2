/* Hosts' pictures, of Y, Cb and Cr or of R, G and B, to RGB and back: pixels.py says what their
 * samples mean, yuv.py where chroma lies.
 *
 * Samples are integers of one byte or two, wherever they are in the host's memory. A picture's rows
 * are shared out among the team.
 */

#include "kernels.h"

typedef struct {
    const Component *components; /* of Y (height, width), and of Cb and Cr (rows, columns): as many,
                                    or half as many, rounded up */
    float *rgb;                  /* (3, height, width) */
    long bytes, height, width, rows, columns, cosited_rows, cosited_columns;
    const float (*map)[COLORS + 1]; /* weights, and what is added */
    float top, levels, unit;
} Picture;

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

INLINE Floats from_bytes(const void *samples) {
    Bytes bytes;
    memcpy(&bytes, samples, sizeof bytes);
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)bytes));
#else
    return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Floats);
#endif
}

/* LANES samples, of `bytes` each, that lie `step` bytes apart; up to the next one's place all is
 * read. */
INLINE Floats samples_at(const char *samples, long step, long bytes) {
    Halves shorts;
    Words words;
    if (step == 1)
        return from_bytes(samples);
    if (step == 2) {
        memcpy(&shorts, samples, sizeof shorts);
        words = widened(shorts);
    } else {
        memcpy(&words, samples, sizeof words);
    }
    return __builtin_convertvector((Integers)(words & (bytes == 1 ? 0xff : 0xffff)), Floats);
}

/* A row's samples -> line. */
static void read_row(const Component *from, long row, long count, long bytes, float *line) {
    const char *samples = from->samples + row * from->row;
    long x = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (from->step == 1 || from->step == 2 || from->step == 4)
        for (; x + LANES + (from->step > bytes) <= count; x += LANES)
            store(line, x, samples_at(samples + x * from->step, from->step, bytes), 0);
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
static void write_row(const Picture *job, long component, long row, long count, float *line) {
    const Component *to = &job->components[component];
    char *samples = to->samples + row * to->row;
    for (long x = 0; x < count; x += LANES) {
        Floats code = rounded(between(load(line, x, 0), 0, job->levels));
        Integers integers = __builtin_convertvector(code * job->unit, Integers);
        if (to->step == job->bytes && x + LANES <= count) {
            Bytes narrow = __builtin_convertvector(integers, Bytes);
            Halves shorts = __builtin_convertvector(integers, Halves);
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
INLINE Floats apply(const float *row, Floats first, Floats second, Floats third) {
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
INLINE void interleave(Floats *first, Floats *second) {
    Words low, high;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        low[lane] = (uint32_t)(lane / 2 + (lane & 1 ? LANES : 0));
        high[lane] = low[lane] + LANES / 2;
    }
    Floats a = *first, b = *second;
    *first = __builtin_shuffle(a, b, low);
    *second = __builtin_shuffle(a, b, high);
}

INLINE void separate(Floats *first, Floats *second) {
    Words even, odd;
#pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) {
        even[lane] = (uint32_t)(2 * lane);
        odd[lane] = even[lane] + 1;
    }
    Floats a = *first, b = *second;
    *first = __builtin_shuffle(a, b, even);
    *second = __builtin_shuffle(a, b, odd);
}

/* --- to RGB
 * ---------------------------------------------------------------------------------------------------------
 */

/* line += weight * (other - line) */
INLINE void mix(float *line, const float *other, float weight, long count) {
    for (long x = 0; x < count; x += LANES) {
        Floats here = load(line, x, 0);
        store(line, x, here + weight * (load(other, x, 0) - here), 0);
    }
}

INLINE void divide(float *line, float top, long count) {
    for (long x = 0; x < count && top != 1; x += LANES)
        store(line, x, load(line, x, 0) / top, 0);
}

/* A row of chroma at row y of luma -> line. spare: for another row. */
static void chroma_at(const Picture *job, long component, long y, float *line, float *spare) {
    const Component *chroma = &job->components[component];
    if (job->rows == job->height) {
        read_row(chroma, y, job->columns, job->bytes, line);
        return;
    }
    long at = y / 2, other = clamp(y & 1 ? at + 1 : job->cosited_rows ? at : at - 1, job->rows - 1);
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
        Floats here = load(line, x, 0), first = here, second = load(line, x + 1, 0);
        if (cosited) {
            second = here + 0.5f * (second - here);
        } else {
            first = here + 0.25f * (load(line, x - 1, 0) - here);
            second = here + 0.25f * (second - here);
        }
        interleave(&first, &second);
        store(wide, 2 * x, first, 0);
        store(wide, 2 * x + LANES, second, 0);
    }
}

enum { PART = 8 }; /* rows */

INLINE long
line_room(long width) /* of a line, what is beside it, and what a vector may read beyond */
{
    return BESIDE + lanes(width) + 2 * LANES;
}

static void from_part(const void *data, long part, float *room) {
    const Picture copy = *(const Picture *)data, *job = &copy; /* which no store can change */
    long line = line_room(job->width);
    float *luma = room, *spare = room + line,
          *chroma[2] = {room + 2 * line + BESIDE, room + 3 * line + BESIDE};
    for (long y = part * PART; y < part * PART + remaining(part * PART, job->height, PART); y++) {
        const float *color[2];
        read_row(&job->components[0], y, job->width, job->bytes, luma);
        divide(luma, job->top, job->width);
        for (long c = 0; c < 2; c++) {
            chroma_at(job, 1 + c, y, chroma[c], spare);
            divide(chroma[c], job->top, job->columns);
            color[c] = chroma[c];
            if (job->columns != job->width) {
                float *wide = room + (4 + c) * line;
                widen(chroma[c], job->columns, job->cosited_columns, wide);
                color[c] = wide;
            }
        }
        for (long i = 0; i < COLORS; i++) {
            float *to = job->rgb + (i * job->height + y) * job->width;
            for (long x = 0; x < job->width; x += LANES) {
                Floats value = between(apply(job->map[i], load(luma, x, 0), load(color[0], x, 0),
                                             load(color[1], x, 0)),
                                       0, 1);
                long count = remaining(x, job->width, LANES);
                if (count == LANES)
                    store(to, x, value, 0);
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
EXPORT int from_components(Fork fork, int threads, const void *components, long bytes, long height,
                           long width, long rows, long columns, int cosited_rows,
                           int cosited_columns, long top, const void *map, float *rgb) {
    Picture job = {components,      rgb, bytes,      height, width, rows, columns, cosited_rows,
                   cosited_columns, map, (float)top, 0,      0};
    return share_in_room(fork, threads, from_part, &job, (height + PART - 1) / PART,
                         6 * line_room(width));
}

/* --- from RGB
 * -------------------------------------------------------------------------------------------------------
 */

static void to_part(const void *data, long part, float *room) {
    const Picture copy = *(const Picture *)data, *job = &copy;
    long half = job->rows != job->height, halves = job->columns != job->width,
         line = line_room(job->width), plane = job->height * job->width;
    float *codes = room, *means[COLORS], *chroma = room + 4 * line + BESIDE;
    for (long i = 0; i < COLORS; i++)
        means[i] = room + (1 + i) * line;
    /* Of the rows before, of and behind one of chroma. */
    const float cosited[] = {0.25f, 0.5f, 0.25f}, midway[] = {0, 0.5f, 0.5f}, whole[] = {0, 1, 0};
    const float *down = !half ? whole : job->cosited_rows ? cosited : midway;
    for (long row = part * PART; row < part * PART + remaining(part * PART, job->rows, PART);
         row++) {
        for (long tap = 0, first = 1; tap < 3; tap++) {
            long y = (half ? 2 * row : row) + tap - 1;
            if (down[tap] == 0)
                continue;
            const float *from = job->rgb + clamp(y, job->height - 1) * job->width;
            for (long x = 0; x < job->width; x += LANES) {
                long count = remaining(x, job->width, LANES);
                Floats rgb[COLORS];
                for (long i = 0; i < COLORS; i++) {
                    rgb[i] = count == LANES ? load(from, i * plane + x, 0)
                                            : load_some(from + i * plane + x, count);
                    Floats sum = down[tap] * rgb[i];
                    store(means[i], x, first ? sum : sum + load(means[i], x, 0), 0);
                }
                store(codes, x, apply(job->map[0], rgb[0], rgb[1], rgb[2]), 0);
            }
            first = 0;
            if (tap && y < job->height)
                write_row(job, 0, y, job->width, codes);
        }
        for (long c = 1; c < 3; c++) {
            for (long x = 0; x < job->width; x += LANES)
                store(chroma, x,
                      apply(job->map[c], load(means[0], x, 0), load(means[1], x, 0),
                            load(means[2], x, 0)),
                      0);
            if (halves) {
                repeat_border(chroma, job->width);
                for (long x = 0; x < job->columns; x += LANES) {
                    Floats first = load(chroma, 2 * x, 0), second = load(chroma, 2 * x + LANES, 0);
                    separate(&first, &second);
                    if (job->cosited_columns) {
                        Floats before = load(chroma, 2 * x - 1, 0),
                               other = load(chroma, 2 * x - 1 + LANES, 0);
                        separate(&before, &other);
                        first = 0.5f * first + 0.25f * (before + second);
                    } else {
                        first = 0.5f * (first + second);
                    }
                    store(codes, x, first, 0);
                }
            }
            write_row(job, c, row, job->columns, halves ? codes : chroma);
        }
    }
}

/* The way back: rounded to nearest, limited to 0..levels, times unit. map: of Y, Cb and Cr, in code
 * values, by R, G and B. */
EXPORT int to_components(Fork fork, int threads, const float *rgb, long height, long width,
                         const void *components, long bytes, long rows, long columns,
                         int cosited_rows, int cosited_columns, const void *map, long levels,
                         long unit) {
    Picture job = {components,   (float *)rgb,    bytes, height, width,         rows,       columns,
                   cosited_rows, cosited_columns, map,   1,      (float)levels, (float)unit};
    return share_in_room(fork, threads, to_part, &job, (rows + PART - 1) / PART,
                         5 * line_room(width));
}
