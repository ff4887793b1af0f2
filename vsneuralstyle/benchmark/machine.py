"""What a measurement was made on."""

import datetime
import os
import platform
from pathlib import Path

import torch

import vsneuralstyle
from vsneuralstyle.kernels import library


def describe(device: torch.device, precision: torch.dtype) -> dict:
    """The head of a report: processors, what torch and the kernels use of them, versions, the date."""
    kernels = library()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": Path(kernels._name).stem if kernels and device.type == "cpu" else None,
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
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:  # not Linux
        pass
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in fields.get("flags", "").split()]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(units)})" if units else name
