"""Convolutions of Net1, and what lies between them, in C, for a CPU: bindings of `kernels.c`, `convolution.c` and `nine.c`.

PyTorch's own operators pass over memory some ten times for one normalisation, and took more than half of a frame's time where
convolutions are fast (docs/performance.md). The wheel has the library where it was built with a C compiler; without it,
and on a GPU, and in training, `vsneuralstyle.networks` computes the same.

Pictures are (1, C, H, W), channels last, float32 or bfloat16.
"""

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from ctypes import byref, c_float, c_int, c_long, c_void_p
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.cpu import openmp, units

_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"v4-bf16": _V4 | {"avx512_bf16"}, "v4": _V4, "v3": {"avx2", "bmi2", "f16c", "fma"}, "v2": {"sse4_2"}}
"""Of x86-64: what /proc/cpuinfo says of a CPU that can do each, from the best down."""
MULTIPLE = 16
"""Channels come in multiples of this."""
ENLARGING, HALVING = 4, 7
"""`reach` of `points` for a convolution of what is enlarged to twice its size by nearest neighbours, and for one of stride 2."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this CPU; None where there are none, or no workers to share the work with."""
    if _fork() is None and torch.get_num_threads() > 1:
        return None
    names = ["kernels.so"]
    if platform.machine() == "x86_64":
        names = [f"kernels-{level}.so" for level, needed in LEVELS.items() if needed <= units()]
    for file in names:
        path = Path(__file__).with_name(file)
        if path.is_file():
            found = ctypes.CDLL(str(path))
            if openmp():
                found.count_workers(openmp().omp_get_thread_num)
            return found
    return None


def name() -> str | None:
    """The library's, "kernels-v4" for example; None where there is none."""
    found = library()
    return Path(found._name).stem if found else None


@cache
def _fork() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch uses: its workers are awake. None: not to be found."""
    return ctypes.cast(openmp().GOMP_parallel, c_void_p).value if openmp() else None


_C_TYPES = {float: c_float, bool: c_int, int: c_long}


def _call(kernel: str, *arguments: Tensor | float | bool | int | None) -> None:
    """Tensors go as their addresses; None as no address."""
    function = getattr(library(), kernel)
    if function.argtypes is None:  # the first call: each argument is of the same kind in all
        function.argtypes = [c_void_p, c_int, *(_C_TYPES.get(type(argument), c_void_p) for argument in arguments)]
    values = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    # A profiler's mark takes as long as a small kernel.
    mark = torch.autograd.profiler.record_function(f"vsneuralstyle::{kernel}") if torch.autograd._profiler_enabled() else nullcontext()
    with mark:
        result = function(_fork(), torch.get_num_threads(), *values)
    if result:
        raise MemoryError(f"no memory for {kernel} of {arguments[1:3]}")


@dataclass(frozen=True)
class Product:
    """A convolution by a kernel: multiplications and additions that were executed, in the weight's precision, and the tensors."""

    operations: int
    weight: Tensor
    read: Tensor
    written: Tensor


_counted: list[Product] | None = None


@contextmanager
def counting() -> Iterator[list[Product]]:
    """While it lasts, the kernels' convolutions are listed."""
    global _counted
    before, _counted = _counted, []
    try:
        yield _counted
    finally:
        _counted = before


def count_product(multiplications: int, *tensors: Tensor) -> None:
    """For `counting`: a kernel's convolution, and its weight, what it read, and what it wrote."""
    if _counted is not None:
        _counted.append(Product(2 * multiplications, *tensors))


def _tiles(height: int, width: int, size: int) -> int:
    return -(-height // size) * -(-width // size)


def _empty(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        (1, channels, height, width), dtype=dtype or like.dtype, memory_format=torch.channels_last
    )


def _half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def statistics(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Instance normalisation as a multiplication and a sum.

    Args:
        x: the picture.
        weight, bias: (C,) float32, or None.
        eps: added to the variance.

    Returns:
        (2, C) float32: what to multiply with, and then to add.
    """
    channels, height, width = x.shape[1:]
    scale = torch.empty(2, channels)
    _call("statistics", x, height, width, channels, weight, bias, float(eps), scale, _half(x))
    return scale


def normalise(
    x: Tensor,
    scale: Tensor | None = None,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """A multiplication and a sum, a ReLU, another picture's sum, and the border that the next convolution wants.

    Args:
        x: the picture.
        scale: of x, as `statistics` gives it; None: x as it is.
        relu: 0 for what is negative.
        residual: added at the end.
        pad: width of the border, reflected.

    Returns:
        (1, C, H + 2 pad, W + 2 pad).
    """
    channels, height, width = x.shape[1:]
    out = _empty(x, channels, height + 2 * pad, width + 2 * pad)
    _call("normalise", x, height, width, channels, scale, relu, residual, out, pad, _half(x))
    return out


def whole(channels: int) -> int:
    """To the next multiple of `MULTIPLE`."""
    return -(-channels // MULTIPLE) * MULTIPLE


def _filtered(weight: Tensor, lines: list[list[float]], divisors: list[float]) -> Tensor:
    """G w G^T: weights (..., r, r) at the points of minimal filtering, (points, points, ...), float64."""
    lines = torch.tensor(lines, dtype=torch.float64) / torch.tensor(divisors, dtype=torch.float64)[:, None]
    return torch.einsum("pr,...rs,qs->pq...", lines, weight.detach().double(), lines)


def pairs(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply pairs of bfloat16: where the CPU does so, which is twice the work at a time."""
    return dtype == torch.bfloat16 and "avx512_bf16" in units()


_FILTERS = {
    ENLARGING: ([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, -1], [1, -1, -1], [0, 0, 1], [0, 1, 1]], [1, 1, 2, 2, 2, 1, 1]),
    HALVING: ([[0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, -1], [0, 0, 1]], [1, 1, 1, 1, 2, 2, 1]),
    6: ([[64, 0, 0], [-128, -96, -72], [-128, 96, -72], [32, 48, 72], [32, -48, 72], [0, 0, 1]], [81, 243, 243, 243, 243, 1]),
    8: ([[1, 0, 0], [-2, -2, -2], [-2, 2, -2], [1, 2, 4], [1, -2, 4], [4, 2, 1], [4, -2, 1], [0, 0, 1]], [1, 9, 9, 90, 90, 180, 180, 1]),
}
"""G of minimal filtering by tiles that reach over so many pixels: lines, and what each is divided by. A line of weights for each of a tile's
products: of what is enlarged there are more than points, for there are two kernels."""


def points(weight: Tensor, reach: int = 6) -> Tensor:
    """A 3x3 convolution's weight (outputs, inputs, 3, 3) as `convolve` takes it: (P, whole(outputs) / 16, inputs, 16) float32, or, of
    `pairs`, (P, whole(outputs) / 16, inputs / 2 rounded up, 16, 2) bfloat16, of P = reach², for `ENLARGING` 49.

    Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), F(4x4, 3x3) and F(6x6, 3x3), the first at
    points whose rounding is half of theirs; the others are ours.

    Args:
        reach: 6 or 8 for a stride of 1, of which the larger multiplies a fifth less and adds more: it pays where channels are many and
            pictures large, and is float32; `ENLARGING`, or `HALVING`.
    """
    transformed = _filtered(weight, *_FILTERS[reach]).flatten(0, 1).transpose(1, 2)
    transformed = F.pad(transformed, (0, whole(len(weight)) - len(weight)))
    transformed = transformed.unflatten(2, (-1, MULTIPLE)).transpose(1, 2)
    if reach == 8 or not pairs(weight.dtype):
        return transformed.float().contiguous()
    transformed = F.pad(transformed, (0, 0, 0, transformed.shape[2] % 2))
    return transformed.unflatten(2, (-1, 2)).transpose(3, 4).bfloat16().contiguous()


_NINE = [sign * point for point in (1 / 4, 5 / 8, 9 / 8, 5 / 2) for sign in (1, -1)]
"""Where F(5x5, 5x5) has its points, and one at infinity."""


def nine_points(weight: Tensor) -> Tensor:
    """A 9x9 convolution's weight (outputs, inputs, 9, 9) as `enter` and `draw` take it: (81, 2, 2, inputs, outputs) float32, or, of
    `pairs`, bfloat16, (25, 3, 3, inputs / 2, outputs, 2). Colors, of which there is no even number, are multiplied in float32.

    Source: as `points`, F(5x5, 5x5) of the four 5x5 kernels in it, one line and column of them 0; of `pairs` F(3x3, 3x3) of the nine 3x3
    ones, at points that bear rounding.
    """
    if weight.shape[1] % 2 or not pairs(weight.dtype):
        lines = [[point**n for n in range(5)] for point in _NINE] + [[0, 0, 0, 0, 1]]
        divisors = [prod(point - other for other in _NINE if other != point) for point in _NINE] + [1]
        return _kernels(F.pad(weight, (0, 1, 0, 1)), lines, divisors).float().contiguous()
    lines = [[-16, -8, -4], [16, -8, 4], [32, 40, 50], [-32, 40, -50], [0, 0, 1]]
    transformed = _kernels(weight, lines, [21, 21, 105, 105, 1])
    return transformed.unflatten(3, (-1, 2)).transpose(4, 5).bfloat16().contiguous()


def _kernels(weight: Tensor, lines: list[list[float]], divisors: list[float]) -> Tensor:
    """`_filtered` of the kernels that side by side are a weight: (points^2, rows of kernels, columns of them, inputs, outputs)."""
    size = len(lines[0])
    kernels = weight.unflatten(2, (-1, size)).unflatten(4, (-1, size)).transpose(3, 4)  # (outputs, inputs, rows, columns, size, size)
    return _filtered(kernels, lines, divisors).flatten(0, 1).permute(0, 3, 4, 2, 1)


def _nine_step(weight: Tensor) -> int:
    """Outputs in a line of a tile of what `nine_points` made."""
    return 3 if weight.dtype == torch.bfloat16 else 5


class Convolution:
    """A 3x3 convolution of stride 1, of stride 2, or of what is enlarged to twice its size.

    Args:
        weight: as `points` makes it, for that reach. bias: (whole(outputs),) float32.
        reflects: the border is the picture reflected (or enlarged and reflected), else 0.
        slope: what is negative is multiplied by it in the end (1: as it is; 0: a ReLU).
        norm: weight, bias and eps of what comes next, as `statistics` has them; None: nothing is asked for.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        reach: int,
        *,
        reflects: bool = False,
        slope: float = 1.0,
        norm: tuple[Tensor | None, Tensor | None, float] | None = None,
    ) -> None:
        self.weight, self.reach, self.outputs, self.norms = weight, reach, weight.shape[1] * MULTIPLE, norm is not None
        *affine, eps = norm or (None, None, 0.0)
        self.kept = weight, bias, *affine  # the layer has no more than their addresses
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in self.kept)
        inputs = weight[0].numel() // self.outputs
        self.layer = _Layer(*addresses, inputs, self.outputs, reach, slope, eps, weight.dtype == torch.bfloat16, reflects)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of what comes out, from the picture's."""
        if self.reach == ENLARGING:
            return 2 * height, 2 * width
        return (-(-height // 2), -(-width // 2)) if self.reach == HALVING else (height, width)

    def count(self, read: Tensor, written: Tensor) -> None:
        """As `count_product`."""
        size = written.shape[2:]
        tiles = _tiles(*(n + 1 for n in size), 6) if self.reach == ENLARGING else _tiles(*size, 3 if self.reach == HALVING else self.reach - 2)
        count_product(tiles * self.weight.numel(), self.weight, read, written)


class _Layer(ctypes.Structure):
    """A `Convolution`, as convolution.c has it."""

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "norm_weight", "norm_bias")),
        *((name, c_long) for name in ("inputs", "outputs", "reach")),
        *((name, c_float) for name in ("slope", "eps")),
        *((name, c_int) for name in ("pairs", "reflects")),
    ]


def convolve(
    x: Tensor, convolution: Convolution, *, scale: Tensor | None = None, relu: bool = False, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor | None]:
    """A 3x3 convolution.

    Args:
        x: the picture, of whole(inputs) channels, of which the last are 0.
        scale, relu: of x before the convolution, as `normalise` has them.
        dtype: of what comes out; None: x's.

    Returns:
        (1, whole(outputs), H, W), or of twice or half that size, and where `norm` is asked for the scale of it, as `statistics` gives it.
    """
    height, width = x.shape[2:]
    out = _empty(x, convolution.outputs, *convolution.size(height, width), dtype)
    following = torch.empty(2, convolution.outputs) if convolution.norms else None
    _call("convolve", x, height, width, byref(convolution.layer), scale, relu, following, out, _half(x), _half(out))
    if _counted is not None:
        convolution.count(x, out)
    return out, following


class Layers:
    """Convolutions that the kernels are called for together: with small pictures, or cold caches, Python takes longer than they do."""

    def __init__(self, convolutions: Sequence[Convolution]) -> None:
        self.convolutions = convolutions
        self.array = (_Layer * len(convolutions))(*(one.layer for one in convolutions))

    def count(self, x: Tensor) -> Tensor:
        """As `Convolution.count`, for each of what the one before gives; returns what is like the last one's."""
        for one in self.convolutions if _counted is not None else ():
            written = torch.empty((1, one.outputs, *one.size(*x.shape[2:])), dtype=x.dtype, device="meta")
            one.count(x, written)
            x = written
        return x


def chain(x: Tensor, layers: Layers, weight: Tensor, bias: Tensor) -> Tensor:
    """`convolve` by each of the layers, of stride 1 and without norms, and then `few`.

    Args:
        x: the picture, of whole(inputs) channels, of which the last are 0.
        weight, bias: as `few` takes them.
    """
    (outputs, channels), size = weight.shape[2:], x.shape[2:]
    out = torch.empty((1, outputs, *size))
    _call("chain", x, *size, layers.array, len(layers.convolutions), weight, bias, outputs, out, _half(x))
    count_product(out.numel() * 9 * channels, weight, layers.count(x), out)
    return out


def blocks(x: Tensor, layers: Layers) -> Tensor:
    """Residual blocks, each of two layers of stride 1 with their norms and a ReLU between: like x."""
    out = torch.empty_like(x)
    _call("blocks", x, *x.shape[2:], layers.array, len(layers.convolutions), out, _half(x))
    layers.count(x)
    return out


def level(x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    """Two layers, the first of stride 2: what they make of x, and that normalised."""
    halving, second = layers.convolutions
    size = halving.size(*x.shape[2:])
    raw, feature = (_empty(x, second.outputs, *size) for _ in range(2))
    _call("level", x, *x.shape[2:], layers.array, raw, feature, _half(x))
    layers.count(x)
    return raw, feature


def colors(
    frame: Tensor, height: int, width: int, mean: float, factor: float, weight: Tensor, bias: Tensor, slope: float, dtype: torch.dtype
) -> Tensor:
    """A 3x3 convolution of stride 2 of (sample - mean) * factor, 0 about the border, to 16 channels.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width.
        weight: as `colors_weight` makes it. bias: (16,) float32.
        slope: what is negative is multiplied by it in the end.
        dtype: of what comes out.

    Returns:
        (1, 16, height / 2 rounded up, width / 2 rounded up).
    """
    out = _empty(frame, 16, -(-height // 2), -(-width // 2), dtype)
    _call("colors", frame, *frame.shape[2:], height, width, float(mean), float(factor), weight, bias, float(slope), out, _half(out))
    count_product(out[0, 0].numel() * weight.numel(), weight, frame, out)
    return out


def colors_weight(weight: Tensor) -> Tensor:
    """A 3x3 convolution's weight (16, 3, 3, 3) as `colors` takes it, (3 rows, 3 colors, 3 columns, 16) float32."""
    return weight.detach().float().permute(2, 1, 3, 0).contiguous()


def few(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution of stride 1 to one channel or two, 0 about the border: (1, outputs, H, W) float32, contiguous.

    Args:
        x: the picture, of whole(inputs) channels, of which the last are 0.
        weight: as `few_weights` makes it. bias: (outputs,) float32.
    """
    outputs, channels = weight.shape[2:]
    out = torch.empty((1, outputs, *x.shape[2:]))
    _call("few", x, *x.shape[2:], channels, weight, bias, outputs, out, _half(x))
    count_product(out.numel() * 9 * channels, weight, x, out)
    return out


def few_weights(weight: Tensor) -> Tensor:
    """A 3x3 convolution's weight (outputs, inputs, 3, 3) as `few` takes it, (3, 3, outputs, whole(inputs)) float32."""
    inputs = weight.shape[1]
    return F.pad(weight.detach().float().permute(2, 3, 0, 1), (0, whole(inputs) - inputs)).contiguous()


def enter(
    frame: Tensor, height: int, width: int, weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor, float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A 9x9 convolution of a frame, to 16 channels.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width, and reflected beyond.
        weight: as `nine_points` makes it. bias: (16,) float32.
        norm: weight, bias and eps of what comes next, as `statistics` has them.
        dtype: of what comes out.

    Returns:
        (1, 16, height, width), and its scale, as `statistics` gives it.
    """
    out, scale = _empty(frame, 16, height, width, dtype), torch.empty(2, 16)
    norm_weight, norm_bias, eps = norm
    _call("enter", frame, *frame.shape[2:], height, width, weight, bias, norm_weight, norm_bias, float(eps), scale, out, _half(out))
    count_product(_tiles(height, width, _nine_step(weight)) * weight.numel(), weight, frame, out)
    return out, scale


def draw(x: Tensor, scale: Tensor | None, height: int, width: int, weight: Tensor, bias: Tensor) -> Tensor:
    """A 9x9 convolution of 16 channels, and tanh to 0..1: (1, 3, height, width) float32, contiguous.

    Args:
        x: of at least that size; its border is reflected.
        scale: of x before the convolution, as `normalise` has it; then there is a ReLU.
        weight: as `nine_points` makes it. bias: (3,) float32.
    """
    out = torch.empty((1, 3, height, width))
    _call("draw", x, *x.shape[2:], scale, weight, weight.dtype == torch.bfloat16, bias, out, height, width, _half(x))
    count_product(_tiles(*x.shape[2:], _nine_step(weight)) * weight.numel(), weight, x, out)
    return out


def quarter(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> the mean of each 4x4 square, (1, 3, ceil(H/4), ceil(W/4))."""
    out = torch.empty((1, 3, *(-(-size // 4) for size in frame.shape[2:])))
    _call("quarter", frame, *frame.shape[2:], out)
    return out


def change(frame: Tensor, previous: Tensor) -> Tensor:
    """The largest change of a sample in each 4x4 square and the eight about it, (1, 1, ceil(H/4), ceil(W/4)) float32."""
    out = torch.empty((1, 1, *(-(-size // 4) for size in frame.shape[2:])))
    _call("change", frame, previous, *frame.shape[2:], out)
    return out


def unexplained(quarter: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """As `Net1.unexplained` has it; all contiguous float32."""
    out = torch.empty_like(quarter)
    _call("unexplained", quarter, previous, flow, *quarter.shape[2:], out)
    return out


def follow(previous: Tensor, flow: Tensor, feature: Tensor, unexplained: Tensor, cubic: bool) -> tuple[Tensor, Tensor]:
    """The previous feature along the flow, as `Net1.compose` has it, and what the mask network sees.

    Args:
        previous: F°_{t-1}, float32.
        flow: (1, 2, h, w) float32, contiguous, in full-resolution pixels.
        feature: F_t.
        unexplained: (1, 3, h, w) float32, contiguous.
        cubic: bicubic, else bilinear.

    Returns:
        F'_t float32, and (1, whole(C + 3), h, w) of F_t's type, whose last channels are 0.
    """
    channels, height, width = feature.shape[1:]
    warped, difference = _empty(feature, channels, height, width, torch.float32), _empty(feature, whole(channels + 3), height, width)
    _call("follow", previous, flow, feature, unexplained, height, width, channels, cubic, warped, difference, _half(feature))
    return warped, difference


def blend(
    feature: Tensor,
    warped: Tensor,
    mask: Tensor,
    flow: Tensor,
    change: Tensor | None,
    still: float,
    hold: float,
    coherence: float,
    refresh: float,
    sharpen: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """F°_t, M, and by how much `sharpened` may raise detail, float32, of F_t, F'_t and the mask before its sigmoid, (1, 1, h, w), as
    `Net1.compose` has them."""
    composite, (blended, most) = torch.empty_like(warped), torch.empty((2, 1, 1, *feature.shape[2:]))
    numbers = (float(number) for number in (still, hold, coherence, refresh, sharpen))
    _call("blend", feature, warped, mask, flow, change, *feature.shape[2:], feature.shape[1], *numbers, composite, blended, most,
          _half(feature))
    return composite, blended, most


def sharpened(composite: Tensor, feature: Tensor, most: Tensor) -> Tensor:
    """As `Net1.sharpened` has it, of what `blend` gives and takes."""
    out = torch.empty_like(composite)
    _call("sharpened", composite, feature, most, *feature.shape[2:], feature.shape[1], out, _half(feature))
    return out


def match(here: Tensor, there: Tensor, flow: Tensor, pixels: float, radius: int) -> Tensor:
    """`litepwcnet.seen`, and channels of 0 to the next multiple of 16; radius 2 or 3, the flow contiguous."""
    channels, height, width = here.shape[1:]
    known = _empty(here, whole((2 * radius + 1) ** 2 + channels + 2), height, width)
    _call("match", here, there, flow, float(pixels), height, width, channels, radius, known, _half(here))
    return known


def supported(scores: Tensor) -> Tensor:
    """`litepwcnet.supported`, (1, H, W, H, W) float32, of float32 or bfloat16, contiguous."""
    out = torch.empty(scores.shape)
    _call("supported", scores, *scores.shape[1:3], out, _half(scores))
    return out


def global_match(scores: Tensor, sure: float) -> Tensor:
    """`litepwcnet.global_match`, of equally good matches the first.

    Args:
        scores: (1, H, W, H, W), contiguous, float32 or bfloat16.
        sure: dual softmax from which on a match counts.

    Returns:
        (1, 2, H, W) float32.
    """
    height, width = scores.shape[1:3]
    out = torch.empty((1, 2, height, width))
    _call("global_match", scores, height, width, float(sure), out, _half(scores))
    return out
