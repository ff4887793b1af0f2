"""PWC-Net: pyramid, warping and cost volume; a flow sub-network that matches instead of guessing.

Source: Sun, Yang, Liu, Kautz, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume" (CVPR 2018),
without its dense connections and its context network. Each level adds to the flow of the coarser one. In place of its
coarsest level, which in our training never learnt to find anything, the second coarsest starts from a global match.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.flow import FLOW_SCALE, LEVELS, FlowNetwork, conv, scaled
from vsneuralstyle.networks.warp import warp

CHANNELS = (16, 32, 64, 96, 128)
"""Channels at 1/2 to 1/32 resolution, of width 1."""
ESTIMATOR = (128, 128, 96, 64)
"""Channels of a level's flow estimator, of width 1."""
RADIUS = 3
"""Furthest displacement of the cost volume, in pixels of its level."""
BLOCK = 16
SURE = 0.2
"""Dual softmax from which on a global match counts."""


def cost_volume(first: Tensor, second: Tensor, radius: int = RADIUS) -> Tensor:
    """Correlation of each feature with those of the other frame within a square of displacements.

    Blocks of `BLOCK` columns are multiplied with all that they can meet, and the band that is wanted is read out of the
    products: twice the arithmetic that is needed, in matrix units, and several times faster than displacement by
    displacement.

    Args:
        first, second: (B, C, H, W).
        radius: r.

    Returns:
        (B, (2r+1)², H, W): mean over C of first(p) second(p + d), d row by row from (-r, -r); 0 outside the frame.
    """
    batch, channels, height, width = first.shape
    side, reach = 2 * radius + 1, BLOCK + 2 * radius
    spare = -width % BLOCK
    rows = F.pad(first, (0, spare)).permute(0, 2, 3, 1).reshape(-1, BLOCK, channels) / channels
    columns = F.pad(second, (radius, radius + spare, radius, radius)).permute(0, 2, 3, 1)
    columns = columns.unfold(1, side, 1).unfold(2, reach, BLOCK)  # (B, H, blocks, C, side, reach)
    products = torch.bmm(rows, columns.reshape(len(rows), channels, side * reach))
    # In a block's products, pixel i and displacement (y, x) meet in row i at column y * reach + i + x.
    band = products.as_strided((len(rows), BLOCK, side, side), (BLOCK * side * reach, side * reach + 1, reach, 1))
    return band.reshape(batch, height, width + spare, side * side)[:, :, :width].permute(0, 3, 1, 2)


def _normalised(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both frames' features with mean 0 and variance 1 a channel, by statistics of the two together.

    Without it products of features are all alike, and training never leaves "no motion" (Jonschkowski et al., "What
    Matters in Unsupervised Optical Flow", ECCV 2020, section 4.2).
    """
    both = torch.cat((first, second), 2).float()
    variance, mean = torch.var_mean(both, (2, 3), keepdim=True)
    scale = (variance + 1e-4).rsqrt()
    return ((first - mean) * scale).to(first.dtype), ((second - mean) * scale).to(first.dtype)


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


class PWCNet(FlowNetwork):
    """Optical flow, coarse to fine: each level warps the second frame's features by the flow so far and adds to it.

    Args:
        width: multiplies every channel count but the first level's.
    """

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        channels = [CHANNELS[0]] + [scaled(c, width) for c in CHANNELS[1:]]
        self.features = nn.ModuleList(
            nn.Sequential(conv(i, o, 3, 2), conv(o, o)) for i, o in zip([3, *channels[:-1]], channels)
        )
        volume = (2 * RADIUS + 1) ** 2
        widths = [scaled(c, width) for c in ESTIMATOR]
        self.matching = nn.Conv2d(channels[-1], channels[-1], 1)
        self.estimators = nn.ModuleList(
            nn.Sequential(*(conv(i, o) for i, o in zip([volume + c + 2, *widths[:-1]], widths)))
            for c in reversed(channels[1:])
        )
        self.predicts = nn.ModuleList(nn.Conv2d(widths[-1], 2, 3, padding=1) for _ in channels[1:])
        self.initialise(self.predicts)
        nn.init.orthogonal_(self.matching.weight)

    def _encode(self, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both frames' normalised features, fine to coarse."""
        x = torch.cat(self.prepared(first, second))
        features = []
        for feature in self.features:
            x = feature(x)
            features.append(_normalised(*x.chunk(2)))
        return features

    def _scores(self, here: Tensor, there: Tensor) -> Tensor:
        """Of the coarsest features, as `global_match` takes them."""
        # Products of independent features are then about 1, at the start.
        here, there = (self.matching(feature) * feature.shape[1] ** -0.25 for feature in (here, there))
        return torch.einsum("bcyx,bcvu->byxvu", here, there)

    def pyramid(self, first: Tensor, second: Tensor, levels: int = LEVELS) -> list[Tensor]:
        features = self._encode(first, second)
        return self._flows(features, self._scores(*features[-1]), levels)

    def _flows(self, features: list[tuple[Tensor, Tensor]], scores: Tensor, levels: int) -> list[Tensor]:
        level = len(features)
        flows = [global_match(scores) * (2**level / FLOW_SCALE)]
        for estimator, predict in list(zip(self.estimators, self.predicts))[: levels - 1]:
            flow, (here, there) = flows[-1], features[level - 1]
            if level < len(features):
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
            there = warp(there, flow * (FLOW_SCALE / 2**level)).to(here.dtype)
            level -= 1
            volume = F.leaky_relu(cost_volume(here, there.contiguous(memory_format=torch.channels_last)), 0.1)
            known = torch.cat((volume.to(here.dtype), here, flow.to(here.dtype)), 1)
            residual = predict(estimator(known.contiguous(memory_format=torch.channels_last)))
            flows.append(flow + residual.float())
        return flows

    def supervised(
        self, first: Tensor, second: Tensor, target: Tensor, levels: int = LEVELS
    ) -> tuple[list[Tensor], Tensor]:
        features = self._encode(first, second)
        scores = self._scores(*features[-1])
        return self._flows(features, scores, levels), self._matching_loss(scores.float(), target)

    def _matching_loss(self, scores: Tensor, flow: Tensor) -> Tensor:
        """Cross entropy of the global match with where the flow leads, over what stays in the frame."""
        height, width = scores.shape[1:3]
        stride = 2 ** len(self.features)
        x, y = (torch.arange(n, device=flow.device, dtype=torch.float32) for n in (width, height))
        flow = F.avg_pool2d(flow, stride) / stride
        to_x, to_y = flow[:, 0] + x, flow[:, 1] + y[:, None]
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        # Bilinear: a place between four cells belongs to each of them by its share.
        share_x, share_y = (1 - (to_x[..., None] - x).abs()).relu(), (1 - (to_y[..., None] - y).abs()).relu()
        logarithms = scores.flatten(3).log_softmax(3).view_as(scores)
        agreement = torch.einsum("byxvu,byxv,byxu->byx", logarithms, share_y, share_x)
        return -(agreement * inside).sum() / inside.sum().clamp(min=1)
