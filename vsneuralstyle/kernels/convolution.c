/* 3x3 convolutions by Winograd's minimal filtering.
 *
 * Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). A tile of inputs becomes as many points, line by
 * line and then column by column; at each point the channels of many tiles are a matrix, which is multiplied with the weights there;
 * and of the products comes the tile of outputs. There are four kinds, told apart by the tile's reach, the inputs of a line of it:
 *
 *   6, 8  stride 1, F(4x4, 3x3) and F(6x6, 3x3): a quarter of the multiplications, and a fifth. Larger tiles have more to add up before and after.
 *   3     of what is enlarged to twice its size by nearest neighbours: 2x2 outputs of 9 points, for 36 multiplications, or 16 where equal
 *         inputs are counted once.
 *   5     stride 2: 2x2 outputs of 25 points, for 36 multiplications.
 *
 * In float32 all of it rounds far less than bfloat16. A CPU that multiplies pairs of bfloat16 does twice the work: the points of reach 3 and 5,
 * samples and differences of neighbours, bear it as a direct convolution does; those of reach 6 lose twice as many bits at the usual points,
 * 1 and 2, as at 3/4 and 3/2 (an error of 1.2 % of what comes out, for 2.5 %).
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { ENLARGING = 3, HALVING = 5, MOST_REACH = 6 + 2, MOST_POINTS = MOST_REACH * MOST_REACH };

/* Of the matrix product: tiles, and vectors of outputs, at once, whose sums fill the CPU's registers. */
enum { TILES = LANES == 16 ? 12 : 6, VECTORS = 2, GROUP = VECTORS * LANES };
enum { BLOCK = 24, SMALL = 4 * BLOCK }; /* tiles, twice TILES or more: a core's cache holds what comes of them */
enum { BLOCKS = 8 };                    /* of a part of the work, where tiles are small */

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
    return reach == ENLARGING ? 1 : reach == HALVING ? 4 : reach - 2;
}

INLINE long size_of(long reach) /* a tile's outputs in a line */
{
    return reach == ENLARGING || reach == HALVING ? 2 : reach - 2;
}

/* B^T d for one line of a tile. */
INLINE void to_points(Floats *d, long reach)
{
    Floats d0 = d[0], d1 = d[1], d2 = d[2];
    if (reach == ENLARGING) {
        d[0] = d0 - d1;
        d[2] = d1 - d2;
        return;
    }
    Floats d3 = d[3], d4 = d[4];
    if (reach == HALVING) { /* what meets the kernel's middle, and F(2, 2) of what meets its sides */
        d[0] = d1;
        d[1] = d3;
        d[2] = d0 - d2;
        d[3] = d2;
        d[4] = d2 - d4;
        return;
    }
    Floats d5 = d[5];
    if (reach == 6) { /* at 0, 3/4, -3/4, 3/2, -3/2 */
        Floats even = d4 - 2.25f * d2, odd = 0.75f * (d3 - 2.25f * d1), other_even = d4 - 0.5625f * d2, other_odd = 1.5f * (d3 - 0.5625f * d1);
        d[0] = 1.265625f * d0 - 2.8125f * d2 + d4;
        d[1] = even + odd;
        d[2] = even - odd;
        d[3] = other_even + other_odd;
        d[4] = other_even - other_odd;
        d[5] = 1.265625f * d1 - 2.8125f * d3 + d5;
    } else {
        Floats d6 = d[6], d7 = d[7];
        Floats even = d2 - 4.25f * d4 + d6, odd = d1 - 4.25f * d3 + d5; /* at 1 and -1 */
        Floats twice_even = 0.25f * d2 - 1.25f * d4 + d6, twice_odd = 0.5f * d1 - 2.5f * d3 + 2 * d5; /* at 2 and -2 */
        Floats half_even = 4 * d2 - 5 * d4 + d6, half_odd = 2 * d1 - 2.5f * d3 + 0.5f * d5; /* at 1/2 and -1/2 */
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
INLINE void from_points(Floats *m, long step, long reach)
{
    Floats m1 = m[step], m2 = m[2 * step];
    if (reach == ENLARGING) {
        m[0] = m[0] + m1;
        m[step] = m1 - m2;
        return;
    }
    Floats m3 = m[3 * step], m4 = m[4 * step];
    if (reach == HALVING) {
        m[0] = m[0] + m2 + m3;
        m[step] = m1 + m3 - m4;
        return;
    }
    Floats sum = m1 + m2, difference = m1 - m2, further = m3 + m4, opposite = m3 - m4;
    if (reach == 6) {
        Floats last = m[5 * step];
        m[0] = m[0] + sum + further;
        m[step] = 0.75f * difference + 1.5f * opposite;
        m[2 * step] = 0.5625f * sum + 2.25f * further;
        m[3 * step] = 0.421875f * difference + 3.375f * opposite + last;
    } else {
        Floats nearer = m[5 * step] + m[6 * step], other = m[5 * step] - m[6 * step], last = m[7 * step];
        m[0] = m[0] + sum + further + 32 * nearer;
        m[step] = difference + 2 * opposite + 16 * other;
        m[2 * step] = sum + 4 * further + 8 * nearer;
        m[3 * step] = difference + 8 * opposite + 4 * other;
        m[4 * step] = sum + 16 * further + 2 * nearer;
        m[5 * step] = difference + 32 * opposite + other + last;
    }
}

/* Where a line of x is that is `place`; -1: beyond a border of 0. */
INLINE long line_at(const Convolve *job, long place, long size, long reach)
{
    if (job->reflects) /* of what is enlarged, the reflection is the edge repeated */
        return reach == ENLARGING ? clamp(place, size - 1) : reflect(place, size - 1);
    return place >= 0 && place < size ? place : -1;
}

/* A column of x from channel c on, in the rows that begin there (NULL: of a border of 0) -> the points down it. */
INLINE void column_of(const Convolve *job, const char *const *rows, long place, long c, Floats scale, Floats shift, Floats *d, long reach,
                      int scaled, int half)
{
    long column = line_at(job, place, job->width, reach);
    Floats least = (Floats){0} + (job->relu ? 0 : -__builtin_inff());
    for (long i = 0; i < reach; i++) {
        d[i] = (Floats){0};
        if (column < 0 || !rows[i])
            continue;
        d[i] = load(rows[i], column * job->channels + c, half);
        if (scaled)
            d[i] = maximum(d[i] * scale + shift, least);
    }
    to_points(d, reach);
}

/* `count` tiles side by side, of which `number` is the first -> points[reach^2][BLOCK][channels], of each BLOCK as many. */
INLINE void transform(const Convolve *job, long number, long count, void *points, long reach, int pairs, int scaled, int half)
{
    long step = step_of(reach), channels = job->channels, shared = reach - step;
    long top = number / job->across * step - 1, left = number % job->across * step - 1;
    const char *rows[MOST_REACH];
    for (long i = 0; i < reach; i++) {
        long row = line_at(job, top + i, job->height, reach);
        rows[i] = row < 0 ? NULL : (const char *)job->x + row * job->width * channels * (half ? 2 : 4);
    }
    for (long c = 0; c < channels; c += LANES) {
        Floats scale = {0}, shift = {0}, d[MOST_REACH][MOST_REACH]; /* a tile's columns */
        if (scaled) {
            scale = load(job->scale, c, 0);
            shift = load(job->scale, channels + c, 0);
        }
        for (long j = 0; j < shared; j++)
            column_of(job, rows, left + j, c, scale, shift, d[j], reach, scaled, half);
        for (long n = 0; n < count; n++) {
            for (long j = shared; j < reach; j++)
                column_of(job, rows, left + n * step + j, c, scale, shift, d[j], reach, scaled, half);
            for (long i = 0; i < reach; i++) {
                Floats line[MOST_REACH];
                for (long j = 0; j < reach; j++)
                    line[j] = d[j][i];
                to_points(line, reach);
                for (long j = 0; j < reach; j++)
                    store(points, ((i * reach + j) * BLOCK + n) * channels + c, line[j], pairs);
            }
            for (long j = 0; j < shared; j++)
                for (long i = 0; i < reach; i++)
                    d[j][i] = d[j + step][i];
        }
    }
}

/* (TILES, inputs) of `points` times (inputs, vectors of outputs) of `weight` -> products, whose rows are GROUP long. Words of points and of
 * weight are float32, or pairs of bfloat16, for two inputs each. */
INLINE void multiply(const uint32_t *points, long channels, const uint32_t *weight, long outputs, long inputs, float *products, long vectors,
                     int pairs)
{
    Floats sums[TILES][VECTORS] = {0};
    for (long k = 0; k < inputs; k++) {
        Words w[VECTORS];
        for (long v = 0; v < vectors; v++)
            w[v] = load_words(weight + k * outputs + v * LANES);
        for (long row = 0; row < TILES; row++)
            for (long v = 0; v < vectors; v++)
                sums[row][v] = add_products(sums[row][v], points + row * channels + k, w[v], pairs);
    }
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            store(products, row * GROUP + v * LANES, sums[row][v], 0);
}

/* Products[reach^2][BLOCK][GROUP] of `count` tiles side by side -> their outputs from channel `first` on, and these's sums. */
INLINE void finish(const Convolve *job, long number, long count, const float *products, long first, long vectors, double *sums, long reach,
                   int half)
{
    long size = size_of(reach), top = number / job->across * size, left = number % job->across * size, outputs = job->outputs;
    long rows = remaining(top, job->full_height, size), width = remaining(left, job->full_width, count * size);
    for (long v = 0; v < vectors; v++) {
        long c = first + v * LANES;
        Floats bias = load(job->bias, c, 0), about = {0}, sum = {0}, square = {0};
        for (long n = 0; n < count; n++) {
            Floats m[MOST_POINTS];
            for (long point = 0; point < reach * reach; point++)
                m[point] = load(products, (point * BLOCK + n) * GROUP + v * LANES, 0);
            for (long j = 0; j < reach; j++)
                from_points(m + j, reach, reach);
            for (long i = 0; i < size; i++)
                from_points(m + i * reach, 1, reach);
            long columns = remaining(n * size, width, size);
            for (long i = 0; i < rows; i++)
                for (long j = 0; j < columns; j++) {
                    Floats value = m[i * reach + j] + bias;
                    value = maximum(value, value * job->slope);
                    store(job->out, ((top + i) * job->full_width + left + n * size + j) * outputs + c, value, half);
                    /* About the first, so that a mean far from 0 leaves the variance its digits. */
                    if (n + i + j == 0)
                        about = value;
                    sum += value - about;
                    square += (value - about) * (value - about);
                }
        }
        if (sums)
            add_sums(sums + c, outputs, about, sum, square, rows * width);
    }
}

/* How many of `count` tiles from `number` on are side by side. */
INLINE long run_of(const Convolve *job, long number, long count)
{
    return remaining(number % job->across, job->across, count);
}

/* `count` tiles from `number` on; those that are multiplied at once are `size`, of which some may be nothing. */
INLINE void block_of(const Convolve *job, long number, long count, long size, float *room, double *sums, long reach, int pairs)
{
    long all = reach * reach, sample = pairs ? 2 : 4;
    long channels = pairs ? job->channels / 2 : job->channels, inputs = pairs ? (job->inputs + 1) / 2 : job->inputs; /* in words */
    char *points = (char *)room;
    float *products = room + all * BLOCK * job->channels;
    for (long n = 0, run; n < count; n += run) {
        run = run_of(job, number + n, count - n);
        void *to = points + n * job->channels * sample;
        switch ((job->scale ? 2 : 0) + job->half) {
        case 0: transform(job, number + n, run, to, reach, pairs, 0, 0); break;
        case 1: transform(job, number + n, run, to, reach, pairs, 0, 1); break;
        case 2: transform(job, number + n, run, to, reach, pairs, 1, 0); break;
        case 3: transform(job, number + n, run, to, reach, pairs, 1, 1); break;
        }
    }
    for (long point = 0; point < all && count < size; point++)
        memset(points + (point * BLOCK + count) * job->channels * sample, 0, (size - count) * job->channels * sample);
    for (long c = 0; c < job->outputs; c += GROUP) {
        long vectors = job->outputs - c < GROUP ? (job->outputs - c) / LANES : VECTORS;
        for (long point = 0; point < all; point++)
            for (long row = 0; row < count; row += TILES) {
                const uint32_t *from = (const uint32_t *)points + (point * BLOCK + row) * channels;
                const uint32_t *weight = job->weight + point * inputs * job->outputs + c;
                float *to = products + (point * BLOCK + row) * GROUP;
                if (vectors == VECTORS)
                    multiply(from, channels, weight, job->outputs, inputs, to, VECTORS, pairs);
                else
                    multiply(from, channels, weight, job->outputs, inputs, to, 1, pairs);
            }
        for (long n = 0, run; n < count; n += run) {
            run = run_of(job, number + n, count - n);
            if (job->half_out)
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 1);
            else
                finish(job, number + n, run, products + n * GROUP, c, vectors, sums, reach, 0);
        }
    }
}

/* Blocks of BLOCK tiles and, last, some of TILES, so that the workers end together; of a small picture all are of TILES. */
INLINE long large_blocks(long count)
{
    return count < SMALL ? 0 : count / BLOCK;
}

INLINE long parts_of(long count, long reach)
{
    if (reach < 6)
        return (count + BLOCKS * BLOCK - 1) / (BLOCKS * BLOCK);
    long large = large_blocks(count);
    return large + (count - large * BLOCK + TILES - 1) / TILES;
}

INLINE void convolve_tiles(const Convolve *job, long part, float *room, double *sums, long reach, int pairs)
{
    if (reach < 6) {
        long first = part * BLOCKS * BLOCK, last = remaining(0, job->count, first + BLOCKS * BLOCK);
        for (long number = first; number < last; number += BLOCK)
            block_of(job, number, remaining(number, last, BLOCK), BLOCK, room, sums, reach, pairs);
        return;
    }
    long large = large_blocks(job->count);
    long first = part < large ? part * BLOCK : large * BLOCK + (part - large) * TILES, size = part < large ? BLOCK : TILES;
    block_of(job, first, remaining(first, job->count, size), size, room, sums, reach, pairs);
}

static void convolve_part(const void *data, long part, float *room)
{
    const Convolve copy = *(const Convolve *)data, *job = &copy; /* which no store of floats can change */
    double *sums = job->sums ? job->sums + part * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    switch (job->reach * 2 + job->pairs) {
    case 2 * ENLARGING: convolve_tiles(job, part, room, sums, ENLARGING, 0); break;
    case 2 * ENLARGING + 1: convolve_tiles(job, part, room, sums, ENLARGING, 1); break;
    case 2 * HALVING: convolve_tiles(job, part, room, sums, HALVING, 0); break;
    case 2 * HALVING + 1: convolve_tiles(job, part, room, sums, HALVING, 1); break;
    case 2 * 6: convolve_tiles(job, part, room, sums, 6, 0); break;
    case 2 * 6 + 1: convolve_tiles(job, part, room, sums, 6, 1); break;
    case 2 * 8: convolve_tiles(job, part, room, sums, 8, 0); break;
    }
}

/* x (height, width, channels), of whose channels the first `inputs` count and the others are 0 -> out, of that size, of twice of it (reach 3) or
 * half of it, rounded up (reach 5), and `outputs` channels, a multiple of 16.
 *
 * scale: x times the first `channels` of these plus the others, then a ReLU where `relu` says so; NULL: x as it is.
 * reflects: the border is x reflected, or enlarged and reflected, else 0.
 * reach: of a tile, 3, 5, 6 or 8. weight: (reach^2, inputs, outputs), what `points` in __init__.py makes of the convolution's; with `pairs`, but
 *     for reach 8, bfloat16, (reach^2, inputs / 2 rounded up, outputs, 2). bias: (outputs).
 * slope: what is below 0 is multiplied by it at the end, 0 to 1.
 * norm_weight, norm_bias, eps, norm: scales and shifts for `scale` of the next, (2 outputs), so that what comes out has mean 0 and variance 1,
 *     then norm_weight and norm_bias, which may be NULL; without `norm` none.
 * half, half_out: of x and out. */
EXPORT int convolve(Fork fork, int threads, const void *x, long height, long width, long channels, long inputs, const float *scale, int relu,
                    int reflects, long reach, const void *weight, int pairs, const float *bias, long outputs, float slope,
                    const float *norm_weight, const float *norm_bias, float eps, float *norm, void *out, int half, int half_out)
{
    long full_height = reach == ENLARGING ? 2 * height : reach == HALVING ? (height + 1) / 2 : height;
    long full_width = reach == ENLARGING ? 2 * width : reach == HALVING ? (width + 1) / 2 : width, size = size_of(reach);
    long across = (full_width + size - 1) / size, count = across * ((full_height + size - 1) / size), parts = parts_of(count, reach);
    double *sums = norm ? malloc(parts * 2 * outputs * sizeof *sums) : NULL;
    if (norm && !sums)
        return -1;
    Convolve job = {x, weight, scale, bias, out, sums, height, width, full_height, full_width, channels, inputs, outputs, across, count, slope,
                    reach, reflects, relu, half, half_out, pairs};
    int result = share_in_room(fork, threads, convolve_part, &job, parts, reach * reach * BLOCK * (channels + GROUP));
    if (norm && !result)
        normalising(sums, parts, outputs, (double)full_height * (double)full_width, norm_weight, norm_bias, eps, norm);
    free(sums);
    return result;
}

/* --- to a few channels ------------------------------------------------------------------------------------------------ */

enum { FEW = 2 };

typedef struct {
    const void *x;
    const float *weight, *bias;
    float *out;
    long height, width, channels, outputs;
    int half;
} Few;

INLINE void few_row(const Few *job, long y, long outputs, int half)
{
    long width = job->width, channels = job->channels, plane = job->height * width;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES);
        Floats sums[FEW][LANES] = {0};
        for (long i = -1; i <= 1; i++) {
            if (y + i < 0 || y + i >= job->height)
                continue;
            for (long c = 0; c < channels; c += LANES)
                for (long j = -1; j <= 1; j++) {
                    const float *weight = job->weight + ((i + 1) * 3 + j + 1) * outputs * channels + c;
                    Floats w[FEW];
                    for (long n = 0; n < outputs; n++)
                        w[n] = load(weight, n * channels, 0);
                    long from = first + j < 0 ? 1 : 0, to = first + j + count > width ? count - 1 : count;
                    for (long x = from; x < to; x++) {
                        Floats value = load(job->x, ((y + i) * width + first + x + j) * channels + c, half);
                        for (long n = 0; n < outputs; n++)
                            sums[n][x] += value * w[n];
                    }
                }
        }
        for (long n = 0; n < outputs; n++) {
            Floats sum = totals(sums[n]) + job->bias[n];
            memcpy(job->out + n * plane + y * width + first, &sum, count * sizeof *job->out);
        }
    }
}

static void few_part(const void *data, long y)
{
    const Few copy = *(const Few *)data, *job = &copy;
    switch (job->outputs * 2 + job->half) {
    case 2: few_row(job, y, 1, 0); break;
    case 3: few_row(job, y, 1, 1); break;
    case 4: few_row(job, y, 2, 0); break;
    case 5: few_row(job, y, 2, 1); break;
    }
}

/* A 3x3 convolution of stride 1 to 1 or 2 channels, 0 about the border: x (height, width, channels) -> (outputs, height, width) float32.
 *
 * weight: (3, 3, outputs, channels). bias: (outputs). */
EXPORT int few(Fork fork, int threads, const void *x, long height, long width, long channels, const float *weight, const float *bias,
               long outputs, float *out, int half)
{
    Few job = {x, weight, bias, out, height, width, channels, outputs, half};
    share(fork, threads, few_part, &job, height);
    return 0;
}
