"""The plugin's C under AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer and
ThreadSanitizer.

Python and VapourSynth are not built for them, so what counts is what has the plugin in its stack.
The networks are left
out: a session without torch stands in, which takes milliseconds where torch would take minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(vs.__file__).parent
SESSION = """
import random
import time
import weakref

import numpy as np

from vsneuralstyle.errors import ArgumentError

trouble, slow, failing = random.Random(2), 0, 0  # of fills: how many take their time, or fail
under_way = weakref.WeakSet()

class Begun:
    def __init__(self, planes):
        self.planes, self.filled = list(planes), False
        under_way.add(self)

class State:
    nbytes = 200_000  # so that few fit into a megabyte

    def __init__(self, value):
        self.value = value

def versions():
    return {name: "1" for name in ("package", "torch", "device", "precision", "styles")}

class Session:
    def __init__(self, width, height, bits, style, strength=1, **arguments):
        if style != "candy" or strength != 1:
            raise ArgumentError(f"{style!r} or {strength} is refused")
        self.last, self.value = None, 0
        under_way.add(self)

    def encode_ahead(self, source):
        return [np.array(plane) for plane in source]

    def process(self, starts, source, encoded=None):
        if encoded is not None:  # of this frame
            assert all(np.array_equal(a, b) for a, b in zip(encoded, source))
        now = float(np.asarray(source[0])[0, 0])
        starts = self.is_cut(self.last, now) if starts is None else starts
        self.value = (0 if starts else self.value * 3 + 1) % 7
        self.last = now
        return starts, Begun(np.asarray(plane) * 0.5 + self.value for plane in source)

    def fill(self, begun, target):
        if trouble.random() < slow:
            time.sleep(trouble.random() * 0.01)
        if trouble.random() < failing:
            raise ArgumentError("the fill is refused")
        for plane, onto in zip(begun.planes, target):
            np.asarray(onto)[:] = plane
        assert not begun.filled
        begun.filled = True

    def is_cut(self, last, now):
        return last is None or abs(now - last) > (100 if now > 1 else 0.4)

    def cuts(self, run):
        values = [float(np.asarray(planes[0])[0, 0]) for planes in run]
        return [self.is_cut(a, b) for a, b in zip(values, values[1:])]

    def checkpoint(self):
        return State((self.last, self.value))

    def resume(self, state):
        self.last, self.value = state.value
"""


@pytest.fixture
def play(tmp_path):
    """play(sanitizer, count, **environment): the requests to a plugin that is built with it, or as
    it is: None.
    """

    def play(sanitizer: str | None, count: int, **environment) -> subprocess.CompletedProcess:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            pytest.skip("no C compiler (cc)")
        options = (
            ["-O2"]
            if sanitizer is None
            else ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizer}"]
        )
        if sanitizer is not None:
            name = {"address,undefined": "libasan.so", "thread": "libtsan.so"}[sanitizer]
            library = subprocess.run(
                [compiler, f"-print-file-name={name}"], capture_output=True, text=True
            ).stdout
            library = Path(library.strip()).resolve()
            if not library.is_absolute() or not library.exists() or library.name == name:
                pytest.skip(f"{compiler} has no {name}")
            environment["LD_PRELOAD"] = str(library)
        package = tmp_path / "vapoursynth"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("plugins", "__pycache__"))
        (package / "plugins").mkdir()
        stand_in = tmp_path / "vsneuralstyle" / "hosts" / "vapoursynth"
        stand_in.mkdir(parents=True)
        (stand_in / "session.py").write_text(SESSION)
        (
            tmp_path / "vsneuralstyle" / "__init__.py"
        ).touch()  # else the installed package comes first
        shutil.copy(ROOT / "vsneuralstyle" / "errors.py", tmp_path / "vsneuralstyle")
        subprocess.run(
            [
                compiler,
                "-std=c11",
                *options,
                "-pthread",
                "-fPIC",
                "-shared",
                "-DPy_LIMITED_API=0x030C0000",
                "-DPLUGIN_VERSION=1",
                "-I",
                sysconfig.get_path("include"),
                "-I",
                package / "include",
                "-o",
                package / "plugins" / "plugin.so",
                *sorted((ROOT / "vsneuralstyle" / "hosts" / "vapoursynth").glob("*.c")),
            ],
            check=True,
        )
        # ThreadSanitizer's memory lies where the system may have put something else.
        fixed = ["setarch", "-R"] if sanitizer == "thread" else []
        if fixed and (not shutil.which("setarch") or subprocess.run([*fixed, "true"]).returncode):
            pytest.skip("no setarch -R here, without which ThreadSanitizer may not start")
        return subprocess.run(
            [
                *fixed,
                sys.executable,
                "-P",
                Path(__file__).with_name("requests_at_random.py"),
                str(count),
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path),
                "OPENBLAS_NUM_THREADS": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=600,
        )

    return play


def findings(report: str) -> list[str]:
    """The parts of a report that have the plugin in a stack."""
    parts = re.split(
        r"\n(?=(?:=+\n)?(?:Direct leak|Indirect leak|WARNING: ThreadSanitizer)|.*runtime error)",
        report,
    )
    return [part for part in parts if "plugin.so" in part or "hosts/vapoursynth/" in part]


def accesses(race: str) -> str:
    """Of the two stacks of a data race, the innermost frames that are not ThreadSanitizer's own.

    None where one of them is VapourSynth's `operator delete`: it counts references to frames by
    atomics, which aren't seen in what isn't built for this, so that a frame's end seems to race
    with all that others read of it before. (The plugin is in C and deletes nothing so; frames that
    are used after their end are for `test_memory` to find.)
    """
    stacks = re.findall(r"(?:^ +#\d+ .*\n?)+", race, re.MULTILINE)[:2]
    if any("operator delete" in stack or "VSPlaneData::release" in stack for stack in stacks):
        return ""
    return "\n".join(
        next((line for line in stack.splitlines() if "libtsan" not in line), "") for stack in stacks
    )


def test_python_objects_come_and_go(play):
    """Nothing that the plugin holds of Python outlives its filter: the second half of the run ends
    as the first.
    """
    played = play(None, 60)
    assert played.returncode == 0, played.stderr
    done, half, whole = played.stdout.split()
    # Some ten a round are not the frames', of which there are hundreds; and none of theirs are left
    # (`settle`).
    assert done == "done" and int(whole) - int(half) < 30 * 30, (half, whole)


def test_memory(play):
    played = play(
        "address,undefined",
        int(os.environ.get("NEURALSTYLE_FUZZ", 15)),
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=1:exitcode=0",
        LSAN_OPTIONS="exitcode=0:max_leaks=0",
    )
    assert played.stdout.startswith("done"), played.stderr[-8000:]
    assert "ERROR: AddressSanitizer" not in played.stderr, played.stderr[:8000]
    assert findings(played.stderr) == []


def test_threads(play):
    played = play(
        "thread",
        int(os.environ.get("NEURALSTYLE_FUZZ", 30)),
        TSAN_OPTIONS="exitcode=0:history_size=4",
    )
    assert played.stdout.startswith("done"), played.stderr[-8000:]
    assert [part for part in findings(played.stderr) if "plugin.so" in accesses(part)] == []
