"""From a staged export to pending balances: the merge, and observations of single accounts.

An observation is a statement of the master that was true at some time between `asked` and `answered`, both on the
database's clock (I2). The merge works in sets; what it touches are the rows that the export lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from treazure_pipeline.balance_sync import rejections, staging
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.ledger import batches, coverage
from treazure_pipeline.ledger.figures import MARKS, Backlog
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger

_SMALL_SHARE = 0.2
_LONGEST_LAG = 3600.0


def _past(time: str) -> str:
    """Say in SQL: a recorded time; one in the future was recorded by a clock that was ahead, and tells nothing of the order."""
    return f"case when {time} <= clock_timestamp() then {time} else 'epoch' end"


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


@retried
def merge(ledger: Ledger, account: Account, observation: int, *, batch_size: int) -> MergeFigures:
    """Record a staged export's balances as the newest known of the master, in one transaction.

    A row that differs from what is known becomes pending, in planned batches of `batch_size` rows, one request each,
    unless it is older than what is known (superseded) or overlaps with it in time (superseded too, and noted in
    `reread`). Coverage grows in the same transaction. What is merged already is not merged again: its figures are returned.
    """
    with (
        ledger.transaction() as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        batches.keep_from_claiming(connection, account)
        batches.keep_from_folding(connection, account)
        done = cursor.execute(
            "select figures from observation where id = %s and state = 'merged'", (observation,)
        ).fetchone()
        if done is not None:
            return msgspec.convert(done["figures"], MergeFigures)
        table, latest = staging.table(observation), Identifier(f"latest_{observation}")
        doubted = {"programme": account.id, "observation": observation}
        if _one(cursor, _IS_DOUBTED, doubted)["is_doubted"]:
            cursor.execute(SQL(_RESEND).format(stage=table), doubted)
        known = _one(
            cursor,
            "select o.asked, o.answered, o.window_from, o.window_to, o.is_full, o.figures, g.points_total, "
            "(select count(*) from pending where programme = g.id) as pending, "
            "(select coalesce(sum(reltuples), 0) from pg_class where oid = 'ledger'::regclass) as ledger_rows "
            "from observation o join programme g on g.id = o.programme where o.id = %s and o.state = 'staged' "
            "for update",
            (observation,),
        )
        values = {"programme": account.id, "observation": observation, "batch_size": batch_size} | known
        stored = _one(cursor, SQL("select count(*) as n from {}").format(table))["n"]
        fetched, rejected = known["figures"]["fetched"], known["figures"]["rejected"]
        if stored != fetched - rejected:
            message = f"The staged export holds {stored} of {fetched - rejected} rows (the database server crashed?)."
            raise DatabaseError(message, hint="Run the sync again. It fetches the same window again.")
        cursor.execute("set local work_mem to '128MB'")
        cursor.execute(SQL(_LATEST).format(latest=latest, stage=table))
        contacts = cursor.rowcount
        # A lookup for each row, or all of the ledger beside all rows; in key order, and never past PostgreSQL's cache.
        other = "enable_mergejoin" if stored < _SMALL_SHARE * known["ledger_rows"] else "enable_nestloop"
        cursor.execute(f"set local enable_hashjoin to off; set local {other} to off")
        cursor.execute("set local max_parallel_workers_per_gather to 1; set local parallel_tuple_cost to 0")
        cursor.execute(SQL(_COMPARE).format(latest=latest), values)
        cursor.execute(f"set local enable_hashjoin to default; set local {other} to default")
        compared = _one(cursor, _NOTE, values)
        settled = _one(cursor, _MOVE, values)["settled"] if compared["again"] else 0
        vanished = _note_vanished(cursor, latest, values) if known["is_full"] else 0
        cursor.execute(SQL(rejections.RESOLVE).format(latest=latest), values)
        if known["is_full"]:
            cursor.execute(rejections.RESOLVE_UNLISTED, values)
        figures = MergeFigures(
            fetched=fetched,
            duplicate=stored - contacts,
            rejected=rejected,
            superseded=compared["superseded"],
            unchanged=contacts - compared["changed"] - compared["superseded"] + settled,
            changed=compared["changed"] - settled,
            carried_over=known["pending"] - compared["again"],
            vanished=vanished,
            points_before=known["points_total"],
            points_change=compared["points_change"],
            points_after=known["points_total"] + compared["points_change"],
            backlog=Backlog(
                pending=known["pending"] + compared["changed"] - compared["again"] - settled,
                **_one(cursor, MARKS, values),
            ),
        )
        totals = {"change": figures.points_change, "added": compared["points_added"]}
        cursor.execute(_CLOSE, values | totals | {"figures": Jsonb(msgspec.to_builtins(figures))})
        cursor.execute(SQL("drop table {}, {}, compared").format(table, latest))
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


@retried
def record_account(
    ledger: Ledger,
    account: Account,
    contact: str,
    balance: Decimal,
    asked: datetime,
    run_id: str,
    *,
    lag: float | None = None,
    amount: Decimal = Decimal(0),
) -> bool:
    """Record one account's balance, read between `asked` (database clock) and now. Return True when that settled it.

    False: the reading overlaps with another observation that differs, so which one is newer can't be told; read the
    account once more. An account read before what is known is dropped as superseded (True). `lag`: it is the answer to a
    transaction of `amount`, and for so many seconds a read may still lack it; one that shows a balance from before it
    meanwhile is dropped too, and the account is read once more afterwards (True).
    """
    with (
        ledger.transaction() as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        # Its caller commits durably after this, which flushes what comes before; the programme's row is free sooner.
        cursor.execute("set local synchronous_commit to off")
        known = _one(
            cursor,
            f"select clock_timestamp() as answered, {_past('g.export_answered')} as "
            "export_answered, g.points_total from programme g where id = %s for update",
            (account.id,),
        )
        batches.keep_from_settling(connection, account, contact)
        values = {"programme": account.id, "contact": contact, "balance": balance}
        row = cursor.execute(_KNOWN_ROW, values).fetchone()
        differs = row is None or row["balance"] != balance
        if differs and row is not None and row["asked"] > known["answered"]:
            return True
        last_seen = known["export_answered"] if row is None else max(known["export_answered"], row["answered"])
        if differs and asked <= last_seen:
            return False
        lagging = row is not None and row["lags_until"] is not None and asked <= row["lags_until"]
        outdated = list(row["outdated"]) if row is not None and lagging else []
        if lag is None and balance in outdated and differs:
            cursor.execute(_READ_LATER, values | {"next_try": row and row["lags_until"]})
            return True
        lags_until = row["lags_until"] if row is not None and lagging else None
        if lag is not None:
            lags_until = known["answered"] + timedelta(seconds=min(lag, _LONGEST_LAG))
            outdated += [balance - amount, *([row["balance"]] if row is not None and differs else [])]
        settled = row is None or row["settled"]
        values["observation"] = _one(
            cursor,
            "insert into observation (programme, source, state, run_id, asked, answered, lags_until, outdated, contact, entered) "
            "values (%s, 'account', 'merged', %s, %s, %s, %s, %s, %s, %s) returning id",
            (
                account.id,
                run_id,
                asked,
                known["answered"],
                lags_until,
                outdated,
                contact,
                int(differs and settled),
            ),
        )["id"]
        if differs:
            before = None if row is None else row["balance"]
            cursor.execute(_ENTER, values | {"before": before, "change": balance - (before or 0)})
        else:
            cursor.execute(_TOUCH, values)
        cursor.execute(_HAS_BEEN_READ, values | {"asked": asked})
    return True


@retried
def to_reread(ledger: Ledger, account: Account) -> list[str]:
    """Return the contacts that are to be read once more now: their observations overlapped and differed."""
    with ledger.transaction() as connection:
        rows = connection.execute(_TO_REREAD, {"id": account.id, "longest": batches.LONGEST_WAIT})
        return [contact for (contact,) in rows]


@retried
def postpone_reread(ledger: Ledger, account: Account, contact: str, reason: str, scale: float) -> None:
    """Note that an account could not be read once more; it waits, longer each time (`scale` multiplies the waits)."""
    with ledger.transaction() as connection:
        connection.execute(
            "update reread set tries = least(tries + 1, 1000), reason = %s, "
            "next_try = clock_timestamp() + least(%s * power(2, least(tries, 20)), %s) "
            "where programme = %s and contact = %s",
            (reason, batches.FIRST_WAIT * scale, batches.LONGEST_WAIT * scale, account.id, contact),
        )


@retried
def drop_reread(ledger: Ledger, account: Account, contact: str) -> None:
    """Give up reading a contact once more (its account is gone in Treazure); what is known stays."""
    with ledger.transaction() as connection:
        connection.execute("delete from reread where programme = %s and contact = %s", (account.id, contact))


def _note_vanished(cursor: psycopg.Cursor[dict[str, Any]], latest: Identifier, values: dict[str, Any]) -> int:
    cursor.execute(SQL("analyze {} (contact)").format(latest))
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


def _one(cursor: psycopg.Cursor[dict[str, Any]], statement: Any, values: Any = None) -> dict[str, Any]:
    row = cursor.execute(statement, values).fetchone()
    if row is None:
        message = "The observation is not staged any more: another run of the programme has taken over."
        raise DatabaseError(message, hint="Run the sync again.")
    return row


# One row for each contact, in key order: the lookups of neighbors are near each other, also when two processes share them.
_LATEST = """
create unlogged table {latest} with (parallel_workers = 1) as
select distinct on (contact) contact, balance from {stage} order by contact, mutated_at desc nulls last, position desc
"""

_IS_DOUBTED = """
select g.resend && tstzrange(o.window_from, o.asked) as is_doubted
from observation o join programme g on g.id = o.programme where o.id = %(observation)s
"""

# Balances that Engage is believed to hold, of a ledger that was restored since the export's times: as if read back and found
# to differ.
_RESEND = """
insert into pending as p (programme, contact, master, observation, since, marked, let_through)
select l.programme, l.contact, l.sent, l.observation, clock_timestamp(), true, case when l.sent < 0 then l.sent end
from (select distinct contact from {stage}) s
join ledger l on l.programme = %(programme)s and l.contact = s.contact
order by l.contact
on conflict (programme, contact) do update set marked = true
"""

# By itself, as a statement that writes rows is never shared with a parallel worker. Half of it is waiting for pages.
_COMPARE = """
create temporary table compared as
select s.contact, s.balance, coalesce(p.master, l.sent) as before, p.contact is not null as was_pending,
       coalesce(p.observation, l.observation) as observation
from {latest} s
left join ledger l on l.programme = %(programme)s and l.contact = s.contact
left join pending p on p.programme = %(programme)s and p.contact = s.contact
where coalesce(p.master, l.sent) is distinct from s.balance
"""

# A negative balance waits in `pending`, where it can be held, as well as in its planned batch.
# `newer`: no observation of the row was answered after this one was asked, or so shortly before that a replica may lack
# it. `recent` holds the few that were.
_NOTE = """
with recent as materialized (
    select id, asked, lags_until, outdated, answered >= %(asked)s as overlaps from observation
    where programme = %(programme)s and answered between %(asked)s - interval '1 hour' and clock_timestamp()
      and greatest(answered, lags_until) >= %(asked)s and state = 'merged'),
judged as materialized (
    select contact, balance, before, was_pending, lags_until,
           not coalesce(r.overlaps or balance = any (r.outdated), false) as newer,
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
    on conflict do nothing)
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
    where c.observation = %(observation)s and not c.planned),
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

_FETCHED = """tstzmultirange(case when least(%(window_to)s, %(asked)s) > %(window_from)s
        then tstzrange(%(window_from)s, least(%(window_to)s, %(asked)s)) else 'empty'::tstzrange end)"""

_CLOSE = f"""
with merged as (
    update observation set state = 'merged', figures = %(figures)s where id = %(observation)s)
update programme g set
    covered = {coverage.TRUSTED} + {_FETCHED},
    resend = resend - {_FETCHED},
    export_answered = greatest({_past("g.export_answered")}, %(answered)s),
    full_asked_at = case when %(is_full)s then %(asked)s else full_asked_at end,
    points_total = points_total + %(change)s, points_added = points_added + %(added)s
where id = %(programme)s
"""

_KNOWN_ROW = f"""
select k.balance, k.settled, case when o.answered <= clock_timestamp() then o.asked else 'epoch' end as asked,
       {_past("o.answered")} as answered, case when o.answered <= clock_timestamp() then o.lags_until end as lags_until, o.outdated
from (
    (select master as balance, observation, false as settled from unsettled
     where programme = %(programme)s and contact = %(contact)s)
    union all
    (select sent, observation, true from ledger where programme = %(programme)s and contact = %(contact)s)
    order by settled limit 1) k
left join observation o on o.id = k.observation
"""

# A planned batch with an older balance of the contact is taken apart. It would be sent after the newer one.
_ENTER = f"""
with noted as (
    insert into change (programme, observation, planned, contacts, before, after)
    values (%(programme)s, %(observation)s, false, array[%(contact)s::uuid], array[%(before)s::numeric], array[%(balance)s])),
{batches.UNPLAN.format(planned="%(contact)s = any (contacts)", rows="r.contact <> %(contact)s")},
entered as (
    insert into pending (programme, contact, master, observation, since)
    values (%(programme)s, %(contact)s, %(balance)s, %(observation)s, clock_timestamp())
    on conflict (programme, contact) do update
    set master = excluded.master, observation = excluded.observation, changed_at = excluded.changed_at, {batches.REVIVED})
update programme set points_total = points_total + %(change)s, points_added = points_added + greatest(%(change)s, 0)
where id = %(programme)s
"""

_TO_REREAD = """
select contact::text from reread
where programme = %(id)s and not (next_try > clock_timestamp() and next_try <= clock_timestamp() + %(longest)s)
order by since
"""

_READ_LATER = """
insert into reread (programme, contact, since, next_try) values (%(programme)s, %(contact)s, clock_timestamp(), %(next_try)s)
on conflict (programme, contact) do update set next_try = excluded.next_try
"""

_HAS_BEEN_READ = f"""
with resolved as ({rejections.RESOLVE_READ})
delete from reread where programme = %(programme)s and contact = %(contact)s
"""

_TOUCH = f"""
with touched as (
    update pending set observation = %(observation)s, {batches.REVIVED} where programme = %(programme)s and contact = %(contact)s)
update ledger set observation = %(observation)s where programme = %(programme)s and contact = %(contact)s
"""
