"""The kernels' operations: what each takes, as its function in C, or its struct in kernels.cu, has
it.

    picture(T) x[1 C H W]   a tensor, channels last, of a type that is called T ("precision" if
                            nothing else is said); `halves_last`: float16
    floats x[2 C]           a tensor, contiguous, float32; `halves`: float16; `pairs`: bfloat16;
                            `samples`: of any one type; `weights`: of the type called "precision"
    floats x[2 C]?          None may stand for it
    pictures x[1 C H W]     an array of as many as there are "levels", of sizes C0, C1 and so on
    size H                  a number that is a size of tensors
    precision(T)            the type called T, as kernels.h has it
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

PRECISIONS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""As kernels.h has them."""
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
    r"(?: (?P<name>[\w' ]+))?(?:\[(?P<shape>[^]]*)\](?P<optional>\?)?)?"
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
    tensor = Dense(name, shape, parts["type"] or dtype, layout, bool(parts["optional"]))
    return [Several(tensor, "levels")] if kind == "pictures" else [tensor]


def _operation(name: str, takes: str, integer: type = ctypes.c_long) -> Operation:
    declared = " ".join(takes.split()).split(", ")
    return Operation(name, *(one for each in declared for one in _arguments(each, integer)))


_ENTER = """floats frame[1 3 H W], size H, size W, size H', size W', {weight}, floats bias[16],
    floats norm weight[16]?, floats norm bias[16]?, float, floats scale[2 16],
    picture out[1 16 H' W'], precision"""
_DRAW = """picture x[1 16 H' W'], size H', size W', floats scale[2 16]?, {weight}, floats bias[3],
    floats out[1 3 H W], size H, size W, precision"""

_CPU = {
    "normalise": """picture x[1 C H W], size H, size W, size C, floats scale[2 C]?, int,
        picture residual[1 C H W]?, picture out[1 C H W], precision""",
    "convolve": """picture x[1 C H W], size H, size W, address, floats scale[2 C]?, int,
        floats next scale[2 outputs]?, picture(wanted) out[1 outputs H' W'],
        precision, precision(wanted)""",
    "chain": """picture x[1 C H W], size H, size W, address, address,
        floats out[1 outputs H W], precision""",
    "blocks": """picture x[1 C H W], size H, size W, address, long,
        picture out[1 C H W], precision""",
    "look": """floats frame[1 3 H W], size H, size W, size H', size W', float,
        floats weight[3 3 3 16], floats bias[16], float, address, size levels,
        pictures features[1 C H W], precision""",
    "motion": """pictures here[1 C H W], pictures there[1 C H W], address, int, address,
        size levels, float, size H, size W, floats change[1 1 H W]?, float,
        floats out[1 2 H W], precision""",
    "enter": _ENTER.format(weight="floats weight[81 2 2 3 16]"),
    "enter_tiled": _ENTER.format(weight="pairs weight[2 9 16 16 2]"),
    "draw": _DRAW.format(weight="floats weight[81 2 2 16 3], int"),
    "draw_pairs": _DRAW.format(weight="pairs weight[25 3 3 8 3 2], int"),
    "draw_tiled": _DRAW.format(weight="pairs weight[9 4 5 16 16 2]"),
    "quarter": "floats frame[1 3 H W], size H, size W, floats out[1 3 H' W']",
    "glimpse": "floats quarter[1 3 H W], size H, size W, floats out[numbers]",
    "change": """floats frame[1 3 H W], floats previous[1 3 H W], size H, size W, float,
        floats out[1 1 H' W']""",
    "unexplained": """floats quarter[1 3 H W], floats previous[1 3 H W], floats flow[1 2 H W],
        size H, size W, floats out[1 3 H W]""",
    "compose": """picture feature[1 C H W], picture(kept) previous[1 C H W],
        floats flow[1 2 H W], floats unexplained[1 3 H W], floats change[1 1 H W]?,
        size H, size W, size C, int, address, float*5,
        picture(kept) composite[1 C H W], floats mask[1 1 H W], precision, precision(kept)""",
    "from_components": """address, long, size H, size W, long*2, int*2, long, address,
        floats rgb[1 3 H W]""",
    "to_components": """floats rgb[1 3 H W], size H, size W, address, long*3, int*2, address,
        long*2""",
}
_LAYOUT = "int, int, size W', size C"  # kernels.cu's struct of that name

_GPU = {
    "enter": """floats frame[1 3 H W], halves_last out[1 48 H' W'],
        size H, size W, size H', size W'""",
    "leave": """halves_last x[1 48 H' W'], floats bias[3], floats out[1 3 H W],
        size H, size W, size W'""",
    "sums": f"""halves_last x[1 samples H' W'], floats sums[parts 2 C], {_LAYOUT},
        int, int, size H', int""",
    "scales": f"""floats sums[parts 2 C], halves_last x[1 samples H' W'], floats weight[C]?,
        floats bias[C]?, floats scale[2 C], {_LAYOUT}, size parts, float*2""",
    "normalise": f"""halves_last x[1 samples H' W'], floats scale[2 C]?,
        halves_last residual[1 others rows columns]?, halves_last out[1 outputs h w], {_LAYOUT},
        int*3, size C, int*3, size C, int*5""",
    "activate": "halves_last x[1 C H W], floats bias[C], int, size C, float",
    "convolve": """halves_last x[1 C H W], halves weight[taps steps pairs 32 8],
        floats bias[outputs], halves_last out[1 outputs H W]?, floats planes[1 outputs H W]?,
        size H, size W, size C, size steps, size outputs, float""",
    "colors": """floats frame[1 3 H W], floats mean[], address, halves weight[taps 1 pairs 32 8],
        floats bias[outputs], halves_last out[1 outputs H' W'], address, size H', size W',
        int*2, size outputs, float, size H, size W, int*2""",
    "change": """floats frame[1 3 H W], floats previous[1 3 H W], floats out[1 1 H' W'],
        size H, size W, size H', size W'""",
    "quarter": """floats frame[1 3 H W], floats out[1 3 H' W'],
        size H, size W, size H', size W'""",
    "total": "floats frame[1 3 H W], floats sums[parts], size H, size W, int*2",
    "brightness": "floats sums[parts], floats mean[], size parts, float",
    "unexplained": """floats quarter[1 3 H W], floats previous[1 3 H W], floats flow[1 2 H W],
        floats out[1 3 H W], size H, size W""",
    "follow": """halves_last previous[1 C H W], halves_last feature[1 C H W],
        floats flow[1 2 H W], floats unexplained[1 3 H W], halves_last warped[1 C H W],
        halves_last difference[1 inputs H W], size H, size W, size C, int""",
    "blend": """halves_last feature[1 C H W], halves_last warped[1 C H W], floats mask[1 1 H W],
        floats flow[1 2 H W], floats change[1 1 H W]?, floats coherence[],
        halves_last composite[1 C H W], floats blended[1 1 H W], floats most[1 1 H W],
        size H, size W, size C, float*4""",
    "energy": """halves_last composite[1 C H W], halves_last feature[1 C H W],
        floats energy[2 H W], size H, size W, size C""",
    "gain": """floats energy[2 H W], floats most[1 1 H W], floats gain[1 1 H W],
        size H, size W, size C""",
    "sharpen": """halves_last composite[1 C H W], floats gain[1 1 H W], halves_last out[1 C H W],
        size H, size W, size C""",
    "match": """halves_last here[1 C H W], halves_last there[1 C H W], floats flow[1 2 H W],
        halves_last known[1 all H W], size H, size W, size C, size all, float""",
    "supported": "halves scores[1 H W H W], halves out[1 H W H W], size H, size W",
    "columns": "halves scores[1 H W H W], floats most[2 places], size places",
    "rows": """halves scores[1 H W H W], floats most[2 places], floats out[1 2 H W],
        size H, size W, float""",
    "from_samples": "samples samples[1 3 H W], floats out[1 3 H W], int, float*3",
    "to_samples": """floats rgb[1 3 H W], samples samples[count], size count, float*2,
        float, int""",
    "from_components": """samples samples[count], floats out[1 3 H W], size H, size W,
        int*4, float*12""",
    "to_components": """floats rgb[1 3 H W], samples samples[count], size H, size W,
        int*4, float*12, float, int""",
}


def _table(takes: Mapping[str, str], integer: type) -> dict[str, Operation]:
    return {name: _operation(name, declared, integer) for name, declared in takes.items()}


CPU, GPU = _table(_CPU, ctypes.c_long), _table(_GPU, ctypes.c_int)
"""Of the C sources, and of kernels.cu, by their names."""
LAYER = _operation(
    "layer",
    """weights weight[...], floats bias[outputs],
    floats norm weight[outputs]?, floats norm bias[outputs]?""",
)
LAST = _operation("last layer", "floats weight[3 3 outputs inputs], floats bias[outputs]")
MATCHING = _operation("matching", "weights weight[...], floats bias[channels]")
"""The tensors of a `kernels.Convolution`, of a `Chain`'s end and of a `Motion`'s start: their
structs have the addresses."""
