from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.sandbox import LOYALTY_ID
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of
from treazure_pipeline_tests.cli.conftest import SYSTEMS

JOB = "hourly_balance_sync"
CHAIN = [
    "treazure_balances",
    "treazure_balance_snapshot",
    "balance_diff",
    "engage_balance_push",
    "engage_point_accounts",
]


def built(**changes: str) -> dg.Definitions:
    """What is declared, for which nothing is connected to."""
    systems = {name: value for name, value in SYSTEMS.items() if name != "TREAZURE_LOYALTY_ID"}
    given = changes if "TREAZURE_PIPELINE_PROGRAMMES" in changes else {"TREAZURE_LOYALTY_ID": LOYALTY_ID, **changes}
    return build_definitions(load_settings(systems | given))


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return built()


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    listed = tmp_path_factory.mktemp("several") / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    return built(TREAZURE_PIPELINE_PROGRAMMES=str(listed))


def test_the_lineage_goes_from_treazure_through_three_assets_to_engage(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for before, after in pairwise(CHAIN):
        assert dg.AssetKey(before) in graph.get(dg.AssetKey(after)).parent_keys
    assert not graph.get(dg.AssetKey(CHAIN[0])).is_executable
    assert not graph.get(dg.AssetKey(CHAIN[-1])).is_executable


def test_adjustments_lead_to_engage_too(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert dg.AssetKey("processed_adjustments") in graph.get(dg.AssetKey(CHAIN[-1])).parent_keys
    metadata = graph.get(dg.AssetKey("processed_adjustments")).metadata
    assert metadata["dagster/column_schema"]
    assert metadata["dagster/column_lineage"]


@pytest.mark.parametrize("name", CHAIN)
def test_every_asset_is_described_owned_and_grouped(definitions: dg.Definitions, name: str) -> None:
    node = definitions.resolve_asset_graph().get(dg.AssetKey(name))
    assert node.description
    assert node.owners
    assert node.group_name == "balance_sync"
    assert node.kinds
    assert node.tags["programme"] == "points"


@pytest.mark.parametrize("name", CHAIN[1:4])
def test_every_asset_of_the_sync_shows_its_columns_and_where_they_come_from(
    definitions: dg.Definitions, name: str
) -> None:
    metadata = definitions.resolve_asset_graph().get(dg.AssetKey(name)).metadata
    assert metadata["dagster/column_schema"]
    assert metadata["dagster/column_lineage"]


def test_the_checks_belong_to_the_assets_that_they_check(definitions: dg.Definitions) -> None:
    keys = definitions.resolve_asset_graph().asset_check_keys
    assert {(key.asset_key.to_user_string(), key.name) for key in keys} >= {
        ("balance_diff", "coverage_has_no_hole"),
        ("balance_diff", "rows_add_up"),
        ("balance_diff", "points_are_conserved"),
        ("engage_balance_push", "pending_adds_up"),
        ("engage_balance_push", "nothing_is_rejected"),
    }


def test_the_job_holds_exactly_the_three_assets(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def(JOB)
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(CHAIN[1:4])
    assert job.executor_def.name == "in_process"


def test_every_job_says_how_long_its_runs_may_last_and_the_instance_does_not(definitions: dg.Definitions) -> None:
    jobs = [job for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")]
    assert all(float(job.tags["dagster/max_runtime"]) >= 3600 for job in jobs), jobs
    instance = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    assert "max_runtime_seconds" not in instance["run_monitoring"]


def test_with_several_programmes_every_key_and_name_begins_with_the_programme_s(prefixed: dg.Definitions) -> None:
    keys = prefixed.resolve_asset_graph().get_all_asset_keys()
    for programme in ("gold", "silver"):
        assert {dg.AssetKey([programme, name]) for name in CHAIN} <= keys
        assert prefixed.resolve_job_def(f"{programme}_{JOB}").name == f"{programme}_{JOB}"
        assert prefixed.resolve_schedule_def(f"{programme}_{JOB}_schedule").cron_schedule == "7 * * * *"


def test_with_several_programmes_each_has_a_group_and_its_migration_another(prefixed: dg.Definitions) -> None:
    graph = prefixed.resolve_asset_graph()
    for programme in ("gold", "silver"):
        groups = {
            key.path[-1]: graph.get(key).group_name for key in graph.get_all_asset_keys() if key.path[0] == programme
        }
        assert {group for name, group in groups.items() if not name.startswith("migration_")} == {programme}
        assert {group for name, group in groups.items() if name.startswith("migration_")} == {
            f"{programme}_point_migration"
        }


def test_a_programme_that_is_migrated_shows_nothing_of_a_migration() -> None:
    migrated, open_ = (names_of_everything(built(PROGRAMME_MIGRATED=value)) for value in ("1", "0"))
    assert {name for name in migrated if "migration" in name} == set()
    assert migrated == {name for name in open_ if "migration" not in name}


SOURCE = "https://git.example/points/blob/v1"


@pytest.mark.parametrize(
    ("asset", "page", "code", "console"),
    [
        ("engage_balance_push", "running.md", "balance_sync", "/"),
        ("processed_adjustments", "adjustments.md", "adjustments", "/adjustments"),
        ("migration_audit", "migration.md", "point_migration", "/migration"),
    ],
)
def test_an_asset_leads_to_its_runbook_its_code_and_the_console_where_their_addresses_are_set(
    asset: str, page: str, code: str, console: str
) -> None:
    addressed = built(TREAZURE_PIPELINE_SOURCE_URL=SOURCE, CONSOLE_URL="https://console.example")
    shown = addressed.resolve_asset_graph().get(dg.AssetKey(asset)).metadata
    assert shown["runbook"] == dg.MetadataValue.url(f"{SOURCE}/docs/{page}")
    assert shown["console"] == dg.MetadataValue.url(f"https://console.example{console}")
    (reference,) = shown["dagster/code_references"].code_references
    assert reference.url == f"{SOURCE}/treazure_pipeline/{code}/definitions.py"
    root = Path(__file__).parents[2]
    assert (root / "docs" / page).exists()
    assert (root / "treazure_pipeline" / code / "definitions.py").exists()


def test_without_addresses_an_asset_names_its_runbook_and_no_path_of_this_machine(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        shown = graph.get(key).metadata
        assert str(shown["runbook"]).startswith("docs/")
        assert not {"console", "dagster/code_references"} & shown.keys()
        assert str(Path(__file__).parents[2]) not in str(shown)


def test_the_definitions_can_be_loaded(definitions: dg.Definitions, prefixed: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)
    dg.Definitions.validate_loadable(prefixed)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def tick(shop: Shop, instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    definitions = build_definitions(shop.settings())
    schedule = definitions.resolve_schedule_def(f"{JOB}_schedule")
    with dg.build_schedule_context(instance=instance, resources=definitions.resources) as context:
        outcome = schedule.evaluate_tick(context)
    if outcome.run_requests:
        (request,) = outcome.run_requests
        return request
    return dg.SkipReason(outcome.skip_message)


def start(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("treazure_pipeline"), "__repository__")
    instance.add_run(
        dg.DagsterRun(JOB, run_id=str(uuid.uuid4()), status=status, remote_job_origin=RemoteJobOrigin(repository, JOB))
    )


def test_the_schedule_runs_at_minute_seven_utc(definitions: dg.Definitions) -> None:
    schedule = definitions.resolve_schedule_def(f"{JOB}_schedule")
    assert schedule.cron_schedule == "7 * * * *"
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_tick_requests_a_run(shop: Shop, instance: dg.DagsterInstance) -> None:
    assert isinstance(tick(shop, instance), dg.RunRequest)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING])
def test_a_tick_skips_while_a_run_is_on_its_way(
    shop: Shop, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    start(instance, status)
    assert isinstance(tick(shop, instance), dg.SkipReason)


def test_a_tick_skips_while_a_run_is_running(shop: Shop, instance: dg.DagsterInstance) -> None:
    with shop.connect() as running:
        start(instance, dg.DagsterRunStatus.STARTED)
        running.ledger.hold(account_of(running))
        skipped = tick(shop, instance)
        assert isinstance(skipped, dg.SkipReason)
        assert "running" in str(skipped.skip_message)


def test_a_run_whose_process_is_dead_does_not_stop_the_schedule(shop: Shop, instance: dg.DagsterInstance) -> None:
    start(instance, dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(shop, instance), dg.RunRequest)


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
)
def test_a_run_that_has_ended_does_not_stop_the_schedule(
    shop: Shop, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    start(instance, status)
    assert isinstance(tick(shop, instance), dg.RunRequest)


def test_the_daemon_asks_the_queue_s_sensor_at_every_look(definitions: dg.Definitions) -> None:
    (sensor,) = (each for each in definitions.sensors or () if each.name == "adjustment_queue_sensor")
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.minimum_interval_seconds is not None
    assert sensor.minimum_interval_seconds < MIN_INTERVAL_LOOP_TIME


@pytest.mark.slow
def test_a_run_s_process_starts_without_the_libraries_that_only_tables_and_files_need() -> None:
    heavy = {"matplotlib", "pandas", "polars", "pyarrow"}
    code = f"import sys, treazure_pipeline.definitions; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def names_of_everything(definitions: dg.Definitions) -> set[str]:
    """Whatever two code locations of one instance must not both have."""
    graph = definitions.resolve_asset_graph()
    repository = definitions.get_repository_def()
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    return {
        *(key.to_user_string() for key in graph.get_all_asset_keys()),
        *(f"group {node.group_name}" for node in nodes),
        *(f"pool {pool}" for node in nodes for pool in node.pools or ()),
        *(f"job {name}" for name in repository.job_names if not name.startswith("__")),
        *(f"schedule {schedule.name}" for schedule in repository.schedule_defs),
        *(f"sensor {sensor.name}" for sensor in repository.sensor_defs),
    }


def test_two_tenants_on_one_instance_share_no_name() -> None:
    north, south = (names_of_everything(built(TREAZURE_PIPELINE_TENANT=tenant)) for tenant in ("north", "south"))
    assert not north & south
    assert {name.replace("north", "south") for name in north} == south
    assert {"north/engage_balance_push", "group north_balance_sync", "job north_process_adjustments",
            "pool north_balance_sync", "sensor north_alert_sensor"} <= north  # fmt: skip


def test_the_first_programme_keeps_its_names_when_a_second_joins(definitions: dg.Definitions, tmp_path: Path) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: points, loyalty_id: GOLD, keeps_names: true}\n"
        "- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    joined = built(TREAZURE_PIPELINE_PROGRAMMES=str(listed))
    added = names_of_everything(joined) - names_of_everything(definitions)
    assert names_of_everything(definitions) <= names_of_everything(joined)
    assert added
    assert all("silver" in name for name in added)


def test_what_has_time_queues_behind_syncs_and_those_behind_adjustments(definitions: dg.Definitions) -> None:
    priority = {
        name: int(definitions.resolve_job_def(name).run_tags.get("dagster/priority", 0))
        for name in definitions.get_repository_def().job_names
        if not name.startswith("__")
    }
    assert priority["process_adjustments"] > priority[JOB] > priority["verify_balances"]
    background = ("verify_balances", "refresh_points_history", "point_migration", "finish_migration", "prune_history")
    assert {priority[name] for name in background} == {priority["verify_balances"]}
    tags = [definitions.resolve_job_def(name).run_tags for name in background]
    assert all("treazure_pipeline/background" in each for each in tags)
