"""A video file in, the stylized video file out, with its audio, subtitles, chapters and timestamps
(PyAV).
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer

from vsneuralstyle.core.pipeline import MAX_IN_FLIGHT, PendingFrame
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import MediaError
from vsneuralstyle.hosts.render import sequences
from vsneuralstyle.hosts.render.audio import AudioTranscoder, PacketCopy
from vsneuralstyle.hosts.render.conversion import PALETTE, Converter, has_alpha
from vsneuralstyle.hosts.render.damage import Damage, Repeat, time_of
from vsneuralstyle.hosts.render.encoding import Encoding, PaletteEncoder
from vsneuralstyle.hosts.render.losses import Losses, warn_of_rotation
from vsneuralstyle.hosts.render.over_time import OverTime
from vsneuralstyle.hosts.render.progress import progress_of
from vsneuralstyle.hosts.render.ranges import Cutter, FrameClock, Range, parse_range
from vsneuralstyle.hosts.render.sequences import first_number, is_sequence
from vsneuralstyle.hosts.render.sink import add_streams, open_destination, tag, write_header
from vsneuralstyle.hosts.render.source import (
    STDIN,
    Item,
    expected_frames,
    frame_rate,
    open_source,
    read,
    until_frame,
    video_stream,
)
from vsneuralstyle.hosts.render.timeline import Timeline


def render(
    source: str | Path,
    destination: str | Path,
    *,
    style: str,
    overwrite: bool = False,
    on_error: str = "repeat",
    progress: bool | str | None = None,
    rate: Fraction | str | float | None = None,
    start: str | None = None,
    end: str | None = None,
    frames: str | None = None,
    keyframes: str | Path | None = None,
    cuts: str | Path | None = None,
    write_cuts: str | Path | None = None,
    audio: bool = True,
    audio_codec: str | None = None,
    preset: str | None = None,
    codec: str | None = None,
    crf: float | None = None,
    pix_fmt: str | None = None,
    encoder_options: Mapping[str, str] | None = None,
    **stylizer_options,
) -> int:
    """Stylizes the first video stream of the file source into the file destination; returns the
    number of frames.

    Size, timestamps (of a variable frame rate as well), color tags, sample aspect ratio, rotation,
    timecode, metadata and chapters are kept. Audio and subtitle packets are copied as they are;
    audio that the container can't carry is encoded anew. What else the source has is left out,
    each with a warning in the log: alpha that the encoder can't take, HDR metadata, closed
    captions, interlacing, further video streams, data, subtitles and chapters that the container
    can't carry. Few frames are read before the first of them is written, so memory does not grow
    with the length.

    The destination appears, complete, at the very end. Until then the file lies beside it under a
    hidden name ending in `.part` and the suffix (a long name is cut), and any exception
    (KeyboardInterrupt and SystemExit too) removes it.

    Args:
        source: a video file; an image sequence, as `shot/%05d.png`; or "-": YUV4MPEG on standard
            input.
        destination: the file to write; its suffix chooses the container. `.gif` has 256 colors a
            frame, each frame its own, and no sound. Or an image sequence: .png, .tiff, .exr, .dpx
            or .jpg; its numbers begin with those of a source that is one, else with 1. Or "-":
            YUV4MPEG on standard output.
        style: see `Stylizer`.
        overwrite: replace an existing destination.
        on_error: what to do about a damaged frame: "repeat": show the one before it again; "skip":
            leave it out, so that the one before it stays for longer; "stop": raise an error.
        progress: show a bar on stderr; None: if stderr is a terminal; "json": write lines of JSON
            there (`progress.JsonProgress`).
        rate: frames a second of an image sequence; None: 25.
        start, end, frames: the part that is rendered, as `ranges.parse_range` takes it. Its frames
            are bit for bit those of the whole: it is walked from the start of its first scene.
        keyframes: a file of settings over time (`keyframes.read_keyframes`).
        cuts: a file of where scenes start (`cuts.read_cuts`), which outweighs the detector.
        write_cuts: a .csv to write with where they did.
        audio: False leaves the audio out.
        audio_codec: an FFmpeg encoder for the audio, or "copy"; None: "copy" where the container
            can carry it, else what is usual there (libopus in .webm, mostly aac). Sound stays in
            time with the picture; rate and channels stay where the encoder takes them.
        preset: an encoding by name, one of `presets.PRESETS`; the next four outweigh it.
        codec: an FFmpeg encoder; None: libx264, libvpx-vp9 where the container can't carry H.264,
            gif in .gif, the suffix's own of an image sequence.
        crf: constant quality on the encoder's own scale, from 0, the best; None: 18 for libx264, 24
            for libvpx-vp9.
        pix_fmt: an FFmpeg pixel format; None: 4:2:0, or 4:4:4 if width or height is odd (H.264 has
            no odd 4:2:0), of the source's depth, and with its alpha, where the encoder takes them.
        encoder_options: further options of the encoder, as FFmpeg names them.
        stylizer_options: net, device, precision, strength, coherence, preserve_color, scene_cut and
            model_dir of `Stylizer`.

    Y'CbCr is converted with the stream's matrix and range. Without a matrix it is BT.709 from 720
    lines up, else BT.601; without a range it is limited (gray: full). Interlaced video is treated
    as progressive.

    A frame is damaged if its decoder refuses its packet, or flags the frame as corrupt. A packet's
    own flag (a gap in a transport stream's counters) doesn't count. Damage is counted and told in
    the log. A damaged first frame has none before it and is left out, as are copied packets that
    the container refuses. A file that is cut off is rendered as far as it goes, and a warning tells
    how much is missing (on_error "stop": an error). A frame of another size is scaled to the first
    one's. One of another matrix or range is converted.

    Timestamps of a sender's clock (a transport stream's) start at 0, and go on where it jumps.
    Those of other files stay, unless they start more than 10 s away from 0: then they start at 0.

    Raises:
        MediaError: the source can't be read, or all of its video is damaged (on_error "stop": some
            of it); the destination can't be written or can't carry a stream.
        ArgumentError, ModelError, DeviceError: as `Stylizer` does.
    """
    # long: what its docstring says of every option
    source, destination = _absolute(source), _absolute(destination)
    job = _Job(
        source,
        destination,
        Damage(source, on_error),
        None if rate is None else Fraction(rate),
        (start, end, frames),
        (keyframes, cuts, write_cuts),
        (audio, audio_codec),
        Encoding(codec, crf, pix_fmt, preset, encoder_options or {}),
        progress,
    )
    _check_paths(source, destination, overwrite)
    number = first_number(source) if is_sequence(source) else 1
    with open_source(source, job.rate) as reader, open_destination(destination, number) as writer:
        return _render(reader, writer, job, partial(Stylizer, style, **stylizer_options))


@dataclass(frozen=True)
class _Job:
    """What `render` was asked for."""

    source: Path
    destination: Path
    damage: Damage
    rate: Fraction | None
    part: tuple[str | None, str | None, str | None]
    over_time: tuple[str | Path | None, str | Path | None, str | Path | None]
    audio: tuple[bool, str | None]
    encoding: Encoding
    progress: bool | str | None


def _render(
    reader: InputContainer, writer: OutputContainer, job: _Job, make: Callable[[], Stylizer]
) -> int:
    source, destination, damage = job.source, job.destination, job.damage
    video = video_stream(reader, source)
    rate = frame_rate(video)
    part, over_time = parse_range(*job.part, rate), OverTime.of(*job.over_time, rate)
    encoder, tracks = add_streams(reader, writer, video, destination, *job.audio, job.encoding)
    timeline = Timeline(reader, [video, *(reader.streams[index] for index in tracks)])
    writer.set_chapters([] if part else timeline.chapters(reader.chapters()))
    losses = Losses(video)
    losses.keeps_alpha = has_alpha(encoder.format)
    items = losses.watch(read(reader, video, tracks, timeline, damage))
    head = list(until_frame(items))
    first = head[-1] if head else None
    if not isinstance(first, av.VideoFrame):
        raise MediaError(
            f"{source}: no picture of its video stream can be decoded; expected a video file"
        )
    converter = Converter(first, encoder, source)
    tag(encoder, video, first, converter)
    warn_of_rotation(first, writer)
    write_header(writer, encoder, destination)
    encode = PaletteEncoder(encoder).encode if encoder.pix_fmt == PALETTE else encoder.encode
    total = None if part else expected_frames(reader, video)
    with make() as stylizer:
        shown = _part_of(part, itertools.chain(head, items), job, stylizer, converter, over_time)
        with stylizer.io_context(), progress_of(job.progress, str(destination), total) as bar:
            for item in _stylized(shown, stylizer, converter, over_time):
                if isinstance(item, av.Packet):
                    _copy(item, tracks[item.stream.index], writer, damage)
                else:
                    writer.mux(encode(item))
                    bar.update()
            writer.mux(encode(None))
            for track in tracks.values():
                for packet in track.packets(None):
                    writer.mux(packet)
    over_time.finish()
    return converter.count


def _absolute(path: str | Path) -> Path:
    return STDIN if str(path) == "-" else Path(path).absolute()


def _part_of(
    part: Range,
    items: Iterator[Item],
    job: _Job,
    stylizer: Stylizer,
    converter: Converter,
    over_time: OverTime,
) -> Iterator[tuple[bool, Item]]:
    """The items that a range needs, and whether each is shown."""
    if not part:
        return _whole(items, over_time.clock)
    if job.source == STDIN:
        raise MediaError("a part of standard input; expected a file, which can be read twice")
    start = _scene_start(part, job, stylizer, converter, over_time)
    return Cutter(part, start, over_time.clock).cut(items)


def _whole(items: Iterator[Item], clock: FrameClock) -> Iterator[tuple[bool, Item]]:
    for item in items:
        if not isinstance(item, av.Packet):
            clock.count(item)
        yield True, item


def _scene_start(
    part: Range, job: _Job, stylizer: Stylizer, converter: Converter, over_time: OverTime
) -> int:
    """The number of the frame with which the first scene of a range starts."""
    start, previous, clock = 0, None, FrameClock()
    with open_source(job.source, job.rate) as reader:
        video = video_stream(reader, job.source)
        timeline, damage = Timeline(reader, [video]), Damage(job.source, "repeat", quiet=True)
        for item in read(reader, video, (), timeline, damage):
            if isinstance(item, av.Packet):
                continue
            clock.count(item)
            if isinstance(item, av.VideoFrame):
                told = over_time.hint(clock.number, clock.at)
                if told is None:
                    rgb = converter.to_rgb(item, stylizer.device)
                    told = previous is not None and stylizer.is_cut(previous, rgb)
                    previous = rgb
                start = clock.number if told else start
            if not part.is_before(clock.number, clock.at):
                break
    return start


def _copy(
    packet: av.Packet, track: PacketCopy | AudioTranscoder, writer: OutputContainer, damage: Damage
) -> None:
    kind, at = packet.stream.type, time_of(packet)
    for copied in track.packets(packet):
        try:
            writer.mux(copied)
        # such as an AAC frame for .mp4 without its header
        except av.error.InvalidDataError as error:
            damage.packet(kind, at, f"it can't be copied ({error.strerror})")


def _stylized(
    items: Iterator[tuple[bool, Item]],
    stylizer: Stylizer,
    converter: Converter,
    over_time: OverTime,
) -> Iterator[av.VideoFrame | av.Packet]:
    """Packets as they are and frames stylized; each frame once the next ones are in flight, so that
    there is work while it is encoded and those after them are decoded. Frames that aren't shown
    are stylized for those that are.
    """
    under_way: collections.deque[tuple[PendingFrame | None, av.VideoFrame | Repeat]] = (
        collections.deque()
    )
    for is_shown, item in items:
        if isinstance(item, av.Packet):
            yield item
            continue
        stylized = None
        if not isinstance(item, Repeat):
            rgb = converter.to_rgb(item, stylizer.device)
            stylized = over_time.submit(stylizer, rgb)
        if not is_shown:
            continue
        under_way.append((stylized, item))
        if len(under_way) > MAX_IN_FLIGHT:
            yield converter.to_frame(*under_way.popleft())
    while under_way:
        yield converter.to_frame(*under_way.popleft())


def _check_paths(source: Path, destination: Path, overwrite: bool) -> None:
    for path in (source, destination):
        try:
            path.exists()
        except (OSError, ValueError) as error:  # a name too long, a folder that may not be read
            why = getattr(error, "strerror", None) or error
            raise MediaError(
                f"{path}: {why}; expected the name of a file that this user can reach"
            ) from error
    if source != STDIN and not is_sequence(source):
        if not source.exists():
            raise MediaError(f"{source}: no such file; expected a video file")
        if source.is_dir():
            raise MediaError(f"{source} is a folder; expected a video file")
    if destination == STDIN:
        return
    if destination.is_dir():
        raise MediaError(f"{destination} is a folder; expected the name of the file to write")
    if is_sequence(destination):
        if destination.parent.is_dir() and (there := sequences.numbers(destination)):
            file = there[min(there)]
            if destination == source:
                raise MediaError(f"{destination} is the source itself; name another sequence")
            if not overwrite:
                raise MediaError(
                    f"{file} exists; name another sequence, or ask for its files to be replaced "
                    "(--overwrite)"
                )
    elif destination.exists():
        _check_existing(source, destination, overwrite)


def _check_existing(source: Path, destination: Path, overwrite: bool) -> None:
    if source.exists() and source.samefile(destination):
        raise MediaError(f"{destination} is the source itself; name another file for the output")
    if not overwrite:
        raise MediaError(
            f"{destination} exists; name another file, or ask for it to be replaced (--overwrite)"
        )
    if not destination.is_file():
        raise MediaError(
            f"{destination} is not a regular file and can't be replaced; name another file"
        )
