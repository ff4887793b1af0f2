/* All kernels, as NVRTC compiles them when a GPU is first used (runtime.py), without CUDA's
 * headers.
 *
 * Each kernel is one pass over memory, or two, in place of ten operators. A kernel takes one
 * struct, its job. Feature maps are float16 unless it says otherwise, channels last, a multiple of
 * 8; everything is computed in float32. No result depends on the order in which blocks run: sums
 * are of parts that are always the same, added in one order. */

#include "compose.cu"
#include "conv3x3.cu"
#include "cost_volume.cu"
#include "frame.cu"
#include "frame_packing.cu"
#include "global_match.cu"
#include "instance_norm.cu"
#include "samples.cu"
#include "sharpen.cu"
