"""Where stories are played: processes that live on and can die, two receivers, a ledger that can be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import httpx
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from treazure_pipeline.adjustments.processing import Processed
from treazure_pipeline.connections import Connections
from treazure_pipeline.database.schema import SCHEMA
from treazure_pipeline.definitions import PURPOSES
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.sandbox import WEBHOOK_SECRET
from treazure_pipeline.sandbox.webhooks import sign
from treazure_pipeline.verification.read_back import Verified
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.adversary.clocks import Clocks
from treazure_pipeline_tests.balance_sync.shop import Synced
from treazure_pipeline_tests.roles import administrators
from treazure_pipeline_tests.verification.verification_shop import VerificationShop

_PROCESS: ContextVar[str] = ContextVar("process", default="first")
_WORK: ContextVar[str] = ContextVar("work", default="sync")
_KEPT = {"alembic_version", "owner"}


class Death(BaseException):
    """What a killed process would be, were it not a part of this one."""


@dataclass(frozen=True)
class Dump:
    """All rows of a ledger, and where its sequences stood."""

    rows: dict[str, bytes]
    sequences: dict[str, int]


@dataclass
class Stage(AdjustmentShop, VerificationShop):
    """Adjustments, with points read back too. One process for each kind of work, unless `as_` says otherwise."""

    clocks: Clocks = field(init=False)
    receivers: tuple[str, ...] = ()
    _kept: dict[str, Connections] = field(default_factory=dict)
    _lent: dict[str, Connections] = field(default_factory=dict)
    _dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._operator: psycopg.Connection[TupleRow] = psycopg.connect(
            administrators(self.database_url), autocommit=True
        )
        self._operator.execute(
            f"set search_path to {SCHEMA}; set timezone to 'UTC'; set session_replication_role to replica"
        )
        self._tables = [
            name
            for (name,) in self.sql(  # partitions, and not the tables that consist of them
                "select relname from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace"
            )
            if name not in _KEPT
        ]
        self._delete = "; ".join(f'delete from "{name}"' for name in self._tables)  # noqa: S608 - names of our own
        self.clocks = Clocks(self._operator, self.sandbox)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Synced a statement in the ledger's database, as an operator would by hand."""
        cursor = self._operator.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []

    # Processes.

    def sync(self, **how: Any) -> Synced:
        """Synced the sync; what it could not send stays for the next."""
        with _set(_WORK, "sync"):
            return super().sync(complete=False, **how)

    def process(self, **changes: str) -> Processed:
        """Process what is due."""
        with _set(_WORK, "adjustments"):
            return super().process(**changes)

    def verify(self, **changes: Any) -> Verified:
        """Read back."""
        with _set(_WORK, "verification"):
            return super().verify(complete=False, **changes)

    def elsewhere(self, name: str, work: Callable[[], object]) -> None:
        """Do something in processes of another name."""
        with _set(_PROCESS, name):
            work()

    def at_once(self, *works: Callable[[], object]) -> None:
        """Let several processes work at the same time."""
        with ThreadPoolExecutor(len(works)) as threads:
            for done in [threads.submit(self.elsewhere, f"{at}", work) for at, work in enumerate(works)]:
                done.result()

    @contextmanager
    def connect(self, purpose: str = "connections", **changes: str) -> Iterator[Connections]:  # type: ignore[override]
        """Lend what a process has; it keeps its connections from run to run, and gives back its leases."""
        name = f"{_PROCESS.get()} {_WORK.get()}"
        connections = self._kept.pop(name, None) or self._begun(purpose, **changes)
        self._lent[name] = connections
        try:
            yield connections
        except BaseException:
            self._end(connections)
            raise
        finally:
            del self._lent[name]
        if connections.stop.is_set():
            connections.close()
            return
        leases = connections.ledger._leases  # noqa: SLF001
        for held in list(leases._tokens):  # noqa: SLF001
            leases.release(held)
        self._kept[name] = connections

    def _begun(self, purpose: str, **changes: str) -> Connections:
        return Connections(self.settings(**changes), **PURPOSES[purpose], stop=self.clocks.stop())

    def die(self) -> None:
        """End every process that is at work, here and now: none of its threads writes anything any more."""
        self._dead |= {id(connections.ledger) for connections in self._lent.values()}
        raise Death

    def _end(self, connections: Connections) -> None:
        """Close a process's connections; a dead one gives nothing back."""
        if "ledger" in connections.__dict__ and id(connections.ledger) in self._dead:
            connections.ledger._leases._stopped.set()  # noqa: SLF001
            connections.ledger._leases._tokens.clear()  # noqa: SLF001
            self._dead.discard(id(connections.ledger))
        connections.close()

    def end_all(self) -> None:
        """End every process in peace."""
        while self._kept:
            self._kept.popitem()[1].close()

    @contextmanager
    def mortal(self) -> Iterator[None]:
        """Let processes die for the block."""
        lent = Ledger._lent  # noqa: SLF001

        def lend(ledger: Ledger, begin: str) -> Any:
            if id(ledger) in self._dead:
                raise Death
            return lent(ledger, begin)

        with mock.patch.object(Ledger, "_lent", lend):
            yield

    def close(self) -> None:
        """End everything."""
        self.end_all()
        self._operator.close()

    # The ledger's server.

    def cut(self) -> None:
        """Cut every connection to the ledger but the operator's."""
        self.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )

    def empty(self) -> None:
        """Begin with an empty ledger."""
        self.sql(self._delete)
        self.clocks.begin()

    def dump(self) -> Dump:  # type: ignore[override]
        """Keep all rows of the ledger."""
        rows = {name: self._copied(name) for name in self._tables}
        sequences = self.sql("select sequencename, last_value from pg_sequences where schemaname = current_schema()")
        return Dump({name: kept for name, kept in rows.items() if kept}, dict(sequences))

    def restore(self, dump: Dump, server: str | None = None) -> None:
        """Put a dump in the ledger's place, on another server or (None) on the one that it was made on."""
        self.cut()
        with self._operator.transaction():
            self.sql(self._delete)
            for (name,) in self.sql("select tablename from pg_tables where tablename like 'stage\\_%'"):
                self.sql(f'drop table "{name}"')
            for name, rows in dump.rows.items():
                with self._operator.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(name))) as copy:
                    copy.write(rows)
            for name, last in dump.sequences.items():
                self.sql("select setval(%s::regclass, %s, %s)", name, last or 1, last is not None)
        if server is not None:
            self.sql("update public.story set server = %s", server)

    def _copied(self, name: str) -> bytes:
        with self._operator.cursor().copy(sql.SQL("copy {} to stdout").format(sql.Identifier(name))) as copy:
            return b"".join(bytes(piece) for piece in copy)

    # Webhooks.

    def redeliver(self, svix_id: str, times: int = 1) -> None:
        """Send a webhook again through the one receiver that Engage knows."""
        self.sandbox.redeliver(svix_id, times)
        self.sandbox.wait_until_delivered()

    def deliver_to_both(self, svix_id: str) -> None:
        """Send a webhook to both receivers at the same moment."""
        (message,) = self.sandbox.deliveries(svix_id=svix_id)["last"]
        body, now = message["body"].encode(), int(time.time())
        headers = {"svix-id": svix_id, "svix-timestamp": str(now),
                   "svix-signature": sign(WEBHOOK_SECRET, svix_id, now, body)}  # fmt: skip
        with ThreadPoolExecutor(len(self.receivers)) as threads:
            for url in self.receivers:
                threads.submit(self._post, url, body, headers)

    @staticmethod
    def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
        with suppress(httpx.HTTPError):
            httpx.post(url, content=body, headers=headers, timeout=30)


@contextmanager
def _set(variable: ContextVar[str], value: str) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
