"""The ledger's connections, its clock, its programmes and the lock that keeps two runs of a programme apart.

Belongs here: what every part of the ledger needs. Does not: any statement about balances (`merge`, `batches`, `figures`).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from treazure_pipeline.database import schema
from treazure_pipeline.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from types import TracebackType

    from treazure_pipeline.settings import Programme

_LOCK_CLASS = 7_281_002
_SESSION = f"set search_path to {schema.SCHEMA}; set timezone to 'UTC'; set jit to off; set track_io_timing to off"


@dataclass(frozen=True)
class Account:
    """A programme as the ledger knows it: its number and what it pairs."""

    id: int
    name: str
    loyalty_id: str
    definition_id: int
    beginning: datetime
    mode: str


class Ledger:
    """The ledger in one PostgreSQL database. Thread-safe; close it, or use it as a context manager.

    Raises DatabaseUnavailableError where the server can't be reached and SchemaOutdatedError where its schema is not
    the one of this version, both before any work.
    """

    def __init__(self, url: str, *, connections: int = 12) -> None:
        schema.check(url)
        self._url = url
        self._held: dict[int, psycopg.Connection] = {}
        self._guard = threading.Lock()
        self._pool = ConnectionPool(
            url, min_size=1, max_size=connections, timeout=30, kwargs={"connect_timeout": 10, "autocommit": True},
            configure=_configure, open=True,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Show no URL: it can carry a password."""
        return f"{type(self).__name__}()"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back every lock and connection."""
        for connection in self._held.values():
            _let_go(connection)
        self._held.clear()
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Lend an autocommit connection; a driver's error leaves as DatabaseUnavailableError.

        Wrap statements that belong together in `connection.transaction()`.
        """
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise schema.unavailable(error) from error

    def now(self) -> datetime:
        """Return the database's clock, the only one that the ledger goes by (aware, UTC)."""
        with self.connection() as connection:
            row = connection.execute("select clock_timestamp()").fetchone()
            assert row is not None
            return row[0]  # type: ignore[no-any-return]

    def account(self, programme: Programme) -> Account:
        """Return the programme's number in the ledger, making its row when it is new."""
        with self.connection() as connection, connection.transaction():
            row = connection.execute(
                "select id, name, mode from programme where loyalty_id = %s and definition_id = %s",
                (programme.loyalty_id, programme.definition_id),
            ).fetchone()
            if row is None or row[1] != programme.name:
                row = connection.execute(
                    "insert into programme (name, loyalty_id, definition_id) values (%s, %s, %s) "
                    "on conflict (loyalty_id, definition_id) do update set name = excluded.name returning id, name, mode",
                    (programme.name, programme.loyalty_id, programme.definition_id),
                ).fetchone()
                assert row is not None
                # Here, since a fold that had to insert it would wait for the programme's row while it holds others.
                connection.execute("insert into known (programme) values (%s) on conflict do nothing", (row[0],))
        number, _, mode = row
        return _account(programme, number, mode)

    def find(self, programme: Programme) -> Account | None:
        """Return the programme's number in the ledger, None where it is new; writes nothing."""
        with self.connection() as connection:
            row = connection.execute(
                "select id, mode from programme where loyalty_id = %s and definition_id = %s",
                (programme.loyalty_id, programme.definition_id),
            ).fetchone()
        return None if row is None else _account(programme, *row)

    @contextmanager
    def reading(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Lend a connection in one read-only transaction: all that is read is of one moment, and nothing is written."""
        with self.connection() as connection, connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            yield connection

    def hold(self, account: Account) -> None:
        """Take the programme's lock until `release` or `close`; taking it again in this ledger is free.

        The lock is a PostgreSQL session's, so it is gone the moment its process is. Raises BusyError when another
        run holds it. (A pooler that shares sessions between transactions can't be used in front of the ledger.)
        """
        with self._guard:
            held = self._held.get(account.id)
            if held is not None and not held.closed:
                return
            try:
                connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            except psycopg.OperationalError as error:
                raise schema.unavailable(error) from error
            row = connection.execute("select pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, account.id)).fetchone()
            if row is None or not row[0]:
                connection.close()
                message = f"Another run of programme {account.name!r} is under way."
                raise BusyError(
                    message, hint="Nothing to do: it sends what is pending. See `treazure-pipeline status`."
                )
            self._held[account.id] = connection

    def release(self, account: Account) -> None:
        """Give the programme's lock back."""
        with self._guard:
            connection = self._held.pop(account.id, None)
            if connection is not None:
                _let_go(connection)

    def is_held(self, account: Account, lock: int = _LOCK_CLASS) -> bool:
        """Tell whether any process holds the programme's lock, or another one of the programme's."""
        with self.connection() as connection:
            row = connection.execute(
                "select exists (select from pg_locks where locktype = 'advisory' and classid = %s and objid = %s "
                "and database = (select oid from pg_database where datname = current_database()) and granted)",
                (lock, account.id),
            ).fetchone()
        return row is not None and bool(row[0])

    @contextmanager
    def holding(self, account: Account) -> Iterator[None]:
        """Hold the programme's lock for a block."""
        self.hold(account)
        try:
            yield
        finally:
            self.release(account)


def _account(programme: Programme, number: int, mode: str) -> Account:
    return Account(number, programme.name, programme.loyalty_id, programme.definition_id, programme.beginning, mode)


def _let_go(connection: psycopg.Connection) -> None:
    """Give a session's lock back now: of a closed one the server learns a moment later, and the next run would be busy."""
    with suppress(psycopg.Error):
        connection.execute("select pg_advisory_unlock_all()")
    connection.close()


def _configure(connection: psycopg.Connection) -> None:
    connection.execute(_SESSION)
