"""The file that is read: its video stream, its frames, and the packets that are copied."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.logging
from av.container import Container, InputContainer
from av.format import Flags
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vsneuralstyle.errors import MediaError
from vsneuralstyle.hosts.render.damage import Damage, Frames, Repeat
from vsneuralstyle.hosts.render.sequences import DEFAULT_RATE, first_number, is_sequence, numbers
from vsneuralstyle.hosts.render.timeline import Rational, Timeline, is_timed, may_jump, seconds

# A file is cut off if it is shorter than its header says: by seconds, or part of its length.
MISSING, MISSING_PART = Fraction(1), Fraction(1, 10)
# Bytes of a transport stream's packets, and where in them the sync byte is: bare, with a timestamp
# (.m2ts), with a checksum.
TRANSPORT_PACKETS, SYNC = ((188, 0), (192, 4), (204, 0)), 0x47

Item = av.VideoFrame | Repeat | av.Packet


STDIN = Path("-")


@contextmanager
def open_source(source: Path, rate: Fraction | None = None) -> Iterator[InputContainer]:
    """A video file, an image sequence (`sequences`), or YUV4MPEG on standard input (`STDIN`).

    rate: of a sequence, frames a second; None: 25.
    """
    if is_sequence(source):
        first, rate = first_number(source), rate or Fraction(DEFAULT_RATE)
        options = {"framerate": str(rate), "start_number": str(first)}
        opened = partial(av.open, str(source), format="image2", options=options)
    elif source == STDIN:
        opened = partial(av.open, "pipe:0", format="yuv4mpegpipe")
    else:
        opened = partial(av.open, str(source))
    try:
        container = opened()
    except av.error.FFmpegError as error:
        why = "it is empty" if source.is_file() and not source.stat().st_size else error.strerror
        expected = "YUV4MPEG, as `vspipe -c y4m` writes it" if source == STDIN else "a video file"
        name = "standard input" if source == STDIN else source
        raise MediaError(f"can't read {name}: {why}; expected {expected}") from error
    with container:
        yield container


def video_stream(reader: InputContainer, source: Path) -> VideoStream:
    # Cover art is a video stream as well.
    videos = [
        stream
        for stream in reader.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not videos:
        kinds = {
            "cover art" if stream.type == "video" else stream.type for stream in reader.streams
        }
        found = ", ".join(sorted(kinds)) or "no stream"
        raise MediaError(f"{source} has no video, only: {found}; expected a video file")
    video = videos[0]
    if video.codec_context is None or video.format is None or not video.width:
        raise MediaError(
            f"{source}: its video can't be decoded (damaged, or in a codec that this FFmpeg lacks)"
        )
    video.thread_type = "AUTO"
    return video


def frame_rate(video: VideoStream) -> "Rational | None":
    """The nominal frame rate as far as it is known."""
    if has_timestamps(video.container):
        return video.average_rate or video.guessed_rate
    # A raw stream's average is only libavformat's default. The guess is what the stream says.
    return video.guessed_rate or video.average_rate


def codec_tag(stream: Stream) -> str | None:
    """The container's name for a stream's codec, such as avc1; FFmpeg needn't know the codec."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # FFmpeg writes the description to its log
    try:
        description = stream.container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?\((\S{{4,}}) / 0x", description)
    return found and found[1]


def has_timestamps(reader: Container) -> bool:
    """Whether the container has any; a raw stream (.h264, .hevc) hasn't."""
    return Flags.no_timestamps not in Flags(reader.format.flags)


def expected_frames(reader: InputContainer, video: VideoStream) -> int | None:
    """The number of frames as far as the headers tell."""
    rate = frame_rate(video)
    if is_sequence(path := Path(reader.name)):
        return len(numbers(path))
    if video.frames or not (reader.duration and rate):
        return video.frames or None
    return round(reader.duration * rate / av.time_base)


def read(
    reader: InputContainer,
    video: VideoStream,
    copies: Collection[int],
    timeline: Timeline,
    damage: Damage,
) -> Iterator[Item]:
    """The frames of video and the packets of the streams in copies, in the order of the file."""
    frames, packets = Frames(video, damage), Packets(reader, video)
    for packet in packets:
        index = packet.stream.index
        if index == video.index or index in copies:
            timeline.place(packet)
        if index == video.index:
            yield from frames.decode(packet)
        elif index in copies:
            timeline.rise(packet)
            yield packet
    if packets.missing:
        damage.cut_off(packets.missing)
    damage.sum_up()


class Packets:
    """A file's packets as they are, and an empty one of the video at the end."""

    def __init__(self, reader: InputContainer, video: VideoStream) -> None:
        self.missing = ""  # what is at the file's end, in words, once all came
        self._reader, self._video = reader, video
        # When what came starts, and until when it is shown, by the file's own clock.
        self._start = self._end = Fraction(reader.start_time or 0, av.time_base)
        self._last: dict[int, Fraction] = {}  # each stream's latest time
        self._longest = Fraction(0)  # between two of a stream: the last may be as long, untold
        self._incomplete: dict[int, bool] = {}  # whether each stream's last packet is

    def __iter__(self) -> Iterator[av.Packet]:
        unreadable, held = "", None
        try:
            # All streams, as the longest of them tells the length.
            for packet in self._reader.demux():
                if not packet.size:
                    continue  # one of demux's own, which mark the end
                self._look_at(packet)
                if packet.stream.index == self._video.index:
                    if held:
                        yield held
                    held = packet if packet.is_corrupt else None
                if packet is not held:
                    yield packet
        except av.error.FFmpegError as error:
            unreadable = f" ({error.strerror})"
        # A last packet that breaks off stays held. Several frames are decoded at a time, and PyAV
        # gives none of those that come after an error at the very end.
        self.missing = self._find_missing(unreadable)
        last = av.Packet()
        last.stream, last.time_base = self._video, self._video.time_base
        yield last

    def _look_at(self, packet: av.Packet) -> None:
        ticks, index = packet.dts if packet.pts is None else packet.pts, packet.stream.index
        if ticks is not None:
            at = seconds(ticks, packet.time_base)
            self._end = max(self._end, at + seconds(packet.duration or 0, packet.time_base))
        if is_timed(packet.stream):
            self._incomplete[index] = packet.is_corrupt
            if ticks is not None:
                last = self._last.get(index, at)
                self._longest, self._last[index] = max(self._longest, at - last), max(at, last)

    def _find_missing(self, unreadable: str) -> str:
        came, announced = self._end - self._start, _announced_end(self._reader)
        length = came if announced is None else announced - self._start
        breaks_off = (
            unreadable
            or any(self._incomplete.values())
            or _ends_inside_transport_packet(self._reader)
        )
        cut_off = f"cut off at {float(came):.2f} s{unreadable}"
        if breaks_off and length <= came:
            return f"{cut_off}: how much is missing is unknown"
        tolerance = max(min(MISSING, MISSING_PART * length), 2 * self._longest)
        if breaks_off or length - came > tolerance:
            return f"{cut_off}: {float(length - came):.2f} s of {float(length):.2f} s are missing"
        return ""


def _announced_end(reader: InputContainer) -> Fraction | None:
    """When the header says that the file ends, in seconds by its own clock.

    None where no header does: FFmpeg then tells the time of the last packet there is.
    """
    if may_jump(reader) or not has_timestamps(reader) or not reader.duration:
        return None
    streams = [stream for stream in reader.streams if is_timed(stream)]
    ends = [
        seconds(stream.start_time + stream.duration, stream.time_base)
        for stream in streams
        if stream.start_time is not None and stream.duration is not None
    ]
    if len(ends) < len(streams):
        return Fraction(reader.duration, av.time_base)  # Matroska's, from 0 on
    return max(ends)


def _ends_inside_transport_packet(reader: InputContainer) -> bool:
    path = Path(reader.name)
    if reader.format.name != "mpegts" or not path.is_file():  # but a pipe
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 5 * 204))
        tail = file.read()
    return not any(
        all(tail[sync - end] == SYNC for end in range(size, len(tail) + 1, size))
        for size, sync in TRANSPORT_PACKETS
    )


def until_frame(items: Iterator[Item]) -> Iterator[Item]:
    for item in items:
        yield item
        if isinstance(item, av.VideoFrame):
            return
