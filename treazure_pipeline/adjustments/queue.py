"""The queue of adjustments that Engage asks us to post to Treazure, each exactly once (I4, I5).

    received ──▶ queued ──▶ sending ──▶ posted ──▶ done
        └──▶ rejected  ◀──────┤  (refused by Treazure, or invalid)
                              ├──▶ queued  (no effect, or not in the history: tried again, in its place)
                              └──▶ uncertain ──▶ queued, posted, discarded (a person's decision)

`sending` is stored, with the receipt number, before Treazure is called. An adjustment still in that state after its lease is looked up in the
history by its receipt. Adjustments of one contact are posted one at a time, in order of arrival. One that waits holds back only its contact.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from psycopg.rows import class_row

from treazure_pipeline.ledger import decisions, identity
from treazure_pipeline.ledger.batches import HELD
from treazure_pipeline.ledger.decisions import SOMEBODY
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from psycopg import Connection

    from treazure_pipeline.ledger.store import Account, Ledger


@dataclass(frozen=True)
class Returned:
    """How a receipt came back in the history: whole, shortened or absent, and how many of its characters."""

    found: str
    length: int

    @property
    def identifies(self) -> bool:
        """Whether enough characters come back to tell receipts apart."""
        return self.length >= SHORTEST_PREFIX


SHORTEST_PREFIX = 12
"""This many characters of a receipt identify it: two letters and 50 bits."""

UNFINISHED = ("received", "queued", "sending", "posted", "uncertain")

_LONGEST_INT = 100

RECEIVE = """
insert into adjustment (event_id, delivery_id, source, payload, receipt)
values (%(event_id)s, %(delivery_id)s, 'webhook', %(payload)s, %(receipt)s) on conflict do nothing
"""


@dataclass(frozen=True)
class Received:
    """An event that has not been judged yet. `payload` is as Engage sent it, with exact numbers.

    `unreadable`: why the stored event is invalid; its payload is then empty.
    """

    id: int
    payload: dict[str, Any]
    unreadable: str | None = None


@dataclass(frozen=True)
class Adjustment:
    """A claimed adjustment.

    Attributes:
        state: The state in which it was claimed.
        tries: How often Treazure was called.
        lookups: How often the history was looked at since the last call.
        asked: When Treazure was last called.
        lease_until: Identifies the claim. The holder of an older one can't decide anything.
        look_first: It has to be looked up before its call.
        restored: The ledger was restored or failed over, so a call may be unknown to it.
        others: The receipts of the contact's other adjustments.
    """

    id: int
    state: str
    programme: int
    contact: str
    amount: Decimal
    comment: str
    receipt: str
    tries: int
    lookups: int
    asked: datetime | None
    lease_until: datetime
    look_first: bool
    restored: bool
    others: list[str]
    received_at: datetime
    trace: str | None


@dataclass(frozen=True)
class QueueFigures:
    """How many adjustments are in each state, the age of the oldest unfinished one in seconds, and how many are due."""

    received: int
    queued: int
    sending: int
    posted: int
    done: int
    rejected: int
    uncertain: int
    discarded: int
    dead_letters: int
    oldest_seconds: float
    due: int

    @property
    def adjustments(self) -> int:
        """All adjustments, finished or not."""
        finished = self.done + self.rejected + self.discarded
        return finished + self.received + self.queued + self.sending + self.posted + self.uncertain


def receipt_of(event_id: str) -> str:
    """Return the receipt number of an event: 26 characters, always the same for it, and different for any other."""
    return "VE" + base64.b32encode(hashlib.sha256(event_id.encode()).digest()).decode()[:24]


@retried
def add(ledger: Ledger, event_id: str, payload: Mapping[str, Any]) -> bool:
    """Add an adjustment to the queue by hand. Return False if this event is there already."""
    with ledger.transaction() as connection:
        statement = RECEIVE.replace("'webhook'", "'manual'")
        exact = msgspec.json.Encoder(decimal_format="number").encode(payload).decode()
        values = {"event_id": event_id, "delivery_id": None, "payload": exact, "receipt": receipt_of(event_id)}
        return connection.execute(statement, values).rowcount == 1


@retried
def received(ledger: Ledger, limit: int = 1000) -> list[Received]:
    """Return events that have not been judged yet, in order of arrival."""
    with ledger.transaction() as connection:
        rows = connection.execute(
            "select id, payload::text from adjustment where state = 'received' order by id limit %s", (limit,)
        ).fetchall()
    return [_read(number, payload) for number, payload in rows]


def _read(number: int, payload: str) -> Received:
    """Read a stored event. If it can't be read, the result says why, so that the others are still read."""
    try:
        found = json.loads(payload, parse_float=Decimal, parse_int=_whole)
    except (ValueError, ArithmeticError, RecursionError) as error:
        return Received(number, {}, f"The payload can't be read ({type(error).__name__}).")
    return Received(number, found) if isinstance(found, dict) else Received(number, {}, "The payload is not an object.")


def _whole(digits: str) -> int | Decimal:
    """Return a whole number, as a Decimal if it is too long to convert to an int."""
    return int(digits) if len(digits) <= _LONGEST_INT else Decimal(digits)


@contextmanager
def judging(ledger: Ledger) -> Iterator[Connection[Any]]:
    """Lend one transaction with few round trips for the verdicts on many events."""
    with ledger.transaction() as connection, connection.pipeline():
        yield connection


def accept(
    verdicts: Connection[Any],
    event: Received,
    *,
    account: Account,
    contact: str,
    amount: Decimal,
    description: str,
    comment: str,
) -> None:
    """Queue a valid event. `comment` is the description as Treazure gets it."""
    verdicts.execute(
        _ACCEPT,
        {
            "id": event.id,
            "note": "its description was cut to 100 characters" if comment != description else None,
            "programme": account.id,
            "contact": contact,
            "amount": amount,
            "description": description,
            "comment": comment,
        },
    )


def reject(verdicts: Connection[Any], event: Received, reason: str) -> None:
    """Reject an invalid event. It is kept and can be retried."""
    verdicts.execute(_REJECT, {"id": event.id, "reason": reason})


@retried
def claim(
    ledger: Ledger, accounts: Sequence[Account], *, lease: float, lookup_wait: float, first_after: float = 300.0
) -> Adjustment | None:
    """Claim the next adjustment that is due and not held back, or return None.

    A queued one becomes `sending` durably before Treazure is called. One in `sending` is claimed for a look at the history, `lookup_wait`
    seconds after its call and again after each look. `lease`, in seconds, must be longer than the call; `accounts` are the live programmes.
    One that was received, called or looked up more than `first_after` seconds ago, or received before the ledger was restored or failed
    over, is looked up first.
    """
    with ledger.transaction() as connection:
        identity.notice_within(connection)
        cursor = connection.cursor(row_factory=class_row(Adjustment))
        found = cursor.execute(
            _CLAIM,
            {"programmes": [account.id for account in accounts], "lease": lease, "lookup_wait": lookup_wait,
             "first_after": first_after},
        ).fetchone()  # fmt: skip
        if found is not None and found.state == "queued":
            _note(connection, found.id, "sending", None)
    return found


@retried
def unclaimed(ledger: Ledger, number: int) -> Adjustment | None:
    """Return an adjustment in any state, for a look that changes nothing; None if it has no contact or amount.

    If there was a try, even before a person's retry, it is assumed that Treazure was called.
    """
    with ledger.reading() as connection:
        return connection.cursor(row_factory=class_row(Adjustment)).execute(_UNCLAIMED, {"number": number}).fetchone()


@retried
def settle(
    ledger: Ledger,
    adjustment: Adjustment,
    state: str,
    *,
    reason: str | None = None,
    answer: str | None = None,
    balance: Decimal | None = None,
    wait: float = 0.0,
    looked: bool = False,
    reread: bool = False,
    run_id: str | None = None,
) -> bool:
    """Move a claimed adjustment to `state`, or keep it there for `wait` seconds. The transition is recorded.

    If the claim is over and somebody else has the adjustment, do nothing and return False, since what the holder knows may be out of date. Only
    "posted" stays true, so it is always recorded. `reread`: the account has to be read, since its new balance is not known.
    """
    with ledger.transaction() as connection:
        settled = connection.execute(
            "update adjustment set state = %(state)s, reason = %(reason)s, balance = coalesce(%(balance)s, balance), "
            "next_try = clock_timestamp() + make_interval(secs => %(wait)s), lease_until = null, "
            "lookups = case when %(state)s = 'queued' then 0 when %(looked)s then lookups + 1 else lookups end, "
            "looked_at = case when %(looked)s and %(state)s = 'queued' then clock_timestamp() else looked_at end, "
            "finished_at = case when %(state)s in ('done', 'rejected', 'discarded') then clock_timestamp() end "
            "where id = %(id)s and (lease_until = %(lease_until)s and state = 'sending' "
            "or %(state)s = 'posted' and state in ('queued', 'sending', 'uncertain'))",
            {
                "id": adjustment.id,
                "lease_until": adjustment.lease_until,
                "state": state,
                "reason": reason,
                "balance": balance,
                "wait": wait,
                "looked": looked,
            },
        ).rowcount
        if settled:
            _note(connection, adjustment.id, state, reason, answer, run_id)
        if settled and reread:
            connection.execute(
                "insert into reread (programme, contact, since) values (%s, %s, clock_timestamp()) on conflict do nothing",
                (adjustment.programme, adjustment.contact),
            )
    return settled == 1


@retried
def receipts_of(ledger: Ledger, address: str) -> Returned | None:
    """Return how receipts come back in the history of the Treazure at an address; None if not checked yet."""
    with ledger.transaction() as connection:
        row = connection.execute("select found, length from receipts where address = %s", (address,)).fetchone()
    return None if row is None else Returned(*row)


@retried
def keep_receipts(ledger: Ledger, address: str, returned: Returned) -> None:
    """Record how a receipt came back in the history of the Treazure at an address."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into receipts (address, found, length) values (%s, %s, %s) on conflict (address) do update "
            "set found = excluded.found, length = excluded.length, checked_at = clock_timestamp()",
            (address, returned.found, returned.length),
        )


@retried
def to_prove(ledger: Ledger, account: Account, address: str, *, wait: float, every: float) -> tuple[str, str] | None:
    """Return the contact and receipt of the latest adjustment that Treazure answered; None if checked within `every` seconds.

    `wait`: an adjustment is in the history this many seconds after its call.
    """
    with ledger.transaction() as connection:
        row = connection.execute(
            "select contact::text, receipt from adjustment where programme = %s and state in ('posted', 'done') "
            "and exists (select from adjustment_transition t where t.adjustment = adjustment.id and t.state = 'posted' "
            "and t.answer is not null) and asked < clock_timestamp() - make_interval(secs => %s) "
            "and not exists (select from receipts where address = %s "
            "and checked_at > clock_timestamp() - make_interval(secs => %s)) order by id desc limit 1",
            (account.id, wait, address, every),
        ).fetchone()
    return None if row is None else (row[0], row[1])


@retried
def contacts_to_push(ledger: Ledger, account: Account, *, limit: int) -> dict[str, str | None]:
    """Return contacts of posted adjustments whose balance waits for its sending, oldest first, with the trace of each.

    A balance from before the adjustment is left to the sync: its guards may hold it.
    """
    with ledger.transaction() as connection:
        rows = connection.execute(
            "select a.contact::text, min(a.trace) from adjustment a "
            "join pending p on p.programme = a.programme and p.contact = a.contact "
            "join observation o on o.id = p.observation and o.asked >= coalesce(a.asked, o.asked) "
            f"where a.state = 'posted' and a.programme = %s and not {HELD} group by a.contact order by min(a.id) limit %s",
            (account.id, limit),
        ).fetchall()
    return dict(rows)


@retried
def retry(ledger: Ledger, number: int, *, by: str = SOMEBODY, why: str = "") -> bool:
    """Queue a rejected or uncertain adjustment again, by a person's decision; False where it is in no such state."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "update adjustment set state = case when amount is null then 'received' else 'queued' end, reason = null, "
            "lookups = 0, tries = 0, next_try = clock_timestamp(), finished_at = null, "
            "looked_at = case when state = 'uncertain' then clock_timestamp() else looked_at end "
            "where id = %s and state in ('rejected', 'uncertain') returning state",
            (number,),
        ).fetchone()
        if row is not None:
            _note(connection, number, row[0], "retried by a person")
            decisions.note(connection, "retried", f"adjustment {number}", by=by, why=why)
    return row is not None


@retried
def discard(ledger: Ledger, number: int, reason: str, *, posted: bool, by: str = SOMEBODY) -> bool:
    """Carry out a person's decision to give up an adjustment that is not under way, or that it is in Treazure (`posted`)."""
    with ledger.transaction() as connection:
        state = "posted" if posted else "discarded"
        changed = connection.execute(
            "update adjustment set state = %s, reason = %s, next_try = clock_timestamp(), "
            "finished_at = case when %s then null else clock_timestamp() end "
            "where id = %s and state in ('received', 'queued', 'rejected', 'uncertain')",
            (state, reason, posted, number),
        ).rowcount
        if changed:
            _note(connection, number, state, reason)
            what = "found in Treazure" if posted else "discarded"
            decisions.note(connection, what, f"adjustment {number}", by=by, why=reason)
    return changed == 1


@retried
def finish_posted(ledger: Ledger, run_id: str | None = None) -> int:
    """Mark posted adjustments as done if Engage has accepted their balance. Return how many."""
    with ledger.transaction() as connection:
        row = one(connection, _FINISH, {"run_id": run_id})
    return int(row[0])


@retried
def postpone_posted(ledger: Ledger, wait: float) -> None:
    """Let adjustments wait whose balance Engage has not accepted. Whoever sends it, also the hourly sync, finishes them."""
    with ledger.transaction() as connection:
        connection.execute(
            "update adjustment set reason = 'Engage has not accepted its balance yet', "
            "next_try = clock_timestamp() + make_interval(secs => %s) where state = 'posted'",
            (wait,),
        )


@retried
def is_due(ledger: Ledger, *, lookup_wait: float) -> bool:
    """Tell whether a run would find something to do. The cost grows only with what is unfinished."""
    with ledger.transaction() as connection:
        row = connection.execute(_IS_DUE, {"lookup_wait": lookup_wait}).fetchone()
    return row is not None and bool(row[0])


@retried
def figures(ledger: Ledger, *, lookup_wait: float = 0.0) -> QueueFigures:
    """Count the whole queue, including finished adjustments."""
    with ledger.transaction() as connection:
        row = one(connection, _FIGURES, {"lookup_wait": lookup_wait})
    return QueueFigures(*row)


def _note(
    connection: Connection[Any],
    adjustment: int,
    state: str,
    reason: str | None,
    answer: str | None = None,
    run_id: str | None = None,
) -> None:
    connection.execute(
        "insert into adjustment_transition (adjustment, state, reason, answer, run_id) values (%s, %s, %s, %s, %s)",
        (adjustment, state, reason, answer, run_id),
    )


_ACCEPT = """
with accepted as (
    update adjustment set state = 'queued', reason = %(note)s, programme = %(programme)s, contact = %(contact)s,
        amount = %(amount)s, description = %(description)s, comment = %(comment)s, next_try = clock_timestamp()
    where id = %(id)s and state = 'received' returning id)
insert into adjustment_transition (adjustment, state, reason) select id, 'queued', %(note)s from accepted
"""

_REJECT = """
with rejected as (
    update adjustment set state = 'rejected', reason = %(reason)s, finished_at = clock_timestamp()
    where id = %(id)s and state = 'received' returning id)
insert into adjustment_transition (adjustment, state, reason) select id, 'rejected', %(reason)s from rejected
"""

_DUE = """
    a.next_try <= clock_timestamp() and (a.lease_until is null or a.lease_until <= clock_timestamp())
    and (a.state = 'queued'
         or a.state = 'sending' and a.asked + make_interval(secs => %(lookup_wait)s) <= clock_timestamp())
    and (a.state = 'sending' or not exists (
        select from adjustment e where e.contact = a.contact
          and (e.state = 'sending' or e.id < a.id and e.state in ('queued', 'uncertain'))))
"""

# Then nobody knows how old anything is. A time stamp may run ahead of the clock by the milliseconds of a busy second.
_CLOCK_IS_BACK = "exists (select from programme where last_time_stamp > clock_timestamp() + interval '1 second')"

# Engage replays what it sent in the last 30 days, so that what arrives long after a restore can have been booked before it.
_CLAIM = f"""
with next as (
    select a.id, a.state, r.restored, i.changed_at, a.asked as asked_before,
           a.state = 'queued' and case when r.restored
               then coalesce(greatest(a.looked_at, a.asked) < i.changed_at, true)
               else not (coalesce(a.looked_at <@ lately, false) or a.tries > 0 and coalesce(a.asked <@ lately, false)
                         or a.received_at <@ lately and not {_CLOCK_IS_BACK}) end as look_first
    from adjustment a left join identity i on true,
        lateral (select coalesce(a.received_at < i.changed_at + interval '30 days', false) as restored) r,
        tstzrange(clock_timestamp() - make_interval(secs => %(first_after)s), clock_timestamp(), '[]') as lately
    where a.programme = any (%(programmes)s) and {_DUE}
      and exists (select from programme g where g.id = a.programme and g.mode = 'live')
    order by a.id limit 1 for update of a skip locked)
update adjustment a set
    state = case when next.state = 'queued' then 'sending' else next.state end,
    tries = a.tries + (next.state = 'queued' and not next.look_first)::integer,
    asked = case when next.state = 'queued' then clock_timestamp() else a.asked end,
    lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
from next where a.id = next.id
returning a.id, next.state, a.programme, a.contact::text, a.amount, a.comment, a.receipt, a.tries, a.lookups,
          case when a.tries > 0 and not next.look_first then greatest(a.asked, next.changed_at)
               else greatest(next.changed_at, next.asked_before, a.received_at) end as asked,
          a.lease_until, next.look_first, next.restored, a.received_at, a.trace,
          (select coalesce(array_agg(o.receipt), '{{}}') from adjustment o where o.contact = a.contact and o.id <> a.id) as others
"""

_UNCLAIMED = """
select a.id, a.state, a.programme, a.contact::text, a.amount, coalesce(a.comment, '') as comment, a.receipt,
       greatest(a.tries, (a.asked is not null)::integer) as tries, a.lookups,
       greatest(i.changed_at, a.asked, case when a.asked is null then a.received_at end) as asked,
       clock_timestamp() as lease_until, false as look_first,
       coalesce(a.received_at < i.changed_at + interval '30 days', false) as restored, a.received_at, a.trace,
       (select coalesce(array_agg(o.receipt), '{}') from adjustment o where o.contact = a.contact and o.id <> a.id) as others
from adjustment a left join identity i on true
where a.id = %(number)s and a.contact is not null and a.amount is not null and a.programme is not null
"""

_FINISH = """
with accepted as (
    update adjustment a set state = 'done', reason = null, finished_at = clock_timestamp()
    where a.state = 'posted' and not exists (
        select from unsettled u where u.programme = a.programme and u.contact = a.contact)
      and not exists (select from reread r where r.programme = a.programme and r.contact = a.contact)
    returning a.id),
noted as (
    insert into adjustment_transition (adjustment, state, run_id) select id, 'done', %(run_id)s from accepted)
select count(*) from accepted
"""

_TO_DO = f"""
from adjustment a left join programme g on g.id = a.programme
where a.state in ('received', 'queued', 'sending', 'posted', 'uncertain') and (
    a.state = 'received' or g.mode = 'live' and ({_DUE} or
        a.state = 'posted' and a.next_try <= clock_timestamp() and not exists (
            select from pending p where p.programme = a.programme and p.contact = a.contact and {HELD})))
"""

# An account that could not be read is left to the hourly sync.
_IS_DUE = f"""
select exists (select {_TO_DO}) or exists (
    select from reread r join programme g on g.id = r.programme
    where g.mode = 'live' and r.tries = 0 and r.next_try <= clock_timestamp())
"""

_FIGURES = f"""
select count(*) filter (where a.state = 'received'), count(*) filter (where a.state = 'queued'),
       count(*) filter (where a.state = 'sending'), count(*) filter (where a.state = 'posted'),
       count(*) filter (where a.state = 'done'), count(*) filter (where a.state = 'rejected'),
       count(*) filter (where a.state = 'uncertain'), count(*) filter (where a.state = 'discarded'),
       (select count(*) from dead_letter where settled_at is null),
       coalesce(extract(epoch from clock_timestamp() - min(a.received_at) filter (
           where a.state in ('received', 'queued', 'sending', 'uncertain'))), 0)::float,
       (select count(*) {_TO_DO})
from adjustment a
"""
