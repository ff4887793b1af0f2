"""PWC-Net for a video's pace: a frame's features are made once, and little is done where the pixels are many."""

from collections.abc import Sequence

from torch import Tensor

from vsneuralstyle.networks.flow import brightness
from vsneuralstyle.networks.gmpwcnet import GlobalPWCNet
from vsneuralstyle.networks.pwcnet import normalised


class LitePWCNet(GlobalPWCNet):
    """`GlobalPWCNet` less what most of its time goes to.

    Brightness and statistics are each frame's own, so that the features of the frame before are those that were made for it. At
    1/4, where more than half of the arithmetic was, the flow of 1/8 is refined by a small estimator that looks less far.

    Args:
        width: as of `PWCNet`.
    """

    finest = (64, 64, 48, 32)
    finest_radius = 2

    def extract(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(normalised(x) for x in self._raw(self.centred(frame, brightness(frame))))

    def _pairs(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(first, second))
