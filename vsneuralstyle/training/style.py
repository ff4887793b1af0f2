"""Trains a Johnson transform network on one painting: `neuralstyle train style painting.jpg --name mine …`.

Losses: Johnson et al. (2016), content at relu2_2 and relu3_3, style at relu1_2, 2_2, 3_3 and 4_3 of VGG-19, total
variation. Each squared error is divided by the target's own squared norm, so that no layer outweighs the others and
the weights do not depend on sizes or on VGG's scale.

One term is ours, for Net1: a feature that was moved step by step, as the composite feature is from frame to frame, must
be drawn as the moved picture. Without it the decoder draws pixels of a cell that say where the cell was, not what was in
it: then even exact flow leaves flicker, and each resampling blurs.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.networks.transform import STRIDE, TransformNet
from vsneuralstyle.networks.warp import warp
from vsneuralstyle.training.run import (
    add_run_arguments,
    autocast,
    load_run,
    module_state,
    photographs,
    read_image,
    setup,
    to_picture,
    to_tensor,
    train,
)
from vsneuralstyle.training.vgg import VGG19

CONTENT_LAYERS = ("relu2_2", "relu3_3")
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
LONGEST_SHIFT = 12
"""Pixels, each way, that a feature is moved in all."""
SHIFT_BORDER = 4
"""Pixels at each side of what both pictures show that aren't compared: bicubic sampling repeats the border there."""
CHANNELS = (16, 32, 64)
RESIDUAL_BLOCKS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("painting", type=Path, help="the picture whose style is learnt")
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="photographs, the content")
    parser.add_argument(
        "--vgg", type=Path, metavar="FILE", help="VGG-19 as safetensors (default: torchvision's weights)"
    )
    parser.add_argument(
        "--style-size", type=int, default=512, help="long side of the painting: the size of its strokes (default 512)"
    )
    parser.add_argument(
        "--style-median",
        type=int,
        choices=(1, 3, 5),
        default=1,
        help="median filter of the painting at that size: 3 takes a canvas's weave away (default 1: none)",
    )
    parser.add_argument("--size", type=int, default=256, help="side of the training crops (default 256)")
    parser.add_argument("--style-weight", type=float, default=8.0)
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--tv-weight", type=float, default=5.0)
    parser.add_argument(
        "--shift-weight", type=float, default=600.0, help="of drawing a moved feature as the moved picture"
    )
    parser.add_argument(
        "--start-from", type=Path, metavar="FOLDER", help="another run of this command, whose weights to start from"
    )
    add_run_arguments(parser, iterations=2000, batch=4, rate=2e-3)


def gram(feature: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, C), divided by C H W."""
    flat = feature.flatten(2).float()
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Squared distance over the target's squared norm."""
    value, target = value.float(), target.float()
    return (value - target).square().mean() / target.square().mean()


def crops(images: list[np.ndarray], size: int, batch: int, seed: int) -> np.ndarray:
    """Random crops, scaled and mirrored at random: (batch, size, size, 3) uint8."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(batch):
        image = images[random.integers(len(images))]
        scale = size / min(image.shape[:2]) * random.uniform(1.0, 1.4)
        image = cv2.resize(
            image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        y, x = random.integers(image.shape[0] - size + 1), random.integers(image.shape[1] - size + 1)
        crop = image[y : y + size, x : x + size]
        result.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return np.stack(result)


def shift_steps(random: np.random.Generator) -> np.ndarray:
    """One to six moves (x, y) in pixels, (steps, 2) float32, which sum to whole pixels: so the moved picture is exact."""
    total = random.integers(-LONGEST_SHIFT, LONGEST_SHIFT, 2, endpoint=True)
    steps = random.uniform(-3, 3, (random.integers(1, 6, endpoint=True), 2))
    return (steps + (total - steps.sum(0)) / len(steps)).astype(np.float32)


def shift_error(network: TransformNet, feature: Tensor, picture: Tensor, steps: np.ndarray) -> Tensor:
    """Mean squared difference of the moved picture and the picture of the moved feature, where both show the same.

    Args:
        network: draws the feature.
        feature: (B, C, H/4, W/4).
        picture: `network.decode(feature)`, (B, 3, H, W).
        steps: of `shift_steps`.
    """
    for x, y in steps.tolist():
        flow = torch.tensor([x, y], device=feature.device).view(1, 2, 1, 1) / STRIDE
        feature = warp(feature, flow.expand(len(feature), 2, *feature.shape[2:]), "bicubic")
    x, y = steps.sum(0).round().astype(int).tolist()
    height, width = picture.shape[-2:]
    # The picture of the moved feature at p shows the picture at p + (x, y), where that lies inside.
    top, left = max(0, -y) + SHIFT_BORDER, max(0, -x) + SHIFT_BORDER
    bottom, right = height - max(0, y) - SHIFT_BORDER, width - max(0, x) - SHIFT_BORDER
    moved = network.decode(feature)[..., top:bottom, left:right]
    return (moved - picture[..., top + y : bottom + y, left + x : right + x]).square().mean()


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    if args.size < 64:
        raise ArgumentError(f"--size {args.size}: expected at least 64")
    images = photographs(args.photos)
    vgg = VGG19(args.vgg).to(device)
    painting = cv2.medianBlur(read_image(args.painting, args.style_size), args.style_median)
    painting = to_tensor(painting[None], device)
    with torch.no_grad(), autocast(device):
        targets = {name: gram(f) for name, f in vgg(painting, STYLE_LAYERS).items()}
    network = TransformNet(CHANNELS, RESIDUAL_BLOCKS)
    if args.start_from:
        network.load_state_dict(module_state(load_run(args.start_from), "style"))
    network.to(device, memory_format=torch.channels_last)

    def stylize(frames: Tensor) -> Tensor:
        return network(frames.contiguous(memory_format=torch.channels_last))

    def sample(step: int) -> tuple[Tensor, np.ndarray]:
        seed = args.seed * 1_000_003 + step
        return to_tensor(crops(images, args.size, args.batch, seed), device), shift_steps(np.random.default_rng(seed))

    def loss(batch: tuple[Tensor, np.ndarray]) -> dict[str, Tensor]:
        content, steps = batch
        with autocast(device):
            feature = network.encode(content.contiguous(memory_format=torch.channels_last))
            stylized = network.decode(feature)
            shift_term = shift_error(network, feature, stylized, steps)
            features = vgg(stylized, STYLE_LAYERS)
            with torch.no_grad():
                content_features = vgg(content, CONTENT_LAYERS)
        content_term = sum(relative_error(features[n], content_features[n]) for n in CONTENT_LAYERS)
        style_term = sum(
            relative_error(gram(features[n]), targets[n].expand(len(content), -1, -1)) for n in STYLE_LAYERS
        )
        variation = stylized.diff(dim=2).square().mean() + stylized.diff(dim=3).square().mean()
        total = args.content_weight * content_term + args.style_weight * style_term
        total = total + args.tv_weight * variation + args.shift_weight * shift_term
        return {
            "loss": total,
            "content": content_term,
            "style": style_term,
            "variation": variation,
            "shift": shift_term,
        }

    samples = to_tensor(crops(images, 384, 3, 12345), device)

    @torch.no_grad()
    def picture() -> np.ndarray:
        with autocast(device):
            return np.concatenate((to_picture(samples), to_picture(stylize(samples))))

    train(args, nn.ModuleDict({"style": network}), sample, loss, picture)
