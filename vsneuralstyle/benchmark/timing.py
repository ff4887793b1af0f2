"""Calls that take turns, and the seconds that they take."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each call of one kind; at least two."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return lower, upper

    def row(self, base: "Timing") -> dict:
        """As a report has it: seconds, and the ratio of this median to that of `base`."""
        lower, upper = self.quartiles
        return {
            "name": self.name,
            "median": self.median,
            "lower": lower,
            "upper": upper,
            "count": len(self.seconds),
            "ratio": self.median / base.median,
        }


def synchronise(device: torch.device) -> None:
    """Waits until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int, device: torch.device
) -> list[Timing]:
    """Times each call once a round, one after the other: what slows the machine down for a while
    slows all alike.

    Args:
        calls: by name.
        rounds: how many are timed, at least 2.
        warm_up: how many go before them, untimed.
        device: on which the calls compute; it is waited for before and after each of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            synchronise(device)
            started = time.perf_counter()
            call()
            synchronise(device)
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return [Timing(name, tuple(times)) for name, times in seconds.items()]
