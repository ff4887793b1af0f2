"""Far and backward requests: exact, from the nearest state, with a bounded memory; and the
approximate mode.
"""

import gc
import random
import weakref

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

REACH = 16  # filter.c's: one checkpoint for as many frames


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """Caches grow with the threads, and what a cache holds needs no seek."""
    monkeypatch.setattr(vs.core, "num_threads", 2)


@pytest.fixture
def stylize(model_dir):
    return lambda clip, **arguments: vs.core.vsneuralstyle.Stylize(
        clip, model_dir=model_dir, **arguments
    )


@pytest.fixture
def read_log():
    """read_log(clip) -> (the clip, a list that gets the number of each frame that is read from
    it).
    """

    def log(clip):
        numbers = []
        return clip.std.ModifyFrame(clip, lambda n, f: numbers.append(n) or f), numbers

    return log


@pytest.fixture
def check(planes):
    """check(output, expected, numbers): each of these frames, in turn, is the expected one."""

    def check(output, expected, numbers):
        wrong = [
            n
            for n in numbers
            if not np.array_equal(np.stack(planes(output, n), axis=-1), expected[n])
        ]
        assert not wrong

    return check


@pytest.mark.parametrize("checkpoint_mb", [0, 1, 512])
@pytest.mark.parametrize("tags", [None, (70,)], ids=["detected cuts", "_SceneChangePrev"])
def test_seeks_are_exact(tags, checkpoint_mb, scenes, stylized, stylize, make_clip, tagged, check):
    frames = scenes(61, 30, 2, 27)
    source = make_clip(frames) if tags is None else tagged(make_clip(frames), tags)
    expected = stylized(frames, tags and [n in tags for n in range(len(frames))])
    numbers = random.Random(2).choices(range(len(frames)), k=40)
    check(stylize(source, checkpoint_mb=checkpoint_mb), expected, [119, 0, *numbers, 118, 1])


@pytest.mark.parametrize("tags", [None, (300,)], ids=["detected cuts", "_SceneChangePrev"])
def test_a_far_seek_looks_back_for_the_cut(
    tags, scenes, stylized, stylize, make_clip, tagged, check, read_log, steps
):
    frames = scenes(300, 50)
    source = make_clip(frames) if tags is None else tagged(make_clip(frames), tags)
    source, read = read_log(source)
    expected = stylized(frames[300:])
    output = stylize(source)
    check(output[300:], expected, [40])
    assert len(steps) == 41
    assert min(read) > 300 - 2 * 64  # looked at in growing runs of at most 64
    read.clear()
    check(output[300:], expected, [49, 45])
    assert len(steps) <= 41 + 9 and min(read, default=349) > 340  # walked on, from where it stood


def test_nothing_is_looked_at_twice(scenes, stylize, make_clip, planes, read_log, monkeypatch):
    """What was learned of scenes' starts, in whichever way, is kept."""
    from vsneuralstyle.hosts.vapoursynth.session import Session

    pairs = []
    cuts = Session._cuts
    monkeypatch.setattr(
        Session, "_cuts", lambda self, run: pairs.append(len(run) - 1) or cuts(self, run)
    )
    output = stylize(make_clip(scenes(100, 100)), checkpoint_mb=0)
    for n in (180, 150, 190, 60, 185, 130):
        planes(output, n)
    assert 0 < sum(pairs) <= 200
    known = sum(pairs)
    for n in (50, 170, 120, 20):
        planes(output, n)
    assert sum(pairs) == known


def test_a_checkpoint_is_near(scenes, stylized, stylize, make_clip, check, steps):
    frames = scenes(200)
    expected = stylized(frames)
    output = stylize(make_clip(frames))
    for _ in output.frames(close=True):
        pass
    for n in (120, 40, 90, 10):
        steps.clear()
        check(output, expected, [n])
        assert len(steps) <= REACH
    without = stylize(make_clip(frames), checkpoint_mb=0)
    for _ in without.frames(close=True):
        pass
    steps.clear()
    check(without, expected, [120])
    assert len(steps) == 121


def test_memory_of_checkpoints_is_bounded_and_covers_what_lies_far_back(
    scenes, stylize, make_clip, planes, steps, monkeypatch
):
    from vsneuralstyle.hosts.vapoursynth.session import Session

    alive, most = set(), 0
    checkpoint = Session.checkpoint

    def count(self):
        nonlocal most
        state = checkpoint(self)
        alive.add(id(state))
        weakref.finalize(state, alive.discard, id(state))
        most = max(most, len(alive) * state.nbytes)
        return state

    monkeypatch.setattr(Session, "checkpoint", count)
    output = stylize(make_clip(scenes(600)), checkpoint_mb=1)
    for _ in output.frames(close=True):
        pass
    assert 0.9 * 2**20 < most <= 2**20 and len(steps) == 600
    for back in (60, 200, 550):  # the last ones alone would cover 24 * REACH = 384 frames
        steps.clear()
        planes(output, 599 - back)
        assert len(steps) <= max(REACH, 0.6 * back)
        planes(output, 599)
    del output
    gc.collect()
    assert not alive


def test_two_places_at_once_are_walked_once(scenes, stylize, make_clip, steps):
    """As in a comparison of two parts of one clip: each place resumes where it stood."""
    output = stylize(make_clip(scenes(400)))
    list(output[:5].frames(close=True))
    list(output[300:302].frames(close=True))
    steps.clear()
    for _ in vs.core.std.Interleave([output[5:45], output[302:342]]).frames(prefetch=2, close=True):
        pass
    assert len(steps) <= 80 + REACH


def test_preroll(scenes, stylized, stylize, make_clip, planes, check, steps):
    """After a seek it starts N frames before, as at a scene's start; what is played from a start on
    stays exact.
    """
    frames = scenes(100, 30)
    expected = stylized(frames)
    output = stylize(make_clip(frames), preroll=5)
    approximate = np.stack(planes(output, 60), axis=-1)
    assert len(steps) == 6
    assert np.array_equal(approximate, stylized(frames[55:61])[5])
    assert not np.array_equal(approximate, expected[60])
    check(output[55:], stylized(frames[55:71]), [6, 10])
    check(output, expected, [103])  # the cut at 100 is nearer than that
    steps.clear()
    played = stylize(make_clip(frames), preroll=5)
    check(played, expected, range(130))
    assert len(steps) == 130
    with played.get_frame(60) as frame:
        assert frame.props._SceneChangePrev == 0


def source_that_fails(make_clip, frames, failing: set):
    def read(n, f):
        if n in failing:
            raise RuntimeError(f"frame {n} is unreadable")
        return f

    source = make_clip(frames)
    return source.std.ModifyFrame(source, read)


@pytest.mark.parametrize("tags", [None, (20,)], ids=["detected cuts", "_SceneChangePrev"])
def test_a_source_that_fails_takes_only_what_depends_on_it(
    tags, scenes, stylized, stylize, make_clip, tagged, planes, check
):
    frames = scenes(20, 30)
    failing = {12}
    source = source_that_fails(make_clip, frames, failing)
    source = source if tags is None else tagged(source, tags)
    expected = stylized(frames)
    output = stylize(source)
    with pytest.raises(vs.Error, match="frame 12 is unreadable"):
        planes(output, 15)
    for n in random.Random(3).sample(range(50), 50):
        if 12 <= n < 20:
            with pytest.raises(vs.Error, match="frame 12 is unreadable"):
                planes(output, n)
        else:
            check(output, expected, [n])
    failing.clear()
    check(output, expected, [15, 12, 40, 19])


def test_checkpoints_reach_across_a_source_that_fails(
    scenes, stylized, stylize, make_clip, planes, check
):
    """What was walked past before the source failed still serves the frames behind it."""
    frames = scenes(120)
    failing = set()
    expected = stylized(frames)
    output = stylize(source_that_fails(make_clip, frames, failing))
    check(output, expected, range(120))
    vs.core.clear_cache()
    failing.add(40)
    check(output, expected, [60, 50, 39, 70])
    with pytest.raises(vs.Error, match="frame 40 is unreadable"):
        planes(output, 44)
    check(output, expected, [20, 90])
