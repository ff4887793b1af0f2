"""The demo's clip, whose flow must be exact, and the demo itself through VapourSynth."""

import sys
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch", reason="the demo needs torch")
av = pytest.importorskip("av", reason="the demo needs PyAV")

from vsneuralstyle.evaluation import metrics
from vsneuralstyle.evaluation.dis import DisFlow
from vsneuralstyle.measurement.occlusion import traceable


@pytest.fixture(scope="module")
def synthetic():
    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    from vsneuralstyle.demo.synthetic import SyntheticClip

    return SyntheticClip(length=6)


@pytest.mark.parametrize("t", [2, 4])  # one of each scene
def test_flow_of_the_synthetic_clip_is_exact(synthetic, t):
    previous, current = synthetic.frame(t - 1), synthetic.frame(t)
    flow, mask = synthetic.motion(t)
    assert current.shape == (3, 360, 640) and current.min() >= 0 and current.max() <= 1

    def error(flow):
        change = metrics.warped_difference(current[None], previous[None], flow[None]) * mask
        return (change.square().sum() / (3 * mask.sum())).sqrt().item()

    exact = error(flow)
    assert exact < 0.016  # what bilinear interpolation leaves in a sharp photograph
    assert error(0 * flow) > 4 * exact
    assert error(flow + 0.5) > 1.5 * exact  # half a pixel off is seen
    assert 0.95 < mask.mean() < 1  # but for outlines, what they uncover, and the frame's border


def test_a_cutout_moves_by_itself(synthetic):
    flow, mask = synthetic.motion(2)
    inside = synthetic._inside(synthetic.scenes[0], 2 / 24, synthetic._grid) > 2
    background = flow[:, ~inside & mask[0].bool()]
    assert (flow[:, inside].mean(1) - background.mean(1)).norm() > 2


def test_no_pixel_is_traceable_across_the_cut(synthetic):
    assert synthetic.scene_starts == (True, False, False, True, False, False)
    assert synthetic.motion(3)[1].sum() == 0
    assert (synthetic.frame(3) - synthetic.frame(2)).abs().mean() > 0.15


def test_dis_finds_the_synthetic_clips_flow(synthetic):
    a, b = synthetic.frame(1)[None], synthetic.frame(2)[None]
    exact, mask = synthetic.motion(2)
    dis = DisFlow()
    backward, forward = dis(b, a), dis(a, b)
    kept = mask * traceable(backward, forward)[0]
    error = (backward[0] - exact).square().sum(0, keepdim=True).sqrt()
    assert kept.mean() > 0.9
    assert (error * kept).sum() / kept.sum() < 0.3  # pixels


def write_video(path, frames):
    from vsneuralstyle.demo.video import writer

    with writer(path, Fraction(25)) as file:
        for frame in frames:
            file.write(frame)


def test_an_interrupted_video_leaves_nothing(tmp_path, clip):
    with pytest.raises(KeyboardInterrupt):
        write_video(
            tmp_path / "a.mp4",
            (frame if t < 3 else exec("raise KeyboardInterrupt") for t, frame in enumerate(clip)),
        )
    assert not list(tmp_path.iterdir())


def test_demo_on_a_video_of_ones_own(run, clip, tmp_path, model_dir):
    pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    source, out = tmp_path / "a clip.mp4", tmp_path / "out"
    write_video(source, clip)
    shown = run(
        sys.executable,
        "-P",
        "-m",
        "vsneuralstyle.demo",
        source,
        "--out",
        out,
        "--gst-python",
        "/none/bin/python",
        env={"NEURALSTYLE_MODEL_PATH": str(model_dir)},
        timeout=300,
    )
    assert shown.returncode == 0, shown.stderr
    assert "Without gst-launch-1.0:" in shown.stdout
    figures = next(
        line.split() for line in shown.stdout.splitlines() if line.startswith("vspipe  ")
    )
    assert float(figures[3]) > 0 and float(figures[5]) > 0
    # 7 pairs but for the one across the cut
    assert figures[6] == "{}/6".format(figures[6].split("/")[0])
    for name, width in (
        ("vspipe-per-frame.mp4", 64),
        ("vspipe-coherent.mp4", 64),
        ("side-by-side.mp4", 3 * 64),
    ):
        with av.open(str(out / name)) as container:
            frames = [frame.width for frame in container.decode(video=0)]
        assert frames == [width] * len(clip), name
    assert (out / "sheet.png").stat().st_size > 1000
    # nothing beside the user's video
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a clip.mp4", "out"]


def test_demo_says_what_it_cannot_read(run, tmp_path):
    pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    shown = run(
        sys.executable,
        "-P",
        "-m",
        "vsneuralstyle.demo",
        "absent.mp4",
        "--out",
        tmp_path / "out",
        "--gst-python",
        "/none/bin/python",
    )
    assert shown.returncode and "absent.mp4" in shown.stderr and "Traceback" not in shown.stderr


def test_demo_tells_a_hosts_error(run, clip, tmp_path):
    pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    write_video(tmp_path / "a.mp4", clip[:4])
    shown = run(
        sys.executable,
        "-P",
        "-m",
        "vsneuralstyle.demo",
        tmp_path / "a.mp4",
        "--style",
        "nosuchstyle",
        "--out",
        tmp_path / "out",
        "--gst-python",
        "/none/bin/python",
        timeout=300,
    )
    assert shown.returncode and "nosuchstyle" in shown.stderr
    # the host's own words may hold one
    assert "Traceback" not in shown.stderr.split("last words")[0]
    assert not list((tmp_path / "out").iterdir())
