"""Batches: what is claimed for one request to Engage, how it ended, and folding the accepted ones into the ledger.

A batch's row holds exactly what its request carried, so acknowledging costs one flag, and a batch whose process was
killed still tells what may have arrived. A claim reads the newest master balances (I2); the ledger's `sent` follows
accepted batches only (I3).

    sending ──2xx──▶ accepted ──fold──▶ folded        (but for rows that the answer refuses)
       ├──4xx, 429, no connection──▶ refused / failed  (without effect)
       └──no answer, 5xx, lease over──▶ lost           (effect unknown: its rows are set again)

Rows come from the batches that the last merge planned, as they are, and from the table `pending`, where every row goes that
was not accepted. A row in `pending` is newer than one that is planned or under way.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from treazure_pipeline import conventions
from treazure_pipeline.clients.engage_wire import UNKNOWN_CONTACT
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger

GONE_AFTER = timedelta(days=30)
FIRST_WAIT = timedelta(minutes=55)
LONGEST_WAIT = timedelta(hours=24)


@dataclass(frozen=True)
class Batch:
    """A claimed batch: contacts (lower-case GUIDs) and their newest balances as exact decimal texts."""

    id: int
    contacts: list[str]
    amounts: list[str]
    time_stamp: datetime


@retried
def claim(
    ledger: Ledger,
    account: Account,
    *,
    run_id: str,
    run_started: datetime,
    size: int,
    lease: float,
    after: str | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    doubted: bool = True,
) -> Batch | None:
    """Claim the next rows that are due, in key order, for one request that is about to be sent.

    `after`: rows whose contact is greater; `only`: rows of these contacts; `without`: none of these; `doubted`: also rows that
    were marked to be sent again and whose balance was not read in Treazure since. Left out are rows
    whose present balance was refused since `run_started`, rows waiting for their next try, rows in a request under way (its `lease`, in seconds, is not
    over, or nobody has said by `abandon` that it is), and rows in an accepted one until that is folded, since sent once
    more they would be settled twice. The timeStamp is the database's clock in milliseconds, later than any given before in the programme.
    Returns None when no row is due. A claim whose commit got no answer is a request that was never sent: it ends with
    its lease.
    """
    values = {
        "programme": account.id, "run_id": run_id, "run_started": run_started, "size": size, "lease": lease,
        "after": after, "only": list(only or ()), "without": list(without), "doubted": doubted,
    }  # fmt: skip
    statement = _CLAIM_ONLY if only is not None else _CLAIM_FIRST if after is None else _CLAIM_NEXT
    with _claiming(ledger, account) as connection:
        return _batch(connection.execute(statement, values).fetchone())


@retried
def claim_planned(ledger: Ledger, account: Account, *, run_id: str, lease: float) -> Batch | None:
    """Claim the next batch that the last merge planned, without rows that have a newer one in `pending`; else as `claim`."""
    while True:
        with _claiming(ledger, account) as connection:
            row = connection.execute(
                _CLAIM_PLANNED, {"programme": account.id, "run_id": run_id, "lease": lease}
            ).fetchone()
        if row is None or row[0] is not None:
            return _batch(row)


def keep_from_claiming(connection: psycopg.Connection, account: Account) -> None:
    """Keep everybody from claiming rows of the programme, and from learning a balance, until the transaction ends.

    By a statement of its own: what the next one reads is as new as the lock. A claim that waits for a merge while it
    already knows its rows would send what the merge has just replaced.
    """
    connection.execute("select from programme where id = %s for update", (account.id,))


def keep_from_folding(connection: psycopg.Connection, account: Account) -> None:
    """Keep everybody from folding batches of the programme until the transaction ends: nothing is settled."""
    connection.execute("select pg_advisory_xact_lock(%s, %s)", (conventions.FOLD_LOCKS, account.id))


def keep_from_settling(connection: psycopg.Connection, account: Account, contact: str) -> None:
    """Keep the contact's requests from being folded until the transaction ends; claiming is kept off.

    By a statement of its own, as `keep_from_claiming`: a fold that has begun is seen by the next one, and a fold that
    begins later sees what this transaction enters. Else both would count the row, one as sent and one as pending.
    """
    connection.execute(
        "select from batch where programme = %s and state in ('sending', 'accepted') and %s::uuid = any (contacts) "
        "order by id for share",
        (account.id, contact),
    )


@contextmanager
def _claiming(ledger: Ledger, account: Account) -> Iterator[psycopg.Connection]:
    with ledger.transaction() as connection:
        keep_from_claiming(connection, account)
        yield connection


def _batch(row: tuple[Any, ...] | None) -> Batch | None:
    return None if row is None else Batch(row[0], row[1].split(","), row[2].split(","), row[3])


@retried
def accept(
    ledger: Ledger,
    account: Account,
    batch: Batch,
    *,
    transaction_id: str | None,
    request_id: str | None,
    refused: Mapping[str, str],
    scale: float,
) -> None:
    """Record durably that Engage accepted a batch, but for the rows in `refused` (contact → reason).

    Too late for a batch that was marked as lost meanwhile: its rows are sent again, or have been. Nothing is recorded.
    """
    with ledger.transaction() as connection:
        found = connection.execute(
            "update batch set state = 'accepted', answered_at = clock_timestamp(), transaction_id = %s, request_id = %s, "
            "refused = %s::uuid[] where id = %s and state = 'sending' returning id",
            (transaction_id, request_id, list(refused), batch.id),
        ).fetchone()
        if found is None:
            return
        if refused:
            connection.execute(_RETURN, {"ids": [batch.id], "only": list(refused)})
            connection.execute(_REFUSE, _refusal(account, batch, refused, scale))


@retried
def refuse(
    ledger: Ledger, account: Account, batch: Batch, *, request_id: str | None, reason: str, scale: float
) -> None:
    """Record that Engage refused a whole batch, if not too late. A single row waits for its next try."""
    with ledger.transaction() as connection:
        if not _is_under_way(connection, batch):
            return
        connection.execute(
            "update batch set state = 'refused', answered_at = clock_timestamp(), request_id = %s, error = %s where id = %s",
            (request_id, reason, batch.id),
        )
        connection.execute(_RETURN, {"ids": [batch.id], "only": None})
        if len(batch.contacts) == 1:
            connection.execute(_REFUSE, _refusal(account, batch, {batch.contacts[0]: reason}, scale))


@retried
def fail(ledger: Ledger, batch: Batch, *, effect_possible: bool, error: str) -> None:
    """Record that a batch got no useful answer, if not too late; its rows stay pending.

    After a lost answer the batch keeps its lease: Engage may still be at work on it.
    """
    with ledger.transaction() as connection:
        if not _is_under_way(connection, batch):
            return
        connection.execute(_RETURN, {"ids": [batch.id], "only": None})
        connection.execute(
            "update batch set state = case when %(lost)s then 'lost' else 'failed' end, error = %(error)s, "
            "lease_until = case when %(lost)s then lease_until else clock_timestamp() end where id = %(id)s",
            {"lost": effect_possible, "error": error, "id": batch.id},
        )


def _is_under_way(connection: psycopg.Connection, batch: Batch) -> bool:
    row = connection.execute("select state from batch where id = %s for update", (batch.id,)).fetchone()
    return row is not None and row[0] == "sending"


@retried
def end_lease(ledger: Ledger, batch: Batch) -> None:
    """Free the rows of a lost batch at once: Engage has answered (5xx), so it is no longer at work on it."""
    with ledger.transaction() as connection:
        connection.execute("update batch set lease_until = clock_timestamp() where id = %s", (batch.id,))


@retried
def lease_left(ledger: Ledger, account: Account, batch: Batch | None = None, *, due: bool = False) -> float:
    """Return the seconds until the last lease of the programme's requests is over; 0 when none is under way.

    `batch`: of this request alone; `due`: of those alone that keep a row from being sent, so not of a lost one whose
    rows have arrived by another.
    """
    with ledger.transaction() as connection:
        row = connection.execute(
            "select coalesce(extract(epoch from max(b.lease_until) - clock_timestamp()), 0)::float from batch b "
            "where b.programme = %(id)s and b.state in ('sending', 'lost') and b.lease_until > clock_timestamp() "
            "and (b.id = %(batch)s or %(batch)s::bigint is null and (not %(due)s or b.state = 'sending' or exists (select from pending p "
            f"where p.programme = b.programme and p.contact = any (b.contacts) and not {HELD})))",
            {"id": account.id, "batch": batch and batch.id, "due": due},
        ).fetchone()
    return 0.0 if row is None else max(0.0, row[0])


@retried
def fold(ledger: Ledger, account: Account, *, at_most: int = 10_000) -> int:
    """Carry accepted batches into the ledger in one transaction; return how many rows were settled.

    A row leaves `pending` when the accepted amount is its newest master balance and was so when it was claimed; else it
    stays, to be sent again: a balance that went elsewhere and back may be in a newer request meanwhile.
    """
    with ledger.transaction() as connection:
        # What a crash of the server loses of it is folded again: the batches are still accepted.
        connection.execute(
            "select set_config('synchronous_commit', 'off', true), pg_advisory_xact_lock_shared(%s, %s)",
            (conventions.FOLD_LOCKS, account.id),
        )
        # Locked by a statement of its own, so that the next one sees what was entered before the locks were given.
        found = connection.execute(
            "select id from batch where programme = %s and state = 'accepted' order by id limit %s for update",
            (account.id, at_most),
        ).fetchall()
        row = one(connection, _FOLD, {"programme": account.id, "ids": [number for (number,) in found]})
    return int(row[0])


@retried
def abandon(ledger: Ledger, account: Account) -> int:
    """Mark requests whose lease is over and whose process never recorded an answer as lost; return how many."""
    with ledger.transaction() as connection:
        found = connection.execute(
            "update batch set state = 'lost', error = 'its process ended without recording an answer' "
            "where programme = %s and state = 'sending' and lease_until <= clock_timestamp() returning id",
            (account.id,),
        ).fetchall()
        connection.execute(_RETURN, {"ids": [number for (number,) in found], "only": None})
    return len(found)


@retried
def return_rows(ledger: Ledger, account: Account) -> None:
    """Give every row that is planned or under way a row of its own in `pending`, as a merge needs it.

    What an earlier run left planned is not planned any more. Costs what an earlier run left behind.
    """
    with ledger.transaction() as connection:
        # Locked first: what is accepted and folded meanwhile would come back.
        found = connection.execute(
            "select id from batch where programme = %s and state = 'sending' for update", (account.id,)
        ).fetchall()
        connection.execute(_UNPLAN_ALL, {"programme": account.id})
        connection.execute(_RETURN, {"ids": [number for (number,) in found], "only": None})


@retried
def first_due(ledger: Ledger, account: Account, limit: int) -> list[str]:
    """Give every row that is planned one of its own in `pending`; return the first contacts that are due, by their key."""
    return_rows(ledger, account)
    with ledger.transaction() as connection:
        rows = connection.execute(
            f"select contact::text from pending p where programme = %s and not {HELD} order by contact limit %s",
            (account.id, limit),
        ).fetchall()
    return [contact for (contact,) in rows]


def accepted_amounts(ledger: Ledger, account: Account, contacts: Sequence[str]) -> dict[str, Decimal]:
    """Return what Engage accepted last of those of these contacts that are settled: nothing newer waits to be sent."""
    with ledger.reading() as connection:
        rows = connection.execute(
            "select l.contact::text, l.sent from ledger l where l.programme = %s and l.contact = any (%s::uuid[]) and not "
            "exists (select from unsettled u where u.programme = l.programme and u.contact = l.contact)",
            (account.id, list(contacts)),
        ).fetchall()
    return dict(rows)


def _refusal(account: Account, batch: Batch, refused: Mapping[str, str], scale: float) -> dict[str, object]:
    return {
        "programme": account.id,
        "batch": batch.id,
        "contacts": list(refused),
        "reasons": list(refused.values()),
        "first_wait": FIRST_WAIT * scale,
        "longest_wait": LONGEST_WAIT * scale,
        "gone_after": GONE_AFTER,
        "unknown": UNKNOWN_CONTACT,
    }


_UNCHANGED = "(p.master = r.amount and not (p.changed_at > r.claimed_at and p.changed_at <= clock_timestamp()))"
"""Whether the row `p` of `pending` is still what the request `r` carried: nothing newer was learned since its claim.

(Nor is a change newer that lies in the future: the clock was ahead then.)
"""

# A refusal is of the amount that was sent: it is not held against one that was learned meanwhile.
_REFUSE = f"""
update pending p set
    tries = least(p.tries + 1, 1000),
    refused_first = coalesce(p.refused_first, clock_timestamp()), refused_last = clock_timestamp(), reason = r.reason,
    gone = r.reason = %(unknown)s
           and clock_timestamp() - coalesce(p.refused_first, clock_timestamp()) >= %(gone_after)s,
    next_try = clock_timestamp() + least(%(first_wait)s * power(2, least(p.tries, 20)), %(longest_wait)s)
from (select b.claimed_at, c.contact, c.amount, n.reason
      from batch b, unnest(b.contacts, b.amounts) as c (contact, amount),
           unnest(%(contacts)s::uuid[], %(reasons)s::text[]) as n (contact, reason)
      where b.id = %(batch)s and n.contact = c.contact) r
where p.programme = %(programme)s and p.contact = r.contact and {_UNCHANGED}
"""

REVIVED = "next_try = null, gone = false"
"""What a balance learned of the master changes of its row in `pending`: a refusal was of another amount."""

HELD = """
    (p.gone or coalesce(p.next_try > clock_timestamp(), false)
     or (p.master < 0 and p.let_through is distinct from p.master))
"""
"""Whether the row `p` of `pending` is kept back: gone, waiting for its next try, or negative without approval."""

# Asked within each claim, so that nothing leaves once the programme is in migration (I11).
_LIVE = "exists (select from programme g where g.id = %(programme)s and g.mode = 'live')"

_DUE = f"""
    p.programme = %(programme)s and {_LIVE} and not {HELD}
    and p.contact <> all (%(without)s::uuid[])
    and (%(doubted)s or not p.marked or exists (select from observation o where o.id = p.observation and o.asked >= p.since))
    and not coalesce(p.refused_last between greatest(%(run_started)s, p.changed_at) and clock_timestamp(), false)
    and not exists (select from busy where busy.contact = p.contact)
"""

_INSERT = """
stamped as (
    update programme set last_time_stamp = greatest(
        date_trunc('milliseconds', clock_timestamp()), last_time_stamp + interval '1 millisecond')
    where id = %(programme)s and exists (select from due) returning last_time_stamp),
claimed as (
    insert into batch (programme, run_id, observation, state, contacts, amounts, time_stamp, claimed_at, lease_until)
    select %(programme)s, %(run_id)s, {observation}, 'sending', contacts, amounts,
           (select last_time_stamp from stamped), clock_timestamp(), clock_timestamp() + make_interval(secs => %(lease)s)
    from due
    returning id, contacts, amounts, time_stamp)
select claimed.id, array_to_string(claimed.contacts, ','), array_to_string(claimed.amounts, ','), time_stamp from {source}
"""

_CLAIM = """
with busy as materialized (
    select unnest(b.contacts) as contact from batch b
    where b.programme = %(programme)s
      and (b.state in ('sending', 'accepted') or b.state = 'lost' and b.lease_until > clock_timestamp())),
due as materialized (
    select array_agg(contact) as contacts, array_agg(master) as amounts
    from (select p.contact, p.master from pending p where {due} and {rows} order by p.contact limit %(size)s) p
    having count(*) > 0),
""" + _INSERT.format(observation="0", source="claimed")

_CLAIM_PLANNED = f"""
with taken as (
    update change set planned = false where id = (
        select id from change where programme = %(programme)s and planned and {_LIVE} order by id limit 1 for update)
    returning observation, contacts, after),
due as materialized (
    select contacts, after as amounts from taken
    where not exists (select from pending where programme = %(programme)s)
    union all
    select array_agg(r.contact), array_agg(r.master) from taken, unnest(taken.contacts, taken.after) as r (contact, master)
    where exists (select from pending where programme = %(programme)s)
      and not exists (select from pending p where p.programme = %(programme)s and p.contact = r.contact)
    having count(*) > 0),
""" + _INSERT.format(observation="(select observation from taken)", source="taken left join claimed on true")

UNPLAN = """
unplanned as (
    update change set planned = false where programme = %(programme)s and planned and {planned}
    returning contacts, after, observation, noted_at),
unplanned_rows as (
    insert into pending (programme, contact, master, observation, since, changed_at)
    select %(programme)s, r.contact, r.after, u.observation, u.noted_at, u.noted_at
    from unplanned u, unnest(u.contacts, u.after) as r (contact, after)
    where {rows} order by r.contact on conflict do nothing)
"""
"""Gives the rows of these planned batches a row each in `pending` where they have none, as parts of a WITH."""

_UNPLAN_ALL = f"with {UNPLAN.format(planned='true', rows='true')} select"

_RETURN = """
insert into pending (programme, contact, master, observation, since, changed_at)
select b.programme, r.contact, r.amount, b.observation, b.claimed_at, b.claimed_at
from batch b, unnest(b.contacts, b.amounts) as r (contact, amount)
where b.id = any (%(ids)s) and (%(only)s::uuid[] is null or r.contact = any (%(only)s::uuid[]))
order by r.contact on conflict do nothing
"""

_CLAIM_FIRST = _CLAIM.format(due=_DUE, rows="true")
_CLAIM_NEXT = _CLAIM.format(due=_DUE, rows="p.contact > %(after)s::uuid")
_CLAIM_ONLY = _CLAIM.format(due=_DUE, rows="p.contact = any (%(only)s::uuid[])")

_FOLD = f"""
with done as (
    select id, observation, contacts, amounts, refused, claimed_at from batch
    where id = any (%(ids)s)),
rows as materialized (
    select distinct on (r.contact) r.contact, r.amount, done.id, done.observation, done.claimed_at
    from done, unnest(done.contacts, done.amounts) as r (contact, amount)
    where done.refused = '{{}}' or not r.contact = any (done.refused)
    order by r.contact, done.id desc),
settled as (
    delete from pending p using rows r
    where p.programme = %(programme)s and p.contact = r.contact and {_UNCHANGED}
    returning r.contact, p.observation),
outdated as (
    select r.id, count(*) as n from rows r join pending p on p.programme = %(programme)s and p.contact = r.contact
    where not {_UNCHANGED} group by r.id),
moved as (
    update ledger l set sent = r.amount, batch = r.id, observation = greatest(r.observation, s.observation)
    from rows r left join settled s using (contact)
    where l.programme = %(programme)s and l.contact = r.contact
    returning l.contact),
added as (
    insert into ledger (programme, contact, sent, batch, observation)
    select %(programme)s, r.contact, r.amount, r.id, greatest(r.observation, s.observation)
    from rows r left join settled s using (contact)
    where (select count(*) from moved) < (select count(*) from rows) and r.contact not in (select contact from moved)
    order by r.contact returning programme),
grown as (
    insert into known (programme, contacts) select programme, count(*) from added group by programme
    on conflict (programme) do update set contacts = known.contacts + excluded.contacts),
counted as (
    select r.id, count(*) - coalesce(max(o.n), 0) as n from rows r left join outdated o using (id) group by r.id),
closed as (
    update batch b set state = 'folded', settled = coalesce(c.n, 0)
    from done left join counted c using (id) where b.id = done.id)
select coalesce(sum(n), 0)::bigint from counted
"""
