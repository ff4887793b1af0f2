"""LitePWCNet's operations on a GPU; as in `kernels`."""

import torch
from torch import Tensor

from vsneuralstyle.engines.cpu.library import count_product
from vsneuralstyle.engines.cuda.kernels import (
    MULTIPLE,
    PARTS,
    padded_channels,
    rows_of_a_warp,
    tile_bytes,
)
from vsneuralstyle.engines.cuda.runtime import BLOCK, blocks, empty_floats, empty_map, launch


def conv3x3_from_rgb(
    frame: Tensor, mean: Tensor, height: int, width: int, weight: Tensor, bias: Tensor, slope: float
) -> Tensor:
    """A 3x3 convolution of stride 2 of (sample - mean) * 4, 0 about the border.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width, both
            even.
        mean: a number on the device.
        weight: as `conv3x3_from_rgb_weight` makes it.
        bias, slope: as `conv3x3` takes them; 16 outputs.
    """
    outputs, rows, columns = len(bias), height // 2, width // 2
    out = empty_map(frame, outputs, rows, columns, torch.float16)
    down = rows_of_a_warp(rows, columns, (4, 2))
    launch(
        "conv3x3_from_rgb",
        blocks(columns, rows, threads=(16, 8 * down)),
        (BLOCK,),
        frame,
        mean,
        None,
        weight,
        bias,
        out,
        None,
        rows,
        columns,
        16,
        1,
        outputs,
        float(slope),
        *frame.shape[2:],
        height,
        width,
        shared=tile_bytes(down, 2, 1),
        variant=f"_{down}",
    )
    count_product(rows * columns * outputs * len(weight) * 16, weight, frame, out)
    return out


def frame_mean(frame: Tensor, height: int, width: int) -> Tensor:
    """The mean of a contiguous frame, (1, 3, H, W) float32, whose border is repeated to that height
    and width; a number on the device.
    """
    sums, mean = empty_floats(frame, min(3 * height, PARTS)), empty_floats(frame)
    launch(
        "frame_sum",
        (len(sums),),
        (BLOCK,),
        frame,
        sums,
        *frame.shape[2:],
        height,
        width,
        shared=4 * BLOCK,
    )
    launch(
        "frame_mean",
        (1,),
        (BLOCK,),
        sums,
        mean,
        len(sums),
        float(3 * height * width),
        shared=4 * BLOCK,
    )
    return mean


def cost_volume(here: Tensor, there: Tensor, flow: Tensor, pixels: float, radius: int) -> Tensor:
    """What `litepwcnet.seen` gives, the feature before the cost volume, and channels of 0 to the
    next multiple of 8; radius 2 or 3, the flow contiguous.
    """
    channels, height, width = here.shape[1:]
    estimator_input = empty_map(
        here, padded_channels((2 * radius + 1) ** 2 + channels + 2), height, width
    )
    rows, columns, sharers = 4, 16, 4  # as cost_volume.cu has them
    shared = 2 * (
        (rows + 2 * radius) * (columns + 2 * radius) * (channels + MULTIPLE)
        + rows * columns * estimator_input.shape[1]
    )
    launch(
        "cost_volume",
        blocks(width, height, threads=(columns, rows)),
        (sharers * rows * columns,),
        here,
        there,
        flow,
        estimator_input,
        height,
        width,
        channels,
        estimator_input.shape[1],
        float(pixels),
        shared=shared,
        variant=f"_{radius}",
    )
    return estimator_input


def aggregate_costs(scores: Tensor) -> Tensor:
    """`litepwcnet.supported`, (1, H, W, H, W), contiguous."""
    height, width = scores.shape[1:3]
    out, threads = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device), 64
    launch(
        "aggregate_costs",
        (*blocks(2 * width - 1, threads=(threads,)), height, height),
        (threads,),
        scores,
        out,
        height,
        width,
    )
    return out


def global_match(scores: Tensor, sure: float) -> Tensor:
    """`litepwcnet.global_match`, of equally good matches the first.

    Args:
        scores: (1, H, W, H, W), contiguous.
        sure: dual softmax from which on a match counts.

    Returns:
        (1, 2, H, W) float32.
    """
    height, width = scores.shape[1:3]
    places, threads = height * width, 128
    max_gain, out = empty_floats(scores, 2, places), empty_floats(scores, 1, 2, height, width)
    launch(
        "softmax_columns",
        blocks(places, threads=(32,)),
        (512,),
        scores,
        max_gain,
        places,
        shared=2 * 512 * 4,
    )
    launch(
        "global_match",
        (places,),
        (threads,),
        scores,
        max_gain,
        out,
        height,
        width,
        float(sure),
        shared=3 * threads * 4,
    )
    return out
