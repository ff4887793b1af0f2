"""Files of the flow benchmarks: Middlebury's .flo, and MPI Sintel's occlusion and invalid masks;
and those that keep what was measured.
"""

import os
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.errors import MediaError

MAGIC = b"PIEH"  # the bytes of the float 202021.25
UNKNOWN = 1e9  # Middlebury marks an unknown flow vector by a component above this


def read_flo(path: str | PathLike) -> Tensor:
    """Flow of a .flo file: (2,H,W) float32 in pixels (x, y). Unknown vectors become NaN.

    Raises MediaError for a file that isn't one or is cut short.
    """
    data = Path(path).read_bytes()
    if data[:4] != MAGIC or len(data) < 12:
        raise MediaError(
            f"{path}: not a .flo file: it starts with {data[:4]!r}, {MAGIC!r} expected"
        )
    width, height = (int(size) for size in np.frombuffer(data, "<i4", 2, 4))
    if width < 1 or height < 1 or len(data) != 12 + width * height * 8:
        raise MediaError(
            f"{path}: {width}x{height} flow vectors take {12 + width * height * 8} bytes, the file has "
            f"{len(data)}; fetch it again"
        )
    vectors = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    vectors[(np.abs(vectors) > UNKNOWN).any(-1)] = np.nan
    return torch.from_numpy(vectors).permute(2, 0, 1).contiguous()


def write_flo(path: str | PathLike, flow: Tensor) -> None:
    """Writes a flow (2,H,W) in pixels (x, y) as a .flo file; NaN becomes Middlebury's unknown
    vector.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"a flow (2,H,W) expected, given {tuple(flow.shape)}")
    vectors = (
        flow.detach()
        .cpu()
        .float()
        .permute(1, 2, 0)
        .nan_to_num(nan=2 * UNKNOWN)
        .contiguous()
        .numpy()
    )
    size = np.array([flow.shape[2], flow.shape[1]], "<i4").tobytes()
    Path(path).write_bytes(MAGIC + size + vectors.astype("<f4").tobytes())


def read_mask(path: str | PathLike) -> Tensor:
    """A mask of MPI Sintel (`occlusions/` or `invalid/`): (1,H,W) bool, True where the pixel is
    occluded or invalid.
    """
    import cv2

    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise MediaError(f"{path}: no image that can be read; Sintel's masks are 8-bit PNG files")
    return torch.from_numpy(mask > 127).unsqueeze(0)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a cache's entry, an .npz, as a whole or not at all; other processes may fill the same
    cache.
    """
    # no .npz: one that was broken off is never taken for an entry
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        # NumPy's stubs take any of the names for its option allow_pickle, which is a bool.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)
