"""Endpoint error of a model's flow network on pairs whose flow is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import MediaError
from vsneuralstyle.evaluation import flowio
from vsneuralstyle.evaluation.clips import frame_number, read_clip
from vsneuralstyle.networks.flow.network import full_resolution

CHAIRS = (("img1", "img2", "flow"), ("img0", "img1", "gt"))
"""Ends of a triplet's names, of Flying Chairs and of the sample that FlowNet 2.0's code brings."""


@dataclass(frozen=True)
class FlowPair:
    """Two frames and the flow from the first to the second."""

    name: str
    first: Tensor
    """(3,H,W) uint8 RGB."""
    second: Tensor
    flow: Tensor
    """(2,H,W) float32, (x, y) in pixels; NaN where it is not known."""

    @property
    def length(self) -> float:
        """The flow's mean length in pixels: the endpoint error of no motion."""
        return self.flow.norm(dim=0).nanmean().item()


def sintel_pairs(folder: Path, rendering: str) -> Iterator[FlowPair]:
    """Every pair of MPI Sintel's training folder, or of a part of it, that has its frames and its
    flow.
    """
    for file in sorted((folder / "flow").glob("*/frame_*.flo")):
        scene, number = file.parent.name, frame_number(file)
        first, second = (
            folder / rendering / scene / f"frame_{n:04d}.png" for n in (number, number + 1)
        )
        if first.is_file() and second.is_file():
            yield _pair(f"{scene} {number}", first, second, file)


def chairs_pairs(folder: Path) -> Iterator[FlowPair]:
    """Every triplet of a folder laid out as Flying Chairs: NNNNN_img1.ppm, NNNNN_img2.ppm,
    NNNNN_flow.flo.

    Raises:
        MediaError: there is none.
    """
    found = False
    for file in sorted(folder.glob("*.flo")):
        for first_end, second_end, flow in CHAIRS:
            stem = file.stem.removesuffix(flow)
            first, second = (folder / f"{stem}{end}.ppm" for end in (first_end, second_end))
            if stem != file.stem and first.is_file() and second.is_file():
                found = True
                yield _pair(stem.rstrip("-_"), first, second, file)
    if not found:
        raise MediaError(
            f"{folder}: no triplet of Flying Chairs in it; expected NNNNN_img1.ppm, NNNNN_img2.ppm and "
            "NNNNN_flow.flo"
        )


def _pair(name: str, first: Path, second: Path, flow: Path) -> FlowPair:
    return FlowPair(name, read_clip(first)[0], read_clip(second)[0], flowio.read_flo(flow))


@torch.inference_mode()
def endpoint_error(stylizer: Stylizer, pair: FlowPair) -> float:
    """Mean distance, in pixels, between the flow of the stylizer's model and the true one, where
    that is known.
    """
    first, second = (
        frame[None].to(stylizer.device).float() / 255 for frame in (pair.first, pair.second)
    )
    flow = full_resolution(stylizer.model.net1.flow(first, second), *pair.flow.shape[1:])
    return (flow[0].cpu() - pair.flow).norm(dim=0).nanmean().item()
