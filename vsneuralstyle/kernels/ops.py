"""The kernels' operations: what each takes, as its function in C, or its struct in gpu.cu, has it.

Shapes are numbers and names: C, H and W of what comes in; H' and W' of another size, mostly of what comes out. A name stands for the same number
throughout a call.
"""

from ctypes import c_float, c_int, c_long, c_void_p
from functools import partial

import torch

from vsneuralstyle.kernels.arguments import Argument, Dense, Number, Operation, Precision, Several, Size

PRECISIONS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""As kernels.h has them."""
FLAG, INT, LONG, FLOAT, ADDRESS = (Number(c_type) for c_type in (c_int, c_int, c_long, c_float, c_void_p))


def dense(
    name: str,
    shape: str | None,
    dtype: torch.dtype | str = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    optional: bool = False,
) -> Dense:
    """A tensor, of a shape such as "1 C H W", or of any (None)."""
    sizes = shape if shape is None else tuple(int(size) if size.isdecimal() else size for size in shape.split())
    return Dense(name, sizes, dtype, layout, optional)


floats = dense
"""float32, contiguous."""
pairs = partial(dense, dtype=torch.bfloat16)
picture = partial(dense, dtype="precision", layout=torch.channels_last)
halves = partial(dense, dtype=torch.float16)
half_picture = partial(halves, layout=torch.channels_last)


def _table(*operations: tuple[str, *tuple[Argument, ...]]) -> dict[str, Operation]:
    return {name: Operation(name, *arguments) for name, *arguments in operations}


def _cpu() -> dict[str, Operation]:
    height, width, channels, other_height, other_width = (Size(name, c_long) for name in ("H", "W", "C", "H'", "W'"))
    precision, kept, precision_out = (Precision(name, PRECISIONS) for name in ("precision", "kept", "precision out"))
    x, like_x, frame = picture("x", "1 C H W"), picture("out", "1 C H W"), floats("frame", "1 3 H W")
    scale, levels = floats("scale", "2 C", optional=True), Size("levels", c_long)

    def enter(weight: Dense) -> tuple[Argument, ...]:
        norm = floats("norm weight", "16"), floats("norm bias", "16"), FLOAT, floats("scale", "2 16")
        return (frame, height, width, other_height, other_width, weight, floats("bias", "16"), *norm, picture("out", "1 16 H' W'"), precision)

    def draw(*weight: Argument) -> tuple[Argument, ...]:
        return (picture("x", "1 16 H' W'"), other_height, other_width, floats("scale", "2 16", optional=True), *weight, floats("bias", "3"),
                floats("out", "1 3 H W"), height, width, precision)

    return _table(
        ("normalise", x, height, width, channels, scale, FLAG, picture("residual", "1 C H W", optional=True), like_x, precision),
        ("convolve", x, height, width, ADDRESS, scale, FLAG, floats("next scale", "2 outputs", optional=True),
         picture("out", "1 outputs H' W'", dtype="precision out"), precision, precision_out),
        ("chain", x, height, width, ADDRESS, ADDRESS, floats("out", "1 outputs H W"), precision),
        ("blocks", x, height, width, ADDRESS, LONG, like_x, precision),
        ("look", frame, height, width, other_height, other_width, FLOAT, floats("weight", "3 3 3 16"), floats("bias", "16"), FLOAT, ADDRESS, levels,
         Several(picture("features", "1 C H W"), "levels"), precision),
        ("motion", *(Several(picture(name, "1 C H W"), "levels") for name in ("here", "there")), ADDRESS, FLAG, ADDRESS, levels, FLOAT,
         height, width, floats("change", "1 1 H W", optional=True), FLOAT, floats("out", "1 2 H W"), precision),
        ("enter", *enter(floats("weight", "81 2 2 3 16"))),
        ("enter_tiled", *enter(pairs("weight", "2 9 16 16 2"))),
        ("draw", *draw(floats("weight", "81 2 2 16 3"), FLAG)),
        ("draw_pairs", *draw(pairs("weight", "25 3 3 8 3 2"), FLAG)),
        ("draw_tiled", *draw(pairs("weight", "9 4 5 16 16 2"))),
        ("quarter", frame, height, width, floats("out", "1 3 H' W'")),
        ("glimpse", floats("quarter", "1 3 H W"), height, width, floats("out", "numbers")),
        ("change", frame, floats("previous", "1 3 H W"), height, width, FLOAT, floats("out", "1 1 H' W'")),
        ("unexplained", floats("quarter", "1 3 H W"), floats("previous", "1 3 H W"), floats("flow", "1 2 H W"), height, width,
         floats("out", "1 3 H W")),
        ("compose", picture("feature", "1 C H W"), picture("previous", "1 C H W", dtype="kept"), floats("flow", "1 2 H W"),
         floats("unexplained", "1 3 H W"), floats("change", "1 1 H W", optional=True), height, width, channels, FLAG, ADDRESS,
         *5 * [FLOAT], picture("composite", "1 C H W", dtype="kept"), floats("mask", "1 1 H W"), precision, kept),
        ("from_components", ADDRESS, LONG, height, width, LONG, LONG, FLAG, FLAG, LONG, ADDRESS, floats("rgb", "1 3 H W")),
        ("to_components", floats("rgb", "1 3 H W"), height, width, ADDRESS, LONG, LONG, LONG, FLAG, FLAG, ADDRESS, LONG, LONG),
    )


def _gpu() -> dict[str, Operation]:
    height, width, channels, rows, columns = map(Size, ("H", "W", "C", "H'", "W'"))
    samples = half_picture("x", "1 samples H' W'")
    frame, quarter, previous = (floats(name, "1 3 H W") for name in ("frame", "quarter", "previous"))
    flow, unexplained, mask = floats("flow", "1 2 H W"), floats("unexplained", "1 3 H W"), floats("mask", "1 1 H W")
    feature, composite = half_picture("feature", "1 C H W"), half_picture("composite", "1 C H W")
    scores, layout, affine, levels = halves("scores", "1 H W H W"), (INT, INT, columns, channels), 4 * [FLOAT], (FLOAT, INT)
    chroma = INT, INT, FLAG, FLAG

    def bias(name: str = "bias", size: str = "C") -> Dense:
        return floats(name, size, optional=True)

    return _table(
        ("enter", frame, half_picture("out", "1 48 H' W'"), height, width, rows, columns),
        ("leave", half_picture("x", "1 48 H' W'"), floats("bias", "3"), floats("out", "1 3 H W"), height, width, columns),
        ("sums", samples, floats("sums", "parts 2 C"), *layout, INT, INT, rows, INT),
        ("scales", floats("sums", "parts 2 C"), samples, bias("weight"), bias(), floats("scale", "2 C"), *layout, Size("parts"), FLOAT, FLOAT),
        ("normalise", samples, floats("scale", "2 C", optional=True), half_picture("residual", "1 others rows columns", optional=True),
         half_picture("out", "1 outputs h w"), *layout, INT, INT, INT, channels, INT, INT, INT, channels, INT, INT, INT, FLAG, FLAG),
        ("activate", half_picture("x", "1 C H W"), floats("bias", "C"), INT, channels, FLOAT),
        ("convolve", half_picture("x", "1 C H W"), halves("weight", "taps steps pairs 32 8"), floats("bias", "outputs"),
         half_picture("out", "1 outputs H W", optional=True), floats("planes", "1 outputs H W", optional=True), height, width, channels,
         Size("steps"), Size("outputs"), FLOAT),
        ("colors", frame, floats("mean", ""), ADDRESS, halves("weight", "taps 1 pairs 32 8"), floats("bias", "outputs"),
         half_picture("out", "1 outputs H' W'"), ADDRESS, rows, columns, INT, INT, Size("outputs"), FLOAT, height, width, INT, INT),
        ("change", frame, previous, floats("out", "1 1 H' W'"), height, width, rows, columns),
        ("quarter", frame, floats("out", "1 3 H' W'"), height, width, rows, columns),
        ("total", frame, floats("sums", "parts"), height, width, INT, INT),
        ("brightness", floats("sums", "parts"), floats("mean", ""), Size("parts"), FLOAT),
        ("unexplained", quarter, previous, flow, floats("out", "1 3 H W"), height, width),
        ("follow", half_picture("previous", "1 C H W"), feature, flow, unexplained, half_picture("warped", "1 C H W"),
         half_picture("difference", "1 inputs H W"), height, width, channels, FLAG),
        ("blend", feature, half_picture("warped", "1 C H W"), mask, flow, floats("change", "1 1 H W", optional=True), floats("coherence", ""),
         composite, floats("blended", "1 1 H W"), floats("most", "1 1 H W"), height, width, channels, *4 * [FLOAT]),
        ("energy", composite, feature, floats("energy", "2 H W"), height, width, channels),
        ("gain", floats("energy", "2 H W"), floats("most", "1 1 H W"), floats("gain", "1 1 H W"), height, width, channels),
        ("sharpen", composite, floats("gain", "1 1 H W"), half_picture("out", "1 C H W"), height, width, channels),
        ("match", half_picture("here", "1 C H W"), half_picture("there", "1 C H W"), flow, half_picture("known", "1 all H W"), height, width,
         channels, Size("all"), FLOAT),
        ("supported", scores, halves("out", "1 H W H W"), height, width),
        ("columns", scores, floats("most", "2 places"), Size("places")),
        ("rows", scores, floats("most", "2 places"), floats("out", "1 2 H W"), height, width, FLOAT),
        ("from_samples", dense("samples", "1 3 H W", "sample"), floats("out", "1 3 H W"), INT, *3 * [FLOAT]),
        ("to_samples", floats("rgb", "1 3 H W"), dense("samples", "count", "sample"), Size("count"), FLOAT, FLOAT, *levels),
        ("from_components", dense("samples", "count", "sample"), floats("out", "1 3 H W"), height, width, *chroma, *3 * affine),
        ("to_components", floats("rgb", "1 3 H W"), dense("samples", "count", "sample"), height, width, *chroma, *3 * affine, *levels),
    )


CPU, GPU = _cpu(), _gpu()
"""Of kernels.c and what is beside it, and of gpu.cu: by their names."""
LAYER = Operation("layer", dense("weight", None, "precision"), floats("bias", "outputs"),
                  *(floats(f"norm {name}", "outputs", optional=True) for name in ("weight", "bias")))
LAST = Operation("last layer", floats("weight", "3 3 outputs inputs"), floats("bias", "outputs"))
MATCHING = Operation("matching", dense("weight", None, "precision"), floats("bias", "channels"))
"""Of a `kernels.Convolution`, the end of a `Chain`, and the start of a `Motion`: what their structs in kernels.h have of tensors."""
