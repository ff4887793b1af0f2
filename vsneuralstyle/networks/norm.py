"""Instance normalisation that keeps the channels-last layout and float32 statistics."""

import torch
from torch import Tensor, nn


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the same less each channel's mean, and its mean square, (B, C, 1, 1); both float32.

    By rows first, which no number of threads can change. `nn.InstanceNorm2d` copies a channels-last input to contiguous
    memory and back, `torch.var_mean` takes three to seven times as long on a CPU, and what batch normalisation gives
    depends on the number of threads.
    """
    x = x.permute(0, 2, 3, 1).float()
    x = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
    square = (x * x).mean(2, keepdim=True).mean(1, keepdim=True)
    return x.permute(0, 3, 1, 2), square.permute(0, 3, 1, 2)


class InstanceNorm(nn.Module):
    """Per-image, per-channel normalisation with a learnt scale and shift (Ulyanov et al., 2016).

    Args:
        channels: number of channels C of the (B, C, H, W) input.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        difference, variance = centred(x)
        scale = self.weight.float().view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.float().view(1, -1, 1, 1), difference, scale).to(x.dtype)
