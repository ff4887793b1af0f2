"""StyleBank: one encoder and decoder for every style, and a small bank of filters for each.

Source: Chen, Yuan, Liao, Yu, Hua, "StyleBank: An Explicit Representation for Neural Image Style
Transfer" (CVPR 2017). The blocks are those of `transform`, with a bank after the third residual
block, as "Coherent Online Video Style Transfer" has it. Ours: the bank's layers, and a decoder
without instance normalisation, which would bring every style to the same statistics. A bank's own
normalisation gives each style its own, and the decoder passes them on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from vsneuralstyle.networks.layers.norm import InstanceNorm
from vsneuralstyle.networks.transform_net import ResidualBlock, TransformNet, conv

BLOCKS_BEFORE_BANK = 3


class Bank(nn.Sequential):
    """What makes one style: a convolution to the style's own statistics, and a residual block.

    (B, C, h, w) -> (B, C, h, w), C the channels of the feature.
    """

    def __init__(self, channels: int = 64) -> None:
        convolution, norm, block = (
            conv(channels, channels, 3),
            InstanceNorm(channels),
            ResidualBlock(channels),
        )
        super().__init__(convolution, norm, block)
        last = block.branch[-1]
        assert convolution.bias is not None and isinstance(last, InstanceNorm)
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
        nn.init.zeros_(last.weight)

    @property
    def norm(self) -> InstanceNorm:
        """What gives the style its statistics."""
        norm = self[1]
        assert isinstance(norm, InstanceNorm)
        return norm

    @torch.no_grad()
    def match(self, content: Tensor) -> None:
        """Gives the style the statistics of what comes in, (B, C, h, w), so that a new bank is
        nearly the identity.
        """
        variance, mean = torch.var_mean(content.float(), dim=(0, 2, 3), correction=0)
        self.norm.weight.copy_((variance + self.norm.eps).sqrt())
        self.norm.bias.copy_(mean)


class Mixture(nn.Module):
    """A weighted sum of what banks make of a feature.

    Args:
        banks: at least one.
        weights: one for each bank; brought to a sum of 1.
    """

    def __init__(self, banks: Sequence[Bank], weights: Sequence[float]) -> None:
        super().__init__()
        self.banks = nn.ModuleList(banks)
        self.weights = [weight / sum(weights) for weight in weights]

    def forward(self, x: Tensor) -> Tensor:
        styled = (bank(x) * weight for bank, weight in zip(self.banks, self.weights))
        return cast("Tensor", sum(styled))  # of at least one, so not the 0 that `sum` starts with


def each_its_own(banks: Sequence[Bank]) -> Callable[[Tensor], Tensor]:
    """A bank for each sample of a batch, as one function of the batch."""
    return lambda x: torch.cat([bank(sample[None]) for bank, sample in zip(banks, x, strict=True)])


class StyleBankNet(TransformNet):
    """The shared encoder and decoder. `bank` makes the style; as it is made, the identity, it is an
    auto-encoder.

    Args:
        channels, residual_blocks: of `TransformNet`.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64), residual_blocks: int = 5) -> None:
        super().__init__(channels, residual_blocks, normalise_decoder=False)
        self.bank: nn.Module = nn.Identity()

    def encode(self, frame: Tensor, bank: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Frame (B, 3, H, W), RGB 0..1, H and W multiples of 4 -> feature (B, C, H/4, W/4), in the
        style of the bank.

        Args:
            frame: the frame.
            bank: takes the place of the network's own.
        """
        return self.residual[BLOCKS_BEFORE_BANK:]((bank or self.bank)(self.content(frame)))

    def content(self, frame: Tensor) -> Tensor:
        """Frame (B, 3, H, W), RGB 0..1 -> what a bank gets, (B, C, H/4, W/4): it has no style."""
        return self.residual[:BLOCKS_BEFORE_BANK](self.down(frame))


class Parts(NamedTuple):
    """Of a style network what lies between the layers that halve and those that enlarge.

    before, after: the residual blocks before the feature, with the banks between them. banks: with
    the weight of each; none for an identity, and for a network of one style. rest: the blocks
    behind the feature.
    """

    before: nn.Sequential
    banks: list[tuple[float, Bank]]
    after: nn.Sequential
    rest: nn.Sequential


def parts(style: TransformNet) -> Parts:
    """Of a network of one style or of many."""
    if not isinstance(style, StyleBankNet):
        cut = style.encoder_blocks
        return Parts(style.residual[:cut], [], style.residual[cut:cut], style.residual[cut:])
    cut, bank = BLOCKS_BEFORE_BANK, style.bank
    banks: list[tuple[float, Bank]] = []
    if isinstance(bank, Bank):
        banks = [(1.0, bank)]
    elif isinstance(bank, Mixture):
        banks = list(zip(bank.weights, cast("Iterable[Bank]", bank.banks)))  # as it was made
    return Parts(style.residual[:cut], banks, style.residual[cut:], style.residual[:0])
