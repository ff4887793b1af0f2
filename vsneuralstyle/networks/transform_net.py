"""The style network: Johnson et al.'s transform network, cut in two where Net1 composes features.

Source: Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer" (2016),
supplementary Table 1, with half the channels (Chen et al., ICCV 2017, section 4): c9s1-16, d32,
d64, R64 x 5, u32, u16, c9s1-3. Reflection padding and nearest-neighbour upsampling before a
convolution leave no border and no checkerboard.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.layers.norm import InstanceNorm

STRIDE = 4
"""Pixels of the frame to one pixel of the feature, in each direction."""


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, padding_mode="reflect")


class RearrangedConv(nn.Conv2d):
    """A convolution that is computed as another one, whose weights are made of its own: at every
    call, so that gradients flow to these, until `fix`.
    """

    bias: Tensor  # it always has one
    _fixed: tuple[Tensor, Tensor] | None = None

    def rearranged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the other convolution."""
        raise NotImplementedError

    def fix(self) -> None:
        """Makes them once, for weights that are where and what they will be."""
        weight, bias = self.rearranged()
        self._fixed = weight.detach(), bias.detach()


class UpsampledConv(RearrangedConv):
    """The 3x3 convolution, reflected at the border, of what comes in at twice its size by nearest
    neighbours.

    A pixel becomes four, each of which sees 2x2 different pixels; a 2x2 convolution for each of the
    four, where reflection is repetition of the border, is 4/9 of the arithmetic and needs no
    enlarged copy.

    (B, inputs, H, W) -> (B, outputs, 2 H, 2 W).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._fixed or self.rearranged()
        corners = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)
        # What is enlarged outside the frame is cut off.
        corners = corners.unflatten(1, (2, 2, self.out_channels)).permute(0, 3, 4, 1, 5, 2)
        return corners.flatten(4, 5).flatten(2, 3)[..., 1:-1, 1:-1]

    def rearranged(self) -> tuple[Tensor, Tensor]:
        """Weight (4 outputs, inputs, 2, 2) and bias (4 outputs,) of the convolution of corners
        between the pixels of what comes in, its border repeated once: it gives the enlarged pixels
        about each corner, row by row, all channels of each.
        """
        # (2 columns, 2 rows, o, i, 2, 2)
        weight = self._about_corners(self._about_corners(self.weight, 2), 4)
        weight = weight.transpose(0, 1).flatten(0, 2)
        return weight.contiguous(memory_format=torch.channels_last), self.bias.repeat(4)

    @staticmethod
    def _about_corners(weight: Tensor, dim: int) -> Tensor:
        """For each of the two enlarged rows (or columns) about a corner of pixels, what of the 3
        weights meets each pixel.
        """
        first, second, third = weight.unbind(dim)
        both = torch.stack((first + second, third), dim), torch.stack((first, second + third), dim)
        return torch.stack(both)


def in_squares(weight: Tensor) -> Tensor:
    """A 9x9 convolution's weight, (outputs, inputs, 9, 9), as that of the 3x3 convolution of
    squares of 4x4 pixels, of whose channels those of a square's first pixel come first: (16
    outputs, 16 inputs, 3, 3).
    """
    side = SquaredConv.SIDE
    places = [(row, column) for row in range(side) for column in range(side)]
    moved = torch.stack(
        [F.pad(weight, (column, side - 1 - column, row, side - 1 - row)) for row, column in places]
    )
    # (places, outputs, inputs, 3, rows, 3, columns)
    moved = moved.unflatten(4, (3, side)).unflatten(3, (3, side))
    weight = moved.permute(0, 1, 4, 6, 2, 3, 5).flatten(2, 4).flatten(0, 1)
    return weight.contiguous(memory_format=torch.channels_last)


class SquaredConv(RearrangedConv):
    """A 9x9 convolution, reflected at the border, that computes squares of 4x4 pixels of squares of
    4x4 pixels: 3x3 of them.

    Vectors and matrix units are made for many channels; with 3, or 16, most of each lies idle.

    (B, inputs, H, W) -> (B, outputs, H, W), H and W multiples of 4.
    """

    SIDE = 4  # of a square; the kernel reaches as far

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            inputs, outputs, 2 * self.SIDE + 1, padding=self.SIDE, padding_mode="reflect"
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._fixed or self.rearranged()
        squares = (
            F.pad(x, (self.SIDE,) * 4, mode="reflect")
            .unflatten(3, (-1, self.SIDE))
            .unflatten(2, (-1, self.SIDE))
        )
        squares = (
            squares.permute(0, 3, 5, 1, 2, 4)
            .flatten(1, 3)
            .contiguous(memory_format=torch.channels_last)
        )
        drawn = F.conv2d(squares, weight, bias).unflatten(
            1, (self.SIDE, self.SIDE, self.out_channels)
        )
        return drawn.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)

    def rearranged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution of squares."""
        return in_squares(self.weight), self.bias.repeat(self.SIDE**2)


class ConvBlock(nn.Sequential):
    """A convolution, instance normalisation (unless `normalise` is false), ReLU."""

    def __init__(self, convolution: nn.Conv2d, normalise: bool = True) -> None:
        norm = InstanceNorm(convolution.out_channels) if normalise else nn.Identity()
        super().__init__(convolution, norm, nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance normalisation beside the identity; no ReLU after the
    sum.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConvBlock(conv(channels, channels, 3)),
            conv(channels, channels, 3),
            InstanceNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TransformNet(nn.Module):
    """The fixed style network as Net1 uses it: an encoder, the quarter-resolution feature, a
    decoder.

    Args:
        channels: channels at full, half and quarter resolution.
        residual_blocks: how many there are in all.
        encoder_blocks: how many of them stand before the feature; None: all. It moves the cut,
            never the weights.
        normalise_decoder: instance normalisation after the upsampling convolutions too (Johnson et
            al.).
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        residual_blocks: int = 5,
        encoder_blocks: int | None = None,
        normalise_decoder: bool = True,
    ) -> None:
        super().__init__()
        full, half, quarter = channels
        self.feature_channels = quarter
        self.encoder_blocks = residual_blocks if encoder_blocks is None else encoder_blocks
        self.down = nn.Sequential(
            ConvBlock(conv(3, full, 9)),
            ConvBlock(conv(full, half, 3, 2)),
            ConvBlock(conv(half, quarter, 3, 2)),
        )
        self.residual = nn.Sequential(*(ResidualBlock(quarter) for _ in range(residual_blocks)))
        # by the names in model files, in which the upsampling before a convolution has a number of
        # its own
        layers = {
            "1": ConvBlock(UpsampledConv(quarter, half), normalise_decoder),
            "3": ConvBlock(UpsampledConv(half, full), normalise_decoder),
            "4": SquaredConv(full, 3),
        }
        self.up = nn.Sequential(OrderedDict(layers))

    def encode(self, frame: Tensor) -> Tensor:
        """Frame (B, 3, H, W), RGB 0..1, H and W multiples of 4 -> feature (B, C, H/4, W/4)."""
        return self.residual[: self.encoder_blocks](self.down(frame))

    def decode(self, feature: Tensor) -> Tensor:
        """Feature (B, C, H/4, W/4) -> stylized frame (B, 3, H, W) float32, RGB 0..1."""
        picture = self.up(self.residual[self.encoder_blocks :](feature))
        # tanh bounds the picture as in Johnson et al.; 0..1 is our range.
        return torch.tanh(picture.float()) * 0.5 + 0.5

    def forward(self, frame: Tensor) -> Tensor:
        """Net0: one frame by itself."""
        return self.decode(self.encode(frame))
