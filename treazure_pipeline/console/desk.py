"""What every page works with: the ledger, the settings, and who asks in which role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from treazure_pipeline.console.access import Visitor, needs
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.settings import ConsoleSettings, Programme, Role
from treazure_pipeline.terminal.reading import Reading


@dataclass(frozen=True)
class Desk:
    """`check` raises at once where the ledger can't be used, so that no page waits."""

    reading: Reading
    settings: ConsoleSettings
    check: Callable[[], None]

    @property
    def ledger(self) -> Ledger:
        """Where everything is."""
        return self.reading.ledger

    def programmes(self) -> list[Programme]:
        """Return the programmes, none where the ledger is empty and the settings name none."""
        try:
            return self.reading.programmes(())
        except SettingsError:
            return []

    def accounts(self) -> list[Account]:
        """Return the programmes as the ledger has them; one that it has not yet is left out."""
        found = (self.ledger.find(programme) for programme in self.programmes())
        return [account for account in found if account is not None]


def desk(request: Request) -> Desk:
    """Return it, in working order."""
    found: Desk = request.app.state.desk
    found.check()
    return found


AtDesk = Annotated[Desk, Depends(desk)]
AsViewer = Annotated[Visitor, needs(Role.VIEWER)]
AsService = Annotated[Visitor, needs(Role.SERVICE)]
AsOperator = Annotated[Visitor, needs(Role.OPERATOR)]
AsApprover = Annotated[Visitor, needs(Role.APPROVER)]
