"""The hourly balance sync in Dagster: snapshot → diff → push, its job, its schedule, its checks.

How a balance gets from one system to the other is in the other modules of this folder.
See https://docs.dagster.io/guides/build/assets
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync import first_send, guard_definitions, merge, metadata, plans, rejections
from treazure_pipeline.balance_sync.guards import Judgment, judge
from treazure_pipeline.balance_sync.push import PushFigures, push
from treazure_pipeline.balance_sync.report import Pushed
from treazure_pipeline.balance_sync.snapshot import Diff, merge_snapshot, take_snapshot
from treazure_pipeline.balance_sync.windows import chosen_window, window_asked_for
from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.ledger import batches, coverage, figures, frames
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.orchestration import checks, failures, forms, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.names import Names, at_most
from treazure_pipeline.settings import Programme

GROUP = "balance_sync"
OWNERS = ["team:loyalty"]
RUNS = at_most(hours=6)
ACTIVE = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]

Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult]


class SnapshotConfig(forms.Form):
    """Which window of mutation times to fetch. If empty: the one that leaves no hole, and once a week everything.

    Invalid values are refused before anything is done.
    """

    window_from: str | None = Field(
        default=None, description="Start of an explicit window, ISO 8601 (UTC if it names no zone)."
    )
    window_to: str | None = Field(default=None, description="End of the window. Default: two hours from now.")
    full_resync: bool = Field(
        default=False,
        description=(
            "Fetch all balances from the programme's beginning; only what differs is sent. "
            "A run without a window does so by itself once a week (FULL_RESYNC_CRON)."
        ),
    )

    def check(self) -> None:
        """Refuse an invalid window."""
        window_asked_for(self.window_from, self.window_to, full_resync=self.full_resync)


class PushConfig(forms.Form):
    """Whether to start with a few contacts."""

    limit: int | None = Field(
        default=None,
        ge=1,
        le=first_send.MOST,
        description="Send only this many contacts, wait until Engage shows them, and show both sides. The rest stays pending.",
    )


def build_balance_sync(programme: Programme, names: Names) -> dg.Definitions:
    """Assemble one programme's chain of assets."""
    key = names.key
    tags = {"programme": programme.name}
    shared: dict[str, Any] = {"group_name": names.group(GROUP), "owners": OWNERS, "tags": tags}
    common: dict[str, Any] = {**shared, "code_version": "1", "pool": names.of("balance_sync"), "op_tags": RUNS}
    coverage_checks = checks.LedgerChecks(
        key("balance_diff"),
        {"coverage_has_no_hole": "Every mutation time since the programme's beginning has been fetched (I1)."},
        partial(_coverage_checks, programme),
    )
    outstanding_checks = checks.LedgerChecks(
        key("engage_balance_push"),
        {
            "nothing_is_held_back": "No rows are held back by a guard or by a balance below zero (I7).",
            "nothing_is_rejected": "No row rejected from an export or refused by Engage is outstanding.",
        },
        partial(_outstanding_checks, programme),
    )

    treazure_balances = dg.AssetSpec(
        key("treazure_balances"), kinds={"treazure"}, **shared,
        description=f"The points of programme `{programme.loyalty_id}` in Treazure, the points master.",
        metadata={"dagster/column_schema": metadata.BALANCE_COLUMNS},
    )  # fmt: skip

    @dg.asset(
        key=key("treazure_balance_snapshot"),
        deps=[treazure_balances.key],
        config_schema=forms.schema(SnapshotConfig),
        kinds={"treazure", "postgres"},
        metadata={
            "dagster/column_schema": metadata.BALANCE_COLUMNS,
            "dagster/column_lineage": md.lineage(
                {name: (treazure_balances.key, name) for name in ("contact", "balance", "mutated_at")}
            ),
        },
        description=(
            "The balances that changed in Treazure since the end of unbroken coverage (with two hours of overlap), "
            "exported and staged in the ledger's database; once a week all of them. Rows that can't be understood are "
            "kept as rejections."
        ),
        **common,
    )
    def treazure_balance_snapshot(
        context: dg.AssetExecutionContext, connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        with _locked(connections, programme, context) as run:
            return _snapshot(context, run, forms.filled(context, SnapshotConfig))

    @dg.asset(
        key=key("balance_diff"),
        deps=[treazure_balance_snapshot],
        io_manager_key=guard_definitions.JUDGMENTS,
        kinds={"postgres"},
        metadata={
            **md.view("balance_change"),
            "dagster/column_lineage": md.lineage(
                {
                    "contact": (key("treazure_balance_snapshot"), "contact"),
                    "balance_after": (key("treazure_balance_snapshot"), "balance"),
                }
            ),
        },
        check_specs=[
            dg.AssetCheckSpec("rows_add_up", asset=key("balance_diff"),
                              description="fetched = duplicate + rejected + superseded + unchanged + changed (I6)."),
            dg.AssetCheckSpec(guard_definitions.CHECK, asset=key("balance_diff"), blocking=True, description=guard_definitions.DESCRIPTION),
            dg.AssetCheckSpec("points_are_conserved", asset=key("balance_diff"),
                              description="Opening total + changes = closing total, checked against a full sum once a day (I10)."),
        ],
        description=(
            "The snapshot, merged into the ledger: what differs from the newest known master balance becomes "
            "pending. An older observation never replaces a newer one."
        ),
        **common,
    )  # fmt: skip
    def balance_diff(context: dg.AssetExecutionContext, connections: dg.ResourceParam[Connections]) -> Results:
        with (
            coverage_checks.also_if_it_fails(context, connections),
            _locked(connections, programme, context) as run,
        ):
            yield from _diff(context, run)

    @dg.asset(
        key=key("engage_balance_push"),
        config_schema=forms.schema(PushConfig),
        ins={"judgment": dg.AssetIn(key("balance_diff"), input_manager_key=guard_definitions.JUDGMENTS)},
        kinds={"postgres", "voyado"},
        metadata={
            **md.view("contact_balance"),
            "dagster/column_lineage": md.lineage(
                {
                    "contact": (key("balance_diff"), "contact"),
                    "master_balance": (key("balance_diff"), "balance_after"),
                    "sent_balance": (key("balance_diff"), "balance_after"),
                }
            ),
        },
        check_specs=[
            dg.AssetCheckSpec("pending_adds_up", asset=key("engage_balance_push"),
                              description="changed + carried over = sent + refused + held + left pending (I6)."),
        ],
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=3), warn_window=timedelta(minutes=90)
        ),
        description=(
            "Pending rows, sent to Engage in batches and recorded batch by batch. Materialized alone, it sends "
            "what is pending. What Engage does not accept stays pending, and a later run sends it."
        ),
        **common,
    )  # fmt: skip
    def engage_balance_push(
        context: dg.AssetExecutionContext, connections: dg.ResourceParam[Connections], judgment: Any
    ) -> Results:
        with (
            outstanding_checks.also_if_it_fails(context, connections),
            _locked(connections, programme, context) as run,
        ):
            yield from _push(context, run, judgment, forms.filled(context, PushConfig).limit)

    engage_accounts = dg.AssetSpec(
        key("engage_point_accounts"),
        deps=[key("engage_balance_push"), names.shared.key("processed_adjustments")],
        kinds={"voyado"},
        **shared,
        metadata={"dagster/column_schema": metadata.ACCOUNT_COLUMNS},
        description=f"The point accounts of definition {programme.definition_id} in Engage, the point follower.",
    )
    assets = [treazure_balance_snapshot, balance_diff, engage_balance_push]
    job = dg.define_asset_job(
        names.of("hourly_balance_sync"),
        selection=dg.AssetSelection.assets(*assets),
        executor_def=dg.in_process_executor,
        tags=tags | RUNS,
        description="Fetches what changed in Treazure, compares it with the ledger, and sends it to Engage.",
    )

    def is_busy(connections: Connections) -> bool:
        return connections.ledger.is_running(connections.ledger.account(programme))

    schedule = hourly(job, 7, is_busy, "a missed hour leaves no hole.")
    return dg.Definitions(
        assets=[treazure_balances, *assets, engage_accounts],
        asset_checks=[coverage_checks.definition(), outstanding_checks.definition()],
        jobs=[job],
        schedules=[schedule],
    )


@contextmanager
def _locked(connections: Connections, programme: Programme, context: dg.AssetExecutionContext) -> Iterator[Run]:
    """Hold the programme's lock until the run's resources are closed. Our errors become the run's failure."""
    with story.step(context, connections.listener):
        run = Run.of(connections, programme, context.run.run_id)
        run.ledger.hold(run.account)
        yield run


def _snapshot(context: dg.AssetExecutionContext, run: Run, config: SnapshotConfig) -> dg.MaterializeResult:
    window = chosen_window(run, **config.model_dump())
    story.tag(context, story.window(window))
    snapshot = take_snapshot(run, window)
    run.connections.listener.reported(snapshot)
    rejected = frames.rejections.rows(run.ledger, run.account, limit=md.SAMPLE_ROWS)
    return dg.MaterializeResult(
        metadata=story.told(context, run.connections.listener, snapshot.sentence)
        | md.figures(
            {
                "window_from": dg.MetadataValue.timestamp(snapshot.window.start),
                "window_to": dg.MetadataValue.timestamp(snapshot.window.end),
                "full": snapshot.window.is_full,
                "dagster/row_count": snapshot.fetched,
                "fetched": snapshot.fetched,
                "rejected": snapshot.rejected,
                "seconds_export": round(snapshot.seconds, 3),
                **({} if snapshot.clock_ahead is None else {"clock_apart_seconds": round(snapshot.clock_ahead, 1)}),
                "rejections": md.sample(rejected),
            },
            "fetched",
            "seconds_export",
            if_any=("rejected",),
        )
    )


def _diff(context: dg.AssetExecutionContext, run: Run) -> Iterator[dg.MaterializeResult[Judgment]]:
    diff = merge_snapshot(run)
    run.connections.listener.reported(diff)
    changes = frames.diff.rows(run.ledger, run.account, run.id, limit=md.SAMPLE_ROWS)
    status = figures.status(run.ledger, run.account)
    judgment = judge(run)
    guarded = guard_definitions.guard_check(run, judgment)
    if judgment.holds_all:
        run.connections.listener.failed(judgment.error())
    merged = diff.figures
    yield dg.MaterializeResult(
        value=judgment,
        metadata=story.told(context, run.connections.listener, diff.sentence)
        | md.figures(
            {
                **{name: value for name, value in asdict(merged).items() if isinstance(value, int)},
                "points_before": phrases.points(merged.points_before),
                "points_after": phrases.points(merged.points_after),
                "points_total": md.number(merged.points_after),
                "reread": diff.reread,
                "seconds_diff": round(diff.seconds, 3),
                "covered_until": dg.MetadataValue.timestamp(status.covered_until or run.programme.beginning),
                "data_age_hours": md.age_hours(status.covered_until, status.now),
                "vanished_outstanding": status.vanished,
                "held_by_guards": judgment.shift.rows if judgment.holds_all else 0,
                "changes": md.sample(changes),
            },
            "changed",
            "unchanged",
            "points_total",
            "data_age_hours",
            "seconds_diff",
        ),
        check_results=[guarded, *_diff_checks(run, diff)],
    )
    if judgment.holds_all:
        raise failures.failure(judgment.error(), judgment.sentence)


def _diff_checks(run: Run, diff: Diff) -> list[dg.AssetCheckResult]:
    merged = diff.figures
    audit = figures.audit(run.ledger, run.account)
    return [
        dg.AssetCheckResult(
            check_name="rows_add_up",
            passed=merged.adds_up,
            description=f"{merged.fetched:,} fetched, {merged.accounted_for:,} accounted for",
            metadata={"fetched": merged.fetched, "accounted_for": merged.accounted_for},
        ),
        dg.AssetCheckResult(
            check_name="points_are_conserved",
            description=f"{phrases.points(merged.points_before)} and {phrases.change(merged.points_change)} make "
            f"{phrases.points(merged.points_after)}; the sum of all balances is {phrases.points(audit.summed)}",
            passed=audit.total == audit.summed and merged.points_before + merged.points_change == merged.points_after,
            metadata={
                "points_before": phrases.points(merged.points_before),
                "points_change": phrases.points(merged.points_change),
                "points_after": phrases.points(merged.points_after),
                "total": phrases.points(audit.total),
                **({"sum_of_its_own": phrases.points(audit.summed)} if audit.audited else {}),
                "last_summed_at": dg.MetadataValue.timestamp(audit.audited_at),
            },
        ),
    ]


def _coverage_checks(programme: Programme, ledger: Ledger) -> Iterator[dg.AssetCheckResult]:
    account = ledger.account(programme)
    holes, covered_until = coverage.holes(ledger, account), figures.status(ledger, account).covered_until
    yield dg.AssetCheckResult(
        check_name="coverage_has_no_hole",
        passed=not holes,
        description=f"{phrases.counted(len(holes), 'hole')} in what was fetched"
        if holes
        else f"everything is fetched until {covered_until:%Y-%m-%d %H:%M} UTC"
        if covered_until
        else "nothing is covered yet",
        metadata={
            "covered_until": str(covered_until),
            "holes": ", ".join(f"{start} to {end}" for start, end in holes) or "none",
        },
    )


def _push(context: dg.AssetExecutionContext, run: Run, judgment: Judgment | None, limit: int | None) -> Results:
    """Send what is due. `judgment` comes from the diff in the same run; None if only the push runs."""
    merged = merge.merged(run.ledger, run.account, run.id)
    judgment = judgment or judge(run)
    if judgment.holds_all:
        run.connections.listener.failed(judgment.error())
        raise failures.failure(judgment.error(), judgment.sentence)
    first = None if limit is None else batches.first_due(run.ledger, run.account, limit)
    pushed = push(run, since=None if merged is None else merged.backlog, judgment=judgment, only=first)
    changed = 0 if merged is None else merged.changed
    carried_over = (pushed.backlog if merged is None else merged.carried_over) + pushed.entered
    status = figures.status(run.ledger, run.account)
    rejected = rejections.groups(run.ledger, run.account)
    report = Pushed(
        changed,
        carried_over,
        pushed,
        migrating=run.account.mode == "migrating",
        window=None if merged is None else _window(status),
        fetched=None if merged is None else merged.fetched,
        why=rejections.most_of_engage(rejected),
        plan=judgment.plan.digest if judgment.plan is not None and judgment.reasons else None,
    )
    run.connections.listener.reported(report)
    shown = (
        story.told(context, run.connections.listener, report.sentence)
        | _figures(report, judgment, status)
        | {
            "dagster/row_count": figures.contacts(run.ledger, run.account),
            "pending_rows": md.sample(frames.pending.rows(run.ledger, run.account, limit=md.SAMPLE_ROWS)),
        }
    )
    yield _pending_adds_up(report)
    if judgment.reasons:
        run.connections.listener.failed(judgment.error())
    if pushed.error is not None:
        run.connections.listener.failed(pushed.error)
        left = f"{phrases.counted(pushed.pending, 'row is', 'rows are')} left for the next run"
        raise failures.failure(
            pushed.error, f"Not everything could be sent. What Engage accepted is recorded; {left}", **shown
        )
    if first:
        sides = first_send.compare(run, first)
        run.connections.listener.reported(sides)
        shown |= metadata.both_sides(sides)
        try:
            first_send.require_shown(sides, run.settings.engage_verify_grace_seconds)
        except PipelineError as error:
            run.connections.listener.failed(error)
            raise failures.failure(error, **shown) from error
    yield dg.MaterializeResult(metadata=shown)


def _window(status: figures.Status) -> coverage.Window | None:
    """Return the window that was merged last. Since the run holds the programme's lock, it is its own."""
    if status.window_from is None or status.window_to is None:
        return None
    return coverage.Window(status.window_from, status.window_to)


def _figures(report: Pushed, judgment: Judgment, status: figures.Status) -> dict[str, Any]:
    pushed = report.figures
    found = {
        "changed": report.changed,
        "carried_over": report.carried_over,
        "sent": pushed.sent,
        "refused": pushed.refused,
        "held": pushed.held,
        "held_by_guards": judgment.shift.rows if judgment.reasons else 0,
        "held_below_zero": status.negative,
        "pending": pushed.pending,
        "requests": pushed.requests,
        "lost_answers": pushed.lost,
        "oldest_pending_hours": md.age_hours(pushed.oldest_pending, status.now),
        "points_total": md.number(status.points_total),
        "rejected_outstanding": status.rejected + status.refused,
        "gone_outstanding": status.gone,
        "data_age_hours": md.age_hours(status.covered_until, status.now),
        "mode": status.mode,
        **{f"seconds_{phase}": round(value, 3) for phase, value in pushed.seconds.items()},
    }
    return md.figures(found, "sent", "points_total", "data_age_hours", if_any=("pending", "oldest_pending_hours"))


def _pending_adds_up(report: Pushed) -> dg.AssetCheckResult:
    pushed: PushFigures = report.figures
    return dg.AssetCheckResult(
        check_name="pending_adds_up",
        passed=report.adds_up,
        description=f"{report.changed:,} changed and {report.carried_over:,} carried over; {pushed.sent:,} sent, "
        f"{pushed.refused:,} refused, {pushed.held:,} held, {pushed.pending:,} left pending",
        metadata=md.figures(
            {
                "changed": report.changed,
                "carried_over": report.carried_over,
                "sent": pushed.sent,
                "refused": pushed.refused,
                "held": pushed.held,
                "left_pending": pushed.pending,
            }
        ),
    )


def _outstanding_checks(programme: Programme, ledger: Ledger) -> Iterator[dg.AssetCheckResult]:
    account = ledger.account(programme)
    status, rejected = figures.status(ledger, account), rejections.groups(ledger, account)
    with ledger.reading() as connection:
        plan = plans.open_plan(connection, account)
    waits = plan is not None and plan.state == "open"
    yield dg.AssetCheckResult(
        check_name="nothing_is_held_back",
        passed=not waits and not status.negative,
        description=f"{'; '.join(plan.reasons)}; plan {plan.digest} waits for approval"
        if plan is not None and waits
        else f"{phrases.counted(status.negative, 'balance is', 'balances are')} below zero"
        if status.negative
        else "no row waits for a person",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "reasons": "; ".join(plan.reasons) if plan is not None and waits else "none",
            "below_zero": status.negative,
            "digest": plan.digest if plan is not None and waits else "none",
        },
    )
    yield dg.AssetCheckResult(
        check_name="nothing_is_rejected",
        passed=not status.rejected and not status.refused,
        description=f"{phrases.counted(status.rejected, 'row')} of exports and {status.refused:,} refused by Engage are "
        "outstanding",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "rows_of_exports": status.rejected,
            "refused_by_engage": status.refused,
            "gone": status.gone,
            **metadata.rejections(rejected),
        },
    )


def hourly(job: Any, minute: int, is_busy: Callable[[Connections], bool], why: str) -> dg.ScheduleDefinition:
    """Return a schedule that skips while a run is queued or running; `why` says that this does no harm.

    A run whose process has died still counts as running in Dagster, so `is_busy` decides.
    """

    @dg.schedule(
        name=f"{job.name}_schedule",
        cron_schedule=f"{minute} * * * *",
        job=job,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Minute {minute} of every hour. Skips while a run is queued or running; {why}",
    )
    def tick(
        context: dg.ScheduleEvaluationContext, connections: dg.ResourceParam[Connections]
    ) -> dg.RunRequest | dg.SkipReason:
        runs = context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=ACTIVE), limit=10)
        if not runs:
            return dg.RunRequest()
        waiting = [run for run in runs if run.status is not dg.DagsterRunStatus.STARTED]
        if waiting or is_busy(connections):
            return dg.SkipReason(f"Run {(waiting or runs)[0].run_id} is queued or running.")
        return dg.RunRequest()

    return tick
