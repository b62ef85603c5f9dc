"""What commands work on: a ledger and a Dagster instance that exist and fit this version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from treazure_pipeline import private
from treazure_pipeline.database import embedded, homes, schema
from treazure_pipeline.database.urls import sibling
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError
from treazure_pipeline.settings import Settings, Storage
from treazure_pipeline.surroundings import dagster_unavailable, understood
from treazure_pipeline.terminal import output, startup

if TYPE_CHECKING:
    from dagster import DagsterInstance

# They are beside the package in a checkout, and inside it in a wheel.
_FILES = ("dagster.yaml", "workspace.yaml")
_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Instance:
    """A ledger and a Dagster instance.

    Attributes:
        ledger_url: May hold a password.
        dagster_url: May hold a password.
        dagster_home: DAGSTER_HOME; holds dagster.yaml and workspace.yaml.
        home: TREAZURE_PIPELINE_HOME, absolute.
    """

    ledger_url: str
    dagster_url: str
    dagster_home: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make another process use this instance."""
        return {
            "TREAZURE_PIPELINE_HOME": str(self.home),
            "TREAZURE_PIPELINE_DATABASE_URL": self.ledger_url,
            "TREAZURE_PIPELINE_DATABASE_URL_FILE": "",
            "DAGSTER_POSTGRES_URL": self.dagster_url,
            "DAGSTER_POSTGRES_URL_FILE": "",
            "DAGSTER_HOME": str(self.dagster_home),
        }


def locate(storage: Storage) -> Instance:
    """Return where everything is or would be; starts and writes nothing."""
    if storage.database_url is None or storage.is_embedded:
        urls = embedded.urls(storage.home)
    else:
        ledger = storage.database_url.get_secret_value()
        urls = embedded.Urls(ledger=ledger, dagster=sibling(ledger, embedded.DAGSTER))
    given = storage.dagster_postgres_url
    return Instance(
        ledger_url=urls.ledger,
        dagster_url=given.get_secret_value() if given else urls.dagster,
        dagster_home=_dagster_home(storage),
        home=storage.home,
    )


def prepare(storage: Storage) -> Instance:
    """Make the instance ready for work.

    The embedded server is started and its schema upgraded. An external server is only checked: whoever runs it decides
    when its schema changes. A DAGSTER_HOME that is set and not ours is used as it is.

    Raises:
        SettingsError: The embedded server can't run with these settings, or the ledger belongs to other systems.
        DatabaseUnavailableError: A database can't be used.
        SchemaOutdatedError: The schema of an external server does not fit this version.
    """
    instance = locate(storage)
    if storage.is_embedded:
        say_where(storage.home)
        embedded.start(storage.home)
        schema.upgrade(instance.ledger_url)
    else:
        schema.check(instance.ledger_url)
    if isinstance(storage, Settings):
        from treazure_pipeline.connections import open_ledger

        open_ledger(storage, instance.ledger_url).close()
    connect_dagster(instance)
    write_dagster_home(instance)
    return instance


def upgrade(storage: Storage) -> tuple[str | None, str]:
    """Upgrade the ledger's schema and create Dagster's database if it is missing; return the revisions.

    Raises:
        DatabaseUnavailableError: A database can't be used.
    """
    instance = locate(storage)
    if storage.is_embedded:
        say_where(storage.home)
        embedded.start(storage.home)
    revisions = schema.upgrade(instance.ledger_url)
    if not storage.is_embedded and storage.dagster_postgres_url is None:
        _create_dagster_database(instance)
    write_dagster_home(instance)
    return revisions


def say_where(home: Path) -> None:
    """Say where the embedded database is, unless that is where everybody would look for it."""
    if "TREAZURE_PIPELINE_HOME" not in os.environ and home.is_relative_to(homes.SHARED):
        output.note(
            f"This folder is private to root, so everything goes into {home}. TREAZURE_PIPELINE_HOME sets another "
            "folder."
        )


def connect_dagster(instance: Instance) -> None:
    """Try to connect to Dagster's storage, where Dagster creates its own tables.

    Raises:
        DatabaseUnavailableError: It can't be used.
    """
    try:
        with psycopg.connect(instance.dagster_url, **schema.CONNECTION) as connection:
            row = connection.execute(_MAY_BE_USED).fetchone()
    except psycopg.Error as error:
        raise dagster_unavailable(error) from None
    if row != (True,):
        raise dagster_unavailable("its role may not create tables there")


def is_used(instance: Instance) -> bool:
    """Whether Dagster has ever used the instance."""
    with psycopg.connect(instance.dagster_url, **schema.CONNECTION) as connection:
        row = connection.execute("SELECT to_regclass('daemon_heartbeats') IS NOT NULL").fetchone()
    return row == (True,) and (instance.dagster_home / "dagster.yaml").exists()


_open: ContextVar[DagsterInstance | None] = ContextVar("_open", default=None)


@contextmanager
def opened() -> Iterator[DagsterInstance]:
    """Open the Dagster instance of DAGSTER_HOME, as its daemon and runs do; nested calls share it.

    Raises:
        DatabaseUnavailableError: Its storage can't be used.
        SettingsError: Its dagster.yaml is not understood.
    """
    if (outer := _open.get()) is not None:
        yield outer
        return
    try:
        with startup.importing():
            from dagster import DagsterInstance

            dagster = DagsterInstance.get()
    except Exception as error:
        if (ours := understood(error)) is not None:
            raise ours from None
        raise SettingsError(
            f"Dagster's instance in {os.environ['DAGSTER_HOME']} can't be opened: {str(error).strip().splitlines()[0]}",
            hint="Fix the dagster.yaml there, or unset DAGSTER_HOME.",
        ) from error
    with dagster:
        token = _open.set(dagster)
        try:
            yield dagster
        finally:
            _open.reset(token)


def _dagster_home(storage: Storage) -> Path:
    given = os.environ.get("DAGSTER_HOME", "").strip()
    if given and not Path(given).is_absolute():
        raise SettingsError(f"DAGSTER_HOME ({given}) must be an absolute path.", hint="Dagster accepts no other path.")
    return Path(given or storage.home / "dagster")


_MAY_BE_USED = """
select coalesce(has_schema_privilege(current_schema(), 'create'), false) or to_regclass('alembic_version') is not null
"""


def write_dagster_home(instance: Instance) -> None:
    """Copy the packaged instance settings into our own DAGSTER_HOME; leave any other alone."""
    if instance.dagster_home != instance.home / "dagster":
        if not instance.dagster_home.is_dir():
            message = f"DAGSTER_HOME ({instance.dagster_home}) is not a folder."
            raise SettingsError(message, hint="Create it, with a dagster.yaml in it, or unset DAGSTER_HOME.")
        return
    homes.make_folder(instance.home)
    private.folder(instance.dagster_home)
    for name in _FILES:
        packaged = _PACKAGE / name
        source = packaged if packaged.exists() else _PACKAGE.parent / name
        target = instance.dagster_home / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.write_bytes(source.read_bytes())


def _create_dagster_database(instance: Instance) -> None:
    try:
        with psycopg.connect(instance.ledger_url, connect_timeout=10, autocommit=True) as connection:
            name = embedded.DAGSTER
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise DatabaseUnavailableError(
            f"The database {embedded.DAGSTER} for Dagster's storage can't be created: {' '.join(str(error).split())}.",
            hint="The ledger's schema is up to date. Have an administrator create the database "
            "(`treazure-pipeline db roles` prints the SQL), or set DAGSTER_POSTGRES_URL to an existing one.",
        ) from None
