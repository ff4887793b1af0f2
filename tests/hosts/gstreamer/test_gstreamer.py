"""The element `neuralstyle` in real pipelines.

First what a user runs, `gst-launch-1.0` with its exit code; then appsrc and appsink, where a test must steer each
buffer. What comes out is compared bit for bit with what `Stylizer` gives for the same frames.
"""

import inspect
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ELEMENT = "neuralstyle name=style device=cpu precision=float32"
LAYOUTS = ("RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "RGBA", "BGRA", "ARGB", "ABGR")
FILL = 201  # what the input's alpha or padding byte holds

pytestmark = pytest.mark.usefixtures("model_dir")


def pack(frames, layout, stride):
    """(N, H, W, 3) RGB -> (N, H, stride) bytes of packed `layout`."""
    count, height, width, _ = frames.shape
    rows = np.full((count, height, stride), 77, np.uint8)
    for place, channel in enumerate(layout):
        values = frames[..., "RGB".index(channel)] if channel in "RGB" else FILL
        rows[:, :, place:width * len(layout):len(layout)] = values
    return rows


def unpack(data, layout, width, height):
    """Bytes of packed `layout` in GStreamer's default strides -> (N, H, W, C): R, G, B, and alpha or padding."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, height, default_stride(layout, width))
    packed = rows[:, :, :width * len(layout)].reshape(len(rows), height, width, len(layout))
    return packed[..., sorted(range(len(layout)), key=lambda place: ("RGB" + layout).index(layout[place]))]


def default_stride(layout, width):
    return -(-width * len(layout) // 4) * 4


@pytest.fixture(scope="module")
def stylize():
    """The reference: (N, H, W, 3) uint8 frames of one clip -> the same, by `Stylizer` itself."""
    import torch
    from vsneuralstyle import Stylizer, pixels

    torch.set_num_threads(1)

    def run(frames, **options):
        stylizer = Stylizer("candy", device="cpu", precision="float32", **options)
        stylized = np.empty_like(frames)
        for frame, target in zip(frames, stylized):
            pixels.rgb_to_packed(stylizer.stylize(pixels.packed_to_rgb(frame)), target)
        return stylized

    return run


# ---- gst-launch-1.0 and gst-inspect-1.0 ------------------------------------------------------------------------------


def raw(path, layout, width, height, more=""):
    return (f"filesrc location={path} ! rawvideoparse format={layout.lower()} width={width} height={height} "
            f"framerate=25/1 {more}")


def test_inspect_shows_the_element(run, environment):
    shown = run("gst-inspect-1.0", "neuralstyle", env=environment)
    assert shown.returncode == 0, shown.stderr
    assert "{ (string)RGB, (string)BGR, (string)RGBx, (string)BGRx, " in shown.stdout
    for name in ("style", "net", "device", "precision", "model-path", "strength", "coherence", "preserve-color",
                 "scene-cut", "frames", "cuts"):
        assert re.search(rf"^  {name} +: \w", shown.stdout, re.M), f"no property {name}:\n{shown.stdout}"
    assert re.search(r"^  qos .*\n.*\n +Boolean. Default: false", shown.stdout, re.M)


def test_a_plain_pipeline(launch, stylize, tmp_path):
    done = launch(f"videotestsrc num-buffers=4 pattern=ball motion=sweep ! video/x-raw,width=64,height=48 ! "
                  f"videoconvert ! video/x-raw,format=RGB ! tee name=t ! queue ! filesink location={tmp_path}/in "
                  f"t. ! queue ! videoconvert ! {ELEMENT} style=candy ! videoconvert ! video/x-raw,format=RGB ! "
                  f"filesink location={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    frames, stylized = (unpack((tmp_path / name).read_bytes(), "RGB", 64, 48) for name in ("in", "out"))
    assert len(frames) == 4
    np.testing.assert_array_equal(stylized, stylize(frames))


@pytest.mark.parametrize("layout", ["RGB", "BGR", "RGBx", "BGRx"])
def test_odd_width_and_padded_rows(launch, stylize, clip, tmp_path, layout):
    """rawvideoparse tells where the rows are in each buffer's GstVideoMeta."""
    frames, stride, offset = clip[:3, :47, :61], 272, 16
    (tmp_path / "in").write_bytes(b"".join(b"\0" * offset + rows.tobytes() for rows in pack(frames, layout, stride)))
    padded = f"plane-strides=<{stride}> plane-offsets=<{offset}> frame-size={offset + 47 * stride}"
    done = launch(f"{raw(tmp_path / 'in', layout, 61, 47, padded)} ! {ELEMENT} ! filesink location={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), layout, 61, 47)
    np.testing.assert_array_equal(stylized[..., :3], stylize(frames))
    assert (stylized[..., 3:] == FILL).all()


def test_a_scene_cut_starts_afresh_and_is_posted(launch, stylize, clip, tmp_path):
    """The clip's frame 5 is a hard cut."""
    (tmp_path / "in").write_bytes(clip.tobytes())
    done = launch(f"{raw(tmp_path / 'in', 'RGB', 64, 48)} ! {ELEMENT} ! filesink location={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), "RGB", 64, 48)
    np.testing.assert_array_equal(stylized, np.concatenate([stylize(clip[:5]), stylize(clip[5:])]))
    posted = re.findall(r"neuralstyle-scene-cut, timestamp=\(guint64\)(\d+), stream-time=\(guint64\)(\d+), "
                        r"running-time=\(guint64\)(\d+), frame=\(guint64\)(\d+)", done.stdout)
    assert posted == [("200000000", "200000000", "200000000", "5")]


def test_properties_reach_the_stylizer(launch, stylize, clip, tmp_path):
    (tmp_path / "in").write_bytes(clip.tobytes())
    done = launch(f"{raw(tmp_path / 'in', 'RGB', 64, 48)} ! {ELEMENT} strength=0.5 coherence=0.25 preserve-color=true "
                  f"scene-cut=0 ! filesink location={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), "RGB", 64, 48)
    options = {"strength": 0.5, "coherence": 0.25, "preserve_color": True, "scene_cut": 0.0}
    np.testing.assert_array_equal(stylized, stylize(clip, **options))
    for name in options:
        others = {key: value for key, value in options.items() if key != name}
        assert not np.array_equal(stylized, stylize(clip, **others)), f"{name} makes no difference here"


def fails(launch, properties, **more):
    """An error message of the element's, and an exit code other than 0."""
    done = launch(f"videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=64,height=48 ! "
                  f"neuralstyle {properties} ! fakesink", **more)
    assert done.returncode > 0, done.stdout + done.stderr
    return re.search(r"^ERROR: from element \S*GstNeuralStyle:neuralstyle0: (.*)", done.stderr, re.M)[1]


def test_unknown_style_lists_those_that_exist(launch):
    message = fails(launch, "style=nosuch")
    assert "nosuch" in message and "candy" in message


def test_unknown_net_and_precision(launch):
    assert "nosuch" in fails(launch, "net=nosuch")
    assert "float8" in fails(launch, "precision=float8")


def test_missing_model_folder(launch, tmp_path):
    assert f"{tmp_path}/nowhere" in fails(launch, f"model-path={tmp_path}/nowhere")


def test_truncated_model(launch, tmp_path, model_dir):
    (tmp_path / "candy.safetensors").write_bytes((model_dir / "candy.safetensors").read_bytes()[:-1000])
    assert f"{tmp_path}/candy.safetensors" in fails(launch, f"model-path={tmp_path}")


def test_foreign_model(launch, tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "candy.safetensors")
    assert f"{tmp_path}/candy.safetensors" in fails(launch, f"model-path={tmp_path}")


def test_device_that_is_not_there(launch):
    assert "cuda:99" in fails(launch, "device=cuda:99")


def test_python_without_torch(launch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch in this Python')\n")
    message = fails(launch, "", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in message
    assert "no torch in this Python" in message and "Install" in message


def test_a_frame_that_fails_half_way(launch, tmp_path):
    """Three frames, then some that are too small for the networks: an error, and none of those comes out."""
    source = "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width={0},height={0} ! c."
    done = launch(f"concat name=c ! {ELEMENT} ! filesink location={tmp_path}/out "
                  f"{source.format(64)} {source.format(8)}")
    assert done.returncode > 0, done.stdout
    assert re.search(r"^ERROR: from element \S*GstNeuralStyle:style: .*8x8.*16x16", done.stderr, re.M), done.stderr
    assert len((tmp_path / "out").read_bytes()) == 3 * 64 * 64 * 3


def test_the_plugin_path_alone_is_enough(launch, plugin_path):
    """Without the virtual environment in PATH: the element finds its packages from where it is installed."""
    if Path(sys.prefix) not in plugin_path.parents:
        pytest.skip(f"the wheel is not installed in {sys.prefix}")
    tools = Path(shutil.which("gst-launch-1.0")).parent
    done = launch(f"videotestsrc num-buffers=1 ! video/x-raw,width=64,height=48 ! {ELEMENT} ! fakesink",
                  PATH=f"{tools}:/usr/bin:/bin", PYTHONPATH="")
    assert done.returncode == 0, done.stderr


def test_nothing_leaks(launch):
    done = launch(f"videotestsrc num-buffers=5 ! video/x-raw,width=64,height=48 ! {ELEMENT} ! fakesink",
                  GST_TRACERS="leaks", GST_DEBUG="GST_TRACER:7")
    assert done.returncode == 0, done.stderr
    assert "object-alive.class" in done.stderr, "the tracer did not run"
    assert not re.findall(r"object-alive, type-name=\(string\)\w.*", done.stderr)


# ---- steered buffer by buffer ----------------------------------------------------------------------------------------


class Pipeline:
    """appsrc ! neuralstyle ! appsink; `push` hands in one frame and returns what comes out."""

    def __init__(self, Gst, properties):
        self.Gst = Gst
        self.pipeline = Gst.parse_launch(f"appsrc name=source format=time ! {ELEMENT} {properties} ! "
                                         "appsink name=sink sync=false")
        self.source, self.style, self.sink = map(self.pipeline.get_by_name, ("source", "style", "sink"))
        self.caps = None
        self.pipeline.set_state(Gst.State.PLAYING)

    def push(self, frame, number, discont=False, layout="RGB", stride=None):
        """`number` is the PTS in frames of 1/25 s. A `stride` goes into a GstVideoMeta, and its input is padded."""
        height, width = frame.shape[:2]
        rows = pack(frame[None], layout, stride or default_stride(layout, width))
        self.send(rows.tobytes(), (layout, width, height), number, discont, stride)
        sample = self.sink.try_pull_sample(60 * self.Gst.SECOND)
        assert sample is not None, self.error()
        buffer = sample.get_buffer()
        return unpack(buffer.extract_dup(0, buffer.get_size()), layout, width, height)[0]

    def send(self, data, caps, number, discont=False, stride=None):
        from gi.repository import GstVideo

        layout, width, height = caps
        if caps != self.caps:
            self.caps = caps
            self.source.set_property("caps", self.Gst.Caps.from_string(
                f"video/x-raw, format={layout}, width={width}, height={height}, framerate=25/1"))
        buffer = self.Gst.Buffer.new_wrapped(data)
        buffer.duration = self.Gst.SECOND // 25
        buffer.pts = number * buffer.duration
        if discont:
            buffer.set_flags(self.Gst.BufferFlags.DISCONT)
        if stride:
            GstVideo.buffer_add_video_meta_full(
                buffer, GstVideo.VideoFrameFlags.NONE, GstVideo.VideoFormat.from_string(layout), width, height, 1,
                [0, 0, 0, 0], [stride, 0, 0, 0])
        self.source.push_buffer(buffer)

    def error(self, seconds=0):
        message = self.pipeline.get_bus().timed_pop_filtered(seconds * self.Gst.SECOND, self.Gst.MessageType.ERROR)
        return message and message.parse_error()[0].message


@pytest.fixture
def pipeline(Gst):
    made = []

    def make(properties="scene-cut=0"):
        made.append(Pipeline(Gst, properties))
        return made[-1]

    yield make
    for each in made:
        each.pipeline.set_state(Gst.State.NULL)


def check(stylized, frames, stylize, restart=None):
    """That `stylized` is the clip `frames`, begun afresh at frame `restart`, where that makes a difference."""
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
    defaults["model_path"] = defaults.pop("model_dir")
    assert {name: element.get_property(name.replace("_", "-")) for name in defaults} == defaults


@pytest.mark.parametrize("numbers, discont, restart", [
    pytest.param((0, 1, 2, 3), None, None, id="steady"),
    pytest.param((0, 1, 10, 11), None, None, id="frames dropped upstream"),
    pytest.param((0, 1, 1, 2), None, None, id="a timestamp twice"),
    pytest.param((0, 1, 2, 3), 2, 2, id="discont"),
    pytest.param((50, 51, 10, 11), None, 2, id="back"),
    pytest.param((0, 1, 100, 101), None, 2, id="far ahead"),
])
def test_timestamps_and_discont(pipeline, stylize, clip, numbers, discont, restart):
    one = pipeline()
    stylized = [one.push(frame, number, n == discont) for n, (frame, number) in enumerate(zip(clip, numbers))]
    check(stylized, clip[:4], stylize, restart)


@pytest.mark.parametrize("event", ["flush", "stream-start"])
def test_flush_and_new_stream(pipeline, stylize, clip, Gst, event):
    one = pipeline()
    stylized = [one.push(clip[0], 0), one.push(clip[1], 1)]
    if event == "flush":
        one.source.send_event(Gst.Event.new_flush_start())
        one.source.send_event(Gst.Event.new_flush_stop(True))
    else:
        one.style.get_static_pad("sink").send_event(Gst.Event.new_stream_start("another"))
    stylized += [one.push(clip[2], 2), one.push(clip[3], 3)]
    check(stylized, clip[:4], stylize, 2)


@pytest.mark.parametrize("layout, width, height", [("RGB", 61, 47), ("BGRx", 64, 48)])
def test_new_caps(pipeline, stylize, clip, layout, width, height):
    one = pipeline()
    check([one.push(clip[0], 0), one.push(clip[1], 1)], clip[:2], stylize)
    after = clip[2:4, :height, :width]
    stylized = [one.push(frame, n, layout=layout)[..., :3] for n, frame in enumerate(after, start=2)]
    check(stylized, after, stylize)


def test_stop_and_start(pipeline, stylize, clip, Gst):
    one = pipeline()
    for _ in range(2):
        check([one.push(frame, n) for n, frame in enumerate(clip[:3])], clip[:3], stylize)
        assert one.style.get_property("frames") == 3
        one.pipeline.set_state(Gst.State.NULL)
        one.pipeline.set_state(Gst.State.PLAYING)


@pytest.mark.parametrize("stride", [None, 320])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(pipeline, stylize, clip, layout, stride):
    frames = clip[:2, :47, :61]
    one = pipeline()
    stylized = np.stack([one.push(frame, n, layout=layout, stride=stride) for n, frame in enumerate(frames)])
    np.testing.assert_array_equal(stylized[..., :3], stylize(frames))
    assert (stylized[..., 3:] == FILL).all()


def test_properties_while_playing(pipeline, stylize, clip):
    one = pipeline()
    one.push(clip[0], 0)
    one.style.set_property("strength", 0.0)
    np.testing.assert_array_equal(one.push(clip[1], 1), clip[1])
    one.style.set_property("strength", 1.0)
    np.testing.assert_array_equal(one.push(clip[2], 2), stylize(clip[:3])[2])


def test_style_at_the_next_start(pipeline, stylize, clip, Gst):
    one = pipeline()
    one.push(clip[0], 0)
    one.style.set_property("style", "nosuch")
    np.testing.assert_array_equal(one.push(clip[1], 1), stylize(clip[:2])[1])
    one.pipeline.set_state(Gst.State.NULL)
    assert one.pipeline.set_state(Gst.State.PAUSED) == Gst.StateChangeReturn.FAILURE
    assert "nosuch" in one.error()


def test_a_buffer_smaller_than_its_caps(pipeline, clip, Gst):
    one = pipeline()
    one.push(clip[0], 0)
    assert one.style.get_static_pad("sink").chain(Gst.Buffer.new_wrapped(b"\0" * 100)) == Gst.FlowReturn.ERROR
    assert "100 bytes" in one.error()
    assert one.sink.try_pull_sample(0) is None
