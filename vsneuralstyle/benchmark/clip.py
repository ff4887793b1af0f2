"""The clip that is measured on: a few pictures that move to and fro, over and over, and so cost
nothing to make.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.video import pixels

CODING = pixels.Coding(matrix=1, full_range=False, cosited=(False, True))
"""8-bit BT.709 in limited range, chroma sited as in MPEG-2: what most video is."""
OFFSETS = (0, 2, 4, 2)
"""Pixels that the pictures are moved by; after the last one comes the first one."""


@dataclass(frozen=True)
class Clip:
    """Pictures in I420, to be shown one after the other, and again from the first.

    pictures: of each its planes Y, U, V: (H, W) and two of (H/2, W/2), uint8.
    """

    pictures: tuple[tuple[np.ndarray, ...], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width = self.pictures[0][0].shape
        return width, height

    def frames(self, device: torch.device) -> list[Tensor]:
        """The pictures as the core takes them, (1, 3, H, W) float32, RGB 0..1."""
        return [pixels.components_to_rgb(planes, CODING, device) for planes in self.pictures]

    def write(self, folder: Path) -> None:
        """The pictures as files, 0.i420 and so on: the samples alone, plane by plane."""
        for number, planes in enumerate(self.pictures):
            (folder / f"{number}.i420").write_bytes(b"".join(plane.tobytes() for plane in planes))


def blank(width: int, height: int) -> tuple[np.ndarray, ...]:
    """Planes of a picture in I420, not filled in."""
    return tuple(np.empty((height // part, width // part), np.uint8) for part in (1, 2, 2))


def pan(width: int, height: int) -> Clip:
    """A texture that moves, so that flow and warp have what they would have in a video: motion,
    detail, no cut.

    Args:
        width, height: even.
    """
    noise = torch.rand(
        1, 3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(0)
    )
    texture = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    pictures = []
    for offset in OFFSETS:
        pictures.append(blank(width, height))
        pixels.rgb_to_components(texture.roll(offset, 3), pictures[-1], CODING)
    return Clip(tuple(pictures))
