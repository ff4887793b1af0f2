"""Whatever is done to the element, it gives a frame for a frame, or an error that names the cause.

A script, run by test_fuzz.py in a process of its own, that a crash may end. Arguments: what to
fuzz, how many examples.
"""

import faulthandler
import re
import sys
import time

import gi
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstApp, GstVideo  # noqa: F401  GstApp gives appsrc its methods

FORMATS = (
    "GBR",
    "RGB",
    "BGRx",
    "ARGB",
    "Y444",
    "I420",
    "NV21",
    "Y42B",
    "YUY2",
    "UYVY",
    "I420_10LE",
    "P010_10LE",
    "I422_10LE",
)
COLORIMETRIES = (
    "bt601",
    "bt709",
    "bt2020",
    "smpte240m",
    "sRGB",
    "1:4:0:1",
    "2:4:16:4",
    "0:0:0:0",
    "1:1:0:0",
)
SITES = ("jpeg", "mpeg2", "dv", "cosited", "none", "alt-line")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NUMBER = st.floats() | st.integers() | st.booleans()


class Player:
    """appsrc ! neuralstyle ! appsink."""

    def __init__(self, **properties):
        self.pipeline = Gst.parse_launch(
            "appsrc name=source format=time ! neuralstyle name=style device=cpu "
            "precision=float32 ! appsink name=sink sync=false"
        )
        self.source, self.style, self.sink = map(
            self.pipeline.get_by_name, ("source", "style", "sink")
        )
        for name, value in properties.items():
            self.style.set_property(name, value)
        self.input = self.style.get_static_pad("sink")
        self.left = []  # the sizes of the frames that have left the element
        self.output = self.style.get_static_pad("src")
        self.probe = self.output.add_probe(Gst.PadProbeType.BUFFER, self._leaves)

    def _leaves(self, pad, info):
        self.left.append(info.get_buffer().get_size())
        return Gst.PadProbeReturn.OK

    def __enter__(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        return self

    def __exit__(self, *_):
        self.pipeline.set_state(Gst.State.NULL)
        self.output.remove_probe(self.probe)

    def push(self, caps, size, pts=0, discont=False, last=False):
        """A frame of so many bytes, and the end of the stream if it is the last -> what comes out,
        or None and the error.
        """
        self.source.set_property("caps", Gst.Caps.from_string(caps))
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        # the bindings crash on no bytes
        buffer = Gst.Buffer.new_wrapped(data) if data else Gst.Buffer.new()
        buffer.pts, buffer.duration = pts, Gst.SECOND // 25
        if discont:
            buffer.set_flags(Gst.BufferFlags.DISCONT)
        left = len(self.left)
        self.source.push_buffer(buffer)
        if last:
            self.source.end_of_stream()
        return self.pull(left)

    def pull(self, left):
        """As `push` returns it. Both are None where a frame has left the element (before, so many
        had `left` it) and the sink, which can lose one behind a flush, has not given it.
        """
        bus, until = self.pipeline.get_bus(), time.monotonic() + 60
        ended = False
        while time.monotonic() < until and not ended:
            ended = self.sink.is_eos()  # an error before it is on the bus by then
            if (sample := self.sink.try_pull_sample(Gst.SECOND // 20)) is not None:
                return sample, None
            if (message := bus.pop_filtered(Gst.MessageType.ERROR)) is not None:
                return None, (message.src, message.parse_error()[0].message)
        if len(self.left) > left:
            return None, None
        faulthandler.dump_traceback()
        raise AssertionError(
            f"neither a frame nor an error; end of stream: {self.sink.is_eos()}, "
            f"state: {self.pipeline.get_state(0)}"
        )


def named(error):
    """An error's text, that an exception which nobody thought of would begin with its type."""
    _source, text = error
    assert text and not re.match(r"\w+(Error|Exception)\b", text), text
    return text


def raw(form, width, height, more=""):
    caps = f"video/x-raw, format={form}, width={width}, height={height}, framerate=25/1{more}"
    return caps, GstVideo.VideoInfo.new_from_caps(Gst.Caps.from_string(caps)).size


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "style": TEXT | st.sampled_from(["candy", "other"]),
            "net": TEXT,
            "device": TEXT,
            "precision": TEXT,
            "model-dir": TEXT,
            "model-path": TEXT,
            "strength": NUMBER,
            "coherence": NUMBER,
            "scene-cut": NUMBER,
            "preserve-color": NUMBER | TEXT,
            "lookahead": NUMBER,
            "qos": NUMBER,
            "stats": NUMBER,
            "name": TEXT,
        },
    ),
    st.booleans(),
)
@example({"style": "../candy"}, True)
@example({"style": ""}, False)
@example({"strength": float("nan")}, True)
@example({"strength": -1e300, "coherence": float("inf")}, False)
@example({"device": "cuda:99999999999999999999"}, False)
@example({"lookahead": 3}, True)
@example({"lookahead": 10**12}, False)
def properties(values, while_playing):
    with_values = {}
    probe = Gst.ElementFactory.make("neuralstyle")
    for name, value in values.items():
        try:
            probe.set_property(name, value)
            with_values[name] = probe.get_property(name)
        # GObject's: of another type, out of range, not writable
        except (TypeError, ValueError, OverflowError):
            continue
    with_values.pop("name", None)
    caps, size = raw("RGB", 16, 16)
    if while_playing:
        with Player() as player:
            sample, error = player.push(caps, size)
            assert sample is not None, error
            for name, value in with_values.items():
                player.style.set_property(name, value)
            sample, error = player.push(caps, size, Gst.SECOND // 25, last=True)
    else:
        with Player(**with_values) as player:
            sample, error = player.push(caps, size, last=True)
    if error is not None:
        text = named(error)
        assert any(
            name.replace("-", "_") in text or str(value) in text or repr(value)[1:-1] in text
            for name, value in with_values.items()
        ), (text, with_values)


@given(
    st.sampled_from(FORMATS),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["0/1", "1/1", "25/1", "30000/1001", "2147483647/1", "1/2147483647"]),
    st.none() | st.sampled_from(COLORIMETRIES),
    st.none() | st.sampled_from(SITES),
    st.sampled_from(
        ["", ", interlace-mode=interleaved", ", pixel-aspect-ratio=1/100", ", multiview-mode=mono"]
    ),
    st.integers(-3000, 3000) | st.just(0),
    st.booleans(),
)
@example("I420", 16, 16, "25/1", None, None, "", -1, False)
@example("NV21", 17, 33, "0/1", "bt2020", "cosited", "", 0, True)
def caps(form, width, height, rate, colorimetry, site, more, surplus, timed):
    more += "" if colorimetry is None else f", colorimetry=(string){colorimetry}"
    more += "" if site is None else f", chroma-site=(string){site}"
    caps, size = raw(form, width, height, more)
    caps = caps.replace("25/1", rate)
    given = max(size + surplus, 0)
    with Player() as player:
        sample, error = player.push(caps, given, 0 if timed else Gst.CLOCK_TIME_NONE)
    if error is None:
        assert sample.get_buffer().get_size() == size and min(width, height) >= 16
        assert GstVideo.VideoInfo.new_from_caps(sample.get_caps()).finfo.name == form
    elif error[0] == player.style:
        text = named(error)
        assert f"{width}x{height}" in text and (
            "16x16" in text or (f"{given} bytes" in text and given < size)
        ), text


TIMES = st.integers(0, 10**4).map(lambda number: number * Gst.SECOND // 25) | st.just(
    Gst.CLOCK_TIME_NONE
)
STEPS = st.one_of(
    st.tuples(st.just("frame"), TIMES, st.booleans()),
    st.tuples(st.just("caps"), st.sampled_from(FORMATS), st.integers(16, 40), st.integers(16, 40)),
    st.tuples(st.just("flush"), st.booleans()),
    st.tuples(st.just("segment"), st.floats(0.1, 10), TIMES, TIMES),
    st.tuples(st.just("gap"), TIMES.filter(lambda time: time != Gst.CLOCK_TIME_NONE), TIMES),
    st.tuples(st.just("stream-start"), TEXT),
    st.tuples(st.just("eos")),
    st.tuples(st.just("qos"), st.floats(0.1, 10), st.integers(-(10**9), 10**9), TIMES),
    st.tuples(st.just("custom"), st.sampled_from(["neuralstyle", "x"])),
    st.tuples(st.just("pause")),
)


@given(st.lists(STEPS, max_size=12))
def events(steps):
    """However events come: a frame for each frame, unless it is behind an end of stream or outside
    of its segment.
    """
    form = raw("RGB", 16, 16)
    ended = False
    with Player() as player:
        for kind, *values in [("frame", 0, False), *steps, ("flush", True), ("frame", 0, False)]:
            if kind == "frame" and not ended:
                pts, discont = values
                segment = player.input.get_sticky_event(Gst.EventType.SEGMENT, 0)
                inside = (
                    segment is None
                    or pts == Gst.CLOCK_TIME_NONE
                    or segment.parse_segment().clip(Gst.Format.TIME, pts, pts + Gst.SECOND // 25)[0]
                )
                if inside:
                    _, error = player.push(*form, pts, discont)
                    assert error is None, error
                    assert player.left[-1] == form[1]
            elif kind == "caps":
                form = raw(*values)
            elif kind == "flush":
                player.source.send_event(Gst.Event.new_flush_start())
                player.source.send_event(Gst.Event.new_flush_stop(values[0]))
                ended = False
            elif kind == "segment":
                rate, start, time = values
                segment = Gst.Segment.new()
                segment.init(Gst.Format.TIME)
                segment.rate = rate
                segment.start = segment.position = 0 if start == Gst.CLOCK_TIME_NONE else start
                segment.time = 0 if time == Gst.CLOCK_TIME_NONE else time
                player.input.send_event(Gst.Event.new_segment(segment))
            elif kind == "gap":
                player.input.send_event(Gst.Event.new_gap(*values))
            elif kind == "stream-start":
                player.input.send_event(Gst.Event.new_stream_start(values[0]))
            elif kind == "eos":
                player.input.send_event(Gst.Event.new_eos())
                ended = True
            elif kind == "qos":
                player.style.get_static_pad("src").send_event(
                    Gst.Event.new_qos(Gst.QOSType.UNDERFLOW, *values)
                )
            elif kind == "custom":
                structure = Gst.Structure.new_empty(values[0])
                player.input.send_event(
                    Gst.Event.new_custom(Gst.EventType.CUSTOM_DOWNSTREAM, structure)
                )
            elif kind == "pause":
                player.pipeline.set_state(Gst.State.PAUSED)
                player.pipeline.set_state(Gst.State.PLAYING)
    assert player.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR) is None


if __name__ == "__main__":
    Gst.init([])
    what, count = sys.argv[1:]
    settings(
        max_examples=int(count),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(globals()[what])()
