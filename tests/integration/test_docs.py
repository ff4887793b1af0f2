"""The documentation: its commands and examples run, its names and links exist, its sentences are
short. The hosts' pages have tests of their own, in tests/hosts.
"""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "models").glob("*.md"))]
TOLD = [page for page in PAGES if "results" not in page.parts]
COMMAND = Path(sys.executable).with_name("neuralstyle")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def check_sentences():
    """scripts/check_sentences.py as a module."""
    path = ROOT / "scripts" / "check_sentences.py"
    spec = importlib.util.spec_from_file_location("check_sentences", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, model_dir):
    """A folder with in.mp4: six frames of a moving bar, with sound."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "in.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = file.add_stream("aac", rate=8000, layout="mono")
        for n in range(6):
            picture = np.full((48, 64, 3), 60, np.uint8)
            picture[:, 8 * n : 8 * n + 16] = 200, 90, 40
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        file.mux([*audio.encode(sound), *audio.encode(None), *video.encode(None)])
    return tmp_path


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess:
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def write_shots(folder: Path) -> None:
    """What the command line's page has beside in.mp4: shots/, other.mov, shot/%05d.exr and .png."""
    import av

    for name in ("shots", "shot"):
        (folder / name).mkdir()
    shutil.copy(folder / "in.mp4", folder / "shots" / "one.mp4")
    shutil.copy(folder / "in.mp4", folder / "other.mov")
    for suffix, codec, pix_fmt in ((".png", "png", "rgb24"), (".exr", "exr", "gbrpf32le")):
        with (
            av.open(str(folder / "in.mp4")) as source,
            av.open(str(folder / "shot" / f"%05d{suffix}"), "w", format="image2") as file,
        ):
            stream = file.add_stream(codec, rate=25, width=64, height=48)
            stream.pix_fmt = pix_fmt
            for number, frame in enumerate(source.decode(video=0)):
                picture = frame.reformat(format=pix_fmt)
                picture.pts, picture.time_base = number, stream.time_base
                file.mux(stream.encode(picture))
            file.mux(stream.encode(None))


WRITTEN = {
    "tutorial.md": ["out.mp4", "flicker.mp4", "mix.mp4"],
    "how-to/command-line.md": [
        *("out.mp4", "styled/one.mp4", "styled/other.mov", "one_scream.mov", "shot.mov"),
        *(
            "styled/00006.exr",
            "fade.mp4",
            "cut.mp4",
            "twice.mkv",
            "mix.mp4",
            "out.mov",
            "out.mkv",
            "small.gif",
        ),
    ],
}
"""What the commands of a page write, of six frames each."""


@pytest.mark.parametrize("page", WRITTEN)
def test_commands(folder, page):
    """Each block of a page, in turn, in a folder with in.mp4."""
    import av

    commands = blocks(DOCS / page, "bash")
    assert commands
    write_shots(folder)
    for keys in blocks(DOCS / page, "toml"):
        (folder / "keys.toml").write_text(keys)
    for command in commands:
        ran = run_in(folder, "bash", "-e", "-o", "pipefail", "-c", command)
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
    for name in WRITTEN[page]:
        with av.open(str(folder / name)) as file:
            count = 1 if name.endswith(".exr") else 6
            assert len(list(file.decode(video=0))) == count, name


@pytest.mark.parametrize("page", ["README.md", "docs/reference/python-api.md"])
def test_python_examples(folder, page):
    """The page's examples, in turn, in one process."""
    examples = [text for text in blocks(ROOT / page, "python") if "from vsneuralstyle" in text]
    assert examples
    ran = run_in(folder, sys.executable, "-P", "-c", "\n".join(examples))
    assert ran.returncode == 0, ran.stderr
    if any("# strength is 2" in text for text in examples):
        assert ran.stdout.splitlines()[-1] == "strength is 2; expected 0 to 1"


def test_readmes_script_for_vapoursynth(folder, model_dir):
    vs = pytest.importorskip("vapoursynth", reason="VapourSynth needs Python >= 3.12")
    if not hasattr(vs.core, "bs"):
        pytest.skip("vapoursynth-bestsource is not installed")
    (script,) = (text for text in blocks(ROOT / "README.md", "python") if "# script.vpy" in text)
    (folder / "script.vpy").write_text(script)
    ran = run_in(folder, "bash", "-c", f". '{COMMAND.parent}/activate'; vspipe script.vpy .")
    assert ran.returncode == 0, ran.stderr
    assert "Output 6 frames" in ran.stderr


def commands_told() -> dict[str, set[str]]:
    """Of each subcommand that a page shows, such as "train net1": the options that it is given."""
    told: dict[str, set[str]] = {}
    for page in TOLD:
        text = page.read_text().replace("\\\n", " ")
        for words in re.findall(r"neuralstyle ((?:train )?[a-z][a-z0-9]*\b[^`\n|]*)", text):
            words = words.partition("#")[0]
            name = re.match(r"(?:train )?\w+", words)[0]
            told.setdefault(name, set()).update(OPTION.findall(words))
    return told


def options_of(name: str, capsys) -> set[str]:
    """Those that `neuralstyle NAME --help` lists."""
    from vsneuralstyle.cli import main

    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert not ended.value.code, name
    return set(OPTION.findall(capsys.readouterr().out))


def test_options_exist(capsys):
    """Every option in a command of the pages is one of that command."""
    told = {name: options for name, options in commands_told().items() if options}
    assert {"render", "styles", "benchmark", "evaluate", "train net1", "train style"} <= set(told)
    for name, options in told.items():
        assert options <= options_of(name, capsys), name


def test_options_of_render_are_all_told(capsys):
    """The reference has every option that `neuralstyle render` has, and no other."""
    page = (DOCS / "reference" / "arguments.md").read_text()
    generated, _, rest = page.partition("<!-- end -->")
    only = rest.partition("## Command line only")[2].partition("\n## ")[0]
    assert set(OPTION.findall(generated + only)) == options_of("render", capsys) - {"--help"}


def test_glossary_names_exist():
    """Each name of code in the glossary is a module, or an attribute of one."""
    names = re.findall(r"`(vsneuralstyle\.[\w.]+)`", (DOCS / "reference/glossary.md").read_text())
    assert len(names) > 20
    for name in names:
        parts = name.split(".")
        module = next(
            ".".join(parts[:n])
            for n in range(len(parts), 0, -1)
            if (ROOT / Path(*parts[:n])).is_dir()
            or (ROOT / Path(*parts[:n])).with_suffix(".py").is_file()
        )
        found = importlib.import_module(module)
        for attribute in parts[module.count(".") + 1 :]:
            fields = getattr(found, "__dataclass_fields__", {})
            assert hasattr(found, attribute) or attribute in fields, name
            found = getattr(found, attribute, None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """Relative links of a page: the file exists, and so does the heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_whole(page):
    """A table begins with a header and its line, and each row has as many cells."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.M):
        header, line, *rows = (re.findall(r"(?<!\\)\|", row) for row in table.splitlines())
        assert re.fullmatch(r"[|: -]+", table.splitlines()[1]), table
        assert rows and all(len(row) == len(header) for row in [line, *rows]), table


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", TOLD, ids=name_of)
def test_sentences_are_short(page):
    assert check_sentences().problems(page) == []


def test_long_sentences_are_found(tmp_path):
    """The check sees a long sentence and a long median, and leaves code and tables out."""
    module, page = check_sentences(), tmp_path / "page.md"
    page.write_text(
        f"```\n{'code ' * 50}\n```\n| {'cell ' * 50} |\n\nTwo words. Three words here.\n"
    )
    assert module.problems(page) == []
    page.write_text(f"{'word ' * 25}end.\n")
    assert "median sentence has 26 words" in module.problems(page)[0]
    page.write_text(f"{'word ' * 40}end. Short one. Short too.\n")
    assert "41 words" in module.problems(page)[0]


def test_the_readmes_animation(folder):
    """The script makes one of any clip: both sides beside each other, a bar above."""
    image = pytest.importorskip("PIL.Image")
    script = ROOT / "scripts" / "docs" / "make_animation"
    options = ["--frames", "3", "--width", "32"]
    ran = run_in(folder, sys.executable, "-P", str(script), "in.mp4", "out.webp", *options)
    assert ran.returncode == 0, ran.stderr
    with image.open(folder / "out.webp") as made:
        assert (made.n_frames, made.size) == (3, (64, 24 + 22))
        made.seek(2)
        sides = np.asarray(made.convert("RGB"), float)[22:]
    assert np.abs(sides[:, :32] - sides[:, 32:]).mean() > 0.5


def test_site_builds(tmp_path):
    mkdocs = shutil.which("mkdocs", path=str(COMMAND.parent)) or shutil.which("mkdocs")
    if mkdocs is None:
        pytest.skip("mkdocs is not installed (pip install mkdocs-material)")
    ran = run_in(ROOT, mkdocs, "build", "--strict", "--site-dir", str(tmp_path / "site"))
    assert ran.returncode == 0, ran.stderr
    for page in ("how-to/vapoursynth", "reference/arguments", "models/candy"):
        assert (tmp_path / "site" / page / "index.html").is_file(), page
