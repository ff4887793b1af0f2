"""Who may import whom: the contract in .importlinter holds for the installed package."""

from pathlib import Path

import pytest

CONTRACTS = next(
    folder / ".importlinter"
    for folder in Path(__file__).resolve().parents
    if (folder / "pyproject.toml").exists()
)


def test_no_part_imports_one_above_it(capsys):
    pytest.importorskip("importlinter", reason="import-linter is not installed (extra `test`)")
    import importlinter.api  # noqa: F401  registers how contracts are read
    from importlinter.application import use_cases

    kept = use_cases.lint_imports(str(CONTRACTS), cache_dir=None, no_logo=True)
    assert kept, capsys.readouterr().out


def test_the_contract_names_every_part():
    api = pytest.importorskip(
        "importlinter.api", reason="import-linter is not installed (extra `test`)"
    )
    contract, _ = api.read_configuration(str(CONTRACTS))["contracts_options"]
    assert contract["exhaustive"] == "true"
    assert "hosts | evaluation | training" in contract["layers"]  # none of them imports another
