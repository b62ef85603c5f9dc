"""Dead letters: deliveries with a valid signature that could not be read, and what a person can do about them.

They are read again once this version understands them, or settled when the points have been given in another way. `events` decides why a
delivery is a dead letter, and `inbox` stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from treazure_pipeline.adjustments.events import Event
from treazure_pipeline.adjustments.inbox import STORE_OTHERS
from treazure_pipeline.adjustments.queue import RECEIVE, receipt_of
from treazure_pipeline.ledger import decisions
from treazure_pipeline.ledger.decisions import SOMEBODY
from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

    from psycopg import Connection

    from treazure_pipeline.ledger.store import Ledger


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that nobody has dealt with. `body` is as it came, and empty after TEXT_RETENTION_DAYS."""

    id: int
    delivery_id: str
    received_at: datetime
    reason: str
    body: str


@dataclass(frozen=True)
class Kind:
    """An event type of Engage, whether or not anything acts on it: how many deliveries there were, and when the last came."""

    event_type: str
    received: int
    last_at: datetime


@retried
def kinds(ledger: Ledger) -> list[Kind]:
    """Return what Engage has delivered by event type, the latest first; at most 50."""
    with ledger.reading() as connection:
        return records(
            connection, Kind, "select event_type, received, last_at from webhook_kind order by last_at desc limit 50"
        )


@retried
def listed(ledger: Ledger, *, numbers: Sequence[int] | None = None, limit: int) -> list[DeadLetter]:
    """Return dead letters that nobody has dealt with, newest first: these numbers, or all."""
    values = {"numbers": numbers and list(numbers), "limit": limit}
    with ledger.reading() as connection:
        return records(connection, DeadLetter, _LISTED, values)


def read_again(ledger: Ledger, number: int, *, by: str = SOMEBODY, why: str = "") -> bool:
    """Read a dead letter again, and queue the adjustment that it asks for, once however often it was delivered.

    If it still can't be read, its body is gone, or there is no such number, return False and change nothing.
    """
    try:
        return _read_again(ledger, number, by=by, why=why)
    except psycopg.DataError:  # PostgreSQL can't store some of it, which made it a dead letter
        return False


@retried
def _read_again(ledger: Ledger, number: int, *, by: str, why: str) -> bool:
    with ledger.transaction() as connection:
        row = connection.execute(
            "select delivery_id, body from dead_letter where id = %s and settled_at is null for update", (number,)
        ).fetchone()
        if row is None:
            return False
        event = Event.read(row[0], row[1].encode())
        if event.dead is not None:
            return False
        if event.payload is not None:
            _queue(connection, event)
        _settle(connection, number, "read again", by=by, why=why)
    return True


@retried
def settle(ledger: Ledger, number: int, reason: str, *, by: str = SOMEBODY) -> bool:
    """Note a person's decision to do nothing more about a dead letter. It is kept. Return False if there is none."""
    with ledger.transaction() as connection:
        return _settle(connection, number, "discarded", by=by, why=reason)


def _settle(connection: Connection[Any], number: int, what: str, *, by: str, why: str) -> bool:
    settled = connection.execute(
        "update dead_letter set settled_at = clock_timestamp(), settled_reason = %s where id = %s and settled_at is null",
        (why, number),
    ).rowcount
    if settled:
        decisions.note(connection, what, f"dead letter {number}", by=by, why=why)
    return settled == 1


def _queue(connection: Connection[Any], event: Event) -> None:
    """Store an event as the receiver would, under another id if its own belongs to an event that asks for something else."""
    connection.execute(
        RECEIVE,
        {"event_id": event.id, "delivery_id": event.delivery_id, "payload": event.payload, "receipt": receipt_of(event.id)},
    )  # fmt: skip
    connection.execute(
        STORE_OTHERS,
        {"ids": [event.id], "deliveries": [event.delivery_id], "payloads": [event.payload], "others": [event.other_id],
         "receipts": [receipt_of(event.other_id)], "traces": [None]},
    )  # fmt: skip


_LISTED = """
select id, delivery_id, received_at, reason, body from dead_letter
where settled_at is null and (%(numbers)s::bigint[] is null or id = any (%(numbers)s))
order by id desc limit %(limit)s
"""
