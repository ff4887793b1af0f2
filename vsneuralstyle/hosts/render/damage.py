"""What is damaged in a file that is read, and what becomes of it."""

import heapq
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.hosts.render.timeline import Rational

log = logging.getLogger("vsneuralstyle.hosts.render")

ON_ERROR = ("stop", "skip", "repeat")
ADVICE = "repair the file, cut it before that, or go on (--on-error repeat)"
REPLACED, LEFT_OUT = "frames replaced by the one before", "frames left out"
PACKETS = "packets left out"
MOST_KEPT = 600  # packets since a key frame, in memory


class Repeat(NamedTuple):
    """Stands for a damaged frame, at whose time the one before is shown again."""

    pts: int | None
    dts: int | None
    duration: int | None
    time_base: Rational


class Damage:
    """What a file's damage leads to.

    With on_error "stop" an error, else a warning where it begins and a summary at the file's end.
    """

    def __init__(self, source: Path, on_error: str, quiet: bool = False) -> None:
        """quiet: nothing is said of it: another one does."""
        if on_error not in ON_ERROR:
            raise ArgumentError(
                f"on_error={on_error!r} is unknown; expected one of {', '.join(ON_ERROR)}"
            )
        self.source = source
        self.repeats = on_error == "repeat"
        self._stops = on_error == "stop"
        self._log = log.getChild("unheard") if quiet else log
        self._log.disabled = quiet
        self._counts = {REPLACED: 0, LEFT_OUT: 0, PACKETS: 0}
        self._last = ""  # when the last of it was

    def frame(self, at: str, why: str, repeated: bool) -> None:
        """A frame, replaced by the one before it or left out."""
        self._note("the frame", at, why, REPLACED if repeated else LEFT_OUT)

    def packet(self, kind: str, at: str, why: str) -> None:
        """A packet of a stream that is copied, left out."""
        self._note(f"the {kind} packet", at, why, PACKETS)

    def cut_off(self, what: str) -> None:
        """The file ends early."""
        self._stop(what)
        self._log.warning("%s: %s; what there is has been rendered", self.source, what)

    def sum_up(self) -> None:
        counted = [f"{what}: {count}" for what, count in self._counts.items() if count]
        if counted:
            self._log.warning(
                "%s: damaged in all: %s; the last at %s",
                self.source,
                ", ".join(counted),
                self._last,
            )

    def _note(self, what: str, at: str, why: str, outcome: str) -> None:
        self._stop(f"{what} at {at} is damaged: {why}")
        if not any(self._counts.values()):
            self._log.warning(
                "%s: %s at %s is damaged: %s; going on, and counting", self.source, what, at, why
            )
        self._counts[outcome] += 1
        self._last = at

    def _stop(self, what: str) -> None:
        if self._stops:
            raise MediaError(f"{self.source}: {what}; {ADVICE}")


class Frames:
    """Decodes the video's packets.

    A frame is damaged if its decoder refuses its packet, or flags the frame as corrupt. A packet's
    own flag says less: a gap in a transport stream's counters sets it for whole packets, too.
    """

    def __init__(self, video: VideoStream, damage: Damage) -> None:
        self._video, self._damage = video, damage
        # A heap of (pts, duration): what the decoder has been given and has not given back.
        self._awaited: list[tuple[int, int]] = []
        self._why = ""  # why it refused a packet, until all is well again
        self._until = 0  # the last pts that it may have had: several are decoded at a time
        self._begun = False  # whether there is a frame to repeat
        self._kept: list[av.Packet] = []  # from the last key frame on that was given back

    def decode(self, packet: av.Packet) -> Iterator[av.VideoFrame | Repeat]:
        """The frames that this packet completes; an empty one asks for those that remain."""
        if packet.size and packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._awaited, (packet.pts, packet.duration or 0))
        decoded = self._given(packet, self._video.codec_context)
        if decoded is None and not self._awaited:
            # Without timestamps its place is between what came and what is to come.
            yield from self._damaged(packet, self._why)
        for frame in decoded or ():
            yield from self._judged(frame)
        if packet.size:
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept.append(packet)
            return
        for frame in self._given_again(packet):
            yield from self._judged(frame)
        yield from self._passed(None)

    def _given(
        self, packet: av.Packet, decoder: av.VideoCodecContext
    ) -> list[av.VideoFrame] | None:
        """What the decoder gives; None: it refuses a packet."""
        try:
            return decoder.decode(packet)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError as error:
            self._why = f"its decoder refuses it ({error.strerror})"
            self._until = max(self._awaited, default=(0,))[0]
            return None

    def _given_again(self, last: av.Packet) -> list[av.VideoFrame]:
        """The frames that are still awaited at the end, decoded one at a time from a key frame on.

        Those that other threads have under way behind a refused one, PyAV drops at the end.
        """
        if not self._awaited or not self._kept or not self._kept[0].is_keyframe:
            return []
        decoder = av.CodecContext.create(self._video.codec_context.name, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata, decoder.thread_type = self._video.codec_context.extradata, "NONE"
        awaited = {pts for pts, _ in self._awaited}
        return [
            frame
            for packet in (*self._kept, last)
            for frame in self._given(packet, decoder) or ()
            if frame.pts in awaited
        ]

    def _judged(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame | Repeat]:
        if frame.pts is not None:
            yield from self._passed(frame.pts)
        if frame.is_corrupt:
            yield from self._damaged(frame, "its decoder flags it as corrupt")
            return
        if frame.key_frame and frame.pts is not None:
            if frame.pts > self._until:
                self._why = ""
            stamps = [packet.pts for packet in self._kept]
            if frame.pts in stamps:
                del self._kept[: stamps.index(frame.pts)]
        self._begun = True
        yield frame

    def _passed(self, pts: int | None) -> Iterator[Repeat]:
        """What stands for the frames that should have come before pts (None: the end).

        Without a refusal none is missing: some packets hold no frame of their own. After one, up
        to the next key frame, those that refer to it may be missing as well.
        """
        while self._awaited and (pts is None or self._awaited[0][0] <= pts):
            at, duration = heapq.heappop(self._awaited)
            if self._why and at != pts:
                missing = Repeat(at, None, duration, self._video.time_base)
                yield from self._damaged(missing, self._why)

    def _damaged(self, item: av.VideoFrame | av.Packet | Repeat, why: str) -> Iterator[Repeat]:
        repeated = self._damage.repeats and self._begun
        self._damage.frame(time_of(item), why, repeated)
        if repeated:
            yield Repeat(item.pts, item.dts, item.duration, item.time_base)


def time_of(item: av.VideoFrame | av.Packet | Repeat) -> str:
    ticks = item.dts if item.pts is None else item.pts
    return "an unknown time" if ticks is None else f"{float(ticks * item.time_base):.3f} s"
