"""The ledger's history in Dagster: what the data team reads, and the job that deletes what is older than its retention.

What may be deleted is decided in `prune`, and for Dagster's own runs in `orchestration.old_runs`.
See https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.definitions import OWNERS
from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration import story
from treazure_pipeline.orchestration.names import BACKGROUND, Names, at_most
from treazure_pipeline.orchestration.old_runs import delete_old_runs
from treazure_pipeline.retention import contacts
from treazure_pipeline.retention.prune import changes, megabytes, prune
from treazure_pipeline.settings import Settings

_RUNS = BACKGROUND | at_most(hours=6)


def build_maintenance(settings: Settings, names: Names, recurring: Sequence[dg.Definitions]) -> dg.Definitions:
    """Assemble the history's asset, and the job and schedule that keep it from growing forever.

    `recurring`: whose old runs are deleted too, besides this job's.
    """
    prune_history = names.of("prune_history")
    jobs = [prune_history, *(job.name for part in recurring for job in part.jobs or ())]
    assets = {names.key("ledger_history"), *(key for part in recurring for key in _keys(part))}

    @dg.asset(
        key=names.key("ledger_history"),
        group_name=names.group("maintenance"),
        owners=OWNERS,
        kinds={"postgres"},
        code_version="1",
        pool=names.of("maintenance"),
        op_tags=_RUNS,
        metadata=md.view("balance_change"),
        description=(
            "Every change of a master balance: from, to, when, why, in which run. When materialized, it is cut to "
            f"LEDGER_HISTORY_DAYS ({settings.ledger_history_days} days), and so is everything else that is only history. "
            f"Texts are blanked after TEXT_RETENTION_DAYS ({settings.text_retention_days} days). Dagster's own runs are "
            + (f"kept for DAGSTER_RUN_DAYS ({days} days)." if (days := settings.dagster_run_days) else "kept forever.")
        ),
    )
    def ledger_history(
        context: dg.AssetExecutionContext, connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        with story.step(context, connections.listener):
            pruned = prune(connections.ledger, connections.settings.ledger_history_days)
            blanked = contacts.blank(connections.ledger, connections.settings.text_retention_days)
            deleted_runs = 0
            if days := settings.dagster_run_days:
                until = datetime.now(UTC) - timedelta(days=days)
                deleted_runs = delete_old_runs(
                    context.instance, jobs, until, assets=assets, repository=context.run.tags.get(REPOSITORY_LABEL_TAG)
                )
            sizes = megabytes(connections.ledger)
            kept = changes(connections.ledger)
        deleted = {f"deleted_{name}": value for name, value in asdict(pruned).items() if isinstance(value, int)}
        told = [
            pruned.sentence,
            phrases.counted(sum(blanked.values()), "row") + " blanked" if any(blanked.values()) else "",
            phrases.counted(deleted_runs, "old run") + " deleted in Dagster" if deleted_runs else "",
        ]
        return dg.MaterializeResult(
            metadata=story.told(context, connections.listener, phrases.sentence(told))
            | md.figures(
                {
                    "dagster/row_count": kept,
                    "reaches_back_to": dg.MetadataValue.timestamp(pruned.until),
                    "deleted": pruned.deleted,
                    "megabytes": round(sum(sizes.values()), 1),
                    **deleted,
                    "deleted_runs": deleted_runs,
                    **{f"blanked_{name}": value for name, value in blanked.items()},
                    **{f"megabytes_{name}": value for name, value in sizes.items()},
                },
                "deleted",
                "megabytes",
            )
        )

    job = dg.define_asset_job(
        prune_history,
        selection=dg.AssetSelection.assets(ledger_history),
        executor_def=dg.in_process_executor,
        tags=_RUNS,
        description=(
            "Deletes what is older than LEDGER_HISTORY_DAYS and no longer needed, and Dagster's runs older than "
            "DAGSTER_RUN_DAYS, in small transactions."
        ),
    )
    schedule = dg.ScheduleDefinition(
        name=names.of("prune_history_schedule"),
        cron_schedule="23 3 * * *",
        job=job,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Once a day. If a day is missed, the next one makes up for it.",
    )
    return dg.Definitions(assets=[ledger_history], jobs=[job], schedules=[schedule])


def _keys(part: dg.Definitions) -> Iterator[dg.AssetKey]:
    for asset in part.assets or ():
        if isinstance(asset, dg.AssetsDefinition):
            yield from asset.keys
        elif isinstance(asset, dg.AssetSpec):
            yield asset.key
