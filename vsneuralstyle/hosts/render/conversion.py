"""Decoded frames -> RGB tensors -> frames for the encoder."""

import logging
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from vsneuralstyle.core.pipeline import PendingFrame
from vsneuralstyle.errors import MediaError
from vsneuralstyle.hosts.render.damage import Repeat, time_of
from vsneuralstyle.hosts.render.sequences import is_sequence
from vsneuralstyle.video import yuv
from vsneuralstyle.video.pixels import Coding, components_to_rgb, rgb_to_components

log = logging.getLogger("vsneuralstyle.hosts.render")

LIMITED, FULL = 1, 2  # AVColorRange
UNSPECIFIED = 0  # AVChromaLocation
IDENTITY = 0  # AVColorSpace of RGB
PALETTE = "pal8"
PALETTE_SOURCE = "bgra"  # what a palette is made from
SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def is_rgb(pixels: av.VideoFormat) -> bool:
    return pixels.is_rgb or pixels.has_palette


def bits(pixels: av.VideoFormat) -> int:
    """Bits of a sample, rounded up to a depth for which FFmpeg has planar formats, 16 at most."""
    most = max(component.bits for component in pixels.components)
    return next((depth for depth in (8, 9, 10, 12, 14) if depth >= most), 16)


def has_alpha(pixels: av.VideoFormat) -> bool:
    return any(component.is_alpha for component in pixels.components)


def is_420(pixels: av.VideoFormat) -> bool:
    """Whether chroma has half the samples across and down."""
    return (pixels.chroma_width(4), pixels.chroma_height(4)) == (2, 2)


def planar_format(pixels: av.VideoFormat, alpha: bool = False) -> str:
    """The format of the same depth with a full-size plane for each of R, G, B or Y, Cb, Cr.

    alpha: and for A, of which there are fewer depths.
    """
    depth = bits(pixels)
    if alpha and depth in (9, 14):
        depth = 10 if depth == 9 else 16
    kind = ("gbrap" if alpha else "gbrp") if is_rgb(pixels) else "yuva444p" if alpha else "yuv444p"
    return kind + (f"{depth}le" if depth > 8 else "")


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views (H, W) of the planes of a `planar_format` frame, as R, G, B or Y, Cb, Cr, then A."""
    dtype = np.dtype("<u2" if bits(frame.format) > 8 else "u1")
    views = [
        np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[
            : plane.height, : plane.width
        ]
        for plane in frame.planes
    ]
    return [views[2], views[0], views[1], *views[3:]] if frame.format.is_rgb else views


class Converter:
    """Decoded frames -> RGB tensors -> frames for the encoder, with the timestamps of the decoded
    ones.

    FFmpeg's scaler does what depends on the pixel format (planes, chroma resampling). Matrix and
    range are applied in float by `pixels`: the scaler's own deep RGB is up to one 8-bit code value
    too dark.
    """

    def __init__(self, frame: av.VideoFrame, encoder: VideoStream, source: Path) -> None:
        """frame: the clip's first, which tells the size and the colors of all."""
        self.source = source
        self.size = (frame.width, frame.height)
        encoded = encoder.pix_fmt
        assert encoded is not None  # `add_encoder` has chosen it
        self.pixels = av.VideoFormat(PALETTE_SOURCE if encoded == PALETTE else encoded)
        self.alpha = has_alpha(self.pixels) and has_alpha(frame.format)
        self.count = 0  # frames made
        # nominal, in ticks
        self._interval = max(1, round(1 / (encoder.codec_context.framerate * encoder.time_base)))
        self._last: av.VideoFrame | None = None
        self._last_pts: int | None = None
        self._last_duration = self._interval
        self._reader, self._writer = VideoReformatter(), VideoReformatter()
        self._alpha_reader = VideoReformatter()
        self._look = _look(frame)
        self._told: set[str] = set()
        self.matrix, self.full, tagged = self._colors(frame)
        if is_rgb(self.pixels):
            self.matrix_tag, self.range_tag = IDENTITY, 0
        elif is_rgb(frame.format):
            self.full = False
            self.matrix_tag, self.range_tag = self.matrix, LIMITED
        else:
            self.matrix_tag = self.matrix if tagged else yuv.UNSPECIFIED
            self.range_tag = FULL if self.full else frame.color_range
        self.chroma_location = self._chroma_location(frame)

    def _chroma_location(self, frame: av.VideoFrame) -> int:
        """Where the output's chroma samples lie, and its tag says: as the source's.

        An AVChromaLocation.
        """
        location = getattr(frame, "chroma_location", UNSPECIFIED)  # PyAV has it from 19 on
        both = is_420(frame.format) and is_420(self.pixels)
        return location if both else UNSPECIFIED

    def to_rgb(self, frame: av.VideoFrame, device: torch.device) -> Tensor:
        """(1,3,H,W) float32 R'G'B', 0..1, on the device."""
        self._tell_changes(frame)
        # Colors may change half-way: they are the frame's own, which the encoder's needn't be.
        matrix, full = self.matrix, self.full
        if not is_rgb(frame.format):
            matrix, full, _ = self._colors(frame)
        # The scaler takes yuvj420p for full, whatever the frame says.
        as_full = full or frame.format.name.startswith("yuvj")
        planar = self._reformat(self._reader, frame, planar_format(frame.format), as_full)
        return components_to_rgb(planes(planar)[:3], _coding(planar.format, matrix, full), device)

    def to_frame(
        self, stylized: PendingFrame | None, original: av.VideoFrame | Repeat
    ) -> av.VideoFrame:
        """What `Stylizer.submit` gave, in the encoder's pixel format, at the original's time.

        stylized: None: the frame before is shown again.
        """
        if stylized is not None:
            rgb, _ = stylized.result()
            planar = av.VideoFrame(*self.size, planar_format(self.pixels, self.alpha))
            coding = _coding(planar.format, self.matrix, self.full)
            rgb_to_components(rgb, planes(planar)[:3], coding)
            if self.alpha:
                assert isinstance(original, av.VideoFrame)  # who repeats a frame has none stylized
                kept = self._reformat(self._alpha_reader, original, planar.format.name, self.full)
                planes(planar)[3][...] = planes(kept)[3]
            if self.chroma_location:
                planar.chroma_location = self.chroma_location  # the scaler puts the samples there
            self._last = self._reformat(self._writer, planar, self.pixels.name, self.full)
        assert self._last is not None  # no `Repeat` comes before the first frame
        self._time(self._last, original)
        self.count += 1
        return self._last

    def _time(self, frame: av.VideoFrame, original: av.VideoFrame | Repeat) -> None:
        pts = original.dts if original.pts is None else original.pts
        if self._last_pts is not None and (pts is None or pts <= self._last_pts):
            # Raw streams have none, broken ones fall back. Encoders and containers need them
            # rising.
            pts = self._last_pts + (self._last_duration if pts is None else 1)
        self._last_pts = pts or 0
        self._last_duration = original.duration or self._interval
        frame.pts, frame.time_base = self._last_pts, original.time_base
        frame.duration = self._last_duration  # without one, .mp4 would not show the last frame

    def _colors(self, frame: av.VideoFrame) -> tuple[int, bool, bool]:
        """The frame's matrix, whether its range is full, and whether it says the matrix itself."""
        name, tag = frame.format.name, frame.colorspace
        tagged = not is_rgb(frame.format) and tag in yuv.LUMA_WEIGHTS
        if (
            not tagged
            and not is_rgb(frame.format)
            and tag not in (IDENTITY, yuv.UNSPECIFIED, yuv.RESERVED)
        ):
            raise MediaError(
                f"{self.source}: unsupported color matrix (MatrixCoefficients {tag} of H.273); "
                "convert the source to BT.709 first"
            )
        # A decoder keeps yuvj420p where the range changes half-way: what the frame says is right.
        unsaid = frame.color_range == 0
        full = frame.color_range == FULL or (unsaid and name.startswith(("yuvj", "gray")))
        return tag if tagged else yuv.default_matrix(frame.height), full, tagged

    def _tell_changes(self, frame: av.VideoFrame) -> None:
        """Warns, once for each kind, where a frame has another look than the first."""
        changed = {what for what, value in _look(frame).items() if value != self._look[what]}
        at, size = time_of(frame), (frame.width, frame.height)
        if "size" in changed and is_sequence(self.source):
            raise MediaError(
                f"{self.source}: the frame at {at} is {size[0]}x{size[1]}, the first was "
                f"{self.size[0]}x{self.size[1]}; expected files of one size"
            )
        if "size" in changed - self._told:
            log.warning(
                "%s: the frame at %s is %dx%d, the first was %dx%d: scaled to that, as are others",
                self.source,
                at,
                *size,
                *self.size,
            )
        if "light" in changed - self._told:
            log.warning(
                "%s: primaries or transfer characteristics change at %s: written as if "
                "they hadn't; convert the source to one of them",
                self.source,
                at,
            )
        self._told |= changed

    def _reformat(
        self, scaler: VideoReformatter, frame: av.VideoFrame, name: str, full: bool
    ) -> av.VideoFrame:
        kept = FULL if full else LIMITED  # on both sides: the scaler must leave the range alone
        return scaler.reformat(
            frame,
            *self.size,
            format=name,
            interpolation=SCALING,
            src_color_range=kept,
            dst_color_range=kept,
        )


def _coding(planar: av.VideoFormat, matrix: int, full: bool) -> Coding:
    return Coding(bits(planar)) if planar.is_rgb else Coding(bits(planar), 0, matrix, full)


def _look(frame: av.VideoFrame) -> dict[str, tuple]:
    return {"size": (frame.width, frame.height), "light": (frame.color_primaries, frame.color_trc)}
