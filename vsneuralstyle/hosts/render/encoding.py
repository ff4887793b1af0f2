"""The video encoder of the output: which one, its options and its pixel format."""

import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path

import av
from av.codec.codec import PixFmtLoss, find_best_pix_fmt_of_list
from av.codec.context import Flags
from av.container import OutputContainer
from av.filter import Graph
from av.video.stream import VideoStream

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.hosts.render import sequences
from vsneuralstyle.hosts.render.conversion import PALETTE, bits, has_alpha
from vsneuralstyle.hosts.render.ffmpeg import can_carry, check_encoder
from vsneuralstyle.hosts.render.presets import Preset, preset
from vsneuralstyle.hosts.render.sequences import is_sequence
from vsneuralstyle.hosts.render.source import frame_rate
from vsneuralstyle.hosts.render.timeline import seconds

log = logging.getLogger("vsneuralstyle.hosts.render")

ENCODERS = ("libx264", "libvpx-vp9")  # the default is the first that the container can carry
CONTAINER_ENCODERS = {"gif": "gif", "yuv4mpegpipe": "wrapped_avframe"}  # containers of one codec
EXAMPLES = "libx264, libx265, libvpx-vp9 or ffv1"
CONTAINERS = ".mp4, .mkv, .webm or .mov"
# Visually lossless.
DEFAULT_CRF = {"libx264": 18, "libx264rgb": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}
HIGHEST_CRF = 51  # for x264 and x265: FFmpeg gives them no bound, the encoders have this one
# VP9: its own defaults use one core, slowly.
ENCODER_OPTIONS = {
    "libvpx-vp9": {"row-mt": "1", "cpu-used": "4"},
    "libx265": {"x265-params": "log-level=error"},  # it writes to stderr itself
}
# DNxHD is for a few frame sizes at given bit rates; DNxHR, its successor, for any from 256x120 up.
DNXHR_PROFILES = {
    "yuv422p": "dnxhr_hq",
    "yuv422p10le": "dnxhr_hqx",
    "yuv444p10le": "dnxhr_444",
    "gbrp10le": "dnxhr_444",
}
# What an encoder without a list of pixel formats may be given.
ANY_FORMAT = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "rgb24")
HEVC = {"libx265", "hevc_nvenc", "hevc_qsv", "hevc_amf", "hevc_videotoolbox"}
APPLE = {"mp4", "mov", "ipod"}  # containers that Apple's players read
FLOATS = re.compile(r"f(16|32)(le|be)$")  # pixel formats
GIF_TICK = Fraction(1, 100)  # seconds


@dataclass(frozen=True)
class Encoding:
    """What `render` documents under these names."""

    codec: str | None = None
    crf: float | None = None
    pix_fmt: str | None = None
    preset: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def add_encoder(
    writer: OutputContainer, video: VideoStream, destination: Path, encoding: Encoding
) -> VideoStream:
    """Adds the encoder's stream.

    Raises:
        MediaError: no such encoder or pixel format, or the container can't carry it.
        ArgumentError: crf is out of the encoder's range, or no such preset or option.
    """
    chosen = preset(encoding.preset) if encoding.preset else None
    codec = encoding.codec or (chosen and chosen.codec)
    name = codec or _usual_encoder(writer, destination)
    check_encoder(name, "video", "--codec", EXAMPLES)
    # For rate control and the header; each frame's timestamp is what counts.
    rate = frame_rate(video) or sequences.DEFAULT_RATE
    try:
        encoder = writer.add_stream(name, rate=rate, width=video.width, height=video.height)
    except ValueError as refusal:
        raise MediaError(
            f"can't write {destination}: {refusal}; choose {CONTAINERS}, or another "
            f"encoder (--codec), for example {EXAMPLES}"
        ) from refusal
    assert isinstance(encoder, VideoStream)  # `check_encoder` has looked
    # YUV4MPEG has a rate in the place of times.
    tick = (
        Fraction(rate.denominator, rate.numerator)
        if writer.format.name == "yuv4mpegpipe"
        else video.time_base
    )
    encoder.codec_context.time_base = encoder.time_base = tick
    encoder.codec_context.flags |= Flags.frame_duration
    pix_fmt = _choose_pix_fmt(encoder, video, encoding.pix_fmt, chosen)
    encoder.pix_fmt = pix_fmt
    crf = chosen.crf if chosen and encoding.crf is None else encoding.crf
    given = {**(chosen.options if chosen else {}), **encoding.options}
    _check_options(encoder, encoding.options)
    encoder.options = {**_options(encoder, pix_fmt, crf), **given}
    if encoder.codec_context.name in HEVC and writer.format.name in APPLE:
        encoder.codec_context.codec_tag = "hvc1"  # hev1, FFmpeg's own, isn't played there
    return encoder


def _check_options(encoder: VideoStream, options: Mapping[str, str]) -> None:
    known = encoder.codec_context.supported_options
    names = {option.name for option in (*known.private, *known.generic)}
    for name in options:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, 3)
            raise ArgumentError(
                f"--encoder-option {name}: {encoder.codec.name} has no such option; expected one "
                f"of `ffmpeg -h encoder={encoder.codec.name}`"
                + (f", such as {', '.join(nearest)}" if nearest else "")
            )


def _usual_encoder(writer: OutputContainer, destination: Path) -> str:
    if is_sequence(destination):
        suffix = destination.suffix.lower()
        if suffix not in sequences.ENCODERS:
            raise MediaError(
                f"can't write {destination}: no image format has the suffix {suffix!r}; expected "
                f"one of {', '.join(sequences.ENCODERS)}"
            )
        return sequences.ENCODERS[suffix]
    if own := CONTAINER_ENCODERS.get(writer.format.name):
        return own
    for name in ENCODERS:
        if can_carry(
            writer.format.name,
            lambda trial: trial.add_stream(name, rate=25, width=64, height=64),  # noqa: B023  at once
        ):
            return name
    raise MediaError(
        f"can't write {destination}: {writer.format.long_name} carries neither H.264 "
        f"nor VP9, which the default encoders make; choose {CONTAINERS}, or name an "
        f"encoder (--codec; the usual codec there is {writer.default_video_codec})"
    )


def _options(encoder: VideoStream, pix_fmt: str, crf: float | None) -> dict[str, object]:
    name = encoder.codec.name
    options: dict[str, object] = dict(ENCODER_OPTIONS.get(name, {}))
    if name == "dnxhd":
        options["profile"] = DNXHR_PROFILES[pix_fmt]
    if crf is not None:
        _check_crf(encoder, crf)
    if (quality := DEFAULT_CRF.get(name) if crf is None else crf) is not None:
        options["crf"] = str(quality)
    return options


def _check_crf(encoder: VideoStream, crf: float) -> None:
    name = encoder.codec.name
    options = encoder.codec_context.supported_options.private
    bound = next((option.max for option in options if option.name == "crf"), None)
    if bound is None:
        raise ArgumentError(
            f"--crf {crf:g}: {name} has no such option; leave it out, or choose an "
            f"encoder that does: {', '.join(DEFAULT_CRF)}"
        )
    highest = bound if bound < 1000 else HIGHEST_CRF
    if not 0 <= crf <= highest:
        default = DEFAULT_CRF.get(name, "the encoder's default")
        raise ArgumentError(
            f"--crf {crf:g}: expected a number from 0 (the best picture) to "
            f"{highest:g} for {name}; leave it out for {default}"
        )


def _choose_pix_fmt(
    encoder: VideoStream, video: VideoStream, pix_fmt: str | None, preset: Preset | None
) -> str:
    """A pixel format that the encoder takes: the one that is given; for images, and for presets
    that leave it open, the nearest to the source's; else 4:2:0 where there is that.
    """
    known = _pixel_formats(encoder)
    if pix_fmt is not None:
        if pix_fmt not in known:
            raise MediaError(
                f"{encoder.codec.name} does not encode {pix_fmt!r} (--pix-fmt); "
                f"expected one of {', '.join(known)}"
            )
        return pix_fmt
    if preset and preset.pix_fmts:
        known = [name for name in known if name in preset.pix_fmts] or known
    if has_alpha(video.format):
        known = [name for name in known if has_alpha(av.VideoFormat(name))] or known
    nearest = _nearest(known, video.format) or known[0]
    odd = bool(video.width % 2 or video.height % 2)
    if encoder.codec.name in sequences.ENCODERS.values() or (preset and not preset.pix_fmts):
        return nearest
    usual = (*_of_depth(video.format, odd), PALETTE)
    chosen = next((name for name in usual if name in known), nearest)
    if odd and chosen != PALETTE:
        log.warning(
            "%dx%d is odd: written as %s, which some players lack; crop the source to an "
            "even size for yuv420p",
            video.width,
            video.height,
            chosen,
        )
    if chosen != PALETTE:
        _warn_of_coarser_samples(video.format, chosen, known)
    return chosen


def _nearest(known: Sequence[str], source: av.VideoFormat) -> str | None:
    """The pixel format that loses the least of the source; None: FFmpeg can't say."""
    best, _ = find_best_pix_fmt_of_list(known, source, has_alpha(source))
    return best.name if isinstance(best, av.VideoFormat) else best


def _of_depth(source: av.VideoFormat, odd: bool) -> Iterator[str]:
    """Pixel formats of Y'CbCr by preference: with alpha where the source has it, of its depth or
    the next larger one, then of 8 bits; 4:2:0, or 4:4:4 for an odd size.
    """
    depth = bits(source)
    depths = [deeper for deeper in (10, 12, 16) if deeper >= depth] if depth > 8 else []
    for kind in ("yuva", "yuv") if has_alpha(source) else ("yuv",):
        for chroma in ("444p", "420p") if odd else ("420p",):
            yield from (f"{kind}{chroma}{deeper}le" for deeper in depths)
            yield f"{kind}{chroma}"


def _pixel_formats(encoder: VideoStream) -> list[str]:
    name, listed = encoder.codec.name, encoder.codec.video_formats
    if listed is None:  # it has no list: it may take any
        return list(ANY_FORMAT)
    # What has no components is in the memory of a GPU. FFV1's floats are of its version 4, which
    # is experimental.
    taken = (pixels for pixels in listed if name != "ffv1" or not FLOATS.search(pixels.name))
    if not (known := [pixels.name for pixels in taken if pixels.components]):
        raise MediaError(
            f"--codec {name}: it takes frames that a GPU holds, and these are in "
            f"memory; choose another encoder, for example {EXAMPLES}"
        )
    return known


def _warn_of_coarser_samples(source: av.VideoFormat, chosen: str, known: list[str]) -> None:
    """Says whether the chosen pixel format has fewer bits or less chroma, and which has not."""
    # "yuvj" begins the old names for a full range; a few encoders, such as amv, take no others.
    usual = [name for name in known if not name.startswith("yuvj")] or known
    nearest, _ = find_best_pix_fmt_of_list(usual, source)
    assert nearest is not None  # of at least one
    best = nearest.name
    lost = find_best_pix_fmt_of_list([chosen], source)[1]
    if lost & PixFmtLoss.DEPTH:
        kept = bits(av.VideoFormat(best))
        log.warning(
            "the source has %d bits a sample, the output %d (%s)%s",
            bits(source),
            bits(av.VideoFormat(chosen)),
            chosen,
            "" if best == chosen else f"; --pix-fmt {best} keeps {kept}",
        )
    elif lost & PixFmtLoss.RESOLUTION and best != chosen and len(source.components) > 2:
        log.warning(
            "the source has finer chroma (%s) than the output (%s); --pix-fmt %s keeps it",
            source.name,
            chosen,
            best,
        )


class PaletteEncoder:
    """Encodes frames as GIF, each with a palette of its own (FFmpeg's palettegen and paletteuse).

    It holds one frame at a time. GIF counts time in hundredths of a second: of the frames that
    share one the first is kept.
    """

    def __init__(self, encoder: VideoStream) -> None:
        self.encoder = encoder
        self._graph: Graph | None = None
        self._last_tick: int | None = None
        self._dropped = False

    def encode(self, frame: av.VideoFrame | None) -> list[av.Packet]:
        """The packets of a frame in `conversion.PALETTE_SOURCE`; None: what is left at the end."""
        if frame is None:
            return self.encoder.encode(None)
        assert frame.pts is not None  # `Converter` gives each frame a time
        tick = floor(seconds(frame.pts, frame.time_base) / GIF_TICK + Fraction(1, 2))
        if self._last_tick is not None and tick <= self._last_tick:
            if not self._dropped:
                log.warning("GIF shows 100 frames a second at most: frames between are left out")
            self._dropped = True
            return []
        self._last_tick = tick
        self._graph = self._graph or self._make_graph(frame)
        self._graph.vpush(frame)
        return self.encoder.encode(self._graph.vpull())

    @staticmethod
    def _make_graph(frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        split, palette = graph.add("split"), graph.add("palettegen", stats_mode="single")
        quantize, sink = graph.add("paletteuse", new="1"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(palette, 0)
        split.link_to(quantize, 1, 0)
        palette.link_to(quantize, 0, 1)
        quantize.link_to(sink)
        graph.configure()
        return graph
