"""Ways to stylize a clip, frame after frame, that are compared with one another."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from vsneuralstyle.networks.flow import full_resolution
from vsneuralstyle.networks.warp import warp
from vsneuralstyle.stylizer import Stylizer

BLEND = 0.8
"""Share of the moved output before in the blind baseline, where nothing speaks against it."""
VISIBILITY = 50.0
"""Weight of the squared difference that speaks against it: exp(-50 d²), as Lai et al. (ECCV 2018) have it."""


class Method:
    """One way, with its state. `seconds` is what the last frame took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = 0.0
        self.starts_scene = True

    def reset(self) -> None:
        """Forgets the clip."""

    def step(self, frame: Tensor, per_frame: Tensor | None) -> Tensor:
        """The next frame, (1,3,H,W) RGB 0..1 -> stylized; `per_frame` is the same by itself, of the first method."""
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


class Blind(Method):
    """A baseline of the post-processing kind: it knows the source and the per-frame output, and not the style network.

    B_t = S_t + BLEND v (W(B_{t-1}) − S_t), where v = exp(−VISIBILITY |I_t − W(I_{t-1})|²) and W is a model's own flow at
    full resolution. It is warped and blended as "blind" consistency methods do (Bonneel et al. 2015, Lai et al. 2018),
    without a network of theirs.

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
        output = per_frame.cpu()
        self.starts_scene = self._before is None or self._stylizer.is_cut(self._before[0], frame)
        if not self.starts_scene:
            before, styled = self._before
            device = self._stylizer.device
            flow = self._stylizer.net1.motion(frame.to(device), before.to(device)).cpu()
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
