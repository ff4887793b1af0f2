"""Frames in flight around the recurrence: `submit` gives a future.

Three ways to compute are known here and nowhere else. On a CPU with the kernels, two teams of
threads are at two frames (`teams`). On another CPU, one frame comes after the other. On a GPU, work
is launched into streams (`engines.cuda.streams`), and each function of the recurrence is a CUDA
graph (`engines.cuda.graphs`): small frames, and fast GPUs, are held up by Python otherwise.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from vsneuralstyle.core import recurrence, teams
from vsneuralstyle.core.recurrence import EncodedFrame, Options, State
from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.cpu.host import check_fork, computing_by, give_memory_back, keep_memory
from vsneuralstyle.engines.cuda.graphs import Graphed, record
from vsneuralstyle.engines.cuda.streams import mark, on, queued, receive, streams
from vsneuralstyle.engines.engine import ENGINES, Engine
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.settings import without_autocast
from vsneuralstyle.video import pixels, yuv
from vsneuralstyle.workers import Job, Workers

MIN_SIZE = 16
"""Smallest side of a frame, in pixels: reflection padding needs a feature of more than one
pixel."""
MAX_IN_FLIGHT = 3
"""Frames that a host submits before it waits for one. With fewer a team has nothing to do at times,
more gain nothing."""

T = TypeVar("T")
Launched = tuple["torch.cuda.Event | None", Tensor, bool]
"""A frame whose work is launched: the event after which it is made, it, and whether it starts a
scene."""


class PendingFrame:
    """The future of a stylized frame, or of what is made of it."""

    def __init__(self, launched: Future[Launched]) -> None:
        self._launched = launched

    def result(self, timeout: float | None = None) -> tuple[Tensor, bool]:
        """The frame, and whether it starts a scene.

        On a CPU this waits. On a GPU the stream waits that is the caller's current one, and the
        caller does not.

        Raises:
            TimeoutError: it takes more than so many seconds.
            concurrent.futures.CancelledError: the clip was closed before.
            NeuralStyleError: what `Pipeline.submit` says.
        """
        made, frame, starts_scene = self._launched.result(timeout)
        receive(made, frame)
        return frame, starts_scene

    @property
    def starts_scene(self) -> bool:
        """Whether it starts a scene; waits until that is known, and raises what `result` does."""
        return self._launched.result()[2]

    def done(self) -> bool:
        """Whether `result` gives it, or raises, at once."""
        return self._launched.done()

    def cancelled(self) -> bool:
        """Whether the clip was closed before it was under way."""
        return self._launched.cancelled()


@functools.cache
def _thread(device: str) -> Workers:
    """The one thread that computes on a device for callers of many threads.

    OpenMP gives each thread that computes a team of its own, as many as there are cores: PyTorch
    called from every thread of a host would keep threads x cores workers, and those of two clips
    would fight over the cores.
    """
    return Workers(1, device)


class Pipeline:
    """The frames of one clip, several of them in flight. One caller at a time.

    Attributes:
        threads: of the CPU, for all frames together.
    """

    def __init__(self, device: torch.device, engine: Engine) -> None:
        self.device, self.threads = device, torch.get_num_threads()
        self._streams = streams(device)
        luma_weights = torch.tensor(yuv.luma_weights(), dtype=torch.float32, device=device)
        self._luma_weights = luma_weights.view(1, 3, 1, 1)
        self._state: State | None = None
        # Of the teams, and not known to be done. The last one follows all others.
        self._jobs: list[Job] = []
        self.engine = engine
        self._keeps_memory = device.type == "cpu"
        if self._keeps_memory:
            keep_memory()

    # --- the engine and the state ---

    @property
    def engine(self) -> Engine:
        """The networks. Those of `ENGINES` keep nothing between two calls: frames that repeat are
        known again, and on a GPU they are captured as graphs. Another one is called frame by frame.
        """
        assert self._engine is not None, "closed"
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        if self._streams.work is not None:
            torch.cuda.synchronize(self.device)  # it was made in another stream
        self._engine: Engine | None = engine
        # A frame, its descriptor, and what is being encoded of it
        self._last: tuple[Tensor, Tensor, Future[EncodedFrame]] | None = None
        own = isinstance(engine, ENGINES)
        self._reuses_repeated_frames = own and self.device.type == "cpu"
        self._functions: dict[Callable, Callable[..., tuple[Tensor, ...]]] = {
            function: partial(function, engine) for function in recurrence.FUNCTIONS
        }
        if own and self.device.type == "cuda":
            self.capture()

    def capture(self, record: Callable = record) -> None:
        """Has each function of the recurrence be a graph. record: as `Graphed` takes it."""
        for function in recurrence.FUNCTIONS:
            self._functions[function] = Graphed(partial(function, self.engine), record)

    @property
    def state(self) -> State | None:
        """The state after the last frame that was submitted; on a GPU for the current stream."""
        self.wait()
        if self._state is not None:
            receive(mark(self._streams.work), *self._state.tensors)
        return self._state

    @state.setter
    def state(self, state: State | None) -> None:
        self.wait()
        self._state = None if state is None else state.to(self.device)
        for stream in self._streams if self._state is not None else ():
            assert self._state is not None
            with queued(stream, *self._state.tensors):
                pass  # what is launched there from now on comes after it

    def reset(self) -> None:
        """Forgets the clip: the next frame starts a scene."""
        self.state = self._last = None

    def check(self, frames: Tensor) -> None:
        """Raises ArgumentError unless they are frames that can follow those submitted."""
        self.wait()
        check_frames(frames, self._state)

    def wait(self) -> None:
        """Waits for all frames that were submitted."""
        for job in self._jobs:
            if not job.cancelled():
                job.exception()
        self._jobs.clear()

    def close(self) -> None:
        """Cancels the frames that are not under way yet, waits for those that are, and lets go of
        everything.
        """
        for job in self._jobs:
            job.cancel()
        self.wait()
        self._release()

    def __del__(self) -> None:  # no frame is in flight: a job keeps its pipeline
        if not sys.is_finalizing():
            self._release()

    def _release(self) -> None:
        self._state = self._last = self._engine = None
        self._functions = {}
        if getattr(self, "_keeps_memory", False):
            self._keeps_memory = False
            give_memory_back()

    # --- what hosts call ---

    @property
    def is_async(self) -> bool:
        """Whether frames come faster where the next ones are submitted before one is waited for."""
        return self._streams.work is not None or self._in_teams

    @property
    def _in_teams(self) -> bool:
        # Where PyTorch's own convolutions do all, their sums, and so the pixels, depend on the
        # number of threads.
        has_kernels = self.device.type == "cpu" and library.library() is not None
        return has_kernels and teams.possible(self.threads)

    def io_context(self) -> AbstractContextManager:
        """For what the caller computes while frames are in flight: uploads, conversions.

        On a CPU it computes by its own thread alone, since the others are at work. On a GPU it
        launches into the stream `io`, which waits for no other: what is read in it was made in it,
        or is done, or came from a future's `result`, called in it too. What is made in it can be
        submitted outside of it as well.
        """
        return computing_by(1) if self._in_teams else on(self._streams.io)

    def download_context(self) -> AbstractContextManager:
        """For who takes a result and waits for it in a thread of its own, while another thread
        submits frames: on a GPU a stream that none of these wait for.
        """
        return on(self._streams.download)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Has the device's one thread make a call, and waits for it."""
        return _thread(str(self.device)).submit(function, *arguments).result()

    def encode_ahead(self, load: Callable[[], Tensor], options: Options) -> Future | None:
        """Begins the work on a frame that needs no other one, in any order and from any thread.

        Args:
            load: makes the frame, (1, 3, H, W) float32, RGB 0..1; called at once.
            options: of the frame.

        Returns:
            What `submit` takes; None where frames are better done one by one.
        """
        if not self.is_async:
            return None
        with self.io_context():
            frame = load()
        if self._in_teams:
            return teams.submit(self.threads, self._encode, frame, options)
        return _thread(str(self.device)).submit(self._encode_in_io, frame, options)

    def submit(
        self,
        source: Tensor | Future[EncodedFrame] | Callable[[], Tensor],
        scene_start_hint: bool | None,
        options: Options,
        postprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> PendingFrame:
        """Stylizes the next frame. Frames are stylized in the order in which they are submitted.

        Args:
            source: the frame, (1, 3, H, W) float32, RGB 0..1, which nobody may write to any more;
                or what `encode_ahead` gave for it; or what makes it, from a caller that has many
                threads: the device's one thread then does all of it.
            scene_start_hint: whether it starts a scene; None: the built-in detector decides.
            options: of this frame, whatever the next ones have.
            postprocess: makes of the stylized frame what the result has in its place, and keeps
                nothing; part of the frame's work.

        Raises:
            ArgumentError: another shape or type, too small, or another size than the frame before;
                at the latest by the future's `result`.
        """
        self._check_usable()
        if isinstance(source, Tensor):
            check_frames(source, None if self._in_teams else self._state, count=1)
        elif not isinstance(source, Future):
            self.wait()
            job = _thread(str(self.device)).submit(
                self._load_and_step, source, scene_start_hint, options, postprocess
            )
            return PendingFrame(job)
        if not self._in_teams:
            encoded = (
                source.result() if isinstance(source, Future) else self._encode(source, options)
            )
            return self._step_now(encoded, scene_start_hint, options, postprocess)
        self._jobs = [job for job in self._jobs if not job.done()]
        before = self._jobs[-1:]
        if isinstance(source, Tensor):
            encoded_ahead = teams.submit(self.threads, self._encode, source, options)
            self._jobs.append(encoded_ahead)
        else:
            assert isinstance(source, Job)  # of `encode_ahead`, in teams as this
            encoded_ahead = source
        stepped = teams.submit(
            self.threads,
            self._step_encoded,
            encoded_ahead,
            scene_start_hint,
            options,
            postprocess,
            first=True,
            after=[encoded_ahead, *before],
        )
        self._jobs.append(stepped)
        return PendingFrame(stepped)

    def stylize(
        self, frame: Tensor, scene_start_hint: bool | None, options: Options
    ) -> PendingFrame:
        """As `submit`, by all threads of the CPU, in the calling thread."""
        self._check_usable()
        return self._step_now(self._encode(frame, options), scene_start_hint, options)

    def _check_usable(self) -> None:
        if self._engine is None:
            raise ArgumentError("this Stylizer is closed; make another one for more frames")
        check_fork()

    # --- what a frame needs by itself ---

    def _encode_in_io(self, frame: Tensor, options: Options) -> EncodedFrame:
        # The thread's own stream may wait for the frame before.
        with self.io_context():
            return self._encode(frame, options)

    @torch.inference_mode()
    @without_autocast
    def _encode(self, frame: Tensor, options: Options) -> EncodedFrame:
        """For any number of frames, in any order, while another thread is in `_step`; on a CPU by
        several threads at a time.
        """
        self._check_usable()
        check_frames(frame, None, count=1)
        frame = pixels.upload(frame, self.device)
        with queued(self._streams.io, frame):
            source = frame.contiguous()
            frame = pixels.limited(source)
            lowres, descriptor = self._run(recurrence.describe, frame)
            if not self._reuses_repeated_frames:
                encoded = self._encode_described(frame, lowres, descriptor, options)
            else:
                encoded = self._encode_or_reuse(frame, lowres, descriptor, options)
            return replace(encoded, source=source)

    def _encode_described(
        self, frame: Tensor, lowres: Tensor, descriptor: Tensor, options: Options
    ) -> EncodedFrame:
        with queued(self._streams.encode, frame):
            feature, *features = self._run(
                recurrence.encode_with_flow_features
                if options.coherence > 0
                else recurrence.encode,
                frame,
            )
            ready = mark(self._streams.encode)
        return EncodedFrame(
            frame, frame, lowres, descriptor, feature, tuple(features) or None, ready
        )

    def _encode_or_reuse(
        self, frame: Tensor, lowres: Tensor, descriptor: Tensor, options: Options
    ) -> EncodedFrame:
        done: Future[EncodedFrame] = Future()
        last, self._last = self._last, (frame, descriptor, done)
        try:
            encoded = self._repeated(frame, descriptor, last, options)
            if encoded is None:
                encoded = self._encode_described(frame, lowres, descriptor, options)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(encoded)
        return encoded

    def _repeated(
        self,
        frame: Tensor,
        descriptor: Tensor,
        last: tuple[Tensor, Tensor, Future[EncodedFrame]] | None,
        options: Options,
    ) -> EncodedFrame | None:
        """What the frame before was encoded to, where this one is the same, as when a frame rate
        was raised; more than half of its work.
        """
        # Of frames that differ late, descriptors tell sooner. The thread that is at it is waited
        # for.
        if (
            last is None
            or not torch.equal(last[1], descriptor)
            or not torch.equal(last[0], frame)
            or last[2].exception()
        ):
            return None
        encoded = last[2].result()
        return encoded if encoded.flow_features or options.coherence == 0 else None

    # --- what follows from frame to frame ---

    def _load_and_step(
        self, load: Callable[[], Tensor], hint: bool | None, options: Options, postprocess: Any
    ) -> Launched:
        return self._step(self._encode(load(), options), hint, options, postprocess)

    def _step_now(self, encoded: EncodedFrame, *arguments: Any) -> PendingFrame:
        done: Future[Launched] = Future()
        done.set_result(self._step(encoded, *arguments))
        return PendingFrame(done)

    def _step_encoded(self, encoded: Job[EncodedFrame], *arguments: Any) -> Launched:
        return self._step(encoded.result(), *arguments)

    @torch.inference_mode()
    @without_autocast
    def _step(
        self,
        encoded: EncodedFrame,
        scene_start_hint: bool | None,
        options: Options,
        postprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> Launched:
        self._check_usable()
        check_frames(encoded.frame, self._state)
        state, (frame, source) = self._state, (encoded.frame, encoded.source)
        with on(self._streams.io):
            # The host waits for the device here, and nowhere else; on a GPU for what makes
            # descriptors alone, not for the networks.
            descriptor = encoded.descriptor.cpu()
            before = None if state is None else state.descriptor
            scene = recurrence.classify(before, descriptor, scene_start_hint, options.scene_cut)
        # Also for a scene's first frame: the next one's flow leads there.
        with on(self._streams.flow):
            receive(encoded.ready, frame, encoded.lowres, *(encoded.flow_features or ()))
        with on(self._streams.work):
            receive(encoded.ready, frame, source, encoded.feature)
            self._state, stylized = recurrence.step(
                state, encoded, descriptor, scene, options.coherence, self._run
            )
            luma_weights = self._luma_weights if options.preserve_color else None
            strength = float(options.strength * scene[1])
            stylized = recurrence.blend(encoded, stylized, strength, luma_weights)
            result = stylized if postprocess is None else postprocess(stylized)
            return mark(self._streams.work), result, scene[0]

    def _run(self, function: Callable, *inputs: Tensor | float) -> tuple[Tensor, ...]:
        """Calls a function of the recurrence, on a GPU in the stream of its kind, and has the
        caller's current stream wait for it.
        """
        call, flow = self._functions[function], self._streams.flow
        if flow is None or function not in (recurrence.flow_features, recurrence.estimate_motion):
            return call(*inputs)
        with on(flow):
            if function is recurrence.flow_features:
                # In the stream of all flow features: a graph has one copy of its tensors.
                tensors = (given for given in inputs if isinstance(given, Tensor))
                with queued(self._streams.encode, *tensors):
                    made = call(*inputs)
                receive(mark(self._streams.encode), *made)
                return made  # its one reader, `estimate_motion`, is in this stream
            made = call(*inputs)
        receive(mark(flow), *made)
        return made


def check_frames(frames: Tensor, state: State | None, count: int | None = None) -> None:
    """Raises ArgumentError unless they are frames, so many (None: any number), that can follow the
    state.
    """
    if (
        frames.dim() != 4
        or frames.shape[1] != 3
        or frames.dtype != torch.float32
        or (count and len(frames) != count)
    ):
        raise ArgumentError(
            f"frames are {tuple(frames.shape)} {frames.dtype}; expected ({count or 'B'}, 3, H, W) "
            "torch.float32"
        )
    height, width = frames.shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise ArgumentError(
            f"frames of {width}x{height} are too small to stylize; expected at least "
            f"{MIN_SIZE}x{MIN_SIZE}"
        )
    if state is not None and state.frame.shape[-2:] != frames.shape[-2:]:
        rows, columns = state.frame.shape[-2:]
        raise ArgumentError(
            f"a frame of {width}x{height} after one of {columns}x{rows}; reset() between clips"
        )
