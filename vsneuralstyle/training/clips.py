"""Sequences of consecutive frames of real clips with flow and traceable pixels, for Net1's
fine-tuning.

The paper took DeepFlow2; here RAFT-small measures the flow, once, into a cache folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vsneuralstyle.core import scene_detection
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.measurement import flow_files, occlusion, raft

FLAT = 5.0
"""Standard deviation, in code values, under which a sequence counts as flat."""
FAST = 0.25
"""Share of the samples with frames left out, and of those whose crops travel."""
TRAVELS = (4.0, 16.0, 40.0)
"""Mean speeds of crops that travel, in pixels a frame, each as often."""
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


@dataclass
class Shot:
    """T consecutive frames (T, H, W, 3) uint8 RGB, and for each but the first the flow back to the
    frame before, (T-1, 2, H, W) float16 in pixels, with its traceable pixels (T-1, 1, H, W) bool: 1
    = traceable (M_g).
    """

    frames: np.ndarray
    flows: np.ndarray
    traceable: np.ndarray

    def back(self, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow from frame t back to an earlier frame s, (2, H, W) float32 in pixels, and its
        traceable pixels (1, H, W) bool: the measured steps one after the other, each read where the
        one before led.
        """
        flow, traceable = self.flows[t - 1].astype(np.float32), self.traceable[t - 1]
        for step in range(t - 2, s - 1, -1):
            y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
            there = x + flow[0], y + flow[1]
            further = cv2.remap(
                self.flows[step].transpose(1, 2, 0).astype(np.float32),
                *there,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            # outside: 0
            also = cv2.remap(self.traceable[step, 0].astype(np.uint8), *there, cv2.INTER_NEAREST)
            flow, traceable = flow + further.transpose(2, 0, 1), traceable & also.astype(bool)
        return flow, traceable


def find_clips(folder: Path, without: Sequence[str] = ()) -> list[Path]:
    """The videos of a folder less those named (file names without suffix) as kept out of
    training.
    """
    paths = (
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        if folder.is_dir()
        else []
    )
    unknown = set(without) - {p.stem for p in paths}
    if unknown:
        raise ArgumentError(
            f"--without {' '.join(sorted(unknown))}: no such clip in {folder}; give file names "
            "without suffix"
        )
    paths = [p for p in paths if p.stem not in without]
    if not paths:
        raise ArgumentError(
            f"{folder}: expected a folder with video clips ({', '.join(VIDEO_SUFFIXES)})"
        )
    return paths


def _read(path: Path, size: int) -> list[np.ndarray]:
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = size / max(frame.width, frame.height)
            width, height = (
                max(8, round(side * scale / 8) * 8) for side in (frame.width, frame.height)
            )
            rgb = frame.reformat(
                width=width, height=height, format="rgb24", interpolation="AREA"
            ).to_ndarray()
            frames.append(rgb)
    return frames


def _is_one_scene(frames: np.ndarray) -> bool:
    tensors = [torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255 for f in frames]
    return all(
        scene_detection.cut_score(a, b) < scene_detection.DEFAULT_THRESHOLD
        for a, b in pairwise(tensors)
    )


def prepare(
    clips: Sequence[Path],
    cache: Path,
    *,
    length: int,
    per_clip: int,
    size: int,
    weights: Path | None,
    device: torch.device,
    seed: int = 0,
) -> list[Path]:
    """Measures what is not in the cache yet; returns the cache's files, one a sequence.

    Args:
        clips: videos.
        cache: folder of .npz files.
        length: frames of a sequence.
        per_clip: sequences of a clip, spread over its length; never across a cut.
        size: long side of the frames, in pixels.
        weights: RAFT-small as safetensors; None: torchvision's.
        device: where RAFT runs.
        seed: of where sequences start.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Path, int, Path]] = []
    todo: list[tuple[Path, int, Path]] = []
    for clip in clips:
        for index in range(per_clip):
            path = cache / f"{clip.stem}-{size}-{length}-{per_clip}-{seed}-{index}.npz"
            (files if path.exists() else todo).append((clip, index, path))
    if not todo:
        return [path for _, _, path in files]
    network = raft.load(weights, device)
    random = np.random.default_rng(seed)
    bar = tqdm(todo, desc="RAFT flow", unit="sequence")
    loaded, frames = None, []
    for clip, index, path in bar:
        if clip != loaded:
            loaded, frames = clip, _read(clip, size)
        span = max(len(frames) - length, 1) / per_clip
        start = min(int((index + random.random()) * span), max(len(frames) - length, 0))
        sequence = np.stack(frames[start : start + length])
        if len(sequence) < length or not _is_one_scene(sequence):
            continue
        tensor = torch.from_numpy(sequence).to(device).permute(0, 3, 1, 2).float() / 255
        flows, masks = [], []
        for previous, current in zip(tensor[:-1, None], tensor[1:, None]):
            backward, forward = (
                raft.flow(network, current, previous),
                raft.flow(network, previous, current),
            )
            flows.append(backward)
            masks.append(occlusion.traceable(backward, forward))
        flow_files.write_arrays(
            path,
            frames=sequence,
            flows=torch.cat(flows).half().cpu().numpy(),
            traceable=torch.cat(masks).bool().cpu().numpy(),
        )
        files.append((clip, index, path))
    return sorted(path for _, _, path in files)


def load(path: Path) -> Shot:
    with np.load(path) as file:
        return Shot(file["frames"], file["flows"], file["traceable"])


def load_all(paths: Sequence[Path]) -> list[Shot]:
    """The sequences of these cache files but the flat ones: instance normalisation turns a black
    leader's noise into a picture, and its flow means nothing.
    """
    shots = [shot for shot in map(load, paths) if shot.frames.std() > FLAT]
    if not shots:
        raise ArgumentError(
            "no measured sequences to train on; measure some with `neuralstyle train net1 "
            "--prepare`"
        )
    return shots


def crop_batch(
    sequences: Sequence[Shot], width: int, height: int, length: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops of random sequences, mirrored at random; never reversed in time, since flow is
    one way.

    Video moves little from frame to frame, and a network that has seen nothing else trusts its flow
    where that fails. So sometimes frames are left out, and some of the crops travel: each frame's
    lies a random way from the last's. (Half and half made the mask so wary that the picture was a
    fifth less steady.)

    Returns:
        frames (B, T, 3, H, W) float32 0..1, flows (B, T-1, 2, H, W) float32 px, traceable (B, T-1,
        1, H, W) float32, 0 too where the flow leads out of the crop.
    """
    frames, flows, masks = [], [], []
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for sequence in sequences:
        rows, columns = sequence.frames.shape[1:3]
        room = np.array([columns - width, rows - height])
        if room.min() < 0:
            raise ArgumentError(
                f"a crop of {width}x{height} from frames of {columns}x{rows}; give a smaller --crop"
            )
        if random.random() < FAST:
            chosen = np.sort(random.choice(len(sequence.frames), length, replace=False))
        else:
            chosen = random.integers(len(sequence.frames) - length + 1) + np.arange(length)
        corners = [random.integers(room + 1)]
        travel = random.exponential(random.choice(TRAVELS)) if random.random() < FAST else 0.0
        for _ in chosen[1:]:
            step = random.normal(0, travel, 2).round().astype(int)
            corners.append(np.clip(corners[-1] + step, 0, room))
        pictures, measured_flows, traceables = [], [], []
        for index, (t, (left, top)) in enumerate(zip(chosen, corners)):
            window = np.s_[..., top : top + height, left : left + width]
            pictures.append(sequence.frames[t].transpose(2, 0, 1)[window])
            if index:
                measured, traceable = (part[window] for part in sequence.back(t, chosen[index - 1]))
                measured = (
                    measured
                    + (corners[index] - corners[index - 1]).astype(np.float32)[:, None, None]
                )
                to_x, to_y = x + measured[0], y + measured[1]
                inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
                measured_flows.append(measured)
                traceables.append(traceable & inside)
        picture = torch.from_numpy(np.stack(pictures)).float() / 255
        flow = torch.from_numpy(np.stack(measured_flows))
        mask = torch.from_numpy(np.stack(traceables)).float()
        if random.random() < 0.5:
            picture, flow, mask = picture.flip(-1), flow.flip(-1), mask.flip(-1)
            flow = flow * flow.new_tensor([-1, 1]).view(1, 2, 1, 1)
        frames.append(picture)
        flows.append(flow)
        masks.append(mask)
    return torch.stack(frames), torch.stack(flows), torch.stack(masks)
