"""PyTorch's settings that others in the process, or the calling thread, may have changed.

Tensors are made with a type and a device of their own, so that no default tells them. What can't be
said so is undone here.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Has a function compute in its tensors' own precision, within `torch.autocast` too."""

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        if not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            return function(*arguments, **options)
        with ExitStack() as stack:
            for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*arguments, **options)

    return called
