"""What a script, or another filter, has set of PyTorch changes no pixel and ends no process."""

import ast
import sys
from pathlib import Path

import pytest

import vsneuralstyle

SCRIPT = """
import contextlib, hashlib, sys, warnings
import numpy as np
import torch

held = contextlib.ExitStack()
{setting}

from vsneuralstyle import Stylizer
from vsneuralstyle.engines.cpu import library as kernel_library
from vsneuralstyle.video import pixels
from vsneuralstyle.networks.checkpoint import available_styles

library = kernel_library.library
clip = np.load({clip!r})[:3]
coding = pixels.Coding(matrix=1, full_range=False)

def pixels_of(**options):
    digest, stylizer = hashlib.sha256(), Stylizer("candy", device="cpu", **options)
    for frame in clip:
        planes = [frame[..., 0].copy(), *(frame[::2, ::2, c].copy() for c in (1, 2))]
        stylized = stylizer.stylize(pixels.components_to_rgb(planes, coding))
        pixels.rgb_to_components(stylized, planes, coding)
        for part in (stylized.numpy(), *planes):
            digest.update(part.tobytes())
    return digest.hexdigest()[:16]

for way, found in {{"kernels": library(), "networks": None}}.items():
    kernel_library.library = lambda: found
    if way == "kernels" and found is None:
        continue
    print("johnson", way, pixels_of(precision="float32", strength=0.9, preserve_color=True))
    print("johnson", way, "bfloat16", pixels_of(precision="bfloat16"))
    if "candy" in available_styles("stylebank"):
        print("stylebank", way, pixels_of(net="stylebank", precision="float32"))
"""

HELD = {
    "float16": "torch.set_default_dtype(torch.float16)",
    "bfloat16": "torch.set_default_dtype(torch.bfloat16)",
    "float64": "torch.set_default_dtype(torch.float64)",
    "another device": "torch.set_default_device('meta')",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "autocast": "held.enter_context(torch.autocast('cpu', dtype=torch.bfloat16))",
    "inference mode": "held.enter_context(torch.inference_mode())",
    "no gradients, no compilation, no denormals, no warnings": (
        "torch.set_grad_enabled(False); torch.compiler.set_stance('fail_on_recompile'); "
        "torch.set_flush_denormal(True); warnings.simplefilter('error')"
    ),
}
HELD_BY_KERNELS = {
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "no oneDNN": "torch.backends.mkldnn.enabled = False",
}
"""PyTorch's own operators sum in another order then, or in another precision, and that can't be
undone for one thread alone."""


@pytest.fixture(scope="module")
def made(tmp_path_factory, clip, model_dir, run):
    """made(setting) -> what a process that set this first makes of a clip: a line for each network
    and way.
    """
    import numpy as np

    path = tmp_path_factory.mktemp("settings") / "clip.npy"
    np.save(path, clip)

    def make(setting: str) -> list[str]:
        script = SCRIPT.format(setting=setting, clip=str(path))
        done = run(sys.executable, "-P", "-c", script, timeout=60)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
        return done.stdout.splitlines()

    return make


@pytest.fixture(scope="module")
def expected(made) -> list[str]:
    """Of a process that set nothing."""
    return made("")


@pytest.mark.parametrize("setting", HELD.values(), ids=HELD)
def test_a_setting_moves_no_pixel(made, expected, setting):
    assert made(setting) == expected


@pytest.mark.parametrize("setting", HELD_BY_KERNELS.values(), ids=HELD_BY_KERNELS)
def test_a_setting_moves_no_pixel_of_the_kernels(made, expected, setting):
    def of_kernels(lines: list[str]) -> list[str]:
        return [line for line in lines if " kernels " in line]

    if not of_kernels(expected):
        pytest.skip("the wheel was built without the kernels")
    assert of_kernels(made(setting)) == of_kernels(expected)


MAKES = {
    "arange",
    "empty",
    "empty_strided",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "tensor",
    "zeros",
}
"""PyTorch's functions that make tensors of a default type, on a default device."""
AT_RUN_TIME = [
    "*.py",
    "core/*.py",
    "engines/**/*.py",
    "hosts/**/*.py",
    "networks/**/*.py",
    "video/*.py",
]
ALONE = {"doctor.py"}
"""In a process of its own."""


def factory_calls(file: Path) -> list[tuple[str, set[str]]]:
    """Where a file calls one of `MAKES`, and the keywords."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [(ast.unparse(call.func), call) for call in calls]
    return [
        (f"{file.name}:{call.lineno}: {name}", {keyword.arg for keyword in call.keywords})
        for name, call in named
        if name in {f"torch.{made}" for made in MAKES}
    ]


def test_what_makes_a_tensor_says_its_type_and_device():
    """But for the device of a module's parameters, which `torch.device` tells as a context."""
    package = Path(vsneuralstyle.__file__).parent
    files = {file for pattern in AT_RUN_TIME for file in package.glob(pattern)}
    calls = [call for file in files if file.name not in ALONE for call in factory_calls(file)]
    assert len(calls) > 20
    for call, said in calls:
        needed = {"dtype"} if call.startswith("norm.py") else {"dtype", "device"}
        assert needed <= said, call
