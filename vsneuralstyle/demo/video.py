"""Writing small H.264 files that any player takes, tagged BT.709."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from torch import Tensor

from vsneuralstyle.errors import MediaError
from vsneuralstyle.evaluation.clips import working_size

BT709 = 1  # H.273's number of the matrix, the primaries and the transfer curve


class Writer:
    """Takes frames, as (H,W,3) uint8 RGB arrays or as `av.VideoFrame`s of BT.709 in limited
    range.
    """

    def __init__(self, container: av.container.OutputContainer, rate: Fraction, crf: int) -> None:
        self._container, self._rate, self._crf = container, rate, crf
        self._stream: VideoStream | None = None
        self._count = 0

    def _add_stream(self, width: int, height: int) -> VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": str(self._crf), "preset": "veryfast"}
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
        return stream

    def write(self, frame: av.VideoFrame | np.ndarray) -> None:
        if isinstance(frame, np.ndarray):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if self._stream is None:
            self._stream = self._add_stream(frame.width, frame.height)
        if frame.format.is_rgb:
            frame = frame.reformat(
                format=self._stream.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
        else:
            frame = frame.reformat(format=self._stream.pix_fmt)
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def flush(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())


@contextmanager
def writer(path: Path, rate: Fraction, crf: int = 16) -> Iterator[Writer]:
    """A file that is there when it is whole: an interrupted one leaves nothing behind."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with av.open(str(part), "w", options={"movflags": "+faststart"}) as container:
            writing = Writer(container, rate, crf)
            yield writing
            writing.flush()
        part.rename(path)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: can't be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def to_rgb(frame: av.VideoFrame, width: int) -> Tensor:
    """A frame of BT.709 in limited range as (3,H,W) uint8 RGB, scaled down (by area) to at most
    `width`.
    """
    size = working_size(
        frame.width, frame.height, min(width, frame.width) if frame.width > width else None
    )
    rgb = frame.reformat(
        *size,
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        interpolation="AREA",
    ).to_ndarray()
    return torch.from_numpy(rgb).permute(2, 0, 1)
