from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.verification import rounds
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_in_step
from treazure_pipeline_tests.verification.verification_shop import VerificationShop

JOB = "verify_balances"
ASSET = "engage_balance_verification"
FIGURES = {
    "read", "equal", "drift", "missing", "unsettled", "failed", "marked", "healed", "requests", "dagster/row_count",
    "outstanding_drift", "outstanding_missing", "will_not_heal", "oldest_drift_hours", "round", "round_share",
    "seconds_verify", "master_read", "master_recorded", "master_differs", "master_failed", "differing", "mode",
}  # fmt: skip


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def execute(
    verification_shop: VerificationShop, instance: dg.DagsterInstance, **changes: str
) -> dg.ExecuteInProcessResult:
    job = build_definitions(verification_shop.settings(**changes)).resolve_job_def(JOB)
    return job.execute_in_process(instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return materializations.of(result, ASSET)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
    return {check.check_name: (check.passed, check.severity) for check in result.get_asset_check_evaluations()}


def test_what_is_materialized_by_hand_is_background_work_as_in_its_job(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    definitions = build_definitions(verification_shop.settings())
    by_hand = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey(ASSET)})
    run = instance.get_run_by_id(by_hand.execute_in_process(instance=instance).run_id)
    assert run is not None
    wanted = definitions.resolve_job_def(JOB).tags
    assert {name: run.tags.get(name) for name in ("treazure_pipeline/background", "dagster/max_runtime")} == {
        "treazure_pipeline/background": "1",
        "dagster/max_runtime": wanted["dagster/max_runtime"],
    }


def test_the_job_shows_its_figures_and_passes_its_checks_while_nothing_differs(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    result = execute(verification_shop, instance)
    assert result.success
    shown = metadata(result)
    assert shown.keys() >= FIGURES
    assert (shown["read"], shown["equal"], shown["round_share"]) == (80, 80, 1.0)
    assert shown["least_lately_verified_hours"] < 1
    assert shown["differing"] == "*none*"
    assert all(passed for passed, _ in checks(result).values())
    assert checks(result).keys() == {"no_drift", "master_agrees"}


def test_drift_warns_until_it_is_healed_and_is_an_error_where_it_will_not_heal(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    (contact,) = verification_shop.drift_by_hand(1)
    verification_shop.sandbox.set_fault("swallowed", count=None)
    for _ in range(3):
        result = execute(verification_shop, instance)
        assert result.success
        assert contact in metadata(result)["differing"]
        assert checks(result)["no_drift"] == (False, dg.AssetCheckSeverity.WARN)
        verification_shop.send_pending()
    assert checks(execute(verification_shop, instance))["no_drift"] == (False, dg.AssetCheckSeverity.ERROR)
    verification_shop.sandbox.clear_faults()
    verification_shop.send_pending()
    assert checks(execute(verification_shop, instance))["no_drift"][0]
    assert_in_step(verification_shop)


def test_a_change_that_the_sync_missed_fails_the_master_s_check(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    contacts = [contact for (contact,) in verification_shop.sql("select contact::text from ledger order by contact")]
    verification_shop.sandbox.set_points({contacts[0]: "64.5"})
    assert checks(execute(verification_shop, instance))["master_agrees"][0]
    verification_shop.send_pending()
    verification_shop.sandbox.behave(
        treazure_clock=-3 * 3600
    )  # so it happened three hours ago, before the next window begins
    verification_shop.sandbox.set_points({contacts[-1]: "65.5"})
    verification_shop.sql("update programme set covered = tstzmultirange(tstzrange('2000-01-01', clock_timestamp()))")
    assert checks(execute(verification_shop, instance))["master_agrees"] == (False, dg.AssetCheckSeverity.ERROR)


def test_where_engage_can_t_be_read_the_run_fails_visibly_with_its_figures(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    result = execute(verification_shop, instance, ENGAGE_API_KEY="wrong")
    assert not result.success
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    data: Any = event.step_failure_data
    assert "Engage can't be read" in data.user_failure_data.description
    shown = materializations.figures(data.user_failure_data)
    assert shown["read"] == 0
    assert shown["failed"] > 0
    assert checks(result) == {
        "no_drift": (False, dg.AssetCheckSeverity.WARN),
        "master_agrees": (True, dg.AssetCheckSeverity.ERROR),
    }


def test_a_balance_sync_and_a_verification_do_not_wait_for_each_other(verification_shop: VerificationShop) -> None:
    definitions = build_definitions(verification_shop.settings())
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey(ASSET)).pools == {"balance_verification"}
    assert graph.get(dg.AssetKey("engage_balance_push")).pools == {"balance_sync"}
    assert graph.get(dg.AssetKey(ASSET)).group_name == "verification"
    assert dg.AssetKey("engage_point_accounts") in graph.get(dg.AssetKey(ASSET)).parent_keys
    assert definitions.resolve_job_def(JOB).executor_def.name == "in_process"


def test_with_several_programmes_each_has_its_own_verification(
    new_verification_shop: Callable[..., VerificationShop], tmp_path: Path
) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    verification_shop = new_verification_shop(environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed)})
    definitions = build_definitions(verification_shop.settings())
    dg.Definitions.validate_loadable(definitions)
    for name in ("gold", "silver"):
        assert dg.AssetKey([name, ASSET]) in definitions.resolve_asset_graph().get_all_asset_keys()
        assert definitions.resolve_schedule_def(f"{name}_{JOB}_schedule").cron_schedule == "47 * * * *"


def test_the_schedule_is_hourly_and_skips_while_a_run_verifies_but_not_behind_a_dead_one(
    verification_shop: VerificationShop, instance: dg.DagsterInstance
) -> None:
    definitions = build_definitions(verification_shop.settings())
    schedule = definitions.resolve_schedule_def(f"{JOB}_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("47 * * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING

    def requests() -> int:
        with dg.build_schedule_context(instance=instance, resources=definitions.resources) as context:
            return len(schedule.evaluate_tick(context).run_requests or ())

    assert requests() == 1
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("treazure_pipeline"), "__repository__")
    origin = RemoteJobOrigin(repository, JOB)
    instance.add_run(dg.DagsterRun(JOB, status=dg.DagsterRunStatus.STARTED, remote_job_origin=origin))
    assert requests() == 1
    with verification_shop.connect() as running, rounds.holding(running.ledger, account_of(running)):
        assert requests() == 0
    instance.add_run(dg.DagsterRun(JOB, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=origin))
    assert requests() == 0
