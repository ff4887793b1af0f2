"""The hosts as a user runs them, `vspipe` and `gst-launch-1.0`, each writing y4m into a pipe.

What they run is for subclasses to say: those of the demo and of the benchmark.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import av

from vsneuralstyle.errors import MediaError

STDERR_LINES = 15


class Host(ABC):
    """One of the programs that run the filter."""

    name: str

    @abstractmethod
    def missing(self) -> str | None:
        """None where the host can run; else what is missing and what to do about it."""

    def environment(self) -> dict[str, str]:
        """The command's environment."""
        return dict(os.environ)


class VapourSynth(Host):
    """vspipe of this Python's environment, and its plugins."""

    name = "vspipe"
    functions: Sequence[str] = ("vsneuralstyle.Stylize",)
    """What is needed of the plugins."""

    def missing(self) -> str | None:
        probe = "import vapoursynth as vs; " + "; ".join(
            f"vs.core.{name}" for name in self.functions
        )
        if sys.version_info < (3, 12):
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return (
                f"VapourSynth needs Python >= 3.12, this is {version}: install one (with its "
                "headers) and run scripts/setup again"
            )
        result = subprocess.run(
            [sys.executable, "-c", probe], env=self.environment(), capture_output=True, text=True
        )
        if result.returncode:
            return (
                "VapourSynth does not load what is needed "
                f"({result.stderr.strip().splitlines()[-1]}): run scripts/setup, or pip install "
                "'vsneuralstyle[demo]'"
            )
        return None

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**super().environment(), "PATH": path}


class GStreamer(Host):
    """gst-launch-1.0 of the system, with the element from the environment of the Python that
    GStreamer embeds.
    """

    name = "gst-launch-1.0"
    elements: Mapping[str, str] = {
        "neuralstyle": "gstreamer1.0-python3-plugin-loader and python3-gst-1.0",
        "y4menc": "gstreamer1.0-plugins-good",
    }
    """What is needed -> the packages that have it."""

    def __init__(self, python: Path, scratch: Path) -> None:
        """python: the Python of that environment. scratch: a folder for a registry of its own, so
        that what another run of GStreamer found, or failed to load, does not matter here.
        """
        self.prefix = python.parent.parent
        self.scratch = scratch

    def missing(self) -> str | None:
        if shutil.which("gst-inspect-1.0") is None or shutil.which("gst-launch-1.0") is None:
            return (
                "GStreamer's tools are not there: apt install gstreamer1.0-tools "
                "gstreamer1.0-plugins-bad gstreamer1.0-plugins-good gstreamer1.0-libav "
                "gstreamer1.0-python3-plugin-loader python3-gst-1.0, and run scripts/setup again"
            )
        if not (self.prefix / "lib/gstreamer-1.0/python/gstneuralstyle.py").exists():
            return f"the element is not installed in {self.prefix}: run scripts/setup"
        for element, package in self.elements.items():
            if subprocess.run(
                ["gst-inspect-1.0", "--exists", element],
                env=self.environment(),
                capture_output=True,
            ).returncode:
                return (
                    f"GStreamer has no element {element}: apt install {package}, and run "
                    "scripts/setup again"
                )
        return None

    def environment(self) -> dict[str, str]:
        inherited = os.environ.get("GST_PLUGIN_PATH")
        return {
            **super().environment(),
            "PATH": os.pathsep.join([str(self.prefix / "bin"), os.environ["PATH"]]),
            "GST_PLUGIN_PATH": os.pathsep.join(
                [str(self.prefix / "lib/gstreamer-1.0"), *filter(None, [inherited])]
            ),
            "GST_REGISTRY": str(self.scratch / "gst-registry.bin"),
        }


class Run:
    """The first `limit` frames (None: all) of a running host, with the times at which they
    arrived.
    """

    def __init__(
        self, container: av.container.InputContainer, limit: int | None, started: float
    ) -> None:
        self.stream = container.streams.video[0]
        self._container = container
        self._limit = limit
        self._started = started
        self._arrivals: list[float] = []

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for frame in islice(self._container.decode(self.stream), self._limit):
            self._arrivals.append(time.monotonic())
            yield frame

    @property
    def frames(self) -> int:
        return len(self._arrivals)

    @property
    def complete(self) -> bool:
        """Whether the limit was reached: the host is then ended in the middle of its work."""
        return self.frames == self._limit

    @property
    def startup(self) -> float:
        """Seconds from the start of the command to its first frame."""
        return self._arrivals[0] - self._started

    @property
    def fps(self) -> float:
        """Frames a second after the first one."""
        return (
            (self.frames - 1) / (self._arrivals[-1] - self._arrivals[0])
            if self.frames > 1
            else float("nan")
        )


class Process:
    """A command of a host under way: its standard output, when it was started, and what it said
    where it failed.
    """

    def __init__(self, host: Host, command: Sequence[str], stderr: IO[str]) -> None:
        self._name, self._stderr = host.name, stderr
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env=host.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        assert isinstance(self._process.stdout, io.BufferedReader)  # as Popen makes it of a pipe
        self.stdout = self._process.stdout

    def wait(self) -> int:
        """Its exit code, when it has ended by itself."""
        return self._process.wait()

    def failure(self) -> MediaError:
        """An error with the last lines of its stderr, when it has ended by itself."""
        code = self.wait()
        self._stderr.seek(0)
        tail = "".join(self._stderr.readlines()[-STDERR_LINES:]).strip()
        return MediaError(f"{self._name} ended with exit code {code}; its last words:\n{tail}")

    def end(self) -> None:
        # a host in the middle of its work ends by the broken pipe, if not by the signal
        self.stdout.close()
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def start(host: Host, command: Sequence[str]) -> Iterator[Process]:
    """Starts a command of the host, and ends it at the end, if it hasn't ended by itself."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = Process(host, command, stderr)
        try:
            yield process
        finally:
            process.end()


@contextmanager
def run(host: Host, command: Sequence[str], limit: int | None = None) -> Iterator[Run]:
    """Starts the host, and decodes what it writes; raises MediaError when it fails, at the end at
    the latest.
    """
    with start(host, command) as process:
        try:
            container = av.open(process.stdout, "r", format="yuv4mpegpipe")
        except (av.FFmpegError, EOFError) as error:
            raise process.failure() from error
        with container:
            running = Run(container, limit, process.started)
            yield running
            if not running.complete and process.wait():
                raise process.failure()
