"""The demo's guard part: something goes wrong in Treazure, a guard stops it, and a person lets it through."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from treazure_pipeline.balance_sync import plans
from treazure_pipeline.balance_sync.guards import SHARES_FROM
from treazure_pipeline.cli.run import run_balance_sync
from treazure_pipeline.connections import open_ledger
from treazure_pipeline.terminal import instance, output

if TYPE_CHECKING:
    from treazure_pipeline.sandbox import Sandbox
    from treazure_pipeline.settings import Settings

_ZEROED_SHARE = 0.05


def play(box: Sandbox, settings: Settings) -> bool:
    """Set many balances to zero in Treazure; return whether the push waited for the approval and then went through."""
    (programme,) = settings.programmes
    known = [row for row in box.balances(limit=10_000) if row["known"]]
    if len(known) < SHARES_FROM:
        output.note(f"The guard part is left out: guards on shares need at least {SHARES_FROM:,} contacts.")
        return True
    members = [row for row in known if Decimal(row["treazure"] or 0) > 0]
    chosen = members[: max(1, int(len(members) * _ZEROED_SHARE))]
    box.set_points({row["contactId"]: 0 for row in chosen})
    output.note(f"Something in Treazure sets {len(chosen):,} balances to zero.")
    stopped = run_balance_sync(settings, programme, {})
    with open_ledger(settings, instance.locate(settings).ledger_url) as ledger:
        account = ledger.account(programme)
        with ledger.reading() as connection:
            plan = plans.open_plan(connection, account)
        if plan is None:
            output.error("No guard has tripped.")
            return False
        lifetime = timedelta(hours=settings.approval_lifetime_hours)
        plans.approve(ledger, account, plan.digest, by="the demo", lifetime=lifetime)
    passed = run_balance_sync(settings, programme, {})
    output.say("")
    output.say("A guard trips, and a person approves")
    table = output.table("", "sent", "held")
    _row(table, f"first try: {stopped['status']}", stopped)
    table.add_row(f"  plan {plan.digest}: {'; '.join(plan.reasons)}", "", "")
    _row(table, f"after its approval: {passed['status']}", passed)
    output.console().print(table)
    return stopped["status"] == "held" and not stopped["sent"] and passed["status"] == "ok"


def _row(table: output.Figures, title: str, result: dict[str, Any]) -> None:
    table.add_row(title, result.get("sent", 0), result.get("held", 0))
