"""Model files: what is written is read back, and every unusable file is an error that names it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vsneuralstyle.errors import ModelError
from vsneuralstyle.networks.checkpoint import (
    FLOW,
    available_styles,
    load_flow,
    load_model,
    read_header,
    save_flow,
    save_model,
)
from vsneuralstyle.networks.net1 import FLOW_NETWORKS, Net1

NETWORKS = {"flow_width": 0.125, "still": 0.25, "hold": 0.125, "refresh": 0.5, "sharpen": 0.25}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one model `plain` of random weights, and no other on the search path but the
    package's own.
    """
    monkeypatch.delenv("NEURALSTYLE_MODEL_PATH", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    torch.manual_seed(0)
    models = tmp_path / "models"
    models.mkdir()
    save_model(
        Net1(**NETWORKS),
        models / "plain.safetensors",
        style="plain",
        networks=NETWORKS,
        training={"by": "a test"},
    )
    return models


@pytest.mark.parametrize("network", FLOW_NETWORKS)
def test_loading_a_model_loads_no_compiler(run, tmp_path, network):
    """As drawing random weights on the meta device does, for as long as it takes to load torch."""
    networks = {**NETWORKS, "flow_network": network}
    save_model(
        Net1(**networks),
        tmp_path / "plain.safetensors",
        style="plain",
        networks=networks,
        training={},
    )
    program = (
        "import sys, torch; before = set(sys.modules); from vsneuralstyle.networks.checkpoint import load_model; "
        "load_model('plain', model_dir=sys.argv[1]); print(*sorted(set(sys.modules) - before))"
    )
    done = run(sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", program, tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "vsneuralstyle.networks.checkpoint" in loaded and not {
        "sympy",
        "torch._dynamo",
        "torch._inductor",
    } & set(loaded)


def test_round_trip(folder):
    torch.manual_seed(0)
    before = Net1(**NETWORKS).state_dict()
    model = load_model("plain", model_dir=folder)
    assert model.header["training"] == {"by": "a test"} and (
        model.net1.still,
        model.net1.hold,
        model.net1.refresh,
    ) == (0.25, 0.125, 0.5)
    after = model.net1.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value.half().float(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.net1.parameters())


def test_models_share_a_flow_network(folder, tmp_path, monkeypatch):
    torch.manual_seed(1)
    net1, flow = Net1(**NETWORKS), folder / FLOW
    save_flow(net1.flow, flow, {"network": "litepwcnet"})
    assert load_flow(flow)["configuration"] == {"network": "litepwcnet"} and FLOW.partition(".")[
        0
    ] not in available_styles(model_dir=folder)
    net1.flow.predicts[3].bias.data += 1  # its own, in place of what is shared
    save_model(
        net1,
        folder / "sharing.safetensors",
        style="sharing",
        networks=NETWORKS,
        training={},
        flow=flow,
    )
    with safe_open(folder / "sharing.safetensors", framework="pt") as file:
        assert [name for name in file.keys() if name.startswith("flow.")] == [
            "flow.predicts.3.bias"
        ]
    expected = {name: value.half().float() for name, value in net1.state_dict().items()}

    def check():
        loaded = load_model("sharing", model_dir=folder).net1.state_dict()
        assert loaded.keys() == expected.keys() and all(
            torch.equal(loaded[name], value) for name, value in expected.items()
        )

    check()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("NEURALSTYLE_MODEL_PATH", str(tmp_path / "elsewhere"))
    flow.rename(tmp_path / "elsewhere" / FLOW)
    check()
    other = Net1(**NETWORKS).flow
    for value in other.state_dict().values():
        value += 2
    save_flow(other, flow, {})  # another one is passed by
    check()
    save_model(
        net1, folder / "alone.safetensors", style="alone", networks=NETWORKS, training={}, flow=flow
    )
    assert "flow" not in read_header(folder / "alone.safetensors")  # nothing of it is the model's
    (tmp_path / "elsewhere" / FLOW).unlink()
    with pytest.raises(
        ModelError,
        match=f"sharing.safetensors: its flow network isn't in it, but in the {FLOW}.*copy it",
    ):
        load_model("sharing", model_dir=folder)
    (folder / FLOW).write_bytes(b"none")
    with pytest.raises(ModelError, match=f"{FLOW}: its tensors can't be read"):
        load_model("sharing", model_dir=folder)
    with pytest.raises(ModelError, match="plain.safetensors: not a flow network"):
        load_flow(folder / "plain.safetensors")


def test_search_path(folder, tmp_path, monkeypatch):
    assert "plain" not in available_styles()
    assert available_styles(model_dir=folder)["plain"] == folder / "plain.safetensors"
    monkeypatch.setenv("NEURALSTYLE_MODEL_PATH", f"/nowhere:{folder}")
    assert available_styles()["plain"] == load_model("plain").path
    mine = tmp_path / "data" / "vsneuralstyle" / "models"
    mine.mkdir(parents=True)
    (folder / "plain.safetensors").rename(mine / "mine.safetensors")
    assert "mine" in available_styles() and "plain" not in available_styles()


def test_a_checkout_has_its_models_beside_the_package(run, tmp_path, request):
    root = request.config.rootpath
    done = run(
        sys.executable,
        "-P",
        "-c",
        "from vsneuralstyle.networks.checkpoint import search_path; print(search_path()[-1])",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == str(root / "models"), done.stderr


@pytest.mark.parametrize("style", ["nope", "../models/plain", ""])
def test_unknown_style_lists_those_that_exist(folder, style):
    with pytest.raises(ModelError, match="plain") as error:
        load_model(style, model_dir=folder)
    assert repr(style) in str(error.value)


def test_unknown_style_that_another_net_has(folder, stylebank_dir):
    for file in stylebank_dir.iterdir():
        file.rename(folder / file.name)
    with pytest.raises(
        ModelError,
        match="unknown style 'two'.*; net 'stylebank' has it: net=\"stylebank\" .*--net stylebank",
    ):
        load_model("two", model_dir=folder)
    for style in ("plain", "one:0.6+plain:0.4"):
        with pytest.raises(
            ModelError,
            match="unknown style 'plain'.*; net 'johnson' has it: net=\"johnson\" .*--net johnson",
        ):
            load_model(style, net="stylebank", model_dir=folder)
    for style, net in (("nope", "johnson"), ("nope", "stylebank"), ("one:0.6+two:0.4", "johnson")):
        with pytest.raises(ModelError) as error:
            load_model(style, net=net, model_dir=folder)
        assert "has it" not in str(error.value)
        assert ("a mix of styles takes net 'stylebank'" in str(error.value)) == ("+" in style)


def test_unknown_net_and_folder(folder, tmp_path):
    with pytest.raises(ModelError, match="'nonet'.*johnson"):
        load_model("plain", net="nonet", model_dir=folder)
    with pytest.raises(ModelError, match="absent"):
        load_model("plain", model_dir=tmp_path / "absent")


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated(folder, size):
    path = folder / "plain.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="plain.safetensors.*truncated"):
        load_model("plain", model_dir=folder)


def test_foreign(folder):
    path = folder / "plain.safetensors"
    for content in (b"\x80\x04 a pickle", json.dumps({"a": 1}).encode(), b"\xff" * 4096):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="plain.safetensors"):
            load_model("plain", model_dir=folder)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="not a vsneuralstyle model"):
        load_model("plain", model_dir=folder)
    assert "plain" not in available_styles(model_dir=folder)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (
            {"flow_width": 0.25},
            r"don't fit its header \(flow.estimators.0.0.0.bias is not there, expected \[",
        ),
        ({"no_such_argument": 1}, "has {'no_such_argument': 1}, which no network takes"),
        (
            {"channels": [10**9] * 3},
            r"has {'channels': \[1000000000, 1000000000, 1000000000\]}, which",
        ),
        (None, "doesn't say what its networks are"),
    ],
)
def test_tensors_that_do_not_fit_the_header(networks, message, folder):
    path = folder / "plain.safetensors"
    header = read_header(path)
    save_file(
        {"weight": torch.zeros(3)},
        path,
        metadata={"vsneuralstyle": json.dumps({**header, "networks": networks})},
    )
    with pytest.raises(ModelError, match=f"plain.safetensors: .*{message}"):
        load_model("plain", model_dir=folder)


def test_values_that_are_not_finite(folder):
    path = folder / "plain.safetensors"
    net1 = Net1(**NETWORKS)
    net1.mask[0].weight.data[0, 0, 0, 0] = float("nan")
    save_model(net1, path, style="plain", networks=NETWORKS, training={})
    with pytest.raises(
        ModelError, match="plain.safetensors: mask.0.weight has values that are not finite"
    ):
        load_model("plain", model_dir=folder)


def test_fuzz(tmp_path, run):
    """NEURALSTYLE_FUZZ: so many new examples of each kind, in place of a few that are always the
    same.
    """
    pytest.importorskip("hypothesis")
    count = int(os.environ.get("NEURALSTYLE_FUZZ", 0))
    script = Path(__file__).with_name("fuzz_weights.py")
    ran = run(sys.executable, "-X", "faulthandler", "-P", script, tmp_path, timeout=120 + count)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert ran.stdout.split()[-1] == "no_files"
