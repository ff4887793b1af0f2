"""Model files <-> networks, and which styles there are.

A model file is safetensors: float16 tensors under the names of `networks.Net1`, and in its metadata
one JSON header with the network's hyper-parameters, the style's name and how it was trained.
Nothing is ever unpickled.

A model file may leave out of its flow network what `flow.safetensors` has, which styles then share;
its header says which it was.

Of the family "stylebank" there are one base, `stylebank.safetensors`, Net1 without a bank, and for
each style a `<style>.bank.safetensors`, whose header names the base that it was trained with.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vsneuralstyle.errors import ArgumentError, ModelError
from vsneuralstyle.networks.net1 import FLOW_NETWORKS, Net1
from vsneuralstyle.networks.stylebank import Bank, Mixture, StyleBankNet

FORMAT = 1
NETS = ("johnson", "stylebank")
SUFFIX = ".safetensors"
BANK_SUFFIX = ".bank.safetensors"
BASE = "stylebank"
"""The style in a base's header, and its file's name."""
FLOW = "flow.safetensors"
"""The file of a flow network that models share."""
_KEY = "vsneuralstyle"

Network = TypeVar("Network", bound=nn.Module)


def _is_count(value: object, least: int = 1, most: int = 4096) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return (type(value) is int or type(value) is float) and least <= value <= most


# What a header may say of networks. A file is anybody's: from what is not here nothing is built,
# let alone allocated.
_OF_NET1: dict[str, Callable[[object], bool]] = {
    "channels": lambda value: (
        isinstance(value, list) and len(value) == 3 and all(map(_is_count, value))
    ),
    "residual_blocks": lambda value: _is_count(value, 0, 64),
    "encoder_blocks": lambda value: value is None or _is_count(value, 0, 64),
    "flow_network": lambda value: isinstance(value, str) and value in FLOW_NETWORKS,
    "flow_width": lambda value: _is_number(value, 0, 16),
    "mask_hidden": _is_count,
    "warp_mode": lambda value: value in ("bilinear", "bicubic"),
    "still": lambda value: _is_number(value, -1, 1),
    "hold": lambda value: _is_number(value, 0, 1),
    "refresh": lambda value: _is_number(value, 0, 1),
    "sharpen": lambda value: _is_number(value, 0, 1),
}
_OF_BANK: dict[str, Callable[[object], bool]] = {"channels": _is_count}
_OF_STYLE = ("refresh", "sharpen")
"""Options of Net1 of which a bank's header may have its own, as "net1", in place of the base's."""


@dataclass(frozen=True)
class Model:
    """A model file in memory: its networks (float32, eval mode), its header and where it came
    from.
    """

    net1: Net1
    header: dict
    path: Path


def search_path(model_dir: str | os.PathLike | None = None) -> list[Path]:
    """Folders in which models are looked for, first match first.

    `model_dir`; each entry of $NEURALSTYLE_MODEL_PATH; $XDG_DATA_HOME/vsneuralstyle/models; the
    package's own models.
    """
    folders = [Path(model_dir)] if model_dir else []
    folders += [
        Path(entry)
        for entry in os.environ.get("NEURALSTYLE_MODEL_PATH", "").split(os.pathsep)
        if entry
    ]
    folders.append(user_folder())
    package = Path(__file__).resolve().parents[1]
    # An installed wheel carries the models inside the package; in a checkout they lie beside it.
    folders.append(
        package / "models" if (package / "models").is_dir() else package.parent / "models"
    )
    return folders


def user_folder() -> Path:
    """Where the user's own models are: $XDG_DATA_HOME/vsneuralstyle/models."""
    return (
        Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        / "vsneuralstyle"
        / "models"
    )


def read_header(path: Path) -> dict:
    """A model file's header.

    Raises:
        ModelError: the file is missing, truncated or not one of ours.
    """
    header = _metadata(path)
    try:
        known = (
            header["format"] == FORMAT
            and isinstance(header["style"], str)
            and header["net"] in NETS
        )
        known = known and (header["net"] != "stylebank" or isinstance(header["base"], str))
        known = known and isinstance(header.get("flow", ""), str)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise ModelError(
            f"{path}: a safetensors file, but not a vsneuralstyle model of format {FORMAT}; "
            "expected one that `neuralstyle train` wrote"
        )
    networks = header.get("networks")
    if not isinstance(networks, dict):
        raise ModelError(
            f"{path}: its header doesn't say what its networks are; copy or train the model again"
        )
    allowed = (
        _OF_BANK if _is_bank(header) else {**_OF_NET1, "net": lambda value: value == header["net"]}
    )
    for name, value in networks.items():
        if name not in allowed or not allowed[name](value):
            raise ModelError(
                f"{path}: its header has {_shown({name: value})}, which no network takes; copy or train the model again"
            )
    own = header.get("net1", {})
    if own and not (
        _is_bank(header)
        and isinstance(own, dict)
        and all(k in _OF_STYLE and _OF_NET1[k](v) for k, v in own.items())
    ):
        raise ModelError(
            f"{path}: its header has {_shown({'net1': own})}; expected {' and '.join(_OF_STYLE)} of a bank, 0 to 1; "
            "copy or train the model again"
        )
    return header


def _metadata(path: Path) -> Any:
    """The JSON that a file has of ours, unchecked, so of any type; None where it has none."""
    if not os.path.isfile(path):
        raise ModelError(
            f"{path}: no such model file; expected a {SUFFIX} file that `neuralstyle train` wrote"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: truncated or not a safetensors file ({error}); copy or train the model again"
        ) from None
    except (ValueError, RecursionError):
        return None


def _is_bank(header: dict) -> bool:
    return header["net"] == "stylebank" and header["style"] != BASE


def available_styles(
    net: str = "johnson", model_dir: str | os.PathLike | None = None
) -> dict[str, Path]:
    """Styles of a network family that can be loaded -> their files; a name found twice is the first
    folder's.
    """
    styles: dict[str, Path] = {}
    banks, base = net == "stylebank", None
    if banks:
        try:
            base = read_header(_base_path(model_dir))["base"]
        except ModelError:
            return {}
    for folder in search_path(model_dir):
        for path in (
            sorted(folder.glob(f"*{BANK_SUFFIX if banks else SUFFIX}"))
            if os.path.isdir(folder)
            else ()
        ):
            try:
                header = read_header(path)
            except ModelError:
                continue  # a file that isn't ours must not hide those that are
            if header["net"] == net and header.get("base") == base:
                styles.setdefault(path.name.removesuffix(BANK_SUFFIX if banks else SUFFIX), path)
    return styles


def check_style_name(name: str) -> None:
    """Whether a file and a part of a mix can be called so.

    Raises:
        ArgumentError: no.
    """
    if not re.fullmatch(r"[\w-]+", name) or name == BASE:
        raise ArgumentError(
            f"style name {name!r}: expected letters, digits, _ and -, and not {BASE!r}"
        )


def parse_mix(style: str) -> dict[str, float]:
    """ "candy:0.6+muse:0.4" -> {"candy": 0.6, "muse": 0.4}; a style without a weight has 1.

    Raises:
        ArgumentError: an empty part, a style given twice, a weight that isn't a number >= 0, or no
            weight above 0.
    """
    mix: dict[str, float] = {}
    expected = f"style {style!r}: expected styles and weights as in 'candy:0.6+muse:0.4'"
    for part in style.split("+"):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not name:
            raise ArgumentError(f"{expected}; a part of it, {part!r}, names no style")
        if not 0 <= weight < math.inf:
            raise ArgumentError(
                f"{expected}; the weight of {name} is {number!r}, not a number from 0 up"
            )
        if name in mix:
            raise ArgumentError(f"{expected}; {name} is there twice, give it one weight")
        mix[name] = weight
    if not any(mix.values()):
        raise ArgumentError(f"{expected}; every weight is 0, give at least one that is above")
    return mix


def load_model(
    style: str, net: str = "johnson", model_dir: str | os.PathLike | None = None
) -> Model:
    """The model of a style.

    Args:
        style: a name as `available_styles` lists it: the file's name without its suffix. For net
            "stylebank" a mix too: see `parse_mix`.
        net: network family, one of `NETS`.
        model_dir: a folder to look in first.

    Raises:
        ModelError: unknown net or style (the message lists those that exist), or an unusable file.
        ArgumentError: a malformed mix.
    """
    if net not in NETS:
        raise ModelError(f"unknown net {net!r}; expected one of: {', '.join(NETS)}")
    if model_dir and not os.path.isdir(model_dir):
        raise ModelError(
            f"model folder {str(model_dir)!r} does not exist; give a folder with {SUFFIX} models, or leave it out"
        )
    if net == "stylebank":
        return _load_mix(style, model_dir)
    return _load(_path_of(style, net, model_dir), net, model_dir)


def load_base(model_dir: str | os.PathLike | None = None) -> Model:
    """StyleBank's base, Net1 without a bank: its style network is an auto-encoder.

    Raises:
        ModelError: there is none, or an unusable file.
    """
    return _load(_base_path(model_dir), "stylebank", model_dir)


def _load_mix(style: str, model_dir: str | os.PathLike | None) -> Model:
    mix = parse_mix(style)
    base = load_base(model_dir)
    loaded = {name: load_bank(name, base, model_dir) for name in mix}
    # What weighs nothing costs nothing.
    used = [(loaded[name][0], weight) for name, weight in mix.items() if weight > 0]
    base.net1.style.bank = Mixture(*zip(*used)).eval().requires_grad_(False)
    banks = {name: header for name, (_, header) in loaded.items()}
    for option in _OF_STYLE:
        shared = getattr(base.net1, option)
        of_mix = sum(
            weight * banks[name].get("net1", {}).get(option, shared) for name, weight in mix.items()
        )
        setattr(base.net1, option, of_mix / sum(mix.values()))
    return Model(base.net1, {**base.header, "style": style, "banks": banks}, base.path)


def load_bank(
    style: str, base: Model, model_dir: str | os.PathLike | None = None
) -> tuple[Bank, dict]:
    """The bank of one style for a base (`load_base`), and its header.

    Raises:
        ModelError: unknown style, a bank of another base, or an unusable file.
    """
    path = _path_of(style, "stylebank", model_dir)
    header = read_header(path)
    if header.get("base") != base.header["base"] or not _is_bank(header):
        raise ModelError(
            f"{path}: a bank of another base than {base.path}; train it again, or put its own {BASE}{SUFFIX} first on "
            "the search path"
        )
    return _read_state(lambda: Bank(**header["networks"]), path), header


def _find(name: str, model_dir: str | os.PathLike | None) -> Path | None:
    """The first file of that name on the search path; a name that leads elsewhere finds none."""
    if Path(name).name != name:
        return None
    return next(
        (p for p in (folder / name for folder in search_path(model_dir)) if os.path.isfile(p)), None
    )


def _base_path(model_dir: str | os.PathLike | None) -> Path:
    path = _find(BASE + SUFFIX, model_dir)
    if path is None:
        looked = ", ".join(str(folder) for folder in search_path(model_dir))
        raise ModelError(
            f"net 'stylebank' needs its base, {BASE}{SUFFIX}, and there is none (looked in {looked})"
        )
    return path


def _path_of(style: str, net: str, model_dir: str | os.PathLike | None) -> Path:
    path = _find(f"{style}{BANK_SUFFIX if net == 'stylebank' else SUFFIX}", model_dir)
    if path is None:
        names = ", ".join(sorted(available_styles(net, model_dir))) or "none"
        looked = ", ".join(str(folder) for folder in search_path(model_dir))
        mix = (
            "; a mix of styles takes net 'stylebank'"
            if net != "stylebank" and set(style) & set("+:")
            else ""
        )
        raise ModelError(
            f"unknown style {_shown(style)}; styles that exist for net {net!r}: "
            f"{names} (looked in {looked}){_other_net(style, net, model_dir)}{mix}"
        )
    return path


def _other_net(style: str, net: str, model_dir: str | os.PathLike | None) -> str:
    """What an error says of a style that another network family has."""
    having = [
        other for other in NETS if other != net and style in available_styles(other, model_dir)
    ]
    return "".join(
        f'; net {other!r} has it: net="{other}" (command line: --net {other})' for other in having
    )


def _load(path: Path, net: str, model_dir: str | os.PathLike | None) -> Model:
    header = read_header(path)
    if header["net"] != net:
        raise ModelError(f"{path}: a model of net {header['net']!r}, but net {net!r} was asked for")
    if _is_bank(header):
        raise ModelError(
            f"{path}: the bank of style {header['style']!r}; expected the base, Net1 without a bank"
        )
    shared = _shared_flow(header["flow"], path, model_dir) if "flow" in header else {}
    net1 = _read_state(lambda: Net1(**header["networks"]), path, shared)
    return Model(net1.eval().requires_grad_(False), header, path)


def _shared_flow(digest: str, path: Path, model_dir: str | os.PathLike | None) -> dict[str, Tensor]:
    """The flow network that a model file was written to share: beside it, or on the search path."""
    folders = [path.parent, *search_path(model_dir)]
    for file in dict.fromkeys(folder / FLOW for folder in folders):
        if os.path.isfile(file) and _digest(tensors := _tensors(file)) == digest:
            return tensors
    raise ModelError(
        f"{path}: its flow network isn't in it, but in the {FLOW} with which it was trained, and that isn't there (looked in "
        f"{', '.join(map(str, folders))}); copy it to the same folder"
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a file has, as copies: its own tensors are its mapped pages, and a file that is written
    to later ends the host.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(
            f"{path}: its tensors can't be read ({error}); copy or train the model again"
        ) from None


def _read_state(
    make: Callable[[], Network], path: Path, shared: Mapping[str, Tensor] = {}
) -> Network:
    """A network with a file's tensors in it, and with the shared ones that it leaves out."""
    # shapes without memory: what is allocated below is what the file holds
    with torch.device("meta"):
        module = make()
    expected = {name: list(value.shape) for name, value in module.state_dict().items()}
    state = {**shared, **_tensors(path)}
    found = {name: list(value.shape) for name, value in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"{path}: its tensors don't fit its header ({name} is {found.get(name, 'not there')}, "
                f"expected {expected.get(name, 'none')}); copy or train the model again"
            )
    state = {name: value.to(torch.float32) for name, value in state.items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ModelError(
                f"{path}: {name} has values that are not finite; copy or train the model again"
            )
    module.load_state_dict(state, assign=True)
    return module


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def fingerprint(network: StyleBankNet) -> str:
    """What a base's encoder and decoder are known by: a digest of their tensors as a model file has
    them.
    """
    return _digest(
        {name: value for name, value in _stored(network).items() if not name.startswith("bank.")}
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_model(
    net1: Net1, path: Path, *, style: str, networks: dict, training: dict, flow: Path | None = None
) -> None:
    """Writes a model file.

    Args:
        net1: the networks.
        path: `<style>.safetensors`.
        style: the style's name; of a StyleBank base: `BASE`.
        networks: the keyword arguments that `net1` was made with.
        training: data, recipe and figures, as JSON can hold them.
        flow: a file of `save_flow`: what it has is left out; where that is anything, it has to lie
            beside the model file, or on the search path, as `FLOW`.
    """
    header = {
        "net": networks.get("net", "johnson"),
        "style": style,
        "networks": networks,
        "training": training,
    }
    if isinstance(net1.style, StyleBankNet):
        header["base"] = fingerprint(net1.style)
    tensors = _stored(net1)
    if flow:
        shared = _tensors(flow)
        own = {
            name: value
            for name, value in tensors.items()
            if name not in shared or not torch.equal(value, shared[name])
        }
        if len(own) < len(tensors):
            header["flow"], tensors = _digest(shared), own
    _write(tensors, path, header)


def save_flow(flow: nn.Module, path: Path, training: dict) -> None:
    """Writes a flow network for models to share.

    Args:
        flow: the network.
        path: `FLOW`, in whichever folder.
        training: the options of `train flow`.
    """
    _write(
        {f"flow.{name}": value for name, value in _stored(flow).items()},
        path,
        {"training": training},
    )


def load_flow(path: Path) -> dict:
    """A file of `save_flow`, as a run of `train flow` has it: "modules", names -> tensors, and its
    "configuration".

    Raises:
        ModelError: not such a file.
    """
    header, tensors = _metadata(path), _tensors(path)
    if not (isinstance(header, dict) and isinstance(header.get("training"), dict)) or not all(
        name.startswith("flow.") for name in tensors
    ):
        raise ModelError(
            f"{path}: not a flow network; expected a file that `neuralstyle train flow --output` wrote"
        )
    return {"modules": tensors, "configuration": header["training"]}


def save_bank(
    bank: Bank,
    path: Path,
    *,
    style: str,
    base: str,
    training: dict,
    net1: Mapping[str, float] | None = None,
) -> None:
    """Writes a bank.

    Args:
        bank: of one style.
        path: `<style>.bank.safetensors`.
        style: the style's name.
        base: the fingerprint of the base that it was trained with.
        training: data, recipe and figures, as JSON can hold them.
        net1: options of Net1 in place of the base's, "refresh" and "sharpen"; a mix has the mean of
            its banks'.
    """
    networks = {"channels": len(bank.norm.weight)}
    header = {
        "net": "stylebank",
        "style": style,
        "base": base,
        "networks": networks,
        "training": training,
    }
    _write(_stored(bank), path, {**header, "net1": dict(net1)} if net1 else header)


def _stored(module: nn.Module) -> dict[str, Tensor]:
    # channels_last tensors are strided; safetensors takes contiguous ones alone.
    return {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in module.state_dict().items()
    }


def _write(tensors: dict[str, Tensor], path: Path, header: dict) -> None:
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={_KEY: json.dumps({"format": FORMAT, **header})})
    part.chmod(0o644)  # safetensors writes for its owner's eyes alone
    part.replace(path)
