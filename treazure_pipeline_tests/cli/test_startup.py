"""What a command waits for before it does anything: the packages that it imports."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from treazure_pipeline.database import schema
from treazure_pipeline.sandbox import Sandbox, running_sandbox
from treazure_pipeline_tests.cli.conftest import COMMAND
from treazure_pipeline_tests.cli.test_doctor import settings

OF_DATA = {"matplotlib", "numpy", "pandas", "polars", "pyarrow"}
OF_RUNS = {"alembic", "dagster", "httpx", "sqlalchemy"}
"""Each takes between a tenth of a second and a whole one."""

Imported = Callable[..., set[str]]


@pytest.fixture
def imported(environment: Callable[..., dict[str, str]]) -> Imported:
    """The packages that a command imports, in a process of its own."""

    def of(*arguments: str, **more: str) -> set[str]:
        listed = environment(PYTHONPROFILEIMPORTTIME="1", **more)
        done = subprocess.run([*COMMAND, *arguments], env=listed, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return set(re.findall(r"^import time: .*\| +(\w+)$", done.stderr, re.MULTILINE))

    return of


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=20) as running:
        yield running


def test_help_imports_only_what_prints(imported: Imported) -> None:
    found = imported("--help")
    assert "click" in found
    assert not found & (OF_DATA | OF_RUNS | {"psycopg", "pydantic"})


def test_what_only_reads_the_ledger_imports_neither_dagster_nor_an_http_client(
    imported: Imported, database_url: str
) -> None:
    given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "TREAZURE_LOYALTY_ID": "LOYALTY"}
    found = imported("status", **given)
    assert "psycopg" in found
    assert not found & (OF_DATA | OF_RUNS)


def test_a_run_of_the_balance_sync_imports_no_data_frames(
    imported: Imported, sandbox: Sandbox, database_url: str, empty_database_url: str
) -> None:
    given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": empty_database_url}
    found = imported("run", "balance-sync", **settings(sandbox), **given)
    assert "dagster" in found
    assert not found & OF_DATA
    assert sandbox.differences()["equal"]


def test_the_revisions_are_those_that_alembic_finds_in_its_order() -> None:
    config = Config()
    config.set_main_option("script_location", "treazure_pipeline.database:migrations")
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert schema.revisions() == tuple(script.revision for script in scripts)
