"""A video file in, the stylized video file out, with its audio, subtitles, chapters and timestamps (PyAV)."""

import collections
import itertools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import torch
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor
from tqdm import tqdm

from vsneuralstyle import yuv
from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.pixels import Coding, components_to_rgb, rgb_to_components
from vsneuralstyle.stylizer import Stylizer
from vsneuralstyle.teams import AHEAD

log = logging.getLogger(__name__)

ENCODERS = ("libx264", "libvpx-vp9")  # the default is the first that the container can carry
DEFAULT_CRF = {"libx264": 18, "libx264rgb": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}  # visually lossless
ENCODER_OPTIONS = {"libvpx-vp9": {"row-mt": "1", "cpu-used": "4"}}  # its own defaults use one core, slowly
ADVICE = "repair the file, or cut it before that"
LIMITED, FULL = 1, 2  # AVColorRange
IDENTITY = 0  # AVColorSpace of RGB
SCALING = (Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
           | Interpolation.FULL_CHR_H_INP)
# What a container writes anew, or what is true of the source file only.
FILE_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration"}


def render(
    source: str | Path,
    destination: str | Path,
    *,
    style: str,
    overwrite: bool = False,
    progress: bool | None = None,
    audio: bool = True,
    codec: str | None = None,
    crf: float | None = None,
    pix_fmt: str | None = None,
    **stylizer_options,
) -> int:
    """Stylizes the first video stream of the file source into the file destination; returns the number of frames.

    Size, timestamps (of a variable frame rate as well), color tags, sample aspect ratio, rotation, metadata and
    chapters are kept. Audio and subtitle packets are copied as they are; what else the source holds (further video
    streams, data, subtitles that the container can't carry) is left out, with a warning in the log. Few frames
    are read before the first of them is written, so memory does not grow with the length.

    The destination appears, complete, at the very end. Until then the file lies beside it under a hidden name ending in
    `.part` and the suffix, and any exception (KeyboardInterrupt and SystemExit too) removes it.

    Args:
        source: a video file.
        destination: the file to write; its suffix chooses the container.
        style: see `Stylizer`.
        overwrite: replace an existing destination.
        progress: show a bar on stderr; None: if stderr is a terminal.
        audio: False leaves the audio out.
        codec: an FFmpeg encoder; None: libx264, or libvpx-vp9 where the container can't carry H.264.
        crf: constant quality on the encoder's own scale; None: 18 for libx264, 24 for libvpx-vp9.
        pix_fmt: an FFmpeg pixel format; None: yuv420p, so 8 bit whatever the source has, or yuv444p if width or height
            is odd (H.264 has no odd 4:2:0).
        stylizer_options: net, device, precision, strength, coherence, preserve_color, scene_cut and model_dir of
            `Stylizer`.

    Y'CbCr is converted with the stream's matrix and range. Without a matrix it is BT.709 from 720 lines up, else
    BT.601; without a range it is limited (gray: full). Interlaced video is treated as progressive, alpha is left out.

    Raises:
        MediaError: the source can't be read or is damaged; the destination can't be written or can't carry a stream.
        ArgumentError, ModelError, DeviceError: as `Stylizer` does.
    """
    source, destination = Path(source).absolute(), Path(destination).absolute()
    _check_paths(source, destination, overwrite)
    with _open_source(source) as reader, _open_destination(destination) as writer:
        video = _video_stream(reader, source)
        encoder, copies = _add_streams(reader, writer, video, destination, audio, (codec, crf, pix_fmt))
        items = _read(reader, video, copies, source)
        head = list(_until_frame(items))
        if not head or isinstance(head[-1], av.Packet):
            raise MediaError(f"{source}: no picture of its video stream can be decoded; expected a video file")
        converter = _Converter(head[-1], encoder, source)
        _tag(encoder, video, head[-1], converter)
        stylizer = Stylizer(style, **stylizer_options)
        hidden = None if progress is None else not progress  # None: tqdm looks whether stderr is a terminal
        with stylizer.aside(), tqdm(total=_expected_frames(reader, video), unit=" frames", disable=hidden) as bar:
            for item in _stylized(itertools.chain(head, items), stylizer, converter):
                if isinstance(item, av.Packet):
                    item.stream = copies[item.stream.index]
                    writer.mux(item)
                else:
                    writer.mux(encoder.encode(item))
                    bar.update()
            writer.mux(encoder.encode(None))
    return converter.count


def _stylized(items: Iterator[av.VideoFrame | av.Packet], stylizer: Stylizer,
              converter: "_Converter") -> Iterator[av.VideoFrame | av.Packet]:
    """Packets as they are and frames stylized; each frame once the next ones are under way, so that there is work while it is
    encoded and those after them are decoded."""
    under_way = collections.deque()
    for item in items:
        if isinstance(item, av.Packet):
            yield item
            continue
        under_way.append((stylizer.begin(converter.to_rgb(item, stylizer.device)), item))
        if len(under_way) > AHEAD:
            yield converter.to_frame(*under_way.popleft())
    while under_way:
        yield converter.to_frame(*under_way.popleft())


def _check_paths(source: Path, destination: Path, overwrite: bool) -> None:
    if not source.exists():
        raise MediaError(f"{source}: no such file; expected a video file")
    if source.is_dir():
        raise MediaError(f"{source} is a folder; expected a video file")
    if destination.is_dir():
        raise MediaError(f"{destination} is a folder; expected the name of the file to write")
    if destination.exists():
        if source.samefile(destination):
            raise MediaError(f"{destination} is the source itself; name another file for the output")
        if not overwrite:
            raise MediaError(f"{destination} exists; name another file, or ask for it to be replaced (--overwrite)")
        if not destination.is_file():
            raise MediaError(f"{destination} is not a regular file and can't be replaced; name another file")


@contextmanager
def _open_source(source: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(str(source))
    except av.error.FFmpegError as error:
        why = "it is empty" if source.is_file() and not source.stat().st_size else error.strerror
        raise MediaError(f"can't read {source}: {why}; expected a video file") from error
    with container:
        yield container


@contextmanager
def _open_destination(destination: Path) -> Iterator[OutputContainer]:
    """The container to write, under a temporary name; becomes destination if the body succeeds, else vanishes."""
    part = destination.with_name(f".{destination.stem}.{os.getpid()}.part{destination.suffix}")
    try:
        container = av.open(str(part), "w")
    except ValueError as error:
        raise MediaError(f"can't write {destination}: its suffix {destination.suffix!r} names no container; "
                         "expected .mp4, .mkv, .webm, .mov or another one that FFmpeg knows") from error
    if container.format.no_file:
        raise MediaError(f"can't write {destination}: {container.format.long_name} is not a video file; "
                         "expected .mp4, .mkv, .webm or .mov")
    try:
        try:
            part.touch()  # FFmpeg would try no earlier than with the first packet
        except OSError as error:
            raise MediaError(f"can't write {destination}: {error.strerror}; choose a folder that exists and is "
                             "writable") from error
        with container:
            yield container
        os.replace(part, destination)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"can't write {destination}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _video_stream(reader: InputContainer, source: Path) -> VideoStream:
    # Cover art is a video stream as well.
    videos = [stream for stream in reader.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        kinds = {"cover art" if stream.type == "video" else stream.type for stream in reader.streams}
        found = ", ".join(sorted(kinds)) or "no stream"
        raise MediaError(f"{source} has no video, only: {found}; expected a video file")
    video = videos[0]
    if video.codec_context is None or video.format is None or not video.width:
        raise MediaError(f"{source}: its video can't be decoded (damaged, or in a codec that this FFmpeg lacks)")
    video.thread_type = "AUTO"
    return video


def _expected_frames(reader: InputContainer, video: VideoStream) -> int | None:
    """The number of frames as far as the headers tell."""
    rate = video.average_rate or video.guessed_rate
    if video.frames or not (reader.duration and rate):
        return video.frames or None
    return round(reader.duration * rate / av.time_base)


def _read(reader: InputContainer, video: VideoStream, copies: dict[int, Stream],
          source: Path) -> Iterator[av.VideoFrame | av.Packet]:
    """The frames of video and the packets of the streams in copies, in the order of the file."""
    where = "its start"
    try:
        for packet in reader.demux(video, *(reader.streams[index] for index in copies)):
            where = _time(packet) or where
            if packet.is_corrupt:
                raise MediaError(f"{source}: damaged or cut off at {where}; {ADVICE}")
            if packet.stream.index in copies:
                if packet.size:  # an empty one only marks the end
                    yield packet
                continue
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise MediaError(f"{source}: the frame at {_time(frame) or where} is damaged; {ADVICE}")
                yield frame
    except av.error.FFmpegError as error:
        raise MediaError(f"{source}: can't decode at {where}: {error.strerror}; {ADVICE}") from error


def _time(item: av.VideoFrame | av.Packet) -> str | None:
    ticks = item.dts if item.pts is None else item.pts
    return None if ticks is None else f"{float(ticks * item.time_base):.3f} s"


def _until_frame(items: Iterator[av.VideoFrame | av.Packet]) -> Iterator[av.VideoFrame | av.Packet]:
    for item in items:
        yield item
        if isinstance(item, av.VideoFrame):
            return


def _add_streams(reader: InputContainer, writer: OutputContainer, video: VideoStream, destination: Path, audio: bool,
                 encoding: tuple) -> tuple[VideoStream, dict[int, Stream]]:
    """Adds metadata, chapters and, in the source's order, the streams.

    Returns the encoder's stream, and of those copied the index in reader -> stream in writer.
    """
    writer.metadata.update({key: value for key, value in reader.metadata.items() if key.lower() not in FILE_METADATA})
    writer.set_chapters(reader.chapters())
    encoder, copies, container = None, {}, writer.format.long_name
    for stream in reader.streams:
        name = stream.codec_context.name if stream.codec_context else "unknown codec"
        if stream.index == video.index:
            encoder = _add_encoder(writer, video, destination, *encoding)
            _copy_metadata(stream, encoder)
        elif stream.type == "subtitle" or (stream.type == "audio" and audio):
            try:
                copies[stream.index] = writer.add_stream_from_template(stream)
                _copy_metadata(stream, copies[stream.index])
            except (ValueError, av.error.FFmpegError) as error:
                if stream.type == "audio":
                    raise MediaError(f"{destination}: {container} can't carry the source's audio ({name}); choose "
                                     "another container (.mkv takes nearly every codec) or leave the audio out "
                                     "(--no-audio)") from error
                log.warning("%s can't carry subtitle stream %d (%s): left out", container, stream.index, name)
        elif stream.type != "audio":
            log.warning("%s stream %d (%s) is left out", stream.type, stream.index, name)
    return encoder, copies


def _copy_metadata(source: Stream, destination: Stream) -> None:
    destination.disposition = source.disposition
    destination.metadata.update({key: value for key, value in source.metadata.items() if key in ("language", "title")})


def _add_encoder(writer: OutputContainer, video: VideoStream, destination: Path, codec: str | None, crf: float | None,
                 pix_fmt: str | None) -> VideoStream:
    # For rate control and the header; each frame's timestamp is what counts.
    rate = video.average_rate or video.guessed_rate or 25
    encoder = None
    for name in [codec] if codec else ENCODERS:
        try:
            if av.Codec(name, "w").type != "video":
                raise MediaError(f"{name!r} does not encode video; expected an encoder such as libx264")
            encoder = writer.add_stream(name, rate=rate, width=video.width, height=video.height)
            break
        except ValueError as error:
            refusal = error
    if encoder is None:
        raise MediaError(f"can't write {destination}: {refusal}; choose .mp4, .mkv, .webm or .mov, or another encoder "
                         "(--codec), for example libx264, libx265, libvpx-vp9 or ffv1") from refusal
    encoder.codec_context.time_base = encoder.time_base = video.time_base
    encoder.codec_context.flags |= Flags.frame_duration
    encoder.pix_fmt = _choose_pix_fmt(encoder, video, pix_fmt)
    if crf is not None and name not in DEFAULT_CRF:
        raise ArgumentError(f"--crf {crf}: {name} has no such option; leave it out, or choose an encoder that does: "
                            f"{', '.join(DEFAULT_CRF)}")
    crf = DEFAULT_CRF.get(name) if crf is None else crf
    encoder.options = ENCODER_OPTIONS.get(name, {}) | ({} if crf is None else {"crf": str(crf)})
    return encoder


def _choose_pix_fmt(encoder: VideoStream, video: VideoStream, pix_fmt: str | None) -> str:
    known = [known.name for known in encoder.codec.video_formats or ()]
    if pix_fmt is not None:
        if pix_fmt not in known:
            raise MediaError(f"{encoder.codec.name} does not encode {pix_fmt!r}; expected one of {', '.join(known)}")
        return pix_fmt
    odd = bool(video.width % 2 or video.height % 2)
    wanted = ("yuv444p", "yuv420p") if odd else ("yuv420p",)
    chosen = next((name for name in wanted if name in known), known[0])
    if odd:
        log.warning("%dx%d is odd: written as %s, which some players lack; crop the source to an even size for yuv420p",
                    video.width, video.height, chosen)
    bits, kept = _bits(video.format), _bits(av.VideoFormat(chosen))
    if bits > kept:
        log.warning("the source has %d bits a sample, the output %d (%s); --pix-fmt yuv420p10le keeps 10",
                    bits, kept, chosen)
    return chosen


def _tag(encoder: VideoStream, video: VideoStream, frame: av.VideoFrame, converter: "_Converter") -> None:
    """What tells a player how to show the pixels: color, pixel shape, rotation."""
    encoder.colorspace, encoder.color_range = converter.matrix_tag, converter.range_tag
    encoder.color_primaries, encoder.color_trc = frame.color_primaries, frame.color_trc
    if video.sample_aspect_ratio:
        encoder.sample_aspect_ratio = video.sample_aspect_ratio
    try:
        encoder.set_display_matrix(np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32))
    except KeyError:
        pass


def _is_rgb(pixels: av.VideoFormat) -> bool:
    return pixels.is_rgb or pixels.has_palette


def _bits(pixels: av.VideoFormat) -> int:
    """Bits of a sample, rounded up to a depth for which FFmpeg has planar formats, 16 at most."""
    most = max(component.bits for component in pixels.components)
    return next((bits for bits in (8, 9, 10, 12, 14) if bits >= most), 16)


def _planar(pixels: av.VideoFormat) -> str:
    """The format of the same depth with a full-size plane for each of R, G, B or Y, Cb, Cr."""
    bits = _bits(pixels)
    return ("gbrp" if _is_rgb(pixels) else "yuv444p") + (f"{bits}le" if bits > 8 else "")


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views (H, W) of the planes of a `_planar` frame, as R, G, B or Y, Cb, Cr."""
    dtype = np.dtype("<u2" if _bits(frame.format) > 8 else "u1")
    planes = [np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[: plane.height, : plane.width]
              for plane in frame.planes]
    return [planes[2], planes[0], planes[1]] if frame.format.is_rgb else planes


class _Converter:
    """Decoded frames -> RGB tensors -> frames for the encoder, with the timestamps of the decoded ones.

    FFmpeg's scaler does what depends on the pixel format (planes, chroma resampling). Matrix and range are applied in
    float by `pixels`: the scaler's own deep RGB is up to one 8-bit code value too dark.
    """

    def __init__(self, frame: av.VideoFrame, encoder: VideoStream, source: Path) -> None:
        """frame: the clip's first, which tells the size and the colors of all."""
        self.source = source
        self.size = (frame.width, frame.height)
        self.pixels = av.VideoFormat(encoder.pix_fmt)
        self.count = 0  # frames made
        self._interval = max(1, round(1 / (encoder.codec_context.framerate * encoder.time_base)))  # nominal, in ticks
        self._last_pts = None
        self._reader, self._writer = VideoReformatter(), VideoReformatter()
        name, tag = frame.format.name, frame.colorspace
        tagged = not _is_rgb(frame.format) and tag in yuv.LUMA_WEIGHTS
        if not tagged and not _is_rgb(frame.format) and tag not in (IDENTITY, yuv.UNSPECIFIED, yuv.RESERVED):
            raise MediaError(f"{source}: unsupported color matrix (MatrixCoefficients {tag} of H.273); convert the "
                             "source to BT.709 first")
        self.matrix = tag if tagged else yuv.default_matrix(frame.height)
        gray = name.startswith("gray") and frame.color_range == 0
        self.full = name.startswith("yuvj") or gray or frame.color_range == FULL
        if _is_rgb(self.pixels):
            self.matrix_tag, self.range_tag = IDENTITY, 0
        elif _is_rgb(frame.format):
            self.full = False
            self.matrix_tag, self.range_tag = self.matrix, LIMITED
        else:
            self.matrix_tag = self.matrix if tagged else yuv.UNSPECIFIED
            self.range_tag = FULL if self.full else frame.color_range

    def to_rgb(self, frame: av.VideoFrame, device: torch.device) -> Tensor:
        """(1,3,H,W) float32 R'G'B', 0..1, on the device."""
        if (frame.width, frame.height) != self.size:
            raise MediaError(f"{self.source}: the frame at {_time(frame)} is {frame.width}x{frame.height}, the first "
                             f"was {self.size[0]}x{self.size[1]}; scale the source to one size first")
        planar = self._reformat(self._reader, frame, _planar(frame.format))
        return components_to_rgb(_planes(planar), self._coding(planar.format), device)

    def to_frame(self, stylized: Future[tuple[Tensor, bool]], original: av.VideoFrame) -> av.VideoFrame:
        """What `Stylizer.begin` gave, in the encoder's pixel format, shown when and as long as original."""
        rgb, _ = stylized.result()
        planar = av.VideoFrame(*self.size, _planar(self.pixels))
        rgb_to_components(rgb, _planes(planar), self._coding(planar.format))
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
        return Coding(_bits(planar)) if planar.is_rgb else Coding(_bits(planar), 0, self.matrix, self.full)

    def _reformat(self, scaler: VideoReformatter, frame: av.VideoFrame, name: str) -> av.VideoFrame:
        kept = FULL if self.full else LIMITED  # the same on both sides: the scaler must leave the range alone
        return scaler.reformat(frame, format=name, interpolation=SCALING, src_color_range=kept, dst_color_range=kept)
