"""Host pixel layouts to RGB and back: exact for every code value, strided views, foreign types refused."""

import numpy as np
import pytest
import torch

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.pixels import packed_to_rgb, planes_to_rgb, rgb_to_packed, rgb_to_planes


@pytest.mark.parametrize("dtype, bits", [("u1", None), ("u2", None), ("u2", 10), ("f2", None), ("f4", None)])
def test_planes_round_trip_exactly(dtype, bits):
    random = np.random.default_rng(0)
    top = (1 << (bits or np.dtype(dtype).itemsize * 8)) - 1
    planes = [random.integers(0, top + 1, (5, 12)) for _ in range(3)] if dtype[0] == "u" else random.random((3, 5, 12))
    planes = [np.asarray(p, dtype)[:, :11] for p in planes]  # a row is longer than the picture is wide
    rgb = planes_to_rgb(planes, bits)
    assert rgb.shape == (1, 3, 5, 11) and rgb.dtype == torch.float32 and 0 <= rgb.min() and rgb.max() <= 1
    back = [np.zeros((5, 16), dtype)[:, :11] for _ in range(3)]
    rgb_to_planes(rgb, back, bits)
    for before, after in zip(planes, back):
        np.testing.assert_array_equal(before, after)


def test_integers_are_rounded_and_limited_floats_are_not():
    rgb = torch.tensor([-0.5, 0.4999 / 255, 0.5001 / 255, 2.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    bytes_, floats = np.zeros((3, 1, 4), np.uint8), np.zeros((3, 1, 4), np.float32)
    rgb_to_planes(rgb, bytes_)
    rgb_to_planes(rgb, floats)
    np.testing.assert_array_equal(bytes_[0], [[0, 0, 1, 255]])
    np.testing.assert_array_equal(floats[0], rgb[0, 0].numpy())


@pytest.mark.parametrize("order, channels", [((0, 1, 2), 3), ((2, 1, 0), 3), ((2, 1, 0), 4), ((1, 2, 3), 4)])
def test_packed_round_trip_leaves_the_rest_alone(order, channels):
    memory = np.random.default_rng(0).integers(0, 256, (7, 40), np.uint8)
    view = np.lib.stride_tricks.as_strided(memory, (7, 9, channels), (40, channels, 1))
    rgb = packed_to_rgb(view, order)
    for channel, index in enumerate(order):
        np.testing.assert_array_equal((rgb[0, channel] * 255).round().numpy(), view[..., index])
    target = np.full((7, 9, channels), 17, np.uint8)
    rgb_to_packed(rgb, target, order)
    np.testing.assert_array_equal(target[..., list(order)], view[..., list(order)])
    rest = [c for c in range(channels) if c not in order]
    assert (target[..., rest] == 17).all()


def test_nothing_keeps_the_hosts_memory():
    plane = np.zeros((4, 4), np.float32)
    rgb = planes_to_rgb([plane] * 3)
    plane[:] = 1
    assert rgb.max() == 0


def test_foreign_samples_are_refused_by_name():
    with pytest.raises(ArgumentError, match="int32"):
        planes_to_rgb([np.zeros((4, 4), np.int32)] * 3)
    with pytest.raises(ArgumentError, match="12 bits"):
        planes_to_rgb([np.zeros((4, 4), np.uint8)] * 3, bits=12)
