"""What a points log says: its order, its sum, and the balance that it ends with. Pure.

Neither the answer's order nor the order of the times is that of the balances, since tills that were offline send their
movements later, with the time of the sale.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

from treazure_pipeline.clients import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treazure_pipeline.clients.movements import Unreadable
    from treazure_pipeline.clients.wire import Movement


def oldest_first(movements: Sequence[Movement]) -> list[Movement]:
    """Return a log in order of time. Movements of one moment keep the answer's order, which may be newest first."""
    newest_first = len(movements) > 1 and movements[0].date_time > movements[-1].date_time
    return sorted(reversed(movements) if newest_first else movements, key=lambda movement: movement.date_time)


def sum_of(movements: Sequence[Movement]) -> Decimal:
    """Return the sum of the movements, without informational ones."""
    return sum((movement.amount for movement in _moving(movements)), Decimal(0))


def balance_of(movements: Sequence[Movement]) -> Decimal:
    """Return the balance that a log ends with: by the chain of its balances, or else that of the newest movement."""
    _, ends = _loose_ends(movements)
    if len(ends) == 1:
        return ends[0]
    newest = (one.balance for one in reversed(_moving(movements)) if one.balance is not None)
    return next(newest, Decimal(0))


def reaches(movements: Sequence[Movement], balance: Decimal | None) -> bool:
    """Return whether a log is complete up to a balance: its amounts add up to it, or its newest movement led to it.

    In the second case, only the oldest movements may be missing, so the chain of balances starts with the oldest
    movement in the log. If it starts with another one, a movement is not shown yet.
    """
    now = balance or Decimal(0)
    if sum_of(movements) == now:
        return True
    begins, ends = _loose_ends(movements)
    oldest = oldest_first(_moving(movements))[:1]
    return ends == [now] and begins == [one.balance - one.amount for one in oldest if one.balance is not None]


def lost(movements: Sequence[Movement], unreadable: Sequence[Unreadable], balance: Decimal | None) -> Unreadable | None:
    """Return a movement that can't be read and may have moved points; None if the others add up without it."""
    if not unreadable or sum_of(movements) == (balance or 0):
        return None
    return next((one for one in unreadable if one.moves), None)


def _moving(movements: Sequence[Movement]) -> list[Movement]:
    return [movement for movement in movements if movement.transaction_type not in wire.INFORMATIONAL]


def _loose_ends(movements: Sequence[Movement]) -> tuple[list[Decimal], list[Decimal]]:
    """Return balances that a movement started from but none led to, and balances that one led to but none started from.

    If no movement in between is missing, there is one of each: the balance before the oldest, and that of the newest.
    """
    left: Counter[Decimal] = Counter()
    for movement in _moving(movements):
        if movement.balance is None:
            return [], []
        left[movement.balance] += 1
        left[movement.balance - movement.amount] -= 1
    return list((-left).elements()), list(left.elements())
