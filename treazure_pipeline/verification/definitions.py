"""Reading balances back from Engage in Dagster: the asset, its job, its schedule, its checks.

What is read, and what follows from it, is in `read_back` and `rounds`.
See https://docs.dagster.io/guides/test/asset-checks
"""

from dataclasses import asdict
from typing import Any

import dagster as dg

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.definitions import OWNERS, Results, hourly
from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.ledger import frames
from treazure_pipeline.orchestration import failures, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.names import BACKGROUND, Names, at_most
from treazure_pipeline.settings import Programme
from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.read_back import Verified, verify
from treazure_pipeline.verification.rounds import Standing, Tally

GROUP = "verification"
_RUNS = BACKGROUND | at_most(hours=2)
# By then, the default grace time of what the sync sent from minute 7 on is over.
MINUTE = 47


def build_verification(programme: Programme, names: Names) -> dg.Definitions:
    """Assemble one programme's verification."""
    key = names.key
    tags = {"programme": programme.name}

    @dg.asset(
        key=key("engage_balance_verification"),
        deps=[key("engage_point_accounts"), key("treazure_balances")],
        group_name=names.group(GROUP),
        owners=OWNERS,
        kinds={"voyado", "treazure", "postgres"},
        tags=tags,
        code_version="1",
        pool=names.of("balance_verification"),
        op_tags=_RUNS,
        metadata={
            **md.view("drift_open"),
            "dagster/column_lineage": md.lineage(
                {
                    "contact": (key("engage_balance_push"), "contact"),
                    "sent_balance": (key("engage_balance_push"), "sent_balance"),
                    "shown_balance": (key("engage_point_accounts"), "balance"),
                }
            ),
        },
        check_specs=[
            dg.AssetCheckSpec("no_drift", asset=key("engage_balance_verification"),
                              description="Engage holds what it accepted. The next push sends again what differs."),
            dg.AssetCheckSpec("master_agrees", asset=key("engage_balance_verification"),
                              description="A sample of accounts in Treazure shows no change that the sync missed."),
        ],
        description=(
            "Balances read back from Engage: those sent recently, once the grace time is over, and the whole "
            "programme, round by round. What differs is marked for sending again. The sent balances themselves "
            "are never changed."
        ),
    )  # fmt: skip
    def engage_balance_verification(
        context: dg.AssetExecutionContext, verification_connections: dg.ResourceParam[Connections]
    ) -> Results:
        yield from _verify(context, verification_connections, programme)

    job = dg.define_asset_job(
        names.of("verify_balances"),
        selection=dg.AssetSelection.assets(engage_balance_verification),
        executor_def=dg.in_process_executor,
        tags=tags | _RUNS,
        description="Reads balances back from Engage and marks what differs for sending again.",
    )

    def is_busy(connections: Connections) -> bool:
        return connections.ledger.is_leased(rounds.lease(connections.ledger.account(programme)))

    schedule = hourly(job, MINUTE, is_busy, "the next one continues where it stopped.")
    return dg.Definitions(assets=[engage_balance_verification], jobs=[job], schedules=[schedule])


def _verify(context: dg.AssetExecutionContext, connections: Connections, programme: Programme) -> Results:
    with story.step(context, connections.listener):
        run = Run.of(connections, programme, context.run.run_id)
        verified = verify(run)
        standing = rounds.standing(run.ledger, run.account)
        outstanding = frames.differing.rows(run.ledger, run.account, limit=md.SAMPLE_ROWS)
    counted = _figures(verified, standing)
    connections.listener.reported(counted)
    figures = story.told(context, connections.listener, verified.sentence) | md.figures(
        counted | {"mode": run.account.mode, "differing": md.sample(outstanding)},
        "read",
        "least_lately_verified_hours",
        "round_share",
        "seconds_verify",
        if_any=("outstanding_drift",),
    )
    yield _no_drift(verified, standing, figures["differing"])
    yield _master_agrees(verified.tally)
    if verified.error is not None:
        connections.listener.failed(verified.error)
        raise failures.failure(
            verified.error,
            "Engage can't be read. What was read is kept, and the next run continues from there",
            **figures,
        )
    yield dg.MaterializeResult(metadata=figures)


def _figures(verified: Verified, standing: Standing) -> dict[str, Any]:
    figures: dict[str, Any] = {
        **asdict(verified.tally),
        "dagster/row_count": standing.drift + standing.missing,
        "outstanding_drift": standing.drift,
        "outstanding_missing": standing.missing,
        "will_not_heal": standing.will_not_heal,
        "oldest_drift_hours": md.age_hours(standing.oldest, standing.now),
        "round": standing.round,
        "round_share": standing.round_share,
        "seconds_verify": round(verified.seconds, 3),
    }
    if standing.read_through_from is not None:
        figures["least_lately_verified_hours"] = md.age_hours(standing.read_through_from, standing.now)
    return figures


def _no_drift(verified: Verified, standing: Standing, differing: dg.MarkdownMetadataValue) -> dg.AssetCheckResult:
    found: dict[str, Any] = {
        "outstanding_drift": standing.drift, "outstanding_missing": standing.missing,
        "will_not_heal": standing.will_not_heal, "differing": differing,
    }  # fmt: skip
    tally = verified.tally
    wrong = bool(standing.drift or standing.will_not_heal)
    if not wrong and not tally.read and (tally.unsettled or tally.failed):
        return md.not_evaluated(
            "no_drift",
            "no row could be read back and judged (within the grace time, under way, or unreadable).",
            **found,
        )
    return dg.AssetCheckResult(
        check_name="no_drift",
        passed=not wrong,
        description=standing.sentence,
        severity=dg.AssetCheckSeverity.ERROR if standing.will_not_heal else dg.AssetCheckSeverity.WARN,
        metadata=found,
    )


def _master_agrees(tally: Tally) -> dg.AssetCheckResult:
    found = {
        "master_read": tally.master_read, "master_differs": tally.master_differs,
        "master_recorded": tally.master_recorded, "master_failed": tally.master_failed,
    }  # fmt: skip
    if tally.master_failed and not tally.master_read:
        return md.not_evaluated("master_agrees", "Treazure could not be read.", **found)
    return dg.AssetCheckResult(
        check_name="master_agrees",
        passed=not tally.master_differs,
        description=f"of {phrases.counted(tally.master_read, 'account')} read in Treazure, {tally.master_differs:,} had a "
        "change that the sync missed",
        metadata=found,
    )
