"""Which pixels of frame t can be traced back to frame s, from the flows between the two (paper,
section 3.3).

Flows are in pixels, channel 0 is x (right), channel 1 is y (down): `flow_ts[p]` leads from pixel p
of frame t to p + flow_ts[p] in frame s.
"""

import torch
from torch import Tensor

from vsneuralstyle.networks.layers.warp import warp


def inside(flow: Tensor) -> Tensor:
    """True where p + flow(p) lies within the frame: (B,2,H,W) in pixels -> (B,1,H,W) bool."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1]
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)


def consistent(flow_ts: Tensor, flow_st: Tensor) -> Tensor:
    """Forward-backward check: (B,1,H,W) bool, False where |w + w'|^2 >= 0.01 (|w|^2 + |w'|^2) +
    0.5.

    w = flow_ts(p); w' = flow_st(p + w), the way back. Pixels that leave the frame are not
    consistent either.
    """
    back = warp(flow_st, flow_ts)
    gap = (flow_ts + back).square().sum(1, keepdim=True)
    size = flow_ts.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    return (gap < 0.01 * size + 0.5) & inside(flow_ts)


def motion_boundary(flow: Tensor) -> Tensor:
    """True where |grad u|^2 + |grad v|^2 > 0.01 |w|^2 + 0.002: (B,2,H,W) in pixels -> (B,1,H,W)
    bool.

    Gradients are central differences in the interior and one-sided at the frame's border.
    """
    dy, dx = torch.gradient(flow.float(), dim=(2, 3))
    steepness = (dx.square() + dy.square()).sum(1, keepdim=True)
    return steepness > 0.01 * flow.float().square().sum(1, keepdim=True) + 0.002


def traceable(flow_ts: Tensor, flow_st: Tensor) -> Tensor:
    """The mask M_g of frame t: 1 where a pixel can be traced to frame s, 0 at occlusions and motion
    boundaries.

    flow_ts, flow_st: (B,2,H,W) in pixels, from t to s and from s to t. Returns (B,1,H,W) float32 of
    0 and 1.
    """
    if flow_ts.shape != flow_st.shape or flow_ts.ndim != 4 or flow_ts.shape[1] != 2:
        raise ValueError(
            f"two flows of one shape (B,2,H,W) expected, given {tuple(flow_ts.shape)} and "
            f"{tuple(flow_st.shape)}"
        )
    return (consistent(flow_ts, flow_st) & ~motion_boundary(flow_ts)).float()
