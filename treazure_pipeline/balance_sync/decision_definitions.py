"""A person's decisions about the sync, made in Dagster's launchpad: held plans, and rejected or refused rows."""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync import plans, rejections
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.orchestration import forms
from treazure_pipeline.orchestration.decisions import LONGEST, Decided, decision
from treazure_pipeline.orchestration.names import Names

_PROGRAMME = "The programme's name; if empty, all of them."


class _OfPlan(forms.Form):
    digest: str = Field(description="The plan's digest, as shown in the failed check `guards_hold`.")


class Approval(_OfPlan):
    """The plan to approve; it may be pushed once."""

    approved_by: str = Field(description="Your name, for the record.", min_length=1, max_length=200)
    reason: str = Field(default="", description="Why, for the record.", max_length=LONGEST)


class LetBe(_OfPlan, Decided):
    """The plan to leave unapproved."""


class Retried(Decided):
    """Which rows to try again: one contact's, those with a cause, or (only on purpose) everything."""

    programme: str | None = Field(default=None, description=_PROGRAMME)
    contact: str | None = Field(default=None, description="Only this contact's, by GUID.")
    cause: str | None = Field(default=None, description="Only rows whose cause contains this text.")
    everything: bool = Field(default=False, description="Everything that is outstanding.")


class Discarded(Decided):
    """Which rejected rows of exports to discard."""

    programme: str | None = Field(default=None, description=_PROGRAMME)
    digests: list[str] = Field(description="The rows' full digests, as `rejections list --rows --json` shows them.", min_length=1)  # fmt: skip


def build_decisions(names: Names) -> list[dg.JobDefinition]:
    """Assemble the jobs."""
    others = (decision(names, one) for one in (let_plan_be, retry_rejections, discard_rejections))
    return [decision(names, approve_plan, op="approve"), *others]


def approve_plan(connections: Connections, config: Approval) -> str:
    """Approves a plan that a guard has stopped. The next push sends its rows, once."""
    lifetime = timedelta(hours=connections.settings.approval_lifetime_hours)
    plan = plans.approve(
        connections.ledger, None, config.digest, by=config.approved_by, lifetime=lifetime, why=config.reason
    )
    return (
        f"Plan {plan.digest} of run {plan.run_id} is approved by {plan.approved_by} until "
        f"{plan.expires_at:%Y-%m-%d %H:%M} UTC; the next push sends its rows."
    )


def let_plan_be(connections: Connections, config: LetBe) -> str:
    """Notes that a plan was looked at and is not approved. It stays held until a run replaces it."""
    plan = plans.let_be(connections.ledger, None, config.digest, by=config.decided_by, why=config.reason)
    return f"Plan {plan.digest} is not approved. It stays held until a run replaces it."


def retry_rejections(connections: Connections, config: Retried) -> str:
    """Has the next run send again what Engage refused, and read the accounts of rejected rows."""
    if config.everything == bool(config.contact or config.cause):
        raise SettingsError("Nothing was done: choose a contact or a cause, or only everything.")
    ledger, by, why = connections.ledger, config.decided_by, config.reason
    done = [
        rejections.retry(ledger, account, contact=config.contact, reason=config.cause, by=by, why=why)
        for account in _accounts(connections, config.programme)
    ]
    refused, to_read = sum(one.refused for one in done), sum(one.to_read for one in done)
    return (
        f"The next run sends {phrases.counted(refused, 'refused balance')} again and reads "
        f"{phrases.counted(to_read, 'account')}."
    )


def discard_rejections(connections: Connections, config: Discarded) -> str:
    """Discards rows of exports for good. Nothing changes for their contacts."""
    if short := [digest for digest in config.digests if len(digest) != rejections.DIGEST]:
        raise SettingsError(f"Nothing was done: {short[0]!r:.80} is not a full digest.")
    count = sum(
        rejections.discard(connections.ledger, account, digest, config.reason, by=config.decided_by)
        for account in _accounts(connections, config.programme)
        for digest in dict.fromkeys(config.digests)
    )
    if not count:
        raise SettingsError("Nothing was done: no outstanding row of an export has one of these digests.")
    return f"{phrases.counted(count, 'row')} discarded."


def _accounts(connections: Connections, programme: str | None) -> list[Account]:
    chosen = connections.settings.chosen([programme] if programme else [])
    return [connections.ledger.account(one) for one in chosen]
