"""Sends a signal to `neuralstyle render` at random moments, and says what became of the processes.

signals_at_random.py CLIP FOLDER ROUNDS: prints a line of JSON: of each round the moment, the
signal, the exit code, the seconds until the end (null: none within `PATIENCE`), and the files left.

PyTorch is imported once, and each command is a fork of this process, which itself never computes.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

PATIENCE = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def render(clip: str, folder: Path) -> None:
    """What `neuralstyle` does, in this process, which then ends."""
    from vsneuralstyle import cli

    output = str(folder / "out.mkv")
    sys.argv = ["neuralstyle", "render", clip, "-o", output, "--style", "candy", "--quiet"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(cli.main())


def wait(process: int) -> tuple[int | None, float]:
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), time.monotonic() - began
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None, PATIENCE


def main(clip: str, folder: Path, rounds: int) -> None:
    import av  # noqa: F401
    import torch  # noqa: F401

    import vsneuralstyle.hosts.render  # noqa: F401

    chance = random.Random(0)
    results = []
    for number in range(rounds):
        here = folder / str(number)
        here.mkdir()
        process = os.fork()
        if not process:
            render(clip, here)
        moment, kind = chance.uniform(0, 1.2), SIGNALS[number % len(SIGNALS)]
        time.sleep(moment)
        os.kill(process, kind)
        code, seconds = wait(process)
        results.append((moment, kind.name, code, seconds, os.listdir(here)))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
