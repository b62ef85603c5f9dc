from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import Processed, judge, process
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once


def test_adjustments_of_one_contact_are_posted_in_the_order_of_their_arrival(adjustment_shop: AdjustmentShop) -> None:
    contacts = adjustment_shop.contacts(4)
    for turn in range(6):
        for contact in contacts:
            adjustment_shop.give(contact, turn + 1, description=str(turn))
    adjustment_shop.process()
    assert set(adjustment_shop.states()) == {"done"}
    assert [adjustment_shop.movements(contact) for contact in contacts] == [list("012345")] * 4
    assert_each_once(adjustment_shop)


def test_a_waiting_adjustment_holds_back_its_contact_only(adjustment_shop: AdjustmentShop) -> None:
    one, other = adjustment_shop.contacts(2)
    numbers = [adjustment_shop.give(contact, 5, description=text) for text in "ab" for contact in (one, other)]
    adjustment_shop.sandbox.set_fault("lost_before", on=["transaction"])
    adjustment_shop.process(TREAZURE_CONCURRENCY="1")
    assert [adjustment_shop.state(number)[0] for number in numbers] == ["sending", "done", "queued", "done"]
    adjustment_shop.finish()
    assert adjustment_shop.movements(one) == adjustment_shop.movements(other) == ["a", "b"]
    assert_each_once(adjustment_shop)


def test_an_adjustment_that_waits_for_its_next_try_keeps_its_place(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.give(contact, 5, description="first")
    adjustment_shop.process(TREAZURE_BASE_URL="http://127.0.0.1:9", TREAZURE_PIPELINE_RETRY_SCALE="1")
    adjustment_shop.give(contact, 5, description="second")
    assert adjustment_shop.process().posted == 0
    adjustment_shop.finish()
    assert adjustment_shop.movements(contact) == ["first", "second"]
    assert_each_once(adjustment_shop)


def test_a_person_who_retries_an_early_adjustment_does_not_let_it_overtake_the_call_of_a_later_one(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    balance = str(adjustment_shop.sandbox.balances([contact])[0]["treazure"])
    early = adjustment_shop.give(contact, f"-{balance}9", description="early")
    later = adjustment_shop.give(contact, 10, description="later")
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"], after=1)
    adjustment_shop.process(TREAZURE_CONCURRENCY="1")
    assert (adjustment_shop.state(early)[0], adjustment_shop.state(later)[0]) == ("rejected", "sending")
    adjustment_shop.sandbox.add_points({contact: f"{balance}99"})
    with adjustment_shop.working() as work:
        assert queue.retry(work.ledger, early)
    assert adjustment_shop.process().posted == 0
    adjustment_shop.finish()
    assert adjustment_shop.movements(contact) == ["later", "early"]
    assert adjustment_shop.sandbox.adjustment_report()["once"] == 2


@pytest.mark.parametrize("times", [2, 50])
def test_an_event_that_is_delivered_many_times_at_once_is_booked_once(
    new_adjustment_shop: Callable[..., AdjustmentShop], times: int
) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"webhook_concurrency": 20})
    given = adjustment_shop.sandbox.give_points(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.redeliver(given["svix_id"], times - 1)
    adjustment_shop.sandbox.wait_until_delivered()
    adjustment_shop.process()
    adjustment_shop.sandbox.redeliver(given["svix_id"], times)
    adjustment_shop.sandbox.wait_until_delivered()
    adjustment_shop.process()
    assert adjustment_shop.states() == ["done"]
    assert_each_once(adjustment_shop)


def test_the_same_event_in_another_message_is_the_same_event(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    for _ in range(3):
        adjustment_shop.give(contact, 5, event_id="the-event")
        adjustment_shop.process()
    assert adjustment_shop.states() == ["done"]
    assert_each_once(adjustment_shop)


def test_two_runs_at_once_share_the_queue_and_post_each_event_once(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"webhook_concurrency": 8})
    contacts = adjustment_shop.contacts(20)
    gifts: list[dict[str, Any]] = [{"contact_id": contacts[n % 20], "amount": "0.5"} for n in range(200)]
    adjustment_shop.sandbox.give_points_many(gifts)
    adjustment_shop.sandbox.wait_until_delivered()
    start = threading.Barrier(3)

    def run() -> None:
        with adjustment_shop.working() as work:
            start.wait()
            process(work)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    adjustment_shop.finish()
    assert adjustment_shop.states() == ["done"] * 200
    assert_each_once(adjustment_shop)


def test_two_workers_never_hold_two_adjustments_of_one_contact(adjustment_shop: AdjustmentShop) -> None:
    one, other = adjustment_shop.contacts(2)
    numbers = [adjustment_shop.give(contact, 5) for contact in (one, one, other)]
    with adjustment_shop.working() as work:
        judge(work, Processed())
        accounts = [run.account for run in work.runs.values()]
        claims = [queue.claim(work.ledger, accounts, lease=60, lookup_wait=60) for _ in range(3)]
        assert [claim and claim.id for claim in claims] == [numbers[0], numbers[2], None]


def test_a_run_that_had_something_to_do_takes_what_arrives_soon_after(adjustment_shop: AdjustmentShop) -> None:
    one, other = adjustment_shop.contacts(2)
    adjustment_shop.give(one, 5)
    with adjustment_shop.working() as work, ThreadPoolExecutor(1) as thread:
        run = thread.submit(process, replace(work, linger=60.0))
        try:
            adjustment_shop.wait_until(lambda: adjustment_shop.states() == ["done"])
            assert not run.done()
            adjustment_shop.give(other, 7)
            adjustment_shop.wait_until(lambda: adjustment_shop.states() == ["done", "done"])
        finally:
            assert work.retry.stop is not None
            work.retry.stop.set()
        assert run.result().done == 2
    assert_each_once(adjustment_shop)


def test_a_run_that_finds_nothing_does_not_linger(adjustment_shop: AdjustmentShop) -> None:
    with adjustment_shop.working() as work:
        assert process(replace(work, linger=3600.0)).queued == 0
