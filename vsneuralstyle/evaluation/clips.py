"""Clips to measure on: frames, and which pixel of one is which pixel of another."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.evaluation import INTERVALS, flowio
from vsneuralstyle.evaluation.occlusion import traceable

# a, b (1,3,H,W) in 0..1 -> (1,2,H,W), a(p) is seen at b(p + flow(p))
FlowFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two frames of a clip and how the first moves to the second."""

    interval: int
    here: int
    there: int
    flow: Tensor
    """(1,2,H,W) in pixels: what frame `here` shows at p, frame `there` shows at p + flow(p)."""
    mask: Tensor
    """(1,1,H,W): above 0 where that holds."""


@dataclass(frozen=True)
class Clip:
    """Frames whose motion is known, given by `flows` and `masks`; a subclass may find it out
    otherwise.

    frames: (T,3,H,W) RGB, uint8, or float32 in 0..1. flows: (T−1,2,H,W) in pixels, from each frame
    but the first back to the one before. masks: (T−1,1,H,W), where they can be trusted.
    """

    name: str
    frames: Tensor
    flows: Tensor | None = field(default=None, repr=False)
    masks: Tensor | None = field(default=None, repr=False)
    one_shot: ClassVar[bool] = False
    """Whether all frames are known to be of one scene: who begins another one in it makes a
    mistake, which counts."""

    def frame(self, t: int) -> Tensor:
        """(1,3,H,W) float32, RGB 0..1."""
        frame = self.frames[t : t + 1]
        return frame if frame.is_floating_point() else frame.float() / 255

    def pairs(self, t: int) -> list[Pair]:
        """The pairs of which frame t is the later one."""
        if t == 0:
            return []
        assert self.flows is not None and self.masks is not None  # else a subclass has its own
        return [Pair(1, t, t - 1, self.flows[t - 1 : t], self.masks[t - 1 : t])]


@dataclass(frozen=True)
class MeasuredClip(Clip):
    """A clip whose flow is measured, once, and kept in a cache folder.

    function: measures it; may be None where there are no intervals.
    """

    function: FlowFunction | None = None
    cache: Path | None = None
    key: str = ""
    intervals: Sequence[int] = INTERVALS

    def pairs(self, t: int) -> list[Pair]:
        pairs = []
        for interval in self.intervals:
            if t >= interval:
                assert self.function is not None
                flows = flow_pair(
                    self.function, self.frames[t - interval], self.frames[t], self.cache, self.key
                )
                pairs.append(Pair(interval, t, t - interval, flows[0], traceable(*flows)))
        return pairs


@dataclass(frozen=True)
class SintelClip(Clip):
    """A scene of MPI Sintel: its flow files lead from a frame to the next one, and some may be
    missing.

    files: for each frame (flow, occlusions, invalid).
    """

    files: Sequence[tuple[Path, Path, Path]] = ()
    one_shot: ClassVar[bool] = True

    def pairs(self, t: int) -> list[Pair]:
        if t == 0 or not all(path.is_file() for path in self.files[t - 1]):
            return []
        flow_file, *mask_files = self.files[t - 1]
        flow = flowio.read_flo(flow_file)[None]
        hidden = torch.stack([flowio.read_mask(path) for path in mask_files]).any(0, keepdim=True)
        return [Pair(1, t - 1, t, flow.nan_to_num(), (~hidden).float())]


def read_sintel(folder: Path, rendering: str) -> list[SintelClip]:
    """Every scene of MPI Sintel's training set, or of a part of it: runs of consecutive frames with
    flow files.

    Args:
        folder: with `clean/`, `final/`, `flow/`, `occlusions/` and `invalid/` in it.
        rendering: "clean" or "final".

    Raises:
        MediaError: no run of two frames with flow there.
    """
    result = []
    for scene in sorted(path for path in (folder / rendering).glob("*") if path.is_dir()):
        runs: list[list[Path]] = []
        for path in sorted(scene.glob("frame_*.png")):
            if runs and frame_number(path) == frame_number(runs[-1][-1]) + 1:
                runs[-1].append(path)
            else:
                runs.append([path])
        for run in runs:
            files = [
                (
                    folder / "flow" / scene.name / f"{path.stem}.flo",
                    folder / "occlusions" / scene.name / path.name,
                    folder / "invalid" / scene.name / path.name,
                )
                for path in run
            ]
            if any(all(file.is_file() for file in three) for three in files[:-1]):
                frames = torch.cat([read_clip(path) for path in run])
                result.append(
                    SintelClip(f"{scene.name}_{frame_number(run[0])}", frames, files=files)
                )
    if not result:
        raise MediaError(
            f"{folder}: no scenes in it; expected MPI Sintel's training folder: {rendering}/SCENE/"
            "frame_NNNN.png with flow/, occlusions/ and invalid/ beside it"
        )
    return result


def frame_number(path: Path) -> int:
    """The number of a file of MPI Sintel, frame_NNNN."""
    return int(path.stem.rpartition("_")[2])


def working_size(
    width: int, height: int, to_width: int | None = None, to_height: int | None = None
) -> tuple[int, int]:
    """(width, height) scaled to one given side, the other follows the aspect; both sides even when
    scaled.
    """
    for name, side in (("width", to_width), ("height", to_height)):
        if side is not None and side < 16:
            raise ArgumentError(f"{name} {side}: at least 16 expected")
    if to_width is not None and to_height is not None:
        return to_width, to_height
    if to_width is not None:
        return to_width, max(2 * round(height * to_width / width / 2), 2)
    if to_height is not None:
        return max(2 * round(width * to_height / height / 2), 2), to_height
    return width, height


def read_clip(
    path: str | PathLike,
    frames: int | None = None,
    start: int = 0,
    width: int | None = None,
    height: int | None = None,
) -> Tensor:
    """Frames start … start + frames of a video: (T,3,H,W) uint8 RGB, scaled by area to the working
    size.

    Raises MediaError where there is no video stream, or not one frame after `start`.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            pictures = []
            stop = None if frames is None else start + frames
            for frame in islice(container.decode(stream), start, stop):
                size = working_size(frame.width, frame.height, width, height)
                rgb = frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray()
                pictures.append(
                    torch.from_numpy(np.rot90(rgb, frame.rotation // 90).copy()).permute(2, 0, 1)
                )
    except av.FFmpegError as error:
        raise MediaError(f"{path}: can't be read as a video: {error}") from error
    if not pictures:
        raise MediaError(f"{path}: no frame from number {start} on")
    return torch.stack(pictures)


def flow_pair(
    function: FlowFunction,
    previous: Tensor,
    current: Tensor,
    cache: Path | None = None,
    key: str = "",
) -> tuple[Tensor, Tensor]:
    """Flow from `current` back to `previous`, and the way forward, each (1,2,H,W) float32 in
    pixels.

    previous, current: (3,H,W) uint8. With a cache folder the pair lies there under a hash of its
    pixels and of `key` (what measures the flow). Flow is rounded to float16 with and without a
    cache, so that the figures agree.
    """
    digest = hashlib.sha256(key.encode())
    for frame in (previous, current):
        digest.update(str(tuple(frame.shape)).encode() + frame.contiguous().numpy().tobytes())
    path = cache / f"{digest.hexdigest()[:32]}.npz" if cache else None
    if path is not None and path.exists():
        with np.load(path) as file:
            backward, forward = (torch.from_numpy(file[name]) for name in ("backward", "forward"))
        return backward.float(), forward.float()
    a, b = (frame[None].float() / 255 for frame in (previous, current))
    backward, forward = function(b, a).cpu().half(), function(a, b).cpu().half()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flowio.write_arrays(path, backward=backward.numpy(), forward=forward.numpy())
    return backward.float(), forward.float()
