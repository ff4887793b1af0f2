"""The element's properties against the table of arguments, as `gst-inspect-1.0` shows them, and the
alias.
"""

import ast
import re

import pytest

from vsneuralstyle.arguments import Change, Host, arguments_of

TYPES = {str: "String", float: "Double", int: "Integer", bool: "Boolean"}
CHANGES = {
    Change.READY: "readable, writable, changeable only in NULL or READY state",
    Change.PLAYING: "readable, writable, changeable in NULL, READY, PAUSED or PLAYING state",
    Change.CONTROLLABLE: "readable, writable, controllable, "
    "changeable in NULL, READY, PAUSED or PLAYING state",
}


@pytest.fixture(scope="module")
def shown(run, environment) -> dict[str, list[str]]:
    """What gst-inspect-1.0 says of each property: blurb, flags, type with its range and default."""
    done = run("gst-inspect-1.0", "neuralstyle", env=environment)
    assert done.returncode == 0, done.stderr
    properties = done.stdout.partition("Element Properties:")[2]
    # 1.24 and newer put an empty line between properties
    found = re.findall(r"^  ([\w-]+) +: (.*)\n +flags: (.*)\n +(.*?) *$", properties, re.M)
    return {name: [blurb, flags, re.sub(r" +", " ", kind)] for name, blurb, flags, kind in found}


def expected(argument) -> list[str]:
    kind = TYPES.get(argument.type, "String")
    default = argument.default
    if kind == "String":
        value = "null" if default is None else f'"{default}"'
        kind = f"String. Default: {value}"
    elif kind == "Boolean":
        kind = f"Boolean. Default: {str(default).lower()}"
    else:
        least, greatest = argument.range
        kind = f"{kind}. Range: {least} - {greatest} Default: {default:g}"
    return [argument.doc_on(Host.GSTREAMER), CHANGES[argument.change], kind]


@pytest.mark.parametrize(
    "argument", arguments_of(Host.GSTREAMER), ids=lambda argument: argument.name
)
def test_a_property(argument, shown):
    assert shown[argument.name_on(Host.GSTREAMER)] == expected(argument)
    for alias in argument.gstreamer_aliases:
        blurb, *rest = shown[alias]
        assert blurb == f"Alias of {argument.name_on(Host.GSTREAMER)}: the one set later holds"
        assert rest == expected(argument)[1:]


def test_no_other_properties(shown):
    names = {argument.name_on(Host.GSTREAMER) for argument in arguments_of(Host.GSTREAMER)}
    names.update(a for argument in arguments_of(Host.GSTREAMER) for a in argument.gstreamer_aliases)
    assert set(shown) - names == {"name", "parent", "qos", "stats"}


@pytest.mark.parametrize("first, then", [("model-dir", "model-path"), ("model-path", "model-dir")])
def test_of_an_alias_and_its_property_the_later_one_holds(launch, model_dir, tmp_path, first, then):
    pipeline = (
        "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=16,height=16 ! "
        f"neuralstyle device=cpu {first}={{}} {then}={{}} ! fakesink"
    )
    nowhere = tmp_path / "nowhere"
    works = launch(pipeline.format(nowhere, model_dir))
    assert works.returncode == 0, works.stderr
    fails = launch(pipeline.format(model_dir, nowhere))
    assert fails.returncode != 0 and str(nowhere) in fails.stderr


def test_an_alias_reads_as_its_property(Gst):
    element = Gst.ElementFactory.make("neuralstyle")
    element.set_property("model-path", "/one")
    assert element.get_property("model-dir") == "/one"
    element.set_property("model-dir", "/two")
    assert element.get_property("model-path") == "/two"


def test_the_table_of_the_element_imports_nothing(plugin_path):
    """GStreamer scans where vsneuralstyle can't be imported."""
    source = (plugin_path / "python" / "gstneuralstyle_arguments.py").read_text()
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert '"style": (' in source and not imports
