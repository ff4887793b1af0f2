"""What the core is compared with: the usual eager code for the same style network.

Plain modules of torch.nn, contiguous float32, every frame by itself. Its weights are random: it is
timed only.
"""

from collections.abc import Sequence

from torch import nn


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [nn.ReflectionPad2d(size // 2), nn.Conv2d(inputs, outputs, size, stride)]


def _block(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [
        *_conv(inputs, outputs, size, stride),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(),
    ]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_block(channels, channels, 3),
            *_conv(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x):
        return x + self.branch(x)


def usual_network(
    channels: Sequence[int] = (16, 32, 64), residual_blocks: int = 5
) -> nn.Sequential:
    """Johnson et al.'s network, c9s1, d, d, R x residual_blocks, u, u, c9s1-3 and tanh, as
    `networks.transform` has it: frame (B, 3, H, W) -> picture (B, 3, H, W), H and W multiples of 4,
    both float32.

    Args:
        channels: at full, half and quarter resolution.
        residual_blocks: how many.
    """
    full, half, quarter = channels
    up = nn.Upsample(scale_factor=2, mode="nearest")
    layers = [
        *_block(3, full, 9),
        *_block(full, half, 3, 2),
        *_block(half, quarter, 3, 2),
        *(_Residual(quarter) for _ in range(residual_blocks)),
        up,
        *_block(quarter, half, 3),
        up,
        *_block(half, full, 3),
        *_conv(full, 3, 9),
        nn.Tanh(),
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)
