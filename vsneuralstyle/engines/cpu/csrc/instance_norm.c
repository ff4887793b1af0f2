/* Instance normalisation: of moments the scales and shifts, and what applies them. */

#include "layers.h"

#define ROWS 8 /* of a part */

INLINE long parts_of(long rows) {
    return (rows + ROWS - 1) / ROWS;
}

INLINE long last_row(long part, long rows) {
    return (part + 1) * ROWS < rows ? (part + 1) * ROWS : rows;
}

void instance_norm_finalize(const double *sums, long parts, long channels, double count,
                            const float *weight, const float *bias, float eps, float *scale) {
    for (long c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (long part = 0; part < parts; part++) {
            sum += sums[part * 2 * channels + c];
            square += sums[(part * 2 + 1) * channels + c];
        }
        double mean = sum / count, variance = square / count - mean * mean;
        float root = __builtin_sqrtf((float)(variance > 0 ? variance : 0) + eps);
        scale[c] = (weight ? weight[c] : 1) / root;
        scale[channels + c] = (bias ? bias[c] : 0) - (float)mean * scale[c];
    }
}

typedef struct {
    const void *x, *residual;
    void *out;
    long height, width, channels;
    int dtype, relu;
    const float *scale; /* channels scales, then channels shifts; NULL: as they are */
} ScaleShift;

INLINE void scale_shift_rows(ScaleShift job, long part, int dtype) {
    long channels = job.channels;
    VecF32 least = (VecF32){0} + (job.relu ? 0 : -__builtin_inff());
    for (long pixel = part * ROWS * job.width; pixel < last_row(part, job.height) * job.width;
         pixel++)
        for (long c = 0; c < channels; c += LANES) {
            VecF32 value = load(job.x, pixel * channels + c, dtype);
            if (job.scale)
                value =
                    value * load(job.scale, c, FLOAT32) + load(job.scale, channels + c, FLOAT32);
            value = vec_max(value, least);
            if (job.residual)
                value += load(job.residual, pixel * channels + c, dtype);
            store(job.out, pixel * channels + c, value, dtype);
        }
}

static void scale_shift_chunk(const void *data, long part) {
    const ScaleShift *job = data;
    if (job->dtype)
        scale_shift_rows(*job, part, 1);
    else
        scale_shift_rows(*job, part, 0);
}

/* x (height, width, channels) -> out, of the same size.
 *
 * scale: x times the first `channels` of these plus the others; NULL: x as it is.
 * relu: what is below 0 becomes 0.
 * residual: added at the end, (height, width, channels); may be NULL. */
int scale_shift_relu_add(Fork fork, int threads, const void *x, long height, long width,
                         long channels, const float *scale, int relu, const void *residual,
                         void *out, int dtype) {
    ScaleShift job = {x, residual, out, height, width, channels, dtype, relu, scale};
    parallel_for(fork, threads, scale_shift_chunk, &job, parts_of(height));
    return 0;
}
