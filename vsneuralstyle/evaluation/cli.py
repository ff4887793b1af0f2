"""`neuralstyle evaluate`: stability, sharpness and likeness of a style on clips, per frame against coherent."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from vsneuralstyle.evaluation import INTERVALS


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsneuralstyle" / "flow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `neuralstyle evaluate`."""
    parser.add_argument("--style", required=True, help="the model to measure, by name")
    parser.add_argument("--clips", nargs="+", type=Path, default=[], metavar="VIDEO", help="videos to measure on")
    parser.add_argument("--sintel", type=Path, metavar="FOLDER", help="MPI Sintel's training folder, or a part of it, to "
                        "measure on with its own flow")
    parser.add_argument("--chairs", type=Path, metavar="FOLDER", help="Flying Chairs, or a part of it, to measure the "
                        "flow network's endpoint error on")
    parser.add_argument("--rendering", choices=("clean", "final"), default="final", help="of Sintel (default final)")
    parser.add_argument("--variant", nargs="+", default=[], metavar="NAME=FILE", help="other model files to measure "
                        "beside it, each under a name of yours; NAME=FILE+FILE: the first one's style network with the "
                        "flow and mask networks of the second; of StyleBank the banks' files")
    parser.add_argument("--coherence", type=float, nargs="+", default=[], metavar="0..1", help="further values of "
                        "coherence to measure the model with, beside 0 (per frame) and 1 (coherent)")
    parser.add_argument("--frames", type=int, default=25, metavar="N", help="frames of each clip (default 25)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame of each clip (default 0)")
    parser.add_argument("--intervals", type=int, nargs="*", choices=INTERVALS, default=INTERVALS, help="frames between "
                        "the two of a pair; flow is measured for each (default: both; none: sharpness alone)")
    parser.add_argument("--width", type=int, help="working width; the height follows (default: the clip's own size)")
    parser.add_argument("--height", type=int, help="working height; the width follows")
    parser.add_argument("--raft", type=Path, metavar="FILE", help="RAFT-small weights, safetensors with torchvision's "
                        "key names (default: torchvision's own, downloaded once)")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER",
                        help="where measured flow is kept (default %(default)s)")
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-19 as safetensors, for the perceptual figures; "
                        "'torchvision' takes torchvision's (default: without those figures)")
    parser.add_argument("--painting", type=Path, metavar="FILE", help="the style's picture, for the style loss")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="writes report.md, frames.csv, plots and a contact "
                        "sheet of each clip there (default: the tables go to standard output alone)")
    parser.add_argument("--net", default="johnson", help="style network (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--model-dir", type=Path, help="a folder of models that is looked through first")


def main(args: argparse.Namespace) -> int:
    """Runs the evaluation; returns the exit code."""
    from tqdm import tqdm

    from vsneuralstyle.errors import ArgumentError
    from vsneuralstyle.evaluation import endpoint, methods, metrics, raft, report
    from vsneuralstyle.evaluation.clips import Clip, MeasuredClip, read_clip, read_sintel
    from vsneuralstyle.evaluation.measure import measure
    from vsneuralstyle.kernels.net1 import fastest
    from vsneuralstyle.stylizer import Stylizer
    from vsneuralstyle.training.run import read_image, to_tensor
    from vsneuralstyle.weights import BANK_SUFFIX, SUFFIX

    if args.frames < 2 or args.start < 0:
        raise ArgumentError(f"--frames {args.frames} --start {args.start}: at least 2 frames from 0 on expected")
    if not (args.clips or args.sintel or args.chairs):
        raise ArgumentError("nothing to measure on; expected --clips VIDEO ..., --sintel FOLDER or --chairs FOLDER")
    if len({path.stem for path in args.clips}) < len(args.clips):
        raise ArgumentError("two clips have the same name; the report tells clips apart by their file names")

    def stylizer(path: Path | None = None, **options) -> Stylizer:
        style, folder = args.style, args.model_dir
        if path is not None:
            style, folder = path.name.removesuffix(BANK_SUFFIX).removesuffix(SUFFIX), path.parent
        return Stylizer(style, net=args.net, device=args.device, precision=args.precision, model_dir=folder, **options)

    def variant_of(files: str) -> Stylizer:
        style, _, motion = (files, "", "") if Path(files).is_file() else files.partition("+")
        result = stylizer(Path(style))
        if motion:
            net1, other = result.model.net1, stylizer(Path(motion)).model.net1
            net1.flow, net1.mask = other.flow, other.mask
            result.net1 = fastest(net1)
        return result

    per_frame = methods.Stylized("per frame", stylizer(coherence=0.0))
    coherent = methods.Stylized("coherent", stylizer())
    compared = [per_frame, methods.Blind("blind baseline", coherent.stylizer, per_frame)]
    for variant in args.variant:
        name, _, file = variant.partition("=")
        if not (name and file):
            raise ArgumentError(f"--variant {variant}: expected NAME=FILE, as in bilinear=runs/bilinear/candy.safetensors")
        compared.append(methods.Stylized(name, variant_of(file)))
    compared += [methods.Stylized(f"coherence {c:g}", stylizer(coherence=c)) for c in args.coherence]
    compared += [coherent, methods.Source("source")]
    device = coherent.stylizer.device

    perception = None
    if args.vgg:
        painting = to_tensor(read_image(args.painting, 512)[None], device) if args.painting else None
        perception = metrics.Perception(None if str(args.vgg) == "torchvision" else args.vgg, painting, device)

    for path in args.clips:
        if not path.is_file():
            raise ArgumentError(f"{path}: no such file; expected a video")

    def measured_clips() -> Iterator[MeasuredClip]:
        model = raft.load(args.raft, device) if args.intervals else None
        key = f"RAFT-small {args.raft.name if args.raft else 'torchvision'} {raft.UPDATES}"
        for path in args.clips:
            frames = read_clip(path, args.frames, args.start, args.width, args.height)
            if len(frames) < 2:
                raise ArgumentError(f"{path}: one frame from number {args.start} on; two are needed to measure stability")
            yield MeasuredClip(path.stem, frames, function=partial(raft.flow, model), cache=args.cache, key=key,
                               intervals=args.intervals)

    sets: list[tuple[str, Iterable[Clip]]] = []
    if args.clips:
        flow = "flow by RAFT-small" if args.intervals else "no flow"
        sets.append((f"{len(args.clips)} clips, {args.frames} frames each, {flow}", measured_clips()))
    if args.sintel:
        scenes = read_sintel(args.sintel, args.rendering)
        whole = "" if len(scenes) == 23 else " subset"
        sets.append((f"MPI Sintel{whole}, {args.rendering}: {len(scenes)} runs of frames, its own flow", scenes))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)

    text, everything = f"# Style {args.style} ({args.net})\n\n{report.DEFINITION}\n", {}
    for title, clips in sets:
        tracks = []
        with tqdm(unit="frame", disable=None) as bar:
            for clip in clips:  # read one at a time: together they may not fit into memory
                bar.set_description(clip.name)
                moments = report.moments(len(clip.frames)) if args.out else ()
                of_clip = measure(clip, compared, perception, moments, bar.update)
                if args.out:
                    shown = [track for track in of_clip if track.method != "source"]
                    report.write_clip_sheet(args.out / f"{clip.name}.jpg", shown, clip.frame)
                for track in of_clip:
                    track.pictures.clear()
                tracks += of_clip
        everything[title] = tracks
        table = report.table(report.figures(tracks), report.paper(args.style, args.net))
        text += f"\n## {title}\n\n{table}\n{report.clip_table(tracks)}"
    pairs = chain(endpoint.sintel_pairs(args.sintel, args.rendering) if args.sintel else (),
                  endpoint.chairs_pairs(args.chairs) if args.chairs else ())
    models = {m.name: m.stylizer for m in compared if isinstance(m, methods.Stylized) and m.stylizer.coherence == 1}
    errors = [(pair.name, pair.length, {name: endpoint.endpoint_error(model, pair) for name, model in models.items()})
              for pair in pairs]
    if errors:
        text += f"\n## Endpoint error of the flow network, pixels\n\n{report.flow_table(errors)}"
    print(text, end="")
    if args.out:
        (args.out / "report.md").write_text(text, encoding="utf-8")
        report.write_tracks(args.out / "frames.csv", [track for tracks in everything.values() for track in tracks])
        if everything:
            report.write_plots(args.out, everything)
        print(f"\nWritten: {args.out}/report.md, frames.csv, plots and a contact sheet of each clip", file=sys.stderr)
    return 0
