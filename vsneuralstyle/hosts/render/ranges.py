"""The part of a clip that is rendered: its times, and where its first scene starts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.hosts.render.damage import Repeat
from vsneuralstyle.hosts.render.sequences import DEFAULT_RATE
from vsneuralstyle.hosts.render.timeline import Rational, seconds

_FRAME = re.compile(r"(\d+)f")
_FRAMES = re.compile(r"(\d+)-(\d+)")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)")
_TIMECODE = re.compile(r"(\d+):(\d\d):(\d\d)[:;](\d\d)")
LONGEST_WAIT = Fraction(1)  # seconds of video behind the end, for sound that comes late in a file
Item = TypeVar("Item", bound=av.VideoFrame | Repeat | av.Packet)


@dataclass(frozen=True)
class Range:
    """A part of a clip: the frames from one on, and before another.

    Attributes:
        start, end: seconds from the clip's first frame on, or the number of a frame, counted from
            0; None: the clip's own.
    """

    start: Fraction | int | None = None
    end: Fraction | int | None = None

    def __bool__(self) -> bool:
        return self.start is not None or self.end is not None

    def is_before(self, number: int, at: Fraction) -> bool:
        """Whether a frame is before the range. at: its time, seconds from the first frame on."""
        return self.start is not None and _is_before(number, at, self.start)

    def is_behind(self, number: int, at: Fraction) -> bool:
        """Whether a frame is behind the range."""
        return self.end is not None and not _is_before(number, at, self.end)


def _is_before(number: int, at: Fraction, bound: Fraction | int) -> bool:
    return number < bound if isinstance(bound, int) else at < bound


def parse_range(
    start: str | None, end: str | None, frames: str | None, rate: "Rational | None"
) -> Range:
    """A range as the command line has it.

    Args:
        start, end: a time in seconds, [HH:]MM:SS or HH:MM:SS.mmm; a timecode HH:MM:SS:FF, counted
            from the first frame on; or a frame's number, as in 120f.
        frames: FIRST-LAST, both of them included, counted from 0.
        rate: frames a second, for timecodes.

    Raises:
        ArgumentError: none of these, or an end that is not after the start.
    """
    if frames is not None:
        if start is not None or end is not None:
            raise ArgumentError("frames is given beside start or end; expected one way to say it")
        match = _FRAMES.fullmatch(frames)
        if match is None or int(match[1]) > int(match[2]):
            raise ArgumentError(
                f"frames is {frames!r}; expected FIRST-LAST, counted from 0, such as 0-99"
            )
        return Range(int(match[1]), int(match[2]) + 1)
    found = Range(
        None if start is None else parse_time("start", start, rate),
        None if end is None else parse_time("end", end, rate),
    )
    if None not in (found.start, found.end) and type(found.start) is type(found.end):
        assert found.start is not None and found.end is not None
        if found.end <= found.start:
            raise ArgumentError(f"end is {end} and start is {start}; expected a later end")
    return found


def parse_time(name: str, text: str, rate: "Rational | None") -> Fraction | int:
    """A time as `parse_range` takes it: in seconds, or the number of a frame.

    Raises:
        ArgumentError: none. name: of the argument, for its text.
    """
    if match := _FRAME.fullmatch(text):
        return int(match[1])
    if match := _TIMECODE.fullmatch(text):
        hours, minutes, second, frame = map(int, match.groups())
        per_second = round(Fraction(rate.numerator, rate.denominator)) if rate else DEFAULT_RATE
        if frame >= per_second:
            raise ArgumentError(
                f"{name} is the timecode {text}; expected frames below {per_second}, the rate"
            )
        return ((hours * 60 + minutes) * 60 + second) * per_second + frame
    if match := _CLOCK.fullmatch(text):
        if match[4]:
            return Fraction(match[4])
        return (int(match[1] or 0) * 60 + int(match[2])) * 60 + Fraction(match[3])
    raise ArgumentError(
        f"{name} is {text!r}; expected seconds, [HH:]MM:SS, a timecode HH:MM:SS:FF, or a frame's "
        "number such as 120f"
    )


class FrameClock:
    """Counts a clip's frames as they come.

    Attributes:
        number: of the frame that came last, counted from 0; -1 before the first one.
        at: its time, seconds from the first frame on.
    """

    def __init__(self) -> None:
        self.number, self.at = -1, Fraction(0)
        self._origin: Fraction | None = None

    def count(self, frame: av.VideoFrame | Repeat) -> None:
        """Another frame came."""
        if self._origin is None:
            self._origin = time_in_seconds(frame)
        self.number, self.at = self.number + 1, self.since_first(frame)

    def since_first(self, item: av.VideoFrame | Repeat | av.Packet) -> Fraction:
        """When an item is, in seconds from the first frame on, which must have come."""
        assert self._origin is not None
        return time_in_seconds(item) - self._origin


class Cutter:
    """Takes a range out of a clip's items, and moves it to where the clip began.

    Args:
        part: the range.
        warm_up: the number of the first frame that is stylized, if that isn't shown: the start of
            the range's first scene.
        clock: is given each of the clip's frames, before it is moved.
    """

    def __init__(self, part: Range, warm_up: int, clock: FrameClock) -> None:
        self._range, self._warm_up, self._clock = part, warm_up, clock
        self.shown = 0  # frames of the range

    def cut(
        self, items: Iterator[av.VideoFrame | Repeat | av.Packet]
    ) -> Iterator[tuple[bool, av.VideoFrame | Repeat | av.Packet]]:
        """The items that are needed, and whether each is shown.

        Packets come once the range's first frame has told when it begins.
        """
        clock = self._clock
        begin = end = None  # of the range, in seconds from the clip's first frame on
        held: list[av.Packet] = []
        for item in items:
            if isinstance(item, av.Packet):
                held.append(item)
            else:
                clock.count(item)
                if self._range.is_behind(clock.number, clock.at):
                    end = clock.at if end is None else end
                    if clock.at > end + LONGEST_WAIT:
                        break
                elif not self._range.is_before(clock.number, clock.at):
                    begin = clock.at if begin is None else begin
                    self.shown += 1
                    yield True, _moved(item, begin)
                elif clock.number >= self._warm_up:
                    yield False, item
            if begin is not None:
                for packet in held:
                    when = clock.since_first(packet)
                    if begin <= when and (end is None or when < end):
                        yield True, _moved(packet, begin)
                held.clear()
        if not self.shown:
            raise MediaError(
                f"no frame is in the range {self._range.start or 0} to {self._range.end}, of "
                f"{clock.number + 1} frames; expected one that is"
            )


def time_in_seconds(item: av.VideoFrame | Repeat | av.Packet) -> Fraction:
    ticks = item.dts if item.pts is None else item.pts
    return Fraction(0) if ticks is None else seconds(ticks, item.time_base)


def _moved(item: Item, by: Fraction) -> Item:
    """An item, so many seconds earlier."""
    ticks = round(by / seconds(1, item.time_base))
    if isinstance(item, Repeat):
        return item._replace(
            pts=None if item.pts is None else item.pts - ticks,
            dts=None if item.dts is None else item.dts - ticks,
        )
    if item.pts is not None:
        item.pts -= ticks
    if item.dts is not None:
        item.dts -= ticks
    return item
