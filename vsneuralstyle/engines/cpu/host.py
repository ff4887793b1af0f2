"""What the system says of the processor, how its memory is used, and by how many threads it
computes.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

import torch

from vsneuralstyle.errors import ProcessError
from vsneuralstyle.workers import FORKED

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's `mallopt`."""


@cache
def cpuinfo() -> dict[str, str]:
    """The fields of /proc/cpuinfo, of the first processor; none on a system other than Linux."""
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields


def units() -> set[str]:
    """An x86 processor's flags, "avx2" for example."""
    return set(cpuinfo().get("flags", "").split())


def keep_memory() -> None:
    """Has the C library keep what is freed, for this process, rather than give it back to the
    system, until `give_memory_back` was called as often.

    A frame's tensors are freed and allocated anew with each frame, and pages from the system are
    filled with zeros first: a tenth of a frame's time (docs/explanation/cpu-kernels.md). Nothing
    where the library isn't glibc, or where the environment has the user's own settings of it.
    """
    global _keepers
    with _memory:
        _keepers += 1
        if _keepers == 1:
            _set_malloc(mmap_threshold=1 << 30, trim_threshold=1 << 30, top_pad=1 << 26)


def give_memory_back() -> None:
    """Ends what `keep_memory` began: what is free goes back to the system, and the C library does
    with what is freed as it does in a process that has once freed a large block.
    """
    global _keepers
    with _memory:
        _keepers -= 1
        if _keepers == 0 and _set_malloc(
            mmap_threshold=1 << 25, trim_threshold=1 << 26, top_pad=1 << 17
        ):
            _libc().malloc_trim(0)


_keepers = 0
_memory = Lock()


def _set_malloc(mmap_threshold: int, trim_threshold: int, top_pad: int) -> bool:
    """Sets glibc's malloc; whether it may. All sizes are in bytes.

    top_pad is what threads other than the first one allocate at a time, and give back.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    if not hasattr(_libc(), "mallopt"):
        return False
    _libc().mallopt(_MMAP_THRESHOLD, mmap_threshold)
    _libc().mallopt(_TRIM_THRESHOLD, trim_threshold)
    _libc().mallopt(_TOP_PAD, top_pad)
    return True


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def check_fork() -> None:
    """Notes that this process computes.

    Raises:
        ProcessError: it computes by several threads and is a fork of a process that has computed:
            OpenMP would wait for threads that are not there.
    """
    global _computing
    process = os.getpid()
    if _computing != process:
        if _computing is not None and torch.get_num_threads() > 1:
            raise ProcessError(FORKED)
        _computing = process


_computing: int | None = None


@cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that PyTorch computes with, where it has GNU's names; None: not to be
    found.
    """
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", maps)):
        try:
            runtime = ctypes.CDLL(path)
            for name in ("GOMP_parallel", "omp_get_thread_num", "omp_set_num_threads"):
                getattr(runtime, name)
        except (OSError, AttributeError):
            continue
        return runtime
    return None


@contextmanager
def computing_by(threads: int) -> Iterator[None]:
    """Has the calling thread compute by so many threads, itself among them, and leaves all others
    as they are.

    PyTorch's own `set_num_threads` is for threads that are yet to come, too. Nothing where there is
    no `openmp`.
    """
    # of a new thread: PyTorch sets its own number now, and not later
    before = torch.get_num_threads()
    runtime = openmp()
    if runtime is None or before == threads:
        yield
        return
    runtime.omp_set_num_threads(threads)
    try:
        yield
    finally:
        runtime.omp_set_num_threads(before)
