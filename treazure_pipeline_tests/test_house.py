"""What the modules say about each other is true of the house as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
MODULES = sorted((HOUSE / "treazure_pipeline").rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(HOUSE)))
def test_where_a_module_sends_its_reader_there_is_a_module(module: Path) -> None:
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    _, _, elsewhere = told.partition("Does not: ")
    missing = []
    for name in re.findall(r"`([a-z_.]+)`", elsewhere.partition(". ")[0]):
        path = name.replace(".", "/")
        places = [folder / path for folder in (module.parent, HOUSE / "treazure_pipeline", HOUSE)]
        if not any(place.is_dir() or place.with_suffix(".py").is_file() for place in places):
            missing.append(name)
    assert missing == []
