"""What the system says of the processor, how its memory is used, and by how many threads it computes."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

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


@cache
def keep_memory() -> None:
    """Has the C library keep what is freed, for this process, rather than give it back to the system.

    A frame's tensors are freed and allocated anew with each frame, and pages from the system are filled with zeros first: a
    tenth of a frame's time (docs/performance.md). Nothing where the library isn't glibc, or where the user's own settings of it are
    in the environment.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, 1 << 30)
    mallopt(_TOP_PAD, 1 << 26)  # threads other than the first one: they would give back whole heaps, of this size


@cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that PyTorch computes with, where it has GNU's names; None: not to be found."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", maps)):
        try:
            runtime = ctypes.CDLL(path)
            runtime.GOMP_parallel, runtime.omp_get_thread_num, runtime.omp_set_num_threads  # noqa: B018 (whether it has them)
        except (OSError, AttributeError):
            continue
        return runtime
    return None


@contextmanager
def computing_by(threads: int) -> Iterator[None]:
    """Has the calling thread compute by so many threads, itself among them, and leaves all others as they are.

    PyTorch's own `set_num_threads` is for threads that are yet to come, too. Nothing where there is no `openmp`.
    """
    before = torch.get_num_threads()  # of a new thread: PyTorch sets its own number now, and not later
    if openmp() is None or before == threads:
        yield
        return
    openmp().omp_set_num_threads(threads)
    try:
        yield
    finally:
        openmp().omp_set_num_threads(before)
