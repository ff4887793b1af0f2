/* Where LitePWCNet starts from: every place against every other. */

#include "common.cuh"

struct AggregateCosts {
    const Half *scores; /* (height, width, height, width) */
    Half *out;
    int height, width;
};

/* A thread goes along a row of the first frame and a row of the second, one of their diagonals, and
 * has the last columns' sums at hand. */
KERNEL(aggregate_costs, AggregateCosts) {
    const int width = job.width, height = job.height, y = blockIdx.y, v = blockIdx.z;
    const int apart = (int)(blockIdx.x * blockDim.x + threadIdx.x) - width + 1; /* of the columns */
    const int first = max(0, -apart), end = min(width, width - apart);
    const int before = min(min(y, v), AGGREGATION_RADIUS),
              after = min(height - 1 - max(y, v), AGGREGATION_RADIUS);
    const Long places = height * width;
    float sums[2 * AGGREGATION_RADIUS + 1] = {};
    for (int last = first; apart < width && last < end + AGGREGATION_RADIUS; last++) {
        for (int n = 0; n < 2 * AGGREGATION_RADIUS; n++)
            sums[n] = sums[n + 1];
        sums[2 * AGGREGATION_RADIUS] = 0;
        if (last < end)
            for (int d = -before; d <= after; d++)
                sums[2 * AGGREGATION_RADIUS] += half_to_float(
                    job.scores[((y + d) * width + last) * places + (v + d) * width + last + apart]);
        const int x = last - AGGREGATION_RADIUS;
        if (x < first)
            continue;
        float total = 0;
        for (int n = 0; n <= 2 * AGGREGATION_RADIUS; n++)
            total += sums[n];
        const int count = (before + after + 1) * (min(x - first, AGGREGATION_RADIUS) +
                                                  min(end - 1 - x, AGGREGATION_RADIUS) + 1);
        job.out[(y * width + x) * places + v * width + x + apart] =
            float_to_half(total / (float)count);
    }
}

struct SoftmaxColumns {
    const Half *scores; /* (places, places) */
    float *most; /* (2, places): of each column the largest, and the sum of exp(score - largest) */
    int places;
};

/* One score more of a softmax: the largest so far, and the sum of exp(score - largest). Whether it
 * is the largest. */
__device__ static bool add_to_softmax(float score, float *most, float *sum) {
    const bool larger = score > *most;
    if (larger) {
        *sum *= expf(*most - score);
        *most = score;
    }
    *sum += expf(score - *most);
    return larger;
}

enum { ROWS_APART = 16 };

/* A block is ABREAST columns, ROWS_APART threads each. */
KERNEL(softmax_columns, SoftmaxColumns) {
    float *shared = (float *)memory; /* (2, ROWS_APART, ABREAST) */
    const int lane = threadIdx.x % WARP_SIZE, slice = threadIdx.x / WARP_SIZE,
              column = blockIdx.x * WARP_SIZE + lane;
    float most = -1e30f, sum = 0;
    if (column < job.places)
        for (int row = slice; row < job.places; row += ROWS_APART)
            add_to_softmax(half_to_float(job.scores[(Long)row * job.places + column]), &most, &sum);
    shared[slice * WARP_SIZE + lane] = most;
    shared[(ROWS_APART + slice) * WARP_SIZE + lane] = sum;
    __syncthreads();
    if (slice || column >= job.places)
        return;
    for (int n = 1; n < ROWS_APART; n++)
        most = fmaxf(most, shared[n * WARP_SIZE + lane]);
    sum = 0;
    for (int n = 0; n < ROWS_APART; n++)
        sum +=
            shared[(ROWS_APART + n) * WARP_SIZE + lane] * expf(shared[n * WARP_SIZE + lane] - most);
    job.most[column] = most;
    job.most[job.places + column] = sum;
}

struct GlobalMatch {
    const Half *scores;
    const float *most; /* of the columns */
    float *flow;       /* (2, height, width) */
    int height, width;
    float confidence;
};

/* A block a place of the first frame: the mean place in the 3x3 about the best match. */
KERNEL(global_match, GlobalMatch) {
    float *shared = (float *)memory; /* (3, threads): the largest scores, where they are, sums */
    const int places = job.height * job.width, here = blockIdx.x, thread = threadIdx.x,
              threads = blockDim.x;
    const Half *scores = job.scores + (Long)here * places;
    float most = -1e30f, sum = 0;
    int best = 0;
    for (int n = thread; n < places; n += threads)
        if (add_to_softmax(half_to_float(scores[n]), &most, &sum))
            best = n;
    int *bests = (int *)(shared + threads);
    shared[thread] = most;
    bests[thread] = best;
    shared[2 * threads + thread] = sum;
    /* Half of the threads' to the other half, until one has all. */
    for (int half = threads / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) {
            const int other = thread + half;
            const float theirs = shared[other], larger = fmaxf(most, theirs);
            if (theirs > most || (theirs == most && bests[other] < best))
                best = bests[other];
            sum = sum * expf(most - larger) + shared[2 * threads + other] * expf(theirs - larger);
            most = larger;
            shared[thread] = most;
            bests[thread] = best;
            shared[2 * threads + thread] = sum;
        }
    }
    if (thread)
        return;
    float all = 0, to_x = 0, to_y = 0;
    const int column = best % job.width, row = best / job.width;
    for (int y = row - 1; y <= row + 1; y++)
        for (int x = column - 1; x <= column + 1; x++)
            if (y >= 0 && y < job.height && x >= 0 && x < job.width) {
                const float weight = expf(half_to_float(scores[y * job.width + x]) - most);
                all += weight;
                to_x += weight * (float)x;
                to_y += weight * (float)y;
            }
    /* The dual softmax: of the best match, whose own score is the row's largest. */
    const int confidence =
        expf(most - job.most[best]) / (sum * job.most[places + best]) > job.confidence;
    job.flow[here] = confidence ? to_x / all - (float)(here % job.width) : 0;
    job.flow[places + here] = confidence ? to_y / all - (float)(here / job.width) : 0;
}
