"""scripts/check_sizes.py: what it finds too wide or too long, and what it lets be."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = next(
    folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists()
)
SCRIPT = ROOT / "scripts" / "check_sizes.py"


@pytest.fixture(scope="module")
def check_sizes():
    spec = importlib.util.spec_from_file_location("check_sizes", SCRIPT)
    module = sys.modules["check_sizes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_sizes"]


def functions(check_sizes, path, text):
    """(name, line, lines, explained) of each function."""
    found = check_sizes.sizes(path, textwrap.dedent(text).lstrip())
    return [
        (size.name.split("::")[1], size.line, size.lines, size.explained)
        for size in found
        if size.kind == "function"
    ]


def test_functions_of_python_and_what_explains_them(check_sizes):
    text = """
        class A:
            @property
            def one(self):
                return 1

        # long: a table
        @cache
        def two():
            def inner():
                pass

        def three():
            # long: a program
            pass

        # long:
        def four(): pass
    """
    assert functions(check_sizes, "a.py", text) == [
        ("A.one", 3, 2, False),
        ("two", 8, 3, True),
        ("two.inner", 9, 2, False),
        ("three", 12, 3, True),
        ("four", 17, 1, False),
    ]


def test_functions_of_c_and_cuda(check_sizes):
    text = """
        #define MACRO(x) \\
            x
        void declared(int a);
        int declared_over_lines(int a,
                                int b);
        enum { PART = 8 };
        struct Job {
            int a;
        };
        static int one(int a,
                       int b) {
            return a + b;
        }

        INLINE long
        two(long width) /* with what is beside it */
        {
            return width;
        }

        /* long: a table */
        KERNEL(three, Job) { // of a job
            if (a) {
            }
        }
    """
    assert functions(check_sizes, "a.cu", text) == [
        ("one", 10, 4, False),
        ("two", 16, 4, False),
        ("three", 22, 4, True),
    ]


def test_lines(check_sizes):
    wide, wider = "x" * 101, "x" * 121
    many = "\n".join(["x"] * 100)
    assert not list(check_sizes.check_lines({"a.py": f"{many}\n{wide}"}))
    assert list(check_sizes.check_lines({"a.py": f"{many}\n{wider}"})) == [
        "a.py:101: 121 columns; at most 120: break the line"
    ]
    one_percent = {"a.py": "\n".join(["x"] * 99), "b.c": wide}
    assert [line.split(";")[0] for line in check_sizes.check_lines(one_percent)] == [
        "b.c:1: 101 columns",
        "1 of 100 lines have more than 100 columns",
    ]


def test_files_and_functions_that_are_too_long(check_sizes):
    def wrong(lines, known, explained=False):
        sizes = [check_sizes.Size("function", "a.py::f", 3, lines, explained)]
        return list(check_sizes.check_sizes(sizes, known))

    assert not wrong(60, {}) and not wrong(61, {}, explained=True)
    assert "a.py:3: f has 61 lines; a function has at most 60" in wrong(61, {})[0]
    assert not wrong(70, {"a.py::f": 70}) and not wrong(65, {"a.py::f": 70})
    assert "f has 71 lines, 70 when it was listed" in wrong(71, {"a.py::f": 70})[0]
    assert "isn't too long any more" in wrong(60, {"a.py::f": 70})[0]
    assert "there is no a.py::g" in wrong(60, {"a.py::g": 70})[0]
    (size,) = check_sizes.sizes("a.sh", "# long: a table\n" + "x\n" * 600)
    assert size.lines == 601 and size.explained and not size.too_long


def test_the_script_on_a_checkout(tmp_path):
    def run(*options):
        command = [sys.executable, SCRIPT, "--root", tmp_path, *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert not result.stderr
        return result.returncode, result.stdout

    try:
        subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("the script asks git which files there are, and git isn't installed")
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    (tmp_path / "ignored.py").write_text("x" * 121)
    (tmp_path / "text.md").write_text("x" * 121)
    long = tmp_path / "long.py"
    long.write_text("def f():\n" + "    pass\n" * 60)
    code, output = run()
    assert code == 1 and output.startswith("long.py:1: f has 61 lines;")
    assert run("--update") == run() == (0, "")
    assert '"long.py::f" = 61' in (tmp_path / "scripts" / "sizes.toml").read_text()
    long.write_text("def f():\n" + "    pass\n" * 61)
    assert run()[0] == 1
    long.write_text("def f():\n    pass\n")
    assert run()[0] == 1 and run("--update") == (0, "")
