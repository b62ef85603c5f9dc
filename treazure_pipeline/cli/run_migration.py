"""``run migration``: prepare, all shards, finish, in the foreground; continues where an earlier one stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treazure_pipeline.cli.runner import Ran, conclude, report_dead_runs, run_job, seconds_of
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.terminal import instance, output
from treazure_pipeline.terminal.progress import bar

if TYPE_CHECKING:
    from datetime import datetime

    from dagster import DagsterInstance
    from rich.progress import Progress

    from treazure_pipeline.connections import Connections
    from treazure_pipeline.ledger.store import Account
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.settings import Programme, Settings

SHOWN = (
    "migration", "cut_off", "mode", "key_type", "contacts", "moved", "movements", "left_out", "files", "rows",
    "findings", "points", "target", "sent", "sent_before", "read", "equal", "differing", "missing_in_engage", "pending",
    "report",
)  # fmt: skip

_MOST_SHOWN = 20


def command(names: Sequence[str], *, as_json: bool, abandon: str | None, by: str | None, **options: Any) -> int:
    """Do what the command line asked for; return the exit code."""
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    programmes = settings.chosen(names)
    if abandon is None:
        for programme in programmes:
            _require_jobs(programme)
    os.environ.update(instance.prepare(settings).environment)
    results = [
        give_up(settings, programme, by=by or "", reason=abandon)
        if abandon is not None
        else run_migration(settings, programme, **options)
        for programme in programmes
    ]
    return conclude(results, SHOWN, as_json=as_json)


def _require_jobs(programme: Programme) -> None:
    if programme.migrated:
        raise SettingsError(
            f"Programme {programme.name!r} has no migration jobs: the settings say that it is migrated.",
            hint="To migrate it, remove PROGRAMME_MIGRATED, or `migrated` in the programmes' YAML.",
        )


def give_up(settings: Settings, programme: Programme, *, by: str, reason: str) -> dict[str, Any]:
    """Abandon the programme's migration."""
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.point_migration import backfill

    with Connections(settings) as connections:
        account = connections.ledger.account(programme)
        migration = backfill.abandon(connections.ledger, account, by=by, reason=reason)
    return {"programme": programme.name, "status": "ok", "migration": migration.id, "abandoned": True, "exit_code": 0}


def run_migration(
    settings: Settings,
    programme: Programme,
    *,
    deliver_by: str = "files",
    mapping: str | None = None,
    although_loaded: bool = False,
    leave_out_unreadable: bool = False,
    accepted_by: str | None = None,
) -> dict[str, Any]:
    """Run the remaining jobs of the programme's migration; return what `--json` prints, and the `exit_code`."""
    with instance.opened() as dagster, _progress(programme) as bar:
        jobs = _Jobs(settings, programme, dagster, bar.advance)
        before = jobs.state()
        if before is None:
            jobs.check(mapping, deliver_by)
        if before is None or before.state == "roster":
            bar.phase("reading the contacts")
            if not jobs.run("prepare_migration", {
                "migration_roster": {"although_loaded": although_loaded, "deliver_by": deliver_by}
                | ({"mapping": mapping} if mapping else {})
            }):  # fmt: skip
                return jobs.summary()
        if before is None or before.state != "delivered":
            shards, left = jobs.shards()
            bar.phase("fetching the points logs", total=left)
            for shard in shards:
                if not jobs.run(
                    "point_migration", {"migration_points_log": {"leave_out_unreadable": leave_out_unreadable}}, shard
                ):
                    return jobs.summary()
        bar.phase("delivering and reading back")
        answers: dict[str, Any] = {"accepted_by": accepted_by} if accepted_by else {}
        while True:
            jobs.run("finish_migration", {"migration_delivery": {"by": deliver_by}, "migration_audit": answers})
            if jobs.paused is None:
                return jobs.summary()
            answers |= {"since": jobs.paused.isoformat()}


class _Jobs:
    """The jobs of one programme on one Dagster instance, and their combined results."""

    def __init__(
        self, settings: Settings, programme: Programme, dagster: DagsterInstance, advance: Callable[[int, int], None]
    ) -> None:
        from treazure_pipeline.orchestration.names import names_of

        self._settings = settings
        self._programme = programme
        self._dagster = dagster
        self._advance = advance
        self._ran: list[Ran] = []
        self._figures: dict[str, Any] = {}
        self._names = names_of(settings, programme)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Connections, Account]]:
        from treazure_pipeline.connections import Connections

        with Connections(self._settings) as connections:
            yield connections, connections.ledger.account(self._programme)

    def state(self) -> Migration | None:
        """The programme's open migration."""
        from treazure_pipeline.point_migration import backfill

        with self._connected() as (connections, account):
            return backfill.current(connections.ledger, account)

    def check(self, mapping: str | None, by: str) -> None:
        """Check what can be checked before a run exists and anything changes."""
        from treazure_pipeline.point_migration import steps

        with self._connected() as (connections, _):
            found = steps.check(connections, self._programme, mapping=mapping, by=by)
        for each in found[:_MOST_SHOWN]:
            output.note(f"Mapping, line {each.line}, {each.field}: {each.advice}")
        if found:
            left_out = sum(not each.taken for each in found)
            output.note(f"{left_out} lines of the mapping are left out, {len(found) - left_out} have remarks.")

    def shards(self) -> tuple[list[str], int]:
        """The shards that have no files yet, and how many contacts are still to be read."""
        from treazure_pipeline.point_migration import backfill
        from treazure_pipeline.point_migration.definitions import shard_names

        with self._connected() as (connections, account):
            migration = backfill.opened(connections.ledger, account)
            names = shard_names(migration.shards)
            left = [
                name
                for number, name in enumerate(names)
                if not backfill.progress(connections.ledger, migration, number).shards_written
            ]
            whole = backfill.progress(connections.ledger, migration)
        return left, whole.contacts - whole.fetched - whole.left_out

    def run(self, name: str, config: dict[str, dict[str, Any]], shard: str | None = None) -> bool:
        """Run a job; return whether it succeeded."""
        job = self._names.of(name)
        self._report_dead_runs(job, shard)
        ops = {self._names.op(asset): {"config": values} for asset, values in config.items()}
        ran = run_job(self._settings, self._dagster, job, ops, partition=shard, progressed=self._advance)
        found = ran.figures
        if shard is None:
            self._figures |= found
        else:
            for added in ("movements", "files", "rows", "findings", "left_out"):
                self._figures[added] = self._figures.get(added, 0) + found.get(added, 0)
        self._ran.append(ran)
        return ran.success

    def _report_dead_runs(self, job: str, shard: str | None) -> None:
        """Mark foreground runs whose process has died as failed, so that they free the pool."""
        from dagster._core.storage.tags import PARTITION_NAME_TAG

        from treazure_pipeline.point_migration import backfill

        with (
            self._connected() as (connections, account),
            backfill.holding(connections.ledger, account, None if shard is None else int(shard)),
        ):
            report_dead_runs(self._dagster, job, {} if shard is None else {PARTITION_NAME_TAG: shard})

    @property
    def paused(self) -> datetime | None:
        """When the audit began, if its last run ended before everything was read."""
        from treazure_pipeline.point_migration.audit import PausedError

        failures = self._ran[-1].failures
        return failures[-1].since if failures and isinstance(failures[-1], PausedError) else None

    def summary(self) -> dict[str, Any]:
        """The combined results of all jobs."""
        figures = {name: self._figures[name] for name in SHOWN if name in self._figures}
        if "points_exact" in self._figures:
            figures["points"] = self._figures["points_exact"]
        with self._connected() as (_, account):
            mode = account.mode
        return {
            "programme": self._programme.name,
            **figures,
            "run_ids": [ran.run_id for ran in self._ran],
            "programme_mode": mode,
            "seconds": seconds_of(self._figures),
            **self._ran[-1].outcome,
        }


class _Bar:
    """A progress bar with the time left; each `phase` starts a new one."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=None)
        self._own_total = False

    def phase(self, what: str, total: int | None = None) -> None:
        """Say what is being done, and how much there is of it if that is known."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(f"{self._name}: {what}", total=total)
        self._own_total = total is None

    def advance(self, done: int, total: int) -> None:
        """Advance the bar; `total` is used if the phase has none of its own."""
        self._progress.update(self._task, advance=done, total=total if self._own_total else None)


@contextmanager
def _progress(programme: Programme) -> Iterator[_Bar]:
    with bar() as progress:
        yield _Bar(progress, programme.name)
