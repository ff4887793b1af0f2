"""Runs several ways to stylize over a clip, side by side, and measures each: memory is that of a
few frames.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vsneuralstyle.evaluation import INTERVALS, metrics, sharpness
from vsneuralstyle.evaluation.clips import Clip, Pair
from vsneuralstyle.evaluation.methods import Method

SAMPLED = 8
"""Every so many frames, and at the last one, the costly figures are taken: those of VGG-19."""


@dataclass
class Track:
    """What one method did on one clip. Each list has an entry a frame; NaN where there is none, as
    across a cut in a clip that isn't known to be one shot.
    """

    clip: str
    method: str
    size: tuple[int, int]
    """Width and height."""
    errors: dict[int, list[float]]
    """Interval -> stability error of the pair whose later frame it is."""
    traceable: list[float] = field(default_factory=list)
    """Share of the pixels of the pair of consecutive frames that can be traced."""
    difference: list[float] = field(default_factory=list)
    """RMS difference from the frame before, without warp, in code values of 8 bits."""
    gradient: list[float] = field(default_factory=list)
    psi: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    """VGG-19 distance from the first method's frame."""
    content: list[float] = field(default_factory=list)
    style: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    scene_starts: list[bool] = field(default_factory=list)
    pictures: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    """Frame -> the output (3,H,W), and what changed in it besides the motion, for a contact
    sheet."""


def measure(
    clip: Clip,
    methods: Sequence[Method],
    perception: metrics.Perception | None = None,
    moments: Sequence[int] = (),
    progress: Callable[[], object] = lambda: None,
) -> list[Track]:
    """Figures of each method on a clip.

    Args:
        clip: frames and their motion.
        methods: the first one is what the others are compared with, frame by frame by itself.
        perception: for the figures of VGG-19; None: they are NaN.
        moments: frames whose pictures are kept.
        progress: called after each frame.
    """
    length, _, height, width = clip.frames.shape
    tracks = [
        Track(clip.name, m.name, (width, height), {i: [float("nan")] * length for i in INTERVALS})
        for m in methods
    ]
    recent: list[deque[Tensor]] = [deque(maxlen=max(INTERVALS) + 1) for _ in methods]
    for method in methods:
        method.reset()
    for t in range(length):
        frame, pairs = clip.frame(t), clip.pairs(t)
        sampled = t % SAMPLED == 0 or t == length - 1
        source_features = perception.features(frame) if perception and sampled else None
        first, first_features = None, None
        for method, track, outputs in zip(methods, tracks, recent):
            output = method.step(frame, first)
            outputs.append(output)
            track.scene_starts.append(method.starts_scene)
            track.seconds.append(method.seconds)
            cuts = [False] * (t + 1) if clip.one_shot else track.scene_starts
            _add_pairs(track, outputs, cuts, pairs, t, output if t in moments else None)
            before = outputs[-2] if len(outputs) > 1 and not cuts[t] else None
            track.difference.append(
                float("nan") if before is None else 255 * metrics.rms_difference(output, before)
            )
            track.gradient.append(sharpness.rms_gradient(output).item())
            track.psi.append(sharpness.psi(output[0]))
            features = source_features  # they are the source's own, too
            if perception and source_features and output is not frame:
                features = perception.features(output)
            first, first_features = (output, features) if first is None else (first, first_features)
            distance = content = style = float("nan")
            if perception and features and first_features and source_features:
                distance = perception.distance(features, first_features)
                content = perception.content_loss(features, source_features)
                style = perception.style_loss(features)
            track.distance.append(distance)
            track.content.append(content)
            track.style.append(style)
        progress()
    return tracks


def _add_pairs(
    track: Track,
    outputs: deque[Tensor],
    cuts: Sequence[bool],
    pairs: Sequence[Pair],
    t: int,
    shown: Tensor | None,
) -> None:
    changed = None
    traceable = float("nan")
    for pair in pairs:
        if any(cuts[min(pair.here, pair.there) + 1 : t + 1]):
            continue
        here, there = outputs[pair.here - t - 1], outputs[pair.there - t - 1]
        track.errors[pair.interval][t] = metrics.stability_error(here, there, pair.flow, pair.mask)
        if pair.interval == 1:
            traceable = pair.mask.float().mean().item()
            if shown is not None:
                changed = (metrics.warped_difference(here, there, pair.flow) * pair.mask).abs()[0]
    track.traceable.append(traceable)
    if shown is not None:
        track.pictures[t] = shown[0], torch.zeros_like(shown[0]) if changed is None else changed
