"""Where scenes start, from an edit and for one."""

import csv
from collections.abc import Container
from fractions import Fraction
from pathlib import Path

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.hosts.render.ranges import parse_time
from vsneuralstyle.hosts.render.sequences import DEFAULT_RATE
from vsneuralstyle.hosts.render.timeline import Rational

COLUMNS = ("frame", "time")


class Cuts:
    """The first frames of scenes, by number or by time.

    They outweigh the detector: scenes start there and nowhere else.
    """

    def __init__(self, numbers: Container[int], times: list[Fraction], half: Fraction) -> None:
        """half: of a frame's duration in seconds, by which a time may miss its frame."""
        self._numbers, self._times, self._half = numbers, times, half

    def starts_scene(self, number: int, at: Fraction) -> bool:
        """Whether a frame starts a scene. number, at: from the first frame on; seconds."""
        return number in self._numbers or any(abs(at - time) < self._half for time in self._times)


def read_cuts(path: Path, rate: "Rational | None") -> Cuts:
    """Cuts of a .csv with a column `frame` (numbers from 0) or `time` (as `ranges.parse_time` takes
    it), or of what opentimelineio reads, such as .edl and .otio: the ends of the first track's
    clips.

    Raises:
        ArgumentError: a file that can't be read, or has neither column.
    """
    half = Fraction(rate.denominator, rate.numerator) / 2 if rate else Fraction(1, 2 * DEFAULT_RATE)
    if path.suffix.lower() != ".csv":
        return Cuts((), _of_timeline(path), half)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"cuts: can't read {path}: {error}") from error
    if not rows or not set(COLUMNS) & set(rows[0]):
        raise ArgumentError(f"cuts: {path} has no column frame or time; expected one of them")
    if "frame" in rows[0]:
        if bad := next((row["frame"] for row in rows if not row["frame"].isdecimal()), None):
            raise ArgumentError(f"cuts: {path}: frame is {bad!r}; expected a number from 0 on")
        return Cuts({int(row["frame"]) for row in rows}, [], half)
    times = [parse_time(f"{path}: time", row["time"], rate) for row in rows]
    seconds = [Fraction(time) * 2 * half if isinstance(time, int) else time for time in times]
    return Cuts((), seconds, half)


def _of_timeline(path: Path) -> list[Fraction]:
    try:
        import opentimelineio as otio
    except ModuleNotFoundError:
        raise ArgumentError(
            f"cuts: {path} needs opentimelineio, which is not installed: pip install "
            "opentimelineio, or give a .csv"
        ) from None
    try:
        timeline = otio.adapters.read_from_file(str(path))
        (track, *_) = timeline.video_tracks()
        starts = [
            track.trimmed_range_of_child(child).start_time.to_seconds()
            for child in track
            if isinstance(child, otio.schema.Clip)
        ]
    except (otio.exceptions.OTIOError, OSError, ValueError) as error:
        raise ArgumentError(f"cuts: can't read {path}: {error}") from error
    return [Fraction(start).limit_denominator(10**6) for start in starts]


def write_cuts(path: Path, found: list[tuple[int, Fraction]]) -> None:
    """Writes a .csv of the first frames of scenes: their numbers and times in seconds.

    Raises:
        ArgumentError: it can't be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((number, f"{float(at):.6f}") for number, at in found)
    except OSError as error:
        raise ArgumentError(f"write-cuts: can't write {path}: {error.strerror}") from error
