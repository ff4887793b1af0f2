"""VGG-19 up to relu4_4: the perceptual losses' network.

Source: Simonyan and Zisserman (2015), with torchvision's layer numbers. The weights are
torchvision's, or a safetensors file that holds `features.N.weight` and `features.N.bias`.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from vsneuralstyle.errors import ArgumentError

_PLAN = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512))
_MEAN = (123.68, 116.779, 103.939)


class VGG19(nn.Module):
    """Returns named activations of RGB pictures in 0..1; frozen."""

    mean: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        state, index, inputs = self._read(weights), 0, 3
        for block, widths in enumerate(_PLAN, 1):
            for number, width in enumerate(widths, 1):
                conv = nn.Conv2d(inputs, width, 3, padding=1)
                assert conv.bias is not None
                try:
                    conv.weight.data = state[f"features.{index}.weight"].float()
                    conv.bias.data = state[f"features.{index}.bias"].float()
                except KeyError as error:
                    raise ArgumentError(
                        f"{weights}: expected VGG-19's tensor {error} under torchvision's name"
                    ) from None
                self.convs[f"relu{block}_{number}"] = conv
                inputs, index = width, index + 2
            index += 1
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _read(weights: Path | None) -> dict[str, Tensor]:
        if weights is not None:
            if not Path(weights).is_file():
                raise ArgumentError(
                    f"--vgg {weights}: no such file; expected VGG-19 as safetensors, or leave it "
                    "out for torchvision's"
                )
            return load_file(weights)
        from torchvision.models import VGG19_Weights  # an extra: only training needs it

        state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        # torchvision's network takes (x - mean) / std per channel; ours takes 0..255 minus the
        # mean.
        deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
        state["features.0.weight"] = state["features.0.weight"] / deviation
        return state

    def forward(self, rgb: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """(B, 3, H, W), 0..1 -> {name: activation}, computed no further than the last name."""
        x = (rgb * 255 - self.mean).contiguous(memory_format=torch.channels_last)
        outputs: dict[str, Tensor] = {}
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "relu1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
            if name in names:
                outputs[name] = x
                if len(outputs) == len(names):
                    break
        return outputs
