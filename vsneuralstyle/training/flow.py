"""Trains the flow sub-network on synthetic pairs: `neuralstyle train flow --photos FOLDER --run FOLDER`.

Loss: endpoint error at five scales with FlowNetS's weights (Dosovitskiy et al., ICCV 2015; the weights are those of
the authors' training file): 0.005, 0.01, 0.02, 0.08, 0.32 from the finest to the coarsest, target / 20.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.networks.flownet import FLOW_SCALE, FlowNetSimple
from vsneuralstyle.training.run import add_run_arguments, autocast, photographs, setup, to_picture, to_tensor, train
from vsneuralstyle.training.synthetic import make_pair

WEIGHTS = (0.32, 0.08, 0.02, 0.01, 0.005)
"""Of the pyramid's levels, coarse to fine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="photographs, the layers")
    parser.add_argument("--width", type=float, default=0.375, help="channels over the paper's (default 0.375)")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 256), metavar=("W", "H"), help="of the pairs, multiples of 64")
    add_run_arguments(parser, iterations=8000, batch=8, rate=6e-4)


def endpoint_error(flow: Tensor, target: Tensor) -> Tensor:
    """Mean length of the difference, (B, 2, H, W) each."""
    return (flow.float() - target).square().sum(1).add(1e-8).sqrt().mean()


def flow_picture(flow: Tensor) -> np.ndarray:
    """(2, H, W) in pixels -> RGB uint8: direction as hue, length as saturation (full at 20 px)."""
    x, y = flow.float().cpu().numpy()
    hue = (np.arctan2(y, x) / np.pi * 90 + 90).astype(np.uint8)
    saturation = np.clip(np.hypot(x, y) / 20 * 255, 0, 255).astype(np.uint8)
    return cv2.cvtColor(np.stack((hue, saturation, np.full_like(hue, 255)), -1), cv2.COLOR_HSV2RGB)


class Pairs:
    """Batches made by a thread ahead of the step that takes them."""

    def __init__(self, images: list[np.ndarray], size: tuple[int, int], batch: int, seed: int, device: torch.device) -> None:
        self.images, self.size, self.batch, self.seed, self.device = images, size, batch, seed, device
        self.pool = ThreadPoolExecutor(1)
        self.ahead: dict[int, object] = {}

    def _make(self, step: int):
        random = np.random.default_rng((self.seed, step))
        pairs = [make_pair(self.images, *self.size, random) for _ in range(self.batch)]
        return tuple(np.stack(part) for part in zip(*((p.first, p.second, p.flow) for p in pairs)))

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        for n in range(step, step + 3):
            if n not in self.ahead:
                self.ahead[n] = self.pool.submit(self._make, n)
        first, second, flow = self.ahead.pop(step).result()
        flow = torch.from_numpy(flow).to(self.device).permute(0, 3, 1, 2)
        return to_tensor(first, self.device), to_tensor(second, self.device), flow


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    images = photographs(args.photos)
    network = FlowNetSimple(args.width).to(device, memory_format=torch.channels_last)
    pairs = Pairs(images, tuple(args.size), args.batch, args.seed, device)

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        first, second, flow = batch
        with autocast(device):
            pyramid = network.pyramid(first, second)
        total = 0.0
        for weight, predicted in zip(WEIGHTS, pyramid):
            target = F.adaptive_avg_pool2d(flow, predicted.shape[-2:]) / FLOW_SCALE
            total = total + weight * endpoint_error(predicted, target)
        full = F.interpolate(pyramid[-1].detach().float() * FLOW_SCALE, flow.shape[-2:], mode="bilinear")
        return {"loss": total, "epe": endpoint_error(full, flow), "zero_epe": endpoint_error(torch.zeros_like(flow), flow)}

    fixed = Pairs(images, tuple(args.size), 4, args.seed + 1, device)(0)

    @torch.no_grad()
    def picture() -> np.ndarray:
        first, second, flow = fixed
        with autocast(device):
            predicted = network(first, second)
        predicted = F.interpolate(predicted, flow.shape[-2:], mode="bilinear")
        rows = [to_picture(first), to_picture(second)]
        rows += [np.concatenate([flow_picture(f) for f in flows], 1) for flows in (flow, predicted)]
        return np.concatenate(rows)

    train(args, nn.ModuleDict({"flow": network}), pairs, loss, picture, every=200)
