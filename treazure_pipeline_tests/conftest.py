"""What many tests need: a PostgreSQL server, a fresh database, a home that the server's user can get to."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import certifi
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql

from treazure_pipeline.database import embedded, schema
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.databases import Copies, Databases

# What is imported stays: to look through it for garbage, again and again, takes longer than many tests.
gc.disable()

_MEMORY = Path("/dev/shm")  # noqa: S108 - its own folder in it is made with a fresh name
_SETTINGS = ("DAGSTER_", "ENGAGE_", "PROGRAMME_", "TREAZURE_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server as slow; tests that start a process by themselves carry the mark in their file.

    Those that have a time-out of their own come first: begun last, one of them would keep all others waiting.
    """
    for item in items:
        if isinstance(item, pytest.Function) and any(
            name == "_homes" or name.endswith("sandbox") for name in item.fixturenames
        ):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# Whoever starts the tests in the background may have had signals ignored, and what they start would ignore them too.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> None:
    """Tests see only the settings that they make."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS) and name != roles.SERVER:
            del os.environ[name]


@pytest.fixture(autouse=True)
def _surroundings_of_its_own() -> Iterator[None]:
    """A command that was run in this process leaves nothing in the environment of the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing here speaks TLS, and to read all certificates takes an HTTP client longer than its requests."""
    end = "-----END CERTIFICATE-----\n"
    first, *_ = Path(certifi.where()).read_text().partition(end)
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(first + end)
    os.environ["SSL_CERT_FILE"] = str(file)


@pytest.fixture(scope="session", autouse=True)
def _revisions_are_read_once() -> Iterator[None]:
    """Dagster would read its 89 again for each storage that a test makes, which takes longer than to make it."""
    read, made = ScriptDirectory.from_config, dict[str | None, ScriptDirectory]()

    def once(config: Config) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        if location not in made:
            made[location] = read(config)
        return made[location]

    with mock.patch.object(ScriptDirectory, "from_config", once):
        yield


@pytest.fixture(scope="session")
def _homes() -> Iterator[Path]:
    """Below pytest's own temporary folders, which are private, the server of a root could not work.

    In memory where there is room: a fifth of a server's work is to make files for tables that are soon dropped.
    """
    folder = Path(tempfile.mkdtemp(prefix="treazure-tests-", dir=_MEMORY if _has_room(_MEMORY) else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _has_room(folder: Path) -> bool:
    """Tell whether a folder is there for servers and their programs, and has 4 GiB left."""
    return (
        folder.is_dir() and not os.statvfs(folder).f_flag & os.ST_NOEXEC and shutil.disk_usage(folder).free > 4 * 2**30
    )


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
    if given := os.environ.get(roles.SERVER):
        yield given
        return
    shared = _homes / "shared"
    url = embedded.start(shared)
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("autovacuum", "fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
    yield url
    embedded.stop(shared)


@pytest.fixture(scope="session")
def databases(server_url: str) -> Databases:
    """The databases of the server that all tests share, for fixtures that outlive a test."""
    return Databases(server_url)


@pytest.fixture(scope="session")
def ledger_template(databases: Databases) -> Iterator[str]:
    """The name of a database with the ledger's schema and nothing in it; its owner has made it, as `db roles` says."""
    with databases.new() as name:
        roles.make(databases.server_url, database=name, dagster=name)
        databases.give(embedded.DAGSTER, roles.RUNTIME)
        schema.upgrade(databases.url(name, roles.OWNER))
        yield name


@pytest.fixture(scope="session")
def _ledgers(databases: Databases, ledger_template: str) -> Iterator[Copies]:
    with closing(Copies(databases, ledger_template)) as copies:
        yield copies


@pytest.fixture
def database_url(_ledgers: Copies) -> Iterator[str]:
    """An empty ledger of the newest schema, for this test alone, as the role that works; no superuser's."""
    with _ledgers.lent() as url:
        yield url


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database with nothing in it, for this test alone: for Dagster, or for migrations."""
    with databases.new() as name:
        yield databases.url(name)
