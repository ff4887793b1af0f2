"""What lies between the convolutions of Net1, in C, for a CPU: bindings of `kernels.c`.

PyTorch's own operators pass over memory some ten times for one normalisation, and took more than half of a frame's time where
convolutions are fast (docs/performance.md). The wheel has the library where it was built with a C compiler; without it,
and on a GPU, and in training, `vsneuralstyle.networks` computes the same.

Pictures are (1, C, H, W), channels last, float32 or bfloat16.
"""

import ctypes
import platform
import re
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle.cpu import units

LEVELS = {"v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "v3": {"avx2", "bmi2", "f16c", "fma"}, "v2": {"sse4_2"}}
"""Of x86-64: what /proc/cpuinfo says of a CPU that can do each, from the best down."""
MULTIPLE = 16
"""Channels come in multiples of this."""


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
            return ctypes.CDLL(str(path))
    return None


def name() -> str | None:
    """The library's, "kernels-v4" for example; None where there is none."""
    found = library()
    return Path(found._name).stem if found else None


@cache
def _fork() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch uses: its workers are awake. None: not to be found."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", maps)):
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def _call(kernel: str, *arguments: object) -> None:
    """Tensors go as their addresses; None as no address."""
    converted = []
    for argument in arguments:
        if isinstance(argument, float):
            converted.append(c_float(argument))
        elif isinstance(argument, bool):
            converted.append(c_int(argument))
        elif isinstance(argument, int):
            converted.append(c_long(argument))
        else:
            converted.append(c_void_p(None if argument is None else argument.data_ptr()))
    with torch.autograd.profiler.record_function(f"vsneuralstyle::{kernel}"):
        result = getattr(library(), kernel)(c_void_p(_fork()), c_int(torch.get_num_threads()), *converted)
    if kernel in ("normalise", "match") and result:
        raise MemoryError(f"no memory for {kernel} of {arguments[1:4]}")


def _empty(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        (1, channels, height, width), dtype=dtype or like.dtype, memory_format=torch.channels_last
    )


def _half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def pack(frame: Tensor, height: int, width: int, pad: int, dtype: torch.dtype, offset: float = 0.0, factor: float = 1.0) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> (sample - offset) * factor, (1, 3, height + 2 pad, width + 2 pad).

    To height and width its border is repeated, beyond them it is reflected.
    """
    out = _empty(frame, 3, height + 2 * pad, width + 2 * pad, dtype)
    _call("pack", frame, *frame.shape[2:], height, width, pad, offset, factor, out, _half(out))
    return out


def normalise(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
    *,
    statistics: bool = True,
    corners: bool = False,
    relu: bool = False,
    residual: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """Instance normalisation with a ReLU, a sum, and the reflected border that the next convolution wants.

    Args:
        x: the picture; or, with `corners`, what `UpsampledConv.corners` makes of one.
        weight, bias: (C,) float32.
        eps: added to the variance.
        statistics: normalise; else x as it is.
        corners: see x.
        relu: 0 for what is negative.
        residual: added at the end, with a border of any width.
        pad: width of the border.

    Returns:
        (1, C, H + 2 pad, W + 2 pad).
    """
    channels, height, width = x.shape[1:]
    if corners:
        channels, height, width = channels // 4, 2 * (height - 1), 2 * (width - 1)
    out = _empty(x, channels, height + 2 * pad, width + 2 * pad)
    border = 0 if residual is None else (residual.shape[2] - height) // 2
    _call("normalise", x, height, width, channels, corners, statistics, weight, bias, float(eps), relu, residual, border, out, pad,
          _half(x))
    return out


def picture(blocks: Tensor, height: int, width: int) -> Tensor:
    """What `BlockedConv.blocks` makes, before tanh -> (1, 3, height, width) float32, 0..1, contiguous."""
    out = torch.empty((1, 3, height, width))
    _call("picture", blocks, 2 * blocks.shape[2], 4 * blocks.shape[3], out, height, width, _half(blocks))
    return out


def quarter(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> the mean of each 4x4 square, (1, 3, ceil(H/4), ceil(W/4))."""
    out = torch.empty((1, 3, *(-(-size // 4) for size in frame.shape[2:])))
    _call("quarter", frame, *frame.shape[2:], out)
    return out


def change(frame: Tensor, previous: Tensor) -> Tensor:
    """The largest change of a sample in each 4x4 square, (1, 1, ceil(H/4), ceil(W/4)) float32."""
    out = torch.empty((1, 1, *(-(-size // 4) for size in frame.shape[2:])))
    _call("change", frame, previous, *frame.shape[2:], out)
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
        F'_t float32, and (1, C + 3, h, w) of F_t's type.
    """
    channels, height, width = feature.shape[1:]
    warped, difference = _empty(feature, channels, height, width, torch.float32), _empty(feature, channels + 3, height, width)
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
) -> tuple[Tensor, Tensor]:
    """F°_t and M, float32, of F_t, F'_t and the mask before its sigmoid, (1, 1, h, w), as `Net1.compose` has them."""
    composite, blended = torch.empty_like(warped), torch.empty((1, 1, *feature.shape[2:]))
    numbers = (float(number) for number in (still, hold, coherence, refresh))
    _call("blend", feature, warped, mask, flow, change, *feature.shape[2:], feature.shape[1], *numbers, composite, blended,
          _half(feature))
    return composite, blended


def match(here: Tensor, there: Tensor, flow: Tensor, pixels: float, radius: int) -> Tensor:
    """`litepwcnet.seen`; radius 2 or 3, the flow contiguous."""
    channels, height, width = here.shape[1:]
    known = _empty(here, (2 * radius + 1) ** 2 + channels + 2, height, width)
    _call("match", here, there, flow, float(pixels), height, width, channels, radius, known, _half(here))
    return known
