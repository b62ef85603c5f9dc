from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import sqlalchemy as sa

from treazure_pipeline.database import embedded, schema
from treazure_pipeline_tests.cli.conftest import COMMAND, SYSTEMS, Run

LOOK = """
import json, os, psycopg
from dagster import DagsterInstance
with psycopg.connect(os.environ["TREAZURE_PIPELINE_DATABASE_URL"]) as connection:
    ledger = connection.execute("SELECT current_database()").fetchone()[0]
with DagsterInstance.get() as instance:
    print(json.dumps({
        "ledger": ledger,
        "storage": type(instance.run_storage).__name__,
        "runs": instance.get_runs_count(),
        "dequeue": instance.run_coordinator.dequeue_interval_seconds,
        "monitoring": instance.run_monitoring_enabled,
        "retries": instance.run_retries_max_retries,
        "retry_failures": instance.run_retries_retry_on_asset_or_op_failure,
        "telemetry": instance.telemetry_enabled,
    }))
"""


def with_password(url: str) -> str:
    return sa.make_url(url).set(password="pass-word").render_as_string(hide_password=False)


def test_a_shell_that_evaluates_it_has_a_ledger_and_a_dagster_instance(
    new_home: Callable[[], Path], environment: Callable[..., dict[str, str]]
) -> None:
    home = new_home() / "it's a home"
    script = f'eval "$({sys.executable} -c "{COMMAND[-1]}" env)" && exec {sys.executable} -c "$LOOK"'
    try:
        result = subprocess.run(
            ["sh", "-c", script],
            env=environment(**SYSTEMS, TREAZURE_PIPELINE_HOME=str(home), LOOK=LOOK),
            capture_output=True,
            text=True,
            check=False,
        )
        schema.check(embedded.urls(home).ledger)
    finally:
        embedded.stop(home)

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "ledger": "treazure",
        "storage": "PostgresRunStorage",
        "runs": 0,
        "dequeue": 1,
        "monitoring": True,
        "retries": 2,
        "retry_failures": False,
        "telemetry": False,
    }


def test_missing_settings_are_one_message_before_anything_is_started(run: Run, home: Path) -> None:
    result = run("env")

    assert result.returncode == 2
    assert result.stdout == ""
    for name in SYSTEMS:
        assert name in result.stderr
    assert not home.exists()


def test_it_prints_no_secret_and_nothing_that_is_set_already(
    run: Run, database_url: str, empty_database_url: str
) -> None:
    given = {
        **SYSTEMS,
        "TREAZURE_PIPELINE_DATABASE_URL": with_password(database_url),
        "DAGSTER_POSTGRES_URL": with_password(empty_database_url),
    }

    result = run("env", **given)

    assert result.returncode == 0, result.stderr
    names = [line.removeprefix("export ").split("=")[0] for line in result.stdout.splitlines()]
    assert names == ["TREAZURE_PIPELINE_HOME", "DAGSTER_HOME"]
    assert "pass-word" not in result.stdout + result.stderr
    assert "secret" not in result.stdout + result.stderr


def test_it_asks_for_what_it_would_have_to_print_with_a_password(run: Run, database_url: str) -> None:
    result = run("env", **SYSTEMS, TREAZURE_PIPELINE_DATABASE_URL=with_password(database_url))

    assert result.returncode == 2
    assert "DAGSTER_POSTGRES_URL" in result.stderr
    assert "pass-word" not in result.stdout + result.stderr


def test_a_server_of_ones_own_is_not_migrated_unasked(run: Run, empty_database_url: str) -> None:
    given = {"TREAZURE_PIPELINE_DATABASE_URL": empty_database_url, "DAGSTER_POSTGRES_URL": empty_database_url}

    result = run("env", **SYSTEMS, **given)

    assert result.returncode == 5
    assert "treazure-pipeline db upgrade" in result.stderr
    with psycopg.connect(empty_database_url) as connection:
        found = connection.execute("SELECT to_regnamespace('treazure_pipeline')").fetchone()
    assert found == (None,)


def test_a_dagster_home_of_ones_own_is_used_and_left_alone(
    run: Run, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": empty_database_url}
    own = tmp_path / "own"
    own.mkdir()

    result = run("env", **SYSTEMS, **given, DAGSTER_HOME=str(own))

    assert f"export DAGSTER_HOME={own}" in result.stdout
    assert not any(own.iterdir())


def test_a_database_that_is_down_is_one_message(run: Run) -> None:
    result = run("env", **SYSTEMS, TREAZURE_PIPELINE_DATABASE_URL="postgresql://127.0.0.1:1/ledger")

    assert result.returncode == 5
    assert "database can't be used" in result.stderr
    assert "Traceback" not in result.stderr
