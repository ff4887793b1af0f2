"""`render`: pixels, timestamps, tags and streams of its output, and that nothing half-written is
ever left.

Clips are made here, small; their video is lossless where pixels are compared exactly.
"""

import os
import resource
import signal
import subprocess
import sys
import termios
import time
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vsneuralstyle import ArgumentError, DeviceError, MediaError, ModelError, Stylizer
from vsneuralstyle.engines.cpu.host import computing_by
from vsneuralstyle.hosts.render import conversion, render
from vsneuralstyle.video import yuv

COMMAND = [sys.executable, "-m", "vsneuralstyle.cli", "render"]
LOSSLESS_RGB = {"codec": "ffv1", "pix_fmt": "bgr0"}
PATIENCE = 300  # seconds: a time limit on processes, no measure of their speed


def write_clip(
    path,
    frames,
    *,
    codec="libx264",
    pix_fmt="yuv420p",
    pts=None,
    time_base=Fraction(1, 25),
    options=None,
    audio=None,
    tags=None,
    rotation=None,
    source_format="rgb24",
):
    """Writes frames (N,H,W,3 uint8, or whatever `source_format` needs) as a video file; audio: name
    of an encoder.
    """
    with av.open(str(path), "w") as container:
        if options is None:
            options = {"crf": "12"} if codec == "libx264" else {}
        example = av.VideoFrame.from_ndarray(frames[0], source_format)
        video = container.add_stream(
            codec,
            rate=25,
            width=example.width,
            height=example.height,
            pix_fmt=pix_fmt,
            options=options,
        )
        video.codec_context.time_base = video.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(video, name, value)
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=48000, layout="mono") if audio else None
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, source_format)
            if source_format != pix_fmt:
                frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(48000 * len(frames) // 25) / 20).astype(np.float32)[None] / 2
            tone = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            tone.sample_rate, tone.pts = 48000, 0
            resampled = av.AudioResampler(sound.format, sound.layout, sound.rate).resample(tone)
            for part in resampled:
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path


def decode(path, format_name=None):
    """The decoded frames; as arrays of format_name if it is given."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return (
        frames
        if format_name is None
        else np.stack([frame.to_ndarray(format=format_name) for frame in frames])
    )


def times(frames):
    return [
        Fraction(frame.pts) * Fraction(frame.time_base.numerator, frame.time_base.denominator)
        for frame in frames
    ]


def packets(path, kind):
    """(bytes, presentation time) of each packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (bytes(packet), float(packet.pts * packet.time_base))
            for packet in container.demux(stream)
            if packet.size
        ]


def luma_planes(frames):
    def plane(frame):
        wide = frame.format.components[0].bits > 8
        data = np.frombuffer(frame.planes[0], np.uint16 if wide else np.uint8)
        return data.reshape(frame.height, -1)[:, : frame.width].astype(int)

    return np.stack([plane(frame) for frame in frames])


def listing(folder):
    return {path.name: path.stat().st_size for path in Path(folder).iterdir()}


# What the output is


@pytest.mark.parametrize("threads", [1, 2])  # 2: on a CPU two frames are in work at a time
def test_frames_are_what_the_stylizer_gives_bit_for_bit(tmp_path, clip, model_dir, threads):
    source = write_clip(tmp_path / "in.mkv", clip, codec="ffv1", pix_fmt="bgr0")
    with computing_by(threads):
        assert render(source, tmp_path / "out.mkv", style="candy", **LOSSLESS_RGB) == len(clip)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    expected = (
        (Stylizer("candy").stylize(frames) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    assert np.array_equal(decode(tmp_path / "out.mkv", "rgb24"), expected)


def test_options_reach_the_stylizer(tmp_path, clip, model_dir):
    source = write_clip(tmp_path / "in.mkv", clip, codec="ffv1", pix_fmt="bgr0")
    options = {
        "strength": 0.5,
        "coherence": 0.0,
        "preserve_color": True,
        "precision": "float32",
        "model_dir": model_dir,
    }
    render(source, tmp_path / "out.mkv", style="candy", **LOSSLESS_RGB, **options)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    expected = (
        (Stylizer("candy", **options).stylize(frames) * 255)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    assert np.array_equal(decode(tmp_path / "out.mkv", "rgb24"), expected)


@pytest.mark.parametrize(
    "suffix, codec",
    [("mp4", "h264"), ("mkv", "h264"), ("mov", "h264"), ("ts", "h264"), ("webm", "vp9")],
)
def test_default_encoding_keeps_the_picture(tmp_path, clip, model_dir, suffix, codec):
    # 4:4:4, because the reference below resamples chroma in another way, and the network makes much
    # of that.
    source = write_clip(tmp_path / "in.mp4", clip, pix_fmt="yuv444p")
    output = tmp_path / f"out.{suffix}"
    render(source, output, style="candy", strength=0.5)
    with av.open(str(output)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == (
            codec,
            "yuv420p",
            64,
            48,
        )
    # FFmpeg's own conversion is the reference; it rounds to 8 bits.
    decoded = torch.from_numpy(decode(source, "rgb24")).permute(0, 3, 1, 2).float() / 255
    stylized = (
        (Stylizer("candy", strength=0.5).stylize(decoded) * 255)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    expected = [
        av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
        for picture in stylized
    ]
    error = (luma_planes(decode(output)) - luma_planes(expected)).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean(error**2))
    assert psnr > 35, f"{psnr:.1f} dB"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_audio_is_copied_packet_by_packet(tmp_path, clip, model_dir, suffix):
    source = write_clip(tmp_path / "in.mp4", clip, audio="aac")
    output = tmp_path / f"out.{suffix}"
    render(source, output, style="candy", strength=0)
    before, after = packets(source, "audio"), packets(output, "audio")
    assert len(before) > 10
    assert [data for data, _ in after] == [data for data, _ in before]
    # Against the pictures: .mkv moves everything so that nothing is before 0; its ticks are
    # milliseconds.
    sounds = [
        np.array([at for _, at in sound]) - float(times(decode(path))[0])
        for sound, path in ((before, source), (after, output))
    ]
    assert np.allclose(*sounds, atol=1.1e-3 if suffix == "mkv" else 1e-6)
    with av.open(str(source)) as one, av.open(str(output)) as other:
        assert [stream.type for stream in other.streams] == [stream.type for stream in one.streams]
    render(source, output, style="candy", strength=0, audio=False, overwrite=True)
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def remux(sources, path, **options):
    """Puts the first stream of each of the files sources into one."""
    readers = [av.open(str(source)) for source in sources]
    with av.open(str(path), "w", **options) as writer:
        streams = [writer.add_stream_from_template(reader.streams[0]) for reader in readers]
        for reader, stream in zip(readers, streams):
            for packet in reader.demux(reader.streams[0]):
                if packet.size:
                    packet.stream = stream
                    writer.mux(packet)
            reader.close()
    return path


def test_subtitles_go_where_the_container_can_carry_them(tmp_path, clip, model_dir, caplog):
    lines = tmp_path / "lines.srt"
    lines.write_text(
        "1\n00:00:00,040 --> 00:00:00,120\none\n\n2\n00:00:00,160 --> 00:00:00,280\ntwo\n\n"
    )
    source = remux([write_clip(tmp_path / "bare.mkv", clip), lines], tmp_path / "in.mkv")
    assert [data for data, _ in packets(source, "subtitle")] == [b"one", b"two"]
    render(source, tmp_path / "out.mkv", style="candy", strength=0)
    assert (
        packets(tmp_path / "out.mkv", "subtitle") == packets(source, "subtitle")
        and not caplog.records
    )
    render(source, tmp_path / "out.mp4", style="candy", strength=0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert "subtitle stream 1" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize("suffixes", ["mp4 mp4", "mkv mkv", "mkv mp4", "mp4 mkv", "mkv webm"])
@pytest.mark.parametrize(
    "pts", [range(8), (5, 6, 7, 9, 20, 21, 50, 51)], ids=["constant", "variable"]
)
def test_timestamps_are_kept(tmp_path, clip, model_dir, suffixes, pts):
    """The clips' time base is one that each container carries exactly."""
    before, after = suffixes.split()
    source = write_clip(
        tmp_path / f"in.{before}", clip, pts=[40 * p for p in pts], time_base=Fraction(1, 1000)
    )
    output = tmp_path / f"out.{after}"
    render(source, output, style="candy", strength=0)
    assert times(decode(output)) == times(decode(source)) == [Fraction(p, 25) for p in pts]
    with av.open(str(source)) as one, av.open(str(output)) as other:
        if before == after:
            assert other.duration == one.duration  # so the last frame is shown as long
        # the very last is the empty one that marks the end
        last = list(other.demux(other.streams.video[0]))[-2]
        assert last.duration or after != "mp4"


def test_raw_stream_without_timestamps_gets_its_frame_rate(tmp_path, clip, model_dir):
    source = write_clip(tmp_path / "in.h264", clip)
    assert {frame.pts for frame in decode(source)} == {None}  # the premise
    render(source, tmp_path / "out.mp4", style="candy", strength=0)
    assert times(decode(tmp_path / "out.mp4")) == [Fraction(n, 25) for n in range(8)]


def test_odd_size_is_kept(tmp_path, clip, model_dir, caplog):
    source = write_clip(
        tmp_path / "in.mkv", clip[:3, :47, :63].copy(), codec="ffv1", pix_fmt="yuv420p"
    )
    output = tmp_path / "out.mp4"
    render(source, output, style="candy")
    first = decode(output)[0]
    assert (first.width, first.height, first.format.name) == (63, 47, "yuv444p")
    assert "63x47 is odd: written as yuv444p" in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_color_tags_pixel_shape_and_rotation_are_kept(tmp_path, clip, model_dir, suffix):
    tags = {
        "colorspace": 9,
        "color_range": 2,
        "color_primaries": 9,
        "color_trc": 16,
        "sample_aspect_ratio": Fraction(4, 3),
    }
    source = write_clip(tmp_path / f"in.{suffix}", clip[:2], tags=tags, rotation=90)
    output = tmp_path / f"out.{suffix}"
    render(source, output, style="candy", strength=0)
    for path in (source, output):  # the source as well: the test's own premise
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            frame = next(container.decode(video))
            assert {name: getattr(video, name) for name in tags} == tags
            assert (frame.colorspace, frame.color_range, frame.rotation) == (9, 2, 90)


def test_untagged_stays_untagged(tmp_path, clip, model_dir):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    render(source, tmp_path / "out.mp4", style="candy", strength=0)
    frame = decode(tmp_path / "out.mp4")[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (
        2,
        0,
        2,
        2,
    )


def test_metadata_and_chapters_are_kept(tmp_path, clip, model_dir):
    bare = write_clip(tmp_path / "bare.mkv", clip[:3])
    source = tmp_path / "in.mkv"
    with av.open(str(bare)) as reader, av.open(str(source), "w") as writer:
        writer.metadata["title"] = "a title"
        writer.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 80,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "one"},
                }
            ]
        )
        stream = writer.add_stream_from_template(reader.streams.video[0])
        stream.metadata["language"] = "fin"
        for packet in reader.demux():
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    render(source, tmp_path / "out.mkv", style="candy", strength=0)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "a title"
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "one"}]
        assert container.streams.video[0].metadata["language"] == "fin"


def test_a_deeper_source_stays_so_where_it_can(tmp_path, clip, model_dir, caplog):
    source = write_clip(tmp_path / "in.mkv", clip[:2], codec="ffv1", pix_fmt="yuv420p10le")
    render(source, tmp_path / "10.mp4", style="candy", strength=0, crf=1)
    assert not caplog.text
    render(source, tmp_path / "mpeg4.mp4", style="candy", strength=0, codec="mpeg4")
    assert "the source has 10 bits" in caplog.text  # and that encoder 8
    ten = decode(tmp_path / "10.mp4")
    assert ten[0].format.name == "yuv420p10le"
    assert np.abs(luma_planes(ten) - luma_planes(decode(source))).mean() < 2


# Color


@pytest.mark.parametrize(
    "matrix, bits, full, code",
    [
        # pure red: BT.601 and BT.709 as the standards' tables have it, and full range by hand
        (6, 8, False, (81, 90, 240)),
        (1, 8, False, (63, 102, 240)),
        (1, 10, False, (250, 409, 960)),
        (9, 10, False, (294, 387, 960)),
        (5, 8, True, (76, 85, 255)),
    ],
)
def test_code_values_of_red(matrix, bits, full, code):
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    scale = 2**bits - 1
    ours = (
        (yuv.rgb_to_yuv(red, matrix, full, bits) * scale).round().clamp(0, scale).flatten().tolist()
    )
    assert ours == list(code)
    back = yuv.yuv_to_rgb(torch.tensor(code).float().view(1, 3, 1, 1) / scale, matrix, full, bits)
    assert torch.allclose(back, red, atol=0.012)


@pytest.mark.parametrize(
    "height, tags, code",
    [
        (48, {}, (81, 90, 240)),
        (720, {}, (63, 102, 240)),
        (48, {"colorspace": 1}, (63, 102, 240)),
        (720, {"colorspace": 6}, (81, 90, 240)),
        (48, {"color_range": 2}, (76, 85, 255)),
    ],
)
def test_matrix_and_range_are_the_streams_or_the_sizes(tmp_path, model_dir, height, tags, code):
    """A picture of the code values that mean red is read as red."""
    planes = np.broadcast_to(np.uint8(code)[:, None, None], (3, height, 64)).copy()
    source = write_clip(
        tmp_path / "in.mkv",
        [planes],
        codec="ffv1",
        pix_fmt="yuv444p",
        source_format="yuv444p",
        tags=tags,
    )
    render(source, tmp_path / "out.mkv", style="candy", strength=0, **LOSSLESS_RGB)
    pixels = decode(tmp_path / "out.mkv", "rgb24")[0].reshape(-1, 3).astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(
    "tags",
    [{}, {"colorspace": 1}, {"colorspace": 9, "color_range": 2}],
    ids=["untagged", "709", "2020 full"],
)
def test_strength_0_gives_the_source_back(tmp_path, clip, model_dir, pix_fmt, tags):
    calm = (clip[:2] * 0.6 + 40).astype(np.uint8)  # colors that every matrix can say
    source = write_clip(tmp_path / "in.mkv", calm, codec="ffv1", pix_fmt=pix_fmt, tags=tags)
    render(source, tmp_path / "out.mkv", style="candy", strength=0, codec="ffv1", pix_fmt=pix_fmt)
    before, after = decode(source), decode(tmp_path / "out.mkv")
    assert np.abs(luma_planes(before) - luma_planes(after)).max() <= 1


# Memory


def test_memory_does_not_grow_with_the_length(tmp_path, clip, model_dir, monkeypatch):
    alive, peak = set(), 0
    to_rgb = conversion.Converter.to_rgb

    def counted(self, frame, device):
        nonlocal peak
        tensor = to_rgb(self, frame, device)
        key = object()
        alive.add(key)
        weakref.finalize(tensor, alive.discard, key)
        peak = max(peak, len(alive))
        return tensor

    monkeypatch.setattr(conversion.Converter, "to_rgb", counted)
    source = write_clip(tmp_path / "in.mp4", np.concatenate([clip] * 4), audio="aac")
    assert render(source, tmp_path / "out.mp4", style="candy", coherence=0) == 32
    assert peak <= 2


# What goes wrong


def damaged(path, source, kind):
    data = source.read_bytes()
    third = len(data) // 3
    path.write_bytes(
        data[:third] + bytes(third) + data[2 * third :]
        if kind == "overwritten"
        else data[: 2 * third]
    )
    return path


def noisy_clip(path, count=40):
    """A clip whose pictures make up nearly the whole file, with its index in front."""
    frames = np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    bare = write_clip(path.with_name("bare.mp4"), frames)
    remux([bare], path, container_options={"movflags": "faststart"})
    bare.unlink()
    return path


@pytest.mark.parametrize("kind", ["overwritten", "cut off"])
def test_source_that_breaks_half_way_leaves_nothing(tmp_path, model_dir, kind):
    source = damaged(tmp_path / "in.mp4", noisy_clip(tmp_path / "whole.mp4"), kind)
    with av.open(str(source)) as container:  # the premise: it begins well
        assert next(container.decode(video=0)).width == 64
    (tmp_path / "out.mp4").write_bytes(b"precious")
    before = listing(tmp_path)
    message = r"in\.mp4: (the frame at .* s is damaged|cut off at .* s): .*; repair"
    with pytest.raises(MediaError, match=message):
        render(
            source,
            tmp_path / "out.mp4",
            style="candy",
            coherence=0,
            overwrite=True,
            on_error="stop",
        )
    assert listing(tmp_path) == before and (tmp_path / "out.mp4").read_bytes() == b"precious"


def test_disk_that_fills_up_leaves_nothing(tmp_path, model_dir, run):
    source = noisy_clip(tmp_path / "in.mp4", count=60)
    before = listing(tmp_path)
    done = run(
        *COMMAND,
        source,
        "-o",
        tmp_path / "out.mkv",
        "--style",
        "candy",
        "--strength",
        "0",
        "--codec",
        "ffv1",
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        f"neuralstyle: error: can't write {tmp_path / 'out.mkv'}: File too large"
    )
    assert listing(tmp_path) == before


def audio_only(path, cover=None):
    """A second of silence; cover: a picture that is its cover art."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000, layout="mono")
        if cover is not None:
            art = container.add_stream("mjpeg", width=64, height=48, pix_fmt="yuvj420p")
            art.disposition = av.stream.Disposition.attached_pic
            container.mux(
                art.encode(av.VideoFrame.from_ndarray(cover, "rgb24").reformat(format="yuvj420p"))
            )
            container.mux(art.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        tone.sample_rate = 48000
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))


BAD_PATHS = {
    # name: (source, destination, what the message says)
    "missing": ("missing.mp4", "out.mp4", "missing.mp4: no such file"),
    "a folder": ("folder", "out.mp4", "is a folder; expected a video file"),
    "empty": ("empty.mp4", "out.mp4", "empty.mp4: it is empty"),
    "not a video": ("text.mp4", "out.mp4", "can't read .*text.mp4"),
    "audio only": ("audio.mp4", "out.mp4", "has no video, only: audio"),
    "audio with cover art": ("cover.mp4", "out.mp4", "has no video, only: audio, cover art"),
    "no such folder": ("in.mp4", "nowhere/out.mp4", "No such file or directory; choose a folder"),
    "unwritable folder": ("in.mp4", "/proc/out.mp4", "can't write /proc/out.mp4"),
    "output is the source": ("in.mp4", "in.mp4", "is the source itself"),
    "output is a link to the source": ("in.mp4", "link.mp4", "is the source itself"),
    "output is a folder": ("in.mp4", "folder", "is a folder; expected the name"),
    "output exists": ("in.mp4", "there.mp4", "there.mp4 exists.*--overwrite"),
    "unknown suffix": ("in.mp4", "out.xyz", "'.xyz' names no container; expected .mp4"),
    "no suffix": ("in.mp4", "out", "names no container"),
    "pictures": ("in.mp4", "out.png", "is not a video file"),
    "container without H.264 and VP9": (
        "in.mp4",
        "out.ogv",
        "out.ogv.*neither H.264 nor VP9.*--codec",
    ),
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_bad_path(tmp_path, clip, name):
    source, destination, message = BAD_PATHS[name]
    write_clip(tmp_path / "in.mp4", clip[:2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "in.mp4")
    audio_only(tmp_path / "audio.mp4")
    audio_only(tmp_path / "cover.mp4", clip[0])
    before = listing(tmp_path)
    with pytest.raises(MediaError, match=f"(?s){message}"):
        render(tmp_path / source, tmp_path / destination, style="candy")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"codec": "h999"}, "--codec h999: this FFmpeg has no such encoder"),
        ({"codec": "aac"}, "'aac' does not encode video"),
        ({"codec": "libvpx"}, "does not support 'libvpx'"),
        ({"pix_fmt": "yuv421p"}, "yuv421p.*yuv420p"),
        ({"codec": "ffv1", "crf": 3}, "ffv1 has no such option"),
    ],
)
def test_bad_encoding(tmp_path, clip, options, message):
    write_clip(tmp_path / "in.mp4", clip[:2])
    with pytest.raises(ArgumentError if "crf" in options else MediaError, match=f"(?s){message}"):
        render(tmp_path / "in.mp4", tmp_path / "out.mp4", style="candy", **options)
    assert set(listing(tmp_path)) == {"in.mp4"}


def test_errors_of_the_core_leave_nothing(tmp_path, clip, model_dir):
    source = write_clip(tmp_path / "in.mp4", clip[:2])
    for error, options in (
        (ModelError, {"style": "nosuch"}),
        (DeviceError, {"style": "candy", "device": "cuda:99"}),
        (ArgumentError, {"style": "candy", "strength": 2}),
    ):
        with pytest.raises(error, match=str(list(options.values())[-1])):
            render(source, tmp_path / "out.mp4", **options)
    with pytest.raises(ArgumentError, match="8x48.*at least 16x16"):
        render(
            write_clip(tmp_path / "small.mp4", clip[:2, :, :8].copy()),
            tmp_path / "out.mp4",
            style="candy",
        )
    assert set(listing(tmp_path)) == {"in.mp4", "small.mp4"}


# As a process


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGXCPU, 152)],
)
def test_interrupt_leaves_nothing(tmp_path, clip, model_dir, number, code):
    source = write_clip(tmp_path / "in.mp4", np.concatenate([clip] * 50))
    (tmp_path / "out.mkv").write_bytes(b"precious")
    before = listing(tmp_path)
    process = subprocess.Popen(
        [
            *COMMAND,
            source,
            "-o",
            tmp_path / "out.mkv",
            "--style",
            "candy",
            "--codec",
            "ffv1",
            "--overwrite",
        ],
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job hands down an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + PATIENCE
        # in its midst
        while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".out.*.part.mkv")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (
        code,
        "neuralstyle: interrupted\n" if code == 130 else "",
    )
    assert listing(tmp_path) == before and (tmp_path / "out.mkv").read_bytes() == b"precious"


@pytest.mark.subprocess
def test_progress_and_warnings_are_shown_on_a_terminal_unless_quiet(tmp_path, clip, model_dir):
    source = write_clip(tmp_path / "in.mkv", clip[:, :47].copy(), codec="ffv1")

    def shown(*options):
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        process = subprocess.Popen(
            [
                *COMMAND,
                source,
                "-o",
                tmp_path / "out.mp4",
                "--style",
                "candy",
                "--overwrite",
                *options,
            ],
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(ours)
        assert process.wait(timeout=PATIENCE) == 0
        return text.decode()

    text = shown()
    assert "100%" in text and "8/8" in text and "frames/s" in text
    assert "neuralstyle: warning: 64x47 is odd: written as yuv444p" in text
    assert shown("--quiet") == ""
