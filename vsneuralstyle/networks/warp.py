"""Backward warping of images and features."""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(source: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Samples `source` at p + flow(p): Chen et al. (ICCV 2017), Eq. 2.

    The grid is float32 whatever the precision of the source: in bfloat16 a coordinate over 256 has no fraction.

    Args:
        source: (B, C, H, W).
        flow: (B, 2, H, W), (x, y) in pixels of `source`.
        mode: "bilinear" or "bicubic". Bicubic keeps more of the detail when a feature is resampled at every frame.

    Returns:
        (B, C, H, W) float32; outside the source its border is repeated.
    """
    height, width = source.shape[-2:]
    x, y = _positions(flow)
    grid = torch.stack((x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1), -1)
    return F.grid_sample(source.float(), grid, mode=mode, padding_mode="border", align_corners=True)


def within(flow: Tensor) -> Tensor:
    """Whether p + flow(p) lies in the frame, (B, 1, H, W) float32: 1 in it, falling to 0 a pixel beyond its border.

    Args:
        flow: (B, 2, H, W), (x, y) in pixels.
    """
    beyond = (torch.maximum(-at, at - (size - 1)) for at, size in zip(_positions(flow), flow.shape[:1:-1]))
    return (1 - torch.maximum(*beyond)).clamp(0, 1)[:, None]


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """The x and y of p + flow(p), (B, H, W) float32 each."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    return flow[:, 0].float() + x, flow[:, 1].float() + y[:, None]
