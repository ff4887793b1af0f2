"""Where a scene starts, decided from two consecutive frames alone.

A decision that looked further back or ahead would make a frame's pixels depend on where a host began to play.
"""

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

DEFAULT_THRESHOLD = 0.15
THUMBNAIL = (18, 32)
"""Height and width of the pictures that are looked at."""
FAINT = 2 / 255
"""Standard deviation of detail that says nothing."""
_BINS = 16


def change(previous: Tensor, current: Tensor) -> float:
    """How surely another scene begins: 0 (the same scene) to 1.

    Args:
        previous, current: (1, 3, H, W), RGB 0..1, of the same size; both may be scaled down.
    """
    return distance(compared(*(seen(thumbnail(frame)) for frame in (previous, current))).tolist())


def thumbnail(frame: Tensor) -> Tensor:
    """What is looked at of a frame (1, C, H, W): (1, C, 18, 32)."""
    return F.adaptive_avg_pool2d(frame, THUMBNAIL)


def seen(thumbnail: Tensor) -> Tensor:
    """What is kept of a frame's thumbnail (1, 3, 18, 32), one vector: its structure, which is the thumbnail about each color's mean, its
    colors' histograms, and the structure's squared length."""
    colors = thumbnail[0].flatten(1)
    structure = colors - colors.mean(1, keepdim=True)
    # Each pixel is shared between its two nearest bins, so that noise at a bin's edge moves nothing.
    bins = torch.arange(_BINS, device=colors.device, dtype=colors.dtype).view(1, -1, 1)
    histograms = (1 - (colors.clamp(0, 1)[:, None] * (_BINS - 1) - bins).abs()).clamp(min=0).mean(2)
    return torch.cat((structure.flatten(), histograms.flatten(), structure.square().sum().view(1)))


def compared(previous: Tensor, current: Tensor) -> Tensor:
    """The four numbers of what was `seen` of two frames that `distance` takes."""
    histograms = slice(-1 - 3 * _BINS, -1)
    likeness = (previous * current)[: histograms.start].sum()
    return torch.stack((likeness, previous[-1], current[-1], (previous - current)[histograms].abs().sum()))


def distance(numbers: Sequence[float]) -> float:
    """`change`, of the numbers of `compared`.

    The smaller of two distances, since a cut raises both: how little the thumbnails correlate (a flash or a fade
    leaves their structure), and how far apart the histograms lie (a fast pan leaves their colors).
    """
    likeness, before, after, apart = numbers
    # As if both had the same faint detail besides their own: two nearly flat pictures, such as the first of a fade, are then alike,
    # and a flat one and another are not.
    detail = FAINT**2 * 3 * prod(THUMBNAIL)
    correlation = (likeness + detail) / sqrt((before + detail) * (after + detail))
    return min(1 - min(max(correlation, 0.0), 1.0), apart / 6)
