"""CUDA memory for the element `neuralstyle`: frames that stay on the GPU. Not yet run on a GPU.

Through ctypes: the bindings would take a mapped frame's address on the device for one in this
process and read there, and may not write to a query (see `gstneuralstyle._probe_of_queries`). Like
the element, this imports nothing but the bindings; GStreamer's loader imports it too, and finds no
element here.
"""

import contextlib
import ctypes
import functools

from gi.repository import Gst

FEATURE = "memory:CUDAMemory"
FORMATS = ("RGBA", "BGRA", "RGBx", "BGRx", "I420", "NV12")
# GST_MAP_CUDA: the address on the device; without it, that of a copy
MAP_CUDA = int(Gst.MapFlags.FLAG_LAST) << 1

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int


class MapInfo(ctypes.Structure):
    """GstMapInfo."""

    _fields_ = (
        ("memory", _POINTER),
        ("flags", _NUMBER),
        ("data", _POINTER),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("reserved", _POINTER * 8),
    )


class CudaMemory(ctypes.Structure):
    """The beginning of GstCudaMemory: a GstMemory, then whose it is."""

    _fields_ = (("memory", ctypes.c_byte * 112), ("context", _POINTER))


def load(name: str, functions: dict[str, tuple]) -> ctypes.CDLL:
    """A shared library, with each function's result and arguments declared."""
    library = ctypes.CDLL(name)
    for function, (result, *arguments) in functions.items():
        getattr(library, function).restype, getattr(library, function).argtypes = result, arguments
    return library


gst = load(
    "libgstreamer-1.0.so.0",
    {
        "gst_buffer_map": (_NUMBER, _POINTER, _POINTER, _NUMBER),
        "gst_buffer_n_memory": (ctypes.c_uint, _POINTER),
        "gst_buffer_peek_memory": (_POINTER, _POINTER, ctypes.c_uint),
        "gst_buffer_unmap": (None, _POINTER, _POINTER),
        "gst_object_unref": (None, _POINTER),
        "gst_query_add_allocation_pool": (
            None,
            _POINTER,
            _POINTER,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_uint,
        ),
    },
)


@functools.cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """GStreamer's CUDA library and the driver's. OSError, AttributeError: one isn't there, or is
    too old.
    """
    cuda = load(
        "libgstcuda-1.0.so.0",
        {
            "gst_cuda_buffer_pool_new": (_POINTER, _POINTER),
            "gst_cuda_context_get_handle": (_POINTER, _POINTER),
            "gst_cuda_context_new_wrapped": (_POINTER, _POINTER, _NUMBER),
            "gst_cuda_handle_context_query": (_NUMBER, _POINTER, _POINTER, _POINTER),
            "gst_cuda_load_library": (_NUMBER,),
            "gst_cuda_memory_init_once": (None,),
            "gst_cuda_memory_sync": (None, _POINTER),  # since 1.24
            "gst_is_cuda_memory": (_NUMBER, _POINTER),
        },
    )
    driver = load(
        "libcuda.so.1",
        {
            "cuDeviceGet": (_NUMBER, _POINTER, _NUMBER),
            "cuDeviceGetCount": (_NUMBER, _POINTER),
            "cuDevicePrimaryCtxRetain": (_NUMBER, _POINTER, _NUMBER),
            "cuInit": (_NUMBER, ctypes.c_uint),
        },
    )
    return cuda, driver


@functools.cache
def available() -> bool:
    """Whether there are GStreamer >= 1.24 with its CUDA library, a driver, and a device."""
    if Gst.version()[:2] < (1, 24):
        return False
    count = ctypes.c_int()
    try:
        cuda, driver = libraries()
        return bool(
            cuda.gst_cuda_load_library()
            and driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):
        return False


def context(device: str) -> int:
    """PyTorch's context on a device (auto, cuda or cuda:N), as a GstCudaContext, by its address.

    What GStreamer would make is another one, and the memory of one context is nothing to the other.

    Raises:
        DeviceError: the device is a CPU, or the driver has no such device.
    """
    from vsneuralstyle.errors import DeviceError

    if device == "cpu":
        raise DeviceError(
            f"frames come in {FEATURE}, and the networks run on the CPU; set device=cuda, or put a "
            "cudadownload before the element and a cudaupload behind it"
        )
    return _context(int(device.partition(":")[2] or 0))


@functools.cache
def _context(index: int) -> int:
    from vsneuralstyle.errors import DeviceError

    cuda, driver = libraries()
    device, primary = ctypes.c_int(), ctypes.c_void_p()
    cuda.gst_cuda_memory_init_once()
    if result := driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDevicePrimaryCtxRetain(
        ctypes.byref(primary), device
    ):
        raise DeviceError(
            f"the driver gives no context on CUDA device {index}: CUresult {result}; see nvidia-smi"
        )
    return cuda.gst_cuda_context_new_wrapped(primary, device)


def answer_context(query: int, element: int, context: int) -> bool:
    """Answer a context query if it is about CUDA; whether it was. All three by their addresses."""
    cuda, _ = libraries()
    return bool(cuda.gst_cuda_handle_context_query(element, query, context))


def answer_allocation(query: int, context: int, size: int) -> bool:
    """Answer an allocation query, by its address: frames of so many bytes come from a pool of this
    context, whatever those downstream would have. It gives each its GstVideoMeta.
    """
    cuda, _ = libraries()
    pool = cuda.gst_cuda_buffer_pool_new(context)
    gst.gst_query_add_allocation_pool(query, pool, size, 0, 0)
    gst.gst_object_unref(pool)
    return True


def finish(device):
    """Wait for what PyTorch was asked to do on the device in its current stream, and not for frames
    that are under way.
    """
    from torch.cuda import current_stream

    current_stream(device).synchronize()


@contextlib.contextmanager
def mapped(buffer: Gst.Buffer, flags: Gst.MapFlags, context: int, device):
    """A buffer's memory on the device: `data`, the address there, and `size` in bytes.

    What wrote to it has finished, and at the end what PyTorch does with it in its current stream
    has.

    Raises:
        MediaError: it is no CUDA memory, or another context's.
    """
    from vsneuralstyle.errors import MediaError

    cuda, _ = libraries()
    buffer, info = hash(buffer), MapInfo()
    memory = gst.gst_buffer_peek_memory(buffer, 0)
    if gst.gst_buffer_n_memory(buffer) != 1 or not cuda.gst_is_cuda_memory(memory):
        raise MediaError(
            f"a frame of caps with {FEATURE} that isn't in one piece of CUDA memory; "
            "put a cudaupload before the element"
        )
    handle = cuda.gst_cuda_context_get_handle
    if handle(CudaMemory.from_address(memory).context) != handle(context):
        raise MediaError(
            "a frame in CUDA memory of another context than PyTorch's; set the elements before "
            "this one to the same device, or put a cudadownload before it"
        )
    cuda.gst_cuda_memory_sync(memory)
    if not gst.gst_buffer_map(buffer, ctypes.byref(info), int(flags) | MAP_CUDA):
        raise MediaError(
            "a frame in CUDA memory can't be mapped; put a cudadownload before the element"
        )
    try:
        yield info
        finish(device)
    finally:
        gst.gst_buffer_unmap(buffer, ctypes.byref(info))
