"""The CUDA kernels: compiled by NVRTC when a GPU is first used, and launched.

Where NVRTC or NVIDIA's Python bindings of the driver are missing, both of which PyTorch brings
along on Linux, `vsneuralstyle.networks` and `vsneuralstyle.video.pixels` compute the same.
"""

import ctypes
import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle.cache import kept
from vsneuralstyle.engines import ops
from vsneuralstyle.errors import DeviceError

MAX_SHARED = 96 << 10
"""Bytes of shared memory that a block may have on any of these GPUs, if it asks for it."""
CAPABILITY = 8, 0
"""The first GPUs whose matrix units take what `conv3x3` gives them."""
BLOCK = 256
"""Threads of a block, mostly."""
_LOADING = threading.Lock()  # hosts convert in several threads, and one may compile


@cache
def compiles() -> bool:
    """Whether NVRTC is here, and what loads and launches kernels."""
    if torch.version.cuda is None:  # PyTorch for AMD's GPUs calls them cuda, too
        return False
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401

        return nvrtc.nvrtcVersion()[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS
    except (ImportError, RuntimeError):
        return False


def available(device: torch.device) -> bool:
    """Whether the kernels are to be had on a GPU."""
    return (
        compiles()
        and _capability(torch.cuda.current_device() if device.index is None else device.index)
        >= CAPABILITY
    )


_capability = cache(torch.cuda.get_device_capability)


def name(device: torch.device, precision: torch.dtype) -> str | None:
    """The kernels', as `engines.cpu.library.name` gives it; None where there are none on a GPU in
    that precision.
    """
    return "kernels.cu" if precision == torch.float16 and available(device) else None


def _compiled(capability: tuple[int, int]) -> bytes:
    """For GPUs of that compute capability; for those that NVRTC doesn't know yet what their driver
    compiles. It takes seconds, once: then it is on disk.
    """
    from cuda.bindings import nvrtc

    number, known = 10 * capability[0] + capability[1], nvrtc.nvrtcGetSupportedArchs()[1]
    exact = number in known
    architecture = (
        b"sm_%d" % number
        if exact
        else b"compute_%d" % max((one for one in known if one < number), default=number)
    )
    source = _source("kernels.cu", set()).encode()
    options = [b"--gpu-architecture=" + architecture, b"--std=c++17"]
    of = b"\0".join((source, *options, repr(nvrtc.nvrtcVersion()[1:]).encode()))
    return kept("kernels", of, lambda: _compile(source, options, capability, exact))


def _source(name: str, included: set[str]) -> str:
    """A file of csrc, with those that it includes in their places, each once."""
    included.add(name)

    def include(line: re.Match) -> str:
        return "" if line[1] is None or line[1] in included else _source(line[1], included)

    text = Path(__file__).with_name("csrc").joinpath(name).read_text()
    return re.sub(r'^#include "(.*)"$|^#pragma once$', include, text, flags=re.MULTILINE)


def _compile(
    source: bytes, options: list[bytes], capability: tuple[int, int], exact: bool
) -> bytes:
    """By NVRTC: a cubin, or, where that is not exact, PTX."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source, b"kernels.cu", 0, [], [])
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, log)
        raise DeviceError(
            f"NVRTC can't compile kernels.cu for compute capability {capability}: "
            f"{log.decode(errors='replace').strip()}; "
            "update PyTorch, or use device cpu"
        )
    size, get = (
        (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        if exact
        else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    )
    compiled = bytes(size(program)[1])
    get(program, compiled)
    nvrtc.nvrtcDestroyProgram(program)
    return compiled


@cache
def _module(index: int) -> object:
    """The kernels, loaded on that device."""
    from cuda.bindings import driver

    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the context
        error, module = driver.cuModuleLoadData(_compiled(_capability(index)))
    if error != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(
            f"the kernels can't be loaded on cuda:{index}: {error.name}; update the driver, or use "
            "device cpu"
        )
    return module


@cache
def _function(kernel: str, index: int) -> object:
    from cuda.bindings import driver

    with _LOADING:
        module = _module(index)
    function = driver.cuModuleGetFunction(module, kernel.encode())[1]
    driver.cuFuncSetAttribute(
        function,
        driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        MAX_SHARED,
    )
    return function


def launch_kernel(
    kernel: str,
    grid: tuple[int, ...],
    threads: tuple[int, ...],
    shared: int,
    job: bytes,
    device: torch.device,
) -> None:
    """On the GPU.

    Args:
        kernel: its name in kernels.cu.
        grid: blocks, in one to three dimensions. threads: of a block, likewise.
        shared: bytes of a block's shared memory.
        job: what it takes.
    """
    from cuda.bindings import driver

    held = ctypes.create_string_buffer(job, len(job))
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(held))
    stream = torch.cuda.current_stream(device).cuda_stream
    grid, threads = ((*sizes, 1, 1)[:3] for sizes in (grid, threads))
    with torch.cuda.device(device):
        (error,) = driver.cuLaunchKernel(
            _function(kernel, device.index),
            *grid,
            *threads,
            shared,
            stream,
            ctypes.addressof(arguments),
            0,
        )
    if error != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(
            f"{device} can't run the kernel {kernel} ({grid} blocks of {threads} threads): "
            f"{error.name}"
        )


class Launch:
    """A kernel's launch in a CUDA graph that is being captured.

    addresses: of tensors, by where in the job they are, in bytes.
    """

    def __init__(
        self,
        kernel: str,
        grid: tuple[int, ...],
        threads: tuple[int, ...],
        shared: int,
        job: bytes,
        places: Sequence[int],
        device: torch.device,
    ) -> None:
        self.job = ctypes.create_string_buffer(job, len(job))
        self.addresses = {place: struct.unpack_from("P", job, place)[0] for place in places}
        self._node, self._parameters = _captured(kernel, grid, threads, shared, self.job, device)

    def aim(self, addresses: Mapping[int, int], executable: int) -> None:
        """Has it take other addresses, from the next launch of the graph on.

        Args:
            addresses: by where in the job they are.
            executable: the driver's handle of the graph.
        """
        if all(self.addresses[place] == address for place, address in addresses.items()):
            return
        for place, address in addresses.items():
            struct.pack_into("P", self.job, place, address)
        _changed(self._node, self._parameters, executable)
        self.addresses.update(addresses)


def _captured(
    kernel: str,
    grid: tuple[int, ...],
    threads: tuple[int, ...],
    shared: int,
    job: ctypes.Array,
    device: torch.device,
) -> tuple[object, tuple[object, object]]:
    """The driver's node of the launch that was captured last in the current stream, and its
    parameters, which have the job's address.
    """
    from cuda.bindings import driver

    error, _, _, _, (node, *others), *_ = driver.cuStreamGetCaptureInfo(
        torch.cuda.current_stream(device).cuda_stream
    )
    if error != driver.CUresult.CUDA_SUCCESS or others:
        raise DeviceError(
            f"the launch of {kernel} isn't found in the graph that captures it: {error.name}, "
            f"{len(others)} more nodes"
        )
    parameters = driver.CUDA_KERNEL_NODE_PARAMS()
    parameters.func = _function(kernel, device.index)
    parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ = (*grid, 1, 1)[:3]
    parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ = (*threads, 1, 1)[:3]
    parameters.sharedMemBytes = shared
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(job))
    parameters.kernelParams = ctypes.addressof(arguments)
    return node, (parameters, arguments)


def _changed(node: object, parameters: tuple, executable: int) -> None:
    """Takes a node's job into the graph."""
    from cuda.bindings import driver

    (error,) = driver.cuGraphExecKernelNodeSetParams(
        driver.CUgraphExec(executable), node, parameters[0]
    )
    if error != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(
            f"a kernel in a CUDA graph can't be given another address: {error.name}; update the "
            "driver, or use device cpu"
        )


_notes = threading.local()


@contextmanager
def noted(note: Callable[[Launch], None]) -> Iterator[None]:
    """A context in which the caller's thread captures a CUDA graph, whose launches are noted."""
    _notes.take = note
    try:
        yield
    finally:
        del _notes.take


def launch(
    operation: str,
    grid: tuple[int, ...],
    threads: tuple[int, ...],
    *job: object,
    shared: int = 0,
    variant: str = "",
) -> None:
    """Launches a kernel on the device of the job's first tensor.

    Args:
        operation: a name of `ops.GPU`.
        grid, threads, shared: as `launch_kernel` takes them.
        variant: which of the operation's kernels: what follows its name, as in "_16".
        job: the members, as `ops` has them; None: no address.

    Raises:
        ValueError: a tensor that the kernel can't take; nothing was launched.
    """
    first, declared, kernel = job[0], ops.GPU[operation], operation + variant
    assert isinstance(first, Tensor)
    device = first.device
    # ctypes' types have `struct`'s letter, of which their stubs say nothing.
    members = "".join(c_type._type_ for c_type in declared.c_types)  # type: ignore[attr-defined]
    packed = struct.pack(f"@{members}0P", *(value or 0 for value in declared.values(job, device)))
    launch_kernel(kernel, grid, threads, shared, packed, device)
    if take := getattr(_notes, "take", None):
        places = [
            struct.calcsize(f"@{members[:n]}0P")
            for n, member in enumerate(job)
            if isinstance(member, Tensor)
        ]
        take(Launch(kernel, grid, threads, shared, packed, places, device))


def blocks(*sizes: int, threads: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks of so many threads that cover so many pixels."""
    return tuple(-(-size // count) for size, count in zip(sizes, threads))


def empty_map(
    like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    return torch.empty(
        (1, channels, height, width),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def empty_floats(like: Tensor, *shape: int) -> Tensor:
    """For a kernel to write to; whatever type others have made PyTorch's default."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)
