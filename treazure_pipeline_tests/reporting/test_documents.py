"""What is printed from the comments of the views: the data dictionary, dbt's sources, Dagster's column schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner
from psycopg import sql

from treazure_pipeline.cli import commands
from treazure_pipeline.database import reporting
from treazure_pipeline_tests.reporting.conftest import Reader

ROOT = Path(__file__).parents[2]
PRINTED = {
    (): ROOT / "docs" / "data-dictionary.md",
    ("--dbt",): ROOT / "treazure_pipeline" / "database" / "sources.yml",
}


@pytest.mark.parametrize(("options", "file"), PRINTED.items(), ids=lambda value: getattr(value, "name", ""))
def test_what_is_printed_is_what_stands_in_the_repository(
    options: tuple[str, ...], file: Path, database_url: str
) -> None:
    """Where it differs: `treazure-pipeline db dictionary` into the file (see docs/contributing.md)."""
    printed = CliRunner().invoke(
        commands, ["db", "dictionary", *options], env={"TREAZURE_PIPELINE_DATABASE_URL": database_url}
    )

    assert printed.exit_code == 0, printed.output
    assert printed.stdout == file.read_text(encoding="utf-8")


def what_dbt_tests() -> list[tuple[str, str, str, Any]]:
    (source,) = yaml.safe_load(PRINTED["--dbt",].read_text(encoding="utf-8"))["sources"]
    return [
        (table["name"], column["name"], *(next(iter(test.items())) if isinstance(test, dict) else (test, None)))
        for table in source["tables"]
        for column in table["columns"]
        for test in column.get("data_tests", [])
    ]


def test_the_tests_that_dbt_is_told_of_hold(lived: Reader) -> None:
    """As dbt writes them."""
    failing = {
        "not_null": "select from {view} where {column} is null",
        "unique": "select from {view} group by {column} having count(*) > 1",
        "accepted_values": "select from {view} where {column} <> all (%s)",
    }
    broken = []
    with psycopg.connect(lived.url) as connection:
        for view, column, test, arguments in what_dbt_tests():
            names = {"view": sql.Identifier("treazure_reporting", view), "column": sql.Identifier(column)}
            values = None if arguments is None else (arguments["arguments"]["values"],)
            if connection.execute(sql.SQL(failing[test]).format(**names), values).fetchall():
                broken.append((view, column, test))
    assert len(what_dbt_tests()) > 60
    assert broken == []


def test_dbt_is_told_that_the_sync_has_to_run(lived: Reader) -> None:
    (source,) = yaml.safe_load(PRINTED["--dbt",].read_text(encoding="utf-8"))["sources"]
    ((table, config),) = [(table["name"], table["config"]) for table in source["tables"] if "config" in table]
    assert config["freshness"]["warn_after"] == {"count": 2, "period": "hour"}
    assert config["freshness"]["filter"] == "state = 'merged'"
    newest = sql.SQL("select now() - max({}) < interval '2 hours' from {} where state = 'merged'")
    with psycopg.connect(lived.url) as connection:
        found = connection.execute(
            newest.format(sql.Identifier(config["loaded_at_field"]), sql.Identifier("treazure_reporting", table))
        ).fetchall()
    assert found == [(True,)]


def test_what_is_packaged_is_what_the_database_says(database_url: str) -> None:
    _, views = reporting.described(database_url)

    assert reporting.columns() == {view.name: view.columns for view in views}
