"""Upgrades the ledger's schema to this version with Alembic.

It is separate from `schema`, so that other commands need not wait for Alembic to be imported. Which revision the ledger
has, and whether this version can work with it, is in `schema`.
"""

from __future__ import annotations

import time

import psycopg
import sqlalchemy as sa
from alembic.command import upgrade as alembic_upgrade
from alembic.config import Config
from psycopg import sql
from psycopg.rows import TupleRow

from treazure_pipeline import conventions
from treazure_pipeline.database import schema
from treazure_pipeline.errors import DatabaseError

_TRIES = 12
_PAUSE_SECONDS = 1
# The roles that work on the ledger, and those that may already read reports.
_READERS = """
select distinct pg_get_userbyid(a.grantee) from pg_class c, aclexplode(c.relacl) a
where c.oid in (to_regclass('treazure_pipeline.balance'), to_regclass('treazure_reporting.contact_balance'))
  and a.privilege_type = 'SELECT' and a.grantee not in (0, c.relowner)
"""
_MAY_CREATE = """
select current_user, has_database_privilege(current_database(), 'create'),
       format('create schema %%I authorization %%I;', %s::text, current_user)
"""


def upgrade(url: str) -> tuple[str | None, str]:
    """Do what `schema.upgrade` says, unless it is already done.

    Each revision has its own transaction, so that none blocks a table while the next one waits for its own; an empty
    ledger gets all at once. A revision that waits for a lock lets others pass after some seconds.
    """
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, **schema.CONNECTION),
        poolclass=sa.NullPool,
        isolation_level="READ COMMITTED",
    )
    try:
        before, reached = _patiently(engine)
        done = before == reached
        while not done:
            found, reached = _patiently(engine)
            done = found == reached
    except sa.exc.DBAPIError as error:
        raise schema.translated(error.orig or error) from None
    except psycopg.Error as error:
        raise schema.translated(error) from None
    return before, reached


def _patiently(engine: sa.Engine) -> tuple[str | None, str]:
    tries = 0
    while True:
        tries += 1
        try:
            return _step(engine)
        except (psycopg.Error, sa.exc.DBAPIError) as error:
            cause = getattr(error, "orig", error)
            if tries == _TRIES or not isinstance(cause, psycopg.errors.LockNotAvailable):
                raise
        time.sleep(_PAUSE_SECONDS)


def _step(engine: sa.Engine) -> tuple[str | None, str]:
    """Apply the next revision; return the one before and the one reached, the same if there was nothing to do."""
    with engine.begin() as transaction:
        connection = transaction.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        connection.execute(schema.facts(lock_timeout="5s"))
        schema.check_server(connection)
        # Nothing is kept in the session, and a second process finds it done.
        connection.execute("select pg_advisory_xact_lock(%s)", [conventions.SCHEMA_LOCK])
        _make_schema(connection, schema.SCHEMA)
        before = schema.revision(connection)
        if before is not None and before not in schema.revisions():
            schema.judge(before, schema.compatible_since(connection))
            return before, before
        if before == schema.head():
            return before, before
        _make_schema(connection, schema.REPORTING)
        readers = connection.execute(_READERS).fetchall()
        config = Config()
        config.set_main_option("script_location", "treazure_pipeline.database:migrations")
        config.attributes["connection"] = transaction
        alembic_upgrade(config, "+1" if before else "head")
        for (reader,) in readers:
            connection.execute(schema.grant(reader))
        return before, str(schema.revision(connection))


def _make_schema(connection: psycopg.Connection[TupleRow], name: str) -> None:
    if connection.execute("select to_regnamespace(%s)", [name]).fetchone() != (None,):
        return
    row = connection.execute(_MAY_CREATE, [name]).fetchone()
    assert row is not None
    role, may_create, theirs = row
    if not may_create:
        raise DatabaseError(
            f"There is no schema {name} yet, and the database role {role} may not create it.",
            hint=f"Have an administrator run this in that database: {theirs}",
        )
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
