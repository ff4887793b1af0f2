"""`python -m vsneuralstyle.demo [video]`: stylizes a video through vspipe and gst-launch-1.0, and
measures both.

Without a video it makes its own, of which the optical flow is known exactly (`synthetic`).
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vsneuralstyle.core import scene_detection
from vsneuralstyle.demo.hosts import GStreamer, Host, VapourSynth
from vsneuralstyle.demo.synthetic import RATE, SyntheticClip
from vsneuralstyle.demo.video import to_rgb, writer
from vsneuralstyle.errors import MediaError, NeuralStyleError
from vsneuralstyle.evaluation import report
from vsneuralstyle.evaluation.clips import Clip, flow_pair, read_clip
from vsneuralstyle.evaluation.dis import DisFlow
from vsneuralstyle.evaluation.measure import Track, measure
from vsneuralstyle.evaluation.methods import Recorded
from vsneuralstyle.evaluation.metrics import psnr
from vsneuralstyle.host_processes import run
from vsneuralstyle.hosts.render.timeline import Rational
from vsneuralstyle.measurement.occlusion import traceable

# stability is measured on at most so many, so that a long video needs no more memory than a short
MEASURED_FRAMES = 72
MEASURED_WIDTH = 640


@dataclass(frozen=True)
class Source:
    """The clip, and what measures it: (T,3,H,W) in 0..1, backward flows, traceable masks, where
    scenes start.
    """

    path: Path
    length: int | None  # frames of the whole file; None: unknown
    frames: Tensor
    flows: Tensor
    masks: Tensor
    scene_starts: tuple[bool, ...]
    flow_source: str


@dataclass(frozen=True)
class Result:
    """What one host gave: uint8 frames for measuring, and its speed."""

    host: Host
    per_frame: Tensor
    coherent: Tensor
    fps: tuple[float, float]  # per frame, coherent
    startup: float
    files: tuple[Path, Path]


def say(text: str) -> None:
    print(text, flush=True)


def make_source(out: Path, frames: int | None) -> Source:
    """The synthetic clip, written to `out`/source.mp4."""
    clip = SyntheticClip(**({} if frames is None else {"length": frames}))
    path = out / "source.mp4"
    pictures = []
    with writer(path, Fraction(RATE), crf=10) as file:
        for t in tqdm(range(clip.length), desc="  making the clip", unit="frame", disable=None):
            pictures.append(clip.frame(t))
            file.write(report.picture(pictures[-1]))
    motions = [clip.motion(t) for t in range(1, clip.length)]
    return Source(
        path,
        clip.length,
        torch.stack(pictures),
        torch.stack([flow for flow, _ in motions]),
        torch.stack([mask for _, mask in motions]),
        clip.scene_starts,
        "known exactly from the camera's path",
    )


def read_source(path: Path, frames: int | None) -> Source:
    """A user's video, with its flow measured by DIS on the frames that are measured."""
    limit = MEASURED_FRAMES if frames is None else min(frames, MEASURED_FRAMES)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            length = stream.frames or None
            width = stream.width
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: can't be read as a video: {error}") from error
    pixels = read_clip(path, limit, width=MEASURED_WIDTH if width > MEASURED_WIDTH else None)
    if len(pixels) < 2:
        raise MediaError(f"{path}: one frame; two are needed to show that style stays on its place")
    source = pixels.float() / 255
    dis = DisFlow()
    pairs = [
        flow_pair(dis, previous, current)
        for previous, current in tqdm(
            list(pairwise(pixels)), desc="  measuring its motion", unit="pair", disable=None
        )
    ]
    starts = [
        True,
        *(
            scene_detection.cut_score(a[None], b[None]) > scene_detection.DEFAULT_THRESHOLD
            for a, b in pairwise(source)
        ),
    ]
    return Source(
        path,
        length if frames is None else min(frames, length or frames),
        source,
        torch.cat([backward for backward, _ in pairs]),
        torch.cat([traceable(*pair) for pair in pairs]),
        tuple(starts),
        "estimated by OpenCV's DIS with a forward-backward check, so itself not free of error",
    )


def stylize(
    host: Host, source: Source, style: str, coherence: float, frames: int | None, path: Path
) -> tuple[Tensor, float, float]:
    """Runs the host, writes its video, and returns the frames to measure (uint8), fps and start-up
    time.
    """
    measured: list[Tensor] = []
    kind = "coherent" if coherence else "per frame"
    total = frames if frames is not None else source.length
    with run(host, host.command(source.path, style, coherence), frames) as frames_of_host:
        rate = _fraction(frames_of_host.stream.average_rate or Fraction(25))
        with (
            writer(path, rate) as file,
            tqdm(total=total, desc=f"  {host.name}, {kind}", unit="frame", disable=None) as bar,
        ):
            for frame in frames_of_host:
                if len(measured) < len(source.frames):
                    measured.append(to_rgb(frame, MEASURED_WIDTH))
                file.write(frame)
                bar.update()
    if len(measured) != len(source.frames):
        raise MediaError(
            f"{host.name} gave {len(measured)} frames, {len(source.frames)} were expected from "
            f"{source.path}"
        )
    say(
        f"  {host.name}, {kind}: {frames_of_host.frames} frames at {frames_of_host.fps:.2f} fps, "
        f"after {frames_of_host.startup:.1f} s to start -> {path}"
    )
    return torch.stack(measured), frames_of_host.fps, frames_of_host.startup


def through(host: Host, source: Source, style: str, frames: int | None, out: Path) -> Result:
    """Per frame (what is measured) and coherent (all) through one host."""
    name = host.name.partition("-")[0]
    files = (out / f"{name}-per-frame.mp4", out / f"{name}-coherent.mp4")
    per_frame, slow, _ = stylize(host, source, style, 0.0, len(source.frames), files[0])
    coherent, fps, startup = stylize(host, source, style, 1.0, frames, files[1])
    return Result(host, per_frame, coherent, (slow, fps), startup, files)


def write_side_by_side(path: Path, rate: Fraction, columns: dict[str, Tensor]) -> None:
    """One frame beside the other, each (T,3,H,W) in 0..1, with its title."""
    import cv2

    with writer(path, rate) as file:
        for frames in zip(*columns.values()):
            pictures = []
            for title, frame in zip(columns, frames):
                pictured = report.picture(frame)
                for color, thickness in ((0, 3), (255, 1)):
                    cv2.putText(
                        pictured,
                        title,
                        (8, 22),
                        cv2.FONT_HERSHEY_SIMPLEX,
                        0.6,
                        (color,) * 3,
                        thickness,
                        cv2.LINE_AA,
                    )
                pictures.append(pictured)
            file.write(np.hstack(pictures))


def measure_host(result: Result, source: Source) -> list[Track]:
    """The two outputs of a host, measured: per frame and coherent."""
    clip = Clip(result.host.name, source.frames, source.flows, source.masks)
    outputs = {"per frame": result.per_frame, "coherent": result.coherent}
    methods = [
        Recorded(name, frames.float() / 255, source.scene_starts)
        for name, frames in outputs.items()
    ]
    return measure(clip, methods, moments=report.moments(len(source.frames)))


def table(results: list[tuple[Result, list[Track]]]) -> str:
    """The figures, a line a host."""
    lines = [
        f"{'host':<16}{'fps per frame':>14}{'fps coherent':>14}{'e_stab per frame':>18}"
        f"{'e_stab coherent':>17}{'ratio':>8}{'better pairs':>14}{'gradient':>10}"
    ]
    for result, tracks in results:
        per_frame, coherent = report.figures(tracks)
        lines.append(
            f"{result.host.name:<16}{result.fps[0]:>14.2f}{result.fps[1]:>14.2f}{per_frame.errors[1]:>18.5f}"
            f"{coherent.errors[1]:>17.5f}{coherent.ratios[1]:>8.3f}{'{}/{}'.format(*coherent.better):>14}"
            f"{coherent.gradient:>10.3f}"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Stylizes a video through vspipe and "
        "gst-launch-1.0, and measures how still the style stays. Without a video it makes "
        "its own.",
    )
    parser.add_argument("video", nargs="?", type=Path, help="a video file")
    parser.add_argument(
        "--style", default="candy", help="default %(default)s; `neuralstyle styles` lists them"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="stop after N frames (default: the whole video)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out"), metavar="FOLDER", help="default %(default)s"
    )
    parser.add_argument(
        "--gst-python",
        type=Path,
        default=Path(sys.executable),
        metavar="PYTHON",
        help="the Python in whose environment the GStreamer element lies (default: this one)",
    )
    args = parser.parse_args(arguments)
    if args.frames is not None and args.frames < 4:
        parser.error(f"--frames {args.frames}: at least 4 expected")
    return args


def _fraction(rate: Rational) -> Fraction:
    return Fraction(rate.numerator, rate.denominator)


def main(args: argparse.Namespace) -> int:
    out = args.out.absolute()  # vspipe evaluates a script in the folder of that script
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vsneuralstyle-") as scratch:
        hosts: list[Host] = []
        candidates: tuple[Host, ...] = (VapourSynth(), GStreamer(args.gst_python, Path(scratch)))
        for host in candidates:
            if reason := host.missing():
                say(f"Without {host.name}: {reason}.")
            else:
                hosts.append(host)
        if not hosts:
            say("No host can run here; see above what to install.")
            return 1

        say(f"1. The clip: {args.video or 'photographs under a moving camera, with one hard cut'}")
        source = (
            read_source(args.video.absolute(), args.frames)
            if args.video
            else make_source(out, args.frames)
        )
        measured, _, height, width = source.frames.shape
        say(
            f"  {source.path}; measured on {measured} frames at {width}x{height}; its flow is "
            f"{source.flow_source}"
        )

        results = []
        for number, host in enumerate(hosts, start=2):
            say(f"{number}. {host.name}: {host.show(source.path, args.style)}")
            result = through(host, source, args.style, args.frames, out)
            results.append((result, measure_host(result, source)))

    first, tracks = results[0]
    pictures = {
        "source": source.frames,
        "per frame": first.per_frame.float() / 255,
        "coherent": first.coherent.float() / 255,
    }
    report.write_clip_sheet(out / "sheet.png", tracks, lambda t: source.frames[t : t + 1])
    with av.open(str(first.files[1])) as container:
        rate = _fraction(container.streams.video[0].average_rate)
    write_side_by_side(out / "side-by-side.mp4", rate, pictures)

    say(f"{len(hosts) + 2}. Measured")
    say(table(results))
    say(
        "e_stab: mean squared change of traceable pixels besides their motion (O in 0..1); "
        "gradient: sharpness of the\n"
        "last frame, coherent / per frame. fps: after the first frame, with the encoding that runs "
        "beside it."
    )
    if len(results) == 2:
        agreement = psnr(results[0][0].coherent.float() / 255, results[1][0].coherent.float() / 255)
        say(f"The two hosts' pictures agree to {agreement.min():.1f} dB (PSNR of the worst frame).")
    say(
        f"Written: {out}/sheet.png (source | per frame | coherent), {out}/side-by-side.mp4, and "
        "each host's videos: "
        + ", ".join(str(path) for result, _ in results for path in result.files)
    )
    return 0


if __name__ == "__main__":
    arguments = parse()
    try:
        sys.exit(main(arguments))
    except NeuralStyleError as error:
        sys.exit(f"scripts/demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
