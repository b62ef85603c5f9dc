"""What the runs of all jobs tell of themselves: a sentence for each step and check, few plots, tags, failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests import materializations, processes
from treazure_pipeline_tests.balance_sync.shop import Shop

JOBS = {
    "hourly_balance_sync": ["treazure_balance_snapshot", "balance_diff", "engage_balance_push"],
    "process_adjustments": ["processed_adjustments"],
    "verify_balances": ["engage_balance_verification"],
    "refresh_points_history": ["points_history"],
    "prune_history": ["ledger_history"],
}
MIGRATION = {
    "prepare_migration": (["migration_roster"], None),
    "point_migration": (["migration_points_log", "migration_files"], "000"),
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def assert_tells_its_story(result: dg.ExecuteInProcessResult, assets: list[str], instance: dg.DagsterInstance) -> None:
    lines = materializations.log_lines(result, instance)
    for asset in assets:
        (event,) = result.asset_materializations_for_node(asset)
        assert event.metadata["about"].value in lines
        assert len(materializations.plotted(event)) <= 5
    for check in result.get_asset_check_evaluations():
        assert check.description, check.check_name
        assert len(materializations.plotted(check)) <= 5
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["treazure_pipeline/started_from"] == "Dagster's UI"


def test_every_job_tells_its_story(shop: Shop, instance: dg.DagsterInstance) -> None:
    definitions = build_definitions(shop.settings())
    for job, assets in JOBS.items():
        result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
        assert_tells_its_story(result, assets, instance)


def test_every_job_of_a_migration_tells_its_story(shop: Shop, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    places = dict.fromkeys(("MIGRATION_DELIVERY_URL", "MIGRATION_REPORT_URL"), tmp_path.as_uri())
    definitions = build_definitions(shop.settings(**places))
    for job, (assets, shard) in MIGRATION.items():
        result = definitions.resolve_job_def(job).execute_in_process(instance=instance, partition_key=shard)
        assert_tells_its_story(result, assets, instance)


@pytest.mark.parametrize(
    ("job", "changes", "begins"),
    [
        ("hourly_balance_sync", {"ENGAGE_API_KEY": "wrong"}, "Not everything could be sent."),
        ("verify_balances", {"ENGAGE_API_KEY": "wrong", "ENGAGE_VERIFY_GRACE_SECONDS": "0"}, "Engage can't be read."),
        ("refresh_points_history", {"TREAZURE_CLIENT_SECRET": "wrong"}, "Not every log could be read."),
    ],
)
def test_a_failure_begins_with_a_sentence_and_names_its_error(
    shop: Shop, instance: dg.DagsterInstance, job: str, changes: dict[str, str], begins: str
) -> None:
    if job != "hourly_balance_sync":
        shop.sync()
    definitions = build_definitions(shop.settings(**changes))
    result = definitions.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert event.step_failure_data.user_failure_data is not None
    failure = event.step_failure_data.user_failure_data
    assert str(failure.description).startswith(begins)
    assert failure.metadata["error"].value == "AuthenticationError"


def test_what_stands_in_a_run_s_log_is_not_printed_by_its_command_too(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "python_logs: {managed_python_loggers: [treazure_pipeline], python_log_level: INFO}\n"
    )
    environment = {**os.environ, **shop.variables, "DAGSTER_HOME": str(tmp_path)}
    shop.sandbox.set_fault("lost_after", count=1)
    ran = processes.command("run", "balance-sync", environment=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0].startswith("points: ")
    assert not [line for line in ran.stderr.splitlines() if "WARNING" in line or "INFO" in line]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (run,) = instance.get_runs()
        assert "no complete answer" in str([entry.user_message for entry in instance.all_logs(run.run_id)])
