"""Measure an hour without changes through Dagster's daemon: `python benchmarks/tick.py` prints a table.

From the moment for which a run was scheduled to its end, as Dagster's storage has them: the hourly sync, and in a code
location of its own a job with one empty op, which is what Dagster itself takes. They tick in turns, every two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

MEMBERS = 50_000
JOBS = {"empty": "nothing", "sync": "hourly_balance_sync"}
SCHEDULED = ".dagster/scheduled_execution_time"


def empty() -> dg.Definitions:
    """A code location with a job that does nothing, at odd minutes."""
    import dagster as dg

    @dg.job(executor_def=dg.in_process_executor)
    def nothing() -> None:
        @dg.op
        def step() -> None: ...

        step()

    running = dg.DefaultScheduleStatus.RUNNING
    schedule = dg.ScheduleDefinition(job=nothing, cron_schedule="1-59/2 * * * *", default_status=running)
    return dg.Definitions(jobs=[nothing], schedules=[schedule])


def sync() -> dg.Definitions:
    """The product's code location; only its hourly sync ticks at even minutes."""
    from treazure_pipeline.balance_sync import definitions as balance_sync
    from treazure_pipeline.definitions import build_definitions
    from treazure_pipeline.settings import load_settings

    hourly: Any = balance_sync.hourly
    balance_sync.hourly = lambda job, _minute, *rest: hourly(job, "*/2", *rest)
    return build_definitions(load_settings())


def main() -> None:
    """Measure by the arguments given."""
    import databases
    from processes import stub

    parser = argparse.ArgumentParser(prog="benchmarks/tick.py", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="how many ticks of each; the median counts")
    repeat = parser.parse_args().repeat
    with databases.running_server() as server, stub(0, MEMBERS) as url, tempfile.TemporaryDirectory() as home:
        databases.fill(server, MEMBERS)
        with databases.cloned(server, MEMBERS) as database:
            seconds = measured(url, database, databases.made(server, "tick"), Path(home), repeat)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"Medians of {repeat}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n")
    print("| from tick to end of run | wanted, s | s | each |\n|---|--:|--:|---|")
    for name, what in {"empty": "an empty job", "sync": "an hour without changes"}.items():
        print(f"| {what} | | {middle[name]:.2f} | {', '.join(f'{value:.2f}' for value in seconds[name])} |")
    print(f"| more than the empty job | ≤ 0.5 | **{middle['sync'] - middle['empty']:.2f}** | |")


def measured(url: str, ledger: str, dagster_url: str, home: Path, repeat: int) -> dict[str, list[float]]:
    """Let the daemon tick; return the seconds of each run."""
    from measure import environment

    from treazure_pipeline.settings import load_settings
    from treazure_pipeline.terminal import instance
    from treazure_pipeline.terminal.processes import Family

    more = {"TREAZURE_PIPELINE_HOME": str(home), "DAGSTER_POSTGRES_URL": dagster_url}
    given = environment(url, ledger) | more
    place = instance.prepare(load_settings(given))
    given |= place.environment
    os.environ |= place.environment
    workspace = home / "tick.yaml"
    workspace.write_text(
        "load_from:\n"
        + "".join(
            f"  - python_file: {{relative_path: {__file__}, attribute: {name}, location_name: {name}}}\n"
            for name in JOBS
        ),
        encoding="utf-8",
    )
    with Family(given, home / "daemon.log") as family, instance.opened() as dagster:
        family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)])
        while True:
            seconds = {name: taken(dagster, job) for name, job in JOBS.items()}
            if all(len(values) >= repeat for values in seconds.values()):
                return {name: values[:repeat] for name, values in seconds.items()}
            ends = time.monotonic() + 5
            family.wait(partial(past, ends))


def past(moment: float) -> bool:
    """Tell whether the monotonic clock is past a moment."""
    return time.monotonic() > moment


def taken(dagster: dg.DagsterInstance, job: str) -> list[float]:
    """Return the seconds of every run from the moment for which it was scheduled, the first left out."""
    from dagster import DagsterRunStatus, RunsFilter

    records = dagster.get_run_records(RunsFilter(job_name=job), ascending=True)
    if any(record.dagster_run.status is DagsterRunStatus.FAILURE for record in records):
        raise SystemExit(f"A run of {job} failed.")
    return [
        record.end_time - datetime.fromisoformat(record.dagster_run.tags[SCHEDULED]).timestamp()
        for record in records
        if record.dagster_run.status is DagsterRunStatus.SUCCESS and record.end_time is not None
    ][1:]


if __name__ == "__main__":
    main()
