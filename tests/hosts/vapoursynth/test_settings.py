"""What a script has set of PyTorch, for a filter of its own say, changes nothing of this one."""

from pathlib import Path

import numpy as np
import pytest

OUTPUT = """
import torch
torch.{setting}
core.vsneuralstyle.Stylize(source, style="candy", model_dir=model_dir, device="cpu", precision="float32").set_output()
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A folder with a model of random weights that the kernels take."""
    import torch

    from vsneuralstyle.networks.net1 import Net1
    from vsneuralstyle.weights import save_model

    networks = dict(channels=(16, 16, 16), residual_blocks=1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    save_model(Net1(**networks), folder / "candy.safetensors", style="candy", networks=networks, training={})
    return folder


@pytest.mark.parametrize("setting", ["set_default_dtype(torch.float16)", "set_default_device('meta')"])
def test_vspipe(setting, clip, model_dir, stylized, write_script, run):
    script = write_script(OUTPUT.format(setting=setting), clip)
    piped = run("vspipe", script, "-", "-a", f"model_dir={model_dir}", text=False, timeout=60)
    assert piped.returncode == 0, piped.stderr.decode()
    green, blue, red = np.moveaxis(np.frombuffer(piped.stdout, np.uint8).reshape(-1, 3, *clip.shape[1:3]), 1, 0)
    assert np.array_equal(np.stack((red, green, blue), -1), stylized(clip, device="cpu", precision="float32"))
