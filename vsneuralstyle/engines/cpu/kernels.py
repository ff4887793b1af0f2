"""The kernels' operations on tensors, each under its name in `ops.CPU`, where C has it too.

Feature maps are (1, C, H, W), channels last, float32 or bfloat16.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_long, c_void_p

import numpy as np
import torch
from torch import Tensor

from vsneuralstyle.engines.cpu.layers import Chain, Convolution, FlowDecoder, Layers, Pyramid
from vsneuralstyle.engines.cpu.library import call, count_product, is_counting, name
from vsneuralstyle.engines.cpu.packing import COLORS, is_amx_weight, padded_channels
from vsneuralstyle.networks import scene_descriptor as descriptor


def _empty_map(
    like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    shape, dtype = (1, channels, height, width), dtype or like.dtype
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def _empty_floats(*shape: int) -> Tensor:
    """For a kernel to write to; whatever type and device others have made PyTorch's default."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What `compose` keeps from frame to frame: float16 beside bfloat16, where the CPU converts it:
    half of what goes through memory. It rounds an eighth as much.
    """
    return (
        torch.float16
        if dtype == torch.bfloat16 and name() not in (None, "kernels", "kernels-v2")
        else torch.float32
    )


def scale_shift_relu_add(
    x: Tensor, scale: Tensor | None = None, *, relu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """A multiplication and a sum, a ReLU, and another picture's sum: like x.

    Args:
        x: the picture.
        scale: (2, C) float32, what to multiply x with, and then to add; None: x as it is.
        relu: 0 for what is negative.
        residual: added at the end.
    """
    channels, height, width = x.shape[1:]
    out = _empty_map(x, channels, height, width)
    call("scale_shift_relu_add", x, height, width, channels, scale, relu, residual, out, x.dtype)
    return out


def _tile_count(height: int, width: int, size: int) -> int:
    return -(-height // size) * -(-width // size)


def _count_conv9x9(weight: Tensor, height: int, width: int, *tensors: Tensor) -> None:
    """As `count_product`, of so many pixels and what `conv9x9_weight` made."""
    if is_amx_weight(weight):
        # For two pixels; of colors twice; to colors a ninth of the weight at a time.
        count_product(
            height * width * weight.numel() // (1 if len(weight) == 2 else 2 * 9), weight, *tensors
        )
    else:
        count_product(
            _tile_count(height, width, 3 if weight.dtype == torch.bfloat16 else 5) * weight.numel(),
            weight,
            *tensors,
        )


def conv3x3(
    x: Tensor,
    convolution: Convolution,
    *,
    scale: Tensor | None = None,
    relu: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A 3x3 convolution.

    Args:
        x: the picture, of padded_channels(inputs) channels, of which the last are 0.
        scale, relu: of x before the convolution, as `scale_shift_relu_add` has them.
        dtype: of what comes out; None: x's.

    Returns:
        (1, padded_channels(outputs), H, W), or of twice or half that size; and where `norm` is
        asked for its scale, as `scale_shift_relu_add` takes it.
    """
    height, width = x.shape[2:]
    out = _empty_map(x, convolution.outputs, *convolution.size(height, width), dtype)
    following = _empty_floats(2, convolution.outputs) if convolution.norms else None
    call(
        "conv3x3",
        x,
        height,
        width,
        byref(convolution.layer),
        scale,
        relu,
        following,
        out,
        x.dtype,
        out.dtype,
        C=padded_channels(convolution.inputs),
    )
    if is_counting():
        convolution.count(x, out)
    return out, following


def residual_blocks(x: Tensor, layers: Layers) -> Tensor:
    """Residual blocks, each of two layers of stride 1 with their norms and a ReLU between: like
    x.
    """
    out = _empty_map(x, *x.shape[1:])
    count = len(layers.convolutions)
    call("residual_blocks", x, *x.shape[2:], layers.array, count, out, x.dtype, C=layers.inputs)
    layers.count(x)
    return out


def conv3x3_chain(x: Tensor, chain: Chain) -> Tensor:
    """(1, outputs, H, W) float32, contiguous, of x, a feature map of padded_channels(inputs)
    channels, of which the last are 0.
    """
    out = _empty_floats(1, chain.outputs, *x.shape[2:])
    struct, inputs = byref(chain.struct), chain.layers.inputs
    call("conv3x3_chain", x, *x.shape[2:], struct, None, out, x.dtype, C=inputs)
    chain.count(x)
    return out


def flow_features(
    frame: Tensor, height: int, width: int, pyramid: Pyramid, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Normalised features, of each level (1, C, H', W'), the first of them a quarter of the size,
    rounded up.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width.
        dtype: of what comes out.
    """
    features, size, layers = [], (-(-height // 2), -(-width // 2)), pyramid.layers.convolutions
    for halving, second in zip(layers[1::2], layers[2::2]):
        size = halving.size(*size)
        features.append(_empty_map(frame, second.outputs, *size, dtype))
    call(
        "flow_features",
        frame,
        *frame.shape[2:],
        height,
        width,
        pyramid.factor,
        *pyramid.first,
        pyramid.layers.array,
        len(features),
        features,
        dtype,
    )
    pyramid.count(frame, height, width, dtype)
    return tuple(features)


def estimate_motion(
    here: Sequence[Tensor],
    there: Sequence[Tensor],
    decoder: FlowDecoder,
    squares: bool,
    change: Tensor | None = None,
    still: float = 0.0,
) -> Tensor:
    """`LitePWCNet`'s flow, (1, 2, H, W) float32, contiguous, of the first features' size.

    Args:
        here, there: features as `flow_features` gives them.
        squares: whether squares of 2x2 of the coarsest features are matched.
        change: (1, 1, H, W) float32, contiguous: where it is not above `still`, the flow is 0.
    """
    out = _empty_floats(1, 2, *here[0].shape[2:])
    height, width = out.shape[2:]
    call(
        "estimate_motion",
        here[::-1],
        there[::-1],
        byref(decoder.start),
        squares,
        decoder.array,
        len(decoder.chains),
        decoder.pixels,
        height,
        width,
        change,
        float(still),
        out,
        here[0].dtype,
        **decoder.sizes(height, width),
    )
    decoder.count(here, squares)
    return out


def conv9x9_from_rgb(
    frame: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor,
    norm: tuple[Tensor, Tensor, float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """A 9x9 convolution of a frame, to 16 channels.

    Args:
        frame: (1, 3, H, W) float32, contiguous; its border is repeated to height and width, and
            reflected beyond.
        weight: as `conv9x9_weight` makes it. bias: (16,) float32.
        norm: as `Convolution` has it.
        dtype: of what comes out.

    Returns:
        (1, 16, height, width), and its scale, as `scale_shift_relu_add` takes it.
    """
    out, scale = _empty_map(frame, 16, height, width, dtype), _empty_floats(2, 16)
    norm_weight, norm_bias, eps = norm
    kernel = "conv9x9_from_rgb_amx" if is_amx_weight(weight) else "conv9x9_from_rgb"
    call(
        kernel,
        frame,
        *frame.shape[2:],
        height,
        width,
        weight,
        bias,
        norm_weight,
        norm_bias,
        float(eps),
        scale,
        out,
        dtype,
    )
    _count_conv9x9(weight, height, width, frame, out)
    return out, scale


def conv9x9_to_rgb(
    x: Tensor, scale: Tensor | None, height: int, width: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """A 9x9 convolution of 16 channels, and tanh to 0..1: (1, 3, height, width) float32,
    contiguous.

    Args:
        x: of at least that size; its border is reflected.
        scale: of x before the convolution, as `scale_shift_relu_add` has it; then there is a ReLU.
        weight: as `conv9x9_weight` makes it. bias: (3,) float32.
    """
    if height > x.shape[2] or width > x.shape[3]:
        raise ValueError(
            f"a picture of {tuple(x.shape)} to draw {width}x{height} pixels of; expected one of at "
            "least that size"
        )
    out = _empty_floats(1, 3, height, width)
    if is_amx_weight(weight):
        call(
            "conv9x9_to_rgb_amx", x, *x.shape[2:], scale, weight, bias, out, height, width, x.dtype
        )
    else:
        in_pairs = weight.dtype == torch.bfloat16
        call(
            "conv9x9_to_rgb_bf16" if in_pairs else "conv9x9_to_rgb",
            x,
            *x.shape[2:],
            scale,
            weight,
            in_pairs,
            bias,
            out,
            height,
            width,
            x.dtype,
        )
    _count_conv9x9(weight, *x.shape[2:], x, out)
    return out


def downsample4(frame: Tensor) -> Tensor:
    """(1, 3, H, W) float32, contiguous -> the mean of each 4x4 square, (1, 3, ceil(H/4),
    ceil(W/4)).
    """
    out = _empty_floats(1, 3, *(-(-size // 4) for size in frame.shape[2:]))
    call("downsample4", frame, *frame.shape[2:], out)
    return out


def scene_descriptor(lowres: Tensor) -> Tensor:
    """`scene_descriptor.scene_descriptor` of (1, 3, H, W) float32, contiguous."""
    out = _empty_floats(descriptor.SIZE)
    call("scene_descriptor", lowres, *lowres.shape[2:], out)
    return out


def max_change(frame: Tensor, previous: Tensor, repeats: float) -> Tensor:
    """The largest change of a sample in each 4x4 square and the eight about it, (1, 1, ceil(H/4),
    ceil(W/4)) float32; where their mean is below `repeats`, an eighth of them.
    """
    out = _empty_floats(1, 1, *(-(-size // 4) for size in frame.shape[2:]))
    call("max_change", frame, previous, *frame.shape[2:], float(repeats), out)
    return out


def warp_residual(lowres: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """As `Net1.warp_residual` has it; all contiguous float32."""
    out = _empty_floats(*lowres.shape)
    call("warp_residual", lowres, previous, flow, *lowres.shape[2:], out)
    return out


def compose(
    feature: Tensor,
    previous: Tensor,
    flow: Tensor,
    residual: Tensor,
    change: Tensor | None,
    mask: Chain,
    *,
    cubic: bool,
    still: float,
    hold: float,
    coherence: float,
    refresh: float,
    sharpen: float,
) -> tuple[Tensor, Tensor]:
    """`Net1.compose`: F°_t, and M, float32.

    Args:
        feature: F_t. previous: F°_{t-1}, of the type that is `state_dtype`, as is F°_t.
        flow, residual, change: contiguous float32; no change: everything changed.
        mask: of what is seen of padded_channels(C + 3) channels, before its sigmoid.
        cubic: bicubic, else bilinear.
    """
    if mask.layers.inputs != padded_channels(feature.shape[1] + COLORS):
        raise ValueError(
            f"a feature of {tuple(feature.shape)} and a mask of {mask.layers.inputs} inputs; "
            f"expected a mask of the feature's channels and {COLORS} more"
        )
    composite = _empty_map(previous, *feature.shape[1:])
    blended = _empty_floats(1, 1, *feature.shape[2:])
    numbers = (float(number) for number in (still, hold, coherence, refresh, sharpen))
    call(
        "compose",
        feature,
        previous,
        flow,
        residual,
        change,
        *feature.shape[2:],
        feature.shape[1],
        cubic,
        byref(mask.struct),
        *numbers,
        composite,
        blended,
        feature.dtype,
        previous.dtype,
    )
    mask.count(feature)
    return composite, blended


class _Plane(ctypes.Structure):
    """As yuv_rgb.c has it."""

    _fields_ = [("samples", c_void_p), ("row", c_long), ("step", c_long)]


def _planes(
    planes: Sequence[np.ndarray], size: Sequence[int], cosited: tuple[bool, bool] | None
) -> tuple[ctypes.Array, int, int, int]:
    """As yuv_rgb.c takes them, with the bytes of a sample, and chroma's rows and columns."""
    first, second, third = planes
    rows, columns = ({full} if cosited is None else {full, -(-full // 2)} for full in size)
    if (
        first.shape != tuple(size)
        or third.shape != second.shape
        or second.shape[0] not in rows
        or second.shape[1] not in columns
        or (len({plane.dtype for plane in planes}) > 1)
    ):
        raise ValueError(
            f"planes of {', '.join(f'{plane.shape} {plane.dtype}' for plane in planes)} for a "
            f"picture of {tuple(size)}"
        )
    found = (_Plane(plane.__array_interface__["data"][0], *plane.strides) for plane in planes)
    return (_Plane * 3)(*found), first.itemsize, *second.shape


def _rows(rows: Sequence[Sequence[float]]) -> ctypes.Array:
    return (c_float * 12)(*(number for row in rows for number in row))


def planes_to_rgb(
    planes: Sequence[np.ndarray],
    top: int,
    rows: Sequence[Sequence[float]],
    cosited: tuple[bool, bool] | None = None,
) -> Tensor:
    """(1, 3, H, W) float32, contiguous, RGB limited to 0..1.

    Args:
        planes: Y, Cb and Cr, or R, G and B, all uint8 or all uint16: (H, W), and twice the same, or
            as many or half as many rows and columns, rounded up; of any strides.
        top: samples are divided by it.
        rows: of each of R, G and B: what the planes' samples weigh then, and what is added.
        cosited: as `yuv.upsample` has it; None: all planes are of one size.

    Raises:
        ValueError: planes of other sizes, or of different types.
    """
    height, width = planes[0].shape
    out = _empty_floats(1, 3, height, width)
    components, size, *chroma = _planes(planes, (height, width), cosited)
    call(
        "planes_to_rgb",
        components,
        size,
        height,
        width,
        *chroma,
        *(cosited or (False, False)),
        top,
        _rows(rows),
        out,
    )
    return out


def rgb_to_planes(
    rgb: Tensor,
    planes: Sequence[np.ndarray],
    levels: int,
    unit: int,
    rows: Sequence[Sequence[float]],
    cosited: tuple[bool, bool] | None = None,
) -> None:
    """The way back: (1, 3, H, W) float32, contiguous, to planes that are written to.

    Args:
        rows: of each of the planes, in code values: what R, G and B weigh, and what is added.
        levels, unit: codes are rounded to nearest, limited to 0..levels, times unit.

    Raises:
        ValueError: as `planes_to_rgb` does, or planes that are read-only.
    """
    if not all(plane.flags.writeable for plane in planes):
        raise ValueError("planes that are read-only; expected some to write to")
    height, width = rgb.shape[2:]
    components, size, *chroma = _planes(planes, (height, width), cosited)
    call(
        "rgb_to_planes",
        rgb,
        height,
        width,
        components,
        size,
        *chroma,
        *(cosited or (False, False)),
        _rows(rows),
        levels,
        unit,
    )
