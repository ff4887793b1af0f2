"""Two jobs at a time on a CPU, each by half of the threads.

All threads together at one job wait at the end of each operator for the slowest of them, and all but one while Python, or a
host, gets at the next. Two jobs, of two frames, fill each other's gaps; each by itself takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from vsneuralstyle.cpu import computing_by, openmp

TEAMS = 2
AHEAD = 3
"""Frames that are begun before one is waited for: with one fewer a team has nothing to do at times, more gain nothing."""


@cache
def _teams() -> ThreadPoolExecutor:
    """Those of the process: any more would fight over the cores."""
    return ThreadPoolExecutor(TEAMS, thread_name_prefix="vsneuralstyle team")


def possible(threads: int) -> bool:
    """Whether so many threads can be divided into teams."""
    return threads >= TEAMS and openmp() is not None


def submit(threads: int, function: Callable, *arguments: object) -> Future:
    """Has one of the teams do a job, when it has done those before it. A job must not wait for one that comes after it.

    Args:
        threads: of all teams together.
        function, arguments: the job.
    """
    return _teams().submit(_work, threads // TEAMS, function, arguments)


def _work(threads: int, function: Callable, arguments: tuple) -> object:
    with computing_by(threads):
        return function(*arguments)
