"""What every part of the ledger needs: its connections, its clock, its programmes, and the leases that keep two runs apart."""

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

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_WAITS = (0.05, 0.2, 0.5, 2.0, 5.0, 10.0)
"""Seconds between the tries of a transaction that conflicted with another one, or whose connection was cut."""

_BEGIN = f"begin isolation level read committed; {schema.facts()}"
_BEGIN_READING = f"begin isolation level repeatable read, read only; {schema.facts()}"


def retried(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function of one transaction try again after a conflict or a lost connection.

    It must be safe to do twice, since nobody knows whether a commit without an answer took effect.
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
    """A programme as the ledger knows it: its number, what it pairs, and its mode (live or migrating)."""

    id: int
    name: str
    loyalty_id: str
    definition_id: int
    beginning: datetime
    mode: str


class Ledger:
    """The ledger in a PostgreSQL database. Thread-safe. Close it, or use it as a context manager.

    Creating it raises DatabaseUnavailableError if the server can't be reached, and SchemaOutdatedError if the schema does not fit this version.
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back every lease and connection."""
        self._leases.close()
        self._pool.close()

    @contextmanager
    def transaction(self, *, fenced: bool = True) -> Iterator[psycopg.Connection[TupleRow]]:
        """Yield a connection in one transaction, committed at the end of the block. Driver errors become ours.

        Raises LeaseLostError if somebody else has taken over a lease of this ledger. `fenced=False` skips that check, so that leases can be
        renewed and given back.
        """
        with self._lent(_BEGIN) as connection:
            if fenced:
                self._leases.check(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Yield a connection in one read-only transaction that sees everything at the same moment."""
        with self._lent(_BEGIN_READING) as connection:
            yield connection

    @contextmanager
    def _lent(self, begin: str) -> Iterator[psycopg.Connection[TupleRow]]:
        """Yield a connection in a transaction, begun in one round trip. The pool ends it with the block."""
        try:
            with self._pool.connection() as connection:
                try:
                    connection.execute(begin)
                    yield connection
                except psycopg.errors.ReadOnlySqlTransaction:
                    connection.close()  # the server is no longer the primary; the next try connects anew
                    raise
        except (psycopg.Error, PoolTimeout) as error:
            raise schema.translated(error) from error

    @retried
    def now(self) -> datetime:
        """Return the time on the database's clock, the only clock the ledger uses (aware, UTC)."""
        with self.transaction() as connection:
            row = one(connection, "select clock_timestamp()")
            return row[0]  # type: ignore[no-any-return]

    @retried
    def account(self, programme: Programme) -> Account:
        """Return the programme as the ledger knows it, and create its row if it is new."""
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
                # Inserted here, since a fold that did it would wait for the programme's row while it locks others.
                connection.execute("insert into known (programme) values (%s) on conflict do nothing", (row[0],))
        number, _, mode = row
        return _account(programme, number, mode)

    @retried
    def programmes(self) -> list[Programme]:
        """Return the programmes in the ledger by name, with as much of their settings as it knows."""
        with self.transaction() as connection:
            rows = connection.execute(
                "select name, loyalty_id, definition_id, lower(covered) from programme order by name"
            ).fetchall()
        return [
            Programme(
                name=name, loyalty_id=loyalty_id, definition_id=definition_id,
                **({} if beginning is None else {"beginning": beginning}),
            )
            for name, loyalty_id, definition_id, beginning in rows
        ]  # fmt: skip

    @retried
    def find(self, programme: Programme) -> Account | None:
        """Return the programme as the ledger knows it, None if it is new. Writes nothing."""
        with self.transaction() as connection:
            row = connection.execute(
                "select id, mode from programme where loyalty_id = %s and definition_id = %s",
                (programme.loyalty_id, programme.definition_id),
            ).fetchone()
        return None if row is None else _account(programme, *row)

    def hold(self, account: Account) -> None:
        """Take the lease for the programme's runs until `release` or `close`. If this ledger holds it already, do nothing.

        Raises BusyError if another run holds it.
        """
        if not self._leases.holds(_sync(account)):
            busy = BusyError(
                f"Another run of programme {account.name!r} is under way.",
                hint="Nothing to do: it sends what is pending. See `treazure-pipeline status`.",
            )
            self._leases.take(_sync(account), busy)

    def release(self, account: Account) -> None:
        """Give back the lease for the programme's runs."""
        self._leases.release(_sync(account))

    @contextmanager
    def holding(self, account: Account) -> Iterator[None]:
        """Hold the lease for the programme's runs during a block. Raises BusyError."""
        self.hold(account)
        try:
            yield
        finally:
            self.release(account)

    @contextmanager
    def lease(self, name: str, busy: BusyError) -> Iterator[None]:
        """Hold a lease for other exclusive work during a block. Raises `busy` if anybody holds it."""
        self._leases.take(name, busy)
        try:
            yield
        finally:
            self._leases.release(name)

    def is_running(self, account: Account) -> bool:
        """Return whether any process holds the lease for the programme's runs."""
        return self.is_leased(_sync(account))

    @retried
    def is_leased(self, name: str) -> bool:
        """Return whether any process holds a lease."""
        with self.transaction() as connection:
            row = one(
                connection,
                "select exists (select from lease where name = %s and expires_at > clock_timestamp())",
                (name,),
            )
        return bool(row[0])


def _configure(connection: psycopg.Connection[TupleRow]) -> None:
    connection.execute(schema.SESSION)


def _sync(account: Account) -> str:
    return f"sync:{account.id}"


def _account(programme: Programme, number: int, mode: str) -> Account:
    return Account(number, programme.name, programme.loyalty_id, programme.definition_id, programme.beginning, mode)
