"""Frames are filled by who asks for them, outside of the walk: beside it and each other, once each,
or never.
"""

import time
import weakref
from concurrent.futures import Future
from threading import Event, Lock

import numpy as np
import pytest

from vsneuralstyle.errors import DeviceError
from vsneuralstyle.hosts.vapoursynth.session import Session

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

LONG = 60
"""Seconds after which what doesn't come is taken to be stuck."""


class Log:
    """What `Session` does, by the number of the frame, and what its fills wait for."""

    def __init__(self, monkeypatch) -> None:
        self.processed, self.filled, self._numbers, self._lock = [], [], {}, Lock()
        self.before_fill = lambda n: None
        self._process, self._fill = Session.process, Session.fill
        monkeypatch.setattr(
            Session, "process", lambda session, *arguments: self.process(session, *arguments)
        )
        monkeypatch.setattr(
            Session, "fill", lambda session, *arguments: self.fill(session, *arguments)
        )

    def process(self, session, starts, source, prepared):
        n = int(np.asarray(source[0])[0, 0])
        answer = self._process(session, starts, source, prepared)
        self._numbers[id(answer[1])] = n
        self.processed.append(n)
        return answer

    def fill(self, session, begun, target):
        with self._lock:
            n = self._numbers[id(begun)]
            self.filled.append(n)
        self.before_fill(n)
        self._fill(session, begun, target)


@pytest.fixture
def log(monkeypatch) -> Log:
    return Log(monkeypatch)


@pytest.fixture
def frames(scenes) -> np.ndarray:
    """(60, 48, 64, 3): a pan, whose frames each begin with their number."""
    frames = scenes(60)
    frames[:, 0, 0] = np.arange(60)[:, None]
    return frames


@pytest.fixture
def output(frames, model_dir, make_clip, monkeypatch):
    monkeypatch.setattr(vs.core, "num_threads", 8)
    return vs.core.vsneuralstyle.Stylize(make_clip(frames), model_dir=model_dir, scene_cut=0)


@pytest.fixture
def expected(frames, stylized) -> np.ndarray:
    return stylized(frames, scene_cut=0)


def picture(frame: Future | vs.VideoFrame) -> np.ndarray:
    with frame.result(timeout=LONG) if isinstance(frame, Future) else frame as frame:
        return np.stack([np.array(frame[plane]) for plane in range(3)], axis=-1)


def test_a_frame_that_is_only_passed_is_never_filled(output, expected, log):
    assert np.array_equal(picture(output.get_frame(40)), expected[40])
    assert log.processed == list(range(41)) and log.filled == [40]
    for n in (38, 40, 39, 38):  # back to what was passed
        assert np.array_equal(picture(output.get_frame(n)), expected[n])
    assert len(log.processed) == 41 and log.filled == [40, 38, 39]


def test_a_fill_stops_no_walk_and_no_other_fill(output, expected, log):
    """The first frame's waits for all the others', and each of those for the walk of the one behind
    it.
    """
    walked, others = {n: Event() for n in range(9)}, Event()
    process, filled = log._process, []

    def walk(session, starts, source, prepared):
        walked[int(np.asarray(source[0])[0, 0])].set()
        return process(session, starts, source, prepared)

    def before_fill(n):
        if n == 0:
            assert others.wait(LONG)
        elif n < 6:
            assert walked[n + 1].wait(LONG)
            filled.append(n)
            if len(filled) == 5:
                others.set()

    log._process, log.before_fill = walk, before_fill
    futures = [output.get_frame_async(n) for n in range(7)]
    assert all(np.array_equal(picture(future), expected[n]) for n, future in enumerate(futures))
    assert sorted(filled) == [1, 2, 3, 4, 5] and log.processed == list(range(7))


def test_a_fill_that_fails_fails_its_frame(output, expected, log):
    def before_fill(n):
        if n == 5:
            raise DeviceError("the GPU fell off")

    log.before_fill = before_fill
    picture(output.get_frame(4))
    for _ in range(2):
        with pytest.raises(vs.Error, match="^Stylize: the GPU fell off"):
            output.get_frame(5)
    # from the start again: the state was not to be trusted
    assert log.processed == [*range(6), *range(6)]
    for n in (6, 4, 3):
        assert np.array_equal(picture(output.get_frame(n)), expected[n])
    log.before_fill = lambda n: None
    for n in (5, 7, 30):
        assert np.array_equal(picture(output.get_frame(n)), expected[n])


def test_what_is_walked_while_a_fill_fails_comes_when_asked_again(output, expected, log):
    """It was made from a state that is not to be trusted; what waits for the failed frame itself
    hears of that.
    """
    process, failing = log._process, Event()

    def walk(session, starts, source, prepared):
        if int(np.asarray(source[0])[0, 0]) == 6 and not failing.is_set():
            assert failing.wait(LONG)
        return process(session, starts, source, prepared)

    def before_fill(n):
        if n == 5 and not failing.is_set():
            failing.set()
            raise DeviceError("the GPU fell off")

    log._process, log.before_fill = walk, before_fill
    picture(output.get_frame(4))
    five, six = output.get_frame_async(5), output.get_frame_async(6)
    with pytest.raises(vs.Error, match="^Stylize: the GPU fell off"):
        five.result(timeout=LONG)
    try:
        # its walk may have ended before the filter heard of the failure
        assert np.array_equal(picture(six), expected[6])
    except vs.Error as error:
        assert "ask again" in str(error)
    for n in (6, 5, 7):
        assert np.array_equal(picture(output.get_frame(n)), expected[n])


@pytest.mark.parametrize("fails", [False, True])
def test_requests_for_one_frame_share_its_fill(output, expected, log, fails):
    begun, go = Event(), Event()

    def before_fill(n):
        if n == 38:
            begun.set()
            assert go.wait(LONG)
            if fails:
                raise DeviceError("the GPU fell off")

    log.before_fill = before_fill
    picture(output.get_frame(40))
    futures = [output.get_frame_async(38)]
    assert begun.wait(LONG)
    futures += [output.get_frame_async(38) for _ in range(3)]
    # by now those have been taken up
    assert np.array_equal(picture(output.get_frame_async(39)), expected[39])
    go.set()
    for future in futures:
        if fails:
            with pytest.raises(vs.Error, match="^Stylize: the GPU fell off"):
                future.result(timeout=LONG)
        else:
            assert np.array_equal(picture(future), expected[38])
    assert log.filled.count(38) == 1 or fails


def test_properties_come_with_the_fill(frames, model_dir, make_clip):
    source = make_clip(frames).std.FrameEval(
        lambda n: make_clip(frames).std.SetFrameProps(number=n)
    )
    output = vs.core.vsneuralstyle.Stylize(source, model_dir=model_dir)
    for n in (30, 29, 30):
        with output.get_frame(n) as frame:
            assert frame.props["number"] == n and frame.props["_SceneChangePrev"] == 0


def test_frames_that_nobody_asks_for_go_with_the_filter(
    frames, model_dir, expected, make_clip, monkeypatch, log
):
    monkeypatch.setattr(vs.core, "num_threads", 8)
    begun, process = [], log._process

    def walk(*arguments):
        answer = process(*arguments)
        begun.append(weakref.ref(answer[1]))
        return answer

    log._process = walk
    # not the fixture's, which would keep it
    output = vs.core.vsneuralstyle.Stylize(make_clip(frames), model_dir=model_dir, scene_cut=0)
    assert np.array_equal(picture(output.get_frame(20)), expected[20])
    assert any(frame() is not None for frame in begun[:20])  # they are kept for who may ask
    held = {n: output.get_frame_async(n) for n in range(10, 25)}
    del output
    for n, future in held.items():
        assert np.array_equal(picture(future), expected[n]), n
    held.clear()
    vs.core.clear_cache()
    # the request that came last may end a little after its frame is there
    deadline = time.monotonic() + LONG
    while (alive := [frame for frame in begun if frame() is not None]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert not alive
    assert log.processed == list(range(25)) and set(log.filled) == set(range(10, 25))


def test_memory_of_frames_that_nobody_asks_for_is_bounded(model_dir, monkeypatch):
    """512 MiB of them are kept: 10 at this size, of the 16 that the ring has room for."""
    monkeypatch.setattr(vs.core, "num_threads", 8)
    alive, most = set(), 0

    class Begun:
        pass

    def process(self, starts, source, prepared=None):
        nonlocal most
        begun = Begun()
        alive.add(id(begun))
        weakref.finalize(begun, alive.discard, id(begun))
        most = max(most, len(alive))
        return True, begun

    monkeypatch.setattr(Session, "process", process)
    monkeypatch.setattr(Session, "fill", lambda self, begun, target: None)
    source = vs.core.std.BlankClip(format=vs.RGBS, width=2560, height=1600, length=40, keep=True)
    output = vs.core.vsneuralstyle.Stylize(
        source, model_dir=model_dir, scene_cut=0, checkpoint_mb=0
    )
    output.get_frame(30)
    assert len(alive) == 2**29 // (2560 * 1600 * 12) == 10
    assert most == 11  # and the one that is made
    del output
    assert not alive


def test_cuda(frames, model_dir, stylized, make_clip, monkeypatch, cuda):
    """Passed, asked for together and one by one, and in any order, as `Stylizer` makes them."""
    monkeypatch.setattr(vs.core, "num_threads", 8)
    expected = stylized(frames, scene_cut=0, device=cuda)
    output = vs.core.vsneuralstyle.Stylize(
        make_clip(frames), model_dir=model_dir, scene_cut=0, device=cuda
    )
    numbers = [40, 38, 39, *range(60), *range(59, 0, -7), 12, 12, 12]
    assert np.array_equal(picture(output.get_frame(40)), expected[40])
    for n, future in [(n, output.get_frame_async(n)) for n in numbers]:
        assert np.array_equal(picture(future), expected[n]), n
