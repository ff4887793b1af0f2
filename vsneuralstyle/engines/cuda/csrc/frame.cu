/* A frame at quarter resolution, its mean, and how two of them differ. */

#include "resample.cuh"

struct BlockMaxChange {
    const float *frame, *previous; /* (3, height, width) */
    float *out; /* (rows, columns): the largest change of a sample in each square of 4x4 */
    int height, width, rows, columns;
};

KERNEL(block_max_change, BlockMaxChange) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || row >= job.rows)
        return;
    float most = 0;
    for (int color = 0; color < 3; color++)
        for (int i = 0; i < STRIDE && row * STRIDE + i < job.height; i++) {
            const Long line = ((Long)color * job.height + row * STRIDE + i) * job.width;
            for (int x = column * STRIDE; x < column * STRIDE + STRIDE && x < job.width; x++)
                most = fmaxf(most, fabsf(job.frame[line + x] - job.previous[line + x]));
        }
    job.out[(Long)row * job.columns + column] = most;
}

struct Downsample4 {
    const float *frame; /* (3, height, width) */
    float *out; /* (3, rows, columns): the mean of each square of 4x4, of what there is of it at the
                   border */
    int height, width, rows, columns;
};

KERNEL(downsample4, Downsample4) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y, color = blockIdx.z;
    if (column >= job.columns || row >= job.rows)
        return;
    const int y = row * STRIDE, x = column * STRIDE;
    const int down = job.height - y < STRIDE ? job.height - y : STRIDE,
              across = job.width - x < STRIDE ? job.width - x : STRIDE;
    const float *from = job.frame + ((Long)color * job.height + y) * job.width + x;
    float sum = 0;
    for (int i = 0; i < down; i++, from += job.width) {
        if (job.width % STRIDE == 0) {
            const Float4 four = *(const Float4 *)from;
            sum += (four.values[0] + four.values[1]) + (four.values[2] + four.values[3]);
        } else {
            for (int j = 0; j < across; j++)
                sum += from[j];
        }
    }
    job.out[((Long)color * job.rows + row) * job.columns + column] = sum / (float)(down * across);
}

/* A block's sum, for its first thread: of a power of 2 threads, in shared memory for a number each.
 */
__device__ static float block_sum(float number) {
    float *shared = (float *)memory;
    shared[threadIdx.x] = number;
    for (int half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

struct FrameSum {
    const float *frame; /* (3, height, width) */
    float *sums;        /* (blocks,) */
    int height, width;
    int full_height, full_width; /* to which its border is repeated, multiples of 4 */
};

/* A block has every so many-th row, a thread every so many-th four of its pixels. */
KERNEL(frame_sum, FrameSum) {
    float sum[UNROLL] = {};
    for (int row = blockIdx.x; row < 3 * job.full_height; row += gridDim.x) {
        const int color = row / job.full_height, y = clamp(row % job.full_height, job.height - 1);
        const float *from = job.frame + ((Long)color * job.height + y) * job.width;
        for (int x = UNROLL * threadIdx.x; x < job.full_width; x += UNROLL * blockDim.x) {
            if (job.width % UNROLL == 0) {
                const Float4 four = *(const Float4 *)(from + x);
                for (int n = 0; n < UNROLL; n++)
                    sum[n] += four.values[n];
            } else {
                for (int n = 0; n < UNROLL && x + n < job.full_width; n++)
                    sum[n] += from[clamp(x + n, job.width - 1)];
            }
        }
    }
    const float total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (!threadIdx.x)
        job.sums[blockIdx.x] = total;
}

struct FrameMean {
    const float *sums; /* (parts,) */
    float *mean;       /* one number */
    int parts;
    float count;
};

/* One block, of a power of 2 threads. */
KERNEL(frame_mean, FrameMean) {
    float sum = 0;
    for (int n = threadIdx.x; n < job.parts; n += blockDim.x)
        sum += job.sums[n];
    const float total = block_sum(sum);
    if (!threadIdx.x)
        *job.mean = total / job.count;
}

struct WarpResidual {
    const float *quarter, *previous,
        *flow;  /* (3, height, width) twice, (2, height, width) in pixels of the frame */
    float *out; /* (3, height, width): |quarter - previous along the flow| */
    int height, width;
};

KERNEL(warp_residual, WarpResidual) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= job.width || y >= job.height)
        return;
    const Long at = (Long)y * job.width + x, plane = (Long)job.height * job.width;
    const Taps columns = bilinear((float)x + job.flow[at] / STRIDE, job.width);
    const Taps rows = bilinear((float)y + job.flow[plane + at] / STRIDE, job.height);
    for (int color = 0; color < 3; color++) {
        const float *from = job.previous + color * plane;
        float value = 0;
        for (int i = 0; i < 2; i++) {
            const float *row = from + (Long)rows.at[i] * job.width;
            value += rows.weight[i] * (columns.weight[0] * row[columns.at[0]] +
                                       columns.weight[1] * row[columns.at[1]]);
        }
        job.out[color * plane + at] = fabsf(job.quarter[color * plane + at] - value);
    }
}
