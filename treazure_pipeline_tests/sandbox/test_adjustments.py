from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest

from treazure_pipeline.adjustments.queue import receipt_of
from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.sandbox.caller import VAULT, Caller
from treazure_pipeline_tests.sandbox.receiver import Receiver, running_receiver

GUID = "00000000-0000-0000-0000-0000000000ab"


@pytest.fixture
def receiver(sandbox: Sandbox) -> Iterator[Receiver]:
    with running_receiver() as receiver:
        sandbox.behave(webhook_url=receiver.url, webhook_wait_scale=0, webhook_concurrency=1)
        sandbox.set_points({GUID: 100})
        yield receiver


def book(caller: Caller, event_id: str, *, contact: str = GUID, loads: object = 5) -> None:
    assert caller.transact(contact, loads=loads, context={"receiptNr": receipt_of(event_id)}).status_code == 200


def test_the_report_tells_how_often_each_event_was_booked(sandbox: Sandbox, receiver: Receiver, caller: Caller) -> None:
    events = ["never", "once", "twice", "thrice"]
    sandbox.give_points_many([{"contact_id": GUID.upper(), "amount": 5, "event_id": event} for event in events])
    sandbox.give_points(GUID, 5, event_id="once")
    sandbox.wait_until_delivered()
    for times, event in enumerate(events):
        for _ in range(times):
            book(caller, event)
    caller.transact(GUID, redemptions="1.5", context={"receiptNr": "a-shop"})
    report = sandbox.adjustment_report(every=True)
    booked = {name: event["booked"] for name, event in report["events"].items()}
    assert booked == {"never": 0, "once": 1, "twice": 2, "thrice": 3}
    assert (report["never"], report["once"], report["more_than_once"]) == (1, 1, 2)
    assert report["times_booked"] == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert (report["given"], report["acknowledged"], report["transactions"]) == (4, 4, 6)
    assert (report["points_given"], report["points_booked"]) == ("20", "30")
    assert report["examples"]["never"] == [
        {"event_id": "never", "contactId": GUID, "definitionId": 1, "amount": "5", "booked": 0, "unanswered": 0}
    ]
    assert report["other_transactions"] == {
        "count": 1,
        "examples": [{"receiptNr": "a-shop", "contactId": GUID, "points": {"1": "-1.5"}}],
    }
    whole = sandbox.report()
    assert whole["repeated_receipts"] == {receipt_of("twice"): 2, receipt_of("thrice"): 3}
    assert whole["problems"] == ["2 receipts were booked more than once"]
    assert whole["adjustments"]["more_than_once"] == 2
    assert len(receiver.got) == 5


def test_an_event_booked_with_other_points_or_for_another_contact_is_altered(
    sandbox: Sandbox, receiver: Receiver, caller: Caller, contacts: list[str]
) -> None:
    for event in ("right", "amount", "contact"):
        sandbox.give_points(GUID, "5.25", event_id=event)
    sandbox.wait_until_delivered()
    book(caller, "right", loads=5.25)
    book(caller, "amount", loads=5)
    book(caller, "contact", loads=5.25, contact=contacts[0])
    altered = sandbox.adjustment_report()["altered"]
    assert [example["event_id"] for example in altered["examples"]] == ["amount", "contact"]
    assert sandbox.report()["problems"] == ["2 adjustments were booked with other points than given"]
    assert len(receiver.got) == 3


def test_an_event_booked_after_one_that_came_when_it_was_acknowledged_is_out_of_order(
    sandbox: Sandbox, receiver: Receiver, caller: Caller
) -> None:
    sandbox.give_points_many([{"contact_id": GUID, "amount": 5, "event_id": event} for event in "abc"])
    sandbox.wait_until_delivered()
    for event in "acb":
        book(caller, event)
    out_of_order = sandbox.adjustment_report()["out_of_order"]
    assert out_of_order["count"] == 1
    assert out_of_order["examples"][0]["event_id"] == "b"
    assert sandbox.report()["problems"] == ["1 adjustments were booked before one that arrived earlier"]
    assert len(receiver.got) == 3


@pytest.mark.usefixtures("receiver")
def test_an_event_that_treazure_refused_is_in_no_order(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.give_points_many([{"contact_id": GUID, "amount": 5, "event_id": event} for event in "ab"])
    sandbox.wait_until_delivered()
    context = {"receiptNr": receipt_of("a"), "comment": "x" * 101}
    assert caller.transact(GUID, loads=5, context=context).status_code == 400
    for event in "ba":
        book(caller, event)
    assert sandbox.report()["problems"] == []


def test_events_whose_arrival_cannot_be_told_apart_are_in_no_order(
    sandbox: Sandbox, receiver: Receiver, caller: Caller
) -> None:
    receiver.answers = [503]
    sandbox.give_points_many([{"contact_id": GUID, "amount": 5, "event_id": event} for event in "ab"])
    sandbox.wait_until_delivered()
    for event in "ba":
        book(caller, event)
    assert sandbox.report()["problems"] == []


@pytest.mark.parametrize("effect", [True, False])
def test_a_transaction_can_lose_its_answer_with_and_without_effect(
    sandbox: Sandbox, caller: Caller, contacts: list[str], *, effect: bool
) -> None:
    caller.history(contacts[0])
    sandbox.set_fault("lost_after" if effect else "lost_before", on=["transaction"])
    with pytest.raises(httpx.RemoteProtocolError):
        caller.transact(contacts[0], loads=1, context={"receiptNr": "R"})
    assert (caller.history(contacts[0])[-1]["receiptNr"] == "R") == effect
    sandbox.set_fault("lost_before", on=["history"])
    with pytest.raises(httpx.RemoteProtocolError):
        caller.history(contacts[0])
    assert caller.transact(contacts[0], loads=1).status_code == 200


def test_transactions_and_histories_get_errors_of_the_server_with_and_without_effect(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    path = f"{VAULT}/Account/{contacts[0]}/LoyaltyPrograms/LOYALTY/History"
    before = len(caller.history(contacts[0]))
    sandbox.set_fault("rate_limited", on=["transaction", "history"], count=2, seconds=4)
    for answer in (caller.transact(contacts[0], loads=1), caller.treazure("GET", path)):
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "4")
    sandbox.set_fault("server_error", on=["transaction", "history"], count=2, status=502)
    assert [caller.transact(contacts[0], loads=1).status_code, caller.treazure("GET", path).status_code] == [502, 502]
    assert len(caller.history(contacts[0])) == before
    sandbox.set_fault("server_error", on=["transaction"], effect=True)
    assert caller.transact(contacts[0], loads=1).status_code == 503
    assert len(caller.history(contacts[0])) == before + 1
    sandbox.set_fault("truncated", on=["history"])
    with pytest.raises(json.JSONDecodeError):
        caller.history(contacts[0])


def test_a_slow_transaction_can_have_its_effect_after_the_caller_has_gone(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    before = len(caller.history(contacts[0]))
    sandbox.set_fault("slow", on=["transaction"], seconds=1, effect=False)
    with pytest.raises(httpx.ReadTimeout):
        caller.http.post(
            f"{VAULT}/Account/{contacts[0]}/Transaction",
            json={"loyaltyPrograms": [{"loyaltyPointDefinitionId": "LOYALTY", "loads": [{"value": 1}]}]},
            headers=caller.treazure_headers,
            timeout=0.1,
        )
    assert len(caller.history(contacts[0])) == before
    while len(caller.history(contacts[0])) == before:
        time.sleep(0.01)
    assert sandbox.report()["transactions"] == 1


def test_a_movement_can_be_missing_from_the_history_for_a_while(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.behave(history_delay=60)
    caller.transact(contacts[0], loads=1, context={"receiptNr": "late"})
    account = caller.treazure("GET", f"{VAULT}/Account/{contacts[0]}").json()["loyaltyPrograms"][0]
    assert Decimal(str(account["balance"])) == Decimal(sandbox.balances([contacts[0]])[0]["treazure"])
    assert "late" not in {line["receiptNr"] for line in caller.history(contacts[0])}
    sandbox.move_clock(61)
    assert caller.history(contacts[0])[-1]["receiptNr"] == "late"


def test_a_transaction_can_be_missing_from_the_history_the_first_times_it_is_read(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.behave(history_calls=2)
    caller.transact(contacts[0], loads=1, redemptions=1, context={"receiptNr": "late"})
    sandbox.behave(history_calls=0)
    before = len(caller.history(contacts[0]))
    caller.history(contacts[1])
    assert len(caller.history(contacts[0])) == before
    assert [line["receiptNr"] for line in caller.history(contacts[0])[before:]] == ["late", "late"]


def test_a_history_can_come_without_its_beginning(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    caller.transact(contacts[0], loads=1)
    whole = caller.history(contacts[0])
    sandbox.behave(history_missing_first=1)
    assert caller.history(contacts[0]) == whole[1:]
    sandbox.behave(history_missing_first=100)
    assert caller.history(contacts[0]) == []


def test_only_transactions_take_the_time_that_transactions_take(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.behave(transaction_latency=30)
    assert caller.history(contacts[0])
    with pytest.raises(httpx.ReadTimeout):
        caller.http.post(
            f"{VAULT}/Account/{contacts[0]}/Transaction",
            json={"loyaltyPrograms": [{"loyaltyPointDefinitionId": "LOYALTY", "loads": [{"value": 1}]}]},
            headers=caller.treazure_headers,
            timeout=0.5,
        )


def test_the_rate_of_single_accounts_is_seen_and_can_be_limited(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    caller.token()
    assert sandbox.report()["treazure_largest_in_one_second"] == 0
    sandbox.behave(treazure_max_requests_per_second=2)
    path = f"{VAULT}/Account/{contacts[0]}"
    answers = [caller.treazure("GET", path).status_code for _ in range(20)]
    assert answers[:2] == [200, 200]
    assert 429 in answers
    report = sandbox.report()
    assert 2 < report["treazure_largest_in_one_second"] <= 20
    assert report["largest_in_one_second"] == 0
    assert caller.request_export().status_code == 200
