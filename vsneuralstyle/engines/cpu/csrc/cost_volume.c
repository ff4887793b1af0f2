/* What a level of LitePWCNet's estimator sees: the cost volume, the feature, the flow. */

#include "flow.h"

enum { MAX_DISPLACEMENTS = 64, MAX_ACROSS = 7 }; /* 49, to the next multiple of LANES */

typedef struct {
    const void *here, *there;
    const float *flow;
    void *estimator_input;
    long height, width, channels, radius;
    float pixels;
    int dtype;
} CostVolume;

INLINE long
line_of(long width,
        long radius) /* samples of a warped row's channel, with what is beside the feature map */
{
    return padded_lanes(width) + padded_lanes(2 * radius);
}

/* Whether costs are of pairs of bfloat16: where samples are, and the CPU multiplies them. */
INLINE int paired(int dtype) {
#if defined(__AVX512BF16__)
    return dtype;
#else
    return dtype & 0;
#endif
}

/* LANES vectors, of a channel of each pixel -> words of LANES pixels, float32, or pairs of bfloat16
 * of two channels: lines of them, `line` apart. */
INLINE void store_channels(uint32_t *words, long line, VecF32 *pixels, int dtype) {
    transpose(pixels);
    for (long lane = 0; lane < LANES; lane += paired(dtype) ? 2 : 1)
        if (paired(dtype))
            store_words(words + lane / 2 * line, pair_up(pixels[lane], pixels[lane + 1]));
        else
            store(words, lane * line, pixels[lane], FLOAT32);
}

/* Row y of `there` along the flow -> warped (words of channels, line_of(width, radius)): in a line
 * `radius` times 0, the samples, and 0; beyond the feature map all is. */
INLINE void warp_row(const CostVolume *job, long y, uint32_t *warped, int dtype) {
    long width = job->width, channels = job->channels, line = line_of(width, job->radius),
         words = paired(dtype) ? 2 : 1;
    memset(warped, 0, channels / words * line * sizeof *warped);
    if (y < 0 || y >= job->height)
        return;
    for (long first = 0; first < width; first += LANES) {
        long count = remaining(first, width, LANES);
        FlowTaps places;
        PixelTaps each[LANES];
        taps_along_flow(&places, job->flow, job->pixels, y, first, job->height, width, 0);
        for (long n = 0; n < count; n++)
            pixel_taps(&each[n], &places, n, 2, width, channels);
        for (long c = 0; c < channels; c += LANES) {
            VecF32 there[LANES];
            for (long n = count; n < LANES; n++)
                there[n] = (VecF32){0};
            for (long n = 0; n < count; n++)
                there[n] = sample_taps(job->there, &each[n], 2, c, dtype);
            store_channels(warped + c / words * line + job->radius + first, line, there, dtype);
        }
    }
}

/* LANES pixels of a row of `here` from `first` on -> own (words of channels, LANES). */
INLINE void gather(const CostVolume *job, long y, long first, uint32_t *own, int dtype) {
    long count = remaining(first, job->width, LANES), start = y * job->width + first,
         words = paired(dtype) ? 2 : 1;
    for (long c = 0; c < job->channels; c += LANES) {
        VecF32 here[LANES];
        for (long n = 0; n < LANES; n++)
            here[n] =
                n < count ? load(job->here, (start + n) * job->channels + c, dtype) : (VecF32){0};
        store_channels(own + c / words * LANES, LANES, here, dtype);
    }
}

/* warped: of each row of the window about y what `warp_row` made of it. own: room for (words of
 * channels, LANES). */
INLINE void volume_row(const CostVolume *job, long y, uint32_t *const *warped, uint32_t *own,
                       long radius, int dtype) {
    long channels = job->channels, across = 2 * radius + 1, volume = across * across,
         all = estimator_channels(channels, radius);
    long plane = job->height * job->width, line = line_of(job->width, radius);
    for (long first = 0; first < job->width; first += LANES) {
        VecF32 values[MAX_DISPLACEMENTS]; /* = {0} would be a call's worth of time, for each few
                                              pixels */
        for (long n = volume; n < MAX_DISPLACEMENTS && n % LANES; n++)
            values[n] = (VecF32){0};
        gather(job, y, first, own, dtype);
        for (long dy = 0; dy < across; dy++) {
            VecF32 sums[MAX_ACROSS];
            for (long dx = 0; dx < across; dx++)
                sums[dx] = (VecF32){0};
            for (long c = 0; c < (paired(dtype) ? channels / 2 : channels); c++) {
                VecU32 here = load_words(own + c * LANES);
                for (long dx = 0; dx < across; dx++)
                    sums[dx] =
                        dot_lanes(sums[dx], here, load_words(warped[dy] + c * line + first + dx),
                                  paired(dtype));
            }
            for (long dx = 0; dx < across; dx++) {
                VecF32 product = sums[dx] * (1 / (float)channels);
                values[dy * across + dx] = vec_max(product, product * 0.1f);
            }
        }
        for (long n = 0; n < volume; n += LANES)
            transpose(values + n);
        for (long x = first; x < first + LANES && x < job->width; x++) {
            /* Vectors tile_size into what is written next, but for a row's last pixel, since
             * another worker may be at the next row. */
            long at = y * job->width + x, size = dtype ? 2 : 4, next = at * all + volume;
            for (long n = 0; n < volume; n += LANES)
                store(job->estimator_input, at * all + n, values[n + x - first], dtype);
            for (long c = 0; c < channels; c += LANES, next += LANES)
                memcpy((char *)job->estimator_input + next * size,
                       (const char *)job->here + (at * channels + c) * size, LANES * size);
            VecF32 flow = {job->flow[at], job->flow[plane + at]};
            if (x + 1 < job->width)
                for (long n = 0; n < 16; n += LANES)
                    store(job->estimator_input, next + n, n ? (VecF32){0} : flow, dtype);
            else
                for (long n = 0; next + n < (at + 1) * all; n++)
                    store_one(job->estimator_input, next + n, n < 2 ? flow[n] : 0, dtype);
        }
    }
}

/* A row, and of those about it what the worker's ring of warped rows hasn't. Which it has its first
 * samples say, counted from 1 on: 0 is none. */
INLINE void cost_volume_row(const CostVolume *job, long y, float *scratch, long radius, int dtype) {
    long across = 2 * radius + 1, channels = paired(dtype) ? job->channels / 2 : job->channels,
         size = channels * line_of(job->width, radius);
    uint32_t *own = (uint32_t *)scratch + SCRATCH_HEADER, *ring = own + channels * LANES,
             *warped[MAX_ACROSS];
    for (long dy = 0; dy < across; dy++) {
        long row = y + dy - radius, place = (row + across) % across;
        warped[dy] = ring + place * size;
        if (scratch[place] != (float)(row + across)) {
            warp_row(job, row, warped[dy], dtype);
            scratch[place] = (float)(row + across);
        }
    }
    volume_row(job, y, warped, own, radius, dtype);
}

static void cost_volume_chunk(const void *data, long y, float *scratch) {
    const CostVolume copy = *(const CostVolume *)data, *job = &copy;
    switch (job->radius * 2 + job->dtype) {
    case 4:
        cost_volume_row(job, y, scratch, 2, 0);
        break;
    case 5:
        cost_volume_row(job, y, scratch, 2, 1);
        break;
    case 6:
        cost_volume_row(job, y, scratch, 3, 0);
        break;
    case 7:
        cost_volume_row(job, y, scratch, 3, 1);
        break;
    }
}

/* What a level's estimator sees: here and there (height, width, channels), flow (2, height, width)
 * float32, of which 1 is `pixels` pixels of this level -> known (height, width, known_channels):
 * the cost volume of here with there sampled along the flow, through a leaky ReLU, here, the flow,
 * and 0. radius: 2 or 3. */
int cost_volume(Fork fork, int threads, const void *here, const void *there, const float *flow,
                float pixels, long height, long width, long channels, long radius,
                void *estimator_input, int dtype) {
    CostVolume job = {here,  there,    flow,   estimator_input, height,
                      width, channels, radius, pixels,          dtype};
    return parallel_for_scratch(fork, threads, cost_volume_chunk, &job, height,
                                SCRATCH_HEADER +
                                    channels * (LANES + (2 * radius + 1) * line_of(width, radius)));
}
