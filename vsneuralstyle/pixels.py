"""Host pixel layouts <-> RGB tensors.

Every function but `tensor_over` copies: no tensor keeps a host's memory. Arrays may have any strides, so a packed or
half-packed layout is its components' views: R, G and B of BGRx are `view[..., 2]`, `view[..., 1]` and `view[..., 0]`.
Where the host's memory is a GPU's, tensors over it stand for the arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle import yuv
from vsneuralstyle.errors import ArgumentError


@dataclass(frozen=True)
class Coding:
    """What the integer samples of a picture's three components mean.

    bits: significant bits of a sample.
    shift: unused bits below them (6 in P010).
    matrix: MatrixCoefficients of H.273: `yuv.IDENTITY` for R, G, B, or a key of `yuv.LUMA_WEIGHTS` for Y, Cb, Cr.
    full_range: black is 0 and white the highest code value, else 16 and 235 (chroma 16..240) times 2**(bits-8).
    cosited: for rows and for columns, where there are half as many of chroma: whether a chroma sample lies on the first
        of its two luma samples (MPEG-2 across), else midway between them (JPEG).
    """

    bits: int = 8
    shift: int = 0
    matrix: int = yuv.IDENTITY
    full_range: bool = True
    cosited: tuple[bool, bool] = (False, False)

    @property
    def top(self) -> int:
        """The sample of the highest code value."""
        return ((1 << self.bits) - 1) << self.shift


def tensor_over(
    address: int, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype, device: torch.device
) -> Tensor:
    """Samples that lie in the host's memory, on the CPU or on a GPU, as a tensor over it, to be dropped before the host
    takes the memory back.

    address: of the first sample, on the device. strides: bytes from one row, and from one sample, to the next.
    """
    interface = "__cuda_array_interface__" if device.type == "cuda" else "__array_interface__"
    fields = {"data": (address, False), "shape": tuple(shape), "strides": tuple(strides), "typestr": dtype.str,
              "version": 3}
    samples = type("Samples", (), {interface: fields})()
    return torch.as_tensor(samples if device.type == "cuda" else np.asarray(samples), device=device)


def upload(samples: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. From host memory to a GPU by way of pinned memory: otherwise the host would wait for all that the
    GPU has yet to do."""
    # What is pinned already is the caller's, who may write to it as soon as this returns.
    if torch.device(device).type != "cuda" or samples.device.type != "cpu" or samples.is_pinned():
        return samples.to(device)
    return samples.pin_memory().to(device, non_blocking=True)


def download(samples: Tensor) -> Tensor:
    """A tensor in host memory, once all that it waits for is done; from a GPU in pinned memory, where it comes faster."""
    if samples.device.type != "cuda":
        return samples.cpu()
    return torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True).copy_(samples)


def components_to_rgb(
    components: Sequence[np.ndarray | Tensor], coding: Coding, device: torch.device | str = "cpu"
) -> Tensor:
    """A picture's components -> (1, 3, H, W) float32, RGB 0..1, on `device`.

    Args:
        components: R, G, B or Y, Cb, Cr: arrays of uint8 or uint16, the first (H, W), the others the same or with half
            as many rows, columns or both (rounded up). Or tensors of them.
        coding: what the samples mean.
        device: samples are taken there as they are, and converted there.
    """
    if coding.matrix == yuv.IDENTITY:
        rgb = _load(components, device)[None].div_(coding.top)
        return rgb if coding.full_range else yuv.yuv_to_rgb(rgb, coding.matrix, False, coding.bits).clamp_(0, 1)
    luma, *chroma = components
    linear, offset = yuv.to_rgb_map(coding.matrix, coding.full_range, coding.bits)
    linear /= coding.top
    chroma = _load(chroma, device)
    # By linearity, the matrix may go before the interpolation: for a quarter of the work. Luma is the share of white, the
    # same in R, G and B.
    shares = torch.addmm(offset.to(chroma), linear[:, 1:].to(chroma), chroma.flatten(1))
    rgb = yuv.upsample(shares.unflatten(1, chroma.shape[1:]), luma.shape, coding.cosited)
    return rgb.add_(_load([luma], device), alpha=float(linear[0, 0])).clamp_(0, 1)[None]


def rgb_to_components(rgb: Tensor, components: Sequence[np.ndarray | Tensor], coding: Coding) -> None:
    """(1, 3, H, W), RGB 0..1 -> writable components, rounded and limited; the inverse of `components_to_rgb`."""
    levels, unit = (1 << coding.bits) - 1, 1 << coding.shift
    picture = rgb[0].float()
    if coding.matrix == yuv.IDENTITY:
        if not coding.full_range:
            picture = yuv.rgb_to_yuv(picture[None], coding.matrix, False, coding.bits)[0]
        _store(picture * levels, components, levels, unit)
        return
    luma, *chroma = components
    linear, offset = (part * levels for part in yuv.from_rgb_map(coding.matrix, coding.full_range, coding.bits))
    rows_of_map = torch.cat((linear, offset), 1).tolist()
    # A channels-last picture plane by plane: sums of planes are several times faster than of every third sample, and
    # than a product of so small a matrix.
    picture = picture.contiguous()

    def component(number: int, planes: Tensor) -> Tensor:
        (red, green, blue), (*weights, zero) = planes, rows_of_map[number]
        return torch.mul(red, weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).add_(zero)

    _store(component(0, picture)[None], [luma], levels, unit)
    rows, columns = chroma[0].shape
    # By linearity, the mean of two rows may be taken before the matrix: for half of the work.
    picture = yuv.downsample(picture, (rows, picture.shape[2]), coding.cosited)
    samples = torch.stack([component(1, picture), component(2, picture)])
    _store(yuv.downsample(samples, (rows, columns), coding.cosited), chroma, levels, unit)


def planes_to_rgb(planes: Sequence[np.ndarray], bits: int | None = None, device: torch.device | str = "cpu") -> Tensor:
    """Planar R, G, B -> (1, 3, H, W) float32, RGB 0..1, on `device`.

    Args:
        planes: three (H, W) arrays or buffers of uint8, uint16, float16 or float32, in the order R, G, B.
        bits: significant bits of integer samples; None: all.
        device: samples are taken there as they are, and converted there.

    Raises:
        ArgumentError: another sample type, or more bits than the sample has.
    """
    levels = _levels(np.asarray(planes[0]).dtype, bits)
    rgb = _load([np.asarray(plane) for plane in planes], device)[None]
    return rgb if levels is None else rgb / levels


def rgb_to_planes(rgb: Tensor, planes: Sequence[np.ndarray], bits: int | None = None) -> None:
    """(1, 3, H, W), RGB 0..1 -> three writable (H, W) arrays in the order R, G, B; see `planes_to_rgb`.

    Integers are rounded and limited; floating point passes unlimited.
    """
    targets = [np.asarray(plane) for plane in planes]
    levels, samples = _levels(targets[0].dtype, bits), rgb[0].float()
    _store(samples if levels is None else samples * levels, targets, levels)


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


def _load(planes: Sequence[np.ndarray | Tensor], device: torch.device | str) -> Tensor:
    """Planes of samples -> (N, H, W) float32, the samples as they are."""
    stacked = torch.stack(planes) if isinstance(planes[0], Tensor) else torch.from_numpy(np.stack(planes))
    return upload(stacked, device).float()


def _store(
    codes: Tensor, targets: Sequence[np.ndarray | Tensor], levels: int | None, unit: int = 1
) -> None:
    """Code values (N, H, W) -> N targets: rounded to nearest, limited to 0..levels, times unit; levels None: as it is.

    It may write to codes.
    """
    if levels is not None:
        codes = codes.round_().clamp_(0, levels)
        codes = codes if unit == 1 else codes.mul_(unit)
        # On their device, so that bytes are what leaves it; by way of int32, since that is what is vectorised.
        codes = codes.to(torch.int32).to(_TORCH_TYPES[targets[0].dtype])
    for channel, target in zip(codes if isinstance(targets[0], Tensor) else download(codes).numpy(), targets):
        target[...] = channel


_TORCH_TYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.uint16): torch.uint16,
                torch.uint8: torch.uint8, torch.uint16: torch.uint16}
