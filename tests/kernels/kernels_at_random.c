/* Calls every kernel with buffers of exactly the size that it says, at random sizes:
 * kernels_at_random ROUNDS. test_kernels.py builds it with sanitizers, which end it where a kernel
 * reads or writes beside them. */

#include <stdio.h>

#include "flow.h"
#include "layers.h"

/* A plane of a host's picture, as yuv_rgb.c has it. */
typedef struct {
    char *samples;
    long row, step;
} Plane;

int permitted(void);

static long from_to(long first, long last) {
    return first + rand() % (last - first + 1);
}

/* Samples from -most to most; with `half` there are two to a float's room. */
static void *samples(long count, int half, float most) {
    void *memory = malloc(count * (half ? 2 : 4));
    for (long n = 0; n < count; n++) {
        float value = most * (2 * (float)rand() / (float)RAND_MAX - 1);
        if (half)
            ((uint16_t *)memory)[n] = (uint16_t)(*(uint32_t *)&value >> 16);
        else
            ((float *)memory)[n] = value;
    }
    return memory;
}

enum { IN_FLOAT32, IN_PAIRS, IN_TILES };

static Layer layer_of(long inputs, long outputs, long reach, int how, int reflects) {
    long each = (reach == 4 ? 49 : reach * reach) *
                (how == IN_PAIRS ? (inputs + 1) / 2 * 2 : inputs) * outputs;
    if (how == IN_TILES)
        each = outputs / 16 *
               (reach == 4 ? 4 * 2 * (padded_channels(inputs) / 16)
                           : 3 * ((3 * padded_channels(inputs) + 31) / 32)) *
               512;
    return (Layer){samples(each, how != IN_FLOAT32, 1),
                   samples(outputs, 0, 1),
                   NULL,
                   NULL,
                   inputs,
                   outputs,
                   reach,
                   0.1f,
                   1e-4f,
                   how == IN_PAIRS,
                   how == IN_TILES,
                   reflects};
}

static void forget(Layer layer) {
    free((void *)layer.weight);
    free((void *)layer.bias);
}

int main(int count, char **arguments) {
    long rounds = count > 1 ? atol(arguments[1]) : 1;
    if (!permitted())
        return 2;
    for (long n = 0; n < rounds; n++) {
        int half = n & 1, on = n >> 1 & 1;
        long height = from_to(1, 20), width = from_to(1, 40), channels = 16 * from_to(1, 3),
             size = height * width * channels;
        float *frame = samples(3 * height * width, 0, 1),
              *previous = samples(3 * height * width, 0, 1);

        long full_height = height + from_to(0, 5), full_width = width + from_to(0, 5);
        long quarters = ((height + 3) / 4) * ((width + 3) / 4);
        float *means = samples(3 * quarters, 0, 1), *changes = samples(quarters, 0, 1);
        downsample4(NULL, 1, frame, height, width, means);
        max_change(NULL, 1, frame, previous, height, width, on ? 1 : 0, changes);
        float *glanced = samples(3 * (18 * 32 + 16 + 36 * 64) + 2, 0, 1);
        if (scene_descriptor(NULL, 1, frame, height, width, glanced))
            return 1;

        void *x = samples(size, half, 50), *out = samples(size, half, 1);
        void *residual = samples(size, half, 1);
        float *scale = samples(2 * channels, 0, 1);
        scale_shift_relu_add(NULL, 1, x, height, width, channels, on ? scale : NULL, on,
                             on ? residual : NULL, out, half);
        long inputs = channels - from_to(0, 15), outputs = 16 * from_to(1, 4),
             half_out = half && !on;
        const long reaches[] = {6, 8, 4, 7};
        long reach = reaches[n >> 2 & 3];
        int how = reach == 8 ? IN_FLOAT32 : n % 3, pairs = how == IN_PAIRS;
        Layer layer = layer_of(inputs, outputs, reach, how, on);
        void *convolved = samples((reach == 4   ? 4 * height * width
                                   : reach == 7 ? (height + 1) / 2 * ((width + 1) / 2)
                                                : height * width) *
                                      outputs,
                                  half_out, 1);
        float *norm = samples(2 * outputs, 0, 1);
        if (conv3x3(NULL, 1, x, height, width, &layer, half_out ? scale : NULL, 1, on ? NULL : norm,
                    convolved, half, half_out))
            return 1;

        /* Two for a block, of which the second goes on to others. */
        long plain = how || on ? 6 : 8, planes = from_to(1, 2);
        Layer layers[] = {layer_of(channels, channels, plain, how, on),
                          layer_of(channels, channels, plain, how, 0),
                          layer_of(channels, outputs, plain, how, 0)};
        Chain chained = {layers, 3, samples(9 * planes * outputs, 0, 1), layer.bias, planes};
        void *blocked = samples(size, half, 1);
        float *drawn_planes = samples(planes * height * width, 0, 1),
              *base = samples(planes * height * width, 0, 1);
        if (residual_blocks(NULL, 1, x, height, width, layers, 2, blocked, half) ||
            conv3x3_chain(NULL, 1, x, height, width, &chained, on ? base : NULL, drawn_planes,
                          half))
            return 1;

        /* Features of one to three levels, of which the first is the coarsest, and the flow between
         * two of them. */
        enum { MOST = 3 };
        long levels = from_to(1, MOST), squares = n >> 5 & 1, rows = (full_height + 1) / 2,
             columns = (full_width + 1) / 2;
        float *first = samples(27 * 16, 0, 1), *shift = samples(16, 0, 1);
        Layer seen[1 + 2 * MOST], estimating[MOST];
        Estimator estimators[MOST];
        void *features[MOST], *here[MOST], *there[MOST];
        seen[0] = layer_of(16, 16 * from_to(1, 2), plain, how, 0);
        for (long level = 0; level < levels; level++) {
            long coarse = levels - 1 - level, radius = from_to(2, 3), wide = 16 * from_to(1, 3),
                 known = (2 * radius + 1) * (2 * radius + 1) + wide + 2;
            rows = (rows + 1) / 2, columns = (columns + 1) / 2;
            seen[2 * level + 1] = layer_of(seen[2 * level].outputs, 16 * from_to(1, 3), 7, how, 0);
            seen[2 * level + 2] = layer_of(seen[2 * level + 1].outputs, wide, plain, how, 0);
            features[level] = samples(rows * columns * wide, half, 1);
            here[coarse] = samples(rows * columns * wide, half, on ? 1e10f : 2),
            there[coarse] = samples(rows * columns * wide, half, 2);
            estimating[coarse] = layer_of(known, outputs, plain, how, 0);
            estimators[coarse] = (Estimator){
                {&estimating[coarse], 1, samples(9 * 2 * outputs, 0, 1), samples(2, 0, 1), 2},
                wide,
                radius,
                0.6f};
        }
        if (flow_features(NULL, 1, frame, height, width, full_height, full_width, 4, first, shift,
                          0.1f, seen, levels, features, half))
            return 1;
        long finest_height = ((full_height + 1) / 2 + 1) / 2,
             finest_width = ((full_width + 1) / 2 + 1) / 2, widest = estimators[0].channels;
        Start start = {samples(widest * widest, pairs, 1), samples(widest, 0, 1), pairs, 0.05f};
        float *moved = samples(2 * finest_height * finest_width, 0, 1),
              *altered = samples(finest_height * finest_width, 0, 1);
        if (estimate_motion(NULL, 1, (const void *const *)here, (const void *const *)there, &start,
                            (int)squares, estimators, levels, 20, finest_height, finest_width,
                            on ? altered : NULL, 0.5f, moved, half))
            return 1;

        float *first_points = samples(81 * 4 * 3 * 16, 0, 1),
              *last_points = samples((pairs ? 25 * 9 : 81 * 4) * 3 * 16, pairs, 1);
        float *sixteen = samples(16, 0, 1), *both = samples(32, 0, 1);
        void *entered = samples(full_height * full_width * 16, half, 1);
        if (conv9x9_from_rgb(NULL, 1, frame, height, width, full_height, full_width, first_points,
                             sixteen, on ? sixteen : NULL, NULL, 1e-5f, both, entered, half))
            return 1;
        void *drawn = samples(full_height * full_width * 16, half, 3);
        float *shown = samples(3 * height * width, 0, 1);
        if (conv9x9_to_rgb(NULL, 1, drawn, full_height, full_width, on ? both : NULL, last_points,
                           pairs, sixteen, shown, height, width, half))
            return 1;
        void *first_tiles = samples(2 * 9 * 512, 1, 1),
             *last_tiles = samples(9 * 4 * 5 * 512, 1, 1);
        if (conv9x9_from_rgb_amx(NULL, 1, frame, height, width, full_height, full_width,
                                 first_tiles, sixteen, on ? sixteen : NULL, NULL, 1e-5f, both,
                                 entered, half) ||
            conv9x9_to_rgb_amx(NULL, 1, drawn, full_height, full_width, on ? both : NULL,
                               last_tiles, sixteen, shown, height, width, half))
            return 1;

        float *flow = samples(2 * height * width, 0, on ? 1e30f : 30),
              *unlike = samples(3 * height * width, 0, 1);
        float *blended = samples(height * width, 0, 1);
        int kept = half ? FLOAT16 : 0;
        void *before = samples(size, kept, 3), *composite = samples(size, kept, 1);
        flow[0] = 0.0f / (float)(height - height); /* not a number */
        Layer masking = layer_of(channels + 3, 16, plain, how, 0);
        Chain mask = {&masking, 1, samples(9 * 16, 0, 1), sixteen, 1};
        if (warp_residual(NULL, 1, frame, previous, flow, height, width, unlike) ||
            compose(NULL, 1, x, before, flow, frame, on ? flow : NULL, height, width, channels, on,
                    &mask, 0.5f, 0.75f, 0.5f, 0.1f, half ? 0.2f : 0, composite, blended, half,
                    kept) ||
            conv3x3(NULL, 1, composite, height, width, &layer, NULL, 0, NULL, convolved, kept,
                    half_out))
            return 1;

        /* Pictures that are planar or packed, some of them bottom up, and none of which ends with
         * what lies between its samples. */
        long bytes = from_to(1, 2), chroma_rows = n >> 6 & 1 ? height : half_up(height),
             chroma_columns = n >> 7 & 1 ? width : half_up(width);
        const float map[12] = {1, 0, 2, -1, 1, -1, -0.5f, 0, 0.3f, 0.6f, 0.1f, 0.2f};
        Plane components[3];
        void *hosts[3];
        for (long i = 0; i < 3; i++) {
            long rows_of = i ? chroma_rows : height, columns_of = i ? chroma_columns : width,
                 step = bytes * from_to(1, 4), row = columns_of * step;
            hosts[i] = malloc((rows_of - 1) * row + (columns_of - 1) * step + bytes);
            memset(hosts[i], 77, (rows_of - 1) * row + (columns_of - 1) * step + bytes);
            components[i] = on ? (Plane){(char *)hosts[i] + (rows_of - 1) * row, -row, step}
                               : (Plane){hosts[i], row, step};
        }
        float *colors = samples(3 * height * width, 0, 1);
        if (planes_to_rgb(NULL, 1, components, bytes, height, width, chroma_rows, chroma_columns,
                          half, on, on ? 255 : 1, map, colors))
            return 1;
        colors[0] = flow[0];
        if (rgb_to_planes(NULL, 1, colors, height, width, components, bytes, chroma_rows,
                          chroma_columns, half, on, map, 255, 1))
            return 1;

        void *all[] = {frame,
                       previous,
                       means,
                       changes,
                       glanced,
                       x,
                       out,
                       residual,
                       scale,
                       convolved,
                       norm,
                       (void *)chained.weight,
                       blocked,
                       drawn_planes,
                       base,
                       first,
                       shift,
                       (void *)start.weight,
                       (void *)start.bias,
                       moved,
                       altered,
                       first_points,
                       last_points,
                       first_tiles,
                       last_tiles,
                       sixteen,
                       both,
                       entered,
                       drawn,
                       shown,
                       flow,
                       before,
                       unlike,
                       composite,
                       blended,
                       (void *)mask.weight,
                       hosts[0],
                       hosts[1],
                       hosts[2],
                       colors};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]);
        forget(layer), forget(masking), forget(seen[0]);
        for (long i = 0; i < 3; i++)
            forget(layers[i]);
        for (long level = 0; level < levels; level++) {
            forget(seen[2 * level + 1]), forget(seen[2 * level + 2]), forget(estimating[level]);
            free(features[level]), free(here[level]), free(there[level]);
            free((void *)estimators[level].chain.weight),
                free((void *)estimators[level].chain.bias);
        }
    }
    printf("%ld rounds\n", rounds);
    return 0;
}
