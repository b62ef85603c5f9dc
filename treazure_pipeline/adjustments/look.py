"""Looks up an adjustment in Treazure: reads the history, then the account, and asks `evidence` what they say (I4).

Both processing and a person who looks use this. What is done about the verdict is in `processing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from treazure_pipeline.adjustments import evidence, queue
from treazure_pipeline.errors import RemoteError
from treazure_pipeline.ledger import identity

if TYPE_CHECKING:
    from treazure_pipeline.adjustments.evidence import Call, Reading, Verdict
    from treazure_pipeline.adjustments.queue import Adjustment
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.clients.wire import Movement
    from treazure_pipeline.ledger.store import Ledger

_REPLAYED = timedelta(days=30)  # for this long, Engage may send again what a restored ledger has lost
_SHOWN_BEFORE = timedelta(days=1)
_MOST_SHOWN = 50


@dataclass(frozen=True)
class Seen:
    """A movement of the history. `says`: what it has in common with the adjustment, such as "its receipt"; may be empty."""

    movement: Movement
    says: str


@dataclass(frozen=True)
class Look:
    """What a person's look found: the verdict that processing would reach now, and the movements it is based on, newest first."""

    reading: Reading
    verdict: Verdict
    movements: list[Seen]


def call_of(adjustment: Adjustment) -> Call:
    """Return the call to look for: the one of a claimed adjustment, or one that may have been made."""
    assert adjustment.asked is not None
    return evidence.Call(adjustment.receipt, adjustment.amount, adjustment.asked,
                         called=adjustment.restored or (adjustment.tries > 0 and not adjustment.look_first),
                         since=adjustment.received_at - _REPLAYED * adjustment.restored)  # fmt: skip


def judged(ledger: Ledger, address: str, adjustment: Adjustment, reading: Reading, *, wait: float) -> Verdict:
    """Return the verdict on an adjustment. `wait`: the effect of a call shows within this many seconds."""
    call = call_of(adjustment)
    returned = queue.receipts_of(ledger, address)
    return evidence.decide(
        call, reading, others=adjustment.others, proved=returned is not None and returned.identifies,
        wait=wait if call.called else 0.0,
    )  # fmt: skip


def look(ledger: Ledger, treazure: TreazureClient, adjustment: Adjustment, loyalty_id: str, *, wait: float) -> Look:
    """Look for an adjustment in Treazure now, and change nothing. If something can't be read, the verdict says so."""
    identity.notice(ledger)
    asked = ledger.now()
    try:
        log = treazure.history(adjustment.contact, loyalty_id)
    except RemoteError as error:
        reading = evidence.Reading(asked, failure=str(error))
    else:
        try:
            balance = treazure.account_balance(adjustment.contact, loyalty_id)
        except RemoteError as error:
            reading = evidence.Reading(asked, log.movements, account_failure=str(error), unreadable=log.unreadable)
        else:
            reading = evidence.Reading(asked, log.movements, balance, unreadable=log.unreadable)
    verdict = judged(ledger, treazure.address, adjustment, reading, wait=wait)
    return Look(reading, verdict, _shown(adjustment, reading))


def _shown(adjustment: Adjustment, reading: Reading) -> list[Seen]:
    """Return the movements for a person to judge: those since a day before the call, and any that could be this one."""
    call = call_of(adjustment)
    begin = min(call.since or call.asked, call.asked) - _SHOWN_BEFORE
    seen = [Seen(one, _says(one, adjustment)) for one in reading.movements]
    chosen = [
        one for one in seen
        if one.movement.date_time >= begin or one.movement.amount == call.amount or one.says == "its receipt"
    ]  # fmt: skip
    return sorted(chosen, key=lambda one: one.movement.date_time, reverse=True)[:_MOST_SHOWN]


def _says(movement: Movement, adjustment: Adjustment) -> str:
    if evidence.stands_for(movement.receipt_nr, adjustment.receipt, adjustment.others):
        return "its receipt"
    if any(evidence.stands_for(movement.receipt_nr, other, ()) for other in adjustment.others):
        return "another adjustment's receipt"
    return "the same amount" if movement.amount == adjustment.amount else ""
