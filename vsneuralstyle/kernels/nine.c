/* 9x9 convolutions of stride 1, a style network's first and last layer, by Winograd's minimal filtering: a third of the multiplications.
 *
 * A 9x9 kernel is 3x3 kernels of 3x3, each of which F(3x3, 3x3) (Lavin, Gray, CVPR 2016) applies to tiles of 5x5 inputs, 3 apart: so
 * the tiles of all nine are the same ones, moved, and their products add up before they become outputs. At its points, 1/2, -1/2, 5/4 and -5/4,
 * bfloat16 loses half as much as at the usual ones, 0, 1, -1 and 2 (0.7 % for 1.4 % of what comes out); a CPU that multiplies pairs of it does
 * twice the work. Otherwise all of it is float32.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { STEP = 3, REACH = STEP + 2, POINTS = REACH * REACH, KERNELS = 3, PAD = 4 };
enum { ACROSS = 64, COLUMNS = ACROSS + LANES, DOWN = 12 }; /* tiles of a part; of a row in memory */
enum { CHANNELS = 16, COLORS = 3 };
/* Of the matrix products: tiles at once, whose sums fill the CPU's registers; vectors of them. */
enum { TILES = LANES == 16 ? 16 : LANES == 8 ? 6 : 3, VECTORS = 4 };

/* B^T d for one line of five. */
INLINE void to_points(Floats *d)
{
    Floats d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3], d4 = d[4];
    Floats odd = d3 - 1.5625f * d1, even = 0.5f * (d2 - 1.5625f * d0), other_odd = d3 - 0.25f * d1, other_even = 1.25f * (d2 - 0.25f * d0);
    d[0] = odd + even;
    d[1] = odd - even;
    d[2] = other_odd + other_even;
    d[3] = other_odd - other_even;
    d[4] = d4 - 1.8125f * d2 + 0.390625f * d0;
}

/* A^T m for one line of five, of which three are left. */
INLINE void from_points(Floats *m)
{
    Floats m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], last = m[4];
    Floats sum = m0 + m1, difference = m0 - m1, further = m2 + m3, opposite = m2 - m3;
    m[0] = sum + further;
    m[1] = 0.5f * difference + 1.25f * opposite;
    m[2] = 0.25f * sum + 1.5625f * further + last;
}

/* A tile's products, so many floats apart, or those of LANES tiles -> its outputs, in the first columns of `m`. */
INLINE void outputs_of(const float *products, long apart, Floats m[STEP][REACH])
{
    for (long j = 0; j < REACH; j++) {
        Floats d[REACH];
        for (long i = 0; i < REACH; i++)
            d[i] = load(products, (i * REACH + j) * apart, 0);
        from_points(d);
        for (long i = 0; i < STEP; i++)
            m[i][j] = d[i];
    }
    for (long i = 0; i < STEP; i++)
        from_points(m[i]);
}

typedef struct {
    const void *x;
    const uint32_t *weight; /* float32, or pairs of bfloat16 */
    const float *scale, *bias; /* scale: of `draw` */
    void *out;
    double *sums;
    long height, width, full_height, full_width; /* of the frame; of the picture, to which the frame's border is repeated */
    long across, down, parts;                    /* tiles; parts of the work */
    int half, pairs;
} Nine;

/* A part of the work: tiles from (row, column) on. */
typedef struct {
    long row, column, rows, columns;
} Part;

INLINE Part part_at(const Nine *job, long n)
{
    long chunks = (job->across + ACROSS - 1) / ACROSS;
    Part part = {n / chunks * DOWN, n % chunks * ACROSS, DOWN, ACROSS};
    part.rows = remaining(part.row, job->down, DOWN);
    part.columns = remaining(part.column, job->across, ACROSS);
    return part;
}

static inline void count_parts(Nine *job)
{
    job->across = (job->full_width + STEP - 1) / STEP;
    job->down = (job->full_height + STEP - 1) / STEP;
    job->parts = (job->across + ACROSS - 1) / ACROSS * ((job->down + DOWN - 1) / DOWN);
}

/* The points of three rows of tiles, from `row` on, of a ring of so many with `size` floats each. */
INLINE void rows_of(float *ring, long size, long row, float **rows)
{
    for (long i = 0; i < KERNELS; i++)
        rows[i] = ring + (row + i) % KERNELS * size;
}

/* --- the first layer: colors to channels --------------------------------------------------------------------------- */

/* A row of tiles, and one more -> points[POINTS][COLORS][COLUMNS]. */
INLINE void enter_row(const Nine *job, long row, Part part, void *points, int pairs)
{
    long height = job->height, width = job->width, left = part.column * STEP - PAD, tiles = part.columns + KERNELS - 1;
    for (long c = 0; c < COLORS; c++) {
        const float *plane = (const float *)job->x + c * height * width, *from[REACH];
        for (long n = 0; n < REACH; n++)
            from[n] = plane + clamp(reflect(row * STEP - PAD + n, job->full_height - 1), height - 1) * width;
        /* Down each column, and the columns sorted into those 3 apart, so that those of tiles side by side are. */
        float lines[REACH][STEP][COLUMNS + LANES] = {0};
        for (long tile = 0; tile <= tiles; tile++)
            for (long n = 0; n < STEP; n++) {
                long x = clamp(reflect(left + tile * STEP + n, job->full_width - 1), width - 1);
                for (long m = 0; m < REACH; m++)
                    lines[m][n][tile] = from[m][x];
            }
        for (long n = 0; n < STEP; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                Floats d[REACH];
                for (long m = 0; m < REACH; m++)
                    d[m] = load(lines[m][n], tile, 0);
                to_points(d);
                for (long m = 0; m < REACH; m++)
                    store(lines[m][n], tile, d[m], 0);
            }
        for (long n = 0; n < REACH; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                Floats d[REACH];
                for (long m = 0; m < REACH; m++)
                    d[m] = load(lines[n][m % STEP], tile + m / STEP, 0);
                to_points(d);
                for (long m = 0; m < REACH; m++)
                    store(points, ((n * REACH + m) * COLORS + c) * COLUMNS + tile, d[m], pairs);
            }
    }
}

/* TILES tiles side by side, from `tile` on, at one point -> products[TILES][CHANNELS]. rows: the points of three rows of tiles.
 * weight[KERNELS][COLORS][KERNELS][CHANNELS]; of `pairs`, which are of tiles side by side, [KERNELS][COLORS][2][CHANNELS], the last with a 0. */
INLINE void enter_product(float *const *rows, long point, long tile, const uint32_t *weight, float *products, int pairs)
{
    enum { WIDE = CHANNELS / LANES };
    long sample = pairs ? 2 : 4;
    Floats sums[TILES][WIDE];
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            sums[n][v] = (Floats){0};
    for (long i = 0; i < KERNELS; i++)
        for (long c = 0; c < COLORS; c++) {
            const char *points = (const char *)rows[i] + ((point * COLORS + c) * COLUMNS + tile) * sample;
#pragma GCC unroll 1
            for (long j = 0; j < KERNELS; j += pairs ? 2 : 1, weight += CHANNELS) {
                Words w[WIDE];
                for (long v = 0; v < WIDE; v++)
                    w[v] = load_words(weight + v * LANES);
                for (long n = 0; n < TILES; n++)
                    for (long v = 0; v < WIDE; v++)
                        sums[n][v] = add_products(sums[n][v], points + (n + j) * sample, w[v], pairs);
            }
        }
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            store(products, n * CHANNELS + v * LANES, sums[n][v], 0);
}

/* A function of its own, as `multiply` in convolution.c. */
static NOINLINE void enter_multiply(float *const *rows, long point, long tile, const uint32_t *weight, float *products, int pairs)
{
    if (pairs)
        enter_product(rows, point, tile, weight, products, 1);
    else
        enter_product(rows, point, tile, weight, products, 0);
}

/* Products[POINTS][TILES][CHANNELS] of `count` tiles side by side, of which the first is in that row and column -> their outputs, and these's sums. */
INLINE void enter_finish(const Nine *job, long row, long column, long count, const float *products, double *sums, int half)
{
    long top = row * STEP, left = column * STEP;
    long rows = remaining(top, job->full_height, STEP), width = remaining(left, job->full_width, count * STEP);
    for (long c = 0; c < CHANNELS; c += LANES) {
        Floats bias = load(job->bias, c, 0), about = {0}, sum = {0}, square = {0};
        for (long n = 0; n < count; n++) {
            Floats m[STEP][REACH];
            outputs_of(products + n * CHANNELS + c, TILES * CHANNELS, m);
            if (n == 0)
                about = m[0][0] + bias;
            for (long i = 0; i < STEP; i++)
                for (long j = 0; j < STEP; j++) {
                    if (i >= rows || n * STEP + j >= width)
                        continue;
                    Floats value = m[i][j] + bias;
                    store(job->out, ((top + i) * job->full_width + left + n * STEP + j) * CHANNELS + c, value, half);
                    sum += value - about;
                    square += (value - about) * (value - about);
                }
        }
        add_sums(sums + c, CHANNELS, about, sum, square, rows * width);
    }
}

INLINE void enter_tiles(const Nine *job, long n, float *ring, int pairs)
{
    long size = POINTS * COLORS * COLUMNS, weights = KERNELS * COLORS * (pairs ? 2 : KERNELS) * CHANNELS;
    float *products = ring + KERNELS * size, *rows[KERNELS];
    Part part = part_at(job, n);
    double *sums = job->sums + n * 2 * CHANNELS;
    memset(sums, 0, 2 * CHANNELS * sizeof *sums);
    for (long row = 0; row < part.rows + KERNELS - 1; row++) {
        enter_row(job, part.row + row, part, ring + row % KERNELS * size, pairs);
        long done = row - (KERNELS - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows);
        for (long tile = 0; tile < part.columns; tile += TILES) {
            for (long point = 0; point < POINTS; point++)
                enter_multiply(rows, point, tile, job->weight + point * weights, products + point * TILES * CHANNELS, pairs);
            long count = remaining(tile, part.columns, TILES);
            if (job->half)
                enter_finish(job, part.row + done, part.column + tile, count, products, sums, 1);
            else
                enter_finish(job, part.row + done, part.column + tile, count, products, sums, 0);
        }
    }
}

static void enter_part(const void *data, long n, float *ring)
{
    const Nine copy = *(const Nine *)data, *job = &copy;
    if (job->pairs)
        enter_tiles(job, n, ring, 1);
    else
        enter_tiles(job, n, ring, 0);
}

/* frame (3, height, width) float32, its border repeated to the full size and reflected beyond -> out (full_height, full_width, 16).
 *
 * weight: (25, 3, 3 colors, 3, 16), what `nine_points` in __init__.py makes of the convolution's; with `pairs`, bfloat16, (25, 3, 3 colors, 2,
 *     16, 2), the last of the four columns 0. bias: (16).
 * norm_weight, norm_bias, eps, norm: as `convolve` has them. */
EXPORT int enter(Fork fork, int threads, const float *frame, long height, long width, long full_height, long full_width, const void *weight,
                 int pairs, const float *bias, const float *norm_weight, const float *norm_bias, float eps, float *norm, void *out, int half)
{
    Nine job = {.x = frame, .weight = weight, .bias = bias, .out = out, .height = height, .width = width,
                .full_height = full_height, .full_width = full_width, .half = half, .pairs = pairs};
    count_parts(&job);
    job.sums = malloc(job.parts * 2 * CHANNELS * sizeof *job.sums);
    if (!job.sums)
        return -1;
    long size = KERNELS * POINTS * COLORS * COLUMNS + POINTS * TILES * CHANNELS;
    int result = share_in_room(fork, threads, enter_part, &job, job.parts, size);
    if (!result)
        normalising(job.sums, job.parts, CHANNELS, (double)full_height * (double)full_width, norm_weight, norm_bias, eps, norm);
    free(job.sums);
    return result;
}

/* --- the last layer: channels to colors ---------------------------------------------------------------------------- */

/* A row of tiles -> points[POINTS][CHANNELS][COLUMNS], or pairs of channels. */
INLINE void draw_row(const Nine *job, long row, Part part, float *points, int half, int pairs)
{
    long width = job->full_width, tiles = part.columns + KERNELS - 1;
    const char *from[REACH];
    for (long n = 0; n < REACH; n++)
        from[n] = (const char *)job->x + reflect(row * STEP - PAD + n, job->full_height - 1) * width * CHANNELS * (half ? 2 : 4);
    for (long tile = 0; tile < tiles; tile += LANES)
        for (long c = 0; c < CHANNELS; c += LANES) {
            Floats down[LANES * STEP + 2][REACH], all[POINTS][LANES];
            Floats scale = (Floats){0} + 1, shift = {0};
            if (job->scale) {
                scale = load(job->scale, c, 0);
                shift = load(job->scale, CHANNELS + c, 0);
            }
            for (long x = 0; x < LANES * STEP + 2; x++) {
                long at = reflect((part.column + tile) * STEP - PAD + x, width - 1) * CHANNELS + c;
                for (long n = 0; n < REACH; n++)
                    down[x][n] = maximum(load(from[n], at, half) * scale + shift, (Floats){0});
                to_points(down[x]);
            }
            for (long lane = 0; lane < LANES; lane++)
                for (long n = 0; n < REACH; n++) {
                    Floats d[REACH];
                    for (long m = 0; m < REACH; m++)
                        d[m] = down[lane * STEP + m][n];
                    to_points(d);
                    for (long m = 0; m < REACH; m++)
                        all[n * REACH + m][lane] = d[m];
                }
            for (long point = 0; point < POINTS; point++) {
                if (pairs) {
                    pair_up(all[point], (uint32_t *)points + (point * CHANNELS + c) / 2 * COLUMNS + tile, COLUMNS);
                    continue;
                }
                transpose(all[point]);
                for (long lane = 0; lane < LANES; lane++)
                    store(points, (point * CHANNELS + c + lane) * COLUMNS + tile, all[point][lane], 0);
            }
        }
}

/* VECTORS of a row's tiles at one point, from `tile` on -> products[COLORS][ACROSS]. weight[KERNELS][CHANNELS][KERNELS][COLORS]; of `pairs`, which
 * are of channels, half as many. */
INLINE void draw_product(float *const *rows, long point, long tile, const uint32_t *weight, float *products, int pairs)
{
    long channels = pairs ? CHANNELS / 2 : CHANNELS;
    Floats sums[COLORS][VECTORS];
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            sums[color][v] = (Floats){0};
    for (long i = 0; i < KERNELS; i++)
        for (long c = 0; c < channels; c++) {
            const uint32_t *points = (const uint32_t *)rows[i] + (point * channels + c) * COLUMNS + tile;
#pragma GCC unroll 1
            for (long j = 0; j < KERNELS; j++, weight += COLORS)
                for (long v = 0; v < VECTORS; v++) {
                    Words values = load_words(points + j + v * LANES);
                    KEEP(values);
                    for (long color = 0; color < COLORS; color++)
                        sums[color][v] = add_products(sums[color][v], weight + color, values, pairs);
                }
        }
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            store(products, color * ACROSS + tile + v * LANES, sums[color][v], 0);
}

/* A function of its own, as `multiply` in convolution.c. */
static NOINLINE void draw_multiply(float *const *rows, long point, long tile, const uint32_t *weight, float *products, int pairs)
{
    if (pairs)
        draw_product(rows, point, tile, weight, products, 1);
    else
        draw_product(rows, point, tile, weight, products, 0);
}

/* Products[POINTS][COLORS][ACROSS] of a row of tiles -> the picture. */
INLINE void draw_finish(const Nine *job, long row, Part part, const float *products)
{
    long top = row * STEP, rows = remaining(top, job->height, STEP);
    for (long color = 0; color < COLORS; color++) {
        float lines[STEP][STEP][ACROSS];
        for (long tile = 0; tile < part.columns; tile += LANES) {
            Floats m[STEP][REACH];
            outputs_of(products + color * ACROSS + tile, COLORS * ACROSS, m);
            for (long i = 0; i < STEP; i++)
                for (long j = 0; j < STEP; j++)
                    store(lines[i][j], tile, sigmoid(2 * (m[i][j] + job->bias[color])), 0);
        }
        long left = part.column * STEP, columns = remaining(left, job->width, part.columns * STEP);
        for (long i = 0; i < rows; i++) {
            float *line = (float *)job->out + (color * job->height + top + i) * job->width + left;
            long whole = columns / STEP;
            for (long tile = 0; tile < whole; tile++)
                for (long j = 0; j < STEP; j++)
                    line[tile * STEP + j] = lines[i][j][tile];
            for (long x = whole * STEP; x < columns; x++)
                line[x] = lines[i][x % STEP][whole];
        }
    }
}

INLINE void draw_tiles(const Nine *job, long n, float *ring, int pairs)
{
    long size = POINTS * CHANNELS * COLUMNS, weights = KERNELS * CHANNELS * KERNELS * COLORS / (pairs ? 2 : 1);
    float *products = ring + KERNELS * size, *rows[KERNELS];
    Part part = part_at(job, n);
    for (long row = 0; row < part.rows + KERNELS - 1; row++) {
        if (job->half)
            draw_row(job, part.row + row, part, ring + row % KERNELS * size, 1, pairs);
        else
            draw_row(job, part.row + row, part, ring + row % KERNELS * size, 0, pairs);
        long done = row - (KERNELS - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows);
        for (long point = 0; point < POINTS; point++)
            for (long tile = 0; tile < part.columns; tile += VECTORS * LANES)
                draw_multiply(rows, point, tile, job->weight + point * weights, products + point * COLORS * ACROSS, pairs);
        draw_finish(job, part.row + done, part, products);
    }
}

static void draw_part(const void *data, long n, float *ring)
{
    const Nine copy = *(const Nine *)data, *job = &copy;
    if (job->pairs)
        draw_tiles(job, n, ring, 1);
    else
        draw_tiles(job, n, ring, 0);
}

/* x (full_height, full_width, 16) -> the picture (3, height, width) float32, 0..1: tanh of the convolution, from -1..1.
 *
 * scale: x times the first 16 of these plus the others; NULL: x as it is; then a ReLU. Its border is reflected.
 * weight: (25, 3, 16, 3, 3 colors), what `nine_points` in __init__.py makes of the convolution's; with `pairs`, bfloat16, (25, 3, 8, 3,
 *     3 colors, 2). bias: (3). */
EXPORT int draw(Fork fork, int threads, const void *x, long full_height, long full_width, const float *scale, const void *weight, int pairs,
                const float *bias, float *out, long height, long width, int half)
{
    Nine job = {.x = x, .scale = scale, .weight = weight, .bias = bias, .out = out, .height = height, .width = width,
                .full_height = full_height, .full_width = full_width, .half = half, .pairs = pairs};
    count_parts(&job);
    return share_in_room(fork, threads, draw_part, &job, job.parts, KERNELS * POINTS * CHANNELS * COLUMNS + POINTS * COLORS * ACROSS);
}
