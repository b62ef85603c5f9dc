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
from treazure_pipeline_tests.adjustments.desk import Desk
from treazure_pipeline_tests.alerts.conftest import SECRET, TOKEN, Target, Watch
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

FAILED = "hourly_balance_sync failed"
TELLS = """
from treazure_pipeline.alerts.notify import Alert, tell
from treazure_pipeline.connections import Connections
from treazure_pipeline.alerts.state import evaluating
from treazure_pipeline.settings import load_settings
with Connections(load_settings()) as connections, evaluating(connections.ledger) as alone:
    assert alone
    tell(connections.ledger, [Alert("one", "It is wrong", "Do: mend it.")], connections.settings.alert_urls)
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


def test_a_job_that_fails_three_times_is_told_once_and_its_recovery_once(watch: Watch, target: Target) -> None:
    watch.tick()
    for _ in range(3):
        assert not watch.run(**NOBODY).success
        for _ in range(2):
            watch.tick()
    assert target.titles == [FAILED]
    assert watch.run().success
    for _ in range(2):
        watch.tick()
    assert target.titles == [FAILED, f"Over: {FAILED}"]
    assert [message["type"] for message in target.messages] == ["failure", "success"]


def test_an_alert_says_what_happened_what_to_do_and_where_to_look(
    watch: Watch, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example/")
    failed = watch.run(**NOBODY)
    watch.tick()
    text = target.messages[0]["message"]
    assert "Treazure, POST /identity/connect/token" in text
    assert "Do: " in text
    assert text.endswith(f"https://dagster.example/runs/{failed.run_id}")


def test_nothing_wrong_is_told_nobody(watch: Watch, target: Target) -> None:
    watch.run()
    assert watch.tick() == "Wrong: nothing. Messages sent: 0, to be sent: 0."
    assert target.asked == 0


def test_a_tripped_guard_is_told_once_though_the_schedule_fires_three_times_and_is_over_when_approved(
    watch: Watch, target: Target
) -> None:
    watch.run()
    for digest in ("0123456789ab", "0123456789ab", "ba9876543210"):
        trip(watch.shop, digest)
        watch.tick()
    (message,) = target.messages
    assert message["title"] == "points: changes wait for approval"
    assert "80%" in message["message"]
    assert "treazure-pipeline approve 0123456789ab" in message["message"]
    watch.shop.sql("update plan set state = 'approved' where state = 'open'")
    watch.tick()
    assert target.titles[1:] == ["Over: points: changes wait for approval"]


@pytest.mark.parametrize("error", ["GuardTrippedError", "BusyError"])
def test_a_run_that_a_guard_stopped_or_that_found_another_at_work_is_no_failed_run(
    watch: Watch, target: Target, error: str
) -> None:
    @dg.op
    def stopped() -> None:
        raise dg.Failure("stopped", metadata={"error": error}, allow_retries=False)

    @dg.job(name="hourly_balance_sync")
    def job() -> None:
        stopped()

    job.execute_in_process(instance=watch.instance, raise_on_error=False)
    watch.tick()
    assert target.titles == []
    watch.run(**NOBODY)
    job.execute_in_process(instance=watch.instance, raise_on_error=False)
    watch.tick()
    assert target.titles == ([FAILED] if error == "BusyError" else [])


def ended(watch: Watch, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    run = dg.DagsterRun("hourly_balance_sync", status=status, tags=tags)
    return watch.instance.add_run(run)


def test_a_run_whose_process_died_is_told_once_its_retries_are_exhausted(watch: Watch, target: Target) -> None:
    first = ended(watch, dg.DagsterRunStatus.FAILURE, **{WILL_RETRY_TAG: "true"})
    watch.tick()
    assert target.titles == []
    again = ended(watch, dg.DagsterRunStatus.STARTED)
    watch.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: again.run_id})
    watch.tick()
    assert target.titles == []
    watch.instance.report_run_failed(again)
    watch.instance.add_run_tags(again.run_id, {WILL_RETRY_TAG: "false"})
    watch.tick()
    assert target.titles == [FAILED]
    assert "process ended" in target.messages[0]["message"]


def test_a_retry_that_succeeds_is_told_nobody(watch: Watch, target: Target) -> None:
    first = ended(watch, dg.DagsterRunStatus.FAILURE, **{WILL_RETRY_TAG: "true"})
    again = ended(watch, dg.DagsterRunStatus.SUCCESS)
    watch.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: again.run_id})
    watch.tick()
    assert target.titles == []


def test_one_failed_partition_is_told_however_many_others_go_well(watch: Watch, target: Target) -> None:
    ended(watch, dg.DagsterRunStatus.FAILURE, **{"dagster/partition": "3"})
    ended(watch, dg.DagsterRunStatus.SUCCESS, **{"dagster/partition": "4"})
    watch.tick()
    assert target.titles == [FAILED]
    ended(watch, dg.DagsterRunStatus.SUCCESS, **{"dagster/partition": "3"})
    watch.tick()
    assert target.titles == [FAILED, f"Over: {FAILED}"]


def test_stale_data_is_told_when_no_run_has_come_for_three_hours(watch: Watch, target: Target) -> None:
    watch.tick()
    watch.run()
    watch.shop.time_passes(hours=2.9)
    watch.tick()
    assert target.titles == []
    watch.shop.time_passes(hours=0.2)
    watch.tick()
    watch.run()
    watch.tick()
    assert target.titles == ["points: balances are stale", "Over: points: balances are stale"]


def test_rejections_are_told_above_the_limit_only(watch: Watch, target: Target) -> None:
    watch.shop.environ["GUARD_MAX_REJECTED_SHARE"] = "1"
    watch.shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{"accountNumber": "x{n}"}}' for n in range(100)])
    watch.run()
    watch.tick()
    assert target.titles == []
    watch.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "one more"}'])
    watch.shop.sandbox.play_hour(changes=5)
    watch.run()
    watch.tick()
    assert target.titles == ["points: more than 100 rows are rejected"]
    assert "101 rows of exports" in target.messages[0]["message"]


def test_the_check_of_the_push_tells_how_many_are_outstanding_since_when_and_why(watch: Watch) -> None:
    watch.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x"}', '{"accountNumber": "y"}'])
    watch.run()
    watch.shop.sandbox.play_hour(changes=5)
    (check,) = [
        check for check in watch.run().get_asset_check_evaluations() if check.check_name == "nothing_is_rejected"
    ]
    assert not check.passed
    assert check.metadata["rows_of_exports"].value == 2
    ((since,),) = watch.shop.sql("select extract(epoch from min(since))::float from rejection")
    assert check.metadata["outstanding_since"].value == pytest.approx(since, abs=0.01)
    assert "| export | accountNumber: the contact must be a GUID" in str(check.metadata["by_reason"].value)
    watch.shop.sql("update rejection set resolved_at = now(), resolved_by = 'person'")
    watch.shop.sandbox.play_hour(changes=5)
    (check,) = [
        check for check in watch.run().get_asset_check_evaluations() if check.check_name == "nothing_is_rejected"
    ]
    assert check.passed


def test_uncertain_adjustments_a_queue_that_stands_still_and_a_silent_receiver_are_told(
    desk: Desk, instance: dg.DagsterInstance, target: Target
) -> None:
    watch = Watch(desk, instance, {"TREAZURE_PIPELINE_ALERT_URLS": target.url})
    one, other = desk.contacts(2)
    desk.give(one, 5)
    desk.give(other, 6)
    desk.give(other, 7)
    watch.tick()
    assert target.titles == []
    desk.sql("update adjustment set received_at = received_at - interval '61 minutes' where contact is null")
    watch.tick()
    assert target.titles == ["Adjustments wait for more than an hour"]
    desk.process()
    watch.tick()
    assert target.titles[1:] == ["Over: Adjustments wait for more than an hour"]
    desk.sql("update adjustment set state = 'uncertain' where id = 2")
    desk.sql("update adjustment set state = 'queued', received_at = received_at - interval '2 hours' where id = 3")
    watch.tick()
    assert target.titles[2:] == ["Adjustments are uncertain"]  # what it holds back is not told beside it
    desk.sql("update webhook_kind set last_at = last_at - interval '25 hours'")
    watch.tick()
    assert target.titles[3:] == ["Engage has delivered nothing for a day"]
    desk.give(one, 1)
    watch.tick()
    assert target.titles[4:] == ["Over: Engage has delivered nothing for a day"]


def test_a_shop_that_never_had_an_adjustment_is_not_told_of_a_silent_receiver(watch: Watch, target: Target) -> None:
    watch.run()
    watch.shop.sql("insert into webhook_kind values ('point.balance.updated', 5, now() - interval '3 days')")
    watch.tick()
    assert target.titles == []


def test_what_a_target_did_not_take_is_sent_once_when_it_does_again(watch: Watch, target: Target) -> None:
    watch.run()
    target.status = 503
    trip(watch.shop)
    for _ in range(3):
        assert watch.tick().endswith("Messages sent: 0, to be sent: 1.")
    target.status = 200
    for _ in range(2):
        watch.tick()
    assert target.titles == ["points: changes wait for approval"]


def test_what_began_and_was_over_while_a_target_was_away_is_told_in_one_message(watch: Watch, target: Target) -> None:
    watch.run()
    target.status = 503
    trip(watch.shop)
    watch.tick()
    watch.shop.sql("update plan set state = 'approved'")
    watch.tick()
    target.status = 200
    watch.tick()
    watch.tick()
    assert target.titles == ["Over: points: changes wait for approval"]
    assert "It lasted from" in target.messages[0]["message"]


def test_a_target_that_is_away_keeps_nothing_from_the_others(
    watch: Watch, target: Target, new_target: Callable[[], Target]
) -> None:
    away = new_target()
    away.status = 500
    watch.run()
    trip(watch.shop)
    watch.changes = {"TREAZURE_PIPELINE_ALERT_URLS": f"json://127.0.0.1:1/ nonsense://x {away.url} {target.url}"}
    for _ in range(2):
        watch.tick()
    assert target.titles == ["points: changes wait for approval"]
    away.status = 200
    for _ in range(2):
        watch.tick()
    assert away.titles == target.titles == ["points: changes wait for approval"]


def test_a_new_target_is_told_what_is_wrong_and_nothing_of_what_is_over(
    watch: Watch, target: Target, new_target: Callable[[], Target]
) -> None:
    watch.run(**NOBODY)
    watch.tick()
    watch.run()
    trip(watch.shop)
    watch.tick()
    new = new_target()
    watch.changes = {"TREAZURE_PIPELINE_ALERT_URLS": new.url}
    watch.tick()
    assert new.titles == ["points: changes wait for approval"]
    assert target.titles[:2] == [FAILED, "points: changes wait for approval"]


def test_two_evaluations_at_once_send_one_message(watch: Watch, target: Target) -> None:
    watch.run()
    trip(watch.shop)
    ready, go = threading.Event(), threading.Event()

    def hold() -> None:
        ready.set()
        assert go.wait(60)

    target.before_answer = hold
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(watch.tick()))
    first.start()
    assert ready.wait(60)
    other = Watch(watch.shop, watch.instance, watch.changes)
    said.append(other.tick())
    go.set()
    first.join(60)
    other.tick()
    assert said[0] == "Another evaluation is under way."
    assert target.titles == ["points: changes wait for approval"]


def test_no_log_no_error_and_no_table_shows_the_address_of_a_target(
    watch: Watch, target: Target, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    watch.run()
    trip(watch.shop)
    said = []
    for status in (500, 200):
        target.status = status
        said.append(watch.tick(DEAD_MAN_URL=target.ping_url))
    said.append(watch.tick(DEAD_MAN_URL=f"http://127.0.0.1:1/{TOKEN}"))
    assert target.messages
    assert target.pings == 1
    assert "did not take an alert" in caplog.text
    kept = str(watch.shop.sql("select * from alert")) + str(watch.shop.sql("select * from alert_told"))
    records = "".join(f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records)
    shown = kept + "".join(said) + "".join(capfd.readouterr()) + caplog.text + records
    assert [secret for secret in (SECRET, TOKEN) if secret in shown] == []


def test_addresses_that_are_none_are_named_by_their_place(shop: Shop) -> None:
    urls = "json://127.0.0.1/ nonsense://127.0.0.1 ://"
    assert misunderstood(shop.settings(TREAZURE_PIPELINE_ALERT_URLS=urls).alert_urls) == [2, 3]


def test_a_database_that_is_away_ends_the_tick_with_a_reason(watch: Watch) -> None:
    said = watch.tick(TREAZURE_PIPELINE_DATABASE_URL="postgresql://user:pass-word@127.0.0.1:1/none")
    assert said.startswith("Nothing could be told")
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
            tell(connections.ledger, [Alert("one", "It is wrong", "Do: mend it.")], urls)
    assert target.titles == ["It is wrong", "It is wrong"]


def test_the_dead_man_is_pinged_at_most_once_a_minute_while_the_data_is_fresh(watch: Watch, target: Target) -> None:
    watch.changes["DEAD_MAN_URL"] = target.ping_url
    watch.tick()
    assert target.pings == 0  # nothing was ever fetched
    watch.run()
    for _ in range(3):
        watch.tick()
    assert target.pings == 1
    assert watch.cursor is not None
    watch.cursor = str(float(watch.cursor) - 61)
    watch.tick()
    assert target.pings == 2
    watch.shop.time_passes(hours=4)
    watch.cursor = None
    watch.tick()
    assert target.pings == 2
    watch.run()
    watch.tick()
    assert target.pings == 3


def test_a_dead_man_that_does_not_answer_breaks_nothing_and_is_pinged_again(watch: Watch, target: Target) -> None:
    watch.changes["DEAD_MAN_URL"] = target.ping_url
    watch.run()
    target.status = 500
    watch.tick()
    watch.tick()
    assert target.pings == 0
    target.status = 200
    watch.tick()
    assert target.pings == 1


def test_a_mass_set_to_zero_is_told_once_though_three_runs_are_stopped_and_passes_once_approved(
    new_shop: Callable[..., Shop], instance: dg.DagsterInstance, target: Target
) -> None:
    shop = new_shop(members=1500, environ={"ENGAGE_BATCH_SIZE": "500"})
    watch = Watch(shop, instance, {"TREAZURE_PIPELINE_ALERT_URLS": target.url})
    assert watch.run().success
    shop.sandbox.set_points(dict.fromkeys(shop.sandbox.contact_ids(200), 0))
    for _ in range(3):
        assert not watch.run().success
        watch.tick()
    (message,) = target.messages
    assert message["title"] == "points: changes wait for approval"
    assert "set to zero" in message["message"]
    ((digest,),) = shop.sql("select digest from plan where state = 'open'")
    assert f"treazure-pipeline approve {digest}" in message["message"]
    with shop.connect() as connections:
        plans.approve(connections.ledger, None, digest, by="Kim", lifetime=timedelta(hours=1))
    assert watch.run().success
    watch.tick()
    assert target.titles[1:] == ["Over: points: changes wait for approval"]
    assert_in_step(shop)


def test_drift_is_told_and_so_is_its_healing(watch: Watch, target: Target) -> None:
    at_once = {"ENGAGE_VERIFY_GRACE_SECONDS": "0"}
    watch.run()
    contact = watch.shop.sandbox.contact_ids(1)[0]
    watch.shop.sandbox.set_engage_balances({contact: "987654"})
    watch.run("verify_balances", **at_once)
    watch.tick()
    assert target.titles == ["points: Engage does not hold what it accepted"]
    assert "Contacts that differ: 1," in target.messages[0]["message"]
    watch.run()
    watch.run("verify_balances", **at_once)
    watch.tick()
    assert target.titles[1:] == ["Over: points: Engage does not hold what it accepted"]


def test_an_approval_that_fails_is_told_to_who_approves_only(watch: Watch, target: Target) -> None:
    watch.run()
    job = build_definitions(watch.shop.settings()).resolve_job_def("approve_plan")
    config = {"ops": {"approve": {"config": {"digest": "000000", "approved_by": "Kim"}}}}
    assert not job.execute_in_process(instance=watch.instance, run_config=config, raise_on_error=False).success
    watch.tick()
    assert target.titles == []


def test_status_shows_what_is_wrong_also_without_a_target(watch: Watch) -> None:
    watch.run()
    trip(watch.shop)
    watch.changes = {}
    watch.tick()
    shown = CliRunner().invoke(commands, ["status", "--json"], env=watch.shop.variables)
    (alert,) = json.loads(shown.stdout.splitlines()[-1])["alerts"]
    assert (alert["key"], alert["firing"], alert["episode"]) == ("points:guard_tripped", True, 1)
    assert "approve 0123456789ab" in alert["body"]
    readable = CliRunner().invoke(commands, ["status"], env=watch.shop.variables).stdout
    assert "points: changes wait for approval" in readable
