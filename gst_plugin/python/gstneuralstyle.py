"""The GStreamer element ``neuralstyle``: stylizes packed RGB video, coherently over time.

GStreamer's Python loader imports this file while it scans for plugins, so it imports nothing but the bindings: PyTorch
and vsneuralstyle come in when the element starts. A module that fails to import here would be cached by the registry
as a plugin without features, and the user would see "no element neuralstyle" instead of the reason.
"""

import ctypes
import functools
import importlib.util
import sys
import traceback
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstVideo  # noqa: E402  (the versions come first)

Gst.init_python()

FORMATS = ("RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "RGBA", "BGRA", "ARGB", "ABGR")
CAPS = Gst.Caps.from_string(
    f"video/x-raw, format=(string){{ {', '.join(FORMATS)} }}, width=(int)[ 1, max ], height=(int)[ 1, max ], "
    "framerate=(fraction)[ 0, max ]"
)

# A frame that comes this much later than its predecessor's end is another place in the stream, not the next moment of
# the same shot. Below it (frames dropped upstream, a variable frame rate) the flow network still finds the motion.
MAX_GAP = Gst.SECOND

_AT_START = GObject.ParamFlags.READWRITE | GObject.ParamFlags(Gst.PARAM_MUTABLE_READY)
_AT_ANY_TIME = GObject.ParamFlags.READWRITE | GObject.ParamFlags(Gst.PARAM_MUTABLE_PLAYING)

# What the user sets: (type, nick, blurb, [minimum, maximum,] default, flags). Named as the arguments of Stylizer are.
SETTINGS = {
    "style": (str, "Style", "Name of the style; an unknown one gives an error that lists those that exist",
              "candy", _AT_START),
    "net": (str, "Network", "Family of style networks", "johnson", _AT_START),
    "device": (str, "Device", "Where the networks run: auto, cpu, cuda or cuda:N; one that is not there is an error",
               "auto", _AT_START),
    "precision": (str, "Precision", "What the networks compute in: auto (float16 on a GPU, bfloat16 on a CPU that has "
                  "units for it, else float32), float32, bfloat16 or float16", "auto", _AT_START),
    "model-path": (str, "Model path", "Folder to look for models in first, before NEURALSTYLE_MODEL_PATH and the "
                   "installed ones", None, _AT_START),
    "strength": (float, "Strength", "How much style: 0 is the source, 1 the stylized frame",
                 0.0, 1.0, 1.0, _AT_ANY_TIME),
    "coherence": (float, "Coherence", "How much of the frames before: 0 stylizes each frame by itself, which is faster "
                  "and flickers", 0.0, 1.0, 1.0, _AT_ANY_TIME),
    "preserve-color": (bool, "Preserve color", "Keep the source's chroma, and take luma alone from the style",
                       False, _AT_ANY_TIME),
    "scene-cut": (float, "Scene cut", "Threshold of the detector of scene cuts, after which the style starts afresh; "
                  "0 switches it off", 0.0, 1.0, 0.15, _AT_ANY_TIME),
}
COUNTERS = {
    "frames": (GObject.TYPE_UINT64, "Frames", "Frames stylized since the start",
               0, GLib.MAXUINT64, 0, GObject.ParamFlags.READABLE),
    "cuts": (GObject.TYPE_UINT64, "Cuts", "Scene cuts found since the start",
             0, GLib.MAXUINT64, 0, GObject.ParamFlags.READABLE),
}


def _debug_category(name: str, description: str) -> Gst.DebugCategory:
    """Register a debug category. The bindings can list them but not make one: in C a macro does it."""
    new = ctypes.CDLL("libgstreamer-1.0.so.0")._gst_debug_category_new
    new.argtypes = (ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p)
    new.restype = ctypes.c_void_p
    new(name.encode(), 0, description.encode())
    return next(category for category in Gst.debug_get_all_categories() if category.get_name() == name)


CATEGORY = _debug_category("neuralstyle", "coherent neural style transfer")


def _guard(failed, code):
    """Decorate a virtual method: an exception is posted as an error message of `code`, and `failed` is returned.

    PyGObject prints an uncaught exception and returns 0 to C. For ``transform`` that is FLOW_OK: the frame would go on
    unprocessed, and the pipeline would end with exit code 0.
    """

    def decorate(method):
        @functools.wraps(method)
        def call(self, *args):
            try:
                return method(self, *args)
            except Exception as error:
                self._post_error(code, error)
                return failed

        return call

    return decorate


def _import_core():
    """Import what the element runs on: (numpy, vsneuralstyle.pixels, Stylizer).

    GStreamer runs the Python that its loader was built for, whatever `python3` is on PATH, and enters a virtual
    environment only where its ``bin`` comes first there. But where this file was installed into one, as
    ``lib/gstreamer-1.0/python/gstneuralstyle.py``, that environment's packages are near it: GST_PLUGIN_PATH is enough.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(__file__).resolve().parents[2] / f"python{version}" / "site-packages"
    if importlib.util.find_spec("vsneuralstyle") is None and packages.is_dir():
        sys.path.insert(0, str(packages))
    try:
        from vsneuralstyle import pixels
        from vsneuralstyle.stylizer import Stylizer
        import numpy
    except (ImportError, OSError) as error:
        raise ImportError(
            f"GStreamer runs Python {version} (prefix {sys.prefix}), and neuralstyle can't start there: {error}. "
            f"Install vsneuralstyle and PyTorch for this Python, in a virtual environment made by "
            f"`/usr/bin/python3 -m venv --system-site-packages`, and set GST_PLUGIN_PATH to its lib/gstreamer-1.0 "
            f"(or put its bin first in PATH)."
        ) from error
    return numpy, pixels, Stylizer


class GstNeuralStyle(GstVideo.VideoFilter):
    """Stylizes each frame; a frame's result depends on the frames before it, back to the start of its scene."""

    __gtype_name__ = "GstNeuralStyle"
    __gstmetadata__ = (
        "Neural style transfer",
        "Filter/Effect/Video",
        "Renders video in a painting's style, without flicker, by a recurrent neural network",
        "The vsneuralstyle developers",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, CAPS),
    )
    __gproperties__ = SETTINGS | COUNTERS

    def __init__(self):
        super().__init__()
        # GstVideoFilter switches QoS on: where a sink is synchronized and the networks are slower than the clip, most
        # frames are dropped before `transform` sees them, and each jump costs coherence. Whoever wants that sets qos.
        self.set_qos_enabled(False)
        self._settings = {name: spec[-2] for name, spec in SETTINGS.items()}
        self._numpy = self._pixels = self._stylizer = None  # from start to stop
        self._layout = None  # (format, width, height) of the caps
        self._rows = None  # (offset, stride) of frames that bring no GstVideoMeta
        self._interval = 0  # ns a frame, where the caps have a frame rate
        self._last = None  # (PTS, PTS + duration) of the frame before, where it had a PTS
        self._counters = dict.fromkeys(COUNTERS, 0)

    # ---- properties -------------------------------------------------------------------------------------------------

    def do_get_property(self, prop):
        return (self._settings | self._counters)[prop.name]

    def do_set_property(self, prop, value):
        self._settings[prop.name] = value

    # ---- life cycle -------------------------------------------------------------------------------------------------

    @_guard(False, Gst.LibraryError.INIT)
    def do_start(self):
        self._numpy, self._pixels, stylizer = _import_core()
        options = {name.replace("-", "_"): value for name, value in self._settings.items()}
        self._stylizer = stylizer(options.pop("style"), model_dir=options.pop("model_path"), **options)
        self._layout = self._last = None
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._log(Gst.DebugLevel.INFO,
                  f"{self._stylizer.model.path} on {self._stylizer.device}, {self._stylizer.precision}")
        return True

    @_guard(False, Gst.LibraryError.SHUTDOWN)
    def do_stop(self):
        self._stylizer = None
        return True

    # ---- the stream -------------------------------------------------------------------------------------------------

    @_guard(False, Gst.CoreError.NEGOTIATION)
    def do_set_info(self, incaps, in_info, outcaps, out_info):
        layout = (in_info.finfo.name, in_info.width, in_info.height)
        if layout != self._layout:
            self._reset(f"caps: {layout}")
        self._layout, self._rows = layout, (in_info.offset[0], in_info.stride[0])
        self._interval = Gst.SECOND * in_info.fps_d // in_info.fps_n if in_info.fps_n else 0
        return True

    @_guard(False, Gst.StreamError.FAILED)
    def do_sink_event(self, event):
        if event.type in (Gst.EventType.STREAM_START, Gst.EventType.FLUSH_STOP):
            self._reset(event.type.value_nick)
        return GstVideo.VideoFilter.do_sink_event(self, event)

    def do_transform_frame(self, in_frame, out_frame):
        """Never called. Without it GstVideoFilter works in place; with it alone, it would hand over GstVideoFrames,
        whose fields PyGObject reads at wrong offsets. So `do_transform`, which calls it in C, is overridden."""
        raise NotImplementedError

    @_guard(Gst.FlowReturn.ERROR, Gst.StreamError.FAILED)
    def do_transform(self, in_buffer, out_buffer):
        if in_buffer.has_flags(Gst.BufferFlags.DISCONT):
            self._reset("discont")
        elif self._jumps(in_buffer.pts):
            self._reset(f"timestamps jump to {in_buffer.pts}")
        for name, spec in SETTINGS.items():
            if spec[-1] == _AT_ANY_TIME:
                setattr(self._stylizer, name.replace("-", "_"), self._settings[name])

        first = self._stylizer.state is None
        format_name = self._layout[0]
        order = tuple(format_name.index(channel) for channel in "RGB")
        with in_buffer.map(Gst.MapFlags.READ) as source, out_buffer.map(Gst.MapFlags.WRITE) as target:
            pixels_in, pixels_out = self._view(in_buffer, source.data), self._view(out_buffer, target.data)
            rgb = self._stylizer.stylize(self._pixels.packed_to_rgb(pixels_in, order))
            self._pixels.rgb_to_packed(rgb, pixels_out, order)
            for other in set(range(len(format_name))) - set(order):  # alpha or padding
                pixels_out[..., other] = pixels_in[..., other]
            del pixels_in, pixels_out  # nothing may look at the memory once it is unmapped

        self._last = self._span(in_buffer)
        if self._stylizer.scene_starts[0] and not first:
            self._counters["cuts"] += 1
            self._post_cut(in_buffer.pts)
        self._counters["frames"] += 1
        return Gst.FlowReturn.OK

    # ---- helpers ----------------------------------------------------------------------------------------------------

    def _view(self, buffer, memory):
        """The packed pixels in a buffer's mapped memory, (height, width, channels) uint8, with the strides it has."""
        format_name, width, height = self._layout
        meta = GstVideo.buffer_get_video_meta(buffer)
        offset, stride = self._rows if meta is None else (meta.offset[0], meta.stride[0])
        channels = len(format_name)
        needed = offset + (height - 1) * stride + width * channels
        if len(memory) < needed:
            from vsneuralstyle.errors import MediaError

            raise MediaError(f"a buffer of {len(memory)} bytes; a {format_name} frame of {width}x{height} in rows of "
                             f"{stride} bytes from byte {offset} on needs {needed}; check the caps upstream")
        shape, strides = (height, width, channels), (stride, channels, 1)
        return self._numpy.ndarray(shape, self._numpy.uint8, memory, offset, strides)

    def _span(self, buffer):
        if buffer.pts == Gst.CLOCK_TIME_NONE:
            return None
        return buffer.pts, buffer.pts + (self._interval if buffer.duration == Gst.CLOCK_TIME_NONE else buffer.duration)

    def _jumps(self, pts) -> bool:
        if self._last is None or pts == Gst.CLOCK_TIME_NONE:
            return False
        began, ended = self._last
        return pts < began or pts > ended + MAX_GAP

    def _reset(self, why: str):
        """Forget the frames before: the next one is stylized by itself, as the first of a scene."""
        self._last = None
        if self._stylizer is not None:
            self._stylizer.reset()
            self._log(Gst.DebugLevel.DEBUG, f"reset: {why}")

    def _post_cut(self, pts):
        structure = Gst.Structure.new_from_string(
            f"neuralstyle-scene-cut, timestamp=(guint64){pts}, "
            f"stream-time=(guint64){self.segment.to_stream_time(Gst.Format.TIME, pts)}, "
            f"running-time=(guint64){self.segment.to_running_time(Gst.Format.TIME, pts)}, "
            f"frame=(guint64){self._counters['frames']}"
        )
        self.post_message(Gst.Message.new_element(self, structure))

    def _post_error(self, code, error: Exception):
        try:
            from vsneuralstyle.errors import NeuralStyleError
        except ImportError:
            NeuralStyleError = ImportError
        user_error = isinstance(error, (NeuralStyleError, ImportError))
        text = str(error) if user_error else f"{type(error).__name__}: {error}"
        debug = "" if user_error else "".join(traceback.format_exception(error))
        frame = traceback.extract_tb(error.__traceback__)[-1]
        self.message_full(Gst.MessageType.ERROR, type(code).quark(), int(code), text, debug,
                          Path(frame.filename).name, frame.name, frame.lineno)

    def _log(self, level, text: str):
        Gst.debug_log_literal(CATEGORY, level, Path(__file__).name, "", 0, self, text)


__gstelementfactory__ = ("neuralstyle", Gst.Rank.NONE, GstNeuralStyle)
