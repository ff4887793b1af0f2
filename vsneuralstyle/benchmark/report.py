"""Tables and a plot of what was measured. A report is a dict as JSON holds it; times are seconds,
sizes bytes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

FRAMES = """\
One frame a call, all rows (and all stages) in turn. ms: the median; spread: the quartiles. Ratio: \
the median over
that of the first row of the same size. "Usual eager float32" is a network of the same layers out \
of plain `torch.nn`
modules, contiguous (NCHW), with random weights: it is there for its time alone. "I420 in and out" \
starts and ends
with 8-bit samples in host memory; the other rows' frames are float RGB on the device."""
STAGES = """\
Each by itself, on tensors of the clip's second frame, on a GPU as a CUDA graph. Share: of a \
coherent frame's time (the first
four and the detector make one; what hosts convert comes on top)."""
ARITHMETIC = """\
Operations: multiplications and additions of the convolutions and matrix products that were \
executed, rearranged ones
as they are, by the kernels in float32 or in bfloat16, of tiles with the zeros that fill them; \
normalisation, activation and warp are not counted. In, out, weights: the bytes of the stage's own.
Floor: the longer of operations over the peak and these bytes over the bandwidth, with all between \
in caches. Layers'
floor: the same layer by layer, each of which reads its input from memory and writes its output \
there (where caches
hold them it can be beaten). Reached: the floor over the measured time."""
OPERATORS = """\
Those of a coherent frame that take longest, without what they call in turn; on a GPU its kernels. \
Share: of all of their time."""
HOSTS = """\
The core and the hosts in turn, with as many torch threads. A host's time is that from one frame's \
arrival to the next's,
I420 in and out, its start left out; so is that of "two at a time" (on a CPU) and "ahead" (on a \
GPU), where the core works
ahead. Of such times the mean of four in a row counts. gst-launch-1.0 has `lookahead=3`. Ratio: \
over the core's first row."""
START = """\
A fresh process, the median of its starts, on the first size. "All" is from the command to the \
first frame."""
MEMORY = """\
A fresh process stylizes a small clip. Resident: all of the process's memory then; CUDA: the most \
that tensors took
since the row above."""


def text(report: dict) -> str:
    """The report as Markdown."""
    about = report["about"]
    parts = [f"# Benchmark of the style {about['style']} ({about['net']})", _about(about)]
    sized = [
        (f"{width}x{height}", of_size)
        for of_size in report["sizes"]
        for width, height in [of_size["size"]]
    ]
    parts += ["## Whole frames", FRAMES, _frames_table(sized, "frames")]
    parts += [
        "## Stages",
        STAGES,
        _table(
            ("size", "", "ms", "spread", "share"),
            (
                (size, row["name"], *_times(row), f"{row['ratio']:.1%}")
                for size, of_size in sized
                for row in of_size["stages"]
            ),
        ),
    ]
    peak = report["peak"]
    measured = (
        f"Measured peaks: {peak['operations'] / 1e9:.1f} G operations a second (a large matrix "
        f"product in {about['precision']}; in float32 {peak['float32'] / 1e9:.1f}), "
        f"{peak['bytes'] / 1e9:.1f} GB a second (a large copy, read and written)."
    )
    parts += [
        "## Operations and bytes",
        ARITHMETIC,
        measured,
        _table(
            (
                "size",
                "",
                "G operations",
                "MB in",
                "MB out",
                "MB weights",
                "MB through layers",
                "floor, ms",
                "reached",
                "layers' floor, ms",
                "reached",
            ),
            (
                (
                    size,
                    row["name"],
                    f"{row['operations'] / 1e9:.3f}",
                    *(f"{row[key] / 1e6:.2f}" for key in ("read", "written", "weights", "layers")),
                    *(
                        cell
                        for key in ("floor", "layers_floor")
                        for cell in (_ms(row[key]), f"{row[key] / row['median']:.0%}")
                    ),
                )
                for size, of_size in sized
                for row in of_size["stages"]
                if "operations" in row
            ),
        ),
    ]
    parts += [
        "## Operators",
        OPERATORS,
        _table(
            ("size", "", "calls", "ms", "share"),
            (
                (
                    size,
                    f"`{row['name']}`",
                    f"{row['calls']:g}",
                    _ms(row["seconds"]),
                    f"{row['share']:.1%}",
                )
                for size, of_size in sized
                for row in of_size["operators"]
            ),
        ),
    ]
    parts += ["## Hosts", HOSTS, _frames_table(sized, "hosts")]
    parts += [f"Without {name}: {reason}." for name, reason in report["without"].items()]
    parts += [
        "## Start-up",
        START,
        _table(
            ("", "seconds"), ((row["name"], f"{row['seconds']:.2f}") for row in report["start_up"])
        ),
    ]
    if report["memory"]:
        cuda = any(row["cuda"] is not None for row in report["memory"])
        parts += [
            "## Memory",
            MEMORY,
            _table(
                ("frames", "MB resident", *(["MB CUDA"] if cuda else [])),
                (
                    (
                        str(row["frames"]),
                        *(
                            f"{row[key] / 1e6:.1f}"
                            for key in ("resident", *(["cuda"] if cuda else []))
                        ),
                    )
                    for row in report["memory"]
                ),
            ),
        ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _about(about: dict) -> str:
    device = f"{about['gpu']}, beside {about['cpu']}" if about["gpu"] else about["cpu"]
    return (
        f"{device}, cores: {about['cores']}, torch threads: {about['threads']}, precision "
        f"{about['precision']}, {about['kernels'] or 'no kernels'}, torch {about['torch']}, "
        f"vsneuralstyle {about['version']}, {about['date']}; {about['frames']} frames of "
        f"each after {about['warm_up']} to warm up."
    )


def _frames_table(sized: Sequence[tuple[str, dict]], key: str) -> str:
    """Of rows that time whole frames: those under `key` at each size."""
    return _table(
        ("size", "", "ms", "spread", "fps", "ratio"),
        (
            (size, row["name"], *_times(row), f"{1 / row['median']:.2f}", f"{row['ratio']:.3f}")
            for size, of_size in sized
            for row in of_size[key]
        ),
    )


def _times(row: dict) -> tuple[str, str]:
    return _ms(row["median"]), f"{_ms(row['lower'])} to {_ms(row['upper'])}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_plot(path: Path, report: dict) -> None:
    """The milliseconds of whole frames and hosts at each size, and the stages that a coherent frame
    is made of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [
        f"{width}x{height}" for of_size in report["sizes"] for width, height in [of_size["size"]]
    ]
    places = range(len(sizes))
    series: dict[str, list[tuple[int, dict]]] = {}
    for place, of_size in enumerate(report["sizes"]):
        # The other rows beside the hosts are those of the whole frames, once more.
        once = {row["name"] for row in of_size["frames"]}
        hosts = [row for row in of_size["hosts"] if row["name"].removeprefix("core, ") not in once]
        for row in (*of_size["frames"], *hosts):
            series.setdefault(row["name"], []).append((place, row))
    for name, points in series.items():
        median = [1e3 * row["median"] for _, row in points]
        spread = [
            [1e3 * (row["median"] - row["lower"]) for _, row in points],
            [1e3 * (row["upper"] - row["median"]) for _, row in points],
        ]
        left.errorbar(
            [place for place, _ in points],
            median,
            spread,
            marker="o",
            capsize=3,
            linewidth=1,
            label=name,
        )
    left.set(
        yscale="log", ylabel="ms a frame", xticks=places, xticklabels=sizes, title="whole frames"
    )
    left.legend(fontsize="small")

    below = [0.0] * len(sizes)
    for index, row in enumerate(report["sizes"][0]["stages"]):
        if "operations" in row:
            times = [1e3 * of_size["stages"][index]["median"] for of_size in report["sizes"]]
            right.bar(places, times, bottom=below, label=row["name"])
            below = [bottom + height for bottom, height in zip(below, times)]
    right.set(ylabel="ms", xticks=places, xticklabels=sizes, title="stages of a coherent frame")
    right.legend(fontsize="small")
    figure.savefig(path, dpi=100)
