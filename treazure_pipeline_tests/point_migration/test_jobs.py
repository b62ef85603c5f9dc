from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from treazure_pipeline.alerts.definitions import failed_runs
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.point_migration import audit
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import SHARDS, MigrationShop

SENSOR = "migration_audit_sensor"

ASSETS = ["migration_roster", "migration_points_log", "migration_files", "migration_delivery", "migration_audit"]


class Execute:
    """Runs jobs of a migration on one instance for the whole test."""

    def __init__(self, migration_shop: MigrationShop, instance: dg.DagsterInstance) -> None:
        self.migration_shop = migration_shop
        self.instance = instance

    def __call__(
        self, job: str, shard: str | None = None, config: dict[str, dict[str, Any]] | None = None
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(self.migration_shop.shop.settings())
        ops = {name: {"config": values} for name, values in (config or {}).items()}
        return definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=shard, raise_on_error=False, run_config={"ops": ops}
        )


@pytest.fixture
def execute(new_migration_shop: Callable[..., MigrationShop]) -> Iterator[Execute]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Execute(new_migration_shop(members=60), instance)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    data = event.step_failure_data
    assert data is not None
    assert data.error is not None
    return str(data.error.message)


def test_three_jobs_migrate_a_programme_and_show_how_far_they_are(execute: Execute) -> None:
    prepared = execute("prepare_migration")
    assert prepared.success
    assert materializations.of(prepared, "migration_roster")["contacts"] == 60
    shown = []
    for number in range(SHARDS):
        result = execute("point_migration", f"{number:03}")
        assert result.success
        shown.append(materializations.of(result, "migration_points_log"))
        assert materializations.of(result, "migration_files")["files"] == 1
        assert all(check.passed for check in result.get_asset_check_evaluations())
    assert [each["fetched_of_all_shards"] for each in shown][-1] == shown[0]["contacts_of_all_shards"] == 60
    assert shown[0]["hours_left_of_all_shards"] >= 0
    assert shown[-1]["hours_left_of_all_shards"] == 0
    waiting = execute("finish_migration")
    assert waiting.success
    assert not waiting.asset_materializations_for_node("migration_audit")
    (check,) = waiting.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "could not be evaluated: Not imported yet" in str(check.description)
    assert materializations.of(waiting, "migration_delivery")["sent"] == 3
    execute.migration_shop.import_files()
    finished = execute("finish_migration")
    assert finished.success
    assert materializations.of(finished, "migration_delivery")["sent"] == 0
    audited = materializations.of(finished, "migration_audit")
    assert audited["equal"] == 60
    assert "**All 60 contacts have in Engage what was imported for them.**" in audited["audit"]
    assert "| Points in Engage | " in audited["audit"]
    assert execute.migration_shop.mode() == "live"
    assert_in_step(execute.migration_shop.shop)


def test_an_audit_that_takes_longer_than_a_run_may_goes_on_by_itself_and_reads_nothing_twice(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_CHUNK", 20)
    shop = execute.migration_shop
    shop.prepare()
    shop.shards()
    shop.deliver()
    shop.import_files()
    stranger = next(row["contactId"] for row in shop.shop.sandbox.balances() if float(row["treazure"] or 0) > 0)
    shop.shop.sandbox.set_engage_balances({stranger: "0.01"})
    config = {"migration_audit": {"accepted_by": "Kim", "max_hours": 1e-9}}
    result = execute("finish_migration", config=config)
    read = []
    definitions = build_definitions(shop.shop.settings())
    job, sensor = (definitions.resolve_job_def("finish_migration"), definitions.resolve_sensor_def(SENSOR))
    while requests := sensor.evaluate_tick(dg.build_sensor_context(execute.instance)).run_requests:
        (request,) = requests
        if request.run_key in read:  # the daemon launches none for a key that it knows
            break
        (check,) = result.get_asset_check_evaluations()
        assert result.success
        assert "still to be read back" in str(check.description)
        read.append(request.run_key)
        result = job.execute_in_process(
            instance=execute.instance, run_config=request.run_config, asset_selection=request.asset_selection
        )
        assert not result.asset_materializations_for_node("migration_delivery")
    assert result.success
    assert materializations.of(result, "migration_audit")["differing"] == 1
    assert len(read) == 2
    assert shop.mode() == "live"
    probes = 50 * 3
    assert shop.shop.sandbox.report()["requests"]["read_accounts"] == 60 + probes


def test_run_config_carries_what_a_person_decides(execute: Execute) -> None:
    execute.migration_shop.shop.sync()
    refused = execute("prepare_migration")
    assert "has sent balances to Engage already" in failure(refused)
    assert execute("prepare_migration", config={"migration_roster": {"although_loaded": True}}).success
    given_up = execute("abandon_migration", config={"abandon": {"by": "Kim", "reason": "another weekend"}})
    assert given_up.success
    assert execute.migration_shop.mode() == "live"
    assert "has no migration" in failure(execute("point_migration", "000"))


@pytest.mark.parametrize("shard", ["999", "all"])
def test_a_shard_that_does_not_exist_is_named_in_a_sentence_and_alerts_nobody(shop: Shop, shard: str) -> None:
    job = build_definitions(shop.settings()).resolve_job_def("point_migration")
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(job, tags={"dagster/partition": shard})  # as its API does, unseen
        execute_run(InMemoryJob(job), run, instance)
        (entry,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        failure: Any = entry.get_dagster_event().event_specific_data
        said = failure.user_failure_data.description
        assert said == f"There is no shard '{shard}'; there are 000 to 015. Nothing was done."
        assert not list(failed_runs(instance, ["point_migration"], "http://ui"))


def test_the_migration_is_a_group_and_a_pool_of_its_own_partitioned_by_sixteen_shards(shop: Shop) -> None:
    definitions = build_definitions(shop.settings())
    graph = definitions.resolve_asset_graph()
    for name in ASSETS:
        node = graph.get(dg.AssetKey(name))
        assert node.group_name == "point_migration"
        assert node.description
        assert node.owners
        assert node.pools == {"point_migration"}
    partitions = graph.get(dg.AssetKey("migration_files")).partitions_def
    assert partitions is not None
    assert partitions.get_num_partitions() == 16
    for job, assets in {
        "prepare_migration": ASSETS[:1], "point_migration": ASSETS[1:3], "finish_migration": ASSETS[3:],
    }.items():  # fmt: skip
        resolved = definitions.resolve_job_def(job)
        assert {key.to_user_string() for key in resolved.asset_layer.executable_asset_keys} == set(assets)


def test_several_programmes_have_a_migration_each(new_shop: Callable[..., Shop], tmp_path: Path) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    environ = {
        "TREAZURE_PIPELINE_PROGRAMMES": str(listed),
        "MIGRATION_DELIVERY_URL": (tmp_path / "engage" / "import").as_uri(),
        "MIGRATION_REPORT_URL": (tmp_path / "reports").as_uri(),
    }
    shop = new_shop(environ=environ, programmes={"GOLD": 1, "SILVER": 2})
    definitions = build_definitions(shop.settings())
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("silver_prepare_migration")
        assert job.execute_in_process(instance=instance).success
    assert shop.sql("select name, mode from programme order by 1") == [("silver", "migrating")]
    run = shop.sync(programme=0)
    assert run.pushed.sent > 0
