"""PWC-Net: pyramid, warping and cost volume; a flow sub-network that matches instead of guessing.

Source: Sun, Yang, Liu, Kautz, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume" (CVPR 2018),
without its dense connections and its context network. Each level adds to the flow of the coarser one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.flow import FLOW_SCALE, LEVELS, FlowNetwork, conv, scaled
from vsneuralstyle.networks.norm import centred
from vsneuralstyle.networks.warp import warp

CHANNELS = (16, 32, 64, 96, 128, 192)
"""Channels at 1/2 to 1/64 resolution, of width 1."""
ESTIMATOR = (128, 128, 96, 64)
"""Channels of a level's flow estimator, of width 1."""
RADIUS = 3
"""Furthest displacement of the cost volume, in pixels of its level."""
BLOCK = 16
NORM_EPS = 1e-4
"""Added to the variance of a feature."""


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


def normalised(feature: Tensor) -> Tensor:
    """With mean 0 and variance 1 a channel.

    Without it products of features are all alike, and training never leaves "no motion" (Jonschkowski et al., "What
    Matters in Unsupervised Optical Flow", ECCV 2020, section 4.2).
    """
    difference, variance = centred(feature)
    return (difference * (variance + NORM_EPS).rsqrt()).to(feature.dtype)


def normalised_together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both frames' features, by statistics of the two together."""
    return tuple(normalised(torch.cat((first, second), 2)).chunk(2, 2))


def seen(here: Tensor, there: Tensor, flow: Tensor | None, pixels: float, radius: int) -> Tensor:
    """What a level's estimator sees: the cost volume, the first frame's feature, the flow so far.

    Args:
        here, there: features of the two frames, (B, C, H, W).
        flow: so far, (B, 2, H, W) float32; None: none.
        pixels: of this level, that 1 of the flow is.
        radius: of the cost volume.

    Returns:
        (B, (2r+1)² + C + 2, H, W).
    """
    if flow is None:
        flow = here.new_zeros(len(here), 2, *here.shape[2:], dtype=torch.float32)
    else:
        there = warp(there, flow * pixels).to(here.dtype)
    volume = F.leaky_relu(cost_volume(here, there.contiguous(memory_format=torch.channels_last), radius), 0.1)
    known = torch.cat((volume.to(here.dtype), here, flow.to(here.dtype)), 1)
    return known.contiguous(memory_format=torch.channels_last)


class PWCNet(FlowNetwork):
    """Optical flow, coarse to fine: each level warps the second frame's features by the flow so far and adds to it.

    Args:
        width: multiplies every channel count but the first level's.
    """

    depth = len(CHANNELS)
    """Levels of the features, from 1/2 on."""
    finest: Sequence[int] = ESTIMATOR
    """Channels of the estimator at 1/4, of width 1."""
    finest_radius = RADIUS

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        channels = [CHANNELS[0]] + [scaled(c, width) for c in CHANNELS[1 : self.depth]]
        self.features = nn.ModuleList(
            nn.Sequential(conv(i, o, 3, 2), conv(o, o)) for i, o in zip([3, *channels[:-1]], channels)
        )
        self.radii = [RADIUS] * (self.depth - 2) + [self.finest_radius]
        self.estimators, self.predicts = nn.ModuleList(), nn.ModuleList()
        for c, radius in zip(reversed(channels[1:]), self.radii):
            widths = [scaled(w, width) for w in (self.finest if c == channels[1] else ESTIMATOR)]
            known = (2 * radius + 1) ** 2 + c + 2
            self.estimators.append(nn.Sequential(*(conv(i, o) for i, o in zip([known, *widths[:-1]], widths))))
            self.predicts.append(nn.Conv2d(widths[-1], 2, 3, padding=1))
        self.initialise(self.predicts)

    def match(self, first: Sequence[Tensor], second: Sequence[Tensor], levels: int = LEVELS) -> list[Tensor]:
        return self._continued([], self._encode(*first, *second), levels)

    def _encode(self, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both frames' normalised features, fine to coarse, from 1/4 on."""
        return [normalised_together(*x.chunk(2)) for x in self._raw(torch.cat(self.prepared(first, second)))]

    def _raw(self, frame: Tensor) -> list[Tensor]:
        """Features of prepared frames, fine to coarse, from 1/4 on."""
        raw = [self.features[0](frame)]
        for layer in self.features[1:]:
            raw.append(layer(raw[-1]))
        return raw[1:]

    def _continued(
        self,
        flows: list[Tensor],
        features: list[tuple[Tensor, Tensor]],
        levels: int,
        see: Callable[[Tensor, Tensor, Tensor | None, float, int], Tensor] = seen,
    ) -> list[Tensor]:
        """Flows to the number of `levels`; the first may be given, at the coarsest features' resolution. `see`: `seen`."""
        levels_down = range(self.depth, 1, -1)
        for level, radius, estimator, predict in zip(levels_down, self.radii, self.estimators, self.predicts):
            if len(flows) == levels:
                break
            here, there = features[level - 2]
            flow = None
            if flows:
                factor = here.shape[-1] // flows[-1].shape[-1]
                flow = F.interpolate(flows[-1].float(), scale_factor=factor, mode="bilinear", align_corners=False)
            residual = predict(estimator(see(here, there, flow, FLOW_SCALE / 2**level, radius))).float()
            flows = [*flows, residual if flow is None else flow + residual]
        return flows
