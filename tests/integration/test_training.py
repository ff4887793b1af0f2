"""The trainers: exact synthetic flow, runs that can be taken up again, and the three commands one
after the other.
"""

import argparse
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vsneuralstyle import ArgumentError, Stylizer
from vsneuralstyle.measurement.perceptual import gram, relative_error
from vsneuralstyle.measurement.vgg import VGG19
from vsneuralstyle.networks.checkpoint import FLOW
from vsneuralstyle.networks.flow.network import FLOW_SCALE
from vsneuralstyle.networks.layers.warp import warp
from vsneuralstyle.training import clips, run, synthetic
from vsneuralstyle.training import flow as flow_trainer
from vsneuralstyle.training.flow import Pairs, robust_error
from vsneuralstyle.training.losses import LONGEST_SHIFT, shift_error, shift_steps


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Smooth random pictures, RGB uint8."""
    random = np.random.default_rng(0)
    return [
        cv2.resize(
            random.integers(0, 256, (24, 32, 3), np.uint8),
            (256, 192),
            interpolation=cv2.INTER_CUBIC,
        )
        for _ in range(6)
    ]


def residual(pair: synthetic.Pair) -> np.ndarray:
    """|first - second sampled along the flow|, the mean over channels, in code values."""
    first, second = (
        torch.from_numpy(f).permute(2, 0, 1)[None].float() for f in (pair.first, pair.second)
    )
    flow = torch.from_numpy(np.ascontiguousarray(pair.flow)).permute(2, 0, 1)[None]
    return (warp(second, flow, "bicubic") - first).abs().mean(1)[0].numpy()


def test_flow_of_synthetic_pairs_is_exact(photographs, monkeypatch):
    monkeypatch.setattr(synthetic, "_photometric", lambda random, frames: frames)
    random = np.random.default_rng(1)
    for _ in range(5):
        pair = synthetic.make_pair(photographs, 128, 96, random, pace=0.3)
        still = np.abs(pair.first.astype(float) - pair.second).mean()
        # Occluded pixels can't agree; of the rest nearly all must.
        assert np.median(residual(pair)) < 1.5 and np.quantile(residual(pair), 0.6) < 3
        assert still > 3 * np.median(residual(pair)) or still < 1.5
    pair = synthetic.make_translation(photographs, 64, 6.0, random)
    assert np.median(residual(pair)) < 1.5 and np.abs(pair.flow).max() <= 6


def test_flow_of_moved_pairs_is_exact(photographs, monkeypatch):
    """A pair whose measured flow is exact has exact flow in every view of it."""
    monkeypatch.setattr(synthetic, "_photometric", lambda random, frames: frames)
    large = cv2.resize(photographs[0], (512, 384), interpolation=cv2.INTER_CUBIC)
    # first(p) = second(p + flow(p))
    flow = np.broadcast_to(np.float32([-4, 2]), (384, 512, 2)).copy()
    pair = synthetic.Pair(large, np.roll(large, (2, -4), (0, 1)), flow)
    random = np.random.default_rng(2)
    moved = [synthetic.move_pair(pair, 128, 96, random) for _ in range(12)]
    for view in moved:
        assert (
            view.first.shape == (96, 128, 3)
            and view.flow.shape == (96, 128, 2)
            and view.flow.dtype == np.float32
        )
        assert np.median(residual(view)) < 1.5
    means = np.array([view.flow.mean((0, 1)) for view in moved])
    assert (means[:, 0] > 1).any() and (means[:, 0] < -1).any()  # mirrored, and moved further


def test_shift_steps_sum_to_whole_pixels():
    lengths = set()
    for seed in range(50):
        steps = shift_steps(np.random.default_rng(seed))
        total = steps.sum(0)
        assert (
            np.abs(total - total.round()).max() < 1e-4
            and np.abs(total).max() <= LONGEST_SHIFT + 1e-4
        )
        lengths.add(len(steps))
    assert lengths == {1, 2, 3, 4, 5, 6}


def test_shift_error_is_none_where_the_moved_feature_is_drawn_as_the_moved_picture():
    # draws a cell as 4 x 4 equal pixels: right for moves by whole cells, wrong for others
    class Cells:
        decode = staticmethod(
            lambda feature: nn.functional.interpolate(feature, scale_factor=4, mode="nearest")
        )

    feature = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    error = lambda *steps: shift_error(Cells, feature, Cells.decode(feature), np.float32(steps))  # noqa: E731
    assert error((4, -8)) < 1e-9 and error((-4, 0), (8, 4)) < 1e-9
    assert error((2, 0)) > 1e-3 and error((1.5, 0), (0.5, 0)) > 1e-3


def test_batches_depend_on_the_step_alone(photographs):
    make = lambda: Pairs(photographs, (64, 64), 2, 7, torch.device("cpu"), translations=4, growth=4)  # noqa: E731
    straight, taken_up = make(), make()
    batches = [straight(step) for step in range(8)]
    for step in (5, 6, 7):
        for a, b in zip(batches[step], taken_up(step)):
            assert torch.equal(a, b)
    first, _, flow = batches[4]
    mirrored = batches[5]
    assert torch.equal(mirrored[0], first.flip(-1)) and torch.equal(
        mirrored[2][:, 0], -flow.flip(-1)[:, 0]
    )
    assert not torch.equal(batches[4][0], batches[6][0])


def test_shifts_are_the_lengths_of_motions(photographs):
    def mean_length(shifts):
        pairs = Pairs(photographs, (128, 64), 6, 3, torch.device("cpu"), shifts=shifts)
        return pairs(0)[2].square().sum(1).sqrt().mean().item()

    assert mean_length((1.0,)) < mean_length((4.0, 16.0)) < mean_length((64.0,))


def test_an_exponent_makes_small_errors_count_more():
    target = torch.zeros(1, 2, 4, 4)
    flow = torch.zeros(1, 2, 4, 4, requires_grad=True)

    def of(pixels, exponent):
        """The error where x is wrong by so many pixels, and its slope."""
        wrong = flow + torch.tensor([pixels / FLOW_SCALE, 0]).view(1, 2, 1, 1)
        error = robust_error(wrong, target, exponent)
        return error.item(), torch.autograd.grad(error, flow)[0][:, 0].sum().item()

    assert of(2.0, 1)[0] == pytest.approx(2 / FLOW_SCALE, rel=1e-3)
    assert of(2.0, 0.4)[0] == pytest.approx(2.01**0.4 / (0.4 * FLOW_SCALE), rel=1e-4)
    slopes = {
        exponent: [of(pixels, exponent)[1] for pixels in (0.1, 1.0, 10.0)] for exponent in (1, 0.4)
    }
    assert slopes[1] == pytest.approx([1, 1, 1], rel=1e-2) and slopes[0.4][1] == pytest.approx(
        1, rel=2e-2
    )
    assert slopes[0.4][0] > 3 and slopes[0.4][2] < 0.3


def test_what_is_not_known_of_a_flow_has_no_error():
    target = torch.zeros(1, 2, 4, 4)
    target[..., 2:] = torch.nan
    flow = torch.full((1, 2, 4, 4), 0.5).requires_grad_()
    for exponent in (1, 0.4):
        error = robust_error(flow, target, exponent)
        assert error.item() == pytest.approx(
            robust_error(flow[..., :2], target[..., :2], exponent).item()
        )
        (slope,) = torch.autograd.grad(error, flow)
        assert (slope[..., :2] > 0).all() and (slope[..., 2:] == 0).all()


def test_layers_are_blurred_along_their_paths():
    image = np.zeros((40, 60, 3), np.uint8)
    image[20, 30] = 255
    blurred = synthetic._motion_blur(image, np.array([12.0, 0]))[..., 0].astype(float)
    assert blurred[20, 24:37].min() > 5 and blurred[:, :23].max() == blurred[:, 38:].max() == 0
    assert blurred[:19].max() == blurred[22:].max() == 0 and blurred.sum() == pytest.approx(
        255, rel=0.2
    )
    assert (blurred * np.arange(60)).sum() / blurred.sum() == pytest.approx(30, abs=0.3)
    np.testing.assert_array_equal(synthetic._motion_blur(image, np.array([0.5, 0.5])), image)


def toy_run(folder, stop_at=None):
    args = argparse.Namespace(run=folder, iterations=6, rate=0.1, device="cpu")
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})

    def sample(step):
        if step == stop_at:
            raise KeyboardInterrupt
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))

    loss = lambda x: {"loss": (modules["line"](x) - x.sum(1, keepdim=True)).square().mean()}  # noqa: E731
    run.train(args, modules, sample, loss, every=2)
    return modules["line"].weight


def test_a_run_broken_off_and_taken_up_ends_as_one_that_ran_through(tmp_path):
    through = toy_run(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "broken", stop_at=5)
    assert torch.equal(toy_run(tmp_path / "broken"), through)
    assert (tmp_path / "through" / "log.csv").read_text().count("\n") == 4


def test_gram_and_relative_error():
    feature = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # C 2, H 1, W 2
    torch.testing.assert_close(gram(feature), torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / 4)
    assert relative_error(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx(1.0)


def test_vgg_layers_have_their_sizes_and_a_foreign_file_is_named(vgg, tmp_path):
    features = VGG19(vgg)(torch.rand(1, 3, 64, 48), ("relu1_2", "relu2_2", "relu4_3"))
    assert [tuple(f.shape[1:]) for f in features.values()] == [
        (64, 64, 48),
        (128, 32, 24),
        (512, 8, 6),
    ]
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArgumentError, match="foreign.safetensors.*features.0.weight"):
        VGG19(tmp_path / "foreign.safetensors")
    with pytest.raises(ArgumentError, match="absent.*no such file"):
        VGG19(tmp_path / "absent")


@pytest.fixture
def shot():
    """Three frames, each brighter by one code value than the one before where it stands: the flow
    back leads one pixel right. Pixels of columns 20 to 29 aren't traceable from the last frame to
    the middle one.
    """
    y, x = np.mgrid[0:40, 0:60].astype(np.float32)
    traceable = np.ones((2, 1, 40, 60), bool)
    traceable[1, ..., 20:30] = False
    return clips.Shot(
        np.stack([np.stack([x + t, y, 0 * x], -1) for t in range(3)]).astype(np.uint8),
        np.stack([np.stack([0 * x + 1, 0 * x])] * 2).astype(np.float16),
        traceable,
    )


def test_flow_of_real_pairs_is_known_where_it_can_be_traced(shot, monkeypatch):
    seen = []
    monkeypatch.setattr(flow_trainer, "move_pair", lambda pair, *others: seen.append(pair))
    for seed in range(12):
        flow_trainer.real_pair([shot], 32, 24, np.random.default_rng(seed))
    unknown = {np.isnan(pair.flow).mean().round(3) for pair in seen}
    assert len(unknown) > 1 and 0 < max(unknown) < 0.3
    for pair in seen:
        flow = pair.flow[~np.isnan(pair.flow).any(-1)]
        assert (
            pair.flow.shape == (40, 60, 2)
            and np.unique(flow[:, 0]).tolist() in ([1], [2])
            and (flow[:, 1] == 0).all()
        )


def test_flow_over_frames_left_out(shot):
    flow, traceable = shot.back(2, 0)
    assert (flow[0] == 2).all() and (flow[1] == 0).all()
    there = np.nonzero(~traceable[0, 0])[0].tolist()
    # from the last column the first step leads out of the picture
    assert there == [*range(20, 30), 59]
    shot.traceable = shot.traceable[::-1]
    _, traceable = shot.back(2, 0)
    # where the first step leads
    assert np.nonzero(~traceable[0, 0])[0].tolist() == [*range(19, 29), 59]


def test_crops_of_sequences_keep_flow_and_picture_together(shot):
    lengths, traceable = [], []
    for seed in range(40):  # mirrored or not, travelling or not, with a frame left out or not
        frames, flows, masks = clips.crop_batch([shot] * 2, 32, 24, 2, np.random.default_rng(seed))
        assert (
            frames.shape == (2, 2, 3, 24, 32)
            and flows.shape == (2, 1, 2, 24, 32)
            and masks.shape == (2, 1, 1, 24, 32)
        )
        back = warp(frames[:, 0], flows[:, 0])
        assert ((back - frames[:, 1]).abs() * masks[:, 0]).max() < 1e-5
        lengths += flows[:, 0].norm(dim=1).amax((1, 2)).tolist()
        traceable += masks.mean((1, 2, 3, 4)).tolist()
    assert min(lengths) == 1 and 2 in lengths and max(lengths) > 4
    assert max(traceable) > 0.9 and min(traceable) > 0


def train(*arguments):
    command = [sys.executable, "-m", "vsneuralstyle.cli", "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.subprocess
def test_the_three_commands_make_a_model_that_stylizes(tmp_path, photographs, vgg, clip):
    """A few steps each: that the chain holds, not what it learns."""
    photos, videos, cache = (tmp_path / name for name in ("photos", "videos", "cache"))
    for folder in (photos, videos, cache):
        folder.mkdir()
    for index, image in enumerate(photographs):
        cv2.imwrite(str(photos / f"{index}.png"), image)
    (videos / "moving.mp4").touch()  # its flow is in the cache already, so it isn't read
    frames = np.stack([np.roll(photographs[0][:128, :160], t, 1) for t in range(4)])
    flow = np.zeros((3, 2, 128, 160), np.float16)
    flow[:, 0] = -1
    np.savez(
        cache / "moving-512-4-1-0-0.npz",
        frames=frames,
        flows=flow,
        traceable=np.ones((3, 1, 128, 160), bool),
    )

    flow_run, style_run, net1_run = (tmp_path / name for name in ("flow", "style", "net1"))
    common = ("--device", "cpu", "--iterations", 2, "--batch", 1, "--run")
    results = [
        train(
            "flow",
            "--photos",
            photos,
            "--width",
            0.125,
            "--size",
            128,
            64,
            "--translations",
            0,
            "--output",
            tmp_path / FLOW,
            *common,
            flow_run,
        ),
        train(
            "style",
            photos / "0.png",
            "--net",
            "johnson",
            "--photos",
            photos,
            "--vgg",
            vgg,
            "--size",
            64,
            "--style-size",
            64,
            *common,
            style_run,
        ),
        train(
            "net1",
            "--style-run",
            style_run,
            "--flow-run",
            flow_run,
            "--clips",
            videos,
            "--cache",
            cache,
            "--per-clip",
            1,
            "--crop",
            128,
            64,
            "--output",
            tmp_path / "mine.safetensors",
            *common,
            net1_run,
        ),
    ]
    for result in results:
        assert result.returncode == 0, result.stderr
    # The coarse levels alone, from clips: the finest features and estimators stay as they are.
    coarse = train(
        "flow",
        "--photos",
        photos,
        "--start-from",
        flow_run,
        "--width",
        0.125,
        "--size",
        128,
        64,
        "--real",
        cache,
        "--levels",
        3,
        "--fixed-features",
        2,
        *common[:-3],
        "--batch",
        2,
        "--run",
        tmp_path / "coarse",
    )
    assert coarse.returncode == 0, coarse.stderr
    before, after = (
        run.module_state(run.load_run(folder), "flow") for folder in (flow_run, tmp_path / "coarse")
    )
    changed = {
        name.rpartition(".")[0]
        for name in before
        if name.endswith("weight") and not torch.equal(before[name], after[name])
    }
    assert {"features.2.0.0", "features.4.1.0", "estimators.0.0.0", "predicts.1"} <= changed
    assert not any(
        name.startswith(("features.0", "features.1", "estimators.2", "predicts.3"))
        for name in changed
    )
    # Of the flow network, in Net1, the finest level alone.
    finest = (
        "net1",
        "--style-run",
        style_run,
        "--flow-run",
        flow_run,
        "--clips",
        videos,
        "--cache",
        cache,
        "--per-clip",
        1,
        "--crop",
        128,
        64,
        *common,
        tmp_path / "finest",
        "--flow-levels",
    )
    assert train(*finest, 1).returncode == 0
    sharing = train(
        *(tmp_path / FLOW if part is flow_run else part for part in finest[:-2]),
        tmp_path / "sharing",
        *finest[-1:],
        1,
        "--output",
        tmp_path / "sharing.safetensors",
    )
    assert sharing.returncode == 0, sharing.stderr
    with safe_open(tmp_path / "sharing.safetensors", framework="pt") as file:
        names = file.keys()
    assert {name[: len("flow.predicts.3")] for name in names if name.startswith("flow.")} <= {
        "flow.predicts.3",
        "flow.estimators",
    }
    after = run.module_state(run.load_run(tmp_path / "finest"), "flow")
    changed = {
        ".".join(name.split(".")[:2])
        for name in before
        if not torch.equal(before[name], after[name])
    }
    assert changed == {"estimators.3", "predicts.3"}
    nothing = train(*finest, 0)
    assert nothing.returncode == 2 and "--flow-levels 0: expected 1 or more" in nothing.stderr
    # A clip that is kept out stays out, though its flow lies in the cache.
    (videos / "other.mp4").touch()
    np.savez(
        cache / "other-512-4-1-0-0.npz",
        frames=0 * frames,
        flows=flow,
        traceable=np.ones((3, 1, 128, 160), bool),
    )
    kept_out = train(
        "net1",
        "--style-run",
        style_run,
        "--flow-run",
        flow_run,
        "--clips",
        videos,
        "--cache",
        cache,
        "--per-clip",
        1,
        "--without",
        "moving",
        "--crop",
        128,
        64,
        *common,
        tmp_path / "kept-out",
    )
    assert kept_out.returncode == 2 and "no measured sequences" in kept_out.stderr
    for folder in (flow_run, style_run, net1_run):
        assert {p.name for p in folder.iterdir()} == {"checkpoint.pt", "log.csv", "000002.png"}
    stylizer = Stylizer("mine", model_dir=tmp_path, device="cpu")
    assert stylizer.model.header["training"]["style"]["painting"] == "0.png"
    assert (
        Stylizer("sharing", model_dir=tmp_path, device="cpu").model.header["training"]["flow"][
            "network"
        ]
        == "litepwcnet"
    )
    out = stylizer.stylize(torch.from_numpy(clip[:2]).permute(0, 3, 1, 2).float() / 255)
    assert out.shape == (2, 3, 48, 64) and out.isfinite().all()


@pytest.mark.subprocess
def test_a_folder_without_pictures_is_an_error_without_a_traceback(tmp_path):
    result = train("flow", "--photos", tmp_path, "--run", tmp_path / "run")
    assert (
        result.returncode == 2
        and "expected a folder with photographs" in result.stderr
        and "Traceback" not in result.stderr
    )
