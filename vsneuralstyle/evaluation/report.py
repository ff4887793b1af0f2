"""Per frame against coherent: the figures of a clip, tables of several, and contact sheets."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import metrics

DEFINITION = (
    "e_stab (Eq. 8 of Chen et al. 2017): mean over traceable pixels and the three channels of (O_t − W(O_{t−1}))², "
    "O in 0..1, then over a clip's pairs, then over clips; pairs across a cut are left out. Gradient: RMS of "
    "neighbouring pixels' luma (BT.709) differences. Difference: RMS of O_t − O_{t−1} in steps of 1/255, without warp."
)


@dataclass(frozen=True)
class Comparison:
    """One clip's figures. Tensors are (T−1,), one entry a pair; NaN across a cut or where no pixel is traceable."""

    name: str
    size: tuple[int, int]  # width, height
    scene_starts: tuple[bool, ...]
    traceable: Tensor  # share of pixels
    per_frame: Tensor  # stability errors
    coherent: Tensor
    gradient_ratio: float  # coherent / per frame at the last frame
    age: int  # frames from the last frame's scene start to the last frame
    differences: tuple[float, float, float]  # of source, per frame, coherent

    @property
    def errors(self) -> tuple[float, float]:
        """e_stab of per frame and coherent."""
        return self.per_frame.nanmean().item(), self.coherent.nanmean().item()

    @property
    def ratio(self) -> float:
        """Coherent over per frame."""
        per_frame, coherent = self.errors
        return coherent / per_frame if per_frame else float("nan")

    @property
    def better(self) -> tuple[int, int]:
        """(pairs in which coherent has the smaller error, pairs counted)."""
        valid = ~(self.per_frame.isnan() | self.coherent.isnan())
        return int((self.coherent < self.per_frame)[valid].sum()), int(valid.sum())


def compare(name: str, source: Tensor, per_frame: Tensor, coherent: Tensor, flows: Tensor, masks: Tensor,
            scene_starts: Sequence[bool]) -> Comparison:
    """Measures both outputs (T,3,H,W in 0..1) of a source by its backward flows (T−1,2,H,W) and masks (T−1,1,H,W)."""
    length = len(source)
    if not length == len(per_frame) == len(coherent) == len(scene_starts):
        raise ValueError(f"{name}: {length} source frames, {len(per_frame)} per frame, {len(coherent)} coherent and "
                         f"{len(scene_starts)} scene starts; equal numbers expected")
    within = ~torch.tensor(scene_starts[1:], dtype=torch.bool)

    def of_pairs(values: Tensor) -> Tensor:
        return torch.where(within, values.cpu(), torch.nan)

    last_start = max((t for t, starts in enumerate(scene_starts) if starts), default=0)
    return Comparison(
        name=name,
        size=(source.shape[-1], source.shape[-2]),
        scene_starts=tuple(bool(starts) for starts in scene_starts),
        traceable=of_pairs(masks.float().mean((1, 2, 3))),
        per_frame=of_pairs(metrics.stability_error(per_frame, flows, masks)),
        coherent=of_pairs(metrics.stability_error(coherent, flows, masks)),
        gradient_ratio=(metrics.rms_gradient(coherent[-1:]) / metrics.rms_gradient(per_frame[-1:])).item(),
        age=length - 1 - last_start,
        differences=tuple(255 * of_pairs(metrics.frame_difference(clip)).nanmean().item()
                          for clip in (source, per_frame, coherent)),
    )


@dataclass(frozen=True)
class Total:
    """Means over clips of their means over pairs."""

    errors: tuple[float, float]
    better: tuple[int, int]
    gradient_ratio: float

    @property
    def ratio(self) -> float:
        return self.errors[1] / self.errors[0] if self.errors[0] else float("nan")


def total(comparisons: Sequence[Comparison]) -> Total:
    """The whole set's figures: every clip has the same weight, whatever its length."""
    errors = torch.tensor([c.errors for c in comparisons]).nanmean(0).tolist()
    better = torch.tensor([c.better for c in comparisons]).sum(0).tolist()
    gradient_ratio = float(np.mean([c.gradient_ratio for c in comparisons]))
    return Total((errors[0], errors[1]), (better[0], better[1]), gradient_ratio)


def markdown(comparisons: Sequence[Comparison], title: str) -> str:
    """A table with one row a clip and one for all."""
    lines = [
        f"# {title}", "", DEFINITION, "",
        "| clip | size | pairs | traceable | e_stab per frame | e_stab coherent | ratio | better pairs | "
        "gradient ratio (frames since scene start) | difference source / per frame / coherent |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        won, pairs = c.better
        lines.append(
            f"| {c.name} | {c.size[0]}x{c.size[1]} | {pairs} | {c.traceable.nanmean():.1%} | {c.errors[0]:.5f} | "
            f"{c.errors[1]:.5f} | {c.ratio:.3f} | {won}/{pairs} | {c.gradient_ratio:.3f} ({c.age}) | "
            + " / ".join(f"{value:.2f}" for value in c.differences) + " |")
    whole = total(comparisons)
    won, pairs = whole.better
    lines.append(f"| **all** | | {pairs} | | {whole.errors[0]:.5f} | {whole.errors[1]:.5f} | **{whole.ratio:.3f}** | "
                 f"**{won}/{pairs} = {won / max(pairs, 1):.1%}** | **{whole.gradient_ratio:.3f}** | |")
    return "\n".join(lines) + "\n"


def write_pairs(path: str | PathLike, comparisons: Sequence[Comparison]) -> None:
    """One CSV row a pair: clip, frame, whether the frame starts a scene, traceable share, both errors."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "frame", "scene_start", "traceable", "e_per_frame", "e_coherent"])
        for c in comparisons:
            columns = (c.traceable.tolist(), c.per_frame.tolist(), c.coherent.tolist())
            for t, values in enumerate(zip(*columns), start=1):
                writer.writerow([c.name, t, int(c.scene_starts[t]), *(f"{value:.6g}" for value in values)])


def picture(frame: Tensor) -> np.ndarray:
    """A frame (3,H,W) in 0..1 as (H,W,3) uint8 RGB."""
    return (frame.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def write_sheet(path: str | PathLike, columns: Mapping[str, Sequence[Tensor]], labels: Sequence[str],
                cell_width: int = 480) -> None:
    """A contact sheet (PNG): one column a title, one row a label; frames are (3,H,W) in 0..1, scaled to the cell."""
    import cv2

    def text(band: np.ndarray, words: str) -> np.ndarray:
        place = (8, band.shape[0] - 8)
        return cv2.putText(band, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)

    height, width = next(iter(columns.values()))[0].shape[-2:]
    cell = (cell_width, max(round(height * cell_width / width), 1))
    sheet = [np.hstack([text(np.full((28, cell_width, 3), 255, np.uint8), title) for title in columns])]
    for row, label in enumerate(labels):
        cells = [cv2.resize(picture(frames[row]), cell, interpolation=cv2.INTER_AREA) for frames in columns.values()]
        sheet += [np.hstack(cells), text(np.full((24, cell_width * len(columns), 3), 235, np.uint8), label)]
    if not cv2.imwrite(str(path), np.vstack(sheet)[..., ::-1]):
        raise OSError(f"{path}: the picture can't be written")


def write_clip_sheet(path: str | PathLike, source: Tensor, per_frame: Tensor, coherent: Tensor, flows: Tensor,
                     masks: Tensor, rows: int = 4) -> None:
    """A clip's contact sheet: source, both outputs, and three times what changed in each besides the motion."""
    moments = sorted({round(t) for t in np.linspace(min(1, len(source) - 1), len(source) - 1, rows)})

    def changed(outputs: Tensor) -> list[Tensor]:
        pictures = []
        for t in moments:
            if t == 0:
                pictures.append(torch.zeros_like(outputs[0]))
                continue
            difference = metrics.warped_difference(outputs[t:t + 1], outputs[t - 1:t], flows[t - 1:t])
            pictures.append((3 * difference * masks[t - 1:t]).abs()[0])
        return pictures

    write_sheet(path, {
        "source": [source[t] for t in moments],
        "per frame": [per_frame[t] for t in moments],
        "coherent": [coherent[t] for t in moments],
        "3 x change besides motion, per frame": changed(per_frame),
        "3 x change besides motion, coherent": changed(coherent),
    }, [f"frame {t}" for t in moments])
