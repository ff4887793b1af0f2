"""Trains the style of one painting: `neuralstyle train style painting.jpg --name mine …`.

With `--net stylebank` a bank for the base that is there (`training/stylebank.py`), with `--net
johnson` a transform network. The losses are those of `training/losses.py`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vsneuralstyle.measurement.images import autocast, photographs, to_picture, to_tensor
from vsneuralstyle.networks.checkpoint import check_style_name
from vsneuralstyle.networks.transform_net import TransformNet
from vsneuralstyle.training.losses import (
    CHANNELS,
    RESIDUAL_BLOCKS,
    StyleLoss,
    add_style_arguments,
    batches,
    crops,
)
from vsneuralstyle.training.run import add_run_arguments, load_run, module_state, setup, train
from vsneuralstyle.training.stylebank import train_bank

DEFAULTS = {
    "stylebank": {"iterations": 600, "batch": 2, "rate": 5e-3},
    "johnson": {"iterations": 2000, "batch": 4, "rate": 2e-3},
}
"""What `train style` takes for options that aren't given, by network family."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("painting", type=Path, help="the picture whose style is learnt")
    parser.add_argument(
        "--name", metavar="STYLE", help="what the style is called (default: as the picture's file)"
    )
    parser.add_argument(
        "--net",
        choices=("stylebank", "johnson"),
        default="stylebank",
        help="stylebank (default): a bank for the base that is there, ready for use; johnson: a "
        "network of its own, of "
        f"which `train net1` makes a model. What isn't given is {_defaults('stylebank')}; or "
        f"{_defaults('johnson')}",
    )
    add_style_arguments(parser)
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="another run of this command with --net johnson, whose weights to start from",
    )
    parser.add_argument(
        "--model-dir", type=Path, metavar="FOLDER", help="look for StyleBank's base here first"
    )
    add_run_arguments(parser, run_required=False)


def _defaults(net: str) -> str:
    return f"{net}: " + ", ".join(f"--{option} {value}" for option, value in DEFAULTS[net].items())


def main(args: argparse.Namespace) -> None:
    args.name = args.name or args.painting.stem
    check_style_name(args.name)
    args.run = args.run or Path("runs") / args.name
    for option, value in DEFAULTS[args.net].items():
        if getattr(args, option) is None:
            setattr(args, option, value)
    if args.net == "stylebank":
        return train_bank(args)
    device = setup(args)
    images = photographs(args.photos)
    style_loss = StyleLoss(args, [args.painting], device)
    network = TransformNet(CHANNELS, RESIDUAL_BLOCKS)
    if args.start_from:
        network.load_state_dict(module_state(load_run(args.start_from), "style"))
    network.to(device).to(memory_format=torch.channels_last)

    def loss(batch: tuple[Tensor, np.ndarray]) -> dict[str, Tensor]:
        content, steps = batch
        with autocast(device):
            feature = network.encode(content)
        return style_loss(network, feature, content, steps)[0]

    samples = to_tensor(crops(images, 384, 3, 12345), device).contiguous(
        memory_format=torch.channels_last
    )

    @torch.no_grad()
    def picture() -> np.ndarray:
        with autocast(device):
            return np.concatenate((to_picture(samples), to_picture(network(samples))))

    train(args, nn.ModuleDict({"style": network}), batches(args, images, device), loss, picture)
