"""Adjustments in Dagster: the queue's asset, its job, and the sensor that starts it when something is due.

What becomes of an adjustment is in `processing`.
See https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from treazure_pipeline import phrases
from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import process, work_of
from treazure_pipeline.balance_sync.definitions import ACTIVE, OWNERS
from treazure_pipeline.connections import Connections
from treazure_pipeline.ledger import frames
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.orchestration import failures, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.checks import LedgerChecks
from treazure_pipeline.orchestration.names import FIRST, FOREGROUND, Names, at_most
from treazure_pipeline.settings import Programme

GROUP = "adjustments"
_RUNS = FIRST | at_most(hours=6)
SENSOR_SECONDS = 2  # the daemon looks every 5 s; of an interval as long it misses every other look by a hair
LINGER_SECONDS = 10.0
WARN_SECONDS = 3600.0
FAIL_SECONDS = 12 * 3600.0
_FOR_A_PERSON = ("uncertain", "rejected")

EVENT_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contactId", "uuid", "The contact's GUID, the same in both systems."),
        dg.TableColumn("amount", "numeric", "Points given; negative where they are taken."),
        dg.TableColumn("pointDefinitionId", "integer", "Engage's point definition: which programme it is about."),
        dg.TableColumn("description", "text", "What staff or an automation wrote; may hold personal data."),
    ]
)


def build_adjustments(programmes: Sequence[Programme], names: Names) -> dg.Definitions:
    """Assemble the queue's asset, job and sensor; one for all programmes, since events arrive at one address."""
    events = dg.AssetSpec(
        names.key("engage_adjustment_events"), group_name=names.group(GROUP), kinds={"voyado"}, owners=OWNERS,
        description="`loyalty.addPoints` webhooks of Engage: points given by hand or by an automation.",
        metadata={"dagster/column_schema": EVENT_COLUMNS},
    )  # fmt: skip

    key = names.key("processed_adjustments")
    queue_checks = LedgerChecks(
        key,
        {
            "nothing_is_uncertain": "No adjustment waits for a person to say whether Treazure has it (I4).",
            "queue_moves": "Nothing has waited for long. Engage gives up after 27.5 hours.",
            "nothing_is_rejected": "No adjustment was rejected, and no delivery was unreadable.",
        },
        _checks,
    )

    @dg.asset(
        key=key,
        deps=[events],
        group_name=names.group(GROUP),
        owners=OWNERS,
        kinds={"treazure", "postgres", "voyado"},
        code_version="1",
        op_tags=_RUNS,
        metadata={
            **md.view("adjustment"),
            "dagster/column_lineage": md.lineage(
                {
                    "programme": (events.key, "pointDefinitionId"),
                    "contact": (events.key, "contactId"),
                    "points": (events.key, "amount"),
                }
            ),
        },
        description=(
            "Points given in Engage, each posted to Treazure exactly once, in order of arrival. The new balance "
            "is then set in Engage."
        ),
    )  # fmt: skip
    def processed_adjustments(
        context: dg.AssetExecutionContext, adjustment_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        foreground = context.run.tags.keys() >= FOREGROUND.keys()
        linger = 0.0 if foreground else LINGER_SECONDS * adjustment_connections.retry.scale
        with queue_checks.also_if_it_fails(context, adjustment_connections):
            return _process(context, adjustment_connections, programmes, linger)

    job = dg.define_asset_job(
        names.of("process_adjustments"),
        selection=dg.AssetSelection.assets(processed_adjustments),
        executor_def=dg.in_process_executor,
        tags=_RUNS,
        description="Posts due adjustments from the queue to Treazure, and sets the balances in Engage.",
    )

    @dg.sensor(
        name=names.of("adjustment_queue_sensor"),
        job=job,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a run when something is due and none is under way. It needs no run key; the queue remembers what was done.",
    )
    def adjustment_queue_sensor(
        context: dg.SensorEvaluationContext, connections: dg.ResourceParam[Connections]
    ) -> dg.RunRequest | dg.SkipReason:
        if not queue.is_due(connections.ledger, lookup_wait=connections.settings.treazure_lookup_wait_seconds):
            return dg.SkipReason("Nothing is due.")
        runs = context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=ACTIVE), limit=10)
        launched = [run for run in runs if not run.tags.keys() >= FOREGROUND.keys()]
        if launched:
            return dg.SkipReason(f"Run {launched[0].run_id} is queued or running.")
        return dg.RunRequest()

    return dg.Definitions(
        assets=[events, processed_adjustments],
        asset_checks=[queue_checks.definition()],
        jobs=[job],
        sensors=[adjustment_queue_sensor],
    )


def _process(
    context: dg.AssetExecutionContext, connections: Connections, programmes: Sequence[Programme], linger: float
) -> dg.MaterializeResult:
    with story.step(context, connections.listener):
        done = process(work_of(connections, programmes, context.run.run_id, linger=linger))
        connections.listener.reported(done)
        state = queue.figures(connections.ledger)
        persons = frames.adjustments.rows(connections.ledger, _FOR_A_PERSON, limit=md.SAMPLE_ROWS)
    figures: dict[str, Any] = {
        "queued": done.queued, "shortened": done.shortened, "posted": done.posted,
        "done": done.done, "rejected": done.rejected,
        "waiting": done.waiting, "reread": done.reread, "looked_up": done.looked_up, "uncertain": done.uncertain,
        "points": done.points, "points_exact": done.points,
        "dagster/row_count": state.adjustments,
        "seconds_process": round(done.seconds, 3),
        "oldest_hours": round(state.oldest_seconds / 3600, 3),
        **{f"state_{name}": value for name, value in asdict(state).items() if isinstance(value, int)},
        "for_a_person": md.sample(persons),
    }  # fmt: skip
    shown = story.told(context, connections.listener, done.sentence) | md.figures(
        figures, "posted", "points", "seconds_process", if_any=("oldest_hours",)
    )
    if done.error is not None:
        connections.listener.failed(done.error)
        raise failures.failure(done.error, "The adjustments wait; nothing is lost", **shown)
    return dg.MaterializeResult(metadata=shown)


def _checks(ledger: Ledger) -> Iterator[dg.AssetCheckResult]:
    state = queue.figures(ledger)
    persons = frames.adjustments.rows(ledger, _FOR_A_PERSON, limit=md.SAMPLE_ROWS)
    yield dg.AssetCheckResult(
        check_name="nothing_is_uncertain",
        passed=not state.uncertain,
        description=phrases.counted(state.uncertain, "adjustment waits", "adjustments wait")
        + " for a person to say whether Treazure has them"
        if state.uncertain
        else "no adjustment is uncertain",
        metadata={"uncertain": state.uncertain, "rows": md.sample(persons)},
    )
    hours = state.oldest_seconds / 3600
    yield dg.AssetCheckResult(
        check_name="queue_moves",
        passed=state.oldest_seconds < WARN_SECONDS,
        severity=dg.AssetCheckSeverity.ERROR if state.oldest_seconds >= FAIL_SECONDS else dg.AssetCheckSeverity.WARN,
        description=f"the oldest unfinished adjustment has waited for {hours:,.1f} hours"
        if hours
        else "no adjustment is unfinished",
        metadata={"oldest_hours": round(hours, 3)},
    )
    wrong = [
        phrases.counted(state.rejected, "adjustment is rejected", "adjustments are rejected") if state.rejected else "",
        phrases.counted(state.dead_letters, "delivery is unreadable", "deliveries are unreadable")
        if state.dead_letters
        else "",
    ]
    yield dg.AssetCheckResult(
        check_name="nothing_is_rejected",
        passed=not any(wrong),
        severity=dg.AssetCheckSeverity.WARN,
        description=phrases.sentence(wrong) or "no adjustment is rejected, and every delivery was readable",
        metadata={"rejected": state.rejected, "dead_letters": state.dead_letters},
    )
