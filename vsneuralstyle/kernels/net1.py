"""Net1 by the kernels: the same pictures, within rounding, as `vsneuralstyle.networks.net1.Net1`, which has the weights."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle import kernels
from vsneuralstyle.cpu import units
from vsneuralstyle.kernels import gpu_net1
from vsneuralstyle.kernels.shared import KernelNet1
from vsneuralstyle.networks.litepwcnet import CHANNELS, NORM_EPS, LitePWCNet
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.norm import InstanceNorm
from vsneuralstyle.networks.stylebank import Bank, parts
from vsneuralstyle.networks.transform import STRIDE, ConvBlock, RearrangedConv, ResidualBlock, UpsampledConv


def fastest(net1: Net1) -> "Networks":
    """By the kernels where they can do it: on a CPU for which the library is there, 16 channels at full resolution and multiples
    of that elsewhere; on a GPU in float16 (`gpu_net1.served`). For weights that change no more."""
    if _served(net1):
        return FusedNet1(net1)
    if gpu_net1.served(net1):
        return gpu_net1.GpuNet1(net1)
    for module in net1.modules():
        if isinstance(module, RearrangedConv):
            module.fix()
    return net1


def _served(net1: Net1) -> bool:
    weight = net1.mask[0].weight
    norms = [module for module in net1.style.modules() if isinstance(module, InstanceNorm)]
    channels = [len(norm.weight) for norm in norms] + [layer[-1][0].out_channels for layer in getattr(net1.flow, "features", [])]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and all(count % kernels.MULTIPLE == 0 for count in channels)
        and channels[0] == kernels.MULTIPLE
        and kernels.library() is not None
    )


def _arguments(norm: nn.Module) -> tuple[Tensor, Tensor, float] | None:
    """Of an `InstanceNorm` what `kernels.statistics` takes; of none, None."""
    return (norm.weight.detach().float(), norm.bias.detach().float(), norm.eps) if isinstance(norm, InstanceNorm) else None


class _Convolution:
    """A 3x3 convolution by `kernels.convolve`, or by PyTorch where that is faster.

    Args:
        convolution: an `UpsampledConv`, or of stride 1 or 2, its border reflected or 0.
        slope: what is negative is multiplied by it in the end.
        norm: weight, bias and eps of the normalisation of what comes out.
        reach: of `kernels.points`, for a stride of 1 in float32.
    """

    def __init__(self, convolution: nn.Conv2d, slope: float = 1.0, norm: tuple | None = None, reach: int = 8) -> None:
        enlarges = isinstance(convolution, UpsampledConv)
        self.reflects = enlarges or convolution.padding_mode == "reflect"
        self.slope, self.norm = slope, norm
        outputs, inputs = convolution.weight.shape[:2]
        bias = F.pad(convolution.bias.detach().float(), (0, kernels.whole(outputs) - outputs))
        halves, dtype = convolution.stride[0] == 2, convolution.weight.dtype
        self.kernel: kernels.Convolution | None = None
        if enlarges or halves or not _direct_is_faster(dtype):
            reach = kernels.ENLARGING if enlarges else kernels.HALVING if halves else 6 if kernels.pairs(dtype) else reach
            self.kernel = kernels.Convolution(kernels.points(convolution.weight, reach), bias, reach, reflects=self.reflects, slope=slope, norm=norm)
        else:
            spare = 0, 0, 0, 0, 0, kernels.whole(inputs) - inputs, 0, kernels.whole(outputs) - outputs
            self.weight = F.pad(convolution.weight.detach(), spare).contiguous(memory_format=torch.channels_last)
            self.bias = bias.to(dtype)

    def __call__(
        self, x: Tensor, scale: Tensor | None = None, relu: bool = False, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `kernels.convolve`."""
        if self.kernel:
            return kernels.convolve(x, self.kernel, scale=scale, relu=relu, dtype=dtype)
        if self.reflects:
            x = kernels.normalise(x, scale, relu=relu, pad=1)
        x = F.conv2d(x, self.weight, self.bias, padding=0 if self.reflects else 1)
        x = F.leaky_relu_(x, self.slope) if self.slope != 1 else x
        return x.to(dtype or x.dtype), kernels.statistics(x, *self.norm) if self.norm else None


def _direct_is_faster(dtype: torch.dtype) -> bool:
    """Matrix units multiply faster than Winograd's filtering, in vectors, saves multiplications."""
    return dtype == torch.bfloat16 and "amx_bf16" in units()


def _reach(halvings: int) -> int:
    """For pictures of a frame's size, so many times halved: large tiles are slower than small ones where they are few."""
    return 8 if halvings <= 3 else 6


def _block(block: ConvBlock) -> _Convolution:
    """A `ConvBlock`, whose ReLU, where it normalises, is left to who takes the scale."""
    norm = _arguments(block[1])
    return _Convolution(block[0], 1.0 if norm else 0.0, norm)


def _together(convolutions: Sequence[_Convolution]) -> kernels.Layers | None:
    """For a call of all of them; None where one is PyTorch's, or there is none."""
    layers = [one.kernel for one in convolutions]
    return kernels.Layers(layers) if layers and all(layers) else None


class _Chain:
    """Convolutions, each with the slope of what is negative in the end, and a last one to a channel or two, in float32."""

    def __init__(self, layers: Iterable[tuple[nn.Conv2d, float]], last: nn.Conv2d, reach: int = 8) -> None:
        self.layers = [_Convolution(*layer, reach=reach) for layer in layers]
        self.together = _together(self.layers)
        self.last = kernels.few_weights(last.weight), last.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        if self.together:
            return kernels.chain(x, self.together, *self.last)
        for layer in self.layers:
            x, _ = layer(x)
        return kernels.few(x, *self.last)


class _Blocks:
    """Residual blocks one after the other."""

    def __init__(self, blocks: Iterable[ResidualBlock]) -> None:
        self.blocks = [
            (_Convolution(block.branch[0][0], norm=_arguments(block.branch[0][1])),
             _Convolution(block.branch[1], norm=_arguments(block.branch[2]))) for block in blocks
        ]
        self.together = _together([layer for block in self.blocks for layer in block])

    def __call__(self, x: Tensor) -> Tensor:
        if self.together:
            return kernels.blocks(x, self.together)
        for first, second in self.blocks:
            y, scale = first(x)
            y, scale = second(y, scale, relu=True)
            x = kernels.normalise(y, scale, residual=x)
        return x


class _Level:
    """A level of the flow network's pyramid: a convolution that halves, and one more, in float32 of that reach.

    (1, C, H, W) -> what the next level takes, and the feature, both (1, C', ceil(H/2), ceil(W/2)).
    """

    def __init__(self, halving: nn.Sequential, second: nn.Sequential, reach: int) -> None:
        self.halving = _Convolution(halving[0], halving[1].negative_slope)
        self.second = _Convolution(second[0], second[1].negative_slope, (None, None, NORM_EPS), reach)
        self.together = _together([self.halving, self.second])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.together:
            return kernels.level(x, self.together)
        x, scale = self.second(self.halving(x)[0])
        return x, kernels.normalise(x, scale)


class _Bank:
    """A `Bank`."""

    def __init__(self, bank: Bank) -> None:
        self.convolution, self.blocks = _Convolution(bank[0], norm=_arguments(bank[1])), _Blocks([bank[2]])

    def __call__(self, x: Tensor) -> Tensor:
        return self.blocks(kernels.normalise(*self.convolution(x)))


class FusedNet1(KernelNet1):
    """`Net1`'s methods, for one frame at a time and without gradients.

    Args:
        net1: on a CPU, in its precision.
    """

    by = kernels

    @torch.inference_mode()
    def __init__(self, net1: Net1) -> None:
        style = net1.style
        self.net1 = net1
        self.mask = _Chain([(net1.mask[0], 0.0), (net1.mask[2], 0.0)], net1.mask[4])
        if isinstance(self.flow, LitePWCNet):
            # Of each level a convolution that halves, and one more; the first level's feature nobody looks at, and the first of all
            # sees colors, 3 channels.
            halvings, seconds = zip(*self.flow.features)
            self.colors = kernels.colors_weight(halvings[0][0].weight), halvings[0][0].bias.detach().float(), halvings[0][1].negative_slope
            self.second = _Convolution(seconds[0][0], seconds[0][1].negative_slope, reach=_reach(1))
            self.levels = [_Level(*layers, _reach(n)) for n, layers in enumerate(zip(halvings[1:], seconds[1:]), 2)]
            self.estimators = [
                _Chain([(layer[0], layer[1].negative_slope) for layer in estimator], predict, _reach(len(CHANNELS) - n))
                for n, (estimator, predict) in enumerate(zip(self.flow.estimators, self.flow.predicts))
            ]
        self.dtype = net1.mask[0].weight.dtype
        first, *halving = style.down
        self.first = kernels.nine_points(first[0].weight), first[0].bias.detach().float(), _arguments(first[1])
        self.down = [_block(block) for block in halving]
        between = parts(style)
        self.before, self.after, self.rest = (_Blocks(blocks) for blocks in (between.before, between.after, between.rest))
        self.banks = [(weight, _Bank(bank)) for weight, bank in between.banks]
        *ups, last = style.up
        self.ups = [_block(block) for block in ups]
        self.last = kernels.nine_points(last.weight), last.bias.detach().float()

    def encode(self, frame: Tensor) -> Tensor:
        """As `Net1.encode`."""
        height, width = (-(-size // STRIDE) * STRIDE for size in frame.shape[2:])
        x, scale = kernels.enter(frame, height, width, *self.first, self.dtype)
        for block in self.down:
            x, scale = block(x, scale, relu=True)
        x = self.before(kernels.normalise(x, scale, relu=True))
        if len(self.banks) == 1:
            x = self.banks[0][1](x)
        elif self.banks:
            x = sum(bank(x) * weight for weight, bank in self.banks)
        return self.after(x)

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """As `Net1.decode`."""
        x, scale = feature.contiguous(memory_format=torch.channels_last), None
        if self.rest.blocks:
            x = self.rest(x.to(self.dtype))
        for block in self.ups:
            x, scale = block(x, scale, relu=True, dtype=self.dtype)
        return kernels.draw(x, scale, height, width, *self.last)

    def look(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `Net1.look`."""
        if not isinstance(self.flow, LitePWCNet):
            return self.net1.look(frame)
        height, width = (-(-size // self.flow.multiple) * self.flow.multiple for size in frame.shape[2:])
        # Of the frame with its border repeated to that size; by rows first, which no number of threads can change.
        rows = frame.sum(3) + (width - frame.shape[3]) * frame[..., -1]
        mean = (rows.sum(2) + (height - frame.shape[2]) * rows[..., -1]).mean().item() / (height * width)
        x, _ = self.second(kernels.colors(frame, height, width, mean, 4.0, *self.colors, self.dtype))
        features = []
        for level in self.levels:
            x, feature = level(x)
            features.append(feature)
        return tuple(features)

    def quarter(self, frame: Tensor) -> Tensor:
        """As `Net1.quarter`."""
        return kernels.quarter(frame)

    def unexplained(self, quarter: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """As `Net1.unexplained`."""
        return kernels.unexplained(quarter, previous, flow.contiguous())


Networks = Net1 | FusedNet1 | gpu_net1.GpuNet1
"""The networks by one way or another."""
