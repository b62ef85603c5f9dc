from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of, fetch, merge, send

NOBODY = "http://127.0.0.1:9"


def test_the_event_that_our_own_push_causes_makes_no_second_change(new_desk: Callable[..., Desk]) -> None:
    desk = new_desk(behaviour={"balance_events": True})
    desk.give(desk.contacts(1)[0], 5)
    for _ in range(3):
        desk.process()
        desk.sandbox.wait_until_delivered()
    assert desk.sql("select event_type, received from webhook_kind order by 1") == [
        ("loyalty.addPoints", 1),
        ("point.balance.updated", 1),
    ]
    assert desk.states() == ["done"]
    assert desk.sandbox.report()["rows"]["received"] == 1
    assert_each_once(desk)


def test_a_snapshot_that_contains_an_adjustment_already_known_changes_nothing(desk: Desk) -> None:
    desk.sync()
    desk.give(desk.contacts(1)[0], 5)
    desk.process()
    desk.sandbox.forget()
    run = desk.sync(full=True)
    assert (run.diff.figures.changed, run.pushed.sent) == (0, 0)
    assert "set_balances" not in desk.sandbox.report()["requests"]
    assert_each_once(desk)


def test_a_snapshot_taken_before_an_adjustment_never_overwrites_its_newer_balance(desk: Desk) -> None:
    desk.sync()
    one, other = desk.contacts(2)
    desk.sandbox.add_points({one: 7, other: 7})
    with desk.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account, run_id="slow")
        desk.give(one, 5)
        assert desk.process().done == 1
        newest = desk.in_engage(one)
        assert newest == [desk.sandbox.balances([one])[0]["treazure"]]
        diff = merge(connections, account, "slow")
        assert diff.figures.changed == 1
        send(connections, account, "slow", diff)
    assert desk.in_engage(one) == newest
    assert_each_once(desk)


def test_a_snapshot_under_way_during_an_adjustment_never_overwrites_its_newer_balance(
    new_desk: Callable[..., Desk],
) -> None:
    desk = new_desk(behaviour={"export_wait": 1.5})
    contacts = desk.contacts(10)
    desk.sandbox.add_points(dict.fromkeys(contacts, 3))
    slow = threading.Thread(target=desk.sync)
    slow.start()
    while "export_request" not in desk.sandbox.report()["requests"]:
        time.sleep(0.01)
    for contact in contacts:
        desk.give(contact, 5)
    desk.process()
    slow.join()
    desk.finish()
    desk.send_pending()
    assert_each_once(desk)


def test_an_adjustment_during_a_slow_push_of_the_sync_waits_for_it_and_wins(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    desk.sandbox.add_points({contact: 3})
    desk.sandbox.set_fault("slow", seconds=1.5, effect=False, on=["set_balances"])
    slow = threading.Thread(target=desk.sync)
    slow.start()
    while "set_balances" not in desk.sandbox.report()["requests"]:
        time.sleep(0.01)
    desk.give(contact, 5)
    desk.process()
    slow.join()
    desk.leases_end()
    desk.later()
    desk.finish()
    assert_each_once(desk)


def test_an_adjustment_pushes_its_own_row_only(desk: Desk) -> None:
    desk.sync()
    desk.sandbox.play_hour(share=1)
    desk.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    desk.sandbox.forget()
    desk.give(desk.contacts(1)[0], 5)
    assert desk.process().done == 1
    assert desk.sandbox.report()["rows"]["received"] == 1
    desk.send_pending()
    assert_each_once(desk)


def test_while_engage_is_away_adjustments_are_posted_and_the_sync_brings_their_balances(desk: Desk) -> None:
    numbers = [desk.give(contact, 5) for contact in desk.contacts(3)]
    result = desk.process(ENGAGE_BASE_URL=NOBODY)
    assert (result.posted, result.done) == (3, 0)
    assert desk.states() == ["posted"] * 3
    desk.sync()
    desk.later()
    assert desk.process().done == 3
    assert {desk.state(number)[0] for number in numbers} == {"done"}
    assert desk.booked() == 3
    assert_each_once(desk)


def test_while_a_programme_migrates_its_adjustments_wait(desk: Desk) -> None:
    contacts = desk.contacts(3)
    desk.give(contacts[0], 5)
    desk.process(ENGAGE_BASE_URL=NOBODY)
    desk.sql("update programme set mode = 'migrating'")
    desk.give(contacts[1], 5)
    desk.sandbox.forget()
    desk.later()
    result = desk.process()
    assert (result.queued, result.posted, result.done) == (1, 0, 0)
    assert desk.states() == ["posted", "queued"]
    assert desk.sandbox.report()["requests"] == {}
    desk.sql("update programme set mode = 'live'")
    desk.finish()
    assert desk.states() == ["done", "done"]
    assert_each_once(desk)


@pytest.mark.parametrize("held", ["select 1", "update pending set gone = true, tries = 30"])
def test_an_adjustment_for_a_contact_that_engage_knows_again_is_done_at_once(
    new_desk: Callable[..., Desk], held: str
) -> None:
    desk = new_desk(environ={"TREAZURE_PIPELINE_RETRY_SCALE": "1"})
    contact = desk.contacts(1)[0]
    desk.sandbox.know([contact], known=False)
    desk.sandbox.add_points({contact: 5})
    desk.sync()
    desk.sql(held)
    desk.sandbox.know([contact], known=True)
    desk.give(contact, 50)
    assert desk.process().done == 1
    assert desk.states() == ["done"]
    assert_each_once(desk)
