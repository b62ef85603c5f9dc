"""Batches: claiming rows for one request to Engage, recording how it ended, and folding accepted batches into the ledger.

A batch's row holds exactly what its request carried. So acceptance only sets one flag, and if the process is killed, the row still tells what may
have arrived. A claim reads the newest master balances (I2), and only accepted batches change the ledger's `sent` (I3).

    sending ──2xx──▶ accepted ──fold──▶ folded        (except rows that the answer refuses)
       ├──4xx, 429, no connection──▶ refused / failed  (without effect)
       └──no answer, 5xx, lease over──▶ lost           (effect unknown: its rows are sent again)

Rows come from the batches that the last merge planned, and from the table `pending`, which gets every row that was not accepted. A row in
`pending` is newer than one that is planned or under way.
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
    """A claimed batch: contacts (GUIDs in lower case) and their newest balances as exact decimal text."""

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
    """Claim the next rows that are due, in key order, for one request that is about to be sent. None if no row is due.

    Left out are rows whose present balance was refused since `run_started`, rows waiting for their next try, and rows in a request that is under
    way or accepted but not folded yet. A request is under way until `abandon` marks it as lost, after its lease.
    The timeStamp is the database's clock in milliseconds, and later than any before in the programme. If the answer to the commit is lost, the
    request is never sent, and the claim ends with its lease.

    The rows are claimed for `lease` seconds. `after`: only contacts after this one; `only`: only these contacts; `without`: none of these;
    `doubted`: also rows that were marked to be sent again and whose balance has not been read in Treazure since.
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
    """Claim the next planned batch, without rows that have a newer one in `pending`. Otherwise like `claim`."""
    while True:
        with _claiming(ledger, account) as connection:
            row = connection.execute(
                _CLAIM_PLANNED, {"programme": account.id, "run_id": run_id, "lease": lease}
            ).fetchone()
        if row is None or row[0] is not None:
            return _batch(row)


def keep_from_claiming(connection: psycopg.Connection, account: Account) -> None:
    """Keep everybody from claiming rows of the programme or recording balances until the transaction ends.

    The lock is a separate statement, so that the next one sees everything committed before the lock was granted. Otherwise a claim that
    waited for a merge would send what the merge has just replaced.
    """
    connection.execute("select from programme where id = %s for update", (account.id,))


def keep_from_folding(connection: psycopg.Connection, account: Account) -> None:
    """Keep everybody from folding batches of the programme until the transaction ends."""
    connection.execute("select pg_advisory_xact_lock(%s, %s)", (conventions.FOLD_LOCKS, account.id))


def keep_from_settling(connection: psycopg.Connection, account: Account, contact: str) -> None:
    """Keep the contact's requests from being folded until the transaction ends. Claiming must be locked out already.

    A separate statement, like `keep_from_claiming`: the next one sees a fold that had begun, and a later fold sees what this transaction
    writes. Otherwise the row would be counted twice, as sent and as pending.
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
    """Record durably that Engage accepted a batch, except for the rows in `refused` (contact → reason).

    If the batch was marked as lost meanwhile, nothing is recorded, and its rows are sent again.
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
    """Record that Engage refused a whole batch, unless it was marked as lost. A single row waits for its next try."""
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
    """Record that a batch got no useful answer, unless it was marked as lost. Its rows stay pending.

    If an effect is possible, the batch keeps its lease, since Engage may still be working on it.
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
    """Free the rows of a lost batch at once: Engage has answered (5xx), so it is no longer working on it."""
    with ledger.transaction() as connection:
        connection.execute("update batch set lease_until = clock_timestamp() where id = %s", (batch.id,))


@retried
def lease_left(ledger: Ledger, account: Account, batch: Batch | None = None, *, due: bool = False) -> float:
    """Return the seconds until the last lease of the programme's requests ends; 0 if none is under way.

    With `batch`, only of that request; with `due`, only of requests that keep a row from being sent.
    """
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select coalesce(extract(epoch from max(b.lease_until) - clock_timestamp()), 0)::float from batch b "
            "where b.programme = %(id)s and b.state in ('sending', 'lost') and b.lease_until > clock_timestamp() "
            "and (b.id = %(batch)s or %(batch)s::bigint is null and (not %(due)s or b.state = 'sending' or exists (select from pending p "
            f"where p.programme = b.programme and p.contact = any (b.contacts) and not {HELD})))",
            {"id": account.id, "batch": batch and batch.id, "due": due},
        )
    return max(0.0, float(row[0]))


@retried
def fold(ledger: Ledger, account: Account, *, at_most: int = 10_000) -> int:
    """Write accepted batches into the ledger in one transaction. Return how many rows were settled.

    A row leaves `pending` if its master balance is the accepted one and has not changed since the claim. Otherwise it stays and is sent again:
    a balance that has changed and changed back may already be in a newer request.
    """
    with ledger.transaction() as connection:
        # If a crash of the server loses this, the batches are still accepted, and are folded again.
        connection.execute(
            "select set_config('synchronous_commit', 'off', true), pg_advisory_xact_lock_shared(%s, %s)",
            (conventions.FOLD_LOCKS, account.id),
        )
        # A separate statement, so that the next one sees everything committed before the locks were granted.
        found = connection.execute(
            "select id from batch where programme = %s and state = 'accepted' order by id limit %s for update",
            (account.id, at_most),
        ).fetchall()
        row = one(connection, _FOLD, {"programme": account.id, "ids": [number for (number,) in found]})
    return int(row[0])


@retried
def abandon(ledger: Ledger, account: Account) -> int:
    """Mark requests as lost whose lease has ended without a recorded answer. Return how many."""
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
    """Copy all rows that are planned or under way to `pending`, and dissolve planned batches. A merge needs this.

    The cost grows with what earlier runs have left behind.
    """
    with ledger.transaction() as connection:
        # Locked first, or rows that are accepted and folded meanwhile would come back.
        found = connection.execute(
            "select id from batch where programme = %s and state = 'sending' for update", (account.id,)
        ).fetchall()
        connection.execute(_UNPLAN_ALL, {"programme": account.id})
        connection.execute(_RETURN, {"ids": [number for (number,) in found], "only": None})


@retried
def first_due(ledger: Ledger, account: Account, limit: int) -> list[str]:
    """Move all planned rows to `pending`, and return the first contacts that are due, in key order."""
    return_rows(ledger, account)
    with ledger.transaction() as connection:
        rows = connection.execute(
            f"select contact::text from pending p where programme = %s and not {HELD} order by contact limit %s",
            (account.id, limit),
        ).fetchall()
    return [contact for (contact,) in rows]


def accepted_amounts(ledger: Ledger, account: Account, contacts: Sequence[str]) -> dict[str, Decimal]:
    """Return the balance that Engage last accepted for those of these contacts for which nothing newer is pending."""
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
"""Whether the row `p` of `pending` is still what the request `r` carried: it has not changed since the claim.

(A change in the future does not count, since it was recorded while the clock was ahead.)
"""

# A refusal concerns the amount that was sent, so it does not count against a newer one.
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
"""What a new master balance resets in its row of `pending`: any refusal was of another amount."""

HELD = """
    (p.gone or coalesce(p.next_try > clock_timestamp(), false)
     or (p.master < 0 and p.let_through is distinct from p.master))
"""
"""Whether the row `p` of `pending` is held: gone, waiting for its next try, or negative without approval."""

# Checked in each claim, so that nothing is sent once the programme is migrating (I11).
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
"""Moves the rows of these planned batches to `pending`, unless they are there already. Two parts of a WITH."""

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
