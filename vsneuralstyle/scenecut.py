"""Where a scene starts, decided from two consecutive frames alone.

A decision that looked further back or ahead would make a frame's pixels depend on where a host began to play.
"""

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
    return float(distance(thumbnail(previous), thumbnail(current)))


def thumbnail(frame: Tensor) -> Tensor:
    """What is looked at of a frame (1, C, H, W): (1, C, 18, 32)."""
    return F.adaptive_avg_pool2d(frame, THUMBNAIL)


def distance(previous: Tensor, current: Tensor) -> Tensor:
    """`change` of two thumbnails, (1, 3, 18, 32), as a tensor of one number.

    The smaller of two distances, since a cut raises both: how little the thumbnails correlate (a flash or a fade
    leaves their structure), and how far apart the histograms lie (a fast pan leaves their colors).
    """
    a, b = previous[0], current[0]
    return torch.minimum(_structure_distance(a, b), _histogram_distance(a, b))


def _structure_distance(a: Tensor, b: Tensor) -> Tensor:
    x, y = (thumbnail.flatten(1) - thumbnail.flatten(1).mean(1, keepdim=True) for thumbnail in (a, b))
    # As if both had the same faint detail besides their own: two nearly flat pictures, such as the first of a fade, are then alike,
    # and a flat one and another are not.
    detail = FAINT**2 * x.numel()
    correlation = ((x * y).sum() + detail) / ((x.square().sum() + detail) * (y.square().sum() + detail)).sqrt()
    return 1 - correlation.clamp(0, 1)


def _histogram_distance(a: Tensor, b: Tensor) -> Tensor:
    def histogram(thumbnail: Tensor) -> Tensor:
        # Each pixel is shared between its two nearest bins, so that noise at a bin's edge moves nothing.
        positions = thumbnail.flatten(1).clamp(0, 1) * (_BINS - 1)
        bins = torch.arange(_BINS, device=positions.device, dtype=positions.dtype).view(1, -1, 1)
        return (1 - (positions[:, None] - bins).abs()).clamp(min=0).mean(-1)

    return (histogram(a) - histogram(b)).abs().sum(1).mean() / 2
