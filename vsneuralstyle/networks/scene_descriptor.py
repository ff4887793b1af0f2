"""What the detector of scene cuts compares: a frame as one vector, its scene descriptor."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

THUMBNAIL = (36, 64)
"""Height and width of a frame's thumbnail."""
COARSE = (18, 32)
"""Height and width of its structure."""
BINS = 16
HISTOGRAMS = slice(3 * prod(COARSE), 3 * (prod(COARSE) + BINS))
PIXELS = slice(HISTOGRAMS.stop + 1, HISTOGRAMS.stop + 1 + 3 * prod(THUMBNAIL))
SIZE = PIXELS.stop + 1
"""Numbers of a scene descriptor."""


def thumbnail(frame: Tensor) -> Tensor:
    """The thumbnail (1, C, 36, 64) of a frame (1, C, H, W)."""
    return F.adaptive_avg_pool2d(frame, THUMBNAIL)


def thumbnail_descriptor(thumbnail: Tensor) -> Tensor:
    """One vector of a thumbnail (1, 3, 36, 64): a scene descriptor without the contrast.

    It has the structure, which is the thumbnail at half its size about each color's mean; the
    colors' histograms; the structure's squared length; the thumbnail.
    """
    colors = F.avg_pool2d(thumbnail, 2)[0].flatten(1)
    structure = colors - colors.mean(1, keepdim=True)
    # Each pixel is shared between its two nearest bins, so that noise at a bin's edge moves
    # nothing.
    bins = torch.arange(BINS, device=colors.device, dtype=colors.dtype).view(1, -1, 1)
    histograms = (1 - (colors.clamp(0, 1)[:, None] * (BINS - 1) - bins).abs()).clamp(min=0).mean(2)
    return torch.cat(
        (
            structure.flatten(),
            histograms.flatten(),
            structure.square().sum().view(1),
            thumbnail.flatten(),
        )
    )


def scene_descriptor(lowres: Tensor) -> Tensor:
    """The scene descriptor, (SIZE,), of a frame at quarter resolution, (1, 3, H, W).

    Its last number is the contrast, by which the frame shows of the style: the standard deviation
    of the frame at quarter resolution, in which fine noise is averaged away. Instance normalisation
    brings whatever there is to full contrast: the noise of a black leader, and of a frame of one
    color its own rounding. In a fade, the style comes with the picture.
    """
    thumbnails = thumbnail(torch.cat((lowres, lowres.square()), 1))
    # By way of thumbnails: sums of so few numbers don't depend on the number of threads.
    mean, squares = thumbnails.mean((2, 3)).chunk(2, 1)
    contrast = (squares - mean.square()).mean().clamp(min=0).sqrt()
    return torch.cat((thumbnail_descriptor(thumbnails[:, :3]), contrast.view(1)))
