"""One runner for all `run` commands: runs a job in this process, and collects its reports and its outcome."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from treazure_pipeline.connections import Connections, Listener
from treazure_pipeline.errors import BusyError, PipelineError
from treazure_pipeline.terminal import output, signals, startup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from dagster import DagsterInstance, JobDefinition
    from dagster._core.remote_origin import RemoteRepositoryOrigin

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.settings import Programme, Settings

T = TypeVar("T")

_SEVERITY = ("ok", "migrating", "waiting", "held", "busy", "failed")
# A run can succeed and still wait for a person's next step. The exit code says for what.
_WAITS = {3: "held", 6: "waiting"}


class _Hearing(Listener):
    """Keeps what a run reported, and passes its progress on."""

    def __init__(self, progressed: Callable[[int, int], None] | None) -> None:
        self._progressed = progressed
        self.sentences: list[str] = []
        self.reports: list[object] = []
        self.failures: list[PipelineError] = []

    def progressed(self, rows: int, total: int) -> None:
        """Pass it on."""
        if self._progressed is not None:
            self._progressed(rows, total)

    def told(self, sentence: str) -> None:
        """Keep it."""
        self.sentences.append(sentence)

    def reported(self, report: object) -> None:
        """Keep it."""
        self.reports.append(report)

    def failed(self, error: PipelineError) -> None:
        """Keep it."""
        self.failures.append(error)


@dataclass(frozen=True)
class Ran:
    """A run that has ended: what its steps said and its use cases reported, and what went wrong."""

    run_id: str
    success: bool
    sentences: Sequence[str]
    reports: Sequence[object]
    failures: Sequence[PipelineError]

    def of(self, kind: type[T]) -> T | None:
        """Return the last report of a kind, or None if the run did not get that far."""
        return next((report for report in reversed(self.reports) if isinstance(report, kind)), None)

    @property
    def figures(self) -> dict[str, Any]:
        """The figures that were reported by name."""
        return {name: value for report in self.reports if isinstance(report, dict) for name, value in report.items()}

    @property
    def outcome(self) -> dict[str, Any]:
        """`status`, `exit_code`, the last step's `summary` if there is one, and `error` where it is not ok."""
        error = self.failures[-1] if self.failures else None
        waits = None if error is None else _WAITS.get(error.exit_code)
        told = {"summary": self.sentences[-1]} if self.sentences else {}
        if self.success and waits is None:
            return {"status": "ok", "exit_code": 0, **told}
        return {
            **told,
            "status": waits or ("busy" if isinstance(error, BusyError) else "failed"),
            "error": str(error) if error is not None else "The run failed; its log in Dagster says why.",
            "exit_code": error.exit_code if error is not None else 1,
        }


def run_job(
    settings: Settings,
    dagster: DagsterInstance,
    name: str,
    ops: Mapping[str, Any],
    *,
    partition: str | None = None,
    progressed: Callable[[int, int], None] | None = None,
) -> Ran:
    """Run a job in this process; a failure is in the result. Raises StoppedError if a signal ended the run."""
    with startup.importing():
        from treazure_pipeline.alerts.definitions import ALERT_SENSOR
        from treazure_pipeline.cli import visibility
        from treazure_pipeline.definitions import build_definitions
        from treazure_pipeline.orchestration.names import names_of

    hearing = _Hearing(progressed)

    def connect(settings: Settings, **purpose: Any) -> Connections:
        return Connections(settings, listener=hearing, **purpose)

    job = build_definitions(settings, connect).resolve_job_def(name)
    location = visibility.location(dagster, names_of(settings).of(ALERT_SENSOR))
    run_id, success = _execute(job, dagster, ops, partition, location)
    return Ran(run_id, success, hearing.sentences, hearing.reports, hearing.failures)


def _execute(
    job: JobDefinition,
    dagster: DagsterInstance,
    ops: Mapping[str, Any],
    partition: str | None,
    location: RemoteRepositoryOrigin,
) -> tuple[str, bool]:
    from dagster import DagsterExecutionInterruptedError
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run

    from treazure_pipeline.cli import visibility

    config = {"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with signals.noted() as numbers:
        run = visibility.created(job, dagster, config, partition, location)
        try:
            success = execute_run(InMemoryJob(job), run, dagster).success
        except DagsterExecutionInterruptedError:
            success = None
    if numbers or success is None:  # Dagster has marked the run, and what was accepted is recorded
        raise signals.StoppedError(numbers[-1] if numbers else signal.SIGINT)
    return run.run_id, success


def report_dead_runs(dagster: DagsterInstance, job: str, tags: Mapping[str, str] | None = None) -> None:
    """Mark foreground runs whose process has died as failed. Call it while holding their lease, so none is at work."""
    from dagster import DagsterRunStatus, RunsFilter

    from treazure_pipeline.orchestration.names import FOREGROUND

    unfinished = RunsFilter(job_name=job, statuses=[DagsterRunStatus.STARTED], tags=FOREGROUND | dict(tags or {}))
    for run in dagster.get_runs(unfinished):
        dagster.report_run_failed(run, "The process of this run ended before the run did.")


def busy(
    settings: Settings,
    programme: Programme,
    dagster: DagsterInstance,
    job: str,
    holding: Callable[[Ledger, Account], AbstractContextManager[object]],
) -> dict[str, Any] | None:
    """Return the outcome if another run of the programme is under way; otherwise report its dead runs."""
    with Connections(settings) as connections:
        try:
            with holding(connections.ledger, connections.ledger.account(programme)):
                report_dead_runs(dagster, job)
        except BusyError as error:
            output.error(str(error))
            return {"status": "busy", "programme": programme.name, "exit_code": error.exit_code}
    return None


def conclude(results: Sequence[dict[str, Any]], names: Sequence[str], *, as_json: bool) -> int:
    """Print the outcome for each programme; return the exit code of the one that needs a person most."""
    worst = max(results, key=lambda result: _SEVERITY.index(result["status"]))
    exit_code = int(worst["exit_code"])
    for result in results:
        del result["exit_code"]
    if as_json:
        output.print_json(results[0] if len(results) == 1 else {"status": worst["status"], "programmes": results})
    else:
        print_results(results, names)
    return exit_code


def print_results(results: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Print one sentence per programme, then a table of the figures with one column per programme."""
    for result in results:
        output.verdict(f"{result['programme']}: {result.get('summary', result['status'])}")
    table = output.table("", *(result["programme"] for result in results))
    for name in ("status", *names):
        cells = [result.get(name) for result in results]
        if any(cell is not None for cell in cells):
            table.add_row(name.replace("_", " "), *cells)
    output.console().print(table)
    for result in results:
        if "first_send" in result:
            _print_first_send(result)
        if "error" in result:
            output.error(result["error"])
        if "note" in result:
            output.say(f"{result['programme']}: {result['note']}")


def _print_first_send(result: dict[str, Any]) -> None:
    table = output.table(f"{result['programme']}: contact", "Treazure", "accepted", "Engage shows", "")
    for row in result["first_send"]:
        table.add_row(*row.values())
    output.console().print(table)


def seconds_of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds by phase."""
    return {name.removeprefix("seconds_"): value for name, value in figures.items() if name.startswith("seconds_")}


@contextmanager
def progress(name: str, doing: str, first: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; `first` describes the work until there is something to count."""
    from treazure_pipeline.terminal.progress import bar

    with bar() as shown:
        task = shown.add_task(f"{name}: {first or doing}", total=None)

        def advance(rows: int, total: int) -> None:
            shown.update(task, description=f"{name}: {doing}", advance=rows, total=total)

        yield advance
