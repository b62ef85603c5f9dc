from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.sandbox import API_KEY, CLIENT_SECRET
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step
from treazure_pipeline_tests.dagster_ui import run_check

JOB = "hourly_balance_sync"
SNAPSHOT, DIFF, PUSH = "treazure_balance_snapshot", "balance_diff", "engage_balance_push"
NOBODY = "http://127.0.0.1:9"


class Execute:
    """Runs the job of a shop's sync, on one instance for the whole test."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def __call__(
        self,
        shop: Shop,
        *,
        job: str = JOB,
        config: dict[str, Any] | None = None,
        only: str | None = None,
        **changes: str,
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(shop.settings(**changes))
        return definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            run_config={"ops": {SNAPSHOT: {"config": config}}} if config else None,
            asset_selection=[dg.AssetKey(only)] if only else None,
        )

    def last_checks(self, shop: Shop) -> dict[str, str]:
        """What Dagster shows of each check of the sync: how its last evaluation ended."""
        graph = build_definitions(shop.settings()).resolve_asset_graph()
        keys = [key for key in graph.asset_check_keys if key.asset_key.to_user_string() in {DIFF, PUSH}]
        found = self.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        return {key.name: found[key].status.value for key in keys}

    def check(self, shop: Shop, asset: str, name: str, **changes: str) -> bool:
        """Run one check by itself, and tell whether it is green."""
        return run_check(shop, self.instance, asset, name, **changes)


@pytest.fixture
def execute() -> Iterator[Execute]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Execute(instance)


def failure(result: dg.ExecuteInProcessResult) -> Any:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return event.step_failure_data


def test_the_job_brings_both_systems_together_and_every_check_passes(execute: Execute, shop: Shop) -> None:
    result = execute(shop)
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {
        "coverage_has_no_hole": True,
        "guards_hold": True,
        "rows_add_up": True,
        "points_are_conserved": True,
        "pending_adds_up": True,
        "nothing_is_held_back": True,
        "nothing_is_rejected": True,
    }
    assert_in_step(shop)


def test_the_metadata_of_a_run_tells_what_happened(execute: Execute, shop: Shop) -> None:
    execute(shop)
    shop.sandbox.play_hour(changes=20)
    shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
    result = execute(shop)
    fetched, compared, pushed = (materializations.of(result, asset) for asset in (SNAPSHOT, DIFF, PUSH))
    assert fetched["fetched"] == fetched["dagster/row_count"] == 21
    assert fetched["rejected"] == 1
    assert "accountNumber" in fetched["rejections"]
    assert compared["changed"] == pushed["changed"] == pushed["sent"]
    assert 0 < pushed["sent"] <= 20
    assert compared["points_after"] == shop.sandbox.differences()["treazure_total"]
    assert {"window_from", "window_to", "seconds_export"} <= fetched.keys()
    assert {
        "duplicate", "superseded", "unchanged", "carried_over", "vanished", "points_before", "points_total",
        "covered_until", "data_age_hours", "seconds_diff", "changes",
    } <= compared.keys()  # fmt: skip
    assert {
        "carried_over", "refused", "held", "pending", "requests", "oldest_pending_hours", "points_total",
        "rejected_outstanding", "data_age_hours", "seconds_push", "seconds_fold", "pending_rows",
    } <= pushed.keys()  # fmt: skip
    assert compared["changes"].count("\n") <= 12


def test_outstanding_rejections_warn_and_do_not_fail_the_run(execute: Execute, new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(unknown_share=0.05)
    result = execute(shop)
    assert result.success
    (check,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert check.check_name == "nothing_is_rejected"
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert materializations.of(result, PUSH)["rejected_outstanding"] == len(shop.pending()) > 0
    assert "does not know" in materializations.of(result, PUSH)["pending_rows"]
    assert_in_step(shop)


def test_the_push_alone_sends_what_is_pending(execute: Execute, shop: Shop) -> None:
    execute(shop, ENGAGE_BASE_URL=NOBODY)
    assert len(shop.pending()) == 200
    result = execute(shop, only=PUSH)
    assert result.success
    assert materializations.of(result, PUSH)["sent"] == 200
    assert materializations.of(result, PUSH)["carried_over"] == 200
    assert_in_step(shop)


def test_the_diff_alone_without_a_snapshot_says_what_to_materialize(execute: Execute, shop: Shop) -> None:
    result = execute(shop, only=DIFF)
    assert not result.success
    assert SNAPSHOT in str(failure(result))


def test_a_push_that_could_not_finish_fails_visibly_with_its_figures_and_the_next_run_goes_on(
    execute: Execute, shop: Shop
) -> None:
    shop.sandbox.set_fault("server_error", after=2, count=None)
    result = execute(shop, ENGAGE_CONCURRENCY="1")
    assert not result.success
    data = failure(result).user_failure_data
    assert "100 rows are left" in data.description
    assert data.metadata["sent"].value == 100
    assert data.metadata["pending"].value == 100
    assert set(execute.last_checks(shop).values()) == {"SUCCEEDED"}, "Engage's outage says nothing about the ledger"
    shop.sandbox.clear_faults()
    again = execute(shop)
    assert again.success
    assert materializations.of(again, PUSH)["sent"] == 100
    assert_in_step(shop)


def test_an_export_that_can_t_be_had_fails_the_first_step_and_nothing_is_pushed(execute: Execute, shop: Shop) -> None:
    shop.sandbox.set_fault("html", count=None)
    result = execute(shop)
    assert not result.success
    assert failure(result).user_failure_data.metadata["error"].value == "InvalidAnswerError"
    assert "set_balances" not in shop.sandbox.report()["requests"]


def test_a_second_run_of_the_same_programme_fails_as_busy(execute: Execute, shop: Shop) -> None:
    with shop.connect() as other:
        other.ledger.hold(account_of(other))
        result = execute(shop)
    assert not result.success
    assert failure(result).user_failure_data.metadata["error"].value == "BusyError"
    assert shop.known_master() == {}
    assert execute(shop).success
    assert_in_step(shop)


def test_an_explicit_window_is_fetched(execute: Execute, shop: Shop) -> None:
    execute(shop)
    config = {"window_from": "2001-02-03T04:05:06+01:00", "window_to": "2030-01-01"}
    result = execute(shop, config=config)
    assert result.success
    begins = materializations.of(result, SNAPSHOT)["window_from"]
    assert begins == 981169506.0
    assert materializations.of(result, SNAPSHOT)["fetched"] == 200


def test_a_full_resync_by_config_sends_only_what_differs(execute: Execute, shop: Shop) -> None:
    execute(shop)
    result = execute(shop, config={"full_resync": True})
    assert materializations.of(result, SNAPSHOT)["full"] == "yes"
    assert materializations.of(result, SNAPSHOT)["fetched"] == 200
    assert materializations.of(result, PUSH)["requests"] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"window_from": "yesterday"}, "window_from"),
        ({"window_to": "2020-01-01"}, "window_from"),
        ({"window_from": "2020-01-02", "window_to": "2020-01-01"}, "not before"),
        ({"window_from": "2020-01-01", "full_resync": True}, "full_resync"),
    ],
)
def test_a_wrong_window_is_one_clear_message_before_there_is_a_run(
    execute: Execute, shop: Shop, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        execute(shop, config=config)
    assert execute.instance.get_runs() == []
    assert "export_request" not in shop.sandbox.report()["requests"]


def test_no_event_of_a_run_shows_a_secret(execute: Execute, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    runs = [execute(shop)]
    shop.sandbox.play_hour(changes=10)
    shop.sandbox.set_fault("server_error", on=["set_balances"], status=401, count=None)
    runs.append(execute(shop))
    shop.sandbox.set_fault("server_error", on=["token"], status=400, count=None)
    runs.append(execute(shop))
    assert [run.success for run in runs] == [True, False, False]
    shown = caplog.text + "".join(str(entry) for run in runs for entry in execute.instance.all_logs(run.run_id))
    assert [secret for secret in (API_KEY, CLIENT_SECRET) if secret in shown] == []


def test_with_several_programmes_each_has_its_own_job_and_both_finish(
    execute: Execute, new_shop: Callable[..., Shop], tmp_path: Path
) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    shop = new_shop(programmes={"GOLD": 1, "SILVER": 2}, environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed)})
    for name in ("gold", "silver"):
        result = execute(shop, job=f"{name}_{JOB}")
        assert result.success
        assert result.asset_materializations_for_node(f"{name}__{PUSH}")[0].metadata["sent"].value == 200
    assert_in_step(shop, "GOLD")
    assert_in_step(shop, "SILVER")


def test_each_step_says_in_one_sentence_what_it_came_to_in_its_log_and_on_its_materialization(
    execute: Execute, new_shop: Callable[..., Shop]
) -> None:
    shop = new_shop(unknown_share=0.05)
    execute(shop)
    shop.sandbox.play_hour(changes=20)
    result = execute(shop)
    told = {asset: materializations.of(result, asset)["about"] for asset in (SNAPSHOT, DIFF, PUSH)}
    lines = materializations.log_lines(result, execute.instance)
    assert [line for line in lines if line in told.values()] == list(told.values())
    pushed = materializations.of(result, PUSH)
    requests = "1 request" if pushed["requests"] == 1 else f"{pushed['requests']} requests"
    assert f"{pushed['changed']} changed, {pushed['sent']} sent in {requests}, " in told[PUSH]
    assert f"{pushed['refused'] + pushed['held']} wait: " in told[PUSH]
    assert "does not know" in told[PUSH]
    assert all(check.description for check in result.get_asset_check_evaluations())


def test_a_push_plots_no_flat_zeros_and_shows_the_other_figures_in_one_table(execute: Execute, shop: Shop) -> None:
    (event,) = execute(shop).asset_materializations_for_node(PUSH)
    assert materializations.plotted(event) == {"sent", "points_total", "data_age_hours"}
    assert "| pending | 0 |" in str(event.metadata["figures"].value)


def test_a_snapshot_plots_what_was_rejected_only_where_something_was(execute: Execute, shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
    (event,) = execute(shop).asset_materializations_for_node(SNAPSHOT)
    (well,) = execute(shop).asset_materializations_for_node(SNAPSHOT)
    assert materializations.plotted(event) - materializations.plotted(well) == {"rejected"}


def test_the_tags_of_a_run_say_which_window_it_fetched_and_where_it_was_started(execute: Execute, shop: Shop) -> None:
    execute(shop)
    result = execute(shop, config={"window_from": "2026-01-31T00:00:00Z", "window_to": "2026-01-31T12:00:00Z"})
    run = execute.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["treazure_pipeline/window"] == "2026-01-31T00:00Z/2026-01-31T12:00Z"
    assert run.tags["treazure_pipeline/full_resync"] == "no"
    assert run.tags["treazure_pipeline/started_from"] == "Dagster's UI"


def test_a_check_turns_green_after_a_repair_by_itself_and_no_system_is_asked(execute: Execute, shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
    assert execute(shop).success
    assert execute.last_checks(shop)["nothing_is_rejected"] == "FAILED"
    assert not execute.check(shop, PUSH, "nothing_is_rejected")
    shop.sql("update rejection set resolved_at = clock_timestamp()")
    assert execute.check(shop, PUSH, "nothing_is_rejected")
    assert execute.last_checks(shop)["nothing_is_rejected"] == "SUCCEEDED"


def test_a_hole_is_found_and_gone_without_a_run(execute: Execute, shop: Shop) -> None:
    execute(shop)
    assert not execute.check(shop, DIFF, "coverage_has_no_hole", PROGRAMME_BEGINNING="1999-01-01")
    assert execute.check(shop, DIFF, "coverage_has_no_hole")
