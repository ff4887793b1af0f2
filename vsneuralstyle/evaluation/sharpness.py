"""How sharp a picture looks: the RMS gradient, and PSI, the Perceptual Sharpness Index.

Blur is the cheap way to stability, so one of these stands beside every stability error.
"""

import math

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.video.yuv import luma_weights

BLOCK = 32
"""Side of PSI's blocks, in pixels."""
VERTICAL = math.radians(8)
"""How far an edge's gradient may lean from the vertical to be walked along."""
JUST_NOTICEABLE = 3.0
"""Widths from here on are corrected by the edge's contrast: a steep wide edge looks sharper than a
flat one."""
FEWEST_WIDTHS = 2.0
"""Sum of the widths in a block from which on it counts."""
SHARPEST = 0.22
"""Share of the blocks, sharpest first, that make the index: attention goes to what is sharp."""


def luma(frames: Tensor) -> Tensor:
    """BT.709 luma: (B,3,H,W) -> (B,H,W) float32."""
    return torch.einsum(
        "bchw,c->bhw", frames.float(), frames.new_tensor(luma_weights(), dtype=torch.float32)
    )


def rms_gradient(frames: Tensor) -> Tensor:
    """Root mean square of the horizontal and vertical differences of neighbouring pixels' luma,
    (B,).
    """
    gray = luma(frames)
    dx, dy = gray.diff(dim=2), gray.diff(dim=1)
    squares = dx.square().sum((1, 2)) + dy.square().sum((1, 2))
    return (squares / (dx[0].numel() + dy[0].numel())).sqrt()


def psi(frame: Tensor) -> float:
    """PSI of a frame (3,H,W), RGB 0..1: the higher, the sharper; NaN where no block has an edge to
    measure.

    Source: Feichtenhofer, Fassold, Schallauer, "A Perceptual Image Sharpness Metric Based on Local
    Edge Gradient Analysis" (IEEE Signal Processing Letters, 2013). Widths of edges whose gradient
    is nearly vertical: the way along the column to the next extremum of luma on both sides, over
    the cosine of how far the gradient leans.
    """
    gray = luma(frame[None])[0].cpu().numpy().astype(np.float64)
    dy, dx = _sobel(gray)
    up, top = _way(gray, dy, -1)
    down, bottom = _way(gray, dy, 1)
    lean = np.arctan2(np.abs(dx), np.abs(dy))
    measured = _edges(dx, dy) & (lean < VERTICAL)
    widths = np.where(measured, (up + down) / np.cos(lean), 0.0)
    wide = widths >= JUST_NOTICEABLE
    widths[wide] -= (np.abs(top - bottom) / np.maximum(widths, 1))[wide]

    rows, columns = (side // BLOCK for side in gray.shape)
    grid = widths[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    # Those at the frame's border are left out: edges are cut off there.
    blocks = grid.transpose(0, 2, 1, 3)[1:-1, 1:-1].reshape(-1, BLOCK * BLOCK)
    sums, counts = blocks.sum(1), (blocks > 0).sum(1)
    counted = sums >= FEWEST_WIDTHS
    if not counted.any():
        return math.nan
    means = np.sort(sums[counted] / counts[counted])
    sharpest = means[: max(1, math.ceil(SHARPEST * len(means)))]
    return len(sharpest) / sharpest.sum()


def _sobel(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (down, right) by Sobel's kernels, over 8: luma a pixel."""
    import cv2

    down, right = (
        cv2.Sobel(gray, cv2.CV_64F, x, 1 - x, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        for x in (0, 1)
    )
    return down, right


def _edges(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Thinned edges: the squared gradient is over four times its mean, and not lower than both its
    neighbours' along the axis that it is nearer to.
    """
    squares = dx**2 + dy**2
    vertical = np.abs(dy) >= np.abs(dx)
    padded = np.pad(squares, 1, mode="edge")
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    # "Not lower" on one side and "higher" on the other: of two equal ones, one stays.
    ridge = np.where(
        vertical, (squares >= above) & (squares > below), (squares >= left) & (squares > right)
    )
    return ridge & (squares > 4 * squares.mean())


def _way(gray: np.ndarray, dy: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel along its column (step -1: up, 1: down) for as long as luma goes on as it
    does at the pixel: the number of steps, and the luma where it ends.
    """
    if step < 0:
        steps, ends = _way(gray[::-1], -dy[::-1], 1)
        return steps[::-1], ends[::-1]
    steps, ends = np.zeros(gray.shape), gray.copy()
    rises = dy >= 0
    # From the bottom row up: a pixel's way is one longer than that of the pixel below, where it
    # goes on.
    risen, fallen = (np.zeros(gray.shape[1], int) for _ in range(2))
    high, low = gray[-1].copy(), gray[-1].copy()
    for row in range(gray.shape[0] - 2, -1, -1):
        up, down = gray[row + 1] > gray[row], gray[row + 1] < gray[row]
        risen, fallen = np.where(up, risen + 1, 0), np.where(down, fallen + 1, 0)
        high, low = np.where(up, high, gray[row]), np.where(down, low, gray[row])
        steps[row] = np.where(rises[row], risen, fallen)
        ends[row] = np.where(rises[row], high, low)
    return steps, ends
