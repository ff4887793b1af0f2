/* What warping leaves unexplained of the source. */

#include "resample.h"

typedef struct {
    const float *lowres, *previous, *flow;
    float *out;
    long height, width;
} WarpResidual;

static void warp_residual_chunk(const void *data, long y) {
    const WarpResidual *job = data;
    long plane = job->height * job->width;
    for (long first = 0; first < job->width; first += LANES) {
        FlowTaps places;
        taps_along_flow(&places, job->flow, 1.0f / STRIDE, y, first, job->height, job->width, 0);
        for (long n = 0; n < remaining(first, job->width, LANES); n++) {
            PixelTaps place;
            pixel_taps(&place, &places, n, 2, job->width, 1);
            for (long c = 0; c < 3; c++) {
                const float *upper = job->previous + c * plane + place.rows[0],
                            *lower = job->previous + c * plane + place.rows[1];
                float above = place.column_weights[0] * upper[place.columns[0]] +
                              place.column_weights[1] * upper[place.columns[1]];
                float below = place.column_weights[0] * lower[place.columns[0]] +
                              place.column_weights[1] * lower[place.columns[1]];
                long at = c * plane + y * job->width + first + n;
                job->out[at] = __builtin_fabsf(job->lowres[at] - (place.row_weights[0] * above +
                                                                  place.row_weights[1] * below));
            }
        }
    }
}

/* Two frames at quarter resolution (3, height, width) float32, flow (2, height, width) float32 in
 * pixels of the frame -> (3, height, width): what the second, sampled along the flow, leaves
 * unexplained of the first. */
int warp_residual(Fork fork, int threads, const float *lowres, const float *previous,
                  const float *flow, long height, long width, float *out) {
    WarpResidual job = {lowres, previous, flow, out, height, width};
    parallel_for(fork, threads, warp_residual_chunk, &job, height);
    return 0;
}
