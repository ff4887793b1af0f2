"""Ways to stylize a clip, frame after frame, that are compared with one another."""

import time
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.engines.engine import Engine
from vsneuralstyle.networks.flow.network import full_resolution
from vsneuralstyle.networks.layers.warp import warp
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.transform_net import STRIDE

BLEND = 0.8
"""Share of the moved output before in the blind baseline, where nothing speaks against it."""
VISIBILITY = 50.0
"""Weight of the squared difference that speaks against it: exp(-50 d²), as Lai et al. (ECCV 2018)
have it."""
LAYERS = {"r1(E)": 1, "r1/2(E)": 2, "r1/4(E)": 4, "r1/2(D)": 2, "r1(D)": 1}
"""Where features can be composed, in the order of the network, and how many pixels of the frame lie
between two of the layer. The names are the paper's (Table 3): the resolution over the frame's, in
the encoder or the decoder."""


class Method:
    """One way, with its state. `seconds` is what the last frame took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = 0.0
        self.starts_scene = True

    def reset(self) -> None:
        """Forgets the clip."""

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        """The next frame, (1,3,H,W) RGB 0..1 -> stylized; `per_frame` is the same by itself, of the
        first method.
        """
        raise NotImplementedError


class Stylized(Method):
    """A `Stylizer`: the product as it is."""

    def __init__(self, name: str, stylizer: Stylizer) -> None:
        super().__init__(name)
        self.stylizer = stylizer

    def reset(self) -> None:
        self.stylizer.reset()

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        began = time.perf_counter()
        output = self.stylizer.stylize(frame).cpu()
        self.seconds = time.perf_counter() - began
        self.starts_scene = self.stylizer.scene_starts[0]
        return output


class Composed(Stylized):
    """A `Stylizer` of a Johnson network that composes the features of another layer (the paper's
    Table 3).

    Flow and mask are the model's own: of its own recurrence at the quarter-resolution feature,
    resized to the layer. The picture is drawn from the layer's composite, so that with "r1/4(E)" it
    is the model as it is, within rounding.

    Args:
        stylizer: no other method's.
        layer: one of `LAYERS`.
    """

    def __init__(self, name: str, stylizer: Stylizer, layer: str) -> None:
        super().__init__(name, stylizer)
        composed = _ComposedNet1(stylizer.engine, stylizer.model.net1, layer)
        stylizer.engine = cast(Engine, composed)  # what it lacks, it hands on to one

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        output = super().step(frame, per_frame)
        # two encoders ran, and the layer's without the kernels: no speed to be compared
        self.seconds = float("nan")
        return output


class _ComposedNet1:
    """What a `Stylizer` asks of `Net1`, which answers; beside it a layer's composite, from which
    the picture is drawn.

    Args:
        motion: what the `Stylizer` had, with the kernels or without.
        net1: the networks themselves.
        layer: one of `LAYERS`.
    """

    def __init__(self, motion: Engine, net1: Net1, layer: str) -> None:
        cut, residual = net1.style.encoder_blocks, net1.style.residual
        first, second, third = net1.style.down
        up, *last = net1.style.up
        stages = (
            first,
            second,
            nn.Sequential(third, *residual[:cut]),
            nn.Sequential(*residual[cut:], up),
            *last,
        )
        done = list(LAYERS).index(layer) + 1
        self._before, self._after = nn.Sequential(*stages[:done]), nn.Sequential(*stages[done:])
        self._motion, self._net1, self._stride = motion, net1, LAYERS[layer]
        self._dtype = net1.mask.dtype
        # Of the layer: of the frame before, and of this one.
        self._previous: Tensor | None = None
        self._composite: Tensor | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._motion, name)

    def encode(self, frame: Tensor) -> Tensor:
        padding = 0, -frame.shape[3] % STRIDE, 0, -frame.shape[2] % STRIDE
        padded = F.pad(frame, padding, mode="replicate").to(self._dtype)
        feature = self._before(padded.contiguous(memory_format=torch.channels_last)).float()
        # What a scene's first frame is drawn from: `compose` isn't called for it.
        self._previous, self._composite = self._composite, feature
        return self._motion.encode(frame)

    def compose(
        self, feature: Tensor, previous: Tensor, flow: Tensor, *others: Any
    ) -> tuple[Tensor, Tensor]:
        # The others are passed on as they are.
        assert self._previous is not None and self._composite is not None  # both were encoded
        result = self._motion.compose(feature, previous, flow, *others)
        flow, mask = (
            F.interpolate(x, self._composite.shape[2:], mode="bilinear") for x in (flow, result[1])
        )
        warped = warp(self._previous, flow / self._stride, self._net1.warp_mode)
        self._composite = self._net1.sharpened(
            torch.lerp(self._composite, warped, mask), self._composite, self._net1.sharpen * mask
        )
        return result

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        assert self._composite is not None
        picture = self._after(self._composite.to(self._dtype)).float()
        # into 0..1 as `TransformNet.decode`
        return (torch.tanh(picture) * 0.5 + 0.5)[..., :height, :width]


class Blind(Method):
    """A baseline of the post-processing kind: it knows the source and the per-frame output, and not
    the style network.

    B_t = S_t + BLEND v (W(B_{t-1}) − S_t), where v = exp(−VISIBILITY |I_t − W(I_{t-1})|²) and W is
    a model's own flow at full resolution. It is warped and blended as "blind" consistency methods
    do (Bonneel et al. 2015, Lai et al. 2018), without a network of theirs.

    Args:
        stylizer: whose flow network it uses, and whose cuts.
        per_frame: the method whose output it is given; what that takes counts here too.
    """

    def __init__(self, name: str, stylizer: Stylizer, per_frame: Method) -> None:
        super().__init__(name)
        self._stylizer = stylizer
        self._per_frame = per_frame
        self._before: tuple[Tensor, Tensor] | None = None

    def reset(self) -> None:
        self._before = None

    @torch.inference_mode()
    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        began = time.perf_counter()
        assert per_frame is not None  # it isn't the first method
        output = per_frame.cpu()
        self.starts_scene = self._before is None or self._stylizer.is_cut(self._before[0], frame)
        if self._before is not None and not self.starts_scene:
            before, styled = self._before
            device = self._stylizer.device
            flow = self._stylizer.engine.estimate_motion(frame.to(device), before.to(device)).cpu()
            flow = full_resolution(flow, *frame.shape[-2:])
            difference = (frame - warp(before, flow)).square().sum(1, keepdim=True)
            moved = warp(styled, flow, "bicubic").clamp(0, 1)
            output = torch.lerp(output, moved, BLEND * torch.exp(-VISIBILITY * difference))
        self._before = frame, output
        self.seconds = time.perf_counter() - began + self._per_frame.seconds
        return output


class Source(Method):
    """The source itself: its figures are what the flow's own errors, noise and light amount to."""

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        self.starts_scene = False
        return frame


class Recorded(Method):
    """Outputs that are there already, as a host wrote them.

    Args:
        frames: (T,3,H,W) in 0..1.
        scene_starts: one a frame.
    """

    def __init__(self, name: str, frames: Tensor, scene_starts: Iterable[bool]) -> None:
        super().__init__(name)
        self._frames, self._starts = frames, list(scene_starts)
        self._next = 0

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        index, self._next = self._next, self._next + 1
        self.starts_scene = self._starts[index]
        return self._frames[index : index + 1]
