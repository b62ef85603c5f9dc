"""The ledger's schema: its migrations are applied by a command and checked before any work.

Everything lives in the PostgreSQL schema `treazure_pipeline`, so that the ledger can share a database with others.
"""

from __future__ import annotations

from pathlib import Path
from typing import LiteralString

import psycopg
import sqlalchemy as sa
from alembic.command import upgrade as alembic_upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg_pool import PoolTimeout

from treazure_pipeline.errors import ConflictError, DatabaseError, DatabaseUnavailableError, SchemaOutdatedError

SCHEMA = "treazure_pipeline"
OLDEST_SERVER = 16
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 7_281_001
_CONFLICTS = {"40001", "40P01", "23505"}
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
# In each transaction: a pooler may give every one another session, and roles and databases have settings of their own.
_FACTS = {
    "search_path": SCHEMA,
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
_READ_ONLY = {"25006"}  # a standby, or the former primary after a failover


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    return sa.create_engine(
        parsed, poolclass=sa.NullPool, connect_args={"connect_timeout": 10, "prepare_threshold": None}
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def head() -> str:
    """Return the revision that this version of the product works with."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring the ledger at `url` to the newest schema; return the revisions before and after.

    Safe when several processes do it at once. Raises DatabaseUnavailableError when the server can't be used and
    DatabaseError when it is older than PostgreSQL 16.
    """
    try:
        with _engine(url).begin() as connection:
            _check_server(connection)
            # One transaction for all: nothing is kept in the session, and whoever comes second finds it done.
            connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if connection.execute(sa.text("select to_regnamespace(:name)"), {"name": SCHEMA}).scalar() is None:
                connection.execute(sa.text(f"create schema {SCHEMA}"))
            connection.execute(sa.text(f"set local search_path to {SCHEMA}"))
            before = _revision(connection)
            config = _config()
            config.attributes["connection"] = connection
            alembic_upgrade(config, "head")
            return before, head()
    except sa.exc.DBAPIError as error:
        raise unavailable(error.orig or error) from None


def check(url: str) -> None:
    """Raise SchemaOutdatedError unless the ledger at `url` has exactly the schema of this version."""
    try:
        with _engine(url).connect() as connection:
            _check_server(connection)
            found = _revision(connection)
    except sa.exc.DBAPIError as error:
        raise unavailable(error.orig or error) from None
    if found != head():
        stands = f"at revision {found}" if found else "empty"
        message = f"The ledger's schema is {stands}, this version of treazure-pipeline needs {head()}."
        raise SchemaOutdatedError(message, hint="Run `treazure-pipeline db upgrade`.")


def facts(**others: LiteralString) -> LiteralString:
    """Return the statement that sets what every transaction relies on, until it ends; `others` come on top."""
    settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in (_FACTS | others).items())
    durable = "set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)"
    return f"select {settings}, {durable}"


def translated(error: BaseException) -> DatabaseError:
    """Turn a driver's error into ours, without the connection string; what is our own mistake is raised as it is."""
    state = getattr(error, "sqlstate", None) or ""
    if state in _CONFLICTS:
        return ConflictError(f"Two transactions met: {_first_line(error)}.", hint="The next run tries again.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout) or state in _READ_ONLY:
        return unavailable(error)
    raise error


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """Turn a driver's error into ours, without the connection string."""
    return DatabaseUnavailableError(
        f"The ledger's database can't be used: {_first_line(error)}.",
        hint="Check that PostgreSQL runs, has room, and that TREAZURE_PIPELINE_DATABASE_URL is right.",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _revision(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()


def _check_server(connection: sa.Connection) -> None:
    version = connection.execute(sa.text("show server_version_num")).scalar_one()
    if int(version) // 10_000 < OLDEST_SERVER:
        message = f"The ledger's server is PostgreSQL {int(version) // 10_000}; {OLDEST_SERVER} or newer is needed."
        raise DatabaseError(message, hint="Point TREAZURE_PIPELINE_DATABASE_URL at a newer server.")
