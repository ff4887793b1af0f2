"""The measuring tools, on cases whose right answer is known by hand."""

import argparse
import csv
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the evaluation needs torch")
cv2 = pytest.importorskip("cv2", reason="the evaluation's pictures need opencv-python-headless")

from vsneuralstyle.errors import ArgumentError, MediaError, ModelError
from vsneuralstyle.evaluation import clips, flowio, metrics, occlusion, raft, report


def constant_flow(x, y, height=24, width=32):
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def textured(height, width, seed=0):
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


# .flo files and masks

def test_flo_round_trip_keeps_every_vector_and_marks_unknown_ones(tmp_path):
    flow = torch.randn(2, 5, 7)
    flow[:, 2, 3] = torch.nan
    flowio.write_flo(tmp_path / "a.flo", flow)
    read = flowio.read_flo(tmp_path / "a.flo")
    assert torch.equal(read.isnan(), flow.isnan())
    assert torch.equal(read.nan_to_num(), flow.nan_to_num())


def test_flo_layout_is_middleburys(tmp_path):
    (tmp_path / "a.flo").write_bytes(np.float32(202021.25).tobytes() + np.array([2, 1], "<i4").tobytes()
                                     + np.array([1, 2, 3, 4], "<f4").tobytes())  # (u,v) of pixel 0, then of pixel 1
    assert flowio.read_flo(tmp_path / "a.flo").tolist() == [[[1, 3]], [[2, 4]]]


@pytest.mark.parametrize("content", [b"", b"PIEH", b"JUNKxxxxyyyy", b"PIEH\2\0\0\0\1\0\0\0" + bytes(15)])
def test_flo_that_is_broken_is_named(tmp_path, content):
    (tmp_path / "broken.flo").write_bytes(content)
    with pytest.raises(MediaError, match="broken.flo"):
        flowio.read_flo(tmp_path / "broken.flo")


def test_sintel_mask(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, 255], [255, 0]], np.uint8))
    assert flowio.read_mask(tmp_path / "m.png").tolist() == [[[False, True], [True, False]]]
    with pytest.raises(MediaError, match="absent.png"):
        flowio.read_mask(tmp_path / "absent.png")


# Occlusion

def test_exact_shift_is_traceable_but_for_what_enters_the_frame():
    mask = occlusion.traceable(constant_flow(-3, 2), constant_flow(3, -2))
    expected = torch.zeros(1, 1, 24, 32)
    expected[..., :22, 3:] = 1  # p + w stays inside: x >= 3, y <= 21
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("gap, kept", [(0.70, 1.0), (0.72, 0.0)])  # 0.5 = 0.707²: the constant of the check
def test_forward_backward_threshold_at_rest(gap, kept):
    mask = occlusion.traceable(constant_flow(0, 0), constant_flow(gap, 0))
    assert mask[..., 4:-4, 4:-4].unique().tolist() == [kept]


def test_forward_backward_threshold_grows_with_the_motion():
    # |w + w'|² = 1.44 lies below 0.01 (100 + 77.44) + 0.5 = 2.27, and would not with the constant alone
    mask = occlusion.traceable(constant_flow(-10, 0), constant_flow(8.8, 0))
    assert mask[..., 12:].min() == 1


def test_motion_boundary_is_where_the_flow_jumps():
    flow = constant_flow(0, 0)
    flow[..., 16:] = 4.0
    boundary = occlusion.motion_boundary(flow)
    assert boundary[..., 15:17].all() and not boundary[..., :15].any() and not boundary[..., 17:].any()


def test_slow_zoom_is_no_motion_boundary():
    x = torch.arange(32.0).expand(24, 32) - 16
    flow = torch.stack((0.03 * x, torch.zeros_like(x)))[None]  # |grad|² = 0.0009 < 0.002
    assert not occlusion.motion_boundary(flow).any()


def test_traceable_refuses_flows_of_two_shapes():
    with pytest.raises(ValueError, match="one shape"):
        occlusion.traceable(constant_flow(0, 0), constant_flow(0, 0, width=8))


# Metrics

def test_stability_error_of_a_shifted_picture_is_zero_under_its_flow_and_not_without():
    wide = textured(24, 40)
    outputs = torch.cat([wide[..., 4 - 2 * t:36 - 2 * t] for t in range(3)])  # content moves right by 2 a frame
    flows = constant_flow(-2, 0).repeat(2, 1, 1, 1)
    masks = occlusion.traceable(flows, -flows)
    assert metrics.stability_error(outputs, flows, masks).tolist() == pytest.approx([0, 0], abs=1e-10)
    assert metrics.stability_error(outputs, 0 * flows, masks).min() > 1e-3


def test_stability_error_is_the_mean_over_traceable_pixels_and_channels():
    outputs = torch.zeros(2, 3, 4, 6)
    outputs[1, 0] = 0.5  # one channel of three changes by 0.5
    outputs[1, :, :, 0] = 1.0  # outside the mask
    masks = torch.ones(1, 1, 4, 6)
    masks[..., 0] = 0
    error = metrics.stability_error(outputs, torch.zeros(1, 2, 4, 6), masks)
    assert error.tolist() == pytest.approx([0.25 / 3])


def test_stability_error_without_a_traceable_pixel_is_nan():
    error = metrics.stability_error(torch.rand(2, 3, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    assert error.isnan().tolist() == [True]
    with pytest.raises(ValueError, match="T - 1"):
        metrics.stability_error(torch.rand(2, 3, 4, 4), torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 4, 4))


def test_rms_gradient_of_a_ramp_and_of_stripes():
    ramp = (torch.arange(16.0) / 16).expand(1, 3, 8, 16)
    dx, dy = 8 * 15, 7 * 16  # dx differences of 1/16, dy of 0
    assert metrics.rms_gradient(ramp).item() == pytest.approx(math.sqrt(dx / (dx + dy)) / 16)
    stripes = (torch.arange(8) % 2).float().view(1, 1, 8, 1) * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    assert metrics.rms_gradient(stripes.expand(1, 3, 8, 8)).item() == pytest.approx(0.7152 * math.sqrt(0.5))


def test_psnr():
    a = torch.full((2, 3, 4, 4), 0.5)
    b = torch.stack((a[0] + 0.1, a[0]))
    assert metrics.psnr(a, b).tolist() == pytest.approx([20.0, math.inf])


def test_frame_difference():
    frames = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 0.5, 0.25)])
    assert metrics.frame_difference(frames).tolist() == pytest.approx([0.5, 0.25])


# The report

def flickering(length=6, height=16, width=24):
    """A still source, a per-frame output with noise, a coherent one with half as much; a cut at frame 3."""
    generator = torch.Generator().manual_seed(1)
    source = torch.full((length, 3, height, width), 0.5)
    source[3:] = 0.2
    noise = 0.1 * torch.randn(source.shape, generator=generator)
    return source, source + noise, source + noise / 2, [t in (0, 3) for t in range(length)]


def test_comparison_leaves_out_the_pair_across_a_cut(tmp_path):
    source, per_frame, coherent, starts = flickering()
    flows, masks = torch.zeros(5, 2, 16, 24), torch.ones(5, 1, 16, 24)
    c = report.compare("clip", source, per_frame, coherent, flows, masks, starts)
    assert c.per_frame.isnan().tolist() == [False, False, True, False, False]
    assert c.errors[0] == pytest.approx(2 * 0.01, rel=0.1)  # the difference of two noises of variance 0.01
    assert c.ratio == pytest.approx(0.25, rel=1e-4)
    assert c.better == (4, 4)
    assert c.gradient_ratio == pytest.approx(0.5, rel=1e-4)
    assert c.age == 2
    assert c.differences[0] == 0 and c.differences[1] == pytest.approx(2 * c.differences[2], rel=1e-4)

    table = report.markdown([c], "title")
    assert "| clip | 24x16 | 4 |" in table and "4/4 = 100.0%" in table
    report.write_pairs(tmp_path / "pairs.csv", [c])
    rows = list(csv.DictReader((tmp_path / "pairs.csv").open()))
    assert [row["frame"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert float(rows[0]["e_per_frame"]) == pytest.approx(c.per_frame[0].item(), rel=1e-4)
    assert rows[2]["scene_start"] == "1" and rows[2]["e_coherent"] == "nan"

    report.write_clip_sheet(tmp_path / "sheet.png", source, per_frame, coherent, flows, masks, rows=3)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (28 + 3 * (320 + 24), 5 * 480, 3)
    assert np.all(sheet[100, 100] == 128)  # the source before the cut
    assert np.all(sheet[28 + 2 * 344 + 100, 100] == 51)  # and after it


def test_total_gives_every_clip_the_same_weight():
    source, per_frame, coherent, starts = flickering()
    still = report.compare("long", source, per_frame, coherent, torch.zeros(5, 2, 16, 24), torch.ones(5, 1, 16, 24),
                           starts)
    short = report.compare("short", source[:2], source[:2] + torch.tensor([0.0, 0.2]).view(2, 1, 1, 1), source[:2],
                           torch.zeros(1, 2, 16, 24), torch.ones(1, 1, 16, 24), starts[:2])
    whole = report.total([still, short])
    assert whole.errors[0] == pytest.approx((still.errors[0] + 0.04) / 2)
    assert whole.better == (5, 5)


def test_comparison_refuses_clips_of_different_lengths():
    source, per_frame, coherent, starts = flickering()
    with pytest.raises(ValueError, match="5 coherent"):
        report.compare("clip", source, per_frame, coherent[:5], torch.zeros(5, 2, 16, 24), torch.ones(5, 1, 16, 24),
                       starts)


# Clips and measured flow

def test_working_size():
    assert clips.working_size(1024, 436) == (1024, 436)
    assert clips.working_size(1024, 436, to_width=640) == (640, 272)
    assert clips.working_size(1024, 436, to_height=272) == (638, 272)
    assert clips.working_size(1024, 436, 100, 50) == (100, 50)
    with pytest.raises(ArgumentError, match="width 3"):
        clips.working_size(1024, 436, to_width=3)


def write_video(path, frames):
    av = pytest.importorskip("av", reason="writing a test clip needs PyAV")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_read_clip_takes_the_asked_frames_at_the_asked_size(tmp_path):
    write_video(tmp_path / "a.mkv", [np.full((32, 48, 3), (10 * t, 50, 200), np.uint8) for t in range(8)])
    frames = clips.read_clip(tmp_path / "a.mkv", frames=3, start=2, width=24)
    assert frames.shape == (3, 3, 16, 24) and frames.dtype == torch.uint8
    assert (frames[:, :, 8, 12].int() - torch.tensor([[20, 50, 200], [30, 50, 200], [40, 50, 200]])).abs().max() <= 2
    with pytest.raises(MediaError, match="no frame from number 8"):
        clips.read_clip(tmp_path / "a.mkv", start=8)
    (tmp_path / "text.mkv").write_text("no video")
    with pytest.raises(MediaError, match="text.mkv"):
        clips.read_clip(tmp_path / "text.mkv")


def test_measured_flow_is_kept_by_its_pixels(tmp_path):
    calls = []

    def function(a, b):
        calls.append((a, b))
        return torch.full((1, 2, *a.shape[-2:]), float(len(calls)) + 1e-5)

    a, b = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.full((3, 4, 6), 51, dtype=torch.uint8)
    backward, forward = clips.flow_pair(function, a, b, tmp_path, "key")
    assert calls[0][0].unique().tolist() == pytest.approx([0.2]) and calls[0][1].unique().tolist() == [0]
    assert backward.unique().tolist() == [1] and forward.unique().tolist() == [2]  # rounded as the cache rounds
    again = clips.flow_pair(function, a, b, tmp_path, "key")
    assert len(calls) == 2 and torch.equal(again[0], backward) and torch.equal(again[1], forward)
    clips.flow_pair(function, b, a, tmp_path, "key")
    clips.flow_pair(function, a, b, tmp_path, "another key")
    assert len(calls) == 6
    assert not list(tmp_path.glob("*.part"))


# RAFT: padding and units need no trained weights

def test_raft_takes_any_size_and_crops_back():
    pytest.importorskip("torchvision", reason="RAFT comes from torchvision")
    from torchvision.models.optical_flow import raft_small

    a, b = torch.rand(1, 3, 90, 131), torch.rand(1, 3, 90, 131)
    flow = raft.flow(raft_small(weights=None).eval(), a, b, updates=1)
    assert flow.shape == (1, 2, 90, 131) and flow.dtype == torch.float32


def test_raft_weights_that_are_not_there_are_named(tmp_path):
    pytest.importorskip("torchvision", reason="RAFT comes from torchvision")
    with pytest.raises(ModelError, match="absent.safetensors"):
        raft.load(tmp_path / "absent.safetensors")


def test_evaluate_has_its_options():
    from vsneuralstyle.evaluation import cli

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    args = parser.parse_args(["--style", "candy", "--clips", "a.mp4", "b.mp4", "--width", "640"])
    assert (args.frames, args.start, args.width, args.height, len(args.clips)) == (24, 0, 640, None, 2)
    args.frames = 1
    with pytest.raises(ArgumentError, match="--frames 1"):
        cli.main(args)


def test_evaluate_writes_its_report(tmp_path, clip, model_dir, monkeypatch, capsys):
    from vsneuralstyle.evaluation import cli
    from vsneuralstyle.evaluation.dis import DisFlow

    # RAFT's weights are not at hand in a test; DIS measures real flow as well.
    monkeypatch.setattr(raft, "load", lambda weights, device: DisFlow())
    monkeypatch.setattr(raft, "flow", lambda model, a, b: model(a, b))
    write_video(tmp_path / "disc.mkv", clip)
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    arguments = ["--style", "candy", "--model-dir", model_dir, "--device", "cpu", "--clips", tmp_path / "disc.mkv",
                 "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    assert cli.main(parser.parse_args([str(argument) for argument in arguments])) == 0
    table = (tmp_path / "out" / "report.md").read_text()
    assert table == capsys.readouterr().out
    assert "| disc | 64x48 | 6 |" in table  # 7 pairs but for the one across the cut
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").open()))
    assert [row["scene_start"] for row in rows] == ["0", "0", "0", "0", "1", "0", "0"]
    assert all(float(row["e_per_frame"]) > 0 for row in rows if row["scene_start"] == "0")
    assert (tmp_path / "out" / "disc.png").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 7
