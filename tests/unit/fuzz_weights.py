"""Hostile model files against `load_model`: fuzz_weights.py FOLDER; test_weights.py runs it in a
process of its own.

Whatever a file holds, it loads and stylizes, or is a ModelError that names it, and takes no more
memory than it holds.
"""

import json
import os
import resource
import sys
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vsneuralstyle import Stylizer
from vsneuralstyle.errors import ModelError
from vsneuralstyle.networks.checkpoint import available_styles, read_header, save_model
from vsneuralstyle.networks.net1 import Net1

COUNT = os.environ.get("NEURALSTYLE_FUZZ")
SETTINGS = settings(
    max_examples=int(COUNT or 40),
    derandomize=not COUNT,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
NETWORKS = {"channels": [8, 8, 8], "residual_blocks": 1, "flow_width": 0.0625}
FOLDER = Path(sys.argv[1])
PATH = FOLDER / "fuzz.safetensors"

torch.manual_seed(0)
save_model(Net1(**NETWORKS), PATH, style="fuzz", networks=NETWORKS, training={})
WHOLE = PATH.read_bytes()
HEADER = read_header(PATH)
# a file's own tensors are its mapped pages
STATE = {name: value.clone() for name, value in load_file(PATH).items()}
DATA = 8 + int.from_bytes(WHOLE[:8], "little")  # where the tensors start

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 1, 8, 63, 64, 65, 4096, 10**9, 2**31, 2**63, 10**400, 1e308, -1e308, 1e-320, 0.0625]
    ),
)
values = st.recursive(
    st.one_of(
        st.none(),
        numbers,
        st.text(max_size=8),
        st.sampled_from(["johnson", "litepwcnet", "flownets", "bicubic"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
networks = st.fixed_dictionaries(
    {},
    optional={
        "channels": st.lists(numbers, min_size=2, max_size=4) | values,
        "flow_network": st.sampled_from(["litepwcnet", "flownets", "none"]) | values,
        "warp_mode": st.sampled_from(["bilinear", "bicubic", "nearest"]) | values,
        **dict.fromkeys(
            (
                "residual_blocks",
                "encoder_blocks",
                "flow_width",
                "mask_hidden",
                "still",
                "hold",
                "refresh",
                "sharpen",
            ),
            numbers | values,
        ),
        "self": values,
        "unknown": values,
    },
)


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load() -> bool:
    """Loads the file and stylizes two frames. False: it is a ModelError that names the file."""
    before = memory()
    try:
        stylizer = Stylizer(
            "fuzz", model_dir=FOLDER, device="cpu", precision="float32", scene_cut=0
        )
    except ModelError as error:
        assert PATH.name in str(error) or "unknown style 'fuzz'" in str(error), error
        assert len(str(error)) < 2000
        loaded = False
    else:
        output = stylizer.stylize(torch.rand(2, 3, 16, 16))
        assert output.shape == (2, 3, 16, 16)
        loaded = True
    grown = memory() - before
    assert grown < 200 * 2**20, (
        f"{grown >> 20} MiB were taken for a file of {PATH.stat().st_size} bytes"
    )
    assert ("fuzz" in available_styles(model_dir=FOLDER)) or not loaded
    return loaded


def write(header, state=None) -> None:
    save_file(
        STATE if state is None else state, PATH, metadata={"vsneuralstyle": json.dumps(header)}
    )


@SETTINGS
@given(st.integers(0, len(WHOLE) - 1))
def truncated(size):
    PATH.write_bytes(WHOLE[:size])
    assert not load()


@SETTINGS
@given(
    st.lists(
        st.tuples(st.integers(0, DATA + 64) | st.integers(0, len(WHOLE) - 1), st.integers(0, 7)),
        min_size=1,
        max_size=8,
    )
)
def bits_flipped(bits):
    content = bytearray(WHOLE)
    for position, bit in bits:
        content[min(position, len(WHOLE) - 1)] ^= 1 << bit
    PATH.write_bytes(content)
    load()


@SETTINGS
@given(st.binary(max_size=64), st.integers(0, 2**64 - 1) | st.integers(0, 200))
@example(b"", 0)
def foreign(content, size):
    PATH.write_bytes(content)
    assert not load()
    PATH.write_bytes(size.to_bytes(8, "little") + content)
    assert not load()


@SETTINGS
@given(networks)
@example({"channels": [10**9, 10**9, 10**9]})
@example({**NETWORKS, "residual_blocks": 10**9})
@example({**NETWORKS, "flow_width": 10**9})
@example({**NETWORKS, "flow_width": float("nan")})
@example({**NETWORKS, "mask_hidden": 10**9})
@example({**NETWORKS, "channels": [0, 8, 8]})
def hostile_networks(networks):
    for given_networks in (networks, {**NETWORKS, **networks}):
        write({**HEADER, "networks": given_networks})
        loaded = load()
        assert loaded or given_networks != NETWORKS


@SETTINGS
@given(values | st.fixed_dictionaries({}, optional=dict.fromkeys(HEADER, values)))
def hostile_header(header):
    write(header)
    load()
    if isinstance(header, dict):
        write({**HEADER, **header})
        load()


@SETTINGS
@given(
    st.text(max_size=40)
    | st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "NaN", '"\\ud800"', ""])
)
def no_json(text):
    save_file(STATE, PATH, metadata={"vsneuralstyle": text})
    assert not load()


@SETTINGS
@given(
    st.sampled_from(sorted(STATE)),
    st.sampled_from(
        [
            "missing",
            "renamed",
            "other shape",
            "no shape",
            "empty",
            "nan",
            "inf",
            torch.float32,
            torch.bfloat16,
            torch.float64,
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.complex64,
            torch.float8_e4m3fn,
        ]
    ),
    st.text(max_size=8),
)
def foreign_tensors(name, change, other):
    state = dict(STATE)
    value = state.pop(name)
    if change == "renamed":
        state[other] = value
    elif change == "other shape":
        state[name] = torch.cat((value, value))
    elif change == "no shape":
        state[name] = torch.tensor(1.0)
    elif change == "empty":
        state[name] = value[:0]
    elif change in ("nan", "inf"):
        state[name] = value.clone()
        state[name].view(-1)[-1] = float(change)
    elif change != "missing":
        state[name] = value.to(change)
    write(HEADER, state)
    loaded = load()
    assert loaded == isinstance(change, torch.dtype), (name, change)


@SETTINGS
@given(
    st.text(max_size=300)
    | st.sampled_from(["a" * 5000, "..", ".", "/", "a/b", "a\0b", "\udcff", "é" * 200, "fuzz"])
)
def styles(style):
    PATH.write_bytes(WHOLE)
    try:
        Stylizer(style, model_dir=FOLDER, device="cpu")
        assert style in available_styles(model_dir=FOLDER)
    except ModelError as error:
        assert "fuzz" in str(error)
    try:
        Stylizer("fuzz", model_dir=style, device="cpu")
    except ModelError as error:
        assert "fuzz" in str(error) or "does not exist" in str(error)


def no_files():
    """What stands where a file should: a folder, a link that leads nowhere or to itself, a pipe, a
    device.
    """
    for make in (
        Path.mkdir,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/proc/self/mem"),
    ):
        PATH.unlink()
        make(PATH)
        assert not load()
        if PATH.is_dir() and not PATH.is_symlink():
            PATH.rmdir()
            PATH.touch()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for check in (
        truncated,
        bits_flipped,
        foreign,
        hostile_networks,
        hostile_header,
        no_json,
        foreign_tensors,
        styles,
        no_files,
    ):
        print(check.__name__, flush=True)
        check()
