"""Net1 by the kernels: the same pictures, within rounding, as `vsneuralstyle.networks.net1.Net1`, which has the weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle import kernels
from vsneuralstyle.networks.flow import MULTIPLE as FLOW_MULTIPLE
from vsneuralstyle.networks.litepwcnet import NORM_EPS, LitePWCNet
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.norm import InstanceNorm
from vsneuralstyle.networks.stylebank import BLOCKS_BEFORE_BANK, Bank, Mixture, StyleBankNet
from vsneuralstyle.networks.transform import STRIDE, ConvBlock, ResidualBlock
from vsneuralstyle.networks.warp import warp


def fastest(net1: Net1) -> "Net1 | FusedNet1":
    """By the kernels where they can do it: on a CPU for which the library is there, all channels multiples of 16."""
    return FusedNet1(net1) if _served(net1) else net1


def _served(net1: Net1) -> bool:
    weight = net1.mask[0].weight
    norms = [module for module in net1.style.modules() if isinstance(module, InstanceNorm)]
    channels = [len(norm.weight) for norm in norms] + [layer[-1][0].out_channels for layer in getattr(net1.flow, "features", [])]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and all(count % kernels.MULTIPLE == 0 for count in channels)
        and kernels.library() is not None
    )


def _conv(convolution: nn.Conv2d, padded: Tensor) -> Tensor:
    """The convolution of what has its border already."""
    return F.conv2d(padded, convolution.weight, convolution.bias, convolution.stride)


class _Norm:
    """An `InstanceNorm`, or none."""

    def __init__(self, norm: nn.Module) -> None:
        self.statistics = isinstance(norm, InstanceNorm)
        if self.statistics:
            self.arguments = norm.weight.detach().float(), norm.bias.detach().float(), norm.eps

    def __call__(self, x: Tensor, **options: object) -> Tensor:
        if self.statistics:
            return kernels.normalise(x, *self.arguments, **options)
        return kernels.normalise(x, statistics=False, **options)


class _Blocks:
    """Residual blocks one after the other: a padded picture in, a picture out, padded or not."""

    def __init__(self, blocks: Iterable[ResidualBlock]) -> None:
        self.blocks = [
            (block.branch[0][0], _Norm(block.branch[0][1]), block.branch[1], _Norm(block.branch[2])) for block in blocks
        ]

    def __call__(self, x: Tensor, pad: int) -> Tensor:
        if not self.blocks:
            return x if pad else x[..., 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)
        for n, (first, first_norm, second, second_norm) in enumerate(self.blocks):
            y = first_norm(_conv(first, x), relu=True, pad=1)
            x = second_norm(_conv(second, y), residual=x, pad=1 if n + 1 < len(self.blocks) else pad)
        return x


class _Bank:
    """A `Bank`: padded in, padded out."""

    def __init__(self, bank: Bank) -> None:
        self.convolution, self.norm, self.blocks = bank[0], _Norm(bank[1]), _Blocks([bank[2]])

    def __call__(self, x: Tensor) -> Tensor:
        return self.blocks(self.norm(_conv(self.convolution, x), pad=1), pad=1)


class _Up:
    """An upsampling `ConvBlock`: a picture in, one of twice its size out, padded."""

    def __init__(self, block: ConvBlock) -> None:
        self.weight, self.bias = block[0].corners()
        self.norm = _Norm(block[1])

    def __call__(self, x: Tensor, pad: int) -> Tensor:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.weight, self.bias)
        return self.norm(x, corners=True, relu=True, pad=pad)


class FusedNet1:
    """`Net1`'s methods, for one frame at a time and without gradients.

    Args:
        net1: on a CPU, in its precision.
    """

    @torch.inference_mode()
    def __init__(self, net1: Net1) -> None:
        style = net1.style
        self.net1, self.flow, self.mask = net1, net1.flow, net1.mask
        self.dtype = net1.mask[0].weight.dtype
        self.down = [(block[0], _Norm(block[1])) for block in style.down]
        cut = BLOCKS_BEFORE_BANK if isinstance(style, StyleBankNet) else style.encoder_blocks
        end = None if isinstance(style, StyleBankNet) else style.encoder_blocks
        self.before, self.after = _Blocks(style.residual[:cut]), _Blocks(style.residual[cut:end])
        self.rest = _Blocks([] if end is None else style.residual[end:])
        bank = getattr(style, "bank", None)
        self.banks = []
        if isinstance(bank, Mixture):
            self.banks = [(weight, _Bank(one)) for weight, one in zip(bank.weights, bank.banks)]
        elif isinstance(bank, Bank):
            self.banks = [(1.0, _Bank(bank))]
        *ups, last = style.up
        self.ups = [_Up(block) for block in ups]
        self.last_weight, self.last_bias, self.last_stride, self.last_pad = last.blocks()

    def encode(self, frame: Tensor) -> Tensor:
        """As `Net1.encode`."""
        height, width = (-(-size // STRIDE) * STRIDE for size in frame.shape[2:])
        first = self.down[0][0]
        x = kernels.pack(frame, height, width, first.kernel_size[0] // 2, self.dtype)
        for convolution, norm in self.down:
            x = norm(_conv(convolution, x), relu=True, pad=1)
        x = self.before(x, pad=1)
        if len(self.banks) == 1:
            x = self.banks[0][1](x)
        elif self.banks:
            x = sum(bank(x) * weight for weight, bank in self.banks)
        return self.after(x, pad=0)

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """As `Net1.decode`."""
        x = feature.to(self.dtype).contiguous(memory_format=torch.channels_last)
        if self.rest.blocks:
            x = self.rest(F.pad(x, (1, 1, 1, 1), mode="reflect"), pad=0)
        for n, up in enumerate(self.ups):
            x = up(x, pad=0 if n + 1 < len(self.ups) else self.last_pad)
        return kernels.picture(F.conv2d(x, self.last_weight, self.last_bias, self.last_stride), height, width)

    def look(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `Net1.look`."""
        if not isinstance(self.flow, LitePWCNet):
            return self.net1.look(frame)
        height, width = (-(-size // FLOW_MULTIPLE) * FLOW_MULTIPLE for size in frame.shape[2:])
        # Of the frame with its border repeated to that size; by rows first, which no number of threads can change.
        rows = frame.sum(3) + (width - frame.shape[3]) * frame[..., -1]
        mean = (rows.sum(2) + (height - frame.shape[2]) * rows[..., -1]).mean().item() / (height * width)
        x = self.flow.features[0](kernels.pack(frame, height, width, 0, self.dtype, mean, 4.0))
        features = []
        for layer in self.flow.features[1:]:
            x = layer(x)
            features.append(kernels.normalise(x, eps=NORM_EPS))
        return tuple(features)

    def change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """As `Net1.change`."""
        return F.max_pool2d(kernels.change(frame, previous), 3, stride=1, padding=1)

    motion = Net1.motion  # by this `look` and `change`, and `matching`

    @property
    def matching(self) -> dict[str, object]:
        return {"see": kernels.match} if isinstance(self.flow, LitePWCNet) else {}

    @property
    def still(self) -> float:
        return self.net1.still

    def unexplained(self, frame: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """As `Net1.unexplained`."""
        return (kernels.quarter(frame) - warp(kernels.quarter(previous), flow / STRIDE)).abs_()

    def compose(
        self,
        feature: Tensor,
        previous: Tensor,
        flow: Tensor,
        unexplained: Tensor,
        change: Tensor | None = None,
        coherence: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """As `Net1.compose`."""
        net1, cubic = self.net1, self.net1.warp_mode == "bicubic"
        feature, previous = (x.contiguous(memory_format=torch.channels_last) for x in (feature, previous))
        flow = flow.contiguous()
        warped, difference = kernels.follow(previous, flow, feature, unexplained.contiguous(), cubic)
        mask = nn.Sequential.forward(self.mask, difference)
        change = change.contiguous() if change is not None and net1.still > 0 else None
        return kernels.blend(
            feature, warped, mask.contiguous(), flow, change, net1.still, net1.hold, coherence, net1.refresh
        )
