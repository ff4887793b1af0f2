"""The command `neuralstyle`, as its users run it: what it prints and its exit codes."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from vsneuralstyle import __version__

COMMAND = [sys.executable, "-m", "vsneuralstyle.cli"]


@pytest.fixture
def broken_models(tmp_path):
    """A folder whose one model has a proper header and none of its tensors."""
    header = {
        "format": 1,
        "net": "johnson",
        "style": "hollow",
        "networks": {"flow_width": 0.25},
        "training": {},
    }
    folder = tmp_path / "models"
    folder.mkdir()
    metadata = {"vsneuralstyle": json.dumps(header)}
    save_file({"nothing": torch.zeros(1)}, folder / "hollow.safetensors", metadata=metadata)
    return folder


def test_installed_command(run):
    done = run("neuralstyle", "--version")
    assert (done.returncode, done.stdout) == (0, f"neuralstyle {__version__}\n")


@pytest.mark.subprocess
def test_output_that_nobody_reads_is_no_traceback():
    process = subprocess.Popen(
        [*COMMAND, "styles"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


def test_standard_output_that_is_closed(run, model_dir):
    done = run("sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "styles")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_closed_standard_streams_are_no_other_files(run):
    """The descriptor of a closed standard error isn't given to a file that is opened later."""
    program = (
        "import os, sys; from vsneuralstyle import cli; cli._run = lambda argv: "
        "open(os.devnull).fileno(); sys.exit(cli.main([]))"
    )
    for closed in ("2>&-", "1>&-", "0>&-", "0>&- 1>&- 2>&-"):
        assert (
            run("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program).returncode
            > 2
        )


def test_an_ignored_signal_stays_ignored(run):
    """As `nohup` has it: a render goes on when its terminal is closed."""
    program = (
        "import signal; from vsneuralstyle import cli\n"
        "cli._run = lambda argv: print(*map(signal.getsignal, (signal.SIGHUP, signal.SIGTERM)))\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); cli.main([])\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    )
    done = run(sys.executable, "-c", program)
    hangup, terminate = done.stdout.splitlines()[0].split(" ", 1)
    assert "SIG_IGN" in hangup or hangup == "1"
    assert "_end" in terminate and done.stdout.splitlines()[1] == "True"


def test_help_is_light_and_names_every_command(run):
    program = (
        "import sys\nfrom vsneuralstyle.cli import main\ntry: main(['--help'])\nfinally: "
        "print(*sys.modules)"
    )
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0
    for command in ("render", "styles", "doctor", "train", "evaluate", "benchmark"):
        assert f"\n    {command}" in done.stdout
    assert not {"torch", "av", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "command",
    [
        "render",
        "styles",
        "doctor",
        "train",
        "train flow",
        "train style",
        "train stylebank",
        "train net1",
        "evaluate",
        "benchmark",
    ],
)
def test_help_of_each_command(run, command):
    done = run(*COMMAND, *command.split(), "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: neuralstyle {command} ")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nosuch",
        "train",
        "train nosuch",
        "render in.mp4 --style candy",
        "evaluate",
        "render in.mp4 -o out.mp4 --style candy --strength much",
    ],
)
def test_wrong_usage(run, arguments):
    done = run(*COMMAND, *arguments.split())
    assert done.returncode == 2 and done.stdout == "" and "usage: neuralstyle" in done.stderr


def test_user_error_is_one_line(run, tmp_path):
    done = run(*COMMAND, "render", "nosuch.mp4", "-o", "out.mp4", "--style", "candy", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"neuralstyle: error: {tmp_path / 'nosuch.mp4'}: no such file; expected a video file\n"
    )


def test_user_error_of_a_delegated_command(run, tmp_path):
    done = run(
        *COMMAND,
        "evaluate",
        "--style",
        "candy",
        "--clips",
        tmp_path / "nosuch.mp4",
        "--frames",
        "1",
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("neuralstyle: error: ")
        and done.stderr.count("\n") == 1
    )


def test_a_command_that_lacks_a_package_names_the_extra(run, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError('none', name='cv2')")
    done = run(*COMMAND, "train", "style", "x.png", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (
        2,
        "neuralstyle: error: neuralstyle train style needs cv2, which is not installed: "
        "pip install 'vsneuralstyle[train]'\n",
    )


def test_styles(run, model_dir, broken_models):
    done = run(*COMMAND, "styles", env={"NEURALSTYLE_MODEL_PATH": f"{broken_models}:{model_dir}"})
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    paths = {tuple(line.split()[:2]): path.strip() for line, path in zip(lines[::2], lines[1::2])}
    assert paths["candy", "johnson:"] == str(model_dir / "candy.safetensors")
    assert "hollow           johnson: flow_width" in done.stdout
    shipped = {"candy", "muse", "scream", "udnie", "starry_night", "wave"}
    assert {(style, "stylebank:") for style in shipped} <= paths.keys()


def test_styles_of_an_unknown_net(run):
    done = run(*COMMAND, "styles", "--net", "nosuch")
    assert done.returncode == 2 and "no styles" in done.stderr and "--model-dir" in done.stderr


def test_doctor_where_the_core_works(run, model_dir):
    done = run(*COMMAND, "doctor", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "device ",
        torch.__version__,
        "precision ",
        "style candy (johnson)",
        "libavcodec ",
        "encoder libx264",
        "VapourSynth",
        "GStreamer",
    ):
        assert text in done.stdout
    core = done.stdout.partition("\ncore\n")[2].partition("\nvideo files\n")[0]
    assert core and "FAIL" not in core


def test_doctor_says_what_to_do(run, broken_models):
    done = run(
        *COMMAND,
        "doctor",
        env={"NEURALSTYLE_MODEL_PATH": str(broken_models), "PATH": ""},
        timeout=600,
    )
    assert done.returncode == 1
    assert "FAIL  style hollow (johnson)" in done.stdout and "hollow.safetensors" in done.stdout
    assert (
        "FAIL  no gst-inspect-1.0 and gst-launch-1.0: apt install gstreamer1.0-tools" in done.stdout
    )


def test_doctor_calls_no_failure_what_works_once_its_line_is_followed(run, tmp_path):
    """In a home without VapourSynth's configuration and without GST_PLUGIN_PATH, as after
    `scripts/demo` on a fresh machine.
    """
    env = {
        "GST_REGISTRY": str(tmp_path / "registry.bin"),
        "GST_PLUGIN_PATH": "",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": "",
    }
    report = run(*COMMAND, "doctor", env=env, timeout=600).stdout
    hosts = report.partition("\nVapourSynth\n")[2]
    assert hosts and "FAIL" not in hosts, report
    if "export GST_PLUGIN_PATH=" in hosts:
        assert "ok    element neuralstyle gives frames" in hosts
    if activation := re.search(
        r"note  \S+vspipe works where this environment is activated \((.*)\); .*: (.*)", hosts
    ):
        activate, configure = activation.groups()
        assert run("bash", "-c", f"{activate} && vspipe --version", env=env).returncode == 0
        assert run("bash", "-c", configure, env=env).returncode == 0
        again = run(*COMMAND, "doctor", env=env, timeout=600).stdout.partition("\nVapourSynth\n")[2]
        assert "note  " not in again.partition("\nGStreamer\n")[0], again
