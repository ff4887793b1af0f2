"""Fine-tunes the flow and mask sub-networks around a fixed style network, and writes the model
file.

    neuralstyle train net1 --style-run runs/candy --flow-run runs/flow --clips FOLDER --run
    runs/candy-net1 \
        --output models/candy.safetensors

Around a StyleBank (`--style-run` of `train stylebank`) each sample has a style at random, so that
one flow and one mask network serve all of them; `--output` is then the folder for the base and its
banks.

Loss: Chen et al. (ICCV 2017), Eq. 4 to 7, L = alpha L_cohe + beta L_occ + lambda L_flow. The paper
reduces by an unstated sum and takes 1e5, 2e4 and 20; here every term is a mean (over pixels and
channels, the picture in 0..1, the flow's endpoint error in full-resolution pixels). lambda is ours,
and so is alpha : beta = 1 : 2 in place of 5 : 1: with 2 : 1 the mask stayed near reuse everywhere,
and what moved left a trail. With `--unroll` 1 it is the paper's two frames; more frames carry the
composite feature on as at run time, O_{t-1} in place of S_{t-1}.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.measurement.images import autocast, to_picture
from vsneuralstyle.networks.checkpoint import (
    BANK_SUFFIX,
    BASE,
    FLOW,
    SUFFIX,
    fingerprint,
    save_bank,
    save_model,
)
from vsneuralstyle.networks.flow.litepwcnet import LitePWCNet
from vsneuralstyle.networks.flow.network import FLOW_SCALE
from vsneuralstyle.networks.layers.warp import warp
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.stylebank import Bank, StyleBankNet, each_its_own
from vsneuralstyle.training import clips
from vsneuralstyle.training.losses import CHANNELS, RESIDUAL_BLOCKS
from vsneuralstyle.training.run import (
    add_run_arguments,
    bank_names,
    configuration,
    load_run,
    module_state,
    setup,
    train,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style-run", type=Path, metavar="FOLDER", help="of `train style` or `train stylebank`"
    )
    parser.add_argument(
        "--flow-run",
        type=Path,
        metavar="FOLDER",
        help=f"of `train flow`; or its --output, {FLOW}, which has to lie beside the model then, "
        "too",
    )
    parser.add_argument("--clips", type=Path, required=True, metavar="FOLDER", help="video clips")
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="NAME", help="clips kept out of training"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/flow-cache"),
        metavar="FOLDER",
        help="measured flow",
    )
    parser.add_argument(
        "--raft",
        type=Path,
        metavar="FILE",
        help="RAFT-small as safetensors (default: torchvision's weights)",
    )
    parser.add_argument(
        "--per-clip", type=int, default=6, help="sequences taken of a clip (default 6)"
    )
    parser.add_argument("--length", type=int, default=4, help="frames of a sequence (default 4)")
    parser.add_argument(
        "--frame-size", type=int, default=512, help="long side of the frames (default 512)"
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=2,
        default=(320, 192),
        metavar=("W", "H"),
        help="of the training crops, multiples of 64",
    )
    parser.add_argument(
        "--flow-rate",
        type=float,
        default=1e-4,
        help="highest learning rate of the flow network; 0: fixed",
    )
    parser.add_argument(
        "--flow-levels",
        type=int,
        metavar="N",
        help="of litepwcnet: of it, the estimators of the N finest levels alone are trained, so "
        "that styles can share the rest (default: all"
        " of the flow network)",
    )
    parser.add_argument(
        "--unroll",
        type=int,
        default=2,
        help="recurrent steps trained through (default 2; the paper: 1)",
    )
    parser.add_argument(
        "--encoder-blocks",
        type=int,
        default=RESIDUAL_BLOCKS,
        help="residual blocks before the composed feature",
    )
    parser.add_argument("--warp-mode", choices=("bilinear", "bicubic"), default="bicubic")
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of L_cohe")
    parser.add_argument("--beta", type=float, default=2.0, help="weight of L_occ")
    parser.add_argument(
        "--lambda", dest="flow_weight", type=float, default=3e-3, help="weight of L_flow"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="measure the clips' flow into the cache, and stop"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="<style>.safetensors; of a StyleBank: a folder"
    )
    add_run_arguments(parser, iterations=600, batch=2, rate=2e-3)


def assemble(style_run: dict, flow_run: dict, **networks) -> tuple[Net1, dict]:
    """Net1 from the checkpoints of a style run and a flow run, with a fresh mask network; and its
    arguments.
    """
    networks = {"channels": list(CHANNELS), "residual_blocks": RESIDUAL_BLOCKS, **networks}
    networks["flow_network"] = flow_run["configuration"]["network"]
    networks["flow_width"] = flow_run["configuration"]["width"]
    if bank_names(style_run):
        networks["net"] = "stylebank"
        if networks.pop("encoder_blocks", RESIDUAL_BLOCKS) != RESIDUAL_BLOCKS:
            raise ArgumentError(
                "--encoder-blocks: StyleBank's feature stands after all blocks; leave the option "
                "out"
            )
    net1 = Net1(**networks)
    net1.style.load_state_dict(module_state(style_run, "style"))
    net1.flow.load_state_dict(module_state(flow_run, "flow"))
    return net1, networks


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    paths = clips.prepare(
        clips.find_clips(args.clips, args.without),
        args.cache,
        length=args.length,
        per_clip=args.per_clip,
        size=args.frame_size,
        weights=args.raft,
        device=device,
        seed=args.seed,
    )
    if args.prepare:
        return
    if not (args.style_run and args.flow_run):
        raise ArgumentError(
            "--style-run and --flow-run are missing; expected the --run folders of the runs before"
        )
    # not the whole cache: it may hold clips that are kept out this time
    shots = clips.load_all(paths)
    style_run, flow_run = load_run(args.style_run), load_run(args.flow_run)
    if args.output and bank_names(style_run) and args.output.suffix:
        raise ArgumentError(
            f"--output {args.output}: expected a folder, for StyleBank's base and its banks"
        )
    net1, networks = assemble(
        style_run, flow_run, encoder_blocks=args.encoder_blocks, warp_mode=args.warp_mode
    )
    net1.to(device).to(memory_format=torch.channels_last)
    # at run time alone: a mask that was trained with refreshing reuses less everywhere
    net1.refresh = net1.sharpen = 0.0
    net1.style.requires_grad_(False)
    net1.flow.requires_grad_(False)
    trained = [net1.flow]
    if args.flow_levels is not None:
        if not isinstance(net1.flow, LitePWCNet) or args.flow_levels < 1:
            raise ArgumentError(
                f"--flow-levels {args.flow_levels}: expected 1 or more, of a litepwcnet; leave it "
                "out to train all of the flow network"
            )
        trained = [
            *net1.flow.estimators[-args.flow_levels :],
            *net1.flow.predicts[-args.flow_levels :],
        ]
    for part in trained:
        part.requires_grad_(args.flow_rate > 0)
    banks: dict[str, Bank] = {}
    for name in bank_names(style_run):
        banks[name] = Bank(net1.style.feature_channels).requires_grad_(False)
        banks[name].load_state_dict(module_state(style_run, f"banks.{name}"))
        banks[name].to(device).to(memory_format=torch.channels_last)

    def sample(step: int) -> tuple[tuple[Tensor, Tensor, Tensor], list[Bank]]:
        random = np.random.default_rng((args.seed, step))
        chosen = [shots[i] for i in random.integers(len(shots), size=args.batch)]
        width, height = args.crop
        parts = clips.crop_batch(chosen, width, height, args.unroll + 1, random)
        frames, flows, masks = (part.to(device) for part in parts)
        of_samples = (
            [list(banks.values())[i] for i in random.integers(len(banks), size=args.batch)]
            if banks
            else []
        )
        return (frames, flows, masks), of_samples

    def encode(frames: Tensor, of_samples: list[Bank]) -> list[Tensor]:
        """The features of frames (B, T, 3, H, W)."""
        own = (each_its_own(of_samples),) if of_samples else ()
        return [
            net1.style.encode(f.contiguous(memory_format=torch.channels_last), *own)
            for f in frames.unbind(1)
        ]

    def loss(batch: tuple[tuple[Tensor, Tensor, Tensor], list[Bank]]) -> dict[str, Tensor]:
        (frames, flows, masks), of_samples = batch
        with torch.no_grad(), autocast(device):
            features = encode(frames, of_samples)
            per_frame = [net1.style.decode(f) for f in features]
        composite, output = features[0].float(), per_frame[0]
        sums: dict[str, Tensor | float] = {
            "cohe": 0.0,
            "occ": 0.0,
            "flow": 0.0,
            "matching": 0.0,
            "mask": 0.0,
            "per_frame_cohe": 0.0,
        }
        for t in range(1, frames.shape[1]):
            true_flow, traceable = flows[:, t - 1], masks[:, t - 1]
            with autocast(device):
                pyramid, matching = net1.flow.supervised(frames[:, t], frames[:, t - 1], true_flow)
                flow = pyramid[-1].float() * FLOW_SCALE
                unexplained = net1.warp_residual(
                    net1.downsample4(frames[:, t]), net1.downsample4(frames[:, t - 1]), flow
                )
                composite, mask = net1.compose(features[t], composite, flow, unexplained)
                stylized = net1.style.decode(composite)
            target = warp(output.detach(), true_flow, "bicubic")  # bilinear would teach blur
            sums["cohe"] += (traceable * (stylized - target).square()).mean()
            sums["occ"] += ((1 - traceable) * (stylized - per_frame[t]).square()).mean()
            true_quarter = F.avg_pool2d(true_flow, 4)
            sums["flow"] += (flow - true_quarter).square().sum(1).add(1e-6).sqrt().mean()
            sums["matching"] += matching
            sums["mask"] += mask.mean().detach()
            sums["per_frame_cohe"] += (
                traceable * (per_frame[t] - warp(per_frame[t - 1], true_flow)).square()
            ).mean()
            output = stylized
        steps = frames.shape[1] - 1
        terms = {name: torch.as_tensor(value) / steps for name, value in sums.items()}
        # so that it doesn't forget either
        flow_loss = args.flow_weight * (terms["flow"] + terms["matching"])
        total = args.alpha * terms["cohe"] + args.beta * terms["occ"] + flow_loss
        return {"loss": total, **terms}

    fixed = sample(-1 % 2**31)

    @torch.no_grad()
    def picture() -> np.ndarray:
        (frames, *_), of_samples = fixed
        with autocast(device):
            features = encode(frames, of_samples)
            flow = net1.flow(frames[:, 1], frames[:, 0])
            unexplained = net1.warp_residual(
                net1.downsample4(frames[:, 1]), net1.downsample4(frames[:, 0]), flow
            )
            composite, mask = net1.compose(features[1], features[0].float(), flow, unexplained)
            rows = [
                frames[:, 0],
                frames[:, 1],
                net1.style.decode(features[1]),
                net1.style.decode(composite),
            ]
        rows.append(F.interpolate(mask, frames.shape[-2:]).expand(-1, 3, -1, -1))
        return np.concatenate([to_picture(row) for row in rows])

    # The flow network is trained already, and would forget at the rate that the fresh mask network
    # needs.
    modules = nn.ModuleDict({"flow": net1.flow, "mask": net1.mask})
    train(args, modules, sample, loss, picture, rates={"flow": args.flow_rate})
    if args.output:
        training = {
            "style": style_run["configuration"],
            "flow": flow_run["configuration"],
            "net1": configuration(args),
        }
        output, style = args.output, args.output.stem
        if banks:
            output, style = args.output / f"{BASE}{SUFFIX}", BASE
            output.parent.mkdir(parents=True, exist_ok=True)
        shared = args.flow_run if args.flow_run.is_file() else None
        save_model(net1, output, style=style, networks=networks, training=training, flow=shared)
        for name, bank in banks.items():
            assert isinstance(net1.style, StyleBankNet)  # no other has banks
            save_bank(
                bank,
                output.with_name(name + BANK_SUFFIX),
                style=name,
                base=fingerprint(net1.style),
                training={"style": style_run["configuration"]},
            )
        print(f"wrote {args.output}")
