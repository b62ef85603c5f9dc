"""Alerts in Dagster: the sensor that looks at the ledger and the runs every 30 seconds and sends what changed.

Which runs count as failed is decided here; what is wrong with a programme, and how alerts are sent, in `notify`.
See https://docs.dagster.io/guides/automate/sensors
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, PARTITION_NAME_TAG, WILL_RETRY_TAG

from treazure_pipeline.alerts import notify, state
from treazure_pipeline.alerts.notify import Alert
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import BusyError, PipelineError, UnknownPartitionError
from treazure_pipeline.orchestration.decisions import is_decision
from treazure_pipeline.orchestration.names import Names, names_of
from treazure_pipeline.verification.rounds import standing

SECONDS = 30
ALERT_SENSOR = "alert_sensor"
UI_VARIABLE = "DAGSTER_WEBSERVER_URL"
_UI = "http://127.0.0.1:3000"
_RUNS = 50
# What waits for a person's next step worked as it should. The only blocking check is the guards'.
_WAITS_FOR_A_PERSON = ("GuardTrippedError", "DagsterAssetCheckFailedError")
# It did not begin, and whoever started it sees why.
_NO_VERDICT = (BusyError.__name__, UnknownPartitionError.__name__)
_VERDICTS = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_ENDED = [*_VERDICTS, dg.DagsterRunStatus.CANCELED]


def build_alerts(names: Names) -> dg.Definitions:
    """Assemble the sensor; it looks at every job of the code location that it is part of."""

    @dg.sensor(
        name=names.of(ALERT_SENSOR),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reports each problem once when it begins and once when it is over, and pings the dead man's switch "
            "while the data is fresh. Starts no run."
        ),
    )
    def alert_sensor(context: dg.SensorEvaluationContext, connections: dg.ResourceParam[Connections]) -> dg.SkipReason:
        repository = context.repository_def
        assert repository is not None
        jobs = [
            name
            for name in repository.job_names
            if not name.startswith("__") and not is_decision(repository.get_job(name))
        ]
        try:
            return dg.SkipReason(_evaluate(context, connections, jobs))
        except PipelineError as error:
            return dg.SkipReason(f"No alert could be sent: {error}")

    return dg.Definitions(sensors=[alert_sensor])


def _evaluate(context: dg.SensorEvaluationContext, connections: Connections, jobs: Iterable[str]) -> str:
    settings, ledger = connections.settings, connections.ledger
    ui = (os.environ.get(UI_VARIABLE) or _UI).rstrip("/")
    with state.evaluating(ledger) as alone:
        if not alone:
            return "Another evaluation is under way."
        firing = list(failed_runs(context.instance, jobs, ui))
        healths = []
        for programme in settings.programmes:
            account = ledger.account(programme)
            healths.append(state.health(ledger, account))
            shown = names_of(settings, programme).url(ui)
            firing += notify.of_programme(programme, healths[-1], standing(ledger, account), shown)
        firing += notify.of_queue(state.queue(ledger), names_of(settings).url(ui, "processed_adjustments"))
        if settings.tenant is not None:
            firing = [replace(alert, title=f"{settings.tenant}: {alert.title}") for alert in firing]
        told = notify.tell(ledger, firing, settings.alert_urls)
    if settings.dead_man_url is not None and notify.is_fresh(healths):
        now = healths[0].now.timestamp()
        due = not context.cursor or now - float(context.cursor) >= notify.PING_SECONDS
        if due and notify.ping(settings.dead_man_url):
            context.update_cursor(str(now))
    wrong = ", ".join(alert.key for alert in firing) or "nothing"
    return f"Wrong: {wrong}. Messages sent: {told.sent}, to be sent: {told.unsent}."


def failed_runs(instance: dg.DagsterInstance, jobs: Iterable[str], ui: str) -> Iterator[Alert]:
    """Find the jobs whose newest run with a verdict has failed, in any of its partitions.

    No verdict: a run that was canceled, found another one at work or was asked for a part that does not exist, and one that is retried, until that has ended.
    A run that waits for a person worked as it should: its plan has an alert of its own.
    """
    for job in jobs:
        decided: set[str | None] = set()
        failed: list[tuple[dg.DagsterRun, str]] = []
        for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=_VERDICTS), limit=_RUNS):
            partition = run.tags.get(PARTITION_NAME_TAG)
            if partition in decided:
                continue
            if run.status is dg.DagsterRunStatus.FAILURE:
                if _is_retried(instance, run):
                    continue
                error, text = _failure(instance, run)
                if error in _NO_VERDICT:
                    continue
                if error not in _WAITS_FOR_A_PERSON:
                    failed.append((run, text))
            decided.add(partition)
        if failed:
            yield _alert(instance, job, failed, ui)


def _is_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether Dagster tries a run again, and how that ends is not known yet."""
    if run.is_complete_and_waiting_to_retry:
        return True
    retry = run.tags.get(AUTO_RETRY_RUN_ID_TAG)
    if retry is None:  # the tag comes a moment after the failure
        return instance.run_retries_enabled and WILL_RETRY_TAG not in run.tags
    again = instance.get_run_by_id(retry)
    return again is not None and again.status not in _ENDED


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, str]:
    """Return the name of the error that made a run fail, and what it says where that can be told without a secret."""
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data: Any = entry.get_dagster_event().event_specific_data
        ours = data.user_failure_data
        if ours is not None:
            name = ours.metadata.get("error")
            return "" if name is None else str(name.value), str(ours.description)
        name = data.error.cls_name if data.error is not None else "error"
        return name, f"An unexpected {name}; the run's log says where."
    return "", "Its process ended before it did, or it ran for too long."


def _alert(instance: dg.DagsterInstance, job: str, failed: list[tuple[dg.DagsterRun, str]], ui: str) -> Alert:
    run, text = failed[0]
    record = instance.get_run_record_by_id(run.run_id)
    ended = datetime.fromtimestamp(record.end_time, UTC) if record is not None and record.end_time else None
    others = f" {len(failed)} of its partitions have failed." if len(failed) > 1 else ""
    return Alert(
        f"{job}:run_failed",
        f"{job} failed",
        f"Run {run.run_id[:8]} failed{f' at {ended:%Y-%m-%d %H:%M:%S} UTC' if ended else ''}: {text}{others}\n"
        "Do: what the error says. One failed run before a good one needs nothing, since the next goes on where it "
        f"stopped; after several: `treazure-pipeline doctor`.\n{ui}/runs/{run.run_id}",
    )
