"""*Rejections*: rows that could not be understood and balances that Engage refuses, by cause; tried again or discarded."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.responses import Response

from treazure_pipeline.balance_sync import rejections as kept
from treazure_pipeline.balance_sync.rejections import Group, Rejection
from treazure_pipeline.console.desk import AsOperator, AsViewer, AtDesk
from treazure_pipeline.console.pages import page
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.settings import Role

_MOST = 200
_DIGEST = 32

Text = Annotated[str, Form(min_length=1, max_length=4000)]
Reason = Annotated[str, Form(min_length=1, max_length=500)]
Digests = Annotated[list[str], Form(min_length=1, max_length=_MOST)]

router = APIRouter()


@dataclass(frozen=True)
class Outstanding:
    """What is outstanding in a programme: by cause, and (where a cause is asked for) row by row."""

    programme: str
    groups: list[Group]
    rows: list[Rejection]

    @property
    def count(self) -> int:
        """All of it."""
        return sum(group.rows for group in self.groups)


@router.get("/rejections")
def show(
    request: Request, at: AtDesk, visitor: AsViewer, reason: Annotated[str, Query(max_length=4000)] = ""
) -> Response:
    """What is outstanding, by cause; with `reason` the rows of that cause too, which is for operators."""
    may_read = visitor.role >= Role.OPERATOR
    wanted = reason.strip() if may_read else ""
    programmes = [_outstanding(at, account, wanted) for account in at.accounts()]
    return page(
        request, "rejections.html", programmes=programmes, reason=wanted, may_read=may_read, most=_MOST
    )  # fmt: skip


@router.post("/rejections/{programme}/retry")
def preview_retry(request: Request, at: AtDesk, _: AsOperator, programme: str, cause: Text) -> Response:
    """Say what trying again would do; changes nothing."""
    groups = kept.groups(at.ledger, _account(at, programme), reason=cause)
    return page(
        request, "rejections_preview.html", programme=programme, groups=groups, digests=[], cause=cause,
        action=f"/rejections/{programme}/retry/decide",
    )  # fmt: skip


@router.post("/rejections/{programme}/retry/decide")
def retry(request: Request, at: AtDesk, visitor: AsOperator, programme: str, cause: Text, reason: Reason) -> Response:
    """Have them tried by the next run."""
    done = kept.retry(at.ledger, _account(at, programme), reason=cause, by=visitor.name, why=reason.strip())
    text = f"The next run sends {done.refused:,} refused balances again and reads {done.to_read:,} accounts."
    if done.nameless:
        text += f" {done.nameless:,} rows name no contact: only a full resync resolves them, or discarding."
    return page(request, "message.html", title="Tried again with the next run", text=text)


@router.post("/rejections/{programme}/discard")
def preview_discard(request: Request, at: AtDesk, _: AsOperator, programme: str, digest: Digests) -> Response:
    """Say what discarding would do; changes nothing."""
    _account(at, programme)
    return page(
        request, "rejections_preview.html", programme=programme, groups=[], digests=digest, cause="",
        action=f"/rejections/{programme}/discard/decide",
    )  # fmt: skip


@router.post("/rejections/{programme}/discard/decide")
def discard(
    request: Request, at: AtDesk, visitor: AsOperator, programme: str, digest: Digests, reason: Reason
) -> Response:
    """End rejected rows of exports for good."""
    account = _account(at, programme)
    whole = [one for one in dict.fromkeys(digest) if len(one) == _DIGEST]
    count = sum(kept.discard(at.ledger, account, one, reason.strip(), by=visitor.name) for one in whole)
    text = f"{count:,} rows are discarded. Nothing changes for their contacts."
    return page(request, "message.html", title="Discarded", text=text)


def _outstanding(at: AtDesk, account: Account, reason: str) -> Outstanding:
    wanted = reason or None
    groups = kept.groups(at.ledger, account, reason=wanted)
    return Outstanding(
        account.name, groups, kept.rows(at.ledger, account, reason=wanted, limit=_MOST) if wanted else []
    )


def _account(at: AtDesk, programme: str) -> Account:
    found = next((account for account in at.accounts() if account.name == programme), None)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such programme.")
    return found
