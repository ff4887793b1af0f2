"""Each operation of the table on each instruction set, against the reference in PyTorch.

In the manner of dav1d's checkasm: random shapes and edges, every output in the middle of memory
that must stay as it is, and filled with NaN before, so that what isn't written is seen. The
tolerances are the table's (`Operation.tolerance`).
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vsneuralstyle.engines import ops
from vsneuralstyle.engines.cpu import kernels, layers, library, packing
from vsneuralstyle.engines.cpu.engine import CpuEngine
from vsneuralstyle.networks.net1 import REPEATED, Net1
from vsneuralstyle.networks.transform_net import UpsampledConv

GUARD, CANARY = 4096, 0.4375  # numbers before and behind each output, which bfloat16 has, too
SHAPES = [(1, 1), (2, 3), (5, 7), (16, 16), (33, 50), (20, 131)]
LEVELS = [
    level
    for level, needed in library.LEVELS.items()
    if needed <= library.units()
    and Path(kernels.__file__).with_name(f"kernels-{level}.so").is_file()
] or [None]  # one library elsewhere, or none


@pytest.fixture(scope="module", params=LEVELS, ids=str)
def level(request):
    """Has the kernels of one instruction set called, which decides by what bfloat16 is multiplied,
    too.
    """
    if library.library() is None:
        pytest.skip("the wheel was built without the kernels")
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            path = Path(kernels.__file__).with_name(f"kernels-{request.param}.so")
            loaded, needed = ctypes.CDLL(str(path)), library.LEVELS[request.param]
            assert loaded.permitted()
            if runtime := library.openmp():
                loaded.set_thread_number(runtime.omp_get_thread_num)
            patch.setattr(library, "library", lambda: loaded)
            patch.setattr(library, "units", lambda: needed)
        yield request.param


@pytest.fixture
def guarded(monkeypatch) -> list[Tensor]:
    """Puts every output of a kernel between canaries; gives the memory."""
    memories: list[Tensor] = []

    def place(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        memory = torch.full((count + 2 * GUARD,), CANARY, dtype=dtype)
        memory[GUARD : GUARD + count] = float("nan")
        memories.append(memory)
        return memory[GUARD : GUARD + count]

    def empty_map(like, channels, height, width, dtype=None):
        pixels = place((1, height, width, channels), dtype or like.dtype)
        return pixels.view(1, height, width, channels).permute(0, 3, 1, 2)

    monkeypatch.setattr(kernels, "_empty_map", empty_map)
    monkeypatch.setattr(
        kernels, "_empty_floats", lambda *shape: place(shape, torch.float32).view(shape)
    )
    return memories


def check(name: str, ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    tolerance = ops.CPU[name].tolerance[dtype]
    assert ours.shape == theirs.shape and ours.isfinite().all()
    size = theirs.float().square().mean().sqrt().clamp(min=1e-3)
    apart = (ours.float() - theirs.float()).abs() / size
    assert apart.max() <= tolerance, f"{name}: {apart.max():.2g} of the values' size"


def feature(channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(1, channels, height, width)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def network(dtype: torch.dtype, **options: Any) -> Net1:
    net = Net1(**{"still": 0.02, "flow_width": 0.5, **options}).eval().requires_grad_(False)
    return net.to(dtype, memory_format=torch.channels_last)


# --- what each operation is compared with: (height, width, dtype) -> (ours, theirs) ---------------


def scale_shift_relu_add(height, width, dtype):
    x, residual, scale = *(feature(48, height, width, dtype) for _ in range(2)), torch.randn(2, 48)
    ours = kernels.scale_shift_relu_add(x, scale, relu=True, residual=residual)
    first, second = scale.view(2, 1, -1, 1, 1)
    return ours, (x.float() * first + second).relu() + residual.float()


def conv3x3(height, width, dtype):
    for kind in (6, packing.STRIDE2, packing.UPSAMPLE2):
        net: torch.nn.Module = torch.nn.Conv2d(
            32, 48, 3, 2 if kind == packing.STRIDE2 else 1, padding=1
        )
        if kind == packing.UPSAMPLE2:
            net = UpsampledConv(32, 48)
        net, x = net.to(dtype), feature(32, height, width, dtype)
        convolution = layers.Convolution(
            net.weight, net.bias, kind, reflects=kind == packing.UPSAMPLE2
        )
        yield kernels.conv3x3(x, convolution)[0], net.float()(x.float())


def conv3x3_chain(height, width, dtype):
    nets = [torch.nn.Conv2d(32, 32, 3, padding=1).to(dtype) for _ in range(2)]
    last, x = torch.nn.Conv2d(32, 2, 3, padding=1), feature(32, height, width, dtype)
    convolutions = [layers.Convolution(net.weight, net.bias, 6, slope=0.1) for net in nets]
    theirs = x.float()
    for net in nets:
        theirs = F.leaky_relu(net.float()(theirs), 0.1)
    chain = layers.Chain(convolutions, last.weight, last.bias)
    return kernels.conv3x3_chain(x, chain), last(theirs)


def residual_blocks(height, width, dtype):
    if height * width < 16:  # instance normalisation of so few makes anything of rounding
        return None
    net, x = network(dtype), feature(64, height, width, dtype)
    blocks = net.style.residual
    theirs = blocks.float()(x.float())
    return CpuEngine(network(dtype)).rest.__class__(blocks.to(dtype))(x), theirs


def frames(height, width):
    return torch.rand(1, 3, height, width), torch.rand(1, 3, height, width)


def downsample4(height, width, dtype):
    frame, _ = frames(height, width)
    return kernels.downsample4(frame), network(dtype).downsample4(frame)


def max_change(height, width, dtype):
    frame, before = frames(height, width)
    for previous in (before, frame + 1e-3):
        yield (
            kernels.max_change(frame, previous, REPEATED),
            network(dtype).max_change(frame, previous),
        )


def scene_descriptor(height, width, dtype):
    frame, _ = frames(height, width)
    return kernels.scene_descriptor(frame), network(dtype).scene_descriptor(frame)


def warp_residual(height, width, dtype):
    lowres, previous = frames(height, width)
    flow = 30 * torch.randn(1, 2, height, width)
    net = network(dtype)
    return kernels.warp_residual(lowres, previous, flow), net.warp_residual(lowres, previous, flow)


def compose(height, width, dtype):
    net = network(dtype)
    engine = CpuEngine(net)
    now, before = feature(64, height, width, dtype), feature(64, height, width, engine.state_dtype)
    flow, residual = 9 * torch.randn(1, 2, height, width), torch.rand(1, 3, height, width)
    change = torch.rand(1, 1, height, width) / 9
    ours, mask = engine.compose(now, before, flow, residual, change, 0.75)
    reference = network(torch.float32)
    reference.load_state_dict({name: value.float() for name, value in net.state_dict().items()})
    theirs, their_mask = reference.compose(
        now.float(), before.float(), flow, residual, change, 0.75
    )
    yield ours, theirs
    yield mask, their_mask


def of_frames(name: str) -> Callable:
    """An operation on a frame of 4 x 4 times the size, by the engine's own layers."""

    def compared(height, width, dtype):
        if height * width < 16:
            return
        net = network(dtype)
        engine, (frame, previous) = CpuEngine(net), frames(4 * height, 4 * width)
        reference = network(torch.float32)
        reference.load_state_dict({name: value.float() for name, value in net.state_dict().items()})
        if name == "flow_features":
            pairs = zip(engine.flow_features(frame), reference.flow_features(frame))
            # Normalised, a few places are nothing but rounding.
            yield from (pair for pair in pairs if pair[0][0, 0].numel() >= 16)
        elif name == "estimate_motion":
            pair = [reference.flow_features(one) for one in (frame, previous)]
            given = [tuple(one.to(dtype) for one in features) for features in pair]
            given = [
                tuple(one.contiguous(memory_format=torch.channels_last) for one in features)
                for features in given
            ]
            size = 4 * height, 4 * width
            yield (
                engine.match_features(*given, *size, None),
                reference.match_features(*pair, *size, None),
            )
        elif name.startswith("conv9x9_from_rgb"):
            convolution = reference.style.down[0][0]
            ours, _ = kernels.conv9x9_from_rgb(
                frame, 4 * height, 4 * width, *engine.first, engine.dtype
            )
            yield ours, convolution(frame)
        else:
            x = feature(16, 4 * height, 4 * width, dtype).relu()
            theirs = reference.style.up[-1](x.float())
            ours = kernels.conv9x9_to_rgb(x, None, 4 * height, 4 * width, *engine.last)
            yield ours, (torch.tanh(theirs) + 1) / 2

    return compared


def planes(height, width):
    rows, columns = -(-height // 2), -(-width // 2)
    random = np.random.default_rng(0)
    return [
        random.integers(16, 236, size, np.uint8)
        for size in ((height, width), (rows, columns), (rows, columns))
    ]


def planes_to_rgb(height, width, dtype):
    from vsneuralstyle.video.pixels import Coding, components_to_rgb

    coding, given = Coding(matrix=1, full_range=False), planes(height, width)
    ours = components_to_rgb(given, coding)
    return ours, without_kernels(lambda: components_to_rgb(given, coding))


def without_kernels(call: Callable[[], Tensor]) -> Tensor:
    """By PyTorch's operators."""
    from vsneuralstyle.video import pixels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_near", lambda dtype, device: False)
        return call()


COMPARED: dict[str, Callable] = {
    "scale_shift_relu_add": scale_shift_relu_add,
    "conv3x3": conv3x3,
    "conv3x3_chain": conv3x3_chain,
    "residual_blocks": residual_blocks,
    "flow_features": of_frames("flow_features"),
    "estimate_motion": of_frames("estimate_motion"),
    "conv9x9_from_rgb": of_frames("conv9x9_from_rgb"),
    "conv9x9_to_rgb": of_frames("conv9x9_to_rgb"),
    "downsample4": downsample4,
    "scene_descriptor": scene_descriptor,
    "max_change": max_change,
    "warp_residual": warp_residual,
    "compose": compose,
    "planes_to_rgb": planes_to_rgb,
}
# Made of the same weights by what the level has, so that one row compares all three; and one whose
# outputs are the host's own memory, which test_pixels.py compares.
ELSEWHERE = {"conv9x9_from_rgb_amx", "conv9x9_to_rgb_bf16", "conv9x9_to_rgb_amx", "rgb_to_planes"}


def test_every_operation_is_compared():
    assert set(COMPARED) | ELSEWHERE == set(ops.CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", COMPARED)
@torch.inference_mode()
def test_an_operation_is_the_references(level, guarded, name, dtype):
    if dtype not in ops.CPU[name].tolerance:
        pytest.skip("of float32 alone")
    torch.manual_seed(0)
    for height, width in SHAPES:
        compared = COMPARED[name](height, width, dtype)
        for ours, theirs in [compared] if isinstance(compared, tuple) else compared or ():
            check(name, ours, theirs, dtype)
    assert guarded
    for memory in guarded:
        kept = memory[:GUARD], memory[-GUARD:]
        assert all((part == CANARY).all() for part in kept), f"{name} writes beside its output"
