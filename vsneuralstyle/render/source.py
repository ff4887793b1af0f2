"""The file that is read: its video stream, its frames, and the packets that are copied."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vsneuralstyle.errors import MediaError

ADVICE = "repair the file, or cut it before that"


@contextmanager
def open_source(source: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(str(source))
    except av.error.FFmpegError as error:
        why = "it is empty" if source.is_file() and not source.stat().st_size else error.strerror
        raise MediaError(f"can't read {source}: {why}; expected a video file") from error
    with container:
        yield container


def video_stream(reader: InputContainer, source: Path) -> VideoStream:
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


def expected_frames(reader: InputContainer, video: VideoStream) -> int | None:
    """The number of frames as far as the headers tell."""
    rate = video.average_rate or video.guessed_rate
    if video.frames or not (reader.duration and rate):
        return video.frames or None
    return round(reader.duration * rate / av.time_base)


def read(reader: InputContainer, video: VideoStream, copies: dict[int, Stream],
          source: Path) -> Iterator[av.VideoFrame | av.Packet]:
    """The frames of video and the packets of the streams in copies, in the order of the file."""
    where = "its start"
    try:
        for packet in reader.demux(video, *(reader.streams[index] for index in copies)):
            where = time_of(packet) or where
            if packet.is_corrupt:
                raise MediaError(f"{source}: damaged or cut off at {where}; {ADVICE}")
            if packet.stream.index in copies:
                if packet.size:  # an empty one only marks the end
                    yield packet
                continue
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise MediaError(f"{source}: the frame at {time_of(frame) or where} is damaged; {ADVICE}")
                yield frame
    except av.error.FFmpegError as error:
        raise MediaError(f"{source}: can't decode at {where}: {error.strerror}; {ADVICE}") from error


def time_of(item: av.VideoFrame | av.Packet) -> str | None:
    ticks = item.dts if item.pts is None else item.pts
    return None if ticks is None else f"{float(ticks * item.time_base):.3f} s"


def until_frame(items: Iterator[av.VideoFrame | av.Packet]) -> Iterator[av.VideoFrame | av.Packet]:
    for item in items:
        yield item
        if isinstance(item, av.VideoFrame):
            return
