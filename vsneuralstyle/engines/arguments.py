"""What an operation of the kernels takes, declared once (`ops`) and checked at each call.

A kernel believes what it is told of memory: one that is given half of what it writes to ends the
process, or ruins what is beside it.
"""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_int, c_void_p
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")
Known = dict[object, object]
"""In a call: what each name of a size, and of a type, stands for. Numbers and types stand for
themselves."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, or an address that is no tensor's: whatever is given."""

    c_type: type = c_int


@dataclass(frozen=True, slots=True)
class Size:
    """An integer that tensors of the call have as a size of that name."""

    name: str
    c_type: type = c_int

    def passed(self, given: int, known: Known, device: torch.device) -> int:
        if known.setdefault(self.name, given) != given:
            raise ValueError(f"{self.name} is {given}; expected {known[self.name]}, as others have")
        return given


@dataclass(frozen=True, slots=True)
class Precision:
    """A type, which tensors have as their `dtype` under that name, as one of a table's numbers."""

    name: str
    numbers: Mapping[torch.dtype, int]
    c_type: type = c_int

    def passed(self, given: torch.dtype, known: Known, device: torch.device) -> int:
        if given not in self.numbers:
            types = ", ".join(map(str, self.numbers))
            raise ValueError(f"{self.name} is {given}; expected one of {types}")
        if known.setdefault(self.name, given) != given:
            raise ValueError(f"{self.name} is {given}; expected {known[self.name]}, as tensors are")
        return self.numbers[given]


@dataclass(frozen=True, slots=True)
class Dense:
    """A tensor without gaps, as its address.

    name: as errors have it.
    shape: numbers, or names, each of which stands for one number in a call; None: any.
    dtype: a type, or a name that stands for one in a call.
    layout: torch.contiguous_format or torch.channels_last.
    optional: None may stand for it.
    written: the kernel writes to it, all of it.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: torch.dtype | str
    layout: torch.memory_format
    optional: bool = False
    written: bool = False
    c_type: type = field(default=c_void_p, init=False)

    def passed(self, given: Tensor | None, known: Known, device: torch.device) -> int | None:
        if given is None and self.optional:
            return None
        if (
            not isinstance(given, Tensor)
            or given.device != device
            or known.setdefault(self.dtype, given.dtype) != given.dtype
            or not self._fits(given.shape, known)
            or not given.is_contiguous(memory_format=self.layout)
        ):
            raise ValueError(self._refusal(given, known, device))
        return given.data_ptr()

    def _fits(self, shape: torch.Size, known: Known) -> bool:
        if self.shape is None:
            return True
        if len(shape) != len(self.shape):
            return False
        return all(known.setdefault(name, size) == size for name, size in zip(self.shape, shape))

    def _refusal(self, given: object, known: Known, device: torch.device) -> str:
        shape = "any shape"
        if self.shape is not None:
            shape = f"({', '.join(str(known.get(size, size)) for size in self.shape)})"
        layout = str(self.layout).removeprefix("torch.").replace("_", " ")
        expected = f"expected {shape} {known.get(self.dtype, self.dtype)}, {layout}, on {device}"
        if not isinstance(given, Tensor):
            return f"{self.name} is {given!r}; {expected}"
        strides = f"of strides {given.stride()} on {given.device}"
        return f"{self.name} is {tuple(given.shape)} {given.dtype} {strides}; {expected}"


class Several:
    """Tensors as an array of their addresses.

    Args:
        each: any of them. A size "H" is known as "H0" of the first, as "H1" of the second.
        count: the name of how many there are.
    """

    c_type = c_void_p

    def __init__(self, each: Dense, count: str) -> None:
        self.each, self.count = each, count
        self._made: list[Dense] = []

    def passed(self, given: Sequence[Tensor], known: Known, device: torch.device) -> ctypes.Array:
        if known.setdefault(self.count, len(given)) != len(given):
            expected = f"expected {known[self.count]}"
            raise ValueError(f"{self.each.name} are {len(given)} tensors; {expected}")
        for n in range(len(self._made), len(given)):
            assert self.each.shape is not None  # "any" is of a single tensor
            sizes = (size if isinstance(size, int) else f"{size}{n}" for size in self.each.shape)
            self._made.append(replace(self.each, name=f"{self.each.name}[{n}]", shape=tuple(sizes)))
        addresses = (one.passed(each, known, device) for one, each in zip(self._made, given))
        return (c_void_p * len(given))(*addresses)


Argument = Number | Size | Precision | Dense | Several


class Operation:
    """What a kernel takes.

    Args:
        name: the kernel's.
        arguments: in the order in which its function, or its struct, has them.
        tolerance: how far a value may be from the reference's, over the root mean square of all,
            by the type that is computed in.
    """

    def __init__(
        self, name: str, *arguments: Argument, tolerance: Mapping[torch.dtype, float] | None = None
    ) -> None:
        self.tolerance = tolerance or {}
        self.name, self.arguments = name, arguments
        self.c_types = [argument.c_type for argument in arguments]
        self._checked = [(n, one) for n, one in enumerate(arguments) if not isinstance(one, Number)]
        self._fixed: Known = {}
        for argument in arguments:
            tensor = argument.each if isinstance(argument, Several) else argument
            if isinstance(tensor, Dense):
                names = (*(tensor.shape or ()), tensor.dtype)
                self._fixed.update((one, one) for one in names if not isinstance(one, str))

    @property
    def c_name(self) -> str:
        """Of the C function: those of a weight of bfloat16 are the same as of another one."""
        return self.name.removesuffix("_bf16")

    def values(
        self, given: Sequence[object], device: torch.device = CPU, /, **sizes: int
    ) -> list[object]:
        """What is passed on: of tensors the addresses, and numbers as they are.

        Args:
            given: one for each argument.
            device: where all tensors have to be.
            sizes: those that are known beforehand, by name.

        Raises:
            ValueError: a tensor of another size, type or layout, or on another device.
        """
        values: list[Any] = list(given)  # what each is, its argument looks
        known: Known = self._fixed | sizes
        try:
            if len(values) != len(self.c_types):
                raise ValueError(f"{len(values)} arguments; expected {len(self.c_types)}")
            for n, argument in self._checked:
                values[n] = argument.passed(values[n], known, device)
        except ValueError as error:
            raise ValueError(f"kernel {self.name}: {error}") from None
        return values
