"""What the modules say about each other is true of the house as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PACKAGE = HOUSE / "treazure_pipeline"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Modules and folders by their names, such as `ledger.batches` and `ledger`.
PLACES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in MODULES}
PLACES |= {path.parent.name for path in MODULES} | {"treazure_pipeline_tests.adversary"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(HOUSE)))
def test_where_a_module_sends_its_reader_there_is_a_module(module: Path) -> None:
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    _, _, elsewhere = told.partition("Does not: ")
    named = [
        name.removeprefix("treazure_pipeline.") for name in re.findall(r"`([a-z_.]+)`", elsewhere.partition(". ")[0])
    ]
    assert [name for name in named if not any(there == name or there.endswith(f".{name}") for there in PLACES)] == []
