"""Any constant format goes in and comes out: the same format, size and properties, and the right
pixels.
"""

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

# Every sample type with each family, and every subsampling with some of them.
RGB = [vs.RGB24, vs.RGB27, vs.RGB30, vs.RGB36, vs.RGB42, vs.RGB48, vs.RGBH, vs.RGBS]
YUV = [
    vs.YUV444P8,
    vs.YUV422P9,
    vs.YUV420P10,
    vs.YUV444P12,
    vs.YUV422P14,
    vs.YUV420P16,
    vs.YUV444PH,
    vs.YUV422PS,
    vs.YUV420P8,
    vs.YUV420PH,
    vs.YUV440P8,
    vs.YUV440PS,
    vs.YUV411P8,
    vs.YUV411P16,
    vs.YUV411PH,
    vs.YUV410P8,
    vs.YUV410P16,
    vs.YUV410PS,
]
GRAY = [vs.GRAY8, vs.GRAY9, vs.GRAY10, vs.GRAY12, vs.GRAY14, vs.GRAY16, vs.GRAYH, vs.GRAYS]
NAME = lambda value: getattr(value, "name", str(value))  # noqa: E731
TAGS = dict(
    _Matrix=1,
    _Transfer=1,
    _Primaries=1,
    _Range=0,
    _ChromaLocation=2,
    _FieldBased=0,
    _DurationNum=1,
    _DurationDen=25,
    note="kept",
)


@pytest.fixture
def stylize(model_dir):
    return lambda clip, **arguments: vs.core.vsneuralstyle.Stylize(
        clip, model_dir=model_dir, **arguments
    )


def smooth(make_clip, width: int, height: int, format: int = vs.RGB24, count: int = 2, **tags):
    """A clip without sharp edges in its chroma, which 4:2:0 keeps."""
    y, x = np.mgrid[0:height, 0:width]
    frames = np.stack(
        [
            np.stack([40 + x + y, 200 - x - y / 2, 128 + 50 * np.sin((x + y + t) / 16)], axis=-1)
            for t in range(count)
        ]
    )
    clip = make_clip(np.clip(frames, 0, 255).astype(np.uint8))
    family = vs.core.get_video_format(format).color_family
    if family == vs.GRAY:
        clip = clip.resize.Lanczos(format=vs.GRAYS, matrix=1)
    to = dict(
        matrix=tags.get("_Matrix", 6),
        range=tags.get("_Range", 0),
        chromaloc=tags.get("_ChromaLocation", 0),
    )
    clip = clip.resize.Lanczos(format=format, **(to if family != vs.RGB else {}))
    clip = clip.std.RemoveFrameProps()
    return clip.std.SetFrameProps(**tags) if tags else clip


def code_values(planes, format) -> list[np.ndarray]:
    """Planes in code values of 8 bits."""
    scale = 255 if format.sample_type == vs.FLOAT else 2.0 ** (8 - format.bits_per_sample)
    return [plane.astype(np.float64) * scale for plane in planes]


def properties(clip, n=0) -> dict:
    with clip.get_frame(n) as frame:
        return dict(frame.props)


@pytest.mark.parametrize("format", RGB + YUV + GRAY, ids=NAME)
def test_round_trip(format, stylize, make_clip, planes):
    source = smooth(make_clip, 36, 28, format, **TAGS)
    same, styled = stylize(source, strength=0), stylize(source)
    for output in (same, styled):
        assert (output.format, output.width, output.height) == (
            source.format,
            source.width,
            source.height,
        )
        assert (len(output), output.fps) == (len(source), source.fps)
        assert properties(output) == {**properties(source), "_SceneChangePrev": 1}
    before, untouched, after = (
        code_values(planes(clip, 1), clip.format) for clip in (source, same, styled)
    )
    assert max(np.abs(a - b).max() for a, b in zip(before, untouched)) <= 1
    assert np.abs(before[0] - after[0]).mean() > 4


@pytest.mark.parametrize(
    ("format", "size"),
    [
        (vs.RGB24, (33, 27)),
        (vs.RGB24, (17, 16)),
        (vs.YUV420P8, (50, 38)),
        (vs.YUV444P8, (33, 27)),
        (vs.YUV422P8, (34, 27)),
    ],
    ids=NAME,
)
def test_odd_sizes(format, size, stylize, make_clip, planes):
    source = smooth(make_clip, *size, format)
    output = stylize(source, strength=0)
    assert (
        max(np.abs(a.astype(int) - b).max() for a, b in zip(planes(source, 1), planes(output, 1)))
        <= 1
    )


def by_hand(stylize, sources, back):
    """Each one-frame source to RGB, all through the filter in RGB, each back by `back`'s
    arguments.
    """
    rgb = stylize(vs.core.std.Splice([s.resize.Lanczos(format=vs.RGBS) for s in sources]))
    return [rgb[n].resize.Lanczos(format=s.format.id, **back[n]) for n, s in enumerate(sources)]


@pytest.mark.filterwarnings("ignore:The _ColorRange frame property")  # older scripts still set it
@pytest.mark.parametrize("format", [vs.YUV420P8, vs.GRAY8], ids=NAME)
def test_each_frame_has_its_own_tags(format, stylize, make_clip, planes):
    tags = [
        dict(_Matrix=1, _Range=0, _ChromaLocation=0),
        dict(_Matrix=1, _Range=1, _ChromaLocation=0),
        dict(_Matrix=9, _Range=0, _ChromaLocation=2),
        dict(_Matrix=6, _ColorRange=0, _ChromaLocation=1),
    ]
    sources = [
        smooth(make_clip, 36, 28, format, count=1).std.RemoveFrameProps().std.SetFrameProps(**t)
        for t in tags
    ]
    back = [dict(matrix=t["_Matrix"], range=t.get("_Range", 1)) for t in tags]
    if format == vs.YUV420P8:
        back = [b | dict(chromaloc=t["_ChromaLocation"]) for b, t in zip(back, tags)]
    output = stylize(vs.core.std.Splice(sources))
    for n, expected in enumerate(by_hand(stylize, sources, back)):
        assert all(np.array_equal(a, b) for a, b in zip(planes(output, n), planes(expected, 0))), (
            tags[n]
        )


@pytest.mark.parametrize("unspecified", [{}, {"_Matrix": 2}, {"_Matrix": 0}], ids=str)
@pytest.mark.parametrize(("height", "guess", "other"), [(48, 6, 1), (720, 1, 6)])
def test_unspecified_matrix(unspecified, height, guess, other, stylize, make_clip, planes):
    """BT.709 from 720 lines up, else BT.601; and the clip stays as untagged as it came."""
    source = smooth(make_clip, 16, height, vs.YUV420P8, count=1)
    output = stylize(source.std.SetFrameProps(**unspecified) if unspecified else source)
    assert properties(output) == {**unspecified, "_SceneChangePrev": 1}
    same, different = (
        planes(stylize(source.std.SetFrameProps(_Matrix=m)), 0) for m in (guess, other)
    )
    assert all(np.array_equal(a, b) for a, b in zip(planes(output, 0), same))
    assert not all(np.array_equal(a, b) for a, b in zip(planes(output, 0), different))


@pytest.mark.parametrize("format", [vs.RGB24, vs.YUV420P8], ids=NAME)
def test_scene_changes_are_told(format, stylize, clip, make_clip):
    """The fixture `clip` has its cut at frame 5."""
    source = make_clip(clip)
    source = source if format == vs.RGB24 else source.resize.Lanczos(format=format, matrix=1)
    told = [properties(stylize(source), n).get("_SceneChangePrev") for n in range(8)]
    assert told == [1, 0, 0, 0, 0, 1, 0, 0]
    tagged = vs.core.std.Splice(
        [source[n].std.SetFrameProps(_SceneChangePrev=int(n == 3)) for n in range(8)]
    )
    told = [properties(stylize(tagged), n).get("_SceneChangePrev") for n in range(8)]
    assert told == [0, 0, 0, 1, 0, 0, 0, 0]
    assert "_SceneChangePrev" not in properties(stylize(source, scene_cut=0), 5)


def test_first_frame_after_a_cut_is_stylized_by_itself(stylize, clip, make_clip, planes):
    source = make_clip(clip)
    alone = planes(stylize(source[5:]), 0)
    assert all(np.array_equal(a, b) for a, b in zip(planes(stylize(source), 5), alone))
    coherent = planes(stylize(source, scene_cut=0), 5)
    assert not all(np.array_equal(a, b) for a, b in zip(coherent, alone))


def test_the_smallest_sizes(stylize, planes):
    for width, height in ((16, 16), (17, 16), (16, 500)):
        source = vs.core.std.BlankClip(
            format=vs.RGB24, width=width, height=height, length=2, color=[9, 99, 199]
        )
        output = stylize(source)
        assert [plane.shape for plane in planes(output, 1)] == [(height, width)] * 3


@pytest.mark.parametrize("value", [50.0, np.nan, np.inf])
def test_floats_out_of_range(value, stylize, make_clip, planes):
    """The style is that of what is within range; without strength the source passes as it is."""
    source = smooth(make_clip, 48, 32, vs.RGBS, 3).std.Limiter(0, 1)

    def patched(number):
        def patch(n, f):
            f = f.copy()
            for plane in range(3):
                np.asarray(f[plane])[8:14, 20:26] = number
            return f

        return source.std.ModifyFrame(source, patch)

    within = 0.0 if np.isnan(value) else 1.0
    for n in range(3):
        for ours, expected in (
            (stylize(patched(value)), stylize(patched(within))),
            (stylize(patched(value), strength=0), patched(value)),
        ):
            np.testing.assert_array_equal(planes(ours, n), planes(expected, n))
