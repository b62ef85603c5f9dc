from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.cli.run_migration import run_migration
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.errors import BusyError
from treazure_pipeline.orchestration.names import FOREGROUND
from treazure_pipeline.point_migration import audit, backfill, steps
from treazure_pipeline.point_migration.audit_definitions import PAUSED
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import SHARDS, MigrationShop


@pytest.fixture
def migration_shop(
    new_migration_shop: Callable[..., MigrationShop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MigrationShop:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return new_migration_shop(members=60)


def run(migration_shop: MigrationShop, **options: Any) -> dict[str, Any]:
    settings = migration_shop.shop.settings()
    return run_migration(settings, settings.programmes[0], **options)


def test_the_command_waits_for_the_import_and_finishes_when_it_is_run_again(migration_shop: MigrationShop) -> None:
    waiting = run(migration_shop)
    assert (waiting["status"], waiting["exit_code"], waiting["programme_mode"]) == ("waiting", 6, "migrating")
    assert (waiting["contacts"], waiting["files"], waiting["sent"]) == (60, SHARDS, SHARDS)
    assert len(waiting["run_ids"]) == SHARDS + 2
    migration_shop.import_files()
    closed = run(migration_shop)
    assert (closed["status"], closed["exit_code"], closed["programme_mode"]) == ("ok", 0, "live")
    assert (closed["sent"], closed["equal"], len(closed["run_ids"])) == (0, 60, 1)
    assert_in_step(migration_shop.shop)


def test_the_command_goes_on_with_an_audit_that_takes_several_runs(
    migration_shop: MigrationShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(migration_shop)
    migration_shop.import_files()
    monkeypatch.setattr(audit, "_CHUNK", 20)
    whole = steps.audit
    monkeypatch.setattr(steps, "audit", lambda *given, **how: whole(*given, **how | {"most_seconds": 0}))
    closed = run(migration_shop)
    assert (closed["status"], closed["equal"], len(closed["run_ids"])) == ("ok", 60, 3)
    with dg.DagsterInstance.get() as instance:
        assert not instance.get_runs(dg.RunsFilter(tags={PAUSED: "migration_audit"}))


def test_a_run_whose_process_was_killed_does_not_keep_the_pool(migration_shop: MigrationShop) -> None:
    job = build_definitions(migration_shop.shop.settings()).resolve_job_def("point_migration")
    with dg.DagsterInstance.get() as instance:
        tags = {**FOREGROUND, "dagster/partition": "001"}
        killed = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED).run_id
        run(migration_shop)
        found = instance.get_run_by_id(killed)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.FAILURE


def test_while_another_run_works_on_a_shard_the_command_is_busy(migration_shop: MigrationShop) -> None:
    with migration_shop.connect() as connections:
        account = account_of(connections)
        with backfill.holding(connections.ledger, account, 0), pytest.raises(BusyError, match="shard 0"):
            run(migration_shop)
    assert run(migration_shop)["status"] == "waiting"
