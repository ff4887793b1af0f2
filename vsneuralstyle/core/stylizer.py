"""The recurrence: frames of a clip in, stylized frames out, with the state between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsneuralstyle.arguments import check_range
from vsneuralstyle.core import scene_detection, teams
from vsneuralstyle.engines.cpu import kernels
from vsneuralstyle.engines.cpu.host import (
    check_fork,
    computing_by,
    cpuinfo,
    give_memory_back,
    keep_memory,
    units,
)
from vsneuralstyle.engines.cuda.graphs import Graphed
from vsneuralstyle.engines.cuda.streams import mark, on, queued, receive, streams
from vsneuralstyle.engines.engine import ENGINES, Engine, select_engine
from vsneuralstyle.errors import ArgumentError, DeviceError
from vsneuralstyle.networks.checkpoint import Model, load_model
from vsneuralstyle.settings import without_autocast
from vsneuralstyle.video import pixels, yuv
from vsneuralstyle.workers import Job, Workers

MIN_SIZE = 16
"""Smallest side of a frame, in pixels: reflection padding needs a feature of more than one
pixel."""
FLAT, SHOWN = 0.5 / 255, 3 / 255
"""Contrasts of a frame (`scene_detection.glimpse`) up to which nothing of the style is shown, and
from which on all of it is."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class State:
    """What a clip hands from frame t to frame t + 1, and nothing else.

    frame: I_t, (1, 3, H, W) float32, RGB 0..1. quarter: what `Engine.downsample4` made of it.
    glimpse: what `Engine.scene_descriptor` made of that, in host memory. feature: the composite
    F°_t, (1, C, ceil(H/4), ceil(W/4)), in the engine's `state_dtype`. look: what
    `Engine.flow_features` made of the frame; None: not looked at yet. shown: how much of the style
    the frame showed, 0..1, less than 1 where it is nearly of one color; after one that showed
    nothing, the next is drawn as a scene's first.
    """

    frame: Tensor
    quarter: Tensor
    glimpse: Tensor
    feature: Tensor
    look: tuple[Tensor, ...] | None
    shown: float

    def to(self, device: torch.device | str) -> State:
        """This state on a device; itself where it is there already."""
        look = None if self.look is None else tuple(part.to(device) for part in self.look)
        frame, quarter, feature = (
            part.to(device) for part in (self.frame, self.quarter, self.feature)
        )
        return State(frame, quarter, self.glimpse, feature, look, self.shown)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds on the device."""
        return self.frame, self.quarter, self.feature, *(self.look or ())

    @property
    def nbytes(self) -> int:
        """Its size there, in bytes."""
        return sum(part.nbytes for part in self.tensors)


@dataclass(frozen=True)
class Prepared:
    """A frame, and all that the networks make of it by itself, whatever came before it.

    frame, quarter, look: as in `State`; glimpse, too, but on the device. source: the frame as it
    came, with samples beyond 0..1 where it has any; on a CPU, where it has none, `frame` itself.
    feature: F_t, (1, C, ceil(H/4), ceil(W/4)) in the networks' precision. made: on a GPU, what has
    come when all of it is done.
    """

    frame: Tensor
    source: Tensor
    quarter: Tensor
    glimpse: Tensor
    feature: Tensor
    look: tuple[Tensor, ...] | None
    made: torch.cuda.Event | None = None


class Begun(Future):
    """A frame whose work is launched: `result` gives it, or what is made of it, and whether it
    starts a scene. Nobody waits for it but the stream that is the caller's current one then.
    """

    def __init__(self, made: torch.cuda.Event | None, stylized: Tensor, starts: bool) -> None:
        super().__init__()
        self._made = made
        self.set_result((stylized, starts))

    def result(self, timeout: float | None = None) -> tuple[Tensor, bool]:
        stylized, starts = super().result(timeout)
        receive(self._made, stylized)
        return stylized, starts


def resolve_device(name: str = "auto") -> torch.device:
    """A device by name: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: another name, or a device that is not there. It never falls back to the CPU in
            silence.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name != "cpu" and (
        kind != "cuda" or (":" in name and not (index.isdecimal() and len(index) < 20))
    ):
        raise DeviceError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(
                f"device {name!r} is not there: this PyTorch ({torch.__version__}) sees {count} "
                "CUDA devices; use device cpu or auto, or install a CUDA build of PyTorch and its "
                "driver"
            )
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """A precision by name: "auto", "float32", "bfloat16" or "float16".

    "auto" is float16 on a GPU, bfloat16 on a CPU that computes faster in it, float32 on another.
    Faster are AMX units, where the kernels use them or PyTorch does all, and AMD's AVX-512 ones
    (Zen 4: twice float32's speed); Intel's AVX-512 ones were measured at half of it.

    Raises:
        DeviceError: another name, or float16 on a CPU.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _cpu_gains_by_bfloat16() else torch.float32
    if name not in PRECISIONS:
        raise DeviceError(f"unknown precision {name!r}; expected auto, {', '.join(PRECISIONS)}")
    if device.type == "cpu" and name == "float16":
        raise DeviceError("precision 'float16' needs a GPU; on a CPU use auto, bfloat16 or float32")
    return PRECISIONS[name]


def _cpu_gains_by_bfloat16() -> bool:
    if "amx_bf16" in units():
        return kernels.tiled(torch.bfloat16) or kernels.library() is None
    return "avx512_bf16" in units() and cpuinfo().get("vendor_id") == "AuthenticAMD"


class Stylizer:
    """Stylizes one clip, frame after frame, coherently (Chen et al., ICCV 2017).

    A frame's pixels depend on the frames since its scene's start and on nothing else: bit for bit
    the same on the same device and precision, however the frames are grouped into calls. One caller
    at a time. A frame of one color, black before a title say, has nothing to draw and stays as it
    is.

    Args:
        style: a style's name; `vsneuralstyle.available_styles` lists them. With net "stylebank" a
            mix too, such as "candy:0.6+muse:0.4".
        net: network family, "johnson" (a network a style) or "stylebank" (one network for all,
            whose styles mix).
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16" (GPU).
        strength: 0 (the source) to 1 (the style).
        coherence: 0 (each frame by itself; the flow is skipped) to 1 (the paper's Net1).
        preserve_color: take the source's chroma and the style's luma alone.
        scene_cut: threshold of the built-in detector (`scene_detection.change`); 0: off.
        model_dir: a folder to look for models in first.

    Raises:
        ArgumentError, ModelError, DeviceError, ProcessError: see `vsneuralstyle.errors`.
    """

    def __init__(
        self,
        style: str,
        *,
        net: str = "johnson",
        device: str = "auto",
        precision: str = "auto",
        strength: float = 1.0,
        coherence: float = 1.0,
        preserve_color: bool = False,
        scene_cut: float = scene_detection.DEFAULT_THRESHOLD,
        model_dir: str | os.PathLike | None = None,
    ) -> None:
        self.strength = strength
        self.coherence = coherence
        self.preserve_color = preserve_color
        self.scene_cut = scene_cut
        check_fork()
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self._streams = streams(self.device)
        # In a thread that ends with it. Hosts make a filter in one thread and stylize in another,
        # and GNU OpenMP counts the workers of both: where they are more than the cores, those that
        # wait for work sleep at once, and it is a third slower.
        with Workers(1, "loader") as loader:
            self.model, self.net1 = loader.submit(self._load, style, net, model_dir).result()
        luma_weights = torch.tensor(yuv.luma_weights(), dtype=torch.float32, device=self.device)
        self._luma_weights = luma_weights.view(1, 3, 1, 1)
        self._state: State | None = None
        self.scene_starts: tuple[bool, ...] = ()
        self.threads = torch.get_num_threads()
        # of the teams, and not known to be done; the last one follows all others
        self._begun: list[Job] = []
        self._keeps_memory = self.device.type == "cpu"
        if self._keeps_memory:
            keep_memory()

    def close(self) -> None:
        """Ends the use of this: frames that were begun and are not under way yet are cancelled,
        those that are under way are waited for, and memory goes back to the system.

        A `with` statement closes it too. One that is dropped is closed once no frame of it is
        under way. Closing it again does nothing.
        """
        for job in self._begun:
            job.cancel()
        self._settle()
        self._release()

    def __enter__(self) -> Stylizer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._release()

    def _release(self) -> None:
        self._state = self._last = self._net1 = self._steps = self.model = None
        if getattr(self, "_keeps_memory", False):
            self._keeps_memory = False
            give_memory_back()

    def _load(
        self, style: str, net: str, model_dir: str | os.PathLike | None
    ) -> tuple[Model, Engine]:
        model = load_model(style, net, model_dir)
        return model, select_engine(model.net1, self.device, self.precision)

    def __setattr__(self, name: str, value: Any) -> None:
        check_range(name, value)
        super().__setattr__(name, value)

    @property
    def net1(self) -> Engine:
        """The networks. On a GPU the steps of those in `ENGINES` are CUDA graphs: small frames, and
        fast GPUs, are held up by Python otherwise. What else is put here is called frame by frame,
        and may keep what it likes.
        """
        return self._net1

    @net1.setter
    def net1(self, net1: Engine) -> None:
        if self._streams.work is not None:
            torch.cuda.synchronize(self.device)  # it was made in another stream
        self._net1 = net1
        # a frame, its glimpse, and what is being prepared of it
        self._last: tuple[Tensor, Tensor, Future[Prepared]] | None = None
        self._remembers = self.device.type == "cpu" and isinstance(net1, ENGINES)
        steps = (
            partial(step, net1)
            for step in (_glance, _make, _encode, _look, _alone, _motion, _coherent)
        )
        self._steps = Steps(
            *(
                map(Graphed, steps)
                if self.device.type == "cuda" and isinstance(net1, ENGINES)
                else steps
            )
        )

    @property
    def state(self) -> State | None:
        """The state after the last frame, None before a scene's first. Read it to checkpoint,
        assign it to resume.
        """
        self._settle()
        if self._state is not None:
            receive(mark(self._streams.work), *self._state.tensors)
        return self._state

    @state.setter
    def state(self, state: State | None) -> None:
        self._settle()
        self._state = None if state is None else state.to(self.device)
        for stream in self._streams if state is not None else ():
            with queued(stream, *self._state.tensors):
                pass  # what is launched there from now on comes after it

    def reset(self) -> None:
        """Forgets the clip: the next frame starts a scene."""
        self.state = self._last = None

    def _check_usable(self) -> None:
        if self._steps is None:
            raise ArgumentError("this Stylizer is closed; make another one for more frames")
        check_fork()

    def _settle(self) -> None:
        """Waits for all that was begun."""
        for job in self._begun:
            if not job.cancelled():
                job.exception()
        self._begun.clear()

    @torch.inference_mode()
    @without_autocast
    def is_cut(self, previous: Tensor, frame: Tensor) -> bool:
        """Whether the built-in detector says that a scene starts between two consecutive frames, as
        `stylize` would.

        Args:
            previous, frame: (1, 3, H, W) float32, RGB 0..1, on any device.
        """
        frames = (pixels.upload(one, self.device).contiguous() for one in (previous, frame))
        quarters = (self.net1.downsample4(pixels.limited(one)) for one in frames)
        glimpses = (self.net1.scene_descriptor(quarter).cpu() for quarter in quarters)
        return self.scene_cut > 0 and scene_detection.starts(*glimpses, self.scene_cut)

    def _judged(
        self, before: Tensor | None, glimpse: Tensor, told: bool | None
    ) -> tuple[bool, float]:
        """Whether a frame starts a scene, and how much of the style it shows.

        Args:
            before, glimpse: of the frame before, where there is one, and of this one, both in host
                memory.
            told: what the host says; None: the built-in detector decides, by thumbnails of the
                quarters, which are nearly those of the frames.
        """
        if before is None or told is not None:
            starts = before is None or bool(told)
        else:
            starts = self.scene_cut > 0 and scene_detection.starts(before, glimpse, self.scene_cut)
        contrast = glimpse[-1].item()
        return starts, min(max((contrast - FLAT) / (SHOWN - FLAT), 0.0), 1.0)

    @torch.inference_mode()
    @without_autocast
    def stylize(self, frames: Tensor, starts_scene: Sequence[bool | None] | None = None) -> Tensor:
        """Stylizes consecutive frames.

        Args:
            frames: (B, 3, H, W) float32, RGB 0..1, on any device; H and W at least 16.
                The networks see what is beyond as 0 or 1, and NaN as 0. The result has it by the
                source's share, 1 - strength; at strength 0 a frame passes as it is.
            starts_scene: for each frame whether it starts a scene; None for a frame, or for all:
                the built-in detector decides from the frame before and this one. `scene_starts`
                tells afterwards what held.

        Returns:
            (B, 3, H, W) float32, RGB 0..1 but for what the frames have beyond, on `device`.

        Raises:
            ArgumentError: another shape or type, too small, or another size than the frame before
                (`reset` first).
        """
        self._settle()
        _check(frames, self._state)
        starts_scene = [None] * len(frames) if starts_scene is None else list(starts_scene)
        if len(starts_scene) != len(frames):
            raise ArgumentError(
                f"{len(starts_scene)} entries in starts_scene for {len(frames)} frames; expected "
                "one a frame"
            )
        frames = pixels.upload(frames, self.device)
        # Copies: the state must not keep the caller's memory.
        singles = [frame.clone(memory_format=torch.contiguous_format) for frame in frames.split(1)]
        # One frame a pass: a convolution may sum in another order for another batch size, and a
        # picture must not depend on how its host groups frames.
        begun = [
            self.launch(self.prepare(frame), told) for frame, told in zip(singles, starts_scene)
        ]
        results = [one.result() for one in begun]
        self.scene_starts = tuple(starts for _, starts in results)
        outputs = [stylized for stylized, _ in results]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs) if outputs else frames

    @torch.inference_mode()
    @without_autocast
    def prepare(self, frame: Tensor) -> Prepared:
        """The part of `stylize` that needs no frame but this one: for any number of them, in any
        order, while another thread is in `advance`, and on a CPU by several threads at a time.

        Args:
            frame: (1, 3, H, W) as `stylize` takes it; nobody may write to it any more.

        Raises:
            ArgumentError: as `stylize` does.
        """
        self._check_usable()
        _check(frame, None, count=1)
        frame = pixels.upload(frame, self.device)
        with queued(self._streams.side, frame):
            source = frame.contiguous()
            frame = pixels.limited(source)
            return replace(self._prepared(frame, *self._steps.glance(frame)), source=source)

    def advance(self, prepared: Prepared, starts_scene: bool | None = None) -> Tensor:
        """The rest of `stylize`, for the next frame.

        Args:
            prepared: as `prepare` gave it.
            starts_scene: as in `stylize`.

        Returns:
            (1, 3, H, W), as `stylize` does.

        Raises:
            ArgumentError: another size than the frame before.
        """
        return self.launch(prepared, starts_scene).result()[0]

    @torch.inference_mode()
    @without_autocast
    def launch(
        self,
        prepared: Prepared,
        starts_scene: bool | None = None,
        then: Callable[[Tensor], Tensor] | None = None,
    ) -> Begun:
        """`advance`, whose frame is yet to be waited for: on a GPU this returns when its work is
        launched.

        Args:
            prepared, starts_scene: as in `advance`.
            then: makes of the stylized frame what the result has in its place, and keeps nothing;
                part of the frame's work.

        Returns:
            What has the frame, and whether it starts a scene; from any thread. See `fetching`.

        Raises:
            ArgumentError: as `advance` does.
        """
        self._check_usable()
        _check(prepared.frame, self._state)
        before = None if self._state is None else self._state.glimpse
        with on(self._streams.side):
            # The host waits for the device here, and nowhere else; on a GPU for what makes glimpses
            # alone, not for the networks.
            glimpse = prepared.glimpse.cpu()
            starts, shown = self._judged(before, glimpse, starts_scene)
        self.scene_starts = (starts,)
        # of a scene's first frame, too: the next one's flow leads there
        with on(self._streams.flow):
            receive(prepared.made, prepared.frame, prepared.quarter, *(prepared.look or ()))
        with on(self._streams.work):
            receive(prepared.made, prepared.frame, prepared.source, prepared.feature)
            stylized = self._follow(prepared, glimpse, starts, shown)
            result = stylized if then is None else then(stylized)
            return Begun(mark(self._streams.work), result, starts)

    @property
    def _in_teams(self) -> bool:
        # Where PyTorch's own convolutions do all, their sums, and so the pixels, depend on the
        # number of threads.
        has_kernels = self.device.type == "cpu" and kernels.library() is not None
        return has_kernels and teams.possible(self.threads)

    @property
    def works_ahead(self) -> bool:
        """Whether frames come faster where the next ones are begun before one is waited for: on a
        CPU, where two at a time, each by a team of threads (`teams`), are faster than one after the
        other by all; on a GPU, which works while the host does (`streams`).
        """
        return self._streams.work is not None or self._in_teams

    def aside(self) -> AbstractContextManager:
        """For what the caller computes while frames that were begun are under way: on a CPU by its
        own thread alone, where it `works_ahead`, since the others are at work; on a GPU in a stream
        that goes before the networks.

        That stream waits for no other: what is read in it was made in it, or is done, or came from
        a future's `result`, called in it too. What is made in it can be handed to `begin` outside
        of it as well.
        """
        return computing_by(1) if self._in_teams else on(self._streams.side)

    def fetching(self) -> AbstractContextManager:
        """For who takes a result and waits for it in a thread of its own, while another thread
        launches the next frames: on a GPU in a stream that none of these wait for, as they would in
        that of `aside`.
        """
        return on(self._streams.down)

    def begin(self, frame: Tensor, starts_scene: bool | None = None) -> Future[tuple[Tensor, bool]]:
        """`stylize` for hosts that have the next frames at hand before they need this one.

        Where it `works_ahead`, this returns at once, and a frame is prepared while the one before
        is finished. Frames are stylized in the order in which they were begun, and `stylize`,
        `reset` and `state` wait for them. Elsewhere it is done when this returns. Each frame that
        was begun takes memory until its result is dropped: hosts have a few (`teams.AHEAD`) under
        way.

        Args:
            frame: (1, 3, H, W) as `stylize` takes it; nobody may write to it any more.
            starts_scene: whether it starts a scene; None: the built-in detector decides.

        Returns:
            What will be the stylized frame, (1, 3, H, W), and whether it started a scene. On a GPU
            it is for the stream that is current where the future's `result` is called.

        Raises:
            ArgumentError: as `stylize` does; of another size than the frame before, from the
                future's `result` at the latest.
        """
        if not self._in_teams:
            _check(frame, self._state, count=1)
            return self.launch(self.prepare(frame), starts_scene)
        self._check_usable()
        _check(frame, None, count=1)
        self._begun = [job for job in self._begun if not job.done()]
        before = self._begun[-1:]
        prepared = teams.submit(self.threads, self.prepare, frame)
        self._begun.append(prepared)
        finished = teams.submit(
            self.threads,
            self._finished,
            prepared,
            starts_scene,
            first=True,
            after=[prepared, *before],
        )
        self._begun.append(finished)
        return finished

    def _finished(self, prepared: Job, starts_scene: bool | None) -> tuple[Tensor, bool]:
        return self.launch(prepared.result(), starts_scene).result()

    def _prepared(self, frame: Tensor, quarter: Tensor, glimpse: Tensor) -> Prepared:
        if not self._remembers:
            return self._made(frame, quarter, glimpse)
        done = Future()
        last, self._last = self._last, (frame, glimpse, done)
        try:
            prepared = self._repeated(frame, glimpse, last) or self._made(frame, quarter, glimpse)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(prepared)
        return prepared

    def _repeated(
        self, frame: Tensor, glimpse: Tensor, last: tuple[Tensor, Tensor, Future[Prepared]] | None
    ) -> Prepared | None:
        """What was prepared of the frame before, where this one is the same, as when a frame rate
        was raised; more than half of its work.
        """
        # Of frames that differ late, glimpses tell sooner. The thread that is at it is waited for.
        if (
            last is None
            or not torch.equal(last[1], glimpse)
            or not torch.equal(last[0], frame)
            or last[2].exception()
        ):
            return None
        prepared = last[2].result()
        return prepared if prepared.look or self.coherence == 0 else None

    def _made(self, frame: Tensor, quarter: Tensor, glimpse: Tensor) -> Prepared:
        with queued(self._streams.ahead, frame):
            feature, *look = (self._steps.make if self.coherence > 0 else self._steps.encode)(frame)
            made = mark(self._streams.ahead)
            return Prepared(frame, frame, quarter, glimpse, feature, tuple(look) or None, made)

    def _follow(self, prepared: Prepared, glimpse: Tensor, starts: bool, shown: float) -> Tensor:
        frame, state, look = prepared.frame, self._state, prepared.look
        if starts or self.coherence == 0 or state.shown == 0:
            composite, stylized = self._steps.alone(prepared.feature, frame[:, :0])
        else:
            with on(self._streams.flow):
                look, before = (one.look or self._looked(one.frame) for one in (prepared, state))
                moved = self._steps.motion(
                    frame, prepared.quarter, state.frame, state.quarter, *look, *before
                )
            receive(mark(self._streams.flow), *moved)
            composite, stylized = self._steps.coherent(
                prepared.feature, frame[:, :0], self.coherence, state.feature, *moved
            )
        self._state = State(frame, prepared.quarter, glimpse, composite, look, shown)
        return self._finish(prepared, stylized, float(self.strength * shown))

    def _looked(self, frame: Tensor) -> tuple[Tensor, ...]:
        """What wasn't prepared, since the coherence was 0 then. In the stream of all looks: a graph
        has one copy of its tensors.
        """
        with queued(self._streams.ahead, frame):
            look = self._steps.look(frame)
        receive(mark(self._streams.ahead), *look)
        return look

    def _finish(self, prepared: Prepared, stylized: Tensor, strength: float) -> Tensor:
        frame, source = prepared.frame, prepared.source
        if self.preserve_color:
            # The same step in R, G and B changes luma alone.
            stylized = (
                frame + ((stylized - frame) * self._luma_weights).sum(1, keepdim=True)
            ).clamp(0, 1)
        if strength == 1:
            return stylized
        if strength == 0:
            return source.clone()
        blended = torch.lerp(frame, stylized, strength)
        # By its share, and not by a lerp: of an infinity that would be NaN.
        return blended if source is frame else blended.add_(source - frame, alpha=1 - strength)


class Steps(NamedTuple):
    """What the networks do for a frame. Each takes tensors and gives a tuple of them, and is a pure
    function that a CUDA graph can
    hold: it takes nothing from the host and waits for nothing.
    """

    glance: Callable[..., tuple[Tensor, ...]]
    make: Callable[..., tuple[Tensor, ...]]
    encode: Callable[..., tuple[Tensor, ...]]
    look: Callable[..., tuple[Tensor, ...]]
    alone: Callable[..., tuple[Tensor, ...]]
    motion: Callable[..., tuple[Tensor, ...]]
    coherent: Callable[..., tuple[Tensor, ...]]


def _glance(net1: Engine, frame: Tensor) -> tuple[Tensor, Tensor]:
    """A frame's quarter and glimpse, as `State` has them."""
    quarter = net1.downsample4(frame)
    return quarter, net1.scene_descriptor(quarter)


def _encode(net1: Engine, frame: Tensor) -> tuple[Tensor]:
    return (net1.encode(frame),)


def _look(net1: Engine, frame: Tensor) -> tuple[Tensor, ...]:
    return net1.flow_features(frame)


def _make(net1: Engine, frame: Tensor) -> tuple[Tensor, ...]:
    """Both."""
    return net1.encode(frame), *net1.flow_features(frame)


def _alone(net1: Engine, feature: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """A frame by itself, Net0: its feature as the state has it, and the stylized frame. Of the
    frame only the size counts, so that none of its channels need be given.
    """
    feature = feature.to(net1.state_dtype)
    return feature, net1.decode(feature, *frame.shape[-2:])


def _motion(
    net1: Engine,
    frame: Tensor,
    quarter: Tensor,
    previous: Tensor,
    previous_quarter: Tensor,
    *looks: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What two frames of a scene have to do with each other, whatever the style: the flow from this
    one to the one before, what it leaves unexplained, and the change.

    Args:
        frame, quarter: as `Prepared` has them.
        previous, previous_quarter: as the `State` after the frame before has them.
        looks: the frame's look, and then the previous one's.
    """
    half = len(looks) // 2
    change = net1.max_change(frame, previous)
    flow = net1.estimate_motion(frame, previous, change, (looks[:half], looks[half:]))
    return flow, net1.warp_residual(quarter, previous_quarter, flow), change


def _coherent(
    net1: Engine,
    feature: Tensor,
    frame: Tensor,
    coherence: float | Tensor,
    previous_feature: Tensor,
    *moved: Tensor,
) -> tuple[Tensor, Tensor]:
    """A frame after another one of its scene: the composite, and the stylized frame.

    Args:
        feature: as `Prepared` has it. frame: as in `_alone`.
        coherence: 0..1.
        previous_feature: as the `State` after the frame before has it.
        moved: what `_motion` makes of the two.
    """
    composite, _ = net1.compose(feature, previous_feature, *moved, coherence)
    return composite, net1.decode(composite, *frame.shape[-2:])


def _check(frames: Tensor, state: State | None, count: int | None = None) -> None:
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
