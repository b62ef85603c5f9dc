"""*Rejections*: rows that could not be understood and balances that Engage refuses, by cause; tried again or discarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from treazure_pipeline.balance_sync import rejections as kept
from treazure_pipeline.balance_sync.rejections import Group, Rejection
from treazure_pipeline.console.desk import AsOperator, AsViewer, AtDesk
from treazure_pipeline.console.forms import MOST, Reason
from treazure_pipeline.console.pages import page
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.phrases import counted
from treazure_pipeline.settings import Role

Text = Annotated[str, Form(min_length=1, max_length=4000)]
Digests = Annotated[list[str], Form(min_length=1, max_length=MOST)]

router = APIRouter()


@dataclass(frozen=True)
class Outstanding:
    """What is outstanding in a programme: by cause, and row by row if one cause was asked for."""

    programme: str
    groups: list[Group]
    rows: list[Rejection]

    @property
    def count(self) -> int:
        """All rows."""
        return sum(group.rows for group in self.groups)


@router.get("/rejections")
def show(
    request: Request, at: AtDesk, visitor: AsViewer, reason: Annotated[str, Query(max_length=4000)] = ""
) -> Response:
    """What is outstanding, by cause; with `reason`, operators also see the rows of that cause."""
    may_read = visitor.role >= Role.OPERATOR
    wanted = reason.strip() if may_read else ""
    programmes = [_outstanding(at, account, wanted) for account in at.accounts()]
    return page(
        request, "rejections.html", programmes=programmes, reason=wanted, may_read=may_read, most=MOST
    )  # fmt: skip


@router.post("/rejections/{programme}/retry")
def preview_retry(request: Request, at: AtDesk, _: AsOperator, programme: str, cause: Text) -> Response:
    """Say what trying again would do; changes nothing."""
    groups = kept.groups(at.ledger, at.account(programme), reason=cause)
    return page(
        request, "preview.html", title="Try again",
        told="The next run sends what Engage refused again, and reads the accounts of the rejected rows.",
        lines=[f"{counted(group.rows, 'row')}: {group.reason}" for group in groups], left_out="", warning="",
        action=f"/rejections/{programme}/retry/decide", fields=[("cause", cause)], back="/rejections",
    )  # fmt: skip


@router.post("/rejections/{programme}/retry/decide")
def retry(request: Request, at: AtDesk, visitor: AsOperator, programme: str, cause: Text, reason: Reason) -> Response:
    """Let the next run try them again."""
    done = kept.retry(at.ledger, at.account(programme), reason=cause, by=visitor.name, why=reason)
    text = f"The next run sends {counted(done.refused, 'refused balance')} again and reads {counted(done.to_read, 'account')}."
    if done.nameless:
        text += f" {counted(done.nameless, 'row')} without a contact: only a full resync or discarding resolves them."
    return page(request, "message.html", title="The next run tries again", text=text)


@router.post("/rejections/{programme}/discard")
def preview_discard(request: Request, at: AtDesk, _: AsOperator, programme: str, digest: Digests) -> Response:
    """Say what discarding would do; changes nothing."""
    at.account(programme)
    return page(
        request, "preview.html", title="Discard",
        told="Each of these rows is discarded for good, even if the same row comes again. Nothing changes for its contact.",
        lines=[f"Row {one[:12]}" for one in digest], left_out="", warning="",
        action=f"/rejections/{programme}/discard/decide", fields=[("digest", one) for one in digest], back="/rejections",
    )  # fmt: skip


@router.post("/rejections/{programme}/discard/decide")
def discard(
    request: Request, at: AtDesk, visitor: AsOperator, programme: str, digest: Digests, reason: Reason
) -> Response:
    """Discard rejected rows of exports for good."""
    account = at.account(programme)
    whole = [one for one in dict.fromkeys(digest) if len(one) == kept.DIGEST]
    count = sum(kept.discard(at.ledger, account, one, reason, by=visitor.name) for one in whole)
    text = f"{counted(count, 'row')} discarded. Nothing changes for their contacts."
    return page(request, "message.html", title="Discarded", text=text)


def _outstanding(at: AtDesk, account: Account, reason: str) -> Outstanding:
    wanted = reason or None
    groups = kept.groups(at.ledger, account, reason=wanted)
    return Outstanding(account.name, groups, kept.rows(at.ledger, account, reason=wanted, limit=MOST) if wanted else [])
