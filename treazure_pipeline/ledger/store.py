"""The ledger's connections, its clock, its programmes and the leases that keep two runs apart.

Belongs here: what every part of the ledger needs. Does not: any statement about balances (`batches`, `figures`).
"""

from __future__ import annotations

import functools
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from treazure_pipeline.clients.pacing import jittered
from treazure_pipeline.database import schema
from treazure_pipeline.errors import BusyError, ConflictError, DatabaseUnavailableError
from treazure_pipeline.ledger.leases import Leases
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.settings import Programme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from types import TracebackType

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_WAITS = (0.05, 0.2, 0.5, 2.0, 5.0, 10.0)
"""Seconds between the tries of a transaction that met another one, or whose connection was cut."""

_BEGIN = f"begin isolation level read committed; {schema.facts()}"
_BEGIN_READING = f"begin isolation level repeatable read, read only; {schema.facts()}"


def retried(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function of one transaction that is tried again: what met another one, or lost its connection, may pass.

    For functions that may be done twice: of a commit without an answer nobody knows whether it happened.
    """

    @functools.wraps(work)
    def tried(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for wait in _WAITS:
            try:
                return work(*args, **kwargs)
            except (ConflictError, DatabaseUnavailableError) as error:
                logger.warning("%s Trying again in %g s.", error, wait)
                time.sleep(jittered(wait))
        return work(*args, **kwargs)

    return tried


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
        self._leases = Leases(partial(self.transaction, fenced=False))
        self._pool = ConnectionPool(
            url, min_size=1, max_size=connections + 1, timeout=30, open=True, kwargs=schema.CONNECTION | {"autocommit": True},
            configure=_configure,
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
        """Give back every lease and connection."""
        self._leases.close()
        self._pool.close()

    @contextmanager
    def transaction(self, *, fenced: bool = True) -> Iterator[psycopg.Connection[TupleRow]]:
        """Lend a connection in one transaction, committed at the end of the block; a driver's error leaves as ours.

        Raises LeaseLostError where a lease of this ledger has gone to somebody else. (`fenced=False`: that is not
        looked at, so that a lease can be renewed and given back.)
        """
        with self._lent(_BEGIN) as connection:
            if fenced:
                self._leases.check(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Lend a connection in one read-only transaction: all that is read is of one moment, and nothing is written."""
        with self._lent(_BEGIN_READING) as connection:
            yield connection

    @contextmanager
    def _lent(self, begin: str) -> Iterator[psycopg.Connection[TupleRow]]:
        """Lend a connection in a transaction that one round trip has begun; the pool ends it with the block."""
        try:
            with self._pool.connection() as connection:
                try:
                    connection.execute(begin)
                    yield connection
                except psycopg.errors.ReadOnlySqlTransaction:
                    connection.close()  # the server is no longer the primary: the next try asks for another one
                    raise
        except (psycopg.Error, PoolTimeout) as error:
            raise schema.translated(error) from error

    @retried
    def now(self) -> datetime:
        """Return the time by the database's clock, the only clock the ledger uses (aware, UTC)."""
        with self.transaction() as connection:
            row = one(connection, "select clock_timestamp()")
            return row[0]  # type: ignore[no-any-return]

    @retried
    def account(self, programme: Programme) -> Account:
        """Return the programme's number in the ledger, making its row when it is new."""
        with self.transaction() as connection:
            row = connection.execute(
                "select id, name, mode from programme where loyalty_id = %s and definition_id = %s",
                (programme.loyalty_id, programme.definition_id),
            ).fetchone()
            if row is None or row[1] != programme.name:
                row = one(
                    connection,
                    "insert into programme (name, loyalty_id, definition_id) values (%s, %s, %s) "
                    "on conflict (loyalty_id, definition_id) do update set name = excluded.name returning id, name, mode",
                    (programme.name, programme.loyalty_id, programme.definition_id),
                )
                # Here, since a fold that had to insert it would wait for the programme's row while it holds others.
                connection.execute("insert into known (programme) values (%s) on conflict do nothing", (row[0],))
        number, _, mode = row
        return _account(programme, number, mode)

    @retried
    def programmes(self) -> list[Programme]:
        """Return the programmes that the ledger has, in the order of their names, as far as it knows their settings."""
        with self.transaction() as connection:
            rows = connection.execute(
                "select name, loyalty_id, definition_id, lower(covered) from programme order by name"
            ).fetchall()
        return [
            Programme(name=name, loyalty_id=loyalty_id, definition_id=definition_id)
            if beginning is None
            else Programme(name=name, loyalty_id=loyalty_id, definition_id=definition_id, beginning=beginning)
            for name, loyalty_id, definition_id, beginning in rows
        ]

    @retried
    def find(self, programme: Programme) -> Account | None:
        """Return the programme's number in the ledger, None where it is new; writes nothing."""
        with self.transaction() as connection:
            row = connection.execute(
                "select id, mode from programme where loyalty_id = %s and definition_id = %s",
                (programme.loyalty_id, programme.definition_id),
            ).fetchone()
        return None if row is None else _account(programme, *row)

    def hold(self, account: Account) -> None:
        """Take the lease of the programme's runs until `release` or `close`; taking it again in this ledger is free.

        Raises BusyError when another run holds it.
        """
        if not self._leases.holds(_sync(account)):
            message = f"Another run of programme {account.name!r} is under way."
            hint = "Nothing to do: it sends what is pending. See `treazure-pipeline status`."
            self._leases.take(_sync(account), BusyError(message, hint=hint))

    def release(self, account: Account) -> None:
        """Give the lease of the programme's runs back."""
        self._leases.release(_sync(account))

    @contextmanager
    def holding(self, account: Account) -> Iterator[None]:
        """Hold the lease of the programme's runs for a block."""
        self.hold(account)
        try:
            yield
        finally:
            self.release(account)

    @contextmanager
    def lease(self, name: str, busy: BusyError) -> Iterator[None]:
        """Hold the lease of some other exclusive work for a block; raises `busy` where anybody holds it already."""
        self._leases.take(name, busy)
        try:
            yield
        finally:
            self._leases.release(name)

    def is_running(self, account: Account) -> bool:
        """Tell whether any process holds the lease of the programme's runs."""
        return self.is_leased(_sync(account))

    @retried
    def is_leased(self, name: str) -> bool:
        """Tell whether any process holds a lease."""
        with self.transaction() as connection:
            row = connection.execute(
                "select exists (select from lease where name = %s and expires_at > clock_timestamp())", (name,)
            ).fetchone()
        return row is not None and bool(row[0])


def _configure(connection: psycopg.Connection[TupleRow]) -> None:
    connection.execute(schema.SESSION)


def _sync(account: Account) -> str:
    return f"sync:{account.id}"


def _account(programme: Programme, number: int, mode: str) -> Account:
    return Account(number, programme.name, programme.loyalty_id, programme.definition_id, programme.beginning, mode)
