"""What changes with the frames of a clip: settings, and where scenes start."""

from collections import deque
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from vsneuralstyle.core.pipeline import MAX_IN_FLIGHT, PendingFrame
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.hosts.render.cuts import Cuts, read_cuts, write_cuts
from vsneuralstyle.hosts.render.keyframes import Keyframes, read_keyframes
from vsneuralstyle.hosts.render.ranges import time_in_seconds
from vsneuralstyle.hosts.render.source import Item
from vsneuralstyle.hosts.render.timeline import Rational


class OverTime:
    """What changes with the frames of a clip: settings, and where scenes start.

    Frames are watched as they come, before each is submitted.
    """

    def __init__(
        self, keyframes: Keyframes | None, cuts: Cuts | None, written: Path | None
    ) -> None:
        self._keyframes, self._cuts, self._written = keyframes, cuts, written
        self._number, self._at = -1, Fraction(0)
        self._origin: Fraction | None = None
        self._starts: list[tuple[int, Fraction]] = []
        self._in_flight: deque[tuple[int, Fraction, PendingFrame]] = deque()

    @classmethod
    def of(
        cls,
        keyframes: str | Path | None,
        cuts: str | Path | None,
        written: str | Path | None,
        rate: "Rational | None",
    ) -> "OverTime":
        """Of files; see `render`."""
        return cls(
            None if keyframes is None else read_keyframes(Path(keyframes), rate),
            None if cuts is None else read_cuts(Path(cuts), rate),
            None if written is None else Path(written),
        )

    def watch(self, item: Item) -> Item:
        """Counts a frame of the clip, shown or not."""
        if not isinstance(item, av.Packet):
            at = time_in_seconds(item)
            self._origin = at if self._origin is None else self._origin
            self._number, self._at = self._number + 1, at - self._origin
        return item

    def hint(self, number: int, at: Fraction) -> bool | None:
        """Whether a frame starts a scene; None: the detector decides."""
        return None if self._cuts is None else self._cuts.starts_scene(number, at)

    def submit(self, stylizer: Stylizer, rgb: Tensor) -> PendingFrame:
        """The frame that came last, with what holds for it."""
        if self._keyframes is not None:
            self._keyframes.apply(stylizer, self._number, self._at)
        pending = stylizer.submit(rgb, self.hint(self._number, self._at))
        if self._written is not None:
            self._in_flight.append((self._number, self._at, pending))
            self._note_starts(MAX_IN_FLIGHT)
        return pending

    def _note_starts(self, left: int) -> None:
        """Of all frames but the last so many: their results are dropped as soon as may be."""
        while len(self._in_flight) > left:
            number, at, pending = self._in_flight.popleft()
            if pending.starts_scene:
                self._starts.append((number, at))

    def finish(self) -> None:
        """Writes where scenes started."""
        if self._written is not None:
            self._note_starts(0)
            write_cuts(self._written, self._starts)
