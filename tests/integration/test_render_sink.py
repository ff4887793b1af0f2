"""`render`, the writing side: sound that is encoded anew, GIF, losses that are said, refusals.

Clips are made here, small. Encoders that a build of FFmpeg may lack are asked for first.
"""

import logging
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from vsneuralstyle import ArgumentError, MediaError
from vsneuralstyle.hosts.render import render

COMMAND = [sys.executable, "-m", "vsneuralstyle.cli", "render"]
RATE = 25
TONE = 0.5  # seconds of silence before the tone


def needs_encoder(name):
    try:
        av.Codec(name, "w")
    except ValueError:
        return pytest.mark.skip(f"this FFmpeg has no encoder {name}")
    return ()


def encode_pictures(stream, pictures, pix_fmt, rate):
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgba" if picture.shape[2] == 4 else "rgb24")
        frame = frame.reformat(format=pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def encode_tone(stream, seconds, start, pause):
    """Silence, and from TONE on 0.1 s of a tone; no packet begins within the pause (from, to)."""
    context = stream.codec_context
    context.open()
    at = np.arange(int(seconds * context.rate)) / context.rate
    samples = np.where((at >= TONE) & (at < TONE + 0.1), 0.7 * np.sin(at * 2000 * np.pi), 0)
    samples = np.stack([samples.astype(np.float32)] * context.layout.nb_channels)
    tone = av.AudioFrame.from_ndarray(samples, "fltp", context.layout.name)
    tone.sample_rate, tone.pts = context.rate, int(start * context.rate)
    tone.time_base = Fraction(1, context.rate)
    resampler = av.AudioResampler(context.format, context.layout, context.rate, context.frame_size)
    for frame in [*resampler.resample(tone), *resampler.resample(None), None]:
        for packet in stream.encode(frame):
            if not pause[0] <= packet.pts * packet.time_base < pause[1]:
                yield packet


def write_clip(
    path,
    pictures,
    *,
    codec="libx264",
    pix_fmt="yuv420p",
    rate=RATE,
    options=None,
    sound=None,
    sound_rate=48000,
    layout="stereo",
    start=0,
    pause=(9, 9),
    edit=None,
):
    """pictures: (H,W,3 or 4) uint8; sound: an audio encoder; edit: gets container and video."""
    with av.open(str(path), "w") as container:
        height, width = pictures[0].shape[:2]
        options = options or ({"crf": "12"} if codec == "libx264" else {})
        video = container.add_stream(
            codec, rate=rate, width=width, height=height, pix_fmt=pix_fmt, options=options
        )
        video.time_base = video.codec_context.time_base = Fraction(1, rate)
        packets = []
        if sound:
            audio = container.add_stream(sound, rate=sound_rate, layout=layout)
            packets += encode_tone(audio, len(pictures) / rate, start, pause)
        if edit:
            edit(container, video)
        packets += encode_pictures(video, pictures, pix_fmt, rate)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def decode(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(frames):
    return [float(frame.pts * Fraction(frame.time_base)) for frame in frames]


def heard(path):
    """Codec, layout, and when the tone begins and ends, in seconds from the first picture."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        name = stream.codec_context.codec.canonical_name
    loud = []
    for frame in frames:
        samples = frame.to_ndarray().astype(float)
        samples = (
            samples[0]
            if frame.format.is_planar
            else samples.reshape(-1, frame.layout.nb_channels)[:, 0]
        )
        level = {"s16": 2**15, "s32": 2**31}.get(frame.format.packed.name, 1)
        over = np.flatnonzero(np.abs(samples) > 0.1 * level)
        loud += [
            float(frame.pts * Fraction(frame.time_base)) + sample / frame.sample_rate
            for sample in over
        ]
    first = times(decode(path))[0]
    return name, frames[0].layout.name, loud[0] - first, loud[-1] - first


@pytest.fixture(scope="module")
def second(clip):
    """25 pictures: one second."""
    return np.concatenate([clip] * 4)[:RATE]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Sound

SOUND = {
    # name: (source's suffix, what write_clip is told, the output's suffix, its codec and layout)
    "WebM from AAC": ("mp4", {"sound": "aac", "sound_rate": 44100}, "webm", "opus", "stereo"),
    "that starts late": ("mp4", {"sound": "aac", "start": 0.3}, "webm", "opus", "stereo"),
    "with a gap": ("mkv", {"sound": "aac", "pause": (0.15, 0.4)}, "webm", "opus", "stereo"),
    "of 5.1(side), which Opus lacks": (
        "mkv",
        {"sound": "ac3", "layout": "5.1(side)"},
        "webm",
        "opus",
        "5.1",
    ),
    "mono at a low rate": (
        "mp4",
        {"sound": "aac", "sound_rate": 22050, "layout": "mono"},
        "webm",
        "opus",
        "mono",
    ),
    "QuickTime from FLAC": ("mkv", {"sound": "flac"}, "mov", "aac", "stereo"),
    "a transport stream from PCM": ("mkv", {"sound": "pcm_s16le"}, "ts", "aac", "stereo"),
    "MXF, whose rate is 48 kHz": (
        "mp4",
        {"sound": "aac", "sound_rate": 44100},
        "mxf",
        "pcm_s16le",
        "2 channels",
    ),
    "MXF, which has no times, with a gap": (
        "mkv",
        {"sound": "aac", "pause": (0.15, 0.4)},
        "mxf",
        "pcm_s16le",
        "2 channels",
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_that_the_container_cannot_carry_is_encoded_anew(
    tmp_path, second, model_dir, caplog, name
):
    suffix, options, after, codec, layout = SOUND[name]
    source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{after}"
    write_clip(source, second, **options)
    assert heard(source)[0] != codec  # the premise
    assert render(source, output, style="candy", strength=0) == len(second)
    assert heard(output)[:2] == (codec, layout)
    assert np.allclose(heard(output)[2:], heard(source)[2:], atol=0.005)  # seconds
    assert [
        text
        for text in warnings(caplog)
        if "can't carry audio stream" in text and "--audio-codec" in text
    ]


def test_an_audio_codec_that_was_asked_for(tmp_path, second, model_dir, run):
    source = write_clip(tmp_path / "in.mp4", second, sound="aac")
    for codec, expected in (("flac", "flac"), ("copy", "aac")):
        done = run(
            *COMMAND,
            source,
            "-o",
            tmp_path / "out.mkv",
            "--style",
            "candy",
            "--strength",
            "0",
            "--overwrite",
            "--audio-codec",
            codec,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert heard(tmp_path / "out.mkv")[0] == expected
        assert np.allclose(heard(tmp_path / "out.mkv")[2:], heard(source)[2:], atol=0.002)


def test_channels_that_an_encoder_lacks_are_mixed_down_and_said(
    tmp_path, second, model_dir, caplog
):
    source = write_clip(tmp_path / "in.mkv", second, sound="ac3", layout="5.1(side)")
    render(source, tmp_path / "out.mkv", style="candy", strength=0, audio_codec="mp2")
    assert heard(tmp_path / "out.mkv")[:2] == ("mp2", "stereo")
    assert warnings(caplog) == [
        "audio stream 1: mp2 has no 5.1(side), its channels are mixed to stereo"
    ]


def test_sound_that_changes_half_way(tmp_path, second, model_dir):
    """A transport stream of stereo and then mono, joined: both are heard, each in its time."""
    one = write_clip(tmp_path / "one.ts", second, sound="mp2")
    two = write_clip(tmp_path / "two.ts", second, sound="mp2", layout="mono", start=1)
    joined = tmp_path / "in.mkv"
    with av.open(str(joined), "w") as writer, av.open(str(one)) as first, av.open(str(two)) as then:
        streams = [writer.add_stream_from_template(stream) for stream in first.streams]
        for reader in (first, then):
            for packet in reader.demux():
                if packet.size and (packet.stream.type == "audio" or reader is first):
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)
    render(joined, tmp_path / "out.webm", style="candy", strength=0)
    for path in (joined, tmp_path / "out.webm"):
        onset, end = heard(path)[2:]
        assert abs(onset - TONE) < 0.03 and abs(end - 1 - TONE - 0.1) < 0.03


@pytest.mark.parametrize(
    "codec, suffix, message",
    [
        (
            "copy",
            "webm",
            r"WebM can't carry the source's audio \(aac\) as it is; leave --audio-codec out",
        ),
        (
            "aac",
            "webm",
            r"out\.webm: WebM can't carry aac; choose another encoder \(--audio-codec\)",
        ),
        (
            "nosuch",
            "mp4",
            "--audio-codec nosuch: this FFmpeg has no such encoder; expected .* aac, libopus",
        ),
        ("libx264", "mp4", "--audio-codec libx264: .* does not encode audio but video"),
        ("aac", "gif", "--audio-codec aac: .*GIF.* carries no sound; leave it out"),
    ],
)
def test_bad_audio_codec(tmp_path, clip, codec, suffix, message):
    source = write_clip(tmp_path / "in.mp4", clip[:2], sound="aac")
    with pytest.raises(MediaError, match=message):
        render(source, tmp_path / f"out.{suffix}", style="candy", audio_codec=codec)
    assert os.listdir(tmp_path) == ["in.mp4"]


# GIF


def test_gif(tmp_path, clip, model_dir, caplog):
    source = write_clip(tmp_path / "in.mp4", clip, sound="aac")
    assert render(source, tmp_path / "out.gif", style="candy") == len(clip)
    render(source, tmp_path / "out.mkv", style="candy", codec="ffv1", pix_fmt="bgr0")
    frames, expected = (
        [frame.to_ndarray(format="rgb24").astype(float) for frame in decode(tmp_path / name)]
        for name in ("out.gif", "out.mkv")
    )
    assert np.allclose(times(decode(tmp_path / "out.gif")), np.arange(len(clip)) / RATE)
    for frame, whole in zip(frames, expected, strict=True):
        assert (
            10 * np.log10(255**2 / np.mean((frame - whole) ** 2)) > 25
        )  # dB; 256 colors, dithered
    assert [
        text
        for text in warnings(caplog)
        if "carries no sound: audio stream 1 (aac) is left out" in text
    ]


def test_gif_of_more_than_100_frames_a_second(tmp_path, clip, model_dir, caplog):
    source = write_clip(tmp_path / "in.mp4", clip, rate=200)
    render(source, tmp_path / "out.gif", style="candy", strength=0)
    shown = times(decode(tmp_path / "out.gif"))
    assert (
        np.allclose(np.diff(shown), 0.01) and len(shown) == 5
    )  # of 0, 5, ..., 35 ms: 0, 1, 2, 3 and 4 hundredths
    assert [text for text in warnings(caplog) if "100 frames a second" in text]


# What is lost


def with_captions(path, pictures):
    """H.264 with CEA-608 captions, in the SEI message of ATSC A/53 before each picture."""
    bare = write_clip(
        path.with_name("bare.h264"), pictures, options={"x264-params": "bframes=0", "crf": "12"}
    )
    message = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0xC1, 0xFF, 0xFC, 0x94, 0x20, 0xFF])
    with av.open(str(path), "w") as writer, av.open(str(bare)) as reader:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(packet for packet in reader.demux() if packet.size):
            whole = av.Packet(
                b"\0\0\0\1\x06\x04" + bytes([len(message)]) + message + b"\x80" + bytes(packet)
            )
            whole.pts = whole.dts = number
            whole.time_base, whole.stream, whole.is_keyframe = (
                Fraction(1, RATE),
                stream,
                packet.is_keyframe,
            )
            writer.mux(whole)
    return path


def remark(**metadata):
    def edit(container, video):
        video.metadata.update(metadata)

    return edit


def chapters(container, video):
    container.set_chapters(
        [{"id": 1, "start": 0, "end": 80, "time_base": Fraction(1, 1000), "metadata": {}}]
    )


def rotation(container, video):
    video.set_display_rotation(90)


HDR10 = {
    "crf": "12",
    "x264-params": "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
    "L(10000000,50):cll=1000,400",
}
LOSSES = {
    # name: (source's suffix, what write_clip is told, the output's suffix, what the log says)
    "alpha": ("mkv", {"codec": "ffv1", "pix_fmt": "yuva420p"}, "mp4", ["alpha channel"]),
    "alpha beside VP9": ("mkv", {"edit": remark(alpha_mode="1")}, "mp4", ["alpha channel"]),
    "HDR10": (
        "mp4",
        {"options": HDR10},
        "mp4",
        ["HDR10 mastering display", "content light level (MaxCLL"],
    ),
    "interlacing": (
        "mp4",
        {"options": {"crf": "12", "x264-params": "tff=1"}},
        "mp4",
        ["interlaced", "deinterlace"],
    ),
    "chapters": ("mkv", {"edit": chapters}, "ts", ["can't carry chapters: 1 left out"]),
    "rotation": (
        "mp4",
        {"edit": rotation},
        "avi",
        ["can't carry a rotation: the source's, 90 degrees"],
    ),
    "timecode": (
        "mov",
        {"edit": remark(timecode="01:02:03:04")},
        "ts",
        ["carry a timecode: the source's, 01:02:03:04"],
    ),
    "chroma": (
        "mkv",
        {"codec": "ffv1", "pix_fmt": "yuv422p"},
        "mp4",
        ["finer chroma (yuv422p)", "--pix-fmt yuv422p"],
    ),
    "chroma, not bits": (
        "mkv",
        {"codec": "ffv1", "pix_fmt": "yuv422p10le"},
        "mp4",
        ["finer chroma (yuv422p10le) than the output (yuv420p10le); --pix-fmt yuv422p10le"],
    ),
    "nothing": ("mp4", {"sound": "aac"}, "mp4", []),
    "nothing that a timecode or chapters would be": (
        "mov",
        {"edit": remark(timecode="01:02:03:04")},
        "mp4",
        [],
    ),
    "nothing, of chapters in .mp4": ("mp4", {"edit": chapters}, "mkv", []),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_lost_is_said_once(tmp_path, clip, model_dir, caplog, name):
    suffix, options, after, expected = LOSSES[name]
    pictures = clip[:4]
    if name == "alpha":
        pictures = np.concatenate([pictures, pictures[..., :1]], axis=-1)
    source = write_clip(tmp_path / f"in.{suffix}", pictures, **options)
    assert render(source, tmp_path / f"out.{after}", style="candy", strength=0) == len(pictures)
    said = " | ".join(warnings(caplog))
    assert all(said.count(text) == 1 for text in expected), said
    assert expected or not said


def test_alpha_stays_where_the_encoder_takes_it(tmp_path, clip, model_dir, caplog):
    pictures = np.concatenate([clip[:2], clip[:2, ..., :1]], axis=-1)
    source = write_clip(tmp_path / "in.mkv", pictures, codec="ffv1", pix_fmt="yuva420p")
    render(source, tmp_path / "out.mkv", style="candy", codec="ffv1")
    assert not warnings(caplog)
    before, after = (
        decode(path)[1].to_ndarray(format="rgba")[..., 3] for path in (source, tmp_path / "out.mkv")
    )
    assert before.min() < 255 and np.array_equal(before, after)


def test_captions_are_said_to_be_lost(tmp_path, clip, model_dir, caplog):
    source = with_captions(tmp_path / "in.mkv", clip[:3])
    assert "A53_CC" in decode(source)[0].side_data  # the premise
    render(source, tmp_path / "out.mp4", style="candy", strength=0)
    assert warnings(caplog) == ["the source's closed captions (CEA-608/708): left out"]


def test_streams_that_are_left_out_are_named(tmp_path, clip, model_dir, caplog):
    source = tmp_path / "in.ts"
    bare = write_clip(tmp_path / "bare.ts", clip[:2])
    with av.open(str(bare)) as one, av.open(str(bare)) as two, av.open(str(source), "w") as writer:
        videos = [writer.add_stream_from_template(reader.streams.video[0]) for reader in (one, two)]
        data = writer.add_data_stream("klv")
        for reader, video in zip((one, two), videos):
            for packet in reader.demux():
                if packet.size:
                    packet.stream = video
                    writer.mux(packet)
        packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes(16))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, RATE), data
        writer.mux(packet)
    render(source, tmp_path / "out.mp4", style="candy", strength=0)
    assert warnings(caplog) == [
        "video stream 1 (h264) is left out: only the first is stylized",
        "data stream 2 (KLV metadata) is left out",
    ]


# What is kept


@pytest.mark.parametrize("before, after", [("mov", "mp4"), ("mkv", "mov"), ("mp4", "mkv")])
def test_timecode_is_kept(tmp_path, clip, model_dir, before, after):
    source = write_clip(tmp_path / f"in.{before}", clip[:2], edit=remark(timecode="01:02:03:04"))
    render(source, tmp_path / f"out.{after}", style="candy", strength=0)
    for path in (source, tmp_path / f"out.{after}"):
        with av.open(str(path)) as container:
            metadata = container.streams.video[0].metadata
            assert {key.lower(): value for key, value in metadata.items()}[
                "timecode"
            ] == "01:02:03:04"


@pytest.mark.skipif(
    not hasattr(av.VideoFrame, "chroma_location"), reason="PyAV has the location from 19 on"
)
@pytest.mark.parametrize("location", [3, 2], ids=["top left", "center"])
def test_chroma_location_is_kept(tmp_path, model_dir, location):
    """The tag, and so what it says: chroma is where it was."""
    y, x = np.mgrid[0:24, 0:32]
    planes = [
        np.full(48 * 64, 120, np.uint8),
        (60 + 4 * x).astype(np.uint8).ravel(),
        (60 + 5 * y).astype(np.uint8).ravel(),
    ]
    frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(72, 64), "yuv420p")
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        video = container.add_stream("libx264", rate=RATE, width=64, height=48, options={"qp": "0"})
        video.chroma_sample_location = location
        frame.pts, frame.time_base = 0, Fraction(1, RATE)
        container.mux([*video.encode(frame), *video.encode(None)])
    render(tmp_path / "in.mkv", tmp_path / "out.mkv", style="candy", strength=0, crf=0)
    after = decode(tmp_path / "out.mkv")[0]
    assert after.chroma_location == location
    for plane, before in zip(after.planes[1:], planes[1:]):
        now = (
            np.frombuffer(plane, np.uint8).reshape(24, -1)[2:-2, 2:30].astype(int)
        )  # without the edges
        assert np.abs(now - before.reshape(24, 32)[2:-2, 2:30]).max() <= 1


# Refusals


@pytest.mark.parametrize(
    "options, suffix, message",
    [
        (
            {"codec": "dnxhd"},
            "mov",
            r"the encoder dnxhd can't be opened: .*\S; choose another one \(--codec\)",
        ),
        (
            {"codec": "mpeg2video"},
            "mp4",
            "the encoder mpeg2video can't be opened: MPEG-1/2 does not support",
        ),
        (
            {"crf": float("nan")},
            "mp4",
            "--crf nan: expected a number from 0 .* to 51 for libx264; leave it out for 18",
        ),
        ({"crf": -5}, "mp4", "--crf -5: expected a number from 0 .* to 51"),
        (
            {"crf": 64},
            "webm",
            "--crf 64: expected a number from 0 .* to 63 for libvpx-vp9; leave it out for 24",
        ),
        ({}, "y4m", "YUV4MPEG has raw pictures.*choose .mkv with --preset ffv1"),
        ({}, "ogv", "Ogg Video carries neither H.264 nor VP9.*choose .mp4"),
    ],
)
def test_refusals_say_why_and_what_to_do(tmp_path, clip, options, suffix, message):
    source = write_clip(tmp_path / "in.mp4", clip[:2], rate=24000)
    with pytest.raises(ArgumentError if "crf" in options else MediaError, match=message) as error:
        render(source, tmp_path / f"out.{suffix}", style="candy", **options)
    assert "Invalid argument" not in str(error.value)
    assert os.listdir(tmp_path) == ["in.mp4"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="its encoder may work here")
@pytest.mark.parametrize("codec", [pytest.param("h264_nvenc", marks=needs_encoder("h264_nvenc"))])
def test_hardware_that_is_missing_is_named(tmp_path, clip, run, codec):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    for _ in range(2):  # FFmpeg's words are not kept back the second time
        with pytest.raises(MediaError) as error:
            render(source, tmp_path / "out.mp4", style="candy", codec=codec)
        assert f"{codec} can't be opened: Cannot load libcuda" in str(error.value)
        assert "needs an NVIDIA GPU and its driver; choose one that doesn't (--codec)" in str(
            error.value
        )


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv422p10le"])
def test_dnxhr_needs_no_further_option(tmp_path, clip, model_dir, pix_fmt):
    large = np.repeat(np.repeat(clip[:2], 4, 1), 4, 2)
    source = write_clip(tmp_path / "in.mp4", large)
    render(source, tmp_path / "out.mov", style="candy", strength=0, codec="dnxhd", pix_fmt=pix_fmt)
    after = decode(tmp_path / "out.mov")
    assert [frame.format.name for frame in after] == [pix_fmt] * 2
    error = after[0].to_ndarray(format="rgb24").astype(float) - decode(source)[0].to_ndarray(
        format="rgb24"
    )
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 30  # dB


@pytest.mark.parametrize("codec", [pytest.param("amv", marks=needs_encoder("amv"))])
def test_an_encoder_of_old_full_range_formats_alone(tmp_path, clip, model_dir, codec):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    assert render(source, tmp_path / "out.avi", style="candy", strength=0, codec=codec) == 2
    assert [frame.format.name for frame in decode(tmp_path / "out.avi")] == ["yuvj420p"] * 2


# Names and standard streams


@pytest.mark.parametrize("stem", ["x" * 251, "é" * 125, "名" * 80])
def test_a_long_name_is_written(tmp_path, clip, model_dir, stem):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    output = tmp_path / f"{stem}.mp4"
    render(source, output, style="candy", strength=0)
    assert (
        sorted(os.listdir(tmp_path)) == sorted(["in.mp4", output.name]) and len(decode(output)) == 2
    )


def test_a_name_that_no_file_can_have(tmp_path, clip):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    for one, other in (
        (source, tmp_path / f"{'x' * 300}.mp4"),
        (tmp_path / f"{'x' * 300}.mp4", tmp_path / "out.mp4"),
    ):
        with pytest.raises(MediaError, match="File name too long; expected the name of a file"):
            render(one, other, style="candy")


def closed(*command, **options):
    """Runs a command whose standard error is closed; returns its exit code and output."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, command)],
        stdout=subprocess.PIPE,
        timeout=120,
        **options,
    )
    return done.returncode, done.stdout


@pytest.mark.subprocess
def test_closed_standard_error(tmp_path, clip, model_dir):
    """Its warning (an odd size) and its error have nowhere to go; the exit codes are right."""
    source = write_clip(tmp_path / "in.mkv", clip[:3, :47].copy(), codec="ffv1")
    command = [*COMMAND, source, "-o", tmp_path / "out.mp4", "--style", "candy", "--strength", "0"]
    assert closed(*command) == (0, b"")
    assert len(decode(tmp_path / "out.mp4")) == 3
    assert closed(*command) == (2, b"")  # it exists
