"""Host pixel layouts <-> RGB tensors.

Every function copies: no tensor keeps a host's memory. Views may have any strides.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.errors import ArgumentError


def _levels(dtype: np.dtype, bits: int | None) -> int | None:
    """The highest code value of an integer sample; None for floating point."""
    if dtype.kind == "f":
        return None
    if dtype not in (np.uint8, np.uint16):
        raise ArgumentError(f"samples of type {dtype}; expected uint8, uint16, float16 or float32")
    size = dtype.itemsize * 8
    bits = size if bits is None else bits
    if not 1 <= bits <= size:
        raise ArgumentError(f"{bits} bits in a sample of type {dtype}; expected 1 to {size}")
    return (1 << bits) - 1


def _to_float(samples: np.ndarray, levels: int | None) -> Tensor:
    tensor = torch.from_numpy(samples.astype(np.float32, order="C"))
    return tensor if levels is None else tensor / levels


def _from_float(channel: Tensor, levels: int | None) -> Tensor:
    """Code values as float32, rounded to nearest and limited; floating point passes unlimited."""
    return channel if levels is None else (channel * levels).round().clamp(0, levels)


def planes_to_rgb(planes: Sequence[np.ndarray], bits: int | None = None) -> Tensor:
    """Planar R, G, B -> (1, 3, H, W) float32, RGB 0..1.

    Args:
        planes: three (H, W) arrays or buffers of uint8, uint16, float16 or float32, in the order R, G, B.
        bits: significant bits of integer samples; None: all.

    Raises:
        ArgumentError: another sample type, or more bits than the sample has.
    """
    arrays = [np.asarray(plane) for plane in planes]
    levels = _levels(arrays[0].dtype, bits)
    return torch.stack([_to_float(a, levels) for a in arrays])[None]


def rgb_to_planes(rgb: Tensor, planes: Sequence[np.ndarray], bits: int | None = None) -> None:
    """(1, 3, H, W), RGB 0..1 -> three writable (H, W) arrays in the order R, G, B; see `planes_to_rgb`."""
    for channel, plane in zip(rgb[0].float().cpu(), planes):
        target = np.asarray(plane)
        target[...] = _from_float(channel, _levels(target.dtype, bits)).numpy()


def packed_to_rgb(view: np.ndarray, order: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Packed pixels -> (1, 3, H, W) float32, RGB 0..1.

    Args:
        view: (H, W, C) uint8, C >= 3, of any strides.
        order: the channels of R, G and B in the view: BGRx is (2, 1, 0).
    """
    levels = _levels(view.dtype, None)
    pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1)
    return pixels[list(order)].float()[None] / levels


def rgb_to_packed(rgb: Tensor, view: np.ndarray, order: Sequence[int] = (0, 1, 2)) -> None:
    """(1, 3, H, W), RGB 0..1 -> the color channels of a writable (H, W, C) uint8 view; see `packed_to_rgb`."""
    levels = _levels(view.dtype, None)
    pixels = _from_float(rgb[0].float(), levels).byte().cpu().numpy()
    for channel, index in enumerate(order):
        view[..., index] = pixels[channel]
