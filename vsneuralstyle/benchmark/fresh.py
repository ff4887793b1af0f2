"""What is measured in a process of its own: start-up and memory. Importing this loads the standard
library alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")  # Linux


def start_up(arguments: dict, size: tuple[int, int], count: int) -> list[dict]:
    """Seconds from the start of a process to its first stylized frame.

    Args:
        arguments: of `Stylizer`, and "threads", torch's.
        size: of the frame, width and height.
        count: how many processes are started, one after the other.

    Returns:
        The rows of a report's table, of each span and of the whole the median.
    """
    starts = [_run("start", arguments, size) for _ in range(count)]
    return [
        {"name": name, "seconds": statistics.median(start[name] for start in starts)}
        for name in starts[0]
    ]


def memory(arguments: dict, size: tuple[int, int], frames: int) -> list[dict]:
    """Memory after 10, 100, 1000, ... frames, up to `frames`, and after that one, of a process that
    stylizes a clip.

    Returns:
        The rows of a report's table: frames, the process's resident bytes, and the most bytes that
        tensors on a CUDA device took since the row before (None on a CPU).
    """
    return _run("remember", arguments, size, frames)


def _run(function: str, arguments: dict, *others: object) -> Any:
    """Calls a function of this module in a fresh process; returns what that returns, by way of
    JSON.
    """
    safe_path = ["-P"] if sys.flags.safe_path else []
    command = [
        sys.executable,
        *safe_path,
        "-m",
        __name__,
        function,
        json.dumps([arguments, *others, time.monotonic()]),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(arguments["threads"])},
    )
    if done.returncode:
        raise RuntimeError(
            f"a fresh process ended with exit code {done.returncode}:\n{done.stderr}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def start(arguments: dict, size: tuple[int, int], started: float) -> dict[str, float]:
    """In the fresh process: spans of seconds, the first from `started`, which is `time.monotonic`
    of the one before.
    """
    width, height = size
    times = {"Python": time.monotonic()}
    import torch

    times["import torch"] = time.monotonic()
    torch.set_num_threads(arguments.pop("threads"))
    from vsneuralstyle.core.stylizer import Stylizer

    times["import vsneuralstyle"] = time.monotonic()
    stylizer = Stylizer(**arguments)
    times["the model"] = time.monotonic()
    stylizer.stylize(torch.rand(1, 3, height, width)).cpu()
    times["the first frame"] = time.monotonic()
    ends = list(times.values())
    spans = {name: end - begin for name, begin, end in zip(times, [started, *ends], ends)}
    whole = ends[-1] - started
    return {**spans, "all": whole, "all but import torch": whole - spans["import torch"]}


def remember(arguments: dict, size: tuple[int, int], frames: int, started: float) -> list[dict]:
    """In the fresh process: see `memory`."""
    import torch

    from vsneuralstyle.benchmark.clip import pan
    from vsneuralstyle.benchmark.core import play
    from vsneuralstyle.core.stylizer import Stylizer

    torch.set_num_threads(arguments.pop("threads"))
    stylizer = Stylizer(**arguments)
    step, cuda, rows, mark = play(stylizer, pan(*size)), stylizer.device.type == "cuda", [], 10
    for number in range(1, frames + 1):
        step()
        if number in (mark, frames):
            resident = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            peak = torch.cuda.max_memory_allocated(stylizer.device) if cuda else None
            rows.append({"frames": number, "resident": resident, "cuda": peak})
            mark *= 10
            if cuda:
                torch.cuda.reset_peak_memory_stats(stylizer.device)
    return rows


if __name__ == "__main__":
    functions: dict[str, Callable[..., object]] = {"start": start, "remember": remember}
    print(json.dumps(functions[sys.argv[1]](*json.loads(sys.argv[2]))))
