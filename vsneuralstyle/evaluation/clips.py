"""Reading the first frames of a clip, and their flow both ways, measured once and kept in a cache folder."""

import hashlib
from collections.abc import Callable
from itertools import islice
from os import PathLike
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, MediaError

FlowFunction = Callable[[Tensor, Tensor], Tensor]  # a, b (1,3,H,W) in 0..1 -> (1,2,H,W), a(p) is seen at b(p + flow(p))


def working_size(width: int, height: int, to_width: int | None = None, to_height: int | None = None) -> tuple[int, int]:
    """(width, height) scaled to one given side, the other follows the aspect; both sides even when scaled."""
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


def read_clip(path: str | PathLike, frames: int | None = None, start: int = 0, width: int | None = None,
              height: int | None = None) -> Tensor:
    """Frames start … start + frames of a video: (T,3,H,W) uint8 RGB, scaled by area to the working size.

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
                pictures.append(torch.from_numpy(np.rot90(rgb, frame.rotation // 90).copy()).permute(2, 0, 1))
    except av.FFmpegError as error:
        raise MediaError(f"{path}: can't be read as a video: {error}") from error
    if not pictures:
        raise MediaError(f"{path}: no frame from number {start} on")
    return torch.stack(pictures)


def flow_pair(function: FlowFunction, previous: Tensor, current: Tensor, cache: Path | None = None,
              key: str = "") -> tuple[Tensor, Tensor]:
    """Flow from `current` back to `previous`, and the way forward, each (1,2,H,W) float32 in pixels.

    previous, current: (3,H,W) uint8. With a cache folder the pair lies there under a hash of its pixels and of `key`
    (what measures the flow). Flow is rounded to float16 with and without a cache, so that the figures agree.
    """
    digest = hashlib.sha256(key.encode())
    for frame in (previous, current):
        digest.update(str(tuple(frame.shape)).encode() + frame.contiguous().numpy().tobytes())
    path = cache / f"{digest.hexdigest()[:32]}.npz" if cache else None
    if path is not None and path.exists():
        with np.load(path) as file:
            return tuple(torch.from_numpy(file[name]).float() for name in ("backward", "forward"))
    a, b = (frame[None].float() / 255 for frame in (previous, current))
    backward, forward = function(b, a).cpu().half(), function(a, b).cpu().half()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # renamed when whole: an interrupted run leaves no broken entry
        with part.open("wb") as file:
            np.savez_compressed(file, backward=backward.numpy(), forward=forward.numpy())
        part.rename(path)
    return backward.float(), forward.float()
