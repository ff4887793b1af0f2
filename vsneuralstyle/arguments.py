"""The arguments of all hosts, each declared once.

`scripts/generate.py` writes what can't import this: the C plugin's header, the GStreamer
element's table, and the reference page. The command line reads it as it is.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from vsneuralstyle.errors import ArgumentError


class Host(Enum):
    """Who takes arguments. The value is the host's name to a reader."""

    PYTHON = "Python"
    """The class `Stylizer`."""
    VAPOURSYNTH = "VapourSynth"
    GSTREAMER = "GStreamer"
    COMMAND_LINE = "command line"


class Change(Enum):
    """When a GStreamer property may change. The value is what the reference page says."""

    READY = "in READY"
    PLAYING = "while playing"
    CONTROLLABLE = "while playing, controllable"


class Clip:
    """The type of an argument that is a clip."""


EVERY_HOST = frozenset(Host)
LARGEST_INT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument.

    Attributes:
        name: as Python and VapourSynth have it.
        type: Clip, str, Path, float, int or bool.
        doc: one sentence, which begins with a capital and has no full stop.
        default: where it isn't given. None: there is none, or `doc` says what holds.
        range: the least and the greatest number; None in the place of the latter: no end.
        hosts: those that take it.
        required_by: those of them to which it must be given.
        change: when its GStreamer property may change.
        gstreamer_aliases: further names of that property.
        of_filter: the VapourSynth filter itself takes it, in C; its Python half doesn't know it.
        notes: what there is to add to `doc` on a host.
    """

    name: str
    type: type
    doc: str
    default: str | float | bool | None = None
    range: tuple[float, float | None] | None = None
    hosts: frozenset[Host] = EVERY_HOST
    required_by: frozenset[Host] = frozenset()
    change: Change = Change.READY
    gstreamer_aliases: tuple[str, ...] = ()
    of_filter: bool = False
    notes: Mapping[Host, str] = field(default_factory=dict)

    def name_on(self, host: Host) -> str:
        """Its name on a host: `model_dir`, the property `model-dir`, the option `--model-dir`."""
        kebab = self.name.replace("_", "-")
        return {Host.GSTREAMER: kebab, Host.COMMAND_LINE: f"--{kebab}"}.get(host, self.name)

    def doc_on(self, host: Host) -> str:
        """`doc`, with what there is to add on a host."""
        return "; ".join([self.doc, *filter(None, [self.notes.get(host)])])

    @property
    def expected(self) -> str:
        """Which numbers may be given, as errors say it; "" where that isn't checked by a range."""
        if self.type is bool:
            return "0 or 1"
        if self.range is None:
            return ""
        least, greatest = self.range
        return f"{least} or more" if greatest is None else f"{least} to {greatest}"


_FILTER_ONLY = frozenset({Host.VAPOURSYNTH})

ARGUMENTS = (  # in the order of VapourSynth's signature, by which they can be given without names
    Argument(
        name="clip",
        type=Clip,
        doc="Clip of a constant format: RGB, YUV or gray, 8 to 16 bits, half or single precision, "
        "chroma subsampled by 4 at most, from 16x16",
        hosts=_FILTER_ONLY,
        required_by=_FILTER_ONLY,
        of_filter=True,
    ),
    Argument(
        name="style",
        type=str,
        doc="Name of the style, or with net stylebank a mix such as candy:0.6+muse:0.4; an unknown "
        "one is an error that lists those that exist",
        default="candy",
        required_by=frozenset({Host.PYTHON, Host.COMMAND_LINE}),
        change=Change.PLAYING,
        notes={
            Host.GSTREAMER: "a new one begins afresh, with the next frame",
            Host.COMMAND_LINE: "`neuralstyle styles` lists them",
        },
    ),
    Argument(
        name="net",
        type=str,
        doc="Family of style networks: johnson (a network a style) or stylebank (one for all, "
        "whose styles mix)",
        default="johnson",
    ),
    Argument(
        name="device",
        type=str,
        doc="Where the networks run: auto, cpu, cuda or cuda:N; one that is not there is an error",
        default="auto",
    ),
    Argument(
        name="precision",
        type=str,
        doc="What the networks compute in: auto (float16 on a GPU, bfloat16 on a CPU that is "
        "faster in it, else float32), float32, bfloat16 or float16",
        default="auto",
    ),
    Argument(
        name="strength",
        type=float,
        doc="How much style: 0 is the source, 1 the stylized frame",
        default=1.0,
        range=(0, 1),
        change=Change.CONTROLLABLE,
    ),
    Argument(
        name="coherence",
        type=float,
        doc="How much of the frames before: 0 stylizes each frame by itself, which is faster "
        "and flickers",
        default=1.0,
        range=(0, 1),
        change=Change.CONTROLLABLE,
    ),
    Argument(
        name="preserve_color",
        type=bool,
        doc="Keep the source's chroma, and take luma alone from the style",
        default=False,
        change=Change.CONTROLLABLE,
    ),
    Argument(
        name="scene_cut",
        type=float,
        doc="Threshold of the detector of scene cuts, after which the style starts afresh; "
        "0 switches it off",
        default=0.15,
        range=(0, 1),
        change=Change.CONTROLLABLE,
    ),
    Argument(
        name="model_dir",
        type=Path,
        doc="Folder to look for models in first, before NEURALSTYLE_MODEL_PATH and the installed "
        "ones",
        gstreamer_aliases=("model-path",),
    ),
    Argument(
        name="device_index",
        type=int,
        doc="N, short for device cuda:N; give one of the two",
        range=(0, None),
        hosts=_FILTER_ONLY,
    ),
    Argument(
        name="fp16",
        type=bool,
        doc="1 is short for precision float16, 0 for precision float32; give one of the two",
        hosts=_FILTER_ONLY,
    ),
    Argument(
        name="mask",
        type=Clip,
        doc="Gray clip of the clip's size and length: 0 leaves the source, the highest value gives "
        "the style, linear in between",
        hosts=_FILTER_ONLY,
        of_filter=True,
    ),
    Argument(
        name="checkpoint_mb",
        type=int,
        doc="Memory for checkpoints, of the device, in MiB; 0: none",
        default=512,
        range=(0, LARGEST_INT),
        hosts=_FILTER_ONLY,
        of_filter=True,
    ),
    Argument(
        name="preroll",
        type=int,
        doc="Frames that a seek walks at most, as if a scene started there, for previews; "
        "0: as many as the exact frame takes",
        default=0,
        range=(0, LARGEST_INT),
        hosts=_FILTER_ONLY,
        of_filter=True,
    ),
    Argument(
        name="lookahead",
        type=int,
        doc="Frames held back while those after them are begun, so that a CPU works at two at a "
        "time, and a GPU while the host does, which is faster (3 are enough); each adds a frame "
        "to the latency",
        default=0,
        range=(0, 64),
        hosts=frozenset({Host.GSTREAMER}),
    ),
)
BY_NAME = {argument.name: argument for argument in ARGUMENTS}


def arguments_of(host: Host) -> list[Argument]:
    """The arguments that a host takes."""
    return [argument for argument in ARGUMENTS if host in argument.hosts]


def check_range(name: str, value: float) -> None:
    """Checks an argument that has a range. For every other name it does nothing.

    Raises:
        ArgumentError: the value is out of its range.
    """
    argument = BY_NAME.get(name)
    if argument is None or argument.range is None:
        return
    least, greatest = argument.range
    if not (least <= value and (greatest is None or value <= greatest)):  # NaN is out of any
        raise ArgumentError(f"{name} is {value}; expected {argument.expected}")


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    *names: str,
    absent_by_default: bool = False,
) -> None:
    """Adds arguments to a command's parser as options.

    Args:
        parser: a parser, or a group of one.
        names: of the arguments, as Python has them.
        absent_by_default: what isn't given stays out of the namespace; else the argument's own
            default is there.
    """
    for argument in map(BY_NAME.__getitem__, names):
        option = argument.name_on(Host.COMMAND_LINE)
        required = Host.COMMAND_LINE in argument.required_by
        doc = argument.doc_on(Host.COMMAND_LINE)
        text = doc[0].lower() + doc[1:]
        if argument.type is bool:
            parser.add_argument(option, action="store_true", help=text)
            continue
        if not (required or absent_by_default or argument.default is None):
            text += " (default %(default)s)"
        parser.add_argument(
            option,
            type=argument.type,
            default=argparse.SUPPRESS if absent_by_default else argument.default,
            required=required,
            metavar=_metavar(argument),
            help=text,
        )


def _metavar(argument: Argument) -> str | None:
    if argument.range is not None:
        least, greatest = argument.range
        return f"{least}..{'' if greatest is None else greatest}"
    return "FOLDER" if argument.type is Path else None
