"""*Adjustments*: what needs a person, with the evidence; one or many at a time, always with a preview first."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.responses import Response

from treazure_pipeline.adjustments import listing, queue
from treazure_pipeline.adjustments.listing import NEEDS_A_PERSON, Listed
from treazure_pipeline.adjustments.look import Look, look
from treazure_pipeline.console import lookups
from treazure_pipeline.console.desk import AsOperator, AsViewer, AtDesk
from treazure_pipeline.console.forms import MOST, Number, Numbers, Reason, decided
from treazure_pipeline.console.pages import number as shown
from treazure_pipeline.console.pages import page
from treazure_pipeline.settings import Role

STATES = ("uncertain", "rejected", "received", "queued", "sending", "posted", "done", "discarded")
# In which states a person may do what, and how it is worded.
POSSIBLE = {
    "retry": ("rejected", "uncertain"),
    "posted": ("received", "queued", "rejected", "uncertain"),
    "discard": ("received", "queued", "rejected", "uncertain"),
}
WORDS = {
    "retry": ("Send again", "is sent to Treazure again"),
    "posted": ("Already booked in Treazure", "counts as posted, and Treazure is not called again"),
    "discard": ("Discard", "is given up, and Treazure is not called again"),
}

WITHOUT_CREDENTIALS = (
    "This console can't look in Treazure: it needs Treazure's credentials (TREAZURE_CLIENT_ID, "
    "TREAZURE_CLIENT_SECRET) and the addresses of both systems."
)
# How each outcome is shown, and what to do about it if a person has to decide.
EVIDENCE = {
    "happened": (
        "good",
        "Already booked in Treazure",
        "Choose “Already booked in Treazure” below; then its balance is sent.",
    ),
    "absent": ("waiting", "Not booked in Treazure", "It may be sent again."),
    "undecided": ("bad", "Nobody can tell yet", "There is no evidence either way: look again later."),
}
ADVISED = {"happened": "posted", "absent": "retry"}
BY_ITSELF = "There is nothing to do: the pipeline looks for it as well, and continues by itself."

Action = Literal["retry", "posted", "discard"]

router = APIRouter()


@router.get("/adjustments")
def show(
    request: Request, at: AtDesk, visitor: AsViewer, state: Annotated[list[str] | None, Query(max_length=20)] = None
) -> Response:
    """Adjustments in the chosen states; by default those that need a person."""
    chosen = [one for one in state or NEEDS_A_PERSON if one in STATES]
    rows = listing.listed(at.ledger, states=chosen, limit=MOST)
    counts = queue.figures(at.ledger, lookup_wait=at.settings.treazure_lookup_wait_seconds)
    return page(
        request, "adjustments.html", rows=rows, chosen=chosen, counts={one: getattr(counts, one) for one in STATES},
        most=MOST, may_read=visitor.role >= Role.OPERATOR, possible=POSSIBLE, words=WORDS,
        dead_letters=counts.dead_letters,
    )  # fmt: skip


@router.get("/adjustments/{number}")
def show_one(request: Request, at: AtDesk, _: AsOperator, number: Number) -> Response:
    """One adjustment, its path, and the movements in the points log that may be it."""
    return _one(request, at, number, None)


@router.post("/adjustments/{number}/look")
def look_now(request: Request, at: AtDesk, visitor: AsOperator, number: Number) -> Response:
    """Look for it in Treazure now, and show what the history and the account say. Only the look-up is recorded."""
    adjustment = queue.unclaimed(at.ledger, number)
    accounts = {account.id: account for account in at.accounts()}
    if adjustment is None or adjustment.programme not in accounts:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such adjustment, or it names no contact.")
    if at.treazure is None or at.settings.master is None:
        raise HTTPException(HTTPStatus.CONFLICT, WITHOUT_CREDENTIALS)
    lookups.count(request, visitor)
    lookups.record(at.ledger, adjustment.contact, by=visitor.name)
    wait = max(at.settings.treazure_lookup_wait_seconds, at.settings.master.treazure_timeout_seconds)
    return _one(
        request,
        at,
        number,
        look(at.ledger, at.treazure, adjustment, accounts[adjustment.programme].loyalty_id, wait=wait),
    )


def _one(request: Request, at: AtDesk, number: int, looked: Look | None) -> Response:
    (row,) = _rows(at, [number])
    can_look = row.contact is not None and row.amount is not None and row.programme is not None
    return page(
        request, "adjustment.html", row=row, path=listing.path(at.ledger, number), look=looked,
        found=listing.found(at.ledger, number), possible=POSSIBLE, words=WORDS, can_look=can_look,
        without="" if at.treazure else WITHOUT_CREDENTIALS, evidence=EVIDENCE, advised=ADVISED, by_itself=BY_ITSELF,
    )  # fmt: skip


@router.post("/adjustments/preview")
def preview(
    request: Request, at: AtDesk, _: AsOperator, action: Annotated[Action, Form()], number: Numbers
) -> Response:
    """Say what would happen to each; changes nothing."""
    rows = _rows(at, number)
    fine = [row for row in rows if row.state in POSSIBLE[action]]
    left_out = ", ".join(str(row.id) for row in rows if row not in fine)
    uncertain = ", ".join(str(row.id) for row in fine if row.state == "uncertain")
    return page(
        request, "preview.html", title=WORDS[action][0], told=f"Each of these {WORDS[action][1]}.",
        lines=[f"Adjustment {row.id}: {shown(row.amount)} points for {row.contact or 'no contact'}, {row.state}" for row in fine],
        left_out=f"Left out, because their state does not allow it: {left_out}." if left_out else "",
        warning=f"Nobody can tell whether Treazure has {uncertain}. If it has, sending again gives the points twice: "
        "look for the receipt first." if uncertain and action == "retry" else "",
        action="/adjustments/decide", fields=[("action", action), *(("number", row.id) for row in fine)], back="/adjustments",
    )  # fmt: skip


@router.post("/adjustments/decide")
def decide(
    request: Request,
    at: AtDesk,
    visitor: AsOperator,
    action: Annotated[Action, Form()],
    number: Numbers,
    reason: Reason,
) -> Response:
    """Do what the preview said."""

    def one(each: int) -> bool:
        if action == "retry":
            return queue.retry(at.ledger, each, by=visitor.name, why=reason)
        return queue.discard(at.ledger, each, reason, posted=action == "posted", by=visitor.name)

    return decided(request, WORDS[action][0], number, one, back="/adjustments")


def _rows(at: AtDesk, numbers: list[int]) -> list[Listed]:
    found = listing.listed(at.ledger, numbers=numbers, limit=MOST)
    if not found:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such adjustment.")
    return found
