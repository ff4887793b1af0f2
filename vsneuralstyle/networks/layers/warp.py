"""Backward warping of images and features."""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(source: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Samples `source` at p + flow(p): Chen et al. (ICCV 2017), Eq. 2.

    The grid is float32 whatever the precision of the source: in bfloat16 a coordinate over 256 has
    no fraction.

    Args:
        source: (B, C, H, W).
        flow: (B, 2, H, W), (x, y) in pixels of `source`.
        mode: "bilinear" or "bicubic", which keeps more of the detail when a feature is resampled at
            every frame: Keys, "Cubic Convolution Interpolation for Digital Image Processing"
            (1981), a = -1/2.

    Returns:
        (B, C, H, W) float32; outside the source its border is repeated.
    """
    source, (x, y) = source.float(), _positions(flow)
    if mode == "bilinear":
        return _sampled(source, x, y)
    # Not grid_sample's own, whose a = -3/4 overshoots: what it adds at edges flickers.
    height, width = source.shape[-2:]
    columns, rows = _taps(x, width), _taps(y, height)
    taps = (
        (across * down)[:, None] * _sampled(source, at, to)
        for to, down in rows
        for at, across in columns
    )
    return cast("Tensor", sum(taps))  # of nine, so not the 0 that `sum` starts with


def _sampled(source: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`source` (B, C, H, W) float32 at (x, y), (B, H, W) each, bilinearly."""
    height, width = source.shape[-2:]
    grid = torch.stack((x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1), -1)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _taps(at: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Where a cubic convolution samples an axis, and the weights: three times, since its two inner
    taps are one between them.
    """
    at = at.clamp(-2, size + 1)  # further out all is border
    left = at.floor()
    t = at - left
    first, third, last = -t * (1 - t) ** 2 / 2, t * (1 + 4 * t - 3 * t**2) / 2, t**2 * (t - 1) / 2
    inner = 1 - first - last
    return (left - 1, first), (left + third / inner, inner), (left + 2, last)


def within(flow: Tensor) -> Tensor:
    """Whether p + flow(p) lies in the frame, (B, 1, H, W) float32: 1 in it, falling to 0 a pixel
    beyond its border.

    Args:
        flow: (B, 2, H, W), (x, y) in pixels.
    """
    beyond = (
        torch.maximum(-at, at - (size - 1)) for at, size in zip(_positions(flow), flow.shape[:1:-1])
    )
    return (1 - torch.maximum(*beyond)).clamp(0, 1)[:, None]


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """The x and y of p + flow(p), (B, H, W) float32 each."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    return flow[:, 0].float() + x, flow[:, 1].float() + y[:, None]
