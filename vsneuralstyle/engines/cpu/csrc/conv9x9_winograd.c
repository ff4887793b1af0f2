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
 * Feature maps are as layers.h says.
 */

#include "layers.h"

enum { CHANNELS = 16, PAD = 4, MAX_STRIDE = 5, MAX_TILE_SIZE = 9, MAX_KERNELS = 3 };
/* Of the matrix products: tiles at once, whose sums fill the CPU's registers; vectors of them. */
enum { TILES = LANES == 16 ? 16 : LANES == 8 ? 6 : 3, VECTORS = 4 };
/* Tiles of a part of the work, and those of a row in memory. */
enum { FROM_RGB_ACROSS = 64, FROM_RGB_COLUMNS = FROM_RGB_ACROSS + LANES };
enum { TO_RGB_ACROSS = VECTORS * LANES, TO_RGB_COLUMNS = TO_RGB_ACROSS + LANES };
enum { LINE = FROM_RGB_COLUMNS + LANES };

INLINE long tile_stride(int bf16) /* inputs from a tile to the next, and its outputs in a line */
{
    return bf16 ? 3 : 5;
}

INLINE long tile_size_of(int bf16) /* a tile's inputs in a line */
{
    return bf16 ? 5 : 9;
}

INLINE long kernels_of(int bf16) /* in a line of the whole kernel */
{
    return bf16 ? 3 : 2;
}

INLINE long points_of(int bf16) /* of a tile */
{
    return tile_size_of(bf16) * tile_size_of(bf16);
}

INLINE long part_rows(int bf16) /* of tiles, of a part: some 40 of the image, beside which it
                                    makes the points of kernels - 1 more */
{
    return bf16 ? 12 : 8;
}

/* B^T d for one line of a tile. */
INLINE void input_transform(VecF32 *d, int bf16) {
    if (!bf16) {
        VecF32 near[5], far[4]; /* d without the points 1/4 and 5/8, and without 9/8 and 5/2 */
        for (long n = 0; n < 5; n++)
            near[n] = d[n + 4] - 0.453125f * d[n + 2] + 0.0244140625f * d[n];
        for (long n = 0; n < 4; n++)
            far[n] = d[n + 4] - 7.515625f * d[n + 2] + 7.91015625f * d[n];
        VecF32 last = near[4] - 7.515625f * near[2] + 7.91015625f * near[0];
        VecF32 odd = far[3] - 0.390625f * far[1], even = 0.25f * (far[2] - 0.390625f * far[0]);
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
    VecF32 d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3], d4 = d[4];
    VecF32 odd = d3 - 1.5625f * d1, even = 0.5f * (d2 - 1.5625f * d0), other_odd = d3 - 0.25f * d1,
           other_even = 1.25f * (d2 - 0.25f * d0);
    d[0] = odd + even;
    d[1] = odd - even;
    d[2] = other_odd + other_even;
    d[3] = other_odd - other_even;
    d[4] = d4 - 1.8125f * d2 + 0.390625f * d0;
}

/* A^T m for one line of a tile, of which its outputs are left. */
INLINE void output_transform(VecF32 *m, int bf16) {
    if (!bf16) {
        VecF32 sums[4], differences[4];
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
    VecF32 m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], last = m[4];
    VecF32 sum = m0 + m1, difference = m0 - m1, further = m2 + m3, opposite = m2 - m3;
    m[0] = sum + further;
    m[1] = 0.5f * difference + 1.25f * opposite;
    m[2] = 0.25f * sum + 1.5625f * further + last;
}

/* A tile's products, so many floats apart, or those of LANES tiles -> its outputs, in the first
 * columns of `m`. */
INLINE void outputs_of(const float *products, long apart, VecF32 m[MAX_STRIDE][MAX_TILE_SIZE],
                       int bf16) {
    long step = tile_stride(bf16), tile_size = tile_size_of(bf16);
    for (long j = 0; j < tile_size; j++) {
        VecF32 d[MAX_TILE_SIZE];
        for (long i = 0; i < tile_size; i++)
            d[i] = load(products, (i * tile_size + j) * apart, FLOAT32);
        output_transform(d, bf16);
        for (long i = 0; i < step; i++)
            m[i][j] = d[i];
    }
    for (long i = 0; i < step; i++)
        output_transform(m[i], bf16);
}

typedef struct {
    const void *x;
    const uint32_t *weight;    /* float32, or pairs of bfloat16 */
    const float *scale, *bias; /* scale: of `conv9x9_to_rgb` */
    void *out;
    double *sums;
    long height, width, full_height,
        full_width; /* of the frame; of the image, to which the frame's border is repeated */
    long part_columns, across, down,
        parts; /* tiles of a part side by side; tiles; parts of the work */
    int dtype, bf16;
} Conv9x9;

/* A part of the work: tiles from (row, column) on. */
typedef struct {
    long row, column, rows, columns;
} Part;

INLINE Part part_at(const Conv9x9 *job, long n) {
    long chunks = (job->across + job->part_columns - 1) / job->part_columns;
    Part part = {n / chunks * part_rows(job->bf16), n % chunks * job->part_columns, 0, 0};
    part.rows = remaining(part.row, job->down, part_rows(job->bf16));
    part.columns = remaining(part.column, job->across, job->part_columns);
    return part;
}

static inline void count_parts(Conv9x9 *job) {
    long step = tile_stride(job->bf16);
    job->across = (job->full_width + step - 1) / step;
    job->down = (job->full_height + step - 1) / step;
    job->parts = (job->across + job->part_columns - 1) / job->part_columns *
                 ((job->down + part_rows(job->bf16) - 1) / part_rows(job->bf16));
}

/* The points of as many rows of tiles as there are kernels, from `row` on, of a ring of so many
 * with `size` floats each. */
INLINE void rows_of(float *ring, long size, long row, float **rows, int bf16) {
    for (long i = 0; i < kernels_of(bf16); i++)
        rows[i] = ring + (row + i) % kernels_of(bf16) * size;
}

/* A line of what was filtered down the columns, which are sorted into those a step apart, so that
 * those of tiles side by side are -> the points of LANES tiles from `tile` on. */
INLINE void transform_across(float (*columns)[LINE], long tile, VecF32 *d, int bf16) {
    for (long m = 0; m < tile_size_of(bf16); m++)
        d[m] = load(columns[m % tile_stride(bf16)], tile + m / tile_stride(bf16), FLOAT32);
    input_transform(d, bf16);
}

/* --- the first layer: colors to channels
 * --------------------------------------------------------------------------- */

/* A row of tiles, and one more -> points[points][COLORS][ENTER_COLUMNS]. */
INLINE void from_rgb_row(const Conv9x9 *job, long row, Part part, float *points) {
    long step = tile_stride(0), tile_size = tile_size_of(0);
    long height = job->height, width = job->width, left = part.column * step - PAD,
         tiles = part.columns + kernels_of(0) - 1;
    for (long c = 0; c < COLORS; c++) {
        const float *plane = (const float *)job->x + c * height * width, *from[MAX_TILE_SIZE];
        for (long n = 0; n < tile_size; n++)
            from[n] = plane + clamp_index(reflect_index(row * step - PAD + n, job->full_height - 1),
                                          height - 1) *
                                  width;
        float lines[MAX_TILE_SIZE][MAX_STRIDE][LINE] = {0};
        for (long tile = 0; tile <= tiles; tile++)
            for (long n = 0; n < step; n++) {
                long x = clamp_index(reflect_index(left + tile * step + n, job->full_width - 1),
                                     width - 1);
                for (long m = 0; m < tile_size; m++)
                    lines[m][n][tile] = from[m][x];
            }
        for (long n = 0; n < step; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                VecF32 d[MAX_TILE_SIZE];
                for (long m = 0; m < tile_size; m++)
                    d[m] = load(lines[m][n], tile, FLOAT32);
                input_transform(d, 0);
                for (long m = 0; m < tile_size; m++)
                    store(lines[m][n], tile, d[m], FLOAT32);
            }
        for (long n = 0; n < tile_size; n++)
            for (long tile = 0; tile <= tiles; tile += LANES) {
                VecF32 d[MAX_TILE_SIZE];
                transform_across(lines[n], tile, d, 0);
                for (long m = 0; m < tile_size; m++)
                    store(points, ((n * tile_size + m) * COLORS + c) * FROM_RGB_COLUMNS + tile,
                          d[m], FLOAT32);
            }
    }
}

/* TILES tiles side by side, from `tile` on, at one point -> products[TILES][CHANNELS]. rows: the
 * points of as many rows of tiles as there are kernels. weight[kernels][kernels][COLORS][CHANNELS].
 * A function of its own, as `gemm` in winograd_gemm.h. */
static NOINLINE void from_rgb_gemm(float *const *rows, long point, long tile,
                                   const uint32_t *weight, float *products) {
    enum { WIDE = CHANNELS / LANES };
    VecF32 sums[TILES][WIDE];
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            sums[n][v] = (VecF32){0};
    for (long i = 0; i < kernels_of(0); i++)
        for (long j = 0; j < kernels_of(0); j++)
#pragma GCC unroll 1
            for (long c = 0; c < COLORS; c++, weight += CHANNELS) {
                const float *points = rows[i] + (point * COLORS + c) * FROM_RGB_COLUMNS + tile + j;
                HIDE_POINTER(points);
                VecU32 w[WIDE];
                for (long v = 0; v < WIDE; v++)
                    w[v] = load_words(weight + v * LANES);
                for (long n = 0; n < TILES; n++)
                    for (long v = 0; v < WIDE; v++)
                        sums[n][v] = dot_broadcast(sums[n][v], points + n, w[v], 0);
            }
    for (long n = 0; n < TILES; n++)
        for (long v = 0; v < WIDE; v++)
            store(products, n * CHANNELS + v * LANES, sums[n][v], FLOAT32);
}

/* Products[points][TILES][CHANNELS] of `count` tiles side by side, of which the first is in that
 * row and column -> their outputs, and these's sums. */
INLINE void from_rgb_epilogue(const Conv9x9 *job, long row, long column, long count,
                              const float *products, double *sums, int dtype) {
    long step = tile_stride(0), top = row * step, left = column * step;
    long rows = remaining(top, job->full_height, step),
         width = remaining(left, job->full_width, count * step);
    for (long c = 0; c < CHANNELS; c += LANES) {
        VecF32 bias = load(job->bias, c, FLOAT32), shift = {0}, sum = {0}, square = {0};
        for (long n = 0; n < count; n++) {
            VecF32 m[MAX_STRIDE][MAX_TILE_SIZE];
            outputs_of(products + n * CHANNELS + c, TILES * CHANNELS, m, 0);
            if (n == 0)
                shift = m[0][0] + bias;
            for (long i = 0; i < step; i++)
                for (long j = 0; j < step; j++) {
                    if (i >= rows || n * step + j >= width)
                        continue;
                    VecF32 value = m[i][j] + bias;
                    store(job->out,
                          ((top + i) * job->full_width + left + n * step + j) * CHANNELS + c, value,
                          dtype);
                    sum += value - shift;
                    square += (value - shift) * (value - shift);
                }
        }
        add_moments(sums + c, CHANNELS, shift, sum, square, rows * width);
    }
}

static void from_rgb_chunk(const void *data, long n, float *ring) {
    const Conv9x9 copy = *(const Conv9x9 *)data, *job = &copy;
    long kernels = kernels_of(0), all = points_of(0), size = all * COLORS * FROM_RGB_COLUMNS,
         weights = kernels * kernels * COLORS * CHANNELS;
    float *products = ring + kernels * size, *rows[MAX_KERNELS];
    Part part = part_at(job, n);
    double *sums = job->sums + n * 2 * CHANNELS;
    memset(sums, 0, 2 * CHANNELS * sizeof *sums);
    for (long row = 0; row < part.rows + kernels - 1; row++) {
        from_rgb_row(job, part.row + row, part, ring + row % kernels * size);
        long done = row - (kernels - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows, 0);
        for (long tile = 0; tile < part.columns; tile += TILES) {
            for (long point = 0; point < all; point++)
                from_rgb_gemm(rows, point, tile, job->weight + point * weights,
                              products + point * TILES * CHANNELS);
            long count = remaining(tile, part.columns, TILES);
            if (job->dtype)
                from_rgb_epilogue(job, part.row + done, part.column + tile, count, products, sums,
                                  1);
            else
                from_rgb_epilogue(job, part.row + done, part.column + tile, count, products, sums,
                                  0);
        }
    }
}

/* frame (3, height, width) float32, its border repeated to the full size and reflected beyond ->
 * out (full_height, full_width, 16).
 *
 * weight: (81, 2, 2, 3 colors, 16), what `nine_points` in packing.py makes of the convolution's.
 * bias: (16). norm_weight, norm_bias, eps, norm: as `conv3x3` has them. */
int conv9x9_from_rgb(Fork fork, int threads, const float *frame, long height, long width,
                     long full_height, long full_width, const float *weight, const float *bias,
                     const float *norm_weight, const float *norm_bias, float eps, float *norm,
                     void *out, int dtype) {
    Conv9x9 job = {.x = frame,
                   .weight = (const uint32_t *)weight,
                   .bias = bias,
                   .out = out,
                   .height = height,
                   .width = width,
                   .full_height = full_height,
                   .full_width = full_width,
                   .dtype = dtype,
                   .part_columns = FROM_RGB_ACROSS};
    count_parts(&job);
    job.sums = malloc(job.parts * 2 * CHANNELS * sizeof *job.sums);
    if (!job.sums)
        return -1;
    long size = points_of(0) * (kernels_of(0) * COLORS * FROM_RGB_COLUMNS + TILES * CHANNELS);
    int result = parallel_for_scratch(fork, threads, from_rgb_chunk, &job, job.parts, size);
    if (!result)
        instance_norm_finalize(job.sums, job.parts, CHANNELS,
                               (double)full_height * (double)full_width, norm_weight, norm_bias,
                               eps, norm);
    free(job.sums);
    return result;
}

/* --- the last layer: channels to colors
 * ---------------------------------------------------------------------------- */

/* A row of tiles -> points[points][CHANNELS][DRAW_COLUMNS], or pairs of channels. */
INLINE void to_rgb_row(const Conv9x9 *job, long row, Part part, float *points, int dtype,
                       int bf16) {
    long step = tile_stride(bf16), tile_size = tile_size_of(bf16), width = job->full_width,
         tiles = part.columns + kernels_of(bf16) - 1;
    long columns = tiles * step + tile_size - step,
         all = (tiles / LANES + 1) * LANES * step; /* of x, and of whole vectors of tiles */
    const char *from[MAX_TILE_SIZE];
    for (long n = 0; n < tile_size; n++)
        from[n] = (const char *)job->x + reflect_index(row * step - PAD + n, job->full_height - 1) *
                                             width * CHANNELS * sample_size(dtype);
    for (long c = 0; c < CHANNELS; c += LANES) {
        VecF32 down[MAX_TILE_SIZE][(TO_RGB_COLUMNS + LANES) * MAX_STRIDE];
        VecF32 scale = (VecF32){0} + 1, shift = {0};
        if (job->scale) {
            scale = load(job->scale, c, FLOAT32);
            shift = load(job->scale, CHANNELS + c, FLOAT32);
        }
        for (long x = 0; x < all; x++) {
            long at = reflect_index(part.column * step - PAD + x, width - 1) * CHANNELS + c;
            VecF32 d[MAX_TILE_SIZE] = {0};
            for (long n = 0; n < tile_size && x < columns; n++)
                d[n] = vec_max(load(from[n], at, dtype) * scale + shift, (VecF32){0});
            input_transform(d, bf16);
            for (long n = 0; n < tile_size; n++)
                down[n][x] = d[n];
        }
        for (long n = 0; n < tile_size; n++) {
            float lines[LANES][MAX_STRIDE][LINE]; /* of each channel */
            for (long tile = 0; tile <= tiles; tile += LANES)
                for (long m = 0; m < step; m++) {
                    VecF32 channels[LANES];
                    for (long lane = 0; lane < LANES; lane++)
                        channels[lane] = down[n][(tile + lane) * step + m];
                    transpose(channels);
                    for (long lane = 0; lane < LANES; lane++)
                        store(lines[lane][m], tile, channels[lane], FLOAT32);
                }
            for (long lane = 0; lane < LANES; lane += bf16 ? 2 : 1)
                for (long tile = 0; tile < tiles; tile += LANES) {
                    VecF32 d[MAX_TILE_SIZE], next[MAX_TILE_SIZE];
                    transform_across(lines[lane], tile, d, bf16);
                    if (bf16)
                        transform_across(lines[lane + 1], tile, next, bf16);
                    for (long m = 0; m < tile_size; m++) {
                        long place = (n * tile_size + m) * CHANNELS + c + lane;
                        if (bf16)
                            store_words((uint32_t *)points + place / 2 * TO_RGB_COLUMNS + tile,
                                        pair_up(d[m], next[m]));
                        else
                            store(points, place * TO_RGB_COLUMNS + tile, d[m], FLOAT32);
                    }
                }
        }
    }
}

/* A row's tiles, VECTORS of them, at one point -> products[COLORS][DRAW_ACROSS].
 * weight[kernels][kernels][CHANNELS][COLORS]; of `bf16`, which are of channels, half as many. */
INLINE void to_rgb_product(float *const *rows, long point, const uint32_t *weight, float *products,
                           int bf16) {
    long channels = bf16 ? CHANNELS / 2 : CHANNELS, kernels = kernels_of(bf16);
    VecF32 sums[COLORS][VECTORS];
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            sums[color][v] = (VecF32){0};
    for (long i = 0; i < kernels; i++)
        for (long j = 0; j < kernels; j++) {
            const uint32_t *points =
                (const uint32_t *)rows[i] + point * channels * TO_RGB_COLUMNS + j;
#pragma GCC unroll 1
            for (long c = 0; c < channels; c++, points += TO_RGB_COLUMNS, weight += COLORS)
                for (long v = 0; v < VECTORS; v++) {
                    VecU32 values = load_words(points + v * LANES);
                    KEEP_IN_REGISTER(values);
                    for (long color = 0; color < COLORS; color++)
                        sums[color][v] =
                            dot_broadcast(sums[color][v], weight + color, values, bf16);
                }
        }
    for (long color = 0; color < COLORS; color++)
        for (long v = 0; v < VECTORS; v++)
            store(products, color * TO_RGB_ACROSS + v * LANES, sums[color][v], FLOAT32);
}

/* A function of its own, as `gemm` in winograd_gemm.h. */
static NOINLINE void to_rgb_gemm(float *const *rows, long point, const uint32_t *weight,
                                 float *products, int bf16) {
    if (bf16)
        to_rgb_product(rows, point, weight, products, 1);
    else
        to_rgb_product(rows, point, weight, products, 0);
}

/* Products[points][COLORS][DRAW_ACROSS] of a row of tiles -> the image. */
INLINE void to_rgb_epilogue(const Conv9x9 *job, long row, Part part, const float *products,
                            int bf16) {
    long step = tile_stride(bf16), top = row * step, rows = remaining(top, job->height, step);
    for (long color = 0; color < COLORS; color++) {
        float lines[MAX_STRIDE][MAX_STRIDE][TO_RGB_ACROSS];
        for (long tile = 0; tile < part.columns; tile += LANES) {
            VecF32 m[MAX_STRIDE][MAX_TILE_SIZE];
            outputs_of(products + color * TO_RGB_ACROSS + tile, COLORS * TO_RGB_ACROSS, m, bf16);
            for (long i = 0; i < step; i++)
                for (long j = 0; j < step; j++)
                    store(lines[i][j], tile, vec_sigmoid(2 * (m[i][j] + job->bias[color])),
                          FLOAT32);
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

INLINE void to_rgb_tiles(const Conv9x9 *job, long n, float *ring, int bf16) {
    long kernels = kernels_of(bf16), all = points_of(bf16);
    long size = all * CHANNELS * TO_RGB_COLUMNS,
         weights = kernels * CHANNELS * kernels * COLORS / (bf16 ? 2 : 1);
    float *products = ring + kernels * size, *rows[MAX_KERNELS];
    Part part = part_at(job, n);
    for (long row = 0; row < part.rows + kernels - 1; row++) {
        if (job->dtype)
            to_rgb_row(job, part.row + row, part, ring + row % kernels * size, 1, bf16);
        else
            to_rgb_row(job, part.row + row, part, ring + row % kernels * size, 0, bf16);
        long done = row - (kernels - 1);
        if (done < 0)
            continue;
        rows_of(ring, size, done, rows, bf16);
        for (long point = 0; point < all; point++)
            to_rgb_gemm(rows, point, job->weight + point * weights,
                        products + point * COLORS * TO_RGB_ACROSS, bf16);
        to_rgb_epilogue(job, part.row + done, part, products, bf16);
    }
}

static void to_rgb_chunk(const void *data, long n, float *ring) {
    const Conv9x9 copy = *(const Conv9x9 *)data, *job = &copy;
    if (job->bf16)
        to_rgb_tiles(job, n, ring, 1);
    else
        to_rgb_tiles(job, n, ring, 0);
}

/* x (full_height, full_width, 16) -> the image (3, height, width) float32, 0..1: tanh of the
 * convolution, from -1..1.
 *
 * scale: x times the first 16 of these plus the others; NULL: x as it is; then a ReLU. Its border
 * is reflected. weight: (81, 2, 2, 16, 3 colors), what `nine_points` in packing.py makes of the
 * convolution's; with `bf16`, bfloat16, (25, 3, 3, 8, 3 colors, 2). bias: (3). */
int conv9x9_to_rgb(Fork fork, int threads, const void *x, long full_height, long full_width,
                   const float *scale, const void *weight, int bf16, const float *bias, float *out,
                   long height, long width, int dtype) {
    Conv9x9 job = {.x = x,
                   .scale = scale,
                   .weight = weight,
                   .bias = bias,
                   .out = out,
                   .height = height,
                   .width = width,
                   .full_height = full_height,
                   .full_width = full_width,
                   .dtype = dtype,
                   .bf16 = bf16,
                   .part_columns = TO_RGB_ACROSS};
    count_parts(&job);
    long size =
        points_of(bf16) * (kernels_of(bf16) * CHANNELS * TO_RGB_COLUMNS + COLORS * TO_RGB_ACROSS);
    return parallel_for_scratch(fork, threads, to_rgb_chunk, &job, job.parts, size);
}
