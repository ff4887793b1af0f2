"""Optical flow of real clips by RAFT-small (Teed and Deng, ECCV 2020), through torchvision."""

from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsneuralstyle.errors import ModelError

SMALLEST = 128  # torchvision's RAFT: below 128 pixels its correlation pyramid loses a level
UPDATES = 16


def load(weights: str | PathLike | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """RAFT-small, ready for `flow`.

    weights: a safetensors file with torchvision's key names; None takes torchvision's own weights,
    downloaded on first use into torch's hub cache. Raises ModelError where neither can be had.
    """
    try:
        from torchvision.models.optical_flow import Raft_Small_Weights, raft_small
    except ImportError as error:
        raise ModelError(
            f"RAFT needs torchvision, which can't be imported ({error}); pip install torchvision, "
            "in the build that matches torch"
        ) from error
    try:
        if weights is None:
            model = raft_small(weights=Raft_Small_Weights.DEFAULT, progress=False)
        else:
            from safetensors.torch import load_file

            model = raft_small(weights=None)
            model.load_state_dict(load_file(Path(weights)))
    # file, network and key-name trouble arrive as a dozen different types
    except Exception as error:
        raise ModelError(
            f"RAFT-small weights can't be had from {weights or 'torchvision (a download)'}: "
            f"{error}; give a safetensors file with torchvision's key names of raft_small"
        ) from error
    return model.eval().requires_grad_(False).to(device)


@torch.no_grad()
def flow(model: nn.Module, a: Tensor, b: Tensor, updates: int = UPDATES) -> Tensor:
    """Flow from a to b: (B,2,H,W) float32 in pixels (x, y), so that a(p) is seen at b(p + flow(p)).

    a, b: (B,3,H,W) RGB in 0..1, any size: the border is repeated up to a multiple of 8 and to
    RAFT's smallest side (128), and cut off again. 16 updates, about 1 s a pair at 640x272 on two
    CPU cores.
    """
    height, width = a.shape[-2:]
    right = max(-width % 8, SMALLEST - width)
    below = max(-height % 8, SMALLEST - height)
    device = next(model.parameters()).device
    pair = [
        F.pad(frame.to(device, torch.float32) * 2 - 1, (0, right, 0, below), mode="replicate")
        for frame in (a, b)
    ]
    return model(*pair, num_flow_updates=updates)[-1][..., :height, :width].clone()
