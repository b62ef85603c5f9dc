"""Adjustments for people to look at: a list by state, and one with all its states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    from treazure_pipeline.ledger.store import Ledger

NEEDS_A_PERSON = ("uncertain", "rejected")


@dataclass(frozen=True)
class Listed:
    """An adjustment; `programme`, `contact` and `amount` are None until it is queued. `comment`: what staff wrote."""

    id: int
    programme: str | None
    contact: str | None
    amount: Decimal | None
    comment: str | None
    receipt: str
    state: str
    tries: int
    reason: str | None
    balance: Decimal | None
    received_at: datetime
    asked: datetime | None


@dataclass(frozen=True)
class Step:
    """A state that an adjustment entered: when, why, and what Treazure answered."""

    at: datetime
    state: str
    reason: str | None
    answer: str | None


@dataclass(frozen=True)
class Found:
    """A movement in the contact's points log with the same receipt, or with the same amount since a day before the call."""

    at: datetime
    amount: Decimal
    balance: Decimal
    receipt: str | None
    same_receipt: bool


@retried
def listed(
    ledger: Ledger, *, states: Sequence[str] | None = None, numbers: Sequence[int] | None = None, limit: int
) -> list[Listed]:
    """Return adjustments in these states, or with these numbers, newest first."""
    values = {"states": states and list(states), "numbers": numbers and list(numbers), "limit": limit}
    with ledger.reading() as connection:
        return records(connection, Listed, _LISTED, values)


@retried
def path(ledger: Ledger, number: int) -> list[Step]:
    """Return the states that an adjustment was in, oldest first."""
    with ledger.reading() as connection:
        return records(
            connection,
            Step,
            "select at, state, reason, answer from adjustment_transition where adjustment = %s order by at",
            (number,),
        )


@retried
def found(ledger: Ledger, number: int) -> list[Found]:
    """Return movements in the points log, as far as it was fetched, that may be this adjustment, newest first."""
    with ledger.reading() as connection:
        return records(connection, Found, _FOUND, {"number": number})


_LISTED = """
select a.id, g.name as programme, a.contact::text, a.amount, a.comment, a.receipt, a.state, a.tries, a.reason, a.balance,
       a.received_at, a.asked
from adjustment a left join programme g on g.id = a.programme
where (%(states)s::text[] is null or a.state = any (%(states)s))
  and (%(numbers)s::bigint[] is null or a.id = any (%(numbers)s))
order by a.id desc limit %(limit)s
"""

_FOUND = """
select h.date_time as at, h.amount, h.balance, h.receipt_nr as receipt,
       coalesce(upper(trim(h.receipt_nr)) = a.receipt, false) as same_receipt
from adjustment a join points_history h on h.programme = a.programme and h.contact = a.contact
where a.id = %(number)s and (upper(trim(h.receipt_nr)) = a.receipt
    or h.amount = a.amount and h.date_time > coalesce(a.asked, a.received_at) - interval '1 day')
order by h.date_time desc, h.position desc limit 20
"""
