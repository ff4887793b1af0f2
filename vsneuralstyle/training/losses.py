"""What style networks are trained by, one style or many: the losses, and the photographs' crops.

Losses: Johnson et al. (2016), content at relu2_2 and relu3_3, style at relu1_2, 2_2, 3_3 and 4_3 of
VGG-19, total variation. Each squared error is divided by the target's own squared norm, so that no
layer outweighs the others and the weights do not depend on sizes or on VGG's scale.

One term is ours, for Net1: a feature that was moved step by step, as the composite feature is from
frame to frame, must be drawn as the moved picture. Without it the decoder draws pixels of a cell
that say where the cell was, not what was in
it: then even exact flow leaves flicker, and each resampling blurs.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.measurement.images import autocast, read_image, to_tensor
from vsneuralstyle.measurement.perceptual import CONTENT_LAYERS, STYLE_LAYERS, gram, relative_error
from vsneuralstyle.measurement.vgg import VGG19
from vsneuralstyle.networks.layers.warp import warp
from vsneuralstyle.networks.transform_net import STRIDE, TransformNet

LONGEST_SHIFT = 12
"""Pixels, each way, that a feature is moved in all."""
SHIFT_BORDER = 4
"""Pixels at each side of what both pictures show that aren't compared: bicubic sampling repeats the
border there."""
CHANNELS = (16, 32, 64)
RESIDUAL_BLOCKS = 5


def add_style_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `StyleLoss` and of its data."""
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="FOLDER", help="photographs, the content"
    )
    parser.add_argument(
        "--vgg",
        type=Path,
        metavar="FILE",
        help="VGG-19 as safetensors (default: torchvision's weights)",
    )
    parser.add_argument(
        "--style-size",
        type=int,
        default=512,
        help="long side of the painting: the size of its strokes (default 512)",
    )
    parser.add_argument(
        "--style-median",
        type=int,
        choices=(1, 3, 5),
        default=1,
        help="median filter of the painting at that size: 3 takes a canvas's weave away (default "
        "1: none)",
    )
    parser.add_argument(
        "--size", type=int, default=256, help="side of the training crops (default 256)"
    )
    parser.add_argument("--style-weight", type=float, default=8.0)
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--tv-weight", type=float, default=5.0)
    parser.add_argument(
        "--shift-weight",
        type=float,
        default=600.0,
        help="of drawing a moved feature as the moved picture",
    )


def crops(images: list[np.ndarray], size: int, batch: int, seed: int) -> np.ndarray:
    """Random crops, scaled and mirrored at random: (batch, size, size, 3) uint8."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(batch):
        image = images[random.integers(len(images))]
        scale = size / min(image.shape[:2]) * random.uniform(1.0, 1.4)
        image = cv2.resize(
            image,
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        y, x = (
            random.integers(image.shape[0] - size + 1),
            random.integers(image.shape[1] - size + 1),
        )
        crop = image[y : y + size, x : x + size]
        result.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return np.stack(result)


def shift_steps(random: np.random.Generator) -> np.ndarray:
    """One to six moves (x, y) in pixels, (steps, 2) float32, which sum to whole pixels: so the
    moved picture is exact.
    """
    total = random.integers(-LONGEST_SHIFT, LONGEST_SHIFT, 2, endpoint=True)
    steps = random.uniform(-3, 3, (random.integers(1, 6, endpoint=True), 2))
    return (steps + (total - steps.sum(0)) / len(steps)).astype(np.float32)


def shift_error(
    network: TransformNet, feature: Tensor, picture: Tensor, steps: np.ndarray
) -> Tensor:
    """Mean squared difference of the moved picture and the picture of the moved feature, where both
    show the same.

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


class StyleLoss:
    """The losses of pictures in the styles of one or more paintings.

    Args:
        args: the options of `add_style_arguments`.
        paintings: their files.
        device: where the pictures are.
    """

    def __init__(
        self, args: argparse.Namespace, paintings: Sequence[Path], device: torch.device
    ) -> None:
        if args.size < 64:
            raise ArgumentError(f"--size {args.size}: expected at least 64")
        self.args, self.device = args, device
        self.vgg = VGG19(args.vgg).to(device)
        targets = [self._grams(read_image(painting, args.style_size)) for painting in paintings]
        self.targets = {
            name: torch.cat([grams[name] for grams in targets]) for name in STYLE_LAYERS
        }

    @torch.no_grad()
    def _grams(self, painting: np.ndarray) -> dict[str, Tensor]:
        blurred = cv2.medianBlur(painting, self.args.style_median)
        picture = to_tensor(blurred[None], self.device)
        with autocast(self.device):
            return {
                name: gram(feature) for name, feature in self.vgg(picture, STYLE_LAYERS).items()
            }

    def __call__(
        self,
        network: TransformNet,
        feature: Tensor,
        content: Tensor,
        steps: np.ndarray,
        styles: Sequence[int] = (0,),
        factors: Tensor | float = 1.0,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms, with their weighted sum as "loss"; and the style term of each sample, (B,).

        Args:
            network: draws the feature.
            feature: of `content`, (B, C, H/4, W/4).
            content: (B, 3, H, W), RGB 0..1.
            steps: of `shift_steps`.
            styles: for each sample, or for all, the number of its painting.
            factors: for each sample, (B,), or for all, by which its style term counts.
        """
        with autocast(self.device):
            stylized = network.decode(feature)
            shift_term = shift_error(network, feature, stylized, steps)
            features = self.vgg(stylized, STYLE_LAYERS)
            with torch.no_grad():
                content_features = self.vgg(content, CONTENT_LAYERS)
        content_term = sum(relative_error(features[n], content_features[n]) for n in CONTENT_LAYERS)
        errors = torch.zeros(len(content), device=self.device)
        for name, targets in self.targets.items():
            # Each by its own painting's norm, so that no style of a batch outweighs another.
            target = targets[list(styles)]
            errors = errors + (gram(features[name]) - target).square().mean(
                (1, 2)
            ) / target.square().mean((1, 2))
        variation = stylized.diff(dim=2).square().mean() + stylized.diff(dim=3).square().mean()
        args = self.args
        total = args.content_weight * content_term + args.style_weight * (errors * factors).mean()
        total = total + args.tv_weight * variation + args.shift_weight * shift_term
        terms = {
            "loss": total,
            "content": content_term,
            "style": errors.mean(),
            "variation": variation,
            "shift": shift_term,
        }
        return terms, errors.detach()


def batches(
    args: argparse.Namespace, images: list[np.ndarray], device: torch.device
) -> Callable[[int], tuple[Tensor, np.ndarray]]:
    """Step -> content (B, 3, size, size), channels last, and moves of `shift_steps`."""

    def sample(step: int) -> tuple[Tensor, np.ndarray]:
        seed = args.seed * 1_000_003 + step
        content = to_tensor(crops(images, args.size, args.batch, seed), device)
        return content.contiguous(memory_format=torch.channels_last), shift_steps(
            np.random.default_rng(seed)
        )

    return sample
