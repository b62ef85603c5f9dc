"""*Health*: the state of each programme, in one sentence and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from treazure_pipeline import phrases
from treazure_pipeline.adjustments import queue
from treazure_pipeline.alerts import state as alerts
from treazure_pipeline.alerts.notify import STALE_AFTER
from treazure_pipeline.console.desk import AsViewer, AtDesk
from treazure_pipeline.console.pages import page
from treazure_pipeline.console.plots import Bar, Line, bars, line
from treazure_pipeline.ledger import figures
from treazure_pipeline.ledger.figures import Status
from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.rounds import Standing

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Account, Ledger

RUNS = 48
DAYS = 90
Level = Literal["good", "waiting", "bad"]


@dataclass(frozen=True)
class SyncRun:
    """An hourly run, from `treazure_reporting.sync_run`; `state` is asked, staged or merged."""

    run_id: str
    state: str
    asked_at: datetime
    fetched: int | None
    changed: int | None
    rejected: int | None
    sent: int | None
    refused: int | None


@dataclass(frozen=True)
class Programme:
    """Everything that the page shows about a programme. Times are UTC, oldest first in `runs` and `liability`."""

    status: Status
    standing: Standing
    level: Level
    verdict: str
    runs: list[tuple[SyncRun, Bar]]
    liability: list[tuple[date, Decimal]]
    line: Line | None


def programme(ledger: Ledger, account: Account) -> Programme:
    """Return the state of a programme."""
    status = figures.status(ledger, account)
    standing = rounds.standing(ledger, account)
    level, verdict = judged(status, standing, running=ledger.is_running(account))
    runs, liability = _history(ledger, account)
    return Programme(
        status=status,
        standing=standing,
        level=level,
        verdict=verdict,
        runs=list(zip(runs, bars([run.changed for run in runs], RUNS), strict=True)),
        liability=liability,
        line=line([closing for _, closing in liability]) if len(liability) > 1 else None,
    )


def judged(status: Status, standing: Standing, *, running: bool) -> tuple[Level, str]:
    """Say in one sentence what state a programme is in: first what needs a person, then what only waits."""
    name = status.programme
    if status.mode == "migrating":
        return "waiting", f"{name} is migrating: changes are recorded and nothing is sent."
    if status.covered_until is None:
        return "waiting", f"{name} has not been synced yet."
    until = _utc(status.covered_until)
    if status.plan is not None:
        return "bad", f"A guard has stopped the push of {name}: plan {status.plan} waits for approval."
    if status.now - status.covered_until > STALE_AFTER:
        return "bad", f"{name} is stale: changes in Treazure since {until} have not been fetched."
    if apart := standing.drift + standing.missing:
        level, what = _of_drift(apart, standing.will_not_heal)
        return level, f"Engage shows {_balances(apart)} of {name} different from what was sent; {what}."
    return _of_pending(status, until, running=running)


def _of_drift(apart: int, will_not_heal: int) -> tuple[Level, str]:
    if not will_not_heal:
        return "waiting", "the next push sends them again"
    return "bad", f"sending again has not helped{'' if will_not_heal == apart else f' for {will_not_heal:,} of them'}"


def _of_pending(status: Status, until: str, *, running: bool) -> tuple[Level, str]:
    name = status.programme
    if due := status.pending - status.held:
        return "waiting", f"{_balances(due)} of {name} wait for {'the run under way' if running else 'the next run'}."
    if status.held:
        return "waiting", f"{name} is in step as of {until}, except for {_balances(status.held)} held back."
    return "good", f"{name} is in step: Engage has accepted everything that Treazure had as of {until}."


def _balances(count: int) -> str:
    return f"{count:,} balance{'' if count == 1 else 's'}"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


router = APIRouter()


@router.get("/")
def show(request: Request, at: AtDesk, _: AsViewer) -> Response:
    """The state of each programme."""
    programmes = [programme(at.ledger, account) for account in at.accounts()]
    queued = queue.figures(at.ledger, lookup_wait=at.settings.treazure_lookup_wait_seconds)
    return page(
        request, "health.html", programmes=programmes, alerts=alerts.firing(at.ledger), now=at.ledger.now(),
        persons=phrases.sentence(phrases.some(uncertain=queued.uncertain, rejected=queued.rejected, dead_letters=queued.dead_letters)),
    )  # fmt: skip


@retried
def _history(ledger: Ledger, account: Account) -> tuple[list[SyncRun], list[tuple[date, Decimal]]]:
    values: dict[str, Any] = {"programme": account.name, "runs": RUNS, "days": DAYS}
    with ledger.reading() as connection:
        runs = records(connection, SyncRun, _RUNS, values)
        days: Sequence[tuple[date, Decimal]] = connection.execute(_LIABILITY, values).fetchall()
    return runs[::-1], list(days)[::-1]


_RUNS = """
select run_id, state, asked_at, fetched, changed, rejected, sent, refused from treazure_reporting.sync_run
where programme = %(programme)s order by observation desc limit %(runs)s
"""

_LIABILITY = """
select day, closing from treazure_reporting.liability_daily
where programme = %(programme)s order by day desc limit %(days)s
"""
