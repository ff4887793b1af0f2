"""PWC-Net that starts from a global match, for motions of any length.

Its coarsest level is there for large motions, and in our training never learnt to find any: it said "none" for all. Here the
level before it starts from a comparison of every place with every other, which learns by being told the right place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.flow import FLOW_SCALE, LEVELS
from vsneuralstyle.networks.pwcnet import PWCNet

SURE = 0.2
"""Dual softmax from which on a global match counts."""


def global_match(scores: Tensor) -> Tensor:
    """Flow to what matches best, however far away.

    The mean place in the 3x3 neighbourhood of the best match, by softmax (Xu et al., "GMFlow", CVPR 2022, section 3.2).
    None where the two don't surely mean each other (the dual softmax of Sun et al., "LoFTR", CVPR 2021).

    Args:
        scores: (B, H, W, H, W): how much each pixel of the first frame's feature is like each of the second's.

    Returns:
        (B, 2, H, W) float32, (x, y) in pixels of the feature, without a gradient.
    """
    batch, height, width = scores.shape[:3]
    flat = scores.detach().float().view(batch, height * width, height * width)
    there = flat.softmax(2)
    best = there.argmax(2, keepdim=True)
    sure = (there * flat.softmax(1)).gather(2, best)
    x, y = best % width, best // width
    to_x, to_y, total = torch.zeros_like(sure), torch.zeros_like(sure), torch.zeros_like(sure)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near_x, near_y = x + dx, y + dy
            inside = (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
            weight = there.gather(2, (near_y * width + near_x).clamp(0, height * width - 1)) * inside
            to_x, to_y, total = to_x + weight * near_x, to_y + weight * near_y, total + weight
    place = torch.arange(height * width, device=scores.device).view(1, -1, 1)
    flow = torch.cat((to_x / total - place % width, to_y / total - place // width), 2) * (sure > SURE)
    return flow.transpose(1, 2).reshape(batch, 2, height, width)


class GlobalPWCNet(PWCNet):
    """PWC-Net whose first flow is a global match of the features at 1/32.

    Args:
        width: as of `PWCNet`.
    """

    depth = 5

    def __init__(self, width: float = 0.5) -> None:
        super().__init__(width)
        channels = self.features[-1][-1][0].out_channels
        self.matching = nn.Conv2d(channels, channels, 1)
        if not self.matching.weight.is_meta:
            nn.init.orthogonal_(self.matching.weight)

    def match(self, first: Sequence[Tensor], second: Sequence[Tensor], levels: int = LEVELS, **how) -> list[Tensor]:
        features = self._pairs(first, second)
        return self._matched(features, self._scores(*features[-1]), levels, **how)

    def _pairs(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Both frames' normalised features, fine to coarse, of what `extract` gives."""
        return self._encode(*first, *second)

    def supervised(
        self, first: Tensor, second: Tensor, target: Tensor, levels: int = LEVELS
    ) -> tuple[list[Tensor], Tensor]:
        features = self._pairs(self.extract(first), self.extract(second))
        scores = self._scores(*features[-1])
        return self._matched(features, scores, levels), self._matching_loss(scores.float(), target)

    def _scores(self, here: Tensor, there: Tensor) -> Tensor:
        """Of the coarsest features, as `global_match` takes them."""
        # Products of independent features are then about 1, at the start.
        here, there = (self.matching(feature) * feature.shape[1] ** -0.25 for feature in (here, there))
        return torch.einsum("bcyx,bcvu->byxvu", here, there)

    def _matched(self, features: list[tuple[Tensor, Tensor]], scores: Tensor, levels: int, **how) -> list[Tensor]:
        return self._continued([global_match(scores) * (2**self.depth / FLOW_SCALE)], features, levels, **how)

    def _matching_loss(self, scores: Tensor, flow: Tensor) -> Tensor:
        """Cross entropy of the global match with where the flow leads, over what stays in the frame."""
        height, width = scores.shape[1:3]
        stride = 2**self.depth
        x, y = (torch.arange(n, device=flow.device, dtype=torch.float32) for n in (width, height))
        flow = F.avg_pool2d(flow, stride) / stride
        to_x, to_y = flow[:, 0] + x, flow[:, 1] + y[:, None]
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        # Bilinear: a place between four cells belongs to each of them by its share.
        share_x, share_y = (1 - (to_x[..., None] - x).abs()).relu(), (1 - (to_y[..., None] - y).abs()).relu()
        logarithms = scores.flatten(3).log_softmax(3).view_as(scores)
        agreement = torch.einsum("byxvu,byxv,byxu->byx", logarithms, share_y, share_x)
        return -(agreement * inside).sum() / inside.sum().clamp(min=1)
