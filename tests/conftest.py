"""What the tests of every part share: the shipped model, a moving picture, and commands run as a
user runs them.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# The tests' frames are tiny: more threads would only wait for each other. Set before torch is
# imported, and inherited.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """Marks the tests whose folder or fixtures say what they take; others say so themselves."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in ("hosts", "slow"):
            item.add_marker(folder)
        if folder == "integration" or not {"run", "emulated"}.isdisjoint(item.fixturenames):
            item.add_marker("subprocess")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The folder of the model `candy`; the test is skipped where no trained model is installed."""
    from vsneuralstyle.networks.checkpoint import available_styles

    styles = available_styles()
    if "candy" not in styles:
        pytest.skip(
            "no model candy.safetensors is installed; set NEURALSTYLE_MODEL_PATH to a folder that "
            "has it"
        )
    return styles["candy"].parent


@pytest.fixture(scope="session")
def vgg(tmp_path_factory):
    """A file in VGG-19's shape with random weights: it drives the trainer's code, not a model's
    quality.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state, index, inputs = {}, 0, 3
    for widths in ((64, 64), (128, 128), (256,) * 4, (512,) * 4):
        for width in widths:
            state[f"features.{index}.weight"] = (
                torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            ).half()
            state[f"features.{index}.bias"] = torch.zeros(width).half()
            inputs, index = width, index + 2
        index += 1
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def random_bank():
    """Makes a bank of random weights."""
    import torch

    from vsneuralstyle.networks.stylebank import Bank

    def make() -> Bank:
        bank = Bank()
        for parameter in bank.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return bank

    return make


@pytest.fixture
def stylebank_dir(tmp_path, random_bank) -> Path:
    """A folder with a StyleBank base of random weights and its banks `one`, `two` and `three`."""
    import torch

    from vsneuralstyle.networks.checkpoint import fingerprint, save_bank, save_model
    from vsneuralstyle.networks.net1 import Net1

    torch.manual_seed(0)
    networks = {"net": "stylebank", "flow_width": 0.125}
    net1 = Net1(**networks)
    folder = tmp_path / "stylebank"
    folder.mkdir()
    save_model(
        net1, folder / "stylebank.safetensors", style="stylebank", networks=networks, training={}
    )
    for name in ("one", "two", "three"):
        path = folder / f"{name}.bank.safetensors"
        save_bank(
            random_bank(), path, style=name, base=fingerprint(net1.style), training={"by": "a test"}
        )
    return folder


@pytest.fixture(scope="session")
def cuda() -> str:
    """The name of a CUDA device; the test is skipped where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda:0"


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """(8, 48, 64, 3) uint8 RGB: a disc moves over a gradient; frame 5 is a hard cut to another
    scene.
    """
    y, x = np.mgrid[0:48, 0:64]
    frames = []
    for t in range(8):
        red, green, blue = 3 * x + 30, 4 * y + 20, 100 + 40 * np.sin(x / 5 + y / 7)
        if t >= 5:
            red, green, blue = 255 - blue, 60 + 0 * x, 255 - red
        disc = (x - 16 - 4 * t) ** 2 + (y - 24) ** 2 < 100
        frames.append(
            np.stack([np.where(disc, 250 - plane, plane) for plane in (red, green, blue)], axis=-1)
        )
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


@pytest.fixture
def frames(clip):
    """The clip as a `Stylizer` takes it: (8, 3, 48, 64) float32."""
    import torch

    return torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def again():
    """What stands for `graphs.record`: the function itself, on memory and with results that stay
    where they are, as if all were copied.
    """

    def record(function, tensors, device):
        held = [tensor.clone() for tensor in tensors]
        outputs = tuple(output.clone() for output in function(*held))

        def replay(given):
            for ours, new in zip((*held, *outputs), (*given, *function(*given))):
                ours.copy_(new)
            return tuple(output.clone() for output in outputs)

        return replay

    return record


@pytest.fixture(scope="session")
def reference():
    """What stands for `select_engine`: the reference, whatever could be faster."""
    import torch

    return lambda net1, device, dtype: net1.to(device, dtype, memory_format=torch.channels_last)


@pytest.fixture(scope="session")
def run():
    """Runs a command of this Python's environment (`vspipe`, `neuralstyle`, `gst-launch-1.0`) with
    a time limit.

    A command that hangs fails the test: `subprocess.TimeoutExpired`.
    """

    def run(*command, timeout=120, env=None, text=True, **options) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=text,
            timeout=timeout,
            env={**os.environ, "PATH": path, **(env or {})},
            **options,
        )

    return run
