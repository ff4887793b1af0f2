/* LitePWCNet between its features and its flow: litepwcnet.py says what it does. */

#include "flow.h"

enum { MAX_LEVELS = 8 };

typedef struct {
    const float *flow;
    float *out;
    long rows, columns, height, width; /* of the flow; of what comes out */
} Upsample2;

/* A row of a plane: of its two nearest rows and columns three quarters of the nearer one's, the
 * border repeated. line: room for columns + 2. */
static void upsample2_chunk(const void *data, long part, float *line) {
    const Upsample2 copy = *(const Upsample2 *)data, *job = &copy;
    long columns = job->columns, y = part % job->height, near = y / 2,
         far = clamp_index(y % 2 ? near + 1 : near - 1, job->rows - 1);
    const float *plane = job->flow + part / job->height * job->rows * columns,
                *nearer = plane + near * columns, *further = plane + far * columns;
    for (long x = 0; x < columns; x++)
        line[x + 1] = 0.75f * nearer[x] + 0.25f * further[x];
    line[0] = line[1];
    line[columns + 1] = line[columns];
    float *to = job->out + part * job->width;
    for (long x = 0; x < job->width; x++) {
        long at = x / 2 + 1;
        to[x] = 0.75f * line[at] + 0.25f * line[x % 2 ? at + 1 : at - 1];
    }
}

/* flow (2, rows, columns) -> twice that size, bilinear, of which out (2, height, width) is the
 * upper left. */
static int upsample2(Fork fork, int threads, const float *flow, long rows, long columns, float *out,
                     long height, long width) {
    Upsample2 job = {flow, out, rows, columns, height, width};
    return parallel_for_scratch(fork, threads, upsample2_chunk, &job, 2 * height, columns + 2);
}

/* `LitePWCNet._refined`: from start (2, rows, columns), which is of the coarsest level's size or
 * half of that, rounded up, by each of the estimators, one for each of the levels, the coarsest
 * first, whose features are here and there -> flow (2, height, width), the finest's size. heights,
 * widths: of the levels. */
static int decode_flow(Fork fork, int threads, const float *start, long rows, long columns,
                       const void *const *here, const void *const *there,
                       const Estimator *estimator, long levels, const long *heights,
                       const long *widths, float *flow, int dtype) {
    long most = 0;
    for (long n = 0; n < levels; n++)
        most = max_long(most, heights[n] * widths[n] *
                                  estimator_channels(estimator[n].channels, estimator[n].radius));
    long planes = padded_floats(2 * heights[levels - 1] * widths[levels - 1], 0);
    float *scratch = alloc_floats(2 * planes + padded_floats(most, dtype)), *enlarged = scratch,
          *last = scratch + planes, *seen = last + planes;
    int result = scratch ? 0 : -1;
    for (long n = 0; n < levels && !result; n++) {
        const Estimator own = estimator[n];
        const float *from = n ? last : start;
        if (rows == heights[n] && columns == widths[n] && !n)
            memcpy(enlarged, from, 2 * rows * columns * sizeof *from);
        else
            result = upsample2(fork, threads, from, rows, columns, enlarged, heights[n], widths[n]);
        rows = heights[n], columns = widths[n];
        if (!result)
            result = cost_volume(fork, threads, here[n], there[n], enlarged, own.pixels, rows,
                                 columns, own.channels, own.radius, seen, dtype);
        if (!result)
            result = conv3x3_chain(fork, threads, seen, rows, columns, &own.chain, enlarged,
                                   n + 1 < levels ? last : flow, dtype);
    }
    free(scratch);
    return result;
}

/* LitePWCNet's flow between the features of two frames, in pixels of the frame, and 0 where the
 * change, (height, width), is not above `still`; where it is so everywhere, as between frames that
 * a codec's noise alone tells apart, nothing is computed. The features are of each of the levels,
 * the coarsest first; height and width are the finest's. change: may be NULL. flow: (2, height,
 * width) float32. */
int estimate_motion(Fork fork, int threads, const void *const *here, const void *const *there,
                    const void *start, int squares, const void *estimators, long levels,
                    float pixels, long height, long width, const float *change, float still,
                    float *flow, int dtype) {
    const Estimator *estimator = estimators;
    long heights[MAX_LEVELS], widths[MAX_LEVELS], plane = height * width, changed = !change;
    for (long n = 0; n < plane && !changed; n++)
        changed = change[n] > still;
    if (!changed) {
        memset(flow, 0, 2 * plane * sizeof *flow);
        return 0;
    }
    for (long n = levels - 1, y = height, x = width; n >= 0; n--, y = half_up(y), x = half_up(x))
        heights[n] = y, widths[n] = x;
    long rows = squares ? half_up(heights[0]) : heights[0],
         columns = squares ? half_up(widths[0]) : widths[0], started = 2 * rows * columns;
    float *first = alloc_floats(padded_floats(started, 0));
    int result = first ? 0 : -1;
    if (!result)
        result = global_flow(fork, threads, here[0], there[0], heights[0], widths[0],
                             estimator->channels, start, squares, first, dtype);
    for (long n = 0; n < started && !result; n++)
        first[n] *= (squares ? 2 : 1) / estimator->pixels;
    if (!result)
        result = decode_flow(fork, threads, first, rows, columns, here, there, estimator, levels,
                             heights, widths, flow, dtype);
    for (long n = 0; n < 2 * plane && !result; n++)
        flow[n] = change && !(change[n % plane] > still) ? 0 : flow[n] * pixels;
    free(first);
    return result;
}
