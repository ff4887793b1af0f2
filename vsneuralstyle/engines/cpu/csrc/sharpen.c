/* The composite sharpened where it has lost detail to resampling. */

#include "layers.h"

typedef struct {
    const void *composite, *feature;
    const float *max_gain;
    float
        *energy; /* of the composite's detail, then of the feature's, each summed over 9 in a row */
    void *out;
    long height, width, channels;
    int dtype, state_dtype;
} Sharpen;

enum { FAR = 4, STRETCH = 32 };

/* Of each channel in a column the sum of three rows' pixels, about row y. */
INLINE void sum_column(const Sharpen *job, const void *picture, long y, long x, float *sums,
                       int dtype) {
    long channels = job->channels, rows[3];
    for (long i = 0; i < 3; i++)
        rows[i] = (clamp_index(y + i - 1, job->height - 1) * job->width +
                   clamp_index(x, job->width - 1)) *
                  channels;
    for (long c = 0; c < channels; c += LANES)
        store(sums, c,
              load(picture, rows[0] + c, dtype) + load(picture, rows[1] + c, dtype) +
                  load(picture, rows[2] + c, dtype),
              FLOAT32);
}

/* From the sums of a pixel's column and of those beside it to the next pixel's: all channels of a
 * pixel are read before the next one's, as they lie in memory. */
INLINE void next_column(const Sharpen *job, const void *picture, long y, long x, float **columns,
                        int dtype) {
    float *oldest = columns[0];
    columns[0] = columns[1], columns[1] = columns[2], columns[2] = oldest;
    sum_column(job, picture, y, x + 1, oldest, dtype);
}

/* Before a row's pixels from `first` on: the columns, of which there is room for three, so that the
 * next one is that pixel's. */
INLINE void begin_columns(const Sharpen *job, const void *picture, long y, long first,
                          float *scratch, float **columns, int dtype) {
    for (long n = 0; n < 3; n++)
        columns[n] = scratch + n * job->channels;
    next_column(job, picture, y, first - 2, columns, dtype);
    next_column(job, picture, y, first - 1, columns, dtype);
}

/* A pixel's difference from the mean of the 3x3 about it. */
INLINE VecF32 detail_of(VecF32 pixel, float *const *columns, long c) {
    return pixel - (load(columns[0], c, FLOAT32) + load(columns[1], c, FLOAT32) +
                    load(columns[2], c, FLOAT32)) *
                       (1.0f / 9);
}

INLINE void energy_row(const Sharpen *job, long y, const void *picture, float *out, float *scratch,
                       int dtype) {
    long width = job->width, channels = job->channels;
    float *columns[3], *line = scratch + 3 * channels + FAR;
    begin_columns(job, picture, y, 0, scratch, columns, dtype);
    for (long first = 0; first < width; first += LANES) {
        VecF32 squares[LANES] = {0};
        for (long x = 0; x < LANES && first + x < width; x++) {
            VecF32 sum = {0};
            next_column(job, picture, y, first + x, columns, dtype);
            for (long c = 0; c < channels; c += LANES) {
                VecF32 detail = detail_of(
                    load(picture, (y * width + first + x) * channels + c, dtype), columns, c);
                sum += detail * detail;
            }
            squares[x] = sum;
        }
        store(line, first, horizontal_sums(squares), FLOAT32);
    }
    for (long n = 1; n <= FAR; n++) {
        line[-n] = line[0];
        line[width - 1 + n] = line[width - 1];
    }
    for (long x = 0; x < width; x++) {
        float sum = 0;
        for (long n = -FAR; n <= FAR; n++)
            sum += line[x + n];
        out[y * width + x] = sum;
    }
}

static void energy_chunk(const void *data, long y, float *scratch) {
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
    float *theirs = job->energy + job->height * job->width;
    if (job->state_dtype)
        energy_row(job, y, job->composite, job->energy, scratch, FLOAT16);
    else
        energy_row(job, y, job->composite, job->energy, scratch, 0);
    if (job->dtype)
        energy_row(job, y, job->feature, theirs, scratch, 1);
    else
        energy_row(job, y, job->feature, theirs, scratch, 0);
}

INLINE void sharpen_row(const Sharpen *job, long y, float *scratch, int state_dtype) {
    long width = job->width, plane = job->height * width, channels = job->channels;
    for (long first = 0; first < width; first += STRETCH) {
        long count = remaining(first, width, STRETCH);
        float ours[STRETCH] = {0}, theirs[STRETCH] = {0}, gain[STRETCH], largest = 0;
        for (long n = -FAR; n <= FAR; n++) {
            const float *energy = job->energy + clamp_index(y + n, job->height - 1) * width + first;
            for (long x = 0; x < count; x++) {
                ours[x] += energy[x];
                theirs[x] += energy[plane + x];
            }
        }
        for (long x = 0; x < count; x++) {
            float all = 9 * 9 * (float)channels,
                  more = __builtin_sqrtf(theirs[x] / all / (ours[x] / all + 1e-6f)) - 1;
            gain[x] = clamp_float(more, 0, job->max_gain[y * width + first + x]);
            largest = max_float(gain[x], largest);
        }
        long at = (y * width + first) * channels;
        if (largest == 0) {
            long size = sample_size(state_dtype);
            memcpy((char *)job->out + at * size, (const char *)job->composite + at * size,
                   count * channels * size);
            continue;
        }
        float *columns[3];
        begin_columns(job, job->composite, y, first, scratch, columns, state_dtype);
        for (long x = 0; x < count; x++) {
            next_column(job, job->composite, y, first + x, columns, state_dtype);
            for (long c = 0; c < channels; c += LANES, at += LANES) {
                VecF32 pixel = load(job->composite, at, state_dtype);
                store(job->out, at, pixel + gain[x] * detail_of(pixel, columns, c), state_dtype);
            }
        }
    }
}

static void sharpen_chunk(const void *data, long y, float *scratch) {
    const Sharpen copy = *(const Sharpen *)data, *job = &copy;
    if (job->state_dtype)
        sharpen_row(job, y, scratch, FLOAT16);
    else
        sharpen_row(job, y, scratch, 0);
}

/* `Net1.sharpened`: composite (height, width, channels), most (height, width) float32, feature like
 * the composite -> out, like the composite. state_dtype: of composite and out. */
int sharpen_composite(Fork fork, int threads, const void *composite, const void *feature,
                      const float *max_gain, long height, long width, long channels, void *out,
                      int dtype, int state_dtype) {
    float *energy = malloc(2 * height * width * sizeof *energy);
    if (!energy)
        return -1;
    Sharpen job = {composite, feature, max_gain, energy, out,
                   height,    width,   channels, dtype,  state_dtype};
    int result = parallel_for_scratch(fork, threads, energy_chunk, &job, height,
                                      3 * channels + FAR + padded_channels(width) + FAR);
    if (!result)
        result = parallel_for_scratch(fork, threads, sharpen_chunk, &job, height, 3 * channels);
    free(energy);
    return result;
}
