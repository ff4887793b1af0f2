"""The element `neuralstyle` between appsrc and appsink, where a test steers each buffer, event and
property.

What comes out is compared bit for bit with what `Stylizer` gives for the same frames.
"""

import inspect
import os
import sys

import numpy as np
import pytest

from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.cpu.host import computing_by, openmp

ELEMENT = "neuralstyle name=style device=cpu precision=float32"


class Pipeline:
    """appsrc ! neuralstyle ! appsink; `push` hands in one frame and returns what comes out."""

    rate = "25/1"  # by the caps

    def __init__(self, Gst, play, properties, source=""):
        self.Gst = Gst
        self.pipeline = play(
            f"appsrc name=source format=time {source} ! {ELEMENT} {properties} "
            "! appsink name=sink sync=false"
        )
        self.source, self.style, self.sink = map(
            self.pipeline.get_by_name, ("source", "style", "sink")
        )
        self.pads = [self.style.get_static_pad(name) for name in ("sink", "src")]
        self.caps = None

    def push(self, frame, number, discont=False, layout="RGB", duration=True):
        """`number` is the PTS in frames of 1/25 s. layout: RGB or BGR, of the frame in and the
        frame out.
        """
        self.send(frame, number, discont, layout, duration)
        sample = self.sink.try_pull_sample(60 * self.Gst.SECOND)
        assert sample is not None, self.error()
        return picture(sample)

    def send(self, frame, number, discont=False, layout="RGB", duration=True):
        height, width, _ = frame.shape
        caps = (
            f"video/x-raw, format={layout}, width={width}, height={height}, framerate={self.rate}"
        )
        if caps != self.caps:
            self.caps = caps
            self.source.set_property("caps", self.Gst.Caps.from_string(caps))
        rows = np.pad(frame.reshape(height, -1), ((0, 0), (0, -width * 3 % 4)))
        buffer = self.Gst.Buffer.new_wrapped(rows.tobytes())
        buffer.duration = self.Gst.SECOND // 25 if duration else self.Gst.CLOCK_TIME_NONE
        buffer.pts = number * self.Gst.SECOND // 25
        if discont:
            buffer.set_flags(self.Gst.BufferFlags.DISCONT)
        self.source.push_buffer(buffer)

    def stats(self, name):
        return self.style.get_property("stats").get_value(name)

    def error(self, seconds=0):
        message = self.pipeline.get_bus().timed_pop_filtered(
            seconds * self.Gst.SECOND, self.Gst.MessageType.ERROR
        )
        return message and message.parse_error()[0].message


def picture(sample):
    """The frame in a sample of RGB or BGR, (H, W, 3)."""
    from gi.repository import GstVideo

    info, buffer = GstVideo.VideoInfo.new_from_caps(sample.get_caps()), sample.get_buffer()
    rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(
        info.height, -1
    )
    return rows[:, : 3 * info.width].reshape(info.height, info.width, 3)


@pytest.fixture
def pipeline(Gst, play):
    return lambda properties="scene-cut=0", source="": Pipeline(Gst, play, properties, source)


def check(stylized, frames, stylize, restart=None):
    """That `stylized` is the clip `frames`, begun afresh at frame `restart`, where that makes a
    difference.
    """
    expected = whole = stylize(frames, scene_cut=0.0)
    if restart is not None:
        expected = np.concatenate([whole[:restart], stylize(frames[restart:], scene_cut=0.0)])
        assert not np.array_equal(expected, whole), "a reset makes no difference here"
    np.testing.assert_array_equal(stylized, expected)


def test_defaults_are_the_stylizers(Gst):
    from vsneuralstyle import Stylizer

    element = Gst.ElementFactory.make("neuralstyle")
    parameters = inspect.signature(Stylizer).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert {name: element.get_property(name.replace("_", "-")) for name in defaults} == defaults


@pytest.mark.parametrize(
    "numbers, discont, restart",
    [
        pytest.param((0, 1, 2, 3), None, None, id="steady"),
        pytest.param((0, 1, 10, 11), None, None, id="frames dropped upstream"),
        pytest.param((0, 1, 1, 2), None, None, id="a timestamp twice"),
        pytest.param((0, 1, 2, 3), 2, 2, id="discont"),
        pytest.param((0, 1, 10, 11), 2, None, id="discont tells of dropped frames"),
        pytest.param((50, 51, 10, 11), None, 2, id="back"),
        pytest.param((0, 1, 100, 101), None, 2, id="far ahead"),
    ],
)
def test_timestamps_and_discont(pipeline, stylize, clip, numbers, discont, restart):
    one = pipeline()
    stylized = [
        one.push(frame, number, n == discont)
        for n, (frame, number) in enumerate(zip(clip, numbers))
    ]
    check(stylized, clip[:4], stylize, restart)


@pytest.mark.parametrize(
    "rate, numbers, discont, restart",
    [
        pytest.param("1/2", (0, 50, 100, 150), None, None, id="slow by the caps"),
        pytest.param("0/1", (0, 50, 100, 150), None, 1, id="slow by the timestamps"),
        pytest.param("25/1", (0, 50, 100, 150), None, 1, id="slower than the caps say"),
        pytest.param("0/1", (0, 13, 51, 64), None, None, id="uneven"),
        pytest.param("1/2", (0, 50, 100, 1000), None, 3, id="slow, and a jump"),
        pytest.param("0/1", (0, 1, 2, 100), None, 3, id="no rate in the caps, and a jump"),
        pytest.param("0/1", (0, 1, 2, 10), 3, None, id="no rate in the caps, and dropped frames"),
    ],
)
@pytest.mark.parametrize("duration", [False, True])
def test_rates(pipeline, stylize, clip, rate, numbers, discont, restart, duration):
    """What is a jump at one rate is the next frame at another. Durations: of 1/25 s, or none."""
    one = pipeline()
    one.rate = rate
    stylized = [
        one.push(frame, number, n == discont, duration=duration)
        for n, (frame, number) in enumerate(zip(clip, numbers))
    ]
    check(stylized, clip[:4], stylize, restart)


@pytest.mark.parametrize(
    "step, duration, restart",
    [
        pytest.param(1, True, 1, id="no frame is missing"),
        pytest.param(4, True, None, id="some are"),
        pytest.param(4, False, None, id="nothing says that none is"),
    ],
)
def test_discont_of_each_frame_without_a_rate(pipeline, stylize, clip, step, duration, restart):
    """As behind a leaky queue of a live stream that says no rate."""
    one = pipeline()
    one.rate = "0/1"
    stylized = [
        one.push(frame, step * n, True, duration=duration) for n, frame in enumerate(clip[:2])
    ]
    check(stylized, clip[:2], stylize, restart)


@pytest.mark.parametrize("event", ["flush", "stream-start"])
def test_flush_and_new_stream(pipeline, stylize, clip, Gst, event):
    one = pipeline()
    stylized = [one.push(clip[0], 0), one.push(clip[1], 1)]
    if event == "flush":
        one.source.send_event(Gst.Event.new_flush_start())
        one.source.send_event(Gst.Event.new_flush_stop(True))
    else:
        one.pads[0].send_event(Gst.Event.new_stream_start("another"))
    stylized += [one.push(clip[2], 2), one.push(clip[3], 3)]
    check(stylized, clip[:4], stylize, 2)


@pytest.mark.parametrize("layout, width, height", [("RGB", 61, 47), ("BGR", 64, 48)])
def test_new_caps(pipeline, stylize, clip, layout, width, height):
    one = pipeline()
    check([one.push(clip[0], 0), one.push(clip[1], 1)], clip[:2], stylize)
    after, order = clip[2:4, :height, :width], slice(None, None, 1 if layout == "RGB" else -1)
    stylized = [
        one.push(frame[..., order], n, layout=layout)[..., order]
        for n, frame in enumerate(after, start=2)
    ]
    check(stylized, after, stylize)


@pytest.mark.parametrize(
    "changed, restart",
    [
        ({}, None),
        ({"stop": 10**12}, None),
        ({"base": 10**9}, 2),
        ({"time": 10**9}, 2),
        ({"rate": 2.0}, 2),
    ],
)
def test_a_segment(pipeline, stylize, clip, Gst, changed, restart):
    """One that says no more than before, and one that moves what follows elsewhere."""
    one = pipeline()
    stylized = [one.push(frame, n) for n, frame in enumerate(clip[:2])]
    segment = one.pads[0].get_sticky_event(Gst.EventType.SEGMENT, 0).parse_segment().copy()
    for field, value in changed.items():
        setattr(segment, field, value)
    one.pads[0].send_event(Gst.Event.new_segment(segment))
    stylized += [one.push(frame, n) for n, frame in enumerate(clip[2:4], start=2)]
    check(stylized, clip[:4], stylize, restart)


def test_a_gap_is_no_jump(pipeline, stylize, clip, Gst):
    """Three seconds of which an event says that there is no frame in them."""
    one = pipeline()
    stylized = [one.push(frame, n) for n, frame in enumerate(clip[:2])]
    one.pads[0].send_event(Gst.Event.new_gap(2 * Gst.SECOND // 25, 3 * Gst.SECOND))
    stylized += [one.push(frame, n) for n, frame in enumerate(clip[2:4], start=77)]
    check(stylized, clip[:4], stylize)


@pytest.mark.parametrize("qos", [False, True])
def test_qos(pipeline, stylize, clip, Gst, qos):
    """The sink says that it is 1.5 s late. Off: nobody hears it. On: frames are dropped, and the
    style stays put.
    """
    heard = []
    one = pipeline(f"scene-cut=0 qos={qos}")
    one.source.get_static_pad("src").add_probe(
        Gst.PadProbeType.EVENT_UPSTREAM,
        lambda pad, info: heard.append(info.get_event().type) or Gst.PadProbeReturn.OK,
    )
    stylized = [one.push(frame, n) for n, frame in enumerate(clip[:2])]
    late = 39
    one.pads[1].send_event(
        Gst.Event.new_qos(Gst.QOSType.UNDERFLOW, 2.0, 0, (1 + late) * Gst.SECOND // 25)
    )
    assert (Gst.EventType.QOS in heard) == qos
    for n in range(late):
        one.send(clip[2], 2 + n)
    if not qos:
        assert all(one.sink.try_pull_sample(60 * Gst.SECOND) for _ in range(late))
    stylized += [one.push(frame, n) for n, frame in enumerate(clip[3:5], start=2 + late)]
    assert (one.stats("frames"), one.stats("dropped")) == ((4, late) if qos else (4 + late, 0))
    if qos:
        check(stylized, clip[[0, 1, 3, 4]], stylize)


# those that are waited for, and the one in work
@pytest.mark.parametrize("lookahead, frames", [(0, 1), (3, 4)])
def test_latency(play, Gst, lookahead, frames):
    pipeline = play(
        f"videotestsrc is-live=true ! video/x-raw,format=RGB,width=64,height=48,framerate=25/1 ! "
        f"{ELEMENT} lookahead={lookahead} ! fakesink sync=true"
    )
    style = pipeline.get_by_name("style")
    message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.LATENCY)
    while message.src != style:  # it says when it knows how long a frame is
        message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.LATENCY)
    before, after = Gst.Query.new_latency(), Gst.Query.new_latency()
    assert style.get_static_pad("sink").peer_query(before) and style.get_static_pad("src").query(
        after
    )
    (live, least, most), (still_live, then, then_most) = (
        before.parse_latency(),
        after.parse_latency(),
    )
    assert live and still_live
    assert then - least == frames * Gst.SECOND // 25
    assert then_most == most == Gst.CLOCK_TIME_NONE or then_most - most == frames * Gst.SECOND // 25


def latency(one):
    """What the element adds to a live source's."""
    before, after = one.Gst.Query.new_latency(), one.Gst.Query.new_latency()
    assert one.pads[0].peer_query(before) and one.pads[1].query(after)
    return after.parse_latency()[1] - before.parse_latency()[1]


@pytest.mark.parametrize("lookahead", [0, 3])
def test_latency_without_a_frame_rate(pipeline, clip, Gst, lookahead):
    """A camera of 25 frames in a second, then of 4, that doesn't say so."""
    one = pipeline(f"lookahead={lookahead}", "is-live=true")
    one.rate, bus = "0/1", one.pipeline.get_bus()

    def told():
        """Whether the element said that its latency is another."""
        found = []
        while (message := bus.pop_filtered(Gst.MessageType.LATENCY)) is not None:
            found.append(message.src == one.style)
        return any(found)

    def send(numbers):
        for number in numbers:
            one.send(clip[0], number)
        for _ in numbers[: -lookahead or None] if numbers[0] == 0 else numbers:
            assert one.sink.try_pull_sample(60 * Gst.SECOND) is not None, one.error()

    send(range(17))
    assert latency(one) == (lookahead + 1) * Gst.SECOND // 25 and told()
    send(range(17, 27))
    assert latency(one) == (lookahead + 1) * Gst.SECOND // 25 and not told()
    send(range(32, 32 + 6 * 16, 6))
    assert latency(one) == (lookahead + 1) * 6 * Gst.SECOND // 25 and told()


def test_latency_before_anything_is_known(pipeline, Gst):
    one = pipeline("lookahead=3", "is-live=true")
    assert latency(one) == 4 * Gst.SECOND // 10


@pytest.mark.parametrize("lookahead", [0, 3])
def test_position(pipeline, clip, Gst, lookahead):
    """The end of the last frame that went on, in stream time."""
    one = pipeline(f"scene-cut=0 lookahead={lookahead}")

    def position():
        known, at = one.pads[1].query_position(Gst.Format.TIME)
        assert known
        return at * 25 // Gst.SECOND

    for number in range(8):
        one.send(clip[number], number)
    pulled(one, 8 - lookahead)
    assert none_comes(one) and position() == 8 - lookahead
    assert not one.pads[1].query_position(Gst.Format.BYTES)[0]
    segment = one.pads[0].get_sticky_event(Gst.EventType.SEGMENT, 0).parse_segment().copy()
    segment.start, segment.time = 100 * Gst.SECOND // 25, 50 * Gst.SECOND // 25
    one.pads[0].send_event(Gst.Event.new_segment(segment))
    for number in range(5):
        one.send(clip[number], 100 + number)
    one.source.emit("end-of-stream")
    pulled(one, 5 + lookahead)  # those that the segment pushed on, too
    assert one.sink.try_pull_sample(60 * Gst.SECOND) is None and position() == 55


# ---- look-ahead ----------------------------------------------------------------------------------


def pulled(one, count):
    """So many frames and their numbers; none of them says that one before it is missing."""
    samples = [one.sink.try_pull_sample(60 * one.Gst.SECOND) for _ in range(count)]
    assert all(samples), one.error()
    buffers = [sample.get_buffer() for sample in samples]
    assert not any(buffer.has_flags(one.Gst.BufferFlags.DISCONT) for buffer in buffers[1:])
    return np.stack([picture(sample) for sample in samples]), [
        b.pts * 25 // one.Gst.SECOND for b in buffers
    ]


def none_comes(one):
    return one.sink.try_pull_sample(one.Gst.SECOND // 5) is None


@pytest.mark.parametrize("lookahead", [1, 3, 64])
@pytest.mark.parametrize("threads", [1, 2])  # 2: two frames are in work at a time
def test_lookahead_holds_frames_back_and_the_end_drains_them(
    pipeline, stylize, clip, lookahead, threads
):
    with computing_by(threads):
        one = pipeline(f"scene-cut=0 lookahead={lookahead}")
    possible = None not in (openmp(), library.library())
    assert one.style._stylizer.is_async == (threads == 2 and possible)
    whole = max(len(clip) - lookahead, 0)
    for number, frame in enumerate(clip):
        one.send(frame, number)
    first = pulled(one, whole) if whole else (clip[:0], [])
    assert none_comes(one)
    one.source.emit("end-of-stream")
    rest = pulled(one, len(clip) - whole) if whole < len(clip) else (clip[:0], [])
    assert one.sink.try_pull_sample(60 * one.Gst.SECOND) is None and one.sink.is_eos()
    assert first[1] + rest[1] == list(range(len(clip)))
    check(np.concatenate([first[0], rest[0]]), clip, stylize)
    assert one.stats("frames") == len(clip) and one.stats("dropped") == 0


@pytest.mark.parametrize("what", ["caps", "jump", "strength", "style", "flush"])
def test_lookahead_ends_with_what_the_frames_have_in_common(pipeline, stylize, clip, Gst, what):
    one = pipeline("scene-cut=0 lookahead=3")
    for number, frame in enumerate(clip[:2]):
        one.send(frame, number)
    assert none_comes(one)
    after, begin, options = clip[2:6], 2, {}
    if what == "caps":
        after = after[:, :40, :56]
    elif what == "jump":
        begin = 200
    elif what == "flush":  # those that were held are gone
        one.source.send_event(Gst.Event.new_flush_start())
        one.source.send_event(Gst.Event.new_flush_stop(True))
    else:
        options = {"strength": {"strength": 0.5}, "style": {"style": "other"}}[what]
        for name, value in options.items():
            one.style.set_property(name, value)
    for number, frame in enumerate(after, start=begin):
        one.send(frame, number)
    if what != "flush":
        before, numbers = pulled(one, 2)
        assert numbers == [0, 1]
        check(before, clip[:2], stylize)
    first = pulled(one, 1)
    assert none_comes(one)
    one.source.emit("end-of-stream")
    rest = pulled(one, 3)
    stylized, numbers = np.concatenate([first[0], rest[0]]), first[1] + rest[1]
    assert numbers == list(range(begin, begin + 4))
    if what == "strength":  # not a fresh start
        np.testing.assert_array_equal(stylized, stylize(clip[:6], scene_cut=0.0, **options)[2:])
    else:
        np.testing.assert_array_equal(stylized, stylize(after, scene_cut=0.0, **options))


def test_lookahead_keeps_alpha_and_tells_cuts(play, finish, Gst):
    """A picture that changes at frame 6, with alpha."""
    description = (
        "videotestsrc num-buffers=6 pattern=ball foreground-color=0x80ff8040 ! "
        "video/x-raw,format=RGBA,width=64,"
        "height=48,framerate=25/1 ! c.  videotestsrc num-buffers=6 pattern=checkers-8 ! "
        "video/x-raw,format=RGBA,"
        f"width=64,height=48,framerate=25/1 ! c.  concat name=c ! {ELEMENT} lookahead={{}} "
        "! appsink name=sink sync=false"
    )
    runs = []
    for lookahead in (0, 3):
        pipeline = play(description.format(lookahead))
        sink, frames = pipeline.get_by_name("sink"), []
        while (sample := sink.try_pull_sample(60 * Gst.SECOND)) is not None:
            buffer = sample.get_buffer()
            frames.append((buffer.pts, buffer.extract_dup(0, buffer.get_size())))
        cuts = [
            message.get_structure().to_string()
            for message in finish(pipeline, Gst.MessageType.ELEMENT)
            if message.has_name("neuralstyle-scene-cut")
        ]
        runs.append((frames, cuts))
    assert len(runs[0][0]) == 12 and runs[0] == runs[1]


# ---- seeks ---------------------------------------------------------------------------------------

BALL = "videotestsrc pattern=ball ! video/x-raw,format=RGB,width=64,height=48,framerate=25/1"


@pytest.fixture(scope="module")
def ball(Gst):
    """The frames of `BALL`."""
    pipeline = Gst.parse_launch(f"{BALL} ! appsink name=sink sync=false")
    pipeline.set_state(Gst.State.PLAYING)
    frames = np.stack(
        [picture(pipeline.get_by_name("sink").try_pull_sample(60 * Gst.SECOND)) for _ in range(30)]
    )
    pipeline.set_state(Gst.State.NULL)
    return frames


class Player:
    """Plays `BALL` into an appsink; `pull` returns what comes and checks that it is the frame of
    that number.
    """

    def __init__(self, Gst, play, state):
        self.Gst = Gst
        self.pipeline = play(
            f"{BALL} ! {ELEMENT} scene-cut=0 ! appsink name=sink sync=false max-buffers=1", state
        )
        self.sink = self.pipeline.get_by_name("sink")

    def seek(self, number, rate=1.0, begin=0):
        """To a frame; with a rate below 0 from there back to the frame begin."""
        Gst = self.Gst
        start, stop = (number, None) if rate > 0 else (begin, number + 1)
        done = self.pipeline.seek(
            rate,
            Gst.Format.TIME,
            Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE,
            Gst.SeekType.SET,
            start * Gst.SECOND // 25,
            Gst.SeekType.NONE if stop is None else Gst.SeekType.SET,
            0 if stop is None else stop * Gst.SECOND // 25,
        )
        assert done

    def pull(self, *numbers, preroll=False):
        frames = []
        for number in numbers:
            take = self.sink.try_pull_preroll if preroll else self.sink.try_pull_sample
            sample = take(60 * self.Gst.SECOND)
            assert sample is not None and sample.get_buffer().pts == number * self.Gst.SECOND // 25
            frames.append(picture(sample))
        return frames


@pytest.mark.parametrize("to", [20, 3])
def test_seek_while_playing(play, Gst, stylize, ball, to):
    player = Player(Gst, play, Gst.State.PLAYING)
    check(player.pull(0, 1, 2, 3, 4), ball[:5], stylize)
    player.seek(to)
    check(player.pull(to, to + 1, to + 2), ball[to : to + 3], stylize)


def test_seek_while_paused(play, Gst, stylize, ball):
    player = Player(Gst, play, Gst.State.PAUSED)
    check(player.pull(0, preroll=True), ball[:1], stylize)
    for to in (20, 21, 3):
        player.seek(to)
        check(player.pull(to, preroll=True), ball[to : to + 1], stylize)
    player.pipeline.set_state(Gst.State.PLAYING)
    check(player.pull(3, 4, 5), ball[3:6], stylize)


def test_backwards(play, Gst, stylize, ball):
    """At a rate of -1 each frame's timestamp is before the last one's, and each still is the next
    moment.
    """
    player = Player(Gst, play, Gst.State.PAUSED)
    player.pull(0, preroll=True)
    player.seek(20, rate=-1.0)
    player.pipeline.set_state(Gst.State.PLAYING)
    # The source begins with the frame at the end of what was asked for, and the sink leaves that
    # out.
    expected = stylize(ball[[21, 20, 19, 18, 17]], scene_cut=0.0)[1:]
    np.testing.assert_array_equal(player.pull(20, 19, 18, 17), expected)
    assert not np.array_equal(expected[1:], stylize(ball[[19, 18, 17]], scene_cut=0.0))


# ---- several, and for long -----------------------------------------------------------------------


def test_two_in_one_pipeline(play, Gst, stylize, ball):
    pipeline = play(
        f"{BALL} ! {ELEMENT} scene-cut=0 ! queue ! {ELEMENT.replace('=style', '=second')} "
        "style=other scene-cut=0 ! appsink name=sink sync=false max-buffers=1"
    )
    sink = pipeline.get_by_name("sink")
    stylized = [picture(sink.try_pull_sample(60 * Gst.SECOND)) for _ in range(4)]
    np.testing.assert_array_equal(
        stylized, stylize(stylize(ball[:4], scene_cut=0.0), "other", scene_cut=0.0)
    )


def test_two_pipelines_in_one_process(pipeline, stylize, clip, ball):
    one, other = pipeline(), pipeline("scene-cut=0 style=other")
    pairs = [(one.push(a, n), other.push(b, n)) for n, (a, b) in enumerate(zip(clip[:4], ball))]
    np.testing.assert_array_equal([a for a, _ in pairs], stylize(clip[:4], scene_cut=0.0))
    np.testing.assert_array_equal([b for _, b in pairs], stylize(ball[:4], "other", scene_cut=0.0))


def test_live_holds_its_frame_rate(play, finish):
    pipeline = play(
        "videotestsrc is-live=true num-buffers=20 ! video/x-raw,width=64,height=48,framerate=10/1 "
        f"! {ELEMENT} qos=true ! fakesink name=sink sync=true qos=true max-lateness=20000000"
    )
    finish(pipeline)
    stats, shown = (pipeline.get_by_name(name).get_property("stats") for name in ("style", "sink"))
    assert (stats["frames"], stats["dropped"]) == (20, 0) and 0 < stats["mean-ms"] < 100
    assert (shown["rendered"], shown["dropped"]) == (20, 0)


def test_live_says_when_it_is_too_slow(play, finish):
    pipeline = play(
        "videotestsrc is-live=true num-buffers=1000 ! "
        f"video/x-raw,width=64,height=48,framerate=2000/1 ! {ELEMENT} qos=true ! fakesink "
        "sync=true qos=true"
    )
    finish(pipeline)
    stats = pipeline.get_by_name("style").get_property("stats")
    assert stats["mean-ms"] > 0.5 and stats["dropped"] > 0
    assert stats["frames"] + stats["dropped"] == 1000


SOAK = """
import sys
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

Gst.init([])
frames = int(sys.argv[1])
pipeline = Gst.parse_launch(
    f"videotestsrc pattern=ball num-buffers={frames} ! "
    "video/x-raw,format=I420,width=16,height=16 ! "
    "neuralstyle name=style device=cpu precision=float32 ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
sizes, bus = {}, pipeline.get_bus()
while True:
    message = bus.timed_pop_filtered(Gst.SECOND // 20, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    sizes[pipeline.get_by_name("style").get_property("stats").get_value("frames")] = resident()
    if message is not None:
        break
assert message.type == Gst.MessageType.EOS, message.parse_error()
pipeline.set_state(Gst.State.NULL)
for done, size in sizes.items():
    print(done, size)
"""


def test_memory_does_not_grow(run, environment):
    """NEURALSTYLE_SOAK: so many frames."""
    frames = int(os.environ.get("NEURALSTYLE_SOAK", 2000))
    done = run(
        sys.executable, "-P", "-c", SOAK, frames, env=environment, timeout=120 + frames // 10
    )
    assert done.returncode == 0, done.stderr
    sizes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    early = max(size for done, size in sizes if done <= frames // 5)
    late = max(size for done, size in sizes if done > frames // 5)
    assert sizes[-1][0] == frames and len(sizes) > 10
    assert late < 1.02 * early, f"{early} bytes after {frames // 5} frames, {late} after {frames}"


# ---- properties ----------------------------------------------------------------------------------


def test_stop_and_start(pipeline, stylize, clip, Gst):
    one = pipeline()
    for _ in range(2):
        check([one.push(frame, n) for n, frame in enumerate(clip[:3])], clip[:3], stylize)
        assert one.stats("frames") == 3
        one.pipeline.set_state(Gst.State.NULL)
        one.pipeline.set_state(Gst.State.PLAYING)


def test_properties_while_playing(pipeline, stylize, clip):
    one = pipeline()
    one.push(clip[0], 0)
    one.style.set_property("strength", 0.0)
    np.testing.assert_array_equal(one.push(clip[1], 1), clip[1])
    one.style.set_property("strength", 1.0)
    np.testing.assert_array_equal(one.push(clip[2], 2), stylize(clip[:3])[2])


def test_a_controller_drives_strength(pipeline, stylize, clip, Gst):
    import gi

    gi.require_version("GstController", "1.0")
    from gi.repository import GstController

    one = pipeline("")
    curve = GstController.InterpolationControlSource(mode=GstController.InterpolationMode.LINEAR)
    curve.set(0, 0.0)
    curve.set(Gst.SECOND // 5, 1.0)  # frame 5
    one.style.add_control_binding(
        GstController.DirectControlBinding.new(one.style, "strength", curve)
    )
    for n, frame in enumerate(clip[:5]):
        stylized = one.push(frame, n)
        strength = one.style.get_property("strength")
        assert strength == pytest.approx(n / 5)
        np.testing.assert_array_equal(stylized, stylize(clip[: n + 1], strength=strength)[n])


def test_a_new_style_begins_afresh_with_the_next_frame(pipeline, stylize, clip):
    one = pipeline("")
    before = [one.push(frame, n) for n, frame in enumerate(clip[:2])]
    one.style.set_property("style", "other")
    after = [one.push(frame, n) for n, frame in enumerate(clip[2:4], start=2)]
    np.testing.assert_array_equal(before, stylize(clip[:2]))
    np.testing.assert_array_equal(after, stylize(clip[2:4], "other"))
    assert one.stats("cuts") == 0  # no cut: the scene goes on


def test_a_new_style_that_is_not_there(pipeline, clip, Gst):
    one = pipeline()
    one.push(clip[0], 0)
    one.style.set_property("style", "nosuch")
    one.send(clip[1], 1)
    message = one.error(60)
    assert "nosuch" in message and "candy" in message and "other" in message
    assert one.sink.try_pull_sample(0) is None and one.stats("frames") == 1


def test_a_style_that_is_not_there_at_the_start(pipeline, Gst):
    one = pipeline()
    one.pipeline.set_state(Gst.State.NULL)
    one.style.set_property("style", "nosuch")
    assert one.pipeline.set_state(Gst.State.PAUSED) == Gst.StateChangeReturn.FAILURE
    assert "nosuch" in one.error()


def test_a_buffer_smaller_than_its_caps(pipeline, clip, Gst):
    one = pipeline()
    one.push(clip[0], 0)
    assert one.pads[0].chain(Gst.Buffer.new_wrapped(b"\0" * 100)) == Gst.FlowReturn.ERROR
    assert "100 bytes" in one.error()
    assert one.sink.try_pull_sample(0) is None
