"""What Dagster's webserver says to a launchpad that was filled in wrong: a sentence, and no run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from treazure_pipeline_tests import processes

SETTINGS = {
    "TREAZURE_BASE_URL": "https://treazure.example",
    "TREAZURE_CLIENT_ID": "client",
    "TREAZURE_CLIENT_SECRET": "secret",
    "TREAZURE_LOYALTY_ID": "LOYALTY",
    "ENGAGE_BASE_URL": "https://engage.example",
    "ENGAGE_API_KEY": "key",
}
SELECTOR = {"repositoryLocationName": "treazure_pipeline.definitions", "repositoryName": "__repository__"}
LAUNCH = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) { __typename
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""


@dataclass
class Webserver:
    """Dagster's webserver with our definitions, beside nothing else: no daemon takes what is queued."""

    url: str
    home: Path

    def launch(self, job: str, op: str, config: dict[str, Any]) -> dict[str, Any]:
        given = {
            "selector": {**SELECTOR, "jobName": job},
            "runConfigData": {"ops": {op: {"config": config}}},
            "executionMetadata": {"tags": []},
        }
        answer = httpx.post(f"{self.url}/graphql", json={"query": LAUNCH, "variables": {"given": given}}, timeout=120)
        launched: dict[str, Any] = answer.json()["data"]["launchRun"]
        return launched

    def runs(self) -> int:
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return instance.get_runs_count()


@pytest.fixture(scope="module")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    port = processes.free_port()
    environment = {**os.environ, **SETTINGS, "DAGSTER_HOME": str(home), "TREAZURE_PIPELINE_HOME": str(home / "home")}
    command = [sys.executable, "-m", "dagster_webserver", "-m", "treazure_pipeline.definitions", "-p", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            found = Webserver(f"http://127.0.0.1:{port}", home)
            patience = time.monotonic() + 180
            while True:
                try:
                    httpx.get(f"{found.url}/server_info")
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    assert time.monotonic() < patience
                    time.sleep(0.5)
            yield found
        finally:
            process.terminate()


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
    webserver: Webserver, job: str, op: str, config: dict[str, Any], sentence: str
) -> None:
    before = webserver.runs()
    refused = webserver.launch(job, op, config)
    assert refused["__typename"] == "PythonError"
    assert refused["message"].startswith("treazure_pipeline.errors.SettingsError: ")
    assert sentence in refused["message"]
    assert webserver.runs() == before


def test_what_is_refused_shows_no_value_of_the_other_fields(webserver: Webserver) -> None:
    refused = webserver.launch("refresh_points_history", "points_history", {"export_url": SECRET, "max_hours": 99.0})
    assert "hunter2" not in str(refused)


def test_a_form_that_is_filled_in_right_makes_a_run(webserver: Webserver) -> None:
    before = webserver.runs()
    launched = webserver.launch("hourly_balance_sync", "treazure_balance_snapshot", {"window_from": "2026-01-01"})
    assert launched["__typename"] == "LaunchRunSuccess"
    assert webserver.runs() == before + 1
