"""A convolution's weight as the kernels read it.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016).
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.ops import STRIDE2, UPSAMPLE2

MULTIPLE = 16
"""Channels come in multiples of this."""
COLORS = 3


def padded_channels(channels: int) -> int:
    """To the next multiple of `MULTIPLE`."""
    return -(-channels // MULTIPLE) * MULTIPLE


def _transformed(
    weight: Tensor, lines: Sequence[Sequence[float]], divisors: Sequence[float]
) -> Tensor:
    """G w G^T: weights (..., r, r) at the points of minimal filtering, (points, points, ...),
    float64.
    """
    g = torch.tensor(lines, dtype=torch.float64, device=weight.device)
    g = g / torch.tensor(divisors, dtype=torch.float64, device=weight.device)[:, None]
    return torch.einsum("pr,...rs,qs->pq...", g, weight.detach().double(), g)


_WINOGRAD_G = {
    UPSAMPLE2: (
        [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, -1], [1, -1, -1], [0, 0, 1], [0, 1, 1]],
        [1, 1, 2, 2, 2, 1, 1],
    ),
    STRIDE2: (
        [[0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, -1], [0, 0, 1]],
        [1, 1, 1, 1, 2, 2, 1],
    ),
    6: (
        [[64, 0, 0], [-128, -96, -72], [-128, 96, -72], [32, 48, 72], [32, -48, 72], [0, 0, 1]],
        [81, 243, 243, 243, 243, 1],
    ),
    8: (
        [
            [1, 0, 0],
            [-2, -2, -2],
            [-2, 2, -2],
            [1, 2, 4],
            [1, -2, 4],
            [4, 2, 1],
            [4, -2, 1],
            [0, 0, 1],
        ],
        [1, 9, 9, 90, 90, 180, 180, 1],
    ),
}
"""G of Winograd's minimal filtering by the tile's size: rows, and the divisor of each. A product
has a row each: an upsampling tile has more products than points, for it has two kernels."""


def winograd_weight(weight: Tensor, tile_size: int = 6) -> Tensor:
    """A 3x3 convolution's weight as `conv3x3` takes it.

    F(4x4, 3x3) has points whose rounding is half of the paper's, F(6x6, 3x3) the paper's; the
    others are ours.

    Args:
        weight: (outputs, inputs, 3, 3).
        tile_size: inputs of a tile in a line. 6 or 8 for a stride of 1: the larger multiplies a
            fifth less and adds more, which pays where channels are many and feature maps large,
            and is float32. Or `UPSAMPLE2`, or `STRIDE2`.

    Returns:
        (G, P, inputs, 16) float32, where G is padded_channels(outputs) / 16, and P is tile_size²,
        or 49 for `UPSAMPLE2`. With `uses_bf16_pairs`, (G, P, inputs / 2 rounded up, 16, 2)
        bfloat16.
    """
    lines, divisors = _WINOGRAD_G[tile_size]
    transformed = _transformed(weight, lines, divisors).flatten(0, 1).transpose(1, 2)
    transformed = F.pad(transformed, (0, padded_channels(len(weight)) - len(weight)))
    transformed = transformed.unflatten(2, (-1, MULTIPLE)).permute(2, 0, 1, 3)
    if tile_size == 8 or not library.uses_bf16_pairs(weight.dtype):
        return transformed.float().contiguous()
    transformed = F.pad(transformed, (0, 0, 0, transformed.shape[2] % 2))
    return transformed.unflatten(2, (-1, 2)).transpose(3, 4).bfloat16().contiguous()


_TILE_K = 32
"""Samples that a tile multiplies at a time."""


def _in_amx_tiles(weight: Tensor) -> Tensor:
    """(..., outputs, samples), lines of what is multiplied, -> (..., padded_channels(outputs) / 16,
    samples / 32 rounded up, 16, 16, 2) bfloat16.
    """
    outputs, samples = weight.shape[-2:]
    padding = 0, -samples % _TILE_K, 0, padded_channels(outputs) - outputs
    weight = F.pad(weight.detach().float(), padding)
    return (
        weight.unflatten(-1, (-1, _TILE_K // 2, 2))
        .unflatten(-4, (-1, MULTIPLE))
        .movedim(-4, -2)
        .bfloat16()
    )


def amx_weight(weight: Tensor, tile_size: int = 6) -> Tensor:
    """A 3x3 convolution's weight as `conv3x3` takes it where `uses_amx` holds.

    Args:
        weight: (outputs, inputs, 3, 3).
        tile_size: `UPSAMPLE2`, `STRIDE2` or another one.

    Returns:
        bfloat16, (G, 3, chunks, 16, 16, 2): G is padded_channels(outputs) / 16; chunks are of 32 of
        the 3 padded_channels(inputs) samples that a row of the kernel meets. For `UPSAMPLE2`
        (2, 2, G, 2, chunks, 16, 16, 2): for even and odd rows, and columns, two rows of
        2 padded_channels(inputs).
    """
    # (3, outputs, 3, inputs)
    weight = F.pad(
        weight.detach().float(), (0, 0, 0, 0, 0, padded_channels(weight.shape[1]) - weight.shape[1])
    ).permute(2, 0, 3, 1)
    if tile_size != UPSAMPLE2:
        return _in_amx_tiles(weight.flatten(2)).transpose(0, 1).contiguous()
    # of two rows an even one meets the first with the kernel's first, an odd one the second with
    # its last
    first, middle, last = weight
    # (2, 2 rows, outputs, 3, inputs)
    rows = torch.stack((torch.stack((first, middle + last)), torch.stack((first + middle, last))))
    first, middle, last = rows.unbind(3)
    # (2, 2, 2 rows, outputs, 2 columns, inputs)
    both = torch.stack(
        (torch.stack((first, middle + last), 3), torch.stack((first + middle, last), 3)), 1
    )
    return _in_amx_tiles(both.flatten(4)).transpose(2, 3).contiguous()


_CONV9X9_POINTS = [sign * point for point in (1 / 4, 5 / 8, 9 / 8, 5 / 2) for sign in (1, -1)]
"""Where F(5x5, 5x5) has its points, and one at infinity."""


def conv9x9_weight(weight: Tensor) -> Tensor:
    """A 9x9 convolution's weight as `conv9x9_from_rgb` and `conv9x9_to_rgb` take it.

    F(5x5, 5x5) of the four 5x5 kernels in it, of which one row and column are 0. In bfloat16
    F(3x3, 3x3) of the nine 3x3 ones, at points that bear rounding. Of three colors there is no even
    number: without AMX they are multiplied in float32.

    Args:
        weight: (outputs, inputs, 9, 9).

    Returns:
        (81, 2, 2, inputs, outputs) float32. With `uses_bf16_pairs`, (25, 3, 3, inputs / 2, outputs,
        2) bfloat16. With `uses_amx`, bfloat16 as conv9x9_amx.c has it: from colors (2, 9, 16, 16,
        2), for even and odd columns; to colors (9, 4, 5, 16, 16, 2).
    """
    if library.uses_amx(weight.dtype):
        # (9, outputs, 9 columns of channels)
        channels, rows = weight.shape[1], weight.detach().permute(2, 0, 3, 1).flatten(2)
        # of an even one and of an odd one, which see ten
        columns = F.pad(rows, (0, channels)), F.pad(rows, (channels, 0))
        if channels == COLORS:
            return _in_amx_tiles(torch.stack(columns)).flatten(1, 3).contiguous()
        nine = torch.arange(9, dtype=torch.int64, device=weight.device)
        # Of row r, the kernel's row that a row of the picture, modulo 9, meets there.
        turns = (nine[:, None] + 4 - nine) % 9
        return _in_amx_tiles(
            F.pad(torch.cat(columns, 1)[turns].flatten(1, 2), (0, 0, 0, 10))
        ).contiguous()
    if weight.shape[1] % 2 or not library.uses_bf16_pairs(weight.dtype):
        lines = [[point**n for n in range(5)] for point in _CONV9X9_POINTS] + [[0, 0, 0, 0, 1]]
        divisors = [
            prod(point - other for other in _CONV9X9_POINTS if other != point)
            for point in _CONV9X9_POINTS
        ]
        padded = F.pad(weight, (0, 1, 0, 1))
        return _transformed_kernels(padded, lines, [*divisors, 1]).float().contiguous()
    lines = [[-16, -8, -4], [16, -8, 4], [32, 40, 50], [-32, 40, -50], [0, 0, 1]]
    transformed = _transformed_kernels(weight, lines, [21, 21, 105, 105, 1])
    return transformed.unflatten(3, (-1, 2)).transpose(4, 5).bfloat16().contiguous()


def _transformed_kernels(weight: Tensor, lines: list[list[float]], divisors: list[float]) -> Tensor:
    """`_transformed` of the kernels that side by side are a weight: (points^2, rows of kernels,
    columns of them, inputs, outputs).
    """
    size = len(lines[0])
    # (outputs, inputs, rows, columns, size, size)
    kernels = weight.unflatten(2, (-1, size)).unflatten(4, (-1, size)).transpose(3, 4)
    return _transformed(kernels, lines, divisors).flatten(0, 1).permute(0, 3, 4, 2, 1)


def is_amx_weight(weight: Tensor) -> bool:
    return weight.shape[-3:] == (MULTIPLE, MULTIPLE, 2)
