"""What a script has set of PyTorch, for a filter of its own say, changes nothing of this one."""

from pathlib import Path

import numpy as np
import pytest

OUTPUT = """
import torch
torch.{setting}
arguments = dict(style="candy", model_dir=model_dir, device="cpu", precision="float32")
core.vsneuralstyle.Stylize(source, **arguments).set_output()
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A folder with a model of random weights that the kernels take."""
    import torch

    from vsneuralstyle.networks.checkpoint import save_model
    from vsneuralstyle.networks.net1 import Net1

    networks = dict(channels=(16, 16, 16), residual_blocks=1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    path = folder / "candy.safetensors"
    save_model(Net1(**networks), path, style="candy", networks=networks, training={})
    return folder


@pytest.mark.parametrize(
    "setting", ["set_default_dtype(torch.float16)", "set_default_device('meta')"]
)
def test_vspipe(setting, clip, model_dir, stylized, write_script, run):
    script = write_script(OUTPUT.format(setting=setting), clip)
    piped = run("vspipe", script, "-", "-a", f"model_dir={model_dir}", text=False, timeout=60)
    assert piped.returncode == 0, piped.stderr.decode()
    planes = np.frombuffer(piped.stdout, np.uint8).reshape(-1, 3, *clip.shape[1:3])
    made = planes.transpose(0, 2, 3, 1)[..., [2, 0, 1]]  # vspipe's order is G, B, R
    assert np.array_equal(made, stylized(clip, device="cpu", precision="float32"))
