"""What a buffer carries beside its samples goes on with it; what is about its memory doesn't."""

import sys

import pytest

from tests.hosts.gstreamer.test_formats import Frame, picture

ELEMENT = "neuralstyle name=style device=cpu precision=float32"
FRAMES = 6
# Each with the tags that GStreamer gives it: none, or some of video, size, orientation.
KEPT = (
    "GstVideoRegionOfInterestMeta",
    "GstVideoCropMeta",
    "GstVideoBarMeta",
    "GstVideoAFDMeta",
    "GstVideoCaptionMeta",
    "GstVideoTimeCodeMeta",
    "GstVideoOverlayCompositionMeta",
    "GstReferenceTimestampMeta",
    "GstProtectionMeta",
)
CAPS = "video/x-raw,format={},width={},height={},framerate=25/1"


def number_of(kind, buffer):
    from gi.repository import GObject

    return buffer.get_n_meta(GObject.type_from_name(f"{kind}API"))


def add_all(Gst, buffer, n):
    """One of each meta, of which some tell of frame n."""
    from gi.repository import GLib, GstVideo

    GstVideo.buffer_add_video_region_of_interest_meta(buffer, "face", n, 2, 10, 12)
    buffer.add_meta(GstVideo.video_crop_meta_get_info(), None)
    GstVideo.buffer_add_video_bar_meta(buffer, 0, True, 3, 40)
    GstVideo.buffer_add_video_afd_meta(
        buffer, 0, GstVideo.VideoAFDSpec.ATSC_A53, GstVideo.VideoAFDValue(8)
    )
    GstVideo.buffer_add_video_caption_meta(buffer, GstVideo.VideoCaptionType.CEA708_RAW, b"abc")
    day = GLib.DateTime.new_utc(2000, 1, 1, 0, 0, 0)
    GstVideo.buffer_add_video_time_code_meta(
        buffer,
        GstVideo.VideoTimeCode.new(25, 1, day, GstVideo.VideoTimeCodeFlags.NONE, 0, 0, 1, n, 0),
    )
    buffer.add_reference_timestamp_meta(
        Gst.Caps.from_string("timestamp/x-ntp"), n, Gst.CLOCK_TIME_NONE
    )
    buffer.add_protection_meta(Gst.Structure.new_empty("application/x-cenc"))
    text = Gst.Buffer.new_wrapped(bytes(4 * 4 * 4))
    GstVideo.buffer_add_video_meta(
        text, GstVideo.VideoFrameFlags.NONE, GstVideo.VideoFormat.BGRA, 4, 4
    )
    rectangle = GstVideo.VideoOverlayRectangle.new_raw(
        text, 1, 2, 4, 4, GstVideo.VideoOverlayFormatFlags.NONE
    )
    GstVideo.buffer_add_video_overlay_composition_meta(
        buffer, GstVideo.VideoOverlayComposition.new(rectangle)
    )
    buffer.add_parent_buffer_meta(text)


@pytest.mark.parametrize("lookahead", [0, 3])
def test_each_goes_on_with_its_frame(play, Gst, lookahead):
    from gi.repository import GstVideo

    layout = Frame(Gst, "I420", 64, 48, pad=16)
    pipeline = play(
        f"appsrc name=source format=time caps={CAPS.format('I420', 64, 48)} "
        f"! {ELEMENT} lookahead={lookahead} ! appsink name=sink sync=false"
    )
    source, sink = pipeline.get_by_name("source"), pipeline.get_by_name("sink")
    clock = Gst.Caps.from_string("timestamp/x-ntp")
    for n in range(FRAMES):
        buffer = Gst.Buffer.new_wrapped(layout.fill(picture("I420", 48, 64, n / 9)).tobytes())
        buffer.pts = n * Gst.SECOND // 25
        layout.meta(buffer)
        add_all(Gst, buffer, n)
        source.push_buffer(buffer)
    source.end_of_stream()
    for n in range(FRAMES):
        buffer = sink.try_pull_sample(60 * Gst.SECOND).get_buffer()
        assert {kind: number_of(kind, buffer) for kind in KEPT} == dict.fromkeys(KEPT, 1)
        assert GstVideo.buffer_get_video_region_of_interest_meta_id(buffer, 0).x == n
        assert buffer.get_reference_timestamp_meta(clock).timestamp == n
        assert number_of("GstParentBufferMeta", buffer) == 0
        # Where its rows are is the output's own, and not the input's.
        assert number_of("GstVideoMeta", buffer) <= 1
        meta = GstVideo.buffer_get_video_meta(buffer)
        assert buffer.get_size() == 64 * 48 * 3 // 2
        assert meta is None or list(meta.stride[:3]) == [64, 32, 32]


def test_an_applications_own_goes_on(play, Gst):
    """With tags that make GStreamer's own filters drop it where the size changes."""
    if Gst.Meta.get_info("NeuralStyleTestMeta") is None:
        Gst.Meta.register_custom("NeuralStyleTestMeta", ["video", "size", "detections"], None, None)
    pipeline = play(
        f"appsrc name=source format=time caps={CAPS.format('RGB', 64, 48)} "
        f"! {ELEMENT} ! appsink name=sink sync=false"
    )
    buffer = Gst.Buffer.new_wrapped(bytes(64 * 48 * 3))
    buffer.pts = 0
    buffer.add_custom_meta("NeuralStyleTestMeta")
    pipeline.get_by_name("source").push_buffer(buffer)
    sample = pipeline.get_by_name("sink").try_pull_sample(60 * Gst.SECOND)
    assert sample.get_buffer().get_custom_meta("NeuralStyleTestMeta") is not None


MANY = """
import sys
sys.path.append(".")
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstApp, GstVideo
from tests.hosts.gstreamer.test_metas import CAPS, ELEMENT, add_all
Gst.init([])
pipeline = Gst.parse_launch("appsrc name=source format=time max-buffers=4 block=true "
                            f"caps={CAPS.format('RGB', 16, 16)} ! {ELEMENT} lookahead=2 ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
source, sizes = pipeline.get_by_name("source"), []
for n in range(1200):
    buffer = Gst.Buffer.new_wrapped(bytes(16 * 16 * 3))
    buffer.pts = n * Gst.SECOND // 25
    add_all(Gst, buffer, n % 25)
    source.push_buffer(buffer)
    with open("/proc/self/statm") as file:
        sizes.append(int(file.read().split()[1]) * 4096)
source.end_of_stream()
ends = Gst.MessageType.EOS | Gst.MessageType.ERROR
message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, ends)
assert message.type == Gst.MessageType.EOS, message.parse_error()
pipeline.set_state(Gst.State.NULL)
print(max(sizes[:400]), max(sizes[400:]))
"""


def test_none_leaks(run, environment, request):
    done = run(
        sys.executable,
        "-P",
        "-c",
        MANY,
        cwd=request.config.rootpath,
        env={**environment, "GST_TRACERS": "leaks", "GST_DEBUG": "GST_TRACER:7"},
    )
    assert done.returncode == 0, done.stderr[-8000:]
    early, late = map(int, done.stdout.split())
    assert late < 1.02 * early
    assert "object-alive.class" in done.stderr, "the tracer did not run"
    assert "object-alive, type-name=(string)GstBuffer" not in done.stderr
