"""Where the tests of the element `neuralstyle` can run, GStreamer as a user has it there, and two
tiny models.

They are run by a virtual environment of the distribution's Python, since gst-python belongs to it;
skipped elsewhere.
"""

import faulthandler
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    if subprocess.run(
        ["gst-inspect-1.0", "--plugin", "python"], capture_output=True, timeout=60
    ).returncode:
        return (
            "GStreamer has no loader for Python plugins (Debian: "
            "gstreamer1.0-python3-plugin-loader)"
        )
    return None


@pytest.fixture(scope="session")
def plugin_path() -> Path:
    """What GST_PLUGIN_PATH is set to: the installed wheel's, or the checkout's where none is
    installed.
    """
    installed = PREFIX / "lib" / "gstreamer-1.0"
    return (
        installed if (installed / "python" / "gstneuralstyle.py").exists() else ROOT / "gst_plugin"
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """The folder of two models of random weights, small and so fast, `candy` and `other`."""
    import torch

    from vsneuralstyle.networks.checkpoint import save_model
    from vsneuralstyle.networks.net1 import Net1

    networks = {"channels": [8, 8, 16], "residual_blocks": 1, "mask_hidden": 4}
    folder = tmp_path_factory.mktemp("models")
    for seed, style in enumerate(("candy", "other")):
        torch.manual_seed(seed)
        save_model(
            Net1(**networks),
            folder / f"{style}.safetensors",
            style=style,
            networks=networks,
            training={},
        )
    return folder


@pytest.fixture(scope="session")
def environment(plugin_path, model_dir, tmp_path_factory) -> dict[str, str]:
    """What a user sets, and a registry of the tests' own. One thread, so that sums come out alike
    everywhere.
    """
    return {
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GST_PLUGIN_PATH": str(plugin_path),
        "GST_REGISTRY": str(tmp_path_factory.mktemp("gstreamer") / "registry.bin"),
        "GST_DEBUG_NO_COLOR": "1",
        "NEURALSTYLE_MODEL_PATH": str(model_dir),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def launch(run, environment):
    """Runs `gst-launch-1.0 -m PIPELINE`, with environment variables to add or override."""
    return lambda pipeline, **more: run(
        "gst-launch-1.0", "-m", *shlex.split(pipeline), env={**environment, **more}
    )


@pytest.fixture(scope="session")
def Gst(environment):
    """GStreamer in this process, with the same plugins."""
    import gi

    gi.require_version("GstVideo", "1.0")
    from gi.repository import Gst

    if not Gst.is_initialized():
        os.environ.update(environment)
        Gst.init([])
    return Gst


@pytest.fixture(autouse=True)
def hang_is_a_failure():
    """A pipeline that hangs in this process ends it, with where each thread stood; its tests then
    count as failed.
    """
    faulthandler.dump_traceback_later(240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def stylize(environment):
    """The reference: (N, H, W, 3) uint8 frames of one clip -> the same, by `Stylizer` itself."""
    import torch

    from vsneuralstyle import Stylizer
    from vsneuralstyle.video import pixels

    torch.set_num_threads(1)
    os.environ.update(environment)

    def run(frames, style="candy", **options):
        stylizer = Stylizer(style, device="cpu", precision="float32", **options)
        stylized = np.empty_like(frames)
        for frame, target in zip(frames, stylized):
            rgb = stylizer.stylize(pixels.planes_to_rgb([frame[..., n] for n in range(3)]))
            pixels.rgb_to_planes(rgb, [target[..., n] for n in range(3)])
        return stylized

    return run


@pytest.fixture
def play(Gst):
    """Makes a pipeline from its description and sets it playing (or to another state); ends it
    after the test.
    """
    made = []

    def start(description, state=None):
        pipeline = Gst.parse_launch(description)
        made.append(pipeline)
        pipeline.set_state(Gst.State.PLAYING if state is None else state)
        return pipeline

    yield start
    for pipeline in made:
        pipeline.set_state(Gst.State.NULL)


@pytest.fixture
def finish(Gst):
    """Waits for a pipeline's end of stream; returns the messages until then, of the kinds asked
    for.

    An error fails the test, and so does nothing within a minute.
    """

    def wait(pipeline, kinds=0):
        bus, messages = pipeline.get_bus(), []
        while True:
            message = bus.timed_pop_filtered(
                60 * Gst.SECOND,
                Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType(kinds),
            )
            assert message is not None, "neither an end nor an error"
            assert message.type != Gst.MessageType.ERROR, message.parse_error()
            if message.type == Gst.MessageType.EOS:
                return messages
            messages.append(message)

    return wait
