"""A user who is in no list of users and has no home, as in a container."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from treazure_pipeline.sandbox import running_sandbox
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.cli.conftest import COMMAND
from treazure_pipeline_tests.cli.test_doctor import settings
from treazure_pipeline_tests.poolers import pooler
from treazure_pipeline_tests.processes import free_port

AS_NOBODY = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]


def test_a_user_without_name_and_home_runs_the_sync(
    environment: Callable[..., dict[str, str]],
    database_url: str,
    empty_database_url: str,
    home: Path,
    new_home: Callable[[], Path],
) -> None:
    """Through a pooler, since the tests' own server lets in nobody else."""
    if not shutil.which("unshare") or subprocess.run([*AS_NOBODY, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a user namespace (unshare --user)")
    own, port = new_home(), free_port()
    own.mkdir()
    with psycopg.connect(roles.administrators(empty_database_url), autocommit=True) as connection:
        connection.execute(f"grant create on schema public to {roles.RUNTIME}")
    with (
        pooler(database_url, home, listen_addr="127.0.0.1", listen_port=port) as through,
        running_sandbox(members=20) as sandbox,
    ):
        ledger = through.set(host="127.0.0.1", port=port, query={})
        dagster = ledger.set(database=sa.make_url(empty_database_url).database)
        given = environment(
            **settings(sandbox),
            TREAZURE_PIPELINE_DATABASE_URL=ledger.render_as_string(hide_password=False),
            DAGSTER_POSTGRES_URL=dagster.render_as_string(hide_password=False),
        )
        given = {name: value for name, value in given.items() if name not in {"HOME", "USER", "LOGNAME"}}
        given["TREAZURE_PIPELINE_HOME"] = str(own)

        def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
            command = [*AS_NOBODY, *COMMAND, *arguments]
            return subprocess.run(command, env=given | more, cwd="/", capture_output=True, text=True, check=False)

        synced = run("run", "balance-sync")
        started = run("db", "start", TREAZURE_PIPELINE_DATABASE_URL="")

    assert synced.returncode == 0, synced.stderr
    assert started.returncode == 2, started.stderr
    assert "Give it one (a line in /etc/passwd), or set TREAZURE_PIPELINE_DATABASE_URL" in started.stderr
