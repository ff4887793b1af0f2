"""PWC-Net for a video's pace, and for motions of any length: the flow sub-network that is shipped.

Source: Sun, Yang, Liu, Kautz, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost
Volume" (CVPR 2018), without its dense connections and its context network. Each level adds to the
flow of the coarser one. Ours:

- It starts from a global match, in place of the coarsest level, which is there for large motions
  and in our training never learnt to find any. A match learns by being told the right place.
- A frame's features, with their statistics, are its own, so that those of the frame before are the
  ones made for it.
- At 1/4, where more than half of the arithmetic would be, a small estimator refines, and looks less
  far.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.flow.network import (
    FLOW_SCALE,
    LEVELS,
    FlowNetwork,
    brightness,
    conv,
    pooled,
    scaled,
)
from vsneuralstyle.networks.layers.norm import instance_norm
from vsneuralstyle.networks.layers.warp import warp

CHANNELS = (16, 32, 64, 96, 128)
"""Channels at 1/2 to 1/32 resolution, of width 1."""
ESTIMATORS = (*3 * ((128, 128, 96, 64),), (64, 64, 48, 32))
"""Channels of each level's flow estimator, from 1/32 to 1/4, of width 1."""
RADII = (3, 3, 3, 2)
"""Furthest displacement of each level's cost volume, in pixels of the level."""
BLOCK = 16
NORM_EPS = 1e-4
"""Added to the variance of a feature."""
SURE = 0.05
"""Dual softmax from which on a global match counts."""
SUPPORT = 2
"""Neighbours, each way, by which a match is judged."""
MOST_PLACES = 4096
"""Of a frame, that are matched as they are; more (above 1080p) are matched in squares of 2x2, for a
sixteenth of the work."""


def cost_volume(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """Correlation of each feature with those of the other frame within a square of displacements.

    Blocks of `BLOCK` columns are multiplied with all that they can meet, and the band that is
    wanted is read out of the
    products: twice the arithmetic that is needed, in matrix units, and several times faster than
    displacement by displacement.

    Args:
        first, second: (B, C, H, W).
        radius: r.

    Returns:
        (B, (2r+1)², H, W): mean over C of first(p) second(p + d), d row by row from (-r, -r); 0
        outside the frame.
    """
    batch, channels, height, width = first.shape
    side, reach = 2 * radius + 1, BLOCK + 2 * radius
    spare = -width % BLOCK
    rows = F.pad(first, (0, spare)).permute(0, 2, 3, 1).reshape(-1, BLOCK, channels) / channels
    columns = F.pad(second, (radius, radius + spare, radius, radius)).permute(0, 2, 3, 1)
    columns = columns.unfold(1, side, 1).unfold(2, reach, BLOCK)  # (B, H, blocks, C, side, reach)
    products = torch.bmm(rows, columns.reshape(len(rows), channels, side * reach))
    # In a block's products, pixel i and displacement (y, x) meet in row i at column y * reach + i +
    # x.
    band = products.as_strided(
        (len(rows), BLOCK, side, side), (BLOCK * side * reach, side * reach + 1, reach, 1)
    )
    return band.reshape(batch, height, width + spare, side * side)[:, :, :width].permute(0, 3, 1, 2)


def normalised(feature: Tensor) -> Tensor:
    """With mean 0 and variance 1 a channel.

    Without it products of features are all alike, and training never leaves "no motion"
    (Jonschkowski et al., "What Matters in Unsupervised Optical Flow", ECCV 2020, section 4.2).
    """
    return instance_norm(feature, None, None, NORM_EPS)


def seen(here: Tensor, there: Tensor, flow: Tensor, pixels: float, radius: int) -> Tensor:
    """What a level's estimator sees: the cost volume, the first frame's feature, the flow so far.

    Args:
        here, there: features of the two frames, (B, C, H, W).
        flow: so far, (B, 2, H, W) float32.
        pixels: of this level, that 1 of the flow is.
        radius: of the cost volume.

    Returns:
        (B, (2r+1)² + C + 2, H, W).
    """
    there = warp(there, flow * pixels).to(here.dtype)
    volume = F.leaky_relu(
        cost_volume(here, there.contiguous(memory_format=torch.channels_last), radius), 0.1
    )
    known = torch.cat((volume.to(here.dtype), here, flow.to(here.dtype)), 1)
    return known.contiguous(memory_format=torch.channels_last)


def supported(scores: Tensor) -> Tensor:
    """Scores of matches, each the mean of its neighbours' and its own: what lies beside a place
    mostly moves as it does.

    By itself a place of 1/32 is like many others, and hardly one in ten is sure of its match. Known
    of stereo matching as aggregation of costs (Scharstein and Szeliski, "A Taxonomy and Evaluation
    of Dense Two-Frame Stereo Correspondence Algorithms", IJCV 2002, section 3.2).

    Args:
        scores: (B, H, W, H, W): how much each place p of the first frame is like each place q of
            the second.

    Returns:
        As `scores`: the mean of scores(p + d, q + d) over d in a square of 2 `SUPPORT` + 1, as far
        as both are in the frame.
    """
    height, width = scores.shape[1:3]
    total = F.pad(scores.float(), (SUPPORT,) * 8)
    shifts = range(2 * SUPPORT + 1)
    # `sum` starts with 0, which is what it gives of nothing alone.
    total = cast("Tensor", sum(total[:, d : d + height, :, d : d + height] for d in shifts))
    total = cast("Tensor", sum(total[:, :, d : d + width, :, d : d + width] for d in shifts))
    counts = []
    for size in (height, width):
        place = torch.arange(size, dtype=torch.int64, device=scores.device)
        before, after = (
            torch.minimum(n[:, None], n).clamp(max=SUPPORT) for n in (place, size - 1 - place)
        )
        counts.append(before + after + 1)
    return (total / (counts[0][:, None, :, None] * counts[1][None, :, None])).to(scores.dtype)


def pixels(n: int) -> float:
    """Of the n-th level from 1/32 on, that 1 of a flow is."""
    return FLOW_SCALE / 2 ** (len(CHANNELS) - n)


def global_match(scores: Tensor) -> Tensor:
    """Flow to what matches best, however far away.

    The mean place in the 3x3 neighbourhood of the best match, by softmax (Xu et al., "GMFlow", CVPR
    2022, section 3.2). None where the two don't surely mean each other (the dual softmax of Sun et
    al., "LoFTR", CVPR 2021).

    Args:
        scores: (B, H, W, H, W): how much each pixel of the first frame's feature is like each of
            the second's.

    Returns:
        (B, 2, H, W) float32, (x, y) in pixels of the feature, without a gradient.
    """
    batch, height, width = scores.shape[:3]
    flat = scores.detach().float().view(batch, height * width, height * width)
    there = flat.softmax(2)
    best = there.argmax(2, keepdim=True)
    # By way of its transpose: down the columns as they lie, a GPU's softmax took 1.6 ms of a frame
    # at 1920x1080.
    sure = (there * flat.mT.contiguous().softmax(2).mT).gather(2, best)
    neighbour = torch.arange(9, dtype=torch.int64, device=scores.device)
    x, y = best % width + neighbour % 3 - 1, best // width + neighbour // 3 - 1  # (B, places, 9)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    weight = there.gather(2, (y * width + x).clamp(0, height * width - 1)) * inside
    weight = weight / weight.sum(2, keepdim=True)
    place = torch.arange(height * width, dtype=torch.int64, device=scores.device)
    to = torch.stack(((weight * x).sum(2) - place % width, (weight * y).sum(2) - place // width), 1)
    return (to * (sure > SURE).transpose(1, 2)).view(batch, 2, height, width)


def in_squares(feature: Tensor) -> bool:
    """Whether the coarsest features of a frame, (B, C, H, W), are matched in squares."""
    return feature[0, 0].numel() > MOST_PLACES


class LitePWCNet(FlowNetwork):
    """Optical flow, coarse to fine: each level warps the second frame's features by the flow so far
    and adds to it.

    Args:
        width: multiplies every channel count but the first level's.
    """

    multiple = 4
    """The coarser levels round their sizes up."""

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        channels = [CHANNELS[0]] + [scaled(c, width) for c in CHANNELS[1:]]
        self.features = nn.ModuleList(
            nn.Sequential(conv(i, o, 3, 2), conv(o, o))
            for i, o in zip([3, *channels[:-1]], channels)
        )
        self.estimators, self.predicts = nn.ModuleList(), nn.ModuleList()
        for c, radius, estimator in zip(reversed(channels[1:]), RADII, ESTIMATORS):
            widths = [scaled(w, width) for w in estimator]
            known = (2 * radius + 1) ** 2 + c + 2
            self.estimators.append(
                nn.Sequential(*(conv(i, o) for i, o in zip([known, *widths[:-1]], widths)))
            )
            self.predicts.append(nn.Conv2d(widths[-1], 2, 3, padding=1))
        self.matching = nn.Conv2d(channels[-1], channels[-1], 1)
        self.initialise(self.predicts)
        if not self.matching.weight.is_meta:
            nn.init.orthogonal_(self.matching.weight)

    def extract(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Normalised features, from 1/4 to 1/32."""
        raw = [self.features[0](self.centred(frame, brightness(frame)))]
        for layer in self.features[1:]:
            raw.append(layer(raw[-1]))
        return tuple(normalised(feature) for feature in raw[1:])

    def match(
        self,
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        levels: int = LEVELS,
        found: Callable[[Tensor, Tensor], Tensor] | None = None,
        residual: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """As `FlowNetwork.match`; `found` and `residual` may be other ways to compute this
        network's own.
        """
        start = (found or self.found)(first[-1], second[-1])
        return self._refined(start, first, second, levels, residual or self.residual)

    def found(self, here: Tensor, there: Tensor) -> Tensor:
        """The flow that is started from, of the coarsest features: see `global_match`."""
        return global_match(self.scores(here, there))

    def residual(self, n: int, here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
        """What a level's estimator, the n-th from 1/32 on, adds to the flow so far, (B, 2, H, W)
        float32.
        """
        known = seen(here, there, flow, pixels(n), RADII[n])
        return self.predicts[n](self.estimators[n](known)).float()

    def supervised(
        self, first: Tensor, second: Tensor, target: Tensor, levels: int = LEVELS
    ) -> tuple[list[Tensor], Tensor]:
        here, there = self.extract(first), self.extract(second)
        scores = self.scores(here[-1], there[-1])
        return self._refined(
            global_match(scores), here, there, levels, self.residual
        ), self._matching_loss(scores.float(), target)

    def scores(self, here: Tensor, there: Tensor) -> Tensor:
        """Of the coarsest features, or squares of them, as `global_match` takes them."""
        return supported(self.products(here, there))

    def products(self, here: Tensor, there: Tensor) -> Tensor:
        """`scores`, each by itself."""
        if in_squares(here):
            here, there = (F.avg_pool2d(feature, 2, ceil_mode=True) for feature in (here, there))
        batch, _, *size = here.shape
        weight, bias = self.matched_by()
        # As a matrix product: the start of a convolution takes longer than so little work.
        first, second = (
            F.linear(feature.permute(0, 2, 3, 1).flatten(1, 2), weight, bias)
            for feature in (here, there)
        )
        return (first @ second.transpose(1, 2)).view(batch, *size, *size)

    def matched_by(self) -> tuple[Tensor, Tensor]:
        """Weight (C, C) and bias of what the coarsest features go through before their products."""
        # Products of independent features are then about 1, at the start.
        weight, bias = self.matching.weight, self.matching.bias
        assert bias is not None
        scale = len(bias) ** -0.25
        return weight.flatten(1) * scale, bias * scale

    def _refined(
        self,
        start: Tensor,
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        levels: int,
        residual: Callable[..., Tensor],
    ) -> list[Tensor]:
        factor = 1 if start.shape[2:] == first[-1].shape[2:] else 2  # of squares
        flows = [start * (2 ** len(CHANNELS) * factor / FLOW_SCALE)]
        for n, (here, there) in enumerate(zip(reversed(first), reversed(second))):
            if len(flows) == levels:
                break
            flow = F.interpolate(
                flows[-1].float(), scale_factor=factor, mode="bilinear", align_corners=False
            )
            flow = flow[..., : here.shape[2], : here.shape[3]]
            flows.append(flow + residual(n, here, there, flow))
            factor = 2
        return flows

    def _matching_loss(self, scores: Tensor, flow: Tensor) -> Tensor:
        """Cross entropy of the global match with where the flow leads, over what is known to stay
        in the frame.
        """
        height, width = scores.shape[1:3]
        stride = flow.shape[-1] // width
        x, y = (torch.arange(n, device=flow.device, dtype=torch.float32) for n in (width, height))
        flow = pooled(flow, height, width) / stride
        to_x, to_y = flow[:, 0] + x, flow[:, 1] + y[:, None]
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        to_x, to_y = to_x.nan_to_num(), to_y.nan_to_num()
        # Bilinear: a place between four cells belongs to each of them by its share.
        share_x, share_y = (
            (1 - (to_x[..., None] - x).abs()).relu(),
            (1 - (to_y[..., None] - y).abs()).relu(),
        )
        logarithms = scores.flatten(3).log_softmax(3).view_as(scores)
        agreement = torch.einsum("byxvu,byxv,byxu->byx", logarithms, share_y, share_x)
        return -(agreement * inside).sum() / inside.sum().clamp(min=1)
