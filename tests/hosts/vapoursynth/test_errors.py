"""What can't be done is said: which argument, what was expected, what to do; vspipe ends with a
non-zero exit.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)


@pytest.fixture
def blank():
    return vs.core.std.BlankClip(format=vs.RGB24, width=32, height=32, length=4)


@pytest.fixture
def bad_models(tmp_path, model_dir):
    """A folder with a truncated and a foreign model file."""
    from safetensors.numpy import save_file

    (tmp_path / "short.safetensors").write_bytes(
        (model_dir / "candy.safetensors").read_bytes()[:5000]
    )
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(style="nothing"), r"unknown style 'nothing'.*candy"),
        (dict(style=""), r"unknown style"),
        (dict(net="nothing"), r"unknown net 'nothing'.*johnson"),
        (dict(device="tpu"), r"unknown device 'tpu'; expected auto, cpu, cuda"),
        (dict(device="cuda:99"), r"device 'cuda:99' is not there"),
        (dict(precision="float8"), r"unknown precision 'float8'; expected auto, float32"),
        (dict(device="cpu", precision="float16"), r"precision 'float16' needs a GPU"),
        (dict(strength=1.5), r"strength is 1.5; expected 0 to 1"),
        (dict(coherence=-0.5), r"coherence is -0.5; expected 0 to 1"),
        (dict(coherence=float("nan")), r"coherence is nan; expected 0 to 1"),
        (dict(scene_cut=7), r"scene_cut is 7.0; expected 0 to 1"),
        (dict(preserve_color=2), r"preserve_color is 2; expected 0 or 1"),
        (dict(model_dir="/nowhere"), r"'/nowhere' does not exist"),
        (dict(device_index=99), r"device 'cuda:99' is not there"),
        (dict(device_index=-1), r"device_index is -1; expected 0 or more"),
        (
            dict(device_index=0, device="cpu"),
            r"device is 'cpu' and device_index is 0; expected one of the two",
        ),
        (dict(fp16=2), r"fp16 is 2; expected 0 or 1"),
        (dict(fp16=True, device="cpu"), r"precision 'float16' needs a GPU"),
        (
            dict(fp16=False, precision="float32"),
            r"precision is 'float32' and fp16 is 0; expected one of the two",
        ),
        (dict(checkpoint_mb=-1), r"checkpoint_mb is -1; expected 0 to 2147483647"),
        (dict(checkpoint_mb=2**40), r"checkpoint_mb is 1099511627776; expected 0 to"),
        (dict(preroll=-2), r"preroll is -2; expected 0 to"),
        (dict(style="a" * 300), r"unknown style 'aaa"),
        (dict(style=b"\xff"), r"unknown style '\\udcff'"),
        (dict(model_dir=b"/\xff"), r"'/\\udcff' does not exist"),
        (dict(device="cuda:" + "9" * 5000), r"unknown device 'cuda:9.*\.\.\.$"),
        (dict(device="cuda:" + "é" * 5000), r"unknown device 'cuda:é*\.\.\.$"),
    ],
    ids=str,
)
def test_arguments(arguments, message, blank, model_dir):
    with pytest.raises(vs.Error, match=f"^Stylize: .*{message}"):
        vs.core.vsneuralstyle.Stylize(blank, **{"model_dir": model_dir} | arguments)


@pytest.mark.parametrize("style", ["short", "foreign"])
def test_unusable_models(style, blank, bad_models):
    with pytest.raises(vs.Error, match=f"^Stylize: .*{style}.safetensors: "):
        vs.core.vsneuralstyle.Stylize(blank, style=style, model_dir=bad_models)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (dict(varformat=True), "format or size varies"),
        (dict(varsize=True), "format or size varies"),
        (
            dict(format=vs.GRAY32),
            "format is Gray32; expected RGB, YUV or gray with integer samples of 8 to 16 bits",
        ),
        (dict(width=15), "frames of 15x32 are too small to stylize; expected at least 16x16"),
        (dict(format=vs.YUV420P8, height=14), "frames of 32x14 are too small to stylize"),
        (dict(width=1, height=1), "frames of 1x1 are too small to stylize"),
        (dict(format=vs.GRAYH, width=1, height=2000), "frames of 1x2000 are too small to stylize"),
        (dict(format=vs.YUV410P8, width=4, height=4), "frames of 4x4 are too small to stylize"),
    ],
    ids=str,
)
def test_clips(clip, message, model_dir):
    source = vs.core.std.BlankClip(**dict(format=vs.RGB24, width=32, height=32, length=4) | clip)
    with pytest.raises(vs.Error, match=f"^Stylize: .*{message}"):
        vs.core.vsneuralstyle.Stylize(source, model_dir=model_dir)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (dict(_Matrix=3), "frame 0 has _Matrix 3; expected 0 to 2, 4 to 10, or 12 to 14"),
        (dict(_Range=7), "frame 0 has _Range 7; expected 0 or 1"),
        (dict(_ChromaLocation=2**40), "frame 0 has _ChromaLocation 1099511627776; expected 0 to 5"),
        (
            dict(_FieldBased=1),
            "frame 0 of 38 lines is interlaced, by its _FieldBased; expected .* a height that 4 "
            "divides",
        ),
    ],
    ids=str,
)
def test_properties(properties, message, model_dir):
    source = vs.core.std.BlankClip(format=vs.YUV420P8, width=32, height=38).std.SetFrameProps(
        **properties
    )
    output = vs.core.vsneuralstyle.Stylize(source, model_dir=model_dir)
    with pytest.raises(vs.Error, match=f"^Stylize: {message}"):
        output.get_frame(0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            dict(format=vs.RGB24),
            "the mask's format is RGB24; expected gray with integer samples of 8 to 16 bits",
        ),
        (dict(format=vs.YUV444P8), "the mask's format is YUV444P8; expected gray"),
        (dict(format=vs.GRAY32), "the mask's format is Gray32; expected gray"),
        (dict(varsize=True), "the mask's format or size varies"),
        (dict(width=30), "the mask is 30x32; expected the clip's 32x32"),
        (dict(length=3), "the mask has 3 frames; expected the clip's 4"),
    ],
    ids=str,
)
def test_masks(mask, message, blank, model_dir):
    mask = vs.core.std.BlankClip(**dict(format=vs.GRAY8, width=32, height=32, length=4) | mask)
    with pytest.raises(vs.Error, match=f"^Stylize: .*{message}"):
        vs.core.vsneuralstyle.Stylize(blank, mask=mask, model_dir=model_dir)


def test_vspipe_exit(clip, model_dir, bad_models, write_script, run):
    """One vspipe a defect, each refused before a frame is written."""
    for arguments, message in [
        ("style='nothing'", "candy"),
        ("style='short'", "short.safetensors"),
        ("clip=core.std.BlankClip(varsize=True)", "format or size varies"),
        ("device='cuda:99'", "cuda:99"),
    ]:
        arguments = f"{arguments}, model_dir={str(bad_models)!r}"
        arguments = arguments if "clip=" in arguments else f"source, {arguments}"
        piped = run(
            "vspipe",
            write_script(f"core.vsneuralstyle.Stylize({arguments}).set_output()", clip),
            "-",
            env={"NEURALSTYLE_MODEL_PATH": str(model_dir)},
        )
        assert piped.returncode != 0 and piped.stdout == "", arguments
        assert "Stylize: " in piped.stderr and message in piped.stderr, piped.stderr


FAILING = """
def broken(n, f):
    if n == 4:
        raise RuntimeError("frame four is unreadable")
    return f

source = source.std.ModifyFrame(source, broken)
core.vsneuralstyle.Stylize(source, model_dir=model_dir).set_output()
"""


def test_vspipe_with_a_source_that_fails(clip, model_dir, write_script, run):
    piped = run(
        "vspipe", write_script(FAILING, clip), "-", "-a", f"model_dir={model_dir}", text=False
    )
    assert piped.returncode != 0
    assert b"frame four is unreadable" in piped.stderr


def test_goes_on_after_a_source_failed(clip, model_dir, stylized, make_clip, planes):
    """A frame that can't be read takes its scene's rest with it, while it can't be read, and
    nothing else.
    """
    failing = True

    def read(n, f):
        if n == 4 and failing:
            raise RuntimeError("frame four is unreadable")
        return f

    source = make_clip(clip)
    source = vs.core.std.Splice(
        [source[n].std.SetFrameProps(_SceneChangePrev=int(n == 6)) for n in range(8)]
    )
    source = source.std.ModifyFrame(source, read)
    expected = stylized(clip, [n == 6 for n in range(8)])
    output = vs.core.vsneuralstyle.Stylize(source, model_dir=model_dir)

    def check(n):
        assert np.array_equal(np.stack(planes(output, n), axis=-1), expected[n]), n

    futures = [output.get_frame_async(n) for n in range(6)]
    for n, future in enumerate(futures):
        if n in (4, 5):
            with pytest.raises(vs.Error, match="frame four is unreadable"):
                future.result(timeout=60)
        else:
            future.result(timeout=60)
    for n in (6, 3, 7, 0):
        check(n)
    failing = False
    for n in (5, 4, 7, 1):
        check(n)


def test_goes_on_after_the_core_failed(
    clip, model_dir, stylized, make_clip, planes, monkeypatch, capfd
):
    """An unexpected error is named, its traceback told, and what comes after it is exact again."""
    from vsneuralstyle.hosts.vapoursynth.session import Session

    expected = stylized(clip)
    output = vs.core.vsneuralstyle.Stylize(make_clip(clip), model_dir=model_dir)
    planes(output, 2)

    process = Session.process

    def fail(self, *arguments):
        process(self, *arguments)  # so the state has moved when it fails
        raise MemoryError("no more of it")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "process", fail)
        with pytest.raises(vs.Error, match="^Stylize: MemoryError: no more of it"):
            planes(output, 3)
    assert "Traceback" in capfd.readouterr().err
    for n in (4, 3, 7, 0):
        assert np.array_equal(np.stack(planes(output, n), axis=-1), expected[n]), n


def test_memory_of_frames_is_not_kept(clip, model_dir, make_clip, planes, monkeypatch):
    """A session that kept a view of a frame is an error, and the view stays readable after the
    filter's end.
    """
    from vsneuralstyle.hosts.vapoursynth.session import Session

    kept = []
    process = Session.process

    def keep(self, starts_scene, source, *encoded):
        kept.append(np.asarray(source[0]))
        return process(self, starts_scene, source, *encoded)

    monkeypatch.setattr(Session, "process", keep)
    output = vs.core.vsneuralstyle.Stylize(make_clip(clip), model_dir=model_dir)
    with pytest.raises(vs.Error, match="kept a reference to a frame's memory"):
        planes(output, 0)
    del output
    assert np.array_equal(kept[0], clip[0, :, :, 0])
    assert not kept[0].flags.writeable


def test_memory_that_is_filled_is_not_kept(
    clip, model_dir, stylized, make_clip, planes, monkeypatch
):
    from vsneuralstyle.hosts.vapoursynth.session import Session

    kept = []
    fill = Session.fill
    with monkeypatch.context() as patch:
        patch.setattr(
            Session,
            "fill",
            lambda self, begun, target: (
                kept.append(np.asarray(target[0])) or fill(self, begun, target)
            ),
        )
        output = vs.core.vsneuralstyle.Stylize(make_clip(clip), model_dir=model_dir)
        with pytest.raises(vs.Error, match="kept a reference to a frame's memory"):
            planes(output, 0)
    expected = stylized(clip)
    for n in (0, 1):
        made = np.stack(planes(output, n), axis=-1)
        kept[0][:] = 7  # written to after the frame was handed on, were it that one's
        assert np.array_equal(made, expected[n]) and np.array_equal(
            np.stack(planes(output, n), axis=-1), expected[n]
        )


def test_fuzz(model_dir, run):
    """NEURALSTYLE_FUZZ: so many new examples of each kind, in place of a few that are always the
    same.
    """
    pytest.importorskip("hypothesis")
    count = int(os.environ.get("NEURALSTYLE_FUZZ", 0))
    script = Path(__file__).with_name("fuzz.py")
    ran = run(sys.executable, "-X", "faulthandler", "-P", script, model_dir, timeout=240 + count)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    # what the filter says of an error that it didn't expect
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.stdout.split()[-1] == "properties"
