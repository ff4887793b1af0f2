"""What the source has and the output has not, said in the log: nothing vanishes in silence."""

import logging
from collections.abc import Iterator
from typing import TypeVar

import av
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from vsneuralstyle.hosts.render.conversion import has_alpha
from vsneuralstyle.hosts.render.source import codec_tag

log = logging.getLogger("vsneuralstyle.hosts.render")

Item = TypeVar("Item")

# FFmpeg's names for what goes with a frame, and for the same of a stream -> what it is.
_SIDE_DATA: dict[tuple[str, ...], str] = {
    (
        "MASTERING_DISPLAY_METADATA",
        "mastering_display_metadata",
    ): "HDR10 mastering display metadata",
    ("CONTENT_LIGHT_LEVEL", "content_light_level"): "HDR10 content light level (MaxCLL, MaxFALL)",
    ("DYNAMIC_HDR_PLUS", "dynamic_hdr10_plus"): "HDR10+ metadata",
    ("DYNAMIC_HDR_VIVID",): "HDR Vivid metadata",
    ("DOVI_RPU_BUFFER", "DOVI_METADATA", "dovi_conf"): "Dolby Vision metadata",
    ("AMBIENT_VIEWING_ENVIRONMENT", "ambient_viewing_environment"): "ambient viewing environment",
    ("A53_CC", "a53_cc"): "closed captions (CEA-608/708)",
    ("ICC_PROFILE", "icc_profile"): "ICC color profile",
    ("STEREO3D", "stereo_3d"): "stereoscopic 3D layout",
    ("THREE_D_REFERENCE_DISPLAYS", "3d_reference_displays"): "3D reference displays",
    ("VIEW_ID",): "second view (multiview video)",
    ("SPHERICAL", "spherical"): "spherical projection (360° video)",
    ("AFD", "afd"): "active format description",
    ("S12M_TIMECODE", "s12m_timecode"): "timecode in the pictures (SMPTE 12M)",
    ("LCEVC", "lcevc"): "LCEVC enhancement layer",
    ("EXIF", "exif"): "EXIF metadata",
}
SIDE_DATA = {name: words for names, words in _SIDE_DATA.items() for name in names}
# FFmpeg's names of data codecs -> what an editor calls them.
DATA = {
    "klv": "KLV metadata",
    "scte_35": "SCTE-35 ad markers",
    "timed_id3": "ID3 tags",
    "epg": "programme guide",
    "smpte_2038": "ancillary data (SMPTE 2038)",
    "arib_caption": "ARIB captions",
    "bin_data": "camera or sensor data",
}
# Containers (FFmpeg's names) that carry these. Elsewhere they vanish without a word from FFmpeg.
ROTATION = {"mp4", "mov", "ipod", "3gp", "3g2", "psp", "ismv", "f4v", "matroska", "webm"}
CHAPTERS = ROTATION | {"asf", "nut"}
TIMECODE = {"mp4", "mov", "matroska", "webm", "mxf", "gxf", "nut"}


class Losses:
    """Says of a video stream and its frames what the output leaves out."""

    def __init__(self, video: VideoStream) -> None:
        self._said: set[str] = set()
        self.keeps_alpha = False
        for name in getattr(video.codec_context, "coded_side_data", ()):  # PyAV has it from 19 on
            self._say_side_data(name)
        if list(_values("alpha_mode", video.metadata)) == ["1"]:  # VP8, VP9: decoded without alpha
            self._say_alpha()

    def watch(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; each frame is looked at, since captions, for one, may begin later."""
        for item in items:
            if isinstance(item, av.VideoFrame):
                self._look(item)
            yield item

    def _look(self, frame: av.VideoFrame) -> None:
        for item in frame.side_data:  # PyAV gives the types from 19 on, before that what has one
            self._say_side_data(getattr(item, "type", item).name)
        if frame.interlaced_frame:
            self._say(
                "the source is interlaced: it is stylized and written as progressive, with "
                "its combing; deinterlace it first (FFmpeg's filter bwdif, for example)"
            )
        if has_alpha(frame.format) and not self.keeps_alpha:
            self._say_alpha()

    def _say_alpha(self) -> None:
        self._say(
            "the source's alpha channel (transparency) is left out: the output is opaque; "
            "--preset prores4444, .png, .exr and FFV1 keep it"
        )

    def _say_side_data(self, name: str) -> None:
        if name in SIDE_DATA:
            self._say(f"the source's {SIDE_DATA[name]}: left out")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def warn_of_container(reader: InputContainer, writer: OutputContainer, video: VideoStream) -> None:
    """Says which chapters and timecode a container can't carry."""
    name, words = writer.format.name, writer.format.long_name
    if name not in CHAPTERS and (chapters := reader.chapters()):
        log.warning("%s can't carry chapters: %d left out", words, len(chapters))
    if name not in TIMECODE and (timecode := timecode_of(reader, video)):
        log.warning("%s can't carry a timecode: the source's, %s, is left out", words, timecode)


def warn_of_rotation(frame: av.VideoFrame, writer: OutputContainer) -> None:
    """Says that a container can't carry the frame's rotation."""
    if frame.rotation and writer.format.name not in ROTATION:
        log.warning(
            "%s can't carry a rotation: the source's, %d degrees, is left out, so players "
            "show the picture turned",
            writer.format.long_name,
            frame.rotation,
        )


def timecode_of(reader: InputContainer, video: VideoStream) -> str | None:
    """The first frame's timecode, such as 01:00:00:00: the file's, the video's or a track's own."""
    tracks = [stream.metadata for stream in reader.streams if stream.type == "data"]
    return next(_values("timecode", reader.metadata, video.metadata, *tracks), None)


def _values(wanted: str, *all_metadata: dict[str, str]) -> Iterator[str]:
    for metadata in all_metadata:  # Matroska's names are in capitals
        yield from (value for name, value in metadata.items() if name.lower() == wanted)


def warn_of_stream(stream: Stream) -> None:
    """Says that a stream is left out, and what it is."""
    if stream.codec_context is None and stream.type in ("audio", "subtitle"):
        log.warning(
            "%s stream %d is left out: this FFmpeg doesn't know its codec (%s)",
            stream.type,
            stream.index,
            codec_tag(stream) or "untagged",
        )
        return
    codec = stream.codec_context.name if stream.codec_context else getattr(stream, "name", None)
    names = (stream.metadata.get(key) for key in ("handler_name", "filename", "title"))
    title = next((repr(name) for name in names if name), None)
    named = (
        ", ".join(filter(None, (codec and DATA.get(codec, codec), title))) or "of an unknown kind"
    )
    if stream.disposition & Disposition.attached_pic:
        log.warning("the cover art (stream %d, %s) is left out", stream.index, named)
    elif stream.type == "video":
        log.warning(
            "video stream %d (%s) is left out: only the first is stylized", stream.index, named
        )
    elif "timecode" not in stream.metadata and stream.discard != Discard.all:
        # `timecode_of` sees to a timecode's track. One that FFmpeg passes over is of chapters.
        log.warning("%s stream %d (%s) is left out", stream.type, stream.index, named)
