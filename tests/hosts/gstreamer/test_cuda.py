"""CUDA memory, as far as can be told without a GPU: what is offered, and the whole way of a frame
with host memory in the GPU memory's place: caps, queries, pools, mapping, and tensors over what was
mapped.
"""

import json
import sys

import numpy as np
import pytest

from tests.hosts.gstreamer.test_formats import Frame, picture

FORMATS = ("RGBA", "BGRx", "I420", "NV12")
WRONG = {
    "none": "put a cudaupload before",
    "another context": "another context than PyTorch's",
    "networks on a CPU": "set device=cuda",
}
# Reads a list of runs, writes what each gave. The element is the installed one; the CUDA libraries
# are stand-ins.
STAND_IN = """
import ctypes, json, sys
from types import SimpleNamespace
import gi
gi.require_version("GstApp", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstApp, GstVideo
Gst.init([])
sys.path.insert(0, sys.argv[1] + "/python")
import gstneuralstyle_cuda as cuda
from vsneuralstyle.video import pixels

# What lies in host memory by PyTorch's operators, too: the kernels' last digits are others.
pixels._near = lambda dtype, device: False
video = ctypes.CDLL("libgstvideo-1.0.so.0")
video.gst_video_buffer_pool_new.restype = ctypes.c_void_p
memory, asked, context = None, [], cuda.context
cuda.available, cuda.libraries = lambda: True, lambda: (SimpleNamespace(
    gst_cuda_buffer_pool_new=lambda context: (
        asked.append("pool") or video.gst_video_buffer_pool_new()),
    gst_cuda_context_get_handle=lambda context: context if memory == "another context" else 1,
    gst_cuda_handle_context_query=lambda element, query, context: asked.append("context") or 0,
    gst_cuda_memory_sync=lambda memory: asked.append("sync"),
    gst_is_cuda_memory=lambda address: memory != "none"), None)
cuda.finish = lambda device: asked.append("finish")
cuda.context = lambda device: context(device) if memory == "networks on a CPU" else 1
import gstneuralstyle
Gst.Element.register(None, "standin", 0, gstneuralstyle.GstNeuralStyle)

def play(form, width, height, strides, offsets, frames):
    feature = "" if memory == "host" else "(memory:CUDAMemory)"
    pipeline = Gst.parse_launch(
        "appsrc name=source format=time ! standin name=style precision=float32 scene-cut=0 ! "
        "appsink name=sink sync=false")
    source, style, sink = map(pipeline.get_by_name, ("source", "style", "sink"))
    if memory == "networks on a CPU":
        style.set_property("device", "cpu")
    source.set_property("caps", Gst.Caps.from_string(
        f"video/x-raw{feature}, format={form}, width={width}, height={height}, framerate=25/1"))
    pipeline.set_state(Gst.State.PLAYING)
    style.get_static_pad("sink").query(Gst.Query.new_context("gst.cuda.context"))
    for n, frame in enumerate(frames):
        buffer = Gst.Buffer.new_wrapped(bytes.fromhex(frame))
        buffer.pts = n * Gst.SECOND // 25
        none = [0] * (4 - len(strides))
        GstVideo.buffer_add_video_meta_full(
            buffer, GstVideo.VideoFrameFlags.NONE, GstVideo.VideoFormat.from_string(form),
            width, height, len(strides), offsets + none, strides + none)
        source.push_buffer(buffer)
    source.end_of_stream()
    out = []
    while (sample := sink.try_pull_sample(60 * Gst.SECOND)) is not None:
        assert sample.get_caps().get_features(0).contains("memory:CUDAMemory") == bool(feature)
        out.append(sample.get_buffer().extract_dup(0, sample.get_buffer().get_size()).hex())
    error = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    return {"out": out, "asked": " ".join(asked), "error": error and error.parse_error()[0].message}

results = []
for memory, form, *layout in json.load(sys.stdin):
    asked.clear()
    results.append([memory, form, play(form, *layout)])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def through(Gst, run, environment, plugin_path):
    """(memory, format) -> what came out for two frames, all of whose planes have one pitch, as in
    CUDA memory.
    """

    def one(memory, form):
        layout = Frame(Gst, form, 64, 48)
        pitch, rows = layout.strides[0] + 16, (48, 24, 24)
        layout.strides = [pitch] * len(layout.strides)
        layout.offsets = [sum(rows[:n]) * pitch for n in range(len(layout.strides))]
        layout.size = sum(rows[: len(layout.strides)]) * pitch
        frames = [layout.fill(picture(form, 48, 64, phase)).tobytes().hex() for phase in (0, 0.5)]
        return memory, form, 64, 48, layout.strides, layout.offsets, frames

    runs = [one(memory, form) for form in FORMATS for memory in ("host", "device")]
    runs += [one(memory, "NV12") for memory in WRONG]
    done = run(
        sys.executable,
        "-P",
        "-c",
        STAND_IN,
        plugin_path,
        input=json.dumps(runs),
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return {(memory, form): result for memory, form, result in json.loads(done.stdout)}


def test_offered_only_where_it_works(Gst, run, environment):
    shown = run("gst-inspect-1.0", "neuralstyle", env=environment)
    works = (
        Gst.version()[:2] >= (1, 24)
        and run(
            sys.executable,
            "-P",
            "-c",
            "import ctypes\nctypes.CDLL('libgstcuda-1.0.so.0').gst_cuda_memory_sync\n"
            "d, n = ctypes.CDLL('libcuda.so.1'), ctypes.c_int()\n"
            "assert d.cuInit(0) == d.cuDeviceGetCount(ctypes.byref(n)) == 0 and n.value",
        ).returncode
        == 0
    )
    assert ("CUDAMemory" in shown.stdout) == works
    assert "video/x-raw\n" in shown.stdout


@pytest.mark.parametrize("form", FORMATS)
def test_frames_come_out_as_from_host_memory(through, form):
    host, device = through["host", form], through["device", form]
    assert device["error"] is None and device["out"] == host["out"] and len(host["out"]) == 2
    assert len(np.unique(np.frombuffer(bytes.fromhex(host["out"][0]), np.uint8))) > 10
    # Who has a context, and a pool for what goes out; then for each frame, in and out, waiting for
    # others and PyTorch.
    asked = device["asked"].split()
    assert sorted(asked[:2]) == ["context", "pool"] and asked[2:] == 4 * ["sync", "finish"]
    assert host["asked"] == "context"


@pytest.mark.parametrize("memory", WRONG)
def test_what_cannot_be_is_an_error(through, memory):
    result = through[memory, "NV12"]
    assert WRONG[memory] in result["error"] and not result["out"]
