"""Trains a Johnson transform network on one painting: `neuralstyle train style painting.jpg --name mine …`.

Losses: Johnson et al. (2016), content at relu2_2 and relu3_3, style at relu1_2, 2_2, 3_3 and 4_3 of VGG-19, total
variation. Each squared error is divided by the target's own squared norm, so that no layer outweighs the others and
the weights do not depend on sizes or on VGG's scale.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vsneuralstyle.networks.transform import TransformNet
from vsneuralstyle.training.run import (
    add_run_arguments,
    autocast,
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
    parser.add_argument("--size", type=int, default=256, help="side of the training crops (default 256)")
    parser.add_argument("--style-weight", type=float, default=5.0)
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--tv-weight", type=float, default=5.0)
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


def main(args: argparse.Namespace) -> None:
    device = setup(args)
    images = photographs(args.photos)
    vgg = VGG19(args.vgg).to(device)
    painting = to_tensor(read_image(args.painting, args.style_size)[None], device)
    with torch.no_grad(), autocast(device):
        targets = {name: gram(f) for name, f in vgg(painting, STYLE_LAYERS).items()}
    network = TransformNet(CHANNELS, RESIDUAL_BLOCKS).to(device, memory_format=torch.channels_last)

    def stylize(frames: Tensor) -> Tensor:
        return network(frames.contiguous(memory_format=torch.channels_last))

    def loss(content: Tensor) -> dict[str, Tensor]:
        with autocast(device):
            stylized = stylize(content)
            features = vgg(stylized, STYLE_LAYERS)
            with torch.no_grad():
                content_features = vgg(content, CONTENT_LAYERS)
        content_term = sum(relative_error(features[n], content_features[n]) for n in CONTENT_LAYERS)
        style_term = sum(
            relative_error(gram(features[n]), targets[n].expand(len(content), -1, -1)) for n in STYLE_LAYERS
        )
        variation = stylized.diff(dim=2).square().mean() + stylized.diff(dim=3).square().mean()
        total = args.content_weight * content_term + args.style_weight * style_term + args.tv_weight * variation
        return {"loss": total, "content": content_term, "style": style_term, "variation": variation}

    samples = to_tensor(crops(images, 384, 3, 12345), device)

    @torch.no_grad()
    def picture() -> np.ndarray:
        with autocast(device):
            return np.concatenate((to_picture(samples), to_picture(stylize(samples))))

    train(
        args,
        nn.ModuleDict({"style": network}),
        lambda step: to_tensor(crops(images, args.size, args.batch, args.seed * 1_000_003 + step), device),
        loss,
        picture,
    )
