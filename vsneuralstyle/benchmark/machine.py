"""What a measurement was made on."""

import datetime
import os
import platform

import torch

import vsneuralstyle
from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.cpu.host import cpuinfo, units
from vsneuralstyle.engines.cuda import runtime


def describe(device: torch.device, precision: torch.dtype) -> dict:
    """The head of a report: processors, what torch and the kernels use of them, versions, the
    date.
    """
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": library.name() if device.type == "cpu" else runtime.name(device, precision),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": str(device),
        "precision": str(precision).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": vsneuralstyle.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    """The processor's model, and which vector and matrix units it has."""
    present = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in units()]
    name = cpuinfo().get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(present)})" if present else name
