"""Figures from the ledger: the backlog of pending rows and what became of it, totals, and the state of a programme."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from treazure_pipeline.ledger import batches, coverage
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger

AUDIT_EVERY = timedelta(hours=24)


@dataclass(frozen=True)
class Backlog:
    """The number of pending rows at one moment, and the marks from which later flows are counted."""

    pending: int
    batch: int
    settled: int
    observation: int


@dataclass(frozen=True)
class Flow:
    """What became of a backlog: backlog.pending + entered = sent + refused + held + left (I6).

    Attributes:
        entered: Rows that have become pending since.
        sent: Rows that were settled.
        refused: Rows refused since the run began.
        held: Rows that are held.
        left: Rows that are due.
    """

    entered: int
    sent: int
    refused: int
    held: int
    left: int
    oldest_since: datetime | None


@dataclass(frozen=True)
class Status:
    """A programme at one moment, `now` (database's clock, UTC).

    Counts are of pending rows, except `in_doubt` (requests without a recorded answer), `rejected` (rows of exports), `vanished`, `rereads` and
    `rereads_failed` (contacts). `negative`: rows held because their balance is below zero; `plan`: the digest of the plan that waits for
    approval.
    """

    programme: str
    mode: str
    now: datetime
    window_from: datetime | None
    window_to: datetime | None
    covered_until: datetime | None
    holes: int
    full_asked: datetime | None
    pending: int
    held: int
    refused: int
    gone: int
    negative: int
    plan: str | None
    oldest_pending: datetime | None
    in_doubt: int
    rejected: int
    vanished: int
    rereads: int
    rereads_failed: int
    points_total: Decimal
    last_sent: datetime | None


@dataclass(frozen=True)
class Audit:
    """The running total, and a separate sum over all master balances. `audited`: the sum was computed just now."""

    total: Decimal
    summed: Decimal
    audited: bool
    audited_at: datetime


@retried
def count_backlog(ledger: Ledger, account: Account) -> Backlog:
    """Count the pending rows, and set the marks, while nobody can write."""
    with ledger.transaction() as connection:
        return backlog_within(connection, account)


def backlog_within(connection: psycopg.Connection, account: Account) -> Backlog:
    """Do so in the caller's transaction, which from now on keeps everybody from claiming."""
    batches.keep_from_claiming(connection, account)
    row = one(
        connection,
        "select (select count(*) from unsettled where programme = %(programme)s), m.* from (" + _MARKS + ") m",
        {"programme": account.id},
    )
    return Backlog(*row)


@retried
def flow_since(ledger: Ledger, account: Account, backlog: Backlog, run_started: datetime) -> Flow:
    """Return what became of the rows of `backlog`, from the batches and observations recorded since."""
    with ledger.transaction() as connection:
        batches.keep_from_claiming(connection, account)
        row = one(
            connection,
            _FLOW,
            {
                "programme": account.id,
                "batch": backlog.batch,
                "settled": backlog.settled,
                "observation": backlog.observation,
                "started": run_started,
            },
        )
    return Flow(*row)


@retried
def status(ledger: Ledger, account: Account) -> Status:
    """Return the state of a programme, as an operator needs it."""
    with ledger.transaction() as connection:
        row = one(connection, _STATUS, {"programme": account.id, "beginning": account.beginning})
    return Status(account.name, *row)


@retried
def witnesses(ledger: Ledger, system: Literal["treazure", "engage"]) -> list[str]:
    """Return a few contacts of any programme that a system should know (for `clients.absence`)."""
    with ledger.transaction() as connection:
        return [contact for (contact,) in connection.execute(_WITNESSES[system])]


@retried
def contacts(ledger: Ledger, account: Account) -> int:
    """Count the contacts with a known balance, sent or not. The cost grows with what is pending, not with what exists."""
    with ledger.transaction() as connection:
        row = one(connection, _CONTACTS, {"programme": account.id})
    return int(row[0])


@retried
def audit(ledger: Ledger, account: Account, *, always: bool = False) -> Audit:
    """Compare the running total of the master balances with a separate sum.

    The sum reads the whole programme, so it is only computed once a day, or with `always`. In between, the running total stands for it.
    """
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select points_total, audited_at, clock_timestamp() from programme where id = %s for update",
            (account.id,),
        )
        total, audited_at, now = row
        if not always and now - audited_at < AUDIT_EVERY:
            return Audit(total, total, audited=False, audited_at=audited_at)
        row = one(connection, _TOTAL, {"programme": account.id})
        if row[0] == total:
            connection.execute("update programme set audited_at = %s where id = %s", (now, account.id))
        return Audit(total, row[0], audited=True, audited_at=now)


_MARKS = """
with open as (
    select coalesce(min(id), (select coalesce(max(id), 0) + 1 from batch)) as first from batch
    where programme = %(programme)s and state in ('sending', 'accepted'))
select open.first as batch,
       (select coalesce(sum(settled), 0)::bigint from batch where programme = %(programme)s and id >= open.first) as settled,
       (select coalesce(max(id), 0) from observation) as observation
from open
"""

_ROSTER = "(select contact::text from migration_contact limit 3)"
_WITNESSES = {
    "treazure": f"(select contact::text from balance limit 3) union {_ROSTER}",
    "engage": "(select contact::text from verification where verdict = 'equal' limit 3) union "
    f"(select contact::text from ledger limit 3) union {_ROSTER}",
}

_FLOW = """
with rows as materialized (
    select case when refused_last between %(started)s and clock_timestamp() then 'refused'
                when held then 'held' else 'due' end as state, since
    from unsettled where programme = %(programme)s)
select (select coalesce(sum(entered), 0)::bigint from observation
        where programme = %(programme)s and id > %(observation)s) as entered,
       (select coalesce(sum(settled), 0)::bigint from batch
        where programme = %(programme)s and id >= %(batch)s) - %(settled)s as sent,
       count(*) filter (where state = 'refused') as refused, count(*) filter (where state = 'held') as held,
       count(*) filter (where state = 'due') as due, min(since) as oldest
from rows
"""

_STATUS = f"""
with last as (
    select window_from, window_to from observation
    where programme = %(programme)s and source = 'export' and state = 'merged' order by id desc limit 1),
rows as materialized (
    select since, reason, gone, held, master < 0 and held and not gone as negative from unsettled where programme = %(programme)s)
select g.mode, clock_timestamp() as now, (select window_from from last), (select window_to from last),
       {coverage.COVERED_UNTIL}, (select count(*) from {coverage.HOLES}), g.full_asked_at,
       (select count(*) from rows), (select count(*) from rows where held),
       (select count(*) from rows where reason is not null), (select count(*) from rows where gone),
       (select count(*) from rows where negative),
       (select digest from plan p where p.programme = g.id and p.state = 'open' order by id desc limit 1),
       (select min(since) from rows),
       (select count(*) from batch b where b.programme = g.id and b.state = 'sending'),
       (select count(*) from rejection where programme = g.id and resolved_at is null), (select count(*) from vanished where programme = g.id),
       (select count(*) from reread where programme = g.id),
       (select count(*) from reread where programme = g.id and tries > 0), g.points_total,
       (select max(answered_at) from (select answered_at from batch
            where programme = g.id and state in ('accepted', 'folded') order by id desc limit 20) b)
from programme g where g.id = %(programme)s
"""

_CONTACTS = """
select (select coalesce(sum(contacts), 0) from known where programme = %(programme)s)
     + (select count(*) from unsettled u where u.programme = %(programme)s and not exists (
            select from ledger l where l.programme = u.programme and l.contact = u.contact))
"""

_TOTAL = """
select coalesce((select sum(sent) from ledger where programme = %(programme)s), 0)
     + coalesce((select sum(u.master - coalesce(l.sent, 0)) from unsettled u
                 left join ledger l on l.programme = u.programme and l.contact = u.contact
                 where u.programme = %(programme)s), 0) as total
"""
