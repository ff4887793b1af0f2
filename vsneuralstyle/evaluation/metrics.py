"""Figures of a stylized clip. Frames are (B,3,H,W) RGB in 0..1, flows (B,2,H,W) in pixels (x, y), masks (B,1,H,W)."""

import torch
from torch import Tensor

from ..networks.warp import warp

LUMA = (0.2126, 0.7152, 0.0722)  # BT.709


def warped_difference(current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """O_t − W(O_{t−1}), (B,3,H,W): what changed besides the motion. `flow` leads from the current frame back."""
    return current.float() - warp(previous, flow)


def stability_error(outputs: Tensor, flows: Tensor, masks: Tensor) -> Tensor:
    """Stability error of each pair of consecutive frames, Eq. 8 of the paper.

    e(t) = mean of (O_t − W(O_{t−1}))² over the traceable pixels (mask > 0) and the three channels, O in 0..1. A clip's
    e_stab is the mean over its pairs, a set's is the mean over its clips.

    outputs: (T,3,H,W). flows: (T−1,2,H,W), from each frame but the first back to the one before. masks: (T−1,1,H,W).
    Returns (T−1,) float32; NaN for a pair without a traceable pixel, so average with `nanmean`.
    """
    if not len(outputs) - 1 == len(flows) == len(masks):
        raise ValueError(f"T frames need T - 1 flows and masks, given {len(outputs)}, {len(flows)} and {len(masks)}")
    errors = []
    for t, (flow, mask) in enumerate(zip(flows, masks)):  # pair by pair: memory stays that of one frame
        squares = warped_difference(outputs[t + 1:t + 2], outputs[t:t + 1], flow[None]).square().mean(1, keepdim=True)
        errors.append(squares[mask[None] > 0].mean())
    return torch.tensor(errors)


def luma(frames: Tensor) -> Tensor:
    """BT.709 luma: (B,3,H,W) -> (B,H,W) float32."""
    return torch.einsum("bchw,c->bhw", frames.float(), frames.new_tensor(LUMA, dtype=torch.float32))


def rms_gradient(frames: Tensor) -> Tensor:
    """Sharpness: root mean square of the horizontal and vertical differences of neighbouring pixels' luma, (B,).

    Blur is the cheap way to stability, so this stands beside every stability error.
    """
    gray = luma(frames)
    dx, dy = gray.diff(dim=2), gray.diff(dim=1)
    squares = dx.square().sum((1, 2)) + dy.square().sum((1, 2))
    return (squares / (dx[0].numel() + dy[0].numel())).sqrt()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of frames in 0..1, in dB: (B,); infinite where they are equal."""
    return -10 * (a.float() - b.float()).square().mean((1, 2, 3)).log10()


def frame_difference(frames: Tensor) -> Tensor:
    """RMS of O_t − O_{t−1} without any warp, (T−1,): what moves, or flickers, in a static shot."""
    return torch.tensor([(b.float() - a.float()).square().mean().sqrt() for a, b in zip(frames, frames[1:])])
