from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from treazure_pipeline.cli import sandbox as sandbox_command
from treazure_pipeline.connections import open_ledger
from treazure_pipeline.database import embedded
from treazure_pipeline.sandbox.handle import Sandbox, running_sandbox
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests.cli.conftest import SYSTEMS, Run


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=10) as running:
        yield running


def settings(sandbox: Sandbox) -> dict[str, str]:
    return sandbox_command.settings(int(sandbox.base_url.rpartition(":")[2]))


def checks(run: Run, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = run("doctor", "--json", **environment)
    report = json.loads(result.stdout)
    assert (report["status"] == "ok") == (result.returncode == 0)
    return result.returncode, {check["check"]: check for check in report["checks"]}


def test_where_all_is_well_everything_is_tried_and_found_fine(
    run: Run, sandbox: Sandbox, database_url: str, empty_database_url: str
) -> None:
    databases = {
        "TREAZURE_PIPELINE_DATABASE_URL": database_url,
        "DAGSTER_POSTGRES_URL": empty_database_url,
    }

    code, found = checks(run, **settings(sandbox), **databases)

    assert code == 0
    assert {name: check["status"] for name, check in found.items()} == {
        "settings": "ok",
        "alerts": "note",
        "Treazure: login": "ok",
        "Treazure: export of points": "ok",
        "Engage: contacts": "ok",
        "Engage: point definitions": "ok",
        "database": "ok",
        "database: schema": "ok",
        "database: rights": "ok",
        "database: whose ledger": "ok",
        "Dagster: storage": "ok",
        "Dagster: daemon": "note",
        "other writers: Treazure, points": "ok",
        "other writers: Engage, points": "ok",
    }
    assert found["Engage: contacts"]["detail"] == "10 contacts"


def test_it_is_a_table_for_people(run: Run, sandbox: Sandbox) -> None:
    result = run("doctor", **settings(sandbox))

    assert result.returncode == 0
    assert "10 contacts" in result.stdout
    assert "embedded, stopped" in result.stdout


def test_it_starts_and_writes_nothing(run: Run, sandbox: Sandbox, home: Path) -> None:
    run("doctor", **settings(sandbox))

    assert not home.exists()


def test_missing_settings_are_named_and_the_database_is_looked_at_all_the_same(run: Run, home: Path) -> None:
    embedded.start(home)

    code, found = checks(run)

    assert code == 2
    assert all(name in found["settings"]["detail"] for name in SYSTEMS)
    assert found["database"]["status"] == "ok"
    assert "db upgrade" in found["database: schema"]["detail"]


def test_secrets_that_are_refused_are_found_at_both_systems_and_not_shown(run: Run, sandbox: Sandbox) -> None:
    wrong = {"TREAZURE_CLIENT_SECRET": "wrong-one", "ENGAGE_API_KEY": "wrong-two"}

    code, found = checks(run, **settings(sandbox) | wrong)

    assert code == 5
    assert found["Treazure: login"]["status"] == "failed"
    assert found["Engage: contacts"]["status"] == "failed"
    assert "wrong-" not in json.dumps(found)


def test_a_definition_that_engage_lacks_is_named_with_those_it_has(run: Run, sandbox: Sandbox) -> None:
    code, found = checks(run, **settings(sandbox) | {"ENGAGE_DEFINITION_ID": "77"})

    assert code == 5
    assert found["Engage: point definitions"]["status"] == "failed"
    assert "no point definition 77 (points)" in found["Engage: point definitions"]["detail"]


def test_a_ledger_of_other_systems_is_found_and_refused_before_there_is_a_run(
    run: Run, sandbox: Sandbox, database_url: str, empty_database_url: str
) -> None:
    databases = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": empty_database_url}
    others = load_settings({**SYSTEMS, "TREAZURE_PIPELINE_DATABASE_URL": database_url})
    open_ledger(others, database_url).close()

    code, found = checks(run, **settings(sandbox), **databases)
    assert code == 5
    assert found["database: whose ledger"]["status"] == "failed"
    assert "treazure.invalid" in found["database: whose ledger"]["detail"]

    for job in ("balance-sync", "adjustments", "verify", "history", "migration"):
        refused = run("run", job, **settings(sandbox), **databases)
        assert refused.returncode == 2
        assert "db adopt" in refused.stderr
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select to_regclass('runs')").fetchone() == (None,)
