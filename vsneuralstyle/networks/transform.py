"""The style network: Johnson et al.'s transform network, cut in two where Net1 composes features.

Source: Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer" (2016), supplementary Table 1, with
half the channels (Chen et al., ICCV 2017, section 4): c9s1-16, d32, d64, R64 x 5, u32, u16, c9s1-3. Reflection padding
and nearest-neighbour upsampling before a convolution leave no border and no checkerboard.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vsneuralstyle.networks.norm import InstanceNorm

STRIDE = 4
"""Pixels of the frame to one pixel of the feature, in each direction."""


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, padding_mode="reflect")


class ConvBlock(nn.Sequential):
    """Convolution, instance normalisation (unless `normalise` is false), ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, normalise: bool = True) -> None:
        norm = InstanceNorm(outputs) if normalise else nn.Identity()
        super().__init__(conv(inputs, outputs, size, stride), norm, nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance normalisation beside the identity; no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConvBlock(channels, channels, 3), conv(channels, channels, 3), InstanceNorm(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TransformNet(nn.Module):
    """The fixed style network as Net1 uses it: an encoder, the quarter-resolution feature, a decoder.

    Args:
        channels: channels at full, half and quarter resolution.
        residual_blocks: how many there are in all.
        encoder_blocks: how many of them stand before the feature; None: all. It moves the cut, never the weights.
        normalise_decoder: instance normalisation after the upsampling convolutions too (Johnson et al.).
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
        self.down = nn.Sequential(ConvBlock(3, full, 9), ConvBlock(full, half, 3, 2), ConvBlock(half, quarter, 3, 2))
        self.residual = nn.Sequential(*(ResidualBlock(quarter) for _ in range(residual_blocks)))
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            ConvBlock(quarter, half, 3, normalise=normalise_decoder),
            nn.Upsample(scale_factor=2, mode="nearest"),
            ConvBlock(half, full, 3, normalise=normalise_decoder),
            conv(full, 3, 9),
        )

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
