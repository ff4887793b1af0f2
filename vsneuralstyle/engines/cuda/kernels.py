"""What lies between the large convolutions of Net1, and the small ones, and hosts' samples to RGB
and back, on a GPU: bindings of `kernels.cu`, which NVRTC compiles when a GPU is first used.

PyTorch's own operators pass over memory some ten times for one normalisation, and took nine tenths
of a frame's time there (docs/explanation/cuda-engine.md). Where NVRTC or NVIDIA's Python bindings
of the driver are missing, both of which PyTorch brings along on Linux, `vsneuralstyle.networks` and
`vsneuralstyle.video.pixels` compute the same by those.

Tensors are float16, (1, C, H, W), channels last, C a multiple of 8, unless it says otherwise. All
is done in the current stream, and nothing waits for the device.
"""

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.cache import kept
from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu import kernels
from vsneuralstyle.errors import DeviceError
from vsneuralstyle.networks.transform_net import SquaredConv

MULTIPLE = 8
"""Channels come in multiples of this: 16 bytes, what a thread reads at once."""
BLOCK = 256
"""Threads of a block, mostly."""
PARTS = 528
"""Of a picture, at most, that are summed each by a block."""
SIDE = SquaredConv.SIDE
"""Of the squares of pixels in which the 9x9 layers see the frame."""
MOST_INPUTS, MOST_OUTPUTS = 128, 64
"""Channels that `convolve` has room for."""
MANY = 256
"""Blocks that keep a GPU busy."""
UNROLLED = {(2, 2, 1), (2, 2, 2), (2, 2, 5), (4, 2, 2), (4, 2, 3), (2, 4, 1), (2, 4, 2)}
"""Tiles of outputs, a warp's rows, and steps of `convolve`'s kernels that know their steps: of the
largest of the shipped networks' layers."""
MOST_SHARED = 96 << 10
"""Bytes of shared memory that a block may have on any of these GPUs, if it asks for it."""
CAPABILITY = 8, 0
"""The first GPUs whose matrix units take what `convolve` gives them."""
PIXELS = 4
"""Of a row, that are a thread's where hosts' samples are converted."""
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
    """The kernels', as `kernels.name` gives it; None where there are none on a GPU in that
    precision.
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
    source, options = (
        Path(__file__).with_name("csrc").joinpath("kernels.cu").read_bytes(),
        [b"--gpu-architecture=" + architecture, b"--std=c++17"],
    )
    of = b"\0".join((source, *options, repr(nvrtc.nvrtcVersion()[1:]).encode()))
    return kept("kernels", of, lambda: _made(source, options, capability, exact))


def _made(source: bytes, options: list[bytes], capability: tuple[int, int], exact: bool) -> bytes:
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
        MOST_SHARED,
    )
    return function


def _launched(
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


def _launch(
    kernel: str, grid: tuple[int, ...], threads: tuple[int, ...], *job: object, shared: int = 0
) -> None:
    """Launches a kernel on the device of the job's first tensor. Its name in `ops.GPU` is without
    the numbers at the end.

    Args:
        kernel, grid, threads, shared: as `_launched` takes them.
        job: the members, as `ops` has them; None: no address.

    Raises:
        ValueError: a tensor that the kernel can't take; nothing was launched.
    """
    first, operation = job[0], ops.GPU[kernel.rstrip("_0123456789")]
    assert isinstance(first, Tensor)
    device = first.device
    # ctypes' types have `struct`'s letter, of which their stubs say nothing.
    members = "".join(c_type._type_ for c_type in operation.c_types)  # type: ignore[attr-defined]
    packed = struct.pack(f"@{members}0P", *(value or 0 for value in operation.values(job, device)))
    _launched(kernel, grid, threads, shared, packed, device)
    if take := getattr(_notes, "take", None):
        places = [
            struct.calcsize(f"@{members[:n]}0P")
            for n, member in enumerate(job)
            if isinstance(member, Tensor)
        ]
        take(Launch(kernel, grid, threads, shared, packed, places, device))


def _over(*sizes: int, threads: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks of so many threads that cover so many pixels."""
    return tuple(-(-size // count) for size, count in zip(sizes, threads))


def _threads(channels: int) -> tuple[int, int]:
    """Of a block: those of a pixel, and pixels."""
    groups = channels // MULTIPLE
    return groups, BLOCK // groups


def _empty(
    like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    return torch.empty(
        (1, channels, height, width),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _floats(like: Tensor, *shape: int) -> Tensor:
    """For a kernel to write to; whatever type others have made PyTorch's default."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


@dataclass(frozen=True)
class Picture:
    """A picture that need not lie pixel by pixel.

    samples: (1, side² channels, rows, columns), channels last: squares of pixels, row by row, and
    all channels of each. height, width,
    channels: of the picture. side: of a square, a power of 2. edge: pixels above and left of the
    picture's first in the first square, or in the rows and columns that were put about it.
    """

    samples: Tensor
    channels: int
    height: int
    width: int
    side: int = 1
    edge: int = 0

    @classmethod
    def of(cls, x: Tensor) -> "Picture":
        """That lies pixel by pixel."""
        return cls(x, *x.shape[1:])

    def layout(self, edge: int | None = None) -> tuple[int, ...]:
        """As kernels.cu has it."""
        return (
            self.side.bit_length() - 1,
            self.edge if edge is None else edge,
            self.samples.shape[3],
            self.channels,
        )


def whole(channels: int) -> int:
    """To the next multiple of `MULTIPLE`."""
    return -(-channels // MULTIPLE) * MULTIPLE


def enter(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> (1, 4 4 3, ceil(H/4) + 2, ceil(W/4) + 2) float16: squares
    of 4x4 pixels, to which the border is repeated, and one square more on each side, reflected.
    """
    height, width = frame.shape[2:]
    rows, columns = (-(-size // SIDE) + 2 for size in (height, width))
    out, threads = _empty(frame, 3 * SIDE**2, rows, columns, torch.float16), (64, 4)
    _launch(
        "enter",
        _over(columns, rows * SIDE, threads=threads),
        threads,
        frame,
        out,
        height,
        width,
        rows,
        columns,
    )
    return out


def leave(x: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Squares of 4x4 pixels, (1, 4 4 3, rows, columns), and a bias (3,) float32 -> tanh, to 0..1:
    (1, 3, height, width) float32, contiguous.
    """
    out, threads = _floats(x, 1, 3, height, width), (64, 4)
    _launch(
        "leave",
        _over(x.shape[3], height, threads=threads),
        threads,
        x,
        bias,
        out,
        height,
        width,
        x.shape[3],
    )
    return out


def statistics(x: Picture, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Instance normalisation as a multiplication and a sum.

    Args:
        x: the picture.
        weight, bias: (C,) float32, or None.
        eps: added to the variance.

    Returns:
        (2, C) float32: what to multiply with, and then to add.
    """
    groups, (rows, columns) = x.channels // MULTIPLE, x.samples.shape[2:]
    threads = BLOCK // groups * groups
    pixels = rows * columns * x.side**2
    part = max(-(-pixels // PARTS), 4 * threads // groups)  # pixels
    parts = -(-pixels // part)
    sums = _floats(x.samples, parts, 2, x.channels)
    _launch(
        "sums",
        (parts,),
        (threads,),
        x.samples,
        sums,
        *x.layout(),
        x.height,
        x.width,
        rows,
        part * groups,
        shared=threads * 64,
    )
    scale, threads = _floats(x.samples, 2, x.channels), 512
    _launch(
        "scales",
        (groups,),
        (threads,),
        sums,
        x.samples,
        weight,
        bias,
        scale,
        *x.layout(),
        parts,
        float(x.height * x.width),
        float(eps),
        shared=threads * 8,
    )
    return scale


def normalise(
    x: Picture,
    scale: Tensor | None = None,
    *,
    relu: bool = False,
    residual: Picture | None = None,
    pad: int = 0,
    repeats: bool = False,
    side: int = 1,
) -> Picture:
    """A multiplication and a sum, a ReLU, another picture's sum, and the border that the next
    convolution wants.

    Args:
        x: the picture.
        scale: of x, as `statistics` gives it; None: x as it is.
        relu: 0 for what is negative.
        residual: added at the end.
        pad: width of the border, reflected, or repeated if it `repeats`.
        side: of the squares in which it is laid down.
    """
    height, width = x.height + 2 * pad, x.width + 2 * pad
    out = _empty(x.samples, x.channels * side**2, height // side, width // side, torch.float16)
    to, beside = Picture(out, x.channels, x.height, x.width, side, pad), residual or x
    threads = _threads(x.channels)
    _launch(
        "normalise",
        _over(width, height, threads=(4 * threads[1], 1)),
        threads,
        x.samples,
        scale,
        residual and residual.samples,
        out,
        *x.layout(),
        *beside.layout(),
        *to.layout(0),
        x.height,
        x.width,
        pad,
        repeats,
        relu,
    )
    return to


def activate(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """x + bias, (C,) float32, times the slope where it is negative, in the place of x."""
    vectors = x.numel() // MULTIPLE
    _launch(
        "activate",
        _over(vectors, threads=(BLOCK,)),
        (BLOCK,),
        x,
        bias,
        vectors,
        x.shape[1],
        float(slope),
    )
    return x


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0, planes: bool = False
) -> Tensor:
    """A 3x3 convolution of stride 1, 0 about the border.

    Args:
        x: the picture.
        weight: as `convolution_weight` makes it. bias: (outputs,) float32.
        slope: what is negative is multiplied by it in the end.
        planes: (1, outputs, H, W) float32, contiguous, else as pictures are.
    """
    taps, steps, pairs = weight.shape[:3]
    outputs, (height, width) = len(bias), x.shape[2:]
    out = _floats(x, 1, outputs, height, width) if planes else _empty(x, outputs, height, width)
    tiles = 2 * pairs
    rows = _rows(height, width, (4, 2) if (tiles, 4, steps) in UNROLLED else (2,))
    kernel = f"convolve_{tiles}_{rows}_{steps if (tiles, rows, steps) in UNROLLED else 0}"
    _launch(
        kernel,
        _over(width, height, threads=(16, 8 * rows)),
        (BLOCK,),
        x,
        weight,
        bias,
        None if planes else out,
        out if planes else None,
        height,
        width,
        x.shape[1],
        steps,
        outputs,
        float(slope),
        shared=_tile(rows, 3, steps),
    )
    kernels.count_product(height * width * outputs * taps * x.shape[1], weight, x, out)
    return out


def colors(
    frame: Tensor, mean: Tensor, height: int, width: int, weight: Tensor, bias: Tensor, slope: float
) -> Tensor:
    """A 3x3 convolution of stride 2 of (sample - mean) * 4, 0 about the border.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width, both
            even.
        mean: a number on the device.
        weight: as `colors_weight` makes it. bias, slope: as `convolve` takes them; 16 outputs.
    """
    outputs, rows, columns = len(bias), height // 2, width // 2
    out = _empty(frame, outputs, rows, columns, torch.float16)
    down = _rows(rows, columns, (4, 2))
    _launch(
        f"colors_{down}",
        _over(columns, rows, threads=(16, 8 * down)),
        (BLOCK,),
        frame,
        mean,
        None,
        weight,
        bias,
        out,
        None,
        rows,
        columns,
        16,
        1,
        outputs,
        float(slope),
        *frame.shape[2:],
        height,
        width,
        shared=_tile(down, 2, 1),
    )
    kernels.count_product(rows * columns * outputs * len(weight) * 16, weight, frame, out)
    return out


def _rows(height: int, width: int, larger: Sequence[int]) -> int:
    """Rows of a warp of a convolution: the more, the less is read and waited for, where there are
    enough blocks for a GPU's processors.
    """
    return next(
        (
            rows
            for rows in larger
            if prod(_over(width, height, threads=(16, 8 * rows))) >= MANY * rows // 2
        ),
        1,
    )


def _tile(rows: int, side: int, steps: int) -> int:
    """Bytes of a convolution's tile."""
    return (8 * rows + side - 1) * (16 + side - 1) * (16 * steps + 8) * 2


def convolution_weight(weight: Tensor) -> Tensor:
    """A convolution's weight, (outputs, inputs, side, side), as `convolve` takes it: (side², steps,
    pairs of tiles, 32, 8), where a step is 16 inputs, a tile 8 outputs, and of each pair of tiles
    each thread of a warp has the 8 weights that matrix units want of it.

    Of a tile a thread gets two columns, and those of all tiles are outputs one after the other, so
    that it can store them at once.
    """
    outputs, inputs = weight.shape[:2]
    weight = F.pad(weight.detach(), (0, 0, 0, 0, 0, -inputs % 16, 0, -outputs % 16))
    weight = weight.unflatten(0, (4, -1, 2)).transpose(0, 1).flatten(0, 2)
    # Of a tile a thread has output thread / 4, and inputs thread % 4 * 2 and the next, and those
    # that are 8 further.
    # (pairs, 2, 8; steps, 2, 4, 2; rows, columns)
    weight = weight.unflatten(1, (-1, 2, 4, 2)).unflatten(0, (-1, 2, 8))
    return (
        weight.permute(7, 8, 3, 0, 2, 5, 1, 4, 6)
        .flatten(6, 8)
        .flatten(4, 5)
        .flatten(0, 1)
        .contiguous()
    )


def colors_weight(weight: Tensor) -> Tensor:
    """A 3x3 convolution of stride 2's weight, (outputs, 3, 3, 3), as `colors` takes it."""
    # (outputs, colors, 2, rows, 2, columns)
    weight = F.pad(weight.detach(), (0, 1, 0, 1, 0, 1)).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    return convolution_weight(weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3))


def change(frame: Tensor, previous: Tensor) -> Tensor:
    """The largest change of a sample in each 4x4 square and the eight about it, (1, 1, ceil(H/4),
    ceil(W/4)) float32; both contiguous.
    """
    height, width = frame.shape[2:]
    out, threads = _floats(frame, 1, 1, -(-height // 4), -(-width // 4)), (64, 4)
    _launch(
        "change",
        _over(*out.shape[:1:-1], threads=threads),
        threads,
        frame,
        previous,
        out,
        height,
        width,
        *out.shape[2:],
    )
    return F.max_pool2d(out, 3, stride=1, padding=1)


def quarter(frame: Tensor) -> Tensor:
    """As `Net1.downsample4`, of a contiguous frame."""
    height, width = frame.shape[2:]
    out, threads = _floats(frame, 1, 3, -(-height // SIDE), -(-width // SIDE)), (64, 4)
    grid = *_over(*out.shape[:1:-1], threads=threads), 3
    _launch("quarter", grid, threads, frame, out, height, width, *out.shape[2:])
    return out


def brightness(frame: Tensor, height: int, width: int) -> Tensor:
    """The mean of a contiguous frame, (1, 3, H, W) float32, whose border is repeated to that height
    and width; a number on the device.
    """
    sums, mean = _floats(frame, min(3 * height, PARTS)), _floats(frame)
    _launch(
        "total",
        (len(sums),),
        (BLOCK,),
        frame,
        sums,
        *frame.shape[2:],
        height,
        width,
        shared=4 * BLOCK,
    )
    _launch(
        "brightness",
        (1,),
        (BLOCK,),
        sums,
        mean,
        len(sums),
        float(3 * height * width),
        shared=4 * BLOCK,
    )
    return mean


def unexplained(quarter: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """As `Net1.warp_residual`, of float32, contiguous."""
    out, (height, width) = _floats(quarter, *quarter.shape), quarter.shape[2:]
    _launch(
        "unexplained",
        _over(width, height, threads=(32, 8)),
        (32, 8),
        quarter,
        previous,
        flow,
        out,
        height,
        width,
    )
    return out


def follow(
    previous: Tensor, flow: Tensor, feature: Tensor, unexplained: Tensor, cubic: bool
) -> tuple[Tensor, Tensor]:
    """The previous feature along the flow, as `Net1.compose` has it, and what the mask network
    sees.

    Args:
        previous, feature: F°_{t-1} and F_t.
        flow: (1, 2, h, w) float32, contiguous, in full-resolution pixels.
        unexplained: (1, 3, h, w) float32, contiguous.
        cubic: bicubic, else bilinear.

    Returns:
        F'_t, and (1, C + 8, h, w), whose last channels are 0.
    """
    channels, height, width = feature.shape[1:]
    warped = _empty(feature, channels, height, width)
    difference = _empty(feature, channels + MULTIPLE, height, width)
    threads = _threads(channels + MULTIPLE)
    _launch(
        "follow",
        _over(width, height, threads=(threads[1], 1)),
        threads,
        previous,
        feature,
        flow,
        unexplained,
        warped,
        difference,
        height,
        width,
        channels,
        cubic,
    )
    return warped, difference


def blend(
    feature: Tensor,
    warped: Tensor,
    mask: Tensor,
    flow: Tensor,
    change: Tensor | None,
    still: float,
    hold: float,
    coherence: float | Tensor,
    refresh: float,
    sharpen: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """F°_t, and float32 M and by how much `sharpened` may raise detail, of F_t, F'_t and the mask
    before its sigmoid, (1, 1, h, w), as `Net1.compose` has them; the coherence may be a number on
    the device.
    """
    if not isinstance(coherence, Tensor):
        coherence = torch.full((), coherence, dtype=torch.float32, device=feature.device)
    channels, height, width = feature.shape[1:]
    composite = _empty(warped, channels, height, width)
    blended, most = _floats(feature, 2, 1, 1, height, width)
    threads = _threads(channels)
    _launch(
        "blend",
        _over(width, height, threads=(threads[1], 1)),
        threads,
        feature,
        warped,
        mask,
        flow,
        change,
        coherence,
        composite,
        blended,
        most,
        height,
        width,
        channels,
        float(still),
        float(hold),
        float(refresh),
        float(sharpen),
    )
    return composite, blended, most


def sharpened(composite: Tensor, feature: Tensor, most: Tensor) -> Tensor:
    """As `Net1.sharpened` has it, of what `blend` gives and takes."""
    channels, height, width = feature.shape[1:]
    energy, gain = _floats(feature, 2, height, width), _floats(feature, 1, 1, height, width)
    groups, strip = channels // MULTIPLE, 8  # rows, as kernels.cu has them
    columns = BLOCK // groups
    threads = columns * groups
    _launch(
        "energy",
        _over(width, height, threads=(columns, strip)),
        (threads,),
        composite,
        feature,
        energy,
        height,
        width,
        channels,
        shared=threads * 64,
    )
    _launch(
        "gain",
        _over(width, height, threads=(32, 8)),
        (BLOCK,),
        energy,
        most,
        gain,
        height,
        width,
        channels,
        shared=2 * 16 * (40 + 32) * 4,
    )
    out = _empty(composite, channels, height, width)
    _launch(
        "sharpen",
        _over(width, height, threads=(columns, strip)),
        (groups, columns),
        composite,
        gain,
        out,
        height,
        width,
        channels,
    )
    return out


def match(here: Tensor, there: Tensor, flow: Tensor, pixels: float, radius: int) -> Tensor:
    """What `litepwcnet.seen` gives, the feature before the cost volume, and channels of 0 to the
    next multiple of 8; radius 2 or 3, the flow contiguous.
    """
    channels, height, width = here.shape[1:]
    known = _empty(here, whole((2 * radius + 1) ** 2 + channels + 2), height, width)
    rows, columns, sharers = 4, 16, 4  # as kernels.cu has them
    shared = 2 * (
        (rows + 2 * radius) * (columns + 2 * radius) * (channels + MULTIPLE)
        + rows * columns * known.shape[1]
    )
    _launch(
        f"match{radius}",
        _over(width, height, threads=(columns, rows)),
        (sharers * rows * columns,),
        here,
        there,
        flow,
        known,
        height,
        width,
        channels,
        known.shape[1],
        float(pixels),
        shared=shared,
    )
    return known


def supported(scores: Tensor) -> Tensor:
    """`litepwcnet.supported`, (1, H, W, H, W), contiguous."""
    height, width = scores.shape[1:3]
    out, threads = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device), 64
    _launch(
        "supported",
        (*_over(2 * width - 1, threads=(threads,)), height, height),
        (threads,),
        scores,
        out,
        height,
        width,
    )
    return out


def global_match(scores: Tensor, sure: float) -> Tensor:
    """`litepwcnet.global_match`, of equally good matches the first.

    Args:
        scores: (1, H, W, H, W), contiguous.
        sure: dual softmax from which on a match counts.

    Returns:
        (1, 2, H, W) float32.
    """
    height, width = scores.shape[1:3]
    places, threads = height * width, 128
    most, out = _floats(scores, 2, places), _floats(scores, 1, 2, height, width)
    _launch(
        "columns", _over(places, threads=(32,)), (512,), scores, most, places, shared=2 * 512 * 4
    )
    _launch(
        "rows",
        (places,),
        (threads,),
        scores,
        most,
        out,
        height,
        width,
        float(sure),
        shared=3 * threads * 4,
    )
    return out


# Hosts' samples, integers of one or two bytes: uint8 or uint16, of all planes one after the other.
# What they mean says `pixels.Coding`.

Rows = Sequence[Sequence[float]]
"""A map of three numbers to three: of each that comes out, what those that go in weigh, and what is
added."""


def from_samples(samples: Tensor, top: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Samples of R, G and B, (1, 3, H, W), contiguous -> sample / top * scale + offset, limited to
    0..1, float32.
    """
    count, out = samples.numel(), _floats(samples, *samples.shape)
    kernel = _of_samples("from_samples", samples.dtype)
    blocks = _over(count, threads=(PIXELS * BLOCK,))
    _launch(kernel, blocks, (BLOCK,), samples, out, count, float(top), scale, offset)
    return out


def to_samples(
    rgb: Tensor, dtype: torch.dtype, scale: float, offset: float, levels: int, unit: int = 1
) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> samples, (3 H W,): number * scale + offset rounded to
    nearest, limited to 0..levels, times unit.
    """
    count = 3 * prod(rgb.shape[2:])
    out = torch.empty(count, dtype=dtype, device=rgb.device)
    _launch(
        _of_samples("to_samples", dtype),
        _over(count, threads=(PIXELS * BLOCK,)),
        (BLOCK,),
        rgb,
        out,
        count,
        scale,
        offset,
        float(levels),
        unit,
    )
    return out


def from_components(
    samples: Tensor,
    luma: Sequence[int],
    chroma: Sequence[int],
    rows: Rows,
    cosited: tuple[bool, bool],
) -> Tensor:
    """Samples of Y, Cb and Cr -> (1, 3, H, W) float32, contiguous, limited to 0..1.

    Args:
        samples: (H W + 2 h w,).
        luma, chroma: (H, W), and (h, w): the same, or half as many rows, columns or both, rounded
            up.
        rows: of R, G and B by samples.
        cosited: as `yuv.upsample` has it.

    Raises:
        ValueError: chroma of another size.
    """
    _check(luma, chroma)
    if samples.numel() != prod(luma) + 2 * prod(chroma):
        raise ValueError(
            f"{samples.numel()} samples of a picture of {luma} with chroma of {chroma}"
        )
    out, threads = _floats(samples, 1, 3, *luma), (32, 8)
    _launch(
        _of_samples("from_components", samples.dtype),
        _over(-(-luma[1] // PIXELS), luma[0], threads=threads),
        threads,
        samples,
        out,
        *luma,
        *chroma,
        *cosited,
        *chain(*rows),
    )
    return out


def to_components(
    rgb: Tensor,
    chroma: Sequence[int],
    rows: Rows,
    cosited: tuple[bool, bool],
    dtype: torch.dtype,
    levels: int,
    unit: int = 1,
) -> Tensor:
    """The way back: (1, 3, H, W) float32, contiguous -> samples as `from_components` takes them.

    rows: of Y, Cb and Cr in code values, which are rounded to nearest, limited to 0..levels, and
    multiplied by unit.
    """
    luma, threads = rgb.shape[2:], (32, 8)
    _check(luma, chroma)
    out = torch.empty(prod(luma) + 2 * prod(chroma), dtype=dtype, device=rgb.device)
    _launch(
        _of_samples("to_components", dtype),
        _over(-(-luma[1] // PIXELS), chroma[0], threads=threads),
        threads,
        rgb,
        out,
        *luma,
        *chroma,
        *cosited,
        *chain(*rows),
        float(levels),
        unit,
    )
    return out


def _of_samples(kernel: str, dtype: torch.dtype) -> str:
    return f"{kernel}{8 * dtype.itemsize}"


def _check(luma: Sequence[int], chroma: Sequence[int]) -> None:
    if any(some not in (all_, (all_ + 1) // 2) for some, all_ in zip(chroma, luma)):
        raise ValueError(
            f"chroma of {tuple(chroma)} in a picture of {tuple(luma)}; expected as many rows and "
            "columns, or half as many"
        )
