"""Net0 and Net1: the style network with the flow and mask sub-networks around its feature.

Source: Chen, Liao, Yuan, Yu, Hua, "Coherent Online Video Style Transfer" (ICCV 2017), section 4.1
and Figure 4.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks import scene_descriptor
from vsneuralstyle.networks.flow.flownet import FlowNetSimple
from vsneuralstyle.networks.flow.litepwcnet import LitePWCNet
from vsneuralstyle.networks.flow.network import brightness
from vsneuralstyle.networks.layers.warp import warp, within
from vsneuralstyle.networks.mask_net import MaskNet
from vsneuralstyle.networks.stylebank import StyleBankNet
from vsneuralstyle.networks.transform_net import STRIDE, TransformNet

REPEATED = 1.5 / 255
"""Mean `Net1.max_change` below which a frame repeats the one before. Of 13 clips, those with
repeated frames and those before a static camera, or of titles, are at 0 to 1.2 code values, what
moves from 4.8 on."""
SETTLED = 1 / 4
"""Share of `Net1.still` below which a change is none for sharpening, gradually: what is repeated
has been sharpened before."""
FLOW_NETWORKS = {"flownets": FlowNetSimple, "litepwcnet": LitePWCNet}
"""By the name that a model file has for them; "flownets" is the paper's."""


class MotionEstimator(ABC):
    """How W_t comes from what a network makes of two frames: that of a frame to itself is 0, and so
    it is where nothing changed.
    """

    still: float
    """As `Net1` has it."""

    @abstractmethod
    def flow_features(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `Net1.flow_features`."""

    @abstractmethod
    def max_change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """As `Net1.max_change`."""

    @abstractmethod
    def match_features(
        self,
        first: tuple[Tensor, ...],
        second: tuple[Tensor, ...],
        height: int,
        width: int,
        change: Tensor | None,
    ) -> Tensor:
        """As `Net1.match_features`."""

    def estimate_motion(
        self,
        frame: Tensor,
        previous: Tensor,
        change: Tensor | None = None,
        features: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None,
    ) -> Tensor:
        """W_t from frame t to frame t-1: (B, 2, ceil(H/4), ceil(W/4)) float32, in full-resolution
        pixels.

        Args:
            frame, previous: I_t and I_{t-1}, (B, 3, H, W), RGB 0..1.
            change, features: what `max_change` gave for them and `flow_features` for each, where
                they were called already.
        """
        features = features or (self.flow_features(frame), self.flow_features(previous))
        # the very same frame
        if self.still >= 0 and all(here is there for here, there in zip(*features)):
            return frame.new_zeros(len(frame), 2, *(-(-size // STRIDE) for size in frame.shape[2:]))
        if self.still < 0:
            change = None
        elif change is None:
            change = self.max_change(frame, previous)
        height, width = frame.shape[-2:]
        return self.match_features(*features, height, width, change)


class Net1(MotionEstimator, nn.Module):
    """Pure functions of their inputs; the recurrence is `vsneuralstyle.core.stylizer`'s.

    Args:
        net: the style network's family, "johnson" or "stylebank".
        channels, residual_blocks: of the style network.
        encoder_blocks: of `TransformNet`; StyleBank's feature stands after all blocks.
        flow_network: a name of `FLOW_NETWORKS`.
        flow_width: its channels over its own full count.
        mask_hidden: of `MaskNet`.
        warp_mode: how features are resampled, "bilinear" (the paper's) or "bicubic" (sharper).
        still: where no sample changed by more than this, 0..1, in a 12x12-pixel neighbourhood, the
            flow counts as none, so that what stands still is never resampled; negative: off (the
            paper's).
        hold: share of what the mask lets in of F_t that stays out where nothing changed at all,
            less of it up to `still`: a repeated frame should look the same; 0: off (the paper's).
        refresh: share of F_t, at the least, where the feature moved: each resampling blurs a
            little, and so the blur doesn't add up; 0: off (the paper's).
        sharpen: up to this share, times the mask, of the composite's difference from its mean of
            3x3 is added, never beyond what F_t has of it there: what resampling and averaging take
            away; less where nothing changed (`SETTLED`). 0: off (the paper's).
    """

    state_dtype: torch.dtype = torch.float32
    """Precision of the composite, which goes from frame to frame."""

    def __init__(
        self,
        *,
        net: str = "johnson",
        channels: Sequence[int] = (16, 32, 64),
        residual_blocks: int = 5,
        encoder_blocks: int | None = None,
        flow_network: str = "litepwcnet",
        flow_width: float = 0.5,
        mask_hidden: int = 16,
        warp_mode: str = "bicubic",
        still: float = 2 / 255,
        hold: float = 0.4,
        refresh: float = 0.03,
        sharpen: float = 0.15,
    ) -> None:
        super().__init__()
        if net == "stylebank":
            self.style: TransformNet = StyleBankNet(channels, residual_blocks)
        else:
            self.style = TransformNet(channels, residual_blocks, encoder_blocks)
        self.flow = FLOW_NETWORKS[flow_network](flow_width)
        self.mask = MaskNet(self.style.feature_channels + 3, mask_hidden)
        self.warp_mode = warp_mode
        self.still = still
        self.hold = hold
        self.refresh = refresh
        self.sharpen = sharpen

    def encode(self, frame: Tensor) -> Tensor:
        """F_t, (B, C, ceil(H/4), ceil(W/4)) in the weights' precision, of a frame (B, 3, H, W), RGB
        0..1, of any size.
        """
        height, width = frame.shape[-2:]
        frame = F.pad(frame, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        return self.style.encode(
            frame.to(self._dtype).contiguous(memory_format=torch.channels_last)
        )

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """The stylized frame of that size, (B, 3, H, W) float32, RGB 0..1, of a feature of any
        precision.
        """
        return self.style.decode(feature.to(self._dtype))[..., :height, :width]

    @property
    def _dtype(self) -> torch.dtype:
        return self.mask.dtype

    def flow_features(self, frame: Tensor) -> tuple[Tensor, ...]:
        """What `estimate_motion` needs of a frame (B, 3, H, W), RGB 0..1; it serves with the frame
        before and the one after.
        """
        return self.flow.encode(frame)

    def max_change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """The largest change of a sample in the 12x12 pixels about each square of 4x4, (B, 1,
        ceil(H/4), ceil(W/4)), 0..1.

        Where a frame repeats the one before, on the whole, less of it counts: it is what a codec
        adds.

        Args:
            frame, previous: I_t and I_{t-1}, (B, 3, H, W), RGB 0..1.
        """
        change = (frame - previous).abs().amax(1, keepdim=True)
        return discounted(
            F.max_pool2d(F.max_pool2d(change, STRIDE, ceil_mode=True), 3, stride=1, padding=1)
        )

    def match_features(
        self,
        first: tuple[Tensor, ...],
        second: tuple[Tensor, ...],
        height: int,
        width: int,
        change: Tensor | None,
    ) -> Tensor:
        """`estimate_motion` of two frames of that size, of what `flow_features` gave for them;
        where a change is given and isn't above `still`, none.
        """
        flow = self.flow.between(first, second, height, width)
        return without_still(flow, change, self.still)

    def downsample4(self, frame: Tensor) -> Tensor:
        """A frame (B, 3, H, W) at quarter resolution, (B, 3, ceil(H/4), ceil(W/4)): the mean of
        each square of 4x4.
        """
        return F.avg_pool2d(frame, STRIDE, ceil_mode=True)

    def scene_descriptor(self, lowres: Tensor) -> Tensor:
        """What the cut detector sees of what `downsample4` gives, and the frame's contrast:
        `scene_descriptor.scene_descriptor`.
        """
        return scene_descriptor.scene_descriptor(lowres)

    def warp_residual(self, lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """|I_t - I_{t-1} sampled along the flow| at quarter resolution, (B, 3, ceil(H/4),
        ceil(W/4)) float32, 0..1.

        Args:
            lowres, previous: what `downsample4` gives of I_t and I_{t-1}.
            flow: W_t as `estimate_motion` gives it.
        """
        return (lowres - warp(previous, flow / STRIDE)).abs()

    def compose(
        self,
        feature: Tensor,
        previous: Tensor,
        flow: Tensor,
        residual: Tensor,
        change: Tensor | None = None,
        coherence: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """The composite feature: Eq. 2 and 3.

        The paper's mask sees the features' difference alone, which cannot tell what came into view
        from what the style drew differently; what the source's own motion leaves unexplained can.

        Args:
            feature: F_t, (B, C, h, w), from `style.encode`.
            previous: the composite F°_{t-1}, (B, C, h, w).
            flow: W_t from frame t to frame t-1, (B, 2, h, w), in full-resolution pixels.
            residual: of the two frames, (B, 3, h, w).
            change: of the two frames, (B, 1, h, w); None: everything changed.
            coherence: scales the mask, 0..1; 1 is the paper's. A number, or a tensor of no
                dimension.

        Returns:
            F°_t (B, C, h, w), `state_dtype`, and the mask M (B, 1, h, w), 0..1, 1 = reused.
        """
        offset = flow / STRIDE
        warped = warp(previous, offset, self.warp_mode)
        feature = feature.float()
        # The source's differences are about a tenth of the features'.
        difference = torch.cat(((feature - warped).abs(), 10 * residual), 1).to(self._dtype)
        mask = self.mask(difference.contiguous(memory_format=torch.channels_last))
        change = (
            torch.ones_like(mask)
            if change is None or self.still <= 0
            else (change / self.still).clamp(max=1)
        )
        # Times the mask: where it says that nothing should be reused, nothing is held.
        mask = mask + (1 - mask) * mask * self.hold * (1 - change)
        mask = mask * coherence
        # A number times a bool would be of the type that is PyTorch's default.
        moved = (flow != 0).any(1, keepdim=True).to(mask.dtype)
        # What comes from beyond the frame's border was never drawn: the border's features would be
        # drawn out, more so each frame.
        mask = mask * (1 - self.refresh * moved) * within(offset)
        composite = torch.lerp(feature, warped, mask)
        if self.sharpen:
            composite = self.sharpened(
                composite, feature, self.sharpen * mask * (change / SETTLED).clamp(max=1)
            )
        return composite, mask

    @staticmethod
    def sharpened(composite: Tensor, feature: Tensor, most: Tensor) -> Tensor:
        """The composite with its finest detail raised, by a share of `most` at the most.

        Not beyond F_t's mean energy of it, over all channels and 9x9 squares: so nothing sharp is
        sharpened, and it can't grow from frame to frame.

        Args:
            composite, feature: F°_t and F_t, (B, C, h, w).
            most: (B, 1, h, w), 0..1.
        """
        detail = composite - _mean(composite, 3)
        ours = _mean(detail.square().mean(1, keepdim=True), 9)
        theirs = _mean((feature - _mean(feature, 3)).square().mean(1, keepdim=True), 9)
        gain = torch.minimum((theirs / (ours + 1e-6)).sqrt() - 1, most)
        return composite + gain.clamp(min=0) * detail


def without_still(flow: Tensor, change: Tensor | None, still: float) -> Tensor:
    """A flow (B, 2, h, w), 0 where a change (B, 1, h, w) isn't above `Net1.still`."""
    return flow if change is None else flow * (change > still)


def discounted(change: Tensor) -> Tensor:
    """What `Net1.max_change` has found, (B, 1, h, w); of a frame that repeats the one before, by
    its mean, an eighth.
    """
    repeats = brightness(change) < REPEATED
    return torch.where(repeats, change / 8, change)


def _mean(x: Tensor, size: int) -> Tensor:
    """Of the square about each; outside, the border is repeated."""
    return F.avg_pool2d(F.pad(x, (size // 2,) * 4, mode="replicate"), size, stride=1)
