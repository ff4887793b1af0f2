"""`render`: what it reads and writes beside plain video files. Every clip is made here; what was
written is read back, and at strength 0 compared with the source.
"""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vsneuralstyle import ArgumentError, MediaError
from vsneuralstyle.hosts.render import render
from vsneuralstyle.hosts.render.jobs import plan
from vsneuralstyle.hosts.render.ranges import Range, parse_range

COMMAND = [sys.executable, "-m", "vsneuralstyle", "render"]
RATE, SIZE, COUNT = 25, (64, 48), 6


def pictures(count=COUNT, scenes=1, size=SIZE):
    """(H, W, 4) float, 0..1: patches that move, with alpha."""
    random, (width, height) = np.random.default_rng(0), size
    patches = [random.random((height // 8, width // 8 + 4, 4)) for _ in range(scenes)]
    for number in range(count):
        wide = np.kron(patches[number * scenes // count], np.ones((8, 8, 1)))
        yield wide[:, number % 30 : number % 30 + width]


def write(path, codec, pix_fmt, *, size=SIZE, sound=False, **options):
    container_format = "image2" if "%" in path.name else None
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=RATE, width=size[0], height=size[1])
        stream.pix_fmt = pix_fmt
        audio = container.add_stream("pcm_s16le", rate=48000, layout="mono") if sound else None
        count = options.pop("count", COUNT)
        stream.options = {"g": "250", **options.pop("options", {})}
        for number, picture in enumerate(pictures(count, size=size, **options)):
            samples = (picture * 65535).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(samples, format="rgba64le").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            tone = np.arange(count * 48000 // RATE, dtype=np.int16).reshape(1, -1)
            for first in range(0, tone.shape[1], 960):
                frame = av.AudioFrame.from_ndarray(tone[:, first : first + 960], "s16", "mono")
                frame.sample_rate, frame.pts = 48000, first
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def decoded(path):
    with av.open(str(path), format="image2" if "%" in path.name else None) as container:
        return list(container.decode(video=0))


def samples(frames, channels="rgb"):
    name = "gbrap16le" if channels == "rgba" else "gbrp16le"
    return np.stack([frame.reformat(format=name).to_ndarray() for frame in frames]) / 65535


def still(source, destination, **options):
    """What is written at strength 0, and the source."""
    render(source, destination, style="candy", strength=0, progress=False, **options)
    return decoded(destination), decoded(source)


# (suffix of the source, its encoder and pixel format) x (output, options, pixel format, tolerance)
SOURCES = {
    "8 bit": ("in.mkv", "ffv1", "yuv420p"),
    "10 bit": ("in.mkv", "ffv1", "yuv420p10le"),
    "alpha": ("in.mov", "prores_ks", "yuva444p10le"),
    "PNG": ("in%03d.png", "png", "rgb24"),
    "PNG, 16 bit": ("in%03d.png", "png", "rgb48be"),
    "PNG with alpha": ("in%03d.png", "png", "rgba"),
    "TIFF": ("in%03d.tiff", "tiff", "rgb48le"),
    "EXR": ("in%03d.exr", "exr", "gbrpf32le"),
}
OUTPUTS = {
    "FFV1": ("out.mkv", {"preset": "ffv1"}),
    "ProRes": ("out.mov", {"preset": "prores4444"}),
    "PNG": ("out%04d.png", {}),
    "TIFF": ("out%04d.tiff", {}),
    "EXR": ("out%04d.exr", {}),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("source", SOURCES)
def test_samples_depth_and_alpha_are_kept(tmp_path, model_dir, source, output):
    (name, codec, pix_fmt), (out, options) = SOURCES[source], OUTPUTS[output]
    ours, theirs = still(write(tmp_path / name, codec, pix_fmt), tmp_path / out, **options)
    assert len(ours) == len(theirs) == COUNT
    assert [frame.time for frame in ours] == pytest.approx([frame.time for frame in theirs])
    had, has = theirs[0].format, ours[0].format
    deep, alpha = had.components[0].bits > 8, any(one.is_alpha for one in had.components)
    assert has.components[0].bits > 8 or not deep
    assert any(one.is_alpha for one in has.components) or not alpha
    if "420" not in had.name + has.name:  # scalers differ in where they put chroma
        apart = np.abs(samples(ours) - samples(theirs))
        assert apart.mean() < (0.003 if deep else 0.006)
    if alpha:
        apart = np.abs(samples(ours, "rgba") - samples(theirs, "rgba"))[..., 3]
        assert apart.max() < 0.002


def test_ten_bits_stay_ten(tmp_path, model_dir):
    source = write(tmp_path / "in.mkv", "ffv1", "yuv420p10le")
    ours, _ = still(source, tmp_path / "out.mp4")
    assert ours[0].format.name == "yuv420p10le"
    plain = write(tmp_path / "plain.mkv", "ffv1", "yuv420p")
    assert still(plain, tmp_path / "plain.mp4")[0][0].format.name == "yuv420p"


@pytest.mark.parametrize(
    "preset, suffix, codec, pix_fmt",
    [
        ("web", ".mp4", "h264", "yuv420p"),
        ("prores", ".mov", "prores", "yuv422p10le"),
        ("dnxhr", ".mov", "dnxhd", "yuv422p10le"),
        ("ffv1", ".mkv", "ffv1", "yuv420p10le"),
        ("hevc10", ".mp4", "hevc", "yuv420p10le"),
        ("av1", ".mp4", "av1", "yuv420p10le"),
    ],
)
def test_presets(tmp_path, model_dir, preset, suffix, codec, pix_fmt):
    source = write(tmp_path / "in.mkv", "ffv1", "yuv420p10le", size=(256, 128))
    out = tmp_path / f"out{suffix}"
    render(source, out, style="candy", preset=preset, progress=False)
    with av.open(str(out)) as file:
        stream = file.streams.video[0]
        assert codec in (stream.codec_context.name, stream.codec_context.codec.canonical_name)
        assert stream.format.name == pix_fmt
        if codec == "hevc":
            assert stream.codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"preset": "vhs"}, ArgumentError, "preset is 'vhs'; expected one of web, prores"),
        ({"encoder_options": {"presets": "slow"}}, ArgumentError, "no such option.*preset"),
        ({"frames": "9-3"}, ArgumentError, "frames is '9-3'"),
        ({"start": "soon"}, ArgumentError, "start is 'soon'; expected seconds"),
        ({"start": "2", "end": "1"}, ArgumentError, "expected a later end"),
        ({"start": "100"}, MediaError, "no frame is in the range"),
        ({"frames": "90-99"}, MediaError, "no frame is in the range"),
    ],
)
def test_what_cannot_be_is_an_error_and_leaves_nothing(tmp_path, model_dir, options, error, match):
    source = write(tmp_path / "in.mkv", "ffv1", "yuv420p")
    with pytest.raises(error, match=match):
        render(source, tmp_path / "out.mp4", style="candy", progress=False, **options)
    assert list(tmp_path.iterdir()) == [source]


def test_a_gap_and_another_size_in_a_sequence(tmp_path, model_dir):
    source = write(tmp_path / "in%03d.png", "png", "rgb24")
    (tmp_path / "in004.png").unlink()
    before = set(tmp_path.iterdir())
    with pytest.raises(MediaError, match="in004.png is missing, 1 to 3 and 5 to 6 are there"):
        render(source, tmp_path / "out%03d.png", style="candy", progress=False)
    with pytest.raises(MediaError, match="no file has such a name"):
        render(tmp_path / "no%03d.png", tmp_path / "out.mp4", style="candy", progress=False)
    write(tmp_path / "larger%03d.png", "png", "rgb24", size=(96, 48), count=1)
    (tmp_path / "larger001.png").rename(tmp_path / "in004.png")
    with pytest.raises(MediaError, match="is 96x48, the first was 64x48; expected files of one"):
        render(source, tmp_path / "out%03d.png", style="candy", progress=False)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "in004.png"}


def test_a_sequence_keeps_its_numbers_and_replaces_none_unasked(tmp_path, model_dir):
    write(tmp_path / "all%03d.png", "png", "rgb24")
    for number in (4, 5, 6):
        (tmp_path / f"all00{number}.png").rename(tmp_path / f"in{number + 996}.png")
    source, out = tmp_path / "in%03d.png", tmp_path / "out%04d.png"
    render(source, out, style="candy", rate="24000/1001", progress=False)
    written = sorted(path.name for path in tmp_path.glob("out*"))
    assert written == ["out1000.png", "out1001.png", "out1002.png"]
    with pytest.raises(MediaError, match="out1000.png exists.*--overwrite"):
        render(source, out, style="candy", progress=False)
    render(source, out, style="candy", overwrite=True, progress=False)
    video = tmp_path / "out.mkv"
    render(source, video, style="candy", rate="24000/1001", progress=False)
    with av.open(str(video)) as file:
        assert file.streams.video[0].average_rate == Fraction(24000, 1001)


@pytest.mark.parametrize("part", [{"frames": "9-14"}, {"start": "0.36", "end": "00:00.6"}])
def test_a_range_is_bit_for_bit_that_of_the_whole(tmp_path, model_dir, part):
    source = write(
        tmp_path / "in.mkv", "libx264", "yuv420p", count=24, scenes=3, sound=True,
        options={"sc_threshold": "0"},
    )  # fmt: skip
    whole, some = tmp_path / "whole.mkv", tmp_path / "some.mkv"
    render(source, whole, style="candy", preset="ffv1", progress=False)
    assert render(source, some, style="candy", preset="ffv1", progress=False, **part) == 6
    expected = [frame.to_ndarray() for frame in decoded(whole)[9:15]]
    assert all(map(np.array_equal, expected, [frame.to_ndarray() for frame in decoded(some)]))
    with av.open(str(some)) as file:
        first = next(file.decode(audio=0)).to_ndarray()[0, 0]
        assert abs(int(first) - 9 * 48000 // RATE) < 2048  # a packet's length at most
    assert decoded(some)[0].time == 0


def test_parts_of_a_range():
    assert parse_range("1:02:03.5", None, None, None) == Range(Fraction("3723.5"))
    assert parse_range("00:00:02:05", "60f", None, Fraction(24)) == Range(53, 60)
    assert not parse_range(None, None, None, None)
    with pytest.raises(ArgumentError, match="frames below 24"):
        parse_range("00:00:02:24", None, None, Fraction(24))


def test_several_sources(tmp_path, model_dir, run):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.mkv", "ffv1", "yuv420p", count=2)
    (tmp_path / "notes.txt").write_text("no video")
    command = [*COMMAND, str(tmp_path), "--style", "candy", "--quiet", "-o"]
    done = run(*command, str(tmp_path / "{stem}_{style}.mp4"))
    assert done.returncode == 0, done.stderr
    done = run(*command, str(tmp_path / "folder/"), "--preset", "prores")
    assert done.returncode == 0 or "folder" in done.stderr
    assert {path.name for path in tmp_path.glob("*_candy.mp4")} == {
        "one_candy.mp4",
        "two_candy.mp4",
    }
    with pytest.raises(ArgumentError, match="both be written to .*out.mp4.*{stem}"):
        plan([str(tmp_path / "*.mkv")], str(tmp_path / "out.mp4"), "candy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="no video file in this folder"):
        plan([str(tmp_path / "empty")], str(tmp_path / "out.mp4"), "candy")
    planned = plan([str(tmp_path / "*.mkv")], f"{tmp_path}/new/", "candy", ".mov")
    assert [out for _, out in planned] == [tmp_path / "new/one.mov", tmp_path / "new/two.mov"]


def test_yuv4mpeg_through_pipes(tmp_path, model_dir):
    source, out = write(tmp_path / "in.mkv", "ffv1", "yuv420p"), tmp_path / "out.mkv"
    options = ["--style", "candy", "--strength", "0", "--quiet"]
    first = subprocess.run(
        [*COMMAND, source, "-o", "-", *options], capture_output=True, timeout=120
    )
    assert first.returncode == 0 and first.stdout.startswith(b"YUV4MPEG2 W64 H48 F25:1"), (
        first.stderr
    )
    second = subprocess.run(
        [*COMMAND, "-", "-o", out, "--preset", "ffv1", *options],
        input=first.stdout,
        capture_output=True,
        timeout=120,
    )
    assert second.returncode == 0, second.stderr
    ours, theirs = decoded(out), decoded(source)
    assert [frame.time for frame in ours] == pytest.approx([frame.time for frame in theirs])
    for one, other in zip(ours, theirs):
        luma = (frame.to_ndarray()[: SIZE[1]].astype(int) for frame in (one, other))
        assert np.abs(np.subtract(*luma)).mean() < 0.7  # two conversions to RGB, and back
    nothing = subprocess.run(
        [*COMMAND, "-", "-o", tmp_path / "none.mkv", *options],
        input=b"no pictures",
        capture_output=True,
        text=False,
        timeout=120,
    )
    assert nothing.returncode == 2 and b"standard input" in nothing.stderr
    assert not Path(tmp_path, "none.mkv").exists()


def test_progress_as_json(tmp_path, model_dir, run):
    source = write(tmp_path / "in.mkv", "ffv1", "yuv420p")
    out = tmp_path / "out.mkv"
    done = run(*COMMAND, source, "-o", out, "--style", "candy", "--progress", "json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[-1] == {
        "job": str(out), "frame": COUNT, "frames": COUNT, "fps": lines[-1]["fps"], "eta": 0.0,
        "done": True,
    }  # fmt: skip
    assert all(set(line) == set(lines[-1]) and line["fps"] > 0 for line in lines)
