"""*Migration*: how far it is, shard by shard, what was found, and the next step."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from fastapi import APIRouter, Request
from starlette.responses import Response

from treazure_pipeline.console.desk import AsViewer, AtDesk, Desk
from treazure_pipeline.console.pages import page
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.point_migration import audit_store, backfill
from treazure_pipeline.point_migration.audit_store import ShardAudit
from treazure_pipeline.point_migration.backfill import Migration, Progress

NEXT = {
    "roster": "Next: complete the roster. The job prepare_migration builds it, and continues where it stopped.",
    "ready": "Next: fetch the logs and write the files (job point_migration, shard by shard), then deliver them (finish_migration).",
    "delivered": "Next: have Engage import the files. Then finish_migration reads back what Engage holds, and closes the migration.",
    "closed": "There is nothing left to do: the programme is live.",
    "abandoned": "There is nothing left to do: the programme is live.",
}

router = APIRouter()


@dataclass(frozen=True)
class Moved:
    """A programme and its newest migration, if any; `findings`: origin, kind, how many, their points."""

    programme: str
    migration: Migration | None
    progress: Progress | None
    shards: list[ShardAudit]
    findings: list[tuple[str, str, int, Decimal | None]]
    next: str

    def total(self, column: str) -> Decimal | int:
        """Sum a column of the shards."""
        values = [getattr(shard, column) for shard in self.shards]
        return sum(values[1:], values[0]) if values else 0


@router.get("/migration")
def show(request: Request, at: AtDesk, _: AsViewer) -> Response:
    """The newest migration of each programme. Reads all of its contacts."""
    return page(request, "migration.html", programmes=[moved(at, account) for account in at.accounts()])


def moved(at: Desk, account: Account) -> Moved:
    """Return the progress of a programme's migration."""
    ledger = at.ledger
    migration = backfill.newest(ledger, account)
    if migration is None:
        return Moved(account.name, None, None, [], [], "")
    return Moved(
        account.name,
        migration,
        backfill.progress(ledger, migration),
        audit_store.shards(ledger, migration),
        audit_store.findings(ledger, migration),
        NEXT[migration.state],
    )
