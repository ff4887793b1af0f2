"""Two jobs at a time on a CPU, each by half of the threads.

All threads together at one job wait at the end of each operator for the slowest of them, and all
but one while Python, or a host, gets at the next. Two jobs, of two frames, fill each other's gaps;
each by itself takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vsneuralstyle.engines.cpu.host import computing_by, openmp
from vsneuralstyle.workers import Job, Workers

TEAMS = 2

_teams = Workers(TEAMS, "team")
"""Those of the process: any more would fight over the cores."""


def possible(threads: int) -> bool:
    """Whether so many threads can be divided into teams."""
    return threads >= TEAMS and openmp() is not None


def submit(
    threads: int,
    function: Callable,
    *arguments: object,
    first: bool = False,
    after: Iterable[Job] = (),
) -> Job:
    """Has one of the teams do a job, when it has done those before it. A job must not wait for one
    that comes after it.

    Args:
        threads: of all teams together.
        function, arguments: the job.
        first: it comes before those that are not: the next frame waits for it. Else a team could be
            out of work, while the other one is at it alone.
        after: the jobs that it needs to be done.

    Raises:
        ProcessError: see `Workers.submit`.
    """
    return _teams.submit(_by_team, threads // TEAMS, function, arguments, first=first, after=after)


def _by_team(threads: int, function: Callable, arguments: tuple) -> object:
    with computing_by(threads):
        return function(*arguments)
