"""Requests an export from Treazure. The window is on the database's clock, and mutation times are on Treazure's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treazure_pipeline.errors import ClocksApartError
from treazure_pipeline.ledger.coverage import MOST_APART

if TYPE_CHECKING:
    from datetime import datetime

    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.ledger.store import Account, Ledger


def begin_export(
    ledger: Ledger, treazure: TreazureClient, account: Account, start: datetime, end: datetime
) -> tuple[str, float | None]:
    """Ask Treazure to export what changed in a window. Return the result's path, and by how many seconds its clock is ahead.

    The seconds are None if Treazure did not say what time it is. Raises ClocksApartError if the clocks are more than 5 minutes apart,
    since the window could then miss changes, and RemoteError.
    """
    asked = ledger.now()
    begun = treazure.request_balances(account.loyalty_id, start, end)
    ahead = None if begun.clock is None else seconds_ahead(begun.clock, asked, ledger.now())
    if ahead is not None and are_apart(ahead):
        side = "ahead of" if ahead > 0 else "behind"
        raise ClocksApartError(
            f"The clocks are apart: Treazure's is {abs(ahead):,.0f} seconds {side} the database's ("
            f"{begun.clock:%Y-%m-%d %H:%M:%S} against {asked:%Y-%m-%d %H:%M:%S} UTC). "
            "Changes could be missed, so nothing was fetched.",
            hint="Correct the clock of the database server. The next run then goes on.",
        )
    return begun.path, ahead


def are_apart(ahead: float) -> bool:
    """Return whether the clocks are too far apart to say what is newer."""
    return abs(ahead) > MOST_APART.total_seconds()


def seconds_ahead(clock: datetime, asked: datetime, answered: datetime) -> float:
    """Return by how many seconds another clock is ahead of ours (negative: behind).

    `clock`, in whole seconds, was read at some time between `asked` and `answered`, which are on our clock.
    """
    if clock > answered:
        return (clock - answered).total_seconds()
    return min((clock - asked).total_seconds() + 1, 0.0)
