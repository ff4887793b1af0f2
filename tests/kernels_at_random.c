/* Calls every kernel with buffers of exactly the size that it says, at random sizes: kernels_at_random ROUNDS. test_kernels.py
 * builds it with sanitizers, which end it where a kernel reads or writes beside them. */

#include <stdio.h>

#include "kernels.h"

int colors(Fork, int, const float *, long, long, long, long, float, float, const void *, const float *, float, void *, int);
int statistics(Fork, int, const void *, long, long, long, const float *, const float *, float, float *, int);
int convolve(Fork, int, const void *, long, long, const void *, const float *, int, float *, void *, int, int);
int chain(Fork, int, const void *, long, long, const void *, long, const float *, const float *, long, float *, int);
int blocks(Fork, int, const void *, long, long, const void *, long, void *, int);
int level(Fork, int, const void *, long, long, const void *, void *, void *, int);
int enter(Fork, int, const float *, long, long, long, long, const void *, const float *, const float *, const float *, float, float *,
          void *, int);
int draw(Fork, int, const void *, long, long, const float *, const void *, int, const float *, float *, long, long, int);
int quarter(Fork, int, const float *, long, long, float *);
int change(Fork, int, const float *, const float *, long, long, float *);
int follow(Fork, int, const float *, const float *, const void *, const float *, long, long, long, int, float *, void *, int);
int blend(Fork, int, const void *, const float *, const float *, const float *, const float *, long, long, long, float, float, float, float,
           float, float *, float *, float *, int);
int few(Fork, int, const void *, long, long, long, const float *, const float *, long, float *, int);
int unexplained(Fork, int, const float *, const float *, const float *, long, long, float *);
int supported(Fork, int, const void *, long, long, float *, int);
int global_match(Fork, int, const void *, long, long, float, float *, int);
int sharpened(Fork, int, const float *, const void *, const float *, long, long, long, float *, int);
int match(Fork, int, const void *, const void *, const float *, float, long, long, long, long, void *, int);

static long from_to(long first, long last)
{
    return first + rand() % (last - first + 1);
}

/* Samples from -most to most; with `half` there are two to a float's room. */
static void *samples(long count, int half, float most)
{
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

static Layer layer_of(long inputs, long outputs, long reach, int pairs, int reflects)
{
    long each = (reach == 4 ? 49 : reach * reach) * (pairs ? (inputs + 1) / 2 * 2 : inputs) * outputs;
    return (Layer){samples(each, pairs, 1), samples(outputs, 0, 1), NULL, NULL, inputs, outputs, reach, 0.1f, 1e-4f, pairs, reflects};
}

int main(int count, char **arguments)
{
    long rounds = count > 1 ? atol(arguments[1]) : 1;
    for (long n = 0; n < rounds; n++) {
        int half = n & 1, on = n >> 1 & 1;
        long height = from_to(1, 20), width = from_to(1, 40), channels = 16 * from_to(1, 3), size = height * width * channels;
        float *frame = samples(3 * height * width, 0, 1), *previous = samples(3 * height * width, 0, 1);

        long full_height = height + from_to(0, 5), full_width = width + from_to(0, 5), pad = from_to(0, 4);
        void *halved = samples((full_height + 1) / 2 * ((full_width + 1) / 2) * 16, half, 1);
        float *first = samples(27 * 16, 0, 1), *shift = samples(16, 0, 1);
        if (colors(NULL, 1, frame, height, width, full_height, full_width, 0.5f, 4, first, shift, 0.1f, halved, half))
            return 1;

        long quarters = ((height + 3) / 4) * ((width + 3) / 4);
        float *means = samples(3 * quarters, 0, 1), *changes = samples(quarters, 0, 1);
        quarter(NULL, 1, frame, height, width, means);
        change(NULL, 1, frame, previous, height, width, changes);

        void *x = samples(size, half, 50), *out = samples((height + 2 * pad) * (width + 2 * pad) * channels, half, 1);
        void *residual = samples(size, half, 1);
        float *weight = samples(channels, 0, 1), *bias = samples(channels, 0, 1), *scale = samples(2 * channels, 0, 1);
        if (statistics(NULL, 1, x, height, width, channels, on ? weight : NULL, on ? bias : NULL, 1e-5f, scale, half))
            return 1;
        normalise(NULL, 1, x, height, width, channels, on ? scale : NULL, on, on ? residual : NULL, out, pad, half);
        long inputs = channels - from_to(0, 15), outputs = 16 * from_to(1, 4), half_out = half && !on;
        const long reaches[] = {6, 8, 4, 7};
        long reach = reaches[n >> 2 & 3];
        int pairs = reach != 8 && n >> 4 & 1;
        Layer layer = layer_of(inputs, outputs, reach, pairs, on);
        void *convolved = samples((reach == 4 ? 4 * height * width : reach == 7 ? (height + 1) / 2 * ((width + 1) / 2) : height * width) * outputs,
                                  half_out, 1);
        float *norm = samples(2 * outputs, 0, 1);
        if (convolve(NULL, 1, x, height, width, &layer, half_out ? scale : NULL, 1, on ? NULL : norm, convolved, half, half_out))
            return 1;

        /* Two for a block, of which the second goes on to others; and two of a level. */
        long plain = pairs || on ? 6 : 8, halves = ((height + 1) / 2) * ((width + 1) / 2), planes = from_to(1, 2);
        Layer layers[] = {layer_of(channels, channels, plain, pairs, on), layer_of(channels, channels, plain, pairs, 0),
                          layer_of(channels, outputs, plain, pairs, 0), layer_of(inputs, channels, 7, pairs, 0),
                          layer_of(channels, outputs, plain, pairs, 0)};
        float *last = samples(9 * planes * outputs, 0, 1), *chained = samples(planes * height * width, 0, 1);
        void *blocked = samples(size, half, 1), *raw = samples(halves * outputs, half, 1), *feature = samples(halves * outputs, half, 1);
        if (blocks(NULL, 1, x, height, width, layers, 2, blocked, half) ||
            chain(NULL, 1, x, height, width, layers, 3, last, layer.bias, planes, chained, half) ||
            level(NULL, 1, x, height, width, layers + 3, raw, feature, half))
            return 1;

        float *first_points = samples(81 * 4 * 3 * 16, 0, 1), *last_points = samples((pairs ? 25 * 9 : 81 * 4) * 3 * 16, pairs, 1);
        float *sixteen = samples(16, 0, 1), *both = samples(32, 0, 1);
        void *entered = samples(full_height * full_width * 16, half, 1);
        if (enter(NULL, 1, frame, height, width, full_height, full_width, first_points, sixteen, on ? sixteen : NULL, NULL, 1e-5f, both, entered, half))
            return 1;
        void *drawn = samples(full_height * full_width * 16, half, 3);
        float *shown = samples(3 * height * width, 0, 1);
        if (draw(NULL, 1, drawn, full_height, full_width, on ? both : NULL, last_points, pairs, sixteen, shown, height, width, half))
            return 1;

        float *flow = samples(2 * height * width, 0, on ? 1e30f : 30), *warped = samples(size, 0, 1), *before = samples(size, 0, 3);
        void *difference = samples(height * width * (channels + 16), half, 1);
        float *mask = samples(height * width, 0, 200);
        float *composite = samples(size, 0, 1), *blended = samples(height * width, 0, 1), *most = samples(height * width, 0, 1);
        flow[0] = 0.0f / (float)(height - height); /* not a number */
        follow(NULL, 1, before, flow, x, frame, height, width, channels, on, warped, difference, half);
        blend(NULL, 1, x, warped, mask, flow, on ? flow : NULL, height, width, channels, 0.5f, 0.75f, 0.5f, 0.1f, 0.2f, composite, blended, most, half);

        if (sharpened(NULL, 1, composite, x, most, height, width, channels, warped, half))
            return 1;

        long radius = from_to(2, 3), across = 2 * radius + 1;
        void *known = samples(height * width * ((across * across + channels + 2 + 15) / 16 * 16), half, 1), *there = samples(size, half, 1);
        if (match(NULL, 1, x, there, flow, 2, height, width, channels, radius, known, half))
            return 1;

        long rows = from_to(1, 6), columns = from_to(1, 9), places = rows * columns;
        float *few_weights = samples(9 * planes * channels, 0, 1), *support = samples(places * places, 0, 1), *few_out = samples(planes * height * width, 0, 1);
        float *unlike = samples(3 * height * width, 0, 1), *matched = samples(2 * places, 0, 1);
        void *scores = samples(places * places, half, on ? 1e30f : 10);
        if (few(NULL, 1, x, height, width, channels, few_weights, layer.bias, planes, few_out, half) ||
            unexplained(NULL, 1, frame, previous, flow, height, width, unlike) ||
            supported(NULL, 1, scores, rows, columns, support, half) ||
            global_match(NULL, 1, scores, rows, columns, 0.2f, matched, half))
            return 1;

        void *all[] = {few_weights, few_out, support, unlike, matched, scores, frame, previous, halved, first, shift, means, changes, x, out, residual,
                       weight, bias, scale, norm, convolved, last, chained, blocked, raw, feature, first_points, last_points, sixteen, both, entered,
                       drawn, shown, flow, warped, before, difference, mask, composite, blended, most, known, there};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]);
        Layer used[] = {layer, layers[0], layers[1], layers[2], layers[3], layers[4]};
        for (unsigned i = 0; i < sizeof used / sizeof *used; i++) {
            free((void *)used[i].weight);
            free((void *)used[i].bias);
        }
    }
    printf("%ld rounds\n", rounds);
    return 0;
}
