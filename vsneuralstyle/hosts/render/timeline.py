"""Timestamps as a player counts them: from the start of the file on, without jumps."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Stream

if TYPE_CHECKING:
    from av import AVRational  # PyAV has it from 18.1 on; before that its times are Fractions
    from av.container.core import Chapter

Rational: TypeAlias = "AVRational | Fraction"

# Seconds from which on a clock that may jump has jumped; FFmpeg's (-dts_delta_threshold).
JUMP_AHEAD, JUMP_BACK = 10, Fraction(1, 10)
STEP = Fraction(1, 1000)  # seconds: Matroska's tick, the longest of those in use


def seconds(ticks: int, time_base: Rational) -> Fraction:
    return ticks * Fraction(time_base.numerator, time_base.denominator)


def may_jump(reader: InputContainer) -> bool:
    """Whether timestamps are a sender's clock: a transport stream's jumps where two were joined."""
    return Flags.ts_discont in Flags(reader.format.flags)


class Timeline:
    """Moves the packets of a file's streams, all together, to where a player shows them.

    A clock that may jump (`may_jump`) starts anywhere: its start becomes 0. Where it jumps, more
    than 10 s ahead or 0.1 s back, another segment begins at the end of what came before. Within a
    segment streams keep their distances.

    Other containers count from 0. Their times stay, but a start over 10 s away from 0 becomes 0.
    """

    def __init__(self, reader: InputContainer, streams: Iterable[Stream]) -> None:
        """streams: those in use."""
        self._jumps = may_jump(reader)
        starts = {
            stream.index: seconds(stream.start_time, stream.time_base)
            for stream in streams
            if is_timed(stream) and stream.start_time is not None
        }
        start = min(starts.values(), default=Fraction(0))
        self._delays = {index: at - start for index, at in starts.items()}
        # In seconds: what becomes 0.
        self.start = start if self._jumps or abs(start) > JUMP_AHEAD else Fraction(0)
        # What is added in the segment before, which streams leave one by one, and in this one.
        self._offsets = [-self.start] * 2
        self._offset: dict[int, Fraction] = {}  # of each stream
        self._next: dict[int, Fraction] = {}  # where each stream goes on, in decoding time
        self._end = Fraction(0)  # until when all that came so far is shown
        self._copied: dict[int, int] = {}  # each stream's last timestamp

    def chapters(self, chapters: "list[Chapter]") -> "list[Chapter]":
        """Those of the file, moved to their places."""
        return [self._moved(chapter) for chapter in chapters]

    def _moved(self, chapter: "Chapter") -> "Chapter":
        shift = round(self.start / seconds(1, chapter["time_base"]))
        return {**chapter, "start": chapter["start"] - shift, "end": chapter["end"] - shift}

    def place(self, packet: av.Packet) -> None:
        """Sets the packet's timestamps to its place."""
        ticks = packet.pts if packet.dts is None else packet.dts
        if ticks is None:
            return
        tick = seconds(1, packet.time_base)
        offset = self._offset_at(packet, ticks * tick) if self._jumps else -self.start
        shift = round(offset / tick)
        shown = (ticks if packet.pts is None else packet.pts) + shift
        _shift(packet, shift)
        if is_timed(packet.stream):
            length = (packet.duration or 0) * tick
            self._next[packet.stream.index] = ticks * tick + offset + length
            self._end = max(self._end, shown * tick + length)

    def rise(self, packet: av.Packet) -> None:
        """Moves a placed packet of audio that isn't after the one before, as containers demand."""
        if packet.stream.type != "audio" or packet.dts is None:
            return
        last = self._copied.get(packet.stream.index)
        if last is not None and packet.dts <= last:
            _shift(packet, last + math.ceil(STEP / seconds(1, packet.time_base)) - packet.dts)
        self._copied[packet.stream.index] = packet.dts

    def _offset_at(self, packet: av.Packet, at: Fraction) -> Fraction:
        """What is to be added to the packet's time `at`; begins a segment where that has jumped."""
        index, timed = packet.stream.index, is_timed(packet.stream)
        # Subtitles come rarely: how far the file is, only sound and pictures tell.
        expected = self._next.get(index, self._end) if timed else self._end
        offset = min(self._offsets, key=lambda offset: abs(at + offset - expected))
        if not timed:
            return offset
        ahead = at + offset - expected
        if not (-JUMP_BACK if index in self._next else -JUMP_AHEAD) <= ahead <= JUMP_AHEAD:
            # Pictures are shown later than decoded: those before are still to be shown. What is
            # joined is mostly alike: streams begin as far from each other as at the file's start.
            shown = at if packet.pts is None else seconds(packet.pts, packet.time_base)
            offset = self._end + self._delays.get(index, 0) - shown
            self._offsets = [self._offsets[-1], offset]
        elif offset == self._offsets[-1] != self._offset.get(index, offset) and ahead < 0:
            # It begins sooner than the stream that opened the segment, and would overlap itself.
            offset -= ahead
            self._offsets[-1] = offset
        self._offset[index] = offset
        return offset


def is_timed(stream: Stream) -> bool:
    return stream.type in ("video", "audio")


def _shift(packet: av.Packet, ticks: int) -> None:
    if packet.dts is not None:
        packet.dts += ticks
    if packet.pts is not None:
        packet.pts += ticks
