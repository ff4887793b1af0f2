/* LitePWCNet's features of a frame. */

#include "layers.h"
#include "winograd_gemm.h"

enum { SIDE = 3, FIRST_VECTORS = OUTPUTS / LANES < VECTORS ? OUTPUTS / LANES : VECTORS };

typedef struct {
    const float *frame, *bias;
    const uint32_t *weight; /* float32 */
    void *out;
    long height, width, full_height, full_width,
        line; /* line: samples of a row that is read, with its border and what tiles tile_size
               * beyond it
               */
    float mean, factor, slope;
    int dtype;
} Conv3x3FromRgb;

/* A row of a color as the convolution sees it: its border repeated to the full width, and 0 about
 * that. */
INLINE void rgb_row(const Conv3x3FromRgb *job, long row, long color, float *line) {
    memset(line, 0, job->line * sizeof *line);
    if (row < 0 || row >= job->full_height)
        return;
    const float *from =
        job->frame + (color * job->height + clamp_index(row, job->height - 1)) * job->width;
    for (long x = 0; x < job->width; x++)
        line[x + 1] = (from[x] - job->mean) * job->factor;
    for (long x = job->width; x < job->full_width; x++)
        line[x + 1] = line[job->width];
}

/* TILES pixels side by side, of which the first one's samples begin at `lines` -> FIRST_VECTORS
 * vectors of outputs each. */
static NOINLINE void from_rgb_gemm(const float *lines, long line, const uint32_t *weight,
                                   float *products) {
    VecF32 sums[TILES][FIRST_VECTORS];
    for (long x = 0; x < TILES; x++)
        for (long v = 0; v < FIRST_VECTORS; v++)
            sums[x][v] = (VecF32){0};
    long row = 0;
    do { /* at least once, as in multiply_vectors */
        for (long j = 0; j < SIDE; j++) {
            const float *at = lines + j;
            HIDE_POINTER(at);
            VecU32 w[FIRST_VECTORS];
            for (long v = 0; v < FIRST_VECTORS; v++)
                w[v] = load_words(weight + v * LANES);
            for (long x = 0; x < TILES; x++)
                for (long v = 0; v < FIRST_VECTORS; v++)
                    sums[x][v] = dot_broadcast(sums[x][v], at + 2 * x, w[v], 0);
            weight += OUTPUTS;
        }
        lines += line;
    } while (++row < SIDE * COLORS);
    for (long x = 0; x < TILES; x++)
        for (long v = 0; v < FIRST_VECTORS; v++)
            store(products, x * OUTPUTS + v * LANES, sums[x][v], FLOAT32);
}

static void conv3x3_from_rgb_chunk(const void *data, long y, float *lines) {
    const Conv3x3FromRgb copy = *(const Conv3x3FromRgb *)data, *job = &copy;
    long width = (job->full_width + 1) / 2;
    for (long i = 0; i < SIDE; i++)
        for (long color = 0; color < COLORS; color++)
            rgb_row(job, 2 * y - 1 + i, color, lines + (i * COLORS + color) * job->line);
    for (long first = 0; first < width; first += TILES) {
        float products[TILES * OUTPUTS];
        for (long c = 0; c < OUTPUTS; c += FIRST_VECTORS * LANES)
            from_rgb_gemm(lines + 2 * first, job->line, job->weight + c, products + c);
        for (long x = 0; x < remaining(first, width, TILES); x++)
            for (long c = 0; c < OUTPUTS; c += LANES) {
                VecF32 value =
                    load(products, x * OUTPUTS + c, FLOAT32) + load(job->bias, c, FLOAT32);
                store(job->out, (y * width + first + x) * OUTPUTS + c,
                      vec_max(value, value * job->slope), job->dtype);
            }
    }
}

/* frame (3, height, width) float32, its border repeated to the full size, and 0 about (sample -
 * mean) * factor; of that a 3x3 convolution of stride 2 -> out (full_height / 2 rounded up,
 * full_width / 2 rounded up, 16). weight: (3 rows, 3 colors, 3 columns, 16); bias: (16), float32.
 * slope: as `conv3x3` takes it. dtype: of out. */
static int conv3x3_from_rgb(Fork fork, int threads, const float *frame, long height, long width,
                            long full_height, long full_width, float mean, float factor,
                            const void *weight, const float *bias, float slope, void *out,
                            int dtype) {
    long tiles = ((full_width + 1) / 2 + TILES - 1) / TILES;
    Conv3x3FromRgb job = {
        frame, bias,   weight, out,  height, width, full_height, full_width, 2 * tiles * TILES + 1,
        mean,  factor, slope,  dtype};
    return parallel_for_scratch(fork, threads, conv3x3_from_rgb_chunk, &job, (full_height + 1) / 2,
                                SIDE * COLORS * job.line);
}

typedef struct {
    const float *frame;
    double *sums; /* of a row of a color */
    long height, width, full_width;
} FrameMean;

static void frame_mean_chunk(const void *data, long row) {
    const FrameMean *job = data;
    const float *from = job->frame + row * job->width;
    VecF32 sums = {0};
    long x = 0;
    for (; x + LANES <= job->width; x += LANES)
        sums += load(from, x, FLOAT32);
    double sum = (double)(job->full_width - job->width) * from[job->width - 1];
    for (; x < job->width; x++)
        sum += from[x];
    for (long lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    job->sums[row] = sum;
}

/* The mean of a frame (3, height, width), its border repeated to the full size. sums: room for 3
 * height. */
static float frame_mean(Fork fork, int threads, const float *frame, long height, long width,
                        long full_height, long full_width, double *sums) {
    FrameMean job = {frame, sums, height, width, full_width};
    parallel_for(fork, threads, frame_mean_chunk, &job, COLORS * height);
    double sum = 0;
    for (long color = 0; color < COLORS; color++) {
        for (long y = 0; y < height; y++)
            sum += sums[color * height + y];
        sum += (double)(full_height - height) * sums[(color + 1) * height - 1];
    }
    return (float)(sum / ((double)COLORS * (double)full_height * (double)full_width));
}

/* A level of a pyramid of features: of x (height, width, padded_channels(inputs)) a convolution of
 * stride 2, to `scratch`, and one of stride 1 -> raw (height / 2 rounded up, width / 2 rounded up,
 * outputs), and feature, the same normalised. scale: room for two of each output. */
static int pyramid_level(Fork fork, int threads, const void *x, long height, long width,
                         const Layer *layers, void *scratch, float *scale, void *raw, void *feature,
                         int dtype) {
    const Layer *second = layers + 1;
    long rows = output_size(layers, height), columns = output_size(layers, width);
    int result =
        conv3x3(fork, threads, x, height, width, layers, NULL, 0, NULL, scratch, dtype, dtype);
    if (!result)
        result = conv3x3(fork, threads, scratch, rows, columns, second, NULL, 0, scale, raw, dtype,
                         dtype);
    return result ? result
                  : scale_shift_relu_add(fork, threads, raw, rows, columns, second->outputs, scale,
                                         0, NULL, feature, dtype);
}

/* A pyramid of features: of frame (3, height, width) float32, its border repeated to the full size,
 * about its mean and times `factor`, a convolution of stride 2 to 16 channels, and the first layer;
 * then of each level, of which there are `levels`, a layer of stride 2 and one of stride 1 -> for
 * each level a feature, normalised, (its height, its width, outputs of its second layer).
 *
 * weight, bias, slope: of the first convolution, (3 rows, 3 colors, 3 columns, 16) and (16)
 * float32, and as a layer has it. dtype: of all but the frame. */
int flow_features(Fork fork, int threads, const float *frame, long height, long width,
                  long full_height, long full_width, float factor, const float *weight,
                  const float *bias, float slope, const void *layers, long levels,
                  void *const *features, int dtype) {
    const Layer *layer = layers;
    long rows = half_up(full_height), columns = half_up(full_width), channels = OUTPUTS,
         samples = rows * columns * OUTPUTS;
    for (long n = 0, y = rows, x = columns; n <= 2 * levels; n++) {
        if (n % 2)
            y = half_up(y), x = half_up(x);
        channels = max_long(channels, layer[n].outputs);
        samples = max_long(samples, y * x * layer[n].outputs);
    }
    long picture = padded_floats(samples, dtype), sums = 2 * padded_floats(COLORS * height, 0);
    float *scratch = alloc_floats(3 * picture + 2 * channels + sums);
    if (!scratch)
        return -1;
    float *raw = scratch, *next = scratch + picture, *between = next + picture,
          *scale = between + picture;
    float mean = frame_mean(fork, threads, frame, height, width, full_height, full_width,
                            (double *)(scale + 2 * channels));
    int result = conv3x3_from_rgb(fork, threads, frame, height, width, full_height, full_width,
                                  mean, factor, weight, bias, slope, between, dtype);
    if (!result)
        result =
            conv3x3(fork, threads, between, rows, columns, layer, NULL, 0, NULL, raw, dtype, dtype);
    for (long n = 0; n < levels && !result; n++) {
        result = pyramid_level(fork, threads, raw, rows, columns, layer + 1 + 2 * n, between, scale,
                               next, features[n], dtype);
        rows = half_up(rows), columns = half_up(columns);
        float *last = raw;
        raw = next, next = last;
    }
    free(scratch);
    return result;
}
