"""Two jobs at a time on a CPU, each by half of the threads.

All threads together at one job wait at the end of each operator for the slowest of them, and all but one while Python, or a
host, gets at the next. Two jobs, of two frames, fill each other's gaps; each by itself takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import count
from queue import PriorityQueue

from vsneuralstyle.cpu import computing_by, openmp

TEAMS = 2
AHEAD = 3
"""Frames that are begun before one is waited for: with one fewer a team has nothing to do at times, more gain nothing."""

_waiting: PriorityQueue[tuple[bool, int, Callable[[], None]]] = PriorityQueue()
"""Jobs: those first that others wait for, and of each kind in the order in which they came."""
_number = count()


@cache
def _teams() -> ThreadPoolExecutor:
    """Those of the process: any more would fight over the cores."""
    return ThreadPoolExecutor(TEAMS, thread_name_prefix="vsneuralstyle team")


def possible(threads: int) -> bool:
    """Whether so many threads can be divided into teams."""
    return threads >= TEAMS and openmp() is not None


def submit(threads: int, function: Callable, *arguments: object, first: bool = False) -> Future:
    """Has one of the teams do a job, when it has done those before it. A job must not wait for one that comes after it.

    Args:
        threads: of all teams together.
        function, arguments: the job.
        first: it comes before those that are not: the next frame waits for it. Else a team could be out of work, while the other one is at
            it alone.
    """
    done = Future()
    _waiting.put((not first, next(_number), lambda: _work(done, threads // TEAMS, function, arguments)))
    _teams().submit(lambda: _waiting.get()[-1]())
    return done


def _work(done: Future, threads: int, function: Callable, arguments: tuple) -> None:
    try:
        with computing_by(threads):
            result = function(*arguments)
    except BaseException as error:  # whatever it is, who waits for the job is told
        done.set_exception(error)
        del done  # the error's traceback keeps what is here
    else:
        done.set_result(result)
