"""Every raw format in, the same out: each sample where its format has it, converted as its caps
say.

The reference takes the planes apart by a table of its own, and says by hand what the caps mean. A
second one is GStreamer's videoconvert: what it would have made of the same frames.
"""

import numpy as np
import pytest

ELEMENT = "neuralstyle name=style device=cpu precision=float32 scene-cut=0"
# For each plane: the components of its samples in their order, ? for one that is none; a component
# of fewer samples than luma repeats the other way round in packed 4:2:2: Y U Y V.
PLANES = {
    **{
        name: (name,)
        for name in ("RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "RGBA", "BGRA", "ARGB", "ABGR")
    },
    "GBR": ("G", "B", "R"),
    "Y444": ("Y", "U", "V"),
    "Y42B": ("Y", "U", "V"),
    "I420": ("Y", "U", "V"),
    "YV12": ("Y", "V", "U"),
    "NV12": ("Y", "UV"),
    "NV21": ("Y", "VU"),
    "YUY2": ("YUYV",),
    "UYVY": ("UYVY",),
    "I420_10LE": ("Y", "U", "V"),
    "P010_10LE": ("Y", "UV"),
    "I422_10LE": ("Y", "U", "V"),
}
HALF_WIDTH = (
    "Y42B",
    "I420",
    "YV12",
    "NV12",
    "NV21",
    "YUY2",
    "UYVY",
    "I420_10LE",
    "P010_10LE",
    "I422_10LE",
)
HALF_HEIGHT = ("I420", "YV12", "NV12", "NV21", "I420_10LE", "P010_10LE")
SPARE = 201  # alpha or padding


def bits(form):
    return 10 if "10LE" in form else 8


def shift(form):
    return 6 if form == "P010_10LE" else 0


def is_rgb(form):
    return "U" not in "".join(PLANES[form])


def shapes(form, height, width):
    """(rows, columns) of each component."""
    half = (
        -(-height // 2) if form in HALF_HEIGHT else height,
        -(-width // 2) if form in HALF_WIDTH else width,
    )
    return [(height, width), *2 * [(height, width) if is_rgb(form) else half]]


def picture(form, height, width, phase=0.0):
    """Components of a smooth colorful picture, as code values."""
    made = []
    for n, (rows, columns) in enumerate(shapes(form, height, width)):
        y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
        wave = np.sin(4 * x + 3 * n + phase) * np.cos(3 * y - n + phase)
        low, high = (80, 170) if n == 0 else (96, 160)  # colors that RGB has, by whatever matrix
        made.append((low + (high - low) * (wave + 1) / 2) * 2 ** (bits(form) - 8))
    if is_rgb(form):
        made = [255 * (c - c.min()) / (c.max() - c.min()) for c in made]
    return [np.round(c).astype(np.uint16 if bits(form) > 8 else np.uint8) for c in made]


class Frame:
    """Bytes of a frame, and its components' places in them by `PLANES`."""

    def __init__(self, Gst, form, width, height, pad=0, offset=0):
        from gi.repository import GstVideo

        info = GstVideo.VideoInfo.new_from_caps(
            Gst.Caps.from_string(f"video/x-raw, format={form}, width={width}, height={height}")
        )
        self.form, self.width, self.height = form, width, height
        planes = len(PLANES[form])
        self.strides = [stride + pad for stride in info.stride[:planes]]
        self.offsets, end = [], offset
        self.kind = np.dtype("<u2" if bits(form) > 8 else "u1")
        rows = [height, *(planes - 1) * [shapes(form, height, width)[1][0]]]
        if not pad:
            self.offsets, end = list(info.offset[:planes]), info.size
        else:
            for stride, lines in zip(self.strides, rows):
                self.offsets.append(end)
                end += stride * lines + pad
        self.size = end

    def components(self, data):
        """R, G, B or Y, U, V as views of data (uint8), and what is spare."""
        found = {}
        for plane, order in enumerate(PLANES[self.form]):
            for place, name in enumerate(order):
                if name == "Y" and place > 1:
                    continue  # the second luma sample of packed 4:2:2
                step = 2 if name == "Y" and len(order) == 4 else len(order)
                which = (
                    0
                    if name in "RYAx"
                    else "RGB".find(name)
                    if name in "RGB"
                    else "YUV".index(name)
                )
                shape = shapes(self.form, self.height, self.width)[which]
                found[name] = np.ndarray(
                    shape,
                    self.kind,
                    data,
                    self.offsets[plane] + place * self.kind.itemsize,
                    (self.strides[plane], step * self.kind.itemsize),
                )
        spare = [found[name] for name in "Ax" if name in found]
        return [found[name] for name in ("RGB" if is_rgb(self.form) else "YUV")], spare

    def fill(self, values):
        data = np.full(self.size, 77, np.uint8)
        components, spare = self.components(data)
        for target, value in zip(components, values):
            target[...] = value << shift(self.form)
        for target in spare:
            target[...] = SPARE
        return data

    def meta(self, buffer):
        from gi.repository import GstVideo

        planes, none = len(self.strides), [0] * (4 - len(self.strides))
        GstVideo.buffer_add_video_meta_full(
            buffer,
            GstVideo.VideoFrameFlags.NONE,
            GstVideo.VideoFormat.from_string(self.form),
            self.width,
            self.height,
            planes,
            self.offsets + none,
            self.strides + none,
        )


@pytest.fixture
def send(play, Gst):
    """Sends frames (uint8 arrays) through a chain of elements; returns what comes out, as such
    arrays.
    """

    def send(chain, caps, frames, layout=None):
        pipeline = play(f"appsrc name=source format=time ! {chain} ! appsink name=sink sync=false")
        source, sink = pipeline.get_by_name("source"), pipeline.get_by_name("sink")
        source.set_property("caps", Gst.Caps.from_string(f"video/x-raw, framerate=25/1, {caps}"))
        for number, frame in enumerate(frames):
            buffer = Gst.Buffer.new_wrapped(frame.tobytes())
            buffer.duration = Gst.SECOND // 25
            buffer.pts = number * buffer.duration
            if layout is not None:
                layout.meta(buffer)
            source.push_buffer(buffer)
        source.emit("end-of-stream")
        out = []
        while (sample := sink.try_pull_sample(60 * Gst.SECOND)) is not None:
            buffer = sample.get_buffer()
            out.append(np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8))
        error = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        assert error is None, error.parse_error()
        assert len(out) == len(frames)
        return out

    return send


def coding(form, **more):
    from vsneuralstyle.video.pixels import Coding

    matrix = {} if is_rgb(form) else {"matrix": 6, "full_range": False}
    return Coding(bits(form), shift(form), **{**matrix, **more})


def reference(frames, form, coding):
    """What comes out for frames of components, by the core itself."""
    import torch

    from vsneuralstyle import Stylizer
    from vsneuralstyle.video.pixels import components_to_rgb, rgb_to_components

    torch.set_num_threads(1)
    stylizer = Stylizer("candy", device="cpu", precision="float32", scene_cut=0)
    result = []
    for components in frames:
        target = [np.zeros_like(c) for c in components]
        rgb_to_components(
            stylizer.stylize(components_to_rgb([c << shift(form) for c in components], coding)),
            target,
            coding,
        )
        result.append(target)
    return result


def check(Gst, send, form, coding, more="", width=61, height=47, pad=0, offset=0):
    frames = [picture(form, height, width, phase) for phase in (0, 0.5)]
    layout, plain = Frame(Gst, form, width, height, pad, offset), Frame(Gst, form, width, height)
    stylized = send(
        ELEMENT,
        f"format={form}, width={width}, height={height}{more}",
        [layout.fill(frame) for frame in frames],
        layout if pad else None,
    )
    for data, expected, source in zip(stylized, reference(frames, form, coding), frames):
        components, spare = plain.components(data)
        for got, want in zip(components, expected):
            np.testing.assert_array_equal(got, want)
        assert not np.array_equal(components[0] >> shift(form), source[0]), "nothing was stylized"
        assert all((s == SPARE).all() for s in spare)


@pytest.mark.parametrize("pad, offset", [(0, 0), (12, 32)], ids=["default strides", "padded"])
@pytest.mark.parametrize("form", PLANES)
def test_each_format(Gst, send, form, pad, offset):
    """Odd width and height; "padded": strides and offsets that the buffer's GstVideoMeta alone
    tells.
    """
    check(Gst, send, form, coding(form), pad=pad, offset=offset)


@pytest.mark.parametrize(
    "form, caps, size, meaning",
    [
        ("I420", "colorimetry=bt709", (64, 48), {"matrix": 1}),
        (
            "NV12",
            "colorimetry=bt709, chroma-site=mpeg2",
            (61, 47),
            {"matrix": 1, "cosited": (False, True)},
        ),
        ("I420", "colorimetry=bt601, chroma-site=jpeg", (64, 48), {}),
        ("I420", "colorimetry=bt601, chroma-site=cosited", (61, 47), {"cosited": (True, True)}),
        ("Y42B", "colorimetry=bt601, chroma-site=mpeg2", (61, 47), {"cosited": (False, True)}),
        ("I420", "colorimetry=(string)1:4:0:1", (64, 48), {"full_range": True}),
        ("Y444", "colorimetry=smpte240m", (64, 48), {"matrix": 7}),
        (
            "P010_10LE",
            "colorimetry=bt2020-10, chroma-site=mpeg2",
            (64, 48),
            {"matrix": 9, "cosited": (False, True)},
        ),
        ("I420_10LE", "colorimetry=(string)1:6:0:7", (64, 48), {"matrix": 9, "full_range": True}),
        ("RGB", "colorimetry=(string)2:1:7:1", (64, 48), {"full_range": False}),
        # GStreamer's guess for what is not tagged: from 577 lines up BT.709, and chroma as in
        # MPEG-2.
        ("I420", "", (16, 576), {}),
        ("I420", "", (16, 578), {"matrix": 1, "cosited": (False, True)}),
    ],
)
def test_color_as_the_caps_say(Gst, send, form, caps, size, meaning):
    check(Gst, send, form, coding(form, **meaning), caps and f", {caps}", *size)


TAGS = [
    ("colorimetry=bt601, chroma-site=jpeg", {}),
    ("colorimetry=bt709, chroma-site=jpeg", {"matrix": 1}),
    ("colorimetry=bt709, chroma-site=mpeg2", {"matrix": 1, "cosited": (False, True)}),
    ("colorimetry=bt2020, chroma-site=jpeg", {"matrix": 9}),
    ("colorimetry=(string)1:4:0:1, chroma-site=jpeg", {"full_range": True}),
]

IN_16_BITS = "videoconvert ! video/x-raw,format=ARGB64 ! videoconvert dither=none ! video/x-raw"


def noisy(components):
    random = np.random.default_rng(0)
    return [(c + random.integers(-8, 9, c.shape)).astype(np.uint8) for c in components]


def check_close(layout, one, other, limit):
    """All but the last column: where chroma is cosited, videoconvert makes something else of it
    (GStreamer 1.22).
    """
    for a, b in zip(layout.components(one)[0], layout.components(other)[0]):
        assert np.abs(a.astype(int) - b)[:, :-1].max() <= limit


@pytest.mark.parametrize("change", [list, noisy], ids=["smooth", "noisy"])
@pytest.mark.parametrize("tags, meaning", TAGS)
def test_yuv_of_rgb_is_videoconverts(Gst, send, stylize, tags, meaning, change):
    """A stylized picture, by GStreamer's own reading of the tags: within 2 code values."""
    import torch

    from vsneuralstyle.video.pixels import rgb_to_components

    frame = stylize(np.stack(change(picture("RGB", 48, 64)), axis=-1)[None])[0]
    layout, rgb = Frame(Gst, "I420", 64, 48), frame.transpose(2, 0, 1)
    (theirs,) = send(
        f"videoconvert ! video/x-raw, format=I420, {tags}",
        "format=RGB, width=64, height=48",
        [Frame(Gst, "RGB", 64, 48).fill(rgb)],
    )
    ours = [np.zeros_like(component) for component in picture("I420", 48, 64)]
    rgb_to_components(
        torch.from_numpy(rgb[None] / np.float32(255)), ours, coding("I420", **meaning)
    )
    check_close(layout, layout.fill(ours), theirs, 2)


@pytest.mark.parametrize("change", [list, noisy], ids=["smooth", "noisy"])
@pytest.mark.parametrize("tags, meaning", TAGS)
def test_yuv_to_rgb_and_back_is_videoconverts(Gst, send, tags, meaning, change):
    """I420 in and out, at strength 0 so that the networks don't multiply a difference: within 2
    code values of videoconvert where that computes in 16 bits, of 3 in full range (its chroma then
    is 3 from the source, and ours 1). Between formats of 8 bits it computes in 8, faster, and makes
    luma about 3 code values darker (GStreamer 1.22).
    """
    source, layout = change(picture("I420", 48, 64)), Frame(Gst, "I420", 64, 48)
    caps, frame = f"format=I420, width=64, height=48, {tags}", layout.fill(source)
    (direct,) = send(f"{ELEMENT} strength=0", caps, [frame])
    (exact,) = send(f"{IN_16_BITS}, {caps}", caps, [frame])
    (around,) = send(
        f"videoconvert ! video/x-raw,format=RGB ! {ELEMENT} strength=0 ! videoconvert ! "
        f"video/x-raw, {caps}",
        caps,
        [frame],
    )
    check_close(layout, direct, exact, 3 if "full_range" in meaning else 2)
    lost = [
        np.abs(layout.components(way)[0][0].astype(int) - source[0]).max()
        for way in (direct, around)
    ]
    assert lost[0] <= min(1, lost[1])


def test_strength_0_gives_the_source(Gst, send):
    """Luma and full chroma to the code value; chroma of half size as smooth as the picture."""
    for form in PLANES:
        source = picture(form, 47, 61)
        layout = Frame(Gst, form, 61, 47)
        (out,) = send(
            f"{ELEMENT} strength=0", f"format={form}, width=61, height=47", [layout.fill(source)]
        )
        for got, want, (rows, columns) in zip(
            layout.components(out)[0], source, shapes(form, 47, 61)
        ):
            limit = 0 if (rows, columns) == (47, 61) else 2 * 2 ** (bits(form) - 8)
            assert np.abs((got >> shift(form)).astype(int) - want).max() <= limit, form


@pytest.mark.parametrize(
    "source, expected",
    [
        ("I420", {"I420"}),
        ("NV12", {"NV12"}),
        ("YUY2", {"YUY2"}),
        ("BGRx", {"BGRx"}),
        ("P010_10LE", {"P010_10LE"}),
        ("AYUV", {"RGBA", "BGRA", "ARGB", "ABGR"}),
        ("I420_12LE", {"I420_10LE", "P010_10LE", "I422_10LE"}),
    ],
)
def test_what_videoconvert_before_the_element_makes(play, finish, source, expected):
    """Nothing of a format that the element takes; of another one that loses least: alpha is kept,
    and depth.
    """
    pipeline = play(
        f"videotestsrc num-buffers=1 ! video/x-raw,format={source},width=64,height=48 ! "
        f"videoconvert ! {ELEMENT} ! fakesink"
    )
    finish(pipeline)
    from gi.repository import GstVideo

    caps = pipeline.get_by_name("style").get_static_pad("sink").get_current_caps()
    assert GstVideo.VideoInfo.new_from_caps(caps).finfo.name in expected
