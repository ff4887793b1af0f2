/* The frame as the 9x9 convolutions see it, in squares of 4x4 pixels, and back. */

#include "common.cuh"

struct PackFrame {
    const float *frame; /* (3, height, width) */
    Half *out; /* (rows, columns, 4, 4, 3): of squares of 4x4, one more on each side than cover the
                  frame */
    int height, width, rows, columns;
};

/* A thread a row of a square. The frame's border is repeated to whole squares, and reflected
 * beyond. */
KERNEL(pack_frame, PackFrame) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || row >= job.rows * STRIDE)
        return;
    const int y = clamp(reflect(row - STRIDE, (job.rows - 2) * STRIDE - 1), job.height - 1),
              first = (column - 1) * STRIDE;
    const Long plane = (Long)job.height * job.width, line = (Long)y * job.width;
    float samples[STRIDE][3];
    for (int color = 0; color < 3; color++) {
        const float *from = job.frame + color * plane + line;
        if (first >= 0 && first + STRIDE <= job.width && job.width % STRIDE == 0) {
            const Float4 four = *(const Float4 *)(from + first);
            for (int n = 0; n < STRIDE; n++)
                samples[n][color] = four.values[n];
        } else {
            for (int n = 0; n < STRIDE; n++)
                samples[n][color] =
                    from[clamp(reflect(first + n, (job.columns - 2) * STRIDE - 1), job.width - 1)];
        }
    }
    const float *sample = samples[0];
    Half4 *out = (Half4 *)(job.out +
                           (((Long)(row / STRIDE) * job.columns + column) * STRIDE + row % STRIDE) *
                               STRIDE * 3);
    for (int n = 0; n < 3; n++) {
        Half4 quad;
        quad.pairs[0] = pack_pair(sample[4 * n], sample[4 * n + 1]);
        quad.pairs[1] = pack_pair(sample[4 * n + 2], sample[4 * n + 3]);
        out[n] = quad;
    }
}

struct UnpackFrame {
    const Half *x;     /* (rows, columns, 4, 4, 3), in squares of 4x4 */
    const float *bias; /* (3,) */
    float *out;        /* (3, height, width) */
    int height, width, columns;
};

/* tanh, to 0..1, a thread a row of a square. */
KERNEL(unpack_frame, UnpackFrame) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x,
              y = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= job.columns || y >= job.height)
        return;
    const Half4 *from =
        (const Half4 *)(job.x +
                        (((Long)(y / STRIDE) * job.columns + column) * STRIDE + y % STRIDE) *
                            STRIDE * 3);
    float samples[STRIDE][3];
    for (int n = 0; n < 3; n++) {
        const Half4 quad = from[n];
        for (int i = 0; i < 4; i++) {
            const float value = half_to_float((Half)(quad.pairs[i / 2] >> 16 * (i % 2))) +
                                job.bias[(4 * n + i) % 3];
            samples[(4 * n + i) / 3][(4 * n + i) % 3] = tanhf(value) * 0.5f + 0.5f;
        }
    }
    for (int color = 0; color < 3; color++) {
        float *to = job.out + ((Long)color * job.height + y) * job.width + column * STRIDE;
        if (job.width % STRIDE == 0) {
            Float4 four;
            for (int n = 0; n < STRIDE; n++)
                four.values[n] = samples[n][color];
            *(Float4 *)to = four;
        } else {
            for (int n = 0; n < STRIDE && column * STRIDE + n < job.width; n++)
                to[n] = samples[n][color];
        }
    }
}
