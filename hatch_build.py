"""Build hook: compiles the VapourSynth plugin and puts it where VapourSynth looks for plugins.

The plugin uses Python's limited API of 3.12, so one wheel serves every Python. VapourSynth itself needs Python >= 3.12:
where an older Python builds, or a system other than Linux, the wheel comes without the plugin, and is a pure one.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIMITED_API = "0x030C0000"  # Python 3.12


class VapourSynthPlugin(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel":
            return
        if sys.version_info < (3, 12) or sys.platform != "linux":
            self.app.display_warning(
                "This wheel is built WITHOUT the VapourSynth plugin: it is built on Linux by Python >= 3.12 only, "
                f"and this is {sys.platform} with Python {sys.version_info[0]}.{sys.version_info[1]}. "
                "GStreamer and the command line work without it.")
            return
        source = Path(self.root, "vsneuralstyle", "vs_plugin")
        library = Path(self.root, "build", "vsneuralstyle.so")
        self.compile(sorted(source.glob("*.c")), library)
        # An editable wheel takes only what is named here, the others all of it.
        kind = "force_include_editable" if version == "editable" else "force_include"
        for file in (library, source / "manifest.vs"):
            build_data[kind][str(file)] = f"vapoursynth/plugins/vsneuralstyle/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")

    def compile(self, sources: list[Path], library: Path) -> None:
        vapoursynth = importlib.util.find_spec("vapoursynth")
        if vapoursynth is None:
            sys.exit("The VapourSynth plugin needs VapourSynth's headers: pip install vapoursynth, or build isolated.")
        include = sysconfig.get_path("include")
        if not Path(include, "Python.h").exists():
            sys.exit(f"The VapourSynth plugin needs Python's headers, and {include} has no Python.h: "
                     "install them (Debian, Ubuntu: apt install python3-dev).")
        library.parent.mkdir(exist_ok=True)
        major, minor = self.metadata.version.split(".")[:2]
        command = [
            *shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared",
            "-fvisibility=hidden", f"-DPy_LIMITED_API={LIMITED_API}",
            f"-DPLUGIN_VERSION=VS_MAKE_VERSION({major},{minor})",
            "-I", include, "-I", str(Path(vapoursynth.submodule_search_locations[0], "include")),
            *shlex.split(os.environ.get("CFLAGS", "")), "-o", str(library), *map(str, sources)]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            sys.exit(f"The VapourSynth plugin needs a C compiler, and {command[0]!r} is not there: "
                     "install one (Debian, Ubuntu: apt install gcc), or name it in CC.")
        except subprocess.CalledProcessError as error:
            sys.exit(f"The VapourSynth plugin does not compile: {shlex.join(command)} gave {error.returncode}.")
