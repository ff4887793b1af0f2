"""Y'CbCr <-> R'G'B' as ITU-T H.273 defines it: which matrix, which range, and the affine maps between the two.

Sample values here are code values divided by 2**bits - 1, as `pixels.planes_to_rgb` gives them and
`pixels.rgb_to_planes` takes them; R'G'B' is 0..1.
"""

import torch
from torch import Tensor

UNSPECIFIED, RESERVED = 2, 3
# MatrixCoefficients (H.273, table 4) -> (Kr, Kb) of the matrices that are linear in R'G'B'
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),      # FCC
    5: (0.299, 0.114),    # BT.470BG, the 625-line BT.601
    6: (0.299, 0.114),    # SMPTE 170M, the 525-line BT.601
    7: (0.212, 0.087),    # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}


def default_matrix(height: int) -> int:
    """The MatrixCoefficients assumed where none are tagged: BT.709 from 720 lines up, else BT.601."""
    return 1 if height >= 720 else 6


def to_rgb_map(matrix: int, full_range: bool, bits: int) -> tuple[Tensor, Tensor]:
    """The affine map from normalized Y'CbCr samples to R'G'B': (3,3) and (3,1), float64 (H.273, equations 23 to 31).

    matrix: a key of LUMA_WEIGHTS. Limited range puts black at 16, white at 235 and chroma in 16..240, all times
    2**(bits-8).
    """
    kr, kb = LUMA_WEIGHTS[matrix]
    kg = 1 - kr - kb
    unit, top = 2 ** (bits - 8), 2**bits - 1
    luma_black, luma_span, chroma_span = (0, top, top) if full_range else (16 * unit, 219 * unit, 224 * unit)
    scale = torch.tensor([top / luma_span, top / chroma_span, top / chroma_span], dtype=torch.float64)
    zero = torch.tensor([luma_black, 128 * unit, 128 * unit], dtype=torch.float64) / top
    linear = torch.tensor([
        [1, 0, 2 * (1 - kr)],
        [1, -2 * (1 - kb) * kb / kg, -2 * (1 - kr) * kr / kg],
        [1, 2 * (1 - kb), 0],
    ], dtype=torch.float64) * scale
    return linear, -linear @ zero[:, None]


def yuv_to_rgb(yuv: Tensor, matrix: int, full_range: bool, bits: int) -> Tensor:
    """(B,3,H,W) normalized Y'CbCr at full chroma resolution -> (B,3,H,W) R'G'B', not clamped."""
    linear, offset = to_rgb_map(matrix, full_range, bits)
    return _apply(yuv, linear, offset)


def rgb_to_yuv(rgb: Tensor, matrix: int, full_range: bool, bits: int) -> Tensor:
    """The inverse of `yuv_to_rgb`."""
    linear, offset = to_rgb_map(matrix, full_range, bits)
    inverse = torch.linalg.inv(linear)
    return _apply(rgb, inverse, -inverse @ offset)


def _apply(pixels: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    linear, offset = linear.to(pixels), offset.to(pixels)
    return (linear @ pixels.flatten(2) + offset).unflatten(2, pixels.shape[2:])
