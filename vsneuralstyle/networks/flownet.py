"""FlowNet-Simple: the flow sub-network.

Source: Dosovitskiy et al., "FlowNet: Learning Optical Flow with Convolutional Networks" (ICCV 2015), Figure 2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOW_SCALE = 20.0
"""The network predicts flow / 20 in full-resolution pixels, as the original does."""
MULTIPLE = 64
"""Six halvings: inputs are padded to a multiple of this."""


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding=size // 2), nn.LeakyReLU(0.1, inplace=True))


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True))


class FlowNetSimple(nn.Module):
    """Optical flow from two stacked frames.

    Args:
        width: multiplies every channel count; 1.0 is the paper's network (38.7 M parameters).
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        c = {n: max(8, round(n * width / 8) * 8) for n in (64, 128, 256, 512, 1024)}
        self.conv1 = _conv(6, c[64], 7, 2)
        self.conv2 = _conv(c[64], c[128], 5, 2)
        self.conv3 = nn.Sequential(_conv(c[128], c[256], 5, 2), _conv(c[256], c[256]))
        self.conv4 = nn.Sequential(_conv(c[256], c[512], 3, 2), _conv(c[512], c[512]))
        self.conv5 = nn.Sequential(_conv(c[512], c[512], 3, 2), _conv(c[512], c[512]))
        self.conv6 = nn.Sequential(_conv(c[512], c[1024], 3, 2), _conv(c[1024], c[1024]))
        skips = (c[512], c[512], c[256], c[128])
        outputs = (c[512], c[256], c[128], c[64])
        inputs = [c[1024]] + [s + o + 2 for s, o in zip(skips, outputs)]
        self.deconvs = nn.ModuleList(_deconv(i, o) for i, o in zip(inputs, outputs))
        self.predicts = nn.ModuleList(nn.Conv2d(i, 2, 3, padding=1) for i in inputs)
        self.upflows = nn.ModuleList(nn.ConvTranspose2d(2, 2, 4, 2, 1) for _ in skips)
        # PyTorch's default start shrinks the signal at each of ten layers, and training then stands still for long.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, 0.1)
                nn.init.zeros_(module.bias)
        for predict in self.predicts:  # start near no motion
            predict.weight.data.mul_(0.1)

    def pyramid(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flow / 20 at 1/64, 1/32, 1/16, 1/8 and 1/4 resolution, coarse to fine; sides divide by 64."""
        frames = torch.cat((first, second), 1)
        # The brightness common to both frames says nothing of motion; 4 brings photographs to about unit variance.
        frames = (frames - frames.mean(dim=(1, 2, 3), keepdim=True)) * 4
        dtype = self.conv1[0].weight.dtype
        x = self.conv2(self.conv1(frames.to(dtype).contiguous(memory_format=torch.channels_last)))
        skips = [x]
        for conv in (self.conv3, self.conv4, self.conv5):
            skips.append(conv(skips[-1]))
        x = self.conv6(skips[-1])
        flows = [self.predicts[0](x)]
        for level, skip in enumerate(reversed(skips)):
            x = torch.cat((skip, self.deconvs[level](x), self.upflows[level](flows[-1])), 1)
            flows.append(self.predicts[level + 1](x))
        return flows

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first, second: (B, 3, H, W), RGB 0..1, any size.

        Returns:
            (B, 2, ceil(H/4), ceil(W/4)) float32, (x, y) in *full-resolution pixels*: the content of `first` at p is in
            `second` at p + flow(p).
        """
        height, width = first.shape[-2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        first, second = (F.pad(frame, padding, mode="replicate") for frame in (first, second))
        flow = self.pyramid(first, second)[-1].float() * FLOW_SCALE
        return flow[..., : -(-height // 4), : -(-width // 4)]
