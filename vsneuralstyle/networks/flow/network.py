"""What the flow sub-networks share: units, padding, normalisation and start."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOW_SCALE = 20.0
"""The networks predict flow / 20 in full-resolution pixels, as FlowNet does."""
LEVELS = 5
"""Flows of the pyramid."""
CONTRAST = 4.0
"""Brings a photograph's samples, about their mean, to about unit variance."""


class FlowNetwork(nn.Module):
    """Optical flow from two frames; a subclass gives `match`, and `extract` where there is work to
    be done once a frame.
    """

    multiple = 64
    """Of which the sides of a frame must be; `encode` repeats the border to that. Six halvings, for
    networks that enlarge by convolutions."""

    def extract(self, frame: Tensor) -> tuple[Tensor, ...]:
        """What `match` needs of a frame (B, 3, H, W), RGB 0..1, whose sides divide by
        `multiple`.
        """
        return (frame,)

    def match(
        self, first: Sequence[Tensor], second: Sequence[Tensor], levels: int = LEVELS
    ) -> list[Tensor]:
        """`pyramid` of two frames as `extract` gives them."""
        raise NotImplementedError

    def pyramid(self, first: Tensor, second: Tensor, levels: int = LEVELS) -> list[Tensor]:
        """Flow / 20 at five resolutions, coarse to fine, the last 1/4; sides divide by `multiple`.

        Args:
            levels: how many, from the coarsest; the finer ones are not computed.
        """
        return self.match(self.extract(first), self.extract(second), levels)

    def supervised(
        self, first: Tensor, second: Tensor, target: Tensor, levels: int = LEVELS
    ) -> tuple[list[Tensor], Tensor]:
        """`pyramid`, and what training adds to the loss of its flows: 0, unless a network matches
        before it regresses.

        Args:
            target: the true flow, (B, 2, H, W), in pixels; NaN where it is not known.
        """
        return self.pyramid(first, second, levels), target.new_zeros(())

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """What `forward` needs of a frame (B, 3, H, W), RGB 0..1, of any size; it serves all pairs
        with that frame.
        """
        height, width = frame.shape[-2:]
        return self.extract(
            F.pad(frame, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        )

    def between(
        self, first: Sequence[Tensor], second: Sequence[Tensor], height: int, width: int, **how: Any
    ) -> Tensor:
        """`forward` of two frames of that size as `encode` gives them; `how` goes to `match`."""
        flow = self.match(first, second, **how)[-1].float() * FLOW_SCALE
        return flow[..., : -(-height // 4), : -(-width // 4)]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first, second: (B, 3, H, W), RGB 0..1, any size.

        Returns:
            (B, 2, ceil(H/4), ceil(W/4)) float32, (x, y) in *full-resolution pixels*: the content of
            `first` at p is in `second` at p + flow(p).
        """
        return self.between(self.encode(first), self.encode(second), *first.shape[-2:])

    def prepared(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both frames about their common mean, at about unit variance, in the weights'
        precision.
        """
        mean = (brightness(first) + brightness(second)) / 2
        return self.centred(first, mean), self.centred(second, mean)

    def centred(self, frame: Tensor, mean: Tensor) -> Tensor:
        """A frame about a mean, which says nothing of motion, at about unit variance, in the
        weights' precision.
        """
        dtype = next(self.parameters()).dtype
        return ((frame - mean) * CONTRAST).to(dtype).contiguous(memory_format=torch.channels_last)

    def initialise(self, predicts: nn.ModuleList) -> None:
        """He's start for every convolution; PyTorch's own shrinks the signal at each of ten layers,
        and training then stands still for long. `predicts` start near no motion. Without memory,
        for weights from a file, there is no start: to draw on the meta device PyTorch loads its
        compiler, which takes as long as loading PyTorch.
        """
        if next(self.parameters()).is_meta:
            return
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, 0.1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for predict in predicts:
            assert isinstance(predict, nn.Conv2d)
            predict.weight.data.mul_(0.1)


def full_resolution(flow: Tensor, height: int, width: int) -> Tensor:
    """What a `FlowNetwork` gives for a frame of that size, for each of its pixels: (B, 2, height,
    width).
    """
    return F.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False)[
        ..., :height, :width
    ]


def pooled(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow that may not be known everywhere, at a lower resolution.

    Args:
        flow: (B, 2, H, W), in any unit; NaN where it is not known.
        height, width: of what is returned; they divide H and W.

    Returns:
        (B, 2, height, width): the mean of what is known; NaN where that is less than half.
    """
    known = F.adaptive_avg_pool2d((~flow.isnan()).float(), (height, width))
    return (F.adaptive_avg_pool2d(flow.nan_to_num(), (height, width)) / known).where(
        known >= 0.5, torch.nan
    )


def brightness(frame: Tensor) -> Tensor:
    """Mean over all of a frame, (B, 1, 1, 1). By rows first: a sum to one number is split among
    threads, and how many there are must not show in a picture.
    """
    return frame.mean(3, keepdim=True).mean((1, 2), keepdim=True)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2), nn.LeakyReLU(0.1, inplace=True)
    )


def scaled(channels: int, width: float) -> int:
    """A channel count times the width, to the next multiple of 8."""
    return max(8, round(channels * width / 8) * 8)
