"""An application that has packages of its own, and finds the element by GST_PLUGIN_PATH.

Whose packages are imported, and what is said where they don't go together.
"""

import importlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Arguments: what the application imports first. Runs the element; tells of the error, of sys.path,
# and of where modules come from.
APPLICATION = """
import importlib, json, sys
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init([])
for name in sys.argv[1:]:
    importlib.import_module(name)
pipeline = Gst.parse_launch("videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 "
                            "! neuralstyle device=cpu lookahead=1 ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
ends = Gst.MessageType.EOS | Gst.MessageType.ERROR
message = pipeline.get_bus().timed_pop_filtered(100 * Gst.SECOND, ends)
pipeline.set_state(Gst.State.NULL)
error = message.parse_error()[0].message if message.type == Gst.MessageType.ERROR else None
files = {name: module.__file__ for name, module in sys.modules.items()
         if "." not in name and getattr(module, "__file__", None)}
json.dump({"error": error, "path": sys.path, "files": files}, sys.stdout)
"""


@pytest.fixture
def own(plugin_path):
    """The folder of the element's packages."""
    if Path(sys.prefix) not in plugin_path.parents:
        pytest.skip(f"the wheel is not installed in {sys.prefix}")
    if sys.prefix == sys.base_prefix:
        pytest.skip("the wheel is in no virtual environment: its packages are the machine's")
    return plugin_path.parents[1] / "lib" / PYTHON / "site-packages"


@pytest.fixture
def play_in(run, environment, tmp_path, own):
    """Runs the application, by the Python that no virtual environment belongs to."""
    python = Path(sys.executable).resolve()

    def play(*imported, **more):
        nobody = str(tmp_path / "nobody")
        plain = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "", "PYTHONUSERBASE": nobody}
        done = run(
            python, "-c", APPLICATION, *imported, cwd=tmp_path, env={**environment, **plain, **more}
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return play


@pytest.fixture
def typing_extensions(own):
    """Puts a copy of typing_extensions into a folder, with another version; returns its file."""

    def put(folder, version):
        information = folder / f"typing_extensions-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: typing_extensions\nVersion: {version}\n"
        )
        return Path(shutil.copy(own / "typing_extensions.py", folder))

    return put


@pytest.mark.parametrize("imported", [[], ["typing_extensions"]])
def test_what_the_application_has_stays(play_in, own, typing_extensions, tmp_path, imported):
    file = typing_extensions(tmp_path / "application", "4.999")
    done = play_in(*imported, PYTHONPATH=str(file.parent))
    assert done["error"] is None
    assert done["files"]["typing_extensions"] == str(file)
    assert done["files"]["torch"] == str(own / "torch" / "__init__.py")  # which it lacks
    assert str(own) == done["path"][-1]  # and there it stays: PyTorch imports later, too


@pytest.mark.parametrize("imported", [[], ["typing_extensions"]])
def test_what_does_not_satisfy_is_named(play_in, own, typing_extensions, tmp_path, imported):
    file = typing_extensions(tmp_path / "application", "4.8.0")
    done = play_in(*imported, PYTHONPATH=str(file.parent))
    how = "imported already" if imported else "found first"
    for part in (
        f"typing-extensions 4.8.0 ({file})",
        how,
        f"torch {metadata.version('torch')} requires typing-extensions>=4.",
        str(own),
        f"own is {metadata.version('typing_extensions')}",
        "Install",
    ):
        assert part in done["error"], done["error"]
    assert str(own) not in done["path"]
    assert "torch" not in done["files"] and "numpy" not in done["files"]


def test_what_the_machine_has_steps_back(play_in, own, typing_extensions, tmp_path):
    """If it is too old; as in the virtual environment itself."""
    folder = tmp_path / "user" / "lib" / PYTHON / "site-packages"
    typing_extensions(folder, "4.8.0")
    done = play_in(PYTHONUSERBASE=str(tmp_path / "user"))
    assert done["error"] is None
    assert done["files"]["typing_extensions"] == str(own / "typing_extensions.py")
    path = done["path"]
    assert path.index(str(own)) == path.index(str(folder)) - 1


def test_what_the_element_imports_is_what_is_compared(play_in, own, plugin_path, monkeypatch):
    monkeypatch.syspath_prepend(plugin_path / "python")
    compared = importlib.import_module("gstneuralstyle_packages").IMPORTED
    files = play_in()["files"]
    imported = {name for name, file in files.items() if own in Path(file).parents}
    assert "torch" in imported
    others = {"vsneuralstyle", "torchgen", "functorch"}  # the core itself, and parts of torch
    any_version = {"tqdm", "packaging"}
    assert imported - others - any_version <= {name.replace("-", "_") for name in compared}
