"""Hostile arguments, clips and frame properties: fuzz.py MODEL_DIR; test_errors.py runs it in a
process of its own.

Whatever is asked, there is a clip whose frames come, or an error that begins with "Stylize: " and
names the cause.
"""

import os
import re
import sys
import warnings

import vapoursynth as vs
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from vsneuralstyle.errors import NeuralStyleError  # noqa: F401  torch and all are imported before the clock runs

MODEL_DIR = sys.argv[1]
COUNT = os.environ.get("NEURALSTYLE_FUZZ")
SETTINGS = settings(
    max_examples=int(COUNT or 60),
    derandomize=not COUNT,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
core = vs.core
core.num_threads = 2

integers = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(-3, 30)
    | st.sampled_from([2**31 - 1, 2**31, -(2**31) - 1])
)
texts = st.text(max_size=12) | st.sampled_from(
    ["a" * 300, "é" * 3000, "a\0b", "%s%n", "../x", "cuda:" + "9" * 5000]
)
raw = st.binary(max_size=12) | st.sampled_from([b"\xff\xfe", b"/tmp/\xff", b"\x00"])
fractions = st.floats(0, 1)
# For each argument: what is taken, and what is refused.
ARGUMENTS = {
    "style": (st.just("candy"), texts.filter(lambda text: text != "candy") | raw),
    "net": (st.just("johnson"), texts | raw),
    "device": (
        st.sampled_from(["cpu", "auto"]),
        texts | raw | st.sampled_from(["cuda:99", "cuda:-1", "CPU"]),
    ),
    "precision": (st.sampled_from(["auto", "float32"]), texts | raw | st.just("float16")),
    "preserve_color": (st.integers(0, 1), integers.filter(lambda value: value not in (0, 1))),
    "model_dir": (
        st.sampled_from(["", MODEL_DIR]),
        (texts | raw).filter(lambda text: text and text != "/"),
    ),
    "device_index": (st.nothing(), integers.filter(lambda value: not 0 <= value < 8)),
    "fp16": (st.just(0), integers.filter(lambda value: value not in (0, 1))),
    "checkpoint_mb": (
        st.integers(0, 2**31 - 1),
        integers.filter(lambda value: not 0 <= value < 2**31),
    ),
    "preroll": (st.integers(0, 2**31 - 1), integers.filter(lambda value: not 0 <= value < 2**31)),
    **{
        name: (
            fractions | st.integers(0, 1),
            st.floats().filter(lambda value: not 0 <= value <= 1)
            | integers.filter(lambda value: value not in (0, 1)),
        )
        for name in ("strength", "coherence", "scene_cut")
    },
}
arguments = st.tuples(
    st.fixed_dictionaries(
        {}, optional={name: taken for name, (taken, _) in ARGUMENTS.items() if not taken.is_empty}
    ),
    st.one_of(
        st.just({}),
        *(
            refused.map(lambda value, name=name: {name: value})
            for name, (_, refused) in ARGUMENTS.items()
        ),
    ),
)


def blank(**options):
    return core.std.BlankClip(
        **{"format": vs.RGB24, "width": 16, "height": 16, "length": 2, **options}
    )


def stylize(clip, **options):
    """The clip, or the error's text."""
    try:
        return core.vsneuralstyle.Stylize(
            clip, **{"model_dir": MODEL_DIR, "checkpoint_mb": 1, **options}
        )
    except vs.Error as error:
        return check(error)


def check(error: vs.Error) -> str:
    message = str(error)
    # An exception's name stands there where it was not expected.
    assert re.match(r"Stylize: (?!\w+(Error|Exception): )", message), message
    return message


def frames(output, source) -> str:
    """Fetches all frames; "" or the error's text."""
    for n in reversed(range(len(source))):
        try:
            with output.get_frame(n) as frame, source.get_frame(n) as before:
                assert (frame.format, frame.width, frame.height) == (
                    before.format,
                    before.width,
                    before.height,
                )
                ours, theirs = (
                    {
                        key: value
                        for key, value in f.props.items()
                        if key != "_SceneChangePrev" and not isinstance(value, vs.VideoFrame)
                    }
                    for f in (frame, before)
                )
                assert ours == theirs
        except vs.Error as error:
            return check(error)
    return ""


@SETTINGS
@given(arguments)
def options(pair):
    taken, refused = pair
    given_options = {**taken, **refused}
    if "fp16" in given_options:
        given_options.pop("precision", None)
    if "device_index" in given_options:
        given_options.pop("device", None)
    refused = {name: value for name, value in refused.items() if name in given_options}
    output = stylize(blank(), **given_options)
    if refused:
        assert isinstance(output, str), f"{refused} was taken"
        name = next(iter(refused))
        named = {"model_dir": "model folder", "device_index": "device"}.get(name, name)
        assert named in output, f"{name} is not named: {output}"
    else:
        assert not isinstance(output, str), output
        assert frames(output, blank()) == ""


@SETTINGS
@given(
    st.sampled_from([*ARGUMENTS, "mask", "clip", "unknown", "Style", "ünknown"]),
    st.one_of(
        st.none(),
        integers,
        st.floats(),
        texts,
        raw,
        st.lists(integers | st.floats() | texts, max_size=3),
        st.integers(2**63, 2**70),
        st.just("clip"),
        st.just(["clip", "clip"]),
        st.just(print),
        st.just("\ud800"),
        st.dictionaries(texts, integers, max_size=2),
    ),
)
def types(name, value):
    """Any Python value. What VapourSynth itself can't turn into an argument is its own error, in
    its own words.
    """
    if value == "clip":
        value = blank()
    elif value == ["clip", "clip"]:
        value = [blank(), blank()]
    try:
        output = stylize(**{"clip": blank(), name: value})
    except (TypeError, ValueError, OverflowError):
        return
    if not isinstance(output, str):
        assert frames(output, output) == ""


def is_taken(clip) -> bool:
    f = clip.format
    samples = (
        f.bits_per_sample in (16, 32) if f.sample_type == vs.FLOAT else f.bits_per_sample <= 16
    )
    return (
        samples
        and max(f.subsampling_w, f.subsampling_h) <= 2
        and min(clip.width, clip.height) >= 16
    )


@st.composite
def clips(draw, families=(vs.RGB, vs.YUV, vs.GRAY)):
    family, sample_type = (
        draw(st.sampled_from(families)),
        draw(st.sampled_from([vs.INTEGER, vs.FLOAT])),
    )
    width, height = (draw(st.integers(0, 4)) if family == vs.YUV else 0 for _ in range(2))
    bits = draw(st.sampled_from([16, 32]) if sample_type == vs.FLOAT else st.integers(8, 32))
    try:
        return blank(
            format=core.query_video_format(family, sample_type, bits, width, height).id,
            width=draw(st.integers(1, 48)) << width,
            height=draw(st.integers(1, 48)) << height,
            length=draw(st.integers(1, 4)),
        )
    except vs.Error:  # no such format
        assume(False)


@SETTINGS
@given(clips())
def formats(clip):
    output = stylize(clip)
    if is_taken(clip):
        assert frames(output, clip) == ""
    else:
        assert "too small" in output or "expected RGB, YUV or gray" in output, output


@SETTINGS
@given(clips(), clips(families=(vs.GRAY, vs.GRAY, vs.GRAY, vs.RGB)), st.booleans())
def masks(clip, mask, fits):
    assume(is_taken(clip))
    if fits:
        mask = blank(format=mask.format.id, width=clip.width, height=clip.height, length=len(clip))
    output = stylize(clip, mask=mask)
    same = (mask.width, mask.height, len(mask)) == (clip.width, clip.height, len(clip))
    if same and mask.format.color_family == vs.GRAY and is_taken(mask):
        assert frames(output, clip) == ""
    else:
        assert "mask" in output, output


KEYS = [
    "_Matrix",
    "_Range",
    "_ChromaLocation",
    "_SceneChangePrev",
    "_SceneChangeNext",
    "_Transfer",
    "_Primaries",
    "_FieldBased",
    "_Field",
    "_SARNum",
    "_DurationNum",
    "_Combed",
    "_Alpha",
    "other",
]
values = st.one_of(
    st.integers(-2, 24),
    st.integers(-2, 24),
    integers,
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(-2, 24), min_size=1, max_size=3),
    st.just("frame"),
)


@SETTINGS
@given(
    st.sampled_from([vs.RGB24, vs.YUV420P8, vs.YUV410P8, vs.YUV444PS, vs.GRAY16]),
    st.sampled_from([16, 20, 24]),
    st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=4), min_size=1, max_size=3),
)
def properties(format, height, props):
    def put(n, f):
        f = f.copy()
        for key, value in props[n].items():
            f.props[key] = f.copy() if value == "frame" else value
        return f

    clip = blank(format=format, height=height, length=len(props)).std.RemoveFrameProps()
    clip = clip.std.ModifyFrame(clip, put)
    try:
        message = frames(stylize(clip), clip)
    except AssertionError as error:
        # These matrices depend on _Transfer and _Primaries, and the resizer says so in its own
        # words.
        if not str(error).startswith("Resize error") or all(
            p.get("_Matrix") not in (10, 12, 13, 14) for p in props
        ):
            raise
        return
    if message:
        assert format != vs.RGB24 and any(key in message for p in props for key in p), message


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for one in (options, types, formats, masks, properties):
        print(one.__name__, flush=True)
        one()
