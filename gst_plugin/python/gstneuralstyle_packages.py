"""Where the element's packages come from: the application's first, then its own environment's.

GStreamer runs the Python that its loader was built for, whatever `python3` is on PATH. It enters a
virtual environment only where its ``bin`` comes first there. But where this file was installed into
one, as ``lib/gstreamer-1.0/python/gstneuralstyle_packages.py``, that environment's packages are
near it: GST_PLUGIN_PATH is enough.

A process has one version of each package, though, and the process is the application's. So the
folder goes behind all that the application imports from. It stays there, since PyTorch imports much
of what it needs later. What is found before it must satisfy what the element's packages require.

This imports nothing but what Python has, as the element does while GStreamer scans for plugins.
"""

import contextlib
import importlib.util
import site
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

CORE = "vsneuralstyle"
# What the element imports, of all that it and those require. The rest (for PyTorch's compiler, for
# reading video files) may be of whatever version.
IMPORTED = {"numpy", "safetensors", "torch", "typing-extensions"}
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def import_core():
    """Import what the element runs on: (numpy, vsneuralstyle.video.pixels, Stylizer).

    Raises:
        ImportError: this Python lacks it, or the application has other versions of what it needs.
    """
    own = Path(__file__).resolve().parents[2] / f"python{VERSION}" / "site-packages"
    added = importlib.util.find_spec(CORE) is None and own.is_dir()
    if added:
        _add(own)
    try:
        import numpy

        from vsneuralstyle.core.stylizer import Stylizer
        from vsneuralstyle.video import pixels
    except (ImportError, OSError) as error:
        if added:
            sys.path.remove(str(own))
        raise ImportError(
            f"GStreamer runs Python {VERSION} (prefix {sys.prefix}), and neuralstyle can't start "
            f"there: {error}. Install vsneuralstyle and PyTorch for this Python, in a virtual "
            "environment made by `/usr/bin/python3 -m venv --system-site-packages`, and set "
            "GST_PLUGIN_PATH to its lib/gstreamer-1.0 (or put its bin first in PATH)."
        ) from error
    return numpy, pixels, Stylizer


def _add(own: Path):
    """Put a folder on sys.path, as far behind as its packages still get what they require.

    Raises:
        ImportError: there is no such place.
    """
    for position in _positions():
        sys.path.insert(position, str(own))
        clashes = list(_clashes(own))
        if not clashes:
            return
        sys.path.remove(str(own))
    raise ImportError(
        "neuralstyle can't start in this application, whose packages come before the element's: "
        f"{'; '.join(clashes)}. Install versions that satisfy both in the application's "
        "environment, or vsneuralstyle itself, or run the pipeline in a process of its own."
    )


def _positions() -> Iterator[int]:
    """Where on sys.path the element's packages may stand.

    Last; or before the machine's, as in any virtual environment, and behind the application's.
    """
    yield len(sys.path)
    prefixes = [sys.base_prefix, sys.base_exec_prefix]
    machine = {site.getusersitepackages(), *site.getsitepackages(prefixes)}
    for position, folder in enumerate(sys.path):
        if folder in machine:
            yield position
            return


def _clashes(own: Path) -> Iterator[str]:
    """What imports would give now, from outside of the folder `own`, and not as is required."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = {name: _found(name) for name in IMPORTED}
    requiring = [metadata.distribution(CORE), *(each for each, *_ in found.values() if each)]
    for by in requiring:
        for requirement in map(Requirement, by.requires or ()):
            name, marker = canonicalize_name(requirement.name), requirement.marker
            distribution, file, imported = found.get(name, (None, None, False))
            applies = marker is None or marker.evaluate({"extra": ""})
            if distribution is None or own in file.parents or not applies:
                continue
            if not requirement.specifier.contains(distribution.version, prereleases=True):
                how = "is imported already" if imported else "is found first"
                yield (
                    f"{name} {distribution.version} ({file}) {how}, but {by.name} {by.version} "
                    f"requires {name}{requirement.specifier}{_version_in(own, name)}"
                )


def _found(name: str) -> tuple[metadata.Distribution | None, Path | None, bool]:
    """The distribution that an import would give, a file of it, and whether it is imported already.

    None where there is none, or it doesn't say its version: then the import itself tells. A module
    is taken to have its distribution's name, as those in IMPORTED have.
    """
    module = name.replace("-", "_")
    spec = None
    with contextlib.suppress(ValueError):  # a module that was made by hand has no spec
        spec = importlib.util.find_spec(module)
    if spec is None or not spec.has_location:
        return None, None, False
    file = Path(spec.origin)
    folder = file.parents[1 if spec.submodule_search_locations else 0]
    distribution = next(iter(metadata.distributions(name=name, path=[str(folder)])), None)
    return distribution, file, module in sys.modules


def _version_in(folder: Path, name: str) -> str:
    found = next(iter(metadata.distributions(name=name, path=[str(folder)])), None)
    return f" (the element's own is {found.version}, in {folder})" if found else ""
