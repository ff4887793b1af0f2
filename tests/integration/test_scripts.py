"""The shell scripts, and the plugin that runs GStreamer's tests by another Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / "scripts" / name for name in ("setup", "demo", "benchmark", "lint", "test")] + [
    ROOT / ".ci" / "run"
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_bash_without_syntax_errors(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=20)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr


SUITE = """
import os, pytest

def test_passes(): pass

def test_fails(): assert os.getpid() == 0, "the reason"

def test_skips(): pytest.skip("no time")

@pytest.mark.xfail
def test_fails_as_expected(): assert False

@pytest.fixture
def broken(): raise RuntimeError("in the fixture")

def test_breaks_before_it_starts(broken): pass
"""


@pytest.fixture
def suite(tmp_path):
    """A checkout with one test of its own, five of GStreamer's, and the plugin."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n"
    )
    (tmp_path / "tests/hosts/gstreamer").mkdir(parents=True)
    shutil.copytree(ROOT / "tests/plugins", tmp_path / "tests/plugins")
    (tmp_path / "tests/test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "tests/hosts/gstreamer/test_it.py").write_text(SUITE)

    def run(gst_python, *arguments):
        return subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "pytest",
                "-p",
                "second_python",
                f"--gst-python={gst_python}",
                *arguments,
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "tests/plugins")},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_second_pythons_results_are_the_runs_own(suite):
    shown = suite(sys.executable)
    assert shown.returncode == 1
    assert (
        shown.stdout.splitlines()[-1]
        .strip("= ")
        .startswith("1 failed, 2 passed, 1 skipped, 1 xfailed, 1 error in ")
    ), shown.stdout
    assert "the reason" in shown.stdout and "in the fixture" in shown.stdout


def test_second_python_is_one_where_tests_are_spread_over_processes(suite, tmp_path):
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    for name in ("one", "two"):
        (tmp_path / f"tests/hosts/gstreamer/test_{name}.py").write_text(
            f"def test_{name}(): print('{name}', file=open('ran', 'a'))\n"
        )
    shown = suite(sys.executable, "-n", "2")
    assert shown.returncode == 1
    assert (
        shown.stdout.splitlines()[-1]
        .strip("= ")
        .startswith("1 failed, 4 passed, 1 skipped, 1 xfailed, 1 error in ")
    ), shown.stdout
    assert sorted((tmp_path / "ran").read_text().split()) == ["one", "two"]


def test_second_python_runs_what_is_selected(suite):
    shown = suite(sys.executable, "-k", "passes or own")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1].strip("= ").startswith("2 passed, 4 deselected in "), (
        shown.stdout
    )


def test_second_python_that_fails_fails_every_test_of_its(suite):
    shown = suite(shutil.which("false"))
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[-1].strip("= ").startswith("5 failed, 1 passed in "), (
        shown.stdout
    )
    assert "exit code 1" in shown.stdout
