"""What Dagster's UI asks of an instance: the same GraphQL, answered in this process.

`dagster-graphql` asks the same, and needs seconds for each question to import what this process has imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests.balance_sync.shop import Shop

REPOSITORY = {"repositoryLocationName": "treazure_pipeline", "repositoryName": "__repository__"}
_LAUNCH_RUN = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given)
    { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_LAUNCH_BACKFILL = """mutation ($given: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $given)
    { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""


class DagsterUi:
    """The launchpad of a workspace's code location."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        from dagster_graphql.schema import create_schema  # noqa: PLC0415 - the tests that need it are few

        self._context = context
        self._schema = create_schema()

    def launch(self, job: str, config: dict[str, dict[str, Any]] | None = None) -> str:
        """Launch a job with the config of its ops; returns the run's id."""
        ops = {name: {"config": values} for name, values in (config or {}).items()}
        given = {"selector": REPOSITORY | {"jobName": job}, "runConfigData": {"ops": ops}}
        return str(self._do(_LAUNCH_RUN, given)["run"]["runId"])

    def launch_backfill(self, job: str, partitions: list[str]) -> None:
        """Launch a backfill over partitions of a job."""
        selector = {"partitionSetName": f"{job}_partition_set", "repositorySelector": REPOSITORY}
        self._do(_LAUNCH_BACKFILL, {"selector": selector, "partitionNames": partitions, "title": "All shards"})

    def ask(self, question: str, **variables: Any) -> dict[str, Any]:
        """Ask one thing; returns the answer."""
        asked = self._schema.execute_async(
            question, context_value=self._context.create_request_context(), variable_values=variables
        )
        result = asyncio.run(asked)
        assert not result.errors, result.errors
        (answer,) = result.data.values()
        return dict(answer)

    def _do(self, mutation: str, given: dict[str, Any]) -> dict[str, Any]:
        answer = self.ask(mutation, given=given)
        assert answer["__typename"].endswith("Success"), answer
        return answer


@contextmanager
def dagster_ui(instance: dg.DagsterInstance, workspace: Path) -> Iterator[DagsterUi]:
    """The UI of an instance and a workspace file; a code location that it starts has this process's environment."""
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)])) as context:
        yield DagsterUi(context)
    # Dagster tells its code server to stop, and drops it while it still runs.
    context._grpc_server_registry.wait_for_processes()  # noqa: SLF001


def run_check(shop: Shop, instance: dg.DagsterInstance, asset: str, name: str, **changes: str) -> bool:
    """Run one check by itself, and tell whether it is green; neither system is asked."""
    requests = shop.sandbox.report()["requests"]
    job = build_definitions(shop.settings(**changes)).resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey(asset), name)})
    (evaluation,) = alone.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert evaluation.check_name == name
    assert shop.sandbox.report()["requests"] == requests
    return evaluation.passed
