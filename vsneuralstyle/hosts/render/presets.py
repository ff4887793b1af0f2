"""Encodings by name, as editors call for them."""

from dataclasses import dataclass, field

from vsneuralstyle.errors import ArgumentError


@dataclass(frozen=True)
class Preset:
    """An encoding.

    Attributes:
        codec: FFmpeg's name of the encoder.
        doc: what it is for.
        pix_fmts: FFmpeg's pixel formats that it may choose from; empty: the encoder's own.
        options: the encoder's.
        crf: constant quality; None: the encoder's default.
        container: the suffix that an output without one gets.
    """

    codec: str
    doc: str
    pix_fmts: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    crf: float | None = None
    container: str = ".mov"


PRESETS = {
    "web": Preset("libx264", "H.264, 8 bit, plays anywhere", ("yuv420p",), container=".mp4"),
    "prores": Preset("prores_ks", "ProRes 422 HQ, 10 bit", ("yuv422p10le",), {"profile": "hq"}),
    "prores4444": Preset(
        "prores_ks",
        "ProRes 4444, 10 bit, with alpha where the source has it",
        ("yuva444p10le", "yuv444p10le"),
        {"profile": "4444"},
    ),
    "dnxhr": Preset("dnxhd", "DNxHR HQX, 10 bit", ("yuv422p10le",)),
    "ffv1": Preset(
        "ffv1", "FFV1 version 3, lossless", options={"level": "3", "slices": "4"}, container=".mkv"
    ),
    "hevc10": Preset("libx265", "HEVC, 10 bit", ("yuv420p10le",), crf=20, container=".mp4"),
    "av1": Preset("libsvtav1", "AV1, 10 bit", ("yuv420p10le",), crf=24, container=".mp4"),
}


def preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ArgumentError: there is none of that name.
    """
    if name not in PRESETS:
        raise ArgumentError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
