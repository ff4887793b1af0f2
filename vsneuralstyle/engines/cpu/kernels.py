"""Convolutions of Net1, what lies between them, and hosts' pictures to RGB and back, in C, for a
CPU: bindings of `kernels.c`, `convolution.c`, `nine.c`, `tiles.c`, `flow.c` and `components.c`.

PyTorch's own operators pass over memory some ten times for one normalisation, and took more than
half of a frame's time where convolutions are fast (docs/explanation/cpu-kernels.md). The wheel has
the library where it was built with a C compiler; without it, and on a GPU, and in training,
`vsneuralstyle.networks` computes the same.

Pictures are (1, C, H, W), channels last, float32 or bfloat16.
"""

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from ctypes import addressof, byref, c_float, c_int, c_long, c_void_p
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu.host import openmp, units
from vsneuralstyle.networks import scene_descriptor

_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V4_BF16 = _V4 | {"avx512_bf16"}
LEVELS = {
    "v4-amx": _V4_BF16 | {"amx_tile", "amx_bf16"},
    "v4-bf16": _V4_BF16,
    "v4": _V4,
    "v3": {"avx2", "bmi2", "f16c", "fma"},
    "v2": {"sse4_2"},
}
"""Of x86-64: what /proc/cpuinfo says of a CPU that can do each, from the best down."""
MULTIPLE = 16
"""Channels come in multiples of this."""
COLORS = 3
ENLARGING, HALVING = 4, 7
"""`reach` of `points` for a convolution of what is enlarged to twice its size by nearest
neighbours, and for one of stride 2."""


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
            if not found.permitted():
                continue
            if runtime := openmp():
                found.count_workers(runtime.omp_get_thread_num)
            return found
    return None


def name() -> str | None:
    """The library's, "kernels-v4" for example; None where there is none."""
    found = library()
    return Path(found._name).stem if found else None


@cache
def _fork() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch uses: its workers are awake.
    None: not to be found.
    """
    runtime = openmp()
    return ctypes.cast(runtime.GOMP_parallel, c_void_p).value if runtime else None


def _call(kernel: str, *arguments: object, **sizes: int) -> None:
    """Calls a kernel.

    Args:
        kernel: a name of `ops.CPU`.
        arguments: as that has them.
        sizes: what is known of the tensors' sizes.

    Raises:
        ValueError: a tensor that the kernel can't take; nothing was called.
        MemoryError: the kernel got no memory.
    """
    operation = ops.CPU[kernel]
    values = operation.values(arguments, **sizes)
    function = getattr(library(), kernel.removesuffix("_pairs"))  # the same, of another weight
    if function.argtypes is None:
        function.argtypes = [c_void_p, c_int, *operation.c_types]
    # A profiler's mark takes as long as a small kernel.
    mark = (
        torch.autograd.profiler.record_function(f"vsneuralstyle::{kernel}")
        if torch.autograd._profiler_enabled()
        else nullcontext()
    )
    with mark:
        result = function(_fork(), torch.get_num_threads(), *values)
    if result:
        raise MemoryError(
            f"the kernel {kernel} got no memory for what it keeps until it is done; give smaller "
            "frames, or end other processes"
        )


@dataclass(frozen=True)
class Product:
    """A convolution by a kernel: multiplications and additions that were executed, in the weight's
    precision, and the tensors.
    """

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


def _empty(
    like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    shape, dtype = (1, channels, height, width), dtype or like.dtype
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def _floats(*shape: int) -> Tensor:
    """For a kernel to write to; whatever type and device others have made PyTorch's default."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def kept(dtype: torch.dtype) -> torch.dtype:
    """What `compose` keeps from frame to frame: float16 beside bfloat16, where the CPU converts it:
    half of what goes through memory. It rounds an eighth as much.
    """
    return (
        torch.float16
        if dtype == torch.bfloat16 and name() not in (None, "kernels", "kernels-v2")
        else torch.float32
    )


def normalise(
    x: Tensor, scale: Tensor | None = None, *, relu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """A multiplication and a sum, a ReLU, and another picture's sum: like x.

    Args:
        x: the picture.
        scale: (2, C) float32, what to multiply x with, and then to add; None: x as it is.
        relu: 0 for what is negative.
        residual: added at the end.
    """
    channels, height, width = x.shape[1:]
    out = _empty(x, channels, height, width)
    _call("normalise", x, height, width, channels, scale, relu, residual, out, x.dtype)
    return out


def whole(channels: int) -> int:
    """To the next multiple of `MULTIPLE`."""
    return -(-channels // MULTIPLE) * MULTIPLE


def _filtered(
    weight: Tensor, lines: Sequence[Sequence[float]], divisors: Sequence[float]
) -> Tensor:
    """G w G^T: weights (..., r, r) at the points of minimal filtering, (points, points, ...),
    float64.
    """
    g = torch.tensor(lines, dtype=torch.float64, device=weight.device)
    g = g / torch.tensor(divisors, dtype=torch.float64, device=weight.device)[:, None]
    return torch.einsum("pr,...rs,qs->pq...", g, weight.detach().double(), g)


def pairs(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply pairs of bfloat16: where the CPU does so, which is twice the
    work at a time.
    """
    return dtype == torch.bfloat16 and "avx512_bf16" in units()


def tiled(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply tiles of bfloat16 (`tiles.c`): where the CPU has AMX units for
    it, and the system lets us.
    """
    return dtype == torch.bfloat16 and name() == "kernels-v4-amx"


_FILTERS = {
    ENLARGING: (
        [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, -1], [1, -1, -1], [0, 0, 1], [0, 1, 1]],
        [1, 1, 2, 2, 2, 1, 1],
    ),
    HALVING: (
        [[0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, -1], [0, 0, 1]],
        [1, 1, 1, 1, 2, 2, 1],
    ),
    6: (
        [[64, 0, 0], [-128, -96, -72], [-128, 96, -72], [32, 48, 72], [32, -48, 72], [0, 0, 1]],
        [81, 243, 243, 243, 243, 1],
    ),
    8: (
        [
            [1, 0, 0],
            [-2, -2, -2],
            [-2, 2, -2],
            [1, 2, 4],
            [1, -2, 4],
            [4, 2, 1],
            [4, -2, 1],
            [0, 0, 1],
        ],
        [1, 9, 9, 90, 90, 180, 180, 1],
    ),
}
"""G of minimal filtering by tiles that reach over so many pixels: lines, and what each is divided
by. A line of weights for each of a tile's
products: of what is enlarged there are more than points, for there are two kernels."""


def points(weight: Tensor, reach: int = 6) -> Tensor:
    """A 3x3 convolution's weight (outputs, inputs, 3, 3) as `convolve` takes it: (whole(outputs) /
    16, P, inputs, 16) float32, or, of `pairs`, (whole(outputs) / 16, P, inputs / 2 rounded up, 16,
    2) bfloat16, of P = reach², for `ENLARGING` 49.

    Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), F(4x4,
    3x3) and F(6x6, 3x3), the first at points whose rounding is half of theirs; the others are ours.

    Args:
        reach: 6 or 8 for a stride of 1, of which the larger multiplies a fifth less and adds more:
            it pays where channels are many and pictures large, and is float32; `ENLARGING`, or
            `HALVING`.
    """
    lines, divisors = _FILTERS[reach]
    transformed = _filtered(weight, lines, divisors).flatten(0, 1).transpose(1, 2)
    transformed = F.pad(transformed, (0, whole(len(weight)) - len(weight)))
    transformed = transformed.unflatten(2, (-1, MULTIPLE)).permute(2, 0, 1, 3)
    if reach == 8 or not pairs(weight.dtype):
        return transformed.float().contiguous()
    transformed = F.pad(transformed, (0, 0, 0, transformed.shape[2] % 2))
    return transformed.unflatten(2, (-1, 2)).transpose(3, 4).bfloat16().contiguous()


_DEPTH = 32
"""Samples that a tile multiplies at a time."""


def _as_tiles(weight: Tensor) -> Tensor:
    """(..., outputs, samples), a line of what is multiplied -> (..., whole(outputs) / 16, samples /
    32 rounded up, 16, 16, 2) bfloat16.
    """
    outputs, samples = weight.shape[-2:]
    weight = F.pad(weight.detach().float(), (0, -samples % _DEPTH, 0, whole(outputs) - outputs))
    return (
        weight.unflatten(-1, (-1, _DEPTH // 2, 2))
        .unflatten(-4, (-1, MULTIPLE))
        .movedim(-4, -2)
        .bfloat16()
    )


def tiles(weight: Tensor, reach: int = 6) -> Tensor:
    """A 3x3 convolution's weight (outputs, inputs, 3, 3) as `convolve` takes it where it is
    `tiled`, bfloat16: (whole(outputs) / 16, 3, chunks, 16, 16, 2), where chunks are of 32 of the 3
    whole(inputs) samples that a row of the kernel meets; for `ENLARGING` (2, 2, whole(outputs) /
    16, 2, chunks, 16, 16, 2): for even and odd rows, and columns, two rows of 2 whole(inputs).

    Args:
        reach: as `points` has it.
    """
    # (3, outputs, 3, inputs)
    weight = F.pad(
        weight.detach().float(), (0, 0, 0, 0, 0, whole(weight.shape[1]) - weight.shape[1])
    ).permute(2, 0, 3, 1)
    if reach != ENLARGING:
        return _as_tiles(weight.flatten(2)).transpose(0, 1).contiguous()
    # of two rows an even one meets the first with the kernel's first, an odd one the second with
    # its last
    first, middle, last = weight
    # (2, 2 rows, outputs, 3, inputs)
    rows = torch.stack((torch.stack((first, middle + last)), torch.stack((first + middle, last))))
    first, middle, last = rows.unbind(3)
    # (2, 2, 2 rows, outputs, 2 columns, inputs)
    both = torch.stack(
        (torch.stack((first, middle + last), 3), torch.stack((first + middle, last), 3)), 1
    )
    return _as_tiles(both.flatten(4)).transpose(2, 3).contiguous()


_NINE = [sign * point for point in (1 / 4, 5 / 8, 9 / 8, 5 / 2) for sign in (1, -1)]
"""Where F(5x5, 5x5) has its points, and one at infinity."""


def nine_points(weight: Tensor) -> Tensor:
    """A 9x9 convolution's weight (outputs, inputs, 9, 9) as `enter` and `draw` take it: (81, 2, 2,
    inputs, outputs) float32, or, of `pairs`, bfloat16, (25, 3, 3, inputs / 2, outputs, 2). Colors,
    of which there is no even number, are multiplied in float32. Where it is `tiled`, bfloat16, of
    colors (2, 9, 16, 16, 2), for even and odd columns, and to colors (9, 4, 5, 16, 16, 2), as
    tiles.c has them.

    Source: as `points`, F(5x5, 5x5) of the four 5x5 kernels in it, one line and column of them 0;
    of `pairs` F(3x3, 3x3) of the nine 3x3 ones, at points that bear rounding.
    """
    if tiled(weight.dtype):
        # (9, outputs, 9 columns of channels)
        channels, rows = weight.shape[1], weight.detach().permute(2, 0, 3, 1).flatten(2)
        # of an even one and of an odd one, which see ten
        columns = F.pad(rows, (0, channels)), F.pad(rows, (channels, 0))
        if channels == COLORS:
            return _as_tiles(torch.stack(columns)).flatten(1, 3).contiguous()
        nine = torch.arange(9, dtype=torch.int64, device=weight.device)
        # Of row r, the kernel's row that a row of the picture, modulo 9, meets there.
        turns = (nine[:, None] + 4 - nine) % 9
        return _as_tiles(
            F.pad(torch.cat(columns, 1)[turns].flatten(1, 2), (0, 0, 0, 10))
        ).contiguous()
    if weight.shape[1] % 2 or not pairs(weight.dtype):
        lines = [[point**n for n in range(5)] for point in _NINE] + [[0, 0, 0, 0, 1]]
        divisors = [prod(point - other for other in _NINE if other != point) for point in _NINE] + [
            1
        ]
        return _kernels(F.pad(weight, (0, 1, 0, 1)), lines, divisors).float().contiguous()
    lines = [[-16, -8, -4], [16, -8, 4], [32, 40, 50], [-32, 40, -50], [0, 0, 1]]
    transformed = _kernels(weight, lines, [21, 21, 105, 105, 1])
    return transformed.unflatten(3, (-1, 2)).transpose(4, 5).bfloat16().contiguous()


def _kernels(weight: Tensor, lines: list[list[float]], divisors: list[float]) -> Tensor:
    """`_filtered` of the kernels that side by side are a weight: (points^2, rows of kernels,
    columns of them, inputs, outputs).
    """
    size = len(lines[0])
    # (outputs, inputs, rows, columns, size, size)
    kernels = weight.unflatten(2, (-1, size)).unflatten(4, (-1, size)).transpose(3, 4)
    return _filtered(kernels, lines, divisors).flatten(0, 1).permute(0, 3, 4, 2, 1)


def _is_tiled(weight: Tensor) -> bool:
    return weight.shape[-3:] == (MULTIPLE, MULTIPLE, 2)


def _count_nine(weight: Tensor, height: int, width: int, *tensors: Tensor) -> None:
    """As `count_product`, of so many pixels and what `nine_points` made."""
    if _is_tiled(weight):
        # For two pixels; of colors twice; to colors a ninth of the weight at a time.
        count_product(
            height * width * weight.numel() // (1 if len(weight) == 2 else 2 * 9), weight, *tensors
        )
    else:
        count_product(
            _tiles(height, width, 3 if weight.dtype == torch.bfloat16 else 5) * weight.numel(),
            weight,
            *tensors,
        )


class Convolution:
    """A 3x3 convolution of stride 1, of stride 2, or of what is enlarged to twice its size.

    Args:
        weight: (outputs, inputs, 3, 3). bias: (outputs,).
        reach: as `points` has it; where all is `tiled`, what kind of convolution it is.
        reflects: the border is the picture reflected (or enlarged and reflected), else 0.
        slope: what is negative is multiplied by it in the end (1: as it is; 0: a ReLU).
        norm: weight and bias, (outputs,) float32 or None, and eps of an instance normalisation that
            comes next; None: nothing is asked for.
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
        self.reach, self.outputs, self.inputs, self.norms = (
            reach,
            whole(len(weight)),
            weight.shape[1],
            norm is not None,
        )
        self.tiled = tiled(weight.dtype)
        self.weight = tiles(weight, reach) if self.tiled else points(weight, reach)
        bias = F.pad(bias.detach().float(), (0, self.outputs - len(bias)))
        *affine, eps = norm or (None, None, 0.0)
        self.kept = self.weight, bias, *affine  # the layer has no more than their addresses
        addresses = ops.LAYER.values(self.kept, outputs=self.outputs)
        self.layer = _Layer(
            *addresses,
            self.inputs,
            self.outputs,
            reach,
            slope,
            eps,
            self.weight.dtype == torch.bfloat16,
            self.tiled,
            reflects,
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of what comes out, from the picture's."""
        if self.reach == ENLARGING:
            return 2 * height, 2 * width
        return (-(-height // 2), -(-width // 2)) if self.reach == HALVING else (height, width)

    def count(self, read: Tensor, written: Tensor) -> None:
        """As `count_product`."""
        height, width = written.shape[2:]
        if self.tiled:
            places = _tiles(height, width, 2 if self.reach == ENLARGING else 1)
        else:
            places = (
                _tiles(height + 1, width + 1, 6)
                if self.reach == ENLARGING
                else _tiles(height, width, 3 if self.reach == HALVING else self.reach - 2)
            )
        count_product(places * self.weight.numel(), self.weight, read, written)


class _Layer(ctypes.Structure):
    """A `Convolution`, as kernels.h has it."""

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "norm_weight", "norm_bias")),
        *((name, c_long) for name in ("inputs", "outputs", "reach")),
        *((name, c_float) for name in ("slope", "eps")),
        *((name, c_int) for name in ("pairs", "tiled", "reflects")),
    ]


def convolve(
    x: Tensor,
    convolution: Convolution,
    *,
    scale: Tensor | None = None,
    relu: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A 3x3 convolution.

    Args:
        x: the picture, of whole(inputs) channels, of which the last are 0.
        scale, relu: of x before the convolution, as `normalise` has them.
        dtype: of what comes out; None: x's.

    Returns:
        (1, whole(outputs), H, W), or of twice or half that size, and where `norm` is asked for its
        scale, as `normalise` takes it.
    """
    height, width = x.shape[2:]
    out = _empty(x, convolution.outputs, *convolution.size(height, width), dtype)
    following = _floats(2, convolution.outputs) if convolution.norms else None
    _call(
        "convolve",
        x,
        height,
        width,
        byref(convolution.layer),
        scale,
        relu,
        following,
        out,
        x.dtype,
        out.dtype,
        C=whole(convolution.inputs),
    )
    if _counted is not None:
        convolution.count(x, out)
    return out, following


class Layers:
    """Convolutions that the kernels are called for together: with small pictures, or cold caches,
    Python takes longer than they do.
    """

    def __init__(self, convolutions: Sequence[Convolution]) -> None:
        self.convolutions = convolutions
        self.inputs = whole(convolutions[0].inputs) if convolutions else 0
        self.array = (_Layer * len(convolutions))(*(one.layer for one in convolutions))

    def count(self, x: Tensor) -> Tensor:
        """As `Convolution.count`, for each of what the one before gives; returns what is like the
        last one's.
        """
        for one in self.convolutions if _counted is not None else ():
            written = _like(x, one.outputs, *one.size(*x.shape[2:]))
            one.count(x, written)
            x = written
        return x


def _like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """For `counting`: what stands for a picture that Python doesn't see."""
    return torch.empty((1, channels, height, width), dtype=x.dtype, device="meta")


def blocks(x: Tensor, layers: Layers) -> Tensor:
    """Residual blocks, each of two layers of stride 1 with their norms and a ReLU between: like
    x.
    """
    out = _empty(x, *x.shape[1:])
    count = len(layers.convolutions)
    _call("blocks", x, *x.shape[2:], layers.array, count, out, x.dtype, C=layers.inputs)
    layers.count(x)
    return out


class Chain:
    """Convolutions of stride 1, without norms, and a last one to a channel or two.

    Args:
        weight: the last one's (outputs, inputs, 3, 3), its border 0. bias: (outputs,).
    """

    def __init__(self, convolutions: Sequence[Convolution], weight: Tensor, bias: Tensor) -> None:
        self.layers, self.outputs = Layers(convolutions), len(weight)
        inputs = weight.shape[1]
        # (3, 3, outputs, whole(inputs))
        weight = F.pad(
            weight.detach().float().permute(2, 3, 0, 1), (0, whole(inputs) - inputs)
        ).contiguous()
        self.last = weight, bias.detach().float().contiguous()
        addresses = ops.LAST.values(self.last, outputs=self.outputs)
        self.struct = _Chain(
            addressof(self.layers.array), len(convolutions), *addresses, self.outputs
        )

    def count(self, picture: Tensor) -> None:
        """As `Convolution.count`, for all of them, of one of that size and type."""
        if _counted is not None:
            last = self.layers.count(
                _like(picture, whole(self.layers.convolutions[0].inputs), *picture.shape[2:])
            )
            count_product(
                self.last[0].numel() * last[0, 0].numel(),
                self.last[0],
                last,
                _like(picture, self.outputs, *picture.shape[2:]),
            )


class _Chain(ctypes.Structure):
    """As kernels.h has it."""

    _fields_ = [
        ("layers", c_void_p),
        ("count", c_long),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_long),
    ]


def chain(x: Tensor, chain: Chain) -> Tensor:
    """(1, outputs, H, W) float32, contiguous, of x, a picture of whole(inputs) channels, of which
    the last are 0.
    """
    out = _floats(1, chain.outputs, *x.shape[2:])
    _call("chain", x, *x.shape[2:], byref(chain.struct), None, out, x.dtype, C=chain.layers.inputs)
    chain.count(x)
    return out


class Pyramid:
    """`LitePWCNet.extract`'s layers.

    Args:
        first: the weight (16, 3, 3, 3) and the bias of a convolution of stride 2, and by what is
            negative there is multiplied in the end.
        layers: one of stride 1, and for each level one of stride 2 and one of stride 1 with its
            norm.
        factor: of a frame's samples, about their mean.
    """

    def __init__(
        self, first: tuple[Tensor, Tensor, float], layers: Sequence[Convolution], factor: float
    ) -> None:
        weight, bias, slope = first
        # (3 rows, 3 colors, 3 columns, 16)
        self.first = (
            weight.detach().float().permute(2, 1, 3, 0).contiguous(),
            bias.detach().float(),
            float(slope),
        )
        self.layers, self.factor = Layers(layers), float(factor)

    def count(self, frame: Tensor, height: int, width: int, dtype: torch.dtype) -> None:
        """As `Convolution.count`, for all of them."""
        if _counted is not None:
            weight = self.first[0]
            seen = _like(frame.to("meta", dtype), MULTIPLE, -(-height // 2), -(-width // 2))
            count_product(seen[0, 0].numel() * weight.numel(), weight, frame, seen)
            self.layers.count(seen)


def look(
    frame: Tensor, height: int, width: int, pyramid: Pyramid, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Normalised features, of each level (1, C, H', W'), the first of them a quarter of the size,
    rounded up.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width.
        dtype: of what comes out.
    """
    features, size, layers = [], (-(-height // 2), -(-width // 2)), pyramid.layers.convolutions
    for halving, second in zip(layers[1::2], layers[2::2]):
        size = halving.size(*size)
        features.append(_empty(frame, second.outputs, *size, dtype))
    _call(
        "look",
        frame,
        *frame.shape[2:],
        height,
        width,
        pyramid.factor,
        *pyramid.first,
        pyramid.layers.array,
        len(features),
        features,
        dtype,
    )
    pyramid.count(frame, height, width, dtype)
    return tuple(features)


class Motion:
    """`LitePWCNet`'s layers behind the features.

    Args:
        matching: weight (C, C) and bias of what the coarsest features are matched by; dtype is
            theirs.
        sure: dual softmax from which on a match counts.
        estimators: for each level, the coarsest first, what `litepwcnet.seen` is seen by, the
            channels of its features, the radius of its cost volume (2 or 3), and of its pixels what
            1 of a flow is.
        pixels: of the frame, that 1 of a flow is.
    """

    def __init__(
        self,
        matching: tuple[Tensor, Tensor],
        dtype: torch.dtype,
        sure: float,
        estimators: Sequence[tuple[Chain, int, int, float]],
        pixels: float,
    ) -> None:
        weight, bias = (each.detach().float() for each in matching)
        weight = weight.T.unflatten(1, (-1, MULTIPLE)).transpose(0, 1)  # (C / 16, C, 16)
        if pairs(dtype):
            weight = weight.unflatten(1, (-1, 2)).transpose(2, 3).bfloat16()
        self.matching, self.pixels = (weight.contiguous(), bias), float(pixels)
        self.start = _Start(*ops.MATCHING.values(self.matching), pairs(dtype), sure)
        self.chains = [chain for chain, *_ in estimators]
        self.channels = [channels for _, channels, *_ in estimators]
        self.array = (_Estimator * len(estimators))(
            *(_Estimator(chain.struct, *numbers) for chain, *numbers in estimators)
        )

    def sizes(self, height: int, width: int) -> dict[str, int]:
        """Of both frames' features, the coarsest first, as `ops` names them.

        height, width: of the finest.
        """
        sizes: dict[str, int] = {}
        for n in reversed(range(len(self.channels))):
            sizes |= {f"C{n}": self.channels[n], f"H{n}": height, f"W{n}": width}
            height, width = -(-height // 2), -(-width // 2)
        return sizes

    def count(self, features: Sequence[Tensor], squares: bool) -> None:
        """As `Convolution.count`, for all of them, and the products of places."""
        if _counted is not None:
            channels, *size = features[-1].shape[1:]
            places = prod(-(-side // 2) if squares else side for side in size)
            scores = _like(self.matching[1], 1, places, places)
            count_product(
                places * channels * (2 * channels + places), self.matching[0], features[-1], scores
            )
        for chain, feature in zip(self.chains, reversed(features)):
            chain.count(feature)


class _Start(ctypes.Structure):
    """As kernels.h has it."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("pairs", c_int), ("sure", c_float)]


class _Estimator(ctypes.Structure):
    """As kernels.h has it."""

    _fields_ = [("chain", _Chain), ("channels", c_long), ("radius", c_long), ("pixels", c_float)]


def motion(
    here: Sequence[Tensor],
    there: Sequence[Tensor],
    motion: Motion,
    squares: bool,
    change: Tensor | None = None,
    still: float = 0.0,
) -> Tensor:
    """`LitePWCNet`'s flow, (1, 2, H, W) float32, contiguous, of the first features' size.

    Args:
        here, there: features as `look` gives them.
        squares: whether squares of 2x2 of the coarsest features are matched.
        change: (1, 1, H, W) float32, contiguous: where it is not above `still`, the flow is 0.
    """
    out = _floats(1, 2, *here[0].shape[2:])
    height, width = out.shape[2:]
    _call(
        "motion",
        here[::-1],
        there[::-1],
        byref(motion.start),
        squares,
        motion.array,
        len(motion.chains),
        motion.pixels,
        height,
        width,
        change,
        float(still),
        out,
        here[0].dtype,
        **motion.sizes(height, width),
    )
    motion.count(here, squares)
    return out


def enter(
    frame: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor,
    norm: tuple[Tensor, Tensor, float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """A 9x9 convolution of a frame, to 16 channels.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width, and
            reflected beyond.
        weight: as `nine_points` makes it. bias: (16,) float32.
        norm: as `Convolution` has it.
        dtype: of what comes out.

    Returns:
        (1, 16, height, width), and its scale, as `normalise` takes it.
    """
    out, scale = _empty(frame, 16, height, width, dtype), _floats(2, 16)
    norm_weight, norm_bias, eps = norm
    kernel = "enter_tiled" if _is_tiled(weight) else "enter"
    _call(
        kernel,
        frame,
        *frame.shape[2:],
        height,
        width,
        weight,
        bias,
        norm_weight,
        norm_bias,
        float(eps),
        scale,
        out,
        dtype,
    )
    _count_nine(weight, height, width, frame, out)
    return out, scale


def draw(
    x: Tensor, scale: Tensor | None, height: int, width: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """A 9x9 convolution of 16 channels, and tanh to 0..1: (1, 3, height, width) float32,
    contiguous.

    Args:
        x: of at least that size; its border is reflected.
        scale: of x before the convolution, as `normalise` has it; then there is a ReLU.
        weight: as `nine_points` makes it. bias: (3,) float32.
    """
    if height > x.shape[2] or width > x.shape[3]:
        raise ValueError(
            f"a picture of {tuple(x.shape)} to draw {width}x{height} pixels of; expected one of at "
            "least that size"
        )
    out = _floats(1, 3, height, width)
    if _is_tiled(weight):
        _call("draw_tiled", x, *x.shape[2:], scale, weight, bias, out, height, width, x.dtype)
    else:
        in_pairs = weight.dtype == torch.bfloat16
        _call(
            "draw_pairs" if in_pairs else "draw",
            x,
            *x.shape[2:],
            scale,
            weight,
            in_pairs,
            bias,
            out,
            height,
            width,
            x.dtype,
        )
    _count_nine(weight, *x.shape[2:], x, out)
    return out


def quarter(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> the mean of each 4x4 square, (1, 3, ceil(H/4),
    ceil(W/4)).
    """
    out = _floats(1, 3, *(-(-size // 4) for size in frame.shape[2:]))
    _call("quarter", frame, *frame.shape[2:], out)
    return out


def glimpse(quarter: Tensor) -> Tensor:
    """`scene_descriptor.scene_descriptor` of (1, 3, H, W) float32, contiguous."""
    out = _floats(scene_descriptor.SIZE)
    _call("glimpse", quarter, *quarter.shape[2:], out)
    return out


def change(frame: Tensor, previous: Tensor, repeats: float) -> Tensor:
    """The largest change of a sample in each 4x4 square and the eight about it, (1, 1, ceil(H/4),
    ceil(W/4)) float32; where their mean is below `repeats`, an eighth of them.
    """
    out = _floats(1, 1, *(-(-size // 4) for size in frame.shape[2:]))
    _call("change", frame, previous, *frame.shape[2:], float(repeats), out)
    return out


def unexplained(quarter: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """As `Net1.warp_residual` has it; all contiguous float32."""
    out = _floats(*quarter.shape)
    _call("unexplained", quarter, previous, flow, *quarter.shape[2:], out)
    return out


def compose(
    feature: Tensor,
    previous: Tensor,
    flow: Tensor,
    unexplained: Tensor,
    change: Tensor | None,
    mask: Chain,
    *,
    cubic: bool,
    still: float,
    hold: float,
    coherence: float,
    refresh: float,
    sharpen: float,
) -> tuple[Tensor, Tensor]:
    """`Net1.compose`: F°_t, and M, float32.

    Args:
        feature: F_t. previous: F°_{t-1}, of the type that is `kept`, as is F°_t.
        flow, unexplained, change: contiguous float32; no change: everything changed.
        mask: of what is seen of whole(C + 3) channels, before its sigmoid.
        cubic: bicubic, else bilinear.
    """
    if mask.layers.inputs != whole(feature.shape[1] + COLORS):
        raise ValueError(
            f"a feature of {tuple(feature.shape)} and a mask of {mask.layers.inputs} inputs; "
            f"expected a mask of the feature's channels and {COLORS} more"
        )
    composite, blended = _empty(previous, *feature.shape[1:]), _floats(1, 1, *feature.shape[2:])
    numbers = (float(number) for number in (still, hold, coherence, refresh, sharpen))
    _call(
        "compose",
        feature,
        previous,
        flow,
        unexplained,
        change,
        *feature.shape[2:],
        feature.shape[1],
        cubic,
        byref(mask.struct),
        *numbers,
        composite,
        blended,
        feature.dtype,
        previous.dtype,
    )
    mask.count(feature)
    return composite, blended


class _Component(ctypes.Structure):
    """As components.c has it."""

    _fields_ = [("samples", c_void_p), ("row", c_long), ("step", c_long)]


def _components(
    planes: Sequence[np.ndarray], size: Sequence[int], cosited: tuple[bool, bool] | None
) -> tuple[ctypes.Array, int, int, int]:
    """As components.c takes them, with the bytes of a sample, and chroma's rows and columns."""
    first, second, third = planes
    rows, columns = ({full} if cosited is None else {full, -(-full // 2)} for full in size)
    if (
        first.shape != tuple(size)
        or third.shape != second.shape
        or second.shape[0] not in rows
        or second.shape[1] not in columns
        or (len({plane.dtype for plane in planes}) > 1)
    ):
        raise ValueError(
            f"planes of {', '.join(f'{plane.shape} {plane.dtype}' for plane in planes)} for a "
            f"picture of {tuple(size)}"
        )
    found = (_Component(plane.__array_interface__["data"][0], *plane.strides) for plane in planes)
    return (_Component * 3)(*found), first.itemsize, *second.shape


def _rows(rows: Sequence[Sequence[float]]) -> ctypes.Array:
    return (c_float * 12)(*(number for row in rows for number in row))


def from_components(
    planes: Sequence[np.ndarray],
    top: int,
    rows: Sequence[Sequence[float]],
    cosited: tuple[bool, bool] | None = None,
) -> Tensor:
    """(1, 3, H, W) float32, contiguous, RGB limited to 0..1.

    Args:
        planes: Y, Cb and Cr, or R, G and B, all uint8 or all uint16: (H, W), and twice the same, or
            as many or half as many rows and columns, rounded up; of any strides.
        top: samples are divided by it.
        rows: of each of R, G and B: what the planes' samples weigh then, and what is added.
        cosited: as `yuv.upsample` has it; None: all planes are of one size.

    Raises:
        ValueError: planes of other sizes, or of different types.
    """
    height, width = planes[0].shape
    out = _floats(1, 3, height, width)
    components, size, *chroma = _components(planes, (height, width), cosited)
    _call(
        "from_components",
        components,
        size,
        height,
        width,
        *chroma,
        *(cosited or (False, False)),
        top,
        _rows(rows),
        out,
    )
    return out


def to_components(
    rgb: Tensor,
    planes: Sequence[np.ndarray],
    levels: int,
    unit: int,
    rows: Sequence[Sequence[float]],
    cosited: tuple[bool, bool] | None = None,
) -> None:
    """The way back: (1, 3, H, W) float32, contiguous, to planes that are written to.

    Args:
        rows: of each of the planes, in code values: what R, G and B weigh, and what is added.
        levels, unit: codes are rounded to nearest, limited to 0..levels, times unit.

    Raises:
        ValueError: as `from_components` does, or planes that are read-only.
    """
    if not all(plane.flags.writeable for plane in planes):
        raise ValueError("planes that are read-only; expected some to write to")
    height, width = rgb.shape[2:]
    components, size, *chroma = _components(planes, (height, width), cosited)
    _call(
        "to_components",
        rgb,
        height,
        width,
        components,
        size,
        *chroma,
        *(cosited or (False, False)),
        _rows(rows),
        levels,
        unit,
    )
