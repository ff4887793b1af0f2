"""Tables, plots and contact sheets of what was measured."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from vsneuralstyle.evaluation import INTERVALS
from vsneuralstyle.evaluation.measure import Track

DEFINITION = """\
e_stab (Eq. 8 of Chen et al. 2017): mean over traceable pixels and the three channels of (O_t − W(O_s))², O in 0..1, s = t − 1
(or t − 10), then over a clip's pairs, then over clips; of a clip, pairs across what the method took for a cut are left out,
of a scene of Sintel none. Ratio: over the first row's. Better: pairs whose error is lower than the first row's. RMSE: the
root of a pair's error, averaged alike. Gradient: RMS of neighbouring pixels' luma (BT.709) differences in a clip's last
frame, over the first row's. PSI: Feichtenhofer et al. 2013, and its ratio. VGG-19 distance: relative squared difference of
features from the first row's frame, mean of four layers, every eighth frame. Style and content, of the same frames: the
trained losses before their weights. fps: of the core alone, one frame after the other.
Rows in brackets are the paper's Table 1, on its own test set and by its own nets."""
DEFINITION_OF_LAYERS = """
r1(E) and so on: features composed at that layer, of so many times the frame's resolution, in the encoder or the
decoder, by the flow and the mask of "coherent", resized. Table 3 of the paper is of muse, and in brackets beside muse's."""
DEFINITION_OF_LONG = """\
Long takes, a scene's frame 24 and its last, each figure over that of the first row: the gradient's and PSI's mean over the five
frames about that frame (at the end the last five), e_stab's over the pairs before it."""

PAPER = {
    "johnson": {
        "[Johnson per frame]": {"muse": 0.0199, "candy": 0.0240, "scream": 0.0048, "udnie": 0.0108},
        "[its Net1, flow network not fine-tuned]": {
            "muse": 0.0135,
            "candy": 0.0120,
            "scream": 0.0036,
            "udnie": 0.0079,
        },
        "[its Net1]": {"muse": 0.0121, "candy": 0.0105, "scream": 0.0034, "udnie": 0.0076},
        "[optimization, Ruder et al. 2016]": {
            "muse": 0.0063,
            "candy": 0.0067,
            "scream": 0.0019,
            "udnie": 0.0035,
        },
    },
    "stylebank": {
        "[StyleBank per frame]": {
            "muse": 0.0159,
            "candy": 0.0181,
            "scream": 0.0035,
            "udnie": 0.0059,
        },
        "[its Net1]": {"muse": 0.0126, "candy": 0.0131, "scream": 0.0030, "udnie": 0.0048},
    },
}
"""Network family -> row -> style -> e_stab, of Table 1 of Chen et al. (ICCV 2017). The optimization
method is compared with the Johnson per-frame row, as the paper does."""
PAPER_LAYERS = {
    "[Table 3: per frame]": (0.0199, 0.4851),
    "[Table 3: r1(E)]": (0.0187, 0.4846),
    "[Table 3: r1/2(E)]": (0.0180, 0.4839),
    "[Table 3: r1/4(E)]": (0.0121, 0.4825),
    "[Table 3: r1/2(D)]": (0.0058, 0.4187),
    "[Table 3: r1(D)]": (0.0038, 0.4086),
}
"""Row -> e_stab and PSI, of Table 3 of Chen et al. (ICCV 2017): Johnson's network and style muse,
features composed at each layer; the first row, its baseline, composes none."""
LONG = 100
"""More frames than that are a long take: it has its own table, and running means in its plot."""
RUN = 24
"""The frame of a long take's scene that its last one is compared with; and pairs over which e_stab
is averaged for each."""


def mean(values: Sequence[float]) -> float:
    """The mean of those that are there; NaN where none is."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


@dataclass(frozen=True)
class Figures:
    """A method's figures, over one clip or over several: every clip has the same weight, whatever
    its length.
    """

    method: str
    errors: dict[int, float]
    ratios: dict[int, float]
    rmse: float
    better: tuple[int, int]
    """Pairs of consecutive frames whose error is lower than the first method's, and pairs in
    all."""
    gradient: float
    """At the last frame, over the first method's."""
    age: int
    """Frames since the last frame's scene start; of several clips, the fewest."""
    psi: float
    psi_ratio: float
    difference: float
    distance: float
    content: float
    style: float
    fps: float


def figures(tracks: Sequence[Track]) -> list[Figures]:
    """Figures of each method over all clips, in the order of the first clip's methods; the first
    one is the base.
    """
    methods = list(dict.fromkeys(track.method for track in tracks))
    clips = list(dict.fromkeys(track.clip for track in tracks))
    by = {(track.clip, track.method): track for track in tracks}
    base = [by[clip, methods[0]] for clip in clips]
    return [_over(method, [by[clip, method] for clip in clips], base) for method in methods]


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.nan


def _age(track: Track, t: int) -> int:
    """Frames since the start of frame t's scene; all before it, where none starts."""
    starts = track.scene_starts[t::-1]
    return starts.index(True) if True in starts else t


def _over(method: str, tracks: Sequence[Track], base: Sequence[Track]) -> Figures:
    def each(value: Callable[[Track], Sequence[float]], of: Sequence[Track] = tracks) -> float:
        return mean([mean(value(track)) for track in of])

    errors = {i: each(lambda track: track.errors[i]) for i in INTERVALS}
    pairs = [
        (ours, theirs)
        for track, other in zip(tracks, base)
        for ours, theirs in zip(track.errors[1], other.errors[1])
        if not (math.isnan(ours) or math.isnan(theirs))
    ]
    seconds = [value for track in tracks for value in track.seconds[1:]]  # the first one warms up
    return Figures(
        method=method,
        errors=errors,
        ratios={i: _ratio(errors[i], each(lambda track: track.errors[i], base)) for i in INTERVALS},
        rmse=each(lambda track: [math.sqrt(value) for value in track.errors[1]]),
        better=(sum(ours < theirs for ours, theirs in pairs), len(pairs)),
        gradient=mean(
            [_ratio(track.gradient[-1], other.gradient[-1]) for track, other in zip(tracks, base)]
        ),
        age=min(_age(track, len(track.scene_starts) - 1) for track in tracks),
        psi=each(lambda track: track.psi),
        psi_ratio=_ratio(each(lambda track: track.psi), each(lambda track: track.psi, base)),
        difference=each(lambda track: track.difference),
        distance=each(lambda track: track.distance),
        content=each(lambda track: track.content),
        style=each(lambda track: track.style),
        fps=_ratio(1.0, float(np.median(seconds))) if seconds else math.nan,
    )


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def paper(style: str, net: str, layers: bool = False) -> list[Figures]:
    """The paper's rows for a style, if it has any: e_stab and its ratio; with `layers` also Table
    3's, with PSI.
    """
    rows = [
        (name, errors[style], math.nan)
        for name, errors in PAPER.get(net, {}).items()
        if style in errors
    ]
    if layers and (style, net) == ("muse", "johnson"):
        rows += [(name, error, psi) for name, (error, psi) in PAPER_LAYERS.items()]
    none = dict.fromkeys(INTERVALS, math.nan)
    rest = dict.fromkeys(
        ("rmse", "gradient", "difference", "distance", "content", "style", "fps"), math.nan
    )
    # Both tables have the same per-frame e_stab of muse.
    _, base_psi = PAPER_LAYERS["[Table 3: per frame]"]
    return [
        Figures(
            name,
            none | {1: error},
            none | {1: error / rows[0][1]},
            better=(0, 0),
            age=0,
            psi=psi,
            psi_ratio=psi / base_psi,
            **rest,
        )
        for name, error, psi in rows
    ]


def table(rows: Sequence[Figures], others: Sequence[Figures] = ()) -> str:
    """A Markdown table, a row a method; a figure that no method has is left out. `others` come
    last, where there is something to compare with.
    """
    age, measured = min(f.age for f in rows), any(not math.isnan(f.errors[1]) for f in rows)
    rows = [*rows, *others] if measured else rows
    columns = {
        "e_stab": [_number(f.errors[1], ".5f") for f in rows],
        "ratio": [_number(f.ratios[1], ".3f") for f in rows],
        "better": ["{}/{}".format(*f.better) if f.better[1] else "" for f in rows],
        "RMSE": [_number(f.rmse, ".4f") for f in rows],
        "e_stab at 10": [_number(f.errors[10], ".5f") for f in rows],
        "its ratio": [_number(f.ratios[10], ".3f") for f in rows],
        f"gradient (frame {age})": [_number(f.gradient, ".3f") for f in rows],
        "PSI": [_number(f.psi, ".4f") for f in rows],
        "PSI ratio": [_number(f.psi_ratio, ".3f") for f in rows],
        "VGG-19 distance": [_number(f.distance, ".4f") for f in rows],
        "style": [_number(f.style, ".3f") for f in rows],
        "content": [_number(f.content, ".3f") for f in rows],
        "fps": [_number(f.fps, ".2f") for f in rows],
    }
    return _markdown({"": [f.method for f in rows]} | columns)


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    """A table, "" without rows; a column in which nothing stands is left out."""
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    lines = [columns.keys(), ["---"] * len(columns), *zip(*columns.values())] if columns else []
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def clip_table(tracks: Sequence[Track]) -> str:
    """A Markdown table, a row a clip, of how each method but the first does against the first."""
    methods = list(dict.fromkeys(track.method for track in tracks))
    heads = [f"{name}: ratio | better | gradient | difference" for name in methods[1:]]
    columns = 5 + 4 * len(heads)
    lines = [
        f"| clip | size | traceable | {methods[0]}: e_stab | difference | "
        + " | ".join(heads)
        + " |",
        "|---" * columns + "|",
    ]
    for clip in dict.fromkeys(track.clip for track in tracks):
        of_clip = [track for track in tracks if track.clip == clip]
        base, *others = figures(of_clip)
        width, height = of_clip[0].size
        cells = [
            clip,
            f"{width}x{height}",
            f"{mean(of_clip[0].traceable):.1%}",
            _number(base.errors[1], ".5f"),
            _number(base.difference, ".2f"),
        ]
        for f in others:
            cells += [
                _number(f.ratios[1], ".3f"),
                "{}/{}".format(*f.better),
                _number(f.gradient, ".3f"),
                _number(f.difference, ".2f"),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def long_table(tracks: Sequence[Track]) -> str:
    """A Markdown table of the clips that end with a scene of more than `LONG` frames, "" without
    one: how sharp and how steady each method but the first and the source is in frame `RUN` of that
    scene and in its last, over the first one.

    Gradient and PSI are those of the five frames about it (at the end the last five), the ratio of
    e_stab that of the `RUN` pairs up to it.
    """
    rows = []
    for clip in dict.fromkeys(track.clip for track in tracks):
        base, *others = [
            track for track in tracks if track.clip == clip and track.method != "source"
        ]
        last = len(base.scene_starts) - 1
        age = _age(base, last)
        for t in (last - age + RUN, last) if age >= LONG else ():
            first = min(t - 2, last - 4)
            about, before = slice(first, first + 5), slice(t - RUN + 1, t + 1)
            for track in others:
                pairs = [
                    (track.gradient, base.gradient, about),
                    (track.psi, base.psi, about),
                    (track.errors[1], base.errors[1], before),
                ]
                ratios = [
                    _ratio(mean(ours[which]), mean(theirs[which])) for ours, theirs, which in pairs
                ]
                rows.append(
                    [clip, str(t), track.method, *(_number(ratio, ".3f") for ratio in ratios)]
                )
    heads = "clip", "frame", "method", "gradient", "PSI ratio", f"e_stab ratio, {RUN} pairs"
    return _markdown(dict(zip(heads, zip(*rows))))


def summary_row(
    style: str, net: str, clips: Sequence[Track], sintel: Sequence[Track]
) -> dict[str, str | float]:
    """A row of `summary`: what "coherent" does against the first method.

    Args:
        clips, sintel: what was measured of the style on clips and on MPI Sintel; empty where
            nothing was.
    """
    row: dict[str, str | float] = {"style": style}
    if clips:
        per_frame, *others = figures(clips)
        coherent = next(f for f in others if f.method == "coherent")
        row |= {
            "e_stab per frame": per_frame.errors[1],
            "coherent": coherent.errors[1],
            "ratio": coherent.ratios[1],
        }
        row |= {"the paper's": f.ratios[1] for f in paper(style, net) if f.method == "[its Net1]"}
        better, pairs = coherent.better
        row |= {
            "better": f"{better}/{pairs}" if pairs else "",
            f"gradient (frame {per_frame.age})": coherent.gradient,
            "PSI ratio": coherent.psi_ratio,
            "e_stab ratio at 10": coherent.ratios[10],
            "VGG-19 distance": coherent.distance,
        }
    if sintel:
        row["ratio on Sintel"] = next(
            f.ratios[1] for f in figures(sintel) if f.method == "coherent"
        )
    return row


def summary(rows: Sequence[Mapping[str, str | float]]) -> str:
    """A Markdown table of `summary_row`s."""
    form = {"e_stab per frame": ".5f", "coherent": ".5f", "VGG-19 distance": ".4f"}
    return _markdown(_cells(rows, lambda head: form.get(head, ".3f")))


def write_summary(folder: Path, text: str, rows: Sequence[Mapping[str, str | float]]) -> None:
    """`summary.md`, a text with the table of `summary`, and `summary.csv`, the same figures with
    more digits.
    """
    (folder / "summary.md").write_text(text, encoding="utf-8")
    columns = _cells(rows, lambda head: ".6g")
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.keys(), *zip(*columns.values())])


def _cells(
    rows: Sequence[Mapping[str, str | float]], form: Callable[[str], str]
) -> dict[str, list[str]]:
    """Rows as columns; `form` says how a number under a head is written."""
    heads = dict.fromkeys(head for row in rows for head in row)
    values = {head: [row.get(head, "") for row in rows] for head in heads}
    return {
        head: [v if isinstance(v, str) else _number(v, form(head)) for v in column]
        for head, column in values.items()
    }


def flow_table(rows: Sequence[tuple[str, float, Mapping[str, float]]]) -> str:
    """A Markdown table of endpoint errors in pixels, a row a pair of frames, and their mean.

    Args:
        rows: a pair's name, the mean length of its flow, and each model's endpoint error.
    """
    models = list(rows[0][2])
    averages = [mean([error[model] for _, _, error in rows]) for model in models]
    rows = [*rows, ("mean", mean([length for _, length, _ in rows]), dict(zip(models, averages)))]
    lines = [f"| pair | length | {' | '.join(models)} |", "|---" * (2 + len(models)) + "|"]
    lines += [
        f"| {name} | {length:.1f} | {' | '.join(f'{error[m]:.2f}' for m in models)} |"
        for name, length, error in rows
    ]
    return "\n".join(lines) + "\n"


def write_tracks(path: str | PathLike, tracks: Sequence[Track]) -> None:
    """One CSV row a method, clip and frame."""
    single = ("traceable", "difference", "gradient", "psi", "distance", "content", "style")
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["method", "clip", "frame", "scene_start", *(f"e_{i}" for i in INTERVALS), *single]
        )
        for track in tracks:
            for t, starts in enumerate(track.scene_starts):
                values = [track.errors[i][t] for i in INTERVALS] + [
                    getattr(track, name)[t] for name in single
                ]
                writer.writerow(
                    [track.method, track.clip, t, int(starts), *(_number(v, ".6g") for v in values)]
                )


def write_plots(folder: Path, sets: Mapping[str, Sequence[Track]]) -> None:
    """`gain.png`, the distribution of the relative gain over the first method (Figure 5 of the
    paper), `trade.png`, each method's steadiness against its sharpness on each set of clips, and,
    for each clip, `CLIP-time.png`: e_stab and PSI over time, e_stab of a long take as a running
    mean over a thin line.

    Args:
        folder: where they go.
        sets: by the title of a set, what was measured on its clips.
    """
    from matplotlib.figure import Figure

    tracks = [track for of_set in sets.values() for track in of_set]
    methods = list(dict.fromkeys(track.method for track in tracks))
    by = {(track.clip, track.method): track for track in tracks}
    clips = list(dict.fromkeys(track.clip for track in tracks))

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in methods[1:]:
        gains = [
            100 * (1 - ours / theirs)
            for clip in clips
            for ours, theirs in zip(by[clip, name].errors[1], by[clip, methods[0]].errors[1])
            if theirs and not (math.isnan(ours) or math.isnan(theirs))
        ]
        axes.hist(
            np.clip(gains, -20, 100), bins=list(range(-20, 101, 5)), histtype="step", label=name
        )
    axes.set(xlabel=f"e_stab below that of {methods[0]}, %", ylabel="pairs")
    axes.legend()
    figure.savefig(folder / "gain.png", dpi=100)

    figure = Figure(figsize=(7, 4 * len(sets)), layout="constrained")
    for axes, (title, of_set) in zip(
        figure.subplots(len(sets), squeeze=False)[:, 0], sets.items(), strict=True
    ):
        for of_method in figures([track for track in of_set if track.method != "source"]):
            axes.plot(of_method.gradient, of_method.ratios[1], "o", label=of_method.method)
        axes.set(
            xlabel=f"RMS gradient in the last frame, over that of {methods[0]} (right: sharper)",
            ylabel="e_stab ratio (down: steadier)",
        )
        axes.set_title(title, fontsize="small")
        axes.margins(0.15)
        axes.legend(fontsize="small")
    figure.savefig(folder / "trade.png", dpi=100)

    for clip in clips:
        figure = Figure(figsize=(10, 5), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        for name in methods:
            track = by[clip, name]
            for axes, values in ((upper, track.errors[1]), (lower, track.psi)):
                if len(values) > LONG:
                    (line,) = axes.plot(values, linewidth=0.5, alpha=0.6)
                    axes.plot(
                        running_mean(values), label=name, color=line.get_color(), linewidth=1.5
                    )
                else:
                    axes.plot(values, label=name, linewidth=1)
        upper.set(ylabel="e_stab", yscale="log", title=clip)
        lower.set(ylabel="PSI", xlabel="frame")
        # Below is less than a tenth of a code value, as between frames that repeat.
        upper.set_ylim(bottom=max(upper.get_ylim()[0], 1e-7))
        figure.legend(
            *upper.get_legend_handles_labels(), loc="outside right upper", fontsize="small"
        )
        figure.savefig(folder / f"{clip}-time.png", dpi=100)


def running_mean(values: Sequence[float], width: int = 25) -> list[float]:
    """At each place the mean over the `width` values about it; fewer at the ends, and where there
    are NaN.
    """
    return [mean(values[max(t - width // 2, 0) : t + width // 2 + 1]) for t in range(len(values))]


def picture(frame: Tensor) -> np.ndarray:
    """A frame (3,H,W) in 0..1 as (H,W,3) uint8 RGB."""
    return (
        (frame.detach().cpu().float().clamp(0, 1) * 255)
        .round()
        .byte()
        .permute(1, 2, 0)
        .contiguous()
        .numpy()
    )


def write_sheet(
    path: str | PathLike,
    columns: Mapping[str, Sequence[Tensor]],
    labels: Sequence[str],
    cell_width: int = 480,
) -> None:
    """A contact sheet (its format by its suffix): one column a title, one row a label; frames are
    (3,H,W) in 0..1, scaled to the cell.
    """
    import cv2

    def text(band: np.ndarray, words: str) -> np.ndarray:
        place = (8, band.shape[0] - 8)
        return cv2.putText(
            band, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )

    height, width = next(iter(columns.values()))[0].shape[-2:]
    cell = (cell_width, max(round(height * cell_width / width), 1))
    sheet = [
        np.hstack([text(np.full((28, cell_width, 3), 255, np.uint8), title) for title in columns])
    ]
    for row, label in enumerate(labels):
        cells = [
            cv2.resize(picture(frames[row]), cell, interpolation=cv2.INTER_AREA)
            for frames in columns.values()
        ]
        sheet += [
            np.hstack(cells),
            text(np.full((24, cell_width * len(columns), 3), 235, np.uint8), label),
        ]
    if not cv2.imwrite(str(path), np.vstack(sheet)[..., ::-1]):
        raise OSError(f"{path}: the picture can't be written")


def moments(length: int, rows: int = 4) -> list[int]:
    """The frames that a contact sheet shows."""
    return sorted({round(t) for t in np.linspace(min(1, length - 1), length - 1, rows)})


def write_clip_sheet(
    path: str | PathLike, tracks: Sequence[Track], source: Callable[[int], Tensor]
) -> None:
    """A clip's contact sheet: source, each method's frame, and three times what changed in each
    besides the motion.
    """
    times = sorted(tracks[0].pictures)
    columns = {"source": [source(t)[0] for t in times]}
    columns |= {track.method: [track.pictures[t][0] for t in times] for track in tracks}
    columns |= {
        f"3 x change besides motion, {track.method}": [3 * track.pictures[t][1] for t in times]
        for track in tracks
    }
    write_sheet(path, columns, [f"frame {t}" for t in times])
