"""What the trainers share: a folder with checkpoints, a log and pictures, and a loop that can be
taken up again.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vsneuralstyle.core.device import resolve_device
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.networks.checkpoint import load_flow

Batch = TypeVar("Batch")


def add_run_arguments(
    parser: argparse.ArgumentParser,
    *,
    iterations: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    run_required: bool = True,
) -> None:
    """The options that every trainer has. What has no default here, the trainer sets, and says so
    itself.
    """

    def default(value: float | None) -> str:
        return "" if value is None else f" (default {value})"

    parser.add_argument(
        "--run",
        type=Path,
        required=run_required,
        metavar="FOLDER",
        help="checkpoints, log and pictures; taken up again if it exists",
    )
    parser.add_argument(
        "--iterations", type=int, default=iterations, help=f"steps in all{default(iterations)}"
    )
    parser.add_argument("--batch", type=int, default=batch, help=f"samples a step{default(batch)}")
    parser.add_argument(
        "--rate",
        type=float,
        default=rate,
        help=f"highest learning rate of the one-cycle schedule{default(rate)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of torch (default: all cores)"
    )


def configuration(args: argparse.Namespace) -> dict:
    """The options of a run as plain values, for checkpoints and model headers. Paths are kept by
    name alone.
    """

    def plain(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value.name if isinstance(value, Path) else value

    return {key: plain(value) for key, value in vars(args).items()}


def one_cycle(step: int, iterations: int, warm: float = 0.05) -> float:
    """Factor of the learning rate: a linear rise, then a half cosine down to 1 %."""
    progress = step / max(iterations, 1)
    if progress < warm:
        return max(progress / warm, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warm) / (1 - warm), 1.0)))


def train(
    args: argparse.Namespace,
    modules: nn.ModuleDict,
    sample: Callable[[int], Batch],
    loss: Callable[[Batch], dict[str, Tensor]],
    picture: Callable[[], np.ndarray] | None = None,
    every: int = 100,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Adam over the parameters that require a gradient.

    Args:
        args: the options of `add_run_arguments`.
        modules: what is trained; saved whole in `FOLDER/checkpoint.pt` every `every` steps and at
            the end.
        sample: step -> a batch. Seeded by the step alone, so a run taken up again sees what it
            would have seen.
        loss: batch -> named terms, always the same names; "loss" is minimised, the rest is logged.
            NaN: the step doesn't have that term.
        picture: an RGB uint8 picture of the present state, written as `FOLDER/NNNNNN.png`.
        every: steps between two checkpoints, lines of the log and pictures.
        rates: learning rates of single modules, by name; the others have `args.rate`.
    """
    args.run.mkdir(parents=True, exist_ok=True)
    rates = {name: (rates or {}).get(name, args.rate) for name in modules}
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "highest": rates[name]}
        for name, module in modules.items()
    ]
    optimizer = torch.optim.Adam(groups)
    checkpoint, first = args.run / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = load_run(args.run)
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    log_path = args.run / "log.csv"
    bar = tqdm(total=args.iterations, initial=first, unit="it", mininterval=5, desc=args.run.name)
    values: dict[str, list[float]] = {}
    started, counted = time.monotonic(), 0
    for step in range(first, args.iterations):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * one_cycle(step, args.iterations)
        terms = loss(sample(step))
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        for name, value in terms.items():
            values.setdefault(name, []).append(float(value.detach()))
        counted += 1
        bar.update()
        if (step + 1) % every == 0 or step + 1 == args.iterations:
            # The mean of the steps that have the term; NaN where none has.
            means = {name: float(torch.tensor(seen).nanmean()) for name, seen in values.items()}
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            new = not log_path.exists()
            with log_path.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["step", "seconds_a_step", *means])
                writer.writerow(
                    [
                        step + 1,
                        f"{(time.monotonic() - started) / counted:.3f}",
                        *(f"{v:.6g}" for v in means.values()),
                    ]
                )
            values, counted, started = {}, 0, time.monotonic()
            part = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "modules": modules.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "configuration": configuration(args),
                },
                part,
            )
            part.replace(checkpoint)
            if picture is not None:
                cv2.imwrite(
                    str(args.run / f"{step + 1:06d}.png"),
                    cv2.cvtColor(picture(), cv2.COLOR_RGB2BGR),
                )
    bar.close()


def load_run(run: Path) -> dict:
    """A run's last checkpoint: "modules", "configuration", "step", "optimizer"; of a flow network's
    file the first two.
    """
    if run.is_file():
        return load_flow(run)
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.is_file():
        raise ArgumentError(
            f"{run}: no checkpoint.pt in it; expected the --run folder of `neuralstyle train`"
        )
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def bank_names(saved: dict) -> list[str]:
    """The styles of a checkpoint of `neuralstyle train stylebank`; of another trainer's there are
    none.
    """
    return list(
        dict.fromkeys(key.split(".")[1] for key in saved["modules"] if key.startswith("banks."))
    )


def module_state(saved: dict, name: str) -> dict[str, Tensor]:
    """The weights of one module of a checkpoint, under the module's own names."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value
        for key, value in saved["modules"].items()
        if key.startswith(prefix)
    }


def setup(args: argparse.Namespace) -> torch.device:
    """Seeds and threads; returns the device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    return resolve_device(args.device)
