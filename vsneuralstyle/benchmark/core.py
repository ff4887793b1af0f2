"""The core by itself: whole frames, each stage, and the operators that a frame's time goes to."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor
from torch.autograd import DeviceType

from vsneuralstyle.benchmark.arithmetic import Peak, count
from vsneuralstyle.benchmark.clip import CODING, Clip, blank
from vsneuralstyle.benchmark.peer import usual_network
from vsneuralstyle.benchmark.timing import in_turn, synchronise
from vsneuralstyle.core.stylizer import Stylizer
from vsneuralstyle.engines.cuda.graphs import record
from vsneuralstyle.video import pixels

PER_FRAME, COHERENT, CONVERTED = "per frame", "coherent", "coherent, I420 in and out"
USUAL = "usual eager float32, per frame"
OPERATORS, PROFILED, LONGEST = 12, 3, 60
"""Of a profile: the operators that are shown, frames, and the characters of a name."""


@dataclass(frozen=True)
class Stage:
    """A part of a coherent frame: a function without state, and tensors as they reach it in a
    clip.
    """

    function: Callable
    inputs: tuple[Tensor, ...]

    def __call__(self) -> object:
        return self.function(*self.inputs)


def play(stylizer: Stylizer, clip: Clip) -> Callable[[], object]:
    """A function that stylizes the next frame of the clip, which never ends."""
    frames = cycle(clip.frames(stylizer.device))
    return lambda: stylizer.stylize(next(frames))


def play_converted(stylizer: Stylizer, clip: Clip) -> Callable[[], object]:
    """The same with the host's part: from 8-bit I420 in host memory to 8-bit I420 in host
    memory.
    """
    pictures, target = cycle(clip.pictures), blank(*clip.size)

    def step() -> None:
        frame = pixels.components_to_rgb(next(pictures), CODING, stylizer.device)
        pixels.rgb_to_components(stylizer.stylize(frame), target, CODING)

    return step


def play_usual(stylizer: Stylizer, clip: Clip) -> Callable[[], object]:
    """The usual code for a Johnson network of the same channels and blocks as the stylizer's style
    network.
    """
    networks = stylizer.model.header["networks"]
    network = usual_network(
        **{key: networks[key] for key in ("channels", "residual_blocks") if key in networks}
    )
    network, frames = network.to(stylizer.device), cycle(clip.frames(stylizer.device))
    return lambda: network(next(frames))


def stages(stylizer: Stylizer, clip: Clip) -> dict[str, Stage]:
    """The parts of `Stylizer.stylize` from a clip's second frame on, by name, as it calls them."""
    net1, (width, height) = stylizer.engine, clip.size
    previous, frame = clip.frames(stylizer.device)[:2]
    moving = frame, previous, net1.max_change(frame, previous), *net1.flow_features(previous)

    def flow(frame: Tensor, previous: Tensor, change: Tensor, *looked: Tensor) -> Tensor:
        return net1.estimate_motion(frame, previous, change, (net1.flow_features(frame), looked))

    def compose(
        feature: Tensor,
        before: Tensor,
        flow: Tensor,
        frame: Tensor,
        previous: Tensor,
        quarter: Tensor,
    ) -> Tensor:
        unexplained = net1.warp_residual(net1.downsample4(frame), quarter, flow)
        return net1.compose(feature, before, flow, unexplained, net1.max_change(frame, previous))[0]

    def decode(composite: Tensor) -> Tensor:
        return net1.decode(composite, height, width)

    composing = (
        net1.encode(frame),
        net1.encode(previous).float(),
        flow(*moving),
        frame,
        previous,
        net1.downsample4(previous),
    )
    return {
        "encode": Stage(net1.encode, (frame,)),
        "flow": Stage(flow, moving),
        "compose (warp, mask)": Stage(compose, composing),
        "decode": Stage(decode, (compose(*composing),)),
    }


def as_run(stylizer: Stylizer, stage: Stage) -> Callable[[], object]:
    """A stage as the stylizer runs it: on a GPU in a CUDA graph, since launched one by one from
    Python its kernels come too late.
    """
    if stylizer.device.type == "cpu":
        return stage
    again = record(lambda *inputs: (stage.function(*inputs),), stage.inputs, stylizer.device)
    return lambda: again(stage.inputs)


def beside(stylizer: Stylizer, clip: Clip) -> dict[str, Callable[[], object]]:
    """What a frame costs beside its stages: the look for a cut, and what hosts convert, by name."""
    previous, frame = clip.frames(stylizer.device)[:2]
    picture, target = clip.pictures[0], blank(*clip.size)
    rgb = [(frame[0, n].cpu() * 255).byte().numpy() for n in range(3)]
    rgb_target = [plane.copy() for plane in rgb]
    return {
        "scene cut detector": lambda: stylizer.is_cut(previous, frame),
        "8-bit RGB in": lambda: pixels.planes_to_rgb(rgb, device=stylizer.device),
        "8-bit RGB out": lambda: pixels.rgb_to_planes(frame, rgb_target),
        "I420 in": lambda: pixels.components_to_rgb(picture, CODING, stylizer.device),
        "I420 out": lambda: pixels.rgb_to_components(frame, target, CODING),
    }


def profile(call: Callable[[], object], device: torch.device) -> list[dict]:
    """The operators that take most of a frame's time, those that they call themselves left out; on
    a GPU its kernels, since in a graph there are no operators.

    Args:
        call: stylizes a frame.
        device: what it computes on.

    Returns:
        Of each operator its name, calls a frame, seconds a frame, and its share of all operators'
        time.
    """
    cuda = device.type == "cuda"
    kinds = [
        torch.profiler.ProfilerActivity.CPU,
        *([torch.profiler.ProfilerActivity.CUDA] if cuda else []),
    ]
    call()
    with torch.profiler.profile(activities=kinds) as profiled:
        for _ in range(PROFILED):
            call()
        synchronise(device)
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [event for event in profiled.key_averages() if event.device_type == kind]
    times = {
        event: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in events
    }
    total = sum(times.values())
    longest = sorted(times, key=lambda event: times[event], reverse=True)[:OPERATORS]
    return [
        {
            "name": shortened(event.key),
            "calls": event.count / PROFILED,
            "seconds": times[event] / PROFILED / 1e6,
            "share": times[event] / total,
        }
        for event in longest
    ]


def shortened(name: str) -> str:
    """An operator's or kernel's name without its template's arguments and parameters, at most
    `LONGEST` characters of it.
    """
    name = re.split(r"[<(]", name.removeprefix("void ").replace("(anonymous namespace)::", ""))[0]
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


@torch.inference_mode()
def measure(
    make: Callable[..., Stylizer], clip: Clip, peak: Peak, rounds: int, warm_up: int
) -> dict[str, list[dict]]:
    """Whole frames and stages, all in turn; then what a coherent frame does.

    Args:
        make: `Stylizer` with all but `coherence`.
        clip: the frames.
        peak: of the device in this precision.
        rounds, warm_up: of `in_turn`; warm_up at least 1, since a clip's first frame is never
            coherent.

    Returns:
        The rows of a report's tables "frames", "stages" and "operators".
    """
    stylizer = make()
    coherent = play(stylizer, clip)
    whole = {
        PER_FRAME: play(make(coherence=0.0), clip),
        COHERENT: coherent,
        CONVERTED: play_converted(make(), clip),
        USUAL: play_usual(stylizer, clip),
    }
    parts, others = stages(stylizer, clip), beside(stylizer, clip)
    runs = {name: as_run(stylizer, stage) for name, stage in parts.items()}
    timings = {
        timing.name: timing
        for timing in in_turn({**whole, **runs, **others}, rounds, warm_up, stylizer.device)
    }
    frames = [timings[name].row(timings[PER_FRAME]) for name in whole]
    rows = [timings[name].row(timings[COHERENT]) for name in (*parts, *others)]
    for row in rows:
        if row["name"] in parts:
            stage = parts[row["name"]]
            row.update(count(stage.function, stage.inputs).row(peak))
    return {"frames": frames, "stages": rows, "operators": profile(coherent, stylizer.device)}
