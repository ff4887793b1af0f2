/* Calls every kernel with buffers of exactly the size that it says, at random sizes: kernels_at_random ROUNDS. test_kernels.py
 * builds it with sanitizers, which end it where a kernel reads or writes beside them. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*Fork)(void (*)(void *), void *, unsigned, unsigned);
void pack(Fork, int, const float *, long, long, long, long, long, float, float, void *, int);
int normalise(Fork, int, const void *, long, long, long, int, int, const float *, const float *, float, int, const void *, long,
              void *, long, int);
void picture(Fork, int, const void *, long, long, float *, long, long, int);
void quarter(Fork, int, const float *, long, long, float *);
void change(Fork, int, const float *, const float *, long, long, float *);
void follow(Fork, int, const float *, const float *, const void *, const float *, long, long, long, int, float *, void *, int);
void blend(Fork, int, const void *, const float *, const void *, const float *, const float *, long, long, long, float, float, float,
           float, float *, float *, int);
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

int main(int count, char **arguments)
{
    long rounds = count > 1 ? atol(arguments[1]) : 1;
    for (long n = 0; n < rounds; n++) {
        int half = n & 1, on = n >> 1 & 1;
        long height = from_to(1, 20), width = from_to(1, 40), channels = 16 * from_to(1, 3), size = height * width * channels;
        float *frame = samples(3 * height * width, 0, 1), *previous = samples(3 * height * width, 0, 1);

        long full_height = height + from_to(0, 5), full_width = width + from_to(0, 5), pad = from_to(0, 4);
        void *packed = samples((full_height + 2 * pad) * (full_width + 2 * pad) * 3, half, 1);
        pack(NULL, 1, frame, height, width, full_height, full_width, pad, 0.5f, 4, packed, half);

        long quarters = ((height + 3) / 4) * ((width + 3) / 4);
        float *means = samples(3 * quarters, 0, 1), *changes = samples(quarters, 0, 1);
        quarter(NULL, 1, frame, height, width, means);
        change(NULL, 1, frame, previous, height, width, changes);

        void *x = samples(size, half, 50), *out = samples((height + 2 * pad) * (width + 2 * pad) * channels, half, 1);
        void *residual = samples((height + 2) * (width + 2) * channels, half, 1);
        float *weight = samples(channels, 0, 1), *bias = samples(channels, 0, 1);
        if (normalise(NULL, 1, x, height, width, channels, 0, 1, on ? weight : NULL, on ? bias : NULL, 1e-5f, on, on ? residual : NULL,
                      1, out, pad, half))
            return 1;
        void *corners = samples((height + 1) * (width + 1) * 4 * channels, half, 5);
        void *enlarged = samples((2 * height + 2 * pad) * (2 * width + 2 * pad) * channels, half, 1);
        if (normalise(NULL, 1, corners, 2 * height, 2 * width, channels, 1, on, weight, bias, 1e-5f, 1, NULL, 0, enlarged, pad, half))
            return 1;

        long rows = 2 * height, columns = 4 * width, cut = from_to(0, 3);
        void *blocks = samples(3 * rows * columns, half, 100);
        float *shown = samples(3 * (rows - cut % 2) * (columns - cut), 0, 1);
        picture(NULL, 1, blocks, rows, columns, shown, rows - cut % 2, columns - cut, half);

        float *flow = samples(2 * height * width, 0, on ? 1e30f : 30), *warped = samples(size, 0, 1), *before = samples(size, 0, 3);
        void *difference = samples(height * width * (channels + 3), half, 1), *mask = samples(height * width, half, 200);
        float *composite = samples(size, 0, 1), *blended = samples(height * width, 0, 1);
        flow[0] = 0.0f / (float)(height - height); /* not a number */
        follow(NULL, 1, before, flow, x, frame, height, width, channels, on, warped, difference, half);
        blend(NULL, 1, x, warped, mask, flow, on ? flow : NULL, height, width, channels, 0.5f, 0.75f, 0.5f, 0.1f, composite, blended, half);

        long radius = from_to(2, 3), across = 2 * radius + 1;
        void *known = samples(height * width * (across * across + channels + 2), half, 1), *there = samples(size, half, 1);
        if (match(NULL, 1, x, there, flow, 2, height, width, channels, radius, known, half))
            return 1;

        void *all[] = {frame, previous, packed, means, changes, x, out, residual, weight, bias, corners, enlarged, blocks, shown, flow,
                       warped, before, difference, mask, composite, blended, known, there};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]);
    }
    printf("%ld rounds\n", rounds);
    return 0;
}
