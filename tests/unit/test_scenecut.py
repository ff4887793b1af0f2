"""The built-in detector: cuts found; pans, fades, flashes and noise passed over."""

import torch
from torch.nn import functional as F

from vsneuralstyle.core.scene_detection import (
    DEFAULT_THRESHOLD,
    cut_score,
    distance,
    is_cut,
    thumbnail,
    thumbnail_descriptor,
)


def scene(seed: int) -> torch.Tensor:
    """A smooth random picture, wider than a frame: (1, 3, 90, 200)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 11, generator=generator)
    tint = torch.rand(1, 3, 1, 1, generator=generator)
    return F.interpolate(coarse, (90, 200), mode="bicubic").clamp(0, 1) * 0.6 + tint * 0.4


def test_a_cut_is_found():
    for seed in range(0, 20, 2):
        assert cut_score(scene(seed)[..., :160], scene(seed + 1)[..., :160]) > DEFAULT_THRESHOLD
        for slate in (0.0, 0.5, 1.0):
            assert (
                cut_score(torch.full((1, 3, 90, 160), slate), scene(seed)[..., :160])
                > DEFAULT_THRESHOLD
            )


def test_what_goes_on_is_passed_over():
    a = scene(0)[..., :160]
    assert cut_score(a, a) == 0
    for other in (
        scene(0)[..., 8:168],  # a pan of 5 % of the width
        a * 0.8,  # a fade
        (a + 0.2).clamp(0, 1),  # a flash
        (a + 0.05 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1),
    ):
        assert cut_score(a, other) < DEFAULT_THRESHOLD
    # from black, at 8 bits: its first frame may be taken for a cut, which it is
    for step in range(1, 25):
        fading = [(a * 0.04 * n * 255).round() / 255 for n in (step, step + 1)]
        assert cut_score(*fading) < DEFAULT_THRESHOLD
        assert cut_score(1 - fading[0], 1 - fading[1]) < DEFAULT_THRESHOLD
    sky = 0.5 + a / 50  # of so little detail that its brightness is what changes
    for n in range(2, 25):
        assert cut_score(sky * 0.04 * n, sky * 0.04 * (n + 1)) < DEFAULT_THRESHOLD
    dark, noisy = (
        torch.zeros_like(a),
        torch.rand(a.shape, generator=torch.Generator().manual_seed(2)) * 0.02,
    )
    assert cut_score(dark, noisy) < DEFAULT_THRESHOLD


def test_what_is_fast_and_large_is_no_cut():
    """A body that goes through the picture changes its colors and its structure as a cut does."""
    behind, body = scene(0)[..., :160], scene(9)[..., :160] * 0.3
    frames = []
    for edge in (40, 100):  # its right edge in columns of 160
        frame = behind.clone()
        frame[..., :edge] = body[..., 160 - edge :]
        frames.append(frame)
    assert (
        distance(*(thumbnail_descriptor(thumbnail(frame)) for frame in frames)) > DEFAULT_THRESHOLD
    )
    assert cut_score(*frames) < DEFAULT_THRESHOLD


def test_a_cut_is_a_score_above_a_threshold():
    pairs = [(scene(seed)[..., :160], scene(seed + 1)[..., 8:168]) for seed in range(4)] + [
        (scene(0)[..., :160], scene(0)[..., 8:168])
    ]
    for pair in pairs:
        found = cut_score(*pair)
        descriptors = [thumbnail_descriptor(thumbnail(frame)) for frame in pair]
        for threshold in (0.01, 0.15, found - 1e-6, found, 0.9):
            assert is_cut(*descriptors, threshold) == (found > threshold)
