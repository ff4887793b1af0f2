"""CUDA graphs: that a frame's step can be captured, and that replaying it changes nothing. Where
there is no GPU, the meta device shows the first, and a trace of the step's operators, which is as
deaf to Python as a graph, the second.
"""

import gc
import sys
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vsneuralstyle import Stylizer
from vsneuralstyle.core import recurrence, stylizer
from vsneuralstyle.core.recurrence import State
from vsneuralstyle.engines.cuda.graphs import Graphed
from vsneuralstyle.networks.checkpoint import NETS, available_styles
from vsneuralstyle.networks.net1 import Net1

# --- what can be captured -------------------------------------------------------------------------


class NothingFromTheHost(TorchFunctionMode):
    """No call that makes a tensor of Python's values, which is an upload: no operator tells of
    it.
    """

    UPLOADS = torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in self.UPLOADS, f"{function.__name__} uploads"
        return function(*args, **(kwargs or {}))


class NothingToTheHost(TorchDispatchMode):
    """No operator that the host waits for, that draws, or that has to do with a tensor elsewhere
    than on the meta device.
    """

    TAGS = frozenset(
        {
            torch.Tag.data_dependent_output,
            torch.Tag.dynamic_output_shape,
            torch.Tag.nondeterministic_seeded,
        }
    )

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        assert not self.TAGS & set(operator.tags) and "index_put" not in str(operator), (
            f"{operator} can't be captured"
        )
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, (
                f"{operator} has a tensor on {tensor.device}"
            )
        return result


def steps(one: Stylizer, height: int, width: int) -> None:
    """A scene's first frame and two more, under watch: the second looks at the first, which the
    third needn't.
    """
    frames = [torch.empty(1, 3, height, width, device="meta") for _ in range(3)]
    state, pipeline, options = None, one.pipeline, one.options
    with torch.no_grad(), NothingFromTheHost(), NothingToTheHost():
        for frame, starts in zip(frames, (True, False, False)):
            lowres, descriptor = pipeline._run(recurrence.describe, frame)
            encoded = pipeline._encode_described(frame, lowres, descriptor, options)
            state, picture = recurrence.step(
                state, encoded, descriptor, (starts, 1.0), options.coherence, pipeline._run
            )
            picture = recurrence.blend(encoded, picture, options.strength, pipeline._luma_weights)
            assert picture.shape == frame.shape and picture.dtype == torch.float32
    assert bool(state.flow_features) == (options.coherence > 0)


@pytest.fixture
def on_meta(monkeypatch, model_dir):
    """Makes a Stylizer as on a GPU, but on the meta device: shapes without values."""
    monkeypatch.setattr(stylizer, "resolve_device", lambda name: torch.device("meta"))
    return partial(Stylizer, precision="float16", strength=0.5, coherence=0.5, preserve_color=True)


@pytest.mark.parametrize("net", NETS)
def test_a_step_can_be_captured(on_meta, net):
    first, second, *_ = styles = list(available_styles(net))
    for style in styles + ([f"{first}:0.6+{second}:0.4"] if net == "stylebank" else []):
        one = on_meta(style, net=net)
        steps(one, 45, 83)
    steps(one, 2176, 2048)  # matched in squares
    one.coherence = 0
    steps(one, 48, 64)


def test_a_step_with_the_papers_flow_network_can_be_captured(on_meta):
    one = on_meta("candy")
    with torch.device("meta"):
        one.engine = stylizer.select_engine(
            Net1(flow_network="flownets", flow_width=0.125), one.device, one.precision
        )
    steps(one, 48, 64)


@pytest.mark.parametrize(
    "offence",
    [
        lambda frame: torch.tensor([0.2, 0.7, 0.1], device=frame.device),
        lambda frame: frame.new_tensor([1.0]),
        lambda frame: frame * torch.ones(1),
        lambda frame: torch.ones(3).to(frame.device),
        lambda frame: frame.copy_(torch.ones(1)),
        lambda frame: frame.mean().item(),
        lambda frame: bool((frame > 0).any()),
        lambda frame: frame.cpu(),
        lambda frame: frame.nonzero(),
        lambda frame: frame[frame > 0],
        lambda frame: frame[[0]],
        lambda frame: frame.index_put_((frame > 0,), frame.sum()),
        lambda frame: frame.masked_select(frame > 0),
        lambda frame: torch.rand_like(frame),
    ],
)
def test_what_cannot_be_captured_is_seen(on_meta, monkeypatch, offence):
    one, encode = on_meta("candy"), Net1.encode
    monkeypatch.setattr(
        Net1, "encode", lambda net1, frame: (offence(frame.clone()), encode(net1, frame))[1]
    )
    with pytest.raises((AssertionError, RuntimeError)):
        steps(one, 48, 64)


# --- what a replay gives --------------------------------------------------------------------------


@pytest.fixture
def trace(again):
    """`graphs.record` without a GPU: the operators that the function ran, and nothing that Python
    decides anew.
    """

    def record(function, tensors, device):
        with torch.inference_mode(False), torch.no_grad():
            traced = make_fx(function)(*(tensor.clone() for tensor in tensors))
        return again(traced, tensors, device)

    return record


@pytest.fixture
def pair(model_dir, trace, reference, monkeypatch):
    """Makes two Stylizers of one kind: eager, and by graphs."""
    monkeypatch.setattr(stylizer, "select_engine", reference)

    def make(**options) -> tuple[Stylizer, Stylizer]:
        eager, graphed = (
            Stylizer("candy", device="cpu", precision="float32", **options) for _ in range(2)
        )
        graphed.pipeline.capture(trace)
        return eager, graphed

    return make


def parts(state: State) -> list[Tensor]:
    return [state.frame, state.lowres, state.feature, *(state.flow_features or ())]


def test_graphs_move_no_bit(pair, frames):
    def play(one: Stylizer) -> list[Tensor]:
        shown = [one.stylize(frames[:3])]
        state = one.state
        shown += [one.stylize(frames[3:4]), one.stylize(frames[4:])]  # over the cut
        one.state = state
        shown += [one.stylize(frames[3:])]
        for name, value in (
            ("coherence", 0.25),
            ("strength", 0.5),
            ("preserve_color", True),
            ("coherence", 0),
            ("coherence", 1),
        ):
            setattr(one, name, value)
            shown += [one.stylize(frames[2:4], [False, False])]
        one.reset()
        shown += [one.stylize(frames[:2])]
        one.reset()
        shown += [one.stylize(frames[:3, :, :45, :50])]
        assert one.scene_starts == (True, False, False)
        return shown + parts(one.state)

    eager, graphed = map(play, pair())
    assert len(eager) == len(graphed) and all(map(torch.equal, eager, graphed))
    assert torch.equal(eager[3], torch.cat(eager[1:3])) and not torch.equal(eager[4], eager[3][:2])


def test_two_clips_in_turn_are_each_its_own(pair, frames):
    eager, graphed = pair()
    whole, reverse = eager.stylize(frames), frames.flip(0)
    eager.reset()
    backwards, other = eager.stylize(reverse), pair()[1]
    for n in range(8):
        assert torch.equal(graphed.stylize(frames[n : n + 1]), whole[n : n + 1])
        assert torch.equal(other.stylize(reverse[n : n + 1]), backwards[n : n + 1])


def test_what_a_graph_gives_stays_as_it_is(trace):
    recorded = []

    def record(function, tensors, device):
        recorded.append(device)
        return trace(function, tensors, device)

    graphed = Graphed(lambda x, factor: (x * factor, x), record)
    one, given = graphed(torch.ones(3), 2)
    two, _ = graphed(torch.full((3,), 5.0), 0.5)
    assert one.tolist() == [2.0] * 3 and given.tolist() == [1.0] * 3 and two.tolist() == [2.5] * 3
    assert recorded == [torch.device("cpu")]


def test_another_size_is_another_graph_and_the_one_before_goes_first():
    before = []

    def record(function, tensors, device):
        assert not any(ref() for ref in before)
        before.append(weakref.ref(function))
        return lambda given: function(*given)

    graphed = Graphed(lambda x: (x + 1,), record)
    for x in (torch.rand(2, 3), torch.rand(3, 2), torch.rand(2, 3).mT, torch.rand(3, 2).double()):
        for _ in range(2):
            assert torch.equal(graphed(x)[0], x + 1)
    assert len(before) == 4


def test_a_capture_that_fails_is_tried_again():
    failures = [RuntimeError("no")]

    def record(function, tensors, device):
        if failures:
            raise failures.pop()
        return lambda given: function(*given)

    graphed = Graphed(lambda x: (x + 1,), record)
    with pytest.raises(RuntimeError, match="no"):
        graphed(torch.ones(2))
    assert graphed(torch.ones(2))[0].tolist() == [2, 2]


def test_a_stylizer_that_is_dropped_goes_at_once_with_its_graphs(pair, frames):
    """Not when Python next looks for cycles: a GPU's memory is short, and Python doesn't know of
    it.
    """
    _, one = pair()
    one.stylize(frames[:2])
    gone = weakref.ref(one), weakref.ref(one.pipeline), weakref.ref(one.engine)
    gc.disable()
    try:
        del one
        assert [ref() for ref in gone] == [None] * 3
    finally:
        gc.enable()


def test_to_watch_a_function_loads_nothing(run):
    """PyTorch's compiler takes seconds to load, before the first frame."""
    program = """if True:
        import sys, torch
        from vsneuralstyle.engines.cuda.graphs import Watch

        with Watch([x := torch.ones(3)]) as watch:
            before = set(sys.modules)
            y = x + 1
        assert watch.memory(y.data_ptr()).operators
        assert set(sys.modules) == before, sorted(set(sys.modules) - before)[:9]
    """
    result = run(sys.executable, "-c", program)
    assert result.returncode == 0, result.stderr


# --- on a GPU -------------------------------------------------------------------------------------


def test_a_graph_gives_the_eager_steps_bits(model_dir, cuda, frames):
    graphed, eager = (Stylizer("candy", device=cuda) for _ in range(2))
    graphs = graphed.pipeline._functions.values()
    assert all(isinstance(function, Graphed) for function in graphs)
    functions = eager.pipeline._functions
    functions.update({name: graph._function for name, graph in functions.items()})
    for one in (graphed, eager):
        one.coherence = 0.7
    for group in frames.split(3):
        assert torch.equal(graphed.stylize(group), eager.stylize(group))
    assert all(map(torch.equal, parts(graphed.state), parts(eager.state)))


def test_memory_does_not_grow(model_dir, cuda, frames):
    one, allocated, reserved = Stylizer("candy", device=cuda), [], []

    def use() -> None:
        allocated.append(torch.cuda.memory_allocated(cuda))
        reserved.append(torch.cuda.memory_reserved(cuda))

    for n in range(220):
        one.stylize(frames[n % 4 : n % 4 + 1], [n == 0])
        if n == 20:
            gc.collect()  # what other tests left
        if n >= 20:
            use()
    # What streams hand each other is free again when they have come to it, and so now and then a
    # frame takes more.
    assert set(allocated) == {allocated[0]} and max(reserved) <= reserved[0] + 2**24
    for _ in range(6):  # nor with sizes: the old graphs go
        for width in (64, 48):
            one.reset()
            one.stylize(frames[:3, :, :, :width], [False] * 3)
        use()
    assert allocated[-1] <= allocated[-4] and reserved[-1] <= reserved[-4] + 2**24


def test_what_cannot_be_captured_is_an_error_that_says_so(cuda, run):
    program = f"""if True:
        import torch
        from vsneuralstyle.engines.cuda.graphs import Graphed

        Graphed(lambda x: (x * x.sum().item(),))(torch.ones(3, device={cuda!r}))
    """
    # of its own: PyTorch's allocator doesn't get over a capture that fails
    result = run(sys.executable, "-c", program)
    assert (
        "DeviceError: a frame's step can't be captured as a CUDA graph on cuda:0" in result.stderr
    )
