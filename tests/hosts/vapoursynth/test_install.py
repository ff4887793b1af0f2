"""The plugin as a guest: what it registers, what editors see of it, other hosts, and a wheel that
leaves nothing.
"""

import ast
import importlib.metadata
import importlib.util
import inspect
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = Path(vs.__file__).parent


def test_version(model_dir, tmp_path, monkeypatch):
    import torch

    from vsneuralstyle.core.device import PRECISIONS, resolve_device, resolve_precision

    monkeypatch.setenv("NEURALSTYLE_MODEL_PATH", str(tmp_path))
    shutil.copy(model_dir / "candy.safetensors", tmp_path / "other.safetensors")
    shutil.copy(model_dir / "candy.safetensors", tmp_path)
    told = vs.core.vsneuralstyle.Version()
    assert set(told) == {"package", "torch", "vapoursynth_api", "device", "precision", "styles"}
    assert (
        told["package"] == importlib.metadata.version("vsneuralstyle")
        and told["torch"] == torch.__version__
    )
    assert told["vapoursynth_api"].split(".")[0] == "4"
    assert told["device"] == str(resolve_device())
    assert PRECISIONS[told["precision"]] == resolve_precision("auto", resolve_device())
    assert {"candy", "other"} <= set(told["styles"].split(", "))


def test_editors_see_every_argument_and_the_documentation_names_it():
    """Stubs are made from the registered signature (`vsstubs`); the table in
    docs/reference/arguments.md says the same.
    """
    signature = inspect.signature(vs.core.vsneuralstyle.Stylize)
    arguments = list(signature.parameters)
    assert arguments[:2] == ["clip", "style"]
    assert all(signature.parameters[name].default is None for name in arguments[1:])
    page = (ROOT / "docs" / "reference" / "arguments.md").read_text()
    table = page.partition("<!-- arguments: generated -->")[2]
    table = table.partition("| GStreamer property |")[0]
    documented = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(documented) == sorted(arguments)


def test_stubs(tmp_path, run):
    """What `vsstubs` writes for editors has every argument, and the keys of Version's dict."""
    if importlib.util.find_spec("vsstubs") is None:
        pytest.skip("no vsstubs")
    ran = run(Path(sys.executable).with_name("vsstubs"), "-o", tmp_path / "vapoursynth.pyi")
    assert ran.returncode == 0, ran.stderr
    tree = ast.parse((tmp_path / "vapoursynth.pyi").read_text())
    found = [
        [argument.arg for argument in node.args.args]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "Stylize"
    ]
    arguments = list(inspect.signature(vs.core.vsneuralstyle.Stylize).parameters)
    assert arguments in found and arguments[1:] in found  # of the core, and of a clip
    keys = next(
        node.args[1].keys
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.args
        and getattr(node.args[0], "value", "").endswith("Version")
    )
    assert {key.value for key in keys} == set(vs.core.vsneuralstyle.Version())


def test_type_checkers_take_the_package():
    assert Path(importlib.util.find_spec("vsneuralstyle").origin).with_name("py.typed").is_file()


HOST = """
import vapoursynth as vs
core = vs.core
core.vsneuralstyle.Stylize(source, model_dir={model_dir!r}).set_output()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    """host.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    program = tmp_path_factory.mktemp("host") / "host"
    subprocess.run(
        [
            compiler,
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-I",
            PACKAGE / "include",
            Path(__file__).with_name("host.c"),
            "-L",
            PACKAGE,
            "-l:libvsscript.so",
            f"-Wl,-rpath,{PACKAGE}",
            "-o",
            program,
        ],
        check=True,
    )
    return program


def fnv(planes: list[np.ndarray]) -> str:
    """host.c's hash."""
    value = 14695981039346656037
    for byte in b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes):
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def test_a_host_in_c(host, clip, model_dir, stylized, write_script, run):
    ran = run(host, write_script(HOST.format(model_dir=str(model_dir)), clip))
    assert ran.returncode == 0, ran.stderr
    expected = [fnv([frame[..., c] for c in range(3)]) for frame in stylized(clip)]
    assert dict(line.split() for line in ran.stdout.splitlines()) == {
        str(n): h for n, h in enumerate(expected)
    }


def test_a_clip_freed_with_frames_in_flight(host, scenes, model_dir, write_script, run):
    ran = run(host, write_script(HOST.format(model_dir=str(model_dir)), scenes(30, 30)), "leave")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


FREED = """
import gc, sys

for _ in range(3):
    clip = core.vsneuralstyle.Stylize(source, model_dir=sys.argv[1])
    futures = [clip.get_frame_async(n) for n in range(len(source))]
    del clip, futures
    gc.collect()
core.clear_cache()
print("done")
"""


def test_filters_freed_with_frames_in_flight(scenes, model_dir, write_script, run):
    ran = run(sys.executable, write_script(FREED, scenes(20, 20), "freed.py"), model_dir)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


def test_the_wheel_comes_and_goes(tmp_path):
    """Into a clean environment: the plugin loads by itself. Out of it again: nothing stays."""
    wheels = sorted((ROOT / "build" / "wheel" / ".venv").glob("vsneuralstyle-*-cp312-abi3-*.whl"))
    if not wheels:
        pytest.skip("no wheel in build/wheel/.venv; scripts/setup builds it")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    shutil.copytree(
        PACKAGE, site / "vapoursynth", ignore=shutil.ignore_patterns("plugins", "__pycache__")
    )
    (site / "vapoursynth" / "plugins").mkdir()
    before = files_below(venv)

    def pip(*arguments):
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", venv, *arguments],
            check=True,
            capture_output=True,
        )

    pip("install", "--no-deps", "--no-index", "--no-compile", wheels[-1])
    # torch and the like come from this environment, behind what is installed there; pip must not
    # see them.
    rest = site / "rest.pth"
    rest.write_text(sysconfig.get_path("purelib"))
    asked = (
        "import vapoursynth as vs; print(vs.__file__, vs.core.vsneuralstyle.Version()['package'])"
    )
    loaded = subprocess.run(
        [venv / "bin" / "python", "-I", "-c", asked], capture_output=True, text=True, timeout=300
    )
    assert loaded.stdout.split() == [
        str(site / "vapoursynth" / "__init__.py"),
        importlib.metadata.version("vsneuralstyle"),
    ], loaded.stderr
    rest.unlink()
    pip("uninstall", "--yes", "vsneuralstyle")
    left = {
        path for path in files_below(venv) - before if "vapoursynth/__pycache__" not in str(path)
    }
    assert not left
    assert not (site / "vapoursynth" / "plugins" / "vsneuralstyle").exists()
