"""docs/how-to/vapoursynth.md: its scripts and commands do what the page says, and the figures of
docs/explanation/exactness-and-seeking.md are so.
"""

import re
import shutil
from pathlib import Path

import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "how-to" / "vapoursynth.md"
FIGURES = DOCS / "explanation" / "exactness-and-seeking.md"
FRAMES = 14


@pytest.fixture
def folder(tmp_path, run):
    """A folder with the page's scripts and an in.mp4 with sound."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg")
    if not hasattr(vs.core, "bs"):
        pytest.skip("no vapoursynth-bestsource")
    inputs = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=25", "-f", "lavfi", "-i", "sine"]
    made = run(
        "ffmpeg",
        *inputs,
        "-frames:v",
        FRAMES,
        "-shortest",
        "-pix_fmt",
        "yuv420p",
        tmp_path / "in.mp4",
    )
    assert made.returncode == 0, made.stderr
    return tmp_path


def test_scripts_and_commands(folder, model_dir, run):
    import av

    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scripts = {
        re.match(r"# (\w+\.vpy)\n", text)[1]: text for kind, text in blocks if kind == "python"
    }
    commands = [text for kind, text in blocks if kind == "bash"]
    for name, text in scripts.items():
        (folder / name).write_text(text)
        if not any(name in command for command in commands):
            commands.append(f"vspipe {name} .")
    for command in commands:
        ran = run(
            "bash",
            "-e",
            "-o",
            "pipefail",
            "-c",
            command,
            cwd=folder,
            env={"NEURALSTYLE_MODEL_PATH": str(model_dir)},
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
    assert len(scripts) == 7 and len(commands) == 4 + 4
    for name, size, audio in (
        ("out.mp4", (96, 64), 1),
        ("whole.mkv", (96, 64), 0),
        ("small.mp4", (640, 360), 0),
        ("styled/in.mp4", (96, 64), 1),
    ):
        with av.open(folder / name) as file:
            assert len(file.streams.audio) == audio, name
            decoded = [(frame.width, frame.height) for frame in file.decode(video=0)]
        assert decoded == [size] * FRAMES, name


def figures(row: str) -> list[float]:
    """The numbers in the row of the page's table of memory that begins so."""
    cells = re.search(rf"^\| {row}\b[^|]*\|(.*)\|$", FIGURES.read_text(), re.MULTILINE)[1]
    return [float(number) for number in re.findall(r"\d+", cells)]


def test_figures_of_a_states_memory():
    """The page's bytes a pixel, and what it makes of them for two sizes."""
    import torch

    from vsneuralstyle import Stylizer

    bytes_float32, *bfloat16 = figures("bytes a pixel of a state")
    for precision, (low, high) in {
        "float32": (bytes_float32 - 1, bytes_float32),
        "bfloat16": bfloat16,
    }.items():
        with Stylizer("candy", device="cpu", precision=precision) as stylizer:
            stylizer.stylize(torch.rand(2, 3, 360, 640))
            a_pixel = stylizer.state.nbytes / (360 * 640)
        assert low < a_pixel <= high, precision
        if precision == "float32":
            for size, pixels in (("640x360", 640 * 360), ("1920x1080", 1920 * 1080)):
                mebibytes = a_pixel * pixels / 2**20
                assert figures(f"MiB of a state at {size}") == [round(mebibytes)]
                in_default = f"states in the default of 512 MiB at {size}"
                assert figures(in_default) == [int(512 / mebibytes)]


MEMORY = """
import gc
import vapoursynth as vs
from vapoursynth import core
import vsneuralstyle.core.stylizer
def used():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) // 1000
imported = used()
half = core.std.BlankClip(width=320, height=360, format=vs.YUV420P8, length=40)
clip = core.std.StackHorizontal([half, half.std.Invert()])
clip = core.vsneuralstyle.Stylize(clip, device="cpu", precision="float32", checkpoint_mb=0)
for frame in clip.frames():
    frame.close()
playing = used()
del clip, frame
gc.collect()
print(playing - imported, used() - imported)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc"
)
def test_figure_of_the_memory_of_a_process(run):
    import sys

    (page,) = figures("MB of a process at 640x360")
    measured = run(sys.executable, "-P", "-c", MEMORY, env={"OMP_NUM_THREADS": "2"})
    assert measured.returncode == 0, measured.stderr
    playing, after = map(float, measured.stdout.split())
    assert 0.6 * page < playing < 1.4 * page
    assert after < 0.6 * playing
