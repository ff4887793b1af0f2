"""The command `neuralstyle`."""

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from vsneuralstyle import __version__
from vsneuralstyle.arguments import add_options
from vsneuralstyle.errors import ModelError, NeuralStyleError

ERROR, INTERRUPTED, UNREAD = 2, 130, 141  # exit codes; the latter two a shell's for SIGINT, SIGPIPE
# What asks a process to end: Ctrl-C, a terminal that was closed, Ctrl-\, a service manager, a limit
# on CPU time. Windows has two of them.
ENDING_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM", "SIGXCPU")
    if hasattr(signal, name)
]

# Commands that modules of their own define: add_arguments(parser) and main(args). Imported when
# called, for speed.
DELEGATED = {
    ("render",): ("vsneuralstyle.hosts.render.cli", "stylize video files"),
    ("train", "flow"): (
        "vsneuralstyle.training.flow",
        "train the optical flow network on synthetic pairs",
    ),
    ("train", "style"): ("vsneuralstyle.training.style", "train a style on a picture of your own"),
    ("train", "stylebank"): (
        "vsneuralstyle.training.stylebank",
        "train one network for many styles, a bank for each",
    ),
    ("train", "net1"): (
        "vsneuralstyle.training.net1",
        "fine-tune flow and mask on real clips, for a style",
    ),
    ("evaluate",): (
        "vsneuralstyle.evaluation.cli",
        "measure a style's stability and sharpness on clips",
    ),
    ("benchmark",): (
        "vsneuralstyle.benchmark.cli",
        "measure speed and memory, of the core and through the hosts",
    ),
}
# Packages that only some commands need, and the extra of ours that has each
EXTRAS = {"cv2": "train", "matplotlib": "train", "torchvision": "train"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line argv (default: the process's own); returns the exit code.

    0: done; 1: `doctor` found the core not working; 2: an error of the user's, told in one line on
    stderr;
    130: stopped by SIGINT (Ctrl-C); 128 + a signal's number: by one of `ENDING_SIGNALS` (129: by
    SIGHUP, 143: by SIGTERM); 141: nobody reads standard output any more.
    """
    is_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    logging.basicConfig(format="neuralstyle: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    # A signal that is ignored (by `nohup`, SIGHUP) stays so; None: what a library handles.
    previous = {
        number: signal.signal(number, _end)
        for number in ENDING_SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        result = _run(argv) or 0
        sys.stdout.flush()
        return result
    except NeuralStyleError as error:
        _say(f"error: {error}")
        return ERROR
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # as behind `| head`
        # where Python's end flushes it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if is_process and _signals:
            _leave(128 + _signals[0])


_signals: list[int] = []
"""Those that have asked the command to end."""


def _end(number: int, frame: object) -> None:
    """Ends the command by an exception, so that what is half-written gets removed."""
    _signals.append(number)
    for other in ENDING_SIGNALS:  # an impatient second one would strike while that is done
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _leave(code: int) -> NoReturn:
    """Ends the process at once.

    A thread may still be loading or computing, on a busy machine for seconds. The interpreter's own
    end does not wait for so long, and before Python 3.14 such a thread can then abort the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that was closed can't be written to; the exit code counts
        print(f"neuralstyle: {text}", file=sys.stderr, flush=True)


def _open_standard_streams() -> None:
    """Gives a process that was started without a standard stream one that leads nowhere.

    Python has None for such a stream, to which tqdm can't write. And its descriptor is free: the
    next file to be opened would get it, the output say, and with it what libraries write to stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long as the process


def _run(argv: list[str]) -> int | None:
    for words, (module_name, description) in DELEGATED.items():
        if tuple(argv[: len(words)]) == words:
            command = " ".join(("neuralstyle", *words))
            parser = argparse.ArgumentParser(prog=command, description=description)
            try:
                module = importlib.import_module(module_name)
                module.add_arguments(parser)
                return module.main(parser.parse_args(argv[len(words) :]))
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if package not in EXTRAS:
                    raise
                raise NeuralStyleError(
                    f"{command} needs {package}, which is not installed: "
                    f"pip install 'vsneuralstyle[{EXTRAS[package]}]'"
                ) from None
    args = _parser().parse_args(argv)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralstyle", description="Coherent neural style transfer for video."
    )
    parser.add_argument("--version", action="version", version=f"neuralstyle {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    styles = commands.add_parser(
        "styles",
        help="list the styles that there are",
        description="Lists the styles that there are: name, network family, its networks' "
        "parameters, and its file.",
    )
    add_options(styles, "net", "model_dir", absent_by_default=True)
    styles.set_defaults(run=_styles)

    doctor = commands.add_parser(
        "doctor",
        help="say what works here, and what to do where something doesn't",
        description="Says what is installed, which device and precision will be used, which styles "
        "there are and which "
        "hosts work, and what to do where something doesn't. Exit code 1: the core doesn't work.",
    )
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", help="train networks: flow, style, stylebank, net1")
    networks = train.add_subparsers(title="networks", metavar="NETWORK", required=True)
    # for the help texts; _run takes them before they get here
    for words, (_, description) in DELEGATED.items():
        (networks if len(words) > 1 else commands).add_parser(
            words[-1], help=description, add_help=False
        )
    return parser


def _styles(args: argparse.Namespace) -> None:
    from vsneuralstyle.networks import checkpoint

    model_dir = getattr(args, "model_dir", None)
    nets = [args.net] if hasattr(args, "net") else checkpoint.NETS
    styles = [item for net in nets for item in checkpoint.available_styles(net, model_dir).items()]
    if not styles:
        folders = ", ".join(str(folder) for folder in checkpoint.search_path(model_dir))
        raise ModelError(
            f"no styles found in {folders}; train one (`neuralstyle train style --help`) or name "
            "the folder that has them (--model-dir, or NEURALSTYLE_MODEL_PATH in the environment)"
        )
    for name, path in styles:
        header = checkpoint.read_header(path)
        networks = ", ".join(f"{key} {value}" for key, value in header["networks"].items())
        print(f"{name:16} {header['net']}: {networks}\n{'':16} {path}")


def _doctor(args: argparse.Namespace) -> int:
    from vsneuralstyle import doctor

    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
