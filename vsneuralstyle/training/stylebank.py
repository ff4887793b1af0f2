"""Trains StyleBank, one network with a bank for each style: `neuralstyle train stylebank candy.jpg
la_muse.jpg …`.

Source: Chen, Yuan, Liao, Yu, Hua, "StyleBank" (CVPR 2017): T steps with styles, then one of the
auto-encoder without any bank, so that encoder and decoder hold the content and the banks the
styles. The losses are those of `training/losses.py`; every sample of a batch has a style of its
own.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.measurement.images import autocast, photographs, to_picture, to_tensor
from vsneuralstyle.networks.checkpoint import (
    BANK_SUFFIX,
    Model,
    available_styles,
    check_style_name,
    load_bank,
    load_base,
    save_bank,
    user_folder,
)
from vsneuralstyle.networks.layers.norm import InstanceNorm
from vsneuralstyle.networks.stylebank import Bank, StyleBankNet, each_its_own
from vsneuralstyle.networks.transform_net import ConvBlock, RearrangedConv, TransformNet
from vsneuralstyle.training.losses import (
    CHANNELS,
    RESIDUAL_BLOCKS,
    StyleLoss,
    add_style_arguments,
    batches,
    crops,
)
from vsneuralstyle.training.run import (
    add_run_arguments,
    bank_names,
    configuration,
    load_run,
    module_state,
    setup,
    train,
)

STYLE_STEPS = 2
"""T: steps with styles before each one of the auto-encoder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paintings", type=Path, nargs="+", metavar="PAINTING", help="the pictures, a style each"
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="the styles' names (default: the files')"
    )
    parser.add_argument(
        "--factors",
        type=float,
        nargs="+",
        metavar="X",
        help="by which each style's own term counts (default: 1 each)",
    )
    add_style_arguments(parser)
    parser.add_argument(
        "--reconstruction-weight",
        type=float,
        default=30.0,
        help="of the auto-encoder's squared error (default 30)",
    )
    parser.add_argument(
        "--bank-rate",
        type=float,
        default=5e-3,
        help="highest learning rate of the banks (default 5e-3)",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="a run of this command, or of `train style`, whose weights to start from",
    )
    add_run_arguments(parser, iterations=6000, batch=4, rate=1e-3)


def drawn_styles(step: int, batch: int, styles: int, seed: int) -> list[int]:
    """The styles of a batch, at random and each equally often: shuffled decks of all of them, dealt
    one after another.

    Args:
        step: how many batches with styles were before.
        batch: samples a batch.
        styles: how many there are.
        seed: of the shuffling.
    """
    dealt = (divmod(index, styles) for index in range(step * batch, (step + 1) * batch))
    return [
        int(np.random.default_rng((seed, deck)).permutation(styles)[place]) for deck, place in dealt
    ]


@torch.no_grad()
def start_from_transform_net(
    network: StyleBankNet, bank: Bank, state: dict[str, Tensor], photos: Tensor
) -> None:
    """Takes over a Johnson network, so that `network` with `bank` draws about what that one draws.

    The decoder's normalisations become part of its convolutions, with the statistics that they have
    on average.

    Args:
        network, bank: changed in place.
        state: of a `TransformNet` of the same size.
        photos: (B, 3, H, W), RGB 0..1, some photographs.
    """
    johnson = TransformNet(CHANNELS, RESIDUAL_BLOCKS)
    johnson.load_state_dict(state)
    x = johnson.encode(photos)
    for layer in johnson.up:
        y = layer(x)
        if isinstance(layer, ConvBlock):
            convolution, norm, _ = layer
            assert isinstance(convolution, RearrangedConv) and isinstance(norm, InstanceNorm)
            variance, mean = torch.var_mean(convolution(x), dim=(0, 2, 3), correction=0)
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            convolution.weight.mul_(scale.view(-1, 1, 1, 1))
            convolution.bias.sub_(mean).mul_(scale).add_(norm.bias)
        x = y
    shared = network.state_dict().keys()
    network.load_state_dict(
        {name: value for name, value in johnson.state_dict().items() if name in shared}
    )
    bank.match(network.content(photos))


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    names = args.names = args.names or [painting.stem for painting in args.paintings]
    factors = args.factors = args.factors or [1.0] * len(names)
    for option, values in (("--names", names), ("--factors", factors)):
        if len(values) != len(args.paintings):
            raise ArgumentError(
                f"{option}: {len(values)} for {len(args.paintings)} paintings; expected one for "
                "each painting"
            )
    for name in names:
        check_style_name(name)
    if len(set(names)) != len(names):
        raise ArgumentError(
            f"--names {' '.join(names)}: one is given twice; expected a name for each painting"
        )
    images = photographs(args.photos)
    style_loss = StyleLoss(args, args.paintings, device)
    network = StyleBankNet(CHANNELS, RESIDUAL_BLOCKS)
    banks = {name: Bank(network.feature_channels) for name in names}
    modules = nn.ModuleDict({"style": network, "banks": nn.ModuleDict(banks)})
    if args.start_from:
        load_start(
            network,
            banks,
            load_run(args.start_from),
            to_tensor(crops(images, 256, 8, 1), torch.device("cpu")),
        )
    modules.to(device).to(memory_format=torch.channels_last)
    weights = torch.tensor(factors, device=device)
    draw = batches(args, images, device)

    def sample(step: int) -> tuple[Tensor, np.ndarray, list[int] | None]:
        cycle, place = divmod(step, STYLE_STEPS + 1)
        styles = None
        if place < STYLE_STEPS:
            styles = drawn_styles(cycle * STYLE_STEPS + place, args.batch, len(names), args.seed)
        return *draw(step), styles

    absent = torch.tensor(float("nan"))
    columns = (
        "loss",
        "content",
        "style",
        "variation",
        "shift",
        "reconstruction",
        *(f"style {name}" for name in names),
    )

    def loss(batch: tuple[Tensor, np.ndarray, list[int] | None]) -> dict[str, Tensor]:
        content, steps, styles = batch
        terms = dict.fromkeys(columns, absent)
        if styles is None:
            with autocast(device):
                error = (network(content) - content).square().mean()
            return {**terms, "loss": args.reconstruction_weight * error, "reconstruction": error}
        with autocast(device):
            feature = network.encode(
                content, each_its_own([banks[names[style]] for style in styles])
            )
        losses, errors = style_loss(network, feature, content, steps, styles, weights[styles])
        of_styles = {
            f"style {names[style]}": errors[[s == style for s in styles]].mean()
            for style in set(styles)
        }
        return {**terms, **losses, **of_styles}

    samples = to_tensor(crops(images, 256, 3, 12345), device).contiguous(
        memory_format=torch.channels_last
    )

    @torch.no_grad()
    def picture() -> np.ndarray:
        """A row for each photograph: itself, the auto-encoder's, and every style."""
        with autocast(device):
            drawn = [network.decode(network.encode(samples, bank)) for bank in banks.values()]
            pictures = torch.stack([samples, network(samples), *drawn], 1)
        return np.concatenate([to_picture(row) for row in pictures])

    train(args, modules, sample, loss, picture, rates={"banks": args.bank_rate})


def load_start(
    network: StyleBankNet, banks: Mapping[str, Bank], saved: dict, photos: Tensor
) -> None:
    """Weights of another run: of this trainer, with the banks of the same names; or of a Johnson
    net, for all banks.
    """
    state = module_state(saved, "style")
    if bank_names(saved):
        network.load_state_dict(state)
        for name, bank in banks.items():
            if trained := module_state(saved, f"banks.{name}"):
                bank.load_state_dict(trained)
        return
    first = next(iter(banks.values()))
    start_from_transform_net(network, first, state, photos)
    for bank in banks.values():
        bank.load_state_dict(first.state_dict())


def train_bank(args: argparse.Namespace) -> None:
    """A bank alone, for the base that is on the search path: `neuralstyle train style`. Writes it
    where models are.
    """
    if args.start_from:
        raise ArgumentError(
            "--start-from goes with --net johnson; a bank starts from the nearest one that is there"
        )
    device = setup(args)
    base = load_base(args.model_dir)
    images = photographs(args.photos)
    style_loss = StyleLoss(args, [args.painting], device)
    network = _network(base).to(device).to(memory_format=torch.channels_last)
    samples = to_tensor(crops(images, 256, 4, 12345), device).contiguous(
        memory_format=torch.channels_last
    )
    bank = first_bank(base, args.model_dir, style_loss, samples)
    bank.to(device).to(memory_format=torch.channels_last)

    def loss(batch: tuple[Tensor, np.ndarray]) -> dict[str, Tensor]:
        content, steps = batch
        with autocast(device):
            feature = network.encode(content, bank)
        return style_loss(network, feature, content, steps)[0]

    @torch.no_grad()
    def picture() -> np.ndarray:
        with autocast(device):
            return np.concatenate(
                (to_picture(samples), to_picture(network.decode(network.encode(samples, bank))))
            )

    train(args, nn.ModuleDict({"bank": bank}), batches(args, images, device), loss, picture)
    output = user_folder() / f"{args.name}{BANK_SUFFIX}"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_bank(
        bank,
        output,
        style=args.name,
        base=base.header["base"],
        training={"style": configuration(args)},
    )
    print(f"wrote {output}: style={args.name!r}, net='stylebank'")


def _network(base: Model) -> StyleBankNet:
    """The encoder and decoder that a base's banks share."""
    assert isinstance(base.net1.style, StyleBankNet)  # `load_base` has looked
    return base.net1.style


@torch.no_grad()
def first_bank(base: Model, model_dir: Path | None, style_loss: StyleLoss, samples: Tensor) -> Bank:
    """To start from: of the banks that are there the one whose pictures are nearest to the
    painting.
    """
    network = _network(base)
    new = Bank(network.feature_channels).to(samples.device)
    new.match(network.content(samples))
    names = available_styles("stylebank", model_dir)
    banks = [new, *(load_bank(name, base, model_dir)[0].to(samples.device) for name in names)]
    still = np.zeros((1, 2), np.float32)

    def style_error(bank: Bank) -> float:
        with autocast(samples.device):
            feature = network.encode(samples, bank)
        return float(style_loss(network, feature, samples, still)[1].mean())

    return min(banks, key=style_error)
