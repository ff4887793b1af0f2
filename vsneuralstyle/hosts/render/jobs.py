"""Which files are rendered, and to which."""

import glob
from collections.abc import Sequence
from pathlib import Path

from vsneuralstyle.errors import ArgumentError, MediaError
from vsneuralstyle.hosts.render.sequences import is_sequence

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".mxf", ".wmv", ".flv", ".3gp", ".ogv", ".y4m", ".gif"),
}
"""Of the files of a folder that are taken for videos."""
FIELDS = ("stem", "style")


def plan(
    sources: Sequence[str], output: str, style: str, suffix: str | None = None
) -> list[tuple[Path, Path]]:
    """Each source with the output that it gets.

    Args:
        sources: files, folders, globs, image sequences, or "-".
        output: a file; a folder; a name with {stem} or {style}; an image sequence; or "-".
        style: what stands for {style}.
        suffix: of an output in a folder; None: the source's own, .mp4 for a sequence.

    Raises:
        MediaError: no file is there.
        ArgumentError: several sources would go into one output.
    """
    found = [path for source in sources for path in _expanded(source)]
    planned = [(path, _output(path, output, style, suffix)) for path in found]
    taken: dict[Path, Path] = {}
    for path, destination in planned:
        if destination in taken:
            raise ArgumentError(
                f"{taken[destination]} and {path} would both be written to {destination}; expected "
                "a folder as the output, or a name with {stem}"
            )
        taken[destination] = path
    return planned


def _expanded(source: str) -> list[Path]:
    path = Path(source)
    if source == "-" or is_sequence(path) or path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise MediaError(
                f"{path}: no video file in this folder; expected some, or an image sequence such "
                f"as {path}/%05d.png"
            )
        return files
    if glob.has_magic(source) and (matches := sorted(glob.glob(source))):
        return [Path(match) for match in matches]
    return [path]  # which isn't there: `render` says so


def _output(source: Path, output: str, style: str, suffix: str | None) -> Path:
    stem = source.parent.name if is_sequence(source) else source.stem
    if any(f"{{{field}}}" in output for field in FIELDS):
        return Path(output.replace("{stem}", stem).replace("{style}", style.replace("/", "_")))
    path = Path(output)
    if output == "-" or not (path.is_dir() or output.endswith("/")):
        return path
    path.mkdir(parents=True, exist_ok=True)
    own = ".mp4" if is_sequence(source) else source.suffix
    return path / f"{stem}{suffix or own}"
