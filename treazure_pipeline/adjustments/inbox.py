"""The receiver's access to the database: stores events, and reads the queue's depth and an adjustment's balance.

Events that arrive during a commit share the next one. Nobody waits longer for that, more events can be stored than with one commit each, and the
count by event type is exact although requests don't queue for its row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, LiteralString, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from treazure_pipeline.adjustments.events import Event
from treazure_pipeline.adjustments.queue import UNFINISHED, receipt_of
from treazure_pipeline.database import schema
from treazure_pipeline.errors import DatabaseError, DatabaseUnavailableError
from treazure_pipeline.texts import clean

# A request is answered at the latest this long after its body was read (the sender waits for 15 s) ...
STORE_SECONDS = 5.0
# ... so PostgreSQL gives up earlier. What it may still store late is not acknowledged.
_STATEMENT_TIMEOUT = "4s"
_LARGEST_BATCH = 100
_POLL_SECONDS = 0.2
_MOST_WAITING = 200

T = TypeVar("T")
Stored = Literal["stored", "repeated", "counted", "dead_letter"]

_FACTS = schema.facts(statement_timeout=_STATEMENT_TIMEOUT, lock_timeout=_STATEMENT_TIMEOUT)
# The queries of a scrape don't wait for locks.
_FACTS_OF_A_SCRAPE = schema.facts(statement_timeout="2s", lock_timeout="500ms")
# One statement, and so one round trip and one commit for everything that has arrived, in order of arrival.
_STORE = """
with event as (
    select * from unnest(
        %(ids)s::text[], %(deliveries)s::text[], %(kinds)s::text[], %(payloads)s::text[], %(receipts)s::text[],
        %(dead)s::text[], %(bodies)s::text[], %(traces)s::text[]
    ) with ordinality as event (id, delivery, kind, payload, receipt, dead, body, trace, position)
), buried as (
    insert into dead_letter (delivery_id, reason, body)
    select delivery, dead, body from event where dead is not null order by position on conflict do nothing
), counted as (
    insert into webhook_kind (event_type, received, last_at)
    select kind, count(*), clock_timestamp() from event where kind is not null group by kind order by kind
    on conflict (event_type) do update
    set received = webhook_kind.received + excluded.received, last_at = excluded.last_at
)
insert into adjustment (event_id, delivery_id, source, payload, receipt, trace)
select id, delivery, 'webhook', payload::jsonb, receipt, trace from event where payload is not null order by position
on conflict do nothing returning event_id
"""
STORE_OTHERS = """
insert into adjustment (event_id, delivery_id, source, payload, receipt, trace)
select e.other, e.delivery, 'webhook', e.payload::jsonb, e.receipt, e.trace
from unnest(
    %(ids)s::text[], %(deliveries)s::text[], %(payloads)s::text[], %(others)s::text[], %(receipts)s::text[], %(traces)s::text[]
) with ordinality as e (id, delivery, payload, other, receipt, trace, position)
join adjustment a on a.event_id = e.id
where (a.payload->'amount', lower(a.payload->>'contactId'), a.payload->'pointDefinitionId') is distinct from
      (e.payload::jsonb->'amount', lower(e.payload::jsonb->>'contactId'), e.payload::jsonb->'pointDefinitionId')
order by e.position on conflict do nothing returning event_id
"""
_DEPTH = """
select state, count(*), extract(epoch from clock_timestamp() - min(received_at))::float8
from adjustment where state = any(%s) group by state
"""
_DEAD_LETTERS = "select count(*) from dead_letter where settled_at is null"
_OUTCOMES = """
select event_id, case when state in ('posted', 'done') then trim_scale(balance)::text end from adjustment
where event_id = any(%s) and state in ('posted', 'done', 'rejected', 'uncertain', 'discarded')
"""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Pending:
    event: Event
    stored: asyncio.Future[Stored] = field(default_factory=asyncio.Future)


@dataclass(eq=False)
class _Waiting:
    until: float
    balance: asyncio.Future[str | None] = field(default_factory=asyncio.Future)


class Store:
    """Stores events and reads the queue. Use it within `opened`, in the same event loop."""

    def __init__(self, url: str) -> None:
        self._pending: asyncio.Queue[_Pending] = asyncio.Queue()
        self._waiting: dict[str, _Waiting] = {}
        self._pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=4,
            timeout=3,
            # A pool that keeps trying waits longer and longer. If it gives up, the next request tries at once.
            reconnect_timeout=2,
            kwargs=schema.CONNECTION
            | {
                "autocommit": True,
                "connect_timeout": 3,
                # A server that disappears is noticed within seconds.
                "tcp_user_timeout": 5000,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
            },
            configure=_configure,
            open=False,
        )

    def __repr__(self) -> str:
        """Show no URL: it can carry a password."""
        return f"{type(self).__name__}()"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connect, whether or not the database is there yet, and work for the block."""
        await self._pool.open(wait=False)
        tasks = [asyncio.create_task(self._write_for_ever()), asyncio.create_task(self._poll_for_ever())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pool.close()

    async def add(self, event: Event) -> Stored:
        """Store an event durably and return the result. Only then may it be acknowledged.

        Raises DatabaseUnavailableError, also where the database is merely too slow. The event may be stored then
        all the same, and the sender's next try is a repeated delivery.
        """
        pending = _Pending(event)
        self._pending.put_nowait(pending)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await pending.stored
        except TimeoutError:
            raise DatabaseUnavailableError("The ledger's database takes too long.") from None

    async def balance(self, event_id: str, until: float) -> str | None:
        """Wait for an adjustment until a time on the event loop's clock.

        Return the exact balance that Treazure answered with, or None if there is none by then, or never will be.
        """
        waiting = self._waiting.get(event_id)
        if waiting is None:
            if len(self._waiting) >= _MOST_WAITING:
                return None
            waiting = self._waiting[event_id] = _Waiting(until)
        waiting.until = max(waiting.until, until)
        await asyncio.wait([waiting.balance], timeout=until - asyncio.get_running_loop().time())
        return waiting.balance.result() if waiting.balance.done() else None

    async def check(self) -> None:
        """Raise DatabaseUnavailableError or SchemaOutdatedError unless events can be stored. Stores nothing."""
        try:
            rows = await self._read("select version_num from alembic_version")
            await self._read(_STORE, _values([]))
        except psycopg.errors.UndefinedTable:
            rows = []
        found = rows[0][0] if rows else None
        is_newer = found is not None and found not in schema.revisions()
        schema.judge(found, (await self._read(schema.COMPATIBLE_SINCE))[0][0] if is_newer else None)

    async def depth(self) -> dict[str, tuple[int, float]]:
        """Return how many unfinished adjustments are in each state, and the age of the oldest in seconds."""
        found = {state: (count, age) for state, count, age in await self._read(_DEPTH, [list(UNFINISHED)])}
        return {state: found.get(state, (0, 0.0)) for state in UNFINISHED}

    async def dead_letters(self) -> int:
        """Return how many dead letters nobody has dealt with."""
        return int((await self._read(_DEAD_LETTERS))[0][0])

    async def figures(self, statement: str) -> list[TupleRow]:
        """Read rows for metrics, within two seconds. Raises as `check` does."""
        return await self._read(statement.encode(), facts=_FACTS_OF_A_SCRAPE)

    async def _read(
        self,
        statement: LiteralString | bytes,
        values: Sequence[Any] | Mapping[str, Any] = (),
        *,
        facts: LiteralString = _FACTS,
    ) -> list[TupleRow]:
        """Read rows. Raises DatabaseUnavailableError if the database can't be used."""
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await self._connected(partial(self._do, statement, values, facts=facts))
        except TimeoutError:
            raise DatabaseUnavailableError("The ledger's database takes too long.") from None
        except (psycopg.Error, PoolTimeout) as error:
            raise schema.translated(error) from None

    async def _do(
        self,
        statement: LiteralString | bytes,
        values: Sequence[Any] | Mapping[str, Any],
        *,
        facts: LiteralString = _FACTS,
    ) -> list[TupleRow]:
        """Execute a statement in its own transaction, with its settings, in one round trip. Nothing stays in the session."""
        async with self._pool.connection() as connection:
            try:
                async with connection.pipeline():
                    await connection.execute("begin isolation level read committed")
                    await connection.execute(facts)
                    cursor = await connection.execute(statement, values)
                    await connection.execute("commit")
                return await cursor.fetchall()
            except psycopg.errors.ReadOnlySqlTransaction:
                await connection.close()  # the server is no longer the primary; the next try connects anew
                raise

    async def _write_for_ever(self) -> None:
        while True:
            batch = [await self._pending.get()]
            while len(batch) < _LARGEST_BATCH and not self._pending.empty():
                batch.append(self._pending.get_nowait())
            await self._write([pending for pending in batch if not pending.stored.done()])

    async def _write(self, batch: list[_Pending]) -> None:
        """Store a batch, all or nothing, and tell everyone who waits for it. Never raises."""
        try:
            async with asyncio.timeout(STORE_SECONDS):
                results = await self._connected(partial(self._insert, [pending.event for pending in batch]))
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing is stored and everyone has to know
            if isinstance(error, psycopg.DataError) and await self._write_apart(batch):
                return
            for pending in batch:
                if not pending.stored.done():
                    pending.stored.set_exception(schema.unavailable(error))
        else:
            for pending, result in zip(batch, results, strict=True):
                if not pending.stored.done():
                    pending.stored.set_result(result)

    async def _write_apart(self, batch: list[_Pending]) -> bool:
        """Store events one by one, since one of them can't be stored as it is. Return False if nothing more can be done."""
        if len(batch) == 1:
            unstorable = batch[0].event.unstorable()
            if unstorable == batch[0].event:
                return False
            batch[0].event = unstorable
        for pending in batch:
            await self._write([pending])
        return True

    async def _connected(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done twice, and do it again if its connection turns out to be lost."""
        try:
            return await work()
        except psycopg.Error as error:
            if not _worth_a_second_try(error):
                raise
            # The other open connections are probably lost too.
            await self._pool.check()
            return await work()

    async def _insert(self, events: Sequence[Event]) -> list[Stored]:
        new = {row[0] for row in await self._do(_STORE, _values(events))}
        outcomes: list[Stored] = []
        for event in events:
            if event.payload is None:
                outcomes.append("counted" if event.dead is None else "dead_letter")
            else:
                outcomes.append("stored" if event.id in new else "repeated")
                new.discard(event.id)
        if "repeated" in outcomes:
            others = await self._insert_others([e for e, o in zip(events, outcomes, strict=True) if o == "repeated"])
            for place, event in enumerate(events):
                if outcomes[place] == "repeated" and event.other_id in others:
                    outcomes[place] = "stored"
                    others.discard(event.other_id)
        return outcomes

    async def _insert_others(self, events: Sequence[Event]) -> set[str]:
        """Store events under another id if their own belongs to an event that asks for something else. Return these ids.

        This happens afterwards, and only for these few. By now, whoever took the id, in this batch or in another receiver, has been stored.
        """
        values = {
            "ids": [event.id for event in events],
            "deliveries": [event.delivery_id for event in events],
            "payloads": [event.payload for event in events],
            "others": [event.other_id for event in events],
            "receipts": [receipt_of(event.other_id) for event in events],
            "traces": [event.trace for event in events],
        }
        others = {row[0] for row in await self._do(STORE_OTHERS, values)}
        if others:
            log.warning("%d events came with the id of another event. Each counts on its own.", len(others))
        return others

    async def _poll_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self._waiting = {key: waiting for key, waiting in self._waiting.items() if waiting.until > loop.time()}
            if not self._waiting:
                continue
            with suppress(DatabaseError, psycopg.Error):
                for event_id, balance in await self._read(_OUTCOMES, [list(self._waiting)]):
                    self._waiting.pop(event_id).balance.set_result(balance)


def _values(events: Sequence[Event]) -> dict[str, list[str | None]]:
    return {
        "ids": [event.id if event.payload is not None else None for event in events],
        "deliveries": [event.delivery_id for event in events],
        "kinds": [event.kind for event in events],
        "payloads": [event.payload for event in events],
        "receipts": [receipt_of(event.id) if event.payload is not None else None for event in events],
        "dead": [event.dead for event in events],
        "bodies": [clean(event.body) if event.dead else None for event in events],
        "traces": [event.trace for event in events],
    }


async def _configure(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    await connection.execute(schema.SESSION)


def _worth_a_second_try(error: psycopg.Error) -> bool:
    """Tell whether a connection was lost, perhaps while it was idle, or two receivers were in a deadlock."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, PoolTimeout)
    return error.sqlstate.startswith("57P") or error.sqlstate in ("40P01", "25006")
