"""Perceptual distances in VGG-19's features: which layers, and how features are compared (Johnson
et al., 2016).
"""

from torch import Tensor

CONTENT_LAYERS = ("relu2_2", "relu3_3")
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


def gram(feature: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, C), divided by C H W."""
    flat = feature.flatten(2).float()
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Squared distance over the target's squared norm."""
    value, target = value.float(), target.float()
    return (value - target).square().mean() / target.square().mean()
