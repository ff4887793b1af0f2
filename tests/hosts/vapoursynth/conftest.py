"""A clip as a script's source, frames fetched with a time limit, and what the core itself makes of
them.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (its wheel needs Python >= 3.12)"
)

SOURCE = """
import numpy as np
import vapoursynth as vs

core = vs.core
frames = np.load({path!r})

def fill(n, f):
    f = f.copy()
    for plane in range(3):
        np.asarray(f[plane])[:] = frames[n, :, :, plane]
    return f

length, height, width, _ = frames.shape
source = core.std.BlankClip(format=vs.RGB24, width=width, height=height, length=length)
source = source.std.RemoveFrameProps().std.ModifyFrame(source, fill)
"""


@pytest.fixture(autouse=True)
def plugin_is_installed():
    assert hasattr(vs.core, "vsneuralstyle"), (
        "the wheel of vsneuralstyle is not installed in this environment"
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A folder with a tiny model of random weights under the name `candy`: what the host does
    depends on no weights.
    """
    import torch

    from vsneuralstyle.networks.checkpoint import save_model
    from vsneuralstyle.networks.net1 import Net1

    networks = dict(channels=(8, 8, 8), residual_blocks=1, flow_width=0.0625)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    save_model(
        Net1(**networks),
        folder / "candy.safetensors",
        style="candy",
        networks=networks,
        training={},
    )
    return folder


@pytest.fixture(scope="session")
def scenes(clip):
    """scenes(5, 7) -> (12, 48, 64, 3) uint8: pans of so many frames each, with hard cuts between
    them.
    """

    def make(*lengths: int) -> np.ndarray:
        pictures = clip[0], clip[5]
        return np.stack(
            [
                np.roll(pictures[i % 2], 2 * t, axis=1)
                for i, length in enumerate(lengths)
                for t in range(length)
            ]
        )

    return make


@pytest.fixture
def tagged():
    """tagged(source, cuts) -> the clip with `_SceneChangePrev` on every frame."""

    def tag(source, cuts):
        return vs.core.std.Splice(
            [
                source[n].std.SetFrameProps(_SceneChangePrev=int(n in cuts))
                for n in range(len(source))
            ]
        )

    return tag


@pytest.fixture
def steps(monkeypatch) -> list:
    """One entry for each frame that a filter of this process stylizes."""
    from vsneuralstyle.hosts.vapoursynth.session import Session

    steps = []
    process = Session.process
    monkeypatch.setattr(
        Session, "process", lambda self, *arguments: steps.append(1) or process(self, *arguments)
    )
    return steps


@pytest.fixture
def write_script(tmp_path):
    """write_script(body, frames) -> the path of a script that ends with `body`, where `source` is
    the clip `frames`.
    """

    def write(body: str, frames: np.ndarray, name: str = "script.vpy") -> Path:
        np.save(tmp_path / "frames.npy", frames)
        script = tmp_path / name
        script.write_text(SOURCE.format(path=str(tmp_path / "frames.npy")) + body)
        return script

    return write


@pytest.fixture
def make_clip():
    """make_clip(frames) -> the same source in this process, RGB24 without properties."""

    def make(frames: np.ndarray):
        names = {}
        body = re.sub(r"frames = .*", "", SOURCE)
        names["frames"] = frames
        exec(body, names)
        return names["source"]

    return make


def get_planes(clip, n: int) -> list[np.ndarray]:
    """Copies of frame n's planes; a frame that takes a minute fails."""
    with clip.get_frame_async(n).result(timeout=60) as frame:
        return [np.array(frame[plane]) for plane in range(frame.format.num_planes)]


@pytest.fixture
def planes():
    return get_planes


@pytest.fixture
def stylized(model_dir):
    """stylized(frames, starts_scene=None, **arguments) -> (N, H, W, 3) uint8: what `Stylizer` makes
    of them.
    """
    from vsneuralstyle import Stylizer
    from vsneuralstyle.video import pixels

    def stylize(frames: np.ndarray, starts_scene=None, **arguments) -> np.ndarray:
        stylizer = Stylizer("candy", model_dir=model_dir, **arguments)
        result = np.empty_like(frames)
        for n, frame in enumerate(frames):
            rgb = pixels.planes_to_rgb([frame[..., c] for c in range(3)])
            output = stylizer.stylize(rgb, [starts_scene[n] if starts_scene else None])
            pixels.rgb_to_planes(output, [result[n, ..., c] for c in range(3)])
        return result

    return stylize


@pytest.fixture
def digest():
    """digest(frame) -> a hash of an (H, W, 3) frame's planes R, G, B."""

    def digest(frame: np.ndarray) -> str:
        return hashlib.sha256(np.ascontiguousarray(frame.transpose(2, 0, 1)).tobytes()).hexdigest()[
            :16
        ]

    return digest


@pytest.fixture
def vs_core():
    return vs.core
