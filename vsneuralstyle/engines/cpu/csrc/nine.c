/* 9x9 convolutions of stride 1, a style network's first and last layer, by Winograd's minimal
 * filtering (Lavin, Gray, CVPR 2016): a sixth of the multiplications, or a third.
 *
 * A 9x9 kernel is 2x2 kernels of 5x5, the tenth line and column being 0, each of which F(5x5, 5x5)
 * applies to tiles of 9x9 inputs, 5 apart: so the tiles of all four are the same ones, moved, and
 * their products add up before they become outputs. At its points, 1/4, 5/8, 9/8, 5/2 and these
 * below 0, float32 loses 4e-6 of what comes out, twice as much as F(6x6, 3x3) does.
 *
 * bfloat16 doesn't bear that. A CPU that multiplies pairs of it, twice the work, takes the last
 * layer's kernel as 3x3 of 3x3 by F(3x3, 3x3), tiles of 5x5 inputs, 3 apart: at its points, 1/2,
 * -1/2, 5/4 and -5/4, half as much is lost as at the usual ones, 0, 1, -1 and 2 (0.7 % for 1.4 %).
 * The first layer's inputs bear none: what a bright wall has of detail is less than bfloat16 rounds
 * its brightness by. In float32 it is no slower.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { CHANNELS = 16, PAD = 4, MOST_STEP = 5, MOST_REACH = 9, MOST_KERNELS = 3 };
/* Of the matrix products: tiles at once, whose sums fill the CPU's registers; vectors of them. */
enum { TILES = LANES == 16 ? 16 : LANES == 8 ? 6 : 3, VECTORS = 4 };
/* Tiles of a part of the work, and those of a row in memory. */
enum { ENTER_ACROSS = 64, ENTER_COLUMNS = ENTER_ACROSS + LANES };
enum { DRAW_ACROSS = VECTORS * LANES, DRAW_COLUMNS = DRAW_ACROSS + LANES };
enum { LINE = ENTER_COLUMNS + LANES };

INLINE long step_of(int pairs) /* inputs from a tile to the next, and its outputs in a line */
{
    return pairs ? 3 : 5;
}

INLINE long reach_of(int pairs) /* a tile's inputs in a line */
{
    return pairs ? 5 : 9;
}

INLINE long kernels_of(int pairs) /* in a line of the whole kernel */
{
    return pairs ? 3 : 2;
}

INLINE long points_of(int pairs) /* of a tile */
{
    return reach_of(pairs) * reach_of(pairs);
}

INLINE long part_rows(int pairs) /* of tiles, of a part: some 40 of the picture, beside which it
                                    makes the points of kernels - 1 more */
{
    return pairs ? 12 : 8;
}

/* B^T d for one line of a tile. */
INLINE void to_points(Floats *d, int pairs) {
    if (!pairs) {
        Floats near[5], far[4]; /* d without the points 1/4 and 5/8, and without 9/8 and 5/2 */
        for (long n = 0; n < 5; n++)
            near[n] = d[n + 4] - 0.453125f * d[n + 2] + 0.0244140625f * d[n];
        for (long n = 0; n < 4; n++)
            far[n] = d[n + 4] - 7.515625f * d[n + 2] + 7.91015625f * d[n];
        Floats last = near[4] - 7.515625f * near[2] + 7.91015625f * near[0];
        Floats odd = far[3] - 0.390625f * far[1], even = 0.25f * (far[2] - 0.390625f * far[0]);
        d[0] = odd + even;
        d[1] = odd - even;
        odd = far[3] - 0.0625f * far[1], even = 0.625f * (far[2] - 0.0625f * far[0]);
        d[2] = odd + even;
        d[3] = odd - even;
        odd = near[3] - 6.25f * near[1], even = 1.125f * (near[2] - 6.25f * near[0]);
        d[4] = odd + even;
        d[5] = odd - even;
        odd = near[3] - 1.265625f * near[1], even = 2.5f * (near[2] - 1.265625f * near[0]);
        d[6] = odd + even;
        d[7] = odd - even;
        d[8] = last;
        return;
    }
    Floats d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3], d4 = d[4];
    Floats odd = d3 - 1.5625f * d1, even = 0.5f * (d2 - 1.5625f * d0), other_odd = d3 - 0.25f * d1,
           other_even = 1.25f * (d2 - 0.25f * d0);
    d[0] = odd + even;
    d[1] = odd - even;
    d[2] = other_odd + other_even;
    d[3] = other_odd - other_even;
    d[4] = d4 - 1.8125f * d2 + 0.390625f * d0;
}

/* A^T m for one line of a tile, of which its outputs are left. */
INLINE void from_points(Floats *m, int pairs) {
    if (!pairs) {
        Floats sums[4], differences[4];
        for (long n = 0; n < 4; n++) {
            sums[n] = m[2 * n] + m[2 * n + 1];
            differences[n] = m[2 * n] - m[2 * n + 1];
        }
        m[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        m[1] = 0.25f * differences[0] + 0.625f * differences[1] +
               (1.125f * differences[2] + 2.5f * differences[3]);
        m[2] = 0.0625f * sums[0] + 0.390625f * sums[1] + (1.265625f * sums[2] + 6.25f * sums[3]);
        m[3] = 0.015625f * differences[0] + 0.244140625f * differences[1] +
               (1.423828125f * differences[2] + 15.625f * differences[3]);
        m[4] = 0.00390625f * sums[0] + 0.152587890625f * sums[1] +
               (1.601806640625f * sums[2] + (39.0625f * sums[3] + m[8]));
        return;
    }
    Floats m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], last = m[4];
    Floats sum = m0 + m1, difference = m0 - m1, further = m2 + m3, opposite = m2 - m3;
    m[0] = sum + further;
    m[1] = 0.5f * difference + 1.25f * opposite;
    m[2] = 0.25f * sum + 1.5625f * further + last;
}

/* A tile's products, so many floats apart, or those of LANES tiles -> its outputs, in the first
 * columns of `m`. */
INLINE void outputs_of(const float *products, long apart, Floats m[MOST_STEP][MOST_REACH],
                       int pairs) {
    long step = step_of(pairs), reach = reach_of(pairs);
    for (long j = 0; j < reach; j++) {
        Floats d[MOST_REACH];
        for (long i = 0; i < reach; i++)
            d[i] = load(products, (i * reach + j) * apart, 0);
        from_points(d, pairs);
        for (long i = 0; i < step; i++)
            m[i][j] = d[i];
    }
    for (long i = 0; i < step; i++)
        from_points(m[i], pairs);
}

typedef struct {
    const void *x;
    const uint32_t *weight;    /* float32, or pairs of bfloat16 */
    const float *scale, *bias; /* scale: of `draw` */
    void *out;
    double *sums;
    long height, width, full_height,
        full_width; /* of the frame; of the picture, to which the frame's border is repeated */
    long part_columns, across, down,
        parts; /* tiles of a part side by side; tiles; parts of the work */
    int half, pairs;
} Nine;

/* A part of the work: tiles from (row, column) on. */
typedef struct {
    long row, column, rows, columns;
} Part;

INLINE Part part_at(const Nine *job, long n) {
    long chunks = (job->across + job->part_columns - 1) / job->part_columns;
    Part part = {n / chunks * part_rows(job->pairs), n % chunks * job->part_columns, 0, 0};
    part.rows = remaining(part.row, job->down, part_rows(job->pairs));
    part.columns = remaining(part.column, job->across, job->part_columns);
    return part;
}

static inline void count_parts(Nine *job) {
    long step = step_of(job->pairs);
    job->across = (job->full_width + step - 1) / step;
    job->down = (job->full_height + step - 1) / step;
    job->parts = (job->across + job->part_columns - 1) / job->part_columns *
                 ((job->down + part_rows(job->pairs) - 1) / part_rows(job->pairs));
}

/* The points of as many rows of tiles as there are kernels, from `row` on, of a ring of so many
 * with `size` floats each. */
INLINE void rows_of(float *ring, long size, long row, float **rows, int pairs) {
    for (long i = 0; i < kernels_of(pairs); i++)
        rows[i] = ring + (row + i) % kernels_of(pairs) * size;
}

/* A line of what was filtered down the columns, which are sorted into those a step apart, so that
 * those of tiles side by side are -> the points of LANES tiles from `tile` on. */
INLINE void across(float (*columns)[LINE], long tile, Floats *d, int pairs) {
    for (long m = 0; m < reach_of(pairs); m++)
        d[m] = load(columns[m % step_of(pairs)], tile + m / step_of(pairs), 0);
    to_points(d, pairs);
}

/* --- the first layer: colors to channels
 * --------------------------------------------------------------------------- */

/* A row of tiles, and one more -> points[points][COLORS][ENTER_COLUMNS]. */
INLINE void enter_row(const Nine *job, long row, Part part, float *points) {
    long step = step_of(0), reach = reach_of(0);
    long height = job->height, width = job->width, left = part.column * step - PAD,
         tiles = part.columns + kernels_of(0) - 1;
    for (long c = 0; c < COLORS; c++) {
        const float *plane = (const float *)job->x + c * height * width, *from[MOST_REACH];
        for (long n = 0; n < reach; n++)
            from[n] =
                plane +
                clamp(reflect(row * step - PAD + n, job->full_height - 1), height - 1) * width;
        float lines[MOST_REACH][MOST_STEP][LINE] = {0};
        for (long tile = 0; tile <= tiles; tile++)
            for (long n = 0; n < step; n++) {
                long x = clamp(reflect(left + tile * step + n, job->full_width - 1), width - 1);
                for (long m = 0; m < reach; m++)
                    lines[m][n][tile] = from[m][x];
            }
        for (long n = 0; n < step; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                Floats d[MOST_REACH];
                for (long m = 0; m < reach; m++)
                    d[m] = load(lines[m][n], tile, 0);
                to_points(d, 0);
                for (long m = 0; m < reach; m++)
                    store(lines[m][n], tile, d[m], 0);
            }
        for (long n = 0; n < reach; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                Floats d[MOST_REACH];
                across(lines[n], tile, d, 0);
                for (long m = 0; m < reach; m++)
                    store(points, ((n * reach + m) * COLORS + c) * ENTER_COLUMNS + tile, d[m], 0);
            }
    }
}

/* TILES tiles side by side, from `tile` on, at one point -> products[TILES][CHANNELS]. rows: the
 * points of as many rows of tiles as there are kernels. weight[kernels][kernels][COLORS][CHANNELS].
 * A function of its own, as `multiply` in convolution.c. */
static NOINLINE void enter_multiply(float *const *rows, long point, long tile,
                                    const uint32_t *weight, float *products) {
    enum { WIDE = CHANNELS / LANES };
    Floats sums[TILES][WIDE];
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            sums[n][v] = (Floats){0};
    for (long i = 0; i < kernels_of(0); i++)
        for (long j = 0; j < kernels_of(0); j++)
#pragma GCC unroll 1
            for (long c = 0; c < COLORS; c++, weight += CHANNELS) {
                const float *points = rows[i] + (point * COLORS + c) * ENTER_COLUMNS + tile + j;
                OPAQUE(points);
                Words w[WIDE];
                for (long v = 0; v < WIDE; v++)
                    w[v] = load_words(weight + v * LANES);
                for (long n = 0; n < TILES; n++)
                    for (long v = 0; v < WIDE; v++)
                        sums[n][v] = add_products(sums[n][v], points + n, w[v], 0);
            }
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            store(products, n * CHANNELS + v * LANES, sums[n][v], 0);
}

/* Products[points][TILES][CHANNELS] of `count` tiles side by side, of which the first is in that
 * row and column -> their outputs, and these's sums. */
INLINE void enter_finish(const Nine *job, long row, long column, long count, const float *products,
                         double *sums, int half) {
    long step = step_of(0), top = row * step, left = column * step;
    long rows = remaining(top, job->full_height, step),
         width = remaining(left, job->full_width, count * step);
    for (long c = 0; c < CHANNELS; c += LANES) {
        Floats bias = load(job->bias, c, 0), about = {0}, sum = {0}, square = {0};
        for (long n = 0; n < count; n++) {
            Floats m[MOST_STEP][MOST_REACH];
            outputs_of(products + n * CHANNELS + c, TILES * CHANNELS, m, 0);
            if (n == 0)
                about = m[0][0] + bias;
            for (long i = 0; i < step; i++)
                for (long j = 0; j < step; j++) {
                    if (i >= rows || n * step + j >= width)
                        continue;
                    Floats value = m[i][j] + bias;
                    store(job->out,
                          ((top + i) * job->full_width + left + n * step + j) * CHANNELS + c, value,
                          half);
                    sum += value - about;
                    square += (value - about) * (value - about);
                }
        }
        add_sums(sums + c, CHANNELS, about, sum, square, rows * width);
    }
}

static void enter_part(const void *data, long n, float *ring) {
    const Nine copy = *(const Nine *)data, *job = &copy;
    long kernels = kernels_of(0), all = points_of(0), size = all * COLORS * ENTER_COLUMNS,
         weights = kernels * kernels * COLORS * CHANNELS;
    float *products = ring + kernels * size, *rows[MOST_KERNELS];
    Part part = part_at(job, n);
    double *sums = job->sums + n * 2 * CHANNELS;
    memset(sums, 0, 2 * CHANNELS * sizeof *sums);
    for (long row = 0; row < part.rows + kernels - 1; row++) {
        enter_row(job, part.row + row, part, ring + row % kernels * size);
        long done = row - (kernels - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows, 0);
        for (long tile = 0; tile < part.columns; tile += TILES) {
            for (long point = 0; point < all; point++)
                enter_multiply(rows, point, tile, job->weight + point * weights,
                               products + point * TILES * CHANNELS);
            long count = remaining(tile, part.columns, TILES);
            if (job->half)
                enter_finish(job, part.row + done, part.column + tile, count, products, sums, 1);
            else
                enter_finish(job, part.row + done, part.column + tile, count, products, sums, 0);
        }
    }
}

/* frame (3, height, width) float32, its border repeated to the full size and reflected beyond ->
 * out (full_height, full_width, 16).
 *
 * weight: (81, 2, 2, 3 colors, 16), what `nine_points` in __init__.py makes of the convolution's.
 * bias: (16). norm_weight, norm_bias, eps, norm: as `convolve` has them. */
EXPORT int enter(Fork fork, int threads, const float *frame, long height, long width,
                 long full_height, long full_width, const void *weight, const float *bias,
                 const float *norm_weight, const float *norm_bias, float eps, float *norm,
                 void *out, int half) {
    Nine job = {.x = frame,
                .weight = weight,
                .bias = bias,
                .out = out,
                .height = height,
                .width = width,
                .full_height = full_height,
                .full_width = full_width,
                .half = half,
                .part_columns = ENTER_ACROSS};
    count_parts(&job);
    job.sums = malloc(job.parts * 2 * CHANNELS * sizeof *job.sums);
    if (!job.sums)
        return -1;
    long size = points_of(0) * (kernels_of(0) * COLORS * ENTER_COLUMNS + TILES * CHANNELS);
    int result = share_in_room(fork, threads, enter_part, &job, job.parts, size);
    if (!result)
        normalising(job.sums, job.parts, CHANNELS, (double)full_height * (double)full_width,
                    norm_weight, norm_bias, eps, norm);
    free(job.sums);
    return result;
}

/* --- the last layer: channels to colors
 * ---------------------------------------------------------------------------- */

/* A row of tiles -> points[points][CHANNELS][DRAW_COLUMNS], or pairs of channels. */
INLINE void draw_row(const Nine *job, long row, Part part, float *points, int half, int pairs) {
    long step = step_of(pairs), reach = reach_of(pairs), width = job->full_width,
         tiles = part.columns + kernels_of(pairs) - 1;
    long columns = tiles * step + reach - step,
         all = (tiles / LANES + 1) * LANES * step; /* of x, and of whole vectors of tiles */
    const char *from[MOST_REACH];
    for (long n = 0; n < reach; n++)
        from[n] = (const char *)job->x + reflect(row * step - PAD + n, job->full_height - 1) *
                                             width * CHANNELS * (half ? 2 : 4);
    for (long c = 0; c < CHANNELS; c += LANES) {
        Floats down[MOST_REACH][(DRAW_COLUMNS + LANES) * MOST_STEP];
        Floats scale = (Floats){0} + 1, shift = {0};
        if (job->scale) {
            scale = load(job->scale, c, 0);
            shift = load(job->scale, CHANNELS + c, 0);
        }
        for (long x = 0; x < all; x++) {
            long at = reflect(part.column * step - PAD + x, width - 1) * CHANNELS + c;
            Floats d[MOST_REACH] = {0};
            for (long n = 0; n < reach && x < columns; n++)
                d[n] = maximum(load(from[n], at, half) * scale + shift, (Floats){0});
            to_points(d, pairs);
            for (long n = 0; n < reach; n++)
                down[n][x] = d[n];
        }
        for (long n = 0; n < reach; n++) {
            float lines[LANES][MOST_STEP][LINE]; /* of each channel */
            for (long tile = 0; tile <= tiles; tile += LANES)
                for (long m = 0; m < step; m++) {
                    Floats channels[LANES];
                    for (long lane = 0; lane < LANES; lane++)
                        channels[lane] = down[n][(tile + lane) * step + m];
                    transpose(channels);
                    for (long lane = 0; lane < LANES; lane++)
                        store(lines[lane][m], tile, channels[lane], 0);
                }
            for (long lane = 0; lane < LANES; lane += pairs ? 2 : 1)
                for (long tile = 0; tile < tiles; tile += LANES) {
                    Floats d[MOST_REACH], next[MOST_REACH];
                    across(lines[lane], tile, d, pairs);
                    if (pairs)
                        across(lines[lane + 1], tile, next, pairs);
                    for (long m = 0; m < reach; m++) {
                        long place = (n * reach + m) * CHANNELS + c + lane;
                        if (pairs)
                            store_words((uint32_t *)points + place / 2 * DRAW_COLUMNS + tile,
                                        pair_up(d[m], next[m]));
                        else
                            store(points, place * DRAW_COLUMNS + tile, d[m], 0);
                    }
                }
        }
    }
}

/* A row's tiles, VECTORS of them, at one point -> products[COLORS][DRAW_ACROSS].
 * weight[kernels][kernels][CHANNELS][COLORS]; of `pairs`, which are of channels, half as many. */
INLINE void draw_product(float *const *rows, long point, const uint32_t *weight, float *products,
                         int pairs) {
    long channels = pairs ? CHANNELS / 2 : CHANNELS, kernels = kernels_of(pairs);
    Floats sums[COLORS][VECTORS];
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            sums[color][v] = (Floats){0};
    for (long i = 0; i < kernels; i++)
        for (long j = 0; j < kernels; j++) {
            const uint32_t *points =
                (const uint32_t *)rows[i] + point * channels * DRAW_COLUMNS + j;
#pragma GCC unroll 1
            for (long c = 0; c < channels; c++, points += DRAW_COLUMNS, weight += COLORS)
                for (long v = 0; v < VECTORS; v++) {
                    Words values = load_words(points + v * LANES);
                    KEEP(values);
                    for (long color = 0; color < COLORS; color++)
                        sums[color][v] =
                            add_products(sums[color][v], weight + color, values, pairs);
                }
        }
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            store(products, color * DRAW_ACROSS + v * LANES, sums[color][v], 0);
}

/* A function of its own, as `multiply` in convolution.c. */
static NOINLINE void draw_multiply(float *const *rows, long point, const uint32_t *weight,
                                   float *products, int pairs) {
    if (pairs)
        draw_product(rows, point, weight, products, 1);
    else
        draw_product(rows, point, weight, products, 0);
}

/* Products[points][COLORS][DRAW_ACROSS] of a row of tiles -> the picture. */
INLINE void draw_finish(const Nine *job, long row, Part part, const float *products, int pairs) {
    long step = step_of(pairs), top = row * step, rows = remaining(top, job->height, step);
    for (long color = 0; color < COLORS; color++) {
        float lines[MOST_STEP][MOST_STEP][DRAW_ACROSS];
        for (long tile = 0; tile < part.columns; tile += LANES) {
            Floats m[MOST_STEP][MOST_REACH];
            outputs_of(products + color * DRAW_ACROSS + tile, COLORS * DRAW_ACROSS, m, pairs);
            for (long i = 0; i < step; i++)
                for (long j = 0; j < step; j++)
                    store(lines[i][j], tile, sigmoid(2 * (m[i][j] + job->bias[color])), 0);
        }
        long left = part.column * step, columns = remaining(left, job->width, part.columns * step);
        for (long i = 0; i < rows; i++) {
            float *line = (float *)job->out + (color * job->height + top + i) * job->width + left;
            long whole = columns / step;
            for (long tile = 0; tile < whole; tile++)
                for (long j = 0; j < step; j++)
                    line[tile * step + j] = lines[i][j][tile];
            for (long x = whole * step; x < columns; x++)
                line[x] = lines[i][x % step][whole];
        }
    }
}

INLINE void draw_tiles(const Nine *job, long n, float *ring, int pairs) {
    long kernels = kernels_of(pairs), all = points_of(pairs);
    long size = all * CHANNELS * DRAW_COLUMNS,
         weights = kernels * CHANNELS * kernels * COLORS / (pairs ? 2 : 1);
    float *products = ring + kernels * size, *rows[MOST_KERNELS];
    Part part = part_at(job, n);
    for (long row = 0; row < part.rows + kernels - 1; row++) {
        if (job->half)
            draw_row(job, part.row + row, part, ring + row % kernels * size, 1, pairs);
        else
            draw_row(job, part.row + row, part, ring + row % kernels * size, 0, pairs);
        long done = row - (kernels - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows, pairs);
        for (long point = 0; point < all; point++)
            draw_multiply(rows, point, job->weight + point * weights,
                          products + point * COLORS * DRAW_ACROSS, pairs);
        draw_finish(job, part.row + done, part, products, pairs);
    }
}

static void draw_part(const void *data, long n, float *ring) {
    const Nine copy = *(const Nine *)data, *job = &copy;
    if (job->pairs)
        draw_tiles(job, n, ring, 1);
    else
        draw_tiles(job, n, ring, 0);
}

/* x (full_height, full_width, 16) -> the picture (3, height, width) float32, 0..1: tanh of the
 * convolution, from -1..1.
 *
 * scale: x times the first 16 of these plus the others; NULL: x as it is; then a ReLU. Its border
 * is reflected. weight: (81, 2, 2, 16, 3 colors), what `nine_points` in __init__.py makes of the
 * convolution's; with `pairs`, bfloat16, (25, 3, 3, 8, 3 colors, 2). bias: (3). */
EXPORT int draw(Fork fork, int threads, const void *x, long full_height, long full_width,
                const float *scale, const void *weight, int pairs, const float *bias, float *out,
                long height, long width, int half) {
    Nine job = {.x = x,
                .scale = scale,
                .weight = weight,
                .bias = bias,
                .out = out,
                .height = height,
                .width = width,
                .full_height = full_height,
                .full_width = full_width,
                .half = half,
                .pairs = pairs,
                .part_columns = DRAW_ACROSS};
    count_parts(&job);
    long size =
        points_of(pairs) * (kernels_of(pairs) * CHANNELS * DRAW_COLUMNS + COLORS * DRAW_ACROSS);
    return share_in_room(fork, threads, draw_part, &job, job.parts, size);
}
