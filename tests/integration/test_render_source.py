"""`render`, as it reads: damaged, cut-off and joined files, clocks, streams beside the video.

Clips are made here, small; damage is bytes of theirs that are overwritten.
"""

import sys
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest

from vsneuralstyle import ArgumentError, MediaError
from vsneuralstyle.hosts.render import render

COMMAND = [sys.executable, "-m", "vsneuralstyle.cli", "render"]
LOSSLESS = {"style": "candy", "strength": 0, "codec": "ffv1", "pix_fmt": "yuv420p"}
PLAIN = {"style": "candy", "strength": 0}
QUIET = {"x265-params": "log-level=none"}
PATIENCE = 300  # seconds: a time limit on processes, no measure of their speed
CLOCK = Fraction(2**33, 90000)  # seconds after which a transport stream's clock starts anew


def film(
    path,
    count=25,
    *,
    start=0,
    rate=25,
    size=(64, 48),
    sound="aac",
    late=0,
    codec="libx264",
    options=None,
    code=None,
    tags=None,
    muxing=None,
):
    """A clip of noise, or of one code value, from start on; its tone begins late. In seconds."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=muxing or {}) as container:
        width, height = size
        video = container.add_stream(
            codec, rate=rate, width=width, height=height, pix_fmt="yuv420p"
        )
        # Not each noise is a scene of its own.
        video.options = {"g": "10", "sc_threshold": "0"} | (options or {})
        for name, value in (tags or {}).items():
            setattr(video, name, value)
        packets = []
        for number in range(count):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, value in zip(frame.planes, code or (None,) * 3):
                length = plane.buffer_size
                plane.update(noise.bytes(length) if value is None else bytes([value]) * length)
            frame.pts, frame.time_base = number + round(start * rate), Fraction(1, rate)
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound:
            stream = container.add_stream(sound, rate=48000, layout="mono")
            packets += tone(stream, count / rate, start + late)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def tone(stream, length, start):
    samples = np.sin(np.arange(int(48000 * length)) / 20).astype(np.float32)[None] / 2
    frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
    frame.sample_rate, frame.pts = 48000, round(start * 48000)
    resampled = av.AudioResampler(stream.format, stream.layout, stream.rate).resample(frame)
    return [packet for part in (*resampled, None) for packet in stream.encode(part)]


def overwrite(path, numbers, beginning=0):
    """Overwrites those packets of the video with zeros, from a part of theirs on."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in (packets[number] for number in numbers):
            kept = int(beginning * packet.size)
            data[packet.pos + kept : packet.pos + packet.size] = bytes(packet.size - kept)
    path.write_bytes(data)
    return path


def join(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def decode(path):
    """(Presentation time, frame) of each frame."""
    with av.open(str(path)) as container:
        return [(seconds(frame), frame) for frame in container.decode(video=0)]


def seconds(item):
    return item.pts * Fraction(item.time_base.numerator, item.time_base.denominator)


def times(path):
    return [float(at) for at, _ in decode(path)]


def pictures(path):
    return [frame.to_ndarray() for _, frame in decode(path)]


def packets(path, kind):
    """(Bytes, presentation time) of each packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (bytes(packet), float(seconds(packet)))
            for packet in container.demux(stream)
            if packet.size
        ]


def same(ones, others):
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))


def copy(reader, writer):
    """Adds the streams of reader to writer, and gives what copies their packets."""
    streams = [writer.add_stream_from_template(stream) for stream in reader.streams]

    def go_on():
        for packet in reader.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)

    return go_on


def kinds(path):
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


# Damaged frames


@pytest.mark.parametrize("kind, beginning", [("refuses", 0), ("flags", 0.25)])
@pytest.mark.parametrize("order", [{"bf": "0"}, {"bf": "2"}], ids=["in order", "B-frames"])
def test_damaged_frames(tmp_path, model_dir, caplog, kind, beginning, order):
    source = film(tmp_path / "in.mp4", 30, sound=None, options=order)
    output = tmp_path / "out.mkv"
    render(source, output, **LOSSLESS)
    whole, at = pictures(output), times(output)
    # The last frame of the second ten, which no other refers to.
    with av.open(str(source)) as container:
        shown = [packet.pts for packet in container.demux(video=0) if packet.size]
    number = max(range(12, 20), key=lambda number: shown[number])
    bad = sorted(shown).index(shown[number])
    overwrite(source, [number], beginning)
    caplog.clear()

    assert render(source, output, overwrite=True, **LOSSLESS) == 30
    repeated = pictures(output)
    assert times(output) == at
    assert same(repeated[: bad + 1], whole[:bad] + whole[bad - 1 : bad])
    assert not np.array_equal(whole[bad], whole[bad - 1])
    assert f"at {at[bad]:.3f} s is damaged: its decoder {kind}" in caplog.messages[0]
    assert "frames replaced by the one before: 1; the last at" in caplog.messages[-1]

    assert render(source, output, overwrite=True, on_error="skip", **LOSSLESS) == 29
    assert times(output) == at[:bad] + at[bad + 1 :]
    assert same(pictures(output), repeated[:bad] + repeated[bad + 1 :])
    assert "frames left out: 1; the last at" in caplog.messages[-1]

    before = output.read_bytes()
    message = rf"in\.mp4: the frame at {at[bad]:.3f} s is damaged: its decoder {kind}.*; repair"
    with pytest.raises(MediaError, match=message):
        render(source, output, overwrite=True, on_error="stop", **LOSSLESS)
    assert output.read_bytes() == before


def test_all_that_goes_with_a_refused_frame_is_replaced(tmp_path, model_dir):
    """HEVC's decoder gives, without a word, no frame that refers to one that it refused."""
    source = film(tmp_path / "in.mp4", 30, sound=None, codec="libx265", options=QUIET)
    at = times(source)
    overwrite(source, [12])
    assert len(decode_what_goes(source)) < 29  # the premise
    assert render(source, tmp_path / "out.mp4", **PLAIN) == 30
    assert times(tmp_path / "out.mp4") == at


def decode_what_goes(path):
    frames = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                frames += packet.decode()
    return frames


@pytest.mark.parametrize("kind, beginning", [("refuses", 0), ("flags", 0.25)])
def test_damage_at_the_end_takes_no_other_frame_along(tmp_path, model_dir, caplog, kind, beginning):
    """Whatever number of frames is decoded at a time."""
    source = film(tmp_path / "in.mp4", 30, sound=None, options={"bf": "0", "g": "4"})
    render(source, tmp_path / "out.mkv", **LOSSLESS)
    whole = pictures(tmp_path / "out.mkv")
    overwrite(source, [27], beginning)  # two key frames' last but one
    assert render(source, tmp_path / "out.mkv", overwrite=True, **LOSSLESS) == 30
    assert same(pictures(tmp_path / "out.mkv"), whole[:27] + whole[26:27] + whole[28:])
    assert f"its decoder {kind}" in caplog.text
    assert "frames replaced by the one before: 1;" in caplog.messages[-1]


def test_damaged_frame_of_a_raw_stream(tmp_path, model_dir, caplog):
    """Without timestamps its place is after those that came."""
    source = film(tmp_path / "in.h264", 30, sound=None, options={"bf": "0"})
    overwrite(source, [15], 0.02)
    assert render(source, tmp_path / "out.mp4", **PLAIN) == 30
    assert times(tmp_path / "out.mp4") == [number / 25 for number in range(30)]
    assert "frames replaced by the one before: 1;" in caplog.messages[-1]


def test_damaged_beginning_is_left_out(tmp_path, model_dir, caplog):
    source = overwrite(film(tmp_path / "in.mp4", 30, sound=None), [0])
    count = render(source, tmp_path / "out.mp4", **PLAIN)
    assert 0 < count < 30 and len(decode(tmp_path / "out.mp4")) == count
    assert f"frames left out: {30 - count};" in caplog.messages[-1]
    assert "replaced" not in caplog.text


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_all_damaged_is_an_error(tmp_path, model_dir, codec):
    source = overwrite(film(tmp_path / "in.mp4", 10, sound=None, codec=codec), range(10))
    with pytest.raises(MediaError, match="in.mp4: .*can(.t)? be decoded"):
        render(source, tmp_path / "out.mp4", **PLAIN)
    assert not (tmp_path / "out.mp4").exists()


def test_on_error_in_the_command(tmp_path, model_dir, run):
    source = overwrite(film(tmp_path / "in.mp4", 20, sound=None), [15])
    command = [*COMMAND, source, "-o", tmp_path / "out.mkv", "--style", "candy", "--strength", "0"]
    done = run(*command, timeout=PATIENCE)
    assert done.returncode == 0 and len(decode(tmp_path / "out.mkv")) == 20
    assert "neuralstyle: warning:" in done.stderr
    assert "frames replaced by the one before" in done.stderr
    done = run(*command, "--overwrite", "--on-error", "stop", timeout=PATIENCE)
    assert done.returncode == 2 and "--on-error repeat" in done.stderr
    done = run(*command, "--overwrite", "--on-error", "retry", timeout=PATIENCE)
    assert done.returncode == 2 and "'retry'" in done.stderr and "stop, skip, repeat" in done.stderr


def test_unknown_on_error(tmp_path):
    message = "on_error='retry' is unknown; expected one of stop, skip, repeat"
    with pytest.raises(ArgumentError, match=message):
        render(film(tmp_path / "in.mp4", 2), tmp_path / "out.mp4", on_error="retry", **PLAIN)


def transport_packets(path, program):
    """A transport stream's packets of 188 bytes, and the numbers of those of a stream of its."""
    data = path.read_bytes()
    parts = [data[start : start + 188] for start in range(0, len(data), 188)]
    return parts, [
        number for number, part in enumerate(parts) if (part[1] & 31) << 8 | part[2] == program
    ]


def test_damaged_sound_is_left_out(tmp_path, model_dir, caplog):
    source = film(tmp_path / "in.ts")
    sound = len(packets(source, "audio"))
    parts, numbers = transport_packets(source, 0x101)
    for number in numbers[5:8]:
        parts[number] = parts[number][:12] + bytes(176)
    source.write_bytes(b"".join(parts))
    assert render(source, tmp_path / "out.mp4", **PLAIN) == 25
    assert 0 < len(packets(tmp_path / "out.mp4", "audio")) < sound
    assert "packets left out: " in caplog.messages[-1] and "the audio packet at" in caplog.text
    with pytest.raises(MediaError, match="the audio packet at .* s is damaged"):
        render(source, tmp_path / "stop.mp4", on_error="stop", **PLAIN)


def test_sound_that_comes_twice_is_taken(tmp_path, model_dir):
    """A container takes no packet that is not after the one before."""
    source = film(tmp_path / "in.ts")
    parts, numbers = transport_packets(source, 0x101)
    starts = [number for number in numbers if parts[number][1] & 64]  # of PES packets
    first, second = starts[1:3]
    twice = [parts[number] for number in numbers if first <= number < second]
    source.write_bytes(b"".join(parts[:second] + twice + parts[second:]))
    sound = [at for _, at in packets(source, "audio")]
    assert sound != sorted(set(sound))  # the premise
    render(source, tmp_path / "out.mp4", **PLAIN)
    sound = [at for _, at in packets(tmp_path / "out.mp4", "audio")]
    assert sound == sorted(set(sound)) and len(decode(tmp_path / "out.mp4")) == 25


# Files that end early

INDEX_FIRST = {"movflags": "faststart"}
CUT = {"mkv": {}, "mp4": INDEX_FIRST, "ts": {}, "mov": INDEX_FIRST, "flv": {}}


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5 // 188 * 188 + 50])
    return path


@pytest.mark.parametrize("suffix", CUT)
def test_cut_off(tmp_path, model_dir, caplog, suffix):
    source = cut(film(tmp_path / f"in.{suffix}", 40, rate=10, muxing=CUT[suffix]))
    count = render(source, tmp_path / "out.mkv", **PLAIN)
    assert 15 < count < 30 and len(decode(tmp_path / "out.mkv")) == count
    missing = "how much is missing is unknown" if suffix == "ts" else r"s of 4\.\d\d s are missing"
    message = rf"in\.{suffix}: cut off at [12]\.\d\d s: .*{missing}.*; repair"
    with pytest.raises(MediaError, match=message):
        render(source, tmp_path / "stop.mkv", on_error="stop", **PLAIN)
    assert len(caplog.messages) == 1 and "cut off at" in caplog.text
    assert not (tmp_path / "stop.mkv").exists()


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "mov", "avi", "flv", "nut", "m2ts"])
@pytest.mark.parametrize(
    "clip",
    [{}, {"rate": 1, "count": 5}, {"start": 3, "late": 0.5}, {"sound": None}],
    ids=["plain", "slow", "late", "silent"],
)
def test_whole_files_are_not_cut_off(tmp_path, model_dir, caplog, suffix, clip):
    sound = clip.get("sound", "libmp3lame" if suffix == "avi" else "aac")
    if suffix == "avi" and "start" in clip:
        pytest.skip("AVI has no timestamps: nothing in it is late")
    source = film(tmp_path / f"in.{suffix}", **clip | {"sound": sound})
    assert render(source, tmp_path / "out.mkv", on_error="stop", **PLAIN) == clip.get("count", 25)
    assert not caplog.messages


def test_index_that_is_gone_is_an_error(tmp_path, model_dir):
    source = film(tmp_path / "in.mp4")
    source.write_bytes(source.read_bytes()[:-4000])
    with pytest.raises(MediaError, match="can't read .*in.mp4"):
        render(source, tmp_path / "out.mp4", **PLAIN)


# Clocks


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("start", [0, 50000, int(CLOCK) - 1], ids=["usual", "far", "wraps"])
def test_transport_stream_starts_at_0(tmp_path, model_dir, suffix, start):
    source = film(tmp_path / "in.ts", 50, start=start, late=0.5)
    output = tmp_path / f"out.{suffix}"
    assert render(source, output, **PLAIN) == 50
    assert np.allclose(times(output), np.arange(50) / 25, atol=1e-3)
    sound = packets(output, "audio")
    # Without ADTS's headers.
    assert [data for data, _ in sound] == [data[7:] for data, _ in packets(source, "audio")]
    assert sound[0][1] == pytest.approx(0.5 - 1024 / 48000, abs=2e-3)
    with av.open(str(output)) as container:
        assert container.start_time == 0 and container.duration < 2.6e6


@pytest.mark.parametrize("order", ["same", "ahead", "back", "thrice"])
@pytest.mark.parametrize("on_error", ["repeat", "stop"])
def test_joined_transport_streams(tmp_path, model_dir, caplog, order, on_error):
    one, other = film(tmp_path / "one.ts"), film(tmp_path / "other.ts", start=3600)
    parts = {
        "same": [one, one],
        "ahead": [one, other],
        "back": [other, one],
        "thrice": [one, other, one],
    }[order]
    source, output = join(tmp_path / "in.ts", *parts), tmp_path / "out.mp4"
    assert render(source, output, on_error=on_error, **PLAIN) == 25 * len(parts)
    assert not caplog.messages
    at, sound = np.array(times(output)), [at for _, at in packets(output, "audio")]
    assert np.diff(at).min() > 0.039 and np.diff(at).max() < 0.1
    assert np.diff(sound).min() > 0.02 and np.diff(sound).max() < 0.1
    # Sound and pictures keep their distance.
    distances = at[::25] - np.array(sound[:: len(sound) // len(parts)])
    assert np.allclose(distances, 1024 / 48000, atol=1e-3)


def test_gap_in_a_transport_stream_stays(tmp_path, model_dir):
    """As where reception was lost for some seconds."""
    one, other = film(tmp_path / "one.ts", start=10), film(tmp_path / "other.ts", start=16)
    render(join(tmp_path / "in.ts", one, other), tmp_path / "out.mp4", **PLAIN)
    at = times(tmp_path / "out.mp4")
    assert at[25] - at[0] == pytest.approx(6, abs=1e-3)


RED = {
    "601": ((81, 90, 240), {"colorspace": 6}),
    "709": ((63, 102, 240), {"colorspace": 1}),
    "full": ((76, 85, 255), {"colorspace": 6, "color_range": 2}),
}


@pytest.mark.parametrize("before, after", [("601", "709"), ("709", "full"), ("full", "601")])
def test_colors_that_change_are_converted(tmp_path, model_dir, before, after):
    parts = []
    for name in (before, after):
        code, tags = RED[name]
        parts.append(film(tmp_path / f"{name}.ts", 5, code=code, tags=tags, sound=None))
    assert render(join(tmp_path / "in.ts", *parts), tmp_path / "out.mkv", **LOSSLESS) == 10
    for _, frame in decode(tmp_path / "out.mkv"):
        values = [np.frombuffer(plane, np.uint8)[0] for plane in frame.planes]
        assert np.abs(np.subtract(values, RED[before][0], dtype=int)).max() <= 3
        assert frame.colorspace == RED[before][1]["colorspace"]


def test_light_that_changes_is_said(tmp_path, model_dir, caplog):
    parts = [
        film(tmp_path / f"{trc}.ts", 5, sound=None, tags={"color_trc": trc}) for trc in (1, 16)
    ]
    render(join(tmp_path / "in.ts", *parts), tmp_path / "out.mkv", **PLAIN)
    assert len(caplog.messages) == 1 and "transfer characteristics change at 0.200 s" in caplog.text


def test_size_that_changes_is_scaled(tmp_path, model_dir, caplog):
    parts = [
        film(tmp_path / f"{size[0]}.h264", 5, size=size, code=RED["601"][0], sound=None)
        for size in ((64, 48), (32, 32), (96, 64))
    ]
    assert render(join(tmp_path / "in.h264", *parts), tmp_path / "out.mkv", **LOSSLESS) == 15
    for _, frame in decode(tmp_path / "out.mkv"):
        assert (frame.width, frame.height) == (64, 48)
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(48, -1)[:, :64]
        assert np.abs(luma.astype(int) - 81).max() <= 2
    assert len(caplog.messages) == 1 and "is 32x32, the first was 64x48: scaled" in caplog.text


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_far_start_of_other_containers_becomes_0(tmp_path, model_dir, suffix):
    source = film(tmp_path / f"in.{suffix}", start=50, late=0.5)
    render(source, tmp_path / "out.mp4", **PLAIN)
    assert np.allclose(times(tmp_path / "out.mp4"), np.arange(25) / 25, atol=1e-3)
    _, at = packets(tmp_path / "out.mp4", "audio")[0]
    assert at == pytest.approx(0.5 - 1024 / 48000, abs=2e-3)


def test_chapters_move_with_the_start(tmp_path, model_dir):
    bare, source = film(tmp_path / "bare.mkv", start=50), tmp_path / "in.mkv"
    with av.open(str(bare)) as reader, av.open(str(source), "w") as writer:
        writer.set_chapters(
            [
                {
                    "id": 1,
                    "start": 50_200,
                    "end": 50_600,
                    "time_base": Fraction(1, 1000),
                    "metadata": {},
                }
            ]
        )
        copy(reader, writer)()
    render(tmp_path / "in.mkv", tmp_path / "out.mkv", audio=False, **PLAIN)
    with av.open(str(tmp_path / "out.mkv")) as container:
        (chapter,) = container.chapters()
    times = [float(chapter[key] * chapter["time_base"]) for key in ("start", "end")]
    assert times == pytest.approx([0.2, 0.6])


@pytest.mark.parametrize("suffix, codec", [("h264", "libx264"), ("hevc", "libx265")])
def test_raw_stream_has_the_rate_that_it_says(tmp_path, model_dir, suffix, codec):
    source = film(
        tmp_path / f"in.{suffix}",
        10,
        rate=10,
        sound=None,
        codec=codec,
        options=QUIET if codec == "libx265" else None,
    )
    render(source, tmp_path / "out.mp4", **PLAIN)
    assert times(tmp_path / "out.mp4") == [number / 10 for number in range(10)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration == 1_000_000 and container.streams.video[0].average_rate == 10


# What there is besides video


@pytest.mark.parametrize("suffix", ["mov", "mp4", "mkv"])
def test_track_in_an_unknown_codec_is_left_out(tmp_path, model_dir, caplog, suffix):
    source = tmp_path / "in.mov"
    with av.open(str(film(tmp_path / "bare.mov"))) as reader, av.open(str(source), "w") as writer:
        streams = [writer.add_stream_from_template(reader.streams[index]) for index in (0, 1, 1)]
        for packet in reader.demux():
            for index in (1, 2) if packet.stream.type == "audio" else (0,):
                if packet.size:
                    twin = av.Packet(bytes(packet))
                    for name in ("pts", "dts", "duration", "is_keyframe", "time_base"):
                        setattr(twin, name, getattr(packet, name))
                    twin.stream = streams[index]
                    writer.mux(twin)
    head, tail = source.read_bytes().rsplit(b"stsd", 1)  # of the last track
    source.write_bytes(head + b"stsd" + tail.replace(b"mp4a", b"apac").replace(b"esds", b"none"))
    with av.open(str(source)) as container:
        unknown = [stream.codec_context is None for stream in container.streams]
    assert unknown == [False, False, True]  # the premise
    render(source, tmp_path / f"out.{suffix}", **PLAIN)
    assert kinds(tmp_path / f"out.{suffix}") == ["video", "audio"]
    assert caplog.messages == [
        "audio stream 2 is left out: this FFmpeg doesn't know its codec (apac)"
    ]


def test_attachments_go_where_the_container_takes_them(tmp_path, model_dir, caplog):
    font = ("font.ttf", "application/x-truetype-font", b"not really one")
    bare, source = film(tmp_path / "bare.mkv"), tmp_path / "in.mkv"
    with av.open(str(bare)) as reader, av.open(str(source), "w") as writer:
        go_on = copy(reader, writer)
        writer.add_attachment(*font)
        go_on()
    render(tmp_path / "in.mkv", tmp_path / "out.mkv", **PLAIN)
    with av.open(str(tmp_path / "out.mkv")) as container:
        (kept,) = container.streams.attachments
        assert (kept.name, kept.mimetype, kept.data) == font
    assert not caplog.messages
    render(tmp_path / "in.mkv", tmp_path / "out.mp4", **PLAIN)
    assert kinds(tmp_path / "out.mp4") == ["video", "audio"] and "font.ttf" in caplog.text
