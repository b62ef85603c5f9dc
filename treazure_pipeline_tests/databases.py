"""Databases for tests: of a fresh name each, so that what one test leaves behind can't reach the next one's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import sqlalchemy as sa
from psycopg import sql

from treazure_pipeline_tests import roles

_FIRST_OID = 16384
_CATALOGS = {
    "pg_attrdef": "oid",
    "pg_attribute": "attrelid",
    "pg_class": "oid",
    "pg_constraint": "oid",
    "pg_index": "indexrelid",
    "pg_policy": "oid",
    "pg_proc": "oid",
    "pg_rewrite": "oid",
    "pg_trigger": "oid",
    "pg_type": "oid",
}
_SHAPE = sql.SQL("select {}").format(
    sql.SQL(", ").join(
        [
            *(
                sql.SQL("(select array[count(*), max(xmin::text::bigint)] from {} where {} >= {})").format(
                    sql.Identifier(name), sql.Identifier(key), _FIRST_OID
                )
                for name, key in _CATALOGS.items()
            ),
            sql.SQL("(select array_agg(pg_namespace::text order by oid) from pg_namespace where nspname !~ '^pg_')"),
            sql.SQL(
                "(select (datdba, datacl::text, (select array_agg(s::text) from pg_db_role_setting s "
                "where setdatabase = d.oid))::text from pg_database d where datname = current_database())"
            ),
        ]
    )
)
_OTHERS_GO = (
    "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
    "where datname = current_database() and pid <> pg_backend_pid()"
)
_TABLES: LiteralString = (
    "select oid::regclass::text from pg_class "
    "where relkind = 'r' and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) "
    "and relnamespace::regnamespace::text !~ '^pg_'"
)
_WRITTEN: LiteralString = f"{_TABLES} and pg_relation_size(oid) > 0"


@dataclass(frozen=True)
class Databases:
    """The databases of a server, whose URL is a superuser's."""

    server_url: str

    @contextmanager
    def new(self, template: str = "template1") -> Iterator[str]:
        """The name of a database that is there within the block, whoever is still connected at its end."""
        name = self.create(template)
        try:
            yield name
        finally:
            self.drop(name)

    def create(self, template: str) -> str:
        """Make a database; returns its name."""
        name = _new_name()
        self._run("create database {} template {}", name, template)
        return name

    def drop(self, name: str) -> None:
        """Drop a database."""
        self._run("drop database {} with (force)", name)

    def renamed(self, name: str) -> str:
        """Give a database another name; returns it."""
        new = _new_name()
        self._run("alter database {} rename to {}", name, new)
        return new

    def give(self, name: str, role: str) -> None:
        """Make a role the owner of a database, if that is there."""
        with suppress(psycopg.errors.InvalidCatalogName):
            self._run("alter database {} owner to {}", name, role)

    def url(self, name: str, role: str | None = None) -> str:
        """The URL of a database, for a role, or else for the server's administrator."""
        url = sa.make_url(self.server_url)
        return url.set(database=name, username=role or url.username).render_as_string(hide_password=False)

    def _run(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class Copies:
    """Copies of a template for one test after the other, which works there as the runtime role.

    To copy takes longer than most tests. So a copy is emptied and lent again under another name; one of which more
    than the rows was changed is dropped.
    """

    def __init__(self, databases: Databases, template: str) -> None:
        self._databases = databases
        self._template = template
        with psycopg.connect(databases.url(template), autocommit=True) as connection:
            tables = [sql.SQL(name) for (name,) in connection.execute(_TABLES)]
            self._filled = [each for each in tables if connection.execute(sql.SQL("table {}").format(each)).fetchone()]
        # What a role may do with a database is not copied with it, so the shape is that of a copy.
        self._spare: str | None = databases.create(template)
        with psycopg.connect(databases.url(self._spare), autocommit=True) as connection:
            self._shape = self._shape_of(connection)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of a copy, for the block."""
        name = self._taken()
        try:
            yield self._databases.url(name, roles.RUNTIME)
        finally:
            if self._emptied(name):
                self._spare = name
            else:
                self._databases.drop(name)

    def close(self) -> None:
        """Drop what is left."""
        if self._spare is not None:
            self._databases.drop(self._spare)

    def _taken(self) -> str:
        spare, self._spare = self._spare, None
        if spare is not None:
            with suppress(psycopg.errors.ObjectInUse):
                return self._databases.renamed(spare)
            self._databases.drop(spare)
        return self._databases.create(self._template)

    def _emptied(self, name: str) -> bool:
        with (
            suppress(psycopg.Error),
            psycopg.connect(self._databases.url(name), autocommit=True) as connection,
        ):
            connection.execute(_OTHERS_GO)
            written = [sql.SQL(name) for (name,) in connection.execute(_WRITTEN)]
            statements = [
                sql.SQL("set session_replication_role = replica"),
                *(sql.SQL("delete from {}").format(each) for each in written if each not in self._filled),
                sql.SQL("select setval(seqrelid, seqstart, false) from pg_sequence"),
            ]
            connection.execute(sql.SQL("; ").join(statements))
            return self._shape_of(connection) == self._shape
        return False

    def _shape_of(self, connection: psycopg.Connection) -> list[tuple[Any, ...]]:
        """What tells whether more than the rows was changed: the catalogs, and the rows that the template has."""
        rows = [connection.execute(sql.SQL("table {}").format(each)).fetchall() for each in self._filled]
        return [*connection.execute(_SHAPE).fetchall(), *(row for table in rows for row in table)]


def _new_name() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@contextmanager
def backup(url: str) -> Iterator[str]:
    """A database that holds what this one holds now, as a restore from a backup would: its URL, for the same role."""
    original, name = sa.make_url(url), f"restored_{uuid.uuid4().hex[:12]}"
    server = roles.administrators(original.set(database="postgres").render_as_string(hide_password=False))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = %s", (original.database,)
        )
        connection.execute(
            sql.SQL("create database {} template {}").format(
                sql.Identifier(name), sql.Identifier(str(original.database))
            )
        )
        try:
            yield original.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
