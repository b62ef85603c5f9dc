from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from treazure_pipeline.clients.points_log import oldest_first
from treazure_pipeline.errors import AuthenticationError, NoAnswerError
from treazure_pipeline.ledger import frames
from treazure_pipeline.points_history import store
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of
from treazure_pipeline_tests.clients import test_movements
from treazure_pipeline_tests.clients.conftest import Reply, answer
from treazure_pipeline_tests.points_history.conftest import (
    BASE,
    COUNTS,
    Logs,
    assert_is_treazures,
    logged,
    movement,
    read_logs,
)

A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


def asked_for_histories(shop: Shop) -> int:
    return int(shop.sandbox.report()["requests"].get("history", 0))


def test_the_first_run_reads_everybody_s_log_as_it_is_in_treazure(shop: Shop) -> None:
    shop.sandbox.play_hour(changes=60)
    shop.sync()
    done = read_logs(shop)
    assert (done.everybody, done.due, done.read, done.failed, done.left) == (True, 200, 200, 0, 0)
    assert done.rows == done.movements >= 260
    assert (done.differing, done.unknown_types) == (0, {})
    assert_is_treazures(shop)


def test_the_next_run_reads_only_the_logs_of_those_whose_balance_changed(shop: Shop) -> None:
    shop.sync()
    read_logs(shop)
    shop.sandbox.play_hour(changes=7, joins=1)
    shop.sync()
    before = asked_for_histories(shop)
    done = read_logs(shop)
    assert (done.everybody, done.due, done.read, done.left) == (False, 8, 8, 0)
    assert done.rows == 8
    assert asked_for_histories(shop) == before + 8
    assert_is_treazures(shop)


def test_where_nothing_changed_nothing_is_asked(shop: Shop) -> None:
    shop.sync()
    read_logs(shop)
    before = asked_for_histories(shop)
    assert read_logs(shop).due == 0
    assert asked_for_histories(shop) == before


def test_a_full_run_reads_everybody_again_and_writes_only_what_differs(shop: Shop) -> None:
    shop.sync()
    read_logs(shop)
    shop.sql("delete from points_history where contact = %s", shop.sandbox.contact_ids(1)[0])
    done = read_logs(shop, everybody=True)
    assert (done.everybody, done.due, done.read, done.rows) == (True, 200, 200, 1)
    assert_is_treazures(shop)


def test_a_mark_so_old_that_changes_may_have_been_tidied_away_makes_everybody_due(shop: Shop) -> None:
    shop.sync()
    read_logs(shop)
    shop.sql("update points_history_mark set noted_at = noted_at - interval '401 days'")
    assert read_logs(shop).everybody


def test_a_run_ends_in_good_order_after_its_time_and_the_next_one_goes_on(shop: Shop) -> None:
    shop.sync()
    stopped = read_logs(shop, most_seconds=-1)
    assert (stopped.read, stopped.left, stopped.error) == (0, 200, None)
    resumed = read_logs(shop)
    assert (resumed.everybody, resumed.read, resumed.left) == (False, 200, 0)


def test_a_log_that_can_t_be_read_keeps_its_rows_stops_no_other_and_is_tried_again(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=20)
    shop.sync()
    read_logs(shop)
    kept = shop.sql("select * from points_history order by contact, position")
    shop.sandbox.play_hour(changes=20)
    shop.sync()
    shop.sandbox.set_fault("html", on=["history"], count=3)
    done = read_logs(shop, TREAZURE_CONCURRENCY="1")
    assert (done.read, done.failed, done.left, done.error) == (17, 3, 3, None)
    failures = shop.sql("select contact, error, read_at is not null from points_history_read where error is not null")
    assert len(failures) == 3
    for contact, error, has_rows in failures:
        assert "it is a web page" in error
        assert has_rows
        assert [row[:4] for row in logged(shop, contact)] == [row[2:6] for row in kept if row[1] == contact]
    again = read_logs(shop)
    assert (again.due, again.read, again.failed, again.left) == (3, 3, 0, 0)
    assert shop.sql("select count(*) from points_history_read where error is not null") == [(0,)]
    assert_is_treazures(shop)


def test_a_log_whose_read_fails_is_not_tried_twice_in_one_run_and_comes_last_in_the_next(logs: Logs) -> None:
    for contact in (A, B, C):
        logs.give(contact, [movement("2026-01-01T00:00:00Z", 1, 1)])
    logs.stub.on(logs.history_path(A), Reply(200, b"<html>"))
    assert read_logs(logs.shop).failed == 1
    logs.stub.asked.clear()
    logs.give(C, [movement("2026-01-01T00:00:00Z", 1, 1), movement("2026-01-02T00:00:00Z", 1, 2)])
    assert read_logs(logs.shop, TREAZURE_CONCURRENCY="1").failed == 1
    asked = [one.target for one in logs.stub.asked if one.target.endswith("History")]
    assert asked == [logs.history_path(C), logs.history_path(A)]


def test_refused_credentials_end_the_run_and_leave_everybody_due(shop: Shop) -> None:
    shop.sync()
    done = read_logs(shop, TREAZURE_CLIENT_SECRET="wrong")
    assert isinstance(done.error, AuthenticationError)
    assert (done.read, done.failed, done.left) == (0, 0, 200)
    assert read_logs(shop).left == 0


def test_a_treazure_that_stays_away_ends_the_run_instead_of_being_waited_for_by_each_contact(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.set_fault("lost_before", on=["history"], count=None)
    done = read_logs(shop, TREAZURE_CONCURRENCY="1", TREAZURE_PIPELINE_RETRY_SCALE="0")
    assert isinstance(done.error, NoAnswerError)
    assert (done.read, done.failed, done.left) == (0, 20, 200)
    shop.sandbox.clear_faults()
    assert read_logs(shop).left == 0
    assert_is_treazures(shop)


def test_a_log_that_does_not_add_up_is_kept_and_shown_with_its_difference(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=10)
    shop.sandbox.play_hour(changes=10)
    shop.sync()
    read_logs(shop)
    first = dict(shop.sql("select contact::text, amount from points_history where position = 1 and amount <> 0"))
    shop.sandbox.behave(history_missing_first=1)
    done = read_logs(shop, everybody=True)
    assert (done.read, done.differing) == (10, len(first))
    with shop.connect() as connections:
        shown = frames.history_differences(connections.ledger, account_of(connections))
    balances = shop.known_master()
    assert dict(zip(shown["contact"], shown["difference"], strict=True)) == first
    for row in shown.itertuples():
        assert row.balance == balances[str(row.contact)]
        assert row.sum == sum(amount for _, _, amount, *_ in logged(shop, str(row.contact)))
    shop.sandbox.behave(history_missing_first=0)
    assert read_logs(shop, everybody=True).differing == 0


def test_a_movement_that_the_ledger_has_not_seen_yet_is_no_difference(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=10)
    shop.sync()
    shop.sandbox.play_hour(changes=10)
    done = read_logs(shop)
    assert (done.read, done.differing) == (10, 0)
    assert_is_treazures(shop)


def test_vouchers_redeemed_move_no_points_and_unknown_types_are_kept_and_counted(logs: Logs) -> None:
    logs.give(
        A,
        [
            movement("2026-01-01T00:00:00Z", 10, 10, expiresAt="2027-01-01T00:00:00Z", shopId="7", operatorId="eva"),
            movement("2026-01-02T00:00:00Z", -4, 6, "Convert", properties={"voucher": "v", "n": [1, 2.5]}),
            movement("2026-01-03T00:00:00Z", -4, 6, "RedeemVoucher"),
            movement("2026-01-04T00:00:00Z", 2.25, 8.25, "Merge", comment="two cards"),
        ],
    )
    done = read_logs(logs.shop)
    assert (done.read, done.rows, done.differing, dict(done.unknown_types)) == (1, 4, 0, {"Merge": 1})
    with logs.shop.connect() as connections:
        found = frames.points_history(connections.ledger, account_of(connections), [A])
    assert list(found["transaction_type"]) == ["Load", "Convert", "RedeemVoucher", "Merge"]
    assert list(found["amount"]) == [Decimal(10), Decimal(-4), Decimal(-4), Decimal("2.25")]
    assert found["expires_at"][0] == datetime(2027, 1, 1, tzinfo=UTC)
    assert (found["shop_id"][0], found["operator_id"][0], found["comment"][3]) == ("7", "eva", "two cards")
    assert found["properties"][1] == {"voucher": "v", "n": [1, 2.5]}


def test_texts_that_no_database_holds_are_stored_all_the_same(logs: Logs) -> None:
    hostile = 'a\0b\n"; drop table \\. \t \u202e 👩‍👩‍👧'
    logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1, comment=hostile, properties={"a\0": "\0", "b": "\\"})])
    assert read_logs(logs.shop).rows == 1
    [(comment, properties)] = logs.shop.sql("select comment, properties from points_history")
    assert comment == hostile.replace("\0", "")
    assert properties == {"a": "", "b": "\\"}
    assert read_logs(logs.shop, everybody=True).rows == 0


@pytest.mark.parametrize(
    "bad",
    [
        movement("0001-01-01T00:00:00+14:00", 1, 1),
        movement("2026-01-01T00:00:00Z", 1, 1) | {"amount": "NaN"},
        movement("2026-01-01T00:00:00Z", 1, 1) | {"balance": "Infinity"},
        movement("yesterday", 1, 1),
        {"dateTime": "2026-01-01T00:00:00Z"},
    ],
)
def test_one_invalid_log_does_not_stop_others(logs: Logs, bad: dict[str, object]) -> None:
    for contact in (A, B):
        logs.give(contact, [movement("2026-01-01T00:00:00Z", 1, 1)])
    logs.stub.on(logs.history_path(A), answer([bad]))
    done = read_logs(logs.shop)
    assert (done.read, done.failed, done.error) == (1, 1, None)
    assert logged(logs.shop, B)


def test_one_invalid_movement_is_left_out_and_counted(logs: Logs) -> None:
    odd = json.loads((Path(test_movements.__file__).parent / "data" / "history-odd.json").read_text())
    logs.give(A, [*odd, movement("yesterday", 7, 130.5)], balance="130.5")
    logs.give(B, odd, balance="123.5")
    done = read_logs(logs.shop)
    assert (done.read, done.failed, done.movements, done.unreadable) == (2, 0, 10, 1)
    assert (done.differing, dict(done.unknown_types)) == (1, {"Bonus2": 2})
    rows = {row[4]: row[2:4] for row in logged(logs.shop, B)}
    assert (rows["RedeemVoucher"], rows["Bonus2"]) == ((0, None), (3, Decimal("123.5")))
    with logs.shop.connect() as connections:
        [shown] = frames.history_unreadable(connections.ledger, account_of(connections)).itertuples()
        assert store.state(connections.ledger, account_of(connections)).unreadable == 1
    assert (str(shown.contact), shown.unreadable) == (A, 1)
    assert shown.first_unreadable == "movement 6 of the log can't be read: its dateTime is not a time"
    logs.give(A, [*odd, movement("2026-03-06T00:00:00Z", 7, 130.5)], balance="130.5")
    assert read_logs(logs.shop, everybody=True).unreadable == 0
    with logs.shop.connect() as connections:
        assert store.state(connections.ledger, account_of(connections)).unreadable == 0


def test_times_without_a_zone_and_with_one_are_utc(logs: Logs) -> None:
    logs.give(A, [movement("2026-01-01T10:00:00", 1, 1), movement("2026-01-01T13:00:00+02:00", 1, 2)])
    assert read_logs(logs.shop).differing == 0
    assert [row[1] for row in logged(logs.shop, A)] == [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (10, 11)]


def test_a_log_that_comes_newest_first_is_put_in_order(logs: Logs) -> None:
    newest_first = [
        movement("2026-01-02T00:00:00Z", -3, 8, "Redeem"),
        movement("2026-01-01T00:00:00Z", 1, 11),
        movement("2026-01-01T00:00:00Z", 10, 10),
    ]
    logs.give(A, newest_first, balance="8")
    assert read_logs(logs.shop).differing == 0
    assert [row[3] for row in logged(logs.shop, A)] == [10, 11, 8]


def test_a_404_is_no_empty_log_the_rows_stay_and_the_failure_is_kept(logs: Logs) -> None:
    logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1)])
    read_logs(logs.shop)
    logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1)], balance="2")
    for path in (logs.history_path(A), f"{BASE}/{A}"):
        logs.stub.on(path, Reply(404))
    done = read_logs(logs.shop)
    assert (done.read, done.failed) == (0, 1)
    assert logs.shop.sql("select rows from points_history_read") == [(1,)]


def test_a_change_while_a_log_is_read_makes_it_due_again(logs: Logs) -> None:
    logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1)])
    with logs.shop.connect() as connections:
        ledger, account = connections.ledger, account_of(connections)
        store.note_due(ledger, account, everybody=False, keep_days=400)
        [due] = store.due(ledger, account, before=ledger.now(), after=None, limit=10)
        logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1), movement("2026-01-02T00:00:00Z", 1, 2)])
        store.note_due(ledger, account, everybody=False, keep_days=400)
        store.replace(ledger, account, store.Read(due, ledger.now(), [], Decimal(0), Decimal(0), None))
    assert read_logs(logs.shop).read == 1
    assert len(logged(logs.shop, A)) == 2


def test_a_log_that_was_asked_for_earlier_never_replaces_a_later_one(logs: Logs) -> None:
    logs.give(A, [movement("2026-01-01T00:00:00Z", 1, 1)])
    read_logs(logs.shop)
    with logs.shop.connect() as connections:
        ledger, account = connections.ledger, account_of(connections)
        due = store.Due(A, 0, ledger.now(), None)
        earlier = ledger.now() - timedelta(hours=1)
        assert store.replace(ledger, account, store.Read(due, earlier, [], Decimal(0), Decimal(0), None)) == 0
    assert len(logged(logs.shop, A)) == 1


def test_two_runs_at_once_do_no_harm(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=60)
    shop.sandbox.play_hour(changes=60)
    shop.sync()
    threads = [threading.Thread(target=read_logs, args=(shop,), kwargs={"everybody": True}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_is_treazures(shop)
    ((rows, contacts, due),) = shop.sql(COUNTS)
    assert (contacts, due) == (60, 0)
    assert shop.sql("select sum(rows) from points_history_month") == [(rows,)]


def test_months_are_counted_as_they_change(shop: Shop) -> None:
    shop.sync()
    read_logs(shop)
    shop.sandbox.move_clock(-450 * 86400)
    shop.sandbox.play_hour(changes=30)
    shop.sandbox.move_clock(450 * 86400)
    shop.sync(full=True)
    read_logs(shop)
    counted = "select date_trunc('month', date_time)::date, count(*) from points_history group by 1 order by 1"
    assert shop.sql("select month, rows from points_history_month order by 1") == shop.sql(counted)
    assert len(shop.sql(counted)) >= 2


def test_an_empty_log_is_in_order() -> None:
    assert oldest_first([]) == []
