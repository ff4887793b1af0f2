"""What an operation of the kernels takes, declared once and checked at each call: a kernel believes what it is told of memory, and a wrong
word of it ends the process."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_int, c_void_p
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

CPU = torch.device("cpu")
Known = dict[object, object]
"""In a call: what each name of a size, and of a type, stands for; numbers and types stand for themselves."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, or an address that is no tensor's: whatever is given."""

    c_type: type = c_int


@dataclass(frozen=True, slots=True)
class Size:
    """An integer that tensors of the call have as a size of that name."""

    name: str
    c_type: type = c_int

    def passed(self, given: int, sizes: Known, device: torch.device) -> int:
        if sizes.setdefault(self.name, given) != given:
            raise ValueError(f"{self.name} is {given}; expected {sizes[self.name]}, which other arguments have")
        return given


@dataclass(frozen=True, slots=True)
class Precision:
    """The type of tensors whose `dtype` has that name, as one of a table's numbers."""

    name: str
    numbers: Mapping[torch.dtype, int]
    c_type: type = c_int

    def passed(self, given: torch.dtype, sizes: Known, device: torch.device) -> int:
        if given not in self.numbers or sizes.setdefault(self.name, given) != given:
            raise ValueError(f"a precision of {given}; expected one of {', '.join(map(str, self.numbers))}, and of the tensors that have it")
        return self.numbers[given]


@dataclass(frozen=True, slots=True)
class Dense:
    """A tensor without gaps, as its address.

    name: as errors have it. shape: numbers, or names, each of which stands for one number in a call; None: any. dtype: a type, or the name
    of one in a call. layout: torch.contiguous_format or torch.channels_last. optional: None may stand for it.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: torch.dtype | str = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    optional: bool = False
    c_type: type = field(default=c_void_p, init=False)

    def passed(self, given: Tensor | None, sizes: Known, device: torch.device) -> int | None:
        if given is None and self.optional:
            return None
        if (
            not isinstance(given, Tensor)
            or given.device != device
            or sizes.setdefault(self.dtype, given.dtype) != given.dtype
            or (self.shape is not None and not self._fits(given.shape, sizes))
            or not given.is_contiguous(memory_format=self.layout)
        ):
            raise ValueError(self._refusal(given, sizes, device))
        return given.data_ptr()

    def _fits(self, shape: torch.Size, sizes: Known) -> bool:
        return len(shape) == len(self.shape) and tuple([sizes.setdefault(name, size) for name, size in zip(self.shape, shape)]) == shape

    def _refusal(self, given: object, sizes: Known, device: torch.device) -> str:
        shape = "any shape" if self.shape is None else f"({', '.join(str(sizes.get(size, size)) for size in self.shape)})"
        layout = str(self.layout).removeprefix("torch.").replace("_", " ")
        expected = f"expected {shape} {sizes.get(self.dtype, self.dtype)}, {layout}, on {device}"
        if isinstance(given, Tensor):
            return f"{self.name} is {tuple(given.shape)} {given.dtype} of strides {given.stride()} on {given.device}; {expected}"
        return f"{self.name} is {given!r}; {expected}"


class Several:
    """Tensors as an array of their addresses. A size "H" of `each` is known as "H0" of the first, "H1" of the second, and so on.

    count: name of how many there are.
    """

    c_type = c_void_p

    def __init__(self, each: Dense, count: str) -> None:
        self.each, self.count = each, count
        self._known: list[Dense] = []

    def passed(self, given: Sequence[Tensor], sizes: Known, device: torch.device) -> ctypes.Array:
        if sizes.setdefault(self.count, len(given)) != len(given):
            raise ValueError(f"{self.each.name} are {len(given)}; expected {sizes[self.count]}")
        for n in range(len(self._known), len(given)):
            shape = tuple(size if isinstance(size, int) else f"{size}{n}" for size in self.each.shape)
            self._known.append(replace(self.each, name=f"{self.each.name}[{n}]", shape=shape))
        return (c_void_p * len(given))(*(each.passed(one, sizes, device) for each, one in zip(self._known, given)))


Argument = Number | Size | Precision | Dense | Several


class Operation:
    """What a kernel takes.

    Args:
        name: the kernel's.
        arguments: in the order in which its function, or its struct, has them.
    """

    def __init__(self, name: str, *arguments: Argument) -> None:
        self.name, self.arguments = name, arguments
        self.c_types = [argument.c_type for argument in arguments]
        self._checked = [(n, argument) for n, argument in enumerate(arguments) if not isinstance(argument, Number)]
        dense = [argument.each if isinstance(argument, Several) else argument for argument in arguments]
        known = [known for argument in dense if isinstance(argument, Dense) for known in (*(argument.shape or ()), argument.dtype)]
        self._fixed = {one: one for one in known if not isinstance(one, str)}

    def values(self, given: Sequence[object], device: torch.device = CPU, **sizes: int) -> list[object]:
        """What is passed on: of tensors the addresses, and numbers as they are.

        Args:
            given: one for each argument.
            device: where all tensors have to be.
            sizes: those that are known beforehand, by name.

        Raises:
            ValueError: a tensor of another size, type or layout, or on another device.
        """
        values, known = list(given), {**self._fixed, **sizes}
        try:
            if len(values) != len(self.arguments):
                raise ValueError(f"{len(values)} arguments; expected {len(self.arguments)}")
            for n, argument in self._checked:
                values[n] = argument.passed(values[n], known, device)
            return values
        except ValueError as error:
            raise ValueError(f"kernel {self.name}: {error}") from None
