"""Several frames at a time on a GPU: each part of their work in a stream of its own, beside the
others'.

A tensor is free for new work of the stream that it was made in as soon as Python drops it. So one
that another stream reads is recorded there (`Tensor.record_stream`), by `queued` and `receive`,
which also see to it that it is read after it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Streams(NamedTuple):
    """Where a frame's work is launched. None, all of them: there are no streams on this device, and
    all is done in turn.

    io: what is short and waited for: uploads, conversions, scene descriptors. It goes first.
    encode: what a frame needs by itself, while those before it are still in `flow` and `work`.
    flow: what needs a frame and the one before it, but not what was drawn of them.
    work: what follows from frame to frame.
    download: downloads that threads of their own wait for, from the moment on that a frame is
        launched. In `io`, the next frame's descriptor would come behind this frame's networks.
    """

    io: torch.cuda.Stream | None = None
    encode: torch.cuda.Stream | None = None
    flow: torch.cuda.Stream | None = None
    work: torch.cuda.Stream | None = None
    download: torch.cuda.Stream | None = None


def streams(device: torch.device) -> Streams:
    """Those of a device, the same for all clips: libraries keep memory for each stream that they
    ever computed in.
    """
    if device.type != "cuda":
        return Streams()
    return _streams(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _streams(index: int) -> Streams:
    # The lower, the sooner; PyTorch takes the nearest that the GPU has.
    return Streams(
        *(torch.cuda.Stream(index, priority=priority) for priority in (-2, 0, -1, -1, -2))
    )


def on(stream: torch.cuda.Stream | None) -> AbstractContextManager:
    """A context in which the caller launches in a stream; it waits for none."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@contextmanager
def queued(stream: torch.cuda.Stream | None, *tensors: Tensor) -> Iterator[None]:
    """A context in which the caller launches in a stream, after all that it has launched in its
    current one so far.

    Args:
        stream: None: nothing is to be done.
        tensors: of the current stream, that are read in the other.
    """
    current = None if stream is None else torch.cuda.current_stream(stream.device)
    with on(stream):
        if current != stream:
            receive(mark(current), *tensors)
        yield


def mark(stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
    """What has come when all is done that was launched in a stream so far."""
    return None if stream is None else stream.record_event()


def receive(event: torch.cuda.Event | None, *tensors: Tensor) -> None:
    """Has the caller's current stream wait for what another one makes.

    Args:
        event: `mark` of the other stream; None: nothing is to be done.
        tensors: made by then, that are read in the current stream.
    """
    if event is None:
        return
    stream = torch.cuda.current_stream(event.device)
    stream.wait_event(event)
    for tensor in tensors:
        tensor.record_stream(stream)
