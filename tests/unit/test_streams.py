"""Several frames at a time on a GPU: that no stream reads what another hasn't made yet, or keeps
what it may have lost; and, where there is a GPU, that the pictures are those of one frame after the
other.

Without a GPU, streams stand in that only keep count: of each, what it has done, and what of the
others was done before that, for certain (vector clocks). Every operator's tensors are looked up in
that order.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vsneuralstyle import ArgumentError, Stylizer
from vsneuralstyle.core import pipeline, stylizer
from vsneuralstyle.core.pipeline import MAX_IN_FLIGHT, Pipeline
from vsneuralstyle.engines.cuda.streams import Streams
from vsneuralstyle.hosts.vapoursynth.session import Session
from vsneuralstyle.video import pixels
from vsneuralstyle.video.pixels import Coding

# --- the order of what is launched ----------------------------------------------------------------


class Event:
    """What a stream had done, and what was done before that."""

    device = None

    def __init__(self, clock: dict) -> None:
        self.clock = clock


class Stream:
    device = None

    def __init__(self) -> None:
        self.clock = {self: 0}

    def record_event(self) -> Event:
        return Event(dict(self.clock))

    def wait_event(self, event: Event) -> None:
        for stream, count in event.clock.items():
            self.clock[stream] = max(self.clock.get(stream, 0), count)

    def act(self) -> tuple["Stream", int]:
        self.clock[self] += 1
        return self, self.clock[self]

    def knows(self, deed: tuple["Stream", int]) -> bool:
        stream, count = deed
        return self.clock.get(stream, 0) >= count


class Memory:
    """A tensor's: which stream it is of, which others were recorded to use it, and who wrote and
    read it last.
    """

    def __init__(self, storage: torch.UntypedStorage, stream: Stream) -> None:
        self.storage = storage  # held, so that no other gets its address
        self.streams, self.written, self.reads = {stream}, None, []


class Watch(TorchDispatchMode):
    """Each operator reads what was written before it for certain, writes to what nobody may still
    be reading, and both in streams that the allocator knows of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current, self.memories, self.operators = Stream(), {}, 0

    def memory(self, tensor: Tensor, made: bool = False) -> Memory | None:
        storage = tensor.untyped_storage()
        if made:
            self.memories.setdefault(storage._cdata, Memory(storage, self.current))
        return self.memories.get(storage._cdata)  # None: from before the watch

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        stream = self.current
        deed = stream.act()
        result = operator(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = []
        for argument, value in zip(operator._schema.arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        written += [
            leaf
            for name, value in (kwargs or {}).items()
            if name == "out"
            for leaf in tree_leaves(value)
        ]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        addresses = {tensor.untyped_storage()._cdata for tensor in given}
        if (
            made
            and not written
            and all(tensor.untyped_storage()._cdata in addresses for tensor in made)
        ):
            return result  # views, which read nothing
        for tensor in given:
            memory = self.memory(tensor)
            if memory is not None:
                assert memory.written is None or stream.knows(memory.written), (
                    f"{operator} reads what may not be there yet"
                )
                assert stream in memory.streams, (
                    f"{operator} reads in a stream that the memory's owner doesn't know of"
                )
                memory.reads.append(deed)
        for tensor in written:
            memory = self.memory(tensor, made=True)
            assert all(map(stream.knows, memory.reads[:-1])), (
                f"{operator} writes to what may still be read"
            )
            memory.written, memory.reads = deed, []
        for tensor in made:
            if self.memory(tensor) is None:
                self.memory(tensor, made=True).written = deed
        self.operators += 1
        return result

    @contextmanager
    def stream(self, stream: Stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: watch.current)
    monkeypatch.setattr(torch.cuda, "stream", watch.stream)
    monkeypatch.setattr(
        Tensor,
        "record_stream",
        lambda tensor, stream: watch.memory(tensor, made=True).streams.add(stream),
    )
    return watch


@pytest.fixture
def watched(model_dir, watch, again, reference, monkeypatch):
    """A Stylizer as on a GPU: with streams, and steps that have one copy of their tensors."""
    monkeypatch.setattr(stylizer, "select_engine", reference)
    one = Stylizer("candy", device="cpu", precision="float32")
    one.pipeline.capture(again)
    one.pipeline._streams = Streams(*(Stream() for _ in Streams._fields))
    one.pipeline._reuses_repeated_frames, one.pipeline.threads = False, 1
    return one


def converted(frame: Tensor) -> Tensor:
    """By operators, in the current stream."""
    return frame.mul(255).div(255)


def encoded_frame(one: Stylizer, frame: Tensor) -> Future:
    """As `encode_ahead` gives it, in the calling thread."""
    ahead = Future()
    ahead.set_result(one.pipeline._encode(frame, one.options))
    return ahead


def play(one: Stylizer, frames: Tensor, aside=nullcontext) -> list[Tensor]:
    """All that hosts do, some of it ahead."""
    shown, begun = [], []

    def take(number: int) -> None:
        while len(begun) > number:
            shown.append(begun.pop(0).result()[0] * 1)

    def ahead(*numbers: int, told=None) -> None:
        for number in numbers:
            with aside():
                frame = converted(frames[number : number + 1])
            begun.append(one.submit(frame, told))
            with aside():
                take(MAX_IN_FLIGHT)

    ahead(0, 1, 2, 3)
    # beside those that are under way, over a cut
    shown.append(one.stylize(converted(frames[4:7])) * 1)
    ahead(7, 6)
    with aside():
        take(0)
        state = one.state
        kept = [part * 1 for part in state.tensors]
    for name, value in (
        ("coherence", 0.25),
        ("strength", 0.5),
        ("preserve_color", True),
        ("coherence", 0),
        ("coherence", 1),
    ):
        setattr(one, name, value)
        ahead(5, 6, told=False)
    one.state = state
    ahead(7, 6, 5)
    one.reset()
    ahead(3, 2)
    with aside():
        take(0)
    one.reset()
    small = frames[:3, :, :45, :50]
    encoded = [encoded_frame(one, converted(frame)) for frame in small.flip(0).split(1)][::-1]
    shown += [one.submit(frame).result()[0] * 1 for frame in encoded]
    one.state = one.state
    shown += [one.stylize(converted(small[1:2])) * 1, *kept]
    return shown


# Frames of which some is out of range: what the networks see is another tensor then, as on a GPU.
@pytest.mark.parametrize("brightness", [1, 1.5])
@pytest.mark.parametrize("aside", [False, True])
def test_streams_wait_for_each_other(watch, watched, frames, aside, brightness):
    frames = frames * brightness
    expected = Stylizer("candy", device="cpu", precision="float32", coherence=1.0)
    with watch:
        shown = play(watched, frames, watched.io_context if aside else nullcontext)
    assert watch.operators > 1000
    expected.pipeline._reuses_repeated_frames, expected.pipeline.threads = False, 1
    plain = play(expected, frames)
    assert len(shown) == len(plain) and all(map(torch.equal, shown, plain))


@pytest.mark.parametrize("fault", ["unordered", "unrecorded", "unreceived", "unqueued"])
def test_a_stream_that_waits_for_none_is_seen(watch, watched, frames, monkeypatch, fault):
    if fault == "unordered":
        monkeypatch.setattr(Stream, "wait_event", lambda stream, event: None)
    elif fault == "unrecorded":
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    elif fault == "unreceived":
        monkeypatch.setattr(pipeline, "receive", lambda event, *tensors: None)
    else:
        monkeypatch.setattr(pipeline, "queued", lambda stream, *tensors: pipeline.on(stream))
    with pytest.raises(AssertionError, match="may not be there yet|doesn't know of"), watch:
        play(watched, frames)


def test_frames_are_launched_while_others_are_under_way(watch, watched, frames):
    """No stream but `work` waits for what was drawn of the frames before, and none but these two
    for their flow.
    """
    io, encode, flow, work, _ = watched.pipeline._streams
    with watch:
        for frame in frames[:5].split(1):
            with watched.io_context():
                watched.submit(converted(frame))
    assert (
        all(work.clock[one] for one in (io, encode, flow))
        and flow.clock[encode]
        and work not in flow.clock
    )
    assert not {flow, work} & {*io.clock, *encode.clock} and watch.current.clock.keys() == {
        watch.current
    }


class Here:
    """What stands for the device's thread: the caller's own thread, which is the one that is
    watched.
    """

    def submit(self, function, *arguments) -> Future:
        done = Future()
        done.set_result(function(*arguments))
        return done


@pytest.fixture
def session(watched, monkeypatch) -> Session:
    """One of 8-bit frames of 64x48, as on a GPU, by a watched Stylizer. It copies to and from the
    host by operators.
    """
    monkeypatch.setattr(
        pixels,
        "planes_to_rgb",
        lambda planes, bits, device: torch.stack([torch.from_numpy(p) for p in planes])[None] / 255,
    )
    monkeypatch.setattr(pixels, "download", lambda samples: samples * 1)
    session = Session(64, 48, 8, style="candy", device="cpu")
    session._stylizer = watched
    monkeypatch.setattr(pipeline, "_thread", lambda device: Here())
    return session


def sources_of(frames: Tensor) -> list[list[np.ndarray]]:
    return [
        [np.ascontiguousarray(plane) for plane in (frame.numpy() * 255).round().astype(np.uint8)]
        for frame in frames
    ]


def play_filter(session: Session, sources: list) -> list[list[np.ndarray]]:
    """As filter.c does: several frames are prepared, processed and pending, and are filled in
    another order, but for one.
    """
    made, pending = {}, {}

    def fill(n: int) -> None:
        session.fill(
            pending.pop(n), made.setdefault(n, [np.zeros_like(plane) for plane in sources[n]])
        )

    prepared = {n: session.encode_ahead(sources[n]) for n in range(4)}
    for n, source in enumerate(sources):
        starts, pending[n] = session.process(None, source, prepared.pop(n, None))
        assert starts in (True, False)
        if n in (1, 2, 5):
            fill(n)
        if n == 3:
            state = session.checkpoint()
    session.resume(state)
    for n in (7, 4, 0):
        fill(n)
    _, again = session.process(None, sources[4])
    pending.clear()
    session.fill(again, made.setdefault(-1, [np.zeros_like(plane) for plane in sources[4]]))
    assert all(map(np.array_equal, made[-1], made[4]))
    return [made[n] for n in (0, 1, 2, 4, 5, 7)]


def test_a_session_waits_for_what_it_reads(watch, watched, session, frames):
    sources = sources_of(frames)
    with watch:
        shown = play_filter(session, sources)
    plain, expected = Stylizer("candy", device="cpu", precision="float32"), []
    for source in sources:
        output = plain.stylize(pixels.planes_to_rgb(source, 8, "cpu"))
        expected.append([np.zeros_like(plane) for plane in source])
        pixels.rgb_to_planes(output, expected[-1], 8)
    assert all(
        np.array_equal(a, b)
        for n, one in zip((0, 1, 2, 4, 5, 7), shown)
        for a, b in zip(one, expected[n])
    )


@pytest.mark.parametrize("fault", ["unordered", "unrecorded", "unreceived"])
def test_a_session_that_waits_for_nothing_is_seen(watch, session, frames, monkeypatch, fault):
    sources = sources_of(frames[:1])
    with watch:
        _, begun = session.process(None, sources[0], session.encode_ahead(sources[0]))
        if fault == "unordered":
            monkeypatch.setattr(Stream, "wait_event", lambda stream, event: None)
        elif fault == "unrecorded":
            monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
        else:
            monkeypatch.setattr(pipeline, "receive", lambda event, *tensors: None)
        with pytest.raises(AssertionError, match="may not be there yet|doesn't know of"):
            session.fill(begun, sources[0])


def test_a_session_launches_frames_while_others_are_filled(watch, watched, session, frames):
    """No stream waits for the networks but that of the downloads, which none waits for."""
    sources = sources_of(frames)
    io, encode, flow, work, down = watched.pipeline._streams
    with watch:
        for source in sources:
            _, begun = session.process(None, source, session.encode_ahead(source))
            session.fill(begun, [np.zeros_like(plane) for plane in source])
    assert all(work.clock[one] for one in (io, encode, flow)) and down.clock[work]
    assert not {flow, work, down} & {*io.clock, *encode.clock, *watch.current.clock}
    assert work not in flow.clock and down not in {*flow.clock, *work.clock}


# --- on a GPU -------------------------------------------------------------------------------------

CODING = Coding(matrix=1, full_range=False, cosited=(False, True))


@pytest.fixture
def large(frames) -> Tensor:
    """The clip at a size that keeps a GPU busy for a while."""
    return torch.nn.functional.interpolate(frames, (360, 640), mode="bicubic").clamp(0, 1)


def in_turn(**options) -> Stylizer:
    """As it is without streams of its own: all in the caller's current one."""
    one = Stylizer("candy", **options)
    one.pipeline._streams = Streams()
    return one


@pytest.mark.parametrize("slow", [None, "io", "encode", "flow", "work"])
def test_frames_under_way_are_those_in_turn(model_dir, cuda, large, slow):
    """Bit for bit, whichever stream is behind; the others then come to what isn't there yet, or not
    any more.
    """
    large = large.to(cuda)
    expected = play(in_turn(device=cuda), large)
    torch.cuda.synchronize(cuda)
    for aside in (True, False):
        one = Stylizer("candy", device=cuda)
        torch.cuda.synchronize(cuda)
        if slow:
            stream = getattr(one.pipeline._streams, slow)

            def slowed(step):
                def call(*inputs):
                    if torch.cuda.current_stream(cuda) == stream:  # noqa: B023  called in this round
                        torch.cuda._sleep(5 * 10**6)
                    return step(*inputs)

                return call

            functions = one.pipeline._functions
            functions.update({name: slowed(function) for name, function in functions.items()})
        for _ in range(3):  # graphs are captured in the first
            one.reset()
            one.coherence, one.strength, one.preserve_color = 1, 1, False
            shown = play(one, large, one.io_context if aside else nullcontext)
            torch.cuda.synchronize(cuda)
            assert len(shown) == len(expected)
            assert [
                n for n, pair in enumerate(zip(shown, expected)) if not torch.equal(*pair)
            ] == []


def test_a_session_waits_for_the_networks_in_fill_alone(model_dir, cuda, large):
    """So that frames are launched while others are waited for."""
    height, width = large.shape[2:]
    session, sources = Session(width, height, 8, style="candy", device=cuda), sources_of(large[:4])
    work = session._stylizer.pipeline._streams.work

    def launch() -> list:
        return [
            session.process(None, source, session.encode_ahead(source))[1] for source in sources
        ]

    with ThreadPoolExecutor(4) as threads:
        for asleep in (False, True):  # memory is found and graphs are captured in the first round
            if asleep:
                with torch.cuda.stream(work):
                    torch.cuda._sleep(4 * 10**9)
            fills = [
                threads.submit(session.fill, one, [np.zeros_like(plane) for plane in sources[0]])
                for one in launch()
            ]
            later = launch()
            assert not asleep or not (work.query() or any(fill.done() for fill in fills))
            for fill in fills:
                fill.result()
            for one in later:
                session.fill(one, [np.zeros_like(plane) for plane in sources[0]])
            torch.cuda.synchronize(cuda)


def test_nobody_waits_for_the_networks(model_dir, cuda, large):
    """What is begun, converted, taken up and down, while frames are under way."""
    one, planes = (
        Stylizer("candy", device=cuda),
        [np.zeros(shape, np.uint8) for shape in ((360, 640), (180, 320), (180, 320))],
    )
    pixels.rgb_to_components(large[:1], planes, CODING)
    target, expected = ([np.zeros_like(plane) for plane in planes] for _ in range(2))
    pixels.rgb_to_components(pixels.components_to_rgb(planes, CODING), expected, CODING)

    def through() -> list:
        with one.io_context():
            begun = [one.submit(pixels.components_to_rgb(planes, CODING, cuda)) for _ in range(3)]
            pixels.rgb_to_components(pixels.components_to_rgb(planes, CODING, cuda), target, CODING)
        return begun

    for begun in through():
        begun.result()
    torch.cuda.synchronize(cuda)
    with torch.cuda.stream(one.pipeline._streams.work):
        torch.cuda._sleep(4 * 10**9)
    begun = through()
    assert not one.pipeline._streams.work.query()  # still asleep
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(expected, target))
    with one.io_context():
        pictures = [future.result()[0] for future in begun]
        assert not one.pipeline._streams.work.query()  # nor does who takes a result
        torch.cuda.synchronize(cuda)
    # of a repeated frame
    assert all((picture - pictures[0]).abs().max() < 0.1 for picture in pictures)


def test_memory_does_not_grow_while_frames_are_under_way(model_dir, cuda, large):
    one = Stylizer("candy", device=cuda)
    pictures = []
    for frame in large[:4].split(1):
        pictures.append(
            [np.zeros(shape, np.uint8) for shape in ((360, 640), (180, 320), (180, 320))]
        )
        pixels.rgb_to_components(frame, pictures[-1], CODING)
    target, begun, reserved = [np.zeros_like(plane) for plane in pictures[0]], [], []
    for n in range(400):
        with one.io_context():
            begun.append(
                one.submit(pixels.components_to_rgb(pictures[n % 4], CODING, cuda), n == 0)
            )
            if len(begun) > MAX_IN_FLIGHT:
                pixels.rgb_to_components(begun.pop(0).result()[0], target, CODING)
        if n in (50, 399):
            reserved.append(torch.cuda.memory_reserved(cuda))
    assert reserved[1] <= reserved[0] + 2**26  # some frames' worth


def test_a_state_is_there_where_it_is_read(model_dir, cuda, large):
    one = Stylizer("candy", device=cuda)
    one.stylize(large[:2])
    torch.cuda.synchronize(cuda)
    with torch.cuda.stream(one.pipeline._streams.work):
        torch.cuda._sleep(10**9)
    begun = [one.submit(frame) for frame in large[2:4].split(1)]
    state = one.state.to("cpu")  # in the current stream
    assert all(future.done() for future in begun)
    other = Stylizer("candy", device=cuda)
    other.stylize(large[:4])
    assert all(map(torch.equal, state.tensors, other.state.to("cpu").tensors))
    one.reset()
    one.state = state
    assert torch.equal(one.stylize(large[4:5]), other.stylize(large[4:5]))


def test_frames_of_another_size_are_errors_that_leave_the_state(model_dir, cuda, frames):
    one, other = (Stylizer("candy", device=cuda) for _ in range(2))
    one.submit(frames[:1])
    with pytest.raises(ArgumentError, match="after one of 64x48"):
        one.submit(frames[1:2, ..., :32]).result()
    assert torch.equal(one.submit(frames[1:2]).result()[0], other.stylize(frames[:2])[1:])


def test_a_session_prepares_frames_in_any_order(model_dir, cuda, large):
    """From several threads; and what is processed is what is stylized, also without."""
    height, width = large.shape[2:]
    play_session(Session(width, height, 8, style="candy", device=cuda), large)


def test_a_session_as_on_a_gpu(model_dir, frames, monkeypatch):
    """Its threads, on a CPU."""
    monkeypatch.setattr(Pipeline, "is_async", True)
    monkeypatch.setattr(Pipeline, "_in_teams", False)
    session = Session(64, 48, 8, style="candy", device="cpu")
    session._stylizer.pipeline._reuses_repeated_frames = False
    play_session(session, frames)


def play_session(session: Session, frames: Tensor) -> None:
    count, device = len(frames), str(session._stylizer.device)
    sources = sources_of(frames)
    plain, expected = Stylizer("candy", device=device), []
    for source in sources:
        expected.append([np.zeros_like(plane) for plane in source])
        pixels.rgb_to_planes(
            plain.stylize(pixels.planes_to_rgb(source, 8, device)), expected[-1], 8
        )

    def played(prepared) -> list:
        made, fills = [], []
        for source, one in zip(sources, prepared):
            made.append([np.zeros_like(plane) for plane in source])
            starts, begun = session.process(True if len(made) == 1 else None, source, one)
            assert starts in (True, False)
            # while the next ones are processed
            fills.append(threads.submit(session.fill, begun, made[-1]))
        for fill in fills:
            fill.result()
        return made

    def same(made) -> bool:
        return all(
            np.array_equal(a, b) for one, other in zip(made, expected) for a, b in zip(one, other)
        )

    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            prepared = list(threads.map(session.encode_ahead, sources[::-1]))[::-1]
            assert all(prepared) and same(played(prepared))
            later = iter([threads.submit(session.encode_ahead, source) for source in sources])
            # while others are prepared
            assert same(played(next(later).result() for _ in range(count)))
        assert same(played([None] * count))
    state = session.checkpoint()
    session.resume(state)
    assert session.checkpoint().opacity == state.opacity
