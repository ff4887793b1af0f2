"""Instance normalisation that keeps the channels-last layout and float32 statistics."""

import torch
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Per-image, per-channel normalisation with a learnt scale and shift (Ulyanov et al., 2016).

    `nn.InstanceNorm2d` copies a channels-last input to contiguous memory and back; written as mean and variance it
    does not. The statistics are float32 whatever the precision of the input.

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
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
        scale = self.weight.float().view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        shift = self.bias.float().view(1, -1, 1, 1) - mean * scale
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))
