"""The measuring tools, on cases whose right answer is known by hand."""

import argparse
import csv
import math
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the evaluation needs torch")
cv2 = pytest.importorskip("cv2", reason="the evaluation's pictures need opencv-python-headless")

from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import ArgumentError, MediaError, ModelError
from vsneuralstyle.evaluation import clips, endpoint, methods, metrics, report, sharpness
from vsneuralstyle.evaluation.measure import Track, measure
from vsneuralstyle.measurement import flow_files, occlusion, raft
from vsneuralstyle.networks.checkpoint import load_model, read_header, save_model
from vsneuralstyle.networks.net1 import Net1


def constant_flow(x, y, height=24, width=32):
    return (
        torch.tensor([x, y], dtype=torch.float32)
        .view(1, 2, 1, 1)
        .expand(1, 2, height, width)
        .clone()
    )


def textured(height, width, seed=0):
    coarse = torch.rand(
        1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


# .flo files and masks


def test_flo_round_trip_keeps_every_vector_and_marks_unknown_ones(tmp_path):
    flow = torch.randn(2, 5, 7)
    flow[:, 2, 3] = torch.nan
    flow_files.write_flo(tmp_path / "a.flo", flow)
    read = flow_files.read_flo(tmp_path / "a.flo")
    assert torch.equal(read.isnan(), flow.isnan())
    assert torch.equal(read.nan_to_num(), flow.nan_to_num())


def test_flo_layout_is_middleburys(tmp_path):
    (tmp_path / "a.flo").write_bytes(
        np.float32(202021.25).tobytes()
        + np.array([2, 1], "<i4").tobytes()
        # (u,v) of pixel 0, then of pixel 1
        + np.array([1, 2, 3, 4], "<f4").tobytes()
    )
    assert flow_files.read_flo(tmp_path / "a.flo").tolist() == [[[1, 3]], [[2, 4]]]


@pytest.mark.parametrize(
    "content", [b"", b"PIEH", b"JUNKxxxxyyyy", b"PIEH\2\0\0\0\1\0\0\0" + bytes(15)]
)
def test_flo_that_is_broken_is_named(tmp_path, content):
    (tmp_path / "broken.flo").write_bytes(content)
    with pytest.raises(MediaError, match="broken.flo"):
        flow_files.read_flo(tmp_path / "broken.flo")


def test_sintel_mask(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, 255], [255, 0]], np.uint8))
    assert flow_files.read_mask(tmp_path / "m.png").tolist() == [[[False, True], [True, False]]]
    with pytest.raises(MediaError, match="absent.png"):
        flow_files.read_mask(tmp_path / "absent.png")


# Occlusion


def test_exact_shift_is_traceable_but_for_what_enters_the_frame():
    mask = occlusion.traceable(constant_flow(-3, 2), constant_flow(3, -2))
    expected = torch.zeros(1, 1, 24, 32)
    expected[..., :22, 3:] = 1  # p + w stays inside: x >= 3, y <= 21
    assert torch.equal(mask, expected)


# 0.5 = 0.707²: the constant of the check
@pytest.mark.parametrize("gap, kept", [(0.70, 1.0), (0.72, 0.0)])
def test_forward_backward_threshold_at_rest(gap, kept):
    mask = occlusion.traceable(constant_flow(0, 0), constant_flow(gap, 0))
    assert mask[..., 4:-4, 4:-4].unique().tolist() == [kept]


def test_forward_backward_threshold_grows_with_the_motion():
    # |w + w'|² = 1.44 lies below 0.01 (100 + 77.44) + 0.5 = 2.27, and would not with the constant
    # alone
    mask = occlusion.traceable(constant_flow(-10, 0), constant_flow(8.8, 0))
    assert mask[..., 12:].min() == 1


def test_motion_boundary_is_where_the_flow_jumps():
    flow = constant_flow(0, 0)
    flow[..., 16:] = 4.0
    boundary = occlusion.motion_boundary(flow)
    assert (
        boundary[..., 15:17].all() and not boundary[..., :15].any() and not boundary[..., 17:].any()
    )


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
    now, before = wide[..., 2:34], wide[..., 4:36]  # content moves right by 2 a frame
    flow = constant_flow(-2, 0)
    mask = occlusion.traceable(flow, -flow)
    assert metrics.stability_error(now, before, flow, mask) == pytest.approx(0, abs=1e-10)
    assert metrics.stability_error(now, before, 0 * flow, mask) > 1e-3


def test_stability_error_is_the_mean_over_traceable_pixels_and_channels():
    before, now = torch.zeros(2, 1, 3, 4, 6)
    now[:, 0] = 0.5  # one channel of three changes by 0.5
    now[..., 0] = 1.0  # outside the mask
    mask = torch.ones(1, 1, 4, 6)
    mask[..., 0] = 0
    assert metrics.stability_error(now, before, torch.zeros(1, 2, 4, 6), mask) == pytest.approx(
        0.25 / 3
    )
    assert math.isnan(metrics.stability_error(now, before, torch.zeros(1, 2, 4, 6), 0 * mask))


def test_psnr():
    a = torch.full((2, 3, 4, 4), 0.5)
    b = torch.stack((a[0] + 0.1, a[0]))
    assert metrics.psnr(a, b).tolist() == pytest.approx([20.0, math.inf])


def test_rms_difference():
    assert (
        metrics.rms_difference(torch.full((1, 3, 2, 2), 0.75), torch.full((1, 3, 2, 2), 0.5))
        == 0.25
    )


def test_perception_tells_content_from_style(vgg):
    painting = textured(64, 64, seed=3)
    perception = metrics.Perception(vgg, painting, torch.device("cpu"))
    same, other = perception.features(painting), perception.features(textured(64, 64, seed=4))
    assert perception.distance(same, same) == perception.content_loss(same, same) == 0
    assert perception.style_loss(same) == pytest.approx(0, abs=1e-10)
    mirrored = perception.features(painting.flip(3).roll(8, 2))
    assert perception.content_loss(mirrored, same) > 0.1  # elsewhere in the picture
    assert perception.style_loss(mirrored) < perception.style_loss(other) / 4  # but painted alike
    assert perception.distance(other, same) > 0.1


# Sharpness


def test_rms_gradient_of_a_ramp_and_of_stripes():
    ramp = (torch.arange(16.0) / 16).expand(1, 3, 8, 16)
    dx, dy = 8 * 15, 7 * 16  # dx differences of 1/16, dy of 0
    assert sharpness.rms_gradient(ramp).item() == pytest.approx(math.sqrt(dx / (dx + dy)) / 16)
    stripes = (torch.arange(8) % 2).float().view(1, 1, 8, 1) * torch.tensor([0.0, 1.0, 0.0]).view(
        1, 3, 1, 1
    )
    assert sharpness.rms_gradient(stripes.expand(1, 3, 8, 8)).item() == pytest.approx(
        0.7152 * math.sqrt(0.5)
    )


def bars(width, height=256, period=48):
    """Horizontal bars whose every edge is a ramp of so many rows between 0.25 and 0.75."""
    row = torch.arange(height) % (2 * period)
    up = ((row - (period - width) / 2) / width).clamp(0, 1)
    down = ((row - period - (period - width) / 2) / width).clamp(0, 1)
    return (0.25 + 0.5 * (up - down)).view(1, height, 1).expand(3, height, 128)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_psi_is_one_over_the_edges_width(width):
    corrected = width - 0.5 / width if width >= 3 else width  # their contrast is 0.5
    assert sharpness.psi(bars(width)) == pytest.approx(1 / corrected, rel=1e-6)


def test_psi_takes_the_sharpest_and_falls_with_blur():
    mixed = torch.cat((bars(2), bars(8)), 2)  # half of it is as sharp as bars(2)
    assert sharpness.psi(mixed) == pytest.approx(sharpness.psi(bars(2)))
    picture = textured(256, 256)[0]
    blurred = torch.nn.functional.avg_pool2d(picture, 5, 1, 2)
    assert sharpness.psi(blurred) < 0.98 * sharpness.psi(picture)
    assert math.isnan(sharpness.psi(torch.full((3, 128, 128), 0.5)))


def test_psi_measures_edges_across_columns_alone():
    assert math.isnan(sharpness.psi(bars(2).transpose(1, 2)))


# Ways to stylize, and what is measured of them


def flickering(length=6, height=16, width=24):
    """A still clip, a per-frame output with noise, a coherent one with half as much; a cut at frame
    3.
    """
    generator = torch.Generator().manual_seed(1)
    source = torch.full((length, 3, height, width), 0.5)
    source[3:] = 0.2
    noise = 0.1 * torch.randn(source.shape, generator=generator)
    starts = [t in (0, 3) for t in range(length)]
    clip = clips.Clip(
        "clip",
        source,
        torch.zeros(length - 1, 2, height, width),
        torch.ones(length - 1, 1, height, width),
    )
    return clip, [
        methods.Recorded("per frame", source + noise, starts),
        methods.Recorded("coherent", source + noise / 2, starts),
    ]


def test_measure_leaves_out_the_pair_across_a_cut(tmp_path):
    clip, compared = flickering()
    tracks = measure(clip, compared, moments=[0, 3, 5])
    per_frame, coherent = tracks
    assert [math.isnan(e) for e in per_frame.errors[1]] == [True, False, False, True, False, False]
    assert [math.isnan(d) for d in coherent.difference] == [True, False, False, True, False, False]
    base, figures = report.figures(tracks)
    # the difference of two noises of variance 0.01
    assert base.errors[1] == pytest.approx(2 * 0.01, rel=0.1)
    assert figures.ratios[1] == pytest.approx(0.25, rel=1e-4)
    assert figures.better == (4, 4) and base.better == (0, 4)
    assert figures.gradient == pytest.approx(0.5, rel=1e-4)
    assert figures.age == 2
    assert base.difference == pytest.approx(2 * figures.difference, rel=1e-4)

    assert "| coherent | " in report.table([base, figures]) and "| 4/4 |" in report.table(
        [base, figures]
    )
    assert "| clip | 24x16 | 100.0% |" in report.clip_table(tracks)
    report.write_tracks(tmp_path / "frames.csv", tracks)
    rows = list(csv.DictReader((tmp_path / "frames.csv").open()))
    assert [row["frame"] for row in rows] == [str(t) for t in range(6)] * 2
    assert float(rows[1]["e_1"]) == pytest.approx(per_frame.errors[1][1], rel=1e-4)
    assert rows[9]["scene_start"] == "1" and rows[9]["e_1"] == ""

    report.write_clip_sheet(tmp_path / "sheet.png", tracks, clip.frame)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (28 + 3 * (320 + 24), 5 * 480, 3)
    assert np.all(sheet[100, 100] == 128)  # the source before the cut
    assert np.all(sheet[28 + 2 * 344 + 100, 100] == 51)  # and after it


def test_measure_counts_a_cut_that_is_seen_where_there_is_none():
    clip, compared = flickering()

    class OneShot(clips.Clip):
        one_shot = True

    per_frame, coherent = measure(OneShot("shot", clip.frames, clip.flows, clip.masks), compared)
    assert [math.isnan(e) for e in per_frame.errors[1]] == [True] + [False] * 5
    assert [math.isnan(d) for d in coherent.difference] == [True] + [False] * 5
    assert coherent.scene_starts[3] and coherent.errors[1][3] == pytest.approx(
        0.3**2 + 2 * 0.05**2, rel=0.1
    )


def test_measure_at_ten_frames_needs_ten_without_a_cut():
    clip, _ = flickering(length=16)

    class TenApart(clips.Clip):
        def pairs(self, t):
            return [clips.Pair(10, t, t - 10, self.flows[:1], self.masks[:1])] if t >= 10 else []

    ramp = torch.arange(16).view(16, 1, 1, 1).expand(16, 3, 16, 24) / 100
    starts = [t in (0, 4) for t in range(16)]
    (track,) = measure(
        TenApart("clip", clip.frames, clip.flows, clip.masks),
        [methods.Recorded("ramp", ramp, starts)],
    )
    assert [t for t, e in enumerate(track.errors[10]) if not math.isnan(e)] == [14, 15]
    assert track.errors[10][14] == pytest.approx(0.01)  # ten steps of 0.01, squared


def test_figures_give_every_clip_the_same_weight():
    clip, compared = flickering()
    long = measure(clip, compared)
    two = clips.Clip("short", clip.frames[:2], clip.flows[:1], clip.masks[:1])
    moved = clip.frames[:2] + torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
    short = measure(
        two,
        [
            methods.Recorded("per frame", moved, [True, False]),
            methods.Recorded("coherent", clip.frames[:2], [True, False]),
        ],
    )
    base, coherent = report.figures(long + short)
    assert base.errors[1] == pytest.approx((report.figures(long)[0].errors[1] + 0.04) / 2)
    assert coherent.better == (5, 5)


def test_measure_gives_vgg_the_source_once():
    class Counting:
        frames: ClassVar[list] = []

        def features(self, frame):
            self.frames.append(frame)
            return {"mean": frame.mean()}

        def distance(self, features, others):
            return abs(features["mean"] - others["mean"]).item()

        content_loss, style_loss = distance, lambda self, features: features["mean"].item()

    clip, _ = flickering()
    counting = Counting()
    still = methods.Recorded("still", torch.full_like(clip.frames, 0.25), [True] + 5 * [False])
    still, source = measure(clip, [still, methods.Source("source")], counting)
    assert len(counting.frames) == 4  # of frames 0 and 5 the source and one output
    assert [still.content[t] for t in (0, 5)] == pytest.approx([0.25, 0.05])
    assert [source.distance[t] for t in (0, 5)] == pytest.approx([0.25, 0.05])
    assert [source.content[t] for t in (0, 5)] == [0, 0] and math.isnan(source.content[1])


def long_take(method, gradient, psi, error, starts=(0, 10), at_ten=4.0, length=140):
    """A track whose figures are the given ones, frame -> figure, and else large."""

    def of(figure):
        return [figure.get(t, 100.0) for t in range(length)]

    return Track(
        "clip",
        method,
        (32, 24),
        {1: of(error), 10: [at_ten] * length},
        [1.0] * length,
        [1.0] * length,
        of(gradient),
        of(psi),
        *([math.nan] * length for _ in range(4)),
        [t in starts for t in range(length)],
    )


def long_takes(**options):
    early, late, pairs = range(32, 37), range(135, 140), (range(11, 35), range(116, 140))
    base = long_take(
        "per frame",
        dict.fromkeys((*early, *late), 2.0),
        dict.fromkeys((*early, *late), 4.0),
        dict.fromkeys((*pairs[0], *pairs[1]), 8.0),
        **options,
    )
    ours = long_take(
        "coherent",
        dict(zip((*early, *late), (1, 2, 3, 2, 1, 1, 1, 1, 1, 2))),
        dict.fromkeys(early, math.nan)
        | dict.fromkeys(late, math.nan)
        | {32: 3.0, 136: 2.0, 139: 3.0},
        dict.fromkeys(pairs[0], 2.0) | dict.fromkeys(pairs[1], 4.0) | {20: math.nan},
        at_ten=1.0,
        **options,
    )
    return [base, ours, long_take("source", {}, {}, {}, **options)]


def test_long_takes_compare_frame_24_of_the_last_scene_with_its_end():
    assert report.long_table(long_takes()).splitlines()[2:] == [
        "| clip | 34 | coherent | 0.900 | 0.750 | 0.250 |",
        "| clip | 139 | coherent | 0.600 | 0.625 | 0.500 |",
    ]
    assert report.long_table(long_takes(starts=(0, 40))) == ""  # 100 frames


def test_summary_of_a_style():
    clips_alone = report.summary_row("muse", "stylebank", long_takes(), ())
    assert clips_alone["the paper's"] == pytest.approx(0.0126 / 0.0159)
    assert clips_alone["PSI ratio"] == pytest.approx(
        (130 * 100 + 3 + 2 + 3) / 133 / ((130 * 100 + 10 * 4) / 140)
    )
    assert clips_alone["e_stab ratio at 10"] == 0.25
    assert clips_alone["gradient (frame 129)"] == 1.0 and clips_alone["better"] == "47/139"
    text = report.summary([clips_alone, report.summary_row("wave", "stylebank", (), long_takes())])
    heads, _, first, second = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
    )
    ratio = dict(zip(heads, first))["ratio"]
    assert dict(zip(heads, second)) == dict.fromkeys(heads, "") | {
        "style": "wave",
        "ratio on Sintel": ratio,
    }
    assert "VGG-19 distance" not in heads


def test_running_mean():
    assert report.running_mean([0, 1, 2, 3, math.nan, 5], 3) == [0.5, 1, 2, 2.5, 4, 5]


def test_a_long_takes_plot_has_running_means(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    plots = {}
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **options: plots.update({path.name: figure})
    )
    tracks = long_takes()
    tracks[1].errors[1][70] = 1e-15  # frames that repeat
    report.write_plots(tmp_path, {"set": tracks})
    upper, _ = plots["clip-time.png"].axes
    thin, mean = upper.get_lines()[2:4]
    assert thin.get_ydata()[70] == 1e-15 and mean.get_ydata()[70] == pytest.approx(96)
    assert upper.get_ylim()[0] == 1e-7
    (legend,) = plots["clip-time.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["per frame", "coherent", "source"]


def test_blind_baseline_follows_a_still_picture_and_forgets_at_a_cut(model_dir):
    stylizer = Stylizer("candy", model_dir=model_dir, device="cpu")
    blind = methods.Blind("blind", stylizer, methods.Method("per frame"))
    frame, other = textured(48, 64), textured(48, 64, seed=5)
    assert torch.equal(blind.step(frame, frame), frame)
    # Nothing moves in the source, so the output before is taken over, but for a share of 1 - BLEND.
    assert torch.allclose(
        blind.step(frame, other), torch.lerp(other, frame, methods.BLEND), atol=1e-5
    )
    assert torch.equal(blind.step(torch.zeros_like(frame), other), other) and blind.starts_scene
    blind.reset()
    assert torch.equal(blind.step(frame, other), other)


@pytest.mark.parametrize("layer", methods.LAYERS)
def test_composition_at_a_layer_starts_as_the_model_and_is_it_at_its_own_layer(layer, model_dir):
    coherent, other = (
        Stylizer("candy", device="cpu", precision="float32", model_dir=model_dir) for _ in range(2)
    )
    composed = methods.Composed(layer, other, layer)
    wide = textured(48, 88)[..., 1:, :]  # 47 rows: no multiple of 4
    differences, starts = [], []
    for moved in (0, 1, 2, None, 0):  # None: another clip
        if moved is None:
            composed.reset()
            coherent.reset()
            continue
        frame = wide[..., 4 * moved : 4 * moved + 62]
        differences.append(
            (composed.step(frame, None) - coherent.stylize(frame)).abs().max().item()
        )
        starts.append(composed.starts_scene)
    assert starts == [True, False, False, True]
    assert max(differences[0], differences[3]) < 1e-4
    assert (max(differences[1:3]) < 1e-4) == (layer == "r1/4(E)")


@pytest.mark.parametrize(
    "layer, stride", [("r1(E)", 1), ("r1/2(E)", 2), ("r1/4(E)", 4), ("r1/2(D)", 2), ("r1(D)", 1)]
)
@torch.inference_mode()
def test_composition_at_a_layer_follows_the_flow_in_that_layers_pixels(layer, stride):
    torch.manual_seed(0)
    net1 = Net1(flow_width=0.125, sharpen=0)
    net1.compose = lambda feature, previous, flow: (feature, torch.full_like(flow[:, :1], 0.75))
    composed = methods._ComposedNet1(net1, net1, layer)
    composed.encode(textured(32, 64))
    before = composed._composite
    composed.encode(textured(32, 64, seed=1))
    now = composed._composite
    assert now.shape[2:] == (32 // stride, 64 // stride)
    # pixels of the frame, at a quarter of its resolution
    composed.compose(None, None, constant_flow(-8, 4, 8, 16))
    x, y = 8 // stride, 4 // stride
    expected = 0.25 * now[..., :-y, x:] + 0.75 * before[..., y:, :-x]
    assert torch.allclose(composed._composite[..., :-y, x:], expected, atol=1e-4)


def write_sintel(folder, frames, flows):
    for number, frame in frames.items():
        for part in ("clean/a_1", "final/a_1"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / f"frame_{number:04d}.png"), frame)
    for number in flows:
        for part in ("flow/a_1", "occlusions/a_1", "invalid/a_1"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        flow_files.write_flo(
            folder / "flow/a_1" / f"frame_{number:04d}.flo", constant_flow(2, 0)[0]
        )
        hidden = np.zeros((24, 32), np.uint8)
        hidden[:, 30:] = 255  # moves out of the frame
        cv2.imwrite(str(folder / "occlusions/a_1" / f"frame_{number:04d}.png"), hidden)
        cv2.imwrite(str(folder / "invalid/a_1" / f"frame_{number:04d}.png"), 0 * hidden)


def test_sintel_is_read_in_its_own_layout(tmp_path):
    wide = (textured(24, 48)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    shown = {number: wide[:, 16 - 2 * number : 48 - 2 * number] for number in (1, 2, 3, 6, 7)}
    write_sintel(tmp_path, shown, [2, 6])
    first, second = clips.read_sintel(tmp_path, "clean")
    assert first.one_shot
    assert (first.name, len(first.frames), second.name, len(second.frames)) == (
        "a_1_1",
        3,
        "a_1_6",
        2,
    )
    assert [len(first.pairs(t)) for t in range(3)] == [0, 0, 1]
    (pair,) = first.pairs(2)
    assert (pair.interval, pair.here, pair.there) == (1, 1, 2)
    assert pair.mask[..., :30].min() == 1 and pair.mask[..., 30:].max() == 0
    # Under its own flow the source is stable, to what bilinear sampling at whole pixels and PNG
    # leave.
    assert metrics.stability_error(first.frame(1), first.frame(2), pair.flow, pair.mask) < 1e-10
    with pytest.raises(MediaError, match="MPI Sintel"):
        clips.read_sintel(tmp_path / "clean", "clean")


def test_pairs_with_known_flow_are_read_in_their_own_layouts(tmp_path):
    frame = (textured(24, 32)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    write_sintel(tmp_path, {1: frame, 2: frame, 6: frame}, [2, 1, 6])
    (pair,) = endpoint.sintel_pairs(tmp_path, "final")  # of 2 and 6 the next frame is missing
    assert (pair.name, pair.length) == ("a_1 1", 2.0)
    assert torch.equal(pair.first, clips.read_clip(tmp_path / "final/a_1/frame_0001.png")[0])
    with pytest.raises(MediaError, match="Flying Chairs"):
        list(endpoint.chairs_pairs(tmp_path))
    for first, second, flow in (
        ("00007_img1", "00007_img2", "00007_flow"),
        ("a-img0", "a-img1", "a-gt"),
    ):
        cv2.imwrite(str(tmp_path / f"{first}.ppm"), frame)
        cv2.imwrite(str(tmp_path / f"{second}.ppm"), frame[::-1])
        flow_files.write_flo(tmp_path / f"{flow}.flo", constant_flow(3, 4)[0])
    first, second = endpoint.chairs_pairs(tmp_path)
    assert (first.name, first.length, second.name) == ("00007", 5.0, "a")
    assert torch.equal(first.first.flip(1), first.second)


def test_endpoint_error_is_in_pixels_and_leaves_out_what_is_not_known(model_dir, monkeypatch):
    stylizer = Stylizer("candy", device="cpu", model_dir=model_dir)
    monkeypatch.setattr(stylizer.model.net1.flow, "forward", lambda a, b: constant_flow(3, 0, 6, 8))
    flow = constant_flow(3, 4, 22, 30)[0]
    flow[:, :5] = torch.nan
    frame = torch.zeros(3, 22, 30, dtype=torch.uint8)
    assert endpoint.endpoint_error(stylizer, endpoint.FlowPair("a", frame, frame, flow)) == 4


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
    write_video(
        tmp_path / "a.mkv", [np.full((32, 48, 3), (10 * t, 50, 200), np.uint8) for t in range(8)]
    )
    frames = clips.read_clip(tmp_path / "a.mkv", frames=3, start=2, width=24)
    assert frames.shape == (3, 3, 16, 24) and frames.dtype == torch.uint8
    assert (
        frames[:, :, 8, 12].int() - torch.tensor([[20, 50, 200], [30, 50, 200], [40, 50, 200]])
    ).abs().max() <= 2
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
    assert calls[0][0].unique().tolist() == pytest.approx([0.2]) and calls[0][
        1
    ].unique().tolist() == [0]
    # rounded as the cache rounds
    assert backward.unique().tolist() == [1] and forward.unique().tolist() == [2]
    again = clips.flow_pair(function, a, b, tmp_path, "key")
    assert len(calls) == 2 and torch.equal(again[0], backward) and torch.equal(again[1], forward)
    clips.flow_pair(function, b, a, tmp_path, "key")
    clips.flow_pair(function, a, b, tmp_path, "another key")
    assert len(calls) == 6
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.subprocess
def test_another_run_fills_the_same_cache(tmp_path, monkeypatch):
    """While this one writes a pair, another process writes it too, and is done first."""
    a, b = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.full((3, 4, 6), 51, dtype=torch.uint8)
    other = (
        "import sys, torch\nfrom pathlib import Path\nfrom vsneuralstyle.evaluation import clips\n"
        "a, b = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.full((3, 4, 6), 51, "
        "dtype=torch.uint8)\n"
        "clips.flow_pair(lambda a, b: torch.ones(1, 2, 4, 6), a, b, Path(sys.argv[1]), 'key')"
    )
    save = np.savez_compressed

    def save_late(file, **arrays):
        subprocess.run([sys.executable, "-c", other, tmp_path], check=True)
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", save_late)
    clips.flow_pair(lambda a, b: torch.ones(1, 2, 4, 6), a, b, tmp_path, "key")
    (entry,) = tmp_path.iterdir()
    with np.load(entry) as file:
        assert (file["backward"] == 1).all() and file["forward"].shape == (1, 2, 4, 6)


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


def evaluate(*arguments):
    from vsneuralstyle.evaluation import cli

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(
        parser.parse_args([str(argument) for argument in ("--style", "candy", *arguments)])
    )


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--clips", "a.mp4", "--frames", "1"), "--frames 1"),
        ((), "--clips VIDEO"),
        (("--clips", "a.mp4", "b/a.mp4"), "same name"),
        (("--clips", "a.mp4", "--variant", "b"), "NAME=FILE"),
        (("--clips", "absent.mp4"), "absent.mp4: no such file"),
        (
            ("--clips", "a.mp4", "--style", "candy", "candy"),
            "--style candy candy: one is there twice",
        ),
        (
            ("--clips", "a.mp4", "--style", "candy", "muse", "--painting", "candy.jpg"),
            "--painting: 1 given for 2",
        ),
        (("--clips", "a.mp4", "--net", "stylebank", "--layers"), "--layers with --net stylebank"),
        (("--clips", "a.mp4", "--coherence", "0.5", "0.5"), "two methods have the same name"),
    ],
)
def test_evaluate_says_what_it_expects(arguments, told, model_dir):
    with pytest.raises(ArgumentError, match=told):
        evaluate(*arguments, "--model-dir", model_dir, "--device", "cpu")


def test_evaluate_writes_its_report(tmp_path, clip, model_dir, monkeypatch, capsys):
    from vsneuralstyle.evaluation.dis import DisFlow

    # RAFT's weights are not at hand in a test; DIS measures real flow as well.
    monkeypatch.setattr(raft, "load", lambda weights, device: DisFlow())
    monkeypatch.setattr(raft, "flow", lambda model, a, b: model(a, b))
    write_video(tmp_path / "disc.mkv", clip)
    write_sintel(tmp_path / "sintel", {n: clip[n][12:36, 16:48] for n in range(4)}, [1])
    out = tmp_path / "out"
    candy = model_dir / "candy.safetensors"
    stubborn = load_model("candy", model_dir=model_dir)
    with torch.no_grad():
        stubborn.net1.mask[-1].bias.fill_(-100)  # reuses nothing
    networks = read_header(candy)["networks"]
    (tmp_path / "s").mkdir()
    save_model(
        stubborn.net1,
        tmp_path / "s/stubborn.safetensors",
        style="stubborn",
        networks=networks,
        training={},
    )
    variants = f"again={candy}", f"stubborn={candy}+{tmp_path}/s/stubborn.safetensors"
    assert (
        evaluate(
            "--model-dir",
            model_dir,
            "--device",
            "cpu",
            "--clips",
            tmp_path / "disc.mkv",
            "--cache",
            tmp_path / "cache",
            "--sintel",
            tmp_path / "sintel",
            "--variant",
            *variants,
            "--coherence",
            "0",
            "0.5",
            "--out",
            out,
        )
        == 0
    )
    text = (out / "report.md").read_text()
    assert text == capsys.readouterr().out
    assert (
        "| disc | 64x48 |" in text
        and "| a_1_0 | 32x24 |" in text
        and "MPI Sintel subset, final: 1 runs" in text
    )
    assert (
        "| pair | length | again | stubborn | coherent |" in text
        and "| a_1 1 | 2.0 | " in text
        and "| mean | 2.0 | " in text
    )
    rows = list(csv.DictReader((out / "frames.csv").open()))
    of_disc = {
        name: [row for row in rows if row["clip"] == "disc" and row["method"] == name]
        for name in (
            "per frame",
            "blind baseline",
            "again",
            "stubborn",
            "coherence 0",
            "coherence 0.5",
            "coherent",
            "source",
        )
    }
    assert [row["scene_start"] for row in of_disc["coherent"]] == [
        "1",
        "0",
        "0",
        "0",
        "0",
        "1",
        "0",
        "0",
    ]
    assert [row["e_1"] for row in of_disc["again"]] == [row["e_1"] for row in of_disc["coherent"]]
    assert [row["e_1"] for row in of_disc["stubborn"]] == [
        row["e_1"] for row in of_disc["per frame"]
    ]
    assert [row["e_1"] for row in of_disc["coherence 0"]] == [
        row["e_1"] for row in of_disc["per frame"]
    ]
    assert (
        len({of_disc[name][2]["e_1"] for name in ("per frame", "coherence 0.5", "coherent")}) == 3
    )
    assert "| [its Net1] | 0.01050 | 0.438 |" in text
    assert of_disc["per frame"][1]["e_1"] not in ("", of_disc["coherent"][1]["e_1"])
    assert {path.name for path in out.iterdir()} == {
        "report.md",
        "frames.csv",
        "disc.jpg",
        "disc-time.png",
        "a_1_0.jpg",
        "a_1_0-time.png",
        "gain.png",
        "trade.png",
    }
    assert len(list((tmp_path / "cache").iterdir())) == 7


@pytest.mark.slow
def test_evaluate_sums_several_styles_up(tmp_path, clip, model_dir, vgg, monkeypatch, capsys):
    from vsneuralstyle.evaluation.dis import DisFlow

    monkeypatch.setattr(raft, "load", lambda weights, device: DisFlow())
    monkeypatch.setattr(raft, "flow", lambda model, a, b: model(a, b))
    write_video(tmp_path / "disc.mkv", clip)
    write_sintel(tmp_path / "sintel", {n: clip[n][12:36, 16:48] for n in range(4)}, [1])
    # Candy twice, the second time under muse's name and without reuse: coherent is per frame.
    candy, networks = (
        load_model("candy", model_dir=model_dir),
        read_header(model_dir / "candy.safetensors")["networks"],
    )
    for style in ("candy", "muse"):
        save_model(
            candy.net1,
            tmp_path / f"{style}.safetensors",
            style=style,
            networks=networks,
            training={},
        )
        painting = textured(64, 64, seed=len(style))[0, 0].numpy()
        cv2.imwrite(str(tmp_path / f"{style}.png"), (painting * 255).astype(np.uint8))
        with torch.no_grad():
            candy.net1.mask[-1].bias.fill_(-100)
    out = tmp_path / "out"
    arguments = (
        "--style",
        "candy",
        "muse",
        "--model-dir",
        tmp_path,
        "--device",
        "cpu",
        "--clips",
        tmp_path / "disc.mkv",
        "--cache",
        tmp_path / "cache",
        "--vgg",
        vgg,
        "--painting",
        tmp_path / "candy.png",
        tmp_path / "muse.png",
        "--layers",
        "--variant",
        f"again={tmp_path}/{{style}}.safetensors",
        "--intervals",
        "1",
        "--precision",
        "float32",
        "--out",
        out,
    )
    assert evaluate(*arguments, "--sintel", tmp_path / "sintel") == 0
    texts = [
        (out / name).read_text() for name in ("candy/report.md", "muse/report.md", "summary.md")
    ]
    assert "\n".join(texts) == capsys.readouterr().out
    assert "[Table 3" not in texts[0] and "| [its Net1] | 0.01050 | 0.438 |" in texts[0]
    table = [
        line.split(" | ")
        for line in texts[1].splitlines()
        if line.startswith(("|  | e_stab", "| [Table 3: r1/2(D)]"))
    ]
    row = dict(zip(*table[:2]))
    assert (row["e_stab"], row["ratio"], row["PSI"], row["PSI ratio"]) == (
        "0.00580",
        "0.291",
        "0.4187",
        "0.863",
    )

    frames = {
        style: list(csv.DictReader((out / style / "frames.csv").open()))
        for style in ("candy", "muse")
    }
    of = {
        (style, row["method"], row["clip"], int(row["frame"])): row
        for style, rows in frames.items()
        for row in rows
    }
    assert {method for _, method, _, _ in of} >= {*methods.LAYERS, "again", "coherent"}
    steady, without = (
        {
            name: float(of[style, name, "disc", 2]["e_1"])
            for name in ("per frame", "r1(E)", "r1/4(E)", "r1(D)", "coherent")
        }
        for style in frames
    )
    # but for the precision's rounding
    assert steady["r1/4(E)"] == pytest.approx(steady["coherent"], rel=0.05)
    assert (
        steady["r1(D)"] < 0.9 * steady["coherent"] and steady["r1(E)"] > 1.05 * steady["coherent"]
    )
    assert without["r1(D)"] == pytest.approx(without["per frame"], rel=0.05)
    assert (
        of["candy", "per frame", "disc", 0]["content"]
        == of["muse", "per frame", "disc", 0]["content"]
    )
    assert (
        of["candy", "per frame", "disc", 0]["style"] != of["muse", "per frame", "disc", 0]["style"]
    )
    for style in ("candy", "muse"):
        assert of[style, "again", "disc", 2]["e_1"] == of[style, "coherent", "disc", 2]["e_1"]

    first, second = csv.DictReader((out / "summary.csv").open())
    assert list(first) == [
        "style",
        "e_stab per frame",
        "coherent",
        "ratio",
        "the paper's",
        "better",
        "gradient (frame 2)",
        "PSI ratio",
        "e_stab ratio at 10",
        "VGG-19 distance",
        "ratio on Sintel",
    ]
    # too small for the one, too short for the other
    assert first["PSI ratio"] == first["e_stab ratio at 10"] == ""
    assert (first["style"], second["style"]) == ("candy", "muse")
    assert float(first["ratio"]) == pytest.approx(
        float(first["coherent"]) / float(first["e_stab per frame"]), rel=1e-4
    )
    assert float(first["ratio"]) < 0.9 and second["ratio"] == second["ratio on Sintel"] == "1"
    assert float(first["VGG-19 distance"]) > 0 and second["VGG-19 distance"] == "0"
    papers = [float(row["the paper's"]) for row in (first, second)]
    assert papers == pytest.approx([0.0105 / 0.0240, 0.0121 / 0.0199], rel=1e-4)
    assert first["better"].endswith("/6") and second["better"] == "0/6"

    with pytest.raises(ModelError, match="absent"):  # before anything is measured
        evaluate(*arguments, "--style", "candy", "absent", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_evaluate_without_flow_measures_sharpness(tmp_path, clip, model_dir, monkeypatch, capsys):
    monkeypatch.setattr(raft, "load", lambda weights, device: pytest.fail("flow isn't asked for"))
    write_video(tmp_path / "disc.mkv", clip)
    assert (
        evaluate(
            "--model-dir",
            model_dir,
            "--device",
            "cpu",
            "--clips",
            tmp_path / "disc.mkv",
            "--intervals",
            "--out",
            tmp_path,
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "no flow" in text and "gradient (frame 2)" in text and "| e_stab |" not in text
