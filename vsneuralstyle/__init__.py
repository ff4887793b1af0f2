"""Coherent neural style transfer for video: one recurrent `Stylizer`, used by VapourSynth, GStreamer and the shell.

Importing this package is cheap, so that hosts can register quickly: torch is imported by what needs it, when it is
first used.
"""

import importlib
import os

__version__ = "0.1.0"

# Buffers of a frame are freed and allocated anew with each frame. In huge pages (Linux, where madvise may ask for them) that
# is at most some thousand page faults a frame rather than tens of thousands, up to a tenth of the time. PyTorch reads it
# once, later; docs/performance.md has the figures.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOME = {
    "Stylizer": "stylizer",
    "available_styles": "weights",
    "NeuralStyleError": "errors",
    "ArgumentError": "errors",
    "ModelError": "errors",
    "DeviceError": "errors",
    "MediaError": "errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
