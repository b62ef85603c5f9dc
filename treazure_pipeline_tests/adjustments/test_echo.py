from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of, fetch, merge, send

NOBODY = "http://127.0.0.1:9"


def test_the_event_that_our_own_push_causes_makes_no_second_change(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"balance_events": True})
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    for _ in range(3):
        adjustment_shop.process()
        adjustment_shop.sandbox.wait_until_delivered()
    assert adjustment_shop.sql("select event_type, received from webhook_kind order by 1") == [
        ("loyalty.addPoints", 1),
        ("point.balance.updated", 1),
    ]
    assert adjustment_shop.states() == ["done"]
    assert adjustment_shop.sandbox.report()["rows"]["received"] == 1
    assert_each_once(adjustment_shop)


def test_a_snapshot_that_contains_an_adjustment_already_known_changes_nothing(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sync()
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    adjustment_shop.sandbox.forget()
    run = adjustment_shop.sync(full=True)
    assert (run.diff.figures.changed, run.pushed.sent) == (0, 0)
    assert "set_balances" not in adjustment_shop.sandbox.report()["requests"]
    assert_each_once(adjustment_shop)


def test_a_snapshot_taken_before_an_adjustment_never_overwrites_its_newer_balance(
    adjustment_shop: AdjustmentShop,
) -> None:
    adjustment_shop.sync()
    one, other = adjustment_shop.contacts(2)
    adjustment_shop.sandbox.add_points({one: 7, other: 7})
    with adjustment_shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account, run_id="slow")
        adjustment_shop.give(one, 5)
        assert adjustment_shop.process().done == 1
        newest = adjustment_shop.in_engage(one)
        assert newest == [adjustment_shop.sandbox.balances([one])[0]["treazure"]]
        diff = merge(connections, account, "slow")
        assert diff.figures.changed == 1
        send(connections, account, "slow", diff)
    assert adjustment_shop.in_engage(one) == newest
    assert_each_once(adjustment_shop)


def test_a_snapshot_under_way_during_an_adjustment_never_overwrites_its_newer_balance(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"export_wait": 1.5})
    contacts = adjustment_shop.contacts(10)
    adjustment_shop.sandbox.add_points(dict.fromkeys(contacts, 3))
    slow = threading.Thread(target=adjustment_shop.sync)
    slow.start()
    while "export_request" not in adjustment_shop.sandbox.report()["requests"]:
        time.sleep(0.01)
    for contact in contacts:
        adjustment_shop.give(contact, 5)
    adjustment_shop.process()
    slow.join()
    adjustment_shop.finish()
    adjustment_shop.send_pending()
    assert_each_once(adjustment_shop)


def test_an_adjustment_during_a_slow_push_of_the_sync_waits_for_it_and_wins(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.add_points({contact: 3})
    adjustment_shop.sandbox.set_fault("slow", seconds=1.5, effect=False, on=["set_balances"])
    slow = threading.Thread(target=adjustment_shop.sync)
    slow.start()
    while "set_balances" not in adjustment_shop.sandbox.report()["requests"]:
        time.sleep(0.01)
    adjustment_shop.give(contact, 5)
    adjustment_shop.process()
    slow.join()
    adjustment_shop.leases_end()
    adjustment_shop.later()
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)


def test_an_adjustment_pushes_its_own_row_only(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sync()
    adjustment_shop.sandbox.play_hour(share=1)
    adjustment_shop.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    adjustment_shop.sandbox.forget()
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    assert adjustment_shop.process().done == 1
    assert adjustment_shop.sandbox.report()["rows"]["received"] == 1
    adjustment_shop.send_pending()
    assert_each_once(adjustment_shop)


def test_while_engage_is_away_adjustments_are_posted_and_the_sync_brings_their_balances(
    adjustment_shop: AdjustmentShop,
) -> None:
    numbers = [adjustment_shop.give(contact, 5) for contact in adjustment_shop.contacts(3)]
    result = adjustment_shop.process(ENGAGE_BASE_URL=NOBODY)
    assert (result.posted, result.done) == (3, 0)
    assert adjustment_shop.states() == ["posted"] * 3
    adjustment_shop.sync()
    adjustment_shop.later()
    assert adjustment_shop.process().done == 3
    assert {adjustment_shop.state(number)[0] for number in numbers} == {"done"}
    assert adjustment_shop.booked() == 3
    assert_each_once(adjustment_shop)


def test_while_a_programme_migrates_its_adjustments_wait(adjustment_shop: AdjustmentShop) -> None:
    contacts = adjustment_shop.contacts(3)
    adjustment_shop.give(contacts[0], 5)
    adjustment_shop.process(ENGAGE_BASE_URL=NOBODY)
    adjustment_shop.sql("update programme set mode = 'migrating'")
    adjustment_shop.give(contacts[1], 5)
    adjustment_shop.sandbox.forget()
    adjustment_shop.later()
    result = adjustment_shop.process()
    assert (result.queued, result.posted, result.done) == (1, 0, 0)
    assert adjustment_shop.states() == ["posted", "queued"]
    assert adjustment_shop.sandbox.report()["requests"] == {}
    adjustment_shop.sql("update programme set mode = 'live'")
    adjustment_shop.finish()
    assert adjustment_shop.states() == ["done", "done"]
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("held", ["select 1", "update pending set gone = true, tries = 30"])
def test_an_adjustment_for_a_contact_that_engage_knows_again_is_done_at_once(
    new_adjustment_shop: Callable[..., AdjustmentShop], held: str
) -> None:
    adjustment_shop = new_adjustment_shop(environ={"TREAZURE_PIPELINE_RETRY_SCALE": "1"})
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.know([contact], known=False)
    adjustment_shop.sandbox.add_points({contact: 5})
    adjustment_shop.sync()
    adjustment_shop.sql(held)
    adjustment_shop.sandbox.know([contact], known=True)
    adjustment_shop.give(contact, 50)
    assert adjustment_shop.process().done == 1
    assert adjustment_shop.states() == ["done"]
    assert_each_once(adjustment_shop)
