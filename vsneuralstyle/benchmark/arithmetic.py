"""Operations and bytes of a stage, and the time that a device needs for them at the least."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vsneuralstyle.benchmark.timing import synchronise
from vsneuralstyle.engines.cpu import library


@dataclass(frozen=True)
class Peak:
    """What a device was measured to do a second: operations (additions and multiplications) in the
    precision that is measured, the same in float32, and bytes.
    """

    operations: float
    float32: float
    bytes: float


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product: operations, bytes of weights, of what goes in and of what
    comes out, and whether it is computed in float32 whatever the precision.
    """

    operations: int
    weights: int
    read: int
    written: int
    float32: bool = False

    @property
    def bytes(self) -> int:
        return self.weights + self.read + self.written

    def seconds(self, peak: Peak) -> float:
        """Of its operations."""
        return self.operations / (peak.float32 if self.float32 else peak.operations)


@dataclass(frozen=True)
class Arithmetic:
    """What a stage does: its convolutions and matrix products, and bytes of its own inputs and
    outputs.
    """

    layers: tuple[Layer, ...]
    read: int
    written: int

    @property
    def operations(self) -> int:
        return sum(layer.operations for layer in self.layers)

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def floor(self, peak: Peak) -> float:
        """Seconds if nothing between input and output ever left the caches."""
        operations = sum(layer.seconds(peak) for layer in self.layers)
        return max(operations, (self.weights + self.read + self.written) / peak.bytes)

    def layers_floor(self, peak: Peak) -> float:
        """Seconds if each layer read its input from memory and wrote its output there, with all
        else fused into it.
        """
        return sum(max(layer.seconds(peak), layer.bytes / peak.bytes) for layer in self.layers)

    def row(self, peak: Peak) -> dict:
        """As a report has it: operations, bytes, seconds."""
        return {
            "operations": self.operations,
            "weights": self.weights,
            "read": self.read,
            "written": self.written,
            "layers": sum(layer.bytes for layer in self.layers),
            "floor": self.floor(peak),
            "layers_floor": self.layers_floor(peak),
        }


def count(function: Callable, inputs: Sequence[Tensor]) -> Arithmetic:
    """Runs a stage once and counts what was executed; of convolutions that are rearranged, what
    they became.

    Counted are convolutions, by kernels too, and matrix products, a multiplication and an addition
    each for one; not what is done sample by sample (normalisation, activation, warp), of which
    there is little, but which takes its time.
    """
    layers: list[Layer] = []

    def recorded(operator: object, formula: Callable) -> Callable:
        def record(*args, out_val: Tensor, **kwargs) -> int:
            operations = formula(*args, out_val=out_val, **kwargs)
            first, *others = (
                _bytes(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)
            )
            # Of a convolution's tensors the first is the picture; of a product's, all are.
            weights = sum(others) if "convolution" in str(operator) else 0
            layers.append(
                Layer(operations, weights, first + sum(others) - weights, _bytes(out_val))
            )
            return operations

        # torch's own mark, which no type knows: it is given tensors, not shapes
        record._get_raw = True  # type: ignore[attr-defined]
        return record

    mapping = {operator: recorded(operator, formula) for operator, formula in flop_registry.items()}
    with FlopCounterMode(display=False, custom_mapping=mapping), library.counting() as products:
        outputs = function(*inputs)
    layers += [
        Layer(
            p.operations,
            _bytes(p.weight),
            _bytes(p.read),
            _bytes(p.written),
            p.weight.dtype == torch.float32,
        )
        for p in products
    ]
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return Arithmetic(tuple(layers), sum(map(_bytes, inputs)), sum(map(_bytes, outputs)))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def measure_peak(device: torch.device, precision: torch.dtype) -> Peak:
    """The best of several products of large matrices, in that precision and in float32, and of
    several large copies.
    """
    side, samples = (8192, 2**28) if device.type == "cuda" else (2048, 2**25)
    exact = torch.rand(side, side, device=device)
    matrix = exact.to(precision)
    source = torch.zeros(samples, device=device)
    target = torch.ones_like(source)
    return Peak(
        2 * side**3 / _best(lambda: matrix @ matrix, device),
        2 * side**3 / _best(lambda: exact @ exact, device),
        2 * _bytes(source) / _best(lambda: target.copy_(source), device),
    )


def _best(call: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Seconds of the fastest call, after one that warms up."""
    seconds = []
    for _ in range(1 + rounds):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
