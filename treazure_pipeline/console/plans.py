"""*Plans*: what a guard has held and why; a person lets it through, or lets it be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from treazure_pipeline.balance_sync import plans
from treazure_pipeline.balance_sync.plans import Picture, Plan
from treazure_pipeline.console.desk import AsApprover, AsOperator, AsViewer, AtDesk, Desk
from treazure_pipeline.console.forms import Reason
from treazure_pipeline.console.pages import page
from treazure_pipeline.ledger import decisions
from treazure_pipeline.ledger.decisions import Decision
from treazure_pipeline.ledger.store import Account, retried

_MOST = 300

router = APIRouter()


@dataclass(frozen=True)
class Held:
    """What waits in a programme: the stored plan, or what a push would send now (`plan` is None)."""

    programme: str
    plan: Plan | None
    picture: Picture
    decided: list[Decision]
    widest: int


@router.get("/plans")
def show(request: Request, at: AtDesk, _: AsViewer) -> Response:
    """What is held in each programme, and what a push would change where nothing is."""
    return page(request, "plans.html", programmes=[held(at, account) for account in at.accounts()])


@router.post("/plans/{programme}/{digest}/approve")
def approve(at: AtDesk, visitor: AsApprover, programme: str, digest: str, reason: Reason) -> Response:
    """Let exactly the plan through that was on the page."""
    lifetime = timedelta(hours=at.settings.approval_lifetime_hours)
    account = at.account(programme)
    plans.approve(at.ledger, account, digest, by=visitor.name, lifetime=lifetime, why=reason)
    return RedirectResponse("/plans", HTTPStatus.SEE_OTHER)


@router.post("/plans/{programme}/{digest}/let-be")
def let_be(at: AtDesk, visitor: AsApprover, programme: str, digest: str, reason: Reason) -> Response:
    """Note that it is not approved, and why."""
    plans.let_be(at.ledger, at.account(programme), digest, by=visitor.name, why=reason)
    return RedirectResponse("/plans", HTTPStatus.SEE_OTHER)


@router.get("/decisions")
def show_decisions(request: Request, at: AtDesk, _: AsOperator) -> Response:
    """What people decided."""
    return page(request, "decisions.html", decisions=decisions.latest(at.ledger, _MOST), most=_MOST)


@retried
def held(at: Desk, account: Account) -> Held:
    """Return what waits in a programme; one transaction sees plan and rows at the same moment."""
    with at.ledger.reading() as connection:
        plan = plans.open_plan(connection, account)
        picture = plans.picture(connection, account, plan)
    decided = [] if plan is None else decisions.latest(at.ledger, _MOST, subject=plans.subject(plan))
    return Held(account.name, plan, picture, decided, max((count for _, count in picture.histogram), default=1))
