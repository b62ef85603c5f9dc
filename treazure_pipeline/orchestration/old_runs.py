"""Deletes Dagster's old runs with their events and logs, except those that the UI and the alerts rely on.

Dagster keeps runs forever, and its API deletes one at a time. Whose runs, and how long they are kept, is in
`retention.definitions`.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME as _BY_HAND
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as Checks
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager
    from datetime import datetime

    from dagster._core.storage.event_log import SqlEventLogStorage

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_PAGE = 500
_LONGEST = timedelta(hours=3)
"""After this long, the rest is left to the next day, since the run has to end and others wait."""


def delete_old_runs(
    instance: dg.DagsterInstance,
    jobs: Iterable[str],
    until: datetime,
    *,
    assets: AbstractSet[dg.AssetKey] = frozenset(),
    repository: str | None = None,
) -> int:
    """Delete ended runs of `jobs` that were created before `until`. Return how many. Can be stopped anywhere.

    Runs that somebody started from the page of an asset or a check have one job in all code locations. Of those, the
    ones of `repository` (a label) that were about `assets` alone are deleted too.

    For each job, the newest run of each outcome is kept, because alerts use it. So is every run that the instance shows
    as the newest of an asset or a check.
    """
    kept = set(_shown(instance))
    stop_at = time.monotonic() + _LONGEST.total_seconds()
    deleted = 0
    chosen: list[tuple[str, dict[str, str]]] = [(job, {}) for job in jobs]
    if repository is not None:
        chosen.append((_BY_HAND, {REPOSITORY_LABEL_TAG: repository}))
    for job, tags in chosen:
        for status in _ENDED:
            kept.update(instance.get_run_ids(dg.RunsFilter(job_name=job, tags=tags, statuses=[status]), limit=1))
        old = dg.RunsFilter(job_name=job, tags=tags, statuses=list(_ENDED), created_before=until)
        while found := [run for run in instance.get_runs(old, limit=_PAGE + len(kept)) if run.run_id not in kept]:
            others = {run.run_id for run in found if job == _BY_HAND and not _is_about(run, assets)}
            kept |= others
            runs = [run.run_id for run in found if run.run_id not in others]
            with _checks(instance) as connection:  # there is no index by run, so once for all of them
                connection.execute(Checks.delete().where(Checks.c.run_id.in_(runs)))
            for run in runs:
                if time.monotonic() > stop_at:
                    return deleted
                instance.compute_log_manager.delete_logs(prefix=[run])
                instance.delete_run(run)
                deleted += 1
    return deleted


def _is_about(run: dg.DagsterRun, assets: AbstractSet[dg.AssetKey]) -> bool:
    """Return whether a run materialized some of these assets, or checked some, and no others."""
    about = {*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())}
    return bool(about) and about <= assets


def _shown(instance: dg.DagsterInstance) -> Iterator[str]:
    """Return the runs that pages of assets and checks, conditions and sensors refer to, in any code location."""
    for record in instance.get_asset_records():
        entry = record.asset_entry
        for newest in (entry.last_materialization_record, entry.last_observation_record):
            if newest is not None:
                yield newest.run_id
        if entry.last_run_id is not None:
            yield entry.last_run_id
    column = Checks.c
    newest_of_each = sa.select(sa.func.max(column.id)).group_by(column.asset_key, column.check_name, column.partition)
    with _checks(instance) as connection:
        yield from connection.scalars(sa.select(column.run_id).where(column.id.in_(newest_of_each)))


def _checks(instance: dg.DagsterInstance) -> AbstractContextManager[sa.Connection]:
    """Connect to the results of checks, which Dagster's API neither lists by run nor deletes."""
    return cast("SqlEventLogStorage", instance.event_log_storage).index_connection()
