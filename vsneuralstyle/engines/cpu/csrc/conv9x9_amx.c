/* 9x9 convolutions, a style network's first and last layer, by a CPU's matrix unit: amx.h says how.
 */

#include "amx.h"

/* --- the first layer: colors to channels
 * ------------------------------------------------------------------------------- */

/* Two pixels side by side see ten, of which a row of the kernel has 30 samples: a chunk. What a
 * bright wall has of detail is less than bfloat16 rounds its brightness by, so each sample is two
 * of them, the second what the first one has left. */
enum { KERNEL_SIZE = 9, PAD = 4, FROM_RGB_ROWS = 8, PIXEL_PAIR = 2 * COLORS };

typedef struct {
    const float *frame, *bias;
    const char *weight;
    void *out;
    double *sums;
    long height, width, full_height,
        full_width;           /* of the frame; of the image, to which its border is repeated */
    long pairs, colors, line; /* pairs: of pixels; colors: samples of a color's line; line: of what
                                 is multiplied, in bfloat16 */
    int dtype;
} FromRgb;

/* LANES pixels' samples of each color -> COLORS * LANES, pixel by pixel. */
INLINE void interleave(const VecU16 *colors, uint16_t *to) {
#pragma GCC unroll 3
    for (long n = 0; n < COLORS; n++) {
        VecU16 first, second;
#pragma GCC unroll 16
        for (long lane = 0; lane < LANES; lane++) {
            long at = n * LANES + lane;
            first[lane] = (uint16_t)(at % COLORS == 1 ? LANES + at / COLORS : at / COLORS);
            second[lane] = (uint16_t)(at % COLORS == 2 ? LANES + at / COLORS : lane);
        }
        VecU16 mixed =
            __builtin_shuffle(__builtin_shuffle(colors[0], colors[1], first), colors[2], second);
        memcpy(to + n * LANES, &mixed, sizeof mixed);
    }
}

/* A row of the frame as the convolution sees it, and 0 -> line, and, behind so many samples, what
 * is left of each. colors: room for a line of each color. */
INLINE void from_rgb_line(const FromRgb *job, long row, float *colors, uint16_t *line) {
    long y = clamp_index(reflect_index(row, job->full_height - 1), job->height - 1),
         last = job->width - 1;
    for (long c = 0; c < COLORS; c++) {
        float *to = colors + c * job->colors;
        const float *from = job->frame + (c * job->height + y) * job->width;
        memcpy(to + PAD, from, job->width * sizeof *to);
        for (long x = -PAD; x < 0; x++)
            to[PAD + x] = from[clamp_index(reflect_index(x, job->full_width - 1), last)];
        for (long x = job->width; x < job->full_width + PAD; x++)
            to[PAD + x] = from[clamp_index(reflect_index(x, job->full_width - 1), last)];
        memset(to + job->full_width + 2 * PAD, 0,
               (job->colors - job->full_width - 2 * PAD) * sizeof *to);
    }
    for (long x = 0; x < job->colors; x += LANES) {
        VecU16 high[COLORS], low[COLORS];
        for (long c = 0; c < COLORS; c++) {
            VecF32 value = load(colors, c * job->colors + x, FLOAT32);
            store(&high[c], 0, value, BFLOAT16);
            store(&low[c], 0, value - load(&high[c], 0, BFLOAT16), BFLOAT16);
        }
        interleave(high, line + x * COLORS);
        interleave(low, line + job->line + x * COLORS);
    }
}

static void from_rgb_chunk(const void *data, long part, float *scratch) {
    const FromRgb copy = *(const FromRgb *)data, *job = &copy;
    float *products = scratch + SCRATCH_HEADER, *colors = products + PRODUCTS;
    uint16_t *ring = (uint16_t *)(colors + COLORS * job->colors);
    double *sums = job->sums + part * 2 * SIDE;
    memset(sums, 0, 2 * SIDE * sizeof *sums);
    configure_tiles();
    for (long y = part * FROM_RGB_ROWS;
         y <
         part * FROM_RGB_ROWS + remaining(part * FROM_RGB_ROWS, job->full_height, FROM_RGB_ROWS);
         y++) {
        const char *rows[KERNEL_SIZE];
        for (long n = 0; n < KERNEL_SIZE; n++) {
            long row = y + n - PAD, place = (row + KERNEL_SIZE) % KERNEL_SIZE;
            uint16_t *line = ring + place * 2 * job->line;
            if (scratch[place] != (float)(row + PAD + 1)) {
                from_rgb_line(job, row, colors, line);
                scratch[place] = (float)(row + PAD + 1);
            }
            rows[n] = (const char *)line;
        }
        Operands operands = {rows,          job->weight,    KERNEL_SIZE,         2,
                             2 * job->line, 2 * PIXEL_PAIR, KERNEL_SIZE * BYTES, 1};
        Moments own;
        begin_moments(&own);
        for (long first = 0, blocks; first < job->pairs; first += blocks * SIDE) {
            blocks = blocks_of(job->pairs - first, 2);
            gemm(&operands, products, blocks, 2);
            for (long n = 0; n < KERNEL_SIZE; n++)
                rows[n] += blocks * SIDE * operands.step;
            epilogue_row(products, SIDE, remaining(2 * first, job->full_width, 2 * blocks * SIDE),
                         job->bias, 1, job->out, (y * job->full_width + 2 * first) * SIDE, SIDE,
                         first == 0, &own, job->dtype);
        }
        add_row_moments(sums, SIDE, &own, job->full_width);
    }
    release_tiles();
}

/* As `conv9x9_from_rgb`, by tiles. weight: (2, 9, 16, 16, 2) bfloat16: for the even pixels and the
 * odd ones, of each row of the kernel. */
int conv9x9_from_rgb_amx(Fork fork, int threads, const float *frame, long height, long width,
                         long full_height, long full_width, const void *weight, const float *bias,
                         const float *norm_weight, const float *norm_bias, float eps, float *norm,
                         void *out, int dtype) {
    long pairs = (full_width + 1) / 2, parts = (full_height + FROM_RGB_ROWS - 1) / FROM_RGB_ROWS;
    long colors = padded_lanes(2 * in_tiles(pairs) + 2 * PAD + 2),
         line = 2 * padded_floats(COLORS * colors, 1);
    double *sums = malloc(parts * 2 * SIDE * sizeof *sums);
    if (!sums)
        return -1;
    FromRgb job = {frame,       bias,       weight, out,    sums, height, width,
                   full_height, full_width, pairs,  colors, line, dtype};
    int result =
        parallel_for_scratch(fork, threads, from_rgb_chunk, &job, parts,
                             SCRATCH_HEADER + PRODUCTS + COLORS * colors + KERNEL_SIZE * line);
    if (!result)
        instance_norm_finalize(sums, parts, SIDE, (double)full_height * (double)full_width,
                               norm_weight, norm_bias, eps, norm);
    free(sums);
    return result;
}

/* --- the last layer: channels to colors
 * -------------------------------------------------------------------------------- */

/* A tile of outputs would be three colors of sixteen. So what a row gives to all of the nine rows
 * that see it is computed at once, of two pixels side by side, which see ten, 54 sums: a row of the
 * image has the same six of them, in turn, from the first row that it sees to the last one, when
 * they are complete; its weights are those that are meant for where that row stands. A strip of the
 * image is so wide that its sums stay in the near cache. */
enum {
    TO_RGB_ACROSS = 128,
    TO_RGB_PAIRS = TO_RGB_ACROSS / 2,
    TO_RGB_LINE = TO_RGB_ACROSS + 2 * PAD,
    TO_RGB_GROUPS = 4,
    SUMS = TO_RGB_GROUPS * SIDE
};
enum {
    TO_RGB_CHUNKS = 5,
    TO_RGB_BYTES = TO_RGB_GROUPS * TO_RGB_CHUNKS * BYTES,
    MAX_ROWS = 96,
    MIN_ROWS = 12
};

typedef struct {
    const void *x;
    const char *weight;
    const float *scale, *bias;
    float *out;
    long full_height, full_width, height, width, strips, rows; /* rows: of a part */
    int dtype;
} ToRgb;

/* Pixels of a row, or of its border, from the fourth before `left` on -> line (DRAW_LINE, SIDE). */
INLINE void to_rgb_line(const ToRgb *job, long row, long left, uint16_t *line, int dtype) {
    long width = job->full_width;
    const char *from = (const char *)job->x +
                       reflect_index(row, job->full_height - 1) * width * SIDE * sample_size(dtype);
    for (long c = 0; c < SIDE; c += LANES) {
        VecF32 scale = (VecF32){0} + 1, shift = {0};
        if (job->scale)
            scale = load(job->scale, c, FLOAT32), shift = load(job->scale, SIDE + c, FLOAT32);
        for (long n = 0; n < TO_RGB_LINE; n++) {
            long x = reflect_index(left - PAD + n, width - 1);
            store(line, n * SIDE + c,
                  vec_max(load(from, x * SIDE + c, dtype) * scale + shift, (VecF32){0}), BFLOAT16);
        }
    }
}

/* SIDE pairs of pixels, whose samples begin at `line` -> their sums with the row's products. */
static NOINLINE void to_rgb_gemm(const char *line, const char *weight, float *sums) {
    enum { STEP = 4 * SIDE, GROUP = TO_RGB_CHUNKS * BYTES };
#if defined(__AMX_BF16__)
    long apart = 4 * SUMS, step = STEP;
    LOAD(0, sums, apart);
    LOAD(1, sums + SIDE, apart);
    LOAD(2, sums + 2 * SIDE, apart);
    LOAD(3, sums + 3 * SIDE, apart);
    for (long chunk = 0; chunk < TO_RGB_CHUNKS; chunk++, line += 2 * DEPTH, weight += BYTES) {
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
        for (long group = 0; group < TO_RGB_GROUPS; group++)
            for (long chunk = 0; chunk < TO_RGB_CHUNKS; chunk++)
                add_row(line + n * STEP + chunk * 2 * DEPTH, weight + group * GROUP + chunk * BYTES,
                        sums + n * SUMS + group * SIDE);
#endif
}

/* A strip's sums, from row y's on -> row y of the image from column `left` on; they are 0 then.
 */
INLINE void to_rgb_epilogue(const ToRgb *job, float *sums, long y, long left) {
    float planes[COLORS][TO_RGB_ACROSS];
    for (long pair = 0; pair < TO_RGB_PAIRS; pair++, sums += SUMS)
        for (long n = 0; n < 2; n++)
            for (long color = 0; color < COLORS; color++) {
                planes[color][2 * pair + n] = sums[n * COLORS + color];
                sums[n * COLORS + color] = 0;
            }
    for (long color = 0; color < COLORS; color++) {
        for (long n = 0; n < TO_RGB_ACROSS; n += LANES)
            store(planes[color], n,
                  vec_sigmoid(2 * (load(planes[color], n, FLOAT32) + job->bias[color])), FLOAT32);
        memcpy(job->out + (color * job->height + y) * job->width + left, planes[color],
               remaining(left, job->width, TO_RGB_ACROSS) * sizeof(float));
    }
}

static void to_rgb_chunk(const void *data, long part, float *sums) {
    const ToRgb copy = *(const ToRgb *)data, *job = &copy;
    uint16_t *line = (uint16_t *)(sums + TO_RGB_PAIRS * SUMS);
    long left = part % job->strips * TO_RGB_ACROSS, top = part / job->strips * job->rows,
         rows = remaining(top, job->height, job->rows);
    memset(sums, 0, TO_RGB_PAIRS * SUMS * sizeof *sums);
    configure_tiles();
    for (long row = top - PAD; row < top + rows + PAD; row++) {
        if (job->dtype)
            to_rgb_line(job, row, left, line, 1);
        else
            to_rgb_line(job, row, left, line, 0);
        for (long pair = 0; pair < TO_RGB_PAIRS; pair += SIDE)
            to_rgb_gemm((const char *)(line + 2 * pair * SIDE),
                        job->weight + (row + KERNEL_SIZE) % KERNEL_SIZE * TO_RGB_BYTES,
                        sums + pair * SUMS);
        long y = row - PAD;
        if (y >= top)
            to_rgb_epilogue(job, sums + y % KERNEL_SIZE * 2 * COLORS, y, left);
        else /* what rows before the part's have got is nobody's */
            for (long pair = 0; pair < TO_RGB_PAIRS; pair++)
                memset(sums + pair * SUMS + (y + 2 * KERNEL_SIZE) % KERNEL_SIZE * 2 * COLORS, 0,
                       2 * COLORS * sizeof *sums);
    }
    release_tiles();
}

/* As `conv9x9_to_rgb`, by tiles. weight: (9, 4, 5, 16, 16, 2) bfloat16: of rows 0, 1 ... and 8 of
 * each nine, of each 16 of 64 sums, six of each of nine rows of the image, which are the even
 * columns' colors and the odd ones', of each two of the ten columns that they see. */
int conv9x9_to_rgb_amx(Fork fork, int threads, const void *x, long full_height, long full_width,
                       const float *scale, const void *weight, const float *bias, float *out,
                       long height, long width, int dtype) {
    long strips = (width + TO_RGB_ACROSS - 1) / TO_RGB_ACROSS, rows = MAX_ROWS;
    while (rows > MIN_ROWS &&
           strips * ((height + rows - 1) / rows) < 4 * (long)threads) /* no sum depends on it */
        rows /= 2;
    ToRgb job = {x,          weight, scale, bias,   out,  full_height,
                 full_width, height, width, strips, rows, dtype};
    return parallel_for_scratch(fork, threads, to_rgb_chunk, &job,
                                strips * ((height + rows - 1) / rows),
                                TO_RGB_PAIRS * SUMS + padded_floats(TO_RGB_LINE * SIDE, 1));
}
