"""Trains the flow sub-network on synthetic pairs: `neuralstyle train flow --photos FOLDER --run
FOLDER`.

Loss: endpoint error at five scales, target / 20 (Dosovitskiy et al., ICCV 2015). The authors weigh
the coarsest scale most; here it is the finest, which alone is used, and which was 11 % better so
after 400 steps. With `--exponent` 0.4 it is as PWC-Net's for fine-tuning (Sun et al., CVPR 2018),
(e + 0.01)^0.4 of an error of e pixels: what is nearly right then counts most, and features that are
carried along a flow suffer from each fraction of a pixel.

Layered pairs alone leave FlowNet-Simple predicting no motion for thousands of steps. Crops that
move as a whole are learnt within a hundred, so they come first; then layers, whose motion grows to
its full length. LitePWCNet needs neither. Half of each batch may be real clips, with measured flow,
moved further at random.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.measurement.images import autocast, photographs, to_picture, to_tensor
from vsneuralstyle.networks.checkpoint import FLOW, save_flow
from vsneuralstyle.networks.flow.network import FLOW_SCALE, LEVELS, pooled
from vsneuralstyle.networks.net1 import FLOW_NETWORKS
from vsneuralstyle.training import clips
from vsneuralstyle.training.run import (
    add_run_arguments,
    configuration,
    load_run,
    module_state,
    setup,
    train,
)
from vsneuralstyle.training.synthetic import SHIFTS, Pair, make_pair, make_translation, move_pair

WEIGHTS = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Of the pyramid's levels, coarse to fine."""
EPSILON = 0.01
"""Pixels, added to an error before its power is taken, whose slope would be infinite at 0."""
MATCHING_WEIGHT = 0.02
"""Of the cross entropy of a network that matches."""
TRANSLATION_SIZE = 64
TRANSLATION_LONGEST = 6.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="FOLDER", help="photographs, the layers"
    )
    parser.add_argument(
        "--network", choices=sorted(FLOW_NETWORKS), default="litepwcnet", help="default litepwcnet"
    )
    parser.add_argument(
        "--width", type=float, default=0.5, help="channels over the network's own (default 0.5)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(448, 320),
        metavar=("W", "H"),
        help="of the pairs, multiples of 64 (default 448 320: long motions need room)",
    )
    parser.add_argument(
        "--levels",
        type=int,
        choices=range(1, LEVELS + 1),
        default=LEVELS,
        help=f"train this many of the {LEVELS} levels, from the coarsest: without the last, steps "
        "take a third, and large"
        " motions are the coarse levels' work",
    )
    parser.add_argument(
        "--translations",
        type=int,
        default=0,
        help="first steps, on crops that move as a whole (default 0; flownets needs about 600)",
    )
    parser.add_argument(
        "--growth",
        type=int,
        default=1000,
        help="steps in which the layers' motion grows to its full length (default 1000)",
    )
    parser.add_argument(
        "--shifts",
        type=float,
        nargs="+",
        default=SHIFTS,
        metavar="PIXELS",
        help=f"mean lengths of the motions, each as often (default "
        f"{' '.join(f'{s:g}' for s in SHIFTS)})",
    )
    parser.add_argument(
        "--exponent",
        type=float,
        default=1.0,
        help="of the endpoint error in the loss: below 1 (0.4, PWC-Net's), small errors count more "
        "(default 1)",
    )
    parser.add_argument(
        "--real",
        type=Path,
        metavar="FOLDER",
        help="measured flow of clips (`train net1 --prepare`): then half of each batch",
    )
    parser.add_argument(
        "--fixed-features",
        type=int,
        default=0,
        metavar="LEVELS",
        help="of litepwcnet: the features of this many levels, from 1/2 down, stay as they are. "
        "With --levels for the coarse levels"
        " alone: steps take a quarter",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="another run of this command, or its file, whose weights to start from",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"{FLOW}, which models share that `train net1 --flow-run FILE` makes",
    )
    add_run_arguments(parser, iterations=10000, batch=6, rate=1e-3)


def _lengths(flow: Tensor, target: Tensor) -> Tensor:
    """Of the differences of (B, 2, H, W) each, in a row, where the target is known; with a slope at
    0, too.
    """
    known = ~target.isnan().any(1)
    return (flow.float() - target).movedim(1, 3)[known].square().sum(1).add(1e-8).sqrt()


def endpoint_error(flow: Tensor, target: Tensor) -> Tensor:
    """Mean length of the difference, (B, 2, H, W) each; the target may be NaN where it is not
    known.
    """
    return _lengths(flow, target).mean()


def robust_error(flow: Tensor, target: Tensor, exponent: float) -> Tensor:
    """What is minimised of a level: the mean of its endpoint error in pixels, to a power, over
    `FLOW_SCALE`.

    Args:
        flow, target: (B, 2, H, W), in pixels over `FLOW_SCALE`; the target may be NaN where it is
            not known.
        exponent: at 1 it is the mean endpoint error; at less, an error of about a pixel weighs as
            much as at 1.
    """
    if exponent == 1:
        return endpoint_error(flow, target)
    return ((FLOW_SCALE * _lengths(flow, target) + EPSILON) ** exponent).mean() / (
        exponent * FLOW_SCALE
    )


def flow_picture(flow: Tensor) -> np.ndarray:
    """(2, H, W) in pixels -> RGB uint8: direction as hue, length as saturation (full at 20 px)."""
    x, y = flow.float().cpu().numpy()
    hue = (np.arctan2(y, x) / np.pi * 90 + 90).astype(np.uint8)
    saturation = np.clip(np.hypot(x, y) / 20 * 255, 0, 255).astype(np.uint8)
    return cv2.cvtColor(np.stack((hue, saturation, np.full_like(hue, 255)), -1), cv2.COLOR_HSV2RGB)


def real_pair(
    shots: Sequence[clips.Shot],
    width: int,
    height: int,
    random: np.random.Generator,
    shifts: Sequence[float] = SHIFTS,
) -> Pair:
    """A view of two frames of a clip, from the later to the earlier, with measured flow."""
    shot = shots[int(random.integers(len(shots)))]
    s, t = sorted(random.choice(len(shot.frames), 2, replace=False))
    flow, traceable = shot.back(t, s)
    # what several steps made of the rest is no flow at all
    flow = np.where(traceable, flow, np.nan).transpose(1, 2, 0)
    return move_pair(Pair(shot.frames[t], shot.frames[s], flow), width, height, random, shifts)


class Pairs:
    """Batches made by threads ahead of the steps that take them: by one where a CPU learns, too,
    else by all.

    Making a pair costs half as much as learning from it, so each batch serves two steps, mirrored
    in the second.
    """

    def __init__(
        self,
        images: list[np.ndarray],
        size: tuple[int, int],
        batch: int,
        seed: int,
        device: torch.device,
        translations: int = 0,
        growth: int = 0,
        shots: Sequence[clips.Shot] = (),
        shifts: Sequence[float] = SHIFTS,
    ) -> None:
        self.images, self.size, self.batch, self.seed, self.device = (
            images,
            size,
            batch,
            seed,
            device,
        )
        self.translations, self.growth, self.shots = translations, growth, shots
        self.shifts = shifts
        self.makers = 1 if device.type == "cpu" else torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.makers)
        self.ahead: dict[int, Future[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random, step = np.random.default_rng((self.seed, index)), 2 * index
        if step < self.translations:
            count = max(1, self.batch * self.size[0] * self.size[1] // TRANSLATION_SIZE**2)
            pairs = [
                make_translation(self.images, TRANSLATION_SIZE, TRANSLATION_LONGEST, random)
                for _ in range(count)
            ]
        else:
            pace = min(1.0, 0.3 + 0.7 * (step - self.translations) / max(self.growth, 1))
            real = self.batch // 2 if self.shots else 0
            pairs = [
                make_pair(self.images, *self.size, random, pace, self.shifts)
                for _ in range(self.batch - real)
            ]
            pairs += [real_pair(self.shots, *self.size, random, self.shifts) for _ in range(real)]
        return (
            np.stack([pair.first for pair in pairs]),
            np.stack([pair.second for pair in pairs]),
            np.stack([pair.flow for pair in pairs]),
        )

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        index, mirrored = divmod(step, 2)
        for n in range(index, index + 2 + self.makers):
            if n not in self.ahead:
                self.ahead[n] = self.pool.submit(self._make, n)
        self.ahead.pop(index - 1, None)
        earlier, later, moved = self.ahead[index].result()
        flow = torch.from_numpy(moved).to(self.device).permute(0, 3, 1, 2)
        batch = to_tensor(earlier, self.device), to_tensor(later, self.device), flow
        if not mirrored:
            return batch
        first, second, flow = (part.flip(-1) for part in batch)
        return first, second, flow * flow.new_tensor([-1, 1]).view(1, 2, 1, 1)


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    images = photographs(args.photos)
    network = FLOW_NETWORKS[args.network](args.width)
    if args.start_from:
        network.load_state_dict(module_state(load_run(args.start_from), "flow"))
    network.to(device).to(memory_format=torch.channels_last)
    if args.fixed_features and args.network != "litepwcnet":
        raise ArgumentError(
            f"--fixed-features {args.fixed_features}: expected of litepwcnet alone, not of "
            f"{args.network}, whose features have no levels"
        )
    for layer in getattr(network, "features", ())[: args.fixed_features]:
        layer.requires_grad_(False)
    shots = clips.load_all(sorted(args.real.glob("*.npz"))) if args.real else []
    pairs = Pairs(
        images,
        tuple(args.size),
        args.batch,
        args.seed,
        device,
        args.translations,
        args.growth,
        shots,
        args.shifts,
    )

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        first, second, flow = batch
        with autocast(device):
            pyramid, matching = network.supervised(first, second, flow, args.levels)
        total = MATCHING_WEIGHT * matching
        for weight, predicted in zip(WEIGHTS, pyramid):
            target = pooled(flow, *predicted.shape[-2:]) / FLOW_SCALE
            total = total + weight * robust_error(predicted, target, args.exponent)
        full = F.interpolate(
            pyramid[-1].detach().float() * FLOW_SCALE, flow.shape[-2:], mode="bilinear"
        )
        return {
            "loss": total,
            "matching": matching,
            "epe": endpoint_error(full, flow),
            "zero_epe": endpoint_error(torch.zeros_like(flow), flow),
        }

    fixed = Pairs(images, tuple(args.size), 4, args.seed + 1, device)(0)

    @torch.no_grad()
    def picture() -> np.ndarray:
        first, second, flow = fixed
        with autocast(device):
            predicted = network.pyramid(first, second, args.levels)[-1].float() * FLOW_SCALE
        predicted = F.interpolate(predicted, flow.shape[-2:], mode="bilinear")
        rows = [to_picture(first), to_picture(second)]
        rows += [np.concatenate([flow_picture(f) for f in flows], 1) for flows in (flow, predicted)]
        return np.concatenate(rows)

    train(args, nn.ModuleDict({"flow": network}), pairs, loss, picture, every=200)
    if args.output:
        save_flow(network, args.output, configuration(args))
        print(f"wrote {args.output}")
