"""Build hook: compiles the core's kernels, and the VapourSynth plugin, which goes where VapourSynth
looks for plugins.

The kernels know nothing of Python; on x86-64 there is a library for each of its levels. Without a C
compiler the wheel comes without them, and the core is slower.

The plugin uses Python's limited API of 3.12, so one wheel (cp312-abi3) serves every Python from
there on. VapourSynth itself needs Python >= 3.12: where an older Python builds, or a system other
than Linux, the wheel (py3-none) comes without the plugin.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CC = shlex.split(os.environ.get("CC", "cc"))
OPTIONS = ["-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"]
OPTIONS += shlex.split(os.environ.get("CFLAGS", ""))
LIMITED_API, PLUGIN_TAG = "0x030C0000", "cp312-abi3"  # Python 3.12
_V4_BF16 = ["-march=x86-64-v4", "-mavx512bf16"]
LEVELS = {
    "-v4-amx": [*_V4_BF16, "-mamx-tile", "-mamx-bf16"],
    "-v4-bf16": _V4_BF16,
    "-v4": ["-march=x86-64-v4"],
    "-v3": ["-march=x86-64-v3"],
    "-v2": ["-march=x86-64-v2"],
}
"""Of x86-64: the ends of the libraries' names, and what the compiler is told. Elsewhere there is
one library, "kernels.so"."""


class Libraries(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel":
            return
        editable = version == "editable"
        # An editable wheel takes only what is named here, the others all of it.
        self.files = build_data["force_include_editable" if editable else "force_include"]
        self.build = Path(self.root, "build")
        self.build.mkdir(exist_ok=True)
        self.add_kernels(beside_source=editable)
        self.plugin = self.add_plugin()
        if self.files:
            build_data["pure_python"] = False
            # With the plugin the wheel is for those Pythons that VapourSynth has wheels for.
            tag = PLUGIN_TAG if self.plugin else "py3-none"
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"{tag}-{system}"

    def add_kernels(self, beside_source: bool) -> None:
        if sys.platform != "linux":
            return
        folder, failed = Path(self.root, "vsneuralstyle", "engines", "cpu"), {}
        levels = LEVELS if platform.machine() == "x86_64" else {"": []}

        def compile_level(level: str) -> None:
            library = (folder if beside_source else self.build) / f"kernels{level}.so"
            try:
                # Contraction and the rest change no more than rounding: nothing here asks for errno
                # or for traps.
                self.cc_cached(
                    library,
                    sorted(folder.glob("csrc/*")),
                    "-O3",
                    *levels[level],
                    "-ffp-contract=fast",
                    "-fno-math-errno",
                    "-fno-trapping-math",
                    "-Wno-psabi",
                )
            except (OSError, subprocess.CalledProcessError) as error:
                failed[level] = error
                return
            if not beside_source:
                self.files[str(library)] = f"vsneuralstyle/engines/cpu/{library.name}"

        with ThreadPoolExecutor(os.cpu_count()) as compilers:  # each takes half a minute
            list(compilers.map(compile_level, levels))
        if len(failed) == len(levels):
            self.app.display_warning(
                "This wheel is built WITHOUT the kernels that make it fast on a CPU: "
                f"{next(iter(failed.values()))}. It needs a C compiler (Debian, Ubuntu: apt "
                "install gcc), or its name in CC."
            )
        elif failed:  # GCC before 11 knows nothing of AMX
            self.app.display_warning(
                f"This wheel is built without kernels{', kernels'.join(failed)}, which this C "
                "compiler doesn't know: CPUs that could use them will use others, which are "
                "slower there. GCC 11 and newer build all of them."
            )

    def add_plugin(self) -> bool:
        """Whether this system and this Python can build the plugin."""
        if sys.version_info < (3, 12) or sys.platform != "linux":
            self.app.display_warning(
                "This wheel is built WITHOUT the VapourSynth plugin: it is built on Linux by "
                f"Python >= 3.12 only, and this is {sys.platform} with Python "
                f"{sys.version_info[0]}.{sys.version_info[1]}. GStreamer and the command line work "
                "without it."
            )
            return False
        source = Path(self.root, "vsneuralstyle", "hosts", "vapoursynth")
        library = self.build / "vsneuralstyle.so"
        self.compile_plugin(sorted(source.glob("*.c")), library)
        for file in (library, source / "manifest.vs"):
            self.files[str(file)] = f"vapoursynth/plugins/vsneuralstyle/{file.name}"
        return True

    def cc_cached(self, library: Path, files: list[Path], *options: str) -> None:
        """Compiles the C files among `files`; or takes the library from the user's cache, where
        this compiler made it of the same files by the same options.
        """
        compiler = subprocess.run([*CC, "--version"], check=True, capture_output=True).stdout
        made_of = hashlib.sha256(compiler)
        for part in (*CC, *OPTIONS, *options):
            made_of.update(part.encode() + b"\0")
        for file in files:
            made_of.update(file.name.encode() + b"\0" + file.read_bytes())
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cached = Path(home, "vsneuralstyle", "build", f"{made_of.hexdigest()}.so")
        with suppress(OSError):
            shutil.copyfile(cached, library)
            return
        self.cc(library, *options, *(file for file in files if file.suffix == ".c"))
        with suppress(OSError):  # no home, a full disk
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cached.parent, prefix=".", delete=False) as part:
                part.write(library.read_bytes())
            os.replace(part.name, cached)  # at once: another build may be at it, too

    def cc(self, library: Path, *options: str | Path) -> None:
        command = [*CC, *OPTIONS, "-o", str(library), *map(str, options)]
        subprocess.run(command, check=True)

    def compile_plugin(self, sources: list[Path], library: Path) -> None:
        vapoursynth = importlib.util.find_spec("vapoursynth")
        if vapoursynth is None:
            sys.exit(
                "The VapourSynth plugin needs VapourSynth's headers: pip install vapoursynth, or "
                "build isolated."
            )
        include = sysconfig.get_path("include")
        if not Path(include, "Python.h").exists():
            sys.exit(
                f"The VapourSynth plugin needs Python's headers, and {include} has no Python.h: "
                "install them (Debian, Ubuntu: apt install python3-dev)."
            )
        major, minor = self.metadata.version.split(".")[:2]
        try:
            self.cc(
                library,
                "-O2",
                "-pthread",
                f"-DPy_LIMITED_API={LIMITED_API}",
                f"-DPLUGIN_VERSION=VS_MAKE_VERSION({major},{minor})",
                "-I",
                include,
                "-I",
                str(Path(vapoursynth.submodule_search_locations[0], "include")),
                *sources,
            )
        except FileNotFoundError as error:
            sys.exit(
                f"The VapourSynth plugin needs a C compiler, and {error.filename!r} is not there: "
                "install one (Debian, Ubuntu: apt install gcc), or name it in CC."
            )
        except subprocess.CalledProcessError as error:
            sys.exit(
                f"The VapourSynth plugin does not compile: {shlex.join(error.cmd)} gave "
                f"{error.returncode}."
            )
