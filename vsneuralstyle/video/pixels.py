"""Host pixel layouts <-> RGB tensors.

Every function but `tensor_over` copies: no tensor keeps a host's memory. Arrays may have any
strides, so a packed or half-packed layout is its components' views: R, G and B of BGRx are
`view[..., 2]`, `view[..., 1]` and `view[..., 0]`. Where the host's memory is a GPU's, tensors over
it stand for the arrays.

Between integers in host memory and a GPU, `cuda.sample_kernels` converts, where it can: one launch
each way. PyTorch's operators, which do the rest, are some thirty a frame, and what a frame then
waits for is Python, which launches them. Between integers and RGB on a CPU `cpu.kernels` does,
where there is a library: in one pass over memory, not ten.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeAlias, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.engines.cpu import kernels, library
from vsneuralstyle.engines.cuda import runtime, sample_kernels
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.settings import without_autocast
from vsneuralstyle.video import yuv
from vsneuralstyle.workers import Workers

Planes: TypeAlias = Sequence[np.ndarray] | Sequence[Tensor]
"""Of one picture: all in host memory, or all tensors."""

LARGE = 4 << 20
"""Bytes from which on the planes of a picture are copied by the caller and `COPIERS` threads."""
COPIERS = 3
_copiers = Workers(COPIERS, "copier")
"""PyTorch's own threads would go on waiting for work for a while, on the cores that the host
computes with."""


@dataclass(frozen=True)
class Coding:
    """What the integer samples of a picture's three components mean.

    bits: significant bits of a sample.
    shift: unused bits below them (6 in P010).
    matrix: MatrixCoefficients of H.273: `yuv.IDENTITY` for R, G, B, or a key of `yuv.LUMA_WEIGHTS`
    for Y, Cb, Cr.
    full_range: black is 0 and white the highest code value, else 16 and 235 (chroma 16..240) times
    2**(bits-8).
    cosited: for rows and for columns, where there are half as many of chroma: whether a chroma
    sample lies on the first
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
    address: int,
    shape: Sequence[int],
    strides: Sequence[int],
    dtype: np.dtype,
    device: torch.device,
) -> Tensor:
    """Samples that lie in the host's memory, on the CPU or on a GPU, as a tensor over it, to be
    dropped before the host takes the memory back.

    address: of the first sample, on the device. strides: bytes from one row, and from one sample,
    to the next.
    """
    interface = "__cuda_array_interface__" if device.type == "cuda" else "__array_interface__"
    fields = {
        "data": (address, False),
        "shape": tuple(shape),
        "strides": tuple(strides),
        "typestr": dtype.str,
        "version": 3,
    }
    samples = type("Samples", (), {interface: fields})()
    return torch.as_tensor(samples if device.type == "cuda" else np.asarray(samples), device=device)


def upload(samples: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. From host memory to a GPU by way of pinned memory: otherwise the host
    would wait for all that the GPU has yet to do.
    """
    # What is pinned already is the caller's, who may write to it as soon as this returns.
    if torch.device(device).type != "cuda" or samples.device.type != "cpu" or samples.is_pinned():
        return samples.to(device)
    return samples.pin_memory().to(device, non_blocking=True)


def download(samples: Tensor) -> Tensor:
    """A tensor in host memory, once all that it waits for is done; from a GPU in pinned memory,
    where it comes faster.
    """
    if samples.device.type != "cuda":
        return samples.cpu()
    there = torch.empty(samples.shape, dtype=samples.dtype, device="cpu", pin_memory=True)
    there.copy_(samples, non_blocking=True)
    # For this alone, not for what other threads launch behind it; and asleep: some ten threads may
    # wait for frames, on the cores that make the next ones' sources.
    here = torch.cuda.Event(blocking=True)
    here.record(torch.cuda.current_stream(samples.device))
    here.synchronize()
    return there


def limited(frame: Tensor) -> Tensor:
    """A frame, float32, with samples beyond 0..1 at the nearest of the two, and NaN at 0.

    On a CPU it is the frame itself where none is beyond.
    """
    if frame.device.type == "cpu":  # a GPU would have to be waited for
        least, most = frame.aminmax()
        if least >= 0 and most <= 1:  # neither is so where there is a NaN
            return frame
    return frame.clamp(0, 1).nan_to_num_(0.0)


@without_autocast
def components_to_rgb(
    components: Planes, coding: Coding, device: torch.device | str = "cpu"
) -> Tensor:
    """A picture's components -> (1, 3, H, W) float32, RGB limited to 0..1, on `device`.

    Args:
        components: R, G, B or Y, Cb, Cr: arrays of uint8 or uint16, the first (H, W), the others
            the same or with half as many rows, columns or both (rounded up). Or tensors of them.
        coding: what the samples mean.
        device: samples are taken there as they are, and converted there.
    """
    if _are_arrays(components) and _served(components[0].dtype, device):
        shape, samples, rows = (
            components[0].shape,
            _upload(components, device),
            _rows_to_rgb(coding),
        )
        if coding.matrix == yuv.IDENTITY:
            return sample_kernels.samples_to_rgb(
                samples.view(1, 3, *shape), coding.top, rows[0][0], rows[0][3]
            )
        return sample_kernels.planes_to_rgb(
            samples, shape, components[1].shape, rows, coding.cosited
        )
    if _are_arrays(components) and _near(components[0].dtype, device):
        is_rgb = coding.matrix == yuv.IDENTITY
        return kernels.planes_to_rgb(
            components,
            coding.top if is_rgb else 1,
            _rows_to_rgb(coding),
            None if is_rgb else coding.cosited,
        )
    if coding.matrix == yuv.IDENTITY:
        (rgb,) = _load([components], device)
        rgb = rgb[None].div_(coding.top)
        if not coding.full_range:
            rgb = yuv.yuv_to_rgb(rgb, coding.matrix, False, coding.bits)
        return rgb.clamp_(0, 1)
    luma, chroma = _load([components[:1], components[1:]], device)
    white, linear, offset = _shares(coding, chroma.device)
    # By linearity, the matrix may go before the interpolation: for a quarter of the work. Luma is
    # the share of white, the same in R, G and B.
    shares = torch.addmm(offset, linear, chroma.flatten(1))
    rgb = yuv.upsample(shares.unflatten(1, chroma.shape[1:]), luma.shape[1:], coding.cosited)
    return rgb.add_(luma, alpha=white).clamp_(0, 1)[None]


@cache
@torch.inference_mode(False)
def _shares(coding: Coding, device: torch.device) -> tuple[float, Tensor, Tensor]:
    """Of samples of Y, Cb and Cr in R, G and B: luma's, those of chroma (3, 2), and what is added
    (3, 1), float32.
    """
    rows = torch.tensor(_rows_to_rgb(coding), dtype=torch.float64, device="cpu")
    linear, offset = (part.to(device, torch.float32) for part in (rows[:, 1:3], rows[:, 3:]))
    return float(rows[0, 0]), linear, offset


@cache
def _rows_to_rgb(coding: Coding) -> list[list[float]]:
    """Of each of R, G and B: what samples of Y, Cb and Cr weigh, or R, G and B as shares of the
    highest code value, and what is added.
    """
    linear, offset = yuv.to_rgb_map(coding.matrix, coding.full_range, coding.bits)
    return torch.cat(
        (linear if coding.matrix == yuv.IDENTITY else linear / coding.top, offset), 1
    ).tolist()


def rgb_to_components(rgb: Tensor, components: Planes, coding: Coding) -> None:
    """(1, 3, H, W), RGB 0..1 -> writable components, rounded and limited; the inverse of
    `components_to_rgb`.
    """
    levels, unit = (1 << coding.bits) - 1, 1 << coding.shift
    if _are_arrays(components) and _served(components[0].dtype, rgb.device):
        rgb, dtype, rows = (
            rgb.float().contiguous(),
            _TORCH_TYPES[components[0].dtype],
            _rows_of_map(coding),
        )
        if coding.matrix == yuv.IDENTITY:
            samples = sample_kernels.rgb_to_samples(
                rgb, dtype, rows[0][0], rows[0][3], levels, unit
            )
        else:
            samples = sample_kernels.rgb_to_planes(
                rgb, components[1].shape, rows, coding.cosited, dtype, levels, unit
            )
        _deliver(samples, components)
        return
    rows_of_map = _rows_of_map(coding)
    if _are_arrays(components) and _near(components[0].dtype, rgb.device):
        cosited = None if coding.matrix == yuv.IDENTITY else coding.cosited
        kernels.rgb_to_planes(
            rgb.float().contiguous(), components, levels, unit, rows_of_map, cosited
        )
        return
    picture = rgb[0].float()
    if coding.matrix == yuv.IDENTITY:
        if not coding.full_range:
            picture = yuv.rgb_to_yuv(picture[None], coding.matrix, False, coding.bits)[0]
        _store([picture * levels], [components], levels, unit)
        return
    luma, chroma = components[:1], components[1:]
    # A channels-last picture plane by plane: sums of planes are several times faster than of every
    # third sample, and than a product of so small a matrix.
    picture = picture.contiguous()

    def component(number: int, planes: Tensor) -> Tensor:
        (red, green, blue), (*weights, zero) = planes, rows_of_map[number]
        return (
            torch.mul(red, weights[0])
            .add_(green, alpha=weights[1])
            .add_(blue, alpha=weights[2])
            .add_(zero)
        )

    codes = [component(0, picture)[None]]
    height, width = chroma[0].shape
    # By linearity, the mean of two rows may be taken before the matrix: for half of the work.
    picture = yuv.downsample(picture, (height, picture.shape[2]), coding.cosited)
    samples = torch.stack([component(1, picture), component(2, picture)])
    codes.append(yuv.downsample(samples, (height, width), coding.cosited))
    _store(codes, [luma, chroma], levels, unit)


@cache
def _rows_of_map(coding: Coding) -> list[list[float]]:
    """Of each of Y, Cb and Cr, in code values: what R, G and B weigh, and what is added."""
    levels = (1 << coding.bits) - 1
    linear, offset = (
        part * levels for part in yuv.from_rgb_map(coding.matrix, coding.full_range, coding.bits)
    )
    return torch.cat((linear, offset), 1).tolist()


def planes_to_rgb(
    planes: Sequence[np.ndarray], bits: int | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Planar R, G, B -> (1, 3, H, W) float32, RGB 0..1, on `device`.

    Integers are limited to the highest value of their bits; floating point passes unlimited.

    Args:
        planes: three (H, W) arrays or buffers of uint8, uint16, float16 or float32, in the order R,
            G, B.
        bits: significant bits of integer samples; None: all.
        device: samples are taken there as they are, and converted there.

    Raises:
        ArgumentError: another sample type, or more bits than the sample has.
    """
    planes = [np.asarray(plane) for plane in planes]
    levels = _levels(planes[0].dtype, bits)
    if levels is not None and _served(planes[0].dtype, device):
        return sample_kernels.samples_to_rgb(
            _upload(planes, device).view(1, 3, *planes[0].shape), levels
        )
    if levels is not None and _near(planes[0].dtype, device):
        return components_to_rgb(planes, Coding(levels.bit_length()), device)
    (rgb,) = _load([planes], device)
    # By a number on the device: by one of Python's, a GPU would multiply with what is nearly its
    # inverse, and a frame that was converted there would be another than one that came as RGB.
    return rgb[None] if levels is None else (rgb[None] / rgb.new_full((), levels)).clamp_(max=1)


def rgb_to_planes(rgb: Tensor, planes: Sequence[np.ndarray], bits: int | None = None) -> None:
    """(1, 3, H, W), RGB 0..1 -> three writable (H, W) arrays in the order R, G, B; see
    `planes_to_rgb`.

    Integers are rounded and limited; floating point passes unlimited.
    """
    samples_to_planes(rgb_to_samples(rgb, np.asarray(planes[0]).dtype, bits), planes)


def rgb_to_samples(rgb: Tensor, dtype: np.dtype, bits: int | None = None) -> Tensor:
    """The first half of `rgb_to_planes`, which waits for nothing: (1, 3, H, W), RGB 0..1 -> (3, H,
    W) samples of that type, on the same device. Floating point may be the memory of `rgb`.
    """
    levels = _levels(dtype, bits)
    if levels is not None and _served(dtype, rgb.device):
        return sample_kernels.rgb_to_samples(
            rgb.float().contiguous(), _TORCH_TYPES[dtype], float(levels), 0.0, levels
        ).view(rgb.shape[1:])
    if levels is not None and _near(dtype, rgb.device):
        samples = torch.empty(rgb.shape[1:], dtype=_TORCH_TYPES[dtype], device="cpu")
        rgb_to_components(rgb, list(samples.numpy()), Coding(levels.bit_length()))
        return samples
    samples = rgb[0].float()
    return _coded(samples if levels is None else samples * levels, dtype, levels, 1)


def samples_to_planes(samples: Tensor, planes: Sequence[np.ndarray]) -> None:
    """The other half: (3, H, W) samples, on any device -> three writable (H, W) arrays of their
    type.
    """
    _deliver(samples.flatten(), [np.asarray(plane) for plane in planes])


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


def _are_arrays(planes: Planes) -> TypeGuard[Sequence[np.ndarray]]:
    return not isinstance(planes[0], Tensor)


def _served(dtype: np.dtype, device: torch.device | str) -> bool:
    """Whether `gpu` converts between samples of that type in host memory and a picture on a
    device.
    """
    device = torch.device(device)
    return device.type == "cuda" and dtype in _INTEGERS and runtime.available(device)


def _near(dtype: np.dtype, device: torch.device | str) -> bool:
    """Whether `kernels` converts between samples of that type and a picture on that device."""
    return (
        torch.device(device).type == "cpu" and dtype in _INTEGERS and library.library() is not None
    )


def _upload(planes: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Planes -> all their samples, one plane after the other, on a GPU."""
    count, dtype = sum(plane.size for plane in planes), _TORCH_TYPES[planes[0].dtype]
    pinned = torch.empty(count, dtype=dtype, device="cpu", pin_memory=True)
    _copy(_divided(pinned.numpy(), planes), planes)
    return pinned.to(device, non_blocking=True)


def _deliver(samples: Tensor, planes: Sequence[np.ndarray]) -> None:
    """The way back of `_upload`."""
    _copy(planes, _divided(download(samples).numpy(), planes))


def _load(groups: Sequence[Planes], device: torch.device | str) -> list[Tensor]:
    """Groups of planes, of one size in each -> of each group (N, H, W) float32, the samples as they
    are.
    """
    if torch.device(device).type != "cuda" or isinstance(groups[0][0], Tensor):
        return [upload(_stacked(planes), device).float() for planes in groups]
    arrays = cast("Sequence[Sequence[np.ndarray]]", groups)  # not tensors, as was asked just now
    samples = _upload([plane for group in arrays for plane in group], device).float()
    sizes = [sum(plane.size for plane in group) for group in arrays]
    return [
        part.view(len(group), *group[0].shape) for part, group in zip(samples.split(sizes), arrays)
    ]


def _stacked(planes: Planes) -> Tensor:
    if _are_arrays(planes):
        return torch.from_numpy(np.stack(planes))
    return torch.stack(cast("list[Tensor]", list(planes)))


def _store(
    groups: Sequence[Tensor], targets: Sequence[Planes], levels: int | None, unit: int = 1
) -> None:
    """Groups of code values, (N, H, W) each -> the N targets of each: rounded to nearest, limited
    to 0..levels, times unit; levels
    None: as it is.

    It may write to the codes.
    """
    first = targets[0][0]
    if groups[0].device.type != "cuda" or isinstance(first, Tensor):
        for codes, planes in zip(groups, targets):
            codes = _coded(codes, first.dtype, levels, unit)
            if _are_arrays(planes):
                for array, samples in zip(planes, codes.cpu().numpy()):
                    array[...] = samples
            else:
                for tensor, channel in zip(cast("Sequence[Tensor]", planes), codes):
                    tensor[...] = channel
        return
    codes = (
        groups[0].flatten()
        if len(groups) == 1
        else torch.cat([codes.flatten() for codes in groups])
    )
    arrays = cast("Sequence[Sequence[np.ndarray]]", targets)  # not tensors, as was asked just now
    _deliver(
        _coded(codes, first.dtype, levels, unit), [plane for group in arrays for plane in group]
    )


def _coded(codes: Tensor, dtype: np.dtype | torch.dtype, levels: int | None, unit: int) -> Tensor:
    """Code values as samples, on their device, so that bytes are what leaves it."""
    if levels is None:
        return codes.to(_TORCH_TYPES[dtype])
    codes = codes.round_().clamp_(0, levels)
    codes = codes if unit == 1 else codes.mul_(unit)
    # By way of int32, since that is what is vectorised.
    return codes.to(torch.int32).to(_TORCH_TYPES[dtype])


def _divided(samples: np.ndarray, planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Views of samples that lie one after the other, in the planes' shapes."""
    ends = accumulate(plane.size for plane in planes)
    return [
        samples[end - plane.size : end].reshape(plane.shape) for end, plane in zip(ends, planes)
    ]


def _copy(targets: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> None:
    """Fills each target from its source; large ones at the same time, since a core alone takes
    milliseconds. The caller copies what no copier has come to: where several threads are here, each
    does its own.
    """
    if sum(target.nbytes for target in targets) < LARGE:
        for target, source in zip(targets, sources):
            np.copyto(target, source)
        return
    pairs = deque(zip(targets, sources))

    def copy() -> None:
        with suppress(IndexError):
            while True:
                np.copyto(*pairs.popleft())

    helpers = [_copiers.submit(copy) for _ in range(len(pairs) - 1)]
    try:
        copy()
    finally:
        busy = [helper for helper in helpers if not helper.cancel()]
        for helper in busy:
            helper.exception()  # waits: none writes to the host's memory later
    for helper in busy:
        helper.result()


_TORCH_TYPES: dict[np.dtype | torch.dtype, torch.dtype] = {
    np.dtype(name): getattr(torch, name)
    for name in ("uint8", "uint16", "float16", "float32", "float64")
}
_TORCH_TYPES |= {kind: kind for kind in _TORCH_TYPES.values()}
_INTEGERS = {np.dtype("uint8"), np.dtype("uint16")}
