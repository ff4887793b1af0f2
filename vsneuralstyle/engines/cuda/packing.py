"""Convolutions' weights as the CUDA kernels read them."""

from torch import Tensor
from torch.nn import functional as F


def conv3x3_weight(weight: Tensor) -> Tensor:
    """A convolution's weight, (outputs, inputs, side, side), as `conv3x3` takes it: (side², steps,
    pairs of tiles, 32, 8), where a step is 16 inputs, a tile 8 outputs, and of each pair of tiles
    each thread of a warp has the 8 weights that matrix units want of it.

    Of a tile a thread gets two columns, and those of all tiles are outputs one after the other, so
    that it can store them at once.
    """
    outputs, inputs = weight.shape[:2]
    weight = F.pad(weight.detach(), (0, 0, 0, 0, 0, -inputs % 16, 0, -outputs % 16))
    weight = weight.unflatten(0, (4, -1, 2)).transpose(0, 1).flatten(0, 2)
    # Of a tile a thread has output thread / 4, and inputs thread % 4 * 2 and the next, and those
    # that are 8 further.
    # (pairs, 2, 8; steps, 2, 4, 2; rows, columns)
    weight = weight.unflatten(1, (-1, 2, 4, 2)).unflatten(0, (-1, 2, 8))
    return (
        weight.permute(7, 8, 3, 0, 2, 5, 1, 4, 6)
        .flatten(6, 8)
        .flatten(4, 5)
        .flatten(0, 1)
        .contiguous()
    )


def conv3x3_from_rgb_weight(weight: Tensor) -> Tensor:
    """The weight, (outputs, 3, 3, 3), of a 3x3 convolution of stride 2, as `conv3x3_from_rgb` takes
    it.
    """
    # (outputs, colors, 2, rows, 2, columns)
    weight = F.pad(weight.detach(), (0, 1, 0, 1, 0, 1)).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    return conv3x3_weight(weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3))
