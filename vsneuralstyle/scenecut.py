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

DEFAULT_THRESHOLD = 0.15
THUMBNAIL = (36, 64)
"""Height and width of the pictures that are looked at."""
FAINT = 2 / 255
"""Standard deviation of detail that says nothing."""
_COARSE = (18, 32)
_CELL = (9, 8)
"""Height and width of the pieces of a thumbnail that are looked for in another one."""
_CHANCE = 0.3
"""Share of a picture's detail that may be left when it is put together of another one's pieces; of
frames of different shots twice that is, as the median."""
_BINS = 16
_HISTOGRAMS = slice(3 * prod(_COARSE), 3 * (prod(_COARSE) + _BINS))
_PICTURE = slice(_HISTOGRAMS.stop + 1, _HISTOGRAMS.stop + 1 + 3 * prod(THUMBNAIL))
GLIMPSE = _PICTURE.stop + 1
"""Numbers of a `glimpse`."""


def change(previous: Tensor, current: Tensor) -> float:
    """How surely another scene begins: 0 (the same scene) to 1.

    Args:
        previous, current: (1, 3, H, W), RGB 0..1, of the same size; both may be scaled down.
    """
    before, now = (seen(thumbnail(frame)) for frame in (previous, current))
    return min(distance(before, now), unfound(before, now))


def starts(previous: Tensor, current: Tensor, threshold: float) -> bool:
    """Whether `change` is above a threshold, of what was `seen` of two frames, or a `glimpse` of
    each, in host memory.
    """
    # Only where the first is above it is the other one worth its milliseconds.
    return distance(previous, current) > threshold and unfound(previous, current) > threshold


def thumbnail(frame: Tensor) -> Tensor:
    """What is looked at of a frame (1, C, H, W): (1, C, 36, 64)."""
    return F.adaptive_avg_pool2d(frame, THUMBNAIL)


def seen(thumbnail: Tensor) -> Tensor:
    """What is kept of a frame's thumbnail (1, 3, 36, 64), one vector: its structure, which is the
    thumbnail at half its size about each color's mean, its colors' histograms, the structure's
    squared length, and the thumbnail.
    """
    colors = F.avg_pool2d(thumbnail, 2)[0].flatten(1)
    structure = colors - colors.mean(1, keepdim=True)
    # Each pixel is shared between its two nearest bins, so that noise at a bin's edge moves
    # nothing.
    bins = torch.arange(_BINS, device=colors.device, dtype=colors.dtype).view(1, -1, 1)
    histograms = (1 - (colors.clamp(0, 1)[:, None] * (_BINS - 1) - bins).abs()).clamp(min=0).mean(2)
    return torch.cat(
        (
            structure.flatten(),
            histograms.flatten(),
            structure.square().sum().view(1),
            thumbnail.flatten(),
        )
    )


def glimpse(quarter: Tensor) -> Tensor:
    """Of a frame at quarter resolution (1, 3, H, W) what is `seen`, and last the frame's contrast,
    by which it shows of the style: the standard deviation of its quarter, in which fine noise is
    averaged away.

    Instance normalisation brings whatever there is to full contrast: the noise of a black leader,
    and of a frame of one color its own rounding. In a fade, the style comes with the picture.
    """
    thumbnails = thumbnail(torch.cat((quarter, quarter.square()), 1))
    # By way of thumbnails: sums of so few numbers don't depend on the number of threads.
    mean, squares = thumbnails.mean((2, 3)).chunk(2, 1)
    contrast = (squares - mean.square()).mean().clamp(min=0).sqrt()
    return torch.cat((seen(thumbnails[:, :3]), contrast.view(1)))


def distance(previous: Tensor, current: Tensor) -> float:
    """How far apart two frames are, 0 to 1.

    The smaller of two distances, since a cut raises both: how little the thumbnails correlate (a
    flash or a fade leaves their structure), and how far apart the histograms lie (a fast pan leaves
    their colors).

    Args:
        previous, current: what was `seen` of them.
    """
    structure, length = slice(_HISTOGRAMS.start), _HISTOGRAMS.stop
    likeness = (previous[structure] * current[structure]).sum()
    apart = (previous[_HISTOGRAMS] - current[_HISTOGRAMS]).abs().sum()
    likeness, before, after, apart = torch.stack(
        (likeness, previous[length], current[length], apart)
    ).tolist()
    # As if both had the same faint detail besides their own: two nearly flat pictures, such as the
    # first of a fade, are then alike, and a flat one and another are not.
    detail = FAINT**2 * 3 * prod(_COARSE)
    correlation = (likeness + detail) / sqrt((before + detail) * (after + detail))
    return min(1 - min(max(correlation, 0.0), 1.0), apart / 6)


def unfound(previous: Tensor, current: Tensor) -> float:
    """How little two frames have in common wherever it lies, 0 to 1: it is small where something
    fast and large goes through the picture, which `distance` takes for a cut.

    Each picture is put together of the other's: each of its 4x8 pieces, about each color's mean, by
    the most alike at any place. What that leaves, in proportion to the pictures' detail, is scaled
    so that it has the same threshold.

    Args:
        previous, current: what was `seen` of them.
    """
    pictures = [one[_PICTURE].view(1, 3, *THUMBNAIL) for one in (previous, current)]
    everywhere = [_pieces(picture, 1) for picture in pictures]
    left, detail = 0.0, 0.0
    for wanted, there in zip(pictures, reversed(everywhere)):
        pieces = _pieces(wanted, _CELL)
        nearest = (there.square().sum(1) - 2 * pieces @ there.T).amin(1)
        energy = pieces.square().sum(1)
        left += (energy + nearest).clamp(min=0).sum().item()
        detail += energy.sum().item() + FAINT**2 * pieces.numel()
    return min(max(1.6 * (left / detail - _CHANCE), 0.0), 1.0)


def _pieces(picture: Tensor, stride: int | tuple[int, int]) -> Tensor:
    """The pieces of a picture (1, 3, H, W), each about each color's mean, one a row."""
    pieces = F.unfold(picture, _CELL, stride=stride)[0].T.unflatten(1, (3, -1))
    return (pieces - pieces.mean(2, keepdim=True)).flatten(1)
