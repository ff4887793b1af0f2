"""Decoded frames -> RGB tensors -> frames for the encoder."""

from concurrent.futures import Future
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from vsneuralstyle import yuv
from vsneuralstyle.errors import MediaError
from vsneuralstyle.pixels import Coding, components_to_rgb, rgb_to_components
from vsneuralstyle.render.source import time_of

LIMITED, FULL = 1, 2  # AVColorRange
UNSPECIFIED, LEFT = 0, 1  # AVChromaLocation
IDENTITY = 0  # AVColorSpace of RGB
PALETTE = "pal8"
PALETTE_SOURCE = "bgra"  # what a palette is made from
SCALING = (Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
           | Interpolation.FULL_CHR_H_INP)


def is_rgb(pixels: av.VideoFormat) -> bool:
    return pixels.is_rgb or pixels.has_palette


def bits(pixels: av.VideoFormat) -> int:
    """Bits of a sample, rounded up to a depth for which FFmpeg has planar formats, 16 at most."""
    most = max(component.bits for component in pixels.components)
    return next((depth for depth in (8, 9, 10, 12, 14) if depth >= most), 16)


def is_420(pixels: av.VideoFormat) -> bool:
    """Whether chroma has half the samples across and down."""
    return (pixels.chroma_width(4), pixels.chroma_height(4)) == (2, 2)


def planar_format(pixels: av.VideoFormat) -> str:
    """The format of the same depth with a full-size plane for each of R, G, B or Y, Cb, Cr."""
    depth = bits(pixels)
    return ("gbrp" if is_rgb(pixels) else "yuv444p") + (f"{depth}le" if depth > 8 else "")


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views (H, W) of the planes of a `planar_format` frame, as R, G, B or Y, Cb, Cr."""
    dtype = np.dtype("<u2" if bits(frame.format) > 8 else "u1")
    views = [np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[: plane.height, : plane.width]
              for plane in frame.planes]
    return [views[2], views[0], views[1]] if frame.format.is_rgb else views


class Converter:
    """Decoded frames -> RGB tensors -> frames for the encoder, with the timestamps of the decoded ones.

    FFmpeg's scaler does what depends on the pixel format (planes, chroma resampling). Matrix and range are applied in
    float by `pixels`: the scaler's own deep RGB is up to one 8-bit code value too dark.
    """

    def __init__(self, frame: av.VideoFrame, encoder: VideoStream, source: Path) -> None:
        """frame: the clip's first, which tells the size and the colors of all."""
        self.source = source
        self.size = (frame.width, frame.height)
        encoded = encoder.pix_fmt
        self.pixels = av.VideoFormat(PALETTE_SOURCE if encoded == PALETTE else encoded)
        self.count = 0  # frames made
        self._interval = max(1, round(1 / (encoder.codec_context.framerate * encoder.time_base)))  # nominal, in ticks
        self._last_pts = None
        self._reader, self._writer = VideoReformatter(), VideoReformatter()
        name, tag = frame.format.name, frame.colorspace
        tagged = not is_rgb(frame.format) and tag in yuv.LUMA_WEIGHTS
        if not tagged and not is_rgb(frame.format) and tag not in (IDENTITY, yuv.UNSPECIFIED, yuv.RESERVED):
            raise MediaError(f"{source}: unsupported color matrix (MatrixCoefficients {tag} of H.273); convert the "
                             "source to BT.709 first")
        self.matrix = tag if tagged else yuv.default_matrix(frame.height)
        gray = name.startswith("gray") and frame.color_range == 0
        self.full = name.startswith("yuvj") or gray or frame.color_range == FULL
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

        An AVChromaLocation. "Left" is what players take where nothing is said, so it needs no tag.
        """
        location = getattr(frame, "chroma_location", UNSPECIFIED)  # PyAV has it from 19 on
        both = is_420(frame.format) and is_420(self.pixels)
        return location if both and location != LEFT else UNSPECIFIED

    def to_rgb(self, frame: av.VideoFrame, device: torch.device) -> Tensor:
        """(1,3,H,W) float32 R'G'B', 0..1, on the device."""
        if (frame.width, frame.height) != self.size:
            raise MediaError(f"{self.source}: the frame at {time_of(frame)} is {frame.width}x{frame.height}, the first "
                             f"was {self.size[0]}x{self.size[1]}; scale the source to one size first")
        planar = self._reformat(self._reader, frame, planar_format(frame.format))
        return components_to_rgb(planes(planar), self._coding(planar.format), device)

    def to_frame(self, stylized: Future[tuple[Tensor, bool]], original: av.VideoFrame) -> av.VideoFrame:
        """What `Stylizer.begin` gave, in the encoder's pixel format, shown when and as long as original."""
        rgb, _ = stylized.result()
        planar = av.VideoFrame(*self.size, planar_format(self.pixels))
        rgb_to_components(rgb, planes(planar), self._coding(planar.format))
        if self.chroma_location:
            planar.chroma_location = self.chroma_location  # the scaler puts the samples there
        frame = self._reformat(self._writer, planar, self.pixels.name)
        pts = original.dts if original.pts is None else original.pts
        if self._last_pts is not None and (pts is None or pts <= self._last_pts):
            # Raw streams have none, broken ones fall back; encoders and containers need them rising.
            pts = self._last_pts + (self._interval if pts is None else 1)
        self._last_pts = pts or 0
        frame.pts, frame.time_base = self._last_pts, original.time_base
        frame.duration = original.duration or self._interval  # without one, .mp4 would not show the last frame
        self.count += 1
        return frame

    def _coding(self, planar: av.VideoFormat) -> Coding:
        return Coding(bits(planar)) if planar.is_rgb else Coding(bits(planar), 0, self.matrix, self.full)

    def _reformat(self, scaler: VideoReformatter, frame: av.VideoFrame, name: str) -> av.VideoFrame:
        kept = FULL if self.full else LIMITED  # the same on both sides: the scaler must leave the range alone
        return scaler.reformat(frame, format=name, interpolation=SCALING, src_color_range=kept, dst_color_range=kept)
