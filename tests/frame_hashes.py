"""Hashes of frames: of the core by each engine and instruction set, and of each format through both
hosts.

See scripts/frame-hashes. Each engine and each host's format has a process of its own.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENGINES = ("reference", "v2", "v3", "v4", "v4-bf16", "v4-amx")
MODELS = (("candy", "johnson"), ("udnie", "johnson"), ("candy:0.6+muse:0.4", "stylebank"))
SIZES = ((48, 64), (145, 243))
VAPOURSYNTH_FORMATS = (
    "RGB24",
    "RGB30",
    "RGBS",
    "RGBH",
    "GRAY8",
    "YUV420P8",
    "YUV420P10",
    "YUV422P8",
    "YUV444P16",
    "YUV444PS",
)
GSTREAMER_FORMATS = (
    "GBR",
    "RGB",
    "BGR",
    "RGBx",
    "BGRx",
    "xRGB",
    "xBGR",
    "RGBA",
    "BGRA",
    "ARGB",
    "ABGR",
    "Y444",
    "I420",
    "YV12",
    "NV12",
    "NV21",
    "Y42B",
    "YUY2",
    "UYVY",
    "I420_10LE",
    "P010_10LE",
    "I422_10LE",
)
SCRIPT = """
import vapoursynth as vs
from vapoursynth import core
colors = ([200, 40, 90], [10, 90, 220], [60, 220, 30])
blank = core.std.BlankClip(height=48, format=vs.RGB24, length=9)
parts = [blank.std.BlankClip(width=w, color=c) for w, c in zip((20, 24, 20), colors)]
clip = core.std.StackHorizontal(parts)
tall = core.std.StackVertical([clip, clip.std.FlipHorizontal()])
clip = core.std.Splice([tall.std.CropAbs(64, 48, 0, 3 * n)[n] for n in range(9)])
clip = clip.std.BoxBlur(hradius=2, vradius=1)
matrix = {} if FORMAT.startswith("RGB") else {"matrix": 1}
clip = clip.resize.Bicubic(format=getattr(vs, FORMAT), **matrix)
core.vsneuralstyle.Stylize(clip, style="candy", device="cpu").set_output()
"""


def moving_clip(height: int, width: int, count: int):
    """(count, 3, H, W) float32: a disc over a gradient that moves, with a cut before frame 5."""
    import numpy as np
    import torch

    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for t in range(count):
        red, green, blue = 3 * x + 30 + 2 * t, 4 * y + 20, 100 + 40 * np.sin(x / 5 + y / 7 + t / 3)
        if t >= 5:
            red, green, blue = 255 - blue, 60 + 0 * x, 255 - red
        disc = (x - 16 - 4 * t) ** 2 + (y - 24) ** 2 < 100
        frames.append(
            np.stack([np.where(disc, 250 - plane, plane) for plane in (red, green, blue)])
        )
    return torch.from_numpy(np.clip(np.stack(frames), 0, 255).astype(np.uint8)).float() / 255


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def take_engine(name: str) -> bool:
    """Has this process compute by one engine; whether this machine can."""
    from vsneuralstyle.engines.cpu import library

    if name == "reference":
        library.library = lambda: None
        return True
    if name not in library.LEVELS or not library.LEVELS[name] <= library.units():
        return False
    needed = library.LEVELS[name]
    library.units = lambda: needed
    return library.name() == f"kernels-{name}"


def hash_core(engine: str) -> None:
    """The core's frames: one at a time, begun ahead, and with all settings other than the default
    ones.
    """
    import torch

    from vsneuralstyle import Stylizer

    if not take_engine(engine):
        print(f"core {engine}: not on this machine")
        return
    for (style, net), precision, size in (
        (m, p, s) for m in MODELS for p in ("float32", "bfloat16") for s in SIZES
    ):
        frames = moving_clip(*size, 8)
        stylizer = Stylizer(style, net=net, device="cpu", precision=precision)
        outputs = [stylizer.stylize(frames)]
        stylizer.reset()
        begun = [stylizer.submit(frame[None]) for frame in frames]
        outputs.append(torch.cat([future.result()[0] for future in begun]))
        stylizer.reset()
        stylizer.strength, stylizer.preserve_color, stylizer.coherence = 0.5, True, 0.7
        outputs.append(stylizer.stylize(frames[:4]))
        hashes = (digest(output.contiguous().numpy().tobytes()) for output in outputs)
        print(f"core {engine} {style} {precision} {size[1]}x{size[0]}", *hashes)


def output_of(command: list, **env: str) -> bytes:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, timeout=300, env={**os.environ, **env}
    )
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def hash_hosts(gst_python: Path, folder: Path) -> None:
    for name in VAPOURSYNTH_FORMATS:
        script = folder / "script.vpy"
        script.write_text(f"FORMAT = {name!r}\n{SCRIPT}")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        print("vapoursynth", name, digest(output_of(["vspipe", script, "-"], PATH=path)))
    plugins = gst_python.parents[1] / "lib" / "gstreamer-1.0"
    for name in GSTREAMER_FORMATS:
        out = folder / "out.raw"
        pipeline = (
            "videotestsrc num-buffers=9 pattern=ball ! "
            f"video/x-raw,format={name},width=64,height=48,framerate=25/1 ! "
            f"neuralstyle device=cpu lookahead=2 ! filesink location={out}"
        )
        output_of(["gst-launch-1.0", "-q", *pipeline.split()], GST_PLUGIN_PATH=str(plugins))
        print("gstreamer", name, digest(out.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gst-python", type=Path, required=True, help="the Python of GStreamer's environment"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, help="the core by this engine alone, in this process"
    )
    args = parser.parse_args()
    if args.engine:
        hash_core(args.engine)
        return
    for engine in ENGINES:
        command = [
            sys.executable,
            "-P",
            __file__,
            "--gst-python",
            args.gst_python,
            "--engine",
            engine,
        ]
        print(output_of(command).decode(), end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        hash_hosts(args.gst_python, Path(folder))


if __name__ == "__main__":
    main()
