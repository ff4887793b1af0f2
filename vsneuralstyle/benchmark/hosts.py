"""What the benchmark runs in the hosts: I420 from files that lie in the page cache, over and over,
and y4m out.

A source that decodes nothing, and no conversion but the filter's own: what is measured is the graph
around the core.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle import host_processes
from vsneuralstyle.benchmark.clip import CODING, Clip, blank
from vsneuralstyle.benchmark.core import (
    COHERENT,
    CONVERTED,
    PER_FRAME,
    USUAL,
    play,
    play_converted,
    play_usual,
)
from vsneuralstyle.benchmark.timing import Timing, in_turn, synchronise
from vsneuralstyle.core.pipeline import MAX_IN_FLIGHT
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import MediaError
from vsneuralstyle.video import pixels

HOW = {"cpu": "two at a time", "cuda": "ahead"}
"""How the core works ahead, by the device."""
BLOCKS = 3
"""Core and hosts take turns in so many blocks of frames, since some have several frames in work."""
WAITING = 12
"""Frames that are left out of each block but the first: some were done when the block before
ended."""
WINDOW = 4
"""Frames whose mean time counts."""
ENDLESS = 10**6  # frames: the host is ended when enough have come


class Host(host_processes.Host):
    """One of the programs that run the filter, on a clip's files."""

    @abstractmethod
    def command(self, folder: Path, clip: Clip, options: Mapping[str, str]) -> list[str]:
        """The command line that writes the stylized clip to its standard output, again and again.

        Args:
            folder: where `Clip.write` wrote the clip.
            clip: the clip.
            options: arguments of `Stylizer`.
        """

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())}


class VapourSynth(Host, host_processes.VapourSynth):
    """`benchmark.vpy`."""

    def command(self, folder: Path, clip: Clip, options: Mapping[str, str]) -> list[str]:
        width, height = clip.size
        arguments = {
            "folder": folder,
            "pictures": len(clip.pictures),
            "width": width,
            "height": height,
            "length": ENDLESS,
            "options": json.dumps(dict(options)),
        }
        given = (part for name, value in arguments.items() for part in ("-a", f"{name}={value}"))
        return ["vspipe", "-c", "y4m", *given, str(Path(__file__).with_name("benchmark.vpy")), "-"]


class GStreamer(Host, host_processes.GStreamer):
    """The element between a source of files and a sink."""

    elements: Mapping[str, str] = {
        **host_processes.GStreamer.elements,
        "multifilesrc": "gstreamer1.0-plugins-good",
    }

    def command(self, folder: Path, clip: Clip, options: Mapping[str, str]) -> list[str]:
        width, height = clip.size
        caps = (
            f"video/x-raw,format=I420,width={width},height={height},framerate=25/1,interlace-mode=progressive,"
            "pixel-aspect-ratio=1/1,colorimetry=bt709,chroma-site=mpeg2"
        )
        return [
            "gst-launch-1.0",
            "-q",
            "multifilesrc",
            f"location={folder}/%d.i420",
            "loop=true",
            f"stop-index={len(clip.pictures) - 1}",
            f"caps={caps}",
            "!",
            "neuralstyle",
            f"lookahead={MAX_IN_FLIGHT}",
            *(f"{name.replace('_', '-')}={value}" for name, value in options.items()),
            "!",
            "y4menc",
            "!",
            "fdsink",
        ]


def arrivals(
    host: host_processes.Host, command: Sequence[str], size: tuple[int, int]
) -> Generator[float, None, None]:
    """When each frame of a y4m in I420 came, by `time.monotonic`, from the start of the host until
    this is closed.

    A host whose frames nobody asks for fills its pipe and waits. Read without a demuxer, which
    would take several frames before it gives the first.

    Raises:
        MediaError: the host ended.
    """
    width, height = size
    samples = bytearray(width * height * 3 // 2)
    with host_processes.start(host, command) as process:
        head = process.stdout.readline()
        while True:
            marker = process.stdout.readline()
            if process.stdout.readinto(samples) < len(samples):
                raise process.failure()
            arrived = time.monotonic()
            if not (
                f" W{width} H{height} ".encode() in head
                and b" C420" in head
                and marker.startswith(b"FRAME")
            ):
                raise MediaError(
                    f"{host.name} gave {head!r} and then {marker!r}; expected y4m, "
                    f"{width}x{height} in I420"
                )
            yield arrived


def ahead(stylizer: Stylizer, clip: Clip, converted: bool = False) -> Generator[float, None, None]:
    """When each frame of the endless clip was done, by `time.monotonic`, where the next ones are
    in_flight before.

    converted: from 8-bit I420 in host memory to 8-bit I420 in host memory, as `play_converted` does
    it.
    """
    in_flight, device, target = [], stylizer.device, blank(*clip.size)
    frames: Iterator[Tensor]
    if converted:
        frames = (
            pixels.components_to_rgb(planes, CODING, device) for planes in cycle(clip.pictures)
        )
    else:
        frames = cycle(clip.frames(device))
    synchronise(device)
    try:
        while True:
            # no longer than this: whoever asks for the frames measures others between them
            with stylizer.io_context():
                in_flight.append(stylizer.submit(next(frames)))
                if len(in_flight) <= MAX_IN_FLIGHT:
                    continue
                stylized, _ = in_flight.pop(0).result()
                if converted:
                    pixels.rgb_to_components(stylized, target, CODING)
                elif device.type == "cuda":  # not for those that are under way
                    torch.cuda.current_stream(device).synchronize()
            yield time.monotonic()
    finally:
        stylizer.pipeline.wait()


def intervals(times: Sequence[float]) -> tuple[float, ...]:
    """Seconds a frame, of each `WINDOW` in a row: those that are worked at two at a time come
    unevenly.
    """
    return tuple((after - before) / WINDOW for before, after in zip(times, times[WINDOW:]))


def measure(
    found: Sequence[Host],
    make: Callable[..., Stylizer],
    options: Mapping[str, str],
    clip: Clip,
    folder: Path,
    rounds: int,
    warm_up: int,
) -> tuple[list[dict], dict[str, str]]:
    """Coherent frames through the core and through each host, in turn; and by the core what they
    are compared with.

    Of a host, and of the core where it works ahead, it is `intervals` between the frames' arrivals,
    once it is under way.

    Args:
        found: the hosts that can run.
        make: `Stylizer` with `options`.
        options: its arguments, for the hosts.
        clip: the frames.
        folder: an empty one, for the clip's files.
        rounds: frames that are timed of each, at least 2.
        warm_up: frames before them.

    Returns:
        The rows of a report's table "hosts", the first the core's, whose median the ratios are
        over; and the hosts that failed, each with what it said.
    """
    clip.write(folder)
    stylizer = make()
    calls = {
        f"core, {COHERENT}": play(stylizer, clip),
        f"core, {CONVERTED}": play_converted(make(), clip),
        USUAL: play_usual(stylizer, clip),
    }
    streams: dict[str, Generator[float, None, None]] = {}
    if stylizer.is_async:
        kind = stylizer.device.type
        streams = {PER_FRAME: ahead(make(coherence=0.0), clip), COHERENT: ahead(make(), clip)}
        if kind == "cuda":  # which transfers meanwhile
            streams[CONVERTED] = ahead(make(), clip, converted=True)
        streams = {f"core, {what}, {HOW[kind]}": stream for what, stream in streams.items()}
    streams |= {
        host.name: arrivals(host, host.command(folder, clip, options), clip.size) for host in found
    }
    seconds: dict[str, tuple[float, ...]] = {}
    failed: dict[str, str] = {}
    blocks = max(1, min(BLOCKS, rounds // 2))
    with ExitStack() as open_streams:
        for stream in streams.values():
            open_streams.enter_context(closing(stream))
        for number in range(blocks):
            frames = rounds * (number + 1) // blocks - rounds * number // blocks
            before = WAITING if number else warm_up
            for timing in in_turn(calls, frames, min(before, warm_up), stylizer.device):
                seconds[timing.name] = seconds.get(timing.name, ()) + timing.seconds
            for name, stream in streams.items():
                if name in failed:
                    continue
                try:
                    times = list(islice(stream, before, before + frames + WINDOW))
                # one that can't be measured is no reason to lose the others
                except MediaError as error:
                    failed[name] = " ".join(str(error).split())
                    seconds.pop(name, None)
                else:
                    seconds[name] = seconds.get(name, ()) + intervals(times)
    timings = [Timing(name, times) for name, times in seconds.items()]
    return [timing.row(timings[0]) for timing in timings], failed
