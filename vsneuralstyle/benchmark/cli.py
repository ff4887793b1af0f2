"""`neuralstyle benchmark`: speed and memory of the core, its stages and the hosts."""

import argparse
import os
import re
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from vsneuralstyle.arguments import add_options

MEMORY_SIZE = (64, 48)
SMALL, LARGE = ("640x360", "1280x720"), ("1920x1080", "3840x2160")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `neuralstyle benchmark`."""
    parser.add_argument(
        "--style",
        default="candy",
        help="a style's name; with --net stylebank a mix too (default %(default)s)",
    )
    add_options(parser, "net", "device", "precision", "model_dir")
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="WxH",
        help=f"frame sizes (default {' '.join(SMALL)}, on a GPU {' '.join(LARGE)} too)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=20,
        metavar="N",
        help="frames, or calls, that are timed of each (default %(default)s)",
    )
    parser.add_argument(
        "--warm-up",
        type=int,
        default=3,
        metavar="N",
        help="frames before them (default %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch's threads (default: torch's own choice)"
    )
    parser.add_argument(
        "--no-hosts", action="store_true", help="leave vspipe and gst-launch-1.0 out"
    )
    parser.add_argument(
        "--gst-python",
        type=Path,
        default=Path(sys.executable),
        metavar="PYTHON",
        help="the Python in whose environment the GStreamer element lies (default: this one)",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=3,
        metavar="N",
        help="processes that are started to time their first frame (default %(default)s)",
    )
    parser.add_argument(
        "--memory-frames",
        type=int,
        default=1000,
        metavar="N",
        help="frames after which memory is "
        "read for the last time; 0: not at all (default %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="writes benchmark.md, benchmark.json and "
        "benchmark.png there (default: the tables go to standard output alone)",
    )


def parse_size(text: str, least: int) -> tuple[int, int]:
    """Width and height in pixels of a size as in "640x360".

    Args:
        text: the size, as given.
        least: pixels of the shorter side.

    Raises:
        ArgumentError: another form, a side that is odd (of which there is no I420) or too short.
    """
    from vsneuralstyle.errors import ArgumentError

    numbers = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    size = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if min(size) < least or any(side % 2 for side in size):
        raise ArgumentError(
            f"--sizes {text}: expected WxH, as in 640x360, both even and at least {least}"
        )
    return size


def main(args: argparse.Namespace) -> int:
    """Runs the benchmark; returns the exit code."""
    import importlib.util
    import json

    from vsneuralstyle.benchmark import report
    from vsneuralstyle.errors import ArgumentError

    for option, value, least in (
        ("--frames", args.frames, 2),
        ("--warm-up", args.warm_up, 1),
        ("--threads", 1 if args.threads is None else args.threads, 1),
        ("--starts", args.starts, 1),
        ("--memory-frames", args.memory_frames, 0),
    ):
        if value < least:
            raise ArgumentError(f"{option} {value}: at least {least} expected")
    if args.out and not importlib.util.find_spec("matplotlib"):
        raise ArgumentError(
            "--out draws a plot, and matplotlib is not installed; leave it out, or pip install "
            "'vsneuralstyle[demo]'"
        )
    measured = measure(args)
    text = report.text(measured)
    print(text, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "benchmark.md").write_text(text, encoding="utf-8")
        (args.out / "benchmark.json").write_text(
            json.dumps(measured, indent=1) + "\n", encoding="utf-8"
        )
        report.write_plot(args.out / "benchmark.png", measured)
        _say(f"written: {args.out}/benchmark.md, benchmark.json, benchmark.png")
    return 0


def measure(args: argparse.Namespace) -> dict:
    """All that the options ask for, as JSON holds it and `report` takes it: seconds and bytes.

    Raises:
        ArgumentError, ModelError, DeviceError: before anything is measured.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler tells a terminal what it does
    import torch

    from vsneuralstyle.benchmark import arithmetic, core, fresh, hosts, machine
    from vsneuralstyle.benchmark.clip import pan
    from vsneuralstyle.core.device import resolve_device, resolve_precision
    from vsneuralstyle.core.pipeline import MIN_SIZE
    from vsneuralstyle.core.stylizer import Stylizer

    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    sizes = [
        parse_size(size, MIN_SIZE)
        for size in args.sizes or (SMALL + LARGE if device.type == "cuda" else SMALL)
    ]
    options = {
        "style": args.style,
        "net": args.net,
        "device": str(device),
        "precision": str(precision).removeprefix("torch."),
    }
    if args.model_dir:
        options["model_dir"] = str(args.model_dir.absolute())
    make = partial(Stylizer, **options)
    make()
    if args.threads:
        torch.set_num_threads(args.threads)

    about = {
        "style": args.style,
        "net": args.net,
        "frames": args.frames,
        "warm_up": args.warm_up,
        **machine.describe(device, precision),
    }
    _say("peaks of the device")
    peak = arithmetic.measure_peak(device, precision)
    of_sizes: list[dict[str, object]] = []
    measured: dict[str, object] = {"about": about, "peak": asdict(peak), "sizes": of_sizes}
    with tempfile.TemporaryDirectory(prefix="vsneuralstyle-") as scratch:
        found = []
        measured["without"] = without = {}
        if not args.no_hosts:
            for host in (hosts.VapourSynth(), hosts.GStreamer(args.gst_python, Path(scratch))):
                if reason := host.missing():
                    without[host.name] = reason
                else:
                    found.append(host)
        for width, height in sizes:
            _say(f"{width}x{height}: frames and stages")
            clip = pan(width, height)
            of_size = {
                "size": [width, height],
                **core.measure(make, clip, peak, args.frames, args.warm_up),
            }
            _say(
                f"{width}x{height}: {' and '.join(['core', *(host.name for host in found)])} in "
                "turn"
            )
            of_size["hosts"], failed = hosts.measure(
                found, make, options, clip, Path(scratch), args.frames, args.warm_up
            )
            without.update(
                {f"{name} at {width}x{height}": reason for name, reason in failed.items()}
            )
            of_sizes.append(of_size)
    _say("start-up")
    arguments = {**options, "threads": torch.get_num_threads()}
    measured["start_up"] = fresh.start_up(arguments, sizes[0], args.starts)
    measured["memory"] = []
    if args.memory_frames:
        _say(f"memory over {args.memory_frames} frames")
        measured["memory"] = fresh.memory(arguments, MEMORY_SIZE, args.memory_frames)
    return measured


def _say(what: str) -> None:
    print(f"neuralstyle: {what}", file=sys.stderr, flush=True)
