"""What a stream's timestamps say of its rate: `gstneuralstyle_interval.FrameInterval`."""

import importlib

import pytest

MS, SECOND = 10**6, 10**9


@pytest.fixture
def interval(plugin_path, monkeypatch):
    """Makes an interval of caps that say `nominal`, which has seen frames so far apart."""
    monkeypatch.syspath_prepend(plugin_path / "python")
    kind = importlib.import_module("gstneuralstyle_interval").FrameInterval

    def make(distances, nominal=0):
        one, at = kind(), 10 * SECOND
        one.set_nominal(nominal)
        one.changes = [one.add(at)]
        for distance in distances:
            at += distance
            one.changes.append(one.add(at))
        return one

    return make


@pytest.mark.parametrize(
    "distances, nominal, expected, told",
    [
        pytest.param([], 0, 0, 100 * MS, id="nothing known"),
        pytest.param([], 40 * MS, 40 * MS, 40 * MS, id="caps"),
        pytest.param([250 * MS], 0, 0, 100 * MS, id="one alone may be a stall"),
        pytest.param([250 * MS] * 2, 0, 250 * MS, 250 * MS, id="slow"),
        pytest.param(
            [33 * MS] * 8, 0, 33 * MS, 100 * MS, id="the first guess, until enough is known"
        ),
        pytest.param([33 * MS] * 16, 0, 33 * MS, 33 * MS, id="enough is known"),
        pytest.param(
            [66 * MS] * 40, 0, 66 * MS, 100 * MS, id="not so much less than the first guess"
        ),
        pytest.param([20 * MS, 40 * MS] * 20, 0, 40 * MS, 40 * MS, id="uneven"),
        pytest.param(
            [33 * MS] * 20 + [99 * MS] + [33 * MS] * 3, 0, 33 * MS, 33 * MS, id="one late"
        ),
        pytest.param([250 * MS] * 20 + [33 * MS] * 16, 0, 33 * MS, 33 * MS, id="faster"),
        pytest.param(
            [50 * MS] * 10 + [60 * MS] * 16, 0, 60 * MS, 100 * MS, id="less than the guess"
        ),
        pytest.param([-40 * MS] * 16, 0, 40 * MS, 40 * MS, id="backwards"),
        pytest.param([0] * 30, 0, 0, 100 * MS, id="a timestamp again and again"),
        pytest.param([66 * MS] * 4, 33 * MS, 66 * MS, 33 * MS, id="slower than the caps say"),
        pytest.param([20 * MS] * 30, 40 * MS, 40 * MS, 40 * MS, id="faster than the caps say"),
        pytest.param([33 * MS, 4 * SECOND], 0, 33 * MS, 100 * MS, id="a jump early"),
        pytest.param(
            [33 * MS] * 20 + [4 * SECOND] + [33 * MS] * 20, 0, 33 * MS, 33 * MS, id="a jump"
        ),
        pytest.param(
            [33 * MS] * 20 + [2 * SECOND] * 20, 0, 2 * SECOND, 2 * SECOND, id="another rate"
        ),
    ],
)
def test_expected_and_told(interval, distances, nominal, expected, told):
    one = interval(distances, nominal)
    assert (one.expected, one.told) == (expected, told)


def test_jitter_changes_nothing_that_is_told(interval):
    steady = [40 * MS + (7 * n % 5 - 2) * 2 * MS for n in range(200)]
    one = interval(steady)
    assert one.changes.count(True) == 1 and one.changes.index(True) == 16


def test_a_pause_is_no_distance(interval):
    one = interval([40 * MS] * 2)
    for n in range(20):
        one.pause()
        one.add((20 + n) * SECOND)
    assert one.expected == 40 * MS
    one.restart()
    assert one.expected == 0


def test_other_caps_are_another_stream(interval):
    one = interval([250 * MS] * 4)
    assert one.set_nominal(40 * MS) and (one.expected, one.told) == (40 * MS, 40 * MS)
    assert not one.set_nominal(40 * MS)
    assert one.set_nominal(0) and (one.expected, one.told) == (0, 100 * MS)
