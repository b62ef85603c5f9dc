from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import sqlalchemy as sa

import treazure_pipeline
from treazure_pipeline.database import embedded, schema
from treazure_pipeline_tests.cli.conftest import COMMAND, SYSTEMS, Run


def test_start_and_stop_need_no_other_settings_and_may_be_repeated(run: Run, home: Path) -> None:
    started = [run("db", "start", "--json"), run("db", "start", "--json")]
    assert embedded.running_url(home) is not None
    stopped = [run("db", "stop"), run("db", "stop")]

    assert [result.returncode for result in started + stopped] == [0] * 4
    assert {json.loads(result.stdout)["url"] for result in started} == {embedded.urls(home).ledger}
    assert embedded.running_url(home) is None


def test_a_server_of_ones_own_is_neither_started_nor_stopped(run: Run, database_url: str) -> None:
    for action in ("start", "stop"):
        result = run("db", action, TREAZURE_PIPELINE_DATABASE_URL=database_url)

        assert result.returncode == 2
        assert "server of your own" in result.stderr


def test_upgrade_makes_the_embedded_ledger_from_nothing(run: Run, home: Path) -> None:
    first = json.loads(run("db", "upgrade", "--json").stdout)
    second = json.loads(run("db", "upgrade", "--json").stdout)

    assert first == {"status": "ok", "before": None, "after": schema.head()}
    assert second == {"status": "ok", "before": schema.head(), "after": schema.head()}
    schema.check(embedded.urls(home).ledger)


def test_a_checkout_may_lie_anywhere(environment: Callable[..., dict[str, str]], home: Path) -> None:
    """And the home and the working directory may have any name, also where Dagster is told of them."""
    place = home / 'a %(here)s, it\'s "b": c'
    package = Path(treazure_pipeline.__file__).parent
    shutil.copytree(package, place / package.name)
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(package.parent / name, place)
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); " + COMMAND[-1], str(place)]
    given = environment(**SYSTEMS, TREAZURE_PIPELINE_HOME=str(place / "home"))
    try:
        results = [
            subprocess.run([*command, *arguments], env=given, cwd=place, capture_output=True, text=True, check=False)
            for arguments in (["db", "upgrade"], ["run", "adjustments"])
        ]
    finally:
        embedded.stop(place / "home")

    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]


def test_upgrade_of_ones_own_server_makes_dagsters_database_too_and_may_be_repeated(run: Run, home: Path) -> None:
    server = sa.make_url(embedded.start(home))
    with psycopg.connect(server.render_as_string(), autocommit=True) as connection:
        connection.execute("DROP DATABASE dagster")
        connection.execute("CREATE DATABASE own_ledger")
    own = server.set(database="own_ledger").render_as_string()

    for _ in range(2):
        result = run("db", "upgrade", TREAZURE_PIPELINE_DATABASE_URL=own)

        assert result.returncode == 0, result.stderr
    schema.check(own)
    psycopg.connect(embedded.urls(home).dagster).close()
