"""CUDA graphs: all that a function has a GPU do, launched at once instead of operator by operator from Python."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vsneuralstyle.errors import DeviceError

Replay = Callable[[], tuple[Tensor, ...]]
WARM_UP = 3
"""Calls before a function is captured: libraries then load their kernels and choose their algorithms, which they can't
while it is captured."""
_ONE_CAPTURE = threading.Lock()  # a process may have no more under way


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """To warm up in and to capture in: two for all graphs of a device, since cuBLAS keeps a workspace for each stream that
    ever computed, and none in common, since a graph goes on using that of the stream that it was captured in."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def record(function: Replay, device: torch.device) -> Replay:
    """Captures what a function launches on a CUDA device. What comes back launches it again, in the caller's current
    stream, and gives the same tensors each time, with the new values in them.

    Each graph has a memory pool of its own, so that none writes to what another holds. `torch.backends.cudnn.benchmark` should be
    off, as PyTorch has it: algorithms that are chosen by a race may be others at the next capture, and so may be the bits.

    Source: PyTorch's notes on CUDA semantics, "CUDA Graphs".

    Raises:
        DeviceError: the function does what can't be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), _ONE_CAPTURE:
        beside, capturing = _streams(device)
        current = torch.cuda.current_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                function()
        current.wait_stream(beside)
        try:
            # "thread_local": what other threads do meanwhile, for other clips, is no error of this capture.
            with torch.cuda.graph(graph, stream=capturing, capture_error_mode="thread_local"):
                outputs = function()
        except RuntimeError as error:
            raise DeviceError(
                f"a frame's step can't be captured as a CUDA graph on {device} (PyTorch {torch.__version__}): {error}; "
                "update PyTorch and the driver, or use device cpu"
            ) from error

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay


class Graphed:
    """A pure function of tensors as a CUDA graph.

    It is captured at the first call, and again for inputs of other shapes; the graph before it is then freed. What it gives is
    the caller's: no later call writes to it. One caller at a time, from any thread.

    Args:
        function: of tensors, the first of which tells the device, and numbers, which it gets as tensors of no dimension
            (float32), so that another number is no other graph; gives a tuple of tensors. It may not wait for the device,
            nor take values from the host: neither would be part of the graph.
        record: takes `function` with its inputs, and the device; gives what repeats it. See `record`.

    Raises:
        DeviceError: when called: the function can't be captured.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], record: Callable[[Replay, torch.device], Replay] = record
    ) -> None:
        self._function, self._record = function, record
        self._shapes: list[torch.Size | None] | None = None
        self._tensors: list[Tensor] = []
        self._numbers: list[tuple[Tensor, float]] = []  # on the device, and as they were last given
        self._replay: Replay | None = None

    def __call__(self, *inputs: Tensor | float) -> tuple[Tensor, ...]:
        shapes = [given.shape if isinstance(given, Tensor) else None for given in inputs]
        tensors = [given for given in inputs if isinstance(given, Tensor)]
        numbers = [given for given in inputs if not isinstance(given, Tensor)]
        if shapes == self._shapes:
            _copy(tensors, self._tensors)
            for n, ((ours, before), given) in enumerate(zip(self._numbers, numbers)):
                if given != before:
                    self._numbers[n] = ours.fill_(given), given
        else:
            # The graph before goes before this one takes its memory.
            self._shapes, self._replay, self._tensors, self._numbers = None, None, [], []
            device = tensors[0].device
            self._tensors = [given.clone() for given in tensors]
            self._numbers = [(torch.full((), given, dtype=torch.float32, device=device), given) for given in numbers]
            of_tensors, of_numbers = iter(self._tensors), (ours for ours, _ in self._numbers)
            arguments = [next(of_tensors if isinstance(given, Tensor) else of_numbers) for given in inputs]
            self._replay = self._record(functools.partial(self._function, *arguments), device)
            self._shapes = shapes
        outputs = self._replay()
        ours = [torch.empty_like(output) for output in outputs]
        _copy(outputs, ours)
        return tuple(ours)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """All of one type by one launch."""
    for dtype in dict.fromkeys(source.dtype for source in sources):
        pairs = [(source, target) for source, target in zip(sources, targets) if source.dtype == dtype]
        torch._foreach_copy_([target for _, target in pairs], [source for source, _ in pairs])
