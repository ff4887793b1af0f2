"""The kernels' operations: what each takes, as its function in C, or its struct in CUDA, has it.

    picture(T) x[1 C H W]   a tensor, channels last, of a type that is called T ("precision" if
                            nothing else is said); `halves_last`: float16
    floats x[2 C]           a tensor, contiguous, float32; `halves`: float16; `pairs`: bfloat16;
                            `samples`: of any one type; `weights`: of the type called "precision"
    floats x[2 C]?          None may stand for it
    floats x[2 C]!          the kernel writes to it, all of it
    pictures x[1 C H W]     an array of as many as there are "levels", of sizes C0, C1 and so on
    size H                  a number that is a size of tensors
    precision(T)            the type called T, as C has it
    int, long, float*3      numbers, here three of the last; `address`: of what is no tensor

Each name of a size stands for one number in a call: C, H and W are those of what comes in, H' and
W' others, mostly of what comes out. A shape of [...] is any.
"""

import ctypes
import re
from collections.abc import Mapping

import torch

from vsneuralstyle.engines.arguments import (
    Argument,
    Dense,
    Number,
    Operation,
    Precision,
    Several,
    Size,
)
from vsneuralstyle.networks import scene_descriptor
from vsneuralstyle.networks.flow.litepwcnet import SUPPORT
from vsneuralstyle.networks.net1 import SETTLED
from vsneuralstyle.networks.transform_net import STRIDE

UPSAMPLE2, STRIDE2 = 4, 7
"""In the place of a tile's size: a convolution of what nearest neighbours enlarge to twice its
size, and one of stride 2."""
PRECISIONS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The numbers that C has for types."""
CONSTANTS: dict[str, float] = {
    "STRIDE": STRIDE,  # pixels of a frame to one of its features, in each direction
    "SETTLED": float(SETTLED),
    "AGGREGATION_RADIUS": SUPPORT,
}
CPU_CONSTANTS: dict[str, float] = {
    **{str(dtype).removeprefix("torch.").upper(): n for dtype, n in PRECISIONS.items()},
    "COLORS": 3,
    "UPSAMPLE2": UPSAMPLE2,
    "STRIDE2": STRIDE2,
    "THUMBNAIL_ROWS": scene_descriptor.THUMBNAIL[0],
    "THUMBNAIL_COLUMNS": scene_descriptor.THUMBNAIL[1],
    "BINS": scene_descriptor.BINS,
}
"""What C and CUDA have from Python, and C alone."""
_NUMBERS = {
    "int": ctypes.c_int,
    "long": ctypes.c_long,
    "float": ctypes.c_float,
    "address": ctypes.c_void_p,
}
_TENSORS: dict[str, tuple[torch.dtype | str, torch.memory_format]] = {
    "picture": ("precision", torch.channels_last),
    "halves_last": (torch.float16, torch.channels_last),
    "floats": (torch.float32, torch.contiguous_format),
    "halves": (torch.float16, torch.contiguous_format),
    "pairs": (torch.bfloat16, torch.contiguous_format),
    "samples": ("sample", torch.contiguous_format),
    "weights": ("precision", torch.contiguous_format),
}
_DECLARED = re.compile(
    r"(?P<kind>\w+)(?:\((?P<type>\w+)\))?(?:\*(?P<count>\d+))?"
    r"(?: (?P<name>[\w' ]+))?(?:\[(?P<shape>[^]]*)\](?P<optional>\?)?(?P<written>!)?)?"
)


def _arguments(declared: str, integer: type) -> list[Argument]:
    """One argument as it is declared, or as many as that says. integer: what a size is in C."""
    match = _DECLARED.fullmatch(declared)
    assert match is not None, declared
    parts = match.groupdict()
    kind, name = parts["kind"], parts["name"]
    if kind in _NUMBERS:
        return [Number(_NUMBERS[kind])] * int(parts["count"] or 1)
    if kind == "size":
        return [Size(name, integer)]
    if kind == "precision":
        return [Precision(parts["type"] or kind, PRECISIONS)]
    dtype, layout = _TENSORS["picture" if kind == "pictures" else kind]
    sizes = tuple(int(size) if size.isdecimal() else size for size in parts["shape"].split())
    shape = None if sizes == ("...",) else sizes
    optional, written = bool(parts["optional"]), bool(parts["written"])
    tensor = Dense(name, shape, parts["type"] or dtype, layout, optional, written)
    return [Several(tensor, "levels")] if kind == "pictures" else [tensor]


def _operation(
    name: str,
    takes: str,
    integer: type = ctypes.c_long,
    tolerance: Mapping[torch.dtype, float] | None = None,
) -> Operation:
    declared = " ".join(takes.split()).split(", ")
    arguments = (one for each in declared for one in _arguments(each, integer))
    return Operation(name, *arguments, tolerance=tolerance)


_FROM_RGB = """floats frame[1 3 H W], size H, size W, size H', size W', {weight}, floats bias[16],
    floats norm weight[16]?, floats norm bias[16]?, float, floats scale[2 16]!,
    picture out[1 16 H' W']!, precision"""
_TO_RGB = """picture x[1 16 H' W'], size H', size W', floats scale[2 16]?, {weight}, floats bias[3],
    floats out[1 3 H W]!, size H, size W, precision"""

_CPU = {
    "scale_shift_relu_add": """picture x[1 C H W], size H, size W, size C, floats scale[2 C]?, int,
        picture residual[1 C H W]?, picture out[1 C H W]!, precision""",
    "conv3x3": """picture x[1 C H W], size H, size W, address, floats scale[2 C]?, int,
        floats next scale[2 outputs]?!, picture(wanted) out[1 outputs H' W']!,
        precision, precision(wanted)""",
    "conv3x3_chain": """picture x[1 C H W], size H, size W, address, floats base[1 outputs H W]?,
        floats out[1 outputs H W]!, precision""",
    "residual_blocks": """picture x[1 C H W], size H, size W, address, long,
        picture out[1 C H W]!, precision""",
    "flow_features": """floats frame[1 3 H W], size H, size W, size H', size W', float,
        floats weight[3 3 3 16], floats bias[16], float, address, size levels,
        pictures features[1 C H W]!, precision""",
    "estimate_motion": """pictures here[1 C H W], pictures there[1 C H W], address, int, address,
        size levels, float, size H, size W, floats change[1 1 H W]?, float,
        floats out[1 2 H W]!, precision""",
    "conv9x9_from_rgb": _FROM_RGB.format(weight="floats weight[81 2 2 3 16]"),
    "conv9x9_from_rgb_amx": _FROM_RGB.format(weight="pairs weight[2 9 16 16 2]"),
    "conv9x9_to_rgb": _TO_RGB.format(weight="floats weight[81 2 2 16 3], int"),
    "conv9x9_to_rgb_bf16": _TO_RGB.format(weight="pairs weight[25 3 3 8 3 2], int"),
    "conv9x9_to_rgb_amx": _TO_RGB.format(weight="pairs weight[9 4 5 16 16 2]"),
    "downsample4": "floats frame[1 3 H W], size H, size W, floats out[1 3 H' W']!",
    "scene_descriptor": "floats lowres[1 3 H W], size H, size W, floats out[numbers]!",
    "max_change": """floats frame[1 3 H W], floats previous[1 3 H W], size H, size W, float,
        floats out[1 1 H' W']!""",
    "warp_residual": """floats lowres[1 3 H W], floats previous[1 3 H W], floats flow[1 2 H W],
        size H, size W, floats out[1 3 H W]!""",
    "compose": """picture feature[1 C H W], picture(kept) previous[1 C H W],
        floats flow[1 2 H W], floats residual[1 3 H W], floats change[1 1 H W]?,
        size H, size W, size C, int, address, float*5,
        picture(kept) composite[1 C H W]!, floats mask[1 1 H W]!, precision, precision(kept)""",
    "planes_to_rgb": """address, long, size H, size W, long*2, int*2, long, address,
        floats rgb[1 3 H W]!""",
    "rgb_to_planes": """floats rgb[1 3 H W], size H, size W, address, long*3, int*2, address,
        long*2""",
}
_LAYOUT = "int, int, size W', size C"  # the CUDA sources's struct of that name

_GPU = {
    "pack_frame": """floats frame[1 3 H W], halves_last out[1 48 H' W'],
        size H, size W, size H', size W'""",
    "unpack_frame": """halves_last x[1 48 H' W'], floats bias[3], floats out[1 3 H W],
        size H, size W, size W'""",
    "instance_norm_moments": f"""halves_last x[1 samples H' W'], floats sums[parts 2 C], {_LAYOUT},
        int, int, size H', int""",
    "instance_norm_finalize": f"""floats sums[parts 2 C], halves_last x[1 samples H' W'],
        floats weight[C]?, floats bias[C]?, floats scale[2 C], {_LAYOUT}, size parts, float*2""",
    "scale_shift_relu_add": f"""halves_last x[1 samples H' W'], floats scale[2 C]?,
        halves_last residual[1 others rows columns]?, halves_last out[1 outputs h w], {_LAYOUT},
        int*3, size C, int*3, size C, int*5""",
    "bias_leaky_relu": "halves_last x[1 C H W], floats bias[C], int, size C, float",
    "conv3x3": """halves_last x[1 C H W], halves weight[taps steps pairs 32 8],
        floats bias[outputs], halves_last out[1 outputs H W]?, floats planes[1 outputs H W]?,
        size H, size W, size C, size steps, size outputs, float""",
    "conv3x3_from_rgb": """floats frame[1 3 H W], floats mean[], address,
        halves weight[taps 1 pairs 32 8], floats bias[outputs],
        halves_last out[1 outputs H' W'], address, size H', size W', int*2, size outputs, float,
        size H, size W, int*2""",
    "block_max_change": """floats frame[1 3 H W], floats previous[1 3 H W], floats out[1 1 H' W'],
        size H, size W, size H', size W'""",
    "downsample4": """floats frame[1 3 H W], floats out[1 3 H' W'],
        size H, size W, size H', size W'""",
    "frame_sum": "floats frame[1 3 H W], floats sums[parts], size H, size W, int*2",
    "frame_mean": "floats sums[parts], floats mean[], size parts, float",
    "warp_residual": """floats lowres[1 3 H W], floats previous[1 3 H W], floats flow[1 2 H W],
        floats out[1 3 H W], size H, size W""",
    "warp_feature": """halves_last previous[1 C H W], halves_last feature[1 C H W],
        floats flow[1 2 H W], floats residual[1 3 H W], halves_last warped[1 C H W],
        halves_last difference[1 inputs H W], size H, size W, size C, int""",
    "blend": """halves_last feature[1 C H W], halves_last warped[1 C H W], floats mask[1 1 H W],
        floats flow[1 2 H W], floats change[1 1 H W]?, floats coherence[],
        halves_last composite[1 C H W], floats blended[1 1 H W], floats max_gain[1 1 H W],
        size H, size W, size C, float*4""",
    "detail_energy": """halves_last composite[1 C H W], halves_last feature[1 C H W],
        floats energy[2 H W], size H, size W, size C""",
    "sharpen_gain": """floats energy[2 H W], floats max_gain[1 1 H W], floats gain[1 1 H W],
        size H, size W, size C""",
    "sharpen": """halves_last composite[1 C H W], floats gain[1 1 H W], halves_last out[1 C H W],
        size H, size W, size C""",
    "cost_volume": """halves_last here[1 C H W], halves_last there[1 C H W], floats flow[1 2 H W],
        halves_last estimator_input[1 all H W], size H, size W, size C, size all, float""",
    "aggregate_costs": "halves scores[1 H W H W], halves out[1 H W H W], size H, size W",
    "softmax_columns": "halves scores[1 H W H W], floats most[2 places], size places",
    "global_match": """halves scores[1 H W H W], floats most[2 places], floats out[1 2 H W],
        size H, size W, float""",
    "samples_to_rgb": "samples samples[1 3 H W], floats out[1 3 H W], int, float*3",
    "rgb_to_samples": """floats rgb[1 3 H W], samples samples[count], size count, float*2,
        float, int""",
    "planes_to_rgb": """samples samples[count], floats out[1 3 H W], size H, size W,
        int*4, float*12""",
    "rgb_to_planes": """floats rgb[1 3 H W], samples samples[count], size H, size W,
        int*4, float*12, float, int""",
}


_EXACT, _CLOSE = {torch.float32: 1e-6}, {torch.float32: 2e-5}
_TOLERANCE: dict[str, dict[torch.dtype, float]] = {
    "scale_shift_relu_add": {torch.float32: 1e-5, torch.bfloat16: 0.03},
    "conv3x3": {torch.float32: 2e-4, torch.bfloat16: 0.15},
    "conv3x3_chain": {torch.float32: 1e-3, torch.bfloat16: 0.15},
    "residual_blocks": {torch.float32: 1e-3, torch.bfloat16: 0.6},
    "flow_features": {torch.float32: 2e-3, torch.bfloat16: 1.0},
    "estimate_motion": {torch.float32: 5e-3},
    "conv9x9_from_rgb": {torch.float32: 1e-4, torch.bfloat16: 0.03},
    "conv9x9_to_rgb": {torch.float32: 1e-4, torch.bfloat16: 0.03},
    "downsample4": _CLOSE,
    "scene_descriptor": {torch.float32: 2e-3},
    "max_change": _EXACT,
    "warp_residual": {torch.float32: 1e-4},
    "compose": {torch.float32: 2e-3, torch.bfloat16: 0.3},
    "planes_to_rgb": {torch.float32: 1e-5},
}
"""Of C's operations, in the worst place; see `Operation`. In bfloat16 the flow starts from matches
that may be others: it is compared as a whole (tests/kernels)."""


def _table(takes: Mapping[str, str], integer: type) -> dict[str, Operation]:
    return {
        name: _operation(name, declared, integer, _TOLERANCE.get(name, {}))
        for name, declared in takes.items()
    }


CPU, GPU = _table(_CPU, ctypes.c_long), _table(_GPU, ctypes.c_int)
"""Of the C sources, and of the CUDA sources, by their names."""
LAYER = _operation(
    "layer",
    """weights weight[...], floats bias[outputs],
    floats norm weight[outputs]?, floats norm bias[outputs]?""",
)
LAST = _operation("last layer", "floats weight[3 3 outputs inputs], floats bias[outputs]")
MATCHING = _operation("matching", "weights weight[...], floats bias[channels]")
"""The tensors of a `Convolution`, of a `Chain`'s end and of a `Motion`'s start: their
structs have the addresses."""
