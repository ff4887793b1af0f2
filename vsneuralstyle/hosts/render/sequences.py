"""Image sequences: a file a frame, named by a pattern such as `shot_%05d.png`."""

import itertools
import re
from pathlib import Path

from vsneuralstyle.errors import MediaError

PATTERN = re.compile(r"%(?:0(\d+))?d")
# Suffix -> FFmpeg's encoder.
ENCODERS = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".exr": "exr",
    ".dpx": "dpx",
    ".jpg": "mjpeg",
    ".jpeg": "mjpeg",
}
DEFAULT_RATE = 25  # frames a second, where none is given: FFmpeg's


def is_sequence(path: Path) -> bool:
    """Whether a path is a pattern: one %d or %05d in its last part."""
    return len(PATTERN.findall(path.name)) == 1


def numbers(path: Path) -> dict[int, Path]:
    """The files of a sequence that are there, by their numbers."""
    match = PATTERN.search(path.name)
    assert match is not None, path
    before, after = re.escape(path.name[: match.start()]), re.escape(path.name[match.end() :])
    width = int(match[1] or 1)
    named = re.compile(rf"{before}(\d{{{width},}}){after}")
    found = ((named.fullmatch(file.name), file) for file in path.parent.iterdir())
    return {
        int(name[1]): file
        for name, file in found
        # 007 is none of %d's, and 00012 none of %03d's
        if name and len(name[1]) == max(width, len(str(int(name[1]))))
    }


def first_number(path: Path) -> int:
    """The number of a sequence's first file.

    Raises:
        MediaError: there is no file, or one is missing between others.
    """
    if not path.parent.is_dir():
        raise MediaError(f"{path}: no folder {path.parent}; expected an image sequence")
    found = sorted(numbers(path))
    if not found:
        raise MediaError(f"{path}: no file has such a name; expected an image sequence")
    for before, after in itertools.pairwise(found):
        if after != before + 1:
            match = PATTERN.search(path.name)
            assert match is not None
            missing = path.name.replace(match[0], str(before + 1).zfill(int(match[1] or 1)))
            raise MediaError(
                f"{path}: {missing} is missing, {found[0]} to {before} and {after} to {found[-1]} "
                "are there; render the files before and after the gap as two sequences, each in "
                "a folder of its own, or bring the missing ones"
            )
    return found[0]
