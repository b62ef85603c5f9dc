"""Signs that something else moves the same points: the vendor's own middleware, or another sync that was left on.

Only a few contacts are checked, and nothing is changed. A sign is a reason to look, not a proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treazure_pipeline import people
from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import NotFoundError

if TYPE_CHECKING:
    from treazure_pipeline.clients.engage import EngageClient
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.settings import Programme

SAMPLE = 20


@dataclass(frozen=True)
class Sign:
    """A contact for which something looks wrong, and what it is."""

    contact: str
    text: str


def foreign_transactions(ledger: Ledger, treazure: TreazureClient, account: Account) -> list[Sign]:
    """Find movements that repeat one of the latest adjustments without a receipt of ours: it may have been counted twice."""
    with ledger.transaction() as connection:
        rows = connection.execute(
            "select contact::text, amount, comment, received_at, "
            "(select array_agg(o.receipt) from adjustment o where o.contact = a.contact) "
            "from adjustment a where programme = %s and state in ('posted', 'done') order by id desc limit %s",
            (account.id, SAMPLE),
        ).fetchall()
    signs = []
    for contact, amount, comment, received_at, receipts in rows:
        try:
            movements = treazure.history(contact, account.loyalty_id).movements
        except NotFoundError:
            continue  # nothing can be learned from a contact that is gone
        for movement in movements:
            ours = movement.receipt_nr in receipts
            same = movement.amount == amount and (movement.comment or "") == comment
            if not ours and same and abs((movement.date_time - received_at).total_seconds()) < 86_400:
                receipt = people.word(movement.receipt_nr or "")
                text = f"{movement.amount} at {movement.date_time:%Y-%m-%d %H:%M} with the receipt {receipt}"
                signs.append(Sign(contact, text))
    return signs


def foreign_balances(
    ledger: Ledger, engage: EngageClient, account: Account, programme: Programme, grace: float
) -> list[Sign]:
    """Find balances in Engage that differ from what it accepted from us more than `grace` seconds ago."""
    with ledger.transaction() as connection:
        rows = connection.execute(
            "with latest as (select id from batch where programme = %(id)s and state = 'folded' "
            "and answered_at < clock_timestamp() - make_interval(secs => %(grace)s) order by id desc limit 20) "
            "select l.contact::text, l.sent from latest join batch b using (id), unnest(b.contacts) c "
            "join ledger l on l.programme = %(id)s and l.contact = c "
            "where l.batch = b.id "
            "and not exists (select from unsettled u where u.programme = %(id)s and u.contact = c) "
            "order by b.id desc limit %(sample)s",
            {"id": account.id, "grace": grace, "sample": SAMPLE},
        ).fetchall()
    signs = []
    for contact, sent in rows:
        held = engage.balance(contact, account.definition_id)
        if held is None or not is_same(held, sent, programme.decimals):
            signs.append(Sign(contact, f"Engage shows {held}, but accepted {sent}"))
    return signs
