"""What many tests need: a PostgreSQL server, a fresh database, a home that the server's user can get to."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from treazure_pipeline.database import embedded, schema

_SERVER = "TREAZURE_PIPELINE_TEST_DATABASE_URL"
_SETTINGS = ("DAGSTER_", "ENGAGE_", "PROGRAMME_", "TREAZURE_")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> None:
    """Tests see only the settings that they make."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS) and name != _SERVER:
            del os.environ[name]


@pytest.fixture(scope="session")
def _homes() -> Iterator[Path]:
    """Below pytest's own temporary folders, which are private, the server of a root could not work."""
    folder = Path(tempfile.mkdtemp(prefix="treazure-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def new_home(_homes: Path) -> Iterator[Callable[[], Path]]:
    """Makes names of homes that don't exist yet; what is started there is stopped after the test."""
    made: list[Path] = []

    def new() -> Path:
        made.append(_homes / uuid.uuid4().hex[:12])
        return made[-1]

    yield new
    for home in made:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home(new_home: Callable[[], Path]) -> Path:
    """One home that doesn't exist yet."""
    return new_home()


@pytest.fixture(scope="session")
def server_url(_homes: Path) -> Iterator[str]:
    """A database on the server that all tests share; tests that harm a server start their own."""
    if given := os.environ.get(_SERVER):
        yield given
        return
    shared = _homes / "shared"
    url = embedded.start(shared)
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
    yield url
    embedded.stop(shared)


@pytest.fixture(scope="session")
def _template(server_url: str) -> Iterator[str]:
    """The name of a database with the ledger's schema and nothing in it."""
    with _database(server_url, None) as (name, url):
        schema.upgrade(url)
        yield name


@pytest.fixture
def database_url(server_url: str, _template: str) -> Iterator[str]:
    """An empty ledger of the newest schema, for this test alone."""
    with _database(server_url, _template) as (_, url):
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database with nothing in it, for this test alone: for Dagster, or for migrations."""
    with _database(server_url, None) as (_, url):
        yield url


@contextmanager
def _database(server_url: str, template: str | None) -> Iterator[tuple[str, str]]:
    """A database that is there within the block, whoever is still connected at its end: its name and URL."""
    name = f"test_{uuid.uuid4().hex[:12]}"

    def run(statement: LiteralString, *names: str) -> None:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    run("CREATE DATABASE {} TEMPLATE {}", name, template or "template1")
    try:
        yield name, sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        run("DROP DATABASE {} WITH (FORCE)", name)
