"""Instance normalisation that keeps the channels-last layout and float32 statistics."""

import torch
from torch import Tensor, nn


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the same less each channel's mean, and its mean square, (B, C, 1, 1); both
    float32.

    By rows first, which no number of threads can change. `nn.InstanceNorm2d` copies a channels-last
    input to contiguous memory and back, `torch.var_mean` takes three to seven times as long on a
    CPU, and what batch normalisation gives depends on the number of threads.
    """
    x = x.permute(0, 2, 3, 1).float()
    x = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
    square = (x * x).mean(2, keepdim=True).mean(1, keepdim=True)
    return x.permute(0, 3, 1, 2), square.permute(0, 3, 1, 2)


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Each image and channel of x, (B, C, H, W), with mean 0 and variance 1, then times a scale and
    plus a shift, (C,) float32 or None; in x's type, with float32 statistics.
    """
    if x.device.type != "cpu" and len(x) == 1:
        # Of a batch of one it is batch normalisation, for which a GPU has a kernel that reads x
        # twice; the operators below pass over memory ten times. PyTorch's own kernel: cuDNN's may
        # overflow in float16.
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]
    difference, variance = centred(x)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = weight.view(1, -1, 1, 1) * scale
    shifted = (
        difference * scale
        if bias is None
        else torch.addcmul(bias.view(1, -1, 1, 1), difference, scale)
    )
    return shifted.to(x.dtype)


class InstanceNorm(nn.Module):
    """Per-image, per-channel normalisation with a learnt scale and shift (Ulyanov et al., 2016).

    Args:
        channels: number of channels C of the (B, C, H, W) input.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x, self.weight.float(), self.bias.float(), self.eps)
