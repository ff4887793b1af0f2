"""The demo through gst-launch-1.0."""

import sys
from fractions import Fraction

import pytest


def test_demo_on_a_video_of_ones_own(run, clip, tmp_path, model_dir):
    av = pytest.importorskip("av", reason="the demo needs PyAV")
    from vsneuralstyle.demo.video import writer

    source, out = tmp_path / "a clip.mp4", tmp_path / "out"
    with writer(source, Fraction(25)) as file:
        for frame in clip:
            file.write(frame)
    shown = run(
        sys.executable,
        "-P",
        "-m",
        "vsneuralstyle.demo",
        source,
        "--out",
        out,
        env={"NEURALSTYLE_MODEL_PATH": str(model_dir)},
        timeout=300,
    )
    assert shown.returncode == 0, shown.stderr
    figures = next(
        line.split() for line in shown.stdout.splitlines() if line.startswith("gst-launch-1.0  ")
    )
    assert float(figures[3]) > 0 and float(figures[5]) > 0
    assert figures[6].endswith("/6")  # 7 pairs but for the one across the cut
    for name in ("gst-per-frame.mp4", "gst-coherent.mp4"):
        with av.open(str(out / name)) as container:
            assert [frame.width for frame in container.decode(video=0)] == [64] * len(clip), name
    assert (out / "sheet.png").exists() and (out / "side-by-side.mp4").exists()
