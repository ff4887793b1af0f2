"""Figures of a stylized clip. Frames are (B,3,H,W) RGB in 0..1, flows (B,2,H,W) in pixels (x, y),
masks (B,1,H,W).
"""

from pathlib import Path

import torch
from torch import Tensor

from vsneuralstyle.measurement.images import autocast
from vsneuralstyle.measurement.perceptual import CONTENT_LAYERS, STYLE_LAYERS, gram, relative_error
from vsneuralstyle.measurement.vgg import VGG19
from vsneuralstyle.networks.layers.warp import warp


def warped_difference(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """O_t − W(O_s), (B,3,H,W): what differs besides the motion. `flow` leads from frame `here` to
    frame `there`.
    """
    return here.float() - warp(there, flow)


def stability_error(here: Tensor, there: Tensor, flow: Tensor, mask: Tensor) -> float:
    """Stability error of two frames, Eq. 8 of the paper.

    The mean of (O_t − W(O_s))² over the traceable pixels (mask > 0) and the three channels, O in
    0..1; NaN without a traceable pixel, so average with `nanmean`. A clip's e_stab is the mean over
    its pairs, a set's that over its clips.

    Args:
        here, there: O_t and O_s, (1,3,H,W).
        flow: from frame t to frame s, (1,2,H,W) in pixels.
        mask: (1,1,H,W).
    """
    squares = warped_difference(here, there, flow).square().mean(1, keepdim=True)
    return squares[mask > 0].mean().item()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of frames in 0..1, in dB: (B,); infinite where they are equal."""
    return -10 * (a.float() - b.float()).square().mean((1, 2, 3)).log10()


def rms_difference(a: Tensor, b: Tensor) -> float:
    """Root mean square of a − b, without any warp: what moves, or flickers, in a static shot."""
    return (a.float() - b.float()).square().mean().sqrt().item()


class Perception:
    """Distances in VGG-19's features, as style networks are trained by
    (`vsneuralstyle.measurement.perceptual`).

    Args:
        weights: VGG-19 as safetensors; None: torchvision's.
        painting: (1,3,H,W), RGB 0..1, whose style the style loss is measured against; None: no
            style loss.
        device: where it is computed, in training's precision: bfloat16, or float32 on a CPU that
            isn't faster in that.
    """

    def __init__(self, weights: Path | None, painting: Tensor | None, device: torch.device) -> None:
        self._device = device
        self._precision = autocast(device)
        self._vgg = VGG19(weights).to(device)
        self._targets = None
        if painting is not None:
            features = self.features(painting)
            self._targets = {name: gram(features[name]) for name in STYLE_LAYERS}

    @torch.no_grad()
    def features(self, frame: Tensor) -> dict[str, Tensor]:
        """What `distance`, `content_loss` and `style_loss` take, of a frame (1,3,H,W)."""
        layers = sorted({*STYLE_LAYERS, *CONTENT_LAYERS})
        with self._precision:
            return self._vgg(frame.to(self._device), layers)

    def _error(
        self, features: dict[str, Tensor], targets: dict[str, Tensor], layers: tuple[str, ...]
    ) -> float:
        return sum(relative_error(features[n], targets[n]).item() for n in layers)

    def distance(self, features: dict[str, Tensor], others: dict[str, Tensor]) -> float:
        """VGG-19 distance: squared differences over the others' squared norm, mean over the style
        layers.
        """
        layers = STYLE_LAYERS
        return self._error(features, others, layers) / len(layers)

    def content_loss(self, features: dict[str, Tensor], source: dict[str, Tensor]) -> float:
        """The trained content loss, before its weight."""
        return self._error(features, source, CONTENT_LAYERS)

    def style_loss(self, features: dict[str, Tensor]) -> float:
        """The trained style loss, before its weight; NaN without a painting."""
        if self._targets is None:
            return float("nan")
        grams = {name: gram(features[name]) for name in self._targets}
        return self._error(grams, self._targets, tuple(self._targets))
