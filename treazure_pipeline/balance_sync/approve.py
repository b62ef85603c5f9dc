"""``approve``: lets a plan that a guard has stopped be sent, once."""

from __future__ import annotations

from datetime import timedelta

import click

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.terminal import output, user


@click.command("approve")
@click.argument("digest")
@click.option("--by", metavar="NAME", help="Who approves, for the record. Default: the user of this session.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the record.")
@click.option(
    "--let-be", is_flag=True, help="Don't approve it. Only note that you looked, and why (--reason is then required)."
)
@output.json_option
def command(*, digest: str, by: str | None, reason: str, let_be: bool, as_json: bool) -> None:
    """Approve the plan with this DIGEST. The next push within APPROVAL_LIFETIME_HOURS sends its rows.

    Rows whose balance in Treazure has changed since the plan was made are judged again, with everything else that is pending.
    """
    from treazure_pipeline.balance_sync import plans
    from treazure_pipeline.terminal.ledger import at_ledger

    if let_be and not reason.strip():
        raise SettingsError("--let-be needs a --reason: why the plan is not approved.")
    with at_ledger() as opened:
        ledger, lifetime = opened.ledger, timedelta(hours=opened.settings.approval_lifetime_hours)
        person = by or user.named()
        plan = (
            plans.let_be(ledger, None, digest, by=person, why=reason)
            if let_be
            else plans.approve(ledger, None, digest, by=person, lifetime=lifetime, why=reason)
        )
    if as_json:
        output.print_json(
            {"status": "ok", "digest": plan.digest, "approved_by": plan.approved_by, "approved_at": plan.approved_at,
             "expires_at": plan.expires_at, "run_id": plan.run_id, "reasons": plan.reasons}
        )  # fmt: skip
        return
    if let_be:
        output.say(f"Plan {plan.digest} is not approved. It stays held until a run replaces it.")
        return
    output.say(f"Plan {plan.digest} is approved by {plan.approved_by} until {plan.expires_at:%Y-%m-%d %H:%M} UTC.")
    output.say("The next push sends its rows: the hourly run, or `treazure-pipeline run balance-sync` now.")
