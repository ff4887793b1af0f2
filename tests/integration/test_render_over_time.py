"""`render` over time: keyframes and an edit's cuts. Frames are compared with `Stylizer`'s."""

import csv
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from vsneuralstyle import ArgumentError
from vsneuralstyle.hosts.render import render
from vsneuralstyle.hosts.render.keyframes import Keyframe, Keyframes, read_keyframes

RATE, COUNT = 25, 12


@pytest.fixture
def source(tmp_path):
    """Twelve frames of patches that move, in three scenes of four frames."""
    path, random = tmp_path / "in.mkv", np.random.default_rng(0)
    tints = np.eye(3) * 0.7 + 0.3
    scenes = [np.kron(random.random((6, 12, 3)) * tint, np.ones((8, 8, 1))) for tint in tints]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=RATE, width=64, height=48)
        stream.pix_fmt = "bgr0"
        for number in range(COUNT):
            picture = scenes[number // 4][:, number : number + 64]
            frame = av.VideoFrame.from_ndarray((picture * 255).astype(np.uint8), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def rendered(source, out, **options):
    """Frames before the encoder: FFV1 in RGB keeps each sample."""
    render(source, out, style="candy", preset="ffv1", progress=False, **options)
    with av.open(str(out)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_values_hold_and_go_in_lines():
    keys = Keyframes(
        [
            Keyframe(Fraction(1), {"strength": 0.0, "coherence": 0.5}),
            Keyframe(Fraction(3), {"strength": 1.0}, "linear"),
            Keyframe(Fraction(4), {"preserve_color": True}),
        ]
    )
    assert keys.values(0, Fraction(1, 2)) == {}
    assert keys.values(0, Fraction(1)) == {"strength": 0.0, "coherence": 0.5}
    assert keys.values(0, Fraction(5, 2)) == {"strength": 0.75, "coherence": 0.5}
    assert keys.values(0, Fraction(9)) == {
        "strength": 1.0,
        "coherence": 0.5,
        "preserve_color": True,
    }


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_keyframes_drive_the_frames(tmp_path, model_dir, source, kind):
    keys = [
        {"at": "0f", "strength": 0},
        {"at": "8f", "strength": 1.0, "ramp": "linear"},
        {"at": "10f", "preserve_color": True},
    ]
    file = tmp_path / f"keys.{kind}"
    tables = [
        "[[keyframe]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in key.items())
        for key in keys
    ]
    file.write_text(json.dumps(keys) if kind == "json" else "\n".join(tables))
    ours = rendered(source, tmp_path / "out.mkv", keyframes=file)
    half = rendered(source, tmp_path / "half.mkv", strength=0.5)
    whole = rendered(source, tmp_path / "whole.mkv")
    color = rendered(source, tmp_path / "color.mkv", preserve_color=True)
    none = rendered(source, tmp_path / "none.mkv", strength=0)
    for number, expected in ((0, none), (4, half), (8, whole), (9, whole), (11, color)):
        assert np.array_equal(ours[number], expected[number]), number
    part = rendered(source, tmp_path / "part.mkv", keyframes=file, frames="4-9")
    assert all(map(np.array_equal, part, ours[4:10]))


def test_cuts_outweigh_the_detector_and_are_written(tmp_path, model_dir, source):
    found = tmp_path / "found.csv"
    rendered(source, tmp_path / "all.mkv", write_cuts=found)
    with found.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "4", "8"]
    assert [float(row["time"]) for row in rows] == pytest.approx([0, 0.16, 0.32])
    by_time, again = tmp_path / "times.csv", tmp_path / "again.csv"
    by_time.write_text("time\n00:00.24\n")
    ours = rendered(source, tmp_path / "cut.mkv", cuts=by_time, write_cuts=again)
    assert again.read_text().split()[1:] == ["0,0.000000", "6,0.240000"]
    part = rendered(source, tmp_path / "part.mkv", cuts=by_time, frames="7-9")
    assert all(map(np.array_equal, part, ours[7:10]))


@pytest.mark.parametrize(
    "text, match",
    [
        ("[[keyframe]]\nat = '2'\n[[keyframe]]\nat = '1'\n", "expected rising times"),
        ("[[keyframe]]\nat = '2'\n[[keyframe]]\nat = '3f'\n", "expected one kind"),
        ("[[keyframe]]\nat = '2'\nspeed = 3\n", "'speed' can't have keyframes"),
        ("[[keyframe]]\nat = '2'\nstrength = 3\n", "strength is 3; expected 0 to 1"),
        ("[[keyframe]]\nat = 'late'\n", "at is 'late'; expected seconds"),
        ("[[keyframe]]\nstrength = 1\n", "has no time"),
        ("[[keyframe]]\nat = '1'\nramp = 'smooth'\n", "ramp is 'smooth'"),
        ("strength = 1\n", "has none"),
        ("no toml", "can't read"),
    ],
)
def test_bad_keyframes_say_what_is_wrong(tmp_path, text, match):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(ArgumentError, match=match):
        read_keyframes(tmp_path / "keys.toml", Fraction(25))


@pytest.mark.parametrize(
    "name, text, match",
    [
        ("cuts.csv", "scene\n1\n", "no column frame or time"),
        ("cuts.csv", "frame\nfirst\n", "frame is 'first'"),
        ("cuts.edl", "no edit", "opentimelineio|can't read"),
        ("none.csv", None, "can't read"),
    ],
)
def test_bad_cuts_leave_nothing(tmp_path, model_dir, source, name, text, match):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ArgumentError, match=match):
        render(source, tmp_path / "out.mkv", style="candy", cuts=tmp_path / name)
    assert not list(tmp_path.glob("*out.mkv*"))
