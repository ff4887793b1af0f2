"""Samples beyond 0..1, and those that are not finite: the networks see them limited, and where the
source shows through it has its own.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from vsneuralstyle import Stylizer
from vsneuralstyle.engines.cpu import library
from vsneuralstyle.video import pixels
from vsneuralstyle.video.pixels import Coding, components_to_rgb, planes_to_rgb

NAN, INF = float("nan"), float("inf")
VALUES = [50.0, -5.0, 1.3, 1e30, NAN, INF, -INF]


@pytest.fixture(params=["kernels", "networks"])
def way(request, monkeypatch) -> str:
    """What computes."""
    if request.param == "kernels" and library.library() is None:
        pytest.skip("the wheel was built without the kernels")
    if request.param == "networks":
        monkeypatch.setattr(library, "library", lambda: None)
    return request.param


@pytest.fixture
def play(model_dir, way):
    """play(frames, **arguments) -> what a new stylizer makes of them, and where scenes start."""

    def play(frames: Tensor, **arguments) -> tuple[Tensor, tuple[bool, ...]]:
        one = Stylizer("candy", model_dir=model_dir, device="cpu", precision="float32", **arguments)
        return one.stylize(frames), one.scene_starts

    return play


def patched(frames: Tensor, value: float) -> Tensor:
    """With a patch of that value in the second of them."""
    frames = frames.clone()
    frames[1, :, 10:16, 20:26] = value
    return frames


def seen(value: float) -> float:
    """What the networks see of it."""
    return 0.0 if np.isnan(value) else min(max(value, 0.0), 1.0)


@pytest.mark.parametrize("value", VALUES)
def test_the_networks_see_the_nearest_of_0_and_1(play, frames, value):
    for options in ({}, {"preserve_color": True}):
        made, starts = play(patched(frames[:4], value), **options)
        expected, expected_starts = play(patched(frames[:4], seen(value)), **options)
        assert torch.equal(made, expected) and starts == expected_starts


@pytest.mark.parametrize("value", VALUES)
def test_without_strength_the_source_passes_as_it_is(play, frames, value):
    given = patched(frames[:3], value)
    made, _ = play(given, strength=0)
    torch.testing.assert_close(made, given, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strength", [0.25, 0.75])
@pytest.mark.parametrize("value", VALUES)
def test_a_source_that_shows_through_has_its_own(play, frames, value, strength):
    given = patched(frames[:3], value)
    made, _ = play(given, strength=strength)
    limited, _ = play(patched(frames[:3], seen(value)), strength=strength)
    same = given == patched(frames[:3], seen(value))
    assert torch.equal(made[same], limited[same])
    share = torch.tensor((1 - strength) * (value - seen(value)), dtype=torch.float32)
    torch.testing.assert_close(made[~same], limited[~same] + share, equal_nan=True)


def test_frames_that_are_alike_when_limited_are_each_its_own(play, frames):
    """What was prepared of the one before serves for the next, but for the source."""
    given = frames[:1].repeat(3, 1, 1, 1)
    given[:, :, 10:16, 20:26] = torch.tensor([1.3, 5.0, 1.0]).view(3, 1, 1, 1)
    made, _ = play(given, strength=0.5)
    patches = made[:, :, 10:16, 20:26]
    torch.testing.assert_close(patches[1] - patches[2], torch.full((3, 6, 6), 0.5 * 4.0))
    # The first is drawn by itself.
    assert (patches[0] - patches[2]).mean() == pytest.approx(0.5 * 0.3, abs=0.02)


@pytest.mark.parametrize("value", [50.0, NAN])
def test_a_cut_is_where_it_is(model_dir, way, frames, value):
    one = Stylizer("candy", model_dir=model_dir, device="cpu", precision="float32")
    given = patched(frames[3:], value)  # its second frame is before the cut, its third behind it
    pairs = pairwise(given.split(1))
    assert [one.is_cut(*pair) for pair in pairs][:3] == [False, True, False]


@torch.inference_mode()
def test_what_comes_out_without_strength_is_the_callers(model_dir, way, frames):
    one = Stylizer("candy", model_dir=model_dir, device="cpu", precision="float32", strength=0)
    given = frames[:1].clone()
    one.stylize(given).zero_()
    assert torch.equal(one.state.frame, frames[:1]) and torch.equal(given, frames[:1])


def test_what_is_within_is_not_copied(frames):
    frame = frames[:1].clone()
    frame[..., 0], frame[..., 1] = 0.0, 1.0
    assert pixels.limited(frame) is frame


def test_a_gpu_limits_the_same(cuda, frames):
    given = torch.cat([patched(frames[:2], value) for value in VALUES])
    assert torch.equal(pixels.limited(given.to(cuda)).cpu(), pixels.limited(given))


@pytest.mark.parametrize("bits", [9, 10, 12])
def test_integers_are_limited_to_what_their_bits_have(way, bits):
    top = (1 << bits) - 1
    planes = [np.array([[0, 1, top - 1, top, top + 1, 65535]], np.uint16)] * 3
    for rgb in (planes_to_rgb(planes, bits), components_to_rgb(planes, Coding(bits))):
        expected = torch.tensor([0, 1, top - 1, top, top, top], dtype=torch.float32) / top
        assert torch.equal(rgb[0, 0, 0], expected)
    shifted = [plane << (16 - bits) for plane in planes]
    shifted[0][0, -2:] = 65535
    assert components_to_rgb(shifted, Coding(bits, 16 - bits))[0, 0, 0, -1] == 1
