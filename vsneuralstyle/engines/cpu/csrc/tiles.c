/* Convolutions by a CPU's matrix unit: Intel's AMX multiplies 16 rows of 32 bfloat16 with 32 by 16
 * others in the time of 16 vectors' sums. Minimal filtering, which convolution.c and nine.c save
 * multiplications by, would take longer than they do: these are direct convolutions, and all that
 * lies between them, normalisation, border and sums, is done to a line of the picture while it is
 * in the near cache.
 *
 * A line is a row of pixels with its border, all channels of a pixel side by side: what a row of a
 * kernel meets of it, three pixels for example, lies in one piece. So a tile's rows are such pieces
 * of pixels side by side, which overlap in memory, and nothing is gathered.
 *
 * Built for a CPU without the unit it computes the same, slowly: tests run it so.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
long syscall(long number, ...); /* unistd.h has another `select` beside it */
#endif

/* A tile's rows, and the outputs of a tile of weights; a row's samples; bytes of such weights. */
enum { SIDE = 16, DEPTH = 32, BYTES = 2 * SIDE * DEPTH };
/* Tiles of products that are made at once: of so many tiles of rows, or of half as many and twice
 * SIDE outputs, which load the fewest. */
enum { ABREAST = 4, MOST_GROUPS = 2, PRODUCTS = ABREAST * SIDE * SIDE };

/* --- the unit
 * --------------------------------------------------------------------------------------------------------
 */

/* Whether this library can do what it was built to: the system must be asked for AMX's registers,
 * once. */
EXPORT int permitted(void) {
#if defined(__AMX_BF16__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 1;
#endif
}

/* Before tiles and after them: oneDNN, which PyTorch computes with, has other sizes for them. */
INLINE void begin_tiles(void) {
#if defined(__AMX_BF16__)
    const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } sizes = {1,
               0,
               {0},
               {64, 64, 64, 64, 64, 64, 64, 64},
               {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    __asm__ volatile("ldtilecfg %0" ::"m"(sizes));
#endif
}

INLINE void end_tiles(void) {
#if defined(__AMX_BF16__)
    __asm__ volatile("tilerelease");
#endif
}

#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define LOAD(tile, from, step) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"(step) : "memory")
#define STORE(tile, to, step) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(step) : "memory")
#define ADD(sum, rows, weights) \
    __asm__ volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum::)

/* What is multiplied. Of each line `chunks` of DEPTH samples, `apart` bytes from one to the next,
 * from a row of a tile to the next one `step` bytes. The weights of a line and a chunk are (DEPTH /
 * 2, SIDE, 2), those of the next SIDE outputs `next` bytes on; of a line's chunks all are the same
 * ones where `same` says so. */
typedef struct {
    const char *const *lines;
    const char *weight;
    long count, chunks, apart, step, next;
    int same;
} Operands;

#if !defined(__AMX_BF16__)
/* To `sums` of SIDE outputs, the products of DEPTH samples. */
INLINE void add_row(const char *samples, const char *weight, float *sums) {
    for (long k = 0; k < DEPTH; k++) {
        uint16_t half[1], weights[2 * SIDE];
        memcpy(half, samples + 2 * k, sizeof half);
        memcpy(weights, weight + k / 2 * (long)sizeof weights, sizeof weights);
        for (long n = 0; n < SIDE; n++)
            sums[n] += from_half(half[0]) * from_half(weights[2 * n + k % 2]);
    }
}
#endif

/* SIDE rows of each of `blocks`, times `groups` of SIDE outputs -> out (blocks * SIDE, groups *
 * SIDE). */
INLINE void multiply_tiles(const Operands *operands, float *out, long blocks, long groups) {
    const Operands own = *operands;
    const char *weight = own.weight;
#if defined(__AMX_BF16__)
    long further = SIDE * own.step, line = 4 * groups * SIDE; /* bytes */
    ZERO(0);
    ZERO(1);
    ZERO(2);
    ZERO(3);
    for (long n = 0; n < own.count; n++, weight += own.same ? BYTES : 0) {
        const char *rows = own.lines[n];
        for (long chunk = 0; chunk < own.chunks;
             chunk++, rows += own.apart, weight += own.same ? 0 : BYTES) {
            LOAD(4, rows, own.step);
            LOAD(7, weight, 64L);
            ADD(0, 4, 7);
            if (groups == 2) {
                LOAD(6, weight + own.next, 64L);
                ADD(1, 4, 6);
            }
            if (blocks > 1) {
                LOAD(5, rows + further, own.step);
                if (groups == 2) {
                    ADD(2, 5, 7);
                    ADD(3, 5, 6);
                } else {
                    ADD(1, 5, 7);
                }
            }
            if (blocks > 2) {
                LOAD(6, rows + 2 * further, own.step);
                ADD(2, 6, 7);
            }
            if (blocks > 3) {
                LOAD(4, rows + 3 * further, own.step);
                ADD(3, 4, 7);
            }
        }
    }
    long second = groups == 2 ? SIDE : SIDE * SIDE, third = 2 * SIDE * SIDE;
    STORE(0, out, line);
    if (blocks * groups > 1)
        STORE(1, out + second, line);
    if (blocks * groups > 2)
        STORE(2, out + third, line);
    if (blocks * groups > 3)
        STORE(3, out + third + second, line);
#else
    memset(out, 0, blocks * SIDE * groups * SIDE * sizeof *out);
    for (long n = 0; n < own.count; n++, weight += own.same ? BYTES : 0) {
        const char *rows = own.lines[n];
        for (long chunk = 0; chunk < own.chunks;
             chunk++, rows += own.apart, weight += own.same ? 0 : BYTES)
            for (long row = 0; row < blocks * SIDE; row++)
                for (long group = 0; group < groups; group++)
                    add_row(rows + row * own.step, weight + group * own.next,
                            out + (row * groups + group) * SIDE);
    }
#endif
}

static NOINLINE void multiply(const Operands *operands, float *out, long blocks, long groups) {
    switch (groups == 2 ? ABREAST + blocks : blocks) {
    case 1:
        multiply_tiles(operands, out, 1, 1);
        break;
    case 2:
        multiply_tiles(operands, out, 2, 1);
        break;
    case 3:
        multiply_tiles(operands, out, 3, 1);
        break;
    case 4:
        multiply_tiles(operands, out, 4, 1);
        break;
    case 5:
        multiply_tiles(operands, out, 1, 2);
        break;
    case 6:
        multiply_tiles(operands, out, 2, 2);
        break;
    }
}

INLINE long in_tiles(long pixels) /* to the next multiple of SIDE */
{
    return (pixels + SIDE - 1) / SIDE * SIDE;
}

/* How many of `count` tiles of rows are multiplied at once. */
INLINE long blocks_of(long pixels, long groups) {
    long blocks = in_tiles(pixels) / SIDE, most = ABREAST / groups;
    return blocks < most ? blocks : most;
}

/* Of the outputs of a row what is to be summed up: about the first of them, so that a mean far from
 * 0 leaves the variance its digits. */
typedef struct {
    Floats about[SIDE / LANES], sum[SIDE / LANES], square[SIDE / LANES];
} Sums;

INLINE void begin_sums(Sums *sums) {
    for (long v = 0; v < SIDE / LANES; v++)
        sums->sum[v] = sums->square[v] = (Floats){0};
}

/* Products of `count` pixels, so many floats apart -> outputs from `at` on, `step` samples apart;
 * `first`: the row's. */
INLINE void finish(const float *products, long apart, long count, const float *bias, float slope,
                   void *out, long at, long step, int first, Sums *sums, int half, int summing) {
    for (long v = 0; v < SIDE / LANES; v++) {
        Floats add = load(bias, v * LANES, 0), about, sum, square;
        if (summing) {
            if (first) {
                Floats value = load(products, v * LANES, 0) + add;
                sums->about[v] = maximum(value, value * slope);
            }
            about = sums->about[v], sum = sums->sum[v], square = sums->square[v];
        }
        for (long n = 0; n < count; n++) {
            Floats value = load(products, n * apart + v * LANES, 0) + add;
            value = maximum(value, value * slope);
            store(out, at + n * step + v * LANES, value, half);
            if (summing) {
                Floats away = value - about;
                sum += away;
                square += away * away;
            }
        }
        if (summing)
            sums->sum[v] = sum, sums->square[v] = square;
    }
}

static NOINLINE void finish_row(const float *products, long apart, long count, const float *bias,
                                float slope, void *out, long at, long step, int first, Sums *sums,
                                int half) {
    switch ((sums ? 2 : 0) + half) {
    case 0:
        finish(products, apart, count, bias, slope, out, at, step, first, sums, 0, 0);
        break;
    case 1:
        finish(products, apart, count, bias, slope, out, at, step, first, sums, 1, 0);
        break;
    case 2:
        finish(products, apart, count, bias, slope, out, at, step, first, sums, 0, 1);
        break;
    case 3:
        finish(products, apart, count, bias, slope, out, at, step, first, sums, 1, 1);
        break;
    }
}

INLINE void add_row_sums(double *to, long channels, const Sums *sums, long count) {
    for (long v = 0; v < SIDE / LANES; v++)
        add_sums(to + v * LANES, channels, sums->about[v], sums->sum[v], sums->square[v], count);
}

/* --- 3x3 convolutions
 * --------------------------------------------------------------------------------------------------
 */

enum { PART_ROWS = 4, LINES = 3 };

typedef struct {
    const void *x;
    const char *weight;
    const float *scale, *bias;
    void *out;
    double *sums;
    long height, width, full_height, full_width; /* of x; of what comes out */
    long channels, outputs, reach, down, across,
        line; /* down, across: rows and columns of what is multiplied; line: samples */
    float slope;
    int reflects, relu, half, half_out;
} Convolve;

/* Row of x, or its border's -> line: its pixels from the one before the first on, and 0. */
INLINE void fill(const Convolve *job, long row, uint16_t *line, int scaled, int half) {
    long channels = job->channels, width = job->width, behind = (width + 1) * channels;
    long at = line_at(row, job->height, job->reach, job->reflects);
    if (at < 0) {
        memset(line, 0, job->line * sizeof *line);
        return;
    }
    const char *from = (const char *)job->x + at * width * channels * (half ? 2 : 4);
    Floats least = (Floats){0} + (job->relu ? 0 : -__builtin_inff());
    if (!scaled && half == 1)
        memcpy(line + channels, from, width * channels * sizeof *line);
    else
        for (long x = 0; x < width; x++)
            for (long c = 0; c < channels; c += LANES) {
                Floats value = load(from, x * channels + c, half);
                if (scaled)
                    value = maximum(
                        value * load(job->scale, c, 0) + load(job->scale, channels + c, 0), least);
                store(line, (x + 1) * channels + c, value, 1);
            }
    memset(line + behind, 0, (job->line - behind) * sizeof *line);
    long first = line_at(-1, width, job->reach, job->reflects),
         last = line_at(width, width, job->reach, job->reflects);
    if (first < 0) {
        memset(line, 0, channels * sizeof *line);
    } else {
        memcpy(line, line + (first + 1) * channels, channels * sizeof *line);
        memcpy(line + behind, line + (last + 1) * channels, channels * sizeof *line);
    }
}

static void fill_line(const Convolve *job, long row, uint16_t *line) {
    if (job->scale && job->half)
        fill(job, row, line, 1, 1);
    else if (job->scale)
        fill(job, row, line, 1, 0);
    else if (job->half == FLOAT16)
        fill(job, row, line, 0, FLOAT16);
    else if (job->half)
        fill(job, row, line, 0, 1);
    else
        fill(job, row, line, 0, 0);
}

INLINE long groups_of(const Convolve *job) /* of SIDE outputs; of what is enlarged those of even and
                                              odd rows and columns */
{
    return job->outputs / SIDE * (job->reach == ENLARGING ? 4 : 1);
}

/* A row of what is multiplied, which makes one of the picture's rows, or of what is enlarged two.
 * lines: the three rows of x about it. own: room for sums of each group. Pixels that the near cache
 * holds go through all groups before the next ones. */
INLINE void convolve_row(const Convolve *job, long y, const uint16_t *const *lines, float *products,
                         Sums *own, double *sums) {
    int enlarges = job->reach == ENLARGING;
    long channels = job->channels, each = job->outputs / SIDE, groups = groups_of(job),
         step = job->outputs * (enlarges ? 2 : 1);
    long count = enlarges ? 2 : 3, chunks = (count * channels + DEPTH - 1) / DEPTH,
         pixel = channels * (job->reach == HALVING ? 2 : 1);
    long weights = count * chunks * BYTES;
    for (long group = 0; group < groups && sums; group++)
        begin_sums(&own[group]);
    for (long first = 0, blocks; first < job->across; first += blocks * SIDE) {
        blocks = blocks_of(job->across - first, each < MOST_GROUPS ? 1 : MOST_GROUPS);
        for (long group = 0, together; group < groups; group += together) {
            together = remaining(group % each, each, MOST_GROUPS);
            long channel = group % each * SIDE, odd = group / each % 2, down = group / each / 2,
                 row = enlarges ? 2 * y + down : y;
            long at =
                row * job->full_width * job->outputs + first * step + odd * job->outputs + channel;
            const char *rows[LINES];
            for (long n = 0; n < count; n++)
                rows[n] = (const char *)(lines[n + down] + odd * channels + first * pixel);
            Operands operands = {
                rows, job->weight + group * weights, count, chunks, 2 * DEPTH, 2 * pixel, weights,
                0};
            multiply(&operands, products, blocks, together);
            for (long n = 0; n < together; n++)
                finish_row(products + n * SIDE, together * SIDE,
                           remaining(first, job->across, blocks * SIDE),
                           job->bias + channel + n * SIDE, job->slope, job->out, at + n * SIDE,
                           step, first == 0, sums ? &own[group + n] : NULL, job->half_out);
        }
    }
    for (long group = 0; group < groups && sums; group++)
        add_row_sums(sums + group % each * SIDE, job->outputs, &own[group], job->across);
}

/* Of the rows about each those that the worker's ring hasn't are made. Which it has its first
 * samples say, counted from 1 on: 0 is none. */
static void convolve_part(const void *data, long part, float *room) {
    const Convolve copy = *(const Convolve *)data, *job = &copy;
    float *products = room + FIRST;
    Sums *own = (Sums *)(products + PRODUCTS);
    uint16_t *ring = (uint16_t *)(own + groups_of(job));
    double *sums = job->sums ? job->sums + part * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    begin_tiles();
    for (long y = part * PART_ROWS;
         y < part * PART_ROWS + remaining(part * PART_ROWS, job->down, PART_ROWS); y++) {
        const uint16_t *lines[LINES];
        for (long n = 0; n < LINES; n++) {
            long row = (job->reach == HALVING ? 2 * y : y) + n - 1, place = (row + LINES) % LINES;
            uint16_t *line = ring + place * job->line;
            if (room[place] != (float)(row + 2)) {
                fill_line(job, row, line);
                room[place] = (float)(row + 2);
            }
            lines[n] = line;
        }
        convolve_row(job, y, lines, products, own, sums);
    }
    end_tiles();
}

int convolve_tiled(Fork fork, int threads, const void *x, long height, long width,
                   const Layer *layer, const float *scale, int relu, float *norm, void *out,
                   int half, int half_out) {
    const Layer own = *layer;
    long channels = whole(own.inputs), full_height = size_after(layer, height),
         full_width = size_after(layer, width);
    int enlarges = own.reach == ENLARGING;
    long down = enlarges ? height : full_height, across = enlarges ? width : full_width,
         parts = (down + PART_ROWS - 1) / PART_ROWS;
    long line = (in_tiles(across) * (own.reach == HALVING ? 2 : 1) + 3) *
                channels; /* tiles reach so far beyond the border */
    double *sums = norm ? malloc(parts * 2 * own.outputs * sizeof *sums) : NULL;
    if (norm && !sums)
        return -1;
    Convolve job = {x,         own.weight, scale,       own.bias,   out,       sums,
                    height,    width,      full_height, full_width, channels,  own.outputs,
                    own.reach, down,       across,      line,       own.slope, own.reflects,
                    relu,      half,       half_out};
    long size = FIRST + PRODUCTS + groups_of(&job) * (long)(sizeof(Sums) / sizeof(float)) +
                floats_for(LINES * line, 1);
    int result = share_in_room(fork, threads, convolve_part, &job, parts, size);
    if (norm && !result)
        normalising(sums, parts, own.outputs, (double)full_height * (double)full_width,
                    own.norm_weight, own.norm_bias, own.eps, norm);
    free(sums);
    return result;
}

/* --- the first layer: colors to channels
 * ------------------------------------------------------------------------------- */

/* Two pixels side by side see ten, of which a row of the kernel has 30 samples: a chunk. What a
 * bright wall has of detail is less than bfloat16 rounds its brightness by, so each sample is two
 * of them, the second what the first one has left. */
enum { NINE = 9, PAD = 4, ENTER_ROWS = 8, PIXEL_PAIR = 2 * COLORS };

typedef struct {
    const float *frame, *bias;
    const char *weight;
    void *out;
    double *sums;
    long height, width, full_height,
        full_width;           /* of the frame; of the picture, to which its border is repeated */
    long pairs, colors, line; /* pairs: of pixels; colors: samples of a color's line; line: of what
                                 is multiplied, in bfloat16 */
    int half;
} Enter;

/* LANES pixels' samples of each color -> COLORS * LANES, pixel by pixel. */
INLINE void interleave(const Halves *colors, uint16_t *to) {
#pragma GCC unroll 3
    for (long n = 0; n < COLORS; n++) {
        Halves first, second;
#pragma GCC unroll 16
        for (long lane = 0; lane < LANES; lane++) {
            long at = n * LANES + lane;
            first[lane] = (uint16_t)(at % COLORS == 1 ? LANES + at / COLORS : at / COLORS);
            second[lane] = (uint16_t)(at % COLORS == 2 ? LANES + at / COLORS : lane);
        }
        Halves mixed =
            __builtin_shuffle(__builtin_shuffle(colors[0], colors[1], first), colors[2], second);
        memcpy(to + n * LANES, &mixed, sizeof mixed);
    }
}

/* A row of the frame as the convolution sees it, and 0 -> line, and, behind so many samples, what
 * is left of each. colors: room for a line of each color. */
INLINE void enter_line(const Enter *job, long row, float *colors, uint16_t *line) {
    long y = clamp(reflect(row, job->full_height - 1), job->height - 1), last = job->width - 1;
    for (long c = 0; c < COLORS; c++) {
        float *to = colors + c * job->colors;
        const float *from = job->frame + (c * job->height + y) * job->width;
        memcpy(to + PAD, from, job->width * sizeof *to);
        for (long x = -PAD; x < 0; x++)
            to[PAD + x] = from[clamp(reflect(x, job->full_width - 1), last)];
        for (long x = job->width; x < job->full_width + PAD; x++)
            to[PAD + x] = from[clamp(reflect(x, job->full_width - 1), last)];
        memset(to + job->full_width + 2 * PAD, 0,
               (job->colors - job->full_width - 2 * PAD) * sizeof *to);
    }
    for (long x = 0; x < job->colors; x += LANES) {
        Halves high[COLORS], low[COLORS];
        for (long c = 0; c < COLORS; c++) {
            Floats value = load(colors, c * job->colors + x, 0);
            store(&high[c], 0, value, 1);
            store(&low[c], 0, value - load(&high[c], 0, 1), 1);
        }
        interleave(high, line + x * COLORS);
        interleave(low, line + job->line + x * COLORS);
    }
}

static void enter_part(const void *data, long part, float *room) {
    const Enter copy = *(const Enter *)data, *job = &copy;
    float *products = room + FIRST, *colors = products + PRODUCTS;
    uint16_t *ring = (uint16_t *)(colors + COLORS * job->colors);
    double *sums = job->sums + part * 2 * SIDE;
    memset(sums, 0, 2 * SIDE * sizeof *sums);
    begin_tiles();
    for (long y = part * ENTER_ROWS;
         y < part * ENTER_ROWS + remaining(part * ENTER_ROWS, job->full_height, ENTER_ROWS); y++) {
        const char *rows[NINE];
        for (long n = 0; n < NINE; n++) {
            long row = y + n - PAD, place = (row + NINE) % NINE;
            uint16_t *line = ring + place * 2 * job->line;
            if (room[place] != (float)(row + PAD + 1)) {
                enter_line(job, row, colors, line);
                room[place] = (float)(row + PAD + 1);
            }
            rows[n] = (const char *)line;
        }
        Operands operands = {rows,          job->weight,    NINE,         2,
                             2 * job->line, 2 * PIXEL_PAIR, NINE * BYTES, 1};
        Sums own;
        begin_sums(&own);
        for (long first = 0, blocks; first < job->pairs; first += blocks * SIDE) {
            blocks = blocks_of(job->pairs - first, 2);
            multiply(&operands, products, blocks, 2);
            for (long n = 0; n < NINE; n++)
                rows[n] += blocks * SIDE * operands.step;
            finish_row(products, SIDE, remaining(2 * first, job->full_width, 2 * blocks * SIDE),
                       job->bias, 1, job->out, (y * job->full_width + 2 * first) * SIDE, SIDE,
                       first == 0, &own, job->half);
        }
        add_row_sums(sums, SIDE, &own, job->full_width);
    }
    end_tiles();
}

/* As `enter`, by tiles. weight: (2, 9, 16, 16, 2) bfloat16: for the even pixels and the odd ones,
 * of each row of the kernel. */
EXPORT int enter_tiled(Fork fork, int threads, const float *frame, long height, long width,
                       long full_height, long full_width, const void *weight, const float *bias,
                       const float *norm_weight, const float *norm_bias, float eps, float *norm,
                       void *out, int half) {
    long pairs = (full_width + 1) / 2, parts = (full_height + ENTER_ROWS - 1) / ENTER_ROWS;
    long colors = lanes(2 * in_tiles(pairs) + 2 * PAD + 2),
         line = 2 * floats_for(COLORS * colors, 1);
    double *sums = malloc(parts * 2 * SIDE * sizeof *sums);
    if (!sums)
        return -1;
    Enter job = {frame,       bias,       weight, out,    sums, height, width,
                 full_height, full_width, pairs,  colors, line, half};
    int result = share_in_room(fork, threads, enter_part, &job, parts,
                               FIRST + PRODUCTS + COLORS * colors + NINE * line);
    if (!result)
        normalising(sums, parts, SIDE, (double)full_height * (double)full_width, norm_weight,
                    norm_bias, eps, norm);
    free(sums);
    return result;
}

/* --- the last layer: channels to colors
 * -------------------------------------------------------------------------------- */

/* A tile of outputs would be three colors of sixteen. So what a row gives to all of the nine rows
 * that see it is computed at once, of two pixels side by side, which see ten, 54 sums: a row of the
 * picture has the same six of them, in turn, from the first row that it sees to the last one, when
 * they are complete; its weights are those that are meant for where that row stands. A strip of the
 * picture is so wide that its sums stay in the near cache. */
enum {
    DRAW_ACROSS = 128,
    DRAW_PAIRS = DRAW_ACROSS / 2,
    DRAW_LINE = DRAW_ACROSS + 2 * PAD,
    DRAW_GROUPS = 4,
    SUMS = DRAW_GROUPS * SIDE
};
enum {
    DRAW_CHUNKS = 5,
    DRAW_BYTES = DRAW_GROUPS * DRAW_CHUNKS * BYTES,
    MOST_ROWS = 96,
    LEAST_ROWS = 12
};

typedef struct {
    const void *x;
    const char *weight;
    const float *scale, *bias;
    float *out;
    long full_height, full_width, height, width, strips, rows; /* rows: of a part */
    int half;
} Draw;

/* Pixels of a row, or of its border, from the fourth before `left` on -> line (DRAW_LINE, SIDE). */
INLINE void draw_line(const Draw *job, long row, long left, uint16_t *line, int half) {
    long width = job->full_width;
    const char *from =
        (const char *)job->x + reflect(row, job->full_height - 1) * width * SIDE * (half ? 2 : 4);
    for (long c = 0; c < SIDE; c += LANES) {
        Floats scale = (Floats){0} + 1, shift = {0};
        if (job->scale)
            scale = load(job->scale, c, 0), shift = load(job->scale, SIDE + c, 0);
        for (long n = 0; n < DRAW_LINE; n++) {
            long x = reflect(left - PAD + n, width - 1);
            store(line, n * SIDE + c,
                  maximum(load(from, x * SIDE + c, half) * scale + shift, (Floats){0}), 1);
        }
    }
}

/* SIDE pairs of pixels, whose samples begin at `line` -> their sums with the row's products. */
static NOINLINE void draw_multiply(const char *line, const char *weight, float *sums) {
    enum { STEP = 4 * SIDE, GROUP = DRAW_CHUNKS * BYTES };
#if defined(__AMX_BF16__)
    long apart = 4 * SUMS, step = STEP;
    LOAD(0, sums, apart);
    LOAD(1, sums + SIDE, apart);
    LOAD(2, sums + 2 * SIDE, apart);
    LOAD(3, sums + 3 * SIDE, apart);
    for (long chunk = 0; chunk < DRAW_CHUNKS; chunk++, line += 2 * DEPTH, weight += BYTES) {
        LOAD(4, line, step);
        LOAD(5, weight, 64L);
        ADD(0, 4, 5);
        LOAD(6, weight + GROUP, 64L);
        ADD(1, 4, 6);
        LOAD(7, weight + 2 * GROUP, 64L);
        ADD(2, 4, 7);
        LOAD(5, weight + 3 * GROUP, 64L);
        ADD(3, 4, 5);
    }
    STORE(0, sums, apart);
    STORE(1, sums + SIDE, apart);
    STORE(2, sums + 2 * SIDE, apart);
    STORE(3, sums + 3 * SIDE, apart);
#else
    for (long n = 0; n < SIDE; n++)
        for (long group = 0; group < DRAW_GROUPS; group++)
            for (long chunk = 0; chunk < DRAW_CHUNKS; chunk++)
                add_row(line + n * STEP + chunk * 2 * DEPTH, weight + group * GROUP + chunk * BYTES,
                        sums + n * SUMS + group * SIDE);
#endif
}

/* A strip's sums, from row y's on -> row y of the picture from column `left` on; they are 0 then.
 */
INLINE void draw_finish(const Draw *job, float *sums, long y, long left) {
    float planes[COLORS][DRAW_ACROSS];
    for (long pair = 0; pair < DRAW_PAIRS; pair++, sums += SUMS)
        for (long n = 0; n < 2; n++)
            for (long color = 0; color < COLORS; color++) {
                planes[color][2 * pair + n] = sums[n * COLORS + color];
                sums[n * COLORS + color] = 0;
            }
    for (long color = 0; color < COLORS; color++) {
        for (long n = 0; n < DRAW_ACROSS; n += LANES)
            store(planes[color], n, sigmoid(2 * (load(planes[color], n, 0) + job->bias[color])), 0);
        memcpy(job->out + (color * job->height + y) * job->width + left, planes[color],
               remaining(left, job->width, DRAW_ACROSS) * sizeof(float));
    }
}

static void draw_part(const void *data, long part, float *sums) {
    const Draw copy = *(const Draw *)data, *job = &copy;
    uint16_t *line = (uint16_t *)(sums + DRAW_PAIRS * SUMS);
    long left = part % job->strips * DRAW_ACROSS, top = part / job->strips * job->rows,
         rows = remaining(top, job->height, job->rows);
    memset(sums, 0, DRAW_PAIRS * SUMS * sizeof *sums);
    begin_tiles();
    for (long row = top - PAD; row < top + rows + PAD; row++) {
        if (job->half)
            draw_line(job, row, left, line, 1);
        else
            draw_line(job, row, left, line, 0);
        for (long pair = 0; pair < DRAW_PAIRS; pair += SIDE)
            draw_multiply((const char *)(line + 2 * pair * SIDE),
                          job->weight + (row + NINE) % NINE * DRAW_BYTES, sums + pair * SUMS);
        long y = row - PAD;
        if (y >= top)
            draw_finish(job, sums + y % NINE * 2 * COLORS, y, left);
        else /* what rows before the part's have got is nobody's */
            for (long pair = 0; pair < DRAW_PAIRS; pair++)
                memset(sums + pair * SUMS + (y + 2 * NINE) % NINE * 2 * COLORS, 0,
                       2 * COLORS * sizeof *sums);
    }
    end_tiles();
}

/* As `draw`, by tiles. weight: (9, 4, 5, 16, 16, 2) bfloat16: of rows 0, 1 ... and 8 of each nine,
 * of each 16 of 64 sums, six of each of nine rows of the picture, which are the even columns'
 * colors and the odd ones', of each two of the ten columns that they see. */
EXPORT int draw_tiled(Fork fork, int threads, const void *x, long full_height, long full_width,
                      const float *scale, const void *weight, const float *bias, float *out,
                      long height, long width, int half) {
    long strips = (width + DRAW_ACROSS - 1) / DRAW_ACROSS, rows = MOST_ROWS;
    while (rows > LEAST_ROWS &&
           strips * ((height + rows - 1) / rows) < 4 * (long)threads) /* no sum depends on it */
        rows /= 2;
    Draw job = {x,          weight, scale, bias,   out,  full_height,
                full_width, height, width, strips, rows, half};
    return share_in_room(fork, threads, draw_part, &job, strips * ((height + rows - 1) / rows),
                         DRAW_PAIRS * SUMS + floats_for(DRAW_LINE * SIDE, 1));
}
