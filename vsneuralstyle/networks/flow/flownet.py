"""FlowNet-Simple: the paper's flow sub-network.

Source: Dosovitskiy et al., "FlowNet: Learning Optical Flow with Convolutional Networks" (ICCV
2015), Figure 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vsneuralstyle.networks.flow.network import LEVELS, FlowNetwork, conv, scaled


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True)
    )


class FlowNetSimple(FlowNetwork):
    """Optical flow from two stacked frames.

    Args:
        width: multiplies every channel count; 1.0 is the paper's network (38.7 M parameters).
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c = {n: scaled(n, width) for n in (64, 128, 256, 512, 1024)}
        self.conv1 = conv(6, c[64], 7, 2)
        self.conv2 = conv(c[64], c[128], 5, 2)
        self.conv3 = nn.Sequential(conv(c[128], c[256], 5, 2), conv(c[256], c[256]))
        self.conv4 = nn.Sequential(conv(c[256], c[512], 3, 2), conv(c[512], c[512]))
        self.conv5 = nn.Sequential(conv(c[512], c[512], 3, 2), conv(c[512], c[512]))
        self.conv6 = nn.Sequential(conv(c[512], c[1024], 3, 2), conv(c[1024], c[1024]))
        skips = (c[512], c[512], c[256], c[128])
        outputs = (c[512], c[256], c[128], c[64])
        inputs = [c[1024]] + [s + o + 2 for s, o in zip(skips, outputs)]
        self.deconvs = nn.ModuleList(_deconv(i, o) for i, o in zip(inputs, outputs))
        self.predicts = nn.ModuleList(nn.Conv2d(i, 2, 3, padding=1) for i in inputs)
        self.upflows = nn.ModuleList(nn.ConvTranspose2d(2, 2, 4, 2, 1) for _ in skips)
        self.initialise(self.predicts)

    def match(
        self, first: Sequence[Tensor], second: Sequence[Tensor], levels: int = LEVELS
    ) -> list[Tensor]:
        x = self.conv2(self.conv1(torch.cat(self.prepared(*first, *second), 1)))
        skips = [x]
        for layer in (self.conv3, self.conv4, self.conv5):
            skips.append(layer(skips[-1]))
        x = self.conv6(skips[-1])
        flows = [self.predicts[0](x)]
        for level, skip in enumerate(skips[:-levels:-1]):
            x = torch.cat((skip, self.deconvs[level](x), self.upflows[level](flows[-1])), 1)
            flows.append(self.predicts[level + 1](x))
        return flows
