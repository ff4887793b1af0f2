"""The mask sub-network: where the feature of the frame before may be reused."""

import torch
from torch import Tensor, nn


class MaskNet(nn.Sequential):
    """Differences (B, C, h, w) -> mask M (B, 1, h, w), 0..1; 1 = reuse F'_t.

    Source: Chen et al. (ICCV 2017), section 4.1: three convolutions of stride 1. The hidden width
    is ours.

    Args:
        channels: of |F_t - F'_t|, and of what the source's motion leaves unexplained.
        hidden: channels of the two hidden layers.
    """

    def __init__(self, channels: int = 64, hidden: int = 16) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )
        # Start from reuse, M = 0.98: where nothing speaks against it there is hardly a gradient
        # that would lead there.
        last = self[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, 4.0)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        first = self[0]
        assert isinstance(first, nn.Conv2d)
        return first.weight.dtype

    def forward(self, difference: Tensor) -> Tensor:
        return super().forward(difference).float().sigmoid()
