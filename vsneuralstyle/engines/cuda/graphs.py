"""CUDA graphs: all that a function has a GPU do, launched at once instead of operator by operator
from Python.

A graph reads and writes the memory that it was captured with. To copy what goes in and what comes
out there and back took a tenth of a frame's time (docs/explanation/cuda-engine.md); so the kernels
of `vsneuralstyle.engines.cuda.kernels`, whose arguments are ours, are aimed at the caller's own
tensors before each launch, where no operator of PyTorch's has to do with them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vsneuralstyle.engines.cuda import runtime
from vsneuralstyle.errors import DeviceError

Function = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Takes tensors of the shapes that the function was captured with; what it gives is the
caller's."""
WARM_UP = 3
"""Calls before a function is captured: libraries then load their kernels and choose their
algorithms, which they can't while it is captured."""
ALIGNED = 16
"""Bytes of which a tensor's address has to be a multiple for `gpu`'s kernels."""
_ONE_CAPTURE = threading.Lock()  # a process may have no more under way


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """To warm up in and to capture in: two for all graphs of a device, since cuBLAS keeps a
    workspace for each stream that ever computed, and none in common, since a graph goes on using
    that of the stream that it was captured in.
    """
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def record(function: Function, tensors: Sequence[Tensor], device: torch.device) -> Replay:
    """Captures what a function of tensors launches on a CUDA device. What comes back launches it
    again for other tensors, in the caller's current stream.

    Each graph has a memory pool of its own, so that none writes to what another holds.
    `torch.backends.cudnn.benchmark` should be off, as PyTorch has it: algorithms that are chosen by
    a race may be others at the next capture, and so may be the bits.

    Source: PyTorch's notes on CUDA semantics, "CUDA Graphs".

    Raises:
        DeviceError: the function does what can't be captured.
    """
    watch, graph = Watch(tensors), torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.device(device), _ONE_CAPTURE:
        beside, capturing = _streams(device)
        current = torch.cuda.current_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                function(*watch.held)
        current.wait_stream(beside)
        try:
            # "thread_local": what other threads do meanwhile, for other clips, is no error of this
            # capture.
            with (
                torch.cuda.graph(graph, stream=capturing, capture_error_mode="thread_local"),
                watch,
            ):
                outputs = function(*watch.held)
            graph.instantiate()
        except RuntimeError as error:
            raise DeviceError(
                f"a frame's step can't be captured as a CUDA graph on {device} (PyTorch "
                f"{torch.__version__}): {error}; update PyTorch and the driver, or use device cpu"
            ) from error
    return aimed(watch, outputs, graph.replay, graph.raw_cuda_graph_exec())


@dataclass
class Memory:
    """An allocation, while a function is watched.

    start, end: its addresses. operators: whether PyTorch's read it or write to it. uses: by
    kernels: the launch, where in its job the address is, and how far behind the start that leads.
    """

    start: int
    end: int
    operators: bool = False
    uses: list[tuple[runtime.Launch, int, int]] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Sees what has to do with which memory while a function runs, within its context.

    held: the function's inputs then, copies of those that are given.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.held = [given.clone() for given in inputs]
        self._memories: list[Memory] = []
        self._noting = runtime.noted(self._launched)
        for given, copy in zip(inputs, self.held):
            self._allocated(copy)
            # A kernel that reads the copy can't read what lies otherwise.
            self._memories[-1].operators = layout(given) != layout(copy)

    def __enter__(self) -> Watch:
        self._noting.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._noting.__exit__(*error)

    def memory(self, address: int) -> Memory | None:
        """What is there now: an allocation may lie where one before it was."""
        return next(
            (one for one in reversed(self._memories) if one.start <= address < one.end), None
        )

    def _allocated(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._memories.append(Memory(storage.data_ptr(), storage.data_ptr() + storage.nbytes()))

    def _called(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        given, made = (
            [one for one in tree_leaves(tree) if isinstance(one, Tensor)]
            for tree in ((args, kwargs), result)
        )
        before = {one.untyped_storage().data_ptr() for one in given}
        fresh = [one for one in made if one.untyped_storage().data_ptr() not in before]
        for one in fresh:
            self._allocated(one)
        only_allocates = bool(fresh) and "empty" in operator._schema.name
        only_views = bool(made) and not fresh and not operator._schema.is_mutable
        if not only_allocates and not only_views:
            for one in (*given, *fresh):
                if memory := self.memory(one.data_ptr()):
                    memory.operators = True
        return result

    def _launched(self, launch: runtime.Launch) -> None:
        for place, address in launch.addresses.items():
            if memory := self.memory(address):
                memory.uses.append((launch, place, address - memory.start))


# Not within the class: there PyTorch would wrap it in what loads its compiler, some 900 modules and
# 4 s before the first frame.
Watch.__torch_dispatch__ = Watch._called  # type: ignore[assignment, method-assign]


def aimed(
    watch: Watch, outputs: Sequence[Tensor], replay: Callable[[], None], executable: int
) -> Replay:
    """What `record` gives, of a graph that was captured.

    Args:
        watch: that saw it.
        outputs: the tensors that it gives.
        replay: launches it.
        executable: the driver's handle of it.
    """
    held = watch.held
    # inputs that are outputs
    through = [next((n for n, one in enumerate(held) if one is output), None) for output in outputs]
    own = [output for output, n in zip(outputs, through) if n is None]
    tensors = [*held, *own]
    memories = [watch.memory(tensor.data_ptr()) for tensor in tensors]
    # Two that share their memory are copied; so is what operators have to do with.
    direct = [
        memory is not None
        and not memory.operators
        and sum(other is memory for other in memories) == 1
        for memory in memories
    ]
    uses: dict[runtime.Launch, list[tuple[int, int, int]]] = {}
    for n, memory in enumerate(memories):
        for launch, place, behind in memory.uses if memory is not None and direct[n] else ():
            uses.setdefault(launch, []).append((place, n, behind))
    jobs, shapes = (
        list(uses.items()),
        [(output.shape, output.stride(), output.dtype, output.device) for output in own],
    )
    copies = [
        None if is_direct or not tensor.numel() else tensor
        for tensor, is_direct in zip(tensors, direct)
    ]
    into, out_of = copies[: len(held)], copies[len(held) :]

    def again(given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        given = [tensor if tensor.data_ptr() % ALIGNED == 0 else tensor.clone() for tensor in given]
        _copy(given, into)
        made = [
            torch.empty_strided(shape, stride, dtype=dtype, device=device)
            for shape, stride, dtype, device in shapes
        ]
        starts = [tensor.data_ptr() for tensor in (*given, *made)]
        for launch, places in jobs:
            launch.aim({place: starts[n] + behind for place, n, behind in places}, executable)
        replay()
        _copy(out_of, made)
        rest = iter(made)
        return tuple(next(rest) if n is None else given[n] for n in through)

    return again


class Graphed:
    """A pure function of tensors as a CUDA graph.

    It is captured at the first call, and again for inputs that lie otherwise (`layout`); the graph
    before it is then freed. What it gives is the caller's: no later call writes to it. Of an input
    that it gives back as it is, that is the input, and until the graph has run nobody may write to
    any. One caller at a time, from any thread.

    Args:
        function: of tensors, the first of which tells the device, and numbers, which it gets as
            tensors of no dimension (float32), so that another number is no other graph; gives a
            tuple of tensors. It may not wait for the device, nor take values from the host: neither
            would be part of the graph.
        record: takes a function of the tensors, them, and the device; gives what repeats it. See
            `record`.

    Raises:
        DeviceError: when called: the function can't be captured.
    """

    def __init__(
        self,
        function: Function,
        record: Callable[[Function, Sequence[Tensor], torch.device], Replay] = record,
    ) -> None:
        self._function, self._record = function, record
        self._shapes: list[tuple | None] | None = None
        self._numbers: list[tuple[Tensor, float]] = []  # on the device, and as they were last given
        self._replay: Replay | None = None

    def __call__(self, *inputs: Tensor | float) -> tuple[Tensor, ...]:
        shapes = [layout(given) if isinstance(given, Tensor) else None for given in inputs]
        tensors = [given for given in inputs if isinstance(given, Tensor)]
        numbers = [given for given in inputs if not isinstance(given, Tensor)]
        if shapes == self._shapes:
            for n, ((ours, before), given) in enumerate(zip(self._numbers, numbers)):
                if given != before:
                    self._numbers[n] = ours.fill_(given), given
        else:
            # The graph before goes before this one takes its memory.
            self._shapes, self._replay, self._numbers = None, None, []
            device = tensors[0].device
            self._numbers = [
                (torch.full((), given, dtype=torch.float32, device=device), given)
                for given in numbers
            ]
            of_numbers = iter([ours for ours, _ in self._numbers])
            places = [None if isinstance(given, Tensor) else next(of_numbers) for given in inputs]
            self._replay = self._record(
                functools.partial(_filled, self._function, places), tensors, device
            )
            self._shapes = shapes
        assert self._replay is not None  # made with the first shapes
        return self._replay(tensors)


def layout(tensor: Tensor) -> tuple:
    """How a tensor's numbers lie, as far as it makes a difference."""
    return (
        tensor.dtype,
        tensor.shape,
        tuple(stride for size, stride in zip(tensor.shape, tensor.stride()) if size > 1),
    )


def _filled(
    function: Function, places: Sequence[Tensor | None], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """The function of what is in the places, and of the tensors in those where nothing is."""
    given = iter(tensors)
    return function(*(next(given) if place is None else place for place in places))


def _copy(sources: Sequence[Tensor | None], targets: Sequence[Tensor | None]) -> None:
    """Where there are both; all of one type by one launch."""
    pairs = [
        (source, target)
        for source, target in zip(sources, targets)
        if source is not None and target is not None
    ]
    for dtype in dict.fromkeys(source.dtype for source, _ in pairs):
        some = [pair for pair in pairs if pair[0].dtype == dtype]
        torch._foreach_copy_([target for _, target in some], [source for source, _ in some])
