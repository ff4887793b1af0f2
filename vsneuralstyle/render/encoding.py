"""The video encoder of the output: which one, its options and its pixel format."""

import logging
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
from vsneuralstyle.render.conversion import PALETTE, bits
from vsneuralstyle.render.ffmpeg import can_carry, check_encoder

log = logging.getLogger("vsneuralstyle.render")

ENCODERS = ("libx264", "libvpx-vp9")  # the default is the first that the container can carry
CONTAINER_ENCODERS = {"gif": "gif"}  # containers of one codec
EXAMPLES = "libx264, libx265, libvpx-vp9 or ffv1"
CONTAINERS = ".mp4, .mkv, .webm or .mov"
DEFAULT_CRF = {"libx264": 18, "libx264rgb": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}  # visually lossless
HIGHEST_CRF = 51  # for x264 and x265: FFmpeg gives them no bound, the encoders have this one
ENCODER_OPTIONS = {"libvpx-vp9": {"row-mt": "1", "cpu-used": "4"}}  # its own defaults use one core, slowly
# DNxHD is for a few frame sizes at given bit rates; DNxHR, which these are, for any from 256x120 up.
DNXHR_PROFILES = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444",
                  "gbrp10le": "dnxhr_444"}
ANY_FORMAT = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "rgb24", "gbrp")
GIF_TICK = Fraction(1, 100)  # seconds


def add_encoder(writer: OutputContainer, video: VideoStream, destination: Path, codec: str | None, crf: float | None,
                pix_fmt: str | None) -> VideoStream:
    """Adds the encoder's stream; `render` documents codec, crf and pix_fmt.

    Raises:
        MediaError: no such encoder or pixel format, or the container can't carry it.
        ArgumentError: crf is out of the encoder's range.
    """
    name = codec or _usual_encoder(writer, destination)
    check_encoder(name, "video", "--codec", EXAMPLES)
    # For rate control and the header; each frame's timestamp is what counts.
    rate = video.average_rate or video.guessed_rate or 25
    try:
        encoder = writer.add_stream(name, rate=rate, width=video.width, height=video.height)
    except ValueError as refusal:
        raise MediaError(f"can't write {destination}: {refusal}; choose {CONTAINERS}, or another encoder (--codec), "
                         f"for example {EXAMPLES}") from refusal
    encoder.codec_context.time_base = encoder.time_base = video.time_base
    encoder.codec_context.flags |= Flags.frame_duration
    encoder.pix_fmt = _choose_pix_fmt(encoder, video, pix_fmt)
    encoder.options = _options(encoder, crf)
    return encoder


def _usual_encoder(writer: OutputContainer, destination: Path) -> str:
    if own := CONTAINER_ENCODERS.get(writer.format.name):
        return own
    for name in ENCODERS:
        if can_carry(writer.format.name, lambda trial: trial.add_stream(name, rate=25, width=64, height=64)):
            return name
    raise MediaError(f"can't write {destination}: {writer.format.long_name} carries neither H.264 nor VP9, which the "
                     f"default encoders make; choose {CONTAINERS}, or name an encoder (--codec; the usual codec there "
                     f"is {writer.default_video_codec})")


def _options(encoder: VideoStream, crf: float | None) -> dict[str, str]:
    name = encoder.codec.name
    options = dict(ENCODER_OPTIONS.get(name, {}))
    if name == "dnxhd":
        options["profile"] = DNXHR_PROFILES[encoder.pix_fmt]
    if crf is not None:
        _check_crf(encoder, crf)
    if (quality := DEFAULT_CRF.get(name) if crf is None else crf) is not None:
        options["crf"] = str(quality)
    return options


def _check_crf(encoder: VideoStream, crf: float) -> None:
    name = encoder.codec.name
    known = next((known for known in encoder.codec_context.supported_options.private if known.name == "crf"), None)
    if known is None:
        raise ArgumentError(f"--crf {crf:g}: {name} has no such option; leave it out, or choose an encoder that does: "
                            f"{', '.join(DEFAULT_CRF)}")
    highest = known.max if known.max < 1000 else HIGHEST_CRF
    if not 0 <= crf <= highest:
        raise ArgumentError(f"--crf {crf:g}: expected a number from 0 (the best picture) to {highest:g} for {name}; "
                            f"leave it out for {DEFAULT_CRF.get(name, 'the default of the encoder')}")


def _choose_pix_fmt(encoder: VideoStream, video: VideoStream, pix_fmt: str | None) -> str:
    known = _pixel_formats(encoder)
    if pix_fmt is not None:
        if pix_fmt not in known:
            raise MediaError(f"{encoder.codec.name} does not encode {pix_fmt!r}; expected one of {', '.join(known)}")
        return pix_fmt
    odd = bool(video.width % 2 or video.height % 2)
    wanted = ("yuv444p", "yuv420p", PALETTE) if odd else ("yuv420p", PALETTE)
    chosen = next((name for name in wanted if name in known), known[0])
    if odd and chosen != PALETTE:
        log.warning("%dx%d is odd: written as %s, which some players lack; crop the source to an even size for yuv420p",
                    video.width, video.height, chosen)
    if chosen != PALETTE:
        _warn_of_coarser_samples(video.format, chosen, known)
    return chosen


def _pixel_formats(encoder: VideoStream) -> list[str]:
    name, listed = encoder.codec.name, encoder.codec.video_formats
    if listed is None:  # it has no list: it may take any
        return list(ANY_FORMAT)
    # What has no components is in the memory of a GPU.
    if not (known := [pixels.name for pixels in listed if pixels.components]):
        raise MediaError(f"--codec {name}: it takes frames that a GPU holds, and these are in memory; choose another "
                         f"encoder, such as {EXAMPLES}")
    return known


def _warn_of_coarser_samples(source: av.VideoFormat, chosen: str, known: list[str]) -> None:
    """Says whether the chosen pixel format has fewer bits or less chroma than the source's, and which would not."""
    lost = find_best_pix_fmt_of_list([chosen], source)[1]
    best = find_best_pix_fmt_of_list([name for name in known if not name.startswith("yuvj")], source)[0].name
    kept = bits(av.VideoFormat(best))
    if lost & PixFmtLoss.DEPTH:
        log.warning("the source has %d bits a sample, the output %d (%s)%s", bits(source),
                    bits(av.VideoFormat(chosen)), chosen, "" if best == chosen else f"; --pix-fmt {best} keeps {kept}")
    elif lost & PixFmtLoss.RESOLUTION and best != chosen and len(source.components) > 2:  # gray has none to lose
        log.warning("the source has finer chroma (%s) than the output (%s); --pix-fmt %s keeps it", source.name, chosen,
                    best)


class PaletteEncoder:
    """Encodes frames as GIF: 256 colors a frame, by a palette of its own (FFmpeg's palettegen and paletteuse).

    One frame is held at a time. GIF counts time in hundredths of a second: of frames that share one the first is kept.
    """

    def __init__(self, encoder: VideoStream) -> None:
        self.encoder = encoder
        self._graph = None
        self._last_tick = None
        self._dropped = False

    def encode(self, frame: av.VideoFrame | None) -> list[av.Packet]:
        """The packets of a frame in `conversion.PALETTE_SOURCE`; None: what is left at the end."""
        if frame is None:
            return self.encoder.encode(None)
        tick = floor(frame.pts * Fraction(frame.time_base) / GIF_TICK + Fraction(1, 2))
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
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                  time_base=frame.time_base)
        split, palette = graph.add("split"), graph.add("palettegen", stats_mode="single")
        quantize, sink = graph.add("paletteuse", new="1"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(palette, 0)
        split.link_to(quantize, 1, 0)
        palette.link_to(quantize, 0, 1)
        quantize.link_to(sink)
        graph.configure()
        return graph
