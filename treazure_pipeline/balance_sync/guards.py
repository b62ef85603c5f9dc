"""How much a push may change before a person has to approve it (I7).

A guard that can't be evaluated counts as tripped. The first load of a programme always passes. Shares mean little in a small programme, so there
only the largest single change is checked. A row with a negative balance is held, whatever the guards say.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync import plans
from treazure_pipeline.errors import GuardTrippedError

if TYPE_CHECKING:
    from treazure_pipeline.balance_sync.plans import Plan, Shift
    from treazure_pipeline.connections import Run
    from treazure_pipeline.settings import Guards

SHARES_FROM = 1000


@dataclass(frozen=True)
class Judgment:
    """What the guards say about the rows that are due: `reasons` to hold them, and the `plan` they are stored in.

    Rows of an approved plan (`shift.approved`) are sent in any case.
    """

    shift: Shift
    reasons: tuple[str, ...]
    plan: Plan | None

    @property
    def holds_all(self) -> bool:
        """Whether nothing may be pushed."""
        return bool(self.reasons) and not self.shift.approved

    @property
    def sentence(self) -> str:
        """What the guards found, in one sentence."""
        shift = self.shift
        if not self.reasons:
            held = f"; {shift.negative:,} wait: their balance is below zero" if shift.negative else ""
            return f"{phrases.counted(shift.rows, 'row')} may be sent{held}"
        assert self.plan is not None
        told = f"{'; '.join(self.reasons)}; plan {self.plan.digest} "
        return told + (f"is approved for {shift.approved:,} of {shift.rows:,}" if shift.approved else "waits")

    def error(self) -> GuardTrippedError:
        """Return an error that says what was held, and what a person can do."""
        assert self.plan is not None
        return GuardTrippedError(
            f"{self.shift.rows:,} rows were not pushed: {'; '.join(self.reasons)}.",
            digest=self.plan.digest,
            hint="They stay pending. Look at them with `treazure-pipeline plan`. If they are right: "
            f"`treazure-pipeline approve {self.plan.digest}`.",
        )


def judge(run: Run) -> Judgment:
    """Judge what a push would change. If a guard trips or a balance is negative, store it as a plan."""
    ledger, account = run.ledger, run.account
    plans.expire(ledger, account)
    shift = plans.shift(ledger, account)
    reasons = tuple(tripped(shift, run.programme.guards)) if account.mode == "live" else ()
    if reasons or shift.negative:
        return Judgment(shift, reasons, plans.store(ledger, account, shift, reasons, run_id=run.id))
    plans.close_open(ledger, account)
    return Judgment(shift, reasons, None)


def tripped(shift: Shift, guards: Guards) -> list[str]:
    """Return the reasons why these changes are suspicious; empty if they are not."""
    if shift.is_first_load or not shift.rows:
        return []
    found = []
    if shift.known >= SHARES_FROM:
        found = [
            _share(shift.changed, shift.known, guards.max_changed_share,
                   f"of {shift.known:,} known contacts would change", "GUARD_MAX_CHANGED_SHARE"),
            _share(shift.zeroed, shift.known, guards.max_zeroed_share,
                   f"of {shift.known:,} known contacts would be set to zero", "GUARD_MAX_ZEROED_SHARE"),
            _share(abs(shift.net), shift.total, guards.max_total_share,
                   f"of {phrases.points(shift.total)} points in total would be {'added' if shift.net > 0 else 'taken'}",
                   "GUARD_MAX_TOTAL_SHARE"),
        ]  # fmt: skip
    if shift.largest > guards.max_single_change:
        found.append(
            f"one balance would change by {phrases.points(shift.largest)} points, the limit is "
            f"{phrases.points(guards.max_single_change)} (GUARD_MAX_SINGLE_CHANGE)"
        )
    return [reason for reason in found if reason]


def _share(part: Decimal | int, whole: Decimal | int, most: Decimal, what: str, setting: str) -> str | None:
    if part == 0:
        return None
    if whole <= 0:
        return f"a share {what}, which can't be computed from a total of {whole} ({setting})"
    share = Decimal(part) / whole
    return f"{share:.1%} {what}, the limit is {most:.1%} ({setting})" if share > most else None
