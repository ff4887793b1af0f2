"""A network's layers as structs that the kernels take."""

import ctypes
from collections.abc import Sequence
from ctypes import addressof, c_float, c_int, c_long, c_void_p
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu import library
from vsneuralstyle.engines.cpu.library import count_product, is_counting
from vsneuralstyle.engines.cpu.packing import (
    MULTIPLE,
    STRIDE2,
    UPSAMPLE2,
    amx_weight,
    padded_channels,
    winograd_weight,
)


def _tile_count(height: int, width: int, size: int) -> int:
    return -(-height // size) * -(-width // size)


class Convolution:
    """A 3x3 convolution of stride 1, of stride 2, or of what is enlarged to twice its size.

    Args:
        weight: (outputs, inputs, 3, 3). bias: (outputs,).
        tile_size: as `winograd_weight` has it; where AMX is used, what kind of convolution it is.
        reflects: the border is the picture reflected (or enlarged and reflected), else 0.
        slope: what is negative is multiplied by it in the end (1: as it is; 0: a ReLU).
        norm: weight and bias, (outputs,) float32 or None, and eps of an instance normalisation that
            comes next; None: nothing is asked for.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        tile_size: int,
        *,
        reflects: bool = False,
        slope: float = 1.0,
        norm: tuple[Tensor | None, Tensor | None, float] | None = None,
    ) -> None:
        self.tile_size, self.outputs, self.inputs, self.norms = (
            tile_size,
            padded_channels(len(weight)),
            weight.shape[1],
            norm is not None,
        )
        self.amx = library.uses_amx(weight.dtype)
        pack = amx_weight if self.amx else winograd_weight
        self.weight = pack(weight, tile_size)
        bias = F.pad(bias.detach().float(), (0, self.outputs - len(bias)))
        *affine, eps = norm or (None, None, 0.0)
        self.kept = self.weight, bias, *affine  # the layer has no more than their addresses
        addresses = ops.LAYER.values(self.kept, outputs=self.outputs)
        self.layer = _Layer(
            *addresses,
            self.inputs,
            self.outputs,
            tile_size,
            slope,
            eps,
            self.weight.dtype == torch.bfloat16,
            self.amx,
            reflects,
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of what comes out, from the picture's."""
        if self.tile_size == UPSAMPLE2:
            return 2 * height, 2 * width
        return (-(-height // 2), -(-width // 2)) if self.tile_size == STRIDE2 else (height, width)

    def count(self, read: Tensor, written: Tensor) -> None:
        """As `count_product`."""
        height, width = written.shape[2:]
        if self.amx:
            places = _tile_count(height, width, 2 if self.tile_size == UPSAMPLE2 else 1)
        elif self.tile_size == UPSAMPLE2:
            places = _tile_count(height + 1, width + 1, 6)
        else:
            outputs = 3 if self.tile_size == STRIDE2 else self.tile_size - 2
            places = _tile_count(height, width, outputs)
        count_product(places * self.weight.numel(), self.weight, read, written)


class _Layer(ctypes.Structure):
    """A `Convolution`, as layers.h has it."""

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "norm_weight", "norm_bias")),
        *((name, c_long) for name in ("inputs", "outputs", "tile_size")),
        *((name, c_float) for name in ("slope", "eps")),
        *((name, c_int) for name in ("bf16", "amx", "reflects")),
    ]


class Layers:
    """Convolutions that the kernels are called for together: with small pictures, or cold caches,
    Python takes longer than they do.
    """

    def __init__(self, convolutions: Sequence[Convolution]) -> None:
        self.convolutions = convolutions
        self.inputs = padded_channels(convolutions[0].inputs) if convolutions else 0
        self.array = (_Layer * len(convolutions))(*(one.layer for one in convolutions))

    def count(self, x: Tensor) -> Tensor:
        """As `Convolution.count`, for each of what the one before gives; returns what is like the
        last one's.
        """
        for one in self.convolutions if is_counting() else ():
            written = _like(x, one.outputs, *one.size(*x.shape[2:]))
            one.count(x, written)
            x = written
        return x


def _like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """For `counting`: what stands for a picture that Python doesn't see."""
    return torch.empty((1, channels, height, width), dtype=x.dtype, device="meta")


class Chain:
    """Convolutions of stride 1, without norms, and a last one to a channel or two.

    Args:
        weight: the last one's (outputs, inputs, 3, 3), its border 0. bias: (outputs,).
    """

    def __init__(self, convolutions: Sequence[Convolution], weight: Tensor, bias: Tensor) -> None:
        self.layers, self.outputs = Layers(convolutions), len(weight)
        inputs = weight.shape[1]
        # (3, 3, outputs, padded_channels(inputs))
        weight = F.pad(
            weight.detach().float().permute(2, 3, 0, 1), (0, padded_channels(inputs) - inputs)
        ).contiguous()
        self.last = weight, bias.detach().float().contiguous()
        addresses = ops.LAST.values(self.last, outputs=self.outputs)
        self.struct = _Chain(
            addressof(self.layers.array), len(convolutions), *addresses, self.outputs
        )

    def count(self, picture: Tensor) -> None:
        """As `Convolution.count`, for all of them, of one of that size and type."""
        if is_counting():
            inputs = padded_channels(self.layers.convolutions[0].inputs)
            last = self.layers.count(_like(picture, inputs, *picture.shape[2:]))
            count_product(
                self.last[0].numel() * last[0, 0].numel(),
                self.last[0],
                last,
                _like(picture, self.outputs, *picture.shape[2:]),
            )


class _Chain(ctypes.Structure):
    """As the C headers have it."""

    _fields_ = [
        ("layers", c_void_p),
        ("count", c_long),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_long),
    ]


class Pyramid:
    """`LitePWCNet.extract`'s layers.

    Args:
        first: the weight (16, 3, 3, 3) and the bias of a convolution of stride 2, and by what is
            negative there is multiplied in the end.
        layers: one of stride 1, and for each level one of stride 2 and one of stride 1 with its
            norm.
        factor: of a frame's samples, about their mean.
    """

    def __init__(
        self, first: tuple[Tensor, Tensor, float], layers: Sequence[Convolution], factor: float
    ) -> None:
        weight, bias, slope = first
        # (3 rows, 3 colors, 3 columns, 16)
        self.first = (
            weight.detach().float().permute(2, 1, 3, 0).contiguous(),
            bias.detach().float(),
            float(slope),
        )
        self.layers, self.factor = Layers(layers), float(factor)

    def count(self, frame: Tensor, height: int, width: int, dtype: torch.dtype) -> None:
        """As `Convolution.count`, for all of them."""
        if is_counting():
            weight = self.first[0]
            seen = _like(frame.to("meta", dtype), MULTIPLE, -(-height // 2), -(-width // 2))
            count_product(seen[0, 0].numel() * weight.numel(), weight, frame, seen)
            self.layers.count(seen)


class FlowDecoder:
    """`LitePWCNet`'s layers behind the features.

    Args:
        matching: weight (C, C) and bias of what the coarsest features are matched by; dtype is
            theirs.
        confidence: dual softmax from which on a match counts.
        estimators: for each level, the coarsest first, what `litepwcnet.seen` is seen by, the
            channels of its features, the radius of its cost volume (2 or 3), and of its pixels what
            1 of a flow is.
        pixels: of the frame, that 1 of a flow is.
    """

    def __init__(
        self,
        matching: tuple[Tensor, Tensor],
        dtype: torch.dtype,
        confidence: float,
        estimators: Sequence[tuple[Chain, int, int, float]],
        pixels: float,
    ) -> None:
        weight, bias = (each.detach().float() for each in matching)
        weight = weight.T.unflatten(1, (-1, MULTIPLE)).transpose(0, 1)  # (C / 16, C, 16)
        if library.uses_bf16_pairs(dtype):
            weight = weight.unflatten(1, (-1, 2)).transpose(2, 3).bfloat16()
        self.matching, self.pixels = (weight.contiguous(), bias), float(pixels)
        addresses = ops.MATCHING.values(self.matching)
        self.start = _GlobalMatch(*addresses, library.uses_bf16_pairs(dtype), confidence)
        self.chains = [chain for chain, *_ in estimators]
        self.channels = [channels for _, channels, *_ in estimators]
        self.array = (_Estimator * len(estimators))(
            *(_Estimator(chain.struct, *numbers) for chain, *numbers in estimators)
        )

    def sizes(self, height: int, width: int) -> dict[str, int]:
        """Of both frames' features, the coarsest first, as `ops` names them.

        height, width: of the finest.
        """
        sizes: dict[str, int] = {}
        for n in reversed(range(len(self.channels))):
            sizes |= {f"C{n}": self.channels[n], f"H{n}": height, f"W{n}": width}
            height, width = -(-height // 2), -(-width // 2)
        return sizes

    def count(self, features: Sequence[Tensor], squares: bool) -> None:
        """As `Convolution.count`, for all of them, and the products of places."""
        if is_counting():
            channels, *size = features[-1].shape[1:]
            places = prod(-(-side // 2) if squares else side for side in size)
            scores = _like(self.matching[1], 1, places, places)
            count_product(
                places * channels * (2 * channels + places), self.matching[0], features[-1], scores
            )
        for chain, feature in zip(self.chains, reversed(features)):
            chain.count(feature)


class _GlobalMatch(ctypes.Structure):
    """As the C headers have it."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("bf16", c_int), ("confidence", c_float)]


class _Estimator(ctypes.Structure):
    """As the C headers have it."""

    _fields_ = [("chain", _Chain), ("channels", c_long), ("radius", c_long), ("pixels", c_float)]
