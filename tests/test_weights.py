"""Model files: what is written is read back, and every unusable file is an error that names it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vsneuralstyle.errors import ModelError
from vsneuralstyle.networks.net1 import Net1
from vsneuralstyle.weights import available_styles, load_model, read_header, save_model

NETWORKS = {"flow_width": 0.125, "still": 0.25}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one model `plain` of random weights, and no other on the search path but the package's own."""
    monkeypatch.delenv("NEURALSTYLE_MODEL_PATH", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    torch.manual_seed(0)
    models = tmp_path / "models"
    models.mkdir()
    save_model(
        Net1(**NETWORKS), models / "plain.safetensors", style="plain", networks=NETWORKS, training={"by": "a test"}
    )
    return models


def test_round_trip(folder):
    torch.manual_seed(0)
    before = Net1(**NETWORKS).state_dict()
    model = load_model("plain", model_dir=folder)
    assert model.header["training"] == {"by": "a test"} and model.net1.still == 0.25
    after = model.net1.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value.half().float(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.net1.parameters())


def test_search_path(folder, tmp_path, monkeypatch):
    assert "plain" not in available_styles()
    assert available_styles(model_dir=folder)["plain"] == folder / "plain.safetensors"
    monkeypatch.setenv("NEURALSTYLE_MODEL_PATH", f"/nowhere:{folder}")
    assert available_styles()["plain"] == load_model("plain").path
    mine = tmp_path / "data" / "vsneuralstyle" / "models"
    mine.mkdir(parents=True)
    (folder / "plain.safetensors").rename(mine / "mine.safetensors")
    assert "mine" in available_styles() and "plain" not in available_styles()


@pytest.mark.parametrize("style", ["nope", "../models/plain", ""])
def test_unknown_style_lists_those_that_exist(folder, style):
    with pytest.raises(ModelError, match="plain") as error:
        load_model(style, model_dir=folder)
    assert repr(style) in str(error.value)


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


def test_tensors_that_do_not_fit_the_header(folder):
    path = folder / "plain.safetensors"
    header = read_header(path)
    for networks in ({"flow_width": 0.25}, {"no_such_argument": 1}):
        save_file(
            {"weight": torch.zeros(3)}, path, metadata={"vsneuralstyle": json.dumps({**header, "networks": networks})}
        )
        with pytest.raises(ModelError, match="don't fit its header"):
            load_model("plain", model_dir=folder)
