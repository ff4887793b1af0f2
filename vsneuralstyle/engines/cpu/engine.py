"""Net1 by the kernels: the same pictures, within rounding, as `vsneuralstyle.networks.net1.Net1`,
which has the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsneuralstyle.engines.cpu import kernels, library, packing
from vsneuralstyle.engines.cpu.layers import Chain, Convolution, FlowDecoder, Layers, Pyramid
from vsneuralstyle.networks.flow.litepwcnet import (
    CHANNELS,
    NORM_EPS,
    RADII,
    SURE,
    LitePWCNet,
    in_squares,
    pixels,
)
from vsneuralstyle.networks.flow.network import CONTRAST, FLOW_SCALE
from vsneuralstyle.networks.layers.norm import InstanceNorm
from vsneuralstyle.networks.net1 import REPEATED, MotionEstimator, Net1
from vsneuralstyle.networks.stylebank import parts
from vsneuralstyle.networks.transform_net import STRIDE, UpsampledConv

Reference = Any
"""A module of the reference, or several. PyTorch says no types of what they have."""


def served(net1: Net1) -> bool:
    """Whether this is for its networks, precision and device: on a CPU for which the library is
    there, 16 channels at full resolution and multiples of that elsewhere.
    """
    weight = net1.mask[0].weight
    norms = [module for module in net1.style.modules() if isinstance(module, InstanceNorm)]
    channels = [len(norm.weight) for norm in norms] + [
        layer[-1][0].out_channels for layer in getattr(net1.flow, "features", [])
    ]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and all(count % packing.MULTIPLE == 0 for count in channels)
        and channels[0] == packing.MULTIPLE
        and library.library() is not None
    )


def _arguments(norm: nn.Module) -> tuple[Tensor, Tensor, float] | None:
    """Of an `InstanceNorm` what `Convolution` takes; of none, None."""
    return (
        (norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)
        if isinstance(norm, InstanceNorm)
        else None
    )


def _layer(
    convolution: Reference, slope: float = 1.0, norm: tuple | None = None, halvings: int = 2
) -> Convolution:
    """A 3x3 convolution.

    Args:
        convolution: an `UpsampledConv`, or of stride 1 or 2, its border reflected or 0.
        slope: what is negative is multiplied by it in the end.
        norm: weight, bias and eps of the normalisation of what comes out.
        halvings: what it takes is a frame's size so many times halved: where tiles are few, large
            ones are slower than small ones.
    """
    weight, upsamples = convolution.weight, isinstance(convolution, UpsampledConv)
    if upsamples:
        tile_size = packing.UPSAMPLE2
    elif convolution.stride[0] == 2:
        tile_size = packing.STRIDE2
    else:
        in_bfloat16 = library.uses_bf16_pairs(weight.dtype) or library.uses_amx(weight.dtype)
        tile_size = 6 if in_bfloat16 or halvings > 3 else 8
    reflects = upsamples or convolution.padding_mode == "reflect"
    return Convolution(
        weight, convolution.bias, tile_size, reflects=reflects, slope=slope, norm=norm
    )


def _leaky(layer: Reference, norm: tuple | None = None, halvings: int = 2) -> Convolution:
    """A convolution and its leaky ReLU."""
    return _layer(layer[0], layer[1].negative_slope, norm, halvings)


def _block(block: Reference) -> Convolution:
    """A `ConvBlock` that halves or upsamples, whose ReLU, where it normalises, is left to who takes
    the scale.
    """
    norm = _arguments(block[1])
    return _layer(block[0], 1.0 if norm else 0.0, norm)


class _Blocks:
    """Residual blocks one after the other."""

    def __init__(self, blocks: Sequence[Reference]) -> None:
        layers = ((block.branch[0], (block.branch[1], block.branch[2])) for block in blocks)
        pairs = [
            (_layer(first[0], norm=_arguments(first[1])), _layer(second, norm=_arguments(norm)))
            for first, (second, norm) in layers
        ]
        self.layers = Layers([layer for pair in pairs for layer in pair])

    def __call__(self, x: Tensor) -> Tensor:
        return kernels.residual_blocks(x, self.layers) if self.layers.convolutions else x


class _Bank:
    """A `Bank`."""

    def __init__(self, bank: Reference) -> None:
        self.convolution, self.blocks = (
            _layer(bank[0], norm=_arguments(bank[1])),
            _Blocks([bank[2]]),
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.blocks(kernels.scale_shift_relu_add(*kernels.conv3x3(x, self.convolution)))


class CpuEngine(MotionEstimator):
    """`Net1`'s methods, for one frame at a time and without gradients.

    Args:
        net1: on a CPU, in its precision.
    """

    @torch.inference_mode()
    def __init__(self, net1: Net1) -> None:
        style: Reference = net1.style
        flow: Reference = net1.flow
        mask: Reference = net1.mask
        self.net1, self.flow, self.still = net1, flow, net1.still
        self.mask = Chain(
            [_layer(mask[0], 0.0), _layer(mask[2], 0.0)], mask[4].weight, mask[4].bias
        )
        if isinstance(net1.flow, LitePWCNet):
            (colors, second), *levels = flow.features
            # Of each level a convolution that halves, and one more; the first level's feature
            # nobody looks at, and the first of all sees colors.
            layers = [_leaky(second, halvings=1)]
            for n, (halving, second) in enumerate(levels, 2):
                layers += [_leaky(halving), _leaky(second, (None, None, NORM_EPS), n)]
            self.pyramid = Pyramid(
                (colors[0].weight, colors[0].bias, colors[1].negative_slope), layers, CONTRAST
            )
            estimators = [
                (
                    Chain(
                        [_leaky(layer, halvings=len(CHANNELS) - n) for layer in estimator],
                        predict.weight,
                        predict.bias,
                    ),
                    layers[2 * (len(CHANNELS) - 1 - n)].outputs,
                    radius,
                    pixels(n),
                )
                for n, (estimator, predict, radius) in enumerate(
                    zip(flow.estimators, flow.predicts, RADII)
                )
            ]
            self.flow_decoder = FlowDecoder(
                flow.matched_by(), flow.matching.weight.dtype, SURE, estimators, FLOW_SCALE
            )
        self.dtype: torch.dtype = mask[0].weight.dtype
        self.state_dtype = kernels.state_dtype(self.dtype)
        first, *halving = style.down
        norm = _arguments(first[1])
        assert norm is not None  # the first layer has one
        bias = first[0].bias.detach().float()
        self.first = packing.conv9x9_weight(first[0].weight), bias, norm
        self.down = [_block(block) for block in halving]
        between: Reference = parts(style)
        self.before, self.after, self.rest = (
            _Blocks(blocks) for blocks in (between.before, between.after, between.rest)
        )
        self.banks = [(weight, _Bank(bank)) for weight, bank in between.banks]
        *ups, last = style.up
        self.ups = [_block(block) for block in ups]
        self.last = packing.conv9x9_weight(last.weight), last.bias.detach().float()

    def encode(self, frame: Tensor) -> Tensor:
        """As `Net1.encode`."""
        height, width = (-(-size // STRIDE) * STRIDE for size in frame.shape[2:])
        scale: Tensor | None
        x, scale = kernels.conv9x9_from_rgb(frame, height, width, *self.first, self.dtype)
        for block in self.down:
            x, scale = kernels.conv3x3(x, block, scale=scale, relu=True)
        x = self.before(kernels.scale_shift_relu_add(x, scale, relu=True))
        if len(self.banks) == 1:
            x = self.banks[0][1](x)
        elif self.banks:
            x = sum(bank(x) * weight for weight, bank in self.banks)
        return self.after(x)

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """As `Net1.decode`."""
        x, scale = feature.contiguous(memory_format=torch.channels_last), None
        if self.rest.layers.convolutions:
            x = self.rest(x.to(self.dtype))
        for block in self.ups:
            x, scale = kernels.conv3x3(x, block, scale=scale, relu=True, dtype=self.dtype)
        return kernels.conv9x9_to_rgb(x, scale, height, width, *self.last)

    def flow_features(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `Net1.flow_features`."""
        if not isinstance(self.flow, LitePWCNet):
            return self.net1.flow_features(frame)
        height, width = (
            -(-size // self.flow.multiple) * self.flow.multiple for size in frame.shape[2:]
        )
        return kernels.flow_features(frame.contiguous(), height, width, self.pyramid, self.dtype)

    def max_change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """As `Net1.max_change`."""
        return kernels.max_change(frame.contiguous(), previous.contiguous(), REPEATED)

    def match_features(
        self,
        first: tuple[Tensor, ...],
        second: tuple[Tensor, ...],
        height: int,
        width: int,
        change: Tensor | None,
    ) -> Tensor:
        """As `Net1.match_features`."""
        if not isinstance(self.flow, LitePWCNet):
            return self.net1.match_features(first, second, height, width, change)
        change = change if change is None else change.contiguous()
        return kernels.estimate_motion(
            first, second, self.flow_decoder, in_squares(first[-1]), change, self.still
        )

    def downsample4(self, frame: Tensor) -> Tensor:
        """As `Net1.downsample4`."""
        return kernels.downsample4(frame)

    def scene_descriptor(self, lowres: Tensor) -> Tensor:
        """As `Net1.scene_descriptor`."""
        return kernels.scene_descriptor(lowres)

    def warp_residual(self, lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """As `Net1.warp_residual`."""
        return kernels.warp_residual(lowres, previous, flow.contiguous())

    def compose(
        self,
        feature: Tensor,
        previous: Tensor,
        flow: Tensor,
        residual: Tensor,
        change: Tensor | None = None,
        coherence: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """As `Net1.compose`."""
        net1 = self.net1
        feature, previous = (
            x.to(dtype, memory_format=torch.channels_last)
            for x, dtype in ((feature, self.dtype), (previous, self.state_dtype))
        )
        return kernels.compose(
            feature,
            previous,
            flow.contiguous(),
            residual.contiguous(),
            change.contiguous() if change is not None and net1.still > 0 else None,
            self.mask,
            cubic=net1.warp_mode == "bicubic",
            still=net1.still,
            hold=net1.hold,
            coherence=float(coherence),
            refresh=net1.refresh,
            sharpen=net1.sharpen,
        )
