/* 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(4x4, 3x3) and F(6x6, 3x3): a quarter of the multiplications, and a fifth.
 *
 * Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). A tile of 4x4 outputs comes of 6x6 inputs,
 * which become 36 points, one of 6x6 of 8x8, 64 points; at each point the channels of many tiles are a matrix, which is multiplied
 * with the weights there. All of it is float32, so its rounding is far below bfloat16's. Larger tiles have more to add up before and after.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { MOST_REACH = 6 + 2, MOST_POINTS = MOST_REACH * MOST_REACH };

/* Of the matrix product: tiles, and vectors of outputs, at once, whose sums fill the CPU's registers. */
enum { TILES = LANES == 16 ? 12 : 6, VECTORS = 2, GROUP = VECTORS * LANES };
enum { BLOCK = 24, SMALL = 4 * BLOCK }; /* tiles, twice TILES or more: a core's cache holds what comes of them */

typedef struct {
    const void *x;
    const float *scale, *weight, *bias;
    void *out;
    double *sums;
    const void *zeros;
    long height, width, channels, inputs, outputs, across, count;
    float slope;
    long tile;
    int reflects, relu, half, half_out;
} Convolve;

/* B^T d for one line of tile + 2. */
INLINE void to_points(Floats *d, long step, int tile)
{
    Floats d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    if (tile == 4) {
        Floats even = d4 - 4 * d2, odd = d3 - 4 * d1, near = d4 - d2, far = 2 * (d3 - d1);
        d[0] = 4 * d0 - 5 * d2 + d4;
        d[step] = even + odd;
        d[2 * step] = even - odd;
        d[3 * step] = near + far;
        d[4 * step] = near - far;
        d[5 * step] = 4 * d1 - 5 * d3 + d5;
    } else {
        Floats d6 = d[6 * step], d7 = d[7 * step];
        Floats even = d2 - 4.25f * d4 + d6, odd = d1 - 4.25f * d3 + d5; /* at 1 and -1 */
        Floats twice_even = 0.25f * d2 - 1.25f * d4 + d6, twice_odd = 0.5f * d1 - 2.5f * d3 + 2 * d5; /* at 2 and -2 */
        Floats half_even = 4 * d2 - 5 * d4 + d6, half_odd = 2 * d1 - 2.5f * d3 + 0.5f * d5; /* at 1/2 and -1/2 */
        d[0] = d0 - d6 + 5.25f * (d4 - d2);
        d[step] = even + odd;
        d[2 * step] = even - odd;
        d[3 * step] = twice_even + twice_odd;
        d[4 * step] = twice_even - twice_odd;
        d[5 * step] = half_even + half_odd;
        d[6 * step] = half_even - half_odd;
        d[7 * step] = d7 - d1 + 5.25f * (d3 - d5);
    }
}

/* A^T m for one line of tile + 2, of which `tile` are left. */
INLINE void from_points(Floats *m, long step, int tile)
{
    Floats sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    Floats further = m[3 * step] + m[4 * step], opposite = m[3 * step] - m[4 * step];
    if (tile == 4) {
        Floats last = m[5 * step];
        m[0] = m[0] + sum + further;
        m[step] = difference + 2 * opposite;
        m[2 * step] = sum + 4 * further;
        m[3 * step] = difference + 8 * opposite + last;
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

/* A tile's inputs -> points[(tile + 2)^2][BLOCK][channels], of which this is one of BLOCK. */
INLINE void transform(const Convolve *job, long number, float *points, int tile, int scaled, int half)
{
    long top = number / job->across * tile - 1, left = number % job->across * tile - 1, channels = job->channels;
    long reach = tile + 2, count = reach * reach;
    long sample = half ? 2 : 4, line = job->width * channels * sample;
    const char *from[MOST_POINTS], *x = job->x, *corner = x + top * line + left * channels * sample;
    int within = top >= 0 && left >= 0 && top + reach <= job->height && left + reach <= job->width;
    for (long i = 0; i < reach; i++)
        for (long j = 0; j < reach; j++)
            from[i * reach + j] = corner + i * line + j * channels * sample;
    for (long n = 0; n < count && !within; n++) {
        long row = top + n / reach, column = left + n % reach;
        if (job->reflects) {
            row = reflect(row, job->height - 1);
            column = reflect(column, job->width - 1);
        }
        int inside = row >= 0 && row < job->height && column >= 0 && column < job->width;
        from[n] = inside ? x + row * line + column * channels * sample : job->zeros;
    }
    for (long c = 0; c < channels; c += LANES) {
        Floats d[MOST_POINTS], scale = {0}, shift = {0};
        if (scaled) {
            scale = load(job->scale, c, 0);
            shift = load(job->scale, channels + c, 0);
        }
        for (long n = 0; n < count; n++) {
            d[n] = load(from[n], c, half);
            if (scaled) {
                Floats value = d[n] * scale + shift;
                d[n] = job->relu ? select((Words)(value > 0), value, (Floats){0}) : value;
            }
        }
        for (long n = 0; n < reach; n++)
            to_points(d + n, reach, tile);
        for (long n = 0; n < reach; n++)
            to_points(d + n * reach, 1, tile);
        for (long n = 0; n < count; n++)
            store(points, n * BLOCK * channels + c, d[n], 0);
    }
}

/* (TILES, inputs) of `points` times (inputs, vectors of outputs) of `weight` -> products, whose rows are GROUP long. */
INLINE void multiply(const float *points, long channels, const float *weight, long outputs, long inputs, float *products, long vectors)
{
    Floats sums[TILES][VECTORS] = {0};
    for (long k = 0; k < inputs; k++) {
        Floats w[VECTORS];
        for (long v = 0; v < vectors; v++)
            w[v] = load(weight, k * outputs + v * LANES, 0);
        for (long row = 0; row < TILES; row++) {
            Floats point = points[row * channels + k] - (Floats){0}; /* a sum would cost one: it turns -0 into 0 */
            for (long v = 0; v < vectors; v++)
                sums[row][v] += point * w[v];
        }
    }
    for (long row = 0; row < TILES; row++)
        for (long v = 0; v < vectors; v++)
            store(products, row * GROUP + v * LANES, sums[row][v], 0);
}

/* A tile's products[(tile + 2)^2][BLOCK][GROUP] -> its outputs from channel `first` on, and their sums. */
INLINE void finish(const Convolve *job, long number, const float *products, long first, long vectors, double *sums, int tile, int half)
{
    long top = number / job->across * tile, left = number % job->across * tile, outputs = job->outputs, reach = tile + 2;
    long rows = remaining(top, job->height, tile), columns = remaining(left, job->width, tile);
    for (long v = 0; v < vectors; v++) {
        long c = first + v * LANES;
        Floats m[MOST_POINTS], bias = load(job->bias, c, 0), about = {0}, sum = {0}, square = {0};
        for (long n = 0; n < reach * reach; n++)
            m[n] = load(products, n * BLOCK * GROUP + v * LANES, 0);
        for (long n = 0; n < reach; n++)
            from_points(m + n, reach, tile);
        for (long n = 0; n < tile; n++)
            from_points(m + n * reach, 1, tile);
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++) {
                Floats value = m[i * reach + j] + bias;
                value = select((Words)(value > 0), value, value * job->slope);
                store(job->out, ((top + i) * job->width + left + j) * outputs + c, value, half);
                /* About the tile's first, so that a mean far from 0 leaves the variance its digits. */
                if (i == 0 && j == 0)
                    about = value;
                sum += value - about;
                square += (value - about) * (value - about);
            }
        if (sums)
            add_sums(sums + c, outputs, about, sum, square, rows * columns);
    }
}

/* Blocks of BLOCK tiles and, last, some of TILES, so that the workers end together; of a small picture all are of TILES. */
INLINE long large_blocks(long count)
{
    return count < SMALL ? 0 : count / BLOCK;
}

INLINE long blocks_of(long count)
{
    long large = large_blocks(count);
    return large + (count - large * BLOCK + TILES - 1) / TILES;
}

INLINE void block_of(const Convolve *job, long block, float *points, float *products, int tile, int scaled, int half, int half_out)
{
    long large = large_blocks(job->count), all = (tile + 2) * (tile + 2);
    long first = block < large ? block * BLOCK : large * BLOCK + (block - large) * TILES, size = block < large ? BLOCK : TILES;
    long count = remaining(first, job->count, size);
    double *sums = job->sums ? job->sums + block * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    for (long n = 0; n < count; n++)
        transform(job, first + n, points + n * job->channels, tile, scaled, half);
    /* Rows that no tile fills are multiplied, too. */
    for (long point = 0; point < all && count < size; point++)
        memset(points + (point * BLOCK + count) * job->channels, 0, (size - count) * job->channels * sizeof *points);
    for (long c = 0; c < job->outputs; c += GROUP) {
        long vectors = job->outputs - c < GROUP ? (job->outputs - c) / LANES : VECTORS;
        for (long point = 0; point < all; point++) {
            const float *weight = job->weight + point * job->inputs * job->outputs + c;
            for (long row = 0; row < count; row += TILES) {
                const float *from = points + (point * BLOCK + row) * job->channels;
                float *to = products + (point * BLOCK + row) * GROUP;
                if (vectors == VECTORS)
                    multiply(from, job->channels, weight, job->outputs, job->inputs, to, VECTORS);
                else
                    multiply(from, job->channels, weight, job->outputs, job->inputs, to, 1);
            }
        }
        for (long n = 0; n < count; n++)
            finish(job, first + n, products + n * GROUP, c, vectors, sums, tile, half_out);
    }
}

INLINE void convolve_block(const Convolve *job, long block, float *points, int tile)
{
    float *products = points + (tile + 2) * (tile + 2) * BLOCK * job->channels;
    switch ((job->scale ? 4 : 0) + (job->half ? 2 : 0) + job->half_out) {
    case 0: block_of(job, block, points, products, tile, 0, 0, 0); break;
    case 2: block_of(job, block, points, products, tile, 0, 1, 0); break;
    case 3: block_of(job, block, points, products, tile, 0, 1, 1); break;
    case 4: block_of(job, block, points, products, tile, 1, 0, 0); break;
    case 7: block_of(job, block, points, products, tile, 1, 1, 1); break;
    }
}

static void convolve_part(const void *data, long block, float *points)
{
    const Convolve copy = *(const Convolve *)data, *job = &copy; /* which no store of floats can change */
    if (job->tile == 4)
        convolve_block(job, block, points, 4);
    else
        convolve_block(job, block, points, 6);
}

/* x (height, width, channels), of whose channels the first `inputs` count and the others are 0 -> out (height, width, outputs), outputs
 * a multiple of 16.
 *
 * scale: x times the first `channels` of these plus the others, then a ReLU where `relu` says so; NULL: x as it is.
 * reflects: the border is x reflected, else 0.
 * tile: 4 or 6. weight: ((tile + 2)^2, inputs, outputs), what `points` in __init__.py makes of the convolution's. bias: (outputs).
 * slope: what is below 0 is multiplied by it at the end.
 * norm_weight, norm_bias, eps, norm: scales and shifts for `scale` of the next, (2 outputs), so that what comes out has mean 0 and variance 1,
 *     then norm_weight and norm_bias, which may be NULL; without `norm` none.
 * half, half_out: of x and out; out alone can't be. */
EXPORT int convolve(Fork fork, int threads, const void *x, long height, long width, long channels, long inputs, const float *scale, int relu,
                    int reflects, long tile, const float *weight, const float *bias, long outputs, float slope, const float *norm_weight,
                    const float *norm_bias, float eps, float *norm, void *out, int half, int half_out)
{
    long across = (width + tile - 1) / tile, count = across * ((height + tile - 1) / tile), blocks = blocks_of(count);
    float *zeros = calloc(channels, sizeof *zeros);
    double *sums = norm ? malloc(blocks * 2 * outputs * sizeof *sums) : NULL;
    int result = zeros && (sums || !norm) ? 0 : -1;
    if (!result) {
        Convolve job = {x, scale, weight, bias, out, sums, zeros, height, width, channels, inputs, outputs, across, count, slope,
                        tile, reflects, relu, half, half_out};
        result = share_in_room(fork, threads, convolve_part, &job, blocks, (tile + 2) * (tile + 2) * BLOCK * (channels + GROUP));
        if (norm && !result)
            normalising(sums, blocks, outputs, (double)height * width, norm_weight, norm_bias, eps, norm);
    }
    free(zeros);
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
