"""The networks as pure functions: shapes, units, and what the paper's figures say of their size."""

from itertools import cycle, product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vsneuralstyle.networks.flow.flownet import FlowNetSimple
from vsneuralstyle.networks.flow.litepwcnet import (
    SUPPORT,
    LitePWCNet,
    cost_volume,
    global_match,
    supported,
)
from vsneuralstyle.networks.flow.network import FLOW_SCALE, pooled
from vsneuralstyle.networks.layers.norm import InstanceNorm, instance_norm
from vsneuralstyle.networks.layers.warp import warp, within
from vsneuralstyle.networks.net1 import FLOW_NETWORKS, Net1
from vsneuralstyle.networks.transform_net import SquaredConv, TransformNet, UpsampledConv


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_papers():
    assert parameters(TransformNet()) == pytest.approx(425_000, rel=0.01)
    assert parameters(FlowNetSimple(1.0)) == pytest.approx(38.7e6, rel=0.01)


@torch.no_grad()
def test_instance_norm_of_one_is_batch_norm():
    """As it is computed on a GPU, with its operator on a CPU."""
    x, weight, bias = 3 * torch.randn(1, 8, 12, 20) + 40, torch.randn(8), torch.randn(8)
    for affine in ((weight, bias), (None, None)):
        theirs, *_ = torch.native_batch_norm(x, *affine, None, None, True, 0.0, 1e-4)
        torch.testing.assert_close(instance_norm(x, *affine, 1e-4), theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_instance_norm_on_a_gpu(cuda):
    for count in (1, 2):
        x, weight, bias = (
            3 * torch.randn(count, 16, 120, 200) + 40,
            torch.randn(16),
            torch.randn(16),
        )
        there = x.half().to(cuda, memory_format=torch.channels_last)
        for affine in ((weight, bias), (None, None)):
            ours = instance_norm(
                there, *(None if part is None else part.to(cuda) for part in affine), 1e-4
            )
            assert ours.dtype == torch.float16 and ours.is_contiguous(
                memory_format=torch.channels_last
            )
            torch.testing.assert_close(
                ours.cpu().float(),
                instance_norm(x.half().float(), *affine, 1e-4),
                rtol=1e-2,
                atol=1e-2,
            )


def test_instance_norm_equals_pytorchs_and_keeps_channels_last():
    x = torch.randn(2, 8, 9, 7).mul(3).add(1).to(memory_format=torch.channels_last)
    ours, theirs = InstanceNorm(8), nn.InstanceNorm2d(8, affine=True)
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(5, 8), (1, 2)])
def test_an_upsampled_convolution_is_upsampling_and_a_convolution(height, width):
    x, net = torch.randn(2, 6, height, width), UpsampledConv(6, 4)
    enlarged = F.pad(
        F.interpolate(x, scale_factor=2.0, mode="nearest"), (1, 1, 1, 1), mode="reflect"
    )
    torch.testing.assert_close(net(x), F.conv2d(enlarged, net.weight, net.bias))


@torch.no_grad()
def test_a_convolution_in_squares_is_a_convolution():
    x, net = torch.randn(2, 6, 8, 12), SquaredConv(6, 3)
    torch.testing.assert_close(
        net(x), F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), net.weight, net.bias)
    )


@pytest.mark.parametrize("net", [UpsampledConv(6, 4), SquaredConv(6, 3)])
def test_fixed_weights_are_rearranged_once_and_others_learn(net, monkeypatch):
    x, names = torch.randn(2, 6, 8, 12), list(net.state_dict())
    expected = net(x)
    expected.square().sum().backward()
    assert all(parameter.grad.abs().min() > 0 for parameter in net.parameters())
    net.fix()
    monkeypatch.setattr(net, "rearranged", None)  # not called any more
    assert torch.equal(net(x), expected) and list(net.state_dict()) == names == ["weight", "bias"]


@torch.no_grad()
def test_the_number_of_threads_shows_in_no_pixel():
    net, frame = TransformNet().to(memory_format=torch.channels_last), torch.rand(1, 3, 128, 192)
    threads, pictures = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            pictures.append(net(frame))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


@torch.no_grad()
def test_where_the_chain_is_cut_moves_no_pixel():
    frame = torch.rand(1, 3, 24, 32)
    nets = [TransformNet(encoder_blocks=blocks) for blocks in (0, 2, None)]
    for net in nets:
        net.load_state_dict(nets[0].state_dict())
        assert net.encode(frame).shape == (1, 64, 6, 8)
        torch.testing.assert_close(net(frame), nets[0](frame))


@torch.no_grad()
@pytest.mark.parametrize("network", FLOW_NETWORKS)
def test_flow_has_quarter_resolution_whatever_the_size(network):
    net = FLOW_NETWORKS[network](0.125).eval()
    for height, width in ((64, 64), (50, 70), (17, 130)):
        frames = torch.rand(2, 1, 3, height, width)
        assert net(*frames).shape == (1, 2, -(-height // 4), -(-width // 4))


@torch.no_grad()
@pytest.mark.parametrize("network", FLOW_NETWORKS)
def test_flow_pyramid_is_coarse_to_fine(network):
    net, frames = FLOW_NETWORKS[network](0.125), torch.rand(2, 1, 3, 128, 192)
    flows = net.pyramid(*frames)
    strides = (32 if network == "litepwcnet" else 64, 32, 16, 8, 4)
    assert [flow.shape[1:] for flow in flows] == [(2, 128 // n, 192 // n) for n in strides]
    for levels in (1, 4):  # the finer ones left out
        torch.testing.assert_close(net.pyramid(*frames, levels), flows[:levels])


@torch.no_grad()
def test_levels_whose_sizes_are_rounded_up_lie_over_each_other():
    """A start that says where each of its pixels lies in the frame, refined by nothing, still says
    so at 1/4.
    """
    net = LitePWCNet(0.125)
    look = net.encode(torch.rand(1, 3, 1064, 1300))
    assert [tuple(feature.shape[2:]) for feature in look] == [
        (266, 325),
        (133, 163),
        (67, 82),
        (34, 41),
    ]
    y, x = (torch.arange(size) + 0.5 for size in (34, 41))
    start = torch.stack(torch.broadcast_tensors(x, y[:, None]))[None]
    flow = (
        net._refined(start, look, look, 5, lambda n, here, there, flow: torch.zeros_like(flow))[-1][
            0
        ]
        * FLOW_SCALE
    )
    y, x = (4 * (torch.arange(size) + 0.5) for size in (266, 325))
    inside = flow[:, 16:-16, 16:-16]  # at the border the outermost value is repeated
    torch.testing.assert_close(
        inside, torch.stack(torch.broadcast_tensors(x, y[:, None]))[:, 16:-16, 16:-16]
    )


def test_global_match_finds_what_moved_however_far():
    first = 5 * nn.functional.normalize(
        torch.randn(1, 16, 9, 14, generator=torch.Generator().manual_seed(0))
    )
    second = first.roll((2, -5), (2, 3))  # the content of p is at p + (-5, 2)
    flow = global_match(torch.einsum("bcyx,bcvu->byxvu", first, second))
    inside = flow[..., :7, 5:]
    torch.testing.assert_close(
        inside, torch.tensor([-5.0, 2]).view(1, 2, 1, 1).expand_as(inside), atol=0.05, rtol=0
    )
    assert global_match(torch.zeros(1, 9, 14, 9, 14)).abs().max() == 0  # all alike: it says nothing


def test_support_is_the_mean_of_what_neighbours_say():
    scores = torch.randn(1, 4, 7, 4, 7)
    ours = supported(scores)
    for y, x, v, u in ((0, 0, 0, 0), (3, 6, 0, 2), (1, 3, 2, 4), (0, 6, 3, 0)):
        shifts = range(-SUPPORT, SUPPORT + 1)
        inside = [
            (dy, dx)
            for dy in shifts
            for dx in shifts
            if 0 <= y + dy < 4 and 0 <= v + dy < 4 and 0 <= x + dx < 7 and 0 <= u + dx < 7
        ]
        said = [scores[0, y + dy, x + dx, v + dy, u + dx] for dy, dx in inside]
        assert ours[0, y, x, v, u].item() == pytest.approx(
            torch.stack(said).mean().item(), abs=1e-5
        )


@torch.no_grad()
def test_large_frames_are_matched_in_squares():
    net = LitePWCNet(0.125)
    frames = torch.rand(2, 1, 3, 2200, 2140)  # 69x67 places at 1/32
    looks = net.encode(frames[0]), net.encode(frames[1])
    assert looks[0][-1].shape[-2:] == (69, 67) and net.scores(looks[0][-1], looks[1][-1]).shape == (
        1,
        35,
        34,
        35,
        34,
    )
    assert [flow.shape[-1] for flow in net.match(*looks)] == [34, 67, 134, 268, 535]
    # What lies 64 pixels further is one square further, and its flow is 64 pixels.
    net.matching.weight.zero_()[:, :, 0, 0].fill_diagonal_(20)
    feature = (
        nn.functional.normalize(torch.randn(1, 16, 34, 32))
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    moved = feature.roll(2, 3)
    flow = net.match((*looks[0][:-1], feature), (*looks[1][:-1], moved), levels=1)[0] * FLOW_SCALE
    torch.testing.assert_close(flow[:, 0, :, :-1], torch.full((1, 34, 31), 64.0), atol=1.0, rtol=0)


def test_matching_loss_is_least_where_the_flow_leads(monkeypatch):
    net, frame = LitePWCNet(0.125), torch.rand(1, 3, 256, 384)
    feature = 8 * nn.functional.normalize(
        torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    )
    moved = feature.roll((2, -3), (2, 3))
    features = cycle([(feature,), (moved,)])
    monkeypatch.setattr(net, "extract", lambda frame: next(features))
    true = torch.tensor([-96.0, 64]).view(1, 2, 1, 1).expand(1, 2, 256, 384)
    losses = [
        net.supervised(frame, frame, flow, levels=1)[1]
        for flow in (true, true + 16, true + 32, 0 * true)
    ]
    assert 0 < losses[0] < 0.3 and losses[1] < losses[2] and losses[3] > 2
    losses[0].backward(retain_graph=True)
    assert net.matching.weight.grad.abs().max() > 0
    # Where the flow isn't known it says nothing: the wrong half is as if it weren't there.
    half, hidden = true.clone(), true.clone()
    half[..., :192], hidden[..., :192] = true[..., :192] + 32, torch.nan
    wrong, unknown = (net.supervised(frame, frame, flow, levels=1)[1] for flow in (half, hidden))
    assert losses[0] < wrong and unknown.item() == pytest.approx(losses[0].item(), abs=0.05)
    net.zero_grad(), unknown.backward()
    assert 0 < net.matching.weight.grad.abs().max() < 1e3
    assert FLOW_NETWORKS["flownets"](0.125).supervised(frame, frame, true)[1] == 0


def test_a_flow_is_pooled_over_what_is_known_of_it():
    flow = torch.arange(32.0).view(1, 2, 4, 4)
    torch.testing.assert_close(pooled(flow, 2, 2), nn.functional.avg_pool2d(flow, 2))
    flow[:, :, 0, :2] = flow[:, :, 2:, 2] = flow[:, :, 3, 3] = torch.nan
    assert pooled(flow, 2, 2)[0, 0].flatten().nan_to_num(-1).tolist() == [4.5, 4.5, 10.5, -1]


@pytest.mark.parametrize(("width", "radius"), [(37, 3), (16, 2), (3, 1)])
def test_cost_volume_is_every_product_within_its_radius(width, radius):
    first, second = torch.randn(2, 2, 5, 9, width).double().requires_grad_()
    volume = cost_volume(first, second, radius)
    padded = nn.functional.pad(second, (radius,) * 4)
    shifts = range(2 * radius + 1)
    expected = torch.stack(
        [(first * padded[..., y : y + 9, x : x + width]).mean(1) for y in shifts for x in shifts], 1
    )
    torch.testing.assert_close(volume, expected)
    weights = torch.randn_like(volume)
    gradients = (
        torch.autograd.grad((v * weights).sum(), (first, second)) for v in (volume, expected)
    )
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs)


def test_warp_samples_at_p_plus_flow():
    source = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(warp(source, flow, mode), source)
        flow[:, 0], flow[:, 1] = 1, 2
        torch.testing.assert_close(warp(source, flow, mode)[..., :2, :4], source[..., 2:, 1:])
        flow.zero_()
    flow[:, 0] = 0.5
    torch.testing.assert_close(
        warp(source, flow)[..., :4], (source[..., 1:] + source[..., :-1]) / 2
    )
    flow[:, 0] = -100  # outside: the border's pixel
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(warp(source, flow, mode), source[..., :1].expand_as(source))


def test_bicubic_warping_is_keys_cubic_convolution():
    source, flow = torch.rand(1, 2, 9, 11, dtype=torch.float64), 8 * torch.rand(1, 2, 9, 11) - 4

    def weight(x: float) -> float:  # his Eq. 15
        x = abs(x)
        return (
            1.5 * x**3 - 2.5 * x**2 + 1
            if x < 1
            else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            if x < 2
            else 0.0
        )

    expected = torch.zeros_like(source)
    for y, x in product(range(9), range(11)):
        across, down = x + flow[0, 0, y, x].item(), y + flow[0, 1, y, x].item()
        for row, column in product(range(-8, 20), range(-8, 20)):
            shares = weight(down - row) * weight(across - column)
            expected[..., y, x] += (
                shares * source[..., min(max(row, 0), 8), min(max(column, 0), 10)]
            )
    torch.testing.assert_close(warp(source, flow, "bicubic"), expected.float(), rtol=0, atol=2e-5)
    # What it is for: where a surface bends, too, it is met exactly.
    x = torch.arange(11.0)
    curve, flow = (x * x).expand(1, 1, 9, 11).contiguous(), torch.zeros(1, 2, 9, 11)
    flow[:, 0] = 0.3
    torch.testing.assert_close(
        warp(curve, flow, "bicubic")[..., 1:-2],
        ((x + 0.3) ** 2).expand(1, 1, 9, 11)[..., 1:-2],
        rtol=1e-4,
        atol=1e-4,
    )


def test_composition_is_equation_3():
    net1 = Net1(flow_width=0.125, warp_mode="bilinear", sharpen=0)
    feature, previous = torch.randn(2, 1, 64, 6, 8)
    flow = torch.full((1, 2, 6, 8), 4.0)  # four pixels of the frame are one of the feature
    unexplained = torch.rand(1, 3, 6, 8)
    composite, mask = net1.compose(feature, previous, flow, unexplained)
    warped = warp(previous, torch.ones(1, 2, 6, 8))
    torch.testing.assert_close(composite, (1 - mask) * feature + mask * warped)
    assert (
        mask.shape == (1, 1, 6, 8)
        and mask[..., :-1, :-1].min() > 0
        and mask.max() < 1 - net1.refresh
    )
    half, half_mask = net1.compose(feature, previous, flow, unexplained, coherence=0.5)
    torch.testing.assert_close(half_mask, mask / 2)
    torch.testing.assert_close(half, torch.lerp(feature, warped, mask / 2))


@torch.no_grad()
def test_what_resampling_blurs_is_sharpened_up_to_what_the_frame_has():
    net1, flow = Net1(flow_width=0.125, refresh=0, sharpen=0.3), torch.full((1, 2, 24, 24), 4.0)
    sharp = torch.randn(1, 64, 24, 24)
    blurred = F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    slightly, most = 0.9 * sharp + 0.1 * blurred, torch.full((1, 1, 24, 24), 0.3)

    def detail(x: torch.Tensor) -> torch.Tensor:
        return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

    def share(x: torch.Tensor) -> float:
        return (detail(x).square().mean() / detail(sharp).square().mean()).sqrt().item()

    very = net1.sharpened(blurred, sharp, most)
    torch.testing.assert_close(very, blurred + 0.3 * detail(blurred))  # no more than that
    # no further than the frame
    assert share(slightly) < 0.95 and 0.97 < share(net1.sharpened(slightly, sharp, most)) < 1.01
    torch.testing.assert_close(net1.sharpened(sharp, sharp, most), sharp)
    torch.testing.assert_close(net1.sharpened(sharp, blurred, most), sharp)
    # As it is composed: with the mask's share.
    feature, unexplained = torch.randn(1, 64, 24, 24), torch.zeros(1, 3, 24, 24)
    plain = Net1(flow_width=0.125, refresh=0, sharpen=0)
    plain.load_state_dict(net1.state_dict())
    composite, mask = plain.compose(feature, blurred, flow, unexplained)
    sharpened, _ = net1.compose(feature, blurred, flow, unexplained)
    torch.testing.assert_close(sharpened, net1.sharpened(composite, feature, 0.3 * mask))
    assert (sharpened - composite).abs().max() > 0.01
    # What a codec leaves of no change counts by its share of a quarter of `still`: what is repeated
    # has been sharpened before.
    net1.hold = plain.hold = 0.0
    for change, share in ((0.0, 0.0), (net1.still / 8, 0.5), (net1.still / 2, 1.0), (1.0, 1.0)):
        sharpened, _ = net1.compose(
            feature, blurred, flow, unexplained, torch.full((1, 1, 24, 24), change)
        )
        torch.testing.assert_close(
            sharpened, net1.sharpened(composite, feature, 0.3 * share * mask)
        )


@torch.no_grad()
def test_what_moved_is_refreshed_and_what_stands_still_is_kept():
    net1, flow = Net1(flow_width=0.125, refresh=0.25, sharpen=0), torch.zeros(1, 2, 6, 8)
    flow[:, 0, :, 4:] = 0.1
    parts = torch.randn(1, 64, 6, 8), torch.randn(1, 64, 6, 8), flow, torch.rand(1, 3, 6, 8)
    _, refreshed = net1.compose(*parts)
    net1.refresh = 0.0
    _, mask = net1.compose(*parts)
    torch.testing.assert_close(refreshed[..., :4], mask[..., :4])
    torch.testing.assert_close(refreshed[..., 4:], 0.75 * mask[..., 4:])


@torch.no_grad()
def test_nothing_is_reused_from_beyond_the_frame():
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0, 0], flow[:, 0, 1], flow[:, 1, :, 4] = -4, 2, 4.8
    reach = within(flow / 4)
    expected = torch.ones(6, 8)
    expected[0, 0], expected[1, 7], expected[4:, 4] = 0, 0.5, torch.tensor([0.8, 0])
    torch.testing.assert_close(reach[0, 0], expected)
    net1 = Net1(flow_width=0.125, refresh=0, sharpen=0)
    parts = torch.randn(1, 64, 6, 8), torch.randn(1, 64, 6, 8), flow, torch.rand(1, 3, 6, 8)
    composite, mask = net1.compose(*parts)
    assert (mask[0, 0] > 0).equal(expected > 0)
    torch.testing.assert_close(composite[..., 0, 0], parts[0][..., 0, 0])


@torch.no_grad()
def test_what_did_not_change_is_held():
    net1, flow = (
        Net1(flow_width=0.125, still=0.02, hold=0.75, refresh=0, sharpen=0),
        torch.zeros(1, 2, 6, 8),
    )
    parts = torch.randn(1, 64, 6, 8), torch.randn(1, 64, 6, 8), flow, torch.rand(1, 3, 6, 8)
    change = torch.tensor([0, 0, 0.01, 0.01, 0.02, 0.02, 0.5, 0.5]).expand(1, 1, 6, 8)
    _, mask = net1.compose(*parts)
    composite, held = net1.compose(*parts, change)
    # of what the mask lets in
    stays_out = torch.tensor([0.75, 0.75, 0.375, 0.375, 0, 0, 0, 0]) * mask
    torch.testing.assert_close(1 - held, (1 - mask) * (1 - stays_out))
    torch.testing.assert_close(composite, torch.lerp(parts[0], parts[1], held))
    net1.still = -1.0
    torch.testing.assert_close(net1.compose(*parts, change)[1], mask)


@torch.no_grad()
def test_what_the_motion_explains_is_not_unexplained():
    net1 = Net1(flow_width=0.125)
    previous = torch.rand(1, 3, 48, 62)
    frame = previous.roll((-4, 8), (2, 3))  # frame(p) = previous(p + (-8, 4))
    flow = torch.tensor([-8.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 12, 16)
    quarters = net1.downsample4(frame), net1.downsample4(previous)
    unexplained = net1.warp_residual(*quarters, flow)
    assert unexplained.shape == (1, 3, 12, 16)
    assert (
        unexplained[..., :11, 2:15].max()
        < 1e-6
        < 0.01
        < net1.warp_residual(*quarters, 0 * flow).mean()
    )


def test_of_a_repeated_frame_less_change_counts():
    net1, previous = Net1(flow_width=0.125), torch.full((2, 3, 48, 64), 0.5)
    frame = previous.clone()
    frame[0] += 1.4 / 255
    frame[1] += 1.6 / 255
    frame[0, :, 20, 20] += 20 / 255
    whole = F.max_pool2d(
        F.max_pool2d((frame - previous).abs().amax(1, keepdim=True), 4), 3, stride=1, padding=1
    )
    assert whole[0].mean() > 1.5 / 255
    assert torch.equal(net1.max_change(frame, previous), whole)
    frame[0] -= 1 / 255
    whole[0] -= 1 / 255
    torch.testing.assert_close(
        net1.max_change(frame, previous), torch.stack((whole[0] / 8, whole[1]))
    )


@torch.no_grad()
def test_what_stands_still_has_no_flow():
    net1 = Net1(flow_width=0.125, still=0.01)
    previous = torch.rand(1, 3, 48, 64)
    assert net1.estimate_motion(previous + 0.009, previous).abs().max() == 0
    frame = previous + 0.009  # more than in a frame that repeats the one before
    frame[..., 2, 41] += 0.02  # one sample, in the feature's cell (0, 10)
    flow, everywhere = net1.estimate_motion(frame, previous), net1.flow(frame, previous)
    moved = torch.zeros(12, 16, dtype=torch.bool)
    moved[:2, 9:12] = True
    assert torch.equal(flow[..., moved], everywhere[..., moved]) and (flow[..., ~moved] == 0).all()
    net1.still = -1.0
    assert torch.equal(net1.estimate_motion(frame, previous), everywhere)
