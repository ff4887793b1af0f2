"""Settings that change over time: strength, coherence and preserve_color at given times."""

import itertools
import json
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vsneuralstyle.arguments import check_range
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.hosts.render.ranges import parse_time
from vsneuralstyle.hosts.render.timeline import Rational

NUMBERS = ("strength", "coherence")
SETTINGS = (*NUMBERS, "preserve_color")
RAMPS = ("hold", "linear")


@dataclass(frozen=True)
class Keyframe:
    """What holds from a time on.

    Attributes:
        at: seconds from the clip's first frame on, or the number of a frame.
        values: of `SETTINGS`; those that aren't named go on.
        ramp: "hold": they jump there; "linear": numbers come from the keyframe before in a straight
            line.
    """

    at: Fraction | int
    values: Mapping[str, float | bool]
    ramp: str = "hold"


class Keyframes:
    """Keyframes in the order of their times.

    Raises:
        ArgumentError: one isn't after the one before, or times and frames' numbers are mixed.
    """

    def __init__(self, keyframes: Iterable[Keyframe]) -> None:
        self._keyframes = list(keyframes)
        for before, after in itertools.pairwise(self._keyframes):
            if type(before.at) is not type(after.at):
                raise ArgumentError(
                    f"keyframes at {before.at} and {after.at}: a time and a frame's number; "
                    "expected one kind"
                )
            if after.at <= before.at:
                raise ArgumentError(
                    f"the keyframe at {after.at} comes after the one at {before.at}; expected "
                    "rising times"
                )

    def apply(self, stylizer: Stylizer, number: int, at: Fraction) -> None:
        """Sets what holds for a frame. Before the first keyframe the stylizer stays as it is.

        number, at: the frame's, from the clip's first on; seconds.
        """
        for name, value in self.values(number, at).items():
            setattr(stylizer, name, value)

    def values(self, number: int, at: Fraction) -> dict[str, float | bool]:
        """What holds for a frame: of each setting that a keyframe has named, the value."""
        numbered = bool(self._keyframes) and isinstance(self._keyframes[0].at, int)
        when: Fraction | int = number if numbered else at
        passed = bisect_right(self._keyframes, when, key=lambda one: one.at)
        held: dict[str, float | bool] = {}
        for keyframe in self._keyframes[:passed]:
            held |= keyframe.values
        if 0 < passed < len(self._keyframes):
            following = self._keyframes[passed]
            if following.ramp == "linear":
                start = self._keyframes[passed - 1].at
                share = float(Fraction(when - start) / Fraction(following.at - start))
                for name in set(NUMBERS) & set(held) & set(following.values):
                    held[name] += (following.values[name] - held[name]) * share
        return held


def read_keyframes(path: Path, rate: "Rational | None") -> Keyframes:
    """Keyframes of a file: in TOML, tables [[keyframe]]; in JSON, a list of objects.

    Each has `at`, as `ranges.parse_time` takes it, any of `SETTINGS`, and may have `ramp`.

    Args:
        path: .toml or .json.
        rate: frames a second, for timecodes.

    Raises:
        ArgumentError: a file that can't be read, an unknown name, a value out of its range, or
            times that don't rise.
    """
    try:
        text = path.read_text(encoding="utf-8")
        is_json = path.suffix.lower() == ".json"
        found = json.loads(text) if is_json else tomllib.loads(text).get("keyframe")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"keyframes: can't read {path}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ArgumentError(
            f"keyframes: {path} has none; expected tables [[keyframe]] (TOML), or a list of "
            "objects (JSON)"
        )
    return Keyframes(_keyframe(one, path, rate) for one in found)


def _keyframe(table: dict[str, Any], path: Path, rate: "Rational | None") -> Keyframe:
    given = dict(table)
    at, ramp = given.pop("at", None), given.pop("ramp", "hold")
    if at is None:
        raise ArgumentError(f"{path}: the keyframe {table} has no time; expected `at`")
    if ramp not in RAMPS:
        raise ArgumentError(f"{path}: ramp is {ramp!r}; expected one of {', '.join(RAMPS)}")
    for name, value in given.items():
        if name not in SETTINGS:
            raise ArgumentError(
                f"{path}: {name!r} can't have keyframes; expected one of {', '.join(SETTINGS)}"
            )
        check_range(name, value)
    values = {name: bool(value) if name not in NUMBERS else value for name, value in given.items()}
    return Keyframe(parse_time(f"{path}: at", str(at), rate), values, ramp)
