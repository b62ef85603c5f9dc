"""What every page works with: the ledger, the settings, and who asks in which role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.connections import treazure_client
from treazure_pipeline.console.access import Visitor, needs
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.settings import ConsoleSettings, Programme, Role
from treazure_pipeline.terminal.ledger import AtLedger


@dataclass(frozen=True)
class Desk:
    """`check` raises at once if the ledger can't be used, so that no page waits.

    `treazure` is for looking up adjustments; None if the settings have no credentials for it.
    """

    opened: AtLedger
    settings: ConsoleSettings
    check: Callable[[], None]
    treazure: TreazureClient | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.opened.ledger

    def programmes(self) -> list[Programme]:
        """Return the programmes; none if the ledger is empty and the settings name none."""
        try:
            return self.opened.programmes(())
        except SettingsError:
            return []

    def accounts(self) -> list[Account]:
        """Return the programmes that are already in the ledger."""
        found = (self.ledger.find(programme) for programme in self.programmes())
        return [account for account in found if account is not None]

    def account(self, programme: str) -> Account:
        """Return the programme with this name; 404 if there is none."""
        found = next((account for account in self.accounts() if account.name == programme), None)
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such programme.")
        return found


_LONGEST_CALL_SECONDS = 10.0
_RATE_PATIENCE_SECONDS = 5.0


@contextmanager
def looking(settings: ConsoleSettings, ledger: Ledger) -> Iterator[TreazureClient | None]:
    """Yield a Treazure client for somebody who is waiting: short timeouts, and after adjustments in the shared rate."""
    if settings.master is None:
        yield None
        return
    timeout = min(settings.master.treazure_timeout_seconds, _LONGEST_CALL_SECONDS)
    master = settings.master.model_copy(update={"treazure_timeout_seconds": timeout})
    retry = RetryPolicy(waits=(), stop=Event())
    with treazure_client(master, ledger, retry, Priority.SYNC, patience=_RATE_PATIENCE_SECONDS) as client:
        yield client


def desk(request: Request) -> Desk:
    """Return the desk, once the ledger has been checked."""
    found: Desk = request.app.state.desk
    found.check()
    return found


AtDesk = Annotated[Desk, Depends(desk)]
AsViewer = Annotated[Visitor, needs(Role.VIEWER)]
AsService = Annotated[Visitor, needs(Role.SERVICE)]
AsOperator = Annotated[Visitor, needs(Role.OPERATOR)]
AsApprover = Annotated[Visitor, needs(Role.APPROVER)]
