"""`neuralstyle render`."""

import argparse
import logging
from collections.abc import Sequence

from vsneuralstyle.arguments import add_options
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.hosts.render import jobs
from vsneuralstyle.hosts.render.presets import PRESETS

# Arguments of `Stylizer`, as the help groups them
LOOK = ("strength", "coherence", "preserve_color", "scene_cut")
MODEL = ("net", "model_dir", "device", "precision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Stylizes video files. Size, timestamps, color tags, depth, audio and, where the container "
        "can carry them, subtitles are kept. Each output appears when it is complete: Ctrl-C or "
        "an error leaves none behind, and an existing one as it was."
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="a video file, a folder of them, a glob, an image sequence such as shot/%%05d.png, "
        "or - for YUV4MPEG on standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the file to write, whose suffix chooses the container (.mp4, .mkv, .webm, .mov, "
        ".gif, ...); an image sequence such as out/%%05d.png; a folder; a name with {stem} and "
        "{style}; or - for YUV4MPEG on standard output",
    )
    add_options(parser, "style")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--on-error",
        default="repeat",
        metavar="stop|skip|repeat",
        help="a damaged frame: end with an error, leave it out, or show the one before it again "
        "(default repeat); stop ends at a cut-off file, too",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no warnings")
    parser.add_argument(
        "--progress",
        metavar="json",
        choices=["json"],
        help="json: an object a line on standard error, in the place of the bar",
    )
    _add_part(parser.add_argument_group("part"))
    _add_over_time(parser.add_argument_group("over time"))
    add_options(parser.add_argument_group("look"), *LOOK)
    add_options(parser.add_argument_group("model"), *MODEL)
    _add_output(parser.add_argument_group("output"))


def _add_part(group: argparse._ArgumentGroup) -> None:
    when = "seconds, [HH:]MM:SS, a timecode HH:MM:SS:FF, or a frame's number such as 120f"
    group.add_argument("--rate", help="frames a second of an image sequence (default 25)")
    group.add_argument("--start", metavar="TIME", help=f"begin there: {when}")
    group.add_argument("--end", metavar="TIME", help="end before that")
    group.add_argument(
        "--frames", metavar="FIRST-LAST", help="these frames, counted from 0, the last included"
    )


def _add_over_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--keyframes",
        metavar="FILE",
        help="strength, coherence and preserve_color over time, in TOML or JSON",
    )
    group.add_argument(
        "--cuts",
        metavar="FILE",
        help="where scenes start, which outweighs the detector: a .csv with a column frame or "
        "time; .edl and .otio by opentimelineio",
    )
    group.add_argument("--write-cuts", metavar="FILE", help="a .csv of where scenes started")


def _add_output(output: argparse._ArgumentGroup) -> None:
    sound = output.add_mutually_exclusive_group()
    sound.add_argument("--no-audio", action="store_true", help="leave the audio out")
    sound.add_argument(
        "--audio-codec",
        metavar="NAME",
        help="copy, or FFmpeg's name of the audio encoder (default: copy where the "
        "container can carry it, else the usual one there: libopus in .webm)",
    )
    presets = "; ".join(f"{name}: {preset.doc}" for name, preset in PRESETS.items())
    output.add_argument("--preset", metavar="NAME", help=f"an encoding by name. {presets}")
    output.add_argument(
        "--codec",
        metavar="NAME",
        help="FFmpeg's name of the video encoder (default libx264; libvpx-vp9 in "
        ".webm, gif in .gif)",
    )
    output.add_argument(
        "--crf",
        type=float,
        help="constant quality, lower is better (default 18 for libx264, 24 for libvpx-vp9)",
    )
    output.add_argument(
        "--pix-fmt",
        metavar="NAME",
        help="FFmpeg's name of the pixel format (default: 4:2:0 of the source's depth; 4:4:4 for "
        "odd sizes)",
    )
    output.add_argument(
        "--encoder-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the encoder, as FFmpeg names it; may be given several times",
    )


def main(args: argparse.Namespace) -> None:
    """Renders; see `render`.

    Raises:
        NeuralStyleError: what `render` raises; after all files where one of several failed.
    """
    from vsneuralstyle.hosts.render import render

    if args.quiet:
        logging.getLogger("vsneuralstyle").setLevel(logging.ERROR)
    stylizer = {name: getattr(args, name) for name in (*LOOK, *MODEL)}
    encoder_options = _pairs(args.encoder_option)
    suffix = PRESETS[args.preset].container if args.preset in PRESETS else None
    for source, destination in jobs.plan(args.sources, args.output, args.style, suffix):
        render(
            source,
            destination,
            style=args.style,
            overwrite=args.overwrite,
            on_error=args.on_error,
            progress=False if args.quiet else args.progress,
            rate=_rate(args.rate),
            start=args.start,
            end=args.end,
            frames=args.frames,
            keyframes=args.keyframes,
            cuts=args.cuts,
            write_cuts=args.write_cuts,
            audio=not args.no_audio,
            audio_codec=args.audio_codec,
            preset=args.preset,
            codec=args.codec,
            crf=args.crf,
            pix_fmt=args.pix_fmt,
            encoder_options=encoder_options,
            **stylizer,
        )


def _rate(text: str | None) -> str | None:
    """A rate as it was given, if it is one."""
    from fractions import Fraction

    if text is not None:
        try:
            positive = Fraction(text) > 0
        except (ValueError, ZeroDivisionError):
            positive = False
        if not positive:
            raise ArgumentError(
                f"rate is {text!r}; expected frames a second, such as 25 or 24000/1001"
            )
    return text


def _pairs(options: Sequence[str]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise ArgumentError(
                f"encoder-option is {name!r}; expected KEY=VALUE, such as preset=slow"
            )
    return {name: value for name, _, value in pairs}
