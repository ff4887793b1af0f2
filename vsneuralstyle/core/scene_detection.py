"""Where a scene starts, decided from two consecutive frames alone.

A decision that looked further back or ahead would make a frame's pixels depend on where a host
began to play.

A cut that is missed costs little: nothing of the scene before can be traced, and the mask network
keeps the frame's own features. One that is seen where there is none makes the whole picture jump.
So all of three distances have to say that it is one.
"""

from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.networks.scene_descriptor import (
    COARSE,
    HISTOGRAMS,
    PIXELS,
    THUMBNAIL,
    thumbnail,
    thumbnail_descriptor,
)

DEFAULT_THRESHOLD = 0.15
NOISE_STD = 2 / 255
"""Standard deviation of detail that says nothing."""
_PATCH = (9, 8)
"""Height and width of the pieces of a thumbnail that are looked for in another one."""
_UNRELATED = 0.3
"""Share of a picture's detail that may be left when it is put together of another one's pieces; of
frames of different shots twice that is, as the median."""


def cut_score(previous: Tensor, current: Tensor) -> float:
    """How surely another scene begins: 0 (the same scene) to 1.

    Args:
        previous, current: (1, 3, H, W), RGB 0..1, of the same size; both may be scaled down.
    """
    before, now = (thumbnail_descriptor(thumbnail(frame)) for frame in (previous, current))
    return min(distance(before, now), patch_mismatch(before, now))


def is_cut(previous: Tensor, current: Tensor, threshold: float) -> bool:
    """Whether the `cut_score` of two frames is above a threshold.

    Args:
        previous, current: their scene descriptors, in host memory.
    """
    # Only where the first is above it is the other one worth its milliseconds.
    return distance(previous, current) > threshold and patch_mismatch(previous, current) > threshold


def distance(previous: Tensor, current: Tensor) -> float:
    """How far apart two frames are, 0 to 1.

    The smaller of two distances, since a cut raises both: how little the thumbnails correlate (a
    flash or a fade leaves their structure), and how far apart the histograms lie (a fast pan leaves
    their colors).

    Args:
        previous, current: their scene descriptors.
    """
    structure, length = slice(HISTOGRAMS.start), HISTOGRAMS.stop
    likeness = (previous[structure] * current[structure]).sum()
    apart = (previous[HISTOGRAMS] - current[HISTOGRAMS]).abs().sum()
    likeness, before, after, apart = torch.stack(
        (likeness, previous[length], current[length], apart)
    ).tolist()
    # As if both had the same faint detail besides their own: two nearly flat pictures, such as the
    # first of a fade, are then alike, and a flat one and another are not.
    detail = NOISE_STD**2 * 3 * prod(COARSE)
    correlation = (likeness + detail) / sqrt((before + detail) * (after + detail))
    return min(1 - min(max(correlation, 0.0), 1.0), apart / 6)


def patch_mismatch(previous: Tensor, current: Tensor) -> float:
    """How little two frames have in common wherever it lies, 0 to 1: it is small where something
    fast and large goes through the picture, which `distance` takes for a cut.

    Each picture is put together of the other's: each of its 4x8 pieces, about each color's mean, by
    the most alike at any place. What that leaves, in proportion to the pictures' detail, is scaled
    so that it has the same threshold.

    Args:
        previous, current: their scene descriptors.
    """
    pictures = [one[PIXELS].view(1, 3, *THUMBNAIL) for one in (previous, current)]
    everywhere = [_patches(picture, 1) for picture in pictures]
    left, detail = 0.0, 0.0
    for wanted, there in zip(pictures, reversed(everywhere)):
        pieces = _patches(wanted, _PATCH)
        nearest = (there.square().sum(1) - 2 * pieces @ there.T).amin(1)
        energy = pieces.square().sum(1)
        left += (energy + nearest).clamp(min=0).sum().item()
        detail += energy.sum().item() + NOISE_STD**2 * pieces.numel()
    return min(max(1.6 * (left / detail - _UNRELATED), 0.0), 1.0)


def _patches(picture: Tensor, stride: int | tuple[int, int]) -> Tensor:
    """The pieces of a picture (1, 3, H, W), each about each color's mean, one a row."""
    pieces = F.unfold(picture, _PATCH, stride=stride)[0].T.unflatten(1, (3, -1))
    return (pieces - pieces.mean(2, keepdim=True)).flatten(1)
