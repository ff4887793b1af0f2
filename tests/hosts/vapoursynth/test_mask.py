"""`mask`: the source where it is 0, the stylized picture where it is at its highest, and the blend
in between.
"""

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)


@pytest.fixture
def stylize(model_dir):
    return lambda clip, **arguments: vs.core.vsneuralstyle.Stylize(
        clip, model_dir=model_dir, **arguments
    )


def gray(values: np.ndarray, length: int, format: int = vs.GRAY8):
    """A clip of one picture, (H, W), code values."""

    def fill(n, f):
        f = f.copy()
        np.asarray(f[0])[:] = values
        return f

    clip = vs.core.std.BlankClip(
        format=format, height=values.shape[0], width=values.shape[1], length=length
    )
    return clip.std.ModifyFrame(clip, fill)


@pytest.mark.parametrize(
    "format",
    [
        vs.RGB24,
        vs.RGB30,
        vs.RGBH,
        vs.RGBS,
        vs.YUV420P8,
        vs.YUV444P16,
        vs.YUV410PS,
        vs.GRAY8,
        vs.GRAYH,
    ],
    ids=lambda format: format.name,
)
def test_outside_is_the_source_and_inside_the_style(format, clip, stylize, make_clip, planes):
    source = make_clip(clip)
    if format not in (vs.RGB24, vs.RGB30, vs.RGBH, vs.RGBS):
        source = source.resize.Bicubic(format=format, matrix=1)
    elif format != vs.RGB24:
        source = source.resize.Bicubic(format=format)
    half = np.zeros((48, 64), np.uint8)
    half[:, 32:] = 255
    whole, part = stylize(source), stylize(source, mask=gray(half, 8))
    assert part.format == source.format
    for n in (0, 3):
        for before, styled, merged in zip(planes(source, n), planes(whole, n), planes(part, n)):
            width = before.shape[1]
            edge = 2 if width < 64 else 0  # the mask is interpolated for subsampled chroma
            assert np.array_equal(merged[:, : width // 2 - edge], before[:, : width // 2 - edge])
            rounding = 0 if part.format.sample_type == vs.INTEGER else 1e-6
            assert np.abs(merged - styled.astype(float))[:, width // 2 + edge :].max() <= rounding
            assert not np.array_equal(before, styled)
        with part.get_frame(n) as ours, whole.get_frame(n) as theirs:
            assert dict(ours.props) == dict(theirs.props)


@pytest.mark.parametrize(
    "mask_format",
    [vs.GRAY8, vs.GRAY10, vs.GRAY16, vs.GRAYH, vs.GRAYS],
    ids=lambda format: format.name,
)
def test_linear_in_the_mask(mask_format, clip, stylize, make_clip, planes):
    """Whatever the mask's samples, and whatever they say of their range."""
    source = make_clip(clip)
    bits = {vs.GRAY8: 8, vs.GRAY10: 10, vs.GRAY16: 16}.get(mask_format)
    weight = np.linspace(0, 1, 64)[None].repeat(48, 0)
    values = np.round(weight * (2**bits - 1)) if bits else weight
    mask = gray(values, 8, mask_format).std.SetFrameProps(_Range=0, _Matrix=1)
    whole, part = planes(stylize(source), 2), planes(stylize(source, mask=mask), 2)
    for before, styled, merged in zip(planes(source, 2), whole, part):
        expected = before + (styled.astype(float) - before) * weight
        assert np.abs(merged - expected).max() <= 1.5
    mean = [np.mean([plane[:, x].mean() for plane in part]) for x in (0, 63)]
    assert mean[0] != mean[1]


def test_a_mask_moves_no_state(clip, stylize, make_clip, planes):
    """Where the mask lets the style through, it is the whole picture's style."""
    source = make_clip(clip)
    mask = vs.core.std.Splice(
        [gray(np.full((48, 64), 255 * (n == 4), np.uint8), 1) for n in range(8)]
    )
    output = stylize(source, mask=mask)
    assert all(np.array_equal(a, b) for a, b in zip(planes(output, 4), planes(stylize(source), 4)))
    assert all(np.array_equal(a, b) for a, b in zip(planes(output, 3), planes(source, 3)))
