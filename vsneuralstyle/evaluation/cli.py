"""`neuralstyle evaluate`: stability and sharpness of a style on real clips, per frame against coherent."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

FRAMES_AT_ONCE = 4


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsneuralstyle" / "flow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `neuralstyle evaluate`."""
    parser.add_argument("--style", required=True, help="the model to measure, by name")
    parser.add_argument("--clips", required=True, nargs="+", type=Path, metavar="VIDEO", help="videos to measure on")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="frames of each clip (default 24)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame of each clip (default 0)")
    parser.add_argument("--width", type=int, help="working width; the height follows (default: the clip's own size)")
    parser.add_argument("--height", type=int, help="working height; the width follows")
    parser.add_argument("--raft", type=Path, metavar="FILE", help="RAFT-small weights, safetensors with torchvision's "
                        "key names (default: torchvision's own, downloaded once)")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER",
                        help="where measured flow is kept (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="writes report.md, pairs.csv and a contact sheet of "
                        "each clip there (default: the table goes to standard output alone)")
    parser.add_argument("--net", default="johnson", help="style network (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--model-dir", type=Path, help="a folder of models that is looked through first")


def main(args: argparse.Namespace) -> int:
    """Runs the evaluation; returns the exit code."""
    import torch
    from tqdm import tqdm

    from ..errors import ArgumentError
    from ..stylizer import Stylizer
    from . import raft, report
    from .clips import flow_pair, read_clip
    from .occlusion import traceable

    if args.frames < 2 or args.start < 0:
        raise ArgumentError(f"--frames {args.frames} --start {args.start}: at least 2 frames from 0 on expected")
    if len({path.stem for path in args.clips}) < len(args.clips):
        raise ArgumentError("two clips have the same name; the report tells clips apart by their file names")
    stylizer = Stylizer(args.style, net=args.net, device=args.device, precision=args.precision,
                        model_dir=args.model_dir)
    model = raft.load(args.raft, stylizer.device)
    key = f"RAFT-small {args.raft.name if args.raft else 'torchvision'} {raft.UPDATES}"
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)

    def stylize(source: torch.Tensor, coherence: float) -> tuple[torch.Tensor, list[bool]]:
        stylizer.reset()
        stylizer.coherence = coherence
        frames, starts = [], []
        for batch in source.split(FRAMES_AT_ONCE):
            frames.append(stylizer.stylize(batch).cpu())
            starts += stylizer.scene_starts
        return torch.cat(frames), starts

    comparisons = []
    progress = tqdm(args.clips, unit="clip", disable=None)
    for path in progress:
        progress.set_description(path.stem)
        pixels = read_clip(path, args.frames, args.start, args.width, args.height)
        if len(pixels) < 2:
            raise ArgumentError(f"{path}: one frame from number {args.start} on; two are needed to measure stability")
        pairs = [flow_pair(partial(raft.flow, model), previous, current, args.cache, key)
                 for previous, current in zip(pixels, pixels[1:])]
        flows = torch.cat([backward for backward, _ in pairs])
        masks = torch.cat([traceable(backward, forward) for backward, forward in pairs])
        source = pixels.float() / 255
        per_frame, _ = stylize(source, 0.0)
        coherent, starts = stylize(source, 1.0)
        comparisons.append(report.compare(path.stem, source, per_frame, coherent, flows, masks, starts))
        if args.out:
            report.write_clip_sheet(args.out / f"{path.stem}.png", source, per_frame, coherent, flows, masks)

    table = report.markdown(comparisons, f"Style {args.style} ({args.net}), {args.frames} frames a clip, flow by "
                                         "RAFT-small")
    print(table, end="")
    if args.out:
        (args.out / "report.md").write_text(table, encoding="utf-8")
        report.write_pairs(args.out / "pairs.csv", comparisons)
        print(f"\nWritten: {args.out}/report.md, pairs.csv and a contact sheet of each clip", file=sys.stderr)
    return 0
