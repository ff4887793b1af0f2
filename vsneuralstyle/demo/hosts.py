"""What the demo runs in the hosts: a video file, read by the host's own means.

Both are asked for the same: 8-bit 4:2:0 Y'CbCr, BT.709, limited range. So one reader serves both,
and what is measured has not gone through a codec.
"""

import shlex
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from vsneuralstyle import host_processes


class Host(host_processes.Host):
    """One of the programs that run the filter on a video file."""

    @abstractmethod
    def command(self, source: Path, style: str, coherence: float) -> list[str]:
        """The command line that writes the stylized video to its standard output."""

    def show(self, source: Path, style: str) -> str:
        """The command as one would type it."""
        return shlex.join(self.command(source, style, 1.0))


class VapourSynth(host_processes.VapourSynth, Host):
    """`demo.vpy`, with bestsource."""

    functions = (*host_processes.VapourSynth.functions, "bs.VideoSource")

    def command(self, source: Path, style: str, coherence: float) -> list[str]:
        return [
            "vspipe",
            "-c",
            "y4m",
            "-a",
            f"source={source}",
            "-a",
            f"style={style}",
            "-a",
            f"coherence={coherence:g}",
            str(Path(__file__).with_name("demo.vpy")),
            "-",
        ]


class GStreamer(host_processes.GStreamer, Host):
    """A pipeline with decodebin."""

    elements: Mapping[str, str] = {
        **host_processes.GStreamer.elements,
        "decodebin": "gstreamer1.0-plugins-base",
        "avdec_h264": "gstreamer1.0-libav",
    }

    def command(self, source: Path, style: str, coherence: float) -> list[str]:
        return [
            "gst-launch-1.0",
            "-q",
            "filesrc",
            f"location={source}",
            "!",
            "decodebin",
            "!",
            "videoflip",
            "video-direction=auto",
            "!",
            "videoconvert",
            "!",
            "neuralstyle",
            f"style={style}",
            f"coherence={coherence:g}",
            "!",
            "videoconvert",
            "!",
            "video/x-raw,format=I420,colorimetry=bt709",
            "!",
            "y4menc",
            "!",
            "fdsink",
        ]
