from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.adjustments.victim import killed

BEFORE_THE_CALL = ("call", "TreazureClient.post_transaction", 1)
AFTER_THE_EFFECT = ("return", "TreazureClient.post_transaction", 1)
AFTER_THE_BALANCE_IS_STORED = ("return", "record_account", 1)
BEFORE_POSTED = ("call", "settle", 1)
AFTER_POSTED = ("return", "settle", 1)
BEFORE_THE_PUSH = ("call", "push_contacts", 1)
WITHIN_THE_PUSH = ("return", "EngageClient.set_balances", 1)
BEFORE_DONE = ("call", "finish_posted", 1)
AFTER_DONE = ("call", "postpone_posted", 1)


@pytest.mark.parametrize(
    ("place", "state", "booked"),
    [
        (("call", "judge", 1), "received", 0),
        (("return", "accept", 1), "received", 0),
        (("return", "judge", 1), "queued", 0),
        (("call", "claim", 1), "queued", 0),
        (("return", "claim", 1), "sending", 0),
        (BEFORE_THE_CALL, "sending", 0),
        (AFTER_THE_EFFECT, "sending", 1),
        (AFTER_THE_BALANCE_IS_STORED, "sending", 1),
        (BEFORE_POSTED, "sending", 1),
        (AFTER_POSTED, "posted", 1),
        (BEFORE_THE_PUSH, "posted", 1),
        (WITHIN_THE_PUSH, "posted", 1),
        (AFTER_DONE, "done", 1),
    ],
)
def test_wherever_a_process_is_killed_another_one_finishes_and_nothing_is_booked_twice(
    adjustment_shop: AdjustmentShop, place: tuple[str, str, int], state: str, booked: int
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number = adjustment_shop.give(contact, "12.5")
    # Alone, since another worker's claim can return before this one's is committed.
    assert killed(adjustment_shop.variables | {"TREAZURE_CONCURRENCY": "1"}, place=place)
    assert adjustment_shop.state(number)[0] == state
    assert adjustment_shop.booked() == booked
    behind = adjustment_shop.give(contact, "0.5")
    adjustment_shop.process()
    if state == "sending":
        assert (adjustment_shop.state(number)[0], adjustment_shop.state(behind)[0]) == ("sending", "queued")
        assert "history" not in adjustment_shop.sandbox.report()["requests"]
    adjustment_shop.leases_end()
    adjustment_shop.later()
    adjustment_shop.finish()
    assert [adjustment_shop.state(each)[0] for each in (number, behind)] == ["done", "done"]
    assert adjustment_shop.booked() == 2
    assert_each_once(adjustment_shop)


def test_what_a_killed_process_was_sending_is_looked_up_only_after_its_lease_and_the_wait(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(
        environ={"TREAZURE_TIMEOUT_SECONDS": "1", "TREAZURE_LOOKUP_WAIT_SECONDS": "1.2"}
    )
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    assert killed(adjustment_shop.variables, place=BEFORE_THE_CALL)
    tried = 0
    while "done" not in adjustment_shop.states():
        adjustment_shop.process()
        tried += 1
        time.sleep(0.2)
        assert tried < 200
    ((asked, looked, again),) = adjustment_shop.sql(
        "select a.asked, min(t.at) filter (where t.reason like '%%one more look'), "
        "min(t.at) filter (where t.reason like '%%sent again') from adjustment_transition t, "
        "(select min(at) as asked from adjustment_transition where state = 'sending') a group by a.asked"
    )
    assert (looked - asked).total_seconds() > 1 + 1.2
    assert (again - looked).total_seconds() > 1.2
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("fault", ["lost_before", "lost_after"])
def test_a_process_killed_while_it_looks_into_the_history_decides_nothing(
    adjustment_shop: AdjustmentShop, fault: str
) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault(fault, on=["transaction"])
    adjustment_shop.process()
    for place in (("return", "TreazureClient.history", 1), ("return", "read_account", 1), ("call", "settle", 1)):
        adjustment_shop.later()
        assert killed(adjustment_shop.variables, place=place)
        assert adjustment_shop.states() == ["sending"]
    adjustment_shop.later()
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("start", range(5))
def test_killed_at_any_line_again_and_again_every_event_is_booked_once(
    adjustment_shop: AdjustmentShop, start: int
) -> None:
    contacts = adjustment_shop.contacts(4)
    for number in range(8):
        adjustment_shop.give(contacts[number % 4], "1.5", description=str(number))
    kills = 0
    for turn in range(5):
        kills += killed(adjustment_shop.variables, place=7 + 23 * start + 131 * turn)
        adjustment_shop.later()
        adjustment_shop.leases_end()
    adjustment_shop.finish()
    assert kills
    assert set(adjustment_shop.states()) == {"done"}
    assert [adjustment_shop.movements(contact) for contact in contacts] == [[str(n), str(n + 4)] for n in range(4)]
    assert_each_once(adjustment_shop)
