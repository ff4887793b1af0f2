"""The recurrence of Chen et al. (ICCV 2017): state and frame in, state and stylized frame out.

`step` is the paper's, frame by frame. Each function above it is one call of a network: a pure
function of tensors that waits for nothing, so that a CUDA graph can hold it. The glossary has the
paper's symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vsneuralstyle.core import scene_detection
from vsneuralstyle.engines.engine import Engine

FADE_IN_START, FADE_IN_END = 0.5 / 255, 3 / 255
"""Contrasts of a frame (the last number of its scene descriptor) up to which nothing of the style
is shown, and from which on all of it is."""


@dataclass(frozen=True)
class Options:
    """How a frame is drawn; see `Stylizer`."""

    strength: float = 1.0
    coherence: float = 1.0
    preserve_color: bool = False
    scene_cut: float = scene_detection.DEFAULT_THRESHOLD


@dataclass(frozen=True)
class State:
    """What a clip hands from frame t to frame t + 1, and nothing else.

    Attributes:
        frame: I_t, (1, 3, H, W) float32, RGB 0..1.
        lowres: what `Engine.downsample4` made of it, (1, 3, ceil(H/4), ceil(W/4)).
        descriptor: what `Engine.scene_descriptor` made of that, in host memory.
        feature: the composite F°_t, (1, C, ceil(H/4), ceil(W/4)), in the engine's `state_dtype`.
        flow_features: what `Engine.flow_features` made of the frame; None: not made yet.
        opacity: how much of the style the frame showed, 0..1. It is less than 1 where the frame is
            nearly of one color. After 0, the next frame is drawn as a scene's first.
    """

    frame: Tensor
    lowres: Tensor
    descriptor: Tensor
    feature: Tensor
    flow_features: tuple[Tensor, ...] | None
    opacity: float

    def to(self, device: torch.device | str) -> State:
        """This state on a device; itself where it is there already."""
        features = self.flow_features
        return State(
            self.frame.to(device),
            self.lowres.to(device),
            self.descriptor,
            self.feature.to(device),
            None if features is None else tuple(part.to(device) for part in features),
            self.opacity,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds on the device."""
        return self.frame, self.lowres, self.feature, *(self.flow_features or ())

    @property
    def nbytes(self) -> int:
        """Its size there, in bytes."""
        return sum(part.nbytes for part in self.tensors)


@dataclass(frozen=True)
class EncodedFrame:
    """A frame, and all that the networks make of it by itself, whatever came before it.

    Attributes:
        frame, lowres, flow_features: as in `State`; descriptor, too, but on the device.
        source: the frame as it came, with samples beyond 0..1 where it has any; on a CPU, where it
            has none, `frame` itself.
        feature: F_t, (1, C, ceil(H/4), ceil(W/4)) in the networks' precision.
        ready: on a GPU, the event after which all of it is made.
    """

    frame: Tensor
    source: Tensor
    lowres: Tensor
    descriptor: Tensor
    feature: Tensor
    flow_features: tuple[Tensor, ...] | None
    ready: torch.cuda.Event | None = None


def describe(engine: Engine, frame: Tensor) -> tuple[Tensor, Tensor]:
    """A frame's `lowres` and `descriptor`, as `EncodedFrame` has them."""
    lowres = engine.downsample4(frame)
    return lowres, engine.scene_descriptor(lowres)


def encode(engine: Engine, frame: Tensor) -> tuple[Tensor]:
    """F_t = E(I_t)."""
    return (engine.encode(frame),)


def flow_features(engine: Engine, frame: Tensor) -> tuple[Tensor, ...]:
    """What the flow network sees of a frame."""
    return engine.flow_features(frame)


def encode_with_flow_features(engine: Engine, frame: Tensor) -> tuple[Tensor, ...]:
    """F_t, and then the flow features."""
    return engine.encode(frame), *engine.flow_features(frame)


def estimate_motion(
    engine: Engine,
    frame: Tensor,
    lowres: Tensor,
    previous: Tensor,
    previous_lowres: Tensor,
    *features: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What two frames of a scene have to do with each other, whatever the style.

    Args:
        frame, lowres: I_t, as `EncodedFrame` has them.
        previous, previous_lowres: I_{t-1}, as `State` has them.
        features: the flow features of I_t, and then those of I_{t-1}.

    Returns:
        W_t, the flow from I_t to I_{t-1}; the residual that warping by it leaves; the largest
        change.
    """
    count = len(features) // 2
    change = engine.max_change(frame, previous)
    pair = features[:count], features[count:]
    flow = engine.estimate_motion(frame, previous, change, pair)
    return flow, engine.warp_residual(lowres, previous_lowres, flow), change


def decode(engine: Engine, feature: Tensor, sized: Tensor) -> tuple[Tensor, Tensor]:
    """Net0: F°_t = F_t, as the state has it, and O_t = D(F°_t).

    Args:
        feature: F_t.
        sized: (1, 0, H, W): only its size counts.
    """
    feature = feature.to(engine.state_dtype)
    return feature, engine.decode(feature, *sized.shape[-2:])


def compose_and_decode(
    engine: Engine,
    feature: Tensor,
    sized: Tensor,
    coherence: float | Tensor,
    previous_feature: Tensor,
    *motion: Tensor,
) -> tuple[Tensor, Tensor]:
    """Net1: F°_t by Eq. 1 to 3, and O_t = D(F°_t).

    Args:
        feature, sized: as in `decode`.
        coherence: 0..1, by which the mask M is multiplied.
        previous_feature: F°_{t-1}.
        motion: what `estimate_motion` gave.
    """
    flow, residual, change = motion
    composite, _ = engine.compose(feature, previous_feature, flow, residual, change, coherence)
    return composite, engine.decode(composite, *sized.shape[-2:])


FUNCTIONS: tuple[Callable[..., tuple[Tensor, ...]], ...] = (
    describe,
    encode,
    encode_with_flow_features,
    flow_features,
    estimate_motion,
    decode,
    compose_and_decode,
)
"""All of those above."""


class Run(Protocol):
    """Calls one of `FUNCTIONS` with an engine, wherever and whenever the device has room for it."""

    def __call__(
        self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor | float
    ) -> tuple[Tensor, ...]: ...


def step(
    state: State | None,
    encoded: EncodedFrame,
    descriptor: Tensor,
    scene: tuple[bool, float],
    coherence: float,
    run: Run,
) -> tuple[State, Tensor]:
    """Frame t of a clip.

    Args:
        state: after frame t-1; None: there is none.
        encoded: frame t. descriptor: its own, in host memory.
        scene: what `classify` says of it.
        coherence: 0..1.
        run: calls the networks.

    Returns:
        The state after frame t, and the stylized frame O_t, (1, 3, H, W), RGB 0..1.
    """
    starts_scene, opacity = scene
    features, sized = encoded.flow_features, encoded.frame[:, :0]
    if state is None or starts_scene or coherence == 0 or state.opacity == 0:
        composite, stylized = run(decode, encoded.feature, sized)
    else:
        features = features or run(flow_features, encoded.frame)
        previous = state.flow_features or run(flow_features, state.frame)
        frames = encoded.frame, encoded.lowres, state.frame, state.lowres
        motion = run(estimate_motion, *frames, *features, *previous)
        composite, stylized = run(
            compose_and_decode, encoded.feature, sized, coherence, state.feature, *motion
        )
    return State(encoded.frame, encoded.lowres, descriptor, composite, features, opacity), stylized


def classify(
    previous: Tensor | None, descriptor: Tensor, hint: bool | None, threshold: float
) -> tuple[bool, float]:
    """Whether a frame starts a scene, and its opacity, as `State` has it.

    Args:
        previous, descriptor: of the frame before, None where there is none, and of this one, both
            in host memory.
        hint: what the host says; None: the built-in detector decides.
        threshold: of the detector; 0: it is off.
    """
    if previous is None or hint is not None:
        starts_scene = previous is None or bool(hint)
    else:
        starts_scene = threshold > 0 and scene_detection.is_cut(previous, descriptor, threshold)
    contrast = descriptor[-1].item()
    opacity = (contrast - FADE_IN_START) / (FADE_IN_END - FADE_IN_START)
    return starts_scene, min(max(opacity, 0.0), 1.0)


def blend(
    encoded: EncodedFrame, stylized: Tensor, strength: float, luma_weights: Tensor | None
) -> Tensor:
    """The stylized frame O_t at a strength, over the source.

    Args:
        encoded: the source.
        stylized: O_t, (1, 3, H, W), RGB 0..1.
        strength: 0 (the source) to 1 (the style).
        luma_weights: of R, G and B, (1, 3, 1, 1): the source's chroma is kept. None: it isn't.
    """
    frame, source = encoded.frame, encoded.source
    if luma_weights is not None:
        # The same step in R, G and B changes luma alone.
        step = ((stylized - frame) * luma_weights).sum(1, keepdim=True)
        stylized = (frame + step).clamp(0, 1)
    if strength == 1:
        return stylized
    if strength == 0:
        return source.clone()
    blended = torch.lerp(frame, stylized, strength)
    # By its share, and not by a lerp: of an infinity that would be NaN.
    return blended if source is frame else blended.add_(source - frame, alpha=1 - strength)
