from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import Processed, judge
from treazure_pipeline.errors import AuthenticationError
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once


def test_points_given_in_engage_are_booked_in_treazure_and_come_back_as_the_new_balance(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number = adjustment_shop.give(contact, "12.5", description="A gift")
    result = adjustment_shop.process()
    assert (result.queued, result.posted, result.done, str(result.points)) == (1, 1, 1, "12.5")
    assert adjustment_shop.path(number) == ["queued", "sending", "posted", "done"]
    assert adjustment_shop.movements(contact) == ["A gift"]
    assert adjustment_shop.in_engage(contact) == [str(adjustment_shop.sandbox.balances([contact])[0]["treazure"])]
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("lost_after", {}),
        ("server_error", {"effect": True}),
        ("server_error", {"effect": True, "status": 500}),
        ("slow", {"seconds": 1.5, "effect": True}),
    ],
)
def test_a_lost_answer_whose_effect_stands_in_the_history_is_posted_and_not_sent_again(
    new_adjustment_shop: Callable[..., AdjustmentShop], fault: str, parameters: dict[str, Any]
) -> None:
    waits = {"TREAZURE_TIMEOUT_SECONDS": "1", "TREAZURE_LOOKUP_WAIT_SECONDS": "60"}
    adjustment_shop = new_adjustment_shop(environ=waits if fault == "slow" else {})
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault(fault, on=["transaction"], **parameters)
    assert adjustment_shop.process().waiting == 1
    assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.later()
    result = adjustment_shop.process()
    assert (result.looked_up, result.posted, result.done) == (1, 1, 1)
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("lost_before", {}),
        ("server_error", {}),
        ("html", {}),
        ("empty", {}),
        ("not_array", {}),
        ("server_error", {"status": 408}),
    ],
)
def test_a_lost_answer_without_effect_is_sent_again_after_two_looks_into_the_history(
    adjustment_shop: AdjustmentShop, fault: str, parameters: dict[str, Any]
) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault(fault, on=["transaction"], **parameters)
    assert adjustment_shop.process().waiting == 1
    adjustment_shop.later()
    assert adjustment_shop.process().looked_up == 1
    assert adjustment_shop.state(number)[0] == "sending"
    assert adjustment_shop.booked() == 0
    adjustment_shop.later()
    result = adjustment_shop.process()
    assert (result.looked_up, result.posted, result.done) == (1, 1, 1)
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


def test_the_history_is_not_asked_before_the_wait_for_it_is_over(adjustment_shop: AdjustmentShop) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_before", on=["transaction"])
    adjustment_shop.process()
    assert adjustment_shop.process().looked_up == 0
    adjustment_shop.later(3)
    assert adjustment_shop.process().looked_up == 0
    assert "history" not in adjustment_shop.sandbox.report()["requests"]
    adjustment_shop.later(3)
    assert adjustment_shop.process().looked_up == 1
    assert adjustment_shop.process().looked_up == 0
    assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("behavior", [{"history_calls": 1}, {"history_calls": 3}, {"history_delay": 3600}])
def test_an_effect_that_the_history_shows_late_is_not_booked_twice(
    new_adjustment_shop: Callable[..., AdjustmentShop], behavior: dict[str, Any]
) -> None:
    adjustment_shop = new_adjustment_shop(behavior=behavior)
    adjustment_shop.sandbox.play_hour(share=1)
    adjustment_shop.sync()
    adjustment_shop.sandbox.move_clock(7200)
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.later()
    assert adjustment_shop.process().looked_up == 1
    assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.sandbox.move_clock(7200)
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


def unreadable(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sandbox.set_fault("server_error", on=["history"], count=None)


def late(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sandbox.behave(history_delay=10_000_000)


def no_history(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sandbox.set_fault("html", on=["history"], count=None)


@pytest.mark.parametrize("spoil", [unreadable, late, no_history])
def test_what_the_history_cannot_decide_is_uncertain_and_holds_back_its_contact_only(
    adjustment_shop: AdjustmentShop, spoil: Callable[[AdjustmentShop], None]
) -> None:
    one, other = adjustment_shop.contacts(2)
    number = adjustment_shop.give(one, 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    spoil(adjustment_shop)
    for _ in range(4):
        adjustment_shop.later()
        assert adjustment_shop.process().looked_up == 1
        assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.later()
    assert adjustment_shop.process().uncertain == 1
    state, reason = adjustment_shop.state(number)
    assert state == "uncertain"
    assert "history" in str(reason)
    behind, beside = adjustment_shop.give(one, 1), adjustment_shop.give(other, 1)
    adjustment_shop.later()
    adjustment_shop.process()
    assert [adjustment_shop.state(each)[0] for each in (number, behind, beside)] == ["uncertain", "queued", "done"]
    assert adjustment_shop.booked() == 2
    with adjustment_shop.working() as work:
        assert queue.discard(work.ledger, number, "already booked in Treazure", posted=True)
    adjustment_shop.finish()
    assert [adjustment_shop.state(each)[0] for each in (number, behind)] == ["done", "done"]
    assert adjustment_shop.booked() == 3
    adjustment_shop.sandbox.clear_faults()
    assert_each_once(adjustment_shop)


def test_an_uncertain_adjustment_without_effect_is_sent_again_when_a_person_says_so(
    adjustment_shop: AdjustmentShop,
) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_before", on=["transaction"])
    adjustment_shop.process()
    unreadable(adjustment_shop)
    for _ in range(5):
        adjustment_shop.later()
        adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "uncertain"
    adjustment_shop.sandbox.clear_faults()
    assert adjustment_shop.process().posted == 0
    with adjustment_shop.working() as work:
        assert queue.retry(work.ledger, number)
        assert not queue.retry(work.ledger, number)
    adjustment_shop.finish()
    assert adjustment_shop.path(number)[-5:] == ["uncertain", "queued", "sending", "posted", "done"]
    assert_each_once(adjustment_shop)


def test_an_answer_without_a_usable_balance_is_completed_by_reading_the_account(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop()
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("truncated", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    assert_each_once(adjustment_shop)


def test_a_bare_balance_is_an_answer_too(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"transaction_answer": "balance"})
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    assert adjustment_shop.process().done == 1
    assert_each_once(adjustment_shop)


def test_treazure_away_before_anything_is_sent_costs_no_look_into_the_history(adjustment_shop: AdjustmentShop) -> None:
    numbers = [adjustment_shop.give(contact, 5) for contact in adjustment_shop.contacts(3)]
    result = adjustment_shop.process(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert result.waiting >= 3
    assert [adjustment_shop.state(number)[0] for number in numbers] == ["queued"] * 3
    adjustment_shop.finish()
    assert "history" not in adjustment_shop.sandbox.report()["requests"]
    assert_each_once(adjustment_shop)


def test_too_many_requests_wait_as_long_as_treazure_says_in_their_place(adjustment_shop: AdjustmentShop) -> None:
    one, other = adjustment_shop.contacts(2)
    first, second, beside = (
        adjustment_shop.give(one, 5, description="1"),
        adjustment_shop.give(one, 5, description="2"),
        adjustment_shop.give(other, 5),
    )
    adjustment_shop.sandbox.set_fault("rate_limited", on=["transaction"], seconds=100)
    result = adjustment_shop.process(TREAZURE_CONCURRENCY="1")
    assert (result.waiting, result.posted) == (1, 1)
    assert [adjustment_shop.state(number)[0] for number in (first, second, beside)] == ["queued", "queued", "done"]
    adjustment_shop.later(90)
    assert adjustment_shop.process().posted == 0
    adjustment_shop.later(11)
    assert adjustment_shop.process().posted == 2
    assert "history" not in adjustment_shop.sandbox.report()["requests"]
    assert adjustment_shop.movements(one) == ["1", "2"]
    assert_each_once(adjustment_shop)


def test_wrong_credentials_fail_the_run_and_lose_nothing(adjustment_shop: AdjustmentShop) -> None:
    numbers = [adjustment_shop.give(contact, 5) for contact in adjustment_shop.contacts(12)]
    result = adjustment_shop.process(TREAZURE_CLIENT_SECRET="wrong")
    assert isinstance(result.error, AuthenticationError)
    assert {adjustment_shop.state(number)[0] for number in numbers} == {"queued"}
    adjustment_shop.later()
    adjustment_shop.process()
    assert {adjustment_shop.state(number)[0] for number in numbers} == {"done"}
    assert_each_once(adjustment_shop)


def test_wrong_credentials_while_looking_up_fail_the_run_and_decide_nothing(adjustment_shop: AdjustmentShop) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    for _ in range(8):
        adjustment_shop.later()
        assert isinstance(adjustment_shop.process(TREAZURE_CLIENT_SECRET="wrong").error, AuthenticationError)
    assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)


def test_a_token_that_treazure_has_forgotten_is_fetched_again(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("token_expired", on=["transaction"])
    assert adjustment_shop.process().done == 1
    assert_each_once(adjustment_shop)


def test_a_posted_adjustment_stays_posted_while_its_account_cannot_be_read(adjustment_shop: AdjustmentShop) -> None:
    one, other = adjustment_shop.contacts(2)
    number = adjustment_shop.give(one, 5)
    adjustment_shop.give(other, 5)
    adjustment_shop.sandbox.behave(transaction_answer="neither")
    adjustment_shop.sandbox.set_fault("truncated", on=["account"], count=None)
    result = adjustment_shop.process(TREAZURE_CONCURRENCY="1")
    assert result.error is None
    assert adjustment_shop.booked() == 2
    assert adjustment_shop.state(number)[0] in {"sending", "posted"}
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 2
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("late", ["queued", "sending", "uncertain", "rejected"])
def test_a_worker_that_comes_back_after_its_lease_changes_nothing_any_more(
    adjustment_shop: AdjustmentShop, late: str
) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_before", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.later()
    with adjustment_shop.working() as slow:
        claimed = queue.claim(slow.ledger, [run.account for run in slow.runs.values()], lease=1, lookup_wait=1)
        assert claimed is not None
        adjustment_shop.later()
        adjustment_shop.finish()
        assert not queue.settle(slow.ledger, claimed, late, reason="it was absent long ago")
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


def test_a_worker_that_knows_late_that_it_has_posted_keeps_the_others_from_doing_it_again(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.give(contact, 5)
    with adjustment_shop.working() as work:
        account = next(iter(work.runs.values())).account
        judge(work, Processed())
        slow = queue.claim(work.ledger, [account], lease=1, lookup_wait=1)
        assert slow is not None
        adjustment_shop.later()
        quick = queue.claim(work.ledger, [account], lease=60, lookup_wait=1)
        assert quick is not None
        assert queue.settle(work.ledger, quick, "queued", reason="absent")
        work.connections.treazure.post_transaction(
            contact, account.loyalty_id, slow.amount, receipt=slow.receipt, comment=slow.comment
        )
        assert queue.settle(work.ledger, slow, "posted")
        assert not queue.settle(work.ledger, quick, "queued", reason="absent")
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 1
    adjustment_shop.sync(full=True)
    assert_each_once(adjustment_shop)


def test_a_call_whose_turn_comes_after_its_time_is_not_made(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop(
        environ={
            "TREAZURE_MAX_REQUESTS_PER_SECOND": "10",
            "TREAZURE_TIMEOUT_SECONDS": "0.5",
            "TREAZURE_LOOKUP_WAIT_SECONDS": "0.5",
            "TREAZURE_PIPELINE_RETRY_SCALE": "1",
        }
    )
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    with adjustment_shop.connect() as connections:
        assert connections.treazure.account_balance(adjustment_shop.contacts(1)[0], "LOYALTY") is not None
    ((bucket,),) = adjustment_shop.sql("select distinct bucket from rate_slot where bucket like 'treazure:%'")
    adjustment_shop.sql("delete from rate_hold")
    adjustment_shop.sql("insert into rate_hold values (%s, 0, clock_timestamp() + interval '8 seconds')", bucket)
    adjustment_shop.process()
    assert adjustment_shop.booked() == 0
    assert (
        "its time ran out"
        in adjustment_shop.sql(
            "select answer from adjustment_transition where adjustment = %s and answer is not null order by at limit 1",
            number,
        )[0][0]
    )
    adjustment_shop.environ["TREAZURE_PIPELINE_RETRY_SCALE"] = "0.001"
    adjustment_shop.environ["TREAZURE_TIMEOUT_SECONDS"] = adjustment_shop.environ["TREAZURE_LOOKUP_WAIT_SECONDS"] = "5"
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)


def test_however_long_treazure_is_away_what_was_never_called_only_waits(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.set_fault("server_error", on=["history"], count=None)
    number = adjustment_shop.give(contact, 7)
    adjustment_shop.sql("update adjustment set received_at = received_at - interval '1 hour'")
    for _ in range(8):
        adjustment_shop.process()
        adjustment_shop.later()
    assert adjustment_shop.state(number)[0] == "sending"
    assert adjustment_shop.booked() == 0
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)
