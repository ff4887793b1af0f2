"""`Stylizer`: one clip, one frame after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vsneuralstyle.arguments import check_range
from vsneuralstyle.core import scene_detection
from vsneuralstyle.core.device import resolve_device, resolve_precision
from vsneuralstyle.core.pipeline import PendingFrame, Pipeline
from vsneuralstyle.core.recurrence import EncodedFrame, Options, State
from vsneuralstyle.engines.cpu.host import check_fork
from vsneuralstyle.engines.engine import Engine, select_engine
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.networks.checkpoint import Model, load_model
from vsneuralstyle.settings import without_autocast
from vsneuralstyle.video import pixels
from vsneuralstyle.workers import Workers


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
        scene_cut: threshold of the built-in detector (`scene_detection.cut_score`); 0: off.
        model_dir: a folder to look for models in first.

    strength, coherence, preserve_color and scene_cut are attributes too. They hold for the frames
    that are given from then on, whatever is in flight.

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
        # In a thread that ends with it. Hosts make a filter in one thread and stylize in another,
        # and GNU OpenMP counts the workers of both: where they are more than the cores, those that
        # wait for work sleep at once, and it is a third slower.
        with Workers(1, "loader") as loader:
            self.model, engine = loader.submit(self._load, style, net, model_dir).result()
        self.pipeline = Pipeline(self.device, engine)
        self.scene_starts: tuple[bool, ...] = ()

    def close(self) -> None:
        """Ends the use of this: frames that were submitted and are not under way yet are cancelled,
        those that are under way are waited for, and memory goes back to the system.

        A `with` statement closes it too. One that is dropped is closed once no frame of it is
        under way. Closing it again does nothing.
        """
        self.pipeline.close()
        vars(self).pop("model", None)

    def __enter__(self) -> Stylizer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _load(
        self, style: str, net: str, model_dir: str | os.PathLike | None
    ) -> tuple[Model, Engine]:
        model = load_model(style, net, model_dir)
        return model, select_engine(model.net1, self.device, self.precision)

    def __setattr__(self, name: str, value: Any) -> None:
        check_range(name, value)
        super().__setattr__(name, value)

    @property
    def engine(self) -> Engine:
        """The networks. Another one may take their place, which may keep what it likes."""
        return self.pipeline.engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        self.pipeline.engine = engine

    @property
    def state(self) -> State | None:
        """The state after the last frame, None before a scene's first. Read it to checkpoint,
        assign it to resume.
        """
        return self.pipeline.state

    @state.setter
    def state(self, state: State | None) -> None:
        self.pipeline.state = state

    def reset(self) -> None:
        """Forgets the clip: the next frame starts a scene."""
        self.pipeline.reset()

    @property
    def options(self) -> Options:
        """Those that a frame gets that is given next."""
        return Options(self.strength, self.coherence, self.preserve_color, self.scene_cut)

    @torch.inference_mode()
    @without_autocast
    def is_cut(self, previous: Tensor, frame: Tensor) -> bool:
        """Whether the built-in detector says that a scene starts between two consecutive frames, as
        `stylize` would.

        Args:
            previous, frame: (1, 3, H, W) float32, RGB 0..1, on any device.
        """
        frames = (pixels.upload(one, self.device).contiguous() for one in (previous, frame))
        lowres = (self.engine.downsample4(pixels.limited(one)) for one in frames)
        before, now = (self.engine.scene_descriptor(one).cpu() for one in lowres)
        return self.scene_cut > 0 and scene_detection.is_cut(before, now, self.scene_cut)

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
        self.pipeline.check(frames)
        hints = [None] * len(frames) if starts_scene is None else list(starts_scene)
        if len(hints) != len(frames):
            raise ArgumentError(
                f"{len(hints)} entries in starts_scene for {len(frames)} frames; expected one a "
                "frame"
            )
        frames = pixels.upload(frames, self.device)
        # Copies: the state must not keep the caller's memory.
        singles = [frame.clone(memory_format=torch.contiguous_format) for frame in frames.split(1)]
        # One frame a pass: a convolution may sum in another order for another batch size, and a
        # picture must not depend on how its host groups frames.
        pending = [
            self.pipeline.stylize(frame, hint, self.options) for frame, hint in zip(singles, hints)
        ]
        results = [one.result() for one in pending]
        self.scene_starts = tuple(starts for _, starts in results)
        outputs = [stylized for stylized, _ in results]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs) if outputs else frames

    # --- frames in flight: `pipeline`, with this clip's options ---

    def submit(
        self,
        source: Tensor | Future[EncodedFrame] | Callable[[], Tensor],
        starts_scene: bool | None = None,
        postprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> PendingFrame:
        """`stylize` for hosts that have the next frames at hand before they need this one.

        Where it `is_async`, this returns at once, and a frame is encoded while the one before is
        finished. `stylize`, `reset` and `state` wait for frames that were submitted. Elsewhere it
        is done when this returns. Each frame takes memory until its result is dropped: hosts have
        a few (`pipeline.MAX_IN_FLIGHT`) in flight.

        Args:
            source, postprocess: as `Pipeline.submit` takes them.
            starts_scene: whether it starts a scene; None: the built-in detector decides.

        Returns:
            The future of the stylized frame, (1, 3, H, W), and of whether it starts a scene.

        Raises:
            ArgumentError: as `stylize` does; of another size than the frame before, from the
                future's `result` at the latest.
        """
        return self.pipeline.submit(source, starts_scene, self.options, postprocess)

    def encode_ahead(self, load: Callable[[], Tensor]) -> Future | None:
        """See `Pipeline.encode_ahead`."""
        return self.pipeline.encode_ahead(load, self.options)

    @property
    def is_async(self) -> bool:
        """Whether frames come faster where the next ones are submitted before one is waited for."""
        return self.pipeline.is_async

    def io_context(self) -> AbstractContextManager:
        """See `Pipeline.io_context`."""
        return self.pipeline.io_context()

    def download_context(self) -> AbstractContextManager:
        """See `Pipeline.download_context`."""
        return self.pipeline.download_context()
