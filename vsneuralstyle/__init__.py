"""Coherent neural style transfer for video: one recurrent `Stylizer`, used by VapourSynth,
GStreamer and the shell.

Importing this package is cheap, so that hosts can register quickly: torch is imported by what needs
it, when it is first used.
"""

import importlib

__version__ = "0.2.0"

_HOME = {
    "Stylizer": "core.stylizer",
    "available_styles": "networks.checkpoint",
    "render": "hosts.render",
    "NeuralStyleError": "errors",
    "ArgumentError": "errors",
    "ModelError": "errors",
    "DeviceError": "errors",
    "MediaError": "errors",
    "ProcessError": "errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
