"""How the use of a `Stylizer` ends: closed, dropped, by an error or a signal with frames in flight,
and in a fork.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from vsneuralstyle import ArgumentError, Stylizer

PATIENCE = 120  # seconds: a time limit on processes, no measure of their speed
TWO_THREADS = {"OMP_NUM_THREADS": "2"}  # two frames at a time


@pytest.fixture
def python(run):
    """Runs a script in a Python of its own, with `Stylizer`, random `frames` and two threads."""

    def python(script: str, height: int = 96, width: int = 160, env: dict | None = None):
        head = (
            f"import torch\nfrom vsneuralstyle import Stylizer\nframes = [torch.rand(1, 3, "
            f"{height}, {width}) for _ in range(6)]\n"
        )
        return run(
            sys.executable, "-P", "-c", head + script, timeout=PATIENCE, env=env or TWO_THREADS
        )

    return python


@pytest.fixture
def stylizer(model_dir):
    return Stylizer("candy", device="cpu", model_dir=model_dir)


def test_a_closed_one_says_so_and_what_to_do(stylizer, frames):
    with stylizer:
        stylizer.stylize(frames[:1])
    stylizer.close()
    for use in (lambda: stylizer.stylize(frames[:1]), lambda: stylizer.submit(frames[:1])):
        with pytest.raises(ArgumentError, match="closed; make another one"):
            use()


def test_closing_cancels_what_has_not_begun_and_waits_for_what_has(python):
    done = python(
        """
with Stylizer("candy", device="cpu") as stylizer:
    begun = [stylizer.submit(frame) for frame in frames]
    begun[0].result()
states = [job.cancelled() or job.done() for job in begun]
print(all(states), begun[-1].cancelled())
""",
        360,
        640,
    )
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1])
def test_a_process_ends_by_an_error_with_frames_in_flight(python, seconds):
    done = python(
        f"""
import time
stylizer = Stylizer("candy", device="cpu")
begun = [stylizer.submit(frame) for frame in frames]
time.sleep({seconds})
raise SystemExit(3)
""",
        360,
        640,
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_one_that_is_dropped_with_frames_in_flight_still_makes_those(python):
    done = python("""
stylizer = Stylizer("candy", device="cpu")
expected = stylizer.stylize(torch.cat(frames))
stylizer.reset()
begun = [stylizer.submit(frame) for frame in frames]
del stylizer
print(torch.equal(torch.cat([job.result()[0] for job in begun]), expected))
""")
    assert done.stdout == "True\n", done.stderr


def test_a_fork_after_frames_says_what_to_do_and_one_before_works(python):
    done = python("""
import os
def fork():
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        print(tuple(Stylizer("candy", device="cpu").stylize(frames[0]).shape), flush=True)
    except Exception as error:
        print(type(error).__name__, "spawn" in str(error), flush=True)
    os._exit(0)
fork()
Stylizer("candy", device="cpu").stylize(frames[0])
fork()
""")
    assert done.stdout == "(1, 3, 96, 160)\nProcessError True\n", done.stderr


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc"
)
def test_memory_goes_back_when_the_last_one_is_closed_or_dropped(python):
    script = """
import gc, pathlib
def used():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) // 1024
def use():
    stylizer = Stylizer("candy", device="cpu")
    stylizer.stylize(frames[0][..., :48, :64])
    small.append(used())
    other = Stylizer("candy", device="cpu")
    for frame in frames[:3]:
        other.stylize(frame)
    large.append(used())
    stylizer.close()
small, large = [], []
for _ in range(2):
    use()
print(small[0], large[0], used())
"""
    done = python(script, 1080, 1920)
    assert done.returncode == 0, done.stderr
    small, large, after = map(int, done.stdout.split())
    assert large - small > 250, "the frames were too small for this test"
    assert after - small < 100, done.stdout


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "long.mkv"
    y, x = np.mgrid[0:96, 0:160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=160, height=96, pix_fmt="yuv420p")
        for t in range(250):
            picture = np.stack([2 * x + t, 2 * y + 3 * t, x + y + t], -1) % 256
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24"))
            )
        container.mux(stream.encode(None))
    return path


@pytest.mark.slow
@pytest.mark.subprocess
def test_render_ends_by_a_signal_at_any_moment_and_leaves_nothing_half_written(long_clip, tmp_path):
    script = Path(__file__).with_name("signals_at_random.py")
    command = [
        sys.executable,
        "-P",
        str(script),
        str(long_clip),
        str(tmp_path),
        os.environ.get("NEURALSTYLE_TEST_SIGNALS", "30"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env={**os.environ, **TWO_THREADS}
    )
    results = json.loads(done.stdout)
    left_running = [result for result in results if result[2] is None]
    assert not left_running
    # negative: before Python's handler was there
    codes = {"SIGINT": {130, -2}, "SIGTERM": {143, -15}, "SIGHUP": {129, -1}}
    assert all(code in codes[kind] | {0} for _, kind, code, *_ in results), results
    assert not [result for result in results if set(result[-1]) - {"out.mkv"}], results
    assert sum(code > 0 for _, _, code, *_ in results) > len(results) / 2, results
