from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import Processed, judge, process
from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once


def test_adjustments_of_one_contact_are_posted_in_the_order_of_their_arrival(desk: Desk) -> None:
    contacts = desk.contacts(4)
    for turn in range(6):
        for contact in contacts:
            desk.give(contact, turn + 1, description=str(turn))
    desk.process()
    assert set(desk.states()) == {"done"}
    assert [desk.movements(contact) for contact in contacts] == [list("012345")] * 4
    assert_each_once(desk)


def test_a_waiting_adjustment_holds_back_its_contact_only(desk: Desk) -> None:
    one, other = desk.contacts(2)
    numbers = [desk.give(contact, 5, description=text) for text in "ab" for contact in (one, other)]
    desk.sandbox.set_fault("lost_before", on=["transaction"])
    desk.process(TREAZURE_CONCURRENCY="1")
    assert [desk.state(number)[0] for number in numbers] == ["sending", "done", "queued", "done"]
    desk.finish()
    assert desk.movements(one) == desk.movements(other) == ["a", "b"]
    assert_each_once(desk)


def test_an_adjustment_that_waits_for_its_next_try_keeps_its_place(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    desk.give(contact, 5, description="first")
    desk.process(TREAZURE_BASE_URL="http://127.0.0.1:9", TREAZURE_PIPELINE_RETRY_SCALE="1")
    desk.give(contact, 5, description="second")
    assert desk.process().posted == 0
    desk.finish()
    assert desk.movements(contact) == ["first", "second"]
    assert_each_once(desk)


def test_a_person_who_retries_an_early_adjustment_does_not_let_it_overtake_the_call_of_a_later_one(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    balance = str(desk.sandbox.balances([contact])[0]["treazure"])
    early = desk.give(contact, f"-{balance}9", description="early")
    later = desk.give(contact, 10, description="later")
    desk.sandbox.set_fault("lost_after", on=["transaction"], after=1)
    desk.process(TREAZURE_CONCURRENCY="1")
    assert (desk.state(early)[0], desk.state(later)[0]) == ("rejected", "sending")
    desk.sandbox.add_points({contact: f"{balance}99"})
    with desk.working() as work:
        assert queue.retry(work.ledger, early)
    assert desk.process().posted == 0
    desk.finish()
    assert desk.movements(contact) == ["later", "early"]
    assert desk.sandbox.adjustment_report()["once"] == 2


@pytest.mark.parametrize("times", [2, 50])
def test_an_event_that_is_delivered_many_times_at_once_is_booked_once(
    new_desk: Callable[..., Desk], times: int
) -> None:
    desk = new_desk(behaviour={"webhook_concurrency": 20})
    given = desk.sandbox.give_points(desk.contacts(1)[0], 5)
    desk.sandbox.redeliver(given["svix_id"], times - 1)
    desk.sandbox.wait_until_delivered()
    desk.process()
    desk.sandbox.redeliver(given["svix_id"], times)
    desk.sandbox.wait_until_delivered()
    desk.process()
    assert desk.states() == ["done"]
    assert_each_once(desk)


def test_the_same_event_in_another_message_is_the_same_event(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    for _ in range(3):
        desk.give(contact, 5, event_id="the-event")
        desk.process()
    assert desk.states() == ["done"]
    assert_each_once(desk)


def test_two_runs_at_once_share_the_queue_and_post_each_event_once(new_desk: Callable[..., Desk]) -> None:
    desk = new_desk(behaviour={"webhook_concurrency": 8})
    contacts = desk.contacts(20)
    gifts: list[dict[str, Any]] = [{"contact_id": contacts[n % 20], "amount": "0.5"} for n in range(200)]
    desk.sandbox.give_points_many(gifts)
    desk.sandbox.wait_until_delivered()
    start = threading.Barrier(3)

    def run() -> None:
        with desk.working() as work:
            start.wait()
            process(work)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.finish()
    assert desk.states() == ["done"] * 200
    assert_each_once(desk)


def test_two_workers_never_hold_two_adjustments_of_one_contact(desk: Desk) -> None:
    one, other = desk.contacts(2)
    numbers = [desk.give(contact, 5) for contact in (one, one, other)]
    with desk.working() as work:
        judge(work, Processed())
        accounts = [run.account for run in work.runs.values()]
        claims = [queue.claim(work.ledger, accounts, lease=60, lookup_wait=60) for _ in range(3)]
        assert [claim and claim.id for claim in claims] == [numbers[0], numbers[2], None]


def test_a_run_that_had_something_to_do_takes_what_arrives_soon_after(desk: Desk) -> None:
    one, other = desk.contacts(2)
    desk.give(one, 5)
    with desk.working() as work, ThreadPoolExecutor(1) as thread:
        run = thread.submit(process, replace(work, linger=60.0))
        try:
            desk.wait_until(lambda: desk.states() == ["done"])
            assert not run.done()
            desk.give(other, 7)
            desk.wait_until(lambda: desk.states() == ["done", "done"])
        finally:
            assert work.retry.stop is not None
            work.retry.stop.set()
        assert run.result().done == 2
    assert_each_once(desk)


def test_a_run_that_finds_nothing_does_not_linger(desk: Desk) -> None:
    with desk.working() as work:
        assert process(replace(work, linger=3600.0)).queued == 0
