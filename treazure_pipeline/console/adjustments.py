"""*Adjustments*: what needs a person, with the evidence beside it; in bulk, each time with a preview."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.responses import Response

from treazure_pipeline.adjustments import listing, queue
from treazure_pipeline.adjustments.listing import NEEDS_A_PERSON, Listed
from treazure_pipeline.console.desk import AsOperator, AsViewer, AtDesk
from treazure_pipeline.console.pages import page
from treazure_pipeline.settings import Role

_MOST = 200
STATES = ("uncertain", "rejected", "received", "queued", "sending", "posted", "done", "discarded")
# What a person may do in which state, and in which words it is told.
POSSIBLE = {
    "retry": ("rejected", "uncertain"),
    "posted": ("received", "queued", "rejected", "uncertain"),
    "discard": ("received", "queued", "rejected", "uncertain"),
}
WORDS = {
    "retry": ("Send again", "is sent to Treazure again"),
    "posted": ("It stands in Treazure", "counts as posted, and Treazure is not called any more"),
    "discard": ("Discard", "is given up, and Treazure is not called any more"),
}

Action = Literal["retry", "posted", "discard"]
Numbers = Annotated[list[int], Form(min_length=1, max_length=_MOST)]

router = APIRouter()


@router.get("/adjustments")
def show(
    request: Request, at: AtDesk, visitor: AsViewer, state: Annotated[list[str] | None, Query(max_length=20)] = None
) -> Response:
    """Adjustments in the states asked for; at first those that need a person."""
    chosen = [one for one in state or NEEDS_A_PERSON if one in STATES]
    rows = listing.listed(at.ledger, states=chosen, limit=_MOST)
    counts = queue.figures(at.ledger, lookup_wait=at.settings.treazure_lookup_wait_seconds)
    return page(
        request, "adjustments.html", rows=rows, chosen=chosen, counts={one: getattr(counts, one) for one in STATES},
        most=_MOST, may_read=visitor.role >= Role.OPERATOR, possible=POSSIBLE, words=WORDS,
    )  # fmt: skip


@router.get("/adjustments/{number}")
def show_one(request: Request, at: AtDesk, _: AsOperator, number: int) -> Response:
    """One adjustment, its path, and what the points log has that may be it."""
    (row,) = _rows(at, [number])
    return page(
        request, "adjustment.html", row=row, path=listing.path(at.ledger, number),
        found=listing.found(at.ledger, number), possible=POSSIBLE, words=WORDS,
    )  # fmt: skip


@router.post("/adjustments/preview")
def preview(
    request: Request, at: AtDesk, _: AsOperator, action: Annotated[Action, Form()], number: Numbers
) -> Response:
    """Say what would happen to which; changes nothing."""
    rows = _rows(at, number)
    fine = [row for row in rows if row.state in POSSIBLE[action]]
    return page(
        request, "preview.html", rows=fine, action=action, words=WORDS[action],
        left_out=[row for row in rows if row not in fine],
        uncertain=[row.id for row in fine if row.state == "uncertain"],
    )  # fmt: skip


@router.post("/adjustments/decide")
def decide(
    request: Request,
    at: AtDesk,
    visitor: AsOperator,
    action: Annotated[Action, Form()],
    number: Numbers,
    reason: Annotated[str, Form(min_length=1, max_length=500)],
) -> Response:
    """Do what the preview said."""
    why = reason.strip()
    changed = [
        one
        for one in dict.fromkeys(number)
        if (
            queue.retry(at.ledger, one, by=visitor.name, why=why)
            if action == "retry"
            else queue.discard(at.ledger, one, why, posted=action == "posted", by=visitor.name)
        )
    ]
    unchanged = [one for one in dict.fromkeys(number) if one not in changed]
    return page(request, "decided.html", changed=changed, unchanged=unchanged, words=WORDS[action])


def _rows(at: AtDesk, numbers: list[int]) -> list[Listed]:
    found = listing.listed(at.ledger, numbers=numbers, limit=_MOST)
    if not found:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such adjustment.")
    return found
