"""A careful first send: a few contacts are sent, and both sides are shown before a person sends the rest.

Engage applies what it has accepted later, in a job of its own. So the accounts are read until they show it or the time is up.
"""

from __future__ import annotations

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import PipelineError, RemoteError
from treazure_pipeline.ledger import batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from treazure_pipeline.connections import Run

logger = logging.getLogger(__name__)

MOST = 1000
_WAITS = (5.0, 10.0, 20.0, 30.0)
"""Seconds between two readings; the last one repeats."""


class FirstSendError(PipelineError):
    """Engage shows a different balance from the one it accepted."""


@dataclass(frozen=True)
class Sides:
    """A contact of the first send.

    `treazure` and `engage` are the balances that the systems show now, None if there is no account or it could not be read. `accepted` is
    what Engage accepted, None if nothing.
    """

    contact: str
    accepted: Decimal | None
    treazure: Decimal | None = None
    engage: Decimal | None = None
    decimals: int = 2

    @property
    def verdict(self) -> str:
        """Say how the sides compare."""
        if self.accepted is None:
            return "not accepted"
        if self.engage is None:
            return "Engage shows no account"
        if not is_same(self.engage, self.accepted, self.decimals):
            return "Engage shows another balance"
        return "equal" if self.treazure == self.accepted else "equal; changed in Treazure since"

    def shown(self) -> dict[str, str | None]:
        """Return the contact, the balances as exact text, and the verdict."""
        balances = {"treazure": self.treazure, "accepted": self.accepted, "engage": self.engage}
        texts = {side: None if balance is None else str(balance) for side, balance in balances.items()}
        return {"contact": self.contact, **texts, "verdict": self.verdict}

    @property
    def is_shown(self) -> bool:
        """Whether Engage shows what it accepted. True also if it accepted nothing."""
        return self.accepted is None or self.verdict.startswith("equal")


def compare(run: Run, contacts: Sequence[str]) -> list[Sides]:
    """Read both sides of these contacts until Engage shows what it accepted, or ENGAGE_VERIFY_GRACE_SECONDS have passed."""
    patience = run.settings.engage_verify_grace_seconds
    accepted = batches.accepted_amounts(run.ledger, run.account, contacts)
    sides = [Sides(contact, accepted.get(contact), decimals=run.programme.decimals) for contact in contacts]
    waited = 0.0
    with ThreadPoolExecutor(run.settings.engage_concurrency, thread_name_prefix="first-send") as threads:
        for wait in itertools.chain(_WAITS, itertools.repeat(_WAITS[-1])):
            sides = list(threads.map(lambda one: _read_engage(run, one), sides))
            if all(one.is_shown for one in sides) or waited >= patience:
                break
            seconds = min(wait * run.retry.scale, patience - waited)
            logger.info("Engage has not applied everything yet; looking again in %.0f s", seconds)
            if not run.retry.sleep(seconds):
                break
            waited += seconds
        return list(threads.map(lambda one: _read_treazure(run, one), sides))


def require_shown(sides: Sequence[Sides], patience: float) -> None:
    """Raise FirstSendError if Engage does not show what it accepted, `patience` seconds later."""
    wrong = [one for one in sides if not one.is_shown]
    if wrong:
        first = wrong[0]
        raise FirstSendError(
            f"{len(wrong)} of {len(sides)} contacts differ from what Engage accepted, {patience:.0f} s after it did; "
            f"contact {first.contact}: accepted {first.accepted}, {first.verdict}"
            f"{'' if first.engage is None else f' ({first.engage})'}.",
            hint="The rest is pending. Is the point follower switched on for this definition, and does anything "
            "else set balances? Ask Voyado, quoting the request id of the batch; `explain CONTACT` shows it.",
        )


def _read_engage(run: Run, one: Sides) -> Sides:
    if one.is_shown and one.engage is not None:
        return one
    try:
        return replace(one, engage=run.engage.balance(one.contact, run.account.definition_id))
    except RemoteError as error:
        logger.warning("not read: %s", error)
        return one


def _read_treazure(run: Run, one: Sides) -> Sides:
    try:
        return replace(one, treazure=run.treazure.account_balance(one.contact, run.account.loyalty_id))
    except RemoteError as error:
        logger.warning("not read: %s", error)
        return one
