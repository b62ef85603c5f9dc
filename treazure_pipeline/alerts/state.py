"""What alerts need from the database: the state of each programme and of the queue, and what was told to whom.

What is worth an alert is decided in `notify`, which also sends it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from treazure_pipeline.errors import BusyError
from treazure_pipeline.ledger import coverage
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from treazure_pipeline.ledger.store import Account, Ledger


@dataclass(frozen=True)
class Health:
    """A programme at `now` (database's clock, UTC).

    `covered_until` is None until the first load. `plan` is the digest of the plan that waits for approval. `rejected` counts outstanding rows
    of exports, and `refused` the rows that Engage refuses and that are still tried.
    """

    now: datetime
    covered_until: datetime | None
    known: int
    plan: str | None
    plan_reasons: list[str] | None
    plan_made_at: datetime | None
    rejected: int
    refused: int
    rejected_since: datetime | None


@dataclass(frozen=True)
class Queue:
    """The adjustments at `now`. `waiting` counts those on their way to Treazure in live programmes.

    It leaves out adjustments held back by an uncertain one of the same contact. `last_delivery` is None if no `loyalty.addPoints` event was
    ever delivered.
    """

    now: datetime
    uncertain: int
    uncertain_since: datetime | None
    waiting: int
    waiting_since: datetime | None
    last_delivery: datetime | None


@dataclass(frozen=True)
class Message:
    """A change of state that a target has not been told. If it is not `firing`, it is over."""

    key: str
    episode: int
    firing: bool
    began: datetime
    ended: datetime | None
    title: str
    body: str


@retried
def health(ledger: Ledger, account: Account) -> Health:
    """Return the state of a programme. The cost grows with what is pending."""
    with ledger.transaction() as connection:
        cursor = connection.cursor(row_factory=class_row(Health))
        return one(cursor, _HEALTH, {"programme": account.id, "beginning": account.beginning})


@retried
def queue(ledger: Ledger) -> Queue:
    """Return the state of the queue of adjustments. The cost grows with what is unfinished."""
    with ledger.transaction() as connection:
        return one(connection.cursor(row_factory=class_row(Queue)), _QUEUE)


@contextmanager
def evaluating(ledger: Ledger) -> Iterator[bool]:
    """Make this the only process that evaluates alerts during the block. Yields False if another one already does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(ledger.lease("alerts", BusyError("Another process is evaluating the alerts.")))
        except BusyError:
            yield False
        else:
            yield True


@retried
def record(ledger: Ledger, firing: Sequence[tuple[str, str, str]]) -> None:
    """Record what is wrong now, as (key, title, body), and that everything else is over."""
    keys, titles, bodies = [list(column) for column in zip(*firing, strict=True)] if firing else ([], [], [])
    with ledger.transaction() as connection:
        connection.execute(_RECORD, {"keys": keys, "titles": titles, "bodies": bodies})


@retried
def untold(ledger: Ledger, target: str) -> list[Message]:
    """Return the changes of state that a target has not been told, in order.

    A new target is only told what is wrong now.
    """
    with ledger.transaction() as connection:
        return records(connection, Message, _UNTOLD, {"target": target})


@retried
def told(ledger: Ledger, target: str, message: Message) -> None:
    """Record that a target has taken a message."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into alert_told (key, target, episode, firing, told_at) "
            "values (%s, %s, %s, %s, clock_timestamp()) on conflict (key, target) do update "
            "set episode = excluded.episode, firing = excluded.firing, told_at = excluded.told_at, failed = 0",
            (message.key, target, message.episode, message.firing),
        )


@retried
def not_told(ledger: Ledger, target: str, message: Message) -> None:
    """Record that a target did not take a message. It stays due, even if the alert ends meanwhile."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into alert_told (key, target, episode, firing, failed) values (%s, %s, %s, false, 1) "
            "on conflict (key, target) do update set failed = alert_told.failed + 1",
            (message.key, target, message.episode - 1),
        )


@retried
def firing(ledger: Ledger) -> list[Message]:
    """Return what is wrong now, the oldest first."""
    with ledger.transaction() as connection:
        return records(connection, Message, f"select {_COLUMNS} from alert a where a.firing order by a.began, a.key")


_COLUMNS = "a.key, a.episode, a.firing, a.began, a.ended, a.title, a.body"

_HEALTH = f"""
with waiting as (
    select digest, reasons, made_at from plan where programme = %(programme)s and state = 'open' order by id desc limit 1),
refused as (
    select count(*) as n, min(refused_first) as since from pending
    where programme = %(programme)s and reason is not null and not gone),
rejected as (
    select count(*) as n, min(since) as since from rejection where programme = %(programme)s and resolved_at is null)
select clock_timestamp() as now,
       {coverage.COVERED_UNTIL} as covered_until,
       coalesce((select k.contacts from known k where k.programme = g.id), 0) as known,
       (select digest from waiting) as plan, (select reasons from waiting) as plan_reasons,
       (select made_at from waiting) as plan_made_at,
       rejected.n as rejected, refused.n as refused, least(rejected.since, refused.since) as rejected_since
from programme g, refused, rejected where g.id = %(programme)s
"""

_QUEUE = """
with open as (
    select a.state, a.received_at,
           (select max(t.at) from adjustment_transition t where t.adjustment = a.id and t.state = 'uncertain') as uncertain_at,
           a.state <> 'uncertain' and coalesce(g.mode, 'live') = 'live' and not exists (
               select from adjustment e where e.contact = a.contact and e.id < a.id and e.state = 'uncertain') as waits
    from adjustment a left join programme g on g.id = a.programme
    where a.state in ('received', 'queued', 'sending', 'uncertain'))
select clock_timestamp() as now, count(*) filter (where state = 'uncertain') as uncertain,
       min(coalesce(uncertain_at, received_at)) filter (where state = 'uncertain') as uncertain_since,
       count(*) filter (where waits) as waiting, min(received_at) filter (where waits) as waiting_since,
       case when exists (select from webhook_kind where event_type = 'loyalty.addPoints')
            then (select max(last_at) from webhook_kind) end as last_delivery
from open
"""

_RECORD = """
with wrong as (
    select * from unnest(%(keys)s::text[], %(titles)s::text[], %(bodies)s::text[]) as w (key, title, body)),
over as (
    update alert set firing = false, ended = clock_timestamp() where firing and key <> all (%(keys)s::text[]))
insert into alert (key, firing, began, title, body)
select key, true, clock_timestamp(), title, body from wrong
on conflict (key) do update set
    episode = alert.episode + (not alert.firing)::integer, firing = true, ended = null,
    began = case when alert.firing then alert.began else excluded.began end,
    title = excluded.title, body = excluded.body
where not alert.firing or (alert.title, alert.body) <> (excluded.title, excluded.body)
"""

_UNTOLD = f"""
select {_COLUMNS} from alert a left join alert_told t on t.key = a.key and t.target = %(target)s
where case when t.key is null then a.firing else (t.episode, t.firing) <> (a.episode, a.firing) end
order by coalesce(a.ended, a.began), a.key
"""
