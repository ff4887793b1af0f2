"""The recurrence: exact whatever the grouping, reset at cuts, and each control at both of its
ends.
"""

import os
import platform
import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from vsneuralstyle import ArgumentError, DeviceError, ModelError, Stylizer
from vsneuralstyle.core.device import resolve_precision
from vsneuralstyle.core.recurrence import encode_with_flow_features
from vsneuralstyle.engines.cpu import kernels, library
from vsneuralstyle.engines.cpu.engine import CpuEngine
from vsneuralstyle.engines.cpu.host import computing_by, openmp

THREADS_BEFORE = torch.get_num_threads()

DEVICES = [
    "cpu",
    # a CPU whose steps are called as CUDA graphs are, on tensors that stay where they are
    "graphs",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture
def stylizer(model_dir, device, again, reference, monkeypatch):
    """Makes a Stylizer of candy."""
    if device != "graphs":
        return lambda **options: Stylizer("candy", device=device, **options)
    monkeypatch.setattr("vsneuralstyle.core.stylizer.select_engine", reference)

    def make(**options) -> Stylizer:
        one = Stylizer("candy", device="cpu", **options)
        one.pipeline.capture(again)
        return one

    return make


def encode_ahead(one: Stylizer, frame: torch.Tensor) -> Future:
    """Also where the pipeline does frames one by one."""
    frame = frame.clone()
    ahead = one.encode_ahead(lambda: frame)
    if ahead is None:
        ahead = Future()
        ahead.set_result(one.pipeline._encode(frame, one.options))
    return ahead


def per_frame(stylizer, frames) -> torch.Tensor:
    return stylizer(coherence=0).stylize(frames)


def test_grouping_changes_no_bit(stylizer, frames):
    one = stylizer()
    whole = one.stylize(frames)
    assert (
        whole.shape == frames.shape
        and whole.dtype == torch.float32
        and whole.min() >= 0
        and whole.max() <= 1
    )
    for sizes in ([1] * 8, [3, 5], [2, 2, 4]):
        one.reset()
        assert torch.equal(torch.cat([one.stylize(group) for group in frames.split(sizes)]), whole)


def test_frames_begun_ahead_are_the_same_bit_for_bit(stylizer, frames):
    one = stylizer()
    whole, starts, state = one.stylize(frames), one.scene_starts, one.state
    one.reset()
    with one.io_context():
        begun = [one.submit(frame.clone()) for frame in frames.split(1)]
    stylized, started = zip(*(future.result() for future in begun))
    assert torch.equal(torch.cat(stylized), whole) and started == starts
    assert torch.equal(one.state.feature, state.feature)
    one.reset()
    begun = [one.submit(frames[n : n + 1], told) for n, told in enumerate((None, True, False))]
    one.reset()  # waits for them
    assert all(future.done() for future in begun) and [future.result()[1] for future in begun] == [
        True,
        True,
        False,
    ]
    assert torch.equal(one.stylize(frames[:2]), whole[:2])


def test_a_frame_has_the_options_of_when_it_was_submitted(stylizer, frames):
    """Whatever is set while it is in flight."""
    one, shown = stylizer(), []
    settings = [
        {"strength": 0.5},
        {"strength": 1, "preserve_color": True},
        {"preserve_color": False, "coherence": 0.5},
        {"coherence": 1, "scene_cut": 0},
    ]
    for together in (False, True):
        one.reset()
        one.strength, one.preserve_color, one.coherence, one.scene_cut = 1, False, 1, 0.15
        pending = [one.submit(frames[3:4].clone())]
        for setting, frame in zip(settings, frames[2:6].split(1)):
            if not together:
                pending[-1].result()
            for name, value in setting.items():
                setattr(one, name, value)
            pending.append(one.submit(frame.clone()))
        shown.append(torch.cat([one.result()[0] for one in pending]))
    assert torch.equal(*shown)


def test_a_frame_can_be_encoded_at_any_time(stylizer, frames):
    one = stylizer()
    whole = one.stylize(frames)
    one.reset()
    encoded = [encode_ahead(one, frame) for frame in frames.flip(0).split(1)][::-1]
    stylized, starts = zip(*(one.submit(frame).result() for frame in encoded))
    assert torch.equal(torch.cat(stylized), whole) and starts == (
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    )
    one.coherence = 0
    later = [encode_ahead(one, frame) for frame in frames[:3].split(1)]
    assert later[1].result().flow_features is None  # the first is a repeated frame
    one.coherence = 1
    one.reset()
    assert torch.equal(torch.cat([one.submit(frame).result()[0] for frame in later]), whole[:3])


def test_a_repeated_frame_is_prepared_once(model_dir, frames, monkeypatch):
    """As where a frame rate was raised. Its pixels are those of all the work done again, and it is
    followed as any other frame is.
    """
    repeated = frames[[0, 0, 1, 1, 1, 2, 0, 0]]
    one, other = (Stylizer("candy", device="cpu") for _ in range(2))
    other.pipeline._reuses_repeated_frames = False
    made, matched, functions = [], [], one.pipeline._functions
    encode = functions[encode_with_flow_features]
    functions[encode_with_flow_features] = lambda frame: made.append(frame) or encode(frame)
    place, name = (
        (kernels, "estimate_motion")
        if isinstance(one.engine, CpuEngine)
        else (type(one.model.net1.flow), "match")
    )
    match = getattr(place, name)
    monkeypatch.setattr(
        place, name, lambda *looks, **how: matched.append(looks) or match(*looks, **how)
    )
    stylized = one.stylize(repeated)
    assert len(made) == 4 and len(matched) == 3  # 0 to 1, 1 to 2, 2 to 0
    assert torch.equal(stylized, other.stylize(repeated)) and len(matched) == 3 + 7
    one.reset()
    with one.io_context():
        begun = [one.submit(frame.clone()) for frame in repeated.split(1)]
    assert torch.equal(torch.cat([future.result()[0] for future in begun]), stylized)
    for stylizer in (one, other):
        stylizer.reset()
        stylizer.coherence = 0
        stylizer.stylize(frames[:1])
        stylizer.coherence = 1
    # after one that nobody looked at
    assert torch.equal(one.stylize(frames[:1]), other.stylize(frames[:1]))
    with monkeypatch.context() as failing:
        failing.setitem(functions, encode_with_flow_features, lambda frame: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            one.stylize(frames[1:2])
    assert torch.equal(one.stylize(frames[1:2]), other.stylize(frames[1:2]))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_threads_as_there_are_change_no_bit(model_dir, frames, threads):
    """Of a frame at a time, and of two at a time by half of them each; and they stay as they
    were.
    """
    expected = Stylizer("candy", device="cpu").stylize(frames)
    with computing_by(threads):
        one = Stylizer("candy", device="cpu")
        assert one.is_async == (threads > 1 and None not in (openmp(), library.library()))
        assert torch.equal(one.stylize(frames), expected)
        one.reset()
        with one.io_context():
            assert torch.get_num_threads() == (1 if one.is_async else threads)
            begun = [one.submit(frame.clone()) for frame in frames.split(1)]
        assert torch.equal(torch.cat([future.result()[0] for future in begun]), expected)
        assert torch.get_num_threads() == (threads if openmp() else THREADS_BEFORE)
    assert torch.get_num_threads() == THREADS_BEFORE


def test_cut_resets_to_net0_bit_for_bit(stylizer, frames):
    one = stylizer()
    whole = one.stylize(frames)
    assert one.scene_starts == (True, False, False, False, False, True, False, False)
    single = per_frame(stylizer, frames)
    assert torch.equal(whole[0], single[0]) and torch.equal(whole[5], single[5])
    assert not torch.equal(whole[4], single[4])
    one.reset()
    assert torch.equal(one.stylize(frames[5:]), whole[5:])


@pytest.mark.parametrize("level", [0, 16, 255])
def test_a_frame_of_one_color_stays_as_it_is(stylizer, frames, level):
    """A black leader has noise, and nothing to draw; instance normalisation would make a picture of
    it, and of none a grid.
    """
    one = stylizer(strength=0.7)
    flat = torch.full((3, 3, 48, 64), level / 255)
    flat[1:] = (
        flat[1:]
        + torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)).round() / 255
    ).clamp(0, 1)
    assert torch.equal(one.stylize(flat).cpu(), flat)
    assert one.state.opacity == 0
    assert not torch.equal(one.stylize(frames[:1]).cpu(), frames[:1]) and one.state.opacity == 1


def test_a_fade_brings_the_style_and_nothing_of_what_was_before(stylizer, frames):
    one, alone = stylizer(scene_cut=0), stylizer(coherence=0)
    levels = (0, 0.01, 0.015, 0.02, 0.04, 0.1, 1)
    fade = torch.cat([(frames[:1] * level * 255).round() / 255 for level in levels])
    styled, shares = [], []
    for frame in fade.split(1):
        styled.append(one.stylize(frame))
        shares.append(one.state.opacity)
    assert (
        shares == sorted(shares)
        and shares[0] == 0
        and shares[-1] == 1
        and 0 < shares[shares.count(0)] < 1
    )
    first = shares.count(0)  # that shows anything
    assert torch.equal(torch.cat(styled[: first + 1]), alone.stylize(fade[: first + 1]))
    distance = [(a.cpu() - b).abs().mean().item() for a, b in zip(styled, fade)]
    assert distance[:-1] == sorted(distance[:-1]) and distance[first] < 0.5 * distance[-2]


def test_the_hosts_word_on_cuts_outweighs_the_detector(stylizer, frames):
    one = stylizer()
    one.stylize(frames, [None, None, True, None, None, False, None, None])
    assert one.scene_starts == (True, False, True, False, False, False, False, False)
    one = stylizer(scene_cut=0)
    one.stylize(frames)
    assert one.scene_starts == (True,) + (False,) * 7


def test_state_can_be_kept_and_resumed(stylizer, frames):
    one = stylizer()
    one.stylize(frames[:2])
    state = one.state
    rest = one.stylize(frames[2:4])
    other = stylizer()
    other.state = state
    assert torch.equal(other.stylize(frames[2:4]), rest)


def test_a_checkpoint_stays_as_it_is(stylizer, frames):
    one = stylizer()
    one.stylize(frames[:2])
    state = one.state
    parts = state.frame, state.lowres, state.feature, *state.flow_features
    copies = [part.clone() for part in parts]
    first = one.stylize(frames[2:5])
    one.state = state
    assert torch.equal(one.stylize(frames[2:5]), first)
    assert all(map(torch.equal, parts, copies))


def test_state_holds_no_memory_of_the_host(stylizer, frames):
    one, mine = stylizer(), frames.clone()
    one.stylize(mine[:1])
    mine.zero_()
    second = one.stylize(frames[1:2])
    one.reset()
    one.stylize(frames[:1])
    assert torch.equal(one.stylize(frames[1:2]), second)


def test_a_static_clip_stands_still(stylizer, frames):
    still = frames[:1].repeat(6, 1, 1, 1)
    out = stylizer().stylize(still)
    assert (out[1:] - out[:-1]).abs().max() < 2.5 / 255


def test_strength(stylizer, frames):
    full = stylizer().stylize(frames[:3]).cpu()
    assert torch.equal(stylizer(strength=0.0).stylize(frames[:3]).cpu(), frames[:3])
    torch.testing.assert_close(
        stylizer(strength=0.25).stylize(frames[:3]).cpu(), torch.lerp(frames[:3], full, 0.25)
    )


def test_preserve_color_keeps_chroma(stylizer, frames):
    out = stylizer(preserve_color=True).stylize(frames[:1]).cpu()
    weights = torch.tensor([0.2126, 0.7152, 0.0722]).view(1, 3, 1, 1)
    chroma = [x - (x * weights).sum(1, keepdim=True) for x in (out, frames[:1])]
    inside = ((out > 0) & (out < 1)).all(1, keepdim=True).expand_as(out)
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(chroma[0][inside], chroma[1][inside], atol=1e-5, rtol=0)
    assert (out - frames[:1]).abs().mean() > 0.02


@pytest.mark.parametrize("height, width", [(16, 16), (17, 31), (45, 83)])
def test_any_size_and_no_border(stylizer, height, width):
    frames = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert stylizer().stylize(frames).shape == frames.shape


def test_float32_and_the_automatic_precision_agree(stylizer, frames):
    reference, automatic = (
        stylizer(precision="float32").stylize(frames).cpu(),
        stylizer().stylize(frames).cpu(),
    )
    mse = float((reference - automatic).square().mean())
    assert -10 * np.log10(max(mse, 1e-12)) > 30


@pytest.mark.parametrize(
    "units, vendor, found, precision",
    [
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", "kernels-v4-amx", torch.bfloat16),
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", None, torch.bfloat16),  # PyTorch computes
        # the system, or the compiler, knows nothing of AMX
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", "kernels-v4-bf16", torch.float32),
        ({"avx512_bf16"}, "GenuineIntel", "kernels-v4-bf16", torch.float32),
        ({"avx512_bf16"}, "AuthenticAMD", "kernels-v4-bf16", torch.bfloat16),
        ({"avx2"}, "AuthenticAMD", "kernels-v3", torch.float32),
    ],
)
def test_the_automatic_precision_is_the_faster_one(monkeypatch, units, vendor, found, precision):
    monkeypatch.setattr("vsneuralstyle.core.device.units", lambda: units)
    monkeypatch.setattr("vsneuralstyle.core.device.cpuinfo", lambda: {"vendor_id": vendor})
    monkeypatch.setattr(library, "library", lambda: found)
    monkeypatch.setattr(library, "name", lambda: found)
    assert resolve_precision("auto", torch.device("cpu")) == precision


def test_bad_arguments_are_errors_that_say_what_is_expected(model_dir):
    for options, error, match in (
        ({"device": "tpu"}, DeviceError, "'tpu'.*auto, cpu, cuda"),
        ({"device": "cuda:99"}, DeviceError, "cuda:99.*not there"),
        ({"precision": "int8"}, DeviceError, "'int8'.*bfloat16"),
        ({"device": "cpu", "precision": "float16"}, DeviceError, "needs a GPU"),
        ({"strength": 1.5}, ArgumentError, "strength is 1.5"),
        ({"coherence": -1}, ArgumentError, "coherence is -1"),
        ({"net": "nonet"}, ModelError, "johnson"),
    ):
        with pytest.raises(error, match=match):
            Stylizer("candy", **options)
    with pytest.raises(ModelError, match="'nope'.*candy"):
        Stylizer("nope")


def test_bad_frames_are_errors_that_leave_the_state(model_dir, frames):
    one = Stylizer("candy", device="cpu")
    one.stylize(frames[:1])
    for bad, match in (
        (frames[0], r"expected \(B, 3, H, W\)"),
        (frames.double(), "float64"),
        (frames[..., :15], "too small"),
        (frames[..., :32], "after one of 64x48"),
    ):
        with pytest.raises(ArgumentError, match=match):
            one.stylize(bad)
    for bad, match in (
        (frames[:2], r"expected \(1, 3, H, W\)"),
        (frames[:1, ..., :15], "too small"),
    ):
        with pytest.raises(ArgumentError, match=match):
            one.submit(bad)
    with pytest.raises(ArgumentError, match="after one of 64x48"):
        one.submit(frames[:1, ..., :32]).result()
    with pytest.raises(ArgumentError, match="2 entries in starts_scene for 1"):
        one.stylize(frames[:1], [None, None])
    after = one.stylize(frames[1:2])
    other = Stylizer("candy", device="cpu")
    assert torch.equal(other.stylize(frames[:2])[1:], after)


THREADS = """
import os, sys, time
import torch
from vsneuralstyle import Stylizer

def count():
    return len(os.listdir("/proc/self/task"))

before = count()
stylizer = Stylizer("candy", device="cpu", model_dir=sys.argv[1])
until = time.monotonic() + 10
while count() > before and time.monotonic() < until:
    time.sleep(0.01)
print(before, count())
"""


@pytest.mark.subprocess
@pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="no /proc: threads can't be counted"
)
def test_making_one_leaves_no_thread_behind(model_dir):
    """A thread's workers, once it has computed, make those of the host's own sleep at every
    barrier.
    """
    result = subprocess.run(
        [sys.executable, "-c", THREADS, str(model_dir)],
        env={**os.environ, "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    before, after = result.stdout.split()
    assert before == after


@pytest.mark.subprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc's mallopt")
def test_a_frames_memory_is_kept_for_the_next(model_dir):
    """On a thread of its own, as hosts do it: nearly no page of it comes from the system again."""
    program = """if True:
        import resource, sys, threading, torch
        from vsneuralstyle import Stylizer

        def play():
            stylizer = Stylizer("candy", device="cpu", model_dir=sys.argv[1])
            frames = torch.rand(4, 1, 3, 360, 640)
            for n in range(16):
                stylizer.stylize(frames[n % 4], [False])
                if n == 9:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 6)

        thread = threading.Thread(target=play)
        thread.start()
        thread.join()
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    faults = []
    # the user's own word, glibc's default as it happens
    for extra in ({}, {"MALLOC_TOP_PAD_": "131072"}):
        run = subprocess.run(
            [sys.executable, "-c", program, model_dir],
            env=environment | extra,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        faults.append(float(run.stdout))
    assert faults[0] < 0.2 * faults[1], faults
