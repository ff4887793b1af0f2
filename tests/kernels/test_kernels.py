"""The kernels, a CPU's and a GPU's: the same pictures as PyTorch's operators give, whatever the
size, the precision and the number of threads.
"""

import copy
import ctypes
import os
import platform
import re
import shutil
import subprocess
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vsneuralstyle import Stylizer, cache
from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu import kernels, layers, library, packing
from vsneuralstyle.engines.cpu.engine import CpuEngine
from vsneuralstyle.engines.cpu.host import units
from vsneuralstyle.engines.cuda import flow_kernels, graphs, runtime
from vsneuralstyle.engines.cuda import kernels as cuda_kernels
from vsneuralstyle.engines.cuda import packing as cuda_packing
from vsneuralstyle.engines.cuda.engine import CudaEngine, served
from vsneuralstyle.engines.cuda.kernels import FeatureMap
from vsneuralstyle.engines.engine import Engine, select_engine
from vsneuralstyle.networks.flow import litepwcnet
from vsneuralstyle.networks.layers.norm import InstanceNorm
from vsneuralstyle.networks.net1 import REPEATED, Net1
from vsneuralstyle.networks.stylebank import Bank, Mixture
from vsneuralstyle.networks.transform_net import UpsampledConv
from vsneuralstyle.video import pixels, yuv
from vsneuralstyle.video.pixels import (
    Coding,
    components_to_rgb,
    planes_to_rgb,
    rgb_to_components,
    rgb_to_planes,
)

needs_library = pytest.mark.skipif(
    library.library() is None, reason="the wheel was built without the kernels"
)
PRECISIONS = [torch.float32, torch.bfloat16]
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2**-6},
}
ENGINES = Path(__file__).resolve().parents[2] / "vsneuralstyle" / "engines"
KERNELS = ENGINES / "cpu" / "csrc"
CUDA_SOURCE = ENGINES / "cuda" / "csrc" / "kernels.cu"
SOURCES = sorted(KERNELS.glob("*.c"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lasting(x: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    return x.to(precision).contiguous(memory_format=torch.channels_last)


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far they are apart, over the second's root mean square."""
    return (ours - theirs).abs() / theirs.square().mean().sqrt()


@pytest.fixture(params=["vectors", "pairs", "tiles"])
def unit(request, monkeypatch) -> str:
    """What bfloat16 is multiplied by. What a library can't do of itself it does all the same, if
    slowly.
    """
    monkeypatch.setattr(
        library,
        "uses_bf16_pairs",
        lambda dtype: dtype == torch.bfloat16 and request.param == "pairs",
    )
    monkeypatch.setattr(
        library, "uses_amx", lambda dtype: dtype == torch.bfloat16 and request.param == "tiles"
    )
    return request.param


def random_norm(channels: int) -> InstanceNorm:
    norm = InstanceNorm(channels).requires_grad_(False)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    return norm


# --- one by one -----------------------------------------------------------------------------------


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 2), (5, 7), (33, 50)])
def test_normalise_is_a_scale_a_relu_and_a_sum(precision, height, width):
    x, residual = (lasting(torch.randn(1, 48, height, width), precision) for _ in range(2))
    scale = torch.randn(2, 48)
    ours = kernels.scale_shift_relu_add(x, scale, relu=True, residual=residual)
    theirs = (
        x.float() * scale[0].view(1, -1, 1, 1) + scale[1].view(1, -1, 1, 1)
    ).relu() + residual.float()
    assert ours.dtype == precision and ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.float(), theirs, **CLOSE[precision])
    assert torch.equal(kernels.scale_shift_relu_add(x), x)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("reach", [packing.UPSAMPLE2, packing.STRIDE2, 6])
def test_a_mean_far_from_0_leaves_the_variance_its_digits(unit, reach):
    net, norm = torch.nn.Conv2d(16, 16, 3, padding=1).bfloat16(), random_norm(16)
    x = lasting(torch.randn(1, 16, 33, 50), torch.bfloat16)
    made = {}
    for far in (0, 1000):
        convolution = layers.Convolution(
            net.weight,
            net.bias + far,
            reach,
            reflects=True,
            norm=(norm.weight, norm.bias, norm.eps),
        )
        made[far] = kernels.scale_shift_relu_add(
            *kernels.conv3x3(x, convolution, dtype=torch.float32)
        )
    torch.testing.assert_close(made[1000], made[0], rtol=0, atol=2e-3)
    height, width = made[0].shape[2:]
    frame, first = torch.rand(1, 3, height, width), torch.nn.Conv2d(3, 16, 9)
    for far in (0, 1000):
        made[far] = kernels.scale_shift_relu_add(
            *kernels.conv9x9_from_rgb(
                frame,
                height,
                width,
                packing.conv9x9_weight(first.weight.bfloat16()),
                first.bias.detach() + far,
                (norm.weight, norm.bias, norm.eps),
                torch.float32,
            )
        )
    torch.testing.assert_close(made[1000], made[0], rtol=0, atol=2e-3)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("reach", [6, 8])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (43, 24), (99, 2), (64, 64)])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (4, 4), (5, 7), (33, 50), (66, 64)])
def test_convolve_is_a_convolution_and_what_surrounds_it(
    precision, reach, inputs, outputs, height, width
):
    net, norm = (
        torch.nn.Conv2d(inputs, outputs, 3, padding=1),
        random_norm(packing.padded_channels(outputs)),
    )
    x = lasting(
        F.pad(
            torch.randn(1, inputs, height, width),
            (0, 0, 0, 0, 0, packing.padded_channels(inputs) - inputs),
        ),
        precision,
    )
    affine = norm.weight, norm.bias, norm.eps
    ours, scale = kernels.conv3x3(
        x, layers.Convolution(net.weight, net.bias, reach, slope=0.1, norm=affine)
    )
    theirs = F.leaky_relu(net(x[:, :inputs].float()), 0.1)
    assert ours.dtype == precision
    torch.testing.assert_close(ours[:, :outputs].float(), theirs, **CLOSE[precision])
    assert not ours[:, outputs:].any()
    torch.testing.assert_close(
        kernels.scale_shift_relu_add(ours, scale).float(), norm(ours.float()), rtol=2e-2, atol=2e-2
    )
    if height == 1:
        return
    scale = torch.randn(2, packing.padded_channels(inputs))
    scale[:, inputs:] = 0
    ours, _ = kernels.conv3x3(
        x,
        layers.Convolution(net.weight, net.bias, reach, reflects=True),
        scale=scale,
        relu=True,
        dtype=precision,
    )
    x = (x.float() * scale[0].view(1, -1, 1, 1) + scale[1].view(1, -1, 1, 1)).relu()[:, :inputs]
    torch.testing.assert_close(
        ours[:, :outputs].float(),
        F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), net.weight, net.bias),
        **CLOSE[precision],
    )


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("height", "width"), [(5, 7), (34, 51)])
def test_convolutions_in_one_call_are_those_one_by_one(unit, precision, height, width):
    def convolution(
        inputs: int, outputs: int, reach: int = 6, normalises: bool = False
    ) -> layers.Convolution:
        norm = (torch.rand(outputs), torch.randn(outputs), 1e-5) if normalises else None
        weight = 0.1 * torch.randn(outputs, inputs, 3, 3).to(precision)
        return layers.Convolution(
            weight,
            torch.randn(outputs),
            reach,
            reflects=normalises,
            slope=1.0 if normalises else 0.1,
            norm=norm,
        )

    def only(result: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
        return result[0]

    x = lasting(torch.randn(1, 32, height, width), precision)
    chained = [convolution(32, 48), convolution(48, 16), convolution(16, 32)]
    last = torch.nn.Conv2d(32, 2, 3, padding=1)
    theirs = x
    for layer in chained:
        theirs = only(kernels.conv3x3(theirs, layer))
    ours = kernels.conv3x3_chain(x, layers.Chain(chained, last.weight, last.bias))
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, last(theirs.float()), rtol=1e-4, atol=1e-4)

    chained, theirs = [convolution(32, 32, normalises=True) for _ in range(6)], x
    for first, second in zip(chained[::2], chained[1::2]):
        y, scale = kernels.conv3x3(theirs, first)
        theirs = kernels.scale_shift_relu_add(
            *kernels.conv3x3(y, second, scale=scale, relu=True), residual=theirs
        )
    assert torch.equal(kernels.residual_blocks(x, layers.Layers(chained)), theirs)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("reach", [packing.UPSAMPLE2, packing.STRIDE2, 6])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (64, 48), (43, 24)])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 8), (5, 7), (34, 50), (61, 130)])
def test_convolve_enlarges_and_halves_by_each_unit(
    unit, precision, reach, inputs, outputs, height, width
):
    stride, whole = 2 if reach == packing.STRIDE2 else 1, packing.padded_channels(inputs)
    net = (
        UpsampledConv(inputs, outputs)
        if reach == packing.UPSAMPLE2
        else torch.nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    )
    net, norm = net.to(precision), random_norm(packing.padded_channels(outputs))
    x = lasting(
        F.pad(torch.randn(1, inputs, height, width), (0, 0, 0, 0, 0, whole - inputs)), precision
    )
    scale = F.pad(torch.randn(2, inputs), (0, whole - inputs))
    scaled = (x.float() * scale[0].view(1, -1, 1, 1) + scale[1].view(1, -1, 1, 1)).relu()
    exact = copy.deepcopy(net).float()
    for border in ["reflect"] if reach == packing.UPSAMPLE2 else ["zeros", "reflect"]:
        exact.padding_mode = border  # which `UpsampledConv` doesn't look at
        affine = norm.weight, norm.bias, norm.eps
        convolution = layers.Convolution(
            net.weight, net.bias, reach, reflects=border == "reflect", slope=0.1, norm=affine
        )
        rounded = convolution.weight.dtype == torch.bfloat16
        assert rounded == (unit != "vectors" and precision == torch.bfloat16)
        plain, following = kernels.conv3x3(x, convolution)
        after, _ = kernels.conv3x3(x, convolution, scale=scale, relu=True)
        for ours, theirs in (
            (plain, F.leaky_relu(exact(x[:, :inputs].float()), 0.1)),
            (after, F.leaky_relu(exact(scaled[:, :inputs]), 0.1)),
        ):
            assert (
                ours[:, :outputs].shape == theirs.shape
                and ours.dtype == precision
                and not ours[:, outputs:].any()
            )
            apart = relative(ours[:, :outputs].float(), theirs)
            limits = (0.05, 0.005) if precision == torch.bfloat16 else (3e-5, 2e-6)
            if unit == "pairs" and rounded and reach != packing.STRIDE2:
                limits = (0.08, 0.005) if reach == packing.UPSAMPLE2 else (0.15, 0.02)
            assert apart.max() < limits[0] and apart.mean() < limits[1], (apart.max(), apart.mean())
        if height > 5:  # of a few samples, what rounding took away is normalised, too
            torch.testing.assert_close(
                kernels.scale_shift_relu_add(plain, following).float(),
                norm(plain.float()),
                rtol=2e-2,
                atol=3e-2,
            )


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 30), (61, 203), (130, 133)])
def test_first_and_last_layer(unit, precision, height, width):
    first, last, norm = (
        torch.nn.Conv2d(3, 16, 9).to(precision),
        torch.nn.Conv2d(16, 3, 9).to(precision),
        random_norm(16),
    )
    full_height, full_width = -(-height // 4) * 4, -(-width // 4) * 4
    frame, border = torch.rand(1, 3, height, width), (4, 4, 4, 4)
    weights, (first, last) = (
        [packing.conv9x9_weight(one.weight) for one in (first, last)],
        (first.float(), last.float()),
    )
    rounded = [weight.dtype == torch.bfloat16 for weight in weights]
    assert rounded == [
        precision == torch.bfloat16 and unit in units for units in (("tiles",), ("tiles", "pairs"))
    ]
    ours, scale = kernels.conv9x9_from_rgb(
        frame,
        full_height,
        full_width,
        weights[0],
        first.bias.detach(),
        (norm.weight, norm.bias, norm.eps),
        precision,
    )
    full = F.pad(frame, (0, full_width - width, 0, full_height - height), mode="replicate")
    theirs = first(F.pad(full, border, mode="reflect"))
    torch.testing.assert_close(ours.float(), theirs, **CLOSE[precision])
    torch.testing.assert_close(
        kernels.scale_shift_relu_add(ours, scale).float(), norm(theirs), rtol=2e-2, atol=4e-2
    )
    x, scale = lasting(torch.randn(1, 16, full_height, full_width), precision), torch.randn(2, 16)
    same = torch.ones(2, 16).mul_(torch.tensor([[1], [0]]))
    # a ReLU there is either way
    assert torch.equal(
        *(
            kernels.conv9x9_to_rgb(x, one, height, width, weights[1], last.bias.detach())
            for one in (None, same)
        )
    )
    ours = kernels.conv9x9_to_rgb(x, scale, height, width, weights[1], last.bias.detach())
    x = (x.float() * scale[0].view(1, -1, 1, 1) + scale[1].view(1, -1, 1, 1)).relu()
    theirs = last(F.pad(x, border, mode="reflect"))[..., :height, :width]
    if rounded[1]:
        assert relative(torch.atanh(2 * ours - 1), theirs).mean() < (
            0.01 if unit == "pairs" else 0.003
        )
    else:
        torch.testing.assert_close(ours, torch.tanh(theirs) / 2 + 0.5, rtol=1e-4, atol=1e-4)


@needs_library
@torch.inference_mode()
def test_first_layer_sees_what_a_bright_wall_has_of_detail(unit):
    """Which is less than bfloat16 rounds its brightness by: rounded before the products, a tenth of
    it would be lost.
    """
    first, norm = torch.nn.Conv2d(3, 16, 9).bfloat16(), random_norm(16)
    detail = F.interpolate(torch.randn(1, 3, 12, 16), scale_factor=5.0, mode="bicubic")
    frame = 0.8 + 0.01 * detail
    ours, scale = kernels.conv9x9_from_rgb(
        frame,
        60,
        80,
        packing.conv9x9_weight(first.weight),
        first.bias.detach().float(),
        (norm.weight, norm.bias, norm.eps),
        torch.float32,
    )
    ours, theirs = (
        kernels.scale_shift_relu_add(ours, scale),
        norm(first.float()(F.pad(frame, (4, 4, 4, 4), mode="reflect"))),
    )
    assert (ours - theirs).abs().mean() < 1e-3 * theirs.abs().mean()


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 1), (24, 2), (48, 2)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 16), (33, 50)])
def test_a_chain_ends_in_planes(precision, inputs, outputs, height, width):
    """One layer that changes nothing, and the last."""
    as_it_is = torch.zeros(inputs, inputs, 3, 3, dtype=precision)
    as_it_is[range(inputs), range(inputs), 1, 1] = 1
    same = layers.Convolution(as_it_is, torch.zeros(inputs), 6)
    last = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
    x = lasting(
        F.pad(
            torch.randn(1, inputs, height, width),
            (0, 0, 0, 0, 0, packing.padded_channels(inputs) - inputs),
        ),
        precision,
    )
    ours = kernels.conv3x3_chain(x, layers.Chain([same], last.weight, last.bias))
    theirs = last(kernels.conv3x3(x, same)[0][:, :inputs].float())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def fused_flow(precision: torch.dtype) -> tuple[CpuEngine, litepwcnet.LitePWCNet]:
    """The kernels' and PyTorch's, in float32, of the same weights."""
    net = net1(precision)
    return CpuEngine(net), copy.deepcopy(net.flow).float()


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 2), (4, 1), (17, 30), (61, 203)])
def test_look_is_the_flow_networks_pyramid(precision, height, width):
    fused, flow = fused_flow(precision)
    frame = 0.3 + 0.5 * torch.rand(1, 3, height, width)
    ours, theirs = fused.flow_features(frame), flow.encode(frame)
    assert [x.shape for x in ours] == [x.shape for x in theirs] and {x.dtype for x in ours} == {
        precision
    }
    for here, there in zip(ours, theirs):
        apart = (here.float() - there).abs()
        # Of a feature of a few places, the normalisation enlarges what rounding has left.
        few = there[0, 0].numel() < 20
        assert apart.mean() < (
            (2e-3 if few else 1e-5) if precision == torch.float32 else (1 if few else 0.03)
        ), (here.shape, apart.mean())


def features_that_moved(
    height: int, width: int, precision: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Two frames', from 1/4 to 1/32, of which the second shows the first's a place of 1/32 further
    right.
    """
    here, there = [], []
    for n, channels in enumerate((16, 32, 48, 64)):
        size = (-(-height // 2**n), -(-width // 2**n))
        here.append(lasting(torch.randn(1, channels, *size), precision))
        there.append(
            lasting(
                here[-1].roll(2 ** (3 - n), 3) + 0.1 * torch.randn(1, channels, *size), precision
            )
        )
    return here, there


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (9, 13), (48, 96), (50, 131), (96, 300)])
def test_motion_starts_with_the_global_match(monkeypatch, precision, squares, height, width):
    monkeypatch.setattr(litepwcnet, "MOST_PLACES", 0 if squares else 4096)
    net = net1(precision)
    for predict in net.flow.predicts:  # what starts is all there is
        predict.weight.zero_(), predict.bias.zero_()
    net.flow.matching.weight.mul_(3)
    here, there = features_that_moved(height, width, precision)
    ours = kernels.estimate_motion(here, there, CpuEngine(net).flow_decoder, squares)
    theirs = net.flow.float().between(
        [x.float() for x in here], [x.float() for x in there], 4 * height, 4 * width
    )
    assert (theirs != 0).any() or min(height, width) < 20
    # In bfloat16 the features that are matched are rounded, and a place in ten thousand may be sure
    # for once.
    apart = (ours - theirs).abs()
    assert (
        apart.max() < 1e-3
        if precision == torch.float32
        else apart.mean() < 0.05 * theirs.abs().mean() + 1e-3
    ), (apart.max(), apart.mean())


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 2), (9, 13), (48, 96), (50, 131)])
def test_motion_is_the_flow_networks(precision, height, width):
    fused, flow = fused_flow(precision)
    for predict in flow.predicts:
        predict.weight.mul_(10)
    net = fused.net1
    net.flow.load_state_dict(flow.state_dict())
    here, there = features_that_moved(height, width, precision)
    change = torch.rand(1, 1, height, width)
    ours = kernels.estimate_motion(here, there, CpuEngine(net).flow_decoder, False, change, 0.25)
    theirs = flow.between(
        [x.float() for x in here], [x.float() for x in there], 4 * height, 4 * width
    ) * (change > 0.25)
    apart = relative(ours, theirs)
    assert torch.equal(ours == 0, theirs == 0)
    assert (
        (apart.max() < 1e-3 and apart.mean() < 1e-5)
        if precision == torch.float32
        else apart.mean() < 0.04
    ), (apart.max(), apart.mean())
    # nothing changed by more
    assert not kernels.estimate_motion(
        here, there, CpuEngine(net).flow_decoder, False, change, 1.0
    ).any()


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (45, 70), (64, 130)])
def test_frames_at_quarter_resolution(height, width):
    frame, previous = torch.rand(2, 1, 3, height, width)
    net = Net1(flow_width=0.125)
    torch.testing.assert_close(kernels.downsample4(frame), net.downsample4(frame))
    # what moves, and what repeats
    for before in (previous, frame + 0.005 * torch.randn_like(frame)):
        change = kernels.max_change(frame, before, REPEATED)
        torch.testing.assert_close(change, net.max_change(frame, before), rtol=0, atol=0)
    quarters = kernels.downsample4(frame), kernels.downsample4(previous)
    for quarter in (*quarters, 0.3 + 0 * quarters[0]):
        torch.testing.assert_close(
            kernels.scene_descriptor(quarter), net.scene_descriptor(quarter), rtol=1e-4, atol=2e-4
        )
    flow = 30 * torch.randn(1, 2, *quarters[0].shape[2:])
    flow[..., 0, 0] = 1000.0  # far outside
    torch.testing.assert_close(
        kernels.warp_residual(*quarters, flow),
        net.warp_residual(*quarters, flow),
        rtol=1e-4,
        atol=1e-4,
    )


# --- Net1 -----------------------------------------------------------------------------------------


def net1(precision: torch.dtype, **options: object) -> Net1:
    net = Net1(**{"still": 0.02, **options})
    for module in net.modules():
        if isinstance(module, InstanceNorm):
            torch.nn.init.normal_(module.weight, 1, 0.2), torch.nn.init.normal_(module.bias, 0, 0.2)
    if options.get("net") == "stylebank":
        banks = [Bank(), Bank()]
        for bank in banks:
            torch.nn.init.normal_(bank[2].branch[-1].weight)
        net.style.bank = Mixture(banks, [1, 3])
    return net.eval().requires_grad_(False).to(precision, memory_format=torch.channels_last)


def fastest(net: Net1) -> Engine:
    weight = net.mask[0].weight
    return select_engine(net, weight.device, weight.dtype)


def stages(
    net: Engine, frame: Tensor, previous: Tensor, exact: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What each stage makes of the inputs that `exact` has, or else of its own: errors don't add
    up.
    """
    made = {"feature": net.encode(frame)}
    given = {**made, **exact}
    change = net.max_change(frame, previous)
    made["flow"] = net.estimate_motion(
        frame, previous, change, (net.flow_features(frame), net.flow_features(previous))
    )
    given = {**made, **given}
    made["unexplained"] = net.warp_residual(
        net.downsample4(frame), net.downsample4(previous), given["flow"]
    )
    given = {**made, **given}
    before = given["feature"].roll(1, 3).float()
    made["composite"], made["mask"] = net.compose(
        given["feature"], before, given["flow"], given["unexplained"], change, 0.9
    )
    given = {**made, **given}
    made["picture"] = net.decode(given["composite"], *frame.shape[2:])
    return made


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warp_mode": "bilinear", "encoder_blocks": 2},
        {"encoder_blocks": 0},
        {"net": "stylebank"},
        {"flow_network": "flownets", "flow_width": 0.125},
    ],
)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (50, 71), (96, 130)])
def test_every_stage_is_net1s(precision, options, height, width):
    net = net1(precision, **options)
    fused = fastest(net)
    assert isinstance(fused, CpuEngine)
    picture = F.interpolate(
        torch.rand(1, 3, height // 4 + 4, width // 4 + 4), scale_factor=4.0, mode="bicubic"
    ).clamp(0, 1)
    previous = picture[..., 2 : 2 + height, 1 : 1 + width].contiguous()
    frame = picture[..., :height, 4 : 4 + width].contiguous()
    frame[..., :8, :8] = previous[..., :8, :8]  # stands still
    exact = stages(copy.deepcopy(net).float(), frame, previous, {})
    theirs, ours = (stages(one, frame, previous, exact) for one in (net, fused))
    for name, reference in exact.items():
        assert ours[name].shape == theirs[name].shape and ours[name].dtype == (
            fused.state_dtype if name == "composite" else theirs[name].dtype
        )
        size = reference.square().mean().sqrt().clamp(min=1e-3)
        apart, usual = ((made[name].float() - reference).abs() / size for made in (ours, theirs))
        if precision == torch.float32:
            assert apart.max() < 2e-3 and apart.mean() < 2e-5, (name, apart.max(), apart.mean())
        elif name == "flow":
            assert apart.mean() < 0.1  # rounding decides here and there what matches best
        else:
            limit = (
                2.5 * usual.mean() + 4e-3
                if library.uses_bf16_pairs(precision)
                else 1.2 * usual.mean() + 1e-3
            )
            assert apart.mean() < limit, (name, apart.mean(), usual.mean())


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("net", ["johnson", "stylebank"])
def test_every_stage_by_tiles(monkeypatch, net):
    """Direct convolutions round no more than PyTorch's do."""
    picture = F.interpolate(torch.rand(1, 3, 20, 30), scale_factor=4.0, mode="bicubic").clamp(0, 1)
    frame, previous = picture[..., :50, 4:100].contiguous(), picture[..., 2:52, 1:97].contiguous()
    usual = net1(torch.bfloat16, net=net)
    exact = stages(copy.deepcopy(usual).float(), frame, previous, {})
    exact["feature"] = exact["feature"].bfloat16()  # as a stage gets it
    monkeypatch.setattr(library, "uses_amx", lambda dtype: True)
    fused = fastest(usual)
    assert (
        fused.ups[0].amx
        and all(layer.amx for layer in fused.before.layers.convolutions)
        and fused.last[0].dtype == torch.bfloat16
    )
    theirs, ours = (stages(one, frame, previous, exact) for one in (usual, fused))
    for name, reference in exact.items():
        apart, as_usual = ((made[name].float() - reference).abs().mean() for made in (ours, theirs))
        # Rounding decides here and there what flow matches best.
        assert (
            apart
            < (0.1 if name == "flow" else 1e-3) * reference.abs().mean().clamp(min=1)
            + 1.2 * as_usual
        ), name


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_of_threads_shows_in_no_pixel(unit, precision):
    frames, before, made = torch.rand(2, 1, 3, 96, 130), torch.get_num_threads(), []
    fused = fastest(net1(precision))
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(stages(fused, *frames, {}))
    finally:
        torch.set_num_threads(before)
    for name, first in made[0].items():
        assert all(torch.equal(first, other[name]) for other in made[1:]), name


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("level", library.LEVELS)
def test_each_level_of_x86_computes_the_same(monkeypatch, level):
    file = Path(kernels.__file__).with_name(f"kernels-{level}.so")
    if not file.is_file() or not library.LEVELS[level] <= library.units():
        pytest.skip(f"{file.name} is not there, or not for this CPU")
    picture = F.interpolate(torch.rand(1, 3, 20, 30), scale_factor=4.0, mode="bicubic").clamp(0, 1)
    frame, previous = picture[..., :50, 4:100].contiguous(), picture[..., 2:52, 1:97].contiguous()
    net = net1(torch.float32)
    exact = stages(net, frame, previous, {})
    used = []
    loaded = ctypes.CDLL(str(file))
    monkeypatch.setattr(library, "library", lambda: used.append(level) or loaded)
    ours = stages(fastest(net), frame, previous, exact)
    assert used
    for name, theirs in exact.items():
        apart = (ours[name] - theirs).abs() / theirs.square().mean().sqrt().clamp(min=1e-3)
        assert apart.max() < 2e-3 and apart.mean() < 2e-5, (name, apart.max(), apart.mean())


@needs_library
@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is one library only")
def test_a_library_that_the_system_does_not_permit_is_passed_over(monkeypatch):
    """As with AMX's registers, which a system may keep for itself."""
    folder, best, load = Path(kernels.__file__).parent, library.name(), ctypes.CDLL
    names = [
        f"kernels-{level}"
        for level, needed in library.LEVELS.items()
        if needed <= units() and (folder / f"kernels-{level}.so").is_file()
    ]
    assert names[0] == best

    def loaded(path: str) -> ctypes.CDLL:
        loaded = load(path)
        if Path(path).stem == best:
            loaded.permitted = lambda: 0
        return loaded

    monkeypatch.setattr(ctypes, "CDLL", loaded)
    found = library.library.__wrapped__()
    assert [Path(found._name).stem] == names[1:2] if names[1:] else found is None


def unfit(good: Tensor) -> dict[str, Tensor | None]:
    """What no kernel takes where it takes that tensor, by what is wrong with it."""
    layouts = torch.contiguous_format, torch.channels_last
    other = layouts[good.is_contiguous()]
    twice = torch.cat((good, good), -1)
    return {
        "type": good.double(),
        "size": twice,
        "dimensions": good.squeeze(0),
        "gaps": twice[..., ::2],
        "layout": good.contiguous(memory_format=other),
        "device": good.to("meta"),
        "none": None,
    }


@torch.inference_mode()
@pytest.mark.parametrize("wrong", unfit(torch.zeros(1, 3, 1, 2)))
def test_a_tensor_that_does_not_fit_is_an_error_and_nothing_is_called(monkeypatch, wrong):
    monkeypatch.setattr(library, "library", None)  # which isn't asked for
    (quarter, previous), flow = torch.rand(2, 1, 3, 12, 20), torch.zeros(1, 2, 12, 20)
    for name, call in {
        "previous": lambda: kernels.warp_residual(quarter, unfit(previous)[wrong], flow),
        "flow": lambda: kernels.warp_residual(quarter, previous, unfit(flow)[wrong]),
    }.items():
        fitting = r"expected \(1, [23], 12, 20\) torch.float32, contiguous format, on cpu"
        with pytest.raises(ValueError, match=f"kernel warp_residual: {name} is .* {fitting}"):
            call()
    x = lasting(torch.randn(1, 16, 12, 20))
    if wrong != "none":  # which is none to add
        fitting = r"expected \(1, 16, 12, 20\) torch.float32, channels last, on cpu"
        with pytest.raises(
            ValueError, match=f"kernel scale_shift_relu_add: residual is .* {fitting}"
        ):
            kernels.scale_shift_relu_add(x, residual=unfit(x)[wrong])


@needs_library
@torch.inference_mode()
def test_what_a_kernel_reads_by_what_its_layers_say_has_to_be_there():
    layer = layers.Convolution(torch.randn(16, 32, 3, 3), torch.randn(16), 6)
    with pytest.raises(ValueError, match=r"kernel conv3x3: x is \(1, 16, 4, 4\)"):
        kernels.conv3x3(lasting(torch.randn(1, 16, 4, 4)), layer)
    with pytest.raises(ValueError, match=r"kernel layer: norm weight is \(16,\) torch.float64"):
        norm = torch.ones(16).double(), torch.ones(16), 1e-5
        layers.Convolution(torch.randn(16, 32, 3, 3), torch.randn(16), 6, norm=norm)
    fused, _ = fused_flow(torch.float32)
    here = fused.flow_features(torch.rand(1, 3, 64, 96))
    smaller = fused.flow_features(torch.rand(1, 3, 64, 64))
    for there in (here[:-1], smaller, (*here[:-1], smaller[-1])):
        with pytest.raises(ValueError, match="kernel estimate_motion: there"):
            fused.match_features(here, there, 64, 96, None)
    with pytest.raises(ValueError, match="to draw 128x64 pixels"):
        kernels.conv9x9_to_rgb(lasting(torch.randn(1, 16, 64, 96)), None, 64, 128, *fused.last)


@torch.inference_mode()
def test_a_gpus_kernels_take_no_tensor_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(runtime, "launch_kernel", None)  # nothing is
    quarter, flow = torch.rand(1, 3, 12, 20), torch.zeros(1, 2, 12, 20)
    fitting = r"expected \(1, 2, 12, 20\) torch.float32"
    with pytest.raises(ValueError, match=f"kernel warp_residual: flow is .*float64.* {fitting}"):
        cuda_kernels.warp_residual(quarter, quarter, flow.double())
    with pytest.raises(ValueError, match="kernel warp_residual: previous is .* on meta; .* on cpu"):
        cuda_kernels.warp_residual(quarter, quarter.to("meta"), flow)
    with pytest.raises(ValueError, match="kernel bias_leaky_relu: x is .*torch.float32"):
        cuda_kernels.bias_leaky_relu(lasting(torch.randn(1, 16, 4, 4)), torch.zeros(16), 0.1)


def test_the_operations_are_those_of_the_sources():
    sources = "".join(source.read_text() for source in SOURCES)
    defined = re.findall(r"^int (\w+)\(Fork", sources, re.MULTILINE)
    assert {operation.c_name for operation in ops.CPU.values()} <= set(defined)
    kernels = {
        name
        for source in CUDA_SOURCE.parent.glob("*.cu")
        for name in re.findall(r"^ *KERNEL\((\w+)[,#]", source.read_text(), re.MULTILINE)
    }
    assert set(ops.GPU) == {re.sub(r"(_\d*)$", "", name) for name in kernels}


def test_what_the_kernels_cannot_do_is_left_to_pytorch(monkeypatch):
    small = Net1(channels=(8, 8, 16), flow_width=0.125)
    assert fastest(small) is small
    ordinary = Net1()
    monkeypatch.setattr(library, "library", lambda: None)
    assert fastest(ordinary) is ordinary


@needs_library
@torch.inference_mode()
def test_a_clip_looks_the_same_without_them(monkeypatch, clip):
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    ours = Stylizer("candy", device="cpu", precision="float32")
    assert isinstance(ours.engine, CpuEngine)
    a = ours.stylize(frames)
    monkeypatch.setattr(library, "library", lambda: None)
    theirs = Stylizer("candy", device="cpu", precision="float32")
    assert isinstance(theirs.engine, Net1)
    b = theirs.stylize(frames)
    assert ours.scene_starts == theirs.scene_starts
    assert (a - b).abs().max() < 0.01 and (a - b).square().mean() < 1e-7  # 70 dB


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.subprocess
def test_kernels_stay_within_their_memory(tmp_path):
    """All kernels on exact allocations of random sizes, under AddressSanitizer and
    UndefinedBehaviorSanitizer.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    program = tmp_path / "kernels"
    built = subprocess.run(
        [
            compiler,
            "-std=c11",
            "-O1",
            "-g",
            "-Wno-psabi",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
            "-I",
            SOURCES[0].parent,
            "-o",
            program,
            *SOURCES,
            Path(__file__).with_name("kernels_at_random.c"),
            "-lm",
        ],
        capture_output=True,
        text=True,
    )
    if "libasan" in built.stderr or "libubsan" in built.stderr:
        pytest.skip(f"{compiler} has no sanitizers: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program, "60"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == ["60", "rounds"]


# --- a GPU's --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """kernels.cu as a library for a CPU."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or platform.machine() != "x86_64" or "f16c" not in units():
        pytest.skip(
            "no C++ compiler (g++), or no x86-64 with F16C, to run a GPU's kernels on a CPU"
        )
    path = tmp_path_factory.mktemp("gpu") / "gpu.so"
    built = subprocess.run(
        [
            compiler,
            "-std=c++20",
            "-O2",
            "-mf16c",
            "-shared",
            "-fPIC",
            "-pthread",
            "-include",
            Path(__file__).with_name("emulated.h"),
            "-x",
            "c++",
            CUDA_SOURCE,
            "-o",
            path,
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(path))


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.subprocess), "cuda"])
def where(request, monkeypatch) -> str:
    """A GPU, or a CPU that does what it would do, to run the kernels of `gpu` on."""
    if request.param == "cuda":
        return request.getfixturevalue("cuda")
    run_emulated(request.getfixturevalue("emulated"), monkeypatch)
    return "cpu"


def run_emulated(emulated: ctypes.CDLL, monkeypatch) -> None:
    """Has `gpu` launch its kernels on the CPU."""

    def launched(kernel, grid, threads, shared, job, device):
        grid, threads = ((ctypes.c_uint * 3)(*(*sizes, 1, 1)[:3]) for sizes in (grid, threads))
        failed = getattr(emulated, kernel)(job, ctypes.c_long(len(job)), grid, threads, shared)
        why = "another size than the job has" if failed == -1 else "more shared memory than it has"
        assert not failed, f"{kernel}: {why}"

    monkeypatch.setattr(runtime, "launch_kernel", launched)


def half(x: Tensor, where: str) -> Tensor:
    return x.to(where, torch.float16).contiguous(memory_format=torch.channels_last)


def in_layout(x: Tensor, side: int, edge: int) -> FeatureMap:
    """A picture in squares, with something else in what is around it."""
    height, width = x.shape[2:]
    spare = edge, -(width + edge) % side, edge, -(height + edge) % side
    squares = (
        F.pad(x, spare, value=77.0)
        .unflatten(3, (-1, side))
        .unflatten(2, (-1, side))
        .permute(0, 3, 5, 1, 2, 4)
        .flatten(1, 3)
    )
    return FeatureMap(
        squares.contiguous(memory_format=torch.channels_last), x.shape[1], height, width, side, edge
    )


def out_of_layout(picture: FeatureMap, border: int) -> Tensor:
    """All of its samples, with the border that was put about it."""
    samples = picture.samples.unflatten(1, (picture.side, picture.side, picture.channels)).permute(
        0, 3, 4, 1, 5, 2
    )
    return samples.flatten(4, 5).flatten(2, 3)[
        ..., : picture.height + 2 * border, : picture.width + 2 * border
    ]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("channels", "height", "width", "side", "edge"),
    [
        (16, 8, 12, 4, 0),
        (64, 1, 1, 1, 0),
        (48, 5, 7, 1, 0),
        (32, 10, 14, 2, 1),
        (16, 12, 20, 2, 1),
        (64, 33, 50, 1, 0),
    ],
)
def test_a_gpus_statistics_normalise(where, channels, height, width, side, edge):
    norm = random_norm(channels).to(where)
    x = half(3 * torch.randn(1, channels, height, width) + 40, where)  # a mean far from 0
    scale = cuda_kernels.instance_norm(in_layout(x, side, edge), norm.weight, norm.bias, norm.eps)
    if height * width > 1:
        ours = out_of_layout(cuda_kernels.scale_shift_relu_add(in_layout(x, side, edge), scale), 0)
        torch.testing.assert_close(ours.float(), norm(x.float()), rtol=2**-9, atol=2**-7)
    else:
        torch.testing.assert_close(scale[0], norm.weight / norm.eps**0.5)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("inputs", "outputs", "height", "width", "planes"),
    [
        (8, 16, 1, 1, False),
        (24, 8, 9, 17, False),
        (120, 64, 7, 33, False),
        (48, 40, 20, 30, False),
        (16, 2, 5, 40, True),
        (32, 1, 9, 9, True),
    ],
)
def test_a_gpus_convolve_is_a_convolution(
    monkeypatch, where, inputs, outputs, height, width, planes
):
    layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1).requires_grad_(False)
    x = half(torch.randn(1, inputs, height, width), where)
    weight, bias = layer.weight.half().to(where), layer.bias.to(where)
    expected = F.leaky_relu(F.conv2d(x.float(), weight.float(), bias, padding=1), 0.1)
    ours = cuda_kernels.conv3x3(x, cuda_packing.conv3x3_weight(weight), bias, 0.1, planes)
    monkeypatch.setattr(cuda_kernels, "MANY", 1)
    # by larger tiles
    assert torch.equal(
        cuda_kernels.conv3x3(x, cuda_packing.conv3x3_weight(weight), bias, 0.1, planes), ours
    )
    assert ours.is_contiguous() if planes else ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.float(), expected, rtol=2**-9, atol=2**-9)


@torch.inference_mode()
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(
    ("side", "edge", "pad", "to"),
    [(1, 0, 1, 1), (1, 1, 0, 1), (4, 0, 1, 1), (2, 1, 4, 4), (1, 0, 0, 1)],
)
def test_a_gpus_normalise_lays_down_what_the_next_convolution_wants(
    where, repeats, side, edge, pad, to
):
    x, residual, scale = torch.randn(1, 16, 8, 12), torch.randn(1, 16, 8, 12), torch.randn(2, 16)
    x, residual = half(x, where), half(residual, where)
    expected = (
        x.float() * scale[0].view(1, -1, 1, 1).to(where) + scale[1].view(1, -1, 1, 1).to(where)
    ).relu() + residual.float()
    expected = (
        F.pad(expected, (pad,) * 4, mode="replicate" if repeats else "reflect") if pad else expected
    )
    ours = cuda_kernels.scale_shift_relu_add(
        in_layout(x, side, edge),
        scale.to(where),
        relu=True,
        residual=in_layout(residual, 1, 1),
        pad=pad,
        repeats=repeats,
        side=to,
    )
    torch.testing.assert_close(out_of_layout(ours, pad).float(), expected, rtol=2**-10, atol=2**-10)
    as_it_is = cuda_kernels.scale_shift_relu_add(FeatureMap.of(x), pad=pad)
    assert torch.equal(
        out_of_layout(as_it_is, pad), F.pad(x, (pad,) * 4, mode="reflect") if pad else x
    )


@torch.inference_mode()
@pytest.mark.parametrize(
    ("options", "height", "width"),
    [
        ({}, 16, 16),
        ({}, 50, 71),
        ({}, 96, 132),
        ({"warp_mode": "bilinear", "encoder_blocks": 2, "still": -1.0}, 50, 71),
        ({"encoder_blocks": 0, "sharpen": 0.0}, 16, 16),
        ({"net": "stylebank"}, 50, 71),
    ],
)
def test_every_stage_on_a_gpu_is_net1s(where, options, height, width):
    net = net1(torch.float32, **options).to(where)
    there = CudaEngine(copy.deepcopy(net).half())
    picture = (
        F.interpolate(
            torch.rand(1, 3, height // 4 + 4, width // 4 + 4), scale_factor=4.0, mode="bicubic"
        )
        .clamp(0, 1)
        .to(where)
    )
    previous = picture[..., 2 : 2 + height, 1 : 1 + width].contiguous()
    frame = picture[..., :height, 4 : 4 + width].contiguous()
    frame[..., :8, :8] = previous[..., :8, :8]  # stands still
    exact = stages(net, frame, previous, {})
    exact["feature"] = exact["feature"].half()  # as a stage gets it
    ours = stages(there, frame, previous, exact)
    for name, reference in exact.items():
        apart = (
            ours[name].float() - reference.float()
        ).abs().mean() / reference.float().square().mean().sqrt().clamp(min=1e-2)
        assert ours[name].shape == reference.shape and apart < (0.05 if name == "flow" else 8e-3), (
            name,
            apart,
        )


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(16, 20), (17, 23), (39, 66)])
def test_a_gpus_quarter_and_brightness(where, height, width):
    net, frame = net1(torch.float32), torch.rand(1, 3, height, width)
    torch.testing.assert_close(
        cuda_kernels.downsample4(frame.to(where)).cpu(), net.downsample4(frame)
    )
    whole = F.pad(frame, (0, -width % 4, 0, -height % 4), mode="replicate")
    torch.testing.assert_close(
        flow_kernels.frame_mean(frame.to(where), *whole.shape[2:]).cpu(), whole.mean()
    )


class Tape(TorchDispatchMode):
    """What a CUDA graph holds, without a GPU: operators on the memory that they were captured with,
    and launches by their jobs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps, self._results = [], []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        storages = [
            {
                one.untyped_storage().data_ptr()
                for one in tree_leaves(tree)
                if isinstance(one, Tensor)
            }
            for tree in ((args, kwargs), result)
        ]
        if operator._schema.is_mutable:
            self.steps.append(lambda: operator(*args, **(kwargs or {})))
        elif not storages[0] & storages[1] and "empty" not in operator._schema.name:
            self.steps.append(
                lambda: torch._foreach_copy_(
                    *(
                        [one for one in tree_leaves(tree) if isinstance(one, Tensor)]
                        for tree in (result, operator(*args, **(kwargs or {})))
                    )
                )
            )
        self._results.append(result)  # no memory is used twice
        return result

    def launched(self, kernel, grid, threads, shared, job, device) -> tuple[None, None]:
        self.steps.append(
            lambda: runtime.launch_kernel(kernel, grid, threads, shared, bytes(job), device)
        )
        return None, None

    def replay(self) -> None:
        for step in self.steps:
            step()


@pytest.fixture
def taped(emulated, monkeypatch):
    """`graphs.record` on a CPU, of what is launched there as it would be on a GPU."""
    run_emulated(emulated, monkeypatch)
    monkeypatch.setattr(runtime, "_changed", lambda node, parameters, executable: None)

    def record(function, tensors, device):
        watch, tape = graphs.Watch(tensors), Tape()
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "_captured", tape.launched)
            with watch, tape:
                outputs = function(*watch.held)
        return graphs.aimed(watch, outputs, tape.replay, 0)

    return record


@torch.inference_mode()
def test_a_graphs_kernels_are_aimed_at_the_callers_tensors(taped, monkeypatch):
    x, y = (half(torch.randn(1, 8, 3, 5), "cpu") for _ in range(2))
    bias, copied = torch.randn(8), []
    copy = graphs._copy

    def copy_noting(sources, targets):
        copied.append([n for n, pair in enumerate(zip(sources, targets)) if None not in pair])
        copy(sources, targets)

    monkeypatch.setattr(graphs, "_copy", copy_noting)

    def function(first, second, third):
        """The first is read by kernels alone, the second by an operator too; so it is with what
        comes out. The third passes through.
        """
        ours = cuda_kernels.scale_shift_relu_add(FeatureMap.of(first), pad=1).samples
        theirs = cuda_kernels.bias_leaky_relu(second + 1, bias, 0.5)
        both = cuda_kernels.scale_shift_relu_add(
            FeatureMap.of(cuda_kernels.scale_shift_relu_add(FeatureMap.of(second)).samples),
            residual=FeatureMap.of(first),
        ).samples
        return ours, theirs, third, both

    graphed = graphs.Graphed(function, taped)
    for first, second in (
        (x, y),
        (y, x),
        (half(torch.randn(1, 8, 3, 6), "cpu")[..., 1:], x),
        (x, y),
    ):
        given = torch.rand(2)
        copied.clear()
        outputs = graphed(first, second, given)
        expected = function(first.contiguous(memory_format=torch.channels_last), second, given)
        assert all(map(torch.equal, outputs, expected)) and outputs[2] is given
        assert copied == [[1] if first is x or first is y else [0, 1], [1]], copied
    earlier = [output.clone() for output in outputs]
    graphed(y, y, given)
    assert all(map(torch.equal, outputs, earlier))  # the caller's


@torch.inference_mode()
def test_a_step_on_a_gpu_copies_no_picture(taped, monkeypatch, model_dir, frames):
    eager, graphed = (Stylizer("candy", device="cpu", precision="float32") for _ in range(2))
    copied, copy = [], graphs._copy

    def copy_noting(sources, targets):
        copied.extend(
            source for source, target in zip(sources, targets) if None not in (source, target)
        )
        copy(sources, targets)

    for one in (eager, graphed):
        one.engine = CudaEngine(one.model.net1.half())
        one.pipeline.threads, one.pipeline._reuses_repeated_frames = 1, False
    graphed.pipeline.capture(taped)
    monkeypatch.setattr(graphs, "_copy", copy_noting)
    frames = frames[..., 8:24, 8:28]
    for n, starts in enumerate((None, False, False, True)):
        assert torch.equal(
            graphed.stylize(frames[n : n + 1], [starts]), eager.stylize(frames[n : n + 1], [starts])
        )
    picture = graphed.state.feature
    assert picture.dtype == torch.float16 and copied
    assert not any(
        one.shape == picture.shape or one.shape[2:] == frames.shape[2:] for one in copied
    ), [one.shape for one in copied]


@torch.inference_mode()
def test_memory_that_is_used_twice_is_told_apart():
    watch = graphs.Watch([])
    with watch:
        first = torch.empty(3000)
        first[10:].fill_(1)
        second = torch.empty_like(first).view(30, 100)[3:]
        total = first.sum()
    before, other, result = (watch.memory(one.data_ptr()) for one in (first, second, total))
    assert before.operators and not other.operators and result.operators
    watch._allocated(first)  # as if it had been freed meanwhile
    assert (
        watch.memory(first.data_ptr()) is not before
        and not watch.memory(first.data_ptr()).operators
    )


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (12, 20), (5, 70)])
def test_a_gpus_support_is_the_networks(where, height, width):
    scores = torch.randn(1, height, width, height, width).half().to(where)
    torch.testing.assert_close(
        flow_kernels.aggregate_costs(scores), litepwcnet.supported(scores), rtol=2e-3, atol=2e-3
    )


@torch.inference_mode()
def test_a_gpus_global_match_is_the_networks(where):
    scores = 4 * torch.randn(1, 5, 9, 5, 9).half().to(where)
    for n in range(45):
        scores.view(45, 45)[n, (n + 7) % 45] = 30  # all but the last are sure
    scores.view(45, 45)[44, 3:23] = 30  # equally good ones
    torch.testing.assert_close(
        flow_kernels.global_match(scores, litepwcnet.SURE),
        litepwcnet.global_match(scores),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.fixture
def converting(where, monkeypatch):
    """A context in which `pixels` converts by the kernels, in one launch; it gives the device."""

    @contextmanager
    def converting():
        launched, launch = [], runtime.launch_kernel
        with monkeypatch.context() as patch:
            patch.setattr(
                runtime,
                "launch_kernel",
                lambda kernel, *job: launched.append(kernel) or launch(kernel, *job),
            )
            if where == "cpu":
                patch.setattr(pixels, "_served", lambda plane, device: True)
                patch.setattr(
                    pixels,
                    "_upload",
                    lambda planes, device: torch.from_numpy(
                        np.concatenate([plane.ravel() for plane in planes])
                    ),
                )
            yield where
        assert len(launched) == 1

    return converting


@pytest.fixture
def calling(monkeypatch):
    """A context in which `pixels` converts by a CPU's kernels, in one call; it gives the device."""

    @contextmanager
    def calling():
        called, call = [], library.call
        with monkeypatch.context() as patch:
            patch.setattr(
                kernels,
                "call",
                lambda kernel, *arguments: called.append(kernel) or call(kernel, *arguments),
            )
            yield "cpu"
        assert len(called) == 1

    return calling


def strided(plane: np.ndarray, step: int) -> np.ndarray:
    """The same samples in rows that are longer than the picture is wide, `step` samples from one to
    the next.
    """
    height, width = plane.shape
    memory = np.zeros((height, step * width + 3), plane.dtype)[:, 1 : 1 + step * width : step]
    memory[...] = plane
    return memory


CODINGS = [
    Coding(matrix=1, full_range=False, cosited=(False, True)),
    Coding(matrix=6),
    Coding(matrix=9, cosited=(True, True)),
    Coding(10, 6, 9, False, (True, True)),
    Coding(10, 0, 1, False, (True, False)),
    Coding(12, 0, 6, True, (False, True)),
    Coding(16, 0, 9, False),
    Coding(),
    Coding(full_range=False),
    Coding(10, 6),
    Coding(12, 0, 0, False),
    Coding(16),
]


@pytest.fixture
def by_operators(monkeypatch):
    """A context in which `pixels` converts by PyTorch's operators."""

    @contextmanager
    def by_operators():
        with monkeypatch.context() as patch:
            patch.setattr(pixels, "_served", lambda dtype, device: False)
            patch.setattr(pixels, "_near", lambda dtype, device: False)
            yield

    return by_operators


PICTURES = [(1, 1), (1, 6), (2, 2), (3, 1), (5, 7), (6, 8), (33, 258), (16, 256)]


@torch.inference_mode()
@pytest.mark.parametrize("height, width", PICTURES)
@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_a_gpus_components_are_pytorchs(converting, by_operators, coding, height, width):
    compare_components(converting, by_operators, coding, height, width)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("height, width", PICTURES)
@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_components_are_pytorchs(calling, by_operators, coding, height, width):
    compare_components(calling, by_operators, coding, height, width)


def compare_components(converting, by_operators, coding: Coding, height: int, width: int) -> None:
    """That what `converting` does is what PyTorch's operators do."""
    kind, unit, levels = (
        np.uint16 if coding.bits > 8 else np.uint8,
        1 << coding.shift,
        (1 << coding.bits) - 1,
    )
    is_rgb = coding.matrix == yuv.IDENTITY
    # what is as near to a half, a float32's last digits may round either way
    random, close = np.random.default_rng(0), levels * 2**-21
    for chroma in (
        [(height, width)] if is_rgb else product((height, -(-height // 2)), (width, -(-width // 2)))
    ):
        shapes = [(height, width), chroma, chroma]
        planes = [
            strided((random.integers(0, levels + 1, shape) * unit).astype(kind), 1 + n % 2)
            for n, shape in enumerate(shapes)
        ]
        planes[0][-1, -1] = np.iinfo(kind).max  # beyond what its bits have
        with by_operators():
            expected = components_to_rgb(planes, coding)
        with converting() as device:
            made = components_to_rgb(planes, coding, device)
        assert made.shape == (1, 3, height, width) and made.is_contiguous()
        torch.testing.assert_close(
            made.cpu(), expected, rtol=0, atol=0 if is_rgb and coding.full_range else 2e-6
        )

        two = torch.rand(2, 3, height, width) * 1.4 - 0.2
        rgb = two[1:]  # which may start anywhere
        theirs, ours = ([strided(np.full(shape, 5, kind), 2) for shape in shapes] for _ in range(2))
        with by_operators():
            rgb_to_components(rgb, theirs, coding)
        with converting() as device:
            rgb_to_components(two.to(device)[1:], ours, coding)
        linear, offset = yuv.from_rgb_map(coding.matrix, coding.full_range, coding.bits)
        codes = ((linear @ rgb.double().flatten(2)[0] + offset) * levels).unflatten(
            1, (height, width)
        )
        for our, their, code in zip(
            ours, theirs, (codes[0], *yuv.downsample(codes[1:], chroma, coding.cosited))
        ):
            apart = np.abs(our.astype(int) - their)
            assert (
                apart.max() <= unit
                and not apart[((code % 1 - 0.5).abs() > close).numpy()].any()
                and not (our % unit).any()
            )
            assert np.abs(our // unit - code.clamp(0, levels).numpy()).max() <= 0.5 + close
            assert not our.base[:, 0].any() and not our.base[:, 2::2].any()  # what lies between


KINDS = [(np.uint8, None), (np.uint8, 5), (np.uint16, None), (np.uint16, 10)]
SQUARES = [(256, 256), (5, 7), (1, 1)]


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "bits"), KINDS)
@pytest.mark.parametrize(("height", "width"), SQUARES)
def test_a_gpus_planes_are_pytorchs(converting, by_operators, kind, bits, height, width):
    compare_planes(converting, by_operators, kind, bits, height, width)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize(("kind", "bits"), KINDS)
@pytest.mark.parametrize(("height", "width"), SQUARES)
def test_planes_are_pytorchs(calling, by_operators, kind, bits, height, width):
    compare_planes(calling, by_operators, kind, bits, height, width)


def compare_planes(
    converting, by_operators, kind: type, bits: int | None, height: int, width: int
) -> None:
    """As `compare_components`, to the bit."""
    levels = (1 << (bits or 8 * np.dtype(kind).itemsize)) - 1
    samples = np.arange(height * width) % (levels + 1)
    planes = [
        strided(np.roll(samples, n).reshape(height, width).astype(kind), 1 + n % 2)
        for n in range(3)
    ]
    planes[0][-1, -1] = np.iinfo(kind).max  # beyond what its bits have
    with by_operators():
        expected = planes_to_rgb(planes, bits)
    with converting() as device:
        made = planes_to_rgb(planes, bits, device)
    assert torch.equal(made.cpu(), expected)
    # halves, and beyond
    rgb = (
        torch.cat((expected[..., :1] - 1, expected, expected + torch.rand(expected.shape)), 3)
        - 0.5 / levels
    )
    for picture in (rgb, rgb.contiguous(memory_format=torch.channels_last), rgb.half()):
        ours, theirs = np.zeros((2, 3, *rgb.shape[2:]), kind)
        with by_operators():
            rgb_to_planes(picture, theirs, bits)
        with converting() as device:
            rgb_to_planes(picture.to(device), ours, bits)
        np.testing.assert_array_equal(ours, theirs)


@torch.inference_mode()
def test_a_gpu_refuses_chroma_of_another_size(converting):
    planes = [np.zeros(shape, np.uint8) for shape in [(8, 8), (2, 4), (2, 4)]]
    for convert in (
        components_to_rgb,
        lambda planes, coding, device: rgb_to_components(
            torch.zeros(1, 3, 8, 8, device=device), planes, coding
        ),
    ):
        with (
            pytest.raises(AssertionError),  # nothing is launched
            converting() as device,
            pytest.raises(ValueError, match="chroma of"),
        ):
            convert(planes, Coding(matrix=1), device)


@needs_library
@pytest.mark.parametrize(
    ("matrix", "chroma", "kind"),
    [(1, (2, 4), "uint8"), (1, (4, 4), "uint16"), (yuv.IDENTITY, (4, 4), "uint8")],
)
def test_kernels_refuse_planes_of_another_size_or_type(matrix, chroma, kind):
    planes, rgb = (
        [np.zeros((8, 8), np.uint8), *np.zeros((2, *chroma), kind)],
        torch.zeros(1, 3, 8, 8),
    )
    for convert in (
        lambda: components_to_rgb(planes, Coding(matrix=matrix)),
        lambda: rgb_to_components(rgb, planes, Coding(matrix=matrix)),
    ):
        with pytest.raises(
            ValueError, match=rf"planes of .*\({chroma[0]}, 4\) {kind} for a picture of \(8, 8\)"
        ):
            convert()


@needs_library
def test_kernels_refuse_to_write_to_what_is_read_only():
    planes = list(np.zeros((3, 8, 8), np.uint8))
    planes[1].flags.writeable = False
    for coding in (Coding(), Coding(matrix=1)):
        with pytest.raises(ValueError, match="read-only"):
            rgb_to_components(torch.ones(1, 3, 8, 8), planes, coding)
    assert not np.any(planes)


@needs_library
@torch.inference_mode()
def test_components_lie_anywhere():
    """Bottom up, and all in one packed picture."""
    packed = np.random.default_rng(0).integers(0, 256, (18, 40, 4), np.uint8)
    planes, coding = [packed[::-1, :, n] for n in (2, 0, 3)], Coding(matrix=6)
    rgb = components_to_rgb(planes, coding)
    assert torch.equal(rgb, components_to_rgb([plane.copy() for plane in planes], coding))
    target = np.full_like(packed, 7)
    rgb_to_components(rgb, [target[::-1, :, n] for n in (2, 0, 3)], coding)
    expected = [np.zeros_like(packed[..., 0]) for _ in planes]
    rgb_to_components(rgb, expected, coding)
    assert (
        all(np.array_equal(target[::-1, :, n], plane) for n, plane in zip((2, 0, 3), expected))
        and (target[..., 1] == 7).all()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "start"),
    [
        # the last one doesn't exist
        ((8, 0), b"\x7fELF"),
        ((8, 6), b"\x7fELF"),
        ((8, 9), b"\x7fELF"),
        ((9, 0), b"\x7fELF"),
        ((8, 5), b"//"),
    ],
)
def test_nvrtc_compiles_the_kernels(capability, start, tmp_path, monkeypatch):
    if not runtime.compiles():
        pytest.skip("no NVRTC, or no cuda-bindings")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = runtime._compiled(capability)
    assert compiled.lstrip().startswith(start) and all(
        name in compiled
        for name in (
            b"scale_shift_relu_add",
            b"cost_volume_3",
            b"conv3x3_8_2_0",
            b"rgb_to_planes_16",
        )
    )
    assert start != b"//" or b".target sm_80" in compiled
    monkeypatch.setattr(runtime, "_compile", None)
    assert runtime._compiled(capability) == compiled  # from disk


@torch.inference_mode()
def test_every_kernel_that_is_launched_is_there(emulated, monkeypatch):
    """Of `conv3x3`, which has one for each number of outputs, of rows and, for some, of steps."""
    launched = set()
    monkeypatch.setattr(runtime, "launch_kernel", lambda kernel, *job: launched.add(kernel))
    # blocks of 4, 2 and 1 rows a warp, as pictures of three sizes have them
    for inputs, outputs, many in product(range(16, 129, 16), range(16, 65, 16), (4, 10, 100)):
        monkeypatch.setattr(cuda_kernels, "MANY", many)
        x, bias = half(torch.zeros(1, inputs, 64, 64), "cpu"), torch.zeros(outputs)
        weight = cuda_packing.conv3x3_weight(torch.zeros(outputs, inputs, 3, 3).half())
        cuda_kernels.conv3x3(x, weight, bias)
    unrolled = {f"conv3x3_{tiles}_{rows}_{steps}" for tiles, rows, steps in cuda_kernels.UNROLLED}
    others = {f"conv3x3_{tiles}_{rows}_0" for tiles in (2, 4, 6, 8) for rows in (1, 2)}
    assert launched == unrolled | others
    assert not [kernel for kernel in launched if not hasattr(emulated, kernel)]


def test_what_is_kept_on_disk_is_made_once(tmp_path, monkeypatch):
    made = []

    def make(text: bytes) -> bytes:
        made.append(text)
        return text * 3

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    for of in (b"one", b"two", b"one", b"two"):
        assert cache.kept("things", of, lambda: make(of)) == of * 3  # noqa: B023  called at once
    assert made == [b"one", b"two"]
    files = list(cache.folder("things").iterdir())
    assert len(files) == 2
    for file in files:  # damaged: made anew
        file.write_bytes(file.read_bytes()[:-1])
    assert cache.kept("things", b"one", lambda: make(b"one")) == b"oneoneone" and len(made) == 3
    assert cache.kept("things", b"one", lambda: make(b"one")) == b"oneoneone" and len(made) == 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nothing can be written
    assert cache.kept("things", b"one", lambda: make(b"one")) == b"oneoneone" and len(made) == 4
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home"))
    )
    assert cache.kept("things", b"one", lambda: make(b"one")) == b"oneoneone" and len(made) == 5


def test_only_what_a_gpus_kernels_can_do_is_served(monkeypatch):
    """No GPU is needed: the networks' tensors are of a GPU, and have no memory."""
    monkeypatch.setattr(runtime, "available", lambda device: device.type == "cuda")

    def on(device: str, precision: torch.dtype = torch.float16, **options) -> Net1:
        net = Net1(**options)
        with FakeTensorMode():
            for module in net.modules():
                for name, weight in list(module.named_parameters(recurse=False)):
                    fake = torch.empty(weight.shape, dtype=precision, device=device)
                    setattr(module, name, torch.nn.Parameter(fake))
        return net

    assert served(on("cuda"))
    assert not served(on("cpu"))
    for precision in (torch.float32, torch.bfloat16):
        assert not served(on("cuda", precision))
    for options in (
        {"flow_network": "flownets", "flow_width": 0.125},
        {"channels": (8, 12, 16)},
        {"mask_hidden": cuda_kernels.MAX_OUTPUTS + cuda_kernels.MULTIPLE},
    ):
        assert not served(on("cuda", **options)), options
    monkeypatch.setattr(runtime, "available", lambda device: False)
    assert not served(on("cuda"))


@torch.inference_mode()
def test_a_gpu_is_served_by_its_kernels(cuda, monkeypatch):
    assert isinstance(fastest(net1(torch.float16).to(cuda)), CudaEngine)
    for options in ({"flow_network": "flownets", "flow_width": 0.125}, {"channels": (8, 12, 16)}):
        assert isinstance(fastest(net1(torch.float16, **options).to(cuda)), Net1)
    assert isinstance(fastest(net1(torch.float32).to(cuda)), Net1)
    monkeypatch.setattr(runtime, "available", lambda device: False)
    assert isinstance(fastest(net1(torch.float16).to(cuda)), Net1)
