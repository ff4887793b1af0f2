"""Random requests to the plugin: requests_at_random.py COUNT; test_sanitizers.py runs it, with a
session without torch.

Filters are made and freed with frames in flight, with and without checkpoints, masks, fills that
take their time and errors of every kind, by many threads. Every frame that comes is compared with
the linear run's.
"""

import ctypes
import gc
import random
import sys
import time
import warnings
from pathlib import Path

import vapoursynth as vs

from vsneuralstyle.hosts.vapoursynth import session

core = vs.core
# a report names no function of one closed
held = ctypes.CDLL(str(Path(vs.__file__).parent / "plugins" / "plugin.so"))
core.num_threads = 8
LENGTH = 120
rng = random.Random(1)
failing: set[int] = set()


def read(n, f):
    if n in failing:
        raise RuntimeError("unreadable")
    f = f.copy()
    f.props["value"] = n
    return f


def source(format):
    clip = core.std.BlankClip(format=format, width=32, height=16, length=LENGTH, keep=True)
    clip = clip.std.FrameEval(
        lambda n: core.std.BlankClip(clip, color=[(7 * n) % 256] * clip.format.num_planes)
    )
    return clip.std.ModifyFrame(clip, read)


def pixels(frame) -> bytes:
    return b"".join(bytes(frame[p]) for p in range(frame.format.num_planes))


def once(clip, expected):
    options = {
        "checkpoint_mb": rng.choice([0, 0, 1, 512]),
        "preroll": 0,
        "scene_cut": rng.choice([0.15, 0.5]),
    }
    if rng.random() < 0.2:
        options["mask"] = core.std.BlankClip(
            format=vs.GRAY8, width=32, height=16, length=LENGTH, color=255
        )
    failing.clear()
    if rng.random() < 0.3:
        failing.update(rng.sample(range(LENGTH), 2))
    session.slow, session.failing = rng.choice([0, 0.2, 1]), rng.choice([0, 0, 0.02, 0.3])
    output = core.vsneuralstyle.Stylize(clip, **options)
    futures = [
        (n, output.get_frame_async(n)) for n in rng.choices(range(LENGTH), k=rng.randrange(1, 60))
    ]
    if rng.random() < 0.3:
        return  # with all of them in flight
    for n, future in futures:
        try:
            with future.result(timeout=120) as frame:
                assert frame.props["value"] == n and pixels(frame) == expected[n], n
        except vs.Error as error:
            assert (
                "unreadable" in str(error) or "refused" in str(error) or "ask again" in str(error)
            ), error
    if failing or session.failing:  # and now they come
        failing.clear()
        session.failing = 0
        for n in rng.choices(range(LENGTH), k=8):
            with output.get_frame(n) as frame:
                assert frame.props["value"] == n and pixels(frame) == expected[n], n


def wrong():
    for options in (
        {"style": "unknown"},
        {"strength": 2},
        {"style": b"\xff" * 5000},
        {"preroll": -1},
        {"fp16": 3},
    ):
        try:
            core.vsneuralstyle.Stylize(
                core.std.BlankClip(format=vs.RGB24, width=32, height=16), **options
            )
            raise SystemExit(f"{options} was taken")
        except vs.Error as error:
            assert str(error).startswith("Stylize: "), error
    bad = core.std.BlankClip(format=vs.YUV420P8, width=32, height=16).std.SetFrameProps(_Range=9)
    try:
        core.vsneuralstyle.Stylize(bad).get_frame(0)
        raise SystemExit("_Range 9 was taken")
    except vs.Error as error:
        assert str(error).startswith("Stylize: "), error
    core.vsneuralstyle.Version()


def settle() -> int:
    """Python's blocks, once nothing is under way any more."""
    until = time.monotonic() + 60
    while session.under_way:  # filters that were let go of with frames in flight
        assert time.monotonic() < until, len(session.under_way)
        gc.collect()
        time.sleep(0.001)
    core.clear_cache()
    gc.collect()
    return sys.getallocatedblocks()


warnings.simplefilter("ignore")
clips = [source(vs.RGB24), source(vs.YUV420P8)]
expected = [
    [pixels(frame) for frame in core.vsneuralstyle.Stylize(clip).frames()] for clip in clips
]
assert len(set(expected[0])) > LENGTH // 3
blocks = []
for _ in range(int(sys.argv[1])):
    which = rng.randrange(2)
    once(clips[which], expected[which])
    wrong()
    blocks.append(settle())
print("done", blocks[len(blocks) // 2], blocks[-1])
