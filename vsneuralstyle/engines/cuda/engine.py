"""Net1 on a GPU by the kernels of `gpu` and cuDNN's convolutions: the same pictures, within
rounding, as `vsneuralstyle.networks.net1.Net1`, which has the weights.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.engines.cuda import flow_kernels, packing, runtime
from vsneuralstyle.engines.cuda import kernels as cuda_kernels
from vsneuralstyle.engines.cuda.kernels import FeatureMap
from vsneuralstyle.networks import scene_descriptor
from vsneuralstyle.networks.flow.litepwcnet import NORM_EPS, RADII, SURE, LitePWCNet, pixels
from vsneuralstyle.networks.layers.norm import InstanceNorm
from vsneuralstyle.networks.net1 import MotionEstimator, Net1, discounted, without_still
from vsneuralstyle.networks.stylebank import parts
from vsneuralstyle.networks.transform_net import STRIDE, UpsampledConv, in_squares

Reference = Any
"""A module of the reference, or several. PyTorch says no types of what they have."""


def served(net1: Net1) -> bool:
    """Whether this is for its networks, precision and device."""
    mask: Reference = net1.mask
    flow: Reference = net1.flow
    weight, style = mask[0].weight, net1.style
    if (
        weight.device.type != "cuda"
        or weight.dtype != torch.float16
        or not isinstance(net1.flow, LitePWCNet)
    ):
        return False
    styles, chains = (
        [
            module
            for part in networks
            for module in part.modules()
            if isinstance(module, nn.Conv2d) and module.out_channels > 3
        ]
        for networks in (
            [style],
            [*flow.estimators, *(level[1] for level in flow.features), net1.mask],
        )
    )
    return (
        all(module.out_channels % cuda_kernels.MULTIPLE == 0 for module in (*styles, *chains))
        and max(module.out_channels for module in chains) <= cuda_kernels.MAX_OUTPUTS
        and max(cuda_kernels.padded_channels(module.in_channels) for module in chains)
        <= cuda_kernels.MAX_INPUTS
        and flow.features[0][0][0].out_channels == 16
        and runtime.available(weight.device)
    )


def _norm(norm: InstanceNorm) -> tuple[Tensor, Tensor, float]:
    """As `cuda_kernels.instance_norm` takes it."""
    return norm.weight.detach().float(), norm.bias.detach().float(), norm.eps


class _Block:
    """A `ConvBlock` up to its normalisation, whose ReLU is left to who takes the scale; or a
    convolution and an `InstanceNorm`.
    """

    def __init__(self, convolution: Reference, norm: Reference) -> None:
        self.upsamples = isinstance(convolution, UpsampledConv)
        weight = convolution.rearranged()[0] if self.upsamples else convolution.weight
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.stride = convolution.stride
        self.norm = _norm(norm) if isinstance(norm, InstanceNorm) else None
        # Normalisation takes a bias away again; without, it is the scale.
        bias = convolution.bias.detach().float()
        self.scale = torch.stack((torch.ones_like(bias), bias))

    def __call__(self, x: FeatureMap) -> tuple[FeatureMap, Tensor]:
        """Of a picture with the border that it wants: what comes out, and the scale that it is to
        be normalised by.
        """
        out = F.conv2d(x.samples, self.weight, None, self.stride)
        if self.upsamples:
            y = FeatureMap(out, out.shape[1] // 4, 2 * x.height, 2 * x.width, 2, 1)
        else:
            y = FeatureMap.of(out)
        return y, cuda_kernels.instance_norm(y, *self.norm) if self.norm else self.scale


class _Residuals:
    """Residual blocks one after the other, of pictures with a border of 1."""

    def __init__(self, blocks: Iterable[Reference]) -> None:
        self.blocks = [
            (
                _Block(block.branch[0][0], block.branch[0][1]),
                _Block(block.branch[1], block.branch[2]),
            )
            for block in blocks
        ]

    def __call__(self, x: FeatureMap, pad: int = 1) -> FeatureMap:
        """With that border behind the last."""
        for n, (first, second) in enumerate(self.blocks, 1):
            y = cuda_kernels.scale_shift_relu_add(*first(x), relu=True, pad=1)
            x = cuda_kernels.scale_shift_relu_add(
                *second(y), residual=x, pad=pad if n == len(self.blocks) else 1
            )
        return x


class _Bank:
    """A `Bank`."""

    def __init__(self, bank: Reference) -> None:
        self.convolution, self.blocks = _Block(bank[0], bank[1]), _Residuals([bank[2]])

    def __call__(self, x: FeatureMap) -> FeatureMap:
        return self.blocks(cuda_kernels.scale_shift_relu_add(*self.convolution(x), pad=1))


Layer = tuple[Tensor, Tensor, float]
"""Weight, bias and slope of what is negative, as `cuda_kernels.conv3x3` takes them."""


def _layer(
    convolution: Reference,
    slope: float,
    arranged: Callable[[Tensor], Tensor] = packing.conv3x3_weight,
) -> Layer:
    """arranged: what is made of the weight."""
    return arranged(convolution.weight.detach()), convolution.bias.detach().float(), slope


def _leaky(layer: Reference) -> tuple[Reference, float]:
    """A convolution, and the slope of the leaky ReLU behind it."""
    return layer[0], layer[1].negative_slope


class _Chain:
    """Convolutions with 0 about the border, and a last one to a channel or two, as planes."""

    def __init__(self, layers: Sequence[Layer], last: Reference) -> None:
        self.layers = layers
        self.last = packing.conv3x3_weight(last.weight), last.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = cuda_kernels.conv3x3(x, *layer)
        return cuda_kernels.conv3x3(x, *self.last, planes=True)


class CudaEngine(MotionEstimator):
    """`Net1`'s methods, for one frame at a time and without gradients.

    Args:
        net1: on a GPU, in float16.
    """

    state_dtype = torch.float16

    @torch.inference_mode()
    def __init__(self, net1: Net1) -> None:
        style: Reference = net1.style
        flow: Reference = net1.flow
        mask: Reference = net1.mask
        self.net1, self.flow, self.still = net1, flow, net1.still
        first, *halving = style.down
        self.first, self.first_norm = in_squares(first[0].weight.detach()), _norm(first[1])
        self.down = [_Block(block[0], block[1]) for block in halving]
        between: Reference = parts(style)
        self.before, self.after, self.rest = (
            _Residuals(blocks) for blocks in (between.before, between.after, between.rest)
        )
        self.banks = [(weight, _Bank(bank)) for weight, bank in between.banks]
        *ups, last = style.up
        self.ups = [_Block(block[0], block[1]) for block in ups]
        self.last, self.last_bias = last.rearranged()[0].detach(), last.bias.detach().float()
        self.mask = _Chain([_layer(mask[0], 0.0), _layer(mask[2], 0.0)], mask[4])
        (colors, *halvings), seconds = zip(*flow.features)
        self.colors = _layer(*_leaky(colors), packing.conv3x3_from_rgb_weight)
        self.halvings = [_layer(*_leaky(halving), Tensor.detach) for halving in halvings]  # cuDNN's
        self.seconds = [_layer(*_leaky(second)) for second in seconds]
        self.estimators = [
            self._estimator(*level) for level in zip(flow.estimators, flow.predicts, RADII)
        ]

    @staticmethod
    def _estimator(estimator: Reference, predict: Reference, radius: int) -> _Chain:
        """Its first layer takes its inputs as `cost_volume` lays them down: the feature before the
        cost volume.
        """
        first, *others = map(_leaky, estimator)
        volume, known = (2 * radius + 1) ** 2, first[0].in_channels
        order = [*range(volume, known - 2), *range(volume), known - 2, known - 1]
        return _Chain(
            [
                _layer(*first, lambda weight: packing.conv3x3_weight(weight[:, order])),
                *(_layer(*other) for other in others),
            ],
            predict,
        )

    def encode(self, frame: Tensor) -> Tensor:
        """As `Net1.encode`."""
        height, width = (-(-size // STRIDE) * STRIDE for size in frame.shape[2:])
        out = F.conv2d(cuda_kernels.pack_frame(frame.contiguous()), self.first)
        x = FeatureMap(out, out.shape[1] // cuda_kernels.SIDE**2, height, width, cuda_kernels.SIDE)
        scale = cuda_kernels.instance_norm(x, *self.first_norm)
        for block in self.down:
            x, scale = block(cuda_kernels.scale_shift_relu_add(x, scale, relu=True, pad=1))
        x = self.before(
            cuda_kernels.scale_shift_relu_add(x, scale, relu=True, pad=1),
            pad=1 if self.banks or self.after.blocks else 0,
        )
        if len(self.banks) == 1:
            x = self.banks[0][1](x)
        elif self.banks:
            # The border of a sum is the sum of the borders.
            samples = sum(bank(x).samples * weight for weight, bank in self.banks)
            x = FeatureMap(samples, x.channels, x.height, x.width, x.side, x.edge)
        x = self.after(x, pad=0)
        return cuda_kernels.scale_shift_relu_add(x).samples if x.edge else x.samples

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """As `Net1.decode`."""
        x, scale = FeatureMap.of(feature.to(torch.float16, memory_format=torch.channels_last)), None
        if self.rest.blocks:
            x = self.rest(cuda_kernels.scale_shift_relu_add(x, pad=1))
        for block in self.ups:
            x, scale = block(
                cuda_kernels.scale_shift_relu_add(
                    x, scale, relu=scale is not None, pad=1, repeats=True
                )
            )
        squares = cuda_kernels.scale_shift_relu_add(
            x, scale, relu=True, pad=cuda_kernels.SIDE, side=cuda_kernels.SIDE
        )
        return cuda_kernels.unpack_frame(
            F.conv2d(squares.samples, self.last), self.last_bias, height, width
        )

    def flow_features(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `Net1.flow_features`."""
        height, width = (
            -(-size // self.flow.multiple) * self.flow.multiple for size in frame.shape[2:]
        )
        frame = frame.contiguous()
        x = flow_kernels.conv3x3_from_rgb(
            frame, flow_kernels.frame_mean(frame, height, width), height, width, *self.colors
        )
        x, found = cuda_kernels.conv3x3(x, *self.seconds[0]), []
        for (weight, bias, slope), second in zip(self.halvings, self.seconds[1:]):
            x = cuda_kernels.bias_leaky_relu(F.conv2d(x, weight, None, 2, 1), bias, slope)
            x = cuda_kernels.conv3x3(x, *second)
            picture = FeatureMap.of(x)
            found.append(
                cuda_kernels.scale_shift_relu_add(
                    picture, cuda_kernels.instance_norm(picture, None, None, NORM_EPS)
                ).samples
            )
        return tuple(found)

    def match_features(
        self,
        first: tuple[Tensor, ...],
        second: tuple[Tensor, ...],
        height: int,
        width: int,
        change: Tensor | None,
    ) -> Tensor:
        """As `Net1.match_features`."""
        flow = self.flow.between(
            first, second, height, width, found=self._found, residual=self._residual
        )
        return without_still(flow, change, self.still)

    def _found(self, here: Tensor, there: Tensor) -> Tensor:
        """As `LitePWCNet.found`."""
        # The products are PyTorch's operators', for whose sake a graph would copy what it is given
        # (`graphs`): of a few places, but one more launch.
        flow: Reference = self.flow
        products = flow.products(
            *(
                cuda_kernels.scale_shift_relu_add(FeatureMap.of(feature)).samples
                for feature in (here, there)
            )
        )
        return flow_kernels.global_match(flow_kernels.aggregate_costs(products), SURE)

    def _residual(self, n: int, here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
        """As `LitePWCNet.residual`."""
        return self.estimators[n](
            flow_kernels.cost_volume(here, there, flow.contiguous(), pixels(n), RADII[n])
        )

    def max_change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """As `Net1.max_change`."""
        return discounted(cuda_kernels.max_change(frame.contiguous(), previous.contiguous()))

    def downsample4(self, frame: Tensor) -> Tensor:
        """As `Net1.downsample4`."""
        return cuda_kernels.downsample4(frame.contiguous())

    def scene_descriptor(self, lowres: Tensor) -> Tensor:
        """As `Net1.scene_descriptor`."""
        return scene_descriptor.scene_descriptor(lowres)

    def warp_residual(self, lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """As `Net1.warp_residual`."""
        return cuda_kernels.warp_residual(*(x.contiguous() for x in (lowres, previous, flow)))

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
        net1, cubic = self.net1, self.net1.warp_mode == "bicubic"
        feature = feature.contiguous(memory_format=torch.channels_last)
        previous = previous.to(self.state_dtype, memory_format=torch.channels_last)
        flow = flow.contiguous()
        warped, difference = cuda_kernels.warp_feature(
            previous, flow, feature, residual.contiguous(), cubic
        )
        mask = self.mask(difference)
        change = change.contiguous() if change is not None and net1.still > 0 else None
        composite, blended, most = cuda_kernels.blend(
            feature,
            warped,
            mask,
            flow,
            change,
            net1.still,
            net1.hold,
            coherence,
            net1.refresh,
            net1.sharpen,
        )
        if net1.sharpen:
            composite = cuda_kernels.sharpen(composite, feature, most)
        return composite, blended
