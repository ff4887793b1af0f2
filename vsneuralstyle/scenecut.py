"""Where a scene starts, decided from two consecutive frames alone.

A decision that looked further back or ahead would make a frame's pixels depend on where a host began to play.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DEFAULT_THRESHOLD = 0.15
_THUMBNAIL = (18, 32)
_BINS = 16


def change(previous: Tensor, current: Tensor) -> float:
    """How surely another scene begins: 0 (the same scene) to 1.

    The smaller of two distances, since a cut raises both: how little the thumbnails correlate (a flash or a fade
    leaves their structure), and how far apart the histograms lie (a fast pan leaves their colors).

    Args:
        previous, current: (1, 3, H, W), RGB 0..1, of the same size; both may be scaled down.
    """
    thumbnails = F.adaptive_avg_pool2d(torch.cat((previous, current)), _THUMBNAIL).flatten(2)  # (2, 3, pixels)
    return torch.minimum(_structure_distance(thumbnails), _histogram_distance(thumbnails)).item()


def _structure_distance(thumbnails: Tensor) -> Tensor:
    centred = thumbnails - thumbnails.mean(2, keepdim=True)
    product, size = centred.prod(0).sum(), centred.square().sum((1, 2)).prod().sqrt()
    # The constant keeps two nearly flat pictures, black with noise say, from counting as different.
    return 1 - (product / (size + 1e-3 * centred[0].numel())).clamp(0, 1)


def _histogram_distance(thumbnails: Tensor) -> Tensor:
    # Each pixel is shared between its two nearest bins, so that noise at a bin's edge moves nothing.
    positions = thumbnails.clamp(0, 1) * (_BINS - 1)
    bins = torch.arange(_BINS, device=positions.device).unsqueeze(1)
    before, after = (1 - (positions.unsqueeze(2) - bins).abs()).clamp(min=0).mean(3)  # (3, bins) each
    return (before - after).abs().sum(1).mean() / 2
