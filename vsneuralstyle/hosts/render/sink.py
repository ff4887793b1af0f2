"""The file that is written: its container, its streams, and what tells a player how to show it."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Stream
from av.video.stream import VideoStream

from vsneuralstyle.errors import MediaError
from vsneuralstyle.hosts.render.audio import AudioTranscoder, PacketCopy, add_audio
from vsneuralstyle.hosts.render.conversion import Converter
from vsneuralstyle.hosts.render.encoding import CONTAINERS, EXAMPLES, Encoding, add_encoder
from vsneuralstyle.hosts.render.ffmpeg import cause, ffmpeg_log, hardware_of
from vsneuralstyle.hosts.render.losses import timecode_of, warn_of_container, warn_of_stream
from vsneuralstyle.hosts.render.sequences import is_sequence

log = logging.getLogger("vsneuralstyle.hosts.render")

# What a container writes anew, or what is true of the source file only.
FILE_METADATA = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "creation_time",
    "duration",
}
# Containers (FFmpeg's names) that aren't files to watch -> what they are, and what to take instead.
UNSUITABLE = {
    "yuv4mpegpipe": "YUV4MPEG has raw pictures at one rate, without their times, sound or color "
    "tags; choose .mkv with --preset ffv1, which is lossless, or pipe it with -o -"
}
PICTURES_ALONE = {"image2", "yuv4mpegpipe"}  # what carries no sound and no more
LONGEST_NAME = 255  # bytes, where the file system doesn't say


STDOUT = Path("-")


@contextmanager
def open_destination(destination: Path, start_number: int = 1) -> Iterator[OutputContainer]:
    """The container to write, under a temporary name; becomes destination if the body succeeds,
    else vanishes.

    start_number: of a sequence's first file.
    """
    if is_sequence(destination):
        with _open_sequence(destination, start_number) as container:
            yield container
        return
    if destination == STDOUT:
        with _to_stdout() as container:
            yield container
        return
    part = _part_of(destination)
    container = _open_container(part, destination)
    try:
        try:
            part.touch()  # FFmpeg would try no earlier than with the first packet
        except OSError as error:
            raise MediaError(
                f"can't write {destination}: {error.strerror}; choose a folder that exists and is "
                "writable"
            ) from error
        with container:
            yield container
        os.replace(part, destination)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"can't write {destination}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def _open_sequence(destination: Path, start_number: int) -> Iterator[OutputContainer]:
    """As `open_destination`: the files are in a hidden folder beside their places until the end."""
    part = _part_of(destination.with_name(destination.stem.replace("%", "")))  # a pattern has one %
    try:
        part.mkdir()
        container = av.open(
            str(part / destination.name),
            "w",
            format="image2",
            options={"start_number": str(start_number)},
        )
        with container:
            yield container
        for file in sorted(part.iterdir()):
            os.replace(file, destination.parent / file.name)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"can't write {destination}: {error.strerror}; choose a folder that exists and has room"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _to_stdout() -> Iterator[OutputContainer]:
    """YUV4MPEG on standard output. Whatever else writes there goes to standard error meanwhile."""
    sys.stdout.flush()
    pipe = os.dup(1)
    os.dup2(2, 1)
    try:
        with av.open(f"pipe:{pipe}", "w", format="yuv4mpegpipe") as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"can't write to standard output: {error.strerror}; is its reader still there?"
        ) from error
    finally:
        os.dup2(pipe, 1)
        os.close(pipe)


def _part_of(destination: Path) -> Path:
    """The hidden file beside destination, its name cut to what the file system takes."""
    end = f".{os.getpid()}.part{destination.suffix}"
    try:
        longest = os.pathconf(destination.parent, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # no such folder, or the system isn't POSIX
        longest = LONGEST_NAME
    room = longest - len(os.fsencode(f".{end}"))
    # A character whose bytes are cut in two is left out: some file systems take UTF-8 alone.
    stem = os.fsencode(destination.stem)[: max(room, 0)].decode(errors="ignore")
    return destination.with_name(f".{stem}{end}")


def _open_container(part: Path, destination: Path) -> OutputContainer:
    try:
        container = av.open(str(part), "w")
    except ValueError as error:
        raise MediaError(
            f"can't write {destination}: its suffix {destination.suffix!r} names no "
            "container; expected .mp4, .mkv, .webm, .mov or another one that FFmpeg "
            "knows"
        ) from error
    if container.format.no_file:
        raise MediaError(
            f"can't write {destination}: {container.format.long_name} is not a video "
            f"file; expected {CONTAINERS}"
        )
    if why := UNSUITABLE.get(container.format.name):
        raise MediaError(f"can't write {destination}: {why}")
    return container


def add_streams(
    reader: InputContainer,
    writer: OutputContainer,
    video: VideoStream,
    destination: Path,
    audio: bool,
    audio_codec: str | None,
    encoding: Encoding,
) -> tuple[VideoStream, dict[int, PacketCopy | AudioTranscoder]]:
    """Adds metadata and, in the source's order, the streams.

    Returns the encoder's stream, and for each other one that is kept: its index in reader -> what
    writes it.
    """
    encoder: VideoStream | None = None
    tracks: dict[int, PacketCopy | AudioTranscoder] = {}
    writer.metadata.update(
        {key: value for key, value in reader.metadata.items() if key.lower() not in FILE_METADATA}
    )
    for stream in reader.streams:
        track: PacketCopy | AudioTranscoder | None = None
        if stream.index == video.index:
            encoder = add_encoder(writer, video, destination, encoding)
            _copy_metadata(stream, encoder)
        elif stream.type == "audio" and not audio:
            pass
        elif writer.format.name in PICTURES_ALONE:
            log.warning("%s stream %d is left out: pictures alone", stream.type, stream.index)
        elif isinstance(stream, AudioStream) and stream.codec_context:
            track = add_audio(writer, stream, destination, audio_codec)
        elif stream.type == "subtitle" and stream.codec_context:
            track = _add_subtitles(writer, stream)
        elif isinstance(stream, AttachmentStream) and writer.format.name == "matroska":
            mimetype = stream.mimetype or "application/octet-stream"
            writer.add_attachment(stream.name or "", mimetype, stream.data)
        else:
            warn_of_stream(stream)
        if track:
            _copy_metadata(stream, track.stream)
            tracks[stream.index] = track
    assert encoder is not None  # video is one of the streams
    if timecode := timecode_of(reader, video):
        encoder.metadata["timecode"] = timecode  # FFmpeg makes a track of it, where there are such
    warn_of_container(reader, writer, video)
    return encoder, tracks


def _add_subtitles(writer: OutputContainer, stream: Stream) -> PacketCopy | None:
    try:
        return PacketCopy(writer.add_stream_from_template(stream))
    except (ValueError, av.error.FFmpegError):
        log.warning(
            "%s can't carry subtitle stream %d (%s): left out",
            writer.format.long_name,
            stream.index,
            stream.codec_context.name,
        )
        return None


def _copy_metadata(source: Stream, destination: Stream) -> None:
    destination.disposition = source.disposition
    destination.metadata.update(
        {key: value for key, value in source.metadata.items() if key in ("language", "title")}
    )


def tag(
    encoder: VideoStream, video: VideoStream, frame: av.VideoFrame, converter: Converter
) -> None:
    """What tells a player how to show the pixels: color, chroma's place, pixel shape, rotation."""
    encoder.colorspace, encoder.color_range = converter.matrix_tag, converter.range_tag
    encoder.color_primaries, encoder.color_trc = frame.color_primaries, frame.color_trc
    if converter.chroma_location:
        encoder.chroma_sample_location = converter.chroma_location
    if video.sample_aspect_ratio:
        encoder.sample_aspect_ratio = video.sample_aspect_ratio
    with suppress(KeyError):
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)
        encoder.set_display_matrix(matrix.tolist())


def write_header(writer: OutputContainer, encoder: VideoStream, destination: Path) -> None:
    """Opens the encoder and the file: what either refuses is said before a frame is stylized.

    Raises:
        MediaError: with FFmpeg's own words.
    """
    name = encoder.codec.name
    needed = hardware_of(name)
    advice = f"it needs {needed}; choose one that doesn't" if needed else "choose another one"
    with _refusal(
        destination,
        f"the encoder {name} can't be opened",
        f"{advice} (--codec), for example {EXAMPLES}",
    ):
        encoder.codec_context.open()
    with _refusal(
        destination,
        f"{writer.format.long_name} refuses the streams",
        f"choose {CONTAINERS}, or another encoder (--codec, --audio-codec)",
    ):
        writer.start_encoding()


@contextmanager
def _refusal(destination: Path, what: str, advice: str) -> Iterator[None]:
    try:
        with ffmpeg_log() as lines:
            yield
    except (ValueError, av.error.FFmpegError) as error:
        raise MediaError(
            f"can't write {destination}: {what}: {cause(error, lines)}; {advice}"
        ) from error
