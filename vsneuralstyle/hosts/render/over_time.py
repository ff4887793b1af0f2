"""What changes with the frames of a clip: settings, and where scenes start."""

from collections import deque
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from vsneuralstyle.core.pipeline import MAX_IN_FLIGHT, PendingFrame
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.hosts.render.cuts import Cuts, read_cuts, write_cuts
from vsneuralstyle.hosts.render.keyframes import Keyframes, read_keyframes
from vsneuralstyle.hosts.render.ranges import FrameClock
from vsneuralstyle.hosts.render.timeline import Rational


class OverTime:
    """What changes with the frames of a clip: settings, and where scenes start.

    Attributes:
        clock: counts the clip's frames, shown or not, each before it is submitted.
    """

    def __init__(
        self, keyframes: Keyframes | None, cuts: Cuts | None, written: Path | None
    ) -> None:
        self._keyframes, self._cuts, self._written = keyframes, cuts, written
        self.clock = FrameClock()
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

    def hint(self, number: int, at: Fraction) -> bool | None:
        """Whether a frame starts a scene; None: the detector decides."""
        return None if self._cuts is None else self._cuts.starts_scene(number, at)

    def submit(self, stylizer: Stylizer, rgb: Tensor) -> PendingFrame:
        """The frame that came last, with what holds for it."""
        number, at = self.clock.number, self.clock.at
        if self._keyframes is not None:
            self._keyframes.apply(stylizer, number, at)
        pending = stylizer.submit(rgb, self.hint(number, at))
        if self._written is not None:
            self._in_flight.append((number, at, pending))
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
