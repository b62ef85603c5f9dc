"""Guards in Dagster: the blocking check between diff and push, and the job with which a person approves a plan.

Belongs here: how a judgment is shown, and the launchpad's way to approve. Does not: what is suspicious
(`treazure_pipeline.balance_sync.guards`). See https://docs.dagster.io/guides/test/asset-checks
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from treazure_pipeline.balance_sync import plans
from treazure_pipeline.balance_sync.guards import Judgment
from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration import story
from treazure_pipeline.orchestration.names import Names, at_most

JUDGMENTS = "judgments"
CHECK = "guards_hold"
APPROVAL = "approve_plan"
DESCRIPTION = "The push would not change suspiciously much, or a person has approved it (I7). Blocks the push."

_COLUMNS = ("contact", "before", "after")


class Judgments(dg.IOManager):
    """Hands the judgment of a diff to the push of the same run, so that all pending rows are judged once.

    Kept in the run's process; a push that finds none judges by itself.
    """

    def __init__(self) -> None:
        self._kept: dict[dg.AssetKey, Judgment] = {}

    def handle_output(self, context: dg.OutputContext, obj: Judgment) -> None:
        """Keep a diff's judgment."""
        self._kept[context.asset_key] = obj

    def load_input(self, context: dg.InputContext) -> Judgment | None:
        """Return it to the push of that diff."""
        return self._kept.get(context.asset_key)


def guard_check(run: Run, judgment: Judgment) -> dg.AssetCheckResult:
    """Show a judgment with its figures, and a sample of the plan that waits where there is one."""
    shift = judgment.shift
    shown: dict[str, Any] = asdict(shift) | {
        "reasons": "; ".join(judgment.reasons) or "none",
        "changed_share": round(shift.changed / shift.known, 4) if shift.known else 0.0,
        "zeroed_share": round(shift.zeroed / shift.known, 4) if shift.known else 0.0,
    }
    if judgment.plan is not None:
        with run.ledger.reading() as connection:
            picture = plans.picture(connection, run.account, judgment.plan)
        shown |= {
            "digest": judgment.plan.digest,
            "what_to_do": dg.MetadataValue.md(
                f"`treazure-pipeline plan` shows all of it. If it is right: `treazure-pipeline approve "
                f"{judgment.plan.digest}`, or the job `approve_plan` in the launchpad."
            ),
            "largest_changes": md.table(_COLUMNS, picture.largest),
            "sample": md.table(_COLUMNS, picture.sample),
        }
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not judgment.holds_all,
        description=judgment.sentence,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=md.figures(shown, "rows", "changed_share", "largest", "net", "total"),
    )


class Approval(dg.Config):
    """The plan that may be pushed once."""

    digest: str = Field(description="The plan's digest, as shown in the failed check `guards_hold`.")
    approved_by: str = Field(description="Your name, for the record.", min_length=1)


def build_approval(names: Names) -> dg.JobDefinition:
    """Assemble the job that approves a stored plan; the next push of its programme sends the plan's rows."""

    @dg.op(description="Lets a stored plan through, once.")
    def approve(context: dg.OpExecutionContext, config: Approval, connections: dg.ResourceParam[Connections]) -> None:
        lifetime = timedelta(hours=connections.settings.approval_lifetime_hours)
        with story.step(context, connections.listener):
            plan = plans.approve(connections.ledger, None, config.digest, by=config.approved_by, lifetime=lifetime)
            story.told(
                context,
                connections.listener,
                f"plan {plan.digest} of run {plan.run_id} is approved by {plan.approved_by} until "
                f"{plan.expires_at:%Y-%m-%d %H:%M} UTC; the next push sends its rows",
            )

    @dg.job(
        name=names.of(APPROVAL),
        executor_def=dg.in_process_executor,
        tags=at_most(hours=1),
        description="Approves the plan of a push that a guard has stopped. The next push sends its rows, once.",
    )
    def approve_plan() -> None:
        approve()

    return approve_plan
