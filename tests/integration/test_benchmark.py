"""`neuralstyle benchmark`: what is timed and counted, and that its report says what was measured.
Nothing on speed.
"""

import json
import sys
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the benchmark needs torch")

from torch import nn

from vsneuralstyle import Stylizer
from vsneuralstyle.benchmark import core, hosts, report
from vsneuralstyle.benchmark.arithmetic import Arithmetic, Layer, Peak, count, measure_peak
from vsneuralstyle.benchmark.cli import parse_size
from vsneuralstyle.benchmark.clip import CODING, pan
from vsneuralstyle.benchmark.peer import usual_network
from vsneuralstyle.benchmark.timing import Timing, in_turn
from vsneuralstyle.cli import main
from vsneuralstyle.engines.cpu import kernels, layers, library, packing
from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.networks.checkpoint import save_model
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.networks.transform_net import TransformNet
from vsneuralstyle.video.pixels import components_to_rgb

COMMAND = [sys.executable, "-m", "vsneuralstyle.cli", "benchmark"]
CPU = torch.device("cpu")
PEAK = Peak(operations=1e9, float32=1e9, bytes=1e9)
WHOLE = ["per frame", "coherent", "coherent, I420 in and out", "usual eager float32, per frame"]
STAGES = ["encode", "flow", "compose (warp, mask)", "decode"]
BESIDE = ["scene cut detector", "8-bit RGB in", "8-bit RGB out", "I420 in", "I420 out"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a small model of random weights, `small`."""
    networks = {"channels": [8, 8, 16], "residual_blocks": 1, "mask_hidden": 4, "flow_width": 0.125}
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_model(
        Net1(**networks),
        folder / "small.safetensors",
        style="small",
        networks=networks,
        training={},
    )
    return folder


@pytest.fixture(scope="module")
def measured(run, models, tmp_path_factory):
    """(what the command printed, the folder that it wrote)."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    done = run(
        *COMMAND,
        "--style",
        "small",
        "--model-dir",
        models,
        "--sizes",
        "64x48",
        "80x64",
        "--frames",
        3,
        "--warm-up",
        1,
        "--no-hosts",
        "--memory-frames",
        12,
        "--starts",
        1,
        "--threads",
        1,
        "--precision",
        "float32",
        "--device",
        "cpu",
        "--out",
        out,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("neuralstyle: ") for line in done.stderr.splitlines()), done.stderr
    return done.stdout, out


# --- what it is compared with, and on what --------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"channels": (4, 8, 16), "residual_blocks": 2}])
def test_usual_network_is_the_style_network(shape):
    """As many parameters, in the same order: with the same weights it draws the same picture."""
    torch.manual_seed(0)
    ours, usual = TransformNet(**shape), usual_network(**shape)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.1)
        for target, source in zip(usual.parameters(), ours.parameters(), strict=True):
            target.copy_(source)
        frame = torch.rand(1, 3, 48, 64)
        picture = usual(frame)
        assert picture.shape == frame.shape and picture.std() > 0.01
        torch.testing.assert_close(picture * 0.5 + 0.5, ours(frame), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(64, 48), (640, 360)])
def test_clip_moves_and_has_no_cut(models, size):
    stylizer = Stylizer("small", model_dir=models, device="cpu")
    clip = pan(*size)
    frames = clip.frames(CPU)
    assert clip.size == size and frames[0].shape == (1, 3, size[1], size[0])
    for previous, frame in zip(frames, [*frames[1:], frames[0]]):  # it goes on with the first one
        assert (frame - previous).abs().mean() > 0.005
        assert not stylizer.is_cut(previous, frame)


def test_clip_as_files(tmp_path):
    clip = pan(64, 48)
    clip.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0.i420",
        "1.i420",
        "2.i420",
        "3.i420",
    ]
    samples = np.fromfile(tmp_path / "1.i420", np.uint8)
    planes = (
        samples[:3072].reshape(48, 64),
        samples[3072:3840].reshape(24, 32),
        samples[3840:].reshape(24, 32),
    )
    assert torch.equal(components_to_rgb(planes, CODING), clip.frames(CPU)[1])


# --- timing and counting --------------------------------------------------------------------------


def test_calls_take_turns_and_are_timed_after_the_warm_up():
    order = []
    timings = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, 2, CPU)
    assert order == ["a", "b"] * 5
    assert [(timing.name, len(timing.seconds)) for timing in timings] == [("a", 3), ("b", 3)]


def test_row_of_a_timing():
    row = Timing("b", (4.0, 1.0, 2.0, 3.0, 10.0)).row(Timing("a", (1.0, 3.0)))
    assert row == {"name": "b", "median": 3.0, "lower": 2.0, "upper": 4.0, "count": 5, "ratio": 1.5}


@pytest.mark.parametrize("precision, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_operations_and_bytes_of_a_convolution(precision, size):
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1).to(precision)
    with torch.inference_mode():
        counted = count(lambda x: convolution(x).relu(), (torch.rand(1, 3, 16, 32).to(precision),))
    assert counted.layers == (
        Layer(
            operations=2 * 8 * 16 * 8 * 27,
            weights=(8 * 27 + 8) * size,
            read=3 * 16 * 32 * size,
            written=8 * 8 * 16 * size,
        ),
    )
    assert (counted.read, counted.written) == (3 * 16 * 32 * size, 8 * 8 * 16 * size)


def test_operations_and_bytes_of_products_and_of_samples():
    a, b = torch.rand(5, 6), torch.rand(6, 7)
    counted = count(lambda a, b: (a @ b, a + 1), (a, b))
    assert counted.layers == (Layer(2 * 5 * 6 * 7, 0, 4 * (30 + 42), 4 * 35),)
    assert (counted.operations, counted.weights, counted.read, counted.written) == (
        420,
        0,
        288,
        4 * (35 + 30),
    )


def test_floors():
    """One layer is held up by operations, the other by bytes; the whole, without what lies between,
    by operations.
    """
    arithmetic = Arithmetic(
        (Layer(6000, 100, 200, 300), Layer(1000, 0, 300, 900)), read=200, written=900
    )
    peak = Peak(operations=1000.0, float32=1.0, bytes=200.0)
    assert arithmetic.floor(peak) == 7.0
    assert arithmetic.layers_floor(peak) == 6.0 + 6.0
    assert arithmetic.floor(Peak(1000.0, 1.0, 100.0)) == 12.0
    assert (
        Arithmetic((Layer(6000, 0, 0, 0, float32=True),), 0, 0).floor(Peak(1000.0, 500.0, 1.0))
        == 12.0
    )


@pytest.mark.skipif(library.library() is None, reason="the wheel was built without the kernels")
@pytest.mark.parametrize("precision, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_operations_and_bytes_of_kernels(precision, size):
    """Tiles of 4x4 outputs, 36 products for each pair of channels; and of 5x5, 324 for each."""
    x = torch.rand(1, 16, 9, 12).to(precision).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        convolution = layers.Convolution(torch.rand(32, 16, 3, 3), torch.rand(32), 6)
        counted = count(lambda x: kernels.conv3x3(x, convolution)[0], (x,))
        assert counted.layers == (
            Layer(
                2 * 3 * 3 * 36 * 16 * 32,
                36 * 16 * 32 * 4,
                16 * 9 * 12 * size,
                32 * 9 * 12 * size,
                True,
            ),
        )
        x = torch.rand(1, 16, 10, 12).to(precision).contiguous(memory_format=torch.channels_last)
        weight = packing.conv9x9_weight(torch.rand(3, 16, 9, 9))
        counted = count(
            lambda x: kernels.conv9x9_to_rgb(x, torch.rand(2, 16), 10, 12, weight, torch.rand(3)),
            (x,),
        )
        assert counted.layers == (
            Layer(
                2 * 2 * 3 * 324 * 16 * 3,
                324 * 16 * 3 * 4,
                16 * 10 * 12 * size,
                3 * 10 * 12 * 4,
                True,
            ),
        )


@pytest.mark.skipif(library.library() is None, reason="the wheel was built without the kernels")
def test_operations_of_tiles(monkeypatch):
    """With the zeros that fill them: two chunks of 32 samples for 3 pixels of 16 channels, of what
    is enlarged one for 2; of the first layer twice 9 for two pixels, of the last one 20 of 512
    products for two.
    """
    monkeypatch.setattr(library, "uses_amx", lambda dtype: True)
    x = torch.rand(1, 16, 8, 12).bfloat16().contiguous(memory_format=torch.channels_last)

    def operations(function) -> int:
        (layer,) = count(function, (x,)).layers
        return layer.operations

    with torch.inference_mode():
        for reach, places, each in (
            (6, 8 * 12, 3 * 2),
            (packing.STRIDE2, 4 * 6, 3 * 2),
            (packing.UPSAMPLE2, 8 * 12, 4 * 2 * 1),
        ):
            convolution = layers.Convolution(
                torch.rand(32, 16, 3, 3).bfloat16(), torch.rand(32), reach
            )
            assert (
                operations(lambda x: kernels.conv3x3(x, convolution)[0])  # noqa: B023  called at once
                == 2 * places * each * 32 * 32
            )
        first, last = (
            packing.conv9x9_weight(torch.rand(*size, 9, 9).bfloat16())
            for size in ((16, 3), (3, 16))
        )
        frame, norm = torch.rand(1, 3, 8, 12), (torch.rand(16), torch.rand(16), 1e-5)
        assert (
            operations(
                lambda x: kernels.conv9x9_from_rgb(
                    frame, 8, 12, first, torch.rand(16), norm, torch.bfloat16
                )[0]
            )
            == 2 * 48 * 2 * 2 * 9 * 512
        )
        assert (
            operations(lambda x: kernels.conv9x9_to_rgb(x, None, 8, 12, last, torch.rand(3)))
            == 2 * 48 * 20 * 512
        )


def test_peak_is_finite():
    peak = measure_peak(CPU, torch.float32)
    assert (
        0 < peak.operations < float("inf")
        and 0 < peak.float32 < float("inf")
        and 0 < peak.bytes < float("inf")
    )


def test_stages_make_a_coherent_frame(models):
    """Put together, they give the very picture that `stylize` gives for a clip's second frame."""
    stylizer, clip = (
        Stylizer("small", model_dir=models, device="cpu", precision="float32"),
        pan(64, 48),
    )
    with torch.inference_mode():
        stylized = stylizer.stylize(torch.cat(clip.frames(CPU)[:2]))[1:]
        stages = core.stages(stylizer, clip)
        feature, _, flow, *_ = stages["compose (warp, mask)"].inputs
        assert torch.equal(stages["encode"](), feature) and torch.equal(stages["flow"](), flow)
        assert torch.equal(stages["compose (warp, mask)"](), stages["decode"].inputs[0])
        assert torch.equal(stages["decode"](), stylized)


def test_families_are_measured_alike(stylebank_dir):
    make = partial(
        Stylizer, style="one:0.6+two:0.4", net="stylebank", model_dir=stylebank_dir, device="cpu"
    )
    rows = core.measure(make, pan(64, 48), PEAK, 2, 1)
    assert [row["name"] for row in rows["frames"]] == WHOLE
    assert [row["name"] for row in rows["stages"]] == STAGES + BESIDE
    assert rows["operators"]


# --- hosts ----------------------------------------------------------------------------------------


class Pretender(hosts.Host):
    """A host that runs a line of Python, which `frame` and `head` are known to: a y4m stream of
    64x48.
    """

    name = "pretender"
    START = (
        "import sys, time\nout = sys.stdout.buffer\nhead = b'YUV4MPEG2 W64 H48 F25:1 Ip A1:1 "
        "C420mpeg2\\n'\n"
        "frame = b'FRAME\\n' + bytes(64 * 48 * 3 // 2)\n"
    )

    def __init__(self, program: str) -> None:
        self.program = program

    def missing(self):
        return None

    def command(self, folder, clip, options):
        return [sys.executable, "-c", self.START + self.program]


ENDLESS = "out.write(head)\nwhile out.write(frame): out.flush(), time.sleep(0.002)"


@pytest.mark.subprocess
def test_arrivals_are_those_of_frames():
    with closing(
        hosts.arrivals(Pretender(""), Pretender(ENDLESS).command(None, None, None), (64, 48))
    ) as stream:
        times = list(islice(stream, 40))  # more than a pipe holds, of which a late reader has many
    assert len(times) == 40
    assert times == sorted(times) and times[-1] - times[0] > 0.0005  # not all at once
    assert not list(stream)  # closed, and the host with it


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "program, said",
    [
        (
            "out.write(head + 3 * frame)\nout.flush()\nsys.exit('out of paint')",
            "exit code 1.*out of paint",
        ),
        ("sys.exit('no such style')", "exit code 1.*no such style"),
        ("out.write(head.replace(b'W64', b'W32') + 9 * frame)", "W32.*expected y4m, 64x48 in I420"),
        (
            "out.write(head.replace(b'420mpeg2', b'444') + 9 * frame)",
            "C444.*expected y4m, 64x48 in I420",
        ),
    ],
)
def test_host_that_fails_says_why(program, said):
    with pytest.raises(MediaError, match="(?s)^pretender .*" + said):
        list(
            islice(
                hosts.arrivals(
                    Pretender(program), Pretender(program).command(None, None, None), (64, 48)
                ),
                6,
            )
        )


@pytest.mark.subprocess
def test_hosts_in_turn_with_the_core(models, tmp_path):
    """One that fails takes nothing from the others."""
    make = partial(Stylizer, style="small", model_dir=models, device="cpu")
    broken = Pretender("sys.exit('no paint')")
    broken.name = "broken"
    rows, failed = hosts.measure(
        [broken, Pretender(ENDLESS)], make, {}, pan(64, 48), tmp_path, rounds=5, warm_up=1
    )
    two = (
        ["core, per frame, two at a time", "core, coherent, two at a time"]
        if make().is_async
        else []
    )
    assert [(row["name"], row["count"]) for row in rows] == [
        (name, 5)
        for name in (
            "core, coherent",
            "core, coherent, I420 in and out",
            core.USUAL,
            *two,
            "pretender",
        )
    ]
    assert all(row["ratio"] == row["median"] / rows[0]["median"] for row in rows)
    assert list(failed) == ["broken"] and "no paint" in failed["broken"]


@pytest.mark.parametrize("converted", [False, True])
def test_frames_ahead_leave_the_threads_to_others(models, converted):
    stylizer = Stylizer("small", model_dir=models, device="cpu")
    threads = torch.get_num_threads()
    with closing(hosts.ahead(stylizer, pan(64, 48), converted)) as stream:
        times = list(islice(stream, 5))
        assert torch.get_num_threads() == threads
    assert times == sorted(times) and len(times) == 5


def test_vspipe(run, models, tmp_path):
    pytest.importorskip(
        "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
    )
    host, clip = hosts.VapourSynth(), pan(64, 48)
    assert host.missing() is None
    clip.write(tmp_path)
    options = {"style": "small", "model_dir": str(models), "device": "cpu", "precision": "float32"}
    with closing(hosts.arrivals(host, host.command(tmp_path, clip, options), clip.size)) as stream:
        assert len(list(islice(stream, 6))) == 6
    with pytest.raises(MediaError, match="nosuch"):
        next(
            hosts.arrivals(
                host, host.command(tmp_path, clip, {**options, "style": "nosuch"}), clip.size
            )
        )


def test_intervals_of_frames_that_come_in_pairs():
    assert hosts.intervals([0, 1, 10, 11, 20, 21]) == (5, 5)


# --- the command ----------------------------------------------------------------------------------


def test_report_is_what_was_measured(measured):
    printed, out = measured
    assert sorted(path.name for path in out.iterdir()) == [
        "benchmark.json",
        "benchmark.md",
        "benchmark.png",
    ]
    assert printed == (out / "benchmark.md").read_text()
    assert printed == report.text(json.loads((out / "benchmark.json").read_text()))
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_report_has_every_row(measured):
    printed, out = measured
    found = json.loads((out / "benchmark.json").read_text())
    assert [of_size["size"] for of_size in found["sizes"]] == [[64, 48], [80, 64]]
    for of_size in found["sizes"]:
        assert [row["name"] for row in of_size["frames"]] == WHOLE
        assert [row["name"] for row in of_size["stages"]] == STAGES + BESIDE
        base, coherent = (of_size["frames"][n]["median"] for n in (0, 1))
        for row, over in [
            *((row, base) for row in of_size["frames"]),
            *((row, coherent) for row in of_size["stages"]),
        ]:
            assert 0 < row["lower"] <= row["median"] <= row["upper"] and row["count"] == 3
            assert row["ratio"] == row["median"] / over
            assert (
                f"| {row['name']} | {row['median'] * 1e3:.3g} |" in printed or row["median"] >= 0.1
            )
        for row in of_size["stages"][: len(STAGES)]:
            assert (
                row["layers_floor"] > 0
                and row["floor"] > 0
                and row["operations"] > 0
                and row["weights"] > 0
            )
        assert 0 < sum(row["share"] for row in of_size["operators"]) <= 1
        assert any(row["name"].startswith("aten::") for row in of_size["operators"])
    small, large = (
        [row["operations"] for row in of_size["stages"][:4]] for of_size in found["sizes"]
    )
    # the flow's frames are padded to the same
    assert all(less < more for less, more in zip(small[::3], large[::3]))
    about = found["about"]
    assert (about["threads"], about["precision"], about["torch"]) == (
        1,
        "float32",
        torch.__version__,
    )
    assert about["cpu"] in printed and about["date"] in printed


def test_report_of_start_up_and_memory(measured):
    found = json.loads((measured[1] / "benchmark.json").read_text())
    seconds = {row["name"]: row["seconds"] for row in found["start_up"]}
    assert list(seconds) == [
        "Python",
        "import torch",
        "import vsneuralstyle",
        "the model",
        "the first frame",
        "all",
        "all but import torch",
    ]
    assert all(value > 0 for value in seconds.values())
    assert max(seconds, key=seconds.get) == "all"
    assert [row["frames"] for row in found["memory"]] == [10, 12]
    assert all(row["resident"] > 2**24 and row["cuda"] is None for row in found["memory"])
    assert "core, coherent" in measured[0] and "vspipe" not in measured[0]


def test_report_names_the_hosts_that_are_missing(measured):
    found = json.loads((measured[1] / "benchmark.json").read_text())
    found["without"] = {"vspipe": "it went away"}
    assert "## Hosts\n" in report.text(
        found
    ) and "\nWithout vspipe: it went away.\n" in report.text(found)


@pytest.mark.parametrize(
    "text", ["640", "640x", "640X360", "0x48", "64x48x2", "63x48", "64x47", "8x48", "64x-48"]
)
def test_size_in_another_form(text):
    with pytest.raises(
        ArgumentError, match="expected WxH, as in 640x360, both even and at least 16"
    ) as raised:
        parse_size(text, 16)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("--sizes 64x48 640", "--sizes 640: expected WxH"),
        ("--frames 1", "--frames 1: at least 2"),
        ("--warm-up 0", "--warm-up 0: at least 1"),
        ("--threads 0", "--threads 0: at least 1"),
        ("--starts 0", "--starts 0: at least 1"),
        ("--memory-frames -1", "--memory-frames -1: at least 0"),
        ("--device gpu", "unknown device 'gpu'"),
        ("--precision half", "unknown precision 'half'"),
        ("--style nosuch", "unknown style 'nosuch'"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, tmp_path, arguments, said):
    out = tmp_path / "out"
    assert main(["benchmark", *arguments.split(), "--out", str(out)]) == 2
    printed, error = capsys.readouterr()
    assert (
        printed == ""
        and error.startswith("neuralstyle: error: ")
        and said in error
        and error.count("\n") == 1
    )
    assert not out.exists()
