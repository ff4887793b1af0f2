"""Hosts' samples to RGB and back, on a GPU.

They are integers of one or two bytes, uint8 or uint16, of all planes one after the other. What they
mean says `pixels.Coding`.
"""

from collections.abc import Sequence
from itertools import chain
from math import prod

import torch
from torch import Tensor

from vsneuralstyle.engines.cuda.runtime import BLOCK, blocks, empty_floats, launch

PIXELS = 4
"""Of a row, that are a thread's where hosts' samples are converted."""
Rows = Sequence[Sequence[float]]
"""A map of three numbers to three: of each that comes out, what those that go in weigh, and what is
added."""


def samples_to_rgb(samples: Tensor, top: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Samples of R, G and B, (1, 3, H, W), contiguous -> sample / top * scale + offset, limited to
    0..1, float32.
    """
    count, out = samples.numel(), empty_floats(samples, *samples.shape)
    launch(
        "samples_to_rgb",
        blocks(count, threads=(PIXELS * BLOCK,)),
        (BLOCK,),
        samples,
        out,
        count,
        float(top),
        scale,
        offset,
        variant=_bits(samples.dtype),
    )
    return out


def rgb_to_samples(
    rgb: Tensor, dtype: torch.dtype, scale: float, offset: float, levels: int, unit: int = 1
) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> samples, (3 H W,): number * scale + offset rounded to
    nearest, limited to 0..levels, times unit.
    """
    count = 3 * prod(rgb.shape[2:])
    out = torch.empty(count, dtype=dtype, device=rgb.device)
    launch(
        "rgb_to_samples",
        blocks(count, threads=(PIXELS * BLOCK,)),
        (BLOCK,),
        rgb,
        out,
        count,
        scale,
        offset,
        float(levels),
        unit,
        variant=_bits(dtype),
    )
    return out


def planes_to_rgb(
    samples: Tensor,
    luma: Sequence[int],
    chroma: Sequence[int],
    rows: Rows,
    cosited: tuple[bool, bool],
) -> Tensor:
    """Samples of Y, Cb and Cr -> (1, 3, H, W) float32, contiguous, limited to 0..1.

    Args:
        samples: (H W + 2 h w,).
        luma, chroma: (H, W), and (h, w): the same, or half as many rows, columns or both, rounded
            up.
        rows: of R, G and B by samples.
        cosited: as `yuv.upsample` has it.

    Raises:
        ValueError: chroma of another size.
    """
    _check(luma, chroma)
    if samples.numel() != prod(luma) + 2 * prod(chroma):
        raise ValueError(
            f"{samples.numel()} samples of a picture of {luma} with chroma of {chroma}"
        )
    out, threads = empty_floats(samples, 1, 3, *luma), (32, 8)
    launch(
        "planes_to_rgb",
        blocks(-(-luma[1] // PIXELS), luma[0], threads=threads),
        threads,
        samples,
        out,
        *luma,
        *chroma,
        *cosited,
        *chain(*rows),
        variant=_bits(samples.dtype),
    )
    return out


def rgb_to_planes(
    rgb: Tensor,
    chroma: Sequence[int],
    rows: Rows,
    cosited: tuple[bool, bool],
    dtype: torch.dtype,
    levels: int,
    unit: int = 1,
) -> Tensor:
    """The way back: (1, 3, H, W) float32, contiguous -> samples as `from_components` takes them.

    rows: of Y, Cb and Cr in code values, which are rounded to nearest, limited to 0..levels, and
    multiplied by unit.
    """
    luma, threads = rgb.shape[2:], (32, 8)
    _check(luma, chroma)
    out = torch.empty(prod(luma) + 2 * prod(chroma), dtype=dtype, device=rgb.device)
    launch(
        "rgb_to_planes",
        blocks(-(-luma[1] // PIXELS), chroma[0], threads=threads),
        threads,
        rgb,
        out,
        *luma,
        *chroma,
        *cosited,
        *chain(*rows),
        float(levels),
        unit,
        variant=_bits(dtype),
    )
    return out


def _bits(dtype: torch.dtype) -> str:
    return f"_{8 * dtype.itemsize}"


def _check(luma: Sequence[int], chroma: Sequence[int]) -> None:
    if any(some not in (all_, (all_ + 1) // 2) for some, all_ in zip(chroma, luma)):
        raise ValueError(
            f"chroma of {tuple(chroma)} in a picture of {tuple(luma)}; expected as many rows and "
            "columns, or half as many"
        )
