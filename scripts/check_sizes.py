#!/usr/bin/env python3
"""Checks that code stays readable: the length of lines, of functions and of files.

    scripts/check_sizes.py             prints what breaks the limits; exits with 1 if anything does
    scripts/check_sizes.py --update    writes today's sizes to scripts/sizes.toml

No line has more than 120 columns, and less than 1 % of them more than 100. No file has more than
600 lines, no function more than 60. A file or a function may be longer where a comment says why,
`# long: a table` or `// long: ...`: for a file its first line, for a function the line above it, or
the first one of its body.

`sizes.toml` lists what was too long already. Nothing in it may grow, and what has become short
enough leaves it. So a diff of that list shows what somebody let grow.
"""

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WIDEST, WIDE, WIDE_SHARE = 120, 100, 0.01
LONGEST = {"file": 600, "function": 60}
SUFFIXES = (".py", ".c", ".h", ".cu", ".vpy")
SHELL = b"#!/usr/bin/env bash"
LIST = Path("scripts/sizes.toml")
EXPLAINED = re.compile(r"\s*(#|//|/\*)\s*long: \S")
C_FUNCTION = re.compile(r"^(?:[A-Za-z_].*?\b)?([A-Za-z_]\w*)\((\w*)")
"""The line of C or CUDA on which a function's parameters begin."""
C_COMMENT = re.compile(r"//.*|/\*.*?\*/")


@dataclass(frozen=True)
class Size:
    """The lines of a file, or of a function in it.

    Attributes:
        kind: a key of `LONGEST`.
        name: the path, for a function with "::" and its qualified name.
        line: where it begins, from 1 on.
        lines: how many it has.
        explained: whether a comment says why it is long.
    """

    kind: str
    name: str
    line: int
    lines: int
    explained: bool

    @property
    def too_long(self) -> bool:
        return self.lines > LONGEST[self.kind] and not self.explained


def code_files(root: Path) -> list[str]:
    """The paths of all code that git knows of, or would, relative to the checkout `root`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    files = {path for path in listed.split("\0") if path and (root / path).is_file()}
    return sorted(path for path in files if path.endswith(SUFFIXES) or _is_shell(root / path))


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SHELL)) == SHELL


def sizes(path: str, text: str) -> Iterator[Size]:
    """Sizes of a file and of the functions in it; `path` says the language, and goes into names."""
    lines = text.splitlines()
    yield Size("file", path, 1, len(lines), bool(lines) and bool(EXPLAINED.match(lines[0])))
    if path.endswith((".py", ".vpy")):
        functions = _python_functions(ast.parse(text))
    elif path.endswith((".c", ".h", ".cu")):
        functions = _c_functions(lines)
    else:
        return
    for name, above, first, body, last in functions:
        remarks = [lines[row - 1] for row in (above, body - 1, body) if 0 < row <= len(lines)]
        explained = any(EXPLAINED.match(remark) for remark in remarks)
        yield Size("function", f"{path}::{name}", first, last - first + 1, explained)


def _python_functions(node: ast.AST, outer: str = "") -> Iterator[tuple[str, int, int, int, int]]:
    """Name, line above (its decorators too), first line, first line of the body, last line."""
    for child in ast.iter_child_nodes(node):
        name = outer
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}.{child.name}".lstrip(".")
            if not isinstance(child, ast.ClassDef):
                start = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                yield name, start - 1, child.lineno, child.body[0].lineno, child.end_lineno or 0
        yield from _python_functions(child, name)


def _c_functions(lines: list[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """As `_python_functions`. clang-format puts a function's head and its last brace at the margin,
    and nothing else that has parentheses before an opening brace.
    """
    first, opened, name = 0, 0, ""
    for row, line in enumerate(lines, 1):
        code = C_COMMENT.sub("", line).rstrip()
        if not first and (head := C_FUNCTION.match(code)) and not code.endswith("\\"):
            macro = head[1].isupper() and head[2]  # KERNEL(name, Job) {
            first, opened, name = row, 0, head[2] if macro else head[1]
        if first and not opened:
            if code.endswith("{"):
                opened = row
            elif code.endswith(";"):  # only declared
                first = 0
        if opened and line == "}":
            yield name, first - 1, first, opened + 1, row
            first = opened = 0


def check_lines(texts: dict[str, str]) -> Iterator[str]:
    """What is wrong with the widths of lines; `texts` is of all files, by their paths."""
    wide, total = [], 0
    for path, text in texts.items():
        for row, line in enumerate(text.splitlines(), 1):
            total += 1
            if len(line) > WIDEST:
                yield f"{path}:{row}: {len(line)} columns; at most {WIDEST}: break the line"
            elif len(line) > WIDE:
                wide.append(f"{path}:{row}: {len(line)} columns")
    if len(wide) >= WIDE_SHARE * total and wide:
        yield from wide
        yield (
            f"{len(wide)} of {total} lines have more than {WIDE} columns; less than "
            f"{WIDE_SHARE:.0%} may: break some"
        )


def check_sizes(found: Iterable[Size], known: dict[str, int]) -> Iterator[str]:
    """What is wrong with the lengths of files and functions.

    Args:
        found: all of them.
        known: the lines that those which were too long already had, by their names.
    """
    seen = set()
    for size in found:
        most, listed = LONGEST[size.kind], known.get(size.name)
        seen.add(size.name)
        where = f"{size.name.split('::')[0]}:{size.line}: {size.name.split('::')[-1]}"
        if size.too_long and size.lines > (listed or most):
            grown = f", {listed} when it was listed in {LIST}" if listed else ""
            yield (
                f"{where} has {size.lines} lines{grown}; a {size.kind} has at most {most}: divide "
                "it, or say why it is long in a comment, `long: ...`"
            )
        elif listed and not size.too_long:
            yield f"{where} isn't too long any more: remove it from {LIST} (--update)"
    for name in sorted(known.keys() - seen):
        yield f"{LIST}: there is no {name}: remove it (--update)"


def read_list(path: Path) -> dict[str, int]:
    """The list's names and lines; none where there is no list."""
    if not path.exists():
        return {}
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: lines for table in tables.values() for name, lines in table.items()}


def list_text(found: Iterable[Size]) -> str:
    """A list of those that are too long, as `read_list` takes it."""
    parts = [
        "# What was too long already, and its lines: nothing here may grow (check_sizes.py).\n"
    ]
    found = [size for size in found if size.too_long]
    for kind in LONGEST:
        parts.append(f"\n[{kind}s]\n")
        parts += [f'"{size.name}" = {size.lines}\n' for size in found if size.kind == kind]
    return "".join(parts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write today's sizes to {LIST}")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[1], help="the checkout"
    )
    args = parser.parse_args(argv)
    texts = {path: (args.root / path).read_text(encoding="utf-8") for path in code_files(args.root)}
    found = [size for path, text in texts.items() for size in sizes(path, text)]
    if args.update:
        (args.root / LIST).write_text(list_text(found), encoding="utf-8")
    wrong = [*check_lines(texts), *check_sizes(found, read_list(args.root / LIST))]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
