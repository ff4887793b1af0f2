"""Host pixel layouts to RGB and back: exact for every code value, strided views, foreign types
refused.
"""

import numpy as np
import pytest
import torch

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.video.pixels import (
    Coding,
    components_to_rgb,
    download,
    planes_to_rgb,
    rgb_to_components,
    rgb_to_planes,
    upload,
)
from vsneuralstyle.video.yuv import downsample, upsample


@pytest.mark.parametrize(
    "dtype, bits", [("u1", None), ("u2", None), ("u2", 10), ("f2", None), ("f4", None)]
)
def test_planes_round_trip_exactly(dtype, bits):
    random = np.random.default_rng(0)
    top = (1 << (bits or np.dtype(dtype).itemsize * 8)) - 1
    planes = (
        [random.integers(0, top + 1, (5, 12)) for _ in range(3)]
        if dtype[0] == "u"
        else random.random((3, 5, 12))
    )
    # a row is longer than the picture is wide
    planes = [np.asarray(p, dtype)[:, :11] for p in planes]
    rgb = planes_to_rgb(planes, bits)
    assert (
        rgb.shape == (1, 3, 5, 11)
        and rgb.dtype == torch.float32
        and rgb.min() >= 0
        and rgb.max() <= 1
    )
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


@pytest.mark.parametrize(
    "order, channels", [((0, 1, 2), 3), ((2, 1, 0), 3), ((2, 1, 0), 4), ((1, 2, 3), 4)]
)
def test_packed_components_round_trip_and_leave_the_rest_alone(order, channels):
    memory = np.random.default_rng(0).integers(0, 256, (7, 40), np.uint8)
    view = np.lib.stride_tricks.as_strided(memory, (7, 9, channels), (40, channels, 1))
    rgb = components_to_rgb([view[..., index] for index in order], Coding())
    for channel, index in enumerate(order):
        np.testing.assert_array_equal((rgb[0, channel] * 255).round().numpy(), view[..., index])
    target = np.full((7, 9, channels), 17, np.uint8)
    rgb_to_components(rgb, [target[..., index] for index in order], Coding())
    np.testing.assert_array_equal(target[..., list(order)], view[..., list(order)])
    rest = [c for c in range(channels) if c not in order]
    assert (target[..., rest] == 17).all()


@pytest.mark.parametrize(
    "coding, code, rgb",
    [
        # H.273: limited range, 8 bits: white, black, and BT.709's and BT.601's pure red
        (Coding(matrix=1, full_range=False), (235, 128, 128), (1, 1, 1)),
        (Coding(matrix=1, full_range=False), (16, 128, 128), (0, 0, 0)),
        (Coding(matrix=1, full_range=False), (63, 102, 240), (1, 0, 0)),
        (Coding(matrix=6, full_range=False), (81, 90, 240), (1, 0, 0)),
        (Coding(matrix=6, full_range=True), (76, 85, 255), (1, 0, 0)),
        (Coding(10, 6, 9, False), (940 << 6, 512 << 6, 512 << 6), (1, 1, 1)),
        (Coding(10, 0, 9, False), (502, 512, 512), (0.5, 0.5, 0.5)),
        (Coding(full_range=False), (235, 16, 126), (1, 0, 0.5)),
    ],
)
def test_the_code_values_of_known_colors(coding, code, rgb):
    kind = np.uint16 if coding.bits > 8 else np.uint8
    made = components_to_rgb([np.full((2, 2), c, kind) for c in code], coding)
    assert made.shape == (1, 3, 2, 2)
    torch.testing.assert_close(
        made[0, :, 0, 0], torch.tensor(rgb, dtype=torch.float32), atol=0.006, rtol=0
    )
    back = [np.zeros((2, 2), kind) for _ in range(3)]
    rgb_to_components(
        torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 2, 2), back, coding
    )
    for plane, c in zip(back, code):
        assert abs(int(plane[0, 0]) - c) <= 1 << coding.shift  # the table's are rounded


@pytest.mark.parametrize(
    "full, half", [((6, 8), (3, 4)), ((5, 7), (3, 4)), ((6, 8), (6, 4)), ((1, 1), (1, 1))]
)
@pytest.mark.parametrize("cosited", [(False, False), (False, True), (True, True)])
def test_chroma_lies_where_it_is_sited(full, half, cosited):
    """A ramp's chroma samples are the ramp at their places; back at luma's places it is the ramp,
    but at the edges.
    """

    def places(axis):
        step = 1 if full[axis] == half[axis] else 2
        return torch.arange(half[axis]) * step + (0 if cosited[axis] or step == 1 else 0.5)

    ramp = 10.0 * torch.arange(full[0])[:, None] + torch.arange(full[1])
    samples = 10.0 * places(0)[:, None] + places(1)
    inner = tuple(slice(1, -2) if size > 1 else slice(None) for size in full)
    torch.testing.assert_close(upsample(samples, full, cosited)[inner], ramp[inner])
    made = downsample(ramp, half, cosited)
    assert made.shape == half
    inner = tuple(slice(1, -1) if size > 1 else slice(None) for size in half)
    torch.testing.assert_close(made[inner], samples[inner])
    even = torch.full(half, 0.25)
    assert (upsample(even, full, cosited) == 0.25).all()
    assert (downsample(torch.full(full, 0.25), half, cosited) == 0.25).all()


def test_nothing_keeps_the_hosts_memory():
    plane = np.zeros((4, 4), np.float32)
    rgb = planes_to_rgb([plane] * 3)
    plane[:] = 1
    assert rgb.max() == 0


def test_an_upload_is_of_what_was_there(cuda):
    """Also where the GPU has yet to come to it."""
    samples = torch.rand(2**24)
    for mine in (samples.clone(), samples.clone().pin_memory()):
        torch.cuda._sleep(10**8)
        uploaded = upload(mine, cuda)
        mine.zero_()
        assert torch.equal(uploaded.cpu(), samples)


def test_a_download_waits_for_what_is_under_way(cuda):
    samples = torch.zeros(2**24, device=cuda)
    torch.cuda._sleep(10**8)
    there = download(samples.add_(1)[::2])
    assert there.device.type == "cpu" and there.shape == (2**23,) and there.eq(1).all()


def test_foreign_samples_are_refused_by_name():
    with pytest.raises(ArgumentError, match="int32"):
        planes_to_rgb([np.zeros((4, 4), np.int32)] * 3)
    with pytest.raises(ArgumentError, match="12 bits"):
        planes_to_rgb([np.zeros((4, 4), np.uint8)] * 3, bits=12)


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, bits",
    [("u1", None), ("u2", None), ("u2", 10), ("f2", None), ("f4", None), ("f8", None)],
)
@pytest.mark.parametrize("height", [5, 1081])  # the larger one is copied by several threads
@pytest.mark.parametrize("by", ["kernels", "operators"])
def test_planes_by_way_of_a_gpu(cuda, monkeypatch, dtype, bits, height, by):
    if by == "operators":
        monkeypatch.setattr("vsneuralstyle.engines.cuda.runtime.available", lambda device: False)
    random = np.random.default_rng(0)
    top = (1 << (bits or np.dtype(dtype).itemsize * 8)) - 1 if dtype[0] == "u" else 1
    planes = [
        (random.random((height, 2000), np.float32) * top).astype(dtype)[:, :1919] for _ in range(3)
    ]
    rgb = planes_to_rgb(planes, bits, cuda)
    assert rgb.device.type == "cuda" and rgb.dtype == torch.float32
    assert torch.equal(rgb.cpu(), planes_to_rgb(planes, bits))
    for picture in (rgb, rgb.contiguous(memory_format=torch.channels_last)):
        back = [np.full((height, 2048), 7, dtype) for _ in range(3)]
        rgb_to_planes(picture, [plane[:, :1919] for plane in back], bits)
        for before, after in zip(planes, back):
            np.testing.assert_allclose(after[:, :1919], before.astype(np.float32), atol=0, rtol=0)
            assert (after[:, 1919:] == 7).all()


@pytest.mark.parametrize(
    "coding",
    [
        Coding(),
        Coding(full_range=False),
        Coding(matrix=1, full_range=False, cosited=(False, True)),
        Coding(matrix=6),
        Coding(10, 6, 9, False, (True, True)),
        Coding(10, 0, 1, False),
        Coding(12, 0, 6, True, (True, False)),
        Coding(10, 6),
        Coding(12),
    ],
)
@pytest.mark.parametrize(
    "full, half",
    [
        ((180, 320), (90, 160)),
        ((180, 320), (90, 320)),
        ((180, 320), (180, 160)),
        ((180, 320), (180, 320)),
        ((181, 323), (91, 162)),
    ],
)
@pytest.mark.parametrize("by", ["kernels", "operators"])
def test_components_by_way_of_a_gpu(cuda, monkeypatch, coding, full, half, by):
    """As on a CPU, but for the last digits of sums."""
    if by == "operators":
        monkeypatch.setattr("vsneuralstyle.engines.cuda.runtime.available", lambda device: False)
    random = np.random.default_rng(0)
    kind = np.uint16 if coding.bits > 8 else np.uint8
    shapes = [full, *2 * [full if coding.matrix == 0 else half]]
    planes = [
        (random.integers(0, 1 << coding.bits, shape) << coding.shift).astype(kind)
        for shape in shapes
    ]
    there, here = components_to_rgb(planes, coding, cuda), components_to_rgb(planes, coding)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)
    targets = [[np.zeros_like(plane) for plane in planes] for _ in range(2)]
    rgb_to_components(here.to(cuda), targets[0], coding)
    rgb_to_components(here, targets[1], coding)
    for ours, theirs in zip(*targets):
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1 << coding.shift and (difference > 0).mean() < 0.01


def test_planes_are_taken_as_they_were(cuda):
    """Whatever the host writes to them next, and whatever else is on its way: blocks of pinned
    memory are used again.
    """
    random, made, expected = np.random.default_rng(0), [], []
    planes = [np.zeros((540, 960), np.uint8) for _ in range(3)]
    torch.cuda._sleep(10**8)
    for _ in range(5):
        for plane in planes:
            plane[...] = random.integers(0, 256, plane.shape)
        expected.append(planes_to_rgb(planes))
        made.append(planes_to_rgb(planes, None, cuda))
    for rgb, picture in zip(made, expected):
        torch.testing.assert_close(rgb.cpu(), picture, atol=1e-6, rtol=0)
