"""The one table of arguments, and what the hosts make of it: the class, VapourSynth's function and
the command. (tests/hosts/gstreamer/test_arguments.py has the element.)
"""

import inspect
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vsneuralstyle import ArgumentError, Stylizer
from vsneuralstyle.arguments import ARGUMENTS, BY_NAME, Host, arguments_of, check_range

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = Path("scripts", "generate.py")
GENERATED = (
    Path("vsneuralstyle", "hosts", "vapoursynth", "arguments.h"),
    Path("gst_plugin", "python", "gstneuralstyle_arguments.py"),
    Path("docs", "reference", "arguments.md"),
)
OF_OPERATIONS = (
    Path("vsneuralstyle", "engines", "cpu", "csrc", "operations.h"),
    Path("vsneuralstyle", "engines", "cuda", "csrc", "constants.cuh"),
)
SIGNATURE = (
    "clip:vnode;style:data:opt;net:data:opt;device:data:opt;precision:data:opt;strength:float:opt;"
    "coherence:float:opt;preserve_color:int:opt;scene_cut:float:opt;model_dir:data:opt;"
    "device_index:int:opt;fp16:int:opt;mask:vnode:opt;checkpoint_mb:int:opt;preroll:int:opt;"
)


def generate(root: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-I", "-B", root / GENERATOR, *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what the generator reads and writes."""
    source = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "vsneuralstyle", tmp_path / "vsneuralstyle", ignore=source)
    for path in (GENERATOR, *GENERATED):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_generated_files_are_up_to_date():
    done = generate(ROOT, "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_change_of_the_table_reaches_every_file(checkout):
    table = checkout / "vsneuralstyle" / "arguments.py"
    text = table.read_text()
    assert 'name="coherence"' in text
    table.write_text(text.replace('name="coherence"', 'name="steady_hand"'))
    before = [(checkout / path).read_text() for path in GENERATED]
    checked = generate(checkout, "--check")
    assert checked.returncode == 1
    assert [line.split(" is ")[0] for line in checked.stdout.splitlines()] == [
        str(path) for path in GENERATED
    ]
    assert [(checkout / path).read_text() for path in GENERATED] == before
    assert generate(checkout).returncode == 0
    header, element, page = ((checkout / path).read_text() for path in GENERATED)
    assert "steady_hand:float:opt;" in header and '"steady-hand": (' in element
    assert "| `steady_hand` | `steady-hand` | `--steady-hand` | `1.0` | 0 to 1 |" in page
    assert generate(checkout, "--check").returncode == 0


@pytest.mark.parametrize("path", [*GENERATED, *OF_OPERATIONS], ids=str)
def test_a_change_by_hand_is_found(checkout, path):
    text = (checkout / path).read_text()
    (checkout / path).write_text(text.replace("candy", "bonbon").replace("STRIDE", "STRIDES"))
    checked = generate(checkout, "--check")
    assert checked.returncode == 1 and checked.stdout.startswith(f"{path} is not up to date")


def test_a_page_without_the_block(checkout):
    (checkout / GENERATED[2]).write_text("# Arguments\n")
    done = generate(checkout)
    assert done.returncode == 1 and "<!-- arguments: generated -->" in done.stderr


def test_the_class():
    """`Stylizer` has the arguments, defaults included, and no others."""
    parameters = inspect.signature(Stylizer).parameters.values()
    assert {p.name: p.default for p in parameters} == {
        argument.name: p.empty if Host.PYTHON in argument.required_by else argument.default
        for p, argument in zip(parameters, arguments_of(Host.PYTHON), strict=True)
    }


def test_vapoursynth():
    """By position too: the order is the same for ever."""
    vs = pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    registered = vs.core.vsneuralstyle.Stylize.signature
    assert registered == SIGNATURE
    parameters = [parameter.split(":") for parameter in registered.rstrip(";").split(";")]
    taken = arguments_of(Host.VAPOURSYNTH)
    assert [parameter[0] for parameter in parameters] == [argument.name for argument in taken]
    for (name, kind, *optional), argument in zip(parameters, taken):
        python_type = {"data": "str Path", "float": "float", "int": "int bool", "vnode": "Clip"}
        assert argument.type.__name__ in python_type[kind].split(), name
        assert optional == ([] if Host.VAPOURSYNTH in argument.required_by else ["opt"]), name


@pytest.mark.parametrize("name", [a.name for a in arguments_of(Host.VAPOURSYNTH) if a.expected])
def test_vapoursynth_checks_every_range(name, model_dir):
    vs = pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    argument = BY_NAME[name]
    clip = vs.core.std.BlankClip(format=vs.RGB24, width=16, height=16, length=1)
    least, greatest = argument.range or (0, 1)
    for wrong in (least - 1, *([] if greatest is None else [greatest + 1])):
        said = f"^Stylize: {name} is {argument.type(wrong) if argument.range else wrong}; "
        with pytest.raises(vs.Error, match=f"{said}expected {argument.expected}$"):
            vs.core.vsneuralstyle.Stylize(clip, model_dir=model_dir, **{name: wrong})


def test_the_command(run):
    """The help of `render` has each argument, with its words, range and default."""
    done = run("neuralstyle", "render", "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"\s+", " ", done.stdout)
    for argument in arguments_of(Host.COMMAND_LINE):
        option, doc = argument.name_on(Host.COMMAND_LINE), argument.doc_on(Host.COMMAND_LINE)
        metavar = r"\S+ " if argument.type is not bool else ""
        if argument.range:
            metavar = rf"{argument.range[0]}\.\.{argument.range[1]} "
        required = Host.COMMAND_LINE in argument.required_by
        told = argument.type is not bool and argument.default is not None and not required
        default = rf" \(default {argument.default}\)" if told else ""
        text = re.escape(doc[0].lower() + doc[1:]) + default
        assert re.search(rf" {option} {metavar}{text}", shown), f"{option}\n{done.stdout}"
    others = [argument for argument in ARGUMENTS if Host.COMMAND_LINE not in argument.hosts]
    assert others and not any(a.name_on(Host.COMMAND_LINE) in shown for a in others)


@pytest.mark.parametrize("name", ["strength", "coherence", "scene_cut"])
@pytest.mark.parametrize("value", [-0.5, 2, math.nan])
def test_ranges(name, value, model_dir):
    said = f"^{name} is {value}; expected 0 to 1$"
    with pytest.raises(ArgumentError, match=said):
        Stylizer("candy", device="cpu", model_dir=model_dir, **{name: value})
    with Stylizer("candy", device="cpu", model_dir=model_dir) as stylizer:
        before = getattr(stylizer, name)
        with pytest.raises(ArgumentError, match=said):
            setattr(stylizer, name, value)
        assert getattr(stylizer, name) == before


def test_ends_of_ranges():
    for name, inside, outside in [
        ("strength", (0, 0.5, 1), (-1e-9, 1 + 1e-9, math.inf)),
        ("device_index", (0, 10**12), (-1,)),
        ("lookahead", (0, 64), (-1, 65)),
        ("preroll", (0, 2**31 - 1), (2**31,)),
    ]:
        for value in inside:
            check_range(name, value)
        for value in outside:
            expected = re.escape(f"{name} is {value}; expected {BY_NAME[name].expected}")
            with pytest.raises(ArgumentError, match=f"^{expected}$"):
                check_range(name, value)
    check_range("no_such_argument", 7)


def test_the_command_says_the_range(run, tmp_path, model_dir):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=16, height=16, pix_fmt="yuv420p")
        container.mux([*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode()])
    command = ("neuralstyle", "render", "in.mkv", "-o", "out.mkv", "--style", "candy")
    done = run(*command, "--model-dir", model_dir, "--scene-cut", "1.5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "neuralstyle: error: scene_cut is 1.5; expected 0 to 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
