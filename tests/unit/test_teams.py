"""Jobs of the two teams: their order, and what becomes of one that fails."""

from threading import Barrier, Event

import pytest

from vsneuralstyle.core import teams

THREADS = 2
pytestmark = pytest.mark.skipif(
    not teams.possible(THREADS),
    reason="this PyTorch has no OpenMP runtime whose threads can be divided",
)


def test_jobs_that_are_waited_for_come_first_and_each_kind_in_its_order():
    one, other, order, both = Event(), Event(), [], Barrier(3)

    def hold(event: Event) -> bool:
        both.wait(60)
        return event.wait(60)

    busy = [teams.submit(THREADS, hold, event) for event in (one, other)]
    try:
        both.wait(60)
        jobs = [teams.submit(THREADS, order.append, name, first=name in "cd") for name in "acbd"]
        one.set()  # the other team stays where it is, so that their order is that of one
        for job in jobs:
            job.result(60)
    finally:
        one.set()
        other.set()
    assert order == ["c", "d", "a", "b"]
    assert all(job.result(60) for job in busy)


def test_a_job_that_fails_tells_who_waits_for_it_and_the_next_one_is_done():
    with pytest.raises(ZeroDivisionError):
        teams.submit(THREADS, divmod, 1, 0).result(60)
    assert teams.submit(THREADS, divmod, 7, 2).result(60) == (3, 1)
