"""The element `neuralstyle` as a user runs it: by `gst-launch-1.0`, with its messages and its exit
code.

What comes out is compared bit for bit with what `Stylizer` gives for the same frames.
"""

import ctypes
import gc
import os
import re
import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

ELEMENT = "neuralstyle name=style device=cpu precision=float32"
FILL = 201  # what the input's alpha or padding byte holds


def pack(frames, layout, stride):
    """(N, H, W, 3) RGB -> (N, H, stride) bytes of packed `layout`."""
    count, height, width, _ = frames.shape
    rows = np.full((count, height, stride), 77, np.uint8)
    for place, channel in enumerate(layout):
        values = frames[..., "RGB".index(channel)] if channel in "RGB" else FILL
        rows[:, :, place : width * len(layout) : len(layout)] = values
    return rows


def unpack(data, layout, width, height):
    """Bytes of packed `layout` in GStreamer's default strides -> (N, H, W, C): R, G, B, and alpha
    or padding.
    """
    rows = np.frombuffer(data, np.uint8).reshape(-1, height, default_stride(layout, width))
    packed = rows[:, :, : width * len(layout)].reshape(len(rows), height, width, len(layout))
    return packed[
        ..., sorted(range(len(layout)), key=lambda place: ("RGB" + layout).index(layout[place]))
    ]


def default_stride(layout, width):
    return -(-width * len(layout) // 4) * 4


def raw(path, layout, width, height, more=""):
    return (
        f"filesrc location={path} ! rawvideoparse format={layout.lower()} width={width} "
        f"height={height} framerate=25/1 {more}"
    )


def test_inspect_shows_the_element(run, environment):
    shown = run("gst-inspect-1.0", "neuralstyle", env=environment)
    assert shown.returncode == 0, shown.stderr
    assert (
        "format: { (string)GBR, (string)RGB, (string)BGR, (string)RGBx, (string)BGRx, "
        in shown.stdout
    )
    assert re.search(r"^  stats +: \w", shown.stdout, re.M), shown.stdout
    assert re.search(r"^  qos .*\n.*\n +Boolean. Default: false", shown.stdout, re.M)


def test_a_plain_pipeline(launch, stylize, tmp_path):
    done = launch(
        f"videotestsrc num-buffers=4 pattern=ball motion=sweep ! video/x-raw,width=64,height=48 ! "
        "videoconvert ! video/x-raw,format=RGB ! tee name=t ! queue ! filesink "
        f"location={tmp_path}/in t. ! queue ! videoconvert ! {ELEMENT} style=candy ! videoconvert "
        f"! video/x-raw,format=RGB ! filesink location={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    frames, stylized = (
        unpack((tmp_path / name).read_bytes(), "RGB", 64, 48) for name in ("in", "out")
    )
    assert len(frames) == 4
    np.testing.assert_array_equal(stylized, stylize(frames))


@pytest.mark.parametrize("layout", ["RGB", "BGR", "RGBx", "BGRx"])
def test_odd_width_and_padded_rows(launch, stylize, clip, tmp_path, layout):
    """rawvideoparse tells where the rows are in each buffer's GstVideoMeta."""
    frames, stride, offset = clip[:3, :47, :61], 272, 16
    (tmp_path / "in").write_bytes(
        b"".join(b"\0" * offset + rows.tobytes() for rows in pack(frames, layout, stride))
    )
    padded = f"plane-strides=<{stride}> plane-offsets=<{offset}> frame-size={offset + 47 * stride}"
    done = launch(
        f"{raw(tmp_path / 'in', layout, 61, 47, padded)} ! {ELEMENT} ! filesink "
        f"location={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), layout, 61, 47)
    np.testing.assert_array_equal(stylized[..., :3], stylize(frames))
    assert (stylized[..., 3:] == FILL).all()


def test_a_scene_cut_starts_afresh_and_is_posted(launch, stylize, clip, tmp_path):
    """The clip's frame 5 is a hard cut."""
    (tmp_path / "in").write_bytes(clip.tobytes())
    done = launch(
        f"{raw(tmp_path / 'in', 'RGB', 64, 48)} ! {ELEMENT} ! filesink location={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), "RGB", 64, 48)
    np.testing.assert_array_equal(stylized, np.concatenate([stylize(clip[:5]), stylize(clip[5:])]))
    posted = re.findall(
        r"neuralstyle-scene-cut, timestamp=\(guint64\)(\d+), stream-time=\(guint64\)(\d+), "
        r"running-time=\(guint64\)(\d+), frame=\(guint64\)(\d+)",
        done.stdout,
    )
    assert posted == [("200000000", "200000000", "200000000", "5")]


def test_a_source_of_files_has_no_times_in_its_segment(launch, clip, stylize, tmp_path):
    frames = clip[3:7]  # of which the third is a cut
    for n, frame in enumerate(frames):
        (tmp_path / f"{n}.rgb").write_bytes(frame.tobytes())
    done = launch(
        f"multifilesrc location={tmp_path}/%d.rgb stop-index=3 "
        f'caps="video/x-raw,format=RGB,width=64,height=48,framerate=25/1" ! {ELEMENT} ! filesink '
        f"location={tmp_path}/out"
    )
    assert done.returncode == 0 and "gst_segment" not in done.stderr, done.stderr
    out = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(-1, 48, 64, 3)
    np.testing.assert_array_equal(out, np.concatenate([stylize(frames[:2]), stylize(frames[2:])]))
    assert re.search(
        r"neuralstyle-scene-cut, timestamp=\(guint64\)\d+, "
        r"stream-time=\(guint64\)18446744073709551615, ",
        done.stdout,
    )


def test_properties_reach_the_stylizer(launch, stylize, clip, tmp_path):
    (tmp_path / "in").write_bytes(clip.tobytes())
    done = launch(
        f"{raw(tmp_path / 'in', 'RGB', 64, 48)} ! {ELEMENT} strength=0.5 coherence=0.25 "
        f"preserve-color=true scene-cut=0 ! filesink location={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    stylized = unpack((tmp_path / "out").read_bytes(), "RGB", 64, 48)
    options = {"strength": 0.5, "coherence": 0.25, "preserve_color": True, "scene_cut": 0.0}
    np.testing.assert_array_equal(stylized, stylize(clip, **options))
    for name in options:
        others = {key: value for key, value in options.items() if key != name}
        assert not np.array_equal(stylized, stylize(clip, **others)), (
            f"{name} makes no difference here"
        )


def fails(launch, properties, **more):
    """An error message of the element's, and an exit code other than 0."""
    done = launch(
        f"videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=64,height=48 ! "
        f"neuralstyle {properties} ! fakesink",
        **more,
    )
    assert done.returncode > 0, done.stdout + done.stderr
    return re.search(
        r"^ERROR: from element \S*GstNeuralStyle:neuralstyle0: (.*)", done.stderr, re.M
    )[1]


def test_unknown_style_lists_those_that_exist(launch):
    message = fails(launch, "style=nosuch")
    assert "nosuch" in message and "candy" in message


def test_unknown_net_and_precision(launch):
    assert "nosuch" in fails(launch, "net=nosuch")
    assert "float8" in fails(launch, "precision=float8")


def test_missing_model_folder(launch, tmp_path):
    assert f"{tmp_path}/nowhere" in fails(launch, f"model-dir={tmp_path}/nowhere")


def test_truncated_model(launch, tmp_path, model_dir):
    (tmp_path / "candy.safetensors").write_bytes(
        (model_dir / "candy.safetensors").read_bytes()[:-1000]
    )
    assert f"{tmp_path}/candy.safetensors" in fails(launch, f"model-dir={tmp_path}")


def test_foreign_model(launch, tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "candy.safetensors")
    assert f"{tmp_path}/candy.safetensors" in fails(launch, f"model-dir={tmp_path}")


def test_device_that_is_not_there(launch):
    assert "cuda:99" in fails(launch, "device=cuda:99")


def test_python_without_torch(launch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch in this Python')\n")
    message = fails(
        launch, "", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in message
    assert "no torch in this Python" in message and "Install" in message


def test_a_frame_that_fails_half_way(launch, tmp_path):
    """Three frames, then one smaller than its caps say: an error, and none of it comes out."""
    for n, size in enumerate((64, 64, 64, 48, 64)):
        (tmp_path / f"{n}.rgb").write_bytes(bytes(64 * size * 3))
    caps = "video/x-raw,format=RGB,width=64,height=64,framerate=25/1"
    source = f'multifilesrc location={tmp_path}/%d.rgb stop-index=4 caps="{caps}"'
    sink = f"filesink location={tmp_path}/out buffer-mode=unbuffered"
    done = launch(f"{source} ! {ELEMENT} ! {sink}")
    assert done.returncode > 0, done.stdout
    said = re.search(r"^ERROR: from element \S*GstNeuralStyle:style: (.*)", done.stderr, re.M)
    assert said and f"{64 * 48 * 3} bytes" in said[1] and "64x64" in said[1], done.stderr
    assert len((tmp_path / "out").read_bytes()) == 3 * 64 * 64 * 3


def test_each_fresh_start_is_logged(launch, tmp_path):
    source = "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=64,height=48 ! c."
    done = launch(
        f"concat name=c ! {ELEMENT} ! fakesink {source} {source}", GST_DEBUG="neuralstyle:5"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"DEBUG +neuralstyle .*<style> reset: stream-start", done.stderr), done.stderr


def test_sizes_that_the_networks_do_not_take(launch, run, environment, tmp_path):
    """The caps tell: what can scale does, and what can't is an error."""
    shown = run("gst-inspect-1.0", "neuralstyle", env=environment)
    assert shown.stdout.count("[ 16, 2147483647 ]") >= 4 and "[ 1, 2147483647 ]" not in shown.stdout
    small = "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=8,height=8"
    done = launch(f"{small} ! videoscale ! {ELEMENT} ! filesink location={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out").read_bytes()) == 2 * 16 * 16 * 3
    assert launch(f"{small} ! {ELEMENT} ! fakesink").returncode > 0


def test_nothing_critical_is_said(launch):
    source = "videotestsrc num-buffers=2 ! video/x-raw,width=64,height=48"
    done = launch(f"{source} ! {ELEMENT} ! fakesink", G_DEBUG="fatal-criticals")
    assert done.returncode == 0 and "CRITICAL" not in done.stderr, done.stderr


@pytest.mark.parametrize("put", ["by a description", "by hand", "and taken out again"])
def test_elements_are_freed(Gst, put):
    """However it was made, an element that was in a bin goes with it, once."""
    left = []
    for _ in range(100):
        if put == "by a description":
            pipeline = Gst.parse_launch("neuralstyle name=style ! fakesink")
            element = pipeline.get_by_name("style")
        else:
            pipeline, element = Gst.Pipeline(), Gst.ElementFactory.make("neuralstyle")
            pipeline.add(element)
        assert element.__grefcount__ == 2  # the wrapper's, and the bin's
        if put == "and taken out again":
            pipeline.remove(element)
            assert element.__grefcount__ == 1
        left.append(weakref.ref(element))
        del element, pipeline
    gc.collect()
    assert not any(one() for one in left)


def test_an_element_that_c_makes_is_floating(Gst):
    """Who made it and drops it, whether it was put anywhere or not, drops it for good."""
    library, pointer = ctypes.CDLL("libgstreamer-1.0.so.0"), ctypes.c_void_p
    library.gst_element_factory_make.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    library.gst_element_factory_make.restype = pointer
    library.gst_object_ref_sink.argtypes = library.gst_object_unref.argtypes = (pointer,)
    kind = type(Gst.ElementFactory.make("neuralstyle"))
    gc.collect()
    before = sum(type(one) is kind for one in gc.get_objects())
    for sink in (False, True) * 50:
        element = library.gst_element_factory_make(b"neuralstyle", None)
        if sink:
            library.gst_object_ref_sink(element)
        library.gst_object_unref(element)
    gc.collect()
    assert sum(type(one) is kind for one in gc.get_objects()) <= before


def test_the_plugin_path_alone_is_enough(launch, plugin_path):
    """Without the virtual environment in PATH: the element finds its packages from where it is
    installed.
    """
    if Path(sys.prefix) not in plugin_path.parents:
        pytest.skip(f"the wheel is not installed in {sys.prefix}")
    tools = Path(shutil.which("gst-launch-1.0")).parent
    done = launch(
        f"videotestsrc num-buffers=1 ! video/x-raw,width=64,height=48 ! {ELEMENT} ! fakesink",
        PATH=f"{tools}:/usr/bin:/bin",
        PYTHONPATH="",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("qos", ["false", "true"])
def test_nothing_leaks(launch, qos):
    """Frames come faster than they can be stylized, so the sink sends QoS events; with qos frames
    are dropped.
    """
    done = launch(
        f"videotestsrc num-buffers=200 is-live=true ! video/x-raw,format=I420,width=64,height=48,"
        f"framerate=2000/1 ! {ELEMENT} qos={qos} ! fakesink sync=true qos=true",
        GST_TRACERS="leaks",
        GST_DEBUG="GST_TRACER:7",
    )
    assert done.returncode == 0, done.stderr
    assert "object-alive.class" in done.stderr, "the tracer did not run"
    assert not re.findall(r"object-alive, type-name=\(string\)\w.*", done.stderr)
