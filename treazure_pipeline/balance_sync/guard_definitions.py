"""Guards in Dagster: the blocking check between diff and push.

What is suspicious is decided in `guards`, and a person approves in `decision_definitions`.
See https://docs.dagster.io/guides/test/asset-checks
"""

from dataclasses import asdict
from typing import Any

import dagster as dg

from treazure_pipeline.balance_sync import plans
from treazure_pipeline.balance_sync.guards import Judgment
from treazure_pipeline.connections import Run
from treazure_pipeline.orchestration import metadata as md

JUDGMENTS = "judgments"
CHECK = "guards_hold"
DESCRIPTION = "The push would not change suspiciously much, or a person has approved it (I7). Blocks the push."

_COLUMNS = ("contact", "before", "after")


class Judgments(dg.IOManager):
    """Hands the judgment of a diff to the push of the same run, so that all pending rows are judged once.

    They are kept in the run's process. A push that finds none makes its own.
    """

    def __init__(self) -> None:
        self._kept: dict[dg.AssetKey, Judgment] = {}

    def handle_output(self, context: dg.OutputContext, obj: Judgment) -> None:
        """Keep a diff's judgment."""
        self._kept[context.asset_key] = obj

    def load_input(self, context: dg.InputContext) -> Judgment | None:
        """Return the judgment of a diff, or None if this process has none."""
        return self._kept.get(context.asset_key)


def guard_check(run: Run, judgment: Judgment) -> dg.AssetCheckResult:
    """Show a judgment with its figures, and a sample of the plan if one waits."""
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
