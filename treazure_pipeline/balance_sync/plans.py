"""Plans: what a push would change, how much that is, and what a person has approved (I7).

How much is too much is decided in `guards`. A row of an approved plan is sent if its newest master balance is still the one in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import decisions
from treazure_pipeline.ledger.batches import HELD, return_rows
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta
    from typing import Any

    from psycopg import Connection

    from treazure_pipeline.ledger.store import Account, Ledger

SHORTEST_DIGEST = 6
_ROWS_STORED_TOGETHER = 1000


@dataclass(frozen=True)
class Shift:
    """What sending the rows that are due would change, apart from those of an approved plan.

    Attributes:
        rows: How many rows that are.
        known: Contacts of the programme that Engage has accepted before.
        changed: How many of the known would change.
        zeroed: How many of the known would be set to zero.
        new: Contacts that would be sent for the first time.
        net: By how many points the total would change.
        total: The points that Engage holds before.
        largest: The largest change of one balance, up or down.
        negative: Rows held because their balance is below zero.
        approved: Rows of an approved plan.
        is_first_load: The programme has never been loaded completely.
    """

    rows: int
    known: int
    changed: int
    zeroed: int
    new: int
    net: Decimal
    total: Decimal
    largest: Decimal
    negative: int
    approved: int
    is_first_load: bool


@dataclass(frozen=True)
class Plan:
    """A stored plan; `reasons` says why it was not pushed."""

    id: int
    digest: str
    run_id: str
    state: str
    made_at: datetime
    reasons: list[str]
    approved_at: datetime | None
    approved_by: str | None
    expires_at: datetime | None


@dataclass(frozen=True)
class Picture:
    """What a person looks at before approving: counts and totals, the largest changes, a histogram, a sample.

    Rows are (contact, before, after); `before` is None for a contact that is new to Engage. `histogram` counts rows by the size of the
    change, from the largest loss to the largest gain.
    """

    rows: int
    gains: int
    losses: int
    zeroed: int
    new: int
    before: Decimal
    after: Decimal
    largest: list[tuple[str, Decimal | None, Decimal]]
    histogram: list[tuple[str, int]]
    sample: list[tuple[str, Decimal | None, Decimal]]
    digest: str


@retried
def shift(ledger: Ledger, account: Account) -> Shift:
    """Return what a push would change now. The cost grows with what is pending."""
    with ledger.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = one(cursor, _SHIFT, {"programme": account.id})
    return Shift(**row)


@retried
def note_loaded(ledger: Ledger, account: Account) -> None:
    """Note that nothing is left to push. This ends the first load if coverage reaches back to the programme's beginning."""
    with ledger.transaction() as connection:
        connection.execute(
            "update programme g set loaded_at = clock_timestamp() where id = %s and loaded_at is null "
            "and covered @> %s::timestamptz and exists (select from known k where k.programme = g.id and k.contacts > 0)",
            (account.id, account.beginning),
        )


@retried
def store(ledger: Ledger, account: Account, shifted: Shift, reasons: Sequence[str], *, run_id: str) -> Plan:
    """Store the rows that are due (if there are `reasons`) and those with a negative balance as the open plan.

    If the open plan has the same rows, it stays; otherwise it is replaced.
    """
    values = {
        "programme": account.id, "run_id": run_id, "all": bool(reasons), "size": _ROWS_STORED_TOGETHER,
        "figures": Jsonb(msgspec.to_builtins(shifted)), "reasons": [*reasons, *_of_negative(shifted)],
    }  # fmt: skip
    with ledger.transaction() as connection:
        row = one(connection, _STORE, values)
        connection.execute(
            "update plan set state = 'replaced' where programme = %s and state = 'open' and id <> %s",
            (account.id, row[0]),
        )
        return _read(connection, row[0])


def _of_negative(shifted: Shift) -> list[str]:
    return [f"{shifted.negative:,} balances are below zero; these rows alone are held"] if shifted.negative else []


@retried
def close_open(ledger: Ledger, account: Account) -> None:
    """Give up the open plan: what it held is no longer suspicious."""
    with ledger.transaction() as connection:
        connection.execute("update plan set state = 'replaced' where programme = %s and state = 'open'", (account.id,))


@retried
def expire(ledger: Ledger, account: Account) -> None:
    """End approvals whose time is up. Negative balances that they allowed and that were not sent are held again."""
    with ledger.transaction() as connection:
        connection.execute(
            "with ended as (update plan set state = 'expired' where programme = %(programme)s and state = 'approved' "
            "and expires_at <= clock_timestamp() returning id), "
            "rows as (select r.contact, r.after from ended e join plan_lot t on t.plan = e.id, "
            "unnest(t.contacts, t.after) as r (contact, after) where r.after < 0) "
            "update pending p set let_through = null from rows r "
            "where p.programme = %(programme)s and p.contact = r.contact and p.let_through = r.after",
            {"programme": account.id},
        )


@retried
def approve(
    ledger: Ledger, account: Account | None, digest: str, *, by: str, lifetime: timedelta, why: str = ""
) -> Plan:
    """Allow an open plan to be sent once, until `lifetime` from now. The first six digits of the digest are enough.

    Approving an approved plan again changes nothing. Raises SettingsError unless exactly one open plan has this digest.
    """
    with ledger.transaction() as connection:
        plan = _waiting(connection, account, digest)
        if plan.state != "open":
            return plan
        connection.execute(_APPROVE, {"id": plan.id, "by": by, "lifetime": lifetime})
        decisions.note(connection, "approved", subject(plan), by=by, why=why)
        return _read(connection, plan.id)


@retried
def let_be(ledger: Ledger, account: Account | None, digest: str, *, by: str, why: str) -> Plan:
    """Note that a person has looked at an open plan and does not approve it. It stays held until a run replaces it.

    `digest` and errors are as for `approve`; a plan that is approved is an error too.
    """
    with ledger.transaction() as connection:
        plan = _waiting(connection, account, digest)
        if plan.state != "open":
            raise SettingsError("This plan no longer waits: it was approved.")
        decisions.note(connection, "let be", subject(plan), by=by, why=why)
        return plan


def _waiting(connection: Connection[Any], account: Account | None, digest: str) -> Plan:
    """Lock and return the one plan, open or approved, whose digest starts like this."""
    wanted = digest.strip().lower()
    rows = connection.execute(
        "select id from plan where left(digest, length(%(digest)s)) = %(digest)s "
        "and (%(programme)s::smallint is null or programme = %(programme)s) and length(%(digest)s) >= %(shortest)s "
        "and (state = 'open' or state = 'approved' and expires_at > clock_timestamp()) order by id for update",
        {"digest": wanted, "programme": account and account.id, "shortest": SHORTEST_DIGEST},
    ).fetchall()
    if len(rows) != 1:
        raise SettingsError(
            f"{'No' if not rows else 'More than one'} plan that waits for approval has the digest {wanted!r}.",
            hint="`treazure-pipeline plan` shows the waiting plan. A newer run replaces the plan of an older one.",
        )
    return _read(connection, rows[0][0])


def subject(plan: Plan) -> str:
    """Return how recorded decisions name a plan."""
    return f"plan {plan.digest}"


@retried
def mark_used(ledger: Ledger, account: Account, *, run_id: str, before: datetime) -> None:
    """Note that a push has used the plans that were approved `before` it began. They allow nothing more."""
    with ledger.transaction() as connection:
        connection.execute(
            "update plan set state = 'used', used_at = clock_timestamp(), used_run_id = %s "
            "where programme = %s and state = 'approved' and approved_at <= %s",
            (run_id, account.id, before),
        )


def open_plan(connection: Connection[Any], account: Account) -> Plan | None:
    """Return the plan that waits for approval, or an approved one that waits for its push, or None."""
    row = connection.execute(
        "select id from plan where programme = %s and (state = 'open' or state = 'approved' "
        "and expires_at > clock_timestamp()) order by state desc, id desc limit 1",
        (account.id,),
    ).fetchone()
    return None if row is None else _read(connection, row[0])


@retried
def approved_contacts(ledger: Ledger, account: Account) -> list[str]:
    """Move all planned rows to `pending`, and return the contacts of approved plans that are due."""
    return_rows(ledger, account)
    with ledger.transaction() as connection:
        rows = connection.execute(
            f"with {_APPROVED} select p.contact::text from approved a "
            "join pending p on p.programme = %(programme)s and p.contact = a.contact and p.master = a.after order by 1",
            {"programme": account.id},
        ).fetchall()
    return [contact for (contact,) in rows]


def picture(connection: Connection[Any], account: Account, plan: Plan | None) -> Picture:
    """Describe the rows of a stored plan; without one, what a push would send now. Writes nothing."""
    source, values = _source(account, plan)
    with connection.cursor(row_factory=dict_row) as cursor:
        row = one(cursor, f"with {source} {_PICTURE}", values)
    steps, largest, sample = (row.pop(name) for name in ("steps", "largest", "sample"))
    return Picture(
        **row,
        largest=[_change(*entry) for entry in largest],
        histogram=[(_step(step), count) for step, count in sorted(steps)],
        sample=[_change(*entry) for entry in sample],
        digest="" if plan is None else plan.digest,
    )


def _change(contact: str, before: str | None, after: str) -> tuple[str, Decimal | None, Decimal]:
    return contact, None if before is None else Decimal(before), Decimal(after)


def rows(
    connection: Connection[Any], account: Account, plan: Plan | None
) -> Iterator[tuple[str, Decimal | None, Decimal]]:
    """Return all rows that `picture` describes, in contact order, streamed from the server."""
    source, values = _source(account, plan)
    with connection.cursor(name="plan_rows") as cursor:
        cursor.execute(f"with {source} select contact::text, before, after from rows order by contact", values)
        yield from cursor


def _source(account: Account, plan: Plan | None) -> tuple[str, dict[str, Any]]:
    if plan is None:
        return f"{_ROWS}, rows as (select contact, before, after from due)", {"programme": account.id}
    return _PLAN_ROWS, {"programme": account.id, "plan": plan.id}


def _step(step: int) -> str:
    """Name a histogram step: 3 is a gain of 100 or more but below 1,000; -1 is a loss below 10."""
    size = abs(step)
    bounds = f"below {10**size:,}" if size <= 1 else f"{10 ** (size - 1):,} to {10**size:,}"
    return "no change" if step == 0 else f"{'gain' if step > 0 else 'loss'} {bounds}"


def _read(connection: Connection[Any], number: int) -> Plan:
    row = one(
        connection,
        "select id, digest, run_id, state, made_at, reasons, approved_at, approved_by, expires_at "
        "from plan where id = %s",
        (number,),
    )
    return Plan(*row)


_APPROVED = """
approved as materialized (
    select distinct r.contact, r.after from plan a join plan_lot t on t.plan = a.id,
        unnest(t.contacts, t.after) as r (contact, after)
    where a.programme = %(programme)s and a.state = 'approved' and a.expires_at > clock_timestamp())
"""

# What a push would send: (contact, before, after). In the planned batches of a merge, `before` is what was known before the merge.
# That is what Engage has accepted, since no planned batch contains a row that was pending.
_ROWS = f"""
lone as materialized (
    select p.contact, l.sent as before, p.master as after, {HELD} as held,
           p.master < 0 and p.let_through is distinct from p.master and not p.gone as negative
    from pending p left join ledger l on l.programme = p.programme and l.contact = p.contact
    where p.programme = %(programme)s),
due as (
    select r.contact, r.before, r.after from change c, unnest(c.contacts, c.before, c.after) as r (contact, before, after)
    where c.programme = %(programme)s and c.planned and r.contact not in (select contact from lone)
    union all
    select contact, before, after from lone where not held and after is distinct from before)
"""

_SHIFT = f"""
with {_ROWS}, {_APPROVED},
judged as not materialized (
    select before, after, after - coalesce(before, 0) as change,
           (d.contact, d.after) not in (select contact, after from approved) as open
    from due d),
summed as (
    select count(*) as due, sum(change) as all_change, count(*) filter (where open) as rows,
           count(before) filter (where open) as changed, count(*) filter (where open and after = 0 and before <> 0) as zeroed,
           count(*) filter (where open and before is null) as new, coalesce(sum(change) filter (where open), 0) as net,
           greatest(max(change) filter (where open), -min(change) filter (where open), 0) as largest
    from judged),
held as (
    select coalesce(sum(after - coalesce(before, 0)) filter (where held), 0) as held_change,
           count(*) filter (where negative) as negative
    from lone)
select rows, coalesce((select contacts from known where programme = g.id), 0) as known, changed, zeroed, new, net,
       g.points_total - coalesce(all_change, 0) - held_change as total, largest, negative, due - rows as approved,
       g.loaded_at is null as is_first_load
from summed, held, programme g where g.id = %(programme)s
"""

_STORE = f"""
with {_ROWS}, {_APPROVED},
kept as materialized (
    select contact, before, after, (row_number() over (order by contact) - 1) / %(size)s as part from (
        select contact, before, after from due d
        where %(all)s and (d.contact, d.after) not in (select contact, after from approved)
        union all
        select contact, before, after from lone where negative) k),
parts as materialized (
    select part, array_agg(contact order by contact) as contacts, array_agg(before order by contact) as before,
           array_agg(after order by contact) as after,
           encode(sha256(convert_to(string_agg(concat_ws(' ', contact, trim_scale(before), '>', trim_scale(after)), ','
               order by contact), 'UTF8')), 'hex') as digest
    from kept group by part),
digest as (
    select left(encode(sha256(convert_to(coalesce(string_agg(digest, ',' order by part), ''), 'UTF8')), 'hex'), 16) as digest
    from parts),
same as (
    select p.id from plan p, digest d where p.programme = %(programme)s and p.state = 'open' and p.digest = d.digest limit 1),
made as (
    insert into plan (programme, digest, run_id, figures, reasons)
    select %(programme)s, digest, %(run_id)s, %(figures)s, %(reasons)s from digest where not exists (select from same)
    returning id),
filled as (
    insert into plan_lot (plan, contacts, before, after) select made.id, contacts, before, after from made, parts)
select id from made union all select id from same
"""

_APPROVE = """
with approved as (
    update plan set state = 'approved', approved_at = clock_timestamp(), approved_by = %(by)s,
        expires_at = clock_timestamp() + %(lifetime)s
    where id = %(id)s returning id, programme)
update pending p set let_through = r.after
from approved a join plan_lot t on t.plan = a.id, unnest(t.contacts, t.after) as r (contact, after)
where r.after < 0 and p.programme = a.programme and p.contact = r.contact and p.master = r.after
"""

_PLAN_ROWS = """
rows as materialized (
    select r.contact, r.before, r.after from plan_lot t, unnest(t.contacts, t.before, t.after) as r (contact, before, after)
    where t.plan = %(plan)s)
"""

_PICTURE = """
, changes as materialized (select *, after - coalesce(before, 0) as change from rows),
steps as (
    select (case when change = 0 then 0 else sign(change) * greatest(1, floor(log(abs(change))) + 1) end)::integer as step,
           count(*) as n
    from changes group by 1)
select count(*) as rows, count(*) filter (where change > 0) as gains, count(*) filter (where change < 0) as losses,
       count(*) filter (where after = 0 and before <> 0) as zeroed, count(*) filter (where before is null) as new,
       coalesce(sum(before), 0) as before, coalesce(sum(after), 0) as after,
       (select coalesce(jsonb_agg(jsonb_build_array(step, n)), '[]') from steps) as steps,
       (select coalesce(jsonb_agg(jsonb_build_array(contact, trim_scale(before)::text, trim_scale(after)::text)), '[]')
        from (select * from changes order by abs(change) desc, contact limit 10) l) as largest,
       (select coalesce(jsonb_agg(jsonb_build_array(contact, trim_scale(before)::text, trim_scale(after)::text)), '[]')
        from (select * from changes order by md5(contact::text) limit 10) s) as sample
from changes
"""
