/* Generated from vsneuralstyle/engines/ops.py by scripts/generate.py: change it there. */

#ifndef OPERATIONS_H
#define OPERATIONS_H

#define EXPORT __attribute__((visibility("default")))

/* clang-format off */
enum {
    STRIDE = 4, AGGREGATION_RADIUS = 2, FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2, COLORS = 3,
    UPSAMPLE2 = 4, STRIDE2 = 7, THUMBNAIL_ROWS = 36, THUMBNAIL_COLUMNS = 64, BINS = 16
};
static const float SETTLED = 0.25f;

/* GOMP_parallel of the OpenMP runtime that PyTorch has loaded: its workers are awake. NULL: the
 * calling thread alone. */
typedef void (*Fork)(void (*)(void *), void *, unsigned, unsigned);

EXPORT int scale_shift_relu_add(Fork, int, const void *, long, long, long, const float *, int,
    const void *, void *, int);
EXPORT int conv3x3(Fork, int, const void *, long, long, const void *, const float *, int, float
    *, void *, int, int);
EXPORT int conv3x3_chain(Fork, int, const void *, long, long, const void *, const float *, float
    *, int);
EXPORT int residual_blocks(Fork, int, const void *, long, long, const void *, long, void *,
    int);
EXPORT int flow_features(Fork, int, const float *, long, long, long, long, float, const float *,
    const float *, float, const void *, long, void *const *, int);
EXPORT int estimate_motion(Fork, int, const void *const *, const void *const *, const void *,
    int, const void *, long, float, long, long, const float *, float, float *, int);
EXPORT int conv9x9_from_rgb(Fork, int, const float *, long, long, long, long, const float *,
    const float *, const float *, const float *, float, float *, void *, int);
EXPORT int conv9x9_from_rgb_amx(Fork, int, const float *, long, long, long, long, const void *,
    const float *, const float *, const float *, float, float *, void *, int);
EXPORT int conv9x9_to_rgb(Fork, int, const void *, long, long, const float *, const void *, int,
    const float *, float *, long, long, int);
EXPORT int conv9x9_to_rgb_amx(Fork, int, const void *, long, long, const float *, const void *,
    const float *, float *, long, long, int);
EXPORT int downsample4(Fork, int, const float *, long, long, float *);
EXPORT int scene_descriptor(Fork, int, const float *, long, long, float *);
EXPORT int max_change(Fork, int, const float *, const float *, long, long, float, float *);
EXPORT int warp_residual(Fork, int, const float *, const float *, const float *, long, long,
    float *);
EXPORT int compose(Fork, int, const void *, const void *, const float *, const float *, const
    float *, long, long, long, int, const void *, float, float, float, float, float, void *,
    float *, int, int);
EXPORT int planes_to_rgb(Fork, int, const void *, long, long, long, long, long, int, int, long,
    const void *, float *);
EXPORT int rgb_to_planes(Fork, int, const float *, long, long, const void *, long, long, long,
    int, int, const void *, long, long);
/* clang-format on */

#endif
