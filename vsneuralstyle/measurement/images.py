"""Pictures as files and as tensors, and the precision that networks compute in when they measure
or learn.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.core.device import resolve_precision
from vsneuralstyle.errors import ArgumentError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for convolutions; weights, losses and optimizer stay float32. Where a CPU would have
    to emulate bfloat16, which is slower by far, everything is float32.
    """
    return torch.autocast(
        device.type, torch.bfloat16, enabled=resolve_precision("auto", device) != torch.float32
    )


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3); with `size`, its long side is scaled to it."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ArgumentError(f"{path}: not a picture that OpenCV can read")
    if size:
        scale = size / max(image.shape[:2])
        image = cv2.resize(
            image,
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def photographs(folder: Path) -> list[np.ndarray]:
    """Every picture of a folder, RGB uint8."""
    paths = (
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if folder.is_dir()
        else []
    )
    if not paths:
        raise ArgumentError(
            f"{folder}: expected a folder with photographs ({', '.join(IMAGE_SUFFIXES)})"
        )
    return [read_image(p) for p in paths]


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, 0..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div(255)


def to_picture(rgb: Tensor) -> np.ndarray:
    """(B, 3, H, W), 0..1 -> the images side by side as one RGB uint8 picture."""
    return np.concatenate(
        list(
            (rgb.detach().float().clamp(0, 1) * 255)
            .round()
            .byte()
            .permute(0, 2, 3, 1)
            .cpu()
            .numpy()
        ),
        1,
    )
