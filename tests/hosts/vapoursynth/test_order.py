"""Each frame has the pixels of the linear run, whatever is requested, in whatever order, by however
many threads.
"""

import json
import signal
import sys

import numpy as np
import pytest

from vsneuralstyle.engines.cpu.host import computing_by, openmp
from vsneuralstyle.hosts.vapoursynth.session import Session

OUTPUT = """
core.num_threads = int(threads)
core.vsneuralstyle.Stylize(source, model_dir=model_dir).set_output()
"""


def frames_of(raw: bytes, clip: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) from vspipe's raw planes, which come in the order G, B, R."""
    return (
        np.frombuffer(raw, np.uint8)
        .reshape(-1, 3, *clip.shape[1:3])
        .transpose(0, 2, 3, 1)[..., [2, 0, 1]]
    )


# So that frames that are asked for together are in work two at a time. Threads that wait are
# asleep: other tests run beside these, and threads that spin would take their cores.
TEAMS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("env", [{}, TEAMS], ids=["one by one", "two at a time"])
@pytest.mark.parametrize(("threads", "requests"), [(1, 1), (2, None), (8, 64), (32, 200)])
def test_vspipe(threads, requests, env, clip, model_dir, stylized, write_script, run):
    options = [] if requests is None else ["-r", requests]
    piped = run(
        "vspipe",
        write_script(OUTPUT, clip),
        "-",
        "-a",
        f"threads={threads}",
        "-a",
        f"model_dir={model_dir}",
        *options,
        text=False,
        env=env,
    )
    assert piped.returncode == 0, piped.stderr.decode()
    assert np.array_equal(frames_of(piped.stdout, clip), stylized(clip))


def test_vspipe_from_the_middle(clip, model_dir, stylized, write_script, run):
    """`-s` makes the first request another than frame 0; what comes is still the whole clip's
    frame.
    """
    piped = run(
        "vspipe",
        write_script(OUTPUT, clip),
        "-",
        "-s",
        3,
        "-e",
        6,
        "-a",
        "threads=2",
        "-a",
        f"model_dir={model_dir}",
        text=False,
    )
    assert piped.returncode == 0, piped.stderr.decode()
    assert np.array_equal(frames_of(piped.stdout, clip), stylized(clip)[3:7])


PROBE = """
import hashlib, json, random, sys

model_dir, cuts = sys.argv[1], json.loads(sys.argv[2])
if cuts is not None:
    source = core.std.Splice([
        source[n].std.SetFrameProps(_SceneChangePrev=int(n in cuts)) for n in range(len(source))])

def stylize(clip=source, **arguments):
    return core.vsneuralstyle.Stylize(clip, model_dir=model_dir, **arguments)

def digest(frame):
    planes = b"".join(np.ascontiguousarray(frame[p]).tobytes() for p in range(3))
    return hashlib.sha256(planes).hexdigest()[:16]

def report(mode, pairs, chain=False):
    digests = [[n, digest(f)] for n, f in pairs]
    print(json.dumps([f"{mode}, {core.num_threads} threads", chain, digests]))

def at_once(clip, numbers):
    futures = [(n, clip.get_frame_async(n)) for n in numbers]
    return [(n, future.result()) for n, future in futures]

count = len(source)
half = count // 2
shuffled = random.Random(1).sample(range(count), count)
ahead = list(range(half, count)) + list(range(half))
for threads in (1, 2, 8, 32):
    core.num_threads = threads
    for requests in (1, 8, 64, 200):  # what vspipe -r gives
        report(f"{requests} requests", enumerate(stylize().frames(prefetch=requests)))
    clip = stylize()
    report("shuffled", [(n, clip.get_frame(n)) for n in shuffled])
    report("shuffled again", [(n, clip.get_frame(n)) for n in shuffled[::-1]])
    clip = stylize()
    report("reversed", [(n, clip.get_frame(n)) for n in reversed(range(count))])
    numbers = [*shuffled, *shuffled[::-1], 7, 7, 7]
    report("at once, shuffled, and again", at_once(stylize(), numbers))
    for checkpoint_mb in (0, 1):
        clip = stylize(checkpoint_mb=checkpoint_mb)
        frames = core.std.Interleave([clip[:half], clip[half:]]).frames(prefetch=8)
        numbered = [((i // 2) + half * (i % 2), f) for i, f in enumerate(frames)]
        report(f"two positions, {checkpoint_mb} MB", numbered)
    clip = stylize()
    report("std.Reverse", [(count - 1 - i, f) for i, f in enumerate(clip.std.Reverse().frames())])
    twice = core.std.Interleave([clip, clip])
    report("std.Interleave", [(i // 2, f) for i, f in enumerate(twice.frames())])
    report("std.Trim", [(half + i, f) for i, f in enumerate(stylize().std.Trim(half).frames())])
    clips = [stylize(), stylize()]
    futures = [(n, clip.get_frame_async(n)) for n in ahead[::3] for clip in clips]
    report("two filters", [(n, future.result()) for n, future in futures])
    report("chain", enumerate(stylize(stylize()).frames(prefetch=64)), chain=True)
    report("chain, at once, shuffled", at_once(stylize(stylize()), shuffled), chain=True)
"""


@pytest.mark.parametrize("env", [{}, TEAMS], ids=["one by one", "two at a time"])
@pytest.mark.parametrize("tags", [None, [6, 25]], ids=["detected cuts", "_SceneChangePrev"])
def test_requests(tags, env, scenes, model_dir, stylized, digest, write_script, run):
    frames = scenes(18, 3, 11)
    cuts = [18, 21] if tags is None else tags
    once = stylized(frames, tags and [n in tags for n in range(len(frames))])
    # the first filter tells the second of its cuts
    twice = stylized(once, [n in cuts for n in range(len(frames))])
    expected = [[digest(frame) for frame in output] for output in (once, twice)]
    # frames that are all alike would show nothing
    assert min(map(len, map(set, expected))) > len(frames) // 2
    probe = run(
        sys.executable,
        write_script(PROBE, frames, "probe.py"),
        model_dir,
        json.dumps(tags),
        timeout=900,
        env=env,
    )
    assert probe.returncode == 0, probe.stderr
    reports = [json.loads(line) for line in probe.stdout.splitlines()]
    assert len(reports) == 4 * 16
    for mode, chain, pairs in reports:
        wrong = [n for n, value in pairs if value != expected[chain][n]]
        assert pairs and not wrong, f"{mode}: frames {wrong} are not those of the linear run"


def test_seek_beyond_every_cache(clip, model_dir, stylized, make_clip, planes, vs_core):
    """Back to frames that no cache holds any more: walked again from the start of their scene, to
    the same pixels.
    """
    frames = np.concatenate([np.roll(clip[:5], 3 * i, axis=2) for i in range(10)])
    starts = [n in (0, 10) for n in range(50)]
    source = make_clip(frames)
    source = vs_core.std.Splice(
        [source[n].std.SetFrameProps(_SceneChangePrev=int(starts[n])) for n in range(50)]
    )
    expected = stylized(frames, starts)
    output = vs_core.vsneuralstyle.Stylize(source, model_dir=model_dir)
    for n in (49, 12, 2, 13, 30):
        assert np.array_equal(np.stack(planes(output, n), axis=-1), expected[n]), n


@pytest.mark.parametrize("checkpoint_mb", [0, 512])
@pytest.mark.parametrize("threads", [1, 8])
def test_playing_stylizes_each_frame_once(
    threads, checkpoint_mb, scenes, model_dir, make_clip, vs_core, steps, monkeypatch
):
    """Exactness is bought by order, not by walking twice, across a cut as well."""
    monkeypatch.setattr(vs_core, "num_threads", threads)
    frames = scenes(9, 4, 11)
    output = vs_core.vsneuralstyle.Stylize(
        make_clip(frames), model_dir=model_dir, checkpoint_mb=checkpoint_mb
    )
    for _ in output.frames(close=True):
        pass
    assert len(steps) == len(frames)


def test_frames_that_are_asked_for_together_are_prepared_together(
    scenes, model_dir, make_clip, vs_core, monkeypatch
):
    """And those that are asked for one by one are not: all threads work at each."""
    if openmp() is None:
        pytest.skip("no OpenMP runtime with GNU's names here: frames are done one by one")
    encode, encoded = Session.encode_ahead, []
    monkeypatch.setattr(
        Session, "encode_ahead", lambda self, source: encoded.append(1) or encode(self, source)
    )
    monkeypatch.setattr(vs_core, "num_threads", 4)
    source = make_clip(scenes(40))
    with computing_by(2):
        output = vs_core.vsneuralstyle.Stylize(source, model_dir=model_dir, device="cpu")
    for n in range(20):
        output.get_frame(n)
    assert not encoded
    for future in [output.get_frame_async(n) for n in range(20, 40)]:
        future.result()
    assert 10 < len(encoded) <= 20


def test_a_closed_pipe_ends_vspipe(scenes, model_dir, write_script, run):
    """An encoder that gives up: vspipe ends with an error of its own, with frames in flight, and
    doesn't crash.
    """
    script = write_script(OUTPUT, scenes(40, 40))
    piped = run(
        "bash",
        "-c",
        'vspipe "$0" - -a threads=8 -a model_dir="$1" -r 64 | head -c 20000 >/dev/null; '
        "exit ${PIPESTATUS[0]}",
        script,
        model_dir,
    )
    assert piped.returncode not in (0, 128 + signal.SIGABRT, 128 + signal.SIGSEGV), piped.stderr


def test_cuda(clip, model_dir, stylized, make_clip, planes, vs_core, cuda):
    output = vs_core.vsneuralstyle.Stylize(make_clip(clip), model_dir=model_dir, device=cuda)
    expected = stylized(clip, device=cuda)
    for n in (7, 0, 3, 5):
        assert np.array_equal(np.stack(planes(output, n), axis=-1), expected[n]), n


def test_cuda_prepares_frames_that_are_asked_for_together(
    scenes, model_dir, stylized, make_clip, vs_core, monkeypatch, cuda
):
    encode, encoded = Session.encode_ahead, []
    monkeypatch.setattr(
        Session, "encode_ahead", lambda self, source: encoded.append(1) or encode(self, source)
    )
    monkeypatch.setattr(vs_core, "num_threads", 4)
    frames = scenes(30, 30)
    output = vs_core.vsneuralstyle.Stylize(make_clip(frames), model_dir=model_dir, device=cuda)
    expected = stylized(frames, device=cuda)
    for future, picture in zip([output.get_frame_async(n) for n in range(60)], expected):
        with future.result(timeout=60) as frame:
            assert np.array_equal(
                np.stack([np.array(frame[plane]) for plane in range(3)], axis=-1), picture
            )
    assert len(encoded) > 20


EXIT = """
import sys

clip = core.vsneuralstyle.Stylize(source, model_dir=sys.argv[1])
clip.get_frame(0)
futures = [clip.get_frame_async(n) for n in range(len(source))]
sys.exit(3)
"""


def test_exit_with_frames_in_flight(clip, model_dir, write_script, run):
    exited = run(sys.executable, write_script(EXIT, clip, "exit.py"), model_dir)
    assert exited.returncode == 3, exited.stderr


OWN_ERROR = """
import sys
flowing = core.std.Loop(source, 20)
clip = core.vsneuralstyle.Stylize(flowing, style="candy", model_dir=sys.argv[1], device="cpu")
pending = [clip.get_frame_async(n) for n in range(len(clip))]
raise RuntimeError("the script's own error")
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_script_that_fails_with_frames_in_flight_shows_its_own_error_alone(
    threads, clip, model_dir, write_script, run
):
    exited = run(
        sys.executable,
        write_script(OWN_ERROR, clip, "own_error.py"),
        model_dir,
        env={"OMP_NUM_THREADS": threads},
    )
    assert exited.returncode == 1
    assert (
        exited.stderr.count("Traceback") == 1
        and "RuntimeError: the script's own error" in exited.stderr
    ), exited.stderr
