"""Exclusive work without a session: rows with a fencing token and an end (I12).

The holder renews its lease in a separate thread. Every transaction of its ledger first checks the token, with a lock that lets renewals pass and
makes a successor wait. So a holder that stalled too long can no longer write. Nothing is kept in a session, so a pooler in transaction mode may
be in front of the ledger. On fencing tokens, see Kleppmann, "How to do distributed locking".
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from treazure_pipeline.errors import BusyError, DatabaseError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from psycopg.rows import TupleRow

logger = logging.getLogger(__name__)

LEASE_SECONDS = 45.0
RENEW_SECONDS = 10.0
_TAKE_SECONDS = 3


class Leases:
    """The leases that one ledger holds. Thread-safe. `transaction` opens a transaction that does not check tokens."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[psycopg.Connection[TupleRow]]]) -> None:
        self._transaction = transaction
        self._guard = threading.Lock()
        self._tokens: dict[str, int] = {}
        self._stopped = threading.Event()
        self._renewer: threading.Thread | None = None

    def take(self, name: str, busy: BusyError) -> None:
        """Take a lease, or raise `busy` if somebody else holds and renews it, or this ledger already holds it.

        A lease that is no longer renewed probably belongs to a process that is gone. Then its end is waited for.
        """
        began = time.monotonic()
        while True:
            with self._guard:
                if name in self._tokens:
                    raise busy
                token, left = self._take(name, stale=time.monotonic() - began > 2 * RENEW_SECONDS)
                if token is not None:
                    self._tokens[name] = token
                    if self._renewer is None:
                        self._renewer = threading.Thread(target=self._renew_for_ever, name="leases", daemon=True)
                        self._renewer.start()
                    return
            if LEASE_SECONDS - 2 * RENEW_SECONDS <= left <= LEASE_SECONDS:
                raise busy
            time.sleep(min(max(left, 0.05), 1.0))

    def _take(self, name: str, *, stale: bool) -> tuple[int | None, float]:
        """Return the token, or None and the seconds that somebody else's lease has left.

        A lease that ends impossibly late was taken before the clock was set back. If it still has a holder, it is renewed soon. Otherwise it
        is taken once it is `stale`.
        """
        values = {"name": name, "seconds": LEASE_SECONDS, "holder": _this_process(), "former": None}
        try:
            with self._transaction() as connection:
                # First without a lock, since its holder may be in a transaction that takes minutes.
                held = connection.execute(_HELD, values).fetchone()
                if held is not None:
                    holder, token, left = held
                    if not _is_dead(holder) and not (stale and left > LEASE_SECONDS):
                        return None, left
                    values["former"] = token
                connection.execute(f"set local lock_timeout to '{_TAKE_SECONDS}s'")
                row = connection.execute(_TAKE, values).fetchone()
        except DatabaseError as error:
            if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                return None, LEASE_SECONDS
            raise
        return (None, LEASE_SECONDS) if row is None else (int(row[0]), 0.0)

    def holds(self, name: str) -> bool:
        """Return whether this ledger holds a lease, as far as it knows."""
        return name in self._tokens

    def release(self, name: str) -> None:
        """Give a lease back. Does nothing if it is not held or has been lost."""
        with self._guard:
            token = self._tokens.pop(name, None)
            if token is not None:
                with suppress(DatabaseError), self._transaction() as connection:
                    connection.execute(_RELEASE, {"name": name, "token": token})

    def close(self) -> None:
        """Give all leases back and end the thread that renews them."""
        self._stopped.set()
        for name in list(self._tokens):
            self.release(name)

    def check(self, connection: psycopg.Connection[TupleRow]) -> None:
        """Raise LeaseLostError unless all leases are still held. They then are until the transaction ends."""
        tokens = dict(self._tokens)
        if not tokens:
            return
        values = {"names": list(tokens), "tokens": list(tokens.values())}
        found = {name for (name,) in connection.execute(_CHECK, values)}
        if lost := sorted(tokens.keys() - found):
            raise LeaseLostError(
                f"Another process has taken over ({', '.join(lost)}), since this one did not renew its lease in time.",
                hint="Nothing is lost. The other one carries on, and this one writes nothing more.",
            )

    def _renew_for_ever(self) -> None:
        while not self._stopped.wait(RENEW_SECONDS):
            tokens = dict(self._tokens)
            values = {"names": list(tokens), "tokens": list(tokens.values()), "seconds": LEASE_SECONDS}
            try:
                if tokens:
                    with self._transaction() as connection:
                        connection.execute(_RENEW, values)
            except (DatabaseError, psycopg.Error) as error:
                logger.warning("A lease could not be renewed: %s", error)
            except RuntimeError:  # the interpreter is about to end
                return


def _this_process() -> str:
    return f"{_host()} {os.getpid()} {_started(os.getpid())}"


def _is_dead(holder: str) -> bool:
    """Return whether a holder was a process of this machine and has ended. About other machines, nothing is known."""
    host, process, started = holder.rsplit(" ", 2)
    return bool(_host()) and host == _host() and _started(int(process)) != started


def _host() -> str:
    """Return what identifies this boot of the machine and its process namespace; empty if the system does not say."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process started, in ticks since boot; "-" if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "-"


_HELD = """
select holder, token, extract(epoch from expires_at - clock_timestamp())::float8 from lease
where name = %(name)s and expires_at > clock_timestamp()
"""

# A new token waits for every transaction that has checked the previous one.
_TAKE = """
insert into lease as l (name, token, holder, expires_at)
values (%(name)s, 1, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s))
on conflict (name) do update
set token = l.token + 1, holder = excluded.holder, taken_at = clock_timestamp(), expires_at = excluded.expires_at
where l.expires_at <= clock_timestamp() or l.token = %(former)s returning token
"""

_RENEW = """
update lease set expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
where (name, token) in (select * from unnest(%(names)s::text[], %(tokens)s::bigint[]))
"""

_RELEASE = "update lease set expires_at = clock_timestamp() where name = %(name)s and token = %(token)s"

_CHECK = """
select name from lease where (name, token) in (select * from unnest(%(names)s::text[], %(tokens)s::bigint[]))
for key share
"""
