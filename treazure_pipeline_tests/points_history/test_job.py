from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.cli.conftest import Run, environment, run
from treazure_pipeline_tests.dagster_ui import run_check
from treazure_pipeline_tests.points_history.conftest import assert_is_treazures
from treazure_pipeline_tests.points_history.test_export import read_back

__all__ = ["environment", "run"]

JOB, ASSET = "refresh_points_history", "points_history"
URL = "sftp://user:s3cret-pass@127.0.0.1:1/points"


class Execute:
    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def __call__(self, shop: Shop, config: dict[str, Any] | None = None, **changes: str) -> dg.ExecuteInProcessResult:
        job = build_definitions(shop.settings(**changes)).resolve_job_def(JOB)
        return job.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            run_config={"ops": {ASSET: {"config": config}}} if config else None,
        )


@pytest.fixture
def execute() -> Iterator[Execute]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Execute(instance)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return materializations.of(result, ASSET)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def failure(result: dg.ExecuteInProcessResult) -> Any:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return event.step_failure_data.user_failure_data


def test_the_job_reads_the_logs_and_writes_the_files_and_tells_so(execute: Execute, shop: Shop, tmp_path: Path) -> None:
    shop.sync()
    result = execute(shop, {"export_url": str(tmp_path)})
    assert result.success
    assert checks(result) == {"history_adds_up": True, "every_log_is_read": True}
    assert_is_treazures(shop)
    told = metadata(result)
    ((rows,),) = shop.sql("select count(*) from points_history")
    assert told["dagster/row_count"] == told["rows_written"] == told["rows_exported"] == rows
    assert (told["due"], told["read"], told["failed"], told["left"], told["everybody"]) == (200, 200, 0, 0, "yes")
    assert told["dagster/uri"] == str(tmp_path)
    assert "| contact | position | date_time |" in told["newest"]
    assert "comment" not in told["newest"]
    assert read_back(tmp_path).num_rows == rows


def test_logs_that_do_not_add_up_are_a_warning_with_their_contacts(execute: Execute, shop: Shop) -> None:
    shop.sandbox.play_hour(changes=50)
    shop.sync()
    shop.sandbox.behave(history_missing_first=1)
    result = execute(shop)
    assert result.success
    assert checks(result) == {"history_adds_up": False, "every_log_is_read": True}
    (check,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert check.severity is dg.AssetCheckSeverity.WARN
    ((contact,),) = shop.sql("select contact::text from points_history_read where difference <> 0 order by 1 limit 1")
    assert contact in metadata(result)["differences"]


def test_a_log_that_can_t_be_read_is_a_warning_until_it_is_read(execute: Execute, shop: Shop) -> None:
    shop.sync()
    shop.sandbox.set_fault("html", on=["history"])
    result = execute(shop)
    assert result.success
    assert checks(result)["every_log_is_read"] is False
    assert metadata(result)["failed_outstanding"] == 1
    assert "it is a web page" in metadata(result)["failures"]
    assert checks(execute(shop))["every_log_is_read"] is True


def test_checks_of_the_logs_are_run_again_without_reading_any(execute: Execute, shop: Shop) -> None:
    shop.sync()
    execute(shop)
    shop.sql("update points_history_read set sum = sum + 1, error = 'away'")
    names = ("history_adds_up", "every_log_is_read")
    assert not any(run_check(shop, execute.instance, ASSET, name) for name in names)
    shop.sql("update points_history_read set sum = sum - 1, error = null")
    assert all(run_check(shop, execute.instance, ASSET, name) for name in names)


def test_a_run_that_could_not_go_on_fails_with_its_figures(execute: Execute, shop: Shop) -> None:
    shop.sync()
    result = execute(shop, TREAZURE_CLIENT_SECRET="wrong")
    assert not result.success
    assert "TREAZURE_CLIENT_SECRET" in failure(result).description
    assert failure(result).metadata["left"].value == 200


def test_a_password_in_the_run_config_is_refused_and_one_from_the_environment_is_never_shown(
    execute: Execute, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shop.sync()
    assert '{"env":' in failure(execute(shop, {"export_url": URL})).description
    monkeypatch.setenv("WHERE_THE_FILES_GO", URL)
    caplog.clear()
    result = execute(shop, {"export_url": {"env": "WHERE_THE_FILES_GO"}})
    assert not result.success
    assert "sftp://127.0.0.1:1/points" in failure(result).description
    events = "".join(str(entry) for entry in execute.instance.all_logs(result.run_id))
    assert "s3cret-pass" not in caplog.text + events


def test_the_asset_is_described_owned_and_grouped(shop: Shop) -> None:
    definitions = build_definitions(shop.settings())
    node = definitions.resolve_asset_graph().get(dg.AssetKey(ASSET))
    assert node.group_name == "points_history"
    assert node.description
    assert node.owners
    assert node.kinds
    assert dg.AssetKey("balance_diff") in node.parent_keys


def test_the_schedule_is_daily_and_off_until_it_is_switched_on(shop: Shop) -> None:
    schedule = build_definitions(shop.settings()).resolve_schedule_def(f"{JOB}_schedule")
    assert schedule.cron_schedule == "23 2 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_with_several_programmes_each_has_its_own_history(new_shop: Callable[..., Shop], tmp_path: Path) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    definitions = build_definitions(new_shop(environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed)}).settings())
    for name in ("gold", "silver"):
        assert definitions.resolve_job_def(f"{name}_{JOB}").name == f"{name}_{JOB}"
        assert dg.AssetKey([name, ASSET]) in definitions.resolve_asset_graph().get_all_asset_keys()


def test_the_command_reads_exports_and_prints_one_json_object(
    run: Run, shop: Shop, empty_database_url: str, tmp_path: Path
) -> None:
    shop.sync()
    variables = {**shop.variables, "DAGSTER_POSTGRES_URL": empty_database_url}
    first = run("run", "history", "--export", str(tmp_path / "files"), "--json", **variables)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout.splitlines()[-1])
    assert (told["status"], told["programme"], told["read"], told["left"]) == ("ok", "points", 200, 0)
    assert told["rows"] == told["rows_exported"] == read_back(tmp_path / "files").num_rows
    assert told["seconds"].keys() == {"read", "export"}
    wrong = run("run", "history", "--export", URL, "--json", **variables)
    assert wrong.returncode == 5
    assert json.loads(wrong.stdout.splitlines()[-1])["status"] == "failed"
    assert "s3cret-pass" not in wrong.stdout + wrong.stderr


def test_an_unknown_programme_or_address_is_a_usage_error_before_any_work(run: Run, shop: Shop) -> None:
    for options in (["--programme", "other"], ["--export", "nonsense://x"]):
        result = run("run", "history", *options, **shop.variables)
        assert result.returncode == 2, result.stderr
    assert "history" not in shop.sandbox.report()["requests"]
