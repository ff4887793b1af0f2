/* 3x3 convolutions by Winograd's minimal filtering.
 *
 * Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). A tile of
 * inputs becomes as many points, line by line and then column by column; at each point the channels
 * of many tiles are a matrix, which is multiplied with the weights there; and of the products comes
 * the tile of outputs. There are four kinds, told apart by the tile's reach, the inputs of a line
 * of it:
 *
 *   6, 8  stride 1, F(4x4, 3x3) and F(6x6, 3x3): a quarter of the multiplications, and a fifth.
 * Larger tiles have more to add up before and after. 4     of what is enlarged to twice its size by
 * nearest neighbours: 6x6 outputs by 49 multiplications, for 324, or 144 where equal inputs are
 *         counted once. A line's odd outputs are a kernel of two of its inputs, the even ones
 * another; of each F(3, 2) takes four points, the same ones of the inputs, and at one of them both
 * kernels are the sum of all. 7     stride 2: 3x3 outputs of 49 points, for 81 multiplications. In
 * a line the kernel's middle meets every second input, and its sides the others, as F(3, 2).
 *
 * In float32 all of it rounds far less than bfloat16. A CPU that multiplies pairs of bfloat16 does
 * twice the work: the points of reach 4 and 7, samples, sums and differences of neighbours, bear it
 * nearly as a direct convolution does (an error of 0.3 % of what comes out, for 0.2); those of
 * reach 6 lose twice as many bits at the usual points, 1 and 2, as at 3/4 and 3/2 (2.5 % and 1.2).
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { MOST_REACH = 6 + 2, MOST_SIZE = 6 };

/* Of the matrix product: tiles, and vectors of outputs, at once, whose sums fill the CPU's
 * registers. */
enum { TILES = LANES == 16 ? 12 : 6, VECTORS = 2, GROUP = VECTORS * LANES, OUTPUTS = 16 };
enum { BLOCK = 2 * TILES, SMALL = 4 * BLOCK }; /* tiles: a core's cache holds what comes of them */
/* Samples between the matrix of a point's tiles and the next one's: a tile's points would otherwise
 * be a multiple of 512 bytes apart, and of such a cache has room for a few only. */
enum { APART = 16 };

typedef struct {
    const void *x;
    const uint32_t *weight; /* float32, or pairs of bfloat16 */
    const float *scale, *bias;
    void *out;
    double *sums;
    long height, width, full_height, full_width; /* of x; of what comes out */
    long channels, inputs, outputs, across, count;
    float slope;
    long reach;
    int reflects, relu, half, half_out, pairs;
} Convolve;

INLINE long step_of(long reach) /* inputs from a tile to the next */
{
    return reach == HALVING ? 6 : reach == ENLARGING ? 3 : reach - 2;
}

INLINE long size_of(long reach) /* a tile's outputs in a line */
{
    return reach == HALVING ? 3 : reach == ENLARGING ? 6 : reach - 2;
}

INLINE long before(long reach) /* outputs of a line's first tile that lie before the picture */
{
    return reach == ENLARGING;
}

INLINE long products_of(long reach) /* a tile's in a line */
{
    return reach == ENLARGING ? 7 : reach;
}

INLINE long point_of(long product, long reach) /* which of a line's points it is of */
{
    return reach == ENLARGING ? (product + (product > 2)) / 2 : product;
}

INLINE long tiles_of(long outputs, long reach) /* of a line */
{
    return (outputs + before(reach) + size_of(reach) - 1) / size_of(reach);
}

/* B^T d for one line of a tile. */
INLINE void to_points(Floats *d, long reach) {
    Floats d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
    if (reach == ENLARGING) { /* F(3, 2) */
        d[0] = d0 - d2;
        d[1] = d1 + d2;
        d[2] = d2 - d1;
        d[3] = d3 - d1;
        return;
    }
    Floats d4 = d[4], d5 = d[5];
    if (reach ==
        HALVING) { /* what meets the kernel's middle, and F(3, 2) of what meets its sides */
        Floats d6 = d[6];
        d[0] = d1;
        d[1] = d3;
        d[2] = d5;
        d[3] = d0 - d4;
        d[4] = d2 + d4;
        d[5] = d4 - d2;
        d[6] = d6 - d2;
        return;
    }
    if (reach == 6) { /* at 0, 3/4, -3/4, 3/2, -3/2 */
        Floats even = d4 - 2.25f * d2, odd = 0.75f * (d3 - 2.25f * d1),
               other_even = d4 - 0.5625f * d2, other_odd = 1.5f * (d3 - 0.5625f * d1);
        d[0] = 1.265625f * d0 - 2.8125f * d2 + d4;
        d[1] = even + odd;
        d[2] = even - odd;
        d[3] = other_even + other_odd;
        d[4] = other_even - other_odd;
        d[5] = 1.265625f * d1 - 2.8125f * d3 + d5;
    } else {
        Floats d6 = d[6], d7 = d[7];
        Floats even = d2 - 4.25f * d4 + d6, odd = d1 - 4.25f * d3 + d5; /* at 1 and -1 */
        Floats twice_even = 0.25f * d2 - 1.25f * d4 + d6,
               twice_odd = 0.5f * d1 - 2.5f * d3 + 2 * d5; /* at 2 and -2 */
        Floats half_even = 4 * d2 - 5 * d4 + d6,
               half_odd = 2 * d1 - 2.5f * d3 + 0.5f * d5; /* at 1/2 and -1/2 */
        d[0] = d0 - d6 + 5.25f * (d4 - d2);
        d[1] = even + odd;
        d[2] = even - odd;
        d[3] = twice_even + twice_odd;
        d[4] = twice_even - twice_odd;
        d[5] = half_even + half_odd;
        d[6] = half_even - half_odd;
        d[7] = d7 - d1 + 5.25f * (d3 - d5);
    }
}

/* A^T m for one line of a tile, of which its outputs are left. */
INLINE void from_points(Floats *m, long reach) {
    Floats m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4];
    if (reach ==
        ENLARGING) { /* an odd output, which is the last of a pixel, and the next one's even one */
        Floats odd = m2 + m3, even = m2 + m4;
        m[0] = m[0] + odd;
        m[1] = m1 + even;
        m[2] = m2 - m3;
        m[3] = m2 - m4;
        m[4] = odd + m[5];
        m[5] = even + m[6];
        return;
    }
    if (reach == HALVING) {
        Floats m5 = m[5], outer = m4 + m5;
        m[0] = m[0] + m3 + outer;
        m[1] = m1 + (m4 - m5);
        m[2] = m2 + outer + m[6];
        return;
    }
    Floats sum = m1 + m2, difference = m1 - m2, further = m3 + m4, opposite = m3 - m4;
    if (reach == 6) {
        Floats last = m[5];
        m[0] = m[0] + sum + further;
        m[1] = 0.75f * difference + 1.5f * opposite;
        m[2] = 0.5625f * sum + 2.25f * further;
        m[3] = 0.421875f * difference + 3.375f * opposite + last;
    } else {
        Floats nearer = m[5] + m[6], other = m[5] - m[6], last = m[7];
        m[0] = m[0] + sum + further + 32 * nearer;
        m[1] = difference + 2 * opposite + 16 * other;
        m[2] = sum + 4 * further + 8 * nearer;
        m[3] = difference + 8 * opposite + 4 * other;
        m[4] = sum + 16 * further + 2 * nearer;
        m[5] = difference + 32 * opposite + other + last;
    }
}

/* A column of x from channel c on, in the rows that begin there (NULL: of a border of 0) -> the
 * points down it. `inside`: no border is met. */
INLINE void column_of(const Convolve *job, const char *const *rows, long place, long c,
                      Floats scale, Floats shift, Floats *d, long reach, int scaled, int half,
                      int inside) {
    long column = inside ? place : line_at(place, job->width, reach, job->reflects),
         at = column * job->channels + c;
    Floats least = (Floats){0} + (job->relu ? 0 : -__builtin_inff());
    for (long i = 0; i < reach; i++) {
        if (!inside && (column < 0 || !rows[i])) {
            d[i] = (Floats){0};
            continue;
        }
        d[i] = load(rows[i], at, half);
        if (scaled)
            d[i] = maximum(d[i] * scale + shift, least);
    }
    to_points(d, reach);
}

INLINE long
matrix_size(long columns) /* of BLOCK tiles, in samples, and what is between it and the next one */
{
    return BLOCK * columns + APART;
}

/* `count` tiles side by side, of which `number` is the first -> rows of their points' matrices,
 * with `channels` columns. */
INLINE void transform(const Convolve *job, long number, long count, void *points, long reach,
                      int pairs, int scaled, int half) {
    long step = step_of(reach), channels = job->channels, shared = reach - step;
    long top = number / job->across * step - 1, left = number % job->across * step - 1;
    const char *rows[MOST_REACH];
    int between = top >= 0 && top + reach <= job->height; /* no border above or below */
    for (long i = 0; i < reach; i++) {
        long row = line_at(top + i, job->height, reach, job->reflects);
        rows[i] =
            row < 0 ? NULL : (const char *)job->x + row * job->width * channels * (half ? 2 : 4);
    }
    for (long c = 0; c < job->inputs; c += LANES) {
        Floats scale = {0}, shift = {0}, d[MOST_REACH][MOST_REACH]; /* a tile's columns */
        if (scaled) {
            scale = load(job->scale, c, 0);
            shift = load(job->scale, channels + c, 0);
        }
        for (long j = 0; j < shared; j++)
            column_of(job, rows, left + j, c, scale, shift, d[j], reach, scaled, half, 0);
        for (long n = 0; n < count; n++) {
            long at = left + n * step;
            if (between && at >= 0 && at + reach <= job->width)
                for (long j = shared; j < reach; j++)
                    column_of(job, rows, at + j, c, scale, shift, d[j], reach, scaled, half, 1);
            else
                for (long j = shared; j < reach; j++)
                    column_of(job, rows, at + j, c, scale, shift, d[j], reach, scaled, half, 0);
            for (long i = 0; i < reach; i++) {
                Floats line[MOST_REACH];
                for (long j = 0; j < reach; j++)
                    line[j] = d[j][i];
                to_points(line, reach);
                for (long j = 0; j < reach; j++)
                    store(points, (i * reach + j) * matrix_size(channels) + n * channels + c,
                          line[j], pairs);
            }
            for (long j = 0; j < shared; j++)
                for (long i = 0; i < reach; i++)
                    d[j][i] = d[j + step][i];
        }
    }
}

/* (TILES, inputs) of `points` times (inputs, vectors of outputs) of `weight`, which has OUTPUTS of
 * all inputs and, `next` words further on, the next
 * -> products, whose rows are GROUP long. Words of points and of weight are float32, or pairs of
 * bfloat16, for two inputs each. */
INLINE void multiply_vectors(const uint32_t *points, long channels, const uint32_t *weight,
                             long inputs, long next, float *products, long vectors, int pairs) {
    Floats sums[TILES][VECTORS];
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            sums[row][v] = (Floats){0};
    long k = 0;
    do { /* at least once, or GCC would have the sums in memory before and after */
        Words w[VECTORS];
        for (long v = 0; v < vectors; v++)
            w[v] =
                load_words(weight + v * LANES / OUTPUTS * next + k * OUTPUTS + v * LANES % OUTPUTS);
        for (long row = 0; row < TILES; row++)
            for (long v = 0; v < vectors; v++)
                sums[row][v] = add_products(sums[row][v], points + row * channels + k, w[v], pairs);
    } while (++k < inputs);
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            store(products, row * GROUP + v * LANES, sums[row][v], 0);
}

/* The weights of what begins with output c, of a product whose next OUTPUTS are `next` words
 * further on. */
INLINE const uint32_t *weights_from(const uint32_t *weight, long c, long next) {
    return weight + c / OUTPUTS * next + c % OUTPUTS;
}

INLINE long vectors_of(long outputs) /* of those at once */
{
    return (remaining(0, outputs, GROUP) + LANES - 1) / LANES;
}

/* A function of its own, so that all registers are the sums': with one of them in memory it takes
 * twice as long. */
static NOINLINE void multiply(const uint32_t *points, long channels, const uint32_t *weight,
                              long inputs, long next, float *products, long vectors, int pairs) {
    switch ((vectors == VECTORS ? 2 : 0) + pairs) {
    case 0:
        multiply_vectors(points, channels, weight, inputs, next, products, 1, 0);
        break;
    case 1:
        multiply_vectors(points, channels, weight, inputs, next, products, 1, 1);
        break;
    case 2:
        multiply_vectors(points, channels, weight, inputs, next, products, VECTORS, 0);
        break;
    case 3:
        multiply_vectors(points, channels, weight, inputs, next, products, VECTORS, 1);
        break;
    }
}

/* What is left to be summed up of a run of tiles: about the first output, so that a mean far from 0
 * leaves the variance its digits. */
typedef struct {
    Floats about, sum, square;
} Sums;

/* A tile's products, `line` of them in a line -> its outputs from channel c on, in rows `above` to
 * `rows` and columns `beside` to `columns`; `inside`: in all. */
INLINE void finish_tile(const Convolve *job, const float *products, Floats bias, char *out,
                        long above, long rows, long beside, long columns, int first, Sums *sums,
                        long reach, int half, int inside, int summing) {
    long size = size_of(reach), line = products_of(reach);
    Floats m[MOST_SIZE][MOST_REACH];
    for (long j = 0; j < line; j++) {
        Floats d[MOST_REACH];
        for (long i = 0; i < line; i++)
            d[i] = load(products, (i * line + j) * matrix_size(GROUP), 0);
        from_points(d, reach);
        for (long i = 0; i < size; i++)
            m[i][j] = d[i];
    }
    for (long i = 0; i < size; i++) {
        from_points(m[i], reach);
        for (long j = 0; j < size; j++) {
            if (!inside && (i < above || i >= rows || j < beside || j >= columns))
                continue;
            Floats value = m[i][j] + bias;
            value = maximum(value, value * job->slope);
            store(out, (i * job->full_width + j) * job->outputs, value, half);
            if (!summing)
                continue;
            if (first && i == above && j == beside)
                sums->about = value;
            sums->sum += value - sums->about;
            sums->square += (value - sums->about) * (value - sums->about);
        }
    }
}

/* Rows of the products' matrices, with GROUP columns, of `count` tiles side by side, of which
 * `number` is the first -> their outputs from channel `first` on, and these's sums. */
INLINE void finish(const Convolve *job, long number, long count, const float *products, long first,
                   long vectors, double *sums, long reach, int half, int summing) {
    long size = size_of(reach), outputs = job->outputs;
    long top = number / job->across * size - before(reach),
         left = number % job->across * size - before(reach);
    long above = top < 0 ? -top : 0, beside = left < 0 ? -left : 0; /* outputs beyond the picture */
    long rows = remaining(top, job->full_height, size),
         width = remaining(left, job->full_width, count * size);
    for (long v = 0; v < vectors; v++) {
        long c = first + v * LANES;
        Floats bias = load(job->bias, c, 0);
        Sums own = {{0}, {0}, {0}};
        for (long n = 0; n < count; n++) {
            const float *from = products + n * GROUP + v * LANES;
            long columns = remaining(n * size, width, size), skipped = n ? 0 : beside;
            char *out = (char *)job->out +
                        ((top * job->full_width + left + n * size) * outputs + c) * (half ? 2 : 4);
            if (above || skipped || rows < size || columns < size)
                finish_tile(job, from, bias, out, above, rows, skipped, columns, n == 0, &own,
                            reach, half, 0, summing);
            else
                finish_tile(job, from, bias, out, 0, size, 0, size, n == 0, &own, reach, half, 1,
                            summing);
        }
        if (summing)
            add_sums(sums + c, outputs, own.about, own.sum, own.square,
                     (rows - above) * (width - beside));
    }
}

/* How many of `count` tiles from `number` on are side by side. */
INLINE long run_of(const Convolve *job, long number, long count) {
    return remaining(number % job->across, job->across, count);
}

/* `count` tiles from `number` on; those that are multiplied at once are `size`, of which some may
 * be nothing. */
INLINE void block_of(const Convolve *job, long number, long count, long size, float *room,
                     double *sums, long reach, int pairs) {
    long all = reach * reach, line = products_of(reach), channels = job->channels,
         words = pairs ? 2 : 1; /* samples in one */
    long inputs = (job->inputs + words - 1) / words, next = matrix_size(channels) / words;
    long weights = OUTPUTS * inputs,
         next_weights =
             line * line * weights; /* words: of 16 outputs, those of a product, and of all */
    uint32_t *points = (uint32_t *)room;
    float *products = room + all * matrix_size(channels);
    for (long n = 0, run; n < count; n += run) {
        run = run_of(job, number + n, count - n);
        uint32_t *to = points + n * channels / words;
        if (job->scale && job->half)
            transform(job, number + n, run, to, reach, pairs, 1, 1);
        else if (job->scale)
            transform(job, number + n, run, to, reach, pairs, 1, 0);
        else if (job->half == FLOAT16)
            transform(job, number + n, run, to, reach, pairs, 0, FLOAT16);
        else if (job->half)
            transform(job, number + n, run, to, reach, pairs, 0, 1);
        else
            transform(job, number + n, run, to, reach, pairs, 0, 0);
    }
    for (long point = 0; point < all && count < size; point++)
        memset(points + point * next + count * channels / words, 0,
               (size - count) * channels / words * sizeof *points);
    for (long c = 0; c < job->outputs; c += GROUP) {
        long vectors = vectors_of(job->outputs - c);
        for (long product = 0; product < line * line; product++) {
            const uint32_t *from =
                points +
                (point_of(product / line, reach) * reach + point_of(product % line, reach)) * next;
            const uint32_t *weight = weights_from(job->weight + product * weights, c, next_weights);
            float *to = products + product * matrix_size(GROUP);
            for (long n = 0; n < count; n += TILES)
                multiply(from + n * channels / words, channels / words, weight, inputs,
                         next_weights, to + n * GROUP, vectors, pairs);
        }
        for (long n = 0, run; n < count; n += run) {
            run = run_of(job, number + n, count - n);
            switch ((sums ? 2 : 0) + job->half_out) {
            case 0:
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 0, 0);
                break;
            case 1:
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 1, 0);
                break;
            case 2:
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 0, 1);
                break;
            case 3:
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 1, 1);
                break;
            }
        }
    }
}

/* Blocks of BLOCK tiles and, last, some of TILES, so that the workers end together; of a small
 * picture all are of TILES. */
INLINE long large_blocks(long count) {
    return count < SMALL ? 0 : count / BLOCK;
}

INLINE long parts_of(long count) {
    long large = large_blocks(count);
    return large + (count - large * BLOCK + TILES - 1) / TILES;
}

INLINE void convolve_tiles(const Convolve *job, long part, float *room, double *sums, long reach,
                           int pairs) {
    long large = large_blocks(job->count);
    long first = part < large ? part * BLOCK : large * BLOCK + (part - large) * TILES,
         size = part < large ? BLOCK : TILES;
    block_of(job, first, remaining(first, job->count, size), size, room, sums, reach, pairs);
}

static void convolve_part(const void *data, long part, float *room) {
    const Convolve copy = *(const Convolve *)data,
                   *job = &copy; /* which no store of floats can change */
    double *sums = job->sums ? job->sums + part * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    switch (job->reach * 2 + job->pairs) {
    case 2 * ENLARGING:
        convolve_tiles(job, part, room, sums, ENLARGING, 0);
        break;
    case 2 * ENLARGING + 1:
        convolve_tiles(job, part, room, sums, ENLARGING, 1);
        break;
    case 2 * HALVING:
        convolve_tiles(job, part, room, sums, HALVING, 0);
        break;
    case 2 * HALVING + 1:
        convolve_tiles(job, part, room, sums, HALVING, 1);
        break;
    case 2 * 6:
        convolve_tiles(job, part, room, sums, 6, 0);
        break;
    case 2 * 6 + 1:
        convolve_tiles(job, part, room, sums, 6, 1);
        break;
    case 2 * 8:
        convolve_tiles(job, part, room, sums, 8, 0);
        break;
    }
}

/* x (height, width, whole(inputs)), of whose channels those behind the first `inputs` are 0 -> out,
 * of that size, of twice of it (reach 4) or half of it, rounded up (reach 7), and `outputs`
 * channels, a multiple of 16.
 *
 * Of the layer:
 * reflects: the border is x reflected, or enlarged and reflected, else 0.
 * reach: of a tile, 4, 6, 7 or 8. weight: (outputs / 16, reach^2, but 49 for reach 4, inputs, 16),
 * what `points` in __init__.py makes of the convolution's; with `pairs`, but for reach 8, bfloat16,
 * (outputs / 16, as many, inputs / 2 rounded up, 16, 2). It is read from one end to the other, for
 * each block of tiles anew, and from caches that are far: hence outputs first. bias: (outputs).
 * tiled: reach is 4, 6 or 7, and says no more than what kind it is. weight: bfloat16, of each 16 of
 * the outputs, of each of the kernel's rows, of each 32 of its 3 whole(inputs) samples there, 0
 * behind them, (16, 16, 2): pairs of samples by outputs; for reach 4 of each parity of the
 * picture's rows, and each of its columns, two rows of 2 whole(inputs). slope: what is below 0 is
 * multiplied by it at the end, 0 to 1. norm_weight, norm_bias, eps: of `norm`; the first two may be
 * NULL.
 *
 * scale: x times the first whole(inputs) of these plus the others, then a ReLU where `relu` says
 * so; NULL: x as it is. norm: scales and shifts for `scale` of the next, (2 outputs), so that what
 * comes out has mean 0 and variance 1, then norm_weight and norm_bias; NULL: they are not asked
 * for. half, half_out: of x, with no scale FLOAT16 too, and of out. */
EXPORT int convolve(Fork fork, int threads, const void *x, long height, long width,
                    const void *layer, const float *scale, int relu, float *norm, void *out,
                    int half, int half_out) {
    const Layer own = *(const Layer *)layer;
    if (own.tiled)
        return convolve_tiled(fork, threads, x, height, width, layer, scale, relu, norm, out, half,
                              half_out);
    long full_height = size_after(&own, height), full_width = size_after(&own, width),
         channels = whole(own.inputs);
    long across = tiles_of(full_width, own.reach),
         count = across * tiles_of(full_height, own.reach), parts = parts_of(count);
    long size = own.reach * own.reach * matrix_size(channels) +
                products_of(own.reach) * products_of(own.reach) * matrix_size(GROUP);
    double *sums = norm ? malloc(parts * 2 * own.outputs * sizeof *sums) : NULL;
    if (norm && !sums)
        return -1;
    Convolve job = {x,           own.weight, scale,       own.bias,   out,       sums,
                    height,      width,      full_height, full_width, channels,  own.inputs,
                    own.outputs, across,     count,       own.slope,  own.reach, own.reflects,
                    relu,        half,       half_out,    own.pairs};
    int result = share_in_room(fork, threads, convolve_part, &job, parts, size);
    if (norm && !result)
        normalising(sums, parts, own.outputs, (double)full_height * (double)full_width,
                    own.norm_weight, own.norm_bias, own.eps, norm);
    free(sums);
    return result;
}

/* --- places of two pictures
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    const void *picture, *weight;
    const float *bias;
    uint32_t *rows; /* of what is multiplied, words of its channels: (places to the next multiple of
                       TILES, words) */
    uint32_t *turned; /* the same as `multiply` takes weights, (places / OUTPUTS rounded up, words,
                         OUTPUTS); NULL: rows */
    const uint32_t *others; /* turned */
    float *scores;
    long height, width, channels, places;
    int pairs, squares, half;
} Compare;

INLINE long places_of(long size, int squares) /* in a line */
{
    return squares ? half_of(size) : size;
}

/* A place's channels from c on. */
INLINE Floats channels_at(const Compare *job, long place, long c, int half) {
    long columns = places_of(job->width, job->squares), step = job->squares ? 2 : 1;
    long top = place / columns * step, left = place % columns * step;
    long rows = remaining(top, job->height, step), across = remaining(left, job->width, step);
    Floats sum = {0};
    for (long y = top; y < top + rows; y++)
        for (long x = left; x < left + across; x++)
            sum += load(job->picture, (y * job->width + x) * job->channels + c, half);
    return sum * (1 / (float)(rows * across));
}

/* TILES places through the convolution. room: for as many of their words, and of products. */
INLINE void transform_places(const Compare *job, long part, float *room, int half, int pairs) {
    long first = part * TILES, count = remaining(first, job->places, TILES),
         channels = job->channels, words = pairs ? channels / 2 : channels;
    float *products = room + TILES * channels;
    memset(room, 0, TILES * channels * sizeof *room);
    for (long n = 0; n < count; n++)
        for (long c = 0; c < channels; c += LANES)
            store(room, n * channels + c, channels_at(job, first + n, c, half), pairs);
    for (long c = 0; c < channels; c += GROUP) {
        long vectors = vectors_of(channels - c);
        multiply((uint32_t *)room, words, weights_from(job->weight, c, OUTPUTS * words), words,
                 OUTPUTS * words, products, vectors, pairs);
        for (long n = 0; n < TILES; n++)
            for (long v = 0; v < vectors; v++) {
                long at = c + v * LANES;
                Floats value = load(products, n * GROUP + v * LANES, 0) + load(job->bias, at, 0);
                store(job->rows, (first + n) * channels + at, n < count ? value : (Floats){0},
                      pairs);
            }
    }
    for (long n = first; n < first + TILES && job->turned; n++)
        for (long word = 0; word < words; word++)
            job->turned[(n / OUTPUTS * words + word) * OUTPUTS + n % OUTPUTS] =
                job->rows[n * words + word];
}

static void place_part(const void *data, long part, float *room) {
    const Compare copy = *(const Compare *)data, *job = &copy;
    switch (job->half * 2 + job->pairs) {
    case 0:
        transform_places(job, part, room, 0, 0);
        break;
    case 1:
        transform_places(job, part, room, 0, 1);
        break;
    case 2:
        transform_places(job, part, room, 1, 0);
        break;
    case 3:
        transform_places(job, part, room, 1, 1);
        break;
    }
}

/* TILES places with all of the others. room: for products. */
static void score_part(const void *data, long part, float *room) {
    const Compare copy = *(const Compare *)data, *job = &copy;
    long first = part * TILES, count = remaining(first, job->places, TILES),
         words = job->pairs ? job->channels / 2 : job->channels;
    for (long c = 0; c < job->places; c += GROUP) {
        long columns = remaining(c, job->places, GROUP);
        multiply(job->rows + first * words, words, weights_from(job->others, c, OUTPUTS * words),
                 words, OUTPUTS * words, room, vectors_of(columns), job->pairs);
        for (long n = 0; n < count; n++)
            memcpy(job->scores + (first + n) * job->places + c, room + n * GROUP,
                   columns * sizeof *room);
    }
}

int compare(Fork fork, int threads, const void *here, const void *there, long height, long width,
            long channels, const void *weight, const float *bias, int pairs, int squares,
            float *scores, int half) {
    long places = places_of(height, squares) * places_of(width, squares),
         parts = (places + TILES - 1) / TILES;
    long rows = floats_for((parts * TILES + OUTPUTS + GROUP) * channels,
                           pairs); /* turned they come in groups */
    uint32_t *room = (uint32_t *)room_for(2 * rows);
    if (!room)
        return -1;
    Compare job = {here,   weight, bias,     room,   NULL,  room + rows, scores,
                   height, width,  channels, places, pairs, squares,     half},
            other = job;
    long each = TILES * channels + TILES * GROUP;
    int result = 0;
    /* What is turned is kept; its rows are written over. */
    other.picture = there, other.turned = room + rows;
    memset(other.turned, 0, rows * sizeof *room);
    result = share_in_room(fork, threads, place_part, &other, parts, each);
    if (!result)
        result = share_in_room(fork, threads, place_part, &job, parts, each);
    if (!result)
        result = share_in_room(fork, threads, score_part, &job, parts, TILES * GROUP);
    free(room);
    return result;
}

/* --- to a few channels
 * ------------------------------------------------------------------------------------------------
 */

enum { FEW = 2 };

typedef struct {
    const void *x;
    const float *weight, *bias, *base;
    float *out;
    long height, width, channels, outputs;
    int half;
} Few;

enum { ABREAST = 4 }; /* pixels whose sums are in registers at a time, for two outputs */

/* Of ABREAST pixels from `first` on the sums, lane by lane, from sums[...][at] on. `inside`:
 * neither border is met beside them. */
INLINE void few_pixels(const Few *job, long y, long first, long outputs, int half,
                       Floats (*sums)[LANES], long at, int inside) {
    long width = job->width, channels = job->channels;
    Floats own[ABREAST][FEW] = {{{0}}};
    for (long i = -1; i <= 1; i++) {
        if (y + i < 0 || y + i >= job->height)
            continue;
        const float *weight = job->weight + (i + 1) * 3 * outputs * channels;
        for (long j = -1; j <= 1; j++)
            for (long c = 0; c < channels; c += LANES) {
                Floats w[FEW];
                for (long n = 0; n < outputs; n++)
                    w[n] = load(weight, ((j + 1) * outputs + n) * channels + c, 0);
                for (long x = 0; x < ABREAST; x++) {
                    long column = first + x + j;
                    if (!inside && (column < 0 || column >= width))
                        continue;
                    Floats value = load(job->x, ((y + i) * width + column) * channels + c, half);
                    for (long n = 0; n < outputs; n++)
                        own[x][n] += value * w[n];
                }
            }
    }
    for (long x = 0; x < ABREAST; x++)
        for (long n = 0; n < outputs; n++)
            sums[n][at + x] = own[x][n];
}

INLINE void few_row(const Few *job, long y, long outputs, int half) {
    long width = job->width, plane = job->height * width;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES);
        Floats sums[FEW][LANES];
        for (long x = 0; x < LANES; x += ABREAST) {
            if (first + x > 0 && first + x + ABREAST < width)
                few_pixels(job, y, first + x, outputs, half, sums, x, 1);
            else
                few_pixels(job, y, first + x, outputs, half, sums, x, 0);
        }
        for (long n = 0; n < outputs; n++) {
            long at = n * plane + y * width + first;
            Floats sum = totals(sums[n]) + job->bias[n];
            if (job->base)
                sum += load_some(job->base + at, count);
            memcpy(job->out + at, &sum, count * sizeof *job->out);
        }
    }
}

static void few_part(const void *data, long y) {
    const Few copy = *(const Few *)data, *job = &copy;
    switch (job->outputs * 2 + job->half) {
    case 2:
        few_row(job, y, 1, 0);
        break;
    case 3:
        few_row(job, y, 1, 1);
        break;
    case 4:
        few_row(job, y, 2, 0);
        break;
    case 5:
        few_row(job, y, 2, 1);
        break;
    }
}

/* A 3x3 convolution of stride 1 to 1 or 2 channels, 0 about the border: x (height, width, channels)
 * -> (outputs, height, width) float32.
 *
 * weight: (3, 3, outputs, channels). bias: (outputs). base: added to it; may be NULL. */
static int few(Fork fork, int threads, const void *x, long height, long width, long channels,
               const float *weight, const float *bias, long outputs, const float *base, float *out,
               int half) {
    Few job = {x, weight, bias, base, out, height, width, channels, outputs, half};
    share(fork, threads, few_part, &job, height);
    return 0;
}

/* --- several in one call
 * -------------------------------------------------------------------------------------------- */

EXPORT int chain(Fork fork, int threads, const void *x, long height, long width, const void *chain,
                 const float *base, float *out, int half) {
    const Chain own = *(const Chain *)chain;
    long most = 0;
    for (long n = 0; n < own.count; n++)
        most = largest(most, own.layers[n].outputs);
    long picture = floats_for(height * width * most, half);
    float *room = room_for(2 * picture);
    int result = room ? 0 : -1;
    for (long n = 0; n < own.count && !result; n++) {
        float *to = room + n % 2 * picture;
        result = convolve(fork, threads, x, height, width, own.layers + n, NULL, 0, NULL, to, half,
                          half);
        x = to;
    }
    if (!result)
        result = few(fork, threads, x, height, width, own.layers[own.count - 1].outputs, own.weight,
                     own.bias, own.outputs, base, out, half);
    free(room);
    return result;
}

/* Residual blocks: of x (height, width, channels) two convolutions of stride 1 and `channels`
 * outputs, normalised, a ReLU between, and x added; of that the next two. count: of convolutions,
 * two or more. out: like x. */
EXPORT int blocks(Fork fork, int threads, const void *x, long height, long width,
                  const void *layers, long count, void *out, int half) {
    const Layer *layer = layers;
    long channels = layer->outputs, picture = floats_for(height * width * channels, half);
    float *first = room_for(2 * picture + 4 * channels), *second = first + picture,
          *scales = second + picture;
    int result = first ? 0 : -1;
    for (long n = 0; n < count && !result; n += 2) {
        result = convolve(fork, threads, x, height, width, layer + n, NULL, 0, scales, first, half,
                          half);
        if (!result)
            result = convolve(fork, threads, first, height, width, layer + n + 1, scales, 1,
                              scales + 2 * channels, second, half, half);
        if (!result)
            result = normalise(fork, threads, second, height, width, channels,
                               scales + 2 * channels, 0, x, out, half);
        x = out; /* of which each sample is read before it is written */
    }
    free(first);
    return result;
}

/* --- of a frame
 * -------------------------------------------------------------------------------------------------------
 */

enum { SIDE = 3, FIRST_VECTORS = OUTPUTS / LANES < VECTORS ? OUTPUTS / LANES : VECTORS };

typedef struct {
    const float *frame, *bias;
    const uint32_t *weight; /* float32 */
    void *out;
    long height, width, full_height, full_width,
        line; /* line: samples of a row that is read, with its border and what tiles reach beyond it
               */
    float mean, factor, slope;
    int half;
} Colors;

/* A row of a color as the convolution sees it: its border repeated to the full width, and 0 about
 * that. */
INLINE void colors_row(const Colors *job, long row, long color, float *line) {
    memset(line, 0, job->line * sizeof *line);
    if (row < 0 || row >= job->full_height)
        return;
    const float *from =
        job->frame + (color * job->height + clamp(row, job->height - 1)) * job->width;
    for (long x = 0; x < job->width; x++)
        line[x + 1] = (from[x] - job->mean) * job->factor;
    for (long x = job->width; x < job->full_width; x++)
        line[x + 1] = line[job->width];
}

/* TILES pixels side by side, of which the first one's samples begin at `lines` -> FIRST_VECTORS
 * vectors of outputs each. */
static NOINLINE void colors_multiply(const float *lines, long line, const uint32_t *weight,
                                     float *products) {
    Floats sums[TILES][FIRST_VECTORS];
    for (long x = 0; x < TILES; x++)
        for (long v = 0; v < FIRST_VECTORS; v++)
            sums[x][v] = (Floats){0};
    long row = 0;
    do { /* at least once, as in multiply_vectors */
        for (long j = 0; j < SIDE; j++) {
            const float *at = lines + j;
            OPAQUE(at);
            Words w[FIRST_VECTORS];
            for (long v = 0; v < FIRST_VECTORS; v++)
                w[v] = load_words(weight + v * LANES);
            for (long x = 0; x < TILES; x++)
                for (long v = 0; v < FIRST_VECTORS; v++)
                    sums[x][v] = add_products(sums[x][v], at + 2 * x, w[v], 0);
            weight += OUTPUTS;
        }
        lines += line;
    } while (++row < SIDE * COLORS);
    for (long x = 0; x < TILES; x++)
        for (long v = 0; v < FIRST_VECTORS; v++)
            store(products, x * OUTPUTS + v * LANES, sums[x][v], 0);
}

static void colors_part(const void *data, long y, float *lines) {
    const Colors copy = *(const Colors *)data, *job = &copy;
    long width = (job->full_width + 1) / 2;
    for (long i = 0; i < SIDE; i++)
        for (long color = 0; color < COLORS; color++)
            colors_row(job, 2 * y - 1 + i, color, lines + (i * COLORS + color) * job->line);
    for (long first = 0; first < width; first += TILES) {
        float products[TILES * OUTPUTS];
        for (long c = 0; c < OUTPUTS; c += FIRST_VECTORS * LANES)
            colors_multiply(lines + 2 * first, job->line, job->weight + c, products + c);
        for (long x = 0; x < remaining(first, width, TILES); x++)
            for (long c = 0; c < OUTPUTS; c += LANES) {
                Floats value = load(products, x * OUTPUTS + c, 0) + load(job->bias, c, 0);
                store(job->out, (y * width + first + x) * OUTPUTS + c,
                      maximum(value, value * job->slope), job->half);
            }
    }
}

/* frame (3, height, width) float32, its border repeated to the full size, and 0 about (sample -
 * mean) * factor; of that a 3x3 convolution of stride 2 -> out (full_height / 2 rounded up,
 * full_width / 2 rounded up, 16). weight: (3 rows, 3 colors, 3 columns, 16); bias: (16), float32.
 * slope: as `convolve` takes it. half: of out. */
static int colors(Fork fork, int threads, const float *frame, long height, long width,
                  long full_height, long full_width, float mean, float factor, const void *weight,
                  const float *bias, float slope, void *out, int half) {
    long tiles = ((full_width + 1) / 2 + TILES - 1) / TILES;
    Colors job = {
        frame, bias,   weight, out, height, width, full_height, full_width, 2 * tiles * TILES + 1,
        mean,  factor, slope,  half};
    return share_in_room(fork, threads, colors_part, &job, (full_height + 1) / 2,
                         SIDE * COLORS * job.line);
}

typedef struct {
    const float *frame;
    double *sums; /* of a row of a color */
    long height, width, full_width;
} Brightness;

static void brightness_part(const void *data, long row) {
    const Brightness *job = data;
    const float *from = job->frame + row * job->width;
    Floats sums = {0};
    long x = 0;
    for (; x + LANES <= job->width; x += LANES)
        sums += load(from, x, 0);
    double sum = (double)(job->full_width - job->width) * from[job->width - 1];
    for (; x < job->width; x++)
        sum += from[x];
    for (long lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    job->sums[row] = sum;
}

/* The mean of a frame (3, height, width), its border repeated to the full size. sums: room for 3
 * height. */
static float brightness(Fork fork, int threads, const float *frame, long height, long width,
                        long full_height, long full_width, double *sums) {
    Brightness job = {frame, sums, height, width, full_width};
    share(fork, threads, brightness_part, &job, COLORS * height);
    double sum = 0;
    for (long color = 0; color < COLORS; color++) {
        for (long y = 0; y < height; y++)
            sum += sums[color * height + y];
        sum += (double)(full_height - height) * sums[(color + 1) * height - 1];
    }
    return (float)(sum / ((double)COLORS * (double)full_height * (double)full_width));
}

/* A level of a pyramid of features: of x (height, width, whole(inputs)) a convolution of stride 2,
 * to `room`, and one of stride 1 -> raw (height / 2 rounded up, width / 2 rounded up, outputs), and
 * feature, the same normalised. scale: room for two of each output. */
static int level(Fork fork, int threads, const void *x, long height, long width,
                 const Layer *layers, void *room, float *scale, void *raw, void *feature,
                 int half) {
    const Layer *second = layers + 1;
    long rows = size_after(layers, height), columns = size_after(layers, width);
    int result = convolve(fork, threads, x, height, width, layers, NULL, 0, NULL, room, half, half);
    if (!result)
        result =
            convolve(fork, threads, room, rows, columns, second, NULL, 0, scale, raw, half, half);
    return result ? result
                  : normalise(fork, threads, raw, rows, columns, second->outputs, scale, 0, NULL,
                              feature, half);
}

/* A pyramid of features: of frame (3, height, width) float32, its border repeated to the full size,
 * about its mean and times `factor`, a convolution of stride 2 to 16 channels, and the first layer;
 * then of each level, of which there are `levels`, a layer of stride 2 and one of stride 1 -> for
 * each level a feature, normalised, (its height, its width, outputs of its second layer).
 *
 * weight, bias, slope: of the first convolution, (3 rows, 3 colors, 3 columns, 16) and (16)
 * float32, and as a layer has it. half: of all but the frame. */
EXPORT int look(Fork fork, int threads, const float *frame, long height, long width,
                long full_height, long full_width, float factor, const void *weight,
                const float *bias, float slope, const void *layers, long levels,
                void *const *features, int half) {
    const Layer *layer = layers;
    long rows = half_of(full_height), columns = half_of(full_width), channels = OUTPUTS,
         samples = rows * columns * OUTPUTS;
    for (long n = 0, y = rows, x = columns; n <= 2 * levels; n++) {
        if (n % 2)
            y = half_of(y), x = half_of(x);
        channels = largest(channels, layer[n].outputs);
        samples = largest(samples, y * x * layer[n].outputs);
    }
    long picture = floats_for(samples, half), sums = 2 * floats_for(COLORS * height, 0);
    float *room = room_for(3 * picture + 2 * channels + sums);
    if (!room)
        return -1;
    float *raw = room, *next = room + picture, *between = next + picture,
          *scale = between + picture;
    float mean = brightness(fork, threads, frame, height, width, full_height, full_width,
                            (double *)(scale + 2 * channels));
    int result = colors(fork, threads, frame, height, width, full_height, full_width, mean, factor,
                        weight, bias, slope, between, half);
    if (!result)
        result =
            convolve(fork, threads, between, rows, columns, layer, NULL, 0, NULL, raw, half, half);
    for (long n = 0; n < levels && !result; n++) {
        result = level(fork, threads, raw, rows, columns, layer + 1 + 2 * n, between, scale, next,
                       features[n], half);
        rows = half_of(rows), columns = half_of(columns);
        float *last = raw;
        raw = next, next = last;
    }
    free(room);
    return result;
}
