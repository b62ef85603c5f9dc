from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import Processed, judge
from treazure_pipeline.errors import AuthenticationError
from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once


def test_points_given_in_engage_are_booked_in_treazure_and_come_back_as_the_new_balance(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    number = desk.give(contact, "12.5", description="A gift")
    result = desk.process()
    assert (result.queued, result.posted, result.done, str(result.points)) == (1, 1, 1, "12.5")
    assert desk.path(number) == ["queued", "sending", "posted", "done"]
    assert desk.movements(contact) == ["A gift"]
    assert desk.in_engage(contact) == [str(desk.sandbox.balances([contact])[0]["treazure"])]
    assert_each_once(desk)


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
    new_desk: Callable[..., Desk], fault: str, parameters: dict[str, Any]
) -> None:
    waits = {"TREAZURE_TIMEOUT_SECONDS": "1", "TREAZURE_LOOKUP_WAIT_SECONDS": "60"}
    desk = new_desk(environ=waits if fault == "slow" else {})
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault(fault, on=["transaction"], **parameters)
    assert desk.process().waiting == 1
    assert desk.state(number)[0] == "sending"
    desk.later()
    result = desk.process()
    assert (result.looked_up, result.posted, result.done) == (1, 1, 1)
    assert desk.booked() == 1
    assert_each_once(desk)


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
    desk: Desk, fault: str, parameters: dict[str, Any]
) -> None:
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault(fault, on=["transaction"], **parameters)
    assert desk.process().waiting == 1
    desk.later()
    assert desk.process().looked_up == 1
    assert desk.state(number)[0] == "sending"
    assert desk.booked() == 0
    desk.later()
    result = desk.process()
    assert (result.looked_up, result.posted, result.done) == (1, 1, 1)
    assert desk.booked() == 1
    assert_each_once(desk)


def test_the_history_is_not_asked_before_the_wait_for_it_is_over(desk: Desk) -> None:
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("lost_before", on=["transaction"])
    desk.process()
    assert desk.process().looked_up == 0
    desk.later(3)
    assert desk.process().looked_up == 0
    assert "history" not in desk.sandbox.report()["requests"]
    desk.later(3)
    assert desk.process().looked_up == 1
    assert desk.process().looked_up == 0
    assert desk.state(number)[0] == "sending"
    desk.finish()
    assert_each_once(desk)


@pytest.mark.parametrize("behaviour", [{"history_calls": 1}, {"history_calls": 3}, {"history_delay": 3600}])
def test_an_effect_that_the_history_shows_late_is_not_booked_twice(
    new_desk: Callable[..., Desk], behaviour: dict[str, Any]
) -> None:
    desk = new_desk(behaviour=behaviour)
    desk.sandbox.play_hour(share=1)
    desk.sync()
    desk.sandbox.move_clock(7200)
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("lost_after", on=["transaction"])
    desk.process()
    desk.later()
    assert desk.process().looked_up == 1
    assert desk.state(number)[0] == "sending"
    desk.sandbox.move_clock(7200)
    desk.finish()
    assert desk.state(number)[0] == "done"
    assert desk.booked() == 1
    assert_each_once(desk)


def unreadable(desk: Desk) -> None:
    desk.sandbox.set_fault("server_error", on=["history"], count=None)


def late(desk: Desk) -> None:
    desk.sandbox.behave(history_delay=10_000_000)


def no_history(desk: Desk) -> None:
    desk.sandbox.set_fault("html", on=["history"], count=None)


@pytest.mark.parametrize("spoil", [unreadable, late, no_history])
def test_what_the_history_cannot_decide_is_uncertain_and_holds_back_its_contact_only(
    desk: Desk, spoil: Callable[[Desk], None]
) -> None:
    one, other = desk.contacts(2)
    number = desk.give(one, 5)
    desk.sandbox.set_fault("lost_after", on=["transaction"])
    desk.process()
    spoil(desk)
    for _ in range(4):
        desk.later()
        assert desk.process().looked_up == 1
        assert desk.state(number)[0] == "sending"
    desk.later()
    assert desk.process().uncertain == 1
    state, reason = desk.state(number)
    assert state == "uncertain"
    assert "history" in str(reason)
    behind, beside = desk.give(one, 1), desk.give(other, 1)
    desk.later()
    desk.process()
    assert [desk.state(each)[0] for each in (number, behind, beside)] == ["uncertain", "queued", "done"]
    assert desk.booked() == 2
    with desk.working() as work:
        assert queue.discard(work.ledger, number, "stands in Treazure", posted=True)
    desk.finish()
    assert [desk.state(each)[0] for each in (number, behind)] == ["done", "done"]
    assert desk.booked() == 3
    desk.sandbox.clear_faults()
    assert_each_once(desk)


def test_an_uncertain_adjustment_without_effect_is_sent_again_when_a_person_says_so(desk: Desk) -> None:
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("lost_before", on=["transaction"])
    desk.process()
    unreadable(desk)
    for _ in range(5):
        desk.later()
        desk.process()
    assert desk.state(number)[0] == "uncertain"
    desk.sandbox.clear_faults()
    assert desk.process().posted == 0
    with desk.working() as work:
        assert queue.retry(work.ledger, number)
        assert not queue.retry(work.ledger, number)
    desk.finish()
    assert desk.path(number)[-5:] == ["uncertain", "queued", "sending", "posted", "done"]
    assert_each_once(desk)


def test_an_answer_without_a_usable_balance_is_completed_by_reading_the_account(new_desk: Callable[..., Desk]) -> None:
    desk = new_desk()
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("truncated", on=["transaction"])
    desk.process()
    desk.finish()
    assert desk.state(number)[0] == "done"
    assert_each_once(desk)


def test_a_bare_balance_is_an_answer_too(new_desk: Callable[..., Desk]) -> None:
    desk = new_desk(behaviour={"transaction_answer": "balance"})
    desk.give(desk.contacts(1)[0], 5)
    assert desk.process().done == 1
    assert_each_once(desk)


def test_treazure_away_before_anything_is_sent_costs_no_look_into_the_history(desk: Desk) -> None:
    numbers = [desk.give(contact, 5) for contact in desk.contacts(3)]
    result = desk.process(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert result.waiting >= 3
    assert [desk.state(number)[0] for number in numbers] == ["queued"] * 3
    desk.finish()
    assert "history" not in desk.sandbox.report()["requests"]
    assert_each_once(desk)


def test_too_many_requests_wait_as_long_as_treazure_says_in_their_place(desk: Desk) -> None:
    one, other = desk.contacts(2)
    first, second, beside = desk.give(one, 5, description="1"), desk.give(one, 5, description="2"), desk.give(other, 5)
    desk.sandbox.set_fault("rate_limited", on=["transaction"], seconds=100)
    result = desk.process(TREAZURE_CONCURRENCY="1")
    assert (result.waiting, result.posted) == (1, 1)
    assert [desk.state(number)[0] for number in (first, second, beside)] == ["queued", "queued", "done"]
    desk.later(90)
    assert desk.process().posted == 0
    desk.later(11)
    assert desk.process().posted == 2
    assert "history" not in desk.sandbox.report()["requests"]
    assert desk.movements(one) == ["1", "2"]
    assert_each_once(desk)


def test_wrong_credentials_fail_the_run_and_lose_nothing(desk: Desk) -> None:
    numbers = [desk.give(contact, 5) for contact in desk.contacts(12)]
    result = desk.process(TREAZURE_CLIENT_SECRET="wrong")
    assert isinstance(result.error, AuthenticationError)
    assert {desk.state(number)[0] for number in numbers} == {"queued"}
    desk.later()
    desk.process()
    assert {desk.state(number)[0] for number in numbers} == {"done"}
    assert_each_once(desk)


def test_wrong_credentials_while_looking_up_fail_the_run_and_decide_nothing(desk: Desk) -> None:
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("lost_after", on=["transaction"])
    desk.process()
    for _ in range(8):
        desk.later()
        assert isinstance(desk.process(TREAZURE_CLIENT_SECRET="wrong").error, AuthenticationError)
    assert desk.state(number)[0] == "sending"
    desk.finish()
    assert_each_once(desk)


def test_a_token_that_treazure_has_forgotten_is_fetched_anew(desk: Desk) -> None:
    desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("token_expired", on=["transaction"])
    assert desk.process().done == 1
    assert_each_once(desk)


def test_a_posted_adjustment_stays_posted_while_its_account_cannot_be_read(desk: Desk) -> None:
    one, other = desk.contacts(2)
    number = desk.give(one, 5)
    desk.give(other, 5)
    desk.sandbox.behave(transaction_answer="neither")
    desk.sandbox.set_fault("truncated", on=["account"], count=None)
    result = desk.process(TREAZURE_CONCURRENCY="1")
    assert result.error is None
    assert desk.booked() == 2
    assert desk.state(number)[0] in {"sending", "posted"}
    desk.sandbox.clear_faults()
    desk.finish()
    assert desk.booked() == 2
    assert_each_once(desk)


@pytest.mark.parametrize("late", ["queued", "sending", "uncertain", "rejected"])
def test_a_worker_that_comes_back_after_its_lease_changes_nothing_any_more(desk: Desk, late: str) -> None:
    number = desk.give(desk.contacts(1)[0], 5)
    desk.sandbox.set_fault("lost_before", on=["transaction"])
    desk.process()
    desk.later()
    with desk.working() as slow:
        claimed = queue.claim(slow.ledger, [run.account for run in slow.runs.values()], lease=1, lookup_wait=1)
        assert claimed is not None
        desk.later()
        desk.finish()
        assert not queue.settle(slow.ledger, claimed, late, reason="it was absent long ago")
    desk.finish()
    assert desk.state(number)[0] == "done"
    assert desk.booked() == 1
    assert_each_once(desk)


def test_a_worker_that_knows_late_that_it_has_posted_keeps_the_others_from_doing_it_again(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    desk.give(contact, 5)
    with desk.working() as work:
        account = next(iter(work.runs.values())).account
        judge(work, Processed())
        slow = queue.claim(work.ledger, [account], lease=1, lookup_wait=1)
        assert slow is not None
        desk.later()
        quick = queue.claim(work.ledger, [account], lease=60, lookup_wait=1)
        assert quick is not None
        assert queue.settle(work.ledger, quick, "queued", reason="absent")
        work.connections.treazure.post_transaction(
            contact, account.loyalty_id, slow.amount, receipt=slow.receipt, comment=slow.comment
        )
        assert queue.settle(work.ledger, slow, "posted")
        assert not queue.settle(work.ledger, quick, "queued", reason="absent")
    desk.finish()
    assert desk.booked() == 1
    desk.sync(full=True)
    assert_each_once(desk)


def test_a_call_whose_turn_comes_after_its_time_is_not_made(new_desk: Callable[..., Desk]) -> None:
    desk = new_desk(
        environ={
            "TREAZURE_MAX_REQUESTS_PER_SECOND": "10",
            "TREAZURE_TIMEOUT_SECONDS": "0.5",
            "TREAZURE_LOOKUP_WAIT_SECONDS": "0.5",
            "TREAZURE_PIPELINE_RETRY_SCALE": "1",
        }
    )
    number = desk.give(desk.contacts(1)[0], 5)
    with desk.connect() as connections:
        assert connections.treazure.account_balance(desk.contacts(1)[0], "LOYALTY") is not None
    ((bucket,),) = desk.sql("select distinct bucket from rate_slot where bucket like 'treazure:%'")
    desk.sql("delete from rate_hold")
    desk.sql("insert into rate_hold values (%s, 0, clock_timestamp() + interval '8 seconds')", bucket)
    desk.process()
    assert desk.booked() == 0
    assert (
        "its time was over"
        in desk.sql(
            "select answer from adjustment_transition where adjustment = %s and answer is not null order by at limit 1",
            number,
        )[0][0]
    )
    desk.environ["TREAZURE_PIPELINE_RETRY_SCALE"] = "0.001"
    desk.environ["TREAZURE_TIMEOUT_SECONDS"] = desk.environ["TREAZURE_LOOKUP_WAIT_SECONDS"] = "5"
    desk.finish()
    assert_each_once(desk)


def test_however_long_treazure_is_away_what_was_never_called_only_waits(desk: Desk) -> None:
    contact = desk.contacts(1)[0]
    desk.sandbox.set_fault("server_error", on=["history"], count=None)
    number = desk.give(contact, 7)
    desk.sql("update adjustment set received_at = received_at - interval '1 hour'")
    for _ in range(8):
        desk.process()
        desk.later()
    assert desk.state(number)[0] == "sending"
    assert desk.booked() == 0
    desk.sandbox.clear_faults()
    desk.finish()
    assert_each_once(desk)
