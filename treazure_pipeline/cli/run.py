"""``run``: one job, once, in the foreground, on the same Dagster instance that the UI shows."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from treazure_pipeline.errors import BusyError, PipelineError
from treazure_pipeline.terminal import instance, output, signals

if TYPE_CHECKING:
    from dagster import DagsterInstance, ExecuteInProcessResult, JobDefinition

    from treazure_pipeline.connections import Connections
    from treazure_pipeline.settings import Programme, Settings

FIGURES = (
    "fetched", "duplicate", "rejected", "superseded", "unchanged", "changed", "carried_over",
    "sent", "refused", "held", "pending", "requests", "points_before", "points_after",
)  # fmt: skip
HISTORY = (
    "due", "read", "failed", "left", "movements", "rows_written", "differing", "unknown_movements",
    "unreadable_movements", "files_written", "files_removed", "rows_exported",
)  # fmt: skip
ADJUSTMENTS = ("queued", "shortened", "posted", "done", "rejected", "waiting", "looked_up", "uncertain")
_EXPORT_URL = "TREAZURE_PIPELINE_HISTORY_EXPORT"
VERIFICATION = (
    "read", "equal", "drift", "missing", "unsettled", "failed", "marked", "healed", "requests", "outstanding_drift",
    "outstanding_missing", "will_not_heal", "oldest_drift_hours", "round", "round_share", "least_lately_verified_hours",
    "master_read", "master_recorded", "master_differs", "master_failed",
)  # fmt: skip
MIGRATING = (
    "The programme is migrating: its changes were recorded and nothing was sent. "
    "`treazure-pipeline run migration` goes on with it."
)
_SEVERITY = ("ok", "migrating", "waiting", "held", "busy", "failed")
# A run can succeed and still wait for a person's next step: by the exit code of what it waits for.
_WAITS = {3: "held", 6: "waiting"}


@click.group("run")
def command() -> None:
    """Run a job once, in the foreground."""


@command.command("balance-sync")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option(
    "--full-resync",
    is_flag=True,
    help="Fetch all balances, as FULL_RESYNC_CRON does by itself once a week; only what differs is sent.",
)
@click.option("--window-from", metavar="TIME", help="Begin of an explicit window, ISO 8601.")
@click.option("--window-to", metavar="TIME", help="Its end; default: two hours from now.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Send only N contacts, wait until Engage shows them, and show both sides; the rest is left pending.",
)
@output.json_option
@click.pass_context
def balance_sync(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    full_resync: bool,
    limit: int | None,
    window_from: str | None,
    window_to: str | None,
    as_json: bool,
) -> None:
    """Fetch what changed in Treazure, compare, and set it in Engage."""
    from treazure_pipeline.balance_sync.windows import window_asked_for
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    window = {"window_from": window_from, "window_to": window_to, "full_resync": full_resync}
    programmes = settings.chosen(names)
    window_asked_for(window_from, window_to, full_resync=full_resync)
    place = instance.prepare(settings)
    os.environ.update(place.environment)
    results = [run_balance_sync(settings, programme, window, limit=limit) for programme in programmes]
    ctx.exit(_shown(results, FIGURES, as_json=as_json))


@command.command("adjustments")
@output.json_option
@click.pass_context
def adjustments(ctx: click.Context, *, as_json: bool) -> None:
    """Post what is due in the queue of adjustments to Treazure, and set the balances in Engage."""
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    os.environ.update(instance.prepare(settings).environment)
    result = run_adjustments(settings)
    exit_code = result.pop("exit_code")
    if as_json:
        output.print_json(result)
    else:
        table = Table("Adjustments", "", box=None)
        for name in ("status", *ADJUSTMENTS):
            table.add_row(name.replace("_", " "), str(result.get(name, "")))
        output.console().print(table)
        if "error" in result:
            output.error(result["error"])
    ctx.exit(exit_code)


@command.command("history")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option("--full", is_flag=True, help="Read the logs of all contacts, not only of those that changed.")
@click.option("--export", "url", metavar="URL", help="Then write Parquet files by month to a folder or a fsspec URL.")
@output.json_option
@click.pass_context
def history(ctx: click.Context, *, names: tuple[str, ...], full: bool, url: str | None, as_json: bool) -> None:
    """Read the points logs of the contacts whose balance changed into the table points_history."""
    from treazure_pipeline.points_history.export import check_url
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    programmes = settings.chosen(names)
    if url is not None:
        check_url(url)
        # Dagster keeps run config, and the address may hold a password.
        os.environ[_EXPORT_URL] = url
    os.environ.update(instance.prepare(settings).environment)
    config = {"full": full, **({} if url is None else {"export_url": {"env": _EXPORT_URL}})}
    results = [run_history(settings, programme, config) for programme in programmes]
    ctx.exit(_shown(results, HISTORY, as_json=as_json))


def run_history(settings: Settings, programme: Programme, config: dict[str, Any]) -> dict[str, Any]:
    """Run one programme's job; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.definitions import build_definitions
    from treazure_pipeline.orchestration.names import names_of

    opened: list[Connections] = []
    names = names_of(settings, programme)
    with instance.opened() as dagster, _progress(programme, "reading logs") as advance:

        def connect(settings: Settings) -> Connections:
            opened.append(Connections(settings, on_progress=advance))
            return opened[-1]

        job = build_definitions(settings, connect).resolve_job_def(names.of("refresh_points_history"))
        result = execute(job, dagster, {names.op("points_history"): {"config": config}})
    values = _values(result)
    return {
        "programme": programme.name,
        "run_id": result.run_id,
        **{name: values[name] for name in ("everybody", *HISTORY) if name in values},
        "unknown_types": values.get("unknown_types", "none"),
        "rows": values.get("dagster/row_count", 0),
        "differing_outstanding": values.get("differing_outstanding", 0),
        "failed_outstanding": values.get("failed_outstanding", 0),
        "unreadable_outstanding": values.get("unreadable_outstanding", 0),
        **({"export": values["dagster/uri"]} if "dagster/uri" in values else {}),
        "seconds": _seconds(values),
        **_outcome(result, [error for connections in opened for error in connections.failures]),
    }


@command.command("verify")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@output.json_option
@click.pass_context
def verify(ctx: click.Context, *, names: tuple[str, ...], as_json: bool) -> None:
    """Read balances back from Engage, and mark what differs for sending again."""
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    programmes = settings.chosen(names)
    os.environ.update(instance.prepare(settings).environment)
    results = [run_verify(settings, programme) for programme in programmes]
    ctx.exit(_shown(results, VERIFICATION, as_json=as_json))


def run_verify(settings: Settings, programme: Programme) -> dict[str, Any]:
    """Run one programme's verification; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.definitions import build_definitions
    from treazure_pipeline.orchestration.names import names_of
    from treazure_pipeline.verification import rounds

    opened: list[Connections] = []

    def connect(settings: Settings) -> Connections:
        opened.append(Connections(settings))
        return opened[-1]

    names = names_of(settings, programme)
    with instance.opened() as dagster:
        job = build_definitions(settings, connect).resolve_job_def(names.of("verify_balances"))
        with Connections(settings) as connections:
            try:
                with rounds.holding(connections.ledger, connections.ledger.account(programme)):
                    _report_dead_runs(dagster, job.name)
            except BusyError as error:
                output.error(str(error))
                return {"status": "busy", "programme": programme.name, "exit_code": error.exit_code}
        result = execute(job, dagster, {})
    values = _values(result)
    return {
        "programme": programme.name,
        "run_id": result.run_id,
        **{name: values[name] for name in VERIFICATION if name in values},
        "seconds": {"verify": values.get("seconds_verify", 0.0)},
        **_outcome(result, [error for connections in opened for error in connections.failures]),
    }


@command.command("migration")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option(
    "--deliver-by",
    type=click.Choice(["files", "api"]),
    default="files",
    show_default=True,
    help="How rows get to Engage; `api` is for a tenant that is active.",
)
@click.option(
    "--mapping", metavar="FILE", help="CSV (contact, key) of the retailer, where MIGRATION_KEY_TYPE needs one."
)
@click.option("--although-loaded", is_flag=True, help="Begin although balances were sent to Engage before.")
@click.option("--leave-out-unreadable", is_flag=True, help="Go on without contacts whose points log can't be read.")
@click.option("--accept", is_flag=True, help="Close the audit although contacts differ; needs --by.")
@click.option("--abandon", metavar="REASON", help="Give the migration up: the programme is live again; needs --by.")
@click.option("--by", "by_whom", metavar="PERSON", help="Who decides what --accept and --abandon ask for.")
@output.json_option
@click.pass_context
def migration(ctx: click.Context, /, *, names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Move a programme's points into Engage before its go-live: contacts, points logs, files, delivery, audit.

    Run it again after Engage's import: it reads all balances back, and the programme is live.
    """
    from treazure_pipeline.cli import run_migration

    if (options["accept"] or options["abandon"]) and not options["by_whom"]:
        raise click.UsageError("--accept and --abandon need --by: the person who decides it.")
    ctx.exit(run_migration.command(names, as_json=as_json, **options))


def run_adjustments(settings: Settings) -> dict[str, Any]:
    """Run the job once; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.definitions import build_definitions
    from treazure_pipeline.orchestration.names import names_of

    opened: list[Connections] = []

    def connect(settings: Settings) -> Connections:
        opened.append(Connections(settings))
        return opened[-1]

    with instance.opened() as dagster:
        job = build_definitions(settings, connect).resolve_job_def(names_of(settings).of("process_adjustments"))
        result = execute(job, dagster, {})
    values = _values(result)
    return {
        "run_id": result.run_id,
        **{name: values[name] for name in ADJUSTMENTS if name in values},
        "points": values.get("points_exact", "0"),
        "seconds": {"process": values.get("seconds_process", 0.0)},
        **_outcome(result, [error for connections in opened for error in connections.failures]),
    }


def run_balance_sync(
    settings: Settings, programme: Programme, window: dict[str, Any], *, limit: int | None = None
) -> dict[str, Any]:
    """Run one programme's job; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.definitions import build_definitions
    from treazure_pipeline.orchestration.names import names_of

    opened: list[Connections] = []
    names = names_of(settings, programme)
    with instance.opened() as dagster, _progress(programme) as advance:

        def connect(settings: Settings) -> Connections:
            opened.append(Connections(settings, on_progress=advance))
            return opened[-1]

        definitions = build_definitions(settings, connect)
        job = definitions.resolve_job_def(names.of("hourly_balance_sync"))
        with Connections(settings) as connections:
            account = connections.ledger.account(programme)
            try:
                with connections.ledger.holding(account):
                    _report_dead_runs(dagster, job.name)
            except BusyError as error:
                output.error(str(error))
                return {"status": "busy", "programme": programme.name, "exit_code": error.exit_code}
        config = {"treazure_balance_snapshot": window, "engage_balance_push": {"limit": limit}}
        ops = {
            names.op(asset): {"config": {key: value for key, value in given.items() if value}}
            for asset, given in config.items()
        }
        result = execute(job, dagster, ops)
    return _summary(programme, result, [error for connections in opened for error in connections.failures])


def _shown(results: Sequence[dict[str, Any]], names: Sequence[str], *, as_json: bool) -> int:
    """Print the results of a job for each programme, and return the command's exit code."""
    return conclude(results, lambda results: print_results(results, names), as_json=as_json)


def conclude(
    results: Sequence[dict[str, Any]], show: Callable[[Sequence[dict[str, Any]]], None], *, as_json: bool
) -> int:
    """Show what became of each programme; return the exit code of the one that needs a person most."""
    worst = max(results, key=lambda result: _SEVERITY.index(result["status"]))
    exit_code = int(worst["exit_code"])
    for result in results:
        del result["exit_code"]
    if as_json:
        output.print_json(results[0] if len(results) == 1 else {"status": worst["status"], "programmes": results})
    else:
        show(results)
    return exit_code


def print_results(results: Sequence[dict[str, Any]], names: Sequence[str] = FIGURES) -> None:
    """Print one column per programme."""
    table = Table("", *(result["programme"] for result in results), box=None)
    for name in ("status", *names):
        cells = [result.get(name) for result in results]
        table.add_row(
            name.replace("_", " "),
            *(f"{cell:,}" if isinstance(cell, int) else str(cell if cell is not None else "") for cell in cells),
        )
    output.console().print(table)
    for result in results:
        if "first_send" in result:
            _print_first_send(result)
        if "error" in result:
            output.error(result["error"])
        if "note" in result:
            output.say(f"{result['programme']}: {result['note']}")


def _print_first_send(result: dict[str, Any]) -> None:
    table = Table(f"{result['programme']}: contact", "Treazure", "accepted", "Engage shows", "", box=None)
    for row in result["first_send"]:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    output.console().print(table)


def execute(
    job: JobDefinition, dagster: DagsterInstance, ops: dict[str, Any], partition: str | None = None
) -> ExecuteInProcessResult:
    """Run a job in this process; a failure is in the result. Raises StoppedError where a signal has ended the run."""
    from dagster import DagsterExecutionInterruptedError

    from treazure_pipeline.balance_sync.definitions import FOREGROUND

    loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
    with signals.noted() as numbers:
        try:
            result = job.execute_in_process(
                instance=dagster, run_config={"ops": ops, "loggers": loggers}, tags=FOREGROUND, raise_on_error=False,
                partition_key=partition,
            )  # fmt: skip
        except DagsterExecutionInterruptedError:
            result = None
    if numbers or result is None:  # Dagster has marked the run, and what was accepted is recorded
        raise signals.StoppedError(numbers[-1] if numbers else signal.SIGINT)
    return result


def _values(result: ExecuteInProcessResult) -> dict[str, Any]:
    """Return the figures that the run shows in Dagster, also of a step that failed."""
    metadata: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        metadata |= event.materialization.metadata
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.user_failure_data is not None:
            metadata |= event.step_failure_data.user_failure_data.metadata
    return {name: getattr(value, "value", value) for name, value in metadata.items()}


def _outcome(result: ExecuteInProcessResult, failures: Sequence[PipelineError]) -> dict[str, Any]:
    error = failures[-1] if failures else None
    waits = None if error is None else _WAITS.get(error.exit_code)
    if result.success and waits is None:
        return {"status": "ok", "exit_code": 0}
    return {
        "status": waits or ("busy" if isinstance(error, BusyError) else "failed"),
        "error": str(error) if error is not None else "The run failed; its log in Dagster says why.",
        "exit_code": error.exit_code if error is not None else 1,
    }


def _summary(programme: Programme, result: ExecuteInProcessResult, failures: Sequence[PipelineError]) -> dict[str, Any]:
    values = _values(result)
    summary: dict[str, Any] = {"programme": programme.name, "run_id": result.run_id}
    if "window_from" in values:
        summary["window"] = {
            "from": _iso(values["window_from"]),
            "to": _iso(values["window_to"]),
            "full": values["full"],
        }
    summary |= {name: values[name] for name in FIGURES if name in values}
    if "first_send" in values:
        summary["first_send"] = values["first_send"]
    summary["seconds"] = _seconds(values)
    outcome = _outcome(result, failures)
    if outcome["status"] == "held" and "sent" not in summary and "changed" in summary:
        everything = summary["changed"] + summary["carried_over"]
        summary |= {"sent": 0, "refused": 0, "held": everything, "pending": 0, "requests": 0}
    if outcome["status"] == "ok" and values.get("mode") == "migrating":
        outcome |= {"status": "migrating", "note": MIGRATING}
    return summary | outcome


def _seconds(values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("seconds_"): value for name, value in values.items() if name.startswith("seconds_")}


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat()


def _report_dead_runs(dagster: DagsterInstance, job: str) -> None:
    """Mark foreground runs as failed whose process is gone; called while their lock is ours."""
    from dagster import DagsterRunStatus, RunsFilter

    from treazure_pipeline.balance_sync.definitions import FOREGROUND

    unfinished = RunsFilter(job_name=job, statuses=[DagsterRunStatus.STARTED], tags=FOREGROUND)
    for run in dagster.get_runs(unfinished):
        dagster.report_run_failed(run, "The process of this run ended before the run did.")


@contextmanager
def _progress(programme: Programme, doing: str = "sending") -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.progress(), transient=True) as progress:
        task = progress.add_task(f"{programme.name}: fetching and comparing", total=None)

        def advance(rows: int, total: int) -> None:
            progress.update(task, description=f"{programme.name}: {doing}", advance=rows, total=total)

        yield advance
