"""What FFmpeg's encoders and containers say of themselves, and the words in which they refuse."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import av
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer

from vsneuralstyle.errors import MediaError

# The last part of a hardware encoder's name -> what it runs on.
HARDWARE = {
    "nvenc": "an NVIDIA GPU and its driver",
    "qsv": "an Intel GPU and its oneVPL driver",
    "amf": "an AMD GPU and its AMF driver",
    "vaapi": "a GPU with a VA-API driver",
    "vulkan": "a GPU whose Vulkan driver encodes video",
    "v4l2m2m": "a video encoder of Video4Linux",
    "mf": "Windows' Media Foundation",
    "videotoolbox": "macOS",
}

LogLine = tuple[int, str, str]
"""A level, who logs, and the line."""


@contextmanager
def ffmpeg_log() -> Iterator[list[LogLine]]:
    """The errors that FFmpeg logs meanwhile; PyAV drops them otherwise."""
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_skip_repeated(False)  # the same line in another render is said again
    av.logging.set_level(max(av.logging.ERROR, level or 0))
    try:
        with av.logging.Capture(local=False) as lines:  # encoders have threads of their own
            yield lines
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def cause(error: Exception, lines: list[LogLine]) -> str:
    """FFmpeg's first two errors, of which it may log dozens; without one the error's own text."""
    errors = [line for level, _, line in lines if level <= av.logging.ERROR]
    said = dict.fromkeys(line.strip().rstrip(".:") for line in errors)
    return "; ".join(list(said)[:2]) or getattr(error, "strerror", None) or str(error)


def hardware_of(encoder: str) -> str | None:
    """What an encoder needs to run on; None: a CPU."""
    return HARDWARE.get(encoder.rpartition("_")[2])


def check_encoder(name: str, kind: str, option: str, examples: str) -> None:
    """Whether name is an encoder of a kind, "video" or "audio".

    Raises:
        MediaError: no. Its text names the command's option that gave the name, and examples.
    """
    expected = f"expected FFmpeg's name of an encoder for {kind}, such as {examples}"
    try:
        found = av.Codec(name, "w").type
    except UnknownCodecError as error:
        raise MediaError(f"{option} {name}: this FFmpeg has no such encoder; {expected}") from error
    if found != kind:
        raise MediaError(
            f"{option} {name}: {name!r} does not encode {kind} but {found}; {expected}"
        )


def can_carry(container: str, add: Callable[[OutputContainer], object]) -> bool:
    """Whether a container takes the stream that `add` adds to it.

    FFmpeg's tables leave it open for some containers, but each decides when its header is written.
    A few take audio only beside video, so there is a second try, with their usual video codec.
    """
    return _header_is_written(container, add) or _header_is_written(
        container, _add_usual_video, add
    )


def _header_is_written(container: str, *adds: Callable[[OutputContainer], object]) -> bool:
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        for add in adds:
            add(trial)
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    finally:
        with suppress(ValueError, av.error.FFmpegError):  # of a file without frames, which is none
            trial.close()
    return True


def _add_usual_video(container: OutputContainer) -> None:
    container.add_stream(container.default_video_codec, rate=25, width=720, height=576)
