"""How far a render is: a bar for people, lines of JSON for programs."""

import json
import sys
import time
from typing import TextIO

from tqdm import tqdm

INTERVAL = 0.5  # seconds between two lines of JSON


class JsonProgress:
    """Writes an object a line: `frame`, `frames` (null: unknown), `fps`, `eta` in seconds (null:
    unknown), `job`, the output's name, and at the end `done`: true.
    """

    def __init__(self, job: str, total: int | None, file: TextIO) -> None:
        self._job, self._total, self._file = job, total, file
        self._count, self._began, self._written = 0, time.monotonic(), 0.0

    def __enter__(self) -> "JsonProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self._write(done=error[0] is None)

    def update(self) -> None:
        """One frame more."""
        self._count += 1
        if time.monotonic() - self._written >= INTERVAL:
            self._write(done=False)

    def _write(self, done: bool) -> None:
        self._written = time.monotonic()
        rate = self._count / max(self._written - self._began, 1e-6)
        left = None if self._total is None else max(self._total - self._count, 0)
        line = {
            "job": self._job,
            "frame": self._count,
            "frames": self._count if done else self._total,
            "fps": round(rate, 2),
            "eta": round(left / rate, 1) if left is not None and rate else None,
            "done": done,
        }
        print(json.dumps(line), file=self._file, flush=True)


def progress_of(wanted: bool | str | None, job: str, total: int | None) -> "tqdm | JsonProgress":
    """A bar on stderr, or JSON there.

    Args:
        wanted: whether there is a bar; None: if stderr is a terminal; "json".
        job: the output's name.
        total: frames, as far as it is known.
    """
    if wanted == "json" and sys.stderr is not None:
        return JsonProgress(job, total, sys.stderr)
    hidden = None if wanted is None else not wanted  # None: tqdm looks whether it is a terminal
    if sys.stderr is None:  # a process was started without one
        hidden = True
    return tqdm(total=total, unit=" frames", disable=hidden)
