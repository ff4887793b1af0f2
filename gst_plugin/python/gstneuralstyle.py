"""The GStreamer element ``neuralstyle``: stylizes raw video, coherently over time.

GStreamer's Python loader imports this file while it scans for plugins, so it imports nothing but
the bindings: PyTorch and vsneuralstyle come in when the element starts. A module that fails to
import here would be cached by the registry as a plugin without features, and the user would see "no
element neuralstyle" instead of the reason.
"""

import contextlib
import ctypes
import functools
import itertools
import time
import traceback
import weakref
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
import gstneuralstyle_cuda as cuda  # these lie beside this file
from gi.repository import GObject, Gst, GstVideo  # the versions come first
from gstneuralstyle_arguments import ALIASES, PROPERTIES
from gstneuralstyle_interval import STALL, FrameInterval
from gstneuralstyle_packages import import_core

Gst.init_python()

# In the order of preference, where both neighbours can do several: the exact ones first (8 bits of
# full chroma), those that are cheapest to take apart before the others. A decoder's 4:2:0 comes in
# as it is, and so needs no videoconvert.
# fmt: off
FORMATS = (
    "GBR", "RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "RGBA", "BGRA", "ARGB", "ABGR", "Y444",
    "I420", "YV12", "NV12", "NV21", "Y42B", "YUY2", "UYVY", "I420_10LE", "P010_10LE", "I422_10LE",
)
# fmt: on


LEAST = 16  # pixels of width and height, which the networks need


def _raw_video(name: str, formats: tuple[str, ...]) -> str:
    return (
        f"{name}, format=(string){{ {', '.join(formats)} }}, width=(int)[ {LEAST}, max ], "
        f"height=(int)[ {LEAST}, max ], framerate=(fraction)[ 0, max ]"
    )


# Frames that are on the GPU stay there, where that works. What comes in as one kind of memory goes
# out as the same.
CAPS = Gst.Caps.from_string(
    "; ".join(
        [_raw_video(f"video/x-raw({cuda.FEATURE})", cuda.FORMATS)] * cuda.available()
        + [_raw_video("video/x-raw", FORMATS)]
    )
)

# A frame that comes this much later than its predecessor's end is another place in the stream, not
# the next moment of the same shot, unless the stream's frames are that far apart. Below it (frames
# dropped upstream, a variable frame rate) the flow network still finds the motion.
MAX_GAP = Gst.SECOND

# GST_BASE_TRANSFORM_FLOW_DROPPED, which the bindings lack
FLOW_DROPPED = Gst.FlowReturn.CUSTOM_SUCCESS

_READY = GObject.ParamFlags.READWRITE | GObject.ParamFlags(Gst.PARAM_MUTABLE_READY)
_PLAYING = GObject.ParamFlags.READWRITE | GObject.ParamFlags(Gst.PARAM_MUTABLE_PLAYING)
_CONTROLLABLE = _PLAYING | GObject.ParamFlags(Gst.PARAM_CONTROLLABLE)
_FLAGS = {"READY": _READY, "PLAYING": _PLAYING, "CONTROLLABLE": _CONTROLLABLE}

# What the user sets: (type, nick, blurb, [minimum, maximum,] default, flags). Named as the
# arguments of Stylizer are.
SETTINGS = {name: (*spec, _FLAGS[change]) for name, (*spec, change) in PROPERTIES.items()}
ALIAS_PROPERTIES = {
    alias: (*SETTINGS[name][:2], f"Alias of {name}: the one set later holds", *SETTINGS[name][3:])
    for alias, name in ALIASES.items()
}
STATS = {
    "stats": (
        Gst.Structure,
        "Statistics",
        "Since the start: frames stylized, scene cuts found among them, the mean "
        "time in ms that a frame took here, and frames dropped here because they were late (with "
        "qos on)",
        GObject.ParamFlags.READABLE,
    )
}


def _debug_category(name: str, description: str) -> Gst.DebugCategory:
    """Register a debug category. The bindings can list them but not make one: in C a macro does
    it.
    """
    new = ctypes.CDLL("libgstreamer-1.0.so.0")._gst_debug_category_new
    new.argtypes = (ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p)
    new.restype = ctypes.c_void_p
    new(name.encode(), 0, description.encode())
    return next(
        category for category in Gst.debug_get_all_categories() if category.get_name() == name
    )


CATEGORY = _debug_category("neuralstyle", "coherent neural style transfer")


def _guard(failed, code):
    """Decorate a virtual method: an exception is posted as an error message of `code`, and `failed`
    is returned.

    PyGObject prints an uncaught exception and returns 0 to C. For ``transform`` that is FLOW_OK:
    the frame would go on unprocessed, and the pipeline would end with exit code 0.
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


def _probe_of_queries():
    """A function that has a pad's queries looked at: add(pad, kinds, see), where see(query, name)
    gets the query's address and its structure's name, and says whether it answered it.

    Through ctypes, because Python can't answer one: a query may be written to only while it has one
    owner, and the bindings' wrapper is a second one. (An override of the virtual method `query`
    would even spoil allocation queries.)
    """
    pointer, watching, keys = ctypes.c_void_p, {}, itertools.count(1)

    @ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer)
    def probe(pad, info, key):
        query = _gst.gst_pad_probe_info_get_query(info)
        structure = _gst.gst_query_get_structure(query)
        name = _gst.gst_structure_get_name(structure).decode() if structure else ""
        return Gst.PadProbeReturn.HANDLED if watching[key](query, name) else Gst.PadProbeReturn.OK

    @ctypes.CFUNCTYPE(None, pointer)
    def gone(key):
        del watching[key]

    def add(pad: Gst.Pad, kinds: Gst.PadProbeType, see):
        watching[key := next(keys)] = see
        _gst.gst_pad_add_probe(
            hash(pad), int(kinds), ctypes.cast(probe, pointer), key, ctypes.cast(gone, pointer)
        )

    add.keep = probe, gone  # GStreamer holds no reference to them
    return add


_gst = cuda.load(
    "libgstreamer-1.0.so.0",
    {
        "gst_pad_probe_info_get_query": (ctypes.c_void_p, ctypes.c_void_p),
        "gst_query_get_structure": (ctypes.c_void_p, ctypes.c_void_p),
        "gst_structure_get_name": (ctypes.c_char_p, ctypes.c_void_p),
        "gst_query_parse_latency": (None, *[ctypes.c_void_p] * 4),
        "gst_query_set_latency": (
            None,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_uint64,
        ),
        "gst_query_parse_position": (None, *[ctypes.c_void_p] * 3),
        "gst_query_set_position": (None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64),
        "gst_pad_add_probe": (
            ctypes.c_ulong,
            ctypes.c_void_p,
            ctypes.c_uint,
            *[ctypes.c_void_p] * 3,
        ),
    },
)
_gobject = cuda.load(
    "libgobject-2.0.so.0",
    {
        "g_object_ref": (ctypes.c_void_p, ctypes.c_void_p),
        "g_object_force_floating": (None, ctypes.c_void_p),
    },
)
_add_query_probe = _probe_of_queries()


def _lengthen_latency(query: int, added: int):
    """Add ns to the answer of a latency query, by its address."""
    live, least, most = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_uint64()
    _gst.gst_query_parse_latency(query, *map(ctypes.byref, (live, least, most)))
    added = min(added, 2**62)  # a frame rate may be as low as one in 68 years
    unlimited = most.value == Gst.CLOCK_TIME_NONE
    _gst.gst_query_set_latency(
        query, live, least.value + added, most if unlimited else most.value + added
    )


def _answer_position(query: int, position: int):
    """Answer a position query by its address, where it asks for a time: a stream time in ns."""
    kind = ctypes.c_int()
    _gst.gst_query_parse_position(query, ctypes.byref(kind), None)
    if kind.value == Gst.Format.TIME:
        _gst.gst_query_set_position(query, kind, position)


def _float(element: Gst.Element):
    """Give an element that C made the floating reference that its maker expects.

    Newer PyGObject does. An older one sinks the only reference there is into its wrapper. GStreamer
    then prints a critical message, and who drops the element without having put it anywhere takes
    the wrapper's reference. What is made from Python and never put anywhere keeps the floating one,
    and so is never freed.
    """
    if not element.is_floating():
        _gobject.g_object_ref(hash(element))
        _gobject.g_object_force_floating(hash(element))


class _Layout:
    """Where the samples of a frame lie in memory, and what they mean: a GstVideoInfo's part that
    stays.

    context: of CUDA memory, on `device`; None: frames are in host memory.
    """

    def __init__(
        self, info: GstVideo.VideoInfo, numpy, pixels, device=None, context: int | None = None
    ):
        form = info.finfo
        self._numpy, self._pixels, self._device, self.context = numpy, pixels, device, context
        self.size = info.size
        # of frames that bring no GstVideoMeta
        self._offsets, self._strides = list(info.offset), list(info.stride)
        self._type = numpy.dtype("<u2" if form.depth[0] > 8 else "u1")
        # GStreamer counts bytes, but for P010 it puts V at 1, one sample on.
        firsts = [
            first if first % self._type.itemsize == 0 else first * self._type.itemsize
            for first in form.poffset
        ]
        # R, G, B or Y, U, V: (plane, first byte in it, bytes from one sample to the next, rows,
        # columns)
        self._components = [
            (
                form.plane[n],
                firsts[n],
                form.pixel_stride[n],
                -(-info.height >> form.h_sub[n]),
                -(-info.width >> form.w_sub[n]),
            )
            for n in range(3)
        ]
        is_rgb = info.colorimetry.matrix == GstVideo.VideoColorMatrix.RGB
        if is_rgb and form.pixel_stride[0] == 4:  # alpha or padding
            _, _, *shape = self._components[0]
            spare = ({0, 1, 2, 3} - set(form.poffset[:3])).pop()
            self._components.append((0, spare, *shape))
        site = info.chroma_site
        self.coding = pixels.Coding(
            bits=form.depth[0],
            shift=form.shift[0],
            matrix=GstVideo.VideoColorMatrix.to_iso(info.colorimetry.matrix),
            # What is not known counts as full, as it does for videoconvert.
            full_range=info.colorimetry.range.value_nick != "16-235",
            cosited=(
                bool(site & GstVideo.VideoChromaSite.V_COSITED),
                bool(site & GstVideo.VideoChromaSite.H_COSITED),
            ),
        )
        # two frames that share it can follow each other
        self.key = (form.name, info.width, info.height, self.coding)

    def mapped(self, buffer: Gst.Buffer, flags: Gst.MapFlags):
        """A context manager: the buffer's memory, mapped, as `views` takes it."""
        return (
            buffer.map(flags)
            if self.context is None
            else cuda.mapped(buffer, flags, self.context, self._device)
        )

    def views(self, buffer: Gst.Buffer, memory) -> list:
        """The components in a buffer's mapped memory, (rows, columns) each: three, and alpha or
        padding if there is.

        Arrays, or tensors on the device where the memory is there.

        Raises:
            MediaError: the buffer is smaller than its layout says.
        """
        meta = GstVideo.buffer_get_video_meta(buffer)
        offsets, strides = (
            (self._offsets, self._strides) if meta is None else (meta.offset, meta.stride)
        )
        views = []
        for plane, first, step, rows, columns in self._components:
            offset, stride = offsets[plane] + first, strides[plane]
            needed = offset + (rows - 1) * stride + (columns - 1) * step + self._type.itemsize
            if memory.size < needed:
                from vsneuralstyle.errors import MediaError

                name, width, height, *_ = self.key
                raise MediaError(
                    f"a buffer of {memory.size} bytes; plane {plane} of {name}, {width}x{height}, "
                    f"in rows of {stride} bytes, ends at byte {needed}; check the caps upstream"
                )
            shape, strides_of_samples = (rows, columns), (stride, step)
            views.append(
                self._numpy.ndarray(shape, self._type, memory.data, offset, strides_of_samples)
                if self.context is None
                else self._pixels.tensor_over(
                    memory.data + offset, shape, strides_of_samples, self._type, self._device
                )
            )
        return views


class GstNeuralStyle(GstVideo.VideoFilter):
    """Stylizes each frame; a frame's result depends on the frames before it, back to the start of
    its scene.
    """

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
    __gproperties__ = SETTINGS | ALIAS_PROPERTIES | STATS

    def __init__(self):
        made_in_c = hash(self) != 0  # the object's address; from Python, there is no object yet
        super().__init__()
        if made_in_c:
            _float(self)
        # GstVideoFilter switches QoS on: where a sink is synchronized and the networks are slower
        # than the clip, most frames are dropped before `transform` sees them, and each jump costs
        # coherence. Whoever wants that sets qos.
        self.set_qos_enabled(False)
        self._settings = {name: spec[-2] for name, spec in SETTINGS.items()}
        self._numpy = self._pixels = self._make = self._stylizer = None  # from start to stop
        self._style = None  # the stylizer's
        self._layout = None
        self._last = None  # (PTS, PTS + duration) of the frame before, where it had a PTS
        # whether a frame has come in that the base class hasn't handed on to do_transform yet
        self._waiting = False
        self._held = []  # the frames that wait for those after them, as `_finish` takes them
        self._afresh = True  # whether the next frame comes after none
        self._frames = self._cuts = self._dropped = 0
        self._seconds = 0.0  # that the frames took
        self._interval = FrameInterval()
        self._position = None  # where the last frame ends, if held; else the base class knows
        # the pads are the element's own: with a strong reference, none would ever go
        element = weakref.ref(self)
        kind, sink, src = Gst.PadProbeType, self.get_static_pad("sink"), self.get_static_pad("src")
        sink.add_probe(kind.BUFFER, lambda pad, info: element()._arrives(info.get_buffer()))
        _add_query_probe(
            src,
            kind.QUERY_UPSTREAM | kind.PULL,  # PULL: on the answer's way back
            lambda *query: element()._time_was_asked(*query),
        )
        if cuda.available():
            for pad, direction in ((sink, kind.QUERY_DOWNSTREAM), (src, kind.QUERY_UPSTREAM)):
                _add_query_probe(
                    pad, direction | kind.PUSH, lambda *query: element()._context_is_asked(*query)
                )
            _add_query_probe(
                src,
                kind.QUERY_DOWNSTREAM | kind.PUSH,
                lambda *query: element()._pool_is_asked(*query),
            )
        # Where C makes the element, older bindings keep a reference to its wrapper for the first
        # who looks the element up. Where nobody ever does, it would never be freed.
        sink.get_parent_element()

    # ---- properties ------------------------------------------------------------------------------

    def do_get_property(self, prop):
        if prop.name != "stats":
            return self._settings[ALIASES.get(prop.name, prop.name)]
        mean = 1000 * self._seconds / self._frames if self._frames else 0
        return Gst.Structure.new_from_string(
            f"neuralstyle-stats, frames=(guint64){self._frames}, cuts=(guint64){self._cuts}, "
            f"mean-ms=(double){mean:.6f}, dropped=(guint64){self._dropped}"
        )

    def do_set_property(self, prop, value):
        self._settings[ALIASES.get(prop.name, prop.name)] = value

    # ---- life cycle ------------------------------------------------------------------------------

    @_guard(False, Gst.LibraryError.INIT)
    def do_start(self):
        self._numpy, self._pixels, self._make = import_core()
        self._layout = self._last = self._position = None
        self._interval = FrameInterval()
        self._waiting = False
        self._frames = self._cuts = self._dropped = 0
        self._seconds = 0.0
        self._load()
        return True

    @_guard(False, Gst.LibraryError.SHUTDOWN)
    def do_stop(self):
        self._held.clear()
        if self._stylizer is not None:
            self._stylizer.close()  # the application may go on without it, for long
            self._stylizer = None
        return True

    # ---- the stream ------------------------------------------------------------------------------

    @_guard(False, Gst.CoreError.NEGOTIATION)
    def do_set_info(self, incaps, in_info, outcaps, out_info):
        on_gpu, device = incaps.get_features(0).contains(cuda.FEATURE), self._stylizer.device
        layout = _Layout(
            in_info,
            self._numpy,
            self._pixels,
            device,
            cuda.context(str(device)) if on_gpu else None,
        )
        if self._layout is None or layout.key != self._layout.key:
            self._reset(f"caps: {incaps.to_string()}")
        self._layout = layout
        nominal = Gst.SECOND * in_info.fps_d // in_info.fps_n if in_info.fps_n else 0
        if self._interval.set_nominal(nominal):
            self.post_message(Gst.Message.new_latency(self))
        return True

    @_guard(False, Gst.StreamError.FAILED)
    def do_sink_event(self, event):
        if event.type == Gst.EventType.FLUSH_STOP:
            self._held.clear()
        elif Gst.EventType.get_flags(event.type) & Gst.EventTypeFlags.SERIALIZED:
            self._push_held()
        begins = event.type in (Gst.EventType.STREAM_START, Gst.EventType.FLUSH_STOP)
        if begins or event.type == Gst.EventType.SEGMENT:
            self._position = None
            self._interval.pause()
        if event.type == Gst.EventType.STREAM_START:
            self._interval.restart()
        if begins:
            self._waiting = False
            self._reset(event.type.value_nick)
        elif event.type == Gst.EventType.EOS:
            self._count_dropped()
        elif event.type == Gst.EventType.SEGMENT:
            segment = event.parse_segment()
            if any(
                getattr(segment, field) != getattr(self.segment, field)
                # else it says no more than before
                for field in ("format", "rate", "start", "time", "base")
            ):
                self._reset("segment")
        elif event.type == Gst.EventType.GAP and self._last is not None:
            self._interval.pause()
            begin, duration = event.parse_gap()
            if duration != Gst.CLOCK_TIME_NONE:  # there is no frame to miss
                self._last = min(self._last[0], begin), max(self._last[1], begin + duration)
        return GstVideo.VideoFilter.do_sink_event(self, event)

    @_guard(False, Gst.StreamError.FAILED)
    def do_src_event(self, event):
        if event.type == Gst.EventType.QOS and not self.is_qos_enabled():
            return True  # upstream, a decoder or a videoconvert would drop frames for it
        return GstVideo.VideoFilter.do_src_event(self, event)

    @_guard(Gst.PadProbeReturn.OK, Gst.StreamError.FAILED)
    def _arrives(self, buffer):
        """Sees every frame, also one that the base class then drops as too late: what moved
        meanwhile is motion.

        (A pad probe. The bindings say of the virtual method `submit_input_buffer` that it borrows
        the buffer, but it takes it: with a frame that is dropped, an override crashes.)
        """
        self._count_dropped()
        self._waiting = True
        if buffer.pts != Gst.CLOCK_TIME_NONE and self._interval.add(buffer.pts):
            self.post_message(Gst.Message.new_latency(self))
        if why := self._discontinuity(buffer):
            self._push_held()
            self._reset(why)
        self._last = self._span(buffer)
        return Gst.PadProbeReturn.OK

    def _time_was_asked(self, query, name):
        if name == "GstQueryLatency":
            # A frame waits until as many more are here, and then until it is done: as long as the
            # element keeps up, what a frame takes is at most the time until the next.
            _lengthen_latency(query, (self._settings["lookahead"] + 1) * self._interval.told)
        elif name == "GstQueryPosition" and self._position is not None:
            stream_time, _ = self._times(self._position)
            if stream_time != Gst.CLOCK_TIME_NONE:
                _answer_position(query, stream_time)
        return False  # it goes on

    @_guard(False, Gst.LibraryError.FAILED)
    def _context_is_asked(self, query, name):
        if name != "GstQueryContext" or self._settings["device"] == "cpu":
            return False
        return cuda.answer_context(query, hash(self), cuda.context(self._settings["device"]))

    @_guard(False, Gst.LibraryError.FAILED)
    def _pool_is_asked(self, query, name):
        if name != "GstQueryAllocation" or self._layout is None or self._layout.context is None:
            return False
        return cuda.answer_allocation(query, self._layout.context, self._layout.size)

    def do_transform_meta(self, out_buffer, meta, in_buffer):
        """Whether a meta goes on with its frame: all do, since size and format stay.

        The base class has left out those about the memory, and copies the others: regions of
        interest, crops, bars, captions, timecodes.
        """
        return True

    def do_transform_frame(self, in_frame, out_frame):
        """Never called. Without it GstVideoFilter works in place; with it alone, it would hand over
        GstVideoFrames, whose fields PyGObject reads at wrong offsets. So `do_transform`, which
        calls it in C, is overridden.
        """
        raise NotImplementedError

    @_guard(Gst.FlowReturn.ERROR, Gst.StreamError.FAILED)
    def do_transform(self, in_buffer, out_buffer):
        began = time.perf_counter()
        self._waiting = False
        flow = self._follow_settings(in_buffer.pts)
        if flow != Gst.FlowReturn.OK:
            return flow
        layout, most = self._layout, self._most_held()
        with self._io_context(most), layout.mapped(in_buffer, Gst.MapFlags.READ) as source:
            views = layout.views(in_buffer, source)
            rgb = self._pixels.components_to_rgb(views[:3], layout.coding, self._stylizer.device)
            spare = [view.copy() if layout.context is None else view.clone() for view in views[3:]]
            views = None  # nothing may look at the memory once it is unmapped
        afresh, self._afresh = self._afresh, False
        if most == 0:
            stylized = self._stylizer.stylize(rgb), *self._stylizer.scene_starts
            self._finish(stylized, spare, out_buffer, afresh)
            self._seconds += time.perf_counter() - began
            self._position = None
            return Gst.FlowReturn.OK  # the base class pushes it
        self._held.append((self._stylizer.submit(rgb), spare, out_buffer, afresh))
        self._seconds += time.perf_counter() - began
        # Not one of them through the base class: it takes those before for lost, and would flag a
        # DISCONT.
        flow = self._push_held(most)
        return FLOW_DROPPED if flow == Gst.FlowReturn.OK else flow

    # ---- helpers ---------------------------------------------------------------------------------

    def _most_held(self):
        """Frames that may wait: `lookahead`, or fewer where the pool that output buffers come from
        is small.
        """
        lookahead = self._settings["lookahead"]
        pool = self.get_buffer_pool() if lookahead else None
        most = Gst.BufferPool.config_get_params(pool.get_config())[-1] if pool else 0
        # 2: the one in work, and the sink's
        return min(lookahead, max(most - 2, 0)) if most else lookahead

    def _io_context(self, held):
        """A context manager for what the element computes itself: where frames are held, the
        threads work at those.
        """
        return self._stylizer.io_context() if held else contextlib.nullcontext()

    def _finish(self, stylized, spare, buffer, afresh):
        """Fill a frame's output buffer: with (RGB, whether it started a scene), and alpha or
        padding.
        """
        (rgb, starts), layout = stylized, self._layout
        with layout.mapped(buffer, Gst.MapFlags.WRITE) as target:
            views = layout.views(buffer, target)
            self._pixels.rgb_to_components(rgb, views[:3], layout.coding)
            for view, samples in zip(views[3:], spare):
                view[...] = samples
            views = view = None
        if starts and not afresh:
            self._post_cut(buffer.pts)
            self._cuts += 1
        self._frames += 1

    def _push_held(self, most=0):
        """Push on the frames that are held, but for the last `most`; the first flow that isn't
        OK.
        """
        flow = Gst.FlowReturn.OK
        while len(self._held) > most:
            began = time.perf_counter()
            pending, spare, buffer, afresh = self._held.pop(0)
            with self._io_context(True):
                self._finish(pending.result(), spare, buffer, afresh)
            self._seconds += time.perf_counter() - began
            if flow == Gst.FlowReturn.OK:
                if (span := self._span(buffer)) is not None:
                    self._position = span[1]
                flow = self.get_static_pad("src").push(buffer)
        return flow

    def _load(self):
        """Make the stylizer that the settings ask for. Where that fails, the one before is still
        there.
        """
        options = {name.replace("-", "_"): value for name, value in self._settings.items()}
        style, _ = options.pop("style"), options.pop("lookahead")
        self._stylizer = self._make(style, **options)
        self._style, self._afresh = style, True
        self._log(
            Gst.DebugLevel.INFO,
            f"{self._stylizer.model.path} on {self._stylizer.device}, {self._stylizer.precision}",
        )

    def _follow_settings(self, pts):
        """Hand on what was set since the frame before, or what a GstController sets for this one.
        Frames that are held are pushed with what was set for them; returns the flow of that.
        """
        stream_time, _ = self._times(pts)
        if stream_time != Gst.CLOCK_TIME_NONE:
            self.sync_values(stream_time)
        changes = {
            name: self._settings[name]
            for name, spec in SETTINGS.items()
            if spec[-1] == _CONTROLLABLE
            and self._settings[name] != getattr(self._stylizer, name.replace("-", "_"))
        }
        other_style = self._settings["style"] != self._style
        flow = self._push_held() if changes or other_style else Gst.FlowReturn.OK
        if other_style:
            self._load()
        for name, value in changes.items():
            setattr(self._stylizer, name.replace("-", "_"), value)
        return flow

    def _count_dropped(self):
        """The base class doesn't tell: a frame was dropped if the next came, or the end, and it
        wasn't stylized.
        """
        self._dropped += self._waiting
        self._waiting = False

    def _span(self, buffer):
        if buffer.pts == Gst.CLOCK_TIME_NONE:
            return None
        known = buffer.duration != Gst.CLOCK_TIME_NONE
        return buffer.pts, buffer.pts + (buffer.duration if known else self._interval.nominal)

    def _discontinuity(self, buffer) -> str:
        """Why a frame isn't the next moment of the same shot, or "" where it is."""
        backwards = self.segment.rate < 0  # there every frame is flagged
        discont = buffer.has_flags(Gst.BufferFlags.DISCONT) and not backwards
        if self._last is None or buffer.pts == Gst.CLOCK_TIME_NONE:
            return "discont" if discont else ""
        begins, ends = self._span(buffer)
        began, ended = self._last
        if backwards:  # the same, mirrored
            begins, began, ended = -ends, -ended, -began
        if begins < began or begins > ended + max(MAX_GAP, STALL * self._interval.expected):
            return f"timestamps jump to {buffer.pts}"
        # Where frames are missing, that is what the flag tells of (a leaky queue, QoS upstream):
        # motion. Where none is, another stream begins. Where nothing says how long a frame is, some
        # may be missing: a live source without a rate would begin afresh with each frame that a
        # leaky queue lets by.
        missing = ended == began or begins - ended >= (ended - began) / 2
        return "discont" if discont and not missing else ""

    def _reset(self, why: str):
        """Forget the frames before: the next one is stylized by itself, as the first of a scene."""
        self._last = None
        if self._stylizer is not None and not self._afresh:
            self._afresh = True
            self._stylizer.reset()
            self._log(Gst.DebugLevel.DEBUG, f"reset: {why}")

    def _times(self, pts):
        """Stream time and running time; none where the segment is of bytes, as a source of files
        has it.
        """
        if self.segment.format != Gst.Format.TIME:
            return Gst.CLOCK_TIME_NONE, Gst.CLOCK_TIME_NONE
        return self.segment.to_stream_time(Gst.Format.TIME, pts), self.segment.to_running_time(
            Gst.Format.TIME, pts
        )

    def _post_cut(self, pts):
        stream_time, running_time = self._times(pts)
        structure = Gst.Structure.new_from_string(
            f"neuralstyle-scene-cut, timestamp=(guint64){pts}, "
            f"stream-time=(guint64){stream_time}, "
            f"running-time=(guint64){running_time}, "
            f"frame=(guint64){self._frames}"
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
        self.message_full(
            Gst.MessageType.ERROR,
            type(code).quark(),
            int(code),
            text,
            debug,
            Path(frame.filename).name,
            frame.name,
            frame.lineno,
        )

    def _log(self, level, text: str):
        Gst.debug_log_literal(CATEGORY, level, Path(__file__).name, "", 0, self, text)


__gstelementfactory__ = ("neuralstyle", Gst.Rank.NONE, GstNeuralStyle)
