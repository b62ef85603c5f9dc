from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.sandbox import LOYALTY_ID, sandbox_process
from treazure_pipeline.settings import load_settings
from treazure_pipeline.terminal import instance
from treazure_pipeline.terminal.processes import Family
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.dagster_ui import dagster_ui
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop

PATIENCE = 400
SHARDS = 2
MEMBERS = 100


def command(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = processes.command("run", "migration", "--json", *arguments, environment=environment)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def is_over(shop: Shop) -> Callable[[], bool]:
    patience = time.monotonic() + PATIENCE

    def over() -> bool:
        assert time.monotonic() < patience, f"the backfill is not over after {PATIENCE} s"
        return shop.sql("select count(written_at) from migration_shard") == [(SHARDS,)]

    return over


@pytest.mark.timeout(600)
def test_a_backfill_over_all_shards_runs_through_the_daemon(
    database_url: str, empty_database_url: str, home: Path
) -> None:
    variables = {
        "MIGRATION_SHARDS": str(SHARDS),
        "MIGRATION_DELIVERY_URL": (home / "engage" / "import").as_uri(),
        "MIGRATION_REPORT_URL": (home / "reports").as_uri(),
    }
    with sandbox_process("--members", str(MEMBERS), "--set", "apply_delay=0", "--set", "export_polls=0") as sandbox:
        shop = Shop(sandbox, database_url, variables)
        given = {
            **os.environ, **shop.variables, "TREAZURE_LOYALTY_ID": LOYALTY_ID,
            "DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home),
        }  # fmt: skip
        place = instance.prepare(load_settings(given))
        environment = given | place.environment
        workspace = place.dagster_home / "workspace.yaml"
        migration_shop = MigrationShop(shop, home)
        migration_shop.prepare()
        os.environ.update(environment)
        with dg.DagsterInstance.from_config(str(place.dagster_home)) as shipped, dagster_ui(shipped, workspace) as ui:
            ui.launch_backfill("point_migration", [f"{number:03}" for number in range(SHARDS)])
        # The daemon looks for backfills when it starts, and then every 30 seconds.
        with Family(environment) as family:
            family.start("daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)])
            family.wait(is_over(shop))
        code, waiting = command(environment)
        assert (code, waiting["status"], waiting["sent"]) == (6, "waiting", SHARDS)
        migration_shop.import_files()
        code, closed = command(environment)
        assert (code, closed["status"], closed["programme_mode"]) == (0, "ok", "live"), closed
        assert closed["equal"] + closed["missing_in_engage"] == MEMBERS
        assert sandbox.report()["requests"]["history"] == MEMBERS
        assert_in_step(shop)
