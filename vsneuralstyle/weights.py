"""Model files <-> networks, and which styles there are.

A model file is safetensors: float16 tensors under the names of `networks.Net1`, and in its metadata one JSON header
with the network's hyper-parameters, the style's name and how it was trained. Nothing is ever unpickled.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vsneuralstyle.errors import ModelError
from vsneuralstyle.networks.net1 import FLOW_NETWORKS, Net1

FORMAT = 1
NETS = ("johnson",)
SUFFIX = ".safetensors"
_KEY = "vsneuralstyle"


def _is_count(value: object, least: int = 1, most: int = 4096) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


# What a header may say of networks. A file is anybody's: from what is not here nothing is built, let alone allocated.
_HYPERPARAMETERS = {
    "channels": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)),
    "residual_blocks": lambda value: _is_count(value, 0, 64),
    "encoder_blocks": lambda value: value is None or _is_count(value, 0, 64),
    "flow_network": lambda value: isinstance(value, str) and value in FLOW_NETWORKS,
    "flow_width": lambda value: _is_number(value, 0, 16),
    "mask_hidden": _is_count,
    "warp_mode": lambda value: value in ("bilinear", "bicubic"),
    "still": lambda value: _is_number(value, -1, 1),
}


@dataclass(frozen=True)
class Model:
    """A model file in memory: its networks (float32, eval mode), its header and where it came from."""

    net1: Net1
    header: dict
    path: Path


def search_path(model_dir: str | os.PathLike | None = None) -> list[Path]:
    """Folders in which models are looked for, first match first.

    `model_dir`; each entry of $NEURALSTYLE_MODEL_PATH; $XDG_DATA_HOME/vsneuralstyle/models; the package's own models.
    """
    folders = [Path(model_dir)] if model_dir else []
    folders += [Path(entry) for entry in os.environ.get("NEURALSTYLE_MODEL_PATH", "").split(os.pathsep) if entry]
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    folders.append(Path(data) / "vsneuralstyle" / "models")
    package = Path(__file__).resolve().parent
    # An installed wheel carries the models inside the package; in a checkout they lie beside it.
    folders.append(package / "models" if (package / "models").is_dir() else package.parent / "models")
    return folders


def read_header(path: Path) -> dict:
    """A model file's header.

    Raises:
        ModelError: the file is missing, truncated or not one of ours.
    """
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such model file; expected a {SUFFIX} file that `neuralstyle train` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: truncated or not a safetensors file ({error}); copy or train the model again"
        ) from None
    try:
        header = json.loads(metadata[_KEY])
        known = header["format"] == FORMAT and isinstance(header["style"], str) and header["net"] in NETS
    except (KeyError, TypeError, ValueError, RecursionError):
        known = False
    if not known:
        raise ModelError(
            f"{path}: a safetensors file, but not a vsneuralstyle model of format {FORMAT}; "
            "expected one that `neuralstyle train` wrote"
        )
    networks = header.get("networks")
    if not isinstance(networks, dict):
        raise ModelError(f"{path}: its header doesn't say what its networks are; copy or train the model again")
    for name, value in networks.items():
        if name not in _HYPERPARAMETERS or not _HYPERPARAMETERS[name](value):
            raise ModelError(
                f"{path}: its header has {_shown({name: value})}, which no network takes; copy or train the model again"
            )
    return header


def available_styles(net: str = "johnson", model_dir: str | os.PathLike | None = None) -> dict[str, Path]:
    """Styles of a network family that can be loaded -> their files; a name found twice is the first folder's."""
    styles: dict[str, Path] = {}
    for folder in search_path(model_dir):
        for path in sorted(folder.glob(f"*{SUFFIX}")) if os.path.isdir(folder) else ():
            try:
                header = read_header(path)
            except ModelError:
                continue  # a file that isn't ours must not hide those that are
            if header["net"] == net:
                styles.setdefault(path.stem, path)
    return styles


def load_model(style: str, net: str = "johnson", model_dir: str | os.PathLike | None = None) -> Model:
    """The model of a style.

    Args:
        style: a name as `available_styles` lists it: the file's name without its suffix.
        net: network family, one of `NETS`.
        model_dir: a folder to look in first.

    Raises:
        ModelError: unknown net or style (the message lists those that exist), or an unusable file.
    """
    if net not in NETS:
        raise ModelError(f"unknown net {net!r}; expected one of: {', '.join(NETS)}")
    if model_dir and not os.path.isdir(model_dir):
        raise ModelError(
            f"model folder {str(model_dir)!r} does not exist; give a folder with {SUFFIX} models, or leave it out"
        )
    folders = search_path(model_dir)
    path = next((p for p in (folder / f"{style}{SUFFIX}" for folder in folders) if os.path.isfile(p)), None)
    if path is None or Path(style).name != style:
        names = ", ".join(sorted(available_styles(net, model_dir))) or "none"
        looked = ", ".join(str(folder) for folder in folders)
        raise ModelError(
            f"unknown style {_shown(style)}; styles that exist for net {net!r}: {names} (looked in {looked})"
        )
    header = read_header(path)
    if header["net"] != net:
        raise ModelError(f"{path}: a model of net {header['net']!r}, but net {net!r} was asked for")
    return Model(_read_networks(path, header).eval().requires_grad_(False), header, path)


def _read_networks(path: Path, header: dict) -> Net1:
    with torch.device("meta"):  # shapes without memory: what is allocated below is what the file holds
        net1 = Net1(**header["networks"])
    expected = {name: list(value.shape) for name, value in net1.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}
            for name in sorted(expected.keys() | found.keys()):
                if expected.get(name) != found.get(name):
                    raise ModelError(
                        f"{path}: its tensors don't fit its header ({name} is {found.get(name, 'not there')}, "
                        f"expected {expected.get(name, 'none')}); copy or train the model again"
                    )
            # Copies: the file's own tensors are its mapped pages, and a file that is written to later ends the host.
            state = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in found}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: its tensors can't be read ({error}); copy or train the model again") from None
    for name, value in state.items():
        if not value.isfinite().all():
            raise ModelError(f"{path}: {name} has values that are not finite; copy or train the model again")
    net1.load_state_dict(state, assign=True)
    return net1


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def save_model(net1: Net1, path: Path, *, style: str, networks: dict, training: dict, net: str = "johnson") -> None:
    """Writes a model file.

    Args:
        net1: the networks.
        path: `<style>.safetensors`.
        style: the style's name.
        networks: the keyword arguments that `net1` was made with.
        training: data, recipe and figures, as JSON can hold them.
    """
    header = {"format": FORMAT, "net": net, "style": style, "networks": networks, "training": training}
    # channels_last tensors are strided; safetensors takes contiguous ones alone.
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in net1.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata={_KEY: json.dumps(header)})
    part.chmod(0o644)  # safetensors writes for its owner's eyes alone
    part.replace(path)
