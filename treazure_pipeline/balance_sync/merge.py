"""From a staged export to pending balances.

An observation is a statement of the master that was true at some time between `asked` and `answered`, both on the
database's clock (I2). The merge works in sets; what it touches are the rows that the export lists. A large export is merged
in slices of its keys, a transaction each, so that adjustments wait for one of them at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from treazure_pipeline.balance_sync import rejections, staging
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.ledger import batches, coverage
from treazure_pipeline.ledger.coverage import past
from treazure_pipeline.ledger.figures import Backlog, backlog_within
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from typing import Any

    import psycopg
    from psycopg.sql import Composed

    from treazure_pipeline.ledger.store import Account, Ledger

SLICE_ROWS = 1_000_000
_SMALL_SHARE = 0.2
_SAMPLE_ROWS = 100_000


@dataclass(frozen=True)
class MergeFigures:
    """What one export came to: fetched = duplicate + rejected + superseded + unchanged + changed (I6).

    A pending row whose balance went back to what Engage holds counts as unchanged. `carried_over`: rows that were
    pending before and are not among the changed; `backlog`: what is pending now, to count from. `points_*`: sums of the
    master balances.
    """

    fetched: int
    duplicate: int
    rejected: int
    superseded: int
    unchanged: int
    changed: int
    carried_over: int
    vanished: int
    points_before: Decimal
    points_change: Decimal
    points_after: Decimal
    backlog: Backlog

    @property
    def accounted_for(self) -> int:
        """The fetched rows, by outcome."""
        return self.duplicate + self.rejected + self.superseded + self.unchanged + self.changed

    @property
    def adds_up(self) -> bool:
        """Whether all fetched rows are accounted for (I6)."""
        return self.fetched == self.accounted_for


class _Progress(msgspec.Struct):
    """How far a merge has come, kept with the observation: what its slices came to, and where the next one begins.

    `bounds`: the last key of each slice but the last one; `done`: slices merged.
    """

    contacts: int
    bounds: list[str]
    vanished: int
    points_before: Decimal
    backlog: Backlog
    done: int = 0
    superseded: int = 0
    changed: int = 0
    again: int = 0
    settled: int = 0
    points_change: Decimal = Decimal(0)

    @property
    def is_complete(self) -> bool:
        return self.done > len(self.bounds)

    @property
    def keys(self) -> dict[str, str | None]:
        """The keys of the next slice: after the one, up to the other; None: no end."""
        ends = [None, *self.bounds, None]
        return {"after": ends[self.done], "upto": ends[self.done + 1]}

    def in_slice(self, table: str) -> SQL:
        """Say in SQL that a row of a table lies in the next slice."""
        comparisons = {"after": "and {}.contact > %(after)s::uuid", "upto": "and {}.contact <= %(upto)s::uuid"}
        return SQL(" ".join(comparisons[end].format(table) for end, key in self.keys.items() if key is not None))

    def resend(self, added: int) -> None:
        """Count rows of a restored ledger that are pending again."""
        self.backlog = replace(self.backlog, pending=self.backlog.pending + added)

    def add(self, merged: dict[str, Any], settled: int) -> None:
        """Count a slice."""
        self.done += 1
        self.settled += settled
        self.superseded += merged["superseded"]
        self.changed += merged["changed"]
        self.again += merged["again"]
        self.points_change += merged["points_change"]

    def figures(self, fetched: int, rejected: int) -> MergeFigures:
        """Return what all slices came to."""
        pending = self.backlog.pending + self.changed - self.again - self.settled
        return MergeFigures(
            fetched=fetched,
            duplicate=fetched - rejected - self.contacts,
            rejected=rejected,
            superseded=self.superseded,
            unchanged=self.contacts - self.changed - self.superseded + self.settled,
            changed=self.changed - self.settled,
            carried_over=self.backlog.pending - self.again,
            vanished=self.vanished,
            points_before=self.points_before,
            points_change=self.points_change,
            points_after=self.points_before + self.points_change,
            backlog=replace(self.backlog, pending=pending),
        )


def merge(ledger: Ledger, account: Account, observation: int, *, batch_size: int) -> MergeFigures:
    """Record a staged export's balances as the newest known of the master.

    A row that differs from what is known becomes pending, in planned batches of `batch_size` rows, one request each,
    unless it is older than what is known (superseded) or overlaps with it in time (superseded too, and noted in
    `reread`). Coverage grows with the last slice. A merge that broke off goes on where it was; what is merged already is
    not merged again: its figures are returned.
    """
    figures = _prepare(ledger, account, observation)
    while figures is None:
        figures = _merge_slice(ledger, account, observation, batch_size)
    return figures


@retried
def _prepare(ledger: Ledger, account: Account, observation: int) -> MergeFigures | None:
    """Bring the staged rows into key order and cut them into slices, or return the figures of what is merged already."""
    with ledger.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        export = _locked(cursor, observation)
        if export["state"] == "merged":
            return msgspec.convert(export["figures"], MergeFigures)
        if "merging" in export["figures"]:
            return None
        table, latest = staging.table(observation), staging.latest(observation)
        stored = one(cursor, SQL("select count(*) as n from {}").format(table))["n"]
        if stored != export["figures"]["fetched"] - export["figures"]["rejected"]:
            raise _gone(f"{stored} rows")
        cursor.execute("set local work_mem to '128MB'")
        cursor.execute(SQL(_LATEST).format(latest=latest, stage=table))
        contacts = cursor.rowcount
        if contacts > SLICE_ROWS or export["is_full"]:
            cursor.execute(SQL("analyze {} (contact)").format(latest))
        bounds = _bounds(cursor, latest, contacts) if contacts > SLICE_ROWS else []
        values = {"programme": account.id, "observation": observation, "answered": export["answered"]}
        vanished = _note_vanished(cursor, latest, values) if export["is_full"] else 0
        batches.keep_from_claiming(connection, account)
        cursor.execute(_ANSWERED, values)
        total = one(cursor, "select points_total from programme where id = %s", (account.id,))["points_total"]
        _note(cursor, observation, _Progress(contacts, bounds, vanished, total, backlog_within(connection, account)))
    return None


@retried
def _merge_slice(ledger: Ledger, account: Account, observation: int, batch_size: int) -> MergeFigures | None:
    """Merge the next slice; with the last one close the merge and return its figures."""
    with ledger.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        batches.keep_from_claiming(connection, account)
        batches.keep_from_folding(connection, account)
        export = _locked(cursor, observation)
        if export["state"] == "merged":
            return msgspec.convert(export["figures"], MergeFigures)
        progress = msgspec.convert(export["figures"]["merging"], _Progress)
        latest = staging.latest(observation)
        if progress.contacts and not one(cursor, SQL("select exists (select from {}) as any").format(latest))["any"]:
            raise _gone("no rows")
        values = {
            "programme": account.id,
            "observation": observation,
            "batch_size": batch_size,
            "longest_wait": batches.LONGEST_WAIT,
            **export,
            **progress.keys,
        }
        if one(cursor, _IS_DOUBTED, values)["is_doubted"]:
            resend = SQL(_RESEND).format(latest=latest, in_slice=progress.in_slice("s"))
            progress.resend(one(cursor, resend, values)["added"])
        slices = {"in_slice": progress.in_slice("s"), "known_in_slice": progress.in_slice("l")}
        _compare(cursor, SQL(_COMPARE).format(latest=latest, **slices), progress.contacts, values)
        merged = one(cursor, _NOTE, values)
        progress.add(merged, one(cursor, _MOVE, values)["settled"] if merged["again"] else 0)
        cursor.execute(_COUNT, values | {"change": merged["points_change"], "added": merged["points_added"]})
        cursor.execute("drop table compared")
        if not progress.is_complete:
            _note(cursor, observation, progress)
            return None
        cursor.execute(SQL(rejections.RESOLVE).format(latest=latest), values)
        if export["is_full"]:
            cursor.execute(rejections.RESOLVE_UNLISTED, values)
        figures = progress.figures(export["figures"]["fetched"], export["figures"]["rejected"])
        cursor.execute(_CLOSE, values | {"figures": Jsonb(msgspec.to_builtins(figures))})
        cursor.execute(SQL("drop table {}, {}").format(staging.table(observation), latest))
    return figures


@retried
def merged(ledger: Ledger, account: Account, run_id: str) -> MergeFigures | None:
    """Return the figures of the export that a run merged, or None."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select figures from observation where programme = %s and run_id = %s and source = 'export' "
            "and state = 'merged' order by id desc limit 1",
            (account.id, run_id),
        ).fetchone()
    if row is None:
        return None
    return msgspec.convert(row[0], MergeFigures)


def _note_vanished(cursor: psycopg.Cursor[dict[str, Any]], latest: Identifier, values: dict[str, Any]) -> int:
    cursor.execute(
        SQL("delete from vanished v using {} s where v.programme = %(programme)s and v.contact = s.contact").format(
            latest
        ),
        values,
    )
    cursor.execute(
        SQL("insert into vanished select l.programme, l.contact, now() from ledger l where l.programme = %(programme)s "
            "and not exists (select from {} s where s.contact = l.contact) "
            "and not exists (select from rejection r where r.programme = l.programme and r.contact = l.contact "
            "and r.observation = %(observation)s) on conflict do nothing").format(latest),
        values,
    )  # fmt: skip
    return cursor.rowcount


def _locked(cursor: psycopg.Cursor[dict[str, Any]], observation: int) -> dict[str, Any]:
    row = cursor.execute(
        "select state, asked, answered, window_from, window_to, is_full, figures from observation "
        "where id = %s and state in ('staged', 'merged') for update",
        (observation,),
    ).fetchone()
    if row is None:
        message = "The observation is not staged any more: another run of the programme has taken over."
        raise DatabaseError(message, hint="Run the sync again.")
    return row


def _gone(found: str) -> DatabaseError:
    message = f"Of the staged export there are {found} left (the database server crashed?)."
    return DatabaseError(message, hint="Run the sync again. It fetches the same window again.")


def _note(cursor: psycopg.Cursor[dict[str, Any]], observation: int, progress: _Progress) -> None:
    cursor.execute(
        "update observation set figures = figures || %s where id = %s",
        (Jsonb({"merging": msgspec.to_builtins(progress)}), observation),
    )


def _bounds(cursor: psycopg.Cursor[dict[str, Any]], latest: Identifier, contacts: int) -> list[str]:
    """Cut the keys into slices of about SLICE_ROWS, by a sample; return the last key of each but the last slice."""
    slices = -(-contacts // SLICE_ROWS)
    cursor.execute(SQL("create index on {} using brin (contact)").format(latest))
    values = {
        "percent": min(100, 100 * _SAMPLE_ROWS / contacts),
        "shares": [number / slices for number in range(1, slices)],
    }
    found = one(cursor, SQL(_BOUNDS).format(latest=latest), values)["bounds"] or []
    return sorted(set(found))


def _compare(
    cursor: psycopg.Cursor[dict[str, Any]], statement: Composed, contacts: int, values: dict[str, Any]
) -> None:
    """Compare a slice with what is known: a lookup for each row, or all of the ledger's rows beside all of the slice's.

    In key order, and never past PostgreSQL's cache.
    """
    known = one(cursor, "select coalesce(sum(reltuples), 0) as rows from pg_class where oid = 'ledger'::regclass")[
        "rows"
    ]
    other = "enable_mergejoin" if contacts < _SMALL_SHARE * known else "enable_nestloop"
    cursor.execute("set local work_mem to '128MB'")
    cursor.execute(f"set local enable_hashjoin to off; set local {other} to off")
    cursor.execute("set local max_parallel_workers_per_gather to 1; set local parallel_tuple_cost to 0")
    cursor.execute(statement, values)
    cursor.execute(f"set local enable_hashjoin to default; set local {other} to default")


# One row for each contact, in key order: the lookups of neighbors are near each other, also when two processes share them.
_LATEST = """
create unlogged table {latest} with (parallel_workers = 1) as
select distinct on (contact) contact, balance from {stage} order by contact, mutated_at desc nulls last, position desc
"""

_BOUNDS = """
select percentile_disc(%(shares)s::float[]) within group (order by contact)::text[] as bounds
from {latest} tablesample system (%(percent)s) repeatable (1)
"""

# Reads of accounts that were asked before the export was there are undecided from now on, whichever slice they fall into.
_ANSWERED = f"""
update programme g set export_answered = greatest({past("g.export_answered")}, %(answered)s) where id = %(programme)s
"""

_IS_DOUBTED = """
select g.resend && tstzrange(o.window_from, o.asked) as is_doubted
from observation o join programme g on g.id = o.programme where o.id = %(observation)s
"""

# Balances that Engage is believed to hold, of a ledger that was restored since the export's times: as if read back and found
# to differ.
_RESEND = """
with resent as (
    insert into pending as p (programme, contact, master, observation, since, marked, let_through)
    select l.programme, l.contact, l.sent, l.observation, clock_timestamp(), true, case when l.sent < 0 then l.sent end
    from {latest} s join ledger l on l.programme = %(programme)s and l.contact = s.contact {in_slice}
    order by l.contact
    on conflict (programme, contact) do update set marked = true
    returning xmax = 0 as is_new)
select count(*) filter (where is_new) as added from resent
"""

# By itself, as a statement that writes rows is never shared with a parallel worker. Half of it is waiting for pages.
_COMPARE = """
create temporary table compared as
select s.contact, s.balance, coalesce(p.master, l.sent) as before, p.contact is not null as was_pending,
       coalesce(p.observation, l.observation) as observation
from {latest} s
left join ledger l on l.programme = %(programme)s and l.contact = s.contact {known_in_slice}
left join pending p on p.programme = %(programme)s and p.contact = s.contact
where coalesce(p.master, l.sent) is distinct from s.balance {in_slice}
"""

# A negative balance waits in `pending`, where it can be held, as well as in its planned batch.
# `newer`: no observation of the row was answered after this one was asked, or so shortly before that a replica may lack
# it. `recent` holds the few that were. Engage may hold something newer than what a row was marked to be sent again with: it
# waits for its account to be read once more.
_NOTE = """
with recent as materialized (
    select id, asked, lags_until from observation
    where programme = %(programme)s and answered between %(asked)s - interval '1 hour' and clock_timestamp()
      and greatest(answered, lags_until) >= %(asked)s and state = 'merged'),
judged as materialized (
    select contact, balance, before, was_pending, lags_until,
           r.id is null as newer,
           coalesce(r.asked > %(answered)s, false) as older, row_number() over (order by contact) as n
    from compared left join recent r on r.id = observation),
noted as (
    insert into change (programme, observation, planned, contacts, before, after)
    select %(programme)s, %(observation)s, not was_pending, array_agg(contact), array_agg(before), array_agg(balance)
    from judged where newer group by was_pending, (n - 1) / %(batch_size)s order by min(n)),
negative as (
    insert into pending (programme, contact, master, observation, since)
    select %(programme)s, contact, balance, %(observation)s, clock_timestamp() from judged
    where newer and not was_pending and balance < 0),
disputed as (
    insert into reread (programme, contact, since, next_try)
    select %(programme)s, contact, clock_timestamp(), greatest(clock_timestamp(), lags_until)
    from judged where not newer and not older
    on conflict do nothing),
waiting as (
    update pending p set next_try = clock_timestamp() + %(longest_wait)s from judged j
    where p.programme = %(programme)s and p.contact = j.contact and p.marked and j.was_pending and not j.newer and not j.older)
select count(*) filter (where newer) as changed, count(*) filter (where newer and was_pending) as again,
       count(*) filter (where not newer) as superseded,
       coalesce(sum(balance - coalesce(before, 0)) filter (where newer), 0) as points_change,
       coalesce(sum(balance - coalesce(before, 0)) filter (where newer and balance > coalesce(before, 0)), 0) as points_added
from judged
"""

# A pending row that changed again; back at what Engage accepted last it is settled, unless a request is in doubt, or
# Engage was seen not to hold what it accepted (marked).
_MOVE = f"""
with changed as materialized (
    select r.contact, r.after from change c, unnest(c.contacts, c.after) as r (contact, after)
    where c.observation = %(observation)s and not c.planned
      and r.contact in (select contact from compared where was_pending)),
settled as (
    delete from pending p using changed c, ledger l
    where p.programme = %(programme)s and p.contact = c.contact
      and l.programme = %(programme)s and l.contact = c.contact and l.sent = c.after and not p.marked
      and not exists (
        select from batch b where b.programme = %(programme)s and b.state in ('sending', 'accepted', 'lost')
          and b.id > l.batch and c.contact = any (b.contacts))
    returning p.contact),
moved as (
    update pending p set
        master = c.after, observation = %(observation)s, changed_at = clock_timestamp(), {batches.REVIVED} from changed c
    where p.programme = %(programme)s and p.contact = c.contact and c.contact not in (select contact from settled))
select count(*) as settled from settled
"""

_COUNT = """
update programme set points_total = points_total + %(change)s, points_added = points_added + %(added)s
where id = %(programme)s
"""

_FETCHED = """tstzmultirange(case when least(%(window_to)s, %(asked)s) > %(window_from)s
        then tstzrange(%(window_from)s, least(%(window_to)s, %(asked)s)) else 'empty'::tstzrange end)"""

_CLOSE = f"""
with merged as (
    update observation set state = 'merged', figures = %(figures)s where id = %(observation)s)
update programme g set
    covered = {coverage.TRUSTED} + {_FETCHED},
    resend = resend - {_FETCHED},
    full_asked_at = case when %(is_full)s then %(asked)s else full_asked_at end
where id = %(programme)s
"""
