"""The CUDA kernels' operations on tensors, each under its name in `ops.GPU`.

PyTorch's own operators pass over memory some ten times for one normalisation, and took nine tenths
of a frame's time there (docs/explanation/cuda-engine.md).

Tensors are float16, (1, C, H, W), channels last, C a multiple of 8, unless it says otherwise. All
is done in the current stream, and nothing waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.engines.cpu.library import count_product
from vsneuralstyle.engines.cuda.runtime import BLOCK, blocks, empty_floats, empty_map, launch
from vsneuralstyle.networks.transform_net import SquaredConv

MULTIPLE = 8
"""Channels come in multiples of this: 16 bytes, what a thread reads at once."""
PARTS = 528
"""Of a picture, at max_gain, that are summed each by a block."""
SIDE = SquaredConv.SIDE
"""Of the squares of pixels in which the 9x9 layers see the frame."""
MAX_INPUTS, MAX_OUTPUTS = 128, 64
"""Channels that `conv3x3` has room for."""
MANY = 256
"""Blocks that keep a GPU busy."""
UNROLLED = {(2, 2, 1), (2, 2, 2), (2, 2, 5), (4, 2, 2), (4, 2, 3), (2, 4, 1), (2, 4, 2)}
"""Tiles of outputs, a warp's rows, and steps of `conv3x3`'s kernels that know their steps: of the
largest of the shipped networks' layers."""


def _threads(channels: int) -> tuple[int, int]:
    """Of a block: those of a pixel, and pixels."""
    groups = channels // MULTIPLE
    return groups, BLOCK // groups


@dataclass(frozen=True)
class FeatureMap:
    """A feature map that need not lie pixel by pixel.

    samples: (1, side² channels, rows, columns), channels last: squares of pixels, row by row, and
    all channels of each. height, width,
    channels: of the picture. side: of a square, a power of 2. edge: pixels above and left of the
    picture's first in the first square, or in the rows and columns that were put about it.
    """

    samples: Tensor
    channels: int
    height: int
    width: int
    side: int = 1
    edge: int = 0

    @classmethod
    def of(cls, x: Tensor) -> "FeatureMap":
        """That lies pixel by pixel."""
        return cls(x, *x.shape[1:])

    def layout(self, edge: int | None = None) -> tuple[int, ...]:
        """As common.cuh has it."""
        return (
            self.side.bit_length() - 1,
            self.edge if edge is None else edge,
            self.samples.shape[3],
            self.channels,
        )


def padded_channels(channels: int) -> int:
    """To the next multiple of `MULTIPLE`."""
    return -(-channels // MULTIPLE) * MULTIPLE


def pack_frame(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> (1, 4 4 3, ceil(H/4) + 2, ceil(W/4) + 2) float16: squares
    of 4x4 pixels, to which the border is repeated, and one square more on each side, reflected.
    """
    height, width = frame.shape[2:]
    rows, columns = (-(-size // SIDE) + 2 for size in (height, width))
    out, threads = empty_map(frame, 3 * SIDE**2, rows, columns, torch.float16), (64, 4)
    launch(
        "pack_frame",
        blocks(columns, rows * SIDE, threads=threads),
        threads,
        frame,
        out,
        height,
        width,
        rows,
        columns,
    )
    return out


def unpack_frame(x: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Squares of 4x4 pixels, (1, 4 4 3, rows, columns), and a bias (3,) float32 -> tanh, to 0..1:
    (1, 3, height, width) float32, contiguous.
    """
    out, threads = empty_floats(x, 1, 3, height, width), (64, 4)
    launch(
        "unpack_frame",
        blocks(x.shape[3], height, threads=threads),
        threads,
        x,
        bias,
        out,
        height,
        width,
        x.shape[3],
    )
    return out


def instance_norm(x: FeatureMap, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Instance normalisation as a multiplication and a sum.

    Args:
        x: the picture.
        weight, bias: (C,) float32, or None.
        eps: added to the variance.

    Returns:
        (2, C) float32: what to multiply with, and then to add.
    """
    groups, (rows, columns) = x.channels // MULTIPLE, x.samples.shape[2:]
    threads = BLOCK // groups * groups
    pixels = rows * columns * x.side**2
    part = max(-(-pixels // PARTS), 4 * threads // groups)  # pixels
    parts = -(-pixels // part)
    sums = empty_floats(x.samples, parts, 2, x.channels)
    launch(
        "instance_norm_moments",
        (parts,),
        (threads,),
        x.samples,
        sums,
        *x.layout(),
        x.height,
        x.width,
        rows,
        part * groups,
        shared=threads * 64,
    )
    scale, threads = empty_floats(x.samples, 2, x.channels), 512
    launch(
        "instance_norm_finalize",
        (groups,),
        (threads,),
        sums,
        x.samples,
        weight,
        bias,
        scale,
        *x.layout(),
        parts,
        float(x.height * x.width),
        float(eps),
        shared=threads * 8,
    )
    return scale


def scale_shift_relu_add(
    x: FeatureMap,
    scale: Tensor | None = None,
    *,
    relu: bool = False,
    residual: FeatureMap | None = None,
    pad: int = 0,
    repeats: bool = False,
    side: int = 1,
) -> FeatureMap:
    """A multiplication and a sum, a ReLU, another picture's sum, and the border that the next
    convolution wants.

    Args:
        x: the picture.
        scale: of x, as `instance_norm` gives it; None: x as it is.
        relu: 0 for what is negative.
        residual: added at the end.
        pad: width of the border, reflected, or repeated if it `repeats`.
        side: of the squares in which it is laid down.
    """
    height, width = x.height + 2 * pad, x.width + 2 * pad
    out = empty_map(x.samples, x.channels * side**2, height // side, width // side, torch.float16)
    to, beside = FeatureMap(out, x.channels, x.height, x.width, side, pad), residual or x
    threads = _threads(x.channels)
    launch(
        "scale_shift_relu_add",
        blocks(width, height, threads=(4 * threads[1], 1)),
        threads,
        x.samples,
        scale,
        residual and residual.samples,
        out,
        *x.layout(),
        *beside.layout(),
        *to.layout(0),
        x.height,
        x.width,
        pad,
        repeats,
        relu,
    )
    return to


def bias_leaky_relu(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """x + bias, (C,) float32, times the slope where it is negative, in the place of x."""
    vectors = x.numel() // MULTIPLE
    launch(
        "bias_leaky_relu",
        blocks(vectors, threads=(BLOCK,)),
        (BLOCK,),
        x,
        bias,
        vectors,
        x.shape[1],
        float(slope),
    )
    return x


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0, planes: bool = False
) -> Tensor:
    """A 3x3 convolution of stride 1, 0 about the border.

    Args:
        x: the picture.
        weight: as `conv3x3_weight` makes it. bias: (outputs,) float32.
        slope: what is negative is multiplied by it in the end.
        planes: (1, outputs, H, W) float32, contiguous, else as pictures are.
    """
    taps, steps, pairs = weight.shape[:3]
    outputs, (height, width) = len(bias), x.shape[2:]
    out = (
        empty_floats(x, 1, outputs, height, width)
        if planes
        else empty_map(x, outputs, height, width)
    )
    tiles = 2 * pairs
    rows = rows_of_a_warp(height, width, (4, 2) if (tiles, 4, steps) in UNROLLED else (2,))
    unrolled = steps if (tiles, rows, steps) in UNROLLED else 0
    launch(
        "conv3x3",
        blocks(width, height, threads=(16, 8 * rows)),
        (BLOCK,),
        x,
        weight,
        bias,
        None if planes else out,
        out if planes else None,
        height,
        width,
        x.shape[1],
        steps,
        outputs,
        float(slope),
        shared=tile_bytes(rows, 3, steps),
        variant=f"_{tiles}_{rows}_{unrolled}",
    )
    count_product(height * width * outputs * taps * x.shape[1], weight, x, out)
    return out


def rows_of_a_warp(height: int, width: int, larger: Sequence[int]) -> int:
    """Rows of a warp of a convolution: the more, the less is read and waited for, where there are
    enough blocks for a GPU's processors.
    """
    return next(
        (
            rows
            for rows in larger
            if prod(blocks(width, height, threads=(16, 8 * rows))) >= MANY * rows // 2
        ),
        1,
    )


def tile_bytes(rows: int, side: int, steps: int) -> int:
    """Bytes of a convolution's tile."""
    return (8 * rows + side - 1) * (16 + side - 1) * (16 * steps + 8) * 2


def max_change(frame: Tensor, previous: Tensor) -> Tensor:
    """The largest change of a sample in each 4x4 square and the eight about it, (1, 1, ceil(H/4),
    ceil(W/4)) float32; both contiguous.
    """
    height, width = frame.shape[2:]
    out, threads = empty_floats(frame, 1, 1, -(-height // 4), -(-width // 4)), (64, 4)
    launch(
        "block_max_change",
        blocks(*out.shape[:1:-1], threads=threads),
        threads,
        frame,
        previous,
        out,
        height,
        width,
        *out.shape[2:],
    )
    return F.max_pool2d(out, 3, stride=1, padding=1)


def downsample4(frame: Tensor) -> Tensor:
    """As `Net1.downsample4`, of a contiguous frame."""
    height, width = frame.shape[2:]
    out, threads = empty_floats(frame, 1, 3, -(-height // SIDE), -(-width // SIDE)), (64, 4)
    grid = *blocks(*out.shape[:1:-1], threads=threads), 3
    launch("downsample4", grid, threads, frame, out, height, width, *out.shape[2:])
    return out


def warp_residual(lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """As `Net1.warp_residual`, of float32, contiguous."""
    out, (height, width) = empty_floats(lowres, *lowres.shape), lowres.shape[2:]
    launch(
        "warp_residual",
        blocks(width, height, threads=(32, 8)),
        (32, 8),
        lowres,
        previous,
        flow,
        out,
        height,
        width,
    )
    return out


def warp_feature(
    previous: Tensor, flow: Tensor, feature: Tensor, residual: Tensor, cubic: bool
) -> tuple[Tensor, Tensor]:
    """The previous feature along the flow, as `Net1.compose` has it, and what the mask network
    sees.

    Args:
        previous, feature: F°_{t-1} and F_t.
        flow: (1, 2, h, w) float32, contiguous, in full-resolution pixels.
        residual: (1, 3, h, w) float32, contiguous.
        cubic: bicubic, else bilinear.

    Returns:
        F'_t, and (1, C + 8, h, w), whose last channels are 0.
    """
    channels, height, width = feature.shape[1:]
    warped = empty_map(feature, channels, height, width)
    difference = empty_map(feature, channels + MULTIPLE, height, width)
    threads = _threads(channels + MULTIPLE)
    launch(
        "warp_feature",
        blocks(width, height, threads=(threads[1], 1)),
        threads,
        previous,
        feature,
        flow,
        residual,
        warped,
        difference,
        height,
        width,
        channels,
        cubic,
    )
    return warped, difference


def blend(
    feature: Tensor,
    warped: Tensor,
    mask: Tensor,
    flow: Tensor,
    change: Tensor | None,
    still: float,
    hold: float,
    coherence: float | Tensor,
    refresh: float,
    sharpen: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """F°_t, and float32 M and by how much `sharpen` may raise detail, of F_t, F'_t and the mask
    before its sigmoid, (1, 1, h, w), as `Net1.compose` has them; the coherence may be a number on
    the device.
    """
    if not isinstance(coherence, Tensor):
        coherence = torch.full((), coherence, dtype=torch.float32, device=feature.device)
    channels, height, width = feature.shape[1:]
    composite = empty_map(warped, channels, height, width)
    blended, max_gain = empty_floats(feature, 2, 1, 1, height, width)
    threads = _threads(channels)
    launch(
        "blend",
        blocks(width, height, threads=(threads[1], 1)),
        threads,
        feature,
        warped,
        mask,
        flow,
        change,
        coherence,
        composite,
        blended,
        max_gain,
        height,
        width,
        channels,
        float(still),
        float(hold),
        float(refresh),
        float(sharpen),
    )
    return composite, blended, max_gain


def sharpen(composite: Tensor, feature: Tensor, max_gain: Tensor) -> Tensor:
    """As `Net1.sharpened` has it, of what `blend` gives and takes."""
    channels, height, width = feature.shape[1:]
    energy, gain = (
        empty_floats(feature, 2, height, width),
        empty_floats(feature, 1, 1, height, width),
    )
    groups, strip = channels // MULTIPLE, 8  # rows, as sharpen.cu has them
    columns = BLOCK // groups
    threads = columns * groups
    launch(
        "detail_energy",
        blocks(width, height, threads=(columns, strip)),
        (threads,),
        composite,
        feature,
        energy,
        height,
        width,
        channels,
        shared=threads * 64,
    )
    launch(
        "sharpen_gain",
        blocks(width, height, threads=(32, 8)),
        (BLOCK,),
        energy,
        max_gain,
        gain,
        height,
        width,
        channels,
        shared=2 * 16 * (40 + 32) * 4,
    )
    out = empty_map(composite, channels, height, width)
    launch(
        "sharpen",
        blocks(width, height, threads=(columns, strip)),
        (groups, columns),
        composite,
        gain,
        out,
        height,
        width,
        channels,
    )
    return out
