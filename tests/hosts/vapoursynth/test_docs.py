"""docs/vapoursynth.md: its scripts and commands do what the page says."""

import re
import shutil
from pathlib import Path

import pytest

vs = pytest.importorskip("vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "vapoursynth.md"
FRAMES = 14


@pytest.fixture
def folder(tmp_path, run):
    """A folder with the page's scripts and an in.mp4 with sound."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg")
    if not hasattr(vs.core, "bs"):
        pytest.skip("no vapoursynth-bestsource")
    inputs = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=25", "-f", "lavfi", "-i", "sine"]
    made = run("ffmpeg", *inputs, "-frames:v", FRAMES, "-shortest", "-pix_fmt", "yuv420p", tmp_path / "in.mp4")
    assert made.returncode == 0, made.stderr
    return tmp_path


def test_scripts_and_commands(folder, model_dir, run):
    import av

    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scripts = {re.match(r"# (\w+\.vpy)\n", text)[1]: text for kind, text in blocks if kind == "python"}
    commands = [text for kind, text in blocks if kind == "bash"]
    for name, text in scripts.items():
        (folder / name).write_text(text)
        if not any(name in command for command in commands):
            commands.append(f"vspipe {name} .")
    for command in commands:
        ran = run(
            "bash", "-e", "-o", "pipefail", "-c", command, cwd=folder, env={"NEURALSTYLE_MODEL_PATH": str(model_dir)}
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
    assert len(scripts) == 7 and len(commands) == 4 + 4
    for name, size, audio in (("out.mp4", (96, 64), 1), ("whole.mkv", (96, 64), 0), ("small.mp4", (640, 360), 0),
                              ("styled/in.mp4", (96, 64), 1)):
        with av.open(folder / name) as file:
            assert len(file.streams.audio) == audio, name
            decoded = [(frame.width, frame.height) for frame in file.decode(video=0)]
        assert decoded == [size] * FRAMES, name
