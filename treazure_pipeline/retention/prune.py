"""Deletes history that is older than its retention, but nothing that is still needed.

Exports (coverage is computed from them), adjustments (they make sure that an event happens once) and plans (who approved what) are kept forever.
Everything is done in small transactions that can be stopped anywhere, also beside a running sync.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from treazure_pipeline import phrases
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, LiteralString

    from treazure_pipeline.ledger.store import Ledger

_ROWS = 2_000
_BATCHES_AT_ONCE = 100


@dataclass(frozen=True)
class Pruned:
    """What was deleted. The history now reaches back to `until`.

    `stripped`: batches of which only a part is kept; `findings`: of verifications, and their runs; `lookups`: in the console.
    """

    until: datetime
    changes: int
    batches: int
    stripped: int
    observations: int
    transitions: int
    plan_lots: int
    rejections: int
    findings: int
    lookups: int

    @property
    def deleted(self) -> int:
        """Rows that were deleted from all tables."""
        counts = (getattr(self, field.name) for field in fields(self))
        return sum(count for count in counts if isinstance(count, int)) - self.stripped

    @property
    def sentence(self) -> str:
        """What was deleted, and how far back the history goes now."""
        return (
            f"{phrases.counted(self.deleted, 'row')} deleted; the history reaches back to {self.until:%Y-%m-%d} at most"
        )


def prune(ledger: Ledger, days: int, *, rows: int = _ROWS, batches_at_once: int = _BATCHES_AT_ONCE) -> Pruned:
    """Delete what is older than `days`, with so many `rows`, or batches of a thousand contacts each, per transaction."""
    until = ledger.now() - timedelta(days=days)
    changes = _in_chunks(ledger, _CHANGES, until, rows)
    batches, stripped = _prune_batches(ledger, until, batches_at_once)
    return Pruned(
        until=until,
        changes=changes,
        batches=batches,
        stripped=stripped,
        observations=_in_chunks(ledger, _OBSERVATIONS, until, rows),
        transitions=_in_chunks(ledger, _TRANSITIONS, until, rows),
        plan_lots=_in_chunks(ledger, _PLAN_LOTS, until, rows),
        rejections=_in_chunks(ledger, _REJECTIONS, until, rows),
        findings=_in_chunks(ledger, _FINDINGS, until, rows) + _in_chunks(ledger, _VERIFICATION_RUNS, until, rows),
        lookups=_in_chunks(ledger, _LOOKUPS, until, rows),
    )


@retried
def changes(ledger: Ledger) -> int:
    """Count the changes that are kept. Reads every row of `change`."""
    with ledger.transaction() as connection:
        row = one(connection, "select coalesce(sum(cardinality(contacts)), 0) from change")
    return int(row[0])


@retried
def megabytes(ledger: Ledger) -> dict[str, float]:
    """Return the size of each table that holds history, with its indexes."""
    with ledger.transaction() as connection:
        return dict(connection.execute(_MEGABYTES).fetchall())


@retried
def _do(ledger: Ledger, statement: LiteralString, values: dict[str, object]) -> tuple[int, tuple[Any, ...]]:
    """Run the statement once. Return how many rows it affected, and its first row, if it returns any."""
    with ledger.transaction() as connection:
        cursor = connection.execute(statement, values)
        return cursor.rowcount, (cursor.fetchone() or ()) if cursor.description else ()


def _in_chunks(ledger: Ledger, statement: LiteralString, until: datetime, rows: int) -> int:
    total = 0
    while True:
        deleted = _do(ledger, statement, {"until": until, "rows": rows})[0]
        total += deleted
        if deleted < rows:
            return total


def _prune_batches(ledger: Ledger, until: datetime, at_once: int) -> tuple[int, int]:
    deleted = stripped = after = 0
    while True:
        _, row = _do(ledger, _BATCHES, {"until": until, "at_once": at_once, "after": after})
        last, deleted_now, stripped_now = row
        deleted += deleted_now
        stripped += stripped_now
        if last is None:
            return deleted, stripped
        after = last


_MEGABYTES = """
select name, round((pg_total_relation_size(name::regclass)
       + (select coalesce(sum(pg_total_relation_size(inhrelid)), 0) from pg_inherits where inhparent = name::regclass)) / 1e6, 3)::float
from unnest(array['change', 'batch', 'observation', 'adjustment_transition', 'plan_lot', 'rejection', 'finding',
                  'points_history']) name
"""

_CHANGES = """
delete from change where id = any (array(
    select id from change where noted_at < %(until)s and not planned and programme = any (array(select id from programme))
    limit %(rows)s))
"""

# Of an old batch, rows are kept that the ledger refers to, or, if it was lost, that are still pending.
_BATCHES = """
with seen as materialized (
    select id, programme, state, contacts, amounts, claimed_at from batch where id > %(after)s
    order by id limit %(at_once)s),
old as materialized (
    select * from seen s where claimed_at < %(until)s and state in ('folded', 'refused', 'failed', 'lost')
      and s.id < (select coalesce(min(o.id), s.id + 1) from batch o
                  where o.programme = s.programme and o.state in ('sending', 'accepted'))),
needed as materialized (
    select o.id, array_agg(r.contact order by r.n) as contacts, array_agg(r.amount order by r.n) as amounts
    from old o, unnest(o.contacts, o.amounts) with ordinality as r (contact, amount, n)
    where exists (select from ledger l where l.programme = o.programme and l.contact = r.contact and l.batch = o.id)
       or o.state = 'lost' and exists (
           select from pending p where p.programme = o.programme and p.contact = r.contact)
    group by o.id),
stripped as (
    update batch b set contacts = needed.contacts, amounts = needed.amounts from needed
    where b.id = needed.id and cardinality(b.contacts) > cardinality(needed.contacts) returning b.id),
deleted as (
    delete from batch b using old where b.id = old.id and old.id not in (select id from needed) returning b.id)
select case when exists (select from seen where claimed_at < %(until)s) then (select max(id) from seen) end,
       (select count(*) from deleted), (select count(*) from stripped)
"""

_OBSERVATIONS = """
delete from observation where id = any (array(
    select o.id from observation o
    where o.source = 'account' and o.answered < %(until)s and o.programme = any (array(select id from programme))
      and not exists (select from ledger l
                      where l.programme = o.programme and l.contact = o.contact and l.observation = o.id)
      and not exists (select from pending p
                      where p.programme = o.programme and p.contact = o.contact and p.observation = o.id)
      and not exists (select from change c where c.observation = o.id)
    limit %(rows)s))
"""

_TRANSITIONS = """
delete from adjustment_transition where ctid = any (array(
    select t.ctid from adjustment_transition t join adjustment a on a.id = t.adjustment
    where t.at < %(until)s and a.finished_at < %(until)s limit %(rows)s))
"""

_PLAN_LOTS = """
delete from plan_lot where ctid = any (array(
    select l.ctid from plan_lot l join plan p on p.id = l.plan
    where p.made_at < %(until)s and p.state not in ('open', 'approved') limit %(rows)s))
"""

_REJECTIONS = """
delete from rejection where (programme, digest) in (
    select programme, digest from rejection where resolved_at < %(until)s limit %(rows)s)
"""

_LOOKUPS = """
delete from lookup where id = any (array(select id from lookup where at < %(until)s limit %(rows)s))
"""

_FINDINGS = """
delete from finding where id = any (array(select id from finding where read_at < %(until)s limit %(rows)s))
"""

# Except the last one, which says when a programme was last read back.
_VERIFICATION_RUNS = """
delete from verification_run where id = any (array(
    select r.id from verification_run r where r.started_at < %(until)s
      and exists (select from verification_run n where n.programme = r.programme and n.id > r.id)
    limit %(rows)s))
"""
