"""A sound track of the output: the source's packets as they are, or encoded anew."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from vsneuralstyle.errors import MediaError
from vsneuralstyle.hosts.render.encoding import CONTAINERS
from vsneuralstyle.hosts.render.ffmpeg import can_carry, cause, check_encoder, ffmpeg_log

log = logging.getLogger("vsneuralstyle.hosts.render")

COPY = "copy"
EXAMPLES = "aac, libopus or flac"
NO_CODEC = "none"  # what FFmpeg calls the audio codec of a container that carries no sound
USUAL_ENCODER = "aac"
# Containers (FFmpeg's names) in which another one is usual.
CONTAINER_ENCODERS = {
    "webm": "libopus",
    "ogg": "libopus",
    "ogv": "libopus",
    "avi": "libmp3lame",
    "asf": "wmav2",
    "mpeg": "mp2",
    "vob": "mp2",
    "svcd": "mp2",
    "dvd": "mp2",
    "mxf": "pcm_s16le",
}
# A transport stream takes others too, as private data, in which no player finds the sound.
MPEGTS_CODECS = {"aac", "ac3", "dts", "eac3", "mp1", "mp2", "mp3", "opus", "s302m", "truehd"}
USUAL_RATE = 48000  # Hz; the only one of MXF
# libswresample fills gaps between timestamps with silence and cuts overlaps: sound stays with the
# picture.
RESAMPLER_OPTIONS = {"async": "1"}


class AudioSettings(TypedDict):
    """What an encoder's stream is made with; the rate in Hz, the bit rate in bits a second."""

    rate: int
    format: str
    layout: str
    bit_rate: int


class PacketCopy:
    """A stream whose packets are copied."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def packets(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """The packets to write for one of the source's; None: what is left at the end."""
        if packet is not None:
            packet.stream = self.stream
            yield packet


class AudioTranscoder:
    """A stream that is decoded and encoded anew, at the same times.

    Rate, channel layout and sample format stay if the encoder takes them. Else they become the
    nearest that it takes, with a warning in the log where channels are mixed down.
    """

    def __init__(self, source: AudioStream, stream: AudioStream) -> None:
        """stream: the encoder's."""
        self.stream, self._source = stream, source
        self._damaged = False
        # Format, layout and rate of the decoded frames.
        self._input: tuple[str, str, int] | None = None
        stream.codec_context.open()  # which tells its frame size
        if stream.channels < source.channels:
            log.warning(
                "audio stream %d: %s has no %s, its channels are mixed to %s",
                source.index,
                stream.codec.name,
                source.layout.name,
                stream.layout.name,
            )

    def packets(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """The packets to write for one of the source's; None: what is left at the end."""
        for frame in self._decode(packet):
            yield from self._encode(frame)
        if packet is None:
            if self._input is not None:
                yield from self._encode_all(self._resampler.resample(None))
            yield from self.stream.encode(None)

    def _decode(self, packet: av.Packet | None) -> list[av.AudioFrame]:
        try:
            return self._source.codec_context.decode(packet)
        except av.error.FFmpegError as error:
            if not self._damaged:
                log.warning(
                    "audio stream %d is damaged (%s): silent where it can't be decoded",
                    self._source.index,
                    error.strerror,
                )
            self._damaged = True
            return []

    def _encode(self, frame: av.AudioFrame) -> Iterator[av.Packet]:
        described = frame.format.name, frame.layout.name, frame.sample_rate
        if described != self._input:
            # A broadcast may change its sound on the way. What the former resampler still holds,
            # less than a frame, is left out: an encoder takes a short frame at the end alone.
            self._input = described
            target = self.stream.codec_context
            self._resampler = av.AudioResampler(
                target.format,
                target.layout,
                target.sample_rate,
                target.frame_size,
                RESAMPLER_OPTIONS,
            )
        yield from self._encode_all(self._resampler.resample(frame))

    def _encode_all(self, frames: list[av.AudioFrame]) -> Iterator[av.Packet]:
        for frame in frames:
            yield from self.stream.encode(frame)


def add_audio(
    writer: OutputContainer, source: AudioStream, destination: Path, encoder: str | None
) -> PacketCopy | AudioTranscoder | None:
    """Adds a sound track; None: the container has none at all, which the log says.

    Args:
        encoder: FFmpeg's name of an encoder, or COPY; None: COPY where the container can carry the
            source's codec, else the encoder that is usual there.

    Raises:
        MediaError: no such encoder, or the container can't carry what was asked for.
    """
    container, name = writer.format.long_name, source.codec_context.name
    if writer.default_audio_codec == NO_CODEC:
        if encoder:
            raise MediaError(
                f"--audio-codec {encoder}: {container} carries no sound; leave it "
                f"out, or choose {CONTAINERS}"
            )
        log.warning(
            "%s carries no sound: audio stream %d (%s) is left out", container, source.index, name
        )
        return None
    if encoder in (None, COPY) and _can_copy(writer.format.name, source):
        return PacketCopy(writer.add_stream_from_template(source))
    if encoder == COPY:
        raise MediaError(
            f"can't write {destination}: {container} can't carry the source's audio "
            f"({name}) as it is; leave --audio-codec out and it is encoded anew, or "
            "choose another container (.mkv takes nearly every codec)"
        )
    chosen = encoder or CONTAINER_ENCODERS.get(writer.format.name, USUAL_ENCODER)
    check_encoder(chosen, "audio", "--audio-codec", f"{EXAMPLES}, or {COPY}")
    for rate in (source.rate, USUAL_RATE):
        settings = _encoder_settings(source, chosen, rate, destination)
        if can_carry(
            writer.format.name,
            lambda trial: trial.add_stream(chosen, **settings),  # noqa: B023  called at once
        ):
            break
    else:
        raise MediaError(
            f"can't write {destination}: {container} can't carry "
            f"{chosen if encoder else name}; choose another encoder (--audio-codec), "
            "another container (.mkv takes nearly every codec), or leave the audio "
            "out (--no-audio)"
        )
    if encoder is None:
        log.warning(
            "%s can't carry audio stream %d (%s) as it is: encoded anew by %s; "
            "--audio-codec names another encoder",
            container,
            source.index,
            name,
            chosen,
        )
    stream = writer.add_stream(chosen, **settings)
    assert isinstance(stream, AudioStream)  # `check_encoder` has looked
    return AudioTranscoder(source, stream)


def _can_copy(container: str, source: AudioStream) -> bool:
    if container == "mpegts" and source.codec_context.codec.canonical_name not in MPEGTS_CODECS:
        return False
    return can_carry(container, lambda trial: trial.add_stream_from_template(source))


def _encoder_settings(
    source: AudioStream, encoder: str, wanted_rate: int, destination: Path
) -> AudioSettings:
    """What an encoder's stream is made with: the nearest to the source's that the encoder takes."""
    codec = av.Codec(encoder, "w")
    rates = codec.audio_rates or [wanted_rate]
    rate = min((rate for rate in rates if rate >= wanted_rate), default=max(rates))
    formats = [known.name for known in codec.audio_formats or [source.format]]
    same = (source.format.name, source.format.packed.name, source.format.planar.name)
    sample_format = next((name for name in same if name in formats), formats[0])
    # PyAV doesn't list an encoder's layouts. The usual one of as many channels: 5.1(side) -> 5.1.
    usual = av.AudioLayout(f"{source.channels}c").name
    with ffmpeg_log() as lines:
        for layout in (source.layout.name, usual, "stereo", "mono"):
            context = codec.create("audio")
            bit_rate = context.bit_rate or 0  # FFmpeg's default, of which PyAV's stream makes 0
            context.rate, context.format, context.layout = rate, sample_format, layout
            try:
                context.open()
            except (ValueError, av.error.FFmpegError) as error:
                refusal = error
            else:
                return {
                    "rate": rate,
                    "format": sample_format,
                    "layout": layout,
                    "bit_rate": bit_rate,
                }
    raise MediaError(
        f"can't write {destination}: the audio encoder {encoder} refuses {rate} Hz, "
        f"{source.layout.name}: {cause(refusal, lines)}; choose another one "
        f"(--audio-codec), such as {EXAMPLES}, or leave the audio out (--no-audio)"
    ) from refusal
