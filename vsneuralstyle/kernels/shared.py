"""What Net1 does alike by a CPU's kernels and by a GPU's."""

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from vsneuralstyle.networks.litepwcnet import RADII, SURE, LitePWCNet, pixels
from vsneuralstyle.networks.net1 import Net1, discounted


class KernelNet1:
    """`Net1`'s methods between its networks' convolutions, for one frame at a time and without gradients.

    by: the module of kernels. net1: which has the weights. mask, estimators: chains of convolutions; of the flow network's levels, where it
    is a `LitePWCNet`. A subclass has these, and `look` and `quarter` and `unexplained` besides `encode` and `decode`.
    """

    by: ModuleType
    net1: Net1
    mask: Callable[[Tensor], Tensor]
    estimators: Sequence[Callable[[Tensor], Tensor]]

    kept = Net1.kept  # unless a subclass has another

    motion = Net1.motion  # by this `look` and `change`, and `matching`

    @property
    def flow(self) -> torch.nn.Module:
        return self.net1.flow

    @property
    def still(self) -> float:
        return self.net1.still

    @property
    def matching(self) -> dict[str, object]:
        """As `Net1.matching`."""
        return {"found": self._found, "residual": self._residual} if isinstance(self.flow, LitePWCNet) else {}

    def _found(self, here: Tensor, there: Tensor) -> Tensor:
        """As `LitePWCNet.found`."""
        return self.by.global_match(self.by.supported(self.flow.products(here, there)), SURE)

    def _residual(self, n: int, here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
        """As `LitePWCNet.residual`."""
        return self.estimators[n](self.by.match(here, there, flow.contiguous(), pixels(n), RADII[n]))

    def change(self, frame: Tensor, previous: Tensor) -> Tensor:
        """As `Net1.change`."""
        return discounted(self.by.change(frame.contiguous(), previous.contiguous()))

    def compose(
        self,
        feature: Tensor,
        previous: Tensor,
        flow: Tensor,
        unexplained: Tensor,
        change: Tensor | None = None,
        coherence: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """As `Net1.compose`."""
        net1, cubic = self.net1, self.net1.warp_mode == "bicubic"
        feature = feature.contiguous(memory_format=torch.channels_last)
        previous = previous.to(self.kept, memory_format=torch.channels_last)
        flow = flow.contiguous()
        warped, difference = self.by.follow(previous, flow, feature, unexplained.contiguous(), cubic)
        mask = self.mask(difference)
        change = change.contiguous() if change is not None and net1.still > 0 else None
        composite, blended, most = self.by.blend(
            feature, warped, mask, flow, change, net1.still, net1.hold, coherence, net1.refresh, net1.sharpen
        )
        if net1.sharpen:
            composite = self.by.sharpened(composite, feature, most)
        return composite, blended
