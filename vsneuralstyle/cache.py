"""What is kept on disk because it takes a while to make, and can be made again: the user may delete
all of it.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def folder(name: str) -> Path:
    """Where things of a kind lie: $XDG_CACHE_HOME/vsneuralstyle/NAME."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        / "vsneuralstyle"
        / name
    )


def kept(name: str, of: bytes, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, from disk where it was made before.

    A file that is damaged is made anew, and where none can be written (no home, a full disk), it is
    made each time.

    Args:
        name: the kind.
        of: what it is made of; other things are other files.
    """
    size = hashlib.sha256().digest_size

    def file() -> Path:
        return folder(name) / hashlib.sha256(of).hexdigest()

    with suppress(OSError, RuntimeError):  # the latter: there is no home
        content = file().read_bytes()
        if hashlib.sha256(content[size:]).digest() == content[:size]:
            return content[size:]
    made = make()
    with suppress(OSError, RuntimeError):
        path = file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as part:
            part.write(hashlib.sha256(made).digest() + made)
        os.replace(part.name, path)  # at once: other processes may be at it, too
    return made
