"""Threads that do jobs, and that end with the interpreter whatever is under way.

`concurrent.futures.ThreadPoolExecutor` does all that was submitted before it lets the interpreter
end, and a job that submits another then waits for ever. Here what has not begun is cancelled, and
whoever waits for it is told.
"""

import atexit
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from vsneuralstyle.errors import ProcessError

PATIENCE = 1.5
"""Seconds that the interpreter's end waits for the jobs that are under way."""

LOOK_AGAIN = 1.0
"""Seconds after which who waits for a job looks again whether it is done."""
FORKED = (
    "this process was forked from one that had used PyTorch's threads, and those do not survive "
    "a fork; start processes by multiprocessing's 'spawn' or 'forkserver', or fork earlier"
)
SHUTDOWN = "no more frames are stylized: the interpreter is shutting down"

R = TypeVar("R")

_pools: WeakSet["Workers"] = WeakSet()


class Job(Future[R]):
    """A call that a worker makes.

    Its waiting does not use the lock of `Future`: a signal's exception (KeyboardInterrupt) that
    strikes a thread in there can leave it locked, and the worker would wait for it for ever.
    """

    def __init__(
        self, workers: "Workers", function: Callable[..., R], arguments: tuple[object, ...]
    ) -> None:
        super().__init__()
        self._workers = workers
        self._function: Callable[..., R] | None = function  # None: the job is done
        self._arguments = arguments
        self._done = threading.Lock()  # free once the job is done
        self._done.acquire()
        self.dependents: list[Key] | None = []  # what waits for this one; None: it is done
        self.blockers = 0  # jobs that this one waits for

    def result(self, timeout: float | None = None) -> R:
        """As `Future` has it; and raises ProcessError where the interpreter's end cancelled it."""
        self._await(timeout)
        try:
            return super().result(0)
        except CancelledError:
            self._workers.check_open()
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._settle()
        return cancelled

    def run(self) -> None:
        """Makes the call, in the calling thread, unless the job is cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        assert self._function is not None  # what is done doesn't begin again
        try:
            result = self._function(*self._arguments)
        except BaseException as error:  # whoever waits for the job is told, whatever it is
            self.set_exception(error)
            self._settle()
            del self  # the error's traceback keeps this frame, and that would keep the job
        else:
            self.set_result(result)
            self._settle()

    def _await(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while self.dependents is not None:  # not done
            left = LOOK_AGAIN if end is None else min(LOOK_AGAIN, end - time.monotonic())
            if left < 0:
                raise TimeoutError
            # An exception between these two lines leaves the lock taken, and the job is done then.
            if self._done.acquire(timeout=left):
                self._done.release()

    def _settle(self) -> None:
        self._function, self._arguments = None, ()  # a host may keep the job for its result
        if self._workers.unblock(self):
            self._done.release()


Key = tuple[bool, int, Job[Any]]
"""A job behind what it is sorted by: whether others come first, and its number."""


class Workers:
    """So many threads, which start with the first job.

    Args:
        size: how many.
        name: of the threads.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._threads: list[threading.Thread] = []
        self._process: int | None = None  # the one that the threads are in
        self._lock = threading.Lock()  # of all below, and of jobs' dependents and blockers
        self._ready: list[Key] = []  # a heap
        self._number = count()
        self._closed = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        _pools.add(self)

    def submit(
        self,
        function: Callable[..., R],
        *arguments: object,
        first: bool = False,
        after: Iterable[Job[Any]] = (),
    ) -> Job[R]:
        """Has one of the threads make a call.

        Args:
            function, arguments: the call.
            first: it comes before those that are not. Else jobs begin in the order of submission.
            after: jobs of these workers that have to be done before, whether or not they succeed.

        Raises:
            ProcessError: the interpreter ends, or this process was forked from the threads' one.
        """
        self._check_fork()
        job = Job(self, function, arguments)
        key = not first, next(self._number), job
        with self._lock:
            self.check_open()
            self._start()
            for other in after:
                if other.dependents is not None:
                    other.dependents.append(key)
                    job.blockers += 1
            if not job.blockers:
                heapq.heappush(self._ready, key)
        self._wake.put(None)
        return job

    def unblock(self, done: Job[Any]) -> bool:
        """Lets the jobs that waited for one begin; whether it was not done before."""
        with self._lock:
            dependents, done.dependents = done.dependents, None
            ready = []
            for key in dependents or ():
                key[-1].blockers -= 1
                if not key[-1].blockers:
                    ready.append(key)
            if not self._closed:
                for key in ready:
                    heapq.heappush(self._ready, key)
        for key in ready:
            if self._closed:
                key[-1].cancel()
            self._wake.put(None)
        return dependents is not None

    def close(self) -> list[threading.Thread]:
        """Cancels all jobs that have not begun; returns the threads, which end with theirs."""
        if self._process != os.getpid():  # no thread has started, or none survived a fork
            self._closed = True
            return []
        with self._lock:
            self._closed = True
            jobs, self._ready = self._ready, []
        for *_, job in jobs:
            job.cancel()
        for _ in self._threads:
            self._wake.put(None)
        return self._threads

    def check_open(self) -> None:
        """Raises ProcessError where these workers are closed."""
        if self._closed:
            raise ProcessError(SHUTDOWN)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        _join(self.close())

    def _check_fork(self) -> None:
        if self._process not in (None, os.getpid()):  # and the lock may be held for ever here
            raise ProcessError(FORKED)

    def _start(self) -> None:
        self._process = os.getpid()
        while len(self._threads) < self._size:
            number = len(self._threads)
            # Daemons: `threading` would wait for others before `_close_all` is called.
            thread = threading.Thread(
                target=self._work, name=f"vsneuralstyle {self._name} {number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # Python >= 3.12 starts none once it shuts down
                if "shutdown" in str(error):
                    raise ProcessError(SHUTDOWN) from None
                raise
            self._threads.append(thread)

    def _work(self) -> None:
        while not self._closed:
            self._wake.get()
            while True:  # an exception in `submit` may have kept a job's wake-up call
                with self._lock:
                    if not self._ready:
                        break
                    *_, job = heapq.heappop(self._ready)
                job.run()
                del job


@atexit.register
def _close_all() -> None:
    """Lets the interpreter end. (It first waits for threads that are not daemons: they may be
    waiting for jobs.)
    """
    _join([thread for pool in list(_pools) for thread in pool.close()])


def _join(threads: list[threading.Thread]) -> None:
    """Waits for threads to end, but no longer than `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
