/* The scene descriptor, which the detector of scene cuts compares. */

#include "simd.h"

enum { THUMBNAIL = THUMBNAIL_ROWS * THUMBNAIL_COLUMNS, STRUCTURE = THUMBNAIL / 4 };

typedef struct {
    const float *lowres;
    float *thumbnail;
    double *squares; /* the mean square of what is in each of its pixels */
    long height, width;
} SceneDescriptor;

/* A row of a color of the thumbnail: means of what lies in each of its pixels, in whole or in part.
 */
static void thumbnail_chunk(const void *data, long part) {
    const SceneDescriptor *job = data;
    long y = part % THUMBNAIL_ROWS, color = part / THUMBNAIL_ROWS;
    long top = y * job->height / THUMBNAIL_ROWS,
         bottom = ((y + 1) * job->height + THUMBNAIL_ROWS - 1) / THUMBNAIL_ROWS;
    for (long x = 0; x < THUMBNAIL_COLUMNS; x++) {
        long left = x * job->width / THUMBNAIL_COLUMNS,
             right = ((x + 1) * job->width + THUMBNAIL_COLUMNS - 1) / THUMBNAIL_COLUMNS;
        double sum = 0, square = 0, count = (double)((bottom - top) * (right - left));
        for (long row = top; row < bottom; row++)
            for (long column = left; column < right; column++) {
                double value = job->lowres[(color * job->height + row) * job->width + column];
                sum += value;
                square += value * value;
            }
        job->thumbnail[part * THUMBNAIL_COLUMNS + x] = (float)(sum / count);
        job->squares[part * THUMBNAIL_COLUMNS + x] = square / count;
    }
}

/* A color's structure about its mean, and histogram, each sample shared between its two nearest
 * bins. */
static void describe_color(const float *thumbnail, float *structure, float *histogram) {
    double mean = 0, counts[BINS + 1] = {0};
    for (long n = 0; n < STRUCTURE; n++) {
        const float *from = thumbnail + n / (THUMBNAIL_COLUMNS / 2) * 2 * THUMBNAIL_COLUMNS +
                            n % (THUMBNAIL_COLUMNS / 2) * 2;
        structure[n] =
            (from[0] + from[1] + from[THUMBNAIL_COLUMNS] + from[THUMBNAIL_COLUMNS + 1]) / 4;
        mean += structure[n] / (double)STRUCTURE;
        float at = clamp_float(structure[n], 0, 1) * (BINS - 1);
        long bin = (long)at;
        counts[bin] += 1 - (at - (float)bin);
        counts[bin + 1] += at - (float)bin;
    }
    for (long n = 0; n < STRUCTURE; n++)
        structure[n] -= (float)mean;
    for (long bin = 0; bin < BINS; bin++)
        histogram[bin] = (float)(counts[bin] / STRUCTURE);
}

/* `scene_descriptor.glimpse`: a quarter (3, height, width) float32 -> its structure (3, 18, 32),
 * histograms (3, 16), the structure's squared length, the thumbnail (3, 36, 64), and the contrast.
 */
int scene_descriptor(Fork fork, int threads, const float *lowres, long height, long width,
                     float *out) {
    float *histograms = out + COLORS * STRUCTURE, *length = histograms + COLORS * BINS,
          *thumbnail = length + 1;
    double *squares = malloc(COLORS * THUMBNAIL * sizeof *squares), sum = 0, variance = 0;
    if (!squares)
        return -1;
    SceneDescriptor job = {lowres, thumbnail, squares, height, width};
    parallel_for(fork, threads, thumbnail_chunk, &job, COLORS * THUMBNAIL_ROWS);
    for (long color = 0; color < COLORS; color++) {
        double mean = 0, square = 0;
        for (long n = color * THUMBNAIL; n < (color + 1) * THUMBNAIL; n++) {
            mean += thumbnail[n] / (double)THUMBNAIL;
            square += squares[n] / THUMBNAIL;
        }
        variance += (square - mean * mean) / COLORS;
        describe_color(thumbnail + color * THUMBNAIL, out + color * STRUCTURE,
                       histograms + color * BINS);
    }
    free(squares);
    for (long n = 0; n < COLORS * STRUCTURE; n++)
        sum += (double)out[n] * out[n];
    *length = (float)sum;
    thumbnail[COLORS * THUMBNAIL] = variance > 0 ? (float)__builtin_sqrt(variance) : 0;
    return 0;
}
