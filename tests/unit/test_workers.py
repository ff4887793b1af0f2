"""`Workers`: the order of jobs, those that fail, and an interpreter that ends while jobs are under
way.
"""

import subprocess
import sys
from threading import Event

import pytest

from vsneuralstyle.workers import Workers

PATIENCE = 60  # seconds: a time limit on processes, no measure of their speed


@pytest.fixture
def worker():
    with Workers(1, "test") as workers:
        yield workers


@pytest.fixture
def python():
    """Runs a script, which gets `Workers`, in a Python of its own: its exit code and what it
    printed.
    """

    def run(script: str) -> tuple[int, str, str]:
        script = "import time\nfrom vsneuralstyle.workers import Workers\n" + script
        done = subprocess.run(
            [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=PATIENCE
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_job_begins_after_those_that_it_needs_and_before_those_that_are_not_first(worker):
    go, order = Event(), []
    held = worker.submit(go.wait, PATIENCE)
    needed = worker.submit(order.append, "needed")
    jobs = [
        worker.submit(order.append, "last"),
        worker.submit(order.append, "follows", first=True, after=[needed, held]),
        worker.submit(order.append, "first", first=True),
    ]
    go.set()
    for job in jobs:
        job.result(PATIENCE)
    assert order == ["first", "needed", "follows", "last"]


def test_a_job_follows_one_that_fails_one_that_is_cancelled_and_one_that_is_done(worker):
    go = Event()
    worker.submit(go.wait, PATIENCE)
    failed, cancelled = worker.submit(divmod, 1, 0), worker.submit(divmod, 1, 1)
    following = worker.submit(divmod, 7, 2, after=[failed, cancelled])
    assert cancelled.cancel() and cancelled.cancel()
    go.set()
    assert following.result(PATIENCE) == (3, 1)
    assert worker.submit(divmod, 7, 2, after=[failed]).result(PATIENCE) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        failed.result(PATIENCE)


def test_a_job_that_is_done_keeps_nothing_but_its_result(worker):
    import gc
    import weakref

    class Frame:
        pass

    def fail(frame):
        raise ValueError

    frame = Frame()
    kept = weakref.ref(frame)
    jobs = [worker.submit(id, frame), worker.submit(fail, frame)]
    jobs[0].result(PATIENCE)
    assert isinstance(jobs[1].exception(PATIENCE), ValueError)
    jobs.pop()
    worker.submit(int).result(PATIENCE)  # the thread has let go of the one before
    del frame
    gc.collect()
    assert kept() is None


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "ending, expected", [("pass", 0), ("raise SystemExit(3)", 3), ("raise ValueError", 1)]
)
def test_the_interpreter_ends_while_jobs_wait_run_and_submit_others(python, ending, expected):
    code, output, error = python(f"""
workers = Workers(2, "test")
def chain():
    time.sleep(0.02)
    return workers.submit(chain).result()
jobs = [workers.submit(chain) for _ in range(9)]
jobs.append(workers.submit(print, "too late", after=jobs))
time.sleep(0.05)
{ending}
""")
    assert (code, output) == (expected, "")
    assert error.count("Traceback") == ("ValueError" in ending)


@pytest.mark.subprocess
def test_the_interpreter_ends_beside_a_job_that_does_not(python):
    assert python("Workers(1, 'test').submit(time.sleep, 1000); time.sleep(0.05)") == (0, "", "")


@pytest.mark.subprocess
def test_who_waits_or_submits_at_the_end_is_told(python):
    """The script's own function is registered first, so that it is called last."""
    code, output, error = python("""
import atexit, importlib, sys, threading
del sys.modules["vsneuralstyle.workers"]
told = []
def submit_and_wait(workers):
    try:
        workers.submit(int).result()
    except Exception as error:
        told.append(type(error).__name__)
@atexit.register
def say():
    waiting.join(10)
    submit_and_wait(workers)
    print(told)
workers = importlib.import_module("vsneuralstyle.workers").Workers(1, "test")
workers.submit(time.sleep, 0.2)
waiting = threading.Thread(target=submit_and_wait, args=[workers], daemon=True)
waiting.start()
time.sleep(0.05)
""")
    assert (code, output, error) == (0, "['ProcessError', 'ProcessError']\n", "")


@pytest.mark.subprocess
def test_a_first_job_that_comes_when_the_interpreter_has_begun_to_end(python):
    """From Python 3.12 on no thread can be started then; before, the job is done or cancelled."""
    code, output, error = python("""
import threading
workers = Workers(1, "test")
def submit():
    threading.main_thread().join()
    time.sleep(0.05)
    try:
        print(workers.submit(int).result())
    except Exception as error:
        print(type(error).__name__)
threading.Thread(target=submit).start()
""")
    assert (code, error) == (0, "")
    assert output in ("ProcessError\n", "0\n")
    assert output == "ProcessError\n" or sys.version_info < (3, 12)


@pytest.mark.subprocess
def test_exceptions_of_signals_at_any_moment_leave_the_workers_at_work(python):
    assert python("""
import random, signal
workers = Workers(2, "test")
chance = random.Random(0)
interrupted = 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(2000):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 2e-4))
            jobs = [workers.submit(int)]
            jobs.append(workers.submit(int, after=jobs))
            for _ in range(20):
                jobs[-1].result()
                workers.submit(int).result()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
assert interrupted > 100, interrupted
print([workers.submit(divmod, 7, 2).result(20) for _ in range(2)])
""")[:2] == (0, "[(3, 1), (3, 1)]\n")


@pytest.mark.subprocess
def test_a_fork_is_told_what_to_do(python):
    code, output, _ = python("""
import os
workers = Workers(1, "test")
workers.submit(int).result()
if child := os.fork():
    os.waitpid(child, 0)
else:
    try:
        workers.submit(int)
    except Exception as error:
        print(type(error).__name__, "spawn" in str(error))
""")
    assert (code, output) == (0, "ProcessError True\n")
