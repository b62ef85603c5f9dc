"""Ten programmes on one instance, as it is shipped, whose queue Dagster's own daemon works off."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import RemoteJobOrigin

from treazure_pipeline.cli import visibility
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.terminal.processes import Family
from treazure_pipeline_tests import hosts
from treazure_pipeline_tests.balance_sync.shop import Shop

ROOT = Path(__file__).parents[2]
PATIENCE = 200
STARTED = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])
PROGRAMMES = [f"p{number}" for number in range(10)]


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    """The instance as it is shipped, but that its runs never come to an end."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    settings["run_launcher"] = {"module": hosts.__name__, "class": hosts.NoHosts.__name__}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    (folder / "workspace.yaml").write_text("load_from: []")
    return folder


def test_a_sync_and_adjustments_start_although_ten_programmes_are_being_verified(
    new_shop: Callable[..., Shop],
    empty_database_url: str,
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [
        {"name": name, "loyalty_id": name, "definition_id": number} for number, name in enumerate(PROGRAMMES, start=1)
    ]
    (tmp_path / "programmes.yaml").write_text(yaml.safe_dump(listed))
    shop = new_shop(environ={"TREAZURE_PIPELINE_PROGRAMMES": str(tmp_path / "programmes.yaml")})
    definitions = build_definitions(shop.settings())
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", empty_database_url)
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home), "PYTHONPATH": str(ROOT)}
    with dg.DagsterInstance.from_config(str(dagster_home)) as dagster, Family(environment) as family:

        def queue(job: str) -> None:
            found = definitions.resolve_job_def(job)
            dagster.create_run_for_job(
                found,
                tags=found.run_tags,
                status=dg.DagsterRunStatus.QUEUED,
                remote_job_origin=RemoteJobOrigin(visibility.location(dagster, "alert_sensor"), job),
            )

        def started(*jobs: str) -> int:
            return len([run for run in dagster.get_runs(STARTED) if run.job_name in jobs])

        def wait(jobs: list[str], count: int) -> None:
            patience = time.monotonic() + PATIENCE

            def ready() -> bool:
                assert time.monotonic() < patience, [(run.job_name, run.status) for run in dagster.get_runs()]
                return started(*jobs) >= count

            family.wait(ready)

        verifications = [f"{name}_verify_balances" for name in PROGRAMMES]
        urgent = ["p0_hourly_balance_sync", "process_adjustments"]
        for job in verifications:
            queue(job)
        family.start(
            "daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(dagster_home / "workspace.yaml")]
        )
        wait(verifications, 5)
        for job in urgent:
            queue(job)
        wait(urgent, 2)
        assert started(*verifications) == 5
