"""Y'CbCr <-> R'G'B' as ITU-T H.273 defines it: which matrix, which range, the affine maps between
the two, and chroma of fewer samples than luma.

Sample values here are code values divided by 2**bits - 1, as `pixels.planes_to_rgb` gives them and
`pixels.rgb_to_planes` takes them; R'G'B' is 0..1.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from vsneuralstyle.settings import without_autocast

IDENTITY, UNSPECIFIED, RESERVED = 0, 2, 3
# MatrixCoefficients (H.273, table 4) -> (Kr, Kb) of the matrices that are linear in R'G'B'
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470BG, the 625-line BT.601
    6: (0.299, 0.114),  # SMPTE 170M, the 525-line BT.601
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}


def luma_weights(matrix: int = 1) -> tuple[float, float, float]:
    """What red, green and blue weigh in luma: (Kr, Kg, Kb) of a key of LUMA_WEIGHTS, BT.709 where
    none is given.
    """
    kr, kb = LUMA_WEIGHTS[matrix]
    return kr, 1 - kr - kb, kb


def default_matrix(height: int) -> int:
    """The MatrixCoefficients assumed where none are tagged: BT.709 from 720 lines up, else
    BT.601.
    """
    return 1 if height >= 720 else 6


def to_rgb_map(matrix: int, full_range: bool, bits: int) -> tuple[Tensor, Tensor]:
    """The affine map from normalized Y'CbCr samples to R'G'B': (3,3) and (3,1), float64 (H.273,
    equations 23 to 31).

    matrix: a key of LUMA_WEIGHTS, or IDENTITY for samples that are R'G'B' themselves. Limited range
    puts black at 16, white at 235 and chroma in 16..240, all times 2**(bits-8).
    """
    unit, top = 2 ** (bits - 8), 2**bits - 1
    luma_black, luma_span, chroma_span = (
        (0, top, top) if full_range else (16 * unit, 219 * unit, 224 * unit)
    )
    if matrix == IDENTITY:
        linear = torch.eye(3, dtype=torch.float64, device="cpu") * top / luma_span
        return linear, _exact(3 * [[-luma_black / luma_span]])
    kr, kg, kb = luma_weights(matrix)
    scale = _exact([top / luma_span, top / chroma_span, top / chroma_span])
    zero = _exact([luma_black, 128 * unit, 128 * unit]) / top
    linear = (
        _exact(
            [
                [1, 0, 2 * (1 - kr)],
                [1, -2 * (1 - kb) * kb / kg, -2 * (1 - kr) * kr / kg],
                [1, 2 * (1 - kb), 0],
            ]
        )
        * scale
    )
    return linear, -linear @ zero[:, None]


def _exact(numbers: Sequence) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def from_rgb_map(matrix: int, full_range: bool, bits: int) -> tuple[Tensor, Tensor]:
    """The inverse of `to_rgb_map`."""
    linear, offset = to_rgb_map(matrix, full_range, bits)
    inverse = torch.linalg.inv(linear)
    return inverse, -inverse @ offset


def yuv_to_rgb(yuv: Tensor, matrix: int, full_range: bool, bits: int) -> Tensor:
    """(B,3,H,W) normalized Y'CbCr at full chroma resolution -> (B,3,H,W) R'G'B', not clamped."""
    return _apply(yuv, *_on(to_rgb_map, matrix, full_range, bits, yuv.device, yuv.dtype))


def rgb_to_yuv(rgb: Tensor, matrix: int, full_range: bool, bits: int) -> Tensor:
    """The inverse of `yuv_to_rgb`."""
    return _apply(rgb, *_on(from_rgb_map, matrix, full_range, bits, rgb.device, rgb.dtype))


@cache
@torch.inference_mode(False)
def _on(
    affine: Callable[..., tuple[Tensor, Tensor]],
    matrix: int,
    full_range: bool,
    bits: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """One of the two maps, taken to a device once: it would wait for each."""
    linear, offset = affine(matrix, full_range, bits)
    return linear.to(device, dtype), offset.to(device, dtype)


@without_autocast
def _apply(pixels: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    return torch.baddbmm(offset, linear.expand(len(pixels), -1, -1), pixels.flatten(2)).unflatten(
        2, pixels.shape[2:]
    )


def upsample(planes: Tensor, shape: Sequence[int], cosited: Sequence[bool]) -> Tensor:
    """Planes (..., h, w) of half as many rows, columns or both, rounded up -> (..., H, W), linearly
    interpolated.

    shape: (H, W). cosited: for rows and for columns, whether a sample lies on the first of the two
    that it stands for, else midway.
    """
    for axis in (-1, -2):  # what is strided, on as few samples as possible
        if planes.shape[axis] != shape[axis]:
            planes = _double(planes, axis, cosited[axis]).narrow(axis, 0, shape[axis])
    return planes


def downsample(plane: Tensor, shape: Sequence[int], cosited: Sequence[bool]) -> Tensor:
    """The way back of `upsample`: each sample is the mean of those around its place (1 1, or 1 2 1
    if cosited).
    """
    for axis in (-2, -1):
        if plane.shape[axis] != shape[axis]:
            plane = _halve(plane, axis, cosited[axis])
    return plane


def _double(plane: Tensor, axis: int, cosited: bool) -> Tensor:
    count = plane.shape[axis]
    doubled = plane.new_empty(
        [size * 2 if n == axis % plane.dim() else size for n, size in enumerate(plane.shape)]
    )
    first, second = doubled.unflatten(axis, (count, 2)).unbind(axis)
    left, right = plane.narrow(axis, 0, count - 1), plane.narrow(axis, 1, count - 1)
    # Beyond the edge, the sample at the edge goes on.
    second.narrow(axis, count - 1, 1).copy_(plane.narrow(axis, count - 1, 1))
    torch.lerp(left, right, 0.5 if cosited else 0.25, out=second.narrow(axis, 0, count - 1))
    if cosited:
        first.copy_(plane)
    else:
        first.narrow(axis, 0, 1).copy_(plane.narrow(axis, 0, 1))
        torch.lerp(right, left, 0.25, out=first.narrow(axis, 1, count - 1))
    return doubled


def _halve(plane: Tensor, axis: int, cosited: bool) -> Tensor:
    if plane.shape[axis] % 2:
        plane = torch.cat([plane, plane.narrow(axis, -1, 1)], axis)
    first, second = plane.unflatten(axis, (-1, 2)).unbind(axis)
    if not cosited:
        return torch.lerp(first, second, 0.5)
    before = torch.cat(
        [first.narrow(axis, 0, 1), second.narrow(axis, 0, second.shape[axis] - 1)], axis
    )
    return torch.lerp(first, (before + second) / 2, 0.5)
