"""The ledger's schema: its migrations are applied by a command and checked before any work.

Everything lives in the PostgreSQL schema `treazure_pipeline`, so that the ledger can share a database with others. The
views for analysts are in `treazure_reporting`, so that whoever reads them sees nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from treazure_pipeline.errors import ConflictError, DatabaseError, DatabaseUnavailableError, SchemaOutdatedError

SCHEMA = "treazure_pipeline"
REPORTING = "treazure_reporting"
OLDEST_SERVER = 16
_CONFLICTS = {"40001", "40P01", "23505"}
CONNECTION: dict[str, Any] = {
    "connect_timeout": 10,
    "prepare_threshold": None,
    "client_encoding": "UTF8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""How everything connects: also through a pooler, and so that a vanished server is noticed."""
# Set in each transaction: a pooler may give each one another session, and roles and databases have their own settings.
_FACTS = {
    "search_path": SCHEMA,
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
# From PostgreSQL 17 on.
_NO_TRANSACTION_TIMEOUT: LiteralString = (
    "case when current_setting('transaction_timeout', true) is not null "
    "then set_config('transaction_timeout', '0', true) end"
)
# The only timeout that ends a session between transactions. Behind a pooler it is up to the pooler.
SESSION: LiteralString = "set idle_session_timeout to 0"
_OWNS = "select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = %s"
_REPORTS = "select relname from pg_class where relnamespace = to_regnamespace(%s) and relkind = 'v' order by relname"
COMPATIBLE_SINCE: LiteralString = "select compatible_since from compatibility"
_READ_ONLY = {"25006"}  # a standby, or the former primary after a failover


@cache
def revisions() -> tuple[str, ...]:
    """Return the revisions that this version knows, the newest first. Their files are numbered."""
    names = (file.name for file in (files(__package__) / "migrations" / "versions").iterdir())
    return tuple(sorted((name.partition("_")[0] for name in names if name.endswith(".py")), reverse=True))


def head() -> str:
    """Return the newest revision that this version knows."""
    return revisions()[0]


def judge(found: str | None, compatible_since: str | None) -> None:
    """Raise SchemaOutdatedError unless this version can work with a schema at revision `found`.

    A newer schema says since which revision nothing has been removed (`compatible_since`). A version that knows that
    revision continues to work with it, so an upgrade needs no pause.
    """
    if found == head():
        return
    if found is None or found in revisions():
        is_at = f"at revision {found}" if found else "empty"
        message = f"The ledger's schema is {is_at}, this version of treazure-pipeline needs {head()}."
        raise SchemaOutdatedError(message, hint="Run `treazure-pipeline db upgrade`.")
    if compatible_since not in revisions():
        message = f"The ledger's schema is at revision {found}, which is newer than this version of treazure-pipeline."
        raise SchemaOutdatedError(
            message,
            hint=f"Install the version that made it, or a newer one. This version only knows revisions up to {head()}.",
        )


def upgrade(url: str) -> tuple[str | None, str]:
    """Upgrade the ledger at `url` to the newest schema; return the revisions before and after.

    Several processes may do it at once. Whoever may read the ledger may then read the reporting views. Raises
    DatabaseUnavailableError if the server can't be used, and DatabaseError if it is older than PostgreSQL 16, its
    encoding is not UTF-8, or the role may not do it.
    """
    with _connected(url) as connection:
        if revision(connection) == head():
            return head(), head()
    from treazure_pipeline.database import upgrading  # noqa: PLC0415 - Alembic takes a third of a second, rarely needed

    return upgrading.upgrade(url)


def grant_reader(url: str, role: str) -> list[str]:
    """Let a role of the server read the reporting views, including future ones; return their names.

    Raises DatabaseError if there is no such role, or the role of `url` does not own the views.
    """
    check(url)
    with _connected(url) as connection:
        if connection.execute("select to_regrole(quote_ident(%s))", [role]).fetchone() == (None,):
            raise DatabaseError(f"The server has no role {role!r}.", hint="Create it first: CREATE ROLE … LOGIN.")
        if connection.execute(_OWNS, [REPORTING]).fetchone() != (True,):
            raise lacking("it does not own the reporting views, so it can't let anybody read them")
        connection.execute(grant(role))
        return [name for (name,) in connection.execute(_REPORTS, [REPORTING])]


def check(url: str) -> None:
    """Raise SchemaOutdatedError unless this version can work with the schema of the ledger at `url`."""
    with _connected(url) as connection:
        found = revision(connection)
        is_newer = found is not None and found not in revisions()
        judge(found, compatible_since(connection) if is_newer else None)


def facts(**others: LiteralString) -> LiteralString:
    """Return the statement that sets what every transaction relies on, until it ends; `others` are added."""
    settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in (_FACTS | others).items())
    durable = "set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)"
    return f"select {settings}, {durable}, {_NO_TRANSACTION_TIMEOUT}"


def translated(error: BaseException) -> DatabaseError:
    """Turn a driver's error into ours, without the connection string; bugs of ours are raised as they are."""
    state = getattr(error, "sqlstate", None) or ""
    if state in _CONFLICTS:
        return ConflictError(f"Two transactions conflicted: {_first_line(error)}.", hint="The next run tries again.")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return lacking(_first_line(error))
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout) or state in _READ_ONLY:
        return unavailable(error)
    raise error


def lacking(what: str) -> DatabaseError:
    """Return the error for a role that lacks a right it needs."""
    return DatabaseError(
        f"The ledger's database role lacks a right: {what}.",
        hint="`treazure-pipeline db roles` prints the SQL that gives each role its rights. An administrator runs it.",
    )


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """Turn a driver's error into ours, without the connection string."""
    reason = _first_line(error)
    hints = (hint for sign, hint in _HINTS.items() if sign in str(error))
    return DatabaseUnavailableError(f"The ledger's database can't be used: {reason}.", hint=next(hints, _HINT))


_HINT = "Check that PostgreSQL runs, has room, and that TREAZURE_PIPELINE_DATABASE_URL is right."
_HINTS = {
    "SSL": "Switch TLS on in the server. If the network is safe without it, add sslmode=disable to the URL.",
    "No space left": "Make room on the disk of the server; nothing is lost, and the next run goes on.",
    "lock timeout": "A long transaction holds a table (pg_stat_activity shows which). Try again when it is over.",
    "password": "Correct the user and password in TREAZURE_PIPELINE_DATABASE_URL, or in the file that holds them.",
}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """Connect for one transaction to a suitable server, and commit it; a driver's errors become ours."""
    try:
        with psycopg.connect(url, **CONNECTION) as connection:
            connection.execute(facts())
            check_server(connection)
            yield connection
    except psycopg.Error as error:
        raise translated(error) from None


def revision(connection: psycopg.Connection[TupleRow]) -> str | None:
    """Return the schema's revision, or None if there is no schema."""
    if connection.execute("select to_regclass(%s)", [f"{SCHEMA}.alembic_version"]).fetchone() == (None,):
        return None
    row = connection.execute("select version_num from alembic_version").fetchone()
    return None if row is None else str(row[0])


def compatible_since(connection: psycopg.Connection[TupleRow]) -> str | None:
    """Return since which revision nothing has been removed, according to the schema."""
    row = connection.execute(COMPATIBLE_SINCE).fetchone()
    return None if row is None else str(row[0])


def grant(role: str) -> sql.Composed:
    """Return the statement that lets a role read the reporting views, including future ones."""
    return sql.SQL(
        "grant usage on schema {reporting} to {role}; grant select on all tables in schema {reporting} to {role}; "
        "alter default privileges in schema {reporting} grant select on tables to {role}"
    ).format(reporting=sql.Identifier(REPORTING), role=sql.Identifier(role))


def check_server(connection: psycopg.Connection[TupleRow]) -> None:
    """Raise DatabaseError if the server is too old, or the database can't store every text."""
    row = connection.execute(
        "select current_setting('server_encoding'), current_setting('server_version_num')::integer / 10000"
    ).fetchone()
    assert row is not None
    encoding, version = row
    if encoding != "UTF8":
        message = f"The ledger's database is encoded in {encoding}, which can't store every text; it has to be UTF8."
        hint = "Make another one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        raise DatabaseError(message, hint=hint)
    if version < OLDEST_SERVER:
        message = f"The ledger's server is PostgreSQL {version}; {OLDEST_SERVER} or newer is needed."
        raise DatabaseError(message, hint="Point TREAZURE_PIPELINE_DATABASE_URL at a newer server.")
