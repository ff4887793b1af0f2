"""Where the tests of the element `neuralstyle` can run, and GStreamer as a user has it there.

They are run by a virtual environment of the distribution's Python, since gst-python belongs to it; skipped elsewhere.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PREFIX = Path(sys.prefix)
ROOT = Path(__file__).resolve().parents[3]


def pytest_collection_modifyitems(items):
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = mine and _why_not()
    for item in mine if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str | None:
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp  # noqa: F401
    except (ImportError, ValueError) as error:
        return f"no GStreamer for this Python ({sys.prefix}): {error}"
    for tool in ("gst-launch-1.0", "gst-inspect-1.0"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if subprocess.run(["gst-inspect-1.0", "--plugin", "python"], capture_output=True, timeout=60).returncode:
        return "GStreamer has no loader for Python plugins (Debian: gstreamer1.0-python3-plugin-loader)"
    return None


@pytest.fixture(scope="session")
def plugin_path() -> Path:
    """What GST_PLUGIN_PATH is set to: the installed wheel's, or the checkout's where none is installed."""
    installed = PREFIX / "lib" / "gstreamer-1.0"
    return installed if (installed / "python" / "gstneuralstyle.py").exists() else ROOT / "gst_plugin"


@pytest.fixture(scope="session")
def environment(plugin_path, tmp_path_factory) -> dict[str, str]:
    """What a user sets, and a registry of the tests' own. One thread, so that sums come out alike everywhere."""
    return {
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GST_PLUGIN_PATH": str(plugin_path),
        "GST_REGISTRY": str(tmp_path_factory.mktemp("gstreamer") / "registry.bin"),
        "GST_DEBUG_NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def launch(run, environment):
    """Runs `gst-launch-1.0 -m PIPELINE`, with environment variables to add or override."""
    return lambda pipeline, **more: run("gst-launch-1.0", "-m", *pipeline.split(), env={**environment, **more})


@pytest.fixture(scope="session")
def Gst(environment):
    """GStreamer in this process, with the same plugins."""
    from gi.repository import Gst

    if not Gst.is_initialized():
        os.environ.update(environment)
        Gst.init([])
    return Gst
