/* 3x3 convolutions by Winograd's minimal filtering.
 *
 * Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). A tile of
 * inputs becomes as many points, line by line and then column by column; at each point the channels
 * of many tiles are a matrix, which is multiplied with the weights there; and of the products comes
 * the tile of outputs. There are four kinds, told apart by the tile's size, the inputs of a line of
 * it:
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
 * twice the work: the points of tile size 4 and 7, samples, sums and differences of neighbours,
 * bear it nearly as a direct convolution does (an error of 0.3 % of what comes out, for 0.2); those
 * of tile size 6 lose twice as many bits at the usual points, 1 and 2, as at 3/4 and 3/2 (2.5 %
 * and 1.2).
 *
 * Feature maps are as layers.h says.
 */

#include "layers.h"
#include "winograd_gemm.h"

enum { MAX_TILE_SIZE = 6 + 2, MAX_OUTPUTS = 6 };

typedef struct {
    const void *x;
    const uint32_t *weight; /* float32, or pairs of bfloat16 */
    const float *scale, *bias;
    void *out;
    double *sums;
    long height, width, full_height, full_width; /* of x; of what comes out */
    long channels, inputs, outputs, across, count;
    float slope;
    long tile_size;
    int reflects, relu, dtype, out_dtype, bf16;
} Conv3x3;

INLINE long tile_stride(long tile_size) /* inputs from a tile to the next */
{
    return tile_size == STRIDE2 ? 6 : tile_size == UPSAMPLE2 ? 3 : tile_size - 2;
}

INLINE long outputs_per_line(long tile_size) /* a tile's outputs in a line */
{
    return tile_size == STRIDE2 ? 3 : tile_size == UPSAMPLE2 ? 6 : tile_size - 2;
}

INLINE long
outputs_before(long tile_size) /* outputs of a line's first tile that lie before the feature map */
{
    return tile_size == UPSAMPLE2;
}

INLINE long products_per_line(long tile_size) /* a tile's in a line */
{
    return tile_size == UPSAMPLE2 ? 7 : tile_size;
}

INLINE long point_of(long product, long tile_size) /* which of a line's points it is of */
{
    return tile_size == UPSAMPLE2 ? (product + (product > 2)) / 2 : product;
}

INLINE long tiles_per_line(long outputs, long tile_size) /* of a line */
{
    return (outputs + outputs_before(tile_size) + outputs_per_line(tile_size) - 1) /
           outputs_per_line(tile_size);
}

/* B^T d for one line of a tile. */
INLINE void input_transform(VecF32 *d, long tile_size) {
    VecF32 d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
    if (tile_size == UPSAMPLE2) { /* F(3, 2) */
        d[0] = d0 - d2;
        d[1] = d1 + d2;
        d[2] = d2 - d1;
        d[3] = d3 - d1;
        return;
    }
    VecF32 d4 = d[4], d5 = d[5];
    if (tile_size ==
        STRIDE2) { /* what meets the kernel's middle, and F(3, 2) of what meets its sides */
        VecF32 d6 = d[6];
        d[0] = d1;
        d[1] = d3;
        d[2] = d5;
        d[3] = d0 - d4;
        d[4] = d2 + d4;
        d[5] = d4 - d2;
        d[6] = d6 - d2;
        return;
    }
    if (tile_size == 6) { /* at 0, 3/4, -3/4, 3/2, -3/2 */
        VecF32 even = d4 - 2.25f * d2, odd = 0.75f * (d3 - 2.25f * d1),
               other_even = d4 - 0.5625f * d2, other_odd = 1.5f * (d3 - 0.5625f * d1);
        d[0] = 1.265625f * d0 - 2.8125f * d2 + d4;
        d[1] = even + odd;
        d[2] = even - odd;
        d[3] = other_even + other_odd;
        d[4] = other_even - other_odd;
        d[5] = 1.265625f * d1 - 2.8125f * d3 + d5;
    } else {
        VecF32 d6 = d[6], d7 = d[7];
        VecF32 even = d2 - 4.25f * d4 + d6, odd = d1 - 4.25f * d3 + d5; /* at 1 and -1 */
        VecF32 twice_even = 0.25f * d2 - 1.25f * d4 + d6,
               twice_odd = 0.5f * d1 - 2.5f * d3 + 2 * d5; /* at 2 and -2 */
        VecF32 half_even = 4 * d2 - 5 * d4 + d6,
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
INLINE void output_transform(VecF32 *m, long tile_size) {
    VecF32 m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4];
    if (tile_size ==
        UPSAMPLE2) { /* an odd output, which is the last of a pixel, and the next one's even one */
        VecF32 odd = m2 + m3, even = m2 + m4;
        m[0] = m[0] + odd;
        m[1] = m1 + even;
        m[2] = m2 - m3;
        m[3] = m2 - m4;
        m[4] = odd + m[5];
        m[5] = even + m[6];
        return;
    }
    if (tile_size == STRIDE2) {
        VecF32 m5 = m[5], outer = m4 + m5;
        m[0] = m[0] + m3 + outer;
        m[1] = m1 + (m4 - m5);
        m[2] = m2 + outer + m[6];
        return;
    }
    VecF32 sum = m1 + m2, difference = m1 - m2, further = m3 + m4, opposite = m3 - m4;
    if (tile_size == 6) {
        VecF32 last = m[5];
        m[0] = m[0] + sum + further;
        m[1] = 0.75f * difference + 1.5f * opposite;
        m[2] = 0.5625f * sum + 2.25f * further;
        m[3] = 0.421875f * difference + 3.375f * opposite + last;
    } else {
        VecF32 nearer = m[5] + m[6], other = m[5] - m[6], last = m[7];
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
INLINE void input_column(const Conv3x3 *job, const char *const *rows, long place, long c,
                         VecF32 scale, VecF32 shift, VecF32 *d, long tile_size, int scaled,
                         int dtype, int inside) {
    long column = inside ? place : source_index(place, job->width, tile_size, job->reflects),
         at = column * job->channels + c;
    VecF32 least = (VecF32){0} + (job->relu ? 0 : -__builtin_inff());
    for (long i = 0; i < tile_size; i++) {
        if (!inside && (column < 0 || !rows[i])) {
            d[i] = (VecF32){0};
            continue;
        }
        d[i] = load(rows[i], at, dtype);
        if (scaled)
            d[i] = vec_max(d[i] * scale + shift, least);
    }
    input_transform(d, tile_size);
}

INLINE long
plane_size(long columns) /* of BLOCK tiles, in samples, and what is between it and the next one */
{
    return BLOCK * columns + PLANE_PADDING;
}

/* `count` tiles side by side, of which `number` is the first -> rows of their points' matrices,
 * with `channels` columns. */
INLINE void transform_tiles(const Conv3x3 *job, long number, long count, void *points,
                            long tile_size, int bf16, int scaled, int dtype) {
    long step = tile_stride(tile_size), channels = job->channels, shared = tile_size - step;
    long top = number / job->across * step - 1, left = number % job->across * step - 1;
    const char *rows[MAX_TILE_SIZE];
    int between = top >= 0 && top + tile_size <= job->height; /* no border above or below */
    for (long i = 0; i < tile_size; i++) {
        long row = source_index(top + i, job->height, tile_size, job->reflects);
        rows[i] = row < 0 ? NULL
                          : (const char *)job->x + row * job->width * channels * sample_size(dtype);
    }
    for (long c = 0; c < job->inputs; c += LANES) {
        VecF32 scale = {0}, shift = {0}, d[MAX_TILE_SIZE][MAX_TILE_SIZE]; /* a tile's columns */
        if (scaled) {
            scale = load(job->scale, c, FLOAT32);
            shift = load(job->scale, channels + c, FLOAT32);
        }
        for (long j = 0; j < shared; j++)
            input_column(job, rows, left + j, c, scale, shift, d[j], tile_size, scaled, dtype, 0);
        for (long n = 0; n < count; n++) {
            long at = left + n * step;
            if (between && at >= 0 && at + tile_size <= job->width)
                for (long j = shared; j < tile_size; j++)
                    input_column(job, rows, at + j, c, scale, shift, d[j], tile_size, scaled, dtype,
                                 1);
            else
                for (long j = shared; j < tile_size; j++)
                    input_column(job, rows, at + j, c, scale, shift, d[j], tile_size, scaled, dtype,
                                 0);
            for (long i = 0; i < tile_size; i++) {
                VecF32 line[MAX_TILE_SIZE];
                for (long j = 0; j < tile_size; j++)
                    line[j] = d[j][i];
                input_transform(line, tile_size);
                for (long j = 0; j < tile_size; j++)
                    store(points, (i * tile_size + j) * plane_size(channels) + n * channels + c,
                          line[j], bf16);
            }
            for (long j = 0; j < shared; j++)
                for (long i = 0; i < tile_size; i++)
                    d[j][i] = d[j + step][i];
        }
    }
}

/* What is left to be summed up of a run of tiles: about the first output, so that a mean far from 0
 * leaves the variance its digits. */
typedef struct {
    VecF32 shift, sum, square;
} Moments;

/* A tile's products, `line` of them in a line -> its outputs from channel c on, in rows `above` to
 * `rows` and columns `beside` to `columns`; `inside`: in all. */
INLINE void epilogue_tile(const Conv3x3 *job, const float *products, VecF32 bias, char *out,
                          long above, long rows, long beside, long columns, int first,
                          Moments *sums, long tile_size, int dtype, int inside, int summing) {
    long size = outputs_per_line(tile_size), line = products_per_line(tile_size);
    VecF32 m[MAX_OUTPUTS][MAX_TILE_SIZE];
    for (long j = 0; j < line; j++) {
        VecF32 d[MAX_TILE_SIZE];
        for (long i = 0; i < line; i++)
            d[i] = load(products, (i * line + j) * plane_size(GROUP), FLOAT32);
        output_transform(d, tile_size);
        for (long i = 0; i < size; i++)
            m[i][j] = d[i];
    }
    for (long i = 0; i < size; i++) {
        output_transform(m[i], tile_size);
        for (long j = 0; j < size; j++) {
            if (!inside && (i < above || i >= rows || j < beside || j >= columns))
                continue;
            VecF32 value = m[i][j] + bias;
            value = vec_max(value, value * job->slope);
            store(out, (i * job->full_width + j) * job->outputs, value, dtype);
            if (!summing)
                continue;
            if (first && i == above && j == beside)
                sums->shift = value;
            sums->sum += value - sums->shift;
            sums->square += (value - sums->shift) * (value - sums->shift);
        }
    }
}

/* Rows of the products' matrices, with GROUP columns, of `count` tiles side by side, of which
 * `number` is the first -> their outputs from channel `first` on, and these's sums. */
INLINE void epilogue(const Conv3x3 *job, long number, long count, const float *products, long first,
                     long vectors, double *sums, long tile_size, int dtype, int summing) {
    long size = outputs_per_line(tile_size), outputs = job->outputs;
    long top = number / job->across * size - outputs_before(tile_size),
         left = number % job->across * size - outputs_before(tile_size);
    long above = top < 0 ? -top : 0,
         beside = left < 0 ? -left : 0; /* outputs beyond the feature map */
    long rows = remaining(top, job->full_height, size),
         width = remaining(left, job->full_width, count * size);
    for (long v = 0; v < vectors; v++) {
        long c = first + v * LANES;
        VecF32 bias = load(job->bias, c, FLOAT32);
        Moments own = {{0}, {0}, {0}};
        for (long n = 0; n < count; n++) {
            const float *from = products + n * GROUP + v * LANES;
            long columns = remaining(n * size, width, size), skipped = n ? 0 : beside;
            char *out =
                (char *)job->out +
                ((top * job->full_width + left + n * size) * outputs + c) * sample_size(dtype);
            if (above || skipped || rows < size || columns < size)
                epilogue_tile(job, from, bias, out, above, rows, skipped, columns, n == 0, &own,
                              tile_size, dtype, 0, summing);
            else
                epilogue_tile(job, from, bias, out, 0, size, 0, size, n == 0, &own, tile_size,
                              dtype, 1, summing);
        }
        if (summing)
            add_moments(sums + c, outputs, own.shift, own.sum, own.square,
                        (rows - above) * (width - beside));
    }
}

/* How many of `count` tiles from `number` on are side by side. */
INLINE long run_of(const Conv3x3 *job, long number, long count) {
    return remaining(number % job->across, job->across, count);
}

/* `count` tiles from `number` on; those that are multiplied at once are `size`, of which some may
 * be nothing. */
INLINE void block_of(const Conv3x3 *job, long number, long count, long size, float *scratch,
                     double *sums, long tile_size, int bf16) {
    long all = tile_size * tile_size, line = products_per_line(tile_size), channels = job->channels,
         words = bf16 ? 2 : 1; /* samples in one */
    long inputs = (job->inputs + words - 1) / words, next = plane_size(channels) / words;
    long weights = OUTPUTS * inputs,
         next_weights =
             line * line * weights; /* words: of 16 outputs, those of a product, and of all */
    uint32_t *points = (uint32_t *)scratch;
    float *products = scratch + all * plane_size(channels);
    for (long n = 0, run; n < count; n += run) {
        run = run_of(job, number + n, count - n);
        uint32_t *to = points + n * channels / words;
        if (job->scale && job->dtype)
            transform_tiles(job, number + n, run, to, tile_size, bf16, 1, 1);
        else if (job->scale)
            transform_tiles(job, number + n, run, to, tile_size, bf16, 1, 0);
        else if (job->dtype == FLOAT16)
            transform_tiles(job, number + n, run, to, tile_size, bf16, 0, FLOAT16);
        else if (job->dtype)
            transform_tiles(job, number + n, run, to, tile_size, bf16, 0, 1);
        else
            transform_tiles(job, number + n, run, to, tile_size, bf16, 0, 0);
    }
    for (long point = 0; point < all && count < size; point++)
        memset(points + point * next + count * channels / words, 0,
               (size - count) * channels / words * sizeof *points);
    for (long c = 0; c < job->outputs; c += GROUP) {
        long vectors = vectors_of(job->outputs - c);
        for (long product = 0; product < line * line; product++) {
            const uint32_t *from = points + (point_of(product / line, tile_size) * tile_size +
                                             point_of(product % line, tile_size)) *
                                                next;
            const uint32_t *weight = weights_from(job->weight + product * weights, c, next_weights);
            float *to = products + product * plane_size(GROUP);
            for (long n = 0; n < count; n += TILES)
                gemm(from + n * channels / words, channels / words, weight, inputs, next_weights,
                     to + n * GROUP, vectors, bf16);
        }
        for (long n = 0, run; n < count; n += run) {
            run = run_of(job, number + n, count - n);
            switch ((sums ? 2 : 0) + job->out_dtype) {
            case 0:
                epilogue(job, number + n, run, products + n * GROUP, c, vectors, sums, tile_size, 0,
                         0);
                break;
            case 1:
                epilogue(job, number + n, run, products + n * GROUP, c, vectors, sums, tile_size, 1,
                         0);
                break;
            case 2:
                epilogue(job, number + n, run, products + n * GROUP, c, vectors, sums, tile_size, 0,
                         1);
                break;
            case 3:
                epilogue(job, number + n, run, products + n * GROUP, c, vectors, sums, tile_size, 1,
                         1);
                break;
            }
        }
    }
}

/* Blocks of BLOCK tiles and, last, some of TILES, so that the workers end together; of a small
 * feature map all are of TILES. */
INLINE long large_blocks(long count) {
    return count < SMALL ? 0 : count / BLOCK;
}

INLINE long parts_of(long count) {
    long large = large_blocks(count);
    return large + (count - large * BLOCK + TILES - 1) / TILES;
}

INLINE void conv3x3_block(const Conv3x3 *job, long part, float *scratch, double *sums,
                          long tile_size, int bf16) {
    long large = large_blocks(job->count);
    long first = part < large ? part * BLOCK : large * BLOCK + (part - large) * TILES,
         size = part < large ? BLOCK : TILES;
    block_of(job, first, remaining(first, job->count, size), size, scratch, sums, tile_size, bf16);
}

static void conv3x3_chunk(const void *data, long part, float *scratch) {
    const Conv3x3 copy = *(const Conv3x3 *)data,
                  *job = &copy; /* which no store of floats can change */
    double *sums = job->sums ? job->sums + part * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    switch (job->tile_size * 2 + job->bf16) {
    case 2 * UPSAMPLE2:
        conv3x3_block(job, part, scratch, sums, UPSAMPLE2, 0);
        break;
    case 2 * UPSAMPLE2 + 1:
        conv3x3_block(job, part, scratch, sums, UPSAMPLE2, 1);
        break;
    case 2 * STRIDE2:
        conv3x3_block(job, part, scratch, sums, STRIDE2, 0);
        break;
    case 2 * STRIDE2 + 1:
        conv3x3_block(job, part, scratch, sums, STRIDE2, 1);
        break;
    case 2 * 6:
        conv3x3_block(job, part, scratch, sums, 6, 0);
        break;
    case 2 * 6 + 1:
        conv3x3_block(job, part, scratch, sums, 6, 1);
        break;
    case 2 * 8:
        conv3x3_block(job, part, scratch, sums, 8, 0);
        break;
    }
}

/* x (height, width, padded_channels(inputs)), of whose channels those behind the first `inputs` are
 * 0 -> out, of that size, of twice of it (tile size 4) or half of it, rounded up (tile size 7), and
 * `outputs` channels, a multiple of 16.
 *
 * Of the layer:
 * reflects: the border is x reflected, or enlarged and reflected, else 0.
 * tile_size: of a tile, 4, 6, 7 or 8. weight: (outputs / 16, tile_size^2, but 49 for tile size 4,
 * inputs, 16), what `points` in packing.py makes of the convolution's; with `bf16`, but for tile
 * size 8, bfloat16, (outputs / 16, as many, inputs / 2 rounded up, 16, 2). It is read from one end
 * to the other, for each block of tiles anew, and from caches that are far: hence outputs first.
 * bias: (outputs). amx: tile_size is 4, 6 or 7, and says no more than what kind it is. weight:
 * bfloat16, of each 16 of the outputs, of each of the kernel's rows, of each 32 of its 3
 * padded_channels(inputs) samples there, 0 behind them, (16, 16, 2): pairs of samples by outputs;
 * for tile size 4 of each parity of the feature map's rows, and each of its columns, two rows of 2
 * padded_channels(inputs). slope: what is below 0 is multiplied by it at the end, 0 to 1.
 * norm_weight, norm_bias, eps: of `norm`; the first two may be NULL.
 *
 * scale: x times the first padded_channels(inputs) of these plus the others, then a ReLU where
 * `relu` says so; NULL: x as it is. norm: scales and shifts for `scale` of the next, (2 outputs),
 * so that what comes out has mean 0 and variance 1, then norm_weight and norm_bias; NULL: they are
 * not asked for. dtype, out_dtype: of x, with no scale FLOAT16 too, and of out. */
int conv3x3(Fork fork, int threads, const void *x, long height, long width, const void *layer,
            const float *scale, int relu, float *norm, void *out, int dtype, int out_dtype) {
    const Layer own = *(const Layer *)layer;
    if (own.amx)
        return conv3x3_amx(fork, threads, x, height, width, layer, scale, relu, norm, out, dtype,
                           out_dtype);
    long full_height = output_size(&own, height), full_width = output_size(&own, width),
         channels = padded_channels(own.inputs);
    long across = tiles_per_line(full_width, own.tile_size),
         count = across * tiles_per_line(full_height, own.tile_size), parts = parts_of(count);
    long size =
        own.tile_size * own.tile_size * plane_size(channels) +
        products_per_line(own.tile_size) * products_per_line(own.tile_size) * plane_size(GROUP);
    double *sums = norm ? malloc(parts * 2 * own.outputs * sizeof *sums) : NULL;
    if (norm && !sums)
        return -1;
    Conv3x3 job = {x,           own.weight, scale,       own.bias,   out,           sums,
                   height,      width,      full_height, full_width, channels,      own.inputs,
                   own.outputs, across,     count,       own.slope,  own.tile_size, own.reflects,
                   relu,        dtype,      out_dtype,   own.bf16};
    int result = parallel_for_scratch(fork, threads, conv3x3_chunk, &job, parts, size);
    if (norm && !result)
        instance_norm_finalize(sums, parts, own.outputs, (double)full_height * (double)full_width,
                               own.norm_weight, own.norm_bias, own.eps, norm);
    free(sums);
    return result;
}
