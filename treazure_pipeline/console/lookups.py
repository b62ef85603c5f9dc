"""*Look-ups*: who looked up whom, and when. Each is recorded before anything is shown, and their rate is limited."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from treazure_pipeline.console.access import Rate, Visitor
from treazure_pipeline.console.desk import AsApprover, AtDesk
from treazure_pipeline.console.pages import page
from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Ledger

A_MINUTE = 30
_MOST = 300

router = APIRouter()


@dataclass(frozen=True)
class Lookup:
    """Somebody looked up a contact; `contact` is None if nobody, or more than one, has the key."""

    at: datetime
    looked_by: str
    contact: str | None


@router.get("/look-ups")
def show(request: Request, at: AtDesk, _: AsApprover) -> Response:
    """Who has looked up whom."""
    return page(request, "lookups.html", lookups=latest(at.ledger), most=_MOST)


def count(request: Request, visitor: Visitor) -> None:
    """Count a look-up by this visitor; 429 if it is one too many within a minute."""
    rate: Rate = request.app.state.lookups
    rate.count(visitor.name)


def record(ledger: Ledger, contact: str | None, *, by: str) -> None:
    """Record a look-up before anything is shown; None if it found nobody. The key itself is not stored."""
    with ledger.transaction() as connection:
        connection.execute("insert into lookup (looked_by, contact) values (%s, %s)", (by, contact))


@retried
def latest(ledger: Ledger) -> list[Lookup]:
    """Return the latest look-ups, newest first."""
    with ledger.reading() as connection:
        return records(
            connection, Lookup, "select at, looked_by, contact::text from lookup order by id desc limit %s", (_MOST,)
        )
