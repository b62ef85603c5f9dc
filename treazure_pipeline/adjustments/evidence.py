"""Decides from what has been read whether an adjustment happened, did not happen, or is undecided (I4).

It is pure: it reads and writes nothing. When to look, and what to do then, is in `processing`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from treazure_pipeline.adjustments.queue import SHORTEST_PREFIX, Returned
from treazure_pipeline.clients import wire
from treazure_pipeline.clients.points_log import lost, reaches, sum_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from decimal import Decimal

    from treazure_pipeline.clients.movements import Unreadable
    from treazure_pipeline.clients.wire import Movement

_OURS = re.compile(r"ve[a-z2-7]{10,24}")
# A movement of the same amount without a receipt of ours may be the call's even if it is dated this long before it: tills that were
# offline send theirs with the time of the sale, and a movement without any receipt can be anybody's.
_SINCE = timedelta(days=1)
_SINCE_WITHOUT_RECEIPT = timedelta(days=30)

Outcome = Literal["happened", "absent", "undecided"]


@dataclass(frozen=True)
class Call:
    """The call to look for. `asked`: no call began later; `called`: the ledger knows of one, or can't rule one out.

    `since`: no call began earlier. It stays the same from look to look.
    """

    receipt: str
    amount: Decimal
    asked: datetime
    called: bool = True
    since: datetime | None = None


@dataclass(frozen=True)
class Reading:
    """What was read: the history, asked for at `asked`, and then the account's balance.

    `failure` and `account_failure`: why they could not be read. `unreadable`: movements of the history that can't be read.
    """

    asked: datetime
    movements: Sequence[Movement] = ()
    balance: Decimal | None = None
    failure: str | None = None
    account_failure: str | None = None
    unreadable: Sequence[Unreadable] = ()


@dataclass(frozen=True)
class Verdict:
    """The outcome of a call, and the reason."""

    outcome: Outcome
    reason: str


def decide(call: Call, reading: Reading, *, others: Collection[str], proved: bool, wait: float) -> Verdict:  # noqa: PLR0911 - a table
    """Return the outcome of `call`.

    `others`: the receipts of the contact's other adjustments; `proved`: receipts are known to come back from this Treazure; `wait`: the effect
    of a call is in the history within this many seconds.
    """
    if reading.failure is not None:
        return Verdict("undecided", f"the history can't be read: {reading.failure}")
    shown = [movement.receipt_nr for movement in reading.movements] + [one.receipt for one in reading.unreadable]
    if any(stands_for(receipt, call.receipt, others) for receipt in shown):
        return Verdict("happened", "its receipt is in the history")
    if reading.asked < call.asked + timedelta(seconds=wait):
        return Verdict("undecided", "the history was read too soon after the call")
    if reading.account_failure is not None:
        return Verdict("undecided", f"the account can't be read: {reading.account_failure}")
    if not reaches(reading.movements, reading.balance):
        return Verdict("undecided", "the history does not reach up to the account's balance")
    if _begins_too_late(reading, call):
        return Verdict("undecided", "the history does not add up to the account's balance and begins after the call")
    missing = lost(reading.movements, reading.unreadable, reading.balance)
    if missing is not None:
        return Verdict("undecided", str(missing))
    alike = next((movement for movement in reading.movements if _may_be(movement, call, others)), None)
    if alike is not None:
        return Verdict("undecided", f"a movement of the same amount has a receipt that is no other adjustment's: "
                                    f"{alike.amount} at {alike.date_time:%Y-%m-%d %H:%M}")  # fmt: skip
    if call.called and not proved:
        return Verdict("undecided", "its receipt is not in the history, but receipts are not proved to come back")
    return Verdict("absent", "its receipt is not in the history")


def folded(receipt: str | None) -> str:
    """Return a receipt for comparison: without case and white space."""
    return "".join((receipt or "").split()).casefold()


def stands_for(shown: str | None, receipt: str, others: Collection[str]) -> bool:
    """Tell whether a receipt in the history is this one: whole, or as a long prefix that no other one has."""
    found, whole = folded(shown), folded(receipt)
    if found == whole:
        return True
    if len(found) < SHORTEST_PREFIX or not whole.startswith(found):
        return False
    return not any(folded(other).startswith(found) for other in others)


def returned(receipt: str, movements: Sequence[Movement]) -> Returned:
    """Return how the receipt of a posted adjustment came back in the history."""
    whole = folded(receipt)
    shown = [folded(movement.receipt_nr) for movement in movements]
    length = max((len(found) for found in shown if whole.startswith(found)), default=0)
    if length == len(whole):
        return Returned("whole", length)
    return Returned("shortened", length) if length else Returned("absent", 0)


def _begins_too_late(reading: Reading, call: Call) -> bool:
    """Tell whether the call may be among the movements that are missing before the oldest one."""
    if sum_of(reading.movements) == (reading.balance or 0):
        return False
    return all(movement.date_time >= _began(call) - _SINCE for movement in reading.movements)


def _began(call: Call) -> datetime:
    return min(call.since or call.asked, call.asked)


def _may_be(movement: Movement, call: Call, others: Collection[str]) -> bool:
    """Tell whether a movement could be this call's, with a receipt that nothing else explains."""
    if movement.amount != call.amount or movement.transaction_type in wire.INFORMATIONAL:
        return False
    shown = folded(movement.receipt_nr)
    since = _SINCE if shown else _SINCE_WITHOUT_RECEIPT
    return movement.date_time >= _began(call) - since and not _anothers(shown, call, others)


def _anothers(shown: str, call: Call, others: Collection[str]) -> bool:
    """Tell whether a receipt is another event's: a known one, or one of our format that this ledger has lost."""
    if any(stands_for(shown, other, ()) for other in others):
        return not folded(call.receipt).startswith(shown)
    return _OURS.fullmatch(shown) is not None and not folded(call.receipt).startswith(shown)
