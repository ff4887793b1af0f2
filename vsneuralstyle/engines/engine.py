"""The one interface of what computes Net1, and which of the three is taken.

The seam is coarse, since fusion is where the speed is: below it, each engine does as it likes. The
reference, `vsneuralstyle.networks.net1.Net1`, documents every operation, and the others agree with
it within rounding.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vsneuralstyle.engines.cpu import engine as cpu_engine
from vsneuralstyle.engines.cpu.engine import CpuEngine
from vsneuralstyle.engines.cuda import engine as cuda_engine
from vsneuralstyle.engines.cuda.engine import CudaEngine
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.transform_net import RearrangedConv


class Engine(Protocol):
    """Net1's operations on one frame at a time, without gradients.

    Frames are (1, 3, H, W) float32, RGB 0..1, contiguous. h and w are ceil(H/4) and ceil(W/4). C is
    the feature's channels. Each operation is a pure function, and `Net1`'s method of its name says
    what it computes.
    """

    state_dtype: torch.dtype
    """Precision of the composite F°_t, which goes from frame to frame."""

    def encode(self, frame: Tensor) -> Tensor:
        """F_t, (1, C, h, w) in the weights' precision."""

    def decode(self, feature: Tensor, height: int, width: int) -> Tensor:
        """O_t, (1, 3, height, width) float32, RGB 0..1, of F_t or F°_t (1, C, h, w)."""

    def flow_features(self, frame: Tensor) -> tuple[Tensor, ...]:
        """What `estimate_motion` needs of a frame."""

    def max_change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """The largest change about each place, (1, 1, h, w) float32, 0..1."""

    def estimate_motion(
        self,
        frame: Tensor,
        previous: Tensor,
        change: Tensor | None = None,
        features: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None,
    ) -> Tensor:
        """W_t from frame t to frame t-1, (1, 2, h, w) float32, in full-resolution pixels."""

    def downsample4(self, frame: Tensor) -> Tensor:
        """The frame at quarter resolution, (1, 3, h, w) float32."""

    def scene_descriptor(self, lowres: Tensor) -> Tensor:
        """What the cut detector sees of a frame at quarter resolution, one float32 vector."""

    def warp_residual(self, lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """What the flow leaves unexplained of two frames at quarter resolution, (1, 3, h, w)."""

    def compose(
        self,
        feature: Tensor,
        previous: Tensor,
        flow: Tensor,
        residual: Tensor,
        change: Tensor | None = None,
        coherence: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """F°_t, (1, C, h, w) in `state_dtype`, and the mask M, (1, 1, h, w)."""


ENGINES = Net1, CpuEngine, CudaEngine
"""Those of this package, which keep nothing between two calls."""


def select_engine(net1: Net1, device: torch.device, dtype: torch.dtype) -> Engine:
    """The fastest engine for weights that change no more.

    By the kernels where they can do it: `cpu.engine.served` and `cuda.engine.served` say where.
    Else the reference itself, `net1`.

    Args:
        net1: goes to the device and the precision, in place.
        device, dtype: where and in what precision it computes.
    """
    net1 = net1.to(device, dtype).to(memory_format=torch.channels_last)
    if cpu_engine.served(net1):
        return CpuEngine(net1)
    if cuda_engine.served(net1):
        return CudaEngine(net1)
    for module in net1.modules():
        if isinstance(module, RearrangedConv):
            module.fix()
    return net1
