from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance
from treazure_pipeline.terminal.processes import Family
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.alerts.conftest import Target
from treazure_pipeline_tests.balance_sync.shop import Shop

PATIENCE = 150


def test_a_run_of_the_command_that_failed_is_told_by_the_daemon(
    shop: Shop, target: Target, empty_database_url: str, home: Path
) -> None:
    given = {
        **os.environ, **shop.variables, "TREAZURE_PIPELINE_ALERT_URLS": target.url,
        "DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home),
    }  # fmt: skip
    place = instance.prepare(load_settings(given))
    environment = given | place.environment
    patience = time.monotonic() + PATIENCE

    def told() -> bool:
        assert time.monotonic() < patience
        return bool(target.titles)

    failing = environment | {"TREAZURE_BASE_URL": "http://127.0.0.1:9"}
    assert processes.command("run", "balance-sync", environment=failing).returncode == 5
    with Family(environment) as family:
        workspace = ["-w", str(place.dagster_home / "workspace.yaml")]
        family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", *workspace])
        family.wait(told)
    assert target.titles == ["hourly_balance_sync failed"]
