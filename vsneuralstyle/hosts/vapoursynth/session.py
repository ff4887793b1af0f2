"""The Python half of the plugin: a `Session` stylizes the frames of one filter, in the order
filter.c gives them.

`process` goes through them one after the other. On a GPU it returns as soon as a frame is launched,
and `fill` waits for it and fills planes with it: at any later time, in any thread, for several
frames at once, or never. Where and how frames are computed, `core.pipeline` decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch
from torch import Tensor

import vsneuralstyle
from vsneuralstyle.core.device import PRECISIONS, resolve_device, resolve_precision
from vsneuralstyle.core.pipeline import MIN_SIZE, PendingFrame
from vsneuralstyle.core.recurrence import EncodedFrame, State
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.networks.checkpoint import available_styles
from vsneuralstyle.video import pixels


def versions() -> dict[str, str]:
    """What `core.vsneuralstyle.Version` tells beside the version of VapourSynth's API.

    package, torch: versions. device, precision: what "auto" stands for here. styles: those that can
    be loaded, separated by ", ".
    """
    device = resolve_device()
    precision = resolve_precision("auto", device)
    return {
        "package": vsneuralstyle.__version__,
        "torch": torch.__version__,
        "device": str(device),
        "precision": next(name for name, dtype in PRECISIONS.items() if dtype == precision),
        "styles": ", ".join(sorted(available_styles())),
    }


class Session:
    """One clip on its way through a `Stylizer`.

    Args:
        width, height: of every frame, in pixels.
        bits: significant bits of integer samples; None: floating point.
        device_index: short for device="cuda:N".
        fp16: True is short for precision="float16", False for precision="float32".
        arguments: those of `Stylizer`.

    Raises:
        NeuralStyleError: an argument, a model or a device that can't be used, or frames that are
            too small.
    """

    def __init__(
        self,
        width: int,
        height: int,
        bits: int | None,
        *,
        device_index: int | None = None,
        fp16: bool | None = None,
        **arguments,
    ) -> None:
        if min(width, height) < MIN_SIZE:
            raise ArgumentError(
                f"frames of {width}x{height} are too small to stylize; expected at least "
                f"{MIN_SIZE}x{MIN_SIZE}"
            )
        if device_index is not None:
            if "device" in arguments:
                raise ArgumentError(
                    f"device is {arguments['device']!r} and device_index is {device_index}; "
                    "expected one of the two"
                )
            arguments["device"] = f"cuda:{device_index}"
        if fp16 is not None:
            if "precision" in arguments:
                raise ArgumentError(
                    f"precision is {arguments['precision']!r} and fp16 is {int(fp16)}; expected "
                    "one of the two"
                )
            arguments["precision"] = "float16" if fp16 else "float32"
        self._bits = bits
        self._stylizer = Stylizer(**arguments)

    def encode_ahead(self, source: Sequence) -> Future[EncodedFrame] | None:
        """Begins the work on a frame that needs no other one; `process` does the rest. For when
        several are asked for at a time.

        Args:
            source: as `process` takes it.

        Returns:
            What `process` takes; None where frames are better done one by one.
        """
        return self._stylizer.encode_ahead(partial(self._load, source))

    def process(
        self,
        starts_scene: bool | None,
        source: Sequence,
        encoded: Future[EncodedFrame] | None = None,
    ) -> tuple[bool, PendingFrame]:
        """Stylizes the next frame.

        Args:
            starts_scene: whether the frame starts a scene; None: the built-in detector decides.
            source: buffers of the planes R, G and B, each (height, width). They are not kept.
            encoded: what `encode_ahead` gave for the source.

        Returns:
            Whether the frame started a scene, and what `fill` takes: the frame's samples, on the
            device, which keep memory there of the planes' size.
        """
        # Converted with the networks' work: by the threads that compute, and to what takes the
        # least memory until it is fetched.
        convert = partial(pixels.rgb_to_samples, dtype=np.asarray(source[0]).dtype, bits=self._bits)
        load = partial(self._load, source)
        pending = self._stylizer.submit(load if encoded is None else encoded, starts_scene, convert)
        return pending.starts_scene, pending

    def _load(self, source: Sequence) -> Tensor:
        return pixels.planes_to_rgb(source, self._bits, self._stylizer.device)

    def fill(self, pending: PendingFrame, target: Sequence) -> None:
        """Waits for a frame and fills planes with it; in any thread, also while another one is in
        `process`. It computes nothing.

        Args:
            pending: as `process` gave it.
            target: writable buffers of the source's layout. They are not kept.
        """
        with self._stylizer.download_context():
            samples, _ = pending.result()
            pixels.samples_to_planes(samples, target)

    def cuts(self, run: Sequence[Sequence]) -> list[bool]:
        """For each frame of a run of consecutive ones, from the second on: whether the built-in
        detector says that it starts a scene, as `process` would. Each frame is given as `process`
        takes its source; the state stays.
        """
        return self._stylizer.pipeline.call(self._cuts, run)

    def _cuts(self, run: Sequence[Sequence]) -> list[bool]:
        frames = (self._load(planes) for planes in run)  # two at a time in memory
        return [
            self._stylizer.is_cut(previous, frame) for previous, frame in itertools.pairwise(frames)
        ]

    def checkpoint(self) -> State:
        """The state after the last frame. It is on the device: nothing is copied."""
        state = self._stylizer.state
        assert state is not None  # the filter asks after a frame
        return state

    def resume(self, state: State) -> None:
        """Puts a state of `checkpoint` in the place of this one."""
        self._stylizer.state = state
