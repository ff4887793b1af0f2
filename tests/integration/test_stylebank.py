"""StyleBank: banks in the network, in files and in mixes, and the trainers that make them."""

import csv
import itertools
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from vsneuralstyle import ArgumentError, ModelError, Stylizer, cli
from vsneuralstyle.networks.checkpoint import (
    available_styles,
    fingerprint,
    load_base,
    load_model,
    parse_mix,
    read_header,
    save_bank,
)
from vsneuralstyle.networks.stylebank import Bank, Mixture, StyleBankNet, each_its_own
from vsneuralstyle.networks.transform_net import TransformNet
from vsneuralstyle.training.stylebank import drawn_styles, start_from_transform_net


@pytest.fixture(autouse=True)
def seeded(monkeypatch, tmp_path):
    torch.manual_seed(0)
    monkeypatch.delenv("NEURALSTYLE_MODEL_PATH", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@torch.no_grad()
def test_without_a_bank_it_is_an_auto_encoder_and_a_mix_is_the_weighted_sum(random_bank):
    network, one, two, frame = (
        StyleBankNet(),
        random_bank(),
        random_bank(),
        torch.rand(2, 3, 24, 32),
    )
    content = network.content(frame)
    assert torch.equal(network.encode(frame), network.residual[3:](content))
    mixed = network.residual[3:](0.25 * one(content) + 0.75 * two(content))
    torch.testing.assert_close(network.encode(frame, Mixture([one, two], [1, 3])), mixed)
    own = network.encode(frame, each_its_own([one, two]))
    for i, bank in enumerate((one, two)):
        torch.testing.assert_close(
            own[i : i + 1], network.encode(frame[i : i + 1], bank), rtol=1e-4, atol=1e-4
        )
    assert (own[0] - network.encode(frame, two)[0]).abs().mean() > 0.01


@torch.no_grad()
def test_drawing_has_no_statistics_of_the_picture():
    """Unlike Johnson's decoder: what one corner draws doesn't depend on what stands in another."""
    feature = torch.randn(1, 64, 24, 24)
    changed = feature.clone()
    changed[..., 20:, 20:] += 1
    for network, local in ((StyleBankNet(), True), (TransformNet(), False)):
        assert (
            torch.equal(
                network.decode(feature)[..., :32, :32], network.decode(changed)[..., :32, :32]
            )
            == local
        )


@torch.no_grad()
def test_a_start_from_a_transform_net_draws_what_that_one_draws():
    johnson, network, bank, photo = TransformNet(), StyleBankNet(), Bank(), torch.rand(1, 3, 64, 64)
    start_from_transform_net(network, bank, johnson.state_dict(), photo)
    # One photograph's own statistics are exact.
    expected = johnson(photo)
    for feature in (network.encode(photo), network.encode(photo, bank)):
        torch.testing.assert_close(network.decode(feature), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05


def test_every_style_is_drawn_equally_often_and_by_the_step_alone():
    drawn = [style for step in range(12) for style in drawn_styles(step, 2, 6, 0)]
    assert set(Counter(drawn).values()) == {4} and drawn_styles(7, 2, 6, 0) == drawn[14:16]
    assert drawn != sorted(drawn) and drawn[:6] != drawn[6:12]


def test_files(stylebank_dir, tmp_path, random_bank):
    assert set(available_styles("stylebank", stylebank_dir)) == {"one", "two", "three"}
    assert not {"stylebank", "one", "one.bank"} & set(available_styles(model_dir=stylebank_dir))
    model = load_model("one:1 + two:3", "stylebank", stylebank_dir)
    banks = model.header["banks"]
    assert list(banks) == ["one", "two"] and banks["one"]["training"] == {"by": "a test"}
    assert model.net1.style.bank.weights == [0.25, 0.75]
    assert len(load_model("one+two:0", "stylebank", stylebank_dir).net1.style.bank.banks) == 1
    assert not any(p.requires_grad for p in model.net1.parameters())
    # A bank may have options of Net1 of its own, and a mix has their mean.
    own = stylebank_dir / "own.bank.safetensors"
    save_bank(
        random_bank(),
        own,
        style="own",
        base=model.header["base"],
        training={},
        net1={"refresh": 0.5},
    )
    refresh, sharpen = model.net1.refresh, model.net1.sharpen
    for style, share in (("own", 1), ("own:1+one:3", 0.25), ("one", 0)):
        net1 = load_model(style, "stylebank", stylebank_dir).net1
        assert net1.refresh == pytest.approx(
            share * 0.5 + (1 - share) * refresh
        ) and net1.sharpen == pytest.approx(sharpen)
    for wrong in ({"refresh": 1.5}, {"still": 0.1}, {"sharpen": "a"}):
        save_bank(
            random_bank(), own, style="own", base=model.header["base"], training={}, net1=wrong
        )
        with pytest.raises(ModelError, match="expected refresh and sharpen of a bank, 0 to 1"):
            load_model("own", "stylebank", stylebank_dir)
    own.unlink()

    # A base that was saved, loaded and saved again is the same to its banks.
    base = load_base(stylebank_dir)
    assert fingerprint(base.net1.style) == base.header["base"] == fingerprint(model.net1.style)


@pytest.mark.parametrize(
    ("style", "error", "match"),
    [
        ("", ArgumentError, "names no style"),
        ("one+", ArgumentError, "'' ?, names no style"),
        (":0.5", ArgumentError, "':0.5', names no style"),
        ("one:", ArgumentError, "weight of one is ''"),
        ("one:-1+two", ArgumentError, "weight of one is '-1'"),
        ("one:nan", ArgumentError, "weight of one is 'nan'"),
        ("one:inf", ArgumentError, "weight of one is 'inf'"),
        ("one:much", ArgumentError, "weight of one is 'much'"),
        ("one:1:2", ArgumentError, "weight of one is '1:2'"),
        ("one:0+two:0", ArgumentError, "every weight is 0"),
        ("one:0.5+one:0.5", ArgumentError, "one is there twice"),
        ("one+nope:0", ModelError, "unknown style 'nope'.*one, three, two"),
        ("../models/one", ModelError, "unknown style"),
        ("stylebank", ModelError, "unknown style"),
    ],
)
def test_a_bad_mix_is_an_error_that_says_what_is_wrong(stylebank_dir, style, error, match):
    with pytest.raises(error, match=match) as raised:
        load_model(style, "stylebank", stylebank_dir)
    assert style in str(raised.value) or "nope" in str(raised.value)


def test_a_mix_keeps_order_and_weights():
    assert parse_mix("candy:0.6+muse:0.4") == {"candy": 0.6, "muse": 0.4}
    assert parse_mix(" candy + muse : 2e-1") == {"candy": 1.0, "muse": 0.2}


def test_a_mix_of_johnson_nets_is_an_error_that_names_stylebank(stylebank_dir):
    with pytest.raises(
        ModelError, match="'one:0.5.two:0.5'.*a mix of styles takes net 'stylebank'"
    ):
        load_model("one:0.5+two:0.5", model_dir=stylebank_dir)


def test_a_bank_of_another_base_and_a_missing_base_are_errors(stylebank_dir, random_bank):
    path = stylebank_dir / "other.bank.safetensors"
    save_bank(random_bank(), path, style="other", base=fingerprint(StyleBankNet()), training={})
    with pytest.raises(
        ModelError,
        match="other.bank.safetensors: a bank of another base than .*stylebank.safetensors",
    ):
        load_model("other", "stylebank", stylebank_dir)
    assert "other" not in available_styles("stylebank", stylebank_dir)
    path = stylebank_dir / "one.bank.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="one.bank.safetensors: truncated"):
        load_model("one", "stylebank", stylebank_dir)
    (stylebank_dir / "two.bank.safetensors").replace(stylebank_dir / "stylebank.safetensors")
    with pytest.raises(
        ModelError, match="stylebank.safetensors: the bank of style 'two'; expected the base"
    ):
        load_model("three", "stylebank", stylebank_dir)


def test_no_base_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vsneuralstyle.networks.checkpoint.search_path", lambda model_dir=None: [tmp_path]
    )
    with pytest.raises(ModelError, match=r"needs its base, stylebank.safetensors.*looked in"):
        load_model("one", "stylebank")
    assert available_styles("stylebank") == {}


def test_the_styles_that_come_with_it(clip):
    """Six that are different, and a mix between two; each steadier than by itself where nothing
    moves.
    """
    frames = torch.from_numpy(clip[:5]).permute(0, 3, 1, 2).float() / 255
    pictures = {}
    for style in ("candy", "muse", "scream", "udnie", "starry_night", "wave", "candy+wave"):
        coherent, per_frame = (
            Stylizer(style, net="stylebank", device="cpu", coherence=coherence).stylize(frames)
            for coherence in (1, 0)
        )
        changes = [
            stylized[..., :8, :].diff(dim=0).abs().mean() for stylized in (coherent, per_frame)
        ]
        assert changes[0] < changes[1], style
        pictures[style] = coherent[0]
    mix = pictures.pop("candy+wave")
    assert all((a - b).abs().mean() > 0.03 for a, b in itertools.combinations(pictures.values(), 2))
    apart = (pictures["candy"] - pictures["wave"]).abs().mean()
    assert all((mix - pictures[style]).abs().mean() < apart for style in ("candy", "wave"))


def test_stylizer_mixes(stylebank_dir, clip):
    frames = torch.from_numpy(clip[:4]).permute(0, 3, 1, 2).float() / 255

    def stylized(style: str, **options) -> torch.Tensor:
        return Stylizer(
            style, net="stylebank", model_dir=stylebank_dir, device="cpu", **options
        ).stylize(frames)

    one, two, both = stylized("one"), stylized("two"), stylized("one:0.5+two:0.5")
    assert both.shape == frames.shape and both.isfinite().all()
    assert torch.equal(stylized("one:7+two:0"), one) and torch.equal(stylized("one:3+two:3"), both)
    apart = (one - two).abs().mean()
    assert apart > 0.01 and 0.1 * apart < (both - one).abs().mean() < apart
    # The networks around the feature are shared by the styles; the state goes on from frame to
    # frame.
    single = stylized("one", coherence=0)
    assert torch.equal(single[0], one[0]) and not torch.equal(single[1], one[1])


@pytest.fixture
def data(tmp_path):
    """Smooth random photographs, and one sequence of a moving one with its flow."""
    random = np.random.default_rng(0)
    photos, videos, cache = (tmp_path / name for name in ("photos", "videos", "cache"))
    for made in (photos, videos, cache):
        made.mkdir()
    for index in range(4):
        small = random.integers(0, 256, (24, 32, 3), np.uint8)
        image = cv2.resize(small, (256, 192), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(photos / f"{index}.png"), image)
    (videos / "moving.mp4").touch()
    frames = np.stack([np.roll(image[:128, :160], t, 1) for t in range(4)])
    flow = np.zeros((3, 2, 128, 160), np.float16)
    flow[:, 0] = -1
    np.savez(
        cache / "moving-512-4-1-0-0.npz",
        frames=frames,
        flows=flow,
        traceable=np.ones((3, 1, 128, 160), bool),
    )
    return tmp_path


def train(*arguments) -> int:
    """The exit code of the command, in this process: five new ones would import PyTorch five
    times.
    """
    return cli.main(["train", *map(str, arguments)])


def test_the_commands_make_styles_that_mix_and_a_bank_of_ones_own(data, vgg, clip, capsys):
    """A few steps each: that the chain holds, not what it learns."""
    photos, models = data / "photos", data / "data" / "vsneuralstyle" / "models"
    common = ("--device", "cpu", "--batch", 1, "--iterations")
    losses = ("--photos", photos, "--vgg", vgg, "--size", 64, "--style-size", 64)
    two = (
        "stylebank",
        photos / "0.png",
        photos / "1.png",
        "--names",
        "one",
        "two",
        *losses,
        "--run",
        data / "bank",
    )
    flow = (
        "flow",
        "--photos",
        photos,
        "--width",
        0.125,
        "--size",
        128,
        64,
        "--translations",
        0,
        "--run",
        data / "flow",
    )
    net1 = (
        "net1",
        "--style-run",
        data / "bank",
        "--flow-run",
        data / "flow",
        "--clips",
        data / "videos",
        "--cache",
        data / "cache",
        "--per-clip",
        1,
        "--crop",
        128,
        64,
        "--output",
        models,
        "--run",
        data / "net1",
    )
    mine = ("style", photos / "2.png", "--name", "mine", *losses, "--run", data / "mine")
    for arguments, steps in ((two, 3), (two, 6), (flow, 1), (net1, 2), (mine, 2)):
        assert train(*arguments, *common, steps) == 0, capsys.readouterr().err
    with (data / "bank" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    for row in rows:  # two steps with one style each, and one of the auto-encoder
        assert float(row["reconstruction"]) > 0 and float(row["style one"]) > 0
        mean = (float(row["style one"]) + float(row["style two"])) / 2
        np.testing.assert_allclose(float(row["style"]), mean, rtol=1e-4)
    assert set(available_styles("stylebank")) == {"one", "two", "mine"}
    assert read_header(models / "mine.bank.safetensors")["training"]["style"]["painting"] == "2.png"
    header = read_header(models / "stylebank.safetensors")
    assert header["training"]["style"]["paintings"] == ["0.png", "1.png"]
    stylizer = Stylizer("mine:0.5+two:0.5", net="stylebank", device="cpu")
    out = stylizer.stylize(torch.from_numpy(clip[:2]).permute(0, 3, 1, 2).float() / 255)
    assert out.shape == (2, 3, 48, 64) and out.isfinite().all()


def test_wrong_options_of_the_trainers_are_errors_that_name_them(data, vgg, capsys, monkeypatch):
    photos = data / "photos"
    monkeypatch.setattr(
        "vsneuralstyle.networks.checkpoint.search_path", lambda model_dir=None: [data]
    )
    for arguments, match in (
        (
            ("stylebank", photos / "0.png", photos / "1.png", "--names", "one"),
            "--names: 1 for 2 paintings",
        ),
        (("stylebank", photos / "0.png", photos / "1.png", "--names", "a", "a"), "given twice"),
        (("stylebank", photos / "0.png", "--factors", 1, 2), "--factors: 2 for 1 paintings"),
        (("style", photos / "0.png", "--name", "a+b"), "style name 'a+b'"),
        (
            ("style", photos / "0.png", "--start-from", photos),
            "--start-from goes with --net johnson",
        ),
        (("style", photos / "0.png", "--name", "mine"), "needs its base, stylebank.safetensors"),
    ):
        assert train(*arguments, "--photos", photos, "--vgg", vgg, "--run", data / "run") == 2
        error = capsys.readouterr().err
        assert match in error and error.count("\n") == 1
