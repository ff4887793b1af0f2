"""The file that is written: its container, its streams, its encoder, and what tells a player how to show it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.render.conversion import Converter, bits
from vsneuralstyle.render.source import codec_tag, frame_rate

log = logging.getLogger("vsneuralstyle.render")

ENCODERS = ("libx264", "libvpx-vp9")  # the default is the first that the container can carry
DEFAULT_CRF = {"libx264": 18, "libx264rgb": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}  # visually lossless
ENCODER_OPTIONS = {"libvpx-vp9": {"row-mt": "1", "cpu-used": "4"}}  # its own defaults use one core, slowly
# What a container writes anew, or what is true of the source file only.
FILE_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration"}


@contextmanager
def open_destination(destination: Path) -> Iterator[OutputContainer]:
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


def add_streams(reader: InputContainer, writer: OutputContainer, video: VideoStream, destination: Path, audio: bool,
                 encoding: tuple) -> tuple[VideoStream, dict[int, Stream]]:
    """Adds metadata and, in the source's order, the streams.

    Returns the encoder's stream, and of those copied the index in reader -> stream in writer.
    """
    writer.metadata.update({key: value for key, value in reader.metadata.items() if key.lower() not in FILE_METADATA})
    encoder, copies, container = None, {}, writer.format.long_name
    for stream in reader.streams:
        name = stream.codec_context.name if stream.codec_context else "unknown codec"
        if stream.type == "attachment":
            name = stream.name or "without a name"
        if stream.index == video.index:
            encoder = _add_encoder(writer, video, destination, *encoding)
            _copy_metadata(stream, encoder)
        elif stream.type == "attachment" and writer.format.name == "matroska":
            mimetype = stream.mimetype or "application/octet-stream"
            writer.add_attachment(stream.name or "", mimetype, stream.data)
        elif stream.codec_context is None and stream.type in ("audio", "subtitle"):
            log.warning("%s stream %d is left out: this FFmpeg doesn't know its codec (%s)",
                        stream.type, stream.index, codec_tag(stream) or "untagged")
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
    rate = frame_rate(video) or 25
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
    depth, kept = bits(video.format), bits(av.VideoFormat(chosen))
    if depth > kept:
        log.warning("the source has %d bits a sample, the output %d (%s); --pix-fmt yuv420p10le keeps 10",
                    depth, kept, chosen)
    return chosen


def tag(encoder: VideoStream, video: VideoStream, frame: av.VideoFrame, converter: Converter) -> None:
    """What tells a player how to show the pixels: color, pixel shape, rotation."""
    encoder.colorspace, encoder.color_range = converter.matrix_tag, converter.range_tag
    encoder.color_primaries, encoder.color_trc = frame.color_primaries, frame.color_trc
    if video.sample_aspect_ratio:
        encoder.sample_aspect_ratio = video.sample_aspect_ratio
    try:
        encoder.set_display_matrix(np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32))
    except KeyError:
        pass
