"""What Dagster's UI says to a launchpad that was filled in wrong: a sentence, and no run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest

from treazure_pipeline_tests.dagster_ui import REPOSITORY, DagsterUi, dagster_ui

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "TREAZURE_BASE_URL": "https://treazure.example",
    "TREAZURE_CLIENT_ID": "client",
    "TREAZURE_CLIENT_SECRET": "secret",
    "TREAZURE_LOYALTY_ID": "LOYALTY",
    "ENGAGE_BASE_URL": "https://engage.example",
    "ENGAGE_API_KEY": "key",
}
LAUNCH = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) { __typename
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


@pytest.fixture(scope="module")
def ui(instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterUi]:
    """Dagster's UI with our definitions, beside nothing else: no daemon takes what is queued."""
    home = {"TREAZURE_PIPELINE_HOME": str(tmp_path_factory.mktemp("home"))}
    with mock.patch.dict(os.environ, SETTINGS | home), dagster_ui(instance, ROOT / "workspace.yaml") as made:
        yield made


def launch(ui: DagsterUi, job: str, op: str, config: dict[str, Any]) -> dict[str, Any]:
    given = {
        "selector": {**REPOSITORY, "jobName": job},
        "runConfigData": {"ops": {op: {"config": config}}},
        "executionMetadata": {"tags": []},
    }
    return ui.ask(LAUNCH, given=given)


SECRET = "sftp://user:hunter2@host/points"


@pytest.mark.parametrize(
    ("job", "op", "config", "sentence"),
    [
        ("hourly_balance_sync", "treazure_balance_snapshot", {"window_from": "yesterday"}, "('yesterday') must be"),
        ("hourly_balance_sync", "treazure_balance_snapshot", {"window_to": "2026-01-01"}, "needs window_from"),
        ("hourly_balance_sync", "engage_balance_push", {"limit": 0}, "limit must be greater than or equal to 1"),
        ("refresh_points_history", "points_history", {"max_hours": 99.0}, "max_hours must be less than or equal to 10"),
        ("refresh_points_history", "points_history", {"export_url": "nowhere://x"}, "The export can't write to"),
        ("finish_migration", "migration_audit", {"since": "lately"}, "since ('lately') must be a time"),
        ("abandon_migration", "abandon", {"by": "", "reason": "Too early."}, "by must have at least 1"),
        ("approve_plan", "approve", {"digest": "55d6", "approved_by": ""}, "approved_by must have at least 1"),
    ],
)  # fmt: skip
def test_a_form_that_is_filled_in_wrong_is_refused_in_a_sentence_and_makes_no_run(
    ui: DagsterUi, instance: dg.DagsterInstance, job: str, op: str, config: dict[str, Any], sentence: str
) -> None:
    before = instance.get_runs_count()
    refused = launch(ui, job, op, config)
    assert refused["__typename"] == "PythonError"
    assert refused["message"].startswith("treazure_pipeline.errors.SettingsError: ")
    assert sentence in refused["message"]
    assert instance.get_runs_count() == before


def test_what_is_refused_shows_no_value_of_the_other_fields(ui: DagsterUi) -> None:
    refused = launch(ui, "refresh_points_history", "points_history", {"export_url": SECRET, "max_hours": 99.0})
    assert "hunter2" not in str(refused)


def test_a_form_that_is_filled_in_right_makes_a_run(ui: DagsterUi, instance: dg.DagsterInstance) -> None:
    before = instance.get_runs_count()
    launched = launch(ui, "hourly_balance_sync", "treazure_balance_snapshot", {"window_from": "2026-01-01"})
    assert launched["__typename"] == "LaunchRunSuccess"
    assert instance.get_runs_count() == before + 1
