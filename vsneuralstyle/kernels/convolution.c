/* 3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications.
 *
 * Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). A tile of 4x4 outputs comes of 6x6 inputs,
 * each of which becomes 36 points; at each point the channels of many tiles are a matrix, which is multiplied with the
 * weights there. All of it is float32, so its rounding is far below bfloat16's.
 *
 * Pictures are as in kernels.c.
 */

#include "kernels.h"

enum { TILE = 4, REACH = TILE + 2, POINTS = REACH * REACH };

/* Of the matrix product: tiles, and vectors of outputs, at once, whose sums fill the CPU's registers. */
enum { TILES = LANES == 16 ? 12 : 6, VECTORS = 2, GROUP = VECTORS * LANES };
enum { BLOCK = 24, SMALL = 4 * BLOCK }; /* tiles, a multiple of TILES: a core's cache holds what comes of them */

typedef struct {
    const void *x;
    const float *scale, *weight, *bias;
    void *out;
    double *sums;
    const void *zeros;
    long height, width, channels, inputs, outputs, across, count, block;
    float slope;
    int reflects, relu, half, half_out;
} Convolve;

/* B^T d for one line of six. */
INLINE void to_points(Floats *d, long step)
{
    Floats d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    Floats even = d4 - 4 * d2, odd = d3 - 4 * d1, near = d4 - d2, far = 2 * (d3 - d1);
    d[0] = 4 * d0 - 5 * d2 + d4;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = near + far;
    d[4 * step] = near - far;
    d[5 * step] = 4 * d1 - 5 * d3 + d5;
}

/* A^T m for one line of six, of which four are left. */
INLINE void from_points(Floats *m, long step)
{
    Floats sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    Floats further = m[3 * step] + m[4 * step], opposite = m[3 * step] - m[4 * step], last = m[5 * step];
    m[0] = m[0] + sum + further;
    m[step] = difference + 2 * opposite;
    m[2 * step] = sum + 4 * further;
    m[3 * step] = difference + 8 * opposite + last;
}

/* A tile's inputs -> points[POINTS][BLOCK][channels], of which this is one of BLOCK. */
INLINE void transform(const Convolve *job, long tile, float *points, int scaled, int half)
{
    long top = tile / job->across * TILE - 1, left = tile % job->across * TILE - 1, channels = job->channels;
    long sample = half ? 2 : 4, line = job->width * channels * sample;
    const char *from[POINTS], *x = job->x, *corner = x + top * line + left * channels * sample;
    int within = top >= 0 && left >= 0 && top + REACH <= job->height && left + REACH <= job->width;
    for (long i = 0; i < REACH; i++)
        for (long j = 0; j < REACH; j++)
            from[i * REACH + j] = corner + i * line + j * channels * sample;
    for (long n = 0; n < POINTS && !within; n++) {
        long row = top + n / REACH, column = left + n % REACH;
        if (job->reflects) {
            row = reflect(row, job->height - 1);
            column = reflect(column, job->width - 1);
        }
        int inside = row >= 0 && row < job->height && column >= 0 && column < job->width;
        from[n] = inside ? x + row * line + column * channels * sample : job->zeros;
    }
    for (long c = 0; c < channels; c += LANES) {
        Floats d[POINTS], scale = {0}, shift = {0};
        if (scaled) {
            scale = load(job->scale, c, 0);
            shift = load(job->scale, channels + c, 0);
        }
        for (long n = 0; n < POINTS; n++) {
            d[n] = load(from[n], c, half);
            if (scaled) {
                Floats value = d[n] * scale + shift;
                d[n] = job->relu ? select((Words)(value > 0), value, (Floats){0}) : value;
            }
        }
        for (long n = 0; n < REACH; n++)
            to_points(d + n, REACH);
        for (long n = 0; n < REACH; n++)
            to_points(d + n * REACH, 1);
        for (long n = 0; n < POINTS; n++)
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

/* A tile's products[POINTS][BLOCK][GROUP] -> its outputs from channel `first` on, and their sums. */
INLINE void finish(const Convolve *job, long tile, const float *products, long first, long vectors, double *sums, int half)
{
    long top = tile / job->across * TILE, left = tile % job->across * TILE, outputs = job->outputs;
    long rows = job->height - top < TILE ? job->height - top : TILE, columns = job->width - left < TILE ? job->width - left : TILE;
    for (long v = 0; v < vectors; v++) {
        long c = first + v * LANES;
        Floats m[POINTS], bias = load(job->bias, c, 0), about = {0}, sum = {0}, square = {0};
        for (long n = 0; n < POINTS; n++)
            m[n] = load(products, n * BLOCK * GROUP + v * LANES, 0);
        for (long n = 0; n < REACH; n++)
            from_points(m + n, REACH);
        for (long n = 0; n < TILE; n++)
            from_points(m + n * REACH, 1);
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++) {
                Floats value = m[i * REACH + j] + bias;
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

INLINE void block_of(const Convolve *job, long block, float *points, float *products, int scaled, int half, int half_out)
{
    long first = block * job->block, count = job->count - first < job->block ? job->count - first : job->block;
    double *sums = job->sums ? job->sums + block * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    for (long n = 0; n < count; n++)
        transform(job, first + n, points + n * job->channels, scaled, half);
    /* Rows that no tile fills are multiplied, too. */
    for (long point = 0; point < POINTS && count < job->block; point++)
        memset(points + (point * BLOCK + count) * job->channels, 0, (job->block - count) * job->channels * sizeof *points);
    for (long c = 0; c < job->outputs; c += GROUP) {
        long vectors = job->outputs - c < GROUP ? (job->outputs - c) / LANES : VECTORS;
        for (long point = 0; point < POINTS; point++) {
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
            finish(job, first + n, products + n * GROUP, c, vectors, sums, half_out);
    }
}

static void convolve_part(const void *data, long block, float *points)
{
    const Convolve copy = *(const Convolve *)data, *job = &copy; /* which no store of floats can change */
    float *products = points + POINTS * BLOCK * job->channels;
    switch ((job->scale ? 4 : 0) + (job->half ? 2 : 0) + job->half_out) {
    case 0: block_of(job, block, points, products, 0, 0, 0); break;
    case 2: block_of(job, block, points, products, 0, 1, 0); break;
    case 3: block_of(job, block, points, products, 0, 1, 1); break;
    case 4: block_of(job, block, points, products, 1, 0, 0); break;
    case 7: block_of(job, block, points, products, 1, 1, 1); break;
    }
}

/* x (height, width, channels), of whose channels the first `inputs` count and the others are 0 -> out (height, width, outputs), outputs
 * a multiple of 16.
 *
 * scale: x times the first `channels` of these plus the others, then a ReLU where `relu` says so; NULL: x as it is.
 * reflects: the border is x reflected, else 0.
 * weight: (36, inputs, outputs), what `points` in __init__.py makes of the convolution's. bias: (outputs).
 * slope: what is below 0 is multiplied by it at the end.
 * norm_weight, norm_bias, eps, norm: scales and shifts for `scale` of the next, (2 outputs), so that what comes out has mean 0 and variance 1,
 *     then norm_weight and norm_bias, which may be NULL; without `norm` none.
 * half, half_out: of x and out; out alone can't be. */
EXPORT int convolve(Fork fork, int threads, const void *x, long height, long width, long channels, long inputs, const float *scale, int relu,
                    int reflects, const float *weight, const float *bias, long outputs, float slope, const float *norm_weight,
                    const float *norm_bias, float eps, float *norm, void *out, int half, int half_out)
{
    long across = (width + TILE - 1) / TILE, count = across * ((height + TILE - 1) / TILE);
    long block = count < SMALL ? TILES : BLOCK, blocks = (count + block - 1) / block; /* of a small picture, some for each worker */
    float *zeros = calloc(channels, sizeof *zeros);
    double *sums = norm ? malloc(blocks * 2 * outputs * sizeof *sums) : NULL;
    int result = zeros && (sums || !norm) ? 0 : -1;
    if (!result) {
        Convolve job = {x, scale, weight, bias, out, sums, zeros, height, width, channels, inputs, outputs, across, count, block, slope,
                        reflects, relu, half, half_out};
        result = share_in_room(fork, threads, convolve_part, &job, blocks, POINTS * BLOCK * (channels + GROUP));
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
        long count = width - first < LANES ? width - first : LANES;
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
