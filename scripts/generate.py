#!/usr/bin/env python3
"""Writes what comes from the tables of arguments and of operations into files that can't import
them.

    scripts/generate.py            writes them
    scripts/generate.py --check    exit code 1: one isn't what it would be now; named

From `vsneuralstyle.arguments`: the C plugin's header, the GStreamer element's table, and the
reference page's. From `vsneuralstyle.engines.ops`: the kernels' prototypes, and the constants of C
and of CUDA.
"""

import ctypes
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's table, whichever package is installed

import torch  # noqa: E402

from vsneuralstyle import arguments  # noqa: E402
from vsneuralstyle.arguments import Argument, Clip, Host  # noqa: E402
from vsneuralstyle.engines import ops  # noqa: E402
from vsneuralstyle.engines.arguments import Dense, Several  # noqa: E402

HEADER = ROOT / "vsneuralstyle" / "hosts" / "vapoursynth" / "arguments.h"
ELEMENT = ROOT / "gst_plugin" / "python" / "gstneuralstyle_arguments.py"
PAGE = ROOT / "docs" / "reference" / "arguments.md"
OPERATIONS = ROOT / "vsneuralstyle" / "engines" / "cpu" / "csrc" / "operations.h"
CONSTANTS = ROOT / "vsneuralstyle" / "engines" / "cuda" / "csrc" / "constants.cuh"
BEGIN, END = "<!-- arguments: generated -->", "<!-- end -->"
NOTE = "Generated from vsneuralstyle/arguments.py by scripts/generate.py: change it there"
OPERATIONS_NOTE = NOTE.replace("arguments.py", "engines/ops.py")

SIGNATURE_TYPES = {
    Clip: "vnode",
    str: "data",
    Path: "data",
    float: "float",
    int: "int",
    bool: "int",
}
KINDS = {Clip: "CLIP", str: "TEXT", Path: "TEXT", float: "NUMBER", int: "INTEGER", bool: "FLAG"}


def header() -> str:
    """The VapourSynth plugin's: its signature, its arguments, and the defaults that C needs."""
    taken = arguments.arguments_of(Host.VAPOURSYNTH)
    declared = "static const char SIGNATURE[] = "
    below = f"\n{' ' * len(declared)}"
    signature = declared + below.join(f'"{_parameter(argument)}"' for argument in taken)
    defaults = "\n".join(
        f"#define DEFAULT_{argument.name.upper()} {json.dumps(argument.default)}"
        for argument in taken
        # of the others, session.py has them
        if argument.default is not None and (argument.of_filter or _required_by_python(argument))
    )
    table = "\n".join(f"    {_initializer(argument)}," for argument in taken)
    return f"""\
/* {NOTE}. */

#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "plugin.h"

{signature};

{defaults}

static const Argument ARGUMENTS[] = {{
{table}
}};

enum {{ ARGUMENT_COUNT = sizeof ARGUMENTS / sizeof *ARGUMENTS }};

#endif
"""


def _parameter(argument: Argument) -> str:
    optional = "" if Host.VAPOURSYNTH in argument.required_by else ":opt"
    return f"{argument.name}:{SIGNATURE_TYPES[argument.type]}{optional};"


def _required_by_python(argument: Argument) -> bool:
    return Host.PYTHON in argument.required_by


def _initializer(argument: Argument) -> str:
    fields = [f'"{argument.name}"', KINDS[argument.type], json.dumps(argument.of_filter)]
    if argument.type is bool:
        fields += ["0", "1", json.dumps(argument.expected)]
    elif argument.type is int:
        least, greatest = argument.range or (None, None)
        fields += [
            "INT64_MIN" if least is None else str(least),
            "INT64_MAX" if greatest is None else str(greatest),
            json.dumps(argument.expected),
        ]
    else:
        fields += ["0", "0", '""']
    return f"{{{', '.join(fields)}}}"


def element() -> str:
    """The GStreamer element's: what `__gproperties__` takes, with names in the place of flags."""
    taken = arguments.arguments_of(Host.GSTREAMER)
    properties = "".join(f"    {_property(argument)}" for argument in taken)
    aliases = ", ".join(
        f"{json.dumps(alias)}: {json.dumps(argument.name_on(Host.GSTREAMER))}"
        for argument in taken
        for alias in argument.gstreamer_aliases
    )
    return f'''\
"""The arguments that the element has as properties, and when each may change.

{NOTE}.
"""

# name: (type, nick, blurb, [minimum, maximum,] default, when it may change)
PROPERTIES = {{
{properties}}}

# A further name of a property: the property
ALIASES = {{{aliases}}}
'''


def _property(argument: Argument) -> str:
    kind = str if argument.type is Path else argument.type
    default = argument.default
    numbers = () if argument.range is None else argument.range
    values = [repr(kind(number)) for number in numbers]
    values.append(json.dumps(default) if isinstance(default, str) else repr(default))
    lines = [
        kind.__name__,
        json.dumps(argument.name.replace("_", " ").capitalize()),
        *_quoted(argument.doc_on(Host.GSTREAMER)),
        *(f"{value}," for value in values),
        json.dumps(argument.change.name),
    ]
    lines[0] += ","
    lines[1] += ","
    lines[-1] += ","
    inner = textwrap.indent("\n".join(lines), " " * 8)
    return f"{json.dumps(argument.name_on(Host.GSTREAMER))}: (\n{inner}\n    ),\n"


def _quoted(text: str) -> Iterator[str]:
    """Python's lines of a string, which stand one below the other and end with a comma."""
    *lines, last = textwrap.wrap(text, 88)
    yield from (json.dumps(f"{line} ") for line in lines)
    yield f"{json.dumps(last)},"


def table() -> str:
    """The reference page's, in Markdown."""
    rows = [
        ("VapourSynth, Python", "GStreamer", "command line", "default", "range", "meaning"),
        ("---",) * 6,
        *map(_row, arguments.ARGUMENTS),
    ]
    properties = [("GStreamer property", "may change"), ("---",) * 2]
    for argument in arguments.arguments_of(Host.GSTREAMER):
        name, change = argument.name_on(Host.GSTREAMER), argument.change.value
        note = argument.notes.get(Host.GSTREAMER)
        properties.append((f"`{name}`", f"{change}; {note}" if note else change))
        properties.extend(
            (f"`{alias}`", f"{change}; an alias of `{name}`: the one that is set later holds")
            for alias in argument.gstreamer_aliases
        )
    return f"{_markdown(rows)}\n\n{_markdown(properties)}"


def _row(argument: Argument) -> tuple[str, ...]:
    scripts = {Host.VAPOURSYNTH, Host.PYTHON} & argument.hosts
    where = f"`{argument.name}`" if scripts else ""
    if scripts == {Host.VAPOURSYNTH}:
        where += " (VapourSynth)"
    others = (Host.GSTREAMER, Host.COMMAND_LINE)
    names = (f"`{argument.name_on(host)}`" if host in argument.hosts else "" for host in others)
    default = "" if argument.default is None else f"`{json.dumps(argument.default)}`"
    wanting = sorted(host.value for host in argument.required_by)
    if wanting:
        default = f"{default}; required by {', '.join(wanting)}" if default else "required"
    return (where, *names, default, argument.expected, argument.doc)


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(text: str) -> str:
    """The reference page with its generated block brought up to date."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE}: no block from {BEGIN} to {END}; put both lines where the table belongs.")
    return f"{before}{begin}\n\n{table()}\n\n{end}{after}"


C_TYPES = {
    ctypes.c_int: "int",
    ctypes.c_long: "long",
    ctypes.c_float: "float",
    ctypes.c_void_p: "const void *",
}


def operations() -> str:
    """The C kernels': their prototypes, and the constants that Python has, too."""
    functions = {}
    for operation in ops.CPU.values():
        types = ", ".join(["Fork", "int", *map(_c_type, operation.arguments)])
        prototype = f"EXPORT int {operation.c_name}({types});"
        functions[operation.c_name] = textwrap.fill(prototype, 96, subsequent_indent=" " * 4)
    return f"""\
/* {OPERATIONS_NOTE}. */

#ifndef OPERATIONS_H
#define OPERATIONS_H

#define EXPORT __attribute__((visibility("default")))

/* clang-format off */
{_enums(ops.CONSTANTS | ops.CPU_CONSTANTS)}

/* GOMP_parallel of the OpenMP runtime that PyTorch has loaded: its workers are awake. NULL: the
 * calling thread alone. */
typedef void (*Fork)(void (*)(void *), void *, unsigned, unsigned);

{chr(10).join(functions.values())}
/* clang-format on */

#endif
"""


def _c_type(argument: object) -> str:
    if isinstance(argument, Several):
        return "void *const *" if argument.each.written else "const void *const *"
    if isinstance(argument, Dense):
        of = "float *" if argument.dtype == torch.float32 else "void *"
        return of if argument.written else f"const {of}"
    return C_TYPES[argument.c_type]


def _enums(constants: Mapping[str, float]) -> str:
    whole = [f"{name} = {value}" for name, value in constants.items() if isinstance(value, int)]
    lines = textwrap.fill(", ".join(whole), 92, initial_indent="    ", subsequent_indent="    ")
    others = [
        f"static const float {name} = {value}f;"
        for name, value in constants.items()
        if isinstance(value, float)
    ]
    return "\n".join([f"enum {{\n{lines}\n}};", *others])


def constants() -> str:
    """CUDA's: the constants that Python has, too."""
    lines = [
        f"#define {name} {value}{'f' if isinstance(value, float) else ''}"
        for name, value in ops.CONSTANTS.items()
    ]
    return f"""\
/* {OPERATIONS_NOTE}. */

#pragma once

{chr(10).join(lines)}
"""


def main(options: list[str]) -> int:
    """Writes the files, or checks them; returns the exit code."""
    if options not in ([], ["--check"]):
        sys.exit(f"unknown options {options}; expected --check or none.")
    made = {
        HEADER: header(),
        ELEMENT: element(),
        PAGE: page(PAGE.read_text(encoding="utf-8")),
        OPERATIONS: operations(),
        CONSTANTS: constants(),
    }
    stale = [
        path
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if options:
            print(f"{path.relative_to(ROOT)} is not up to date: run scripts/generate.py")
        else:
            path.write_text(made[path], encoding="utf-8")
    return 1 if stale and options else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
