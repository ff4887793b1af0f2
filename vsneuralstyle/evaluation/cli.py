"""`neuralstyle evaluate`: stability, sharpness and likeness of styles on clips, per frame against
coherent.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from vsneuralstyle import cache
from vsneuralstyle.arguments import add_options
from vsneuralstyle.evaluation import INTERVALS

if TYPE_CHECKING:
    from vsneuralstyle.evaluation.measure import Track


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `neuralstyle evaluate`."""
    parser.add_argument(
        "--style",
        nargs="+",
        required=True,
        metavar="STYLE",
        help="the model to measure, by name; of several there is a report each, and a summary",
    )
    parser.add_argument(
        "--clips", nargs="+", type=Path, default=[], metavar="VIDEO", help="videos to measure on"
    )
    parser.add_argument(
        "--sintel",
        type=Path,
        metavar="FOLDER",
        help="MPI Sintel's training folder, or a part of it, to measure on with its own flow",
    )
    parser.add_argument(
        "--chairs",
        type=Path,
        metavar="FOLDER",
        help="Flying Chairs, or a part of it, to measure the flow network's endpoint error on",
    )
    parser.add_argument(
        "--rendering", choices=("clean", "final"), default="final", help="of Sintel (default final)"
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="other model files to measure "
        "beside it, each under a name of yours; NAME=FILE+FILE: the first one's style network with "
        "the flow and mask networks of the second; of StyleBank the banks' files. {style} in FILE "
        "stands for the style's name",
    )
    parser.add_argument(
        "--coherence",
        type=float,
        nargs="+",
        default=[],
        metavar="0..1",
        help="further values of "
        "coherence to measure the model with, beside 0 (per frame) and 1 (coherent)",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="also composes features at each of five layers, with the "
        "model's own flow and mask (Table 3 of the paper; Johnson networks)",
    )
    parser.add_argument(
        "--frames", type=int, default=25, metavar="N", help="frames of each clip (default 25)"
    )
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame of each clip (default 0)"
    )
    parser.add_argument(
        "--intervals",
        type=int,
        nargs="*",
        choices=INTERVALS,
        default=INTERVALS,
        help="frames between "
        "the two of a pair; flow is measured for each (default: both; none: sharpness alone)",
    )
    parser.add_argument(
        "--width", type=int, help="working width; the height follows (default: the clip's own size)"
    )
    parser.add_argument("--height", type=int, help="working height; the width follows")
    parser.add_argument(
        "--raft",
        type=Path,
        metavar="FILE",
        help="RAFT-small weights, safetensors with torchvision's "
        "key names (default: torchvision's own, downloaded once)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache.folder("flow"),
        metavar="FOLDER",
        help="where measured flow is kept (default %(default)s)",
    )
    parser.add_argument(
        "--vgg",
        type=Path,
        metavar="FILE",
        help="VGG-19 as safetensors, for the perceptual figures; "
        "'torchvision' takes torchvision's (default: without those figures)",
    )
    parser.add_argument(
        "--painting",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="each style's picture, in the same order, for the style loss",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="writes report.md, frames.csv, plots and a contact "
        "sheet of each clip there; of several styles in a folder each, beside summary.md and "
        "summary.csv (default: the tables go to standard output alone)",
    )
    add_options(parser, "net", "device", "precision", "model_dir")


def main(args: argparse.Namespace) -> int:
    """Runs the evaluation; returns the exit code."""
    from vsneuralstyle.errors import ArgumentError
    from vsneuralstyle.evaluation import report
    from vsneuralstyle.networks.checkpoint import load_model

    if len(set(args.style)) < len(args.style):
        raise ArgumentError(
            f"--style {' '.join(args.style)}: one is there twice; expected each once"
        )
    if args.painting and len(args.painting) != len(args.style):
        raise ArgumentError(
            f"--painting: {len(args.painting)} given for {len(args.style)} of --style; expected a "
            "file for each, in the same order"
        )
    if args.layers and args.net != "johnson":
        raise ArgumentError(
            f"--layers with --net {args.net}: a bank in the middle makes its styles, and the "
            "features before it have none to be composed; leave --layers out, or measure --net "
            "johnson"
        )
    if args.frames < 2 or args.start < 0:
        raise ArgumentError(
            f"--frames {args.frames} --start {args.start}: at least 2 frames from 0 on expected"
        )
    if not (args.clips or args.sintel or args.chairs):
        raise ArgumentError(
            "nothing to measure on; expected --clips VIDEO ..., --sintel FOLDER or --chairs FOLDER"
        )
    if len({path.stem for path in args.clips}) < len(args.clips):
        raise ArgumentError(
            "two clips have the same name; the report tells clips apart by their file names"
        )
    for style in args.style:
        # one that isn't there is told of before the others are measured
        load_model(style, args.net, args.model_dir)

    rows = []
    for style, painting in zip(args.style, args.painting or [None] * len(args.style)):
        out = args.out / style if args.out and len(args.style) > 1 else args.out
        text, tracks = evaluate(args, style, painting, out)
        print(text, end="\n" if len(args.style) > 1 else "")
        if out:
            print(
                f"\nWritten: {out}/report.md, frames.csv, plots and a contact sheet of each clip",
                file=sys.stderr,
            )
        rows.append(
            report.summary_row(style, args.net, tracks.get("clips", ()), tracks.get("sintel", ()))
        )
    if len(rows) > 1:
        text = f"# Summary ({args.net})\n\n{report.summary(rows)}"
        print(text, end="")
        if args.out:
            report.write_summary(args.out, text, rows)
            print(f"\nWritten: {args.out}/summary.md and summary.csv", file=sys.stderr)
    return 0


def evaluate(
    args: argparse.Namespace, style: str, painting: Path | None, out: Path | None
) -> "tuple[str, dict[str, list[Track]]]":
    """Measures one style; what it writes goes to the folder `out`.

    Returns:
        The report, and what was measured on "clips" and on "sintel", where they were given.
    """
    from tqdm import tqdm

    from vsneuralstyle.core.stylizer import Stylizer
    from vsneuralstyle.engines.engine import select_engine
    from vsneuralstyle.errors import ArgumentError
    from vsneuralstyle.evaluation import endpoint, methods, metrics, report
    from vsneuralstyle.evaluation.clips import Clip, MeasuredClip, read_clip, read_sintel
    from vsneuralstyle.evaluation.measure import measure
    from vsneuralstyle.measurement import raft
    from vsneuralstyle.measurement.images import read_image, to_tensor
    from vsneuralstyle.networks.checkpoint import BANK_SUFFIX, SUFFIX

    def stylizer(path: Path | None = None, **options) -> Stylizer:
        name, folder = style, args.model_dir
        if path is not None:
            name, folder = path.name.removesuffix(BANK_SUFFIX).removesuffix(SUFFIX), path.parent
        return Stylizer(
            name,
            net=args.net,
            device=args.device,
            precision=args.precision,
            model_dir=folder,
            **options,
        )

    def variant_of(files: str) -> Stylizer:
        first, _, motion = (files, "", "") if Path(files).is_file() else files.partition("+")
        result = stylizer(Path(first))
        if motion:
            net1, other = result.model.net1, stylizer(Path(motion)).model.net1
            net1.flow, net1.mask = other.flow, other.mask
            result.engine = select_engine(net1, result.device, result.precision)
        return result

    per_frame = methods.Stylized("per frame", stylizer(coherence=0.0))
    coherent = methods.Stylized("coherent", stylizer())
    compared = [per_frame, methods.Blind("blind baseline", coherent.stylizer, per_frame)]
    for variant in args.variant:
        name, _, file = variant.partition("=")
        if not (name and file):
            raise ArgumentError(
                f"--variant {variant}: expected NAME=FILE, as in "
                "bilinear=runs/bilinear/candy.safetensors"
            )
        compared.append(methods.Stylized(name, variant_of(file.replace("{style}", style))))
    compared += [
        methods.Stylized(f"coherence {c:g}", stylizer(coherence=c)) for c in args.coherence
    ]
    if args.layers:
        compared += [methods.Composed(layer, stylizer(), layer) for layer in methods.LAYERS]
    compared += [coherent, methods.Source("source")]
    names = [method.name for method in compared]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"two methods have the same name: {', '.join(names)}; expected another NAME for a "
            "--variant, and each --coherence once"
        )
    device = coherent.stylizer.device

    perception = None
    if args.vgg:
        picture = to_tensor(read_image(painting, 512)[None], device) if painting else None
        perception = metrics.Perception(
            None if str(args.vgg) == "torchvision" else args.vgg, picture, device
        )

    for path in args.clips:
        if not path.is_file():
            raise ArgumentError(f"{path}: no such file; expected a video")

    def measured_clips() -> Iterator[MeasuredClip]:
        model = raft.load(args.raft, device) if args.intervals else None
        key = f"RAFT-small {args.raft.name if args.raft else 'torchvision'} {raft.UPDATES}"
        for path in args.clips:
            frames = read_clip(path, args.frames, args.start, args.width, args.height)
            if len(frames) < 2:
                raise ArgumentError(
                    f"{path}: one frame from number {args.start} on; two are needed to measure "
                    "stability"
                )
            yield MeasuredClip(
                path.stem,
                frames,
                function=None if model is None else partial(raft.flow, model),
                cache=args.cache,
                key=key,
                intervals=args.intervals,
            )

    sets: dict[str, tuple[str, Iterable[Clip]]] = {}
    if args.clips:
        flow = "flow by RAFT-small" if args.intervals else "no flow"
        sets["clips"] = (
            f"{len(args.clips)} clips, {args.frames} frames each, {flow}",
            measured_clips(),
        )
    if args.sintel:
        scenes = read_sintel(args.sintel, args.rendering)
        whole = "" if len(scenes) == 23 else " subset"
        sets["sintel"] = (
            f"MPI Sintel{whole}, {args.rendering}: {len(scenes)} runs of frames, its own flow",
            scenes,
        )
    if out:
        out.mkdir(parents=True, exist_ok=True)

    definition = report.DEFINITION + (report.DEFINITION_OF_LAYERS if args.layers else "")
    text = f"# Style {style} ({args.net})\n\n{definition}\n"
    everything: dict[str, list[Track]] = {}
    for which, (title, clips) in sets.items():
        tracks = everything[which] = []
        with tqdm(unit="frame", disable=None) as bar:
            for clip in clips:  # read one at a time: together they may not fit into memory
                bar.set_description(clip.name)
                moments = report.moments(len(clip.frames)) if out else ()
                of_clip = measure(clip, compared, perception, moments, bar.update)
                if out:
                    shown = [track for track in of_clip if track.method != "source"]
                    report.write_clip_sheet(out / f"{clip.name}.jpg", shown, clip.frame)
                for track in of_clip:
                    track.pictures.clear()
                tracks += of_clip
        table = report.table(report.figures(tracks), report.paper(style, args.net, args.layers))
        text += f"\n## {title}\n\n{table}\n{report.clip_table(tracks)}"
        if long := report.long_table(tracks):
            text += f"\n{report.DEFINITION_OF_LONG}\n\n{long}"
    pairs = chain(
        endpoint.sintel_pairs(args.sintel, args.rendering) if args.sintel else (),
        endpoint.chairs_pairs(args.chairs) if args.chairs else (),
    )
    models = {
        m.name: m.stylizer
        for m in compared
        if type(m) is methods.Stylized and m.stylizer.coherence == 1
    }
    errors = [
        (
            pair.name,
            pair.length,
            {name: endpoint.endpoint_error(model, pair) for name, model in models.items()},
        )
        for pair in pairs
    ]
    if errors:
        text += f"\n## Endpoint error of the flow network, pixels\n\n{report.flow_table(errors)}"
    if out:
        (out / "report.md").write_text(text, encoding="utf-8")
        report.write_tracks(
            out / "frames.csv", [track for tracks in everything.values() for track in tracks]
        )
        if everything:
            report.write_plots(
                out, {title: everything[which] for which, (title, _) in sets.items()}
            )
    return text, everything
