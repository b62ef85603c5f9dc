from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from treazure_pipeline.alerts import state
from treazure_pipeline.alerts.notify import Alert, misunderstood, tell
from treazure_pipeline.balance_sync import plans
from treazure_pipeline.cli import commands
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.alerts.conftest import SECRET, TOKEN, AlertShop, Target
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

FAILED = "hourly_balance_sync failed"
TELLS = """
from treazure_pipeline.alerts.notify import Alert, tell
from treazure_pipeline.connections import Connections
from treazure_pipeline.alerts.state import evaluating
from treazure_pipeline.settings import load_settings
with Connections(load_settings()) as connections, evaluating(connections.ledger) as alone:
    assert alone
    tell(connections.ledger, [Alert("one", "It is wrong", "Do: fix it.")], connections.settings.alert_urls)
"""
NOBODY = {"TREAZURE_BASE_URL": "http://127.0.0.1:9"}


def trip(shop: Shop, digest: str = "0123456789ab") -> None:
    """What a run leaves behind that a guard has stopped."""
    shop.sql("update plan set state = 'replaced' where state = 'open'")
    shop.sql(
        "insert into plan (programme, digest, run_id, figures, reasons) select id, %s, 'run', '{}', "
        "array['4,000 of 5,000 contacts (80%%) would go to zero, 2%% may'] from programme",
        digest,
    )


def test_a_job_that_fails_three_times_is_told_once_and_its_recovery_once(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.tick()
    for _ in range(3):
        assert not alert_shop.run(**NOBODY).success
        for _ in range(2):
            alert_shop.tick()
    assert target.titles == [FAILED]
    assert alert_shop.run().success
    for _ in range(2):
        alert_shop.tick()
    assert target.titles == [FAILED, f"Over: {FAILED}"]
    assert [message["type"] for message in target.messages] == ["failure", "success"]


def test_an_alert_says_what_happened_what_to_do_and_where_to_look(
    alert_shop: AlertShop, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example/")
    failed = alert_shop.run(**NOBODY)
    alert_shop.tick()
    text = target.messages[0]["message"]
    assert "Treazure, POST /identity/connect/token" in text
    assert "Do: " in text
    assert text.endswith(f"https://dagster.example/runs/{failed.run_id}")


def test_nothing_wrong_is_told_nobody(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.run()
    assert alert_shop.tick() == "Wrong: nothing. Messages sent: 0, to be sent: 0."
    assert target.asked == 0


def test_a_tripped_guard_is_told_once_though_the_schedule_fires_three_times_and_is_over_when_approved(
    alert_shop: AlertShop, target: Target
) -> None:
    alert_shop.run()
    for digest in ("0123456789ab", "0123456789ab", "ba9876543210"):
        trip(alert_shop.shop, digest)
        alert_shop.tick()
    (message,) = target.messages
    assert message["title"] == "points: changes wait for approval"
    assert "80%" in message["message"]
    assert "treazure-pipeline approve 0123456789ab" in message["message"]
    alert_shop.shop.sql("update plan set state = 'approved' where state = 'open'")
    alert_shop.tick()
    assert target.titles[1:] == ["Over: points: changes wait for approval"]


@pytest.mark.parametrize("error", ["GuardTrippedError", "BusyError"])
def test_a_run_that_a_guard_stopped_or_that_found_another_at_work_is_no_failed_run(
    alert_shop: AlertShop, target: Target, error: str
) -> None:
    @dg.op
    def stopped() -> None:
        raise dg.Failure("stopped", metadata={"error": error}, allow_retries=False)

    @dg.job(name="hourly_balance_sync")
    def job() -> None:
        stopped()

    job.execute_in_process(instance=alert_shop.instance, raise_on_error=False)
    alert_shop.tick()
    assert target.titles == []
    alert_shop.run(**NOBODY)
    job.execute_in_process(instance=alert_shop.instance, raise_on_error=False)
    alert_shop.tick()
    assert target.titles == ([FAILED] if error == "BusyError" else [])


def ended(alert_shop: AlertShop, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    run = dg.DagsterRun("hourly_balance_sync", status=status, tags=tags)
    return alert_shop.instance.add_run(run)


def test_a_run_whose_process_died_is_told_once_its_retries_are_exhausted(alert_shop: AlertShop, target: Target) -> None:
    first = ended(alert_shop, dg.DagsterRunStatus.FAILURE, **{WILL_RETRY_TAG: "true"})
    alert_shop.tick()
    assert target.titles == []
    again = ended(alert_shop, dg.DagsterRunStatus.STARTED)
    alert_shop.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: again.run_id})
    alert_shop.tick()
    assert target.titles == []
    alert_shop.instance.report_run_failed(again)
    alert_shop.instance.add_run_tags(again.run_id, {WILL_RETRY_TAG: "false"})
    alert_shop.tick()
    assert target.titles == [FAILED]
    assert "process ended" in target.messages[0]["message"]


def test_a_retry_that_succeeds_is_told_nobody(alert_shop: AlertShop, target: Target) -> None:
    first = ended(alert_shop, dg.DagsterRunStatus.FAILURE, **{WILL_RETRY_TAG: "true"})
    again = ended(alert_shop, dg.DagsterRunStatus.SUCCESS)
    alert_shop.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: again.run_id})
    alert_shop.tick()
    assert target.titles == []


def test_one_failed_partition_is_told_however_many_others_go_well(alert_shop: AlertShop, target: Target) -> None:
    ended(alert_shop, dg.DagsterRunStatus.FAILURE, **{"dagster/partition": "3"})
    ended(alert_shop, dg.DagsterRunStatus.SUCCESS, **{"dagster/partition": "4"})
    alert_shop.tick()
    assert target.titles == [FAILED]
    ended(alert_shop, dg.DagsterRunStatus.SUCCESS, **{"dagster/partition": "3"})
    alert_shop.tick()
    assert target.titles == [FAILED, f"Over: {FAILED}"]


def test_stale_data_is_told_when_no_run_has_come_for_three_hours(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.tick()
    alert_shop.run()
    alert_shop.shop.time_passes(hours=2.9)
    alert_shop.tick()
    assert target.titles == []
    alert_shop.shop.time_passes(hours=0.2)
    alert_shop.tick()
    alert_shop.run()
    alert_shop.tick()
    assert target.titles == ["points: balances are stale", "Over: points: balances are stale"]


def test_rejections_are_told_above_the_limit_only(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.shop.environ["GUARD_MAX_REJECTED_SHARE"] = "1"
    alert_shop.shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{"accountNumber": "x{n}"}}' for n in range(100)])
    alert_shop.run()
    alert_shop.tick()
    assert target.titles == []
    alert_shop.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "one more"}'])
    alert_shop.shop.sandbox.play_hour(changes=5)
    alert_shop.run()
    alert_shop.tick()
    assert target.titles == ["points: more than 100 rows are rejected"]
    assert "101 rows of exports" in target.messages[0]["message"]


def test_the_check_of_the_push_tells_how_many_are_outstanding_since_when_and_why(alert_shop: AlertShop) -> None:
    alert_shop.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x"}', '{"accountNumber": "y"}'])
    alert_shop.run()
    alert_shop.shop.sandbox.play_hour(changes=5)
    (check,) = [
        check for check in alert_shop.run().get_asset_check_evaluations() if check.check_name == "nothing_is_rejected"
    ]
    assert not check.passed
    assert check.metadata["rows_of_exports"].value == 2
    ((since,),) = alert_shop.shop.sql("select extract(epoch from min(since))::float from rejection")
    assert check.metadata["outstanding_since"].value == pytest.approx(since, abs=0.01)
    assert "| export | accountNumber: the contact must be a GUID" in str(check.metadata["by_reason"].value)
    alert_shop.shop.sql("update rejection set resolved_at = now(), resolved_by = 'person'")
    alert_shop.shop.sandbox.play_hour(changes=5)
    (check,) = [
        check for check in alert_shop.run().get_asset_check_evaluations() if check.check_name == "nothing_is_rejected"
    ]
    assert check.passed


def test_uncertain_adjustments_a_queue_that_stands_still_and_a_silent_receiver_are_told(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance, target: Target
) -> None:
    alert_shop = AlertShop(adjustment_shop, instance, {"TREAZURE_PIPELINE_ALERT_URLS": target.url})
    one, other = adjustment_shop.contacts(2)
    adjustment_shop.give(one, 5)
    adjustment_shop.give(other, 6)
    adjustment_shop.give(other, 7)
    alert_shop.tick()
    assert target.titles == []
    adjustment_shop.sql("update adjustment set received_at = received_at - interval '61 minutes' where contact is null")
    alert_shop.tick()
    assert target.titles == ["Adjustments wait for more than an hour"]
    adjustment_shop.process()
    alert_shop.tick()
    assert target.titles[1:] == ["Over: Adjustments wait for more than an hour"]
    adjustment_shop.sql("update adjustment set state = 'uncertain' where id = 2")
    adjustment_shop.sql(
        "update adjustment set state = 'queued', received_at = received_at - interval '2 hours' where id = 3"
    )
    alert_shop.tick()
    assert target.titles[2:] == ["Adjustments are uncertain"]  # what it holds back is not told beside it
    adjustment_shop.sql("update webhook_kind set last_at = last_at - interval '25 hours'")
    alert_shop.tick()
    assert target.titles[3:] == ["Engage has delivered nothing for a day"]
    adjustment_shop.give(one, 1)
    alert_shop.tick()
    assert target.titles[4:] == ["Over: Engage has delivered nothing for a day"]


def test_a_shop_that_never_had_an_adjustment_is_not_told_of_a_silent_receiver(
    alert_shop: AlertShop, target: Target
) -> None:
    alert_shop.run()
    alert_shop.shop.sql("insert into webhook_kind values ('point.balance.updated', 5, now() - interval '3 days')")
    alert_shop.tick()
    assert target.titles == []


def test_what_a_target_did_not_take_is_sent_once_when_it_does_again(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.run()
    target.status = 503
    trip(alert_shop.shop)
    for _ in range(3):
        assert alert_shop.tick().endswith("Messages sent: 0, to be sent: 1.")
    target.status = 200
    for _ in range(2):
        alert_shop.tick()
    assert target.titles == ["points: changes wait for approval"]


def test_what_began_and_was_over_while_a_target_was_away_is_told_in_one_message(
    alert_shop: AlertShop, target: Target
) -> None:
    alert_shop.run()
    target.status = 503
    trip(alert_shop.shop)
    alert_shop.tick()
    alert_shop.shop.sql("update plan set state = 'approved'")
    alert_shop.tick()
    target.status = 200
    alert_shop.tick()
    alert_shop.tick()
    assert target.titles == ["Over: points: changes wait for approval"]
    assert "It lasted from" in target.messages[0]["message"]


def test_a_target_that_is_away_keeps_nothing_from_the_others(
    alert_shop: AlertShop, target: Target, new_target: Callable[[], Target]
) -> None:
    away = new_target()
    away.status = 500
    alert_shop.run()
    trip(alert_shop.shop)
    alert_shop.changes = {"TREAZURE_PIPELINE_ALERT_URLS": f"json://127.0.0.1:1/ nonsense://x {away.url} {target.url}"}
    for _ in range(2):
        alert_shop.tick()
    assert target.titles == ["points: changes wait for approval"]
    away.status = 200
    for _ in range(2):
        alert_shop.tick()
    assert away.titles == target.titles == ["points: changes wait for approval"]


def test_a_new_target_is_told_what_is_wrong_and_nothing_of_what_is_over(
    alert_shop: AlertShop, target: Target, new_target: Callable[[], Target]
) -> None:
    alert_shop.run(**NOBODY)
    alert_shop.tick()
    alert_shop.run()
    trip(alert_shop.shop)
    alert_shop.tick()
    new = new_target()
    alert_shop.changes = {"TREAZURE_PIPELINE_ALERT_URLS": new.url}
    alert_shop.tick()
    assert new.titles == ["points: changes wait for approval"]
    assert target.titles[:2] == [FAILED, "points: changes wait for approval"]


def test_two_evaluations_at_once_send_one_message(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.run()
    trip(alert_shop.shop)
    ready, go = threading.Event(), threading.Event()

    def hold() -> None:
        ready.set()
        assert go.wait(60)

    target.before_answer = hold
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(alert_shop.tick()))
    first.start()
    assert ready.wait(60)
    other = AlertShop(alert_shop.shop, alert_shop.instance, alert_shop.changes)
    said.append(other.tick())
    go.set()
    first.join(60)
    other.tick()
    assert said[0] == "Another evaluation is under way."
    assert target.titles == ["points: changes wait for approval"]


def test_no_log_no_error_and_no_table_shows_the_address_of_a_target(
    alert_shop: AlertShop, target: Target, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    alert_shop.run()
    trip(alert_shop.shop)
    said = []
    for status in (500, 200):
        target.status = status
        said.append(alert_shop.tick(DEAD_MAN_URL=target.ping_url))
    said.append(alert_shop.tick(DEAD_MAN_URL=f"http://127.0.0.1:1/{TOKEN}"))
    assert target.messages
    assert target.pings == 1
    assert "did not accept an alert" in caplog.text
    kept = str(alert_shop.shop.sql("select * from alert")) + str(alert_shop.shop.sql("select * from alert_told"))
    records = "".join(f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records)
    shown = kept + "".join(said) + "".join(capfd.readouterr()) + caplog.text + records
    assert [secret for secret in (SECRET, TOKEN) if secret in shown] == []


def test_addresses_that_are_none_are_named_by_their_place(shop: Shop) -> None:
    urls = "json://127.0.0.1/ nonsense://127.0.0.1 ://"
    assert misunderstood(shop.settings(TREAZURE_PIPELINE_ALERT_URLS=urls).alert_urls) == [2, 3]


def test_a_database_that_is_away_ends_the_tick_with_a_reason(alert_shop: AlertShop) -> None:
    said = alert_shop.tick(TREAZURE_PIPELINE_DATABASE_URL="postgresql://user:pass-word@127.0.0.1:1/none")
    assert said.startswith("No alert could be sent")
    assert "pass-word" not in said


def test_a_process_killed_while_a_target_takes_a_message_leaves_it_to_be_told_and_nothing_locked(
    shop: Shop, target: Target
) -> None:
    environment = {**os.environ, **shop.variables, "TREAZURE_PIPELINE_ALERT_URLS": target.url}
    started = threading.Event()
    victims: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        assert started.wait(60)
        victims[0].kill()
        victims[0].wait()

    target.before_answer = kill
    victims.append(subprocess.Popen([sys.executable, "-c", TELLS], env=environment))
    started.set()
    assert victims[0].wait(60) == -signal.SIGKILL
    target.before_answer = lambda: None
    urls = shop.settings(TREAZURE_PIPELINE_ALERT_URLS=target.url).alert_urls
    with shop.connect() as connections, state.evaluating(connections.ledger) as alone:
        assert alone
        for _ in range(2):
            tell(connections.ledger, [Alert("one", "It is wrong", "Do: fix it.")], urls)
    assert target.titles == ["It is wrong", "It is wrong"]


def test_the_dead_man_is_pinged_at_most_once_a_minute_while_the_data_is_fresh(
    alert_shop: AlertShop, target: Target
) -> None:
    alert_shop.changes["DEAD_MAN_URL"] = target.ping_url
    alert_shop.tick()
    assert target.pings == 0  # nothing was ever fetched
    alert_shop.run()
    for _ in range(3):
        alert_shop.tick()
    assert target.pings == 1
    assert alert_shop.cursor is not None
    alert_shop.cursor = str(float(alert_shop.cursor) - 61)
    alert_shop.tick()
    assert target.pings == 2
    alert_shop.shop.time_passes(hours=4)
    alert_shop.cursor = None
    alert_shop.tick()
    assert target.pings == 2
    alert_shop.run()
    alert_shop.tick()
    assert target.pings == 3


def test_a_dead_man_that_does_not_answer_breaks_nothing_and_is_pinged_again(
    alert_shop: AlertShop, target: Target
) -> None:
    alert_shop.changes["DEAD_MAN_URL"] = target.ping_url
    alert_shop.run()
    target.status = 500
    alert_shop.tick()
    alert_shop.tick()
    assert target.pings == 0
    target.status = 200
    alert_shop.tick()
    assert target.pings == 1


def test_a_mass_set_to_zero_is_told_once_though_three_runs_are_stopped_and_passes_once_approved(
    new_shop: Callable[..., Shop], instance: dg.DagsterInstance, target: Target
) -> None:
    shop = new_shop(members=1500, environ={"ENGAGE_BATCH_SIZE": "500"})
    alert_shop = AlertShop(shop, instance, {"TREAZURE_PIPELINE_ALERT_URLS": target.url})
    assert alert_shop.run().success
    shop.sandbox.set_points(dict.fromkeys(shop.sandbox.contact_ids(200), 0))
    for _ in range(3):
        assert not alert_shop.run().success
        alert_shop.tick()
    (message,) = target.messages
    assert message["title"] == "points: changes wait for approval"
    assert "set to zero" in message["message"]
    ((digest,),) = shop.sql("select digest from plan where state = 'open'")
    assert f"treazure-pipeline approve {digest}" in message["message"]
    with shop.connect() as connections:
        plans.approve(connections.ledger, None, digest, by="Kim", lifetime=timedelta(hours=1))
    assert alert_shop.run().success
    alert_shop.tick()
    assert target.titles[1:] == ["Over: points: changes wait for approval"]
    assert_in_step(shop)


def test_drift_is_told_and_so_is_its_healing(alert_shop: AlertShop, target: Target) -> None:
    at_once = {"ENGAGE_VERIFY_GRACE_SECONDS": "0"}
    alert_shop.run()
    contact = alert_shop.shop.sandbox.contact_ids(1)[0]
    alert_shop.shop.sandbox.set_engage_balances({contact: "987654"})
    alert_shop.run("verify_balances", **at_once)
    alert_shop.tick()
    assert target.titles == ["points: Engage does not hold what it accepted"]
    assert "Contacts that differ: 1," in target.messages[0]["message"]
    alert_shop.run()
    alert_shop.run("verify_balances", **at_once)
    alert_shop.tick()
    assert target.titles[1:] == ["Over: points: Engage does not hold what it accepted"]


def test_an_approval_that_fails_is_told_to_who_approves_only(alert_shop: AlertShop, target: Target) -> None:
    alert_shop.run()
    job = build_definitions(alert_shop.shop.settings()).resolve_job_def("approve_plan")
    config = {"ops": {"approve": {"config": {"digest": "000000", "approved_by": "Kim"}}}}
    assert not job.execute_in_process(instance=alert_shop.instance, run_config=config, raise_on_error=False).success
    alert_shop.tick()
    assert target.titles == []


def test_status_shows_what_is_wrong_also_without_a_target(alert_shop: AlertShop) -> None:
    alert_shop.run()
    trip(alert_shop.shop)
    alert_shop.changes = {}
    alert_shop.tick()
    shown = CliRunner().invoke(commands, ["status", "--json"], env=alert_shop.shop.variables)
    (alert,) = json.loads(shown.stdout.splitlines()[-1])["alerts"]
    assert (alert["key"], alert["firing"], alert["episode"]) == ("points:guard_tripped", True, 1)
    assert "approve 0123456789ab" in alert["body"]
    readable = CliRunner().invoke(commands, ["status"], env=alert_shop.shop.variables).stdout
    assert "points: changes wait for approval" in readable
