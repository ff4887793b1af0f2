/* 3x3 convolutions by a CPU's matrix unit: amx.h says how. */

#include "amx.h"

enum { PART_ROWS = 4, LINES = 3 };

typedef struct {
    const void *x;
    const char *weight;
    const float *scale, *bias;
    void *out;
    double *sums;
    long height, width, full_height, full_width; /* of x; of what comes out */
    long channels, outputs, tile_size, down, across,
        line; /* down, across: rows and columns of what is multiplied; line: samples */
    float slope;
    int reflects, relu, dtype, out_dtype;
} Conv3x3;

/* Row of x, or its border's -> line: its pixels from the one before the first on, and 0. */
INLINE void fill(const Conv3x3 *job, long row, uint16_t *line, int scaled, int dtype) {
    long channels = job->channels, width = job->width, behind = (width + 1) * channels;
    long at = source_index(row, job->height, job->tile_size, job->reflects);
    if (at < 0) {
        memset(line, 0, job->line * sizeof *line);
        return;
    }
    const char *from = (const char *)job->x + at * width * channels * sample_size(dtype);
    VecF32 least = (VecF32){0} + (job->relu ? 0 : -__builtin_inff());
    if (!scaled && dtype == 1)
        memcpy(line + channels, from, width * channels * sizeof *line);
    else
        for (long x = 0; x < width; x++)
            for (long c = 0; c < channels; c += LANES) {
                VecF32 value = load(from, x * channels + c, dtype);
                if (scaled)
                    value = vec_max(value * load(job->scale, c, FLOAT32) +
                                        load(job->scale, channels + c, FLOAT32),
                                    least);
                store(line, (x + 1) * channels + c, value, BFLOAT16);
            }
    memset(line + behind, 0, (job->line - behind) * sizeof *line);
    long first = source_index(-1, width, job->tile_size, job->reflects),
         last = source_index(width, width, job->tile_size, job->reflects);
    if (first < 0) {
        memset(line, 0, channels * sizeof *line);
    } else {
        memcpy(line, line + (first + 1) * channels, channels * sizeof *line);
        memcpy(line + behind, line + (last + 1) * channels, channels * sizeof *line);
    }
}

static void fill_line(const Conv3x3 *job, long row, uint16_t *line) {
    if (job->scale && job->dtype)
        fill(job, row, line, 1, 1);
    else if (job->scale)
        fill(job, row, line, 1, 0);
    else if (job->dtype == FLOAT16)
        fill(job, row, line, 0, FLOAT16);
    else if (job->dtype)
        fill(job, row, line, 0, 1);
    else
        fill(job, row, line, 0, 0);
}

INLINE long groups_of(const Conv3x3 *job) /* of SIDE outputs; of what is enlarged those of even and
                                              odd rows and columns */
{
    return job->outputs / SIDE * (job->tile_size == UPSAMPLE2 ? 4 : 1);
}

/* A row of what is multiplied, which makes one of the feature map's rows, or of what is enlarged
 * two. lines: the three rows of x about it. own: room for sums of each group. Pixels that the near
 * cache holds go through all groups before the next ones. */
INLINE void conv3x3_row(const Conv3x3 *job, long y, const uint16_t *const *lines, float *products,
                        Moments *own, double *sums) {
    int upsamples = job->tile_size == UPSAMPLE2;
    long channels = job->channels, each = job->outputs / SIDE, groups = groups_of(job),
         step = job->outputs * (upsamples ? 2 : 1);
    long count = upsamples ? 2 : 3, chunks = (count * channels + DEPTH - 1) / DEPTH,
         pixel = channels * (job->tile_size == STRIDE2 ? 2 : 1);
    long weights = count * chunks * BYTES;
    for (long group = 0; group < groups && sums; group++)
        begin_moments(&own[group]);
    for (long first = 0, blocks; first < job->across; first += blocks * SIDE) {
        blocks = blocks_of(job->across - first, each < MAX_GROUPS ? 1 : MAX_GROUPS);
        for (long group = 0, together; group < groups; group += together) {
            together = remaining(group % each, each, MAX_GROUPS);
            long channel = group % each * SIDE, odd = group / each % 2, down = group / each / 2,
                 row = upsamples ? 2 * y + down : y;
            long at =
                row * job->full_width * job->outputs + first * step + odd * job->outputs + channel;
            const char *rows[LINES];
            for (long n = 0; n < count; n++)
                rows[n] = (const char *)(lines[n + down] + odd * channels + first * pixel);
            Operands operands = {
                rows, job->weight + group * weights, count, chunks, 2 * DEPTH, 2 * pixel, weights,
                0};
            gemm(&operands, products, blocks, together);
            for (long n = 0; n < together; n++)
                epilogue_row(products + n * SIDE, together * SIDE,
                             remaining(first, job->across, blocks * SIDE),
                             job->bias + channel + n * SIDE, job->slope, job->out, at + n * SIDE,
                             step, first == 0, sums ? &own[group + n] : NULL, job->out_dtype);
        }
    }
    for (long group = 0; group < groups && sums; group++)
        add_row_moments(sums + group % each * SIDE, job->outputs, &own[group], job->across);
}

/* Of the rows about each those that the worker's ring hasn't are made. Which it has its first
 * samples say, counted from 1 on: 0 is none. */
static void conv3x3_chunk(const void *data, long part, float *scratch) {
    const Conv3x3 copy = *(const Conv3x3 *)data, *job = &copy;
    float *products = scratch + SCRATCH_HEADER;
    Moments *own = (Moments *)(products + PRODUCTS);
    uint16_t *ring = (uint16_t *)(own + groups_of(job));
    double *sums = job->sums ? job->sums + part * 2 * job->outputs : NULL;
    if (sums)
        memset(sums, 0, 2 * job->outputs * sizeof *sums);
    configure_tiles();
    for (long y = part * PART_ROWS;
         y < part * PART_ROWS + remaining(part * PART_ROWS, job->down, PART_ROWS); y++) {
        const uint16_t *lines[LINES];
        for (long n = 0; n < LINES; n++) {
            long row = (job->tile_size == STRIDE2 ? 2 * y : y) + n - 1,
                 place = (row + LINES) % LINES;
            uint16_t *line = ring + place * job->line;
            if (scratch[place] != (float)(row + 2)) {
                fill_line(job, row, line);
                scratch[place] = (float)(row + 2);
            }
            lines[n] = line;
        }
        conv3x3_row(job, y, lines, products, own, sums);
    }
    release_tiles();
}

int conv3x3_amx(Fork fork, int threads, const void *x, long height, long width, const Layer *layer,
                const float *scale, int relu, float *norm, void *out, int dtype, int out_dtype) {
    const Layer own = *layer;
    long channels = padded_channels(own.inputs), full_height = output_size(layer, height),
         full_width = output_size(layer, width);
    int upsamples = own.tile_size == UPSAMPLE2;
    long down = upsamples ? height : full_height, across = upsamples ? width : full_width,
         parts = (down + PART_ROWS - 1) / PART_ROWS;
    long line = (in_tiles(across) * (own.tile_size == STRIDE2 ? 2 : 1) + 3) *
                channels; /* tiles tile_size so far beyond the border */
    double *sums = norm ? malloc(parts * 2 * own.outputs * sizeof *sums) : NULL;
    if (norm && !sums)
        return -1;
    Conv3x3 job = {
        x,      own.weight,  scale,      own.bias,     out,         sums,          height,
        width,  full_height, full_width, channels,     own.outputs, own.tile_size, down,
        across, line,        own.slope,  own.reflects, relu,        dtype,         out_dtype};
    long size = SCRATCH_HEADER + PRODUCTS +
                groups_of(&job) * (long)(sizeof(Moments) / sizeof(float)) +
                padded_floats(LINES * line, 1);
    int result = parallel_for_scratch(fork, threads, conv3x3_chunk, &job, parts, size);
    if (norm && !result)
        instance_norm_finalize(sums, parts, own.outputs, (double)full_height * (double)full_width,
                               own.norm_weight, own.norm_bias, own.eps, norm);
    free(sums);
    return result;
}
