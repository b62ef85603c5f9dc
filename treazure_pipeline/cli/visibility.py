"""Shows runs from the command line in the UI: with their job, on the timeline, with who started them.

The UI finds a job's runs by the code location that they come from, and Dagster notes it only for the runs that its
daemon or webserver launches. See https://docs.dagster.io/guides/operate/run-executors
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRun, JobDefinition
from dagster._core.execution.execute_in_process import merge_run_tags
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG

from treazure_pipeline.orchestration import story
from treazure_pipeline.orchestration.names import FOREGROUND

# The location in workspace.yaml, and the repository that `@dg.definitions` makes.
_LOCATION, _REPOSITORY = "treazure_pipeline", "__repository__"


def location(dagster: DagsterInstance, sensor: str) -> RemoteRepositoryOrigin:
    """Return the code location that the daemon recorded for a sensor of ours, or the default if none has run yet."""
    for state in dagster.all_instigator_state():
        if state.instigator_name == sensor:
            return state.origin.repository_origin
    return RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(_LOCATION), _REPOSITORY)


def created(
    job: JobDefinition,
    dagster: DagsterInstance,
    config: Mapping[str, Any],
    partition: str | None,
    repository: RemoteRepositoryOrigin,
) -> DagsterRun:
    """Create the run of a job that this process is about to execute. The daemon does not retry it."""
    tags = FOREGROUND | {MAX_RETRIES_TAG: "0", story.STARTED_FROM: "command line", story.STARTED_BY: _user()}
    return dagster.create_run_for_job(
        job_def=job,
        run_config=config,
        tags=merge_run_tags(job, partition, tags, None, dagster, config),
        remote_job_origin=RemoteJobOrigin(repository, job.name),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
