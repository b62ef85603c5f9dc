"""The points history in Dagster: the asset, its job, its schedule (off by default), its checks.

`refresh` reads logs into the table, and `export` writes them to files.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from treazure_pipeline import people, phrases
from treazure_pipeline.balance_sync.definitions import ACTIVE, OWNERS
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import frames
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.orchestration import failures, forms, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.checks import LedgerChecks
from treazure_pipeline.orchestration.names import BACKGROUND, FOREGROUND, Names, at_most
from treazure_pipeline.points_history import store
from treazure_pipeline.points_history.refresh import Refreshed, refresh
from treazure_pipeline.settings import Programme

if TYPE_CHECKING:
    from treazure_pipeline.points_history.export import Exported

GROUP = "points_history"
_RUNS = BACKGROUND | at_most(hours=12)


class HistoryConfig(forms.Form):
    """Whose logs to read, and where to write files, if anywhere."""

    full: bool = Field(
        default=False, description="Read the logs of all contacts, not only of those whose balance changed."
    )
    max_hours: float = Field(
        default=5.0,
        gt=0,
        le=10,
        description="Stop after this many hours, including the export. The next run continues.",
    )
    export_url: str | None = Field(
        default=None,
        description=(
            "Afterwards write Parquet files by month to this folder, or fsspec URL such as s3://bucket/points. If "
            'the address has a password, take it from the environment: {"env": "NAME_OF_THE_VARIABLE"}.'
        ),
    )

    def check(self) -> None:
        """Refuse an address that can't be written to."""
        if self.export_url is not None:
            from treazure_pipeline.points_history import export

            export.check_url(self.export_url)


def build_points_history(programme: Programme, names: Names) -> dg.Definitions:
    """Assemble one programme's history."""
    key = names.key
    tags = {"programme": programme.name}
    log_checks = LedgerChecks(
        key("points_history"),
        {
            "history_adds_up": "The amounts of each log add up to the balance of its account (I10).",
            "every_log_is_read": "Every log could be read when it was last tried, with every movement in it.",
        },
        partial(_checks, programme),
    )

    @dg.asset(
        key=key("points_history"),
        deps=[key("balance_diff")],
        config_schema=forms.schema(HistoryConfig),
        group_name=names.group(GROUP),
        owners=OWNERS,
        tags=tags,
        kinds={"treazure", "postgres", "parquet"},
        code_version="1",
        pool=names.of("points_history"),
        op_tags=_RUNS,
        metadata={
            **md.view("movement"),
            "dagster/column_lineage": md.lineage({"contact": (key("balance_diff"), "contact")}),
        },
        description=(
            "Treazure's points log of each contact whose balance changed since its log was last read. A "
            "contact's rows are replaced in one transaction. With `export_url`, Parquet files by month are "
            "written there."
        ),
    )  # fmt: skip
    def points_history(
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        with log_checks.also_if_it_fails(context, background_connections):
            return _refresh(background_connections, programme, context, forms.filled(context, HistoryConfig))

    job = dg.define_asset_job(
        names.of("refresh_points_history"),
        selection=dg.AssetSelection.assets(points_history),
        executor_def=dg.in_process_executor,
        tags=tags | _RUNS,
        description="Reads the points logs of contacts whose balance changed, at half of Treazure's rate at most.",
    )
    return dg.Definitions(
        assets=[points_history], asset_checks=[log_checks.definition()], jobs=[job], schedules=[_schedule(job)]
    )


def _refresh(
    connections: Connections, programme: Programme, context: dg.AssetExecutionContext, config: HistoryConfig
) -> dg.MaterializeResult:
    from treazure_pipeline.points_history import export

    settings = connections.settings
    with story.step(context, connections.listener):
        if config.export_url is not None and export.has_secret(config.export_url):
            _refuse_stored(context, config.export_url)
        account = connections.ledger.account(programme)
        done = refresh(
            connections.ledger, connections.treazure, account, everybody=config.full,
            concurrency=settings.treazure_concurrency, keep_days=settings.ledger_history_days,
            most_seconds=timedelta(hours=config.max_hours).total_seconds(), progress=connections.listener.progressed,
        )  # fmt: skip
        exported = None
        if config.export_url is not None and done.error is None:
            left = timedelta(hours=config.max_hours).total_seconds() - done.seconds
            with connections.for_long_reading() as ledger:
                exported = export.export(ledger, account, config.export_url, most_seconds=left)
        state = store.state(connections.ledger, account)
        differing = frames.history_differences.rows(connections.ledger, account, limit=md.SAMPLE_ROWS)
        failed = frames.history_failures.rows(connections.ledger, account, limit=md.SAMPLE_ROWS)
        unreadable = frames.history_unreadable.rows(connections.ledger, account, limit=md.SAMPLE_ROWS)
        newest = frames.points_history.rows(connections.ledger, account, newest=md.SAMPLE_ROWS)
        now = connections.ledger.now()
    counted = _figures(done, exported) | {
        "differing_outstanding": state.differing,
        "failed_outstanding": state.failed,
        "unreadable_outstanding": state.unreadable,
    }
    connections.listener.reported(counted | {"rows": state.rows})
    sentence = done.sentence if exported is None else f"{done.sentence}; {exported.sentence}"
    figures = story.told(context, connections.listener, sentence) | md.figures(
        {
            **counted,
            "dagster/row_count": state.rows,
            "oldest_due_hours": md.age_hours(state.oldest_due, now),
            "differences": md.sample(differing),
            "failures": md.sample(failed),
            "unreadable": md.sample(unreadable),
            "newest": md.sample(newest),
        },
        "read",
        "movements",
        "seconds_read",
        if_any=("left", "oldest_due_hours"),
    )
    if done.error is not None:
        connections.listener.failed(done.error)
        still = f"{phrases.counted(done.left, 'is', 'are')} left for the next run"
        raise failures.failure(done.error, f"Not every log could be read. {still}", **figures)
    return dg.MaterializeResult(metadata=figures)


def _checks(programme: Programme, ledger: Ledger) -> Iterator[dg.AssetCheckResult]:
    account = ledger.account(programme)
    state = store.state(ledger, account)
    yield dg.AssetCheckResult(
        check_name="history_adds_up",
        passed=not state.differing,
        severity=dg.AssetCheckSeverity.WARN,
        description=phrases.counted(state.differing, "log does", "logs do") + " not add up to the account's balance"
        if state.differing
        else "every log that was read adds up to the account's balance",
        metadata={
            "differing": state.differing,
            "rows": md.sample(frames.history_differences.rows(ledger, account, limit=md.SAMPLE_ROWS)),
        },
    )
    yield dg.AssetCheckResult(
        check_name="every_log_is_read",
        passed=not (state.failed or state.unreadable),
        severity=dg.AssetCheckSeverity.WARN,
        description=phrases.sentence(
            phrases.some(logs_could_not_be_read=state.failed, movements_are_unreadable=state.unreadable)
        )
        or "every log could be read, with every movement in it",
        metadata={
            "failed": state.failed,
            "rows": md.sample(frames.history_failures.rows(ledger, account, limit=md.SAMPLE_ROWS)),
            "unreadable_movements": state.unreadable,
            "unreadable": md.sample(frames.history_unreadable.rows(ledger, account, limit=md.SAMPLE_ROWS)),
        },
    )


def _figures(done: Refreshed, exported: "Exported | None") -> dict[str, Any]:
    unknown = ", ".join(f"{people.word(kind)}: {count}" for kind, count in sorted(done.unknown_types.items()))
    figures: dict[str, Any] = {
        "everybody": done.everybody, "due": done.due, "read": done.read, "failed": done.failed, "left": done.left,
        "movements": done.movements, "rows_written": done.rows, "differing": done.differing,
        "unknown_movements": done.unknown_types.total(), "unknown_types": people.public(unknown) or "none",
        "unreadable_movements": done.unreadable,
        "seconds_read": round(done.seconds, 3),
    }  # fmt: skip
    if exported is not None:
        figures |= {
            "dagster/uri": exported.url, "files_written": exported.written, "files_removed": exported.removed,
            "months": exported.months, "months_left": exported.left, "rows_exported": exported.rows, "seconds_export": round(exported.seconds, 3),
        }  # fmt: skip
    return figures


def _refuse_stored(context: dg.AssetExecutionContext, url: str) -> None:
    """Refuse a secret in the run config, since Dagster stores and shows it."""
    if url in str(context.run.run_config):
        raise SettingsError(
            "export_url contains a password, and Dagster stores and shows run config.",
            hint='Put the address into an environment variable and give {"env": "ITS_NAME"} for export_url.',
        )


def _schedule(job: Any) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{job.name}_schedule",
        cron_schedule="23 2 * * *",
        job=job,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Daily at 02:23 UTC. Off until switched on. Skips while a run is queued or running.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        runs = context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=ACTIVE), limit=10)
        launched = [run for run in runs if not run.tags.keys() >= FOREGROUND.keys()]
        if launched:
            return dg.SkipReason(f"Run {launched[0].run_id} is queued or running.")
        return dg.RunRequest()

    return daily
