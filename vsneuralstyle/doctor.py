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

PACKAGES = ("vsneuralstyle", "torch", "numpy", "safetensors", "opencv-python-headless", "av", "tqdm", "vapoursynth")
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
    "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=64,height=48 ! neuralstyle style={} ! fakesink")


def main() -> int:
    """Prints the report; returns 0 if the core works, else 1. The hosts don't count: few machines have both."""
    style = _any_style()
    sections = {"installed": installed(), "core": core(), "video files": video_files(),
                "VapourSynth": vapoursynth(style), "GStreamer": gstreamer(style)}
    works = dict.fromkeys(sections, True)
    for title, findings in sections.items():
        print(title)
        for ok, text in findings:
            print(f"  {'ok  ' if ok else 'FAIL'}  {text}", flush=True)
            works[title] &= ok
    return 0 if works["core"] else 1


def _any_style() -> str | None:
    """A style to try the hosts with."""
    try:
        from vsneuralstyle.weights import available_styles
    except (ImportError, OSError):
        return None  # which `core` reports
    return next(iter(available_styles()), None)


def installed() -> Iterator[tuple[bool, str]]:
    """Versions. Like the functions below: yields (works, what there is or what to do), a line each."""
    yield True, f"Python {platform.python_version()} ({sys.prefix}), {platform.platform()}"
    for name in PACKAGES:
        try:
            yield True, f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            if name == "vsneuralstyle":
                yield True, f"vsneuralstyle in {Path(__file__).parent}, not installed: the hosts may not find it"
            elif name == "vapoursynth" and sys.version_info < (3, 12):
                yield True, "vapoursynth: none; it needs Python >= 3.12"
            else:
                yield False, f"{name} is missing: pip install {name}"


def core() -> Iterator[tuple[bool, str]]:
    """Device, precision, styles, and each style tried on two frames."""
    try:
        import torch

        from vsneuralstyle import kernels
        from vsneuralstyle.kernels import gpu
        from vsneuralstyle.stylizer import Stylizer, resolve_device, resolve_precision
        from vsneuralstyle.weights import NETS, available_styles, search_path
    except (ImportError, OSError) as error:
        yield False, f"can't be imported ({error}): pip install --force-reinstall vsneuralstyle"
        return
    device = resolve_device("auto")
    if device.type == "cuda":
        yield True, f"device {device}: {torch.cuda.get_device_name(device)} (PyTorch {torch.__version__})"
    else:
        why = "PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA GPU or driver"
        yield True, f"device cpu: {why} ({torch.__version__}); {torch.get_num_threads()} threads"
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    yield True, f"precision {precision}: " + {
        "float16": "the device is a GPU", "bfloat16": "this CPU is faster in it (AMX, or AMD with AVX512-BF16)",
        "float32": "this CPU is not faster in bfloat16 (that takes AMX, or AMD with AVX512-BF16)"}[precision]
    if device.type == "cpu":
        # Not a failure: everything works without them.
        yield True, (f"kernels {kernels.name()}" if kernels.name() else
                     "no kernels for this CPU: a frame takes about three times as long. Wheels have them that are built on Linux with a "
                     "C compiler: install gcc, or set CC, and build the wheel again")
    else:
        yield True, (f"kernels {gpu.name(device, torch.float16)}" if gpu.name(device, torch.float16) else
                     f"no kernels for this GPU: a frame takes about five times as long. They need compute capability {gpu.CAPABILITY[0]}."
                     f"{gpu.CAPABILITY[1]} (this one has {'.'.join(map(str, torch.cuda.get_device_capability(device)))}), NVRTC, which PyTorch "
                     f"has, and NVIDIA's Python bindings: pip install 'cuda-bindings=={(torch.version.cuda or '').split('.')[0]}.*'")
    styles = [(net, name, path) for net in NETS for name, path in available_styles(net).items()]
    if not styles:
        yield False, (f"no styles in {', '.join(map(str, search_path()))}: install the wheel, which has some, train "
                      "one (neuralstyle train), or set NEURALSTYLE_MODEL_PATH to a folder that has them")
    for net, name, path in styles:
        try:
            stylized = Stylizer(name, net=net).stylize(torch.rand(2, 3, 48, 64))
            finite = bool(stylized.isfinite().all())
            yield finite, f"style {name} ({net}), {path}{'' if finite else ': gives no finite pixels; train it again'}"
        except (NeuralStyleError, RuntimeError) as error:
            yield False, f"style {name} ({net}), {path}: {error}"


def video_files() -> Iterator[tuple[bool, str]]:
    """What `neuralstyle render` reads and writes with."""
    try:
        import av
    except (ImportError, OSError) as error:
        yield False, f"PyAV can't be imported ({error}): pip install --force-reinstall av"
        return
    for library in ("libavformat", "libavcodec"):
        yield True, f"{library} {'.'.join(map(str, av.library_versions[library]))}"
    for encoder in ("libx264", "libvpx-vp9"):
        if encoder in av.codecs_available:
            yield True, f"encoder {encoder}"
        else:
            yield False, f"encoder {encoder} is missing: pip install --force-reinstall --only-binary av av"


def vapoursynth(style: str | None) -> Iterator[tuple[bool, str]]:
    """The module, the plugin, tried with style, and vspipe."""
    if sys.version_info < (3, 12):
        yield False, f"needs Python >= 3.12, this is {platform.python_version()}: install into a newer Python"
        return
    code, output = _run([sys.executable, "-c", VAPOURSYNTH_PLUGINS])
    if code:
        yield False, f"the Python module can't be imported ({_last_line(output)}): pip install vapoursynth"
        return
    release, *namespaces = output.split()
    yield True, f"R{release}"
    if "vsneuralstyle" not in namespaces:
        yield False, "no core.vsneuralstyle: install the wheel (pip install vsneuralstyle), it brings the plugin"
    elif style:
        code, output = _run([sys.executable, "-c", VAPOURSYNTH_FRAME, style])
        yield not code, "core.vsneuralstyle.Stylize" + (f" fails: {_last_line(output)}" if code else " gives frames")
    beside = str(Path(sys.executable).parent)  # where pip puts it
    vspipe = shutil.which("vspipe", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if vspipe is None:
        yield False, "no vspipe: pip install vapoursynth"
        return
    code, output = _run([vspipe, "--version"])
    if code:
        yield False, f"{vspipe} fails ({_last_line(output)}): run `vapoursynth config` in this environment"
    else:
        yield True, vspipe


def gstreamer(style: str | None) -> Iterator[tuple[bool, str]]:
    """GStreamer's tools, its loader of Python plugins and the element, tried with style."""
    inspect, launch = shutil.which("gst-inspect-1.0"), shutil.which("gst-launch-1.0")
    if not inspect or not launch:
        yield False, ("no gst-inspect-1.0 and gst-launch-1.0: "
                      "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good")
        return
    code, output = _run([inspect, "--version"])
    yield not code, f"{_last_line(output) if code else output.splitlines()[1]} ({inspect})"
    if _run([inspect, "python"])[0]:
        yield False, ("no loader of Python plugins: apt install gstreamer1.0-python3-plugin-loader python3-gst-1.0; if "
                      "it is installed, it failed once in an active environment of another Python: leave that, and "
                      "remove ~/.cache/gstreamer-1.0")
        return
    yield True, "loader of Python plugins"
    if _run([inspect, "neuralstyle"])[0]:
        yield False, f"no element neuralstyle: {_without_element()}"
    elif style:
        code, output = _run([launch, "-q", *GSTREAMER_FRAMES.format(style).split()])
        error = next((line for line in output.splitlines() if line.startswith("ERROR")), _last_line(output))
        yield not code, "element neuralstyle" + (f" fails: {error}" if code else " gives frames")


def _without_element() -> str:
    """What to do where GStreamer doesn't find the element."""
    code, output = _run(["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"])
    system = output.strip()
    if not code and system != f"{sys.version_info[0]}.{sys.version_info[1]}":
        beside = Path(sys.prefix).parent / ".venv-gst" / "lib" / "gstreamer-1.0"  # as scripts/setup makes it
        if (beside / "python" / "gstneuralstyle.py").is_file():
            return f"export GST_PLUGIN_PATH={beside}"
        return (f"GStreamer runs the system's Python {system}, this is another one; run scripts/setup, or install "
                "there: /usr/bin/python3 -m venv --system-site-packages VENV; VENV/bin/pip install vsneuralstyle; "
                "export GST_PLUGIN_PATH=VENV/lib/gstreamer-1.0")
    folder = _element_folder()
    if folder is None:
        return f"install the wheel ({sys.executable} -m pip install vsneuralstyle)"
    if str(folder) not in os.environ.get("GST_PLUGIN_PATH", "").split(os.pathsep):
        return f"export GST_PLUGIN_PATH={folder}"
    return (f"though GST_PLUGIN_PATH has {folder}; remove ~/.cache/gstreamer-1.0 and see what "
            "GST_DEBUG=python:4 gst-inspect-1.0 neuralstyle says")


def _element_folder() -> Path | None:
    """The folder for GST_PLUGIN_PATH: of the installed wheel, else of a checkout."""
    folders = (Path(sys.prefix) / "lib" / "gstreamer-1.0", Path(__file__).resolve().parents[1] / "gst_plugin")
    return next((folder for folder in folders if (folder / "python" / "gstneuralstyle.py").is_file()), None)


def _run(command: list[str]) -> tuple[int, str]:
    """(exit code, what it printed).

    The folder of this virtual environment is not in PATH then: GStreamer's loader takes its environment from the first
    python3 there, and where that is another version it fails, which GStreamer remembers in its registry.
    """
    own = Path(sys.prefix, "bin") if sys.prefix != sys.base_prefix else None
    path = os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if p and Path(p) != own)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT,
                              env={**os.environ, "PATH": path})
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
