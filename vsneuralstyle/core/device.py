"""Where a clip is computed, and in what precision."""

import torch

from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.cpu.host import cpuinfo, units
from vsneuralstyle.errors import DeviceError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """A device by name: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: another name, or a device that is not there. It never falls back to the CPU in
            silence.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name != "cpu" and (
        kind != "cuda" or (":" in name and not (index.isdecimal() and len(index) < 20))
    ):
        raise DeviceError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(
                f"device {name!r} is not there: this PyTorch ({torch.__version__}) sees {count} "
                "CUDA devices; use device cpu or auto, or install a CUDA build of PyTorch and its "
                "driver"
            )
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """A precision by name: "auto", "float32", "bfloat16" or "float16".

    "auto" is float16 on a GPU, bfloat16 on a CPU that computes faster in it, float32 on another.
    Faster are AMX units, where the kernels use them or PyTorch does all, and AMD's AVX-512 ones
    (Zen 4: twice float32's speed); Intel's AVX-512 ones were measured at half of it.

    Raises:
        DeviceError: another name, or float16 on a CPU.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _prefers_bfloat16() else torch.float32
    if name not in PRECISIONS:
        raise DeviceError(f"unknown precision {name!r}; expected auto, {', '.join(PRECISIONS)}")
    if device.type == "cpu" and name == "float16":
        raise DeviceError("precision 'float16' needs a GPU; on a CPU use auto, bfloat16 or float32")
    return PRECISIONS[name]


def _prefers_bfloat16() -> bool:
    if "amx_bf16" in units():
        return library.uses_amx(torch.bfloat16) or library.library() is None
    return "avx512_bf16" in units() and cpuinfo().get("vendor_id") == "AuthenticAMD"
