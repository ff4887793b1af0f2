"""The library of C kernels for this CPU, and the one way to call it.

PyTorch's own operators pass over memory some ten times for one normalisation, and took more than
half of a frame's time where convolutions are fast (docs/explanation/cpu-kernels.md). The wheel has
the library where it was built with a C compiler; without it, and on a GPU, and in training,
`vsneuralstyle.networks` computes the same.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from ctypes import c_int, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu.host import openmp, units

_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V4_BF16 = _V4 | {"avx512_bf16"}
LEVELS = {
    "v4-amx": _V4_BF16 | {"amx_tile", "amx_bf16"},
    "v4-bf16": _V4_BF16,
    "v4": _V4,
    "v3": {"avx2", "bmi2", "f16c", "fma"},
    "v2": {"sse4_2"},
}
"""Of x86-64: what /proc/cpuinfo says of a CPU that can do each, from the best down."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this CPU; None where there are none, or no workers to share the work with."""
    if _fork() is None and torch.get_num_threads() > 1:
        return None
    names = ["kernels.so"]
    if platform.machine() == "x86_64":
        names = [f"kernels-{level}.so" for level, needed in LEVELS.items() if needed <= units()]
    for file in names:
        path = Path(__file__).with_name(file)
        if path.is_file():
            found = ctypes.CDLL(str(path))
            if not found.permitted():
                continue
            if runtime := openmp():
                found.set_thread_number(runtime.omp_get_thread_num)
            return found
    return None


def name() -> str | None:
    """The library's, "kernels-v4" for example; None where there is none."""
    found = library()
    return Path(found._name).stem if found else None


@cache
def _fork() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch uses: its workers are awake.
    None: not to be found.
    """
    runtime = openmp()
    return ctypes.cast(runtime.GOMP_parallel, c_void_p).value if runtime else None


def call(kernel: str, *arguments: object, **sizes: int) -> None:
    """Calls a kernel.

    Args:
        kernel: a name of `ops.CPU`.
        arguments: as that has them.
        sizes: what is known of the tensors' sizes.

    Raises:
        ValueError: a tensor that the kernel can't take; nothing was called.
        MemoryError: the kernel got no memory.
    """
    operation = ops.CPU[kernel]
    values = operation.values(arguments, **sizes)
    function = getattr(library(), operation.c_name)
    if function.argtypes is None:
        function.argtypes = [c_void_p, c_int, *operation.c_types]
    # A profiler's mark takes as long as a small kernel.
    mark = (
        torch.autograd.profiler.record_function(f"vsneuralstyle::{kernel}")
        if torch.autograd._profiler_enabled()
        else nullcontext()
    )
    with mark:
        result = function(_fork(), torch.get_num_threads(), *values)
    if result:
        raise MemoryError(
            f"the kernel {kernel} got no memory for what it keeps until it is done; give smaller "
            "frames, or end other processes"
        )


@dataclass(frozen=True)
class Product:
    """A convolution by a kernel: multiplications and additions that were executed, in the weight's
    precision, and the tensors.
    """

    operations: int
    weight: Tensor
    read: Tensor
    written: Tensor


_counted: list[Product] | None = None


@contextmanager
def counting() -> Iterator[list[Product]]:
    """While it lasts, the kernels' convolutions are listed."""
    global _counted
    before, _counted = _counted, []
    try:
        yield _counted
    finally:
        _counted = before


def is_counting() -> bool:
    """Whether convolutions are listed."""
    return _counted is not None


def count_product(multiplications: int, *tensors: Tensor) -> None:
    """For `counting`: a kernel's convolution, and its weight, what it read, and what it wrote."""
    if _counted is not None:
        _counted.append(Product(2 * multiplications, *tensors))


def uses_bf16_pairs(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply pairs of bfloat16: where the CPU does so, which is twice the
    work at a time.
    """
    return dtype == torch.bfloat16 and "avx512_bf16" in units()


def uses_amx(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply tiles of bfloat16 (`amx.h`): where the CPU has AMX units for
    it, and the system lets us.
    """
    return dtype == torch.bfloat16 and name() == "kernels-v4-amx"
