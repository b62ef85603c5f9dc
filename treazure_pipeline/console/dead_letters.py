"""*Dead letters*: deliveries from Engage that could not be read. People read them again, or discard them when dealt with."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import Response

from treazure_pipeline import people
from treazure_pipeline.adjustments import dead_letters
from treazure_pipeline.console.desk import AsOperator, AsViewer, AtDesk
from treazure_pipeline.console.forms import MOST, Numbers, Reason, decided
from treazure_pipeline.console.pages import page
from treazure_pipeline.settings import Role

WORDS = {
    "retry": ("Read again", "is read again by this version; what it asks for goes to the queue, once"),
    "discard": ("Discard", "is dealt with. It is kept, but no longer shown"),
}

Action = Annotated[Literal["retry", "discard"], Form()]

router = APIRouter()


@router.get("/dead-letters")
def show(request: Request, at: AtDesk, visitor: AsViewer) -> Response:
    """Those that nobody has dealt with (only operators see the bodies), and everything that was delivered, by type."""
    rows = dead_letters.listed(at.ledger, limit=MOST)
    may_read = visitor.role >= Role.OPERATOR
    kinds = [(people.word(one.event_type), one) for one in dead_letters.kinds(at.ledger)]
    return page(request, "dead_letters.html", rows=rows, most=MOST, may_read=may_read, words=WORDS, kinds=kinds)


@router.post("/dead-letters/preview")
def preview(request: Request, at: AtDesk, _: AsOperator, action: Action, number: Numbers) -> Response:
    """Say what would happen to each; changes nothing."""
    rows = dead_letters.listed(at.ledger, numbers=number, limit=MOST)
    if not rows:
        raise HTTPException(404, "There is no such dead letter, or somebody has dealt with it.")
    return page(
        request, "preview.html", title=WORDS[action][0], told=f"Each of these {WORDS[action][1]}.",
        lines=[f"Dead letter {row.id}: {row.reason}" for row in rows], left_out="", warning="",
        action="/dead-letters/decide", fields=[("action", action), *(("number", row.id) for row in rows)],
        back="/dead-letters",
    )  # fmt: skip


@router.post("/dead-letters/decide")
def decide(
    request: Request, at: AtDesk, visitor: AsOperator, action: Action, number: Numbers, reason: Reason
) -> Response:
    """Do what the preview said."""

    def one(each: int) -> bool:
        if action == "retry":
            return dead_letters.read_again(at.ledger, each, by=visitor.name, why=reason)
        return dead_letters.settle(at.ledger, each, reason, by=visitor.name)

    return decided(request, WORDS[action][0], number, one, back="/dead-letters")
