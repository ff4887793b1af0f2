"""What is installed, what will be used, which hosts work, and what to do where one doesn't."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vsneuralstyle.errors import NeuralStyleError

PACKAGES = ("vsneuralstyle", "torch", "numpy", "safetensors", "av", "tqdm", "vapoursynth")
TIMEOUT = 120  # seconds for a host to answer: it may have to scan its plugins first
# Hosts are tried in processes of their own: a plugin that doesn't fit can take its process down.
VAPOURSYNTH_PLUGINS = """\
import vapoursynth as vs
print(vs.__version__.release_major, *(plugin.namespace for plugin in vs.core.plugins()))
"""
VAPOURSYNTH_FRAME = """\
import sys, vapoursynth as vs
clip = vs.core.std.BlankClip(width=64, height=48, format=vs.RGB24, length=2)
vs.core.vsneuralstyle.Stylize(clip, style=sys.argv[1]).get_frame(1)
"""
GSTREAMER_FRAMES = (
    "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=64,height=48 ! "
    "neuralstyle style={} ! fakesink"
)


OK, NOTE, FAIL = "ok", "note", "FAIL"
"""What a finding is: it works; it works, or will, after what the line says; it doesn't work."""
Finding = tuple[str, str]
"""What it is, and a line: what there is, or what to do."""


def main() -> int:
    """Prints the report; returns 0 if the core works, else 1. The hosts don't count: few machines
    have both.
    """
    style = _any_style()
    sections = {
        "installed": installed(),
        "core": core(),
        "video files": video_files(),
        "VapourSynth": vapoursynth(style),
        "GStreamer": gstreamer(style),
    }
    works = dict.fromkeys(sections, True)
    for title, findings in sections.items():
        print(title)
        for mark, text in findings:
            print(f"  {mark:4}  {text}", flush=True)
            works[title] &= mark != FAIL
    return 0 if works["core"] else 1


def _any_style() -> str | None:
    """A style to try the hosts with."""
    try:
        from vsneuralstyle.networks.checkpoint import available_styles
    except (ImportError, OSError):
        return None  # which `core` reports
    return next(iter(available_styles()), None)


def installed() -> Iterator[Finding]:
    """Versions."""
    yield OK, f"Python {platform.python_version()} ({sys.prefix}), {platform.platform()}"
    for name in PACKAGES:
        try:
            yield OK, f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            if name == "vsneuralstyle":
                yield (
                    NOTE,
                    f"vsneuralstyle in {Path(__file__).parent}, not installed: the hosts may not "
                    "find it",
                )
            elif name == "vapoursynth" and sys.version_info < (3, 12):
                yield NOTE, "vapoursynth: none; it needs Python >= 3.12"
            else:
                yield FAIL, f"{name} is missing: pip install {name}"


def core() -> Iterator[Finding]:
    """Device, precision, styles, and each style tried on two frames."""
    try:
        import torch

        from vsneuralstyle.core.device import resolve_device, resolve_precision
        from vsneuralstyle.core.stylizer import Stylizer
        from vsneuralstyle.engines.cpu import library
        from vsneuralstyle.engines.cuda import runtime
        from vsneuralstyle.networks.checkpoint import NETS, available_styles, search_path
    except (ImportError, OSError) as error:
        yield FAIL, f"can't be imported ({error}): pip install --force-reinstall vsneuralstyle"
        return
    device = resolve_device("auto")
    if device.type == "cuda":
        yield (
            OK,
            f"device {device}: {torch.cuda.get_device_name(device)} (PyTorch {torch.__version__})",
        )
    else:
        why = (
            "PyTorch is built without CUDA"
            if torch.version.cuda is None
            else "PyTorch finds no CUDA GPU or driver"
        )
        yield OK, f"device cpu: {why} ({torch.__version__}); {torch.get_num_threads()} threads"
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    yield (
        OK,
        f"precision {precision}: "
        + {
            "float16": "the device is a GPU",
            "bfloat16": "this CPU is faster in it (AMX, or AMD with AVX512-BF16)",
            "float32": "this CPU is not faster in bfloat16 (that takes AMX, or AMD with "
            "AVX512-BF16)",
        }[precision],
    )
    if device.type == "cpu":
        # Not a failure: everything works without them.
        yield (
            OK,
            (
                f"kernels {library.name()}"
                if library.name()
                else "no kernels for this CPU: a frame takes about three times as long. Wheels "
                "have them that are built on Linux with a "
                "C compiler: install gcc, or set CC, and build the wheel again"
            ),
        )
    else:
        yield (
            OK,
            (
                f"kernels {runtime.name(device, torch.float16)}"
                if runtime.name(device, torch.float16)
                else f"no kernels for this GPU: a frame takes about five times as long. They need "
                f"compute capability {runtime.CAPABILITY[0]}."
                f"{runtime.CAPABILITY[1]} (this one has "
                f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}), NVRTC, which "
                "PyTorch has, and NVIDIA's Python bindings: pip install "
                f"'cuda-bindings=={(torch.version.cuda or '').split('.')[0]}.*'"
            ),
        )
    styles = [(net, name, path) for net in NETS for name, path in available_styles(net).items()]
    if not styles:
        yield (
            FAIL,
            (
                f"no styles in {', '.join(map(str, search_path()))}: install the wheel, which has "
                "some, train one (neuralstyle train), or set NEURALSTYLE_MODEL_PATH to a folder "
                "that has them"
            ),
        )
    for net, name, path in styles:
        try:
            stylized = Stylizer(name, net=net).stylize(torch.rand(2, 3, 48, 64))
            finite = bool(stylized.isfinite().all())
            yield (
                OK if finite else FAIL,
                f"style {name} ({net}), "
                f"{path}{'' if finite else ': gives no finite pixels; train it again'}",
            )
        except (NeuralStyleError, RuntimeError) as error:
            yield FAIL, f"style {name} ({net}), {path}: {error}"


def video_files() -> Iterator[Finding]:
    """What `neuralstyle render` reads and writes with."""
    try:
        import av
    except (ImportError, OSError) as error:
        yield FAIL, f"PyAV can't be imported ({error}): pip install --force-reinstall av"
        return
    for library in ("libavformat", "libavcodec"):
        yield OK, f"{library} {'.'.join(map(str, av.library_versions[library]))}"
    for encoder in ("libx264", "libvpx-vp9"):
        if encoder in av.codecs_available:
            yield OK, f"encoder {encoder}"
        else:
            yield (
                FAIL,
                f"encoder {encoder} is missing: pip install --force-reinstall --only-binary av av",
            )


def vapoursynth(style: str | None) -> Iterator[Finding]:
    """The module, the plugin, tried with style, and vspipe."""
    if sys.version_info < (3, 12):
        yield (
            NOTE,
            f"needs Python >= 3.12, this is {platform.python_version()}: install into a newer "
            "Python",
        )
        return
    code, output = _run([sys.executable, "-c", VAPOURSYNTH_PLUGINS])
    if code:
        yield (
            FAIL,
            f"the Python module can't be imported ({_last_line(output)}): pip install vapoursynth",
        )
        return
    release, *namespaces = output.split()
    yield OK, f"R{release}"
    if "vsneuralstyle" not in namespaces:
        yield (
            FAIL,
            "no core.vsneuralstyle: install the wheel (pip install vsneuralstyle), it brings the "
            "plugin",
        )
    elif style:
        code, output = _run([sys.executable, "-c", VAPOURSYNTH_FRAME, style])
        yield (
            FAIL if code else OK,
            "core.vsneuralstyle.Stylize"
            + (f" fails: {_last_line(output)}" if code else " gives frames"),
        )
    beside = str(Path(sys.executable).parent)  # where pip puts it
    vspipe = shutil.which("vspipe", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if vspipe is None:
        yield FAIL, "no vspipe: pip install vapoursynth"
        return
    code, output = _run([vspipe, "--version"])
    if not code:
        yield OK, vspipe
    elif not _run([vspipe, "--version"], activated=True)[0]:
        yield (
            NOTE,
            (
                f"{vspipe} works where this environment is activated (. {beside}/activate); "
                f"for all other shells run once: {beside}/vapoursynth config"
            ),
        )
    else:
        yield (
            FAIL,
            f"{vspipe} fails ({_last_line(output)}): run `vapoursynth config` in this environment",
        )


def gstreamer(style: str | None) -> Iterator[Finding]:
    """GStreamer's tools, its loader of Python plugins and the element, tried with style."""
    inspect, launch = shutil.which("gst-inspect-1.0"), shutil.which("gst-launch-1.0")
    if not inspect or not launch:
        yield (
            FAIL,
            (
                "no gst-inspect-1.0 and gst-launch-1.0: "
                "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
            ),
        )
        return
    code, output = _run([inspect, "--version"])
    yield (
        FAIL if code else OK,
        f"{_last_line(output) if code else output.splitlines()[1]} ({inspect})",
    )
    if _run([inspect, "python"])[0]:
        yield (
            FAIL,
            (
                "no loader of Python plugins: apt install gstreamer1.0-python3-plugin-loader "
                "python3-gst-1.0; if it is installed, it failed once in an active environment of "
                "another Python: leave that, and remove ~/.cache/gstreamer-1.0"
            ),
        )
        return
    yield OK, "loader of Python plugins"
    path = os.environ.get("GST_PLUGIN_PATH", "")
    if _run([inspect, "neuralstyle"])[0]:
        folder = _element_folder()
        if folder is None or _run([inspect, "neuralstyle"], GST_PLUGIN_PATH=str(folder))[0]:
            yield FAIL, f"no element neuralstyle: {_without_element()}"
            return
        yield NOTE, f"element neuralstyle, once it is found: export GST_PLUGIN_PATH={folder}"
        path = str(folder)
    if style:
        code, output = _run(
            [launch, "-q", *GSTREAMER_FRAMES.format(style).split()], GST_PLUGIN_PATH=path
        )
        error = next(
            (line for line in output.splitlines() if line.startswith("ERROR")), _last_line(output)
        )
        yield (
            FAIL if code else OK,
            "element neuralstyle" + (f" fails: {error}" if code else " gives frames"),
        )


def _without_element() -> str:
    """What to do where GStreamer doesn't find the element, wherever it is looked for."""
    folder = _element_folder()
    if folder is None:
        return (
            "GStreamer runs the system's Python; run scripts/setup, or install there: "
            "/usr/bin/python3 -m venv --system-site-packages VENV; VENV/bin/pip install "
            "vsneuralstyle; export GST_PLUGIN_PATH=VENV/lib/gstreamer-1.0"
        )
    return (
        f"though {folder} has it; remove ~/.cache/gstreamer-1.0 and see what "
        f"GST_PLUGIN_PATH={folder} GST_DEBUG=python:4 gst-inspect-1.0 neuralstyle says"
    )


def _element_folder() -> Path | None:
    """The folder for GST_PLUGIN_PATH: of the environment that GStreamer's Python needs, as
    scripts/setup or pip makes it.
    """
    folders = [
        Path(sys.prefix) / "lib" / "gstreamer-1.0",
        Path(__file__).resolve().parents[1] / "gst_plugin",
    ]
    code, output = _run(
        ["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    )
    if not code and output.strip() != f"{sys.version_info[0]}.{sys.version_info[1]}":
        folders = [Path(sys.prefix).parent / ".venv-gst" / "lib" / "gstreamer-1.0"]
    return next(
        (folder for folder in folders if (folder / "python" / "gstneuralstyle.py").is_file()), None
    )


def _run(command: list[str], activated: bool = False, **env: str) -> tuple[int, str]:
    """(exit code, what it printed).

    Args:
        activated: as in this virtual environment when it is activated. Else its folder is not in
            PATH: GStreamer's loader takes its environment from the first python3 there, and where
                that is another version it fails,
            which GStreamer remembers in its registry.
        env: further environment.
    """
    own = Path(sys.prefix, "bin") if sys.prefix != sys.base_prefix else None
    folders = [
        folder
        for folder in os.environ.get("PATH", "").split(os.pathsep)
        if folder and Path(folder) != own
    ]
    if activated and own:
        folders.insert(0, str(own))
        env["VIRTUAL_ENV"] = sys.prefix
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env={**os.environ, "PATH": os.pathsep.join(folders), **env},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
