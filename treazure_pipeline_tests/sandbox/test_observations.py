from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.sandbox.caller import Caller, row


def test_a_client_that_does_all_right_has_no_problems(sandbox: Sandbox, caller: Caller) -> None:
    caller.push_everything()
    sandbox.play_hour(share=0.5)
    caller.push_everything()
    assert sandbox.differences()["equal"]
    report = sandbox.report()
    assert report["problems"] == []
    assert report["rows"]["accepted"] == 100
    assert report["requests"]["set_balances"] == 2


def test_the_busiest_second_is_counted_by_key_and_over_all_operations(sandbox: Sandbox, caller: Caller) -> None:
    for _ in range(5):
        caller.engage("GET", "/api/v2/contacts/count")
        caller.engage("GET", "/api/v3/point-accounts/definitions")
    caller.engage("GET", "/api/v2/contacts/count", apikey="another-one")
    report = sandbox.report()
    assert report["largest_in_one_second_by_key"]["…-one"] == 1
    assert 2 <= report["largest_in_one_second"] <= 10
    sandbox.forget()
    assert sandbox.report()["largest_in_one_second"] == 0


@pytest.mark.parametrize("before", [True, False])
def test_two_requests_about_one_row_at_once_are_an_overlap(
    sandbox: Sandbox, caller: Caller, contacts: list[str], *, before: bool
) -> None:
    sandbox.set_fault("slow", seconds=1, effect=not before)
    with ThreadPoolExecutor(1) as other:
        slow = other.submit(caller.set_balances, [row(contacts[0], 1), row(contacts[1], 1)])
        while not sandbox.report()["rows"]["received"]:
            pass
        with httpx.Client(base_url=sandbox.base_url, headers=caller.engage_headers) as http:
            path = "/api/v2/point-accounts/balances"
            assert http.post(path, json=[row(contacts[0], 2), row(contacts[2], 2)]).status_code == 202
        assert slow.result().status_code == 202
    overlaps = sandbox.report()["overlaps"]
    assert overlaps["count"] == 1
    assert overlaps["examples"] == [{"contactId": contacts[0], "definitionId": 1}]


def test_requests_one_after_the_other_or_about_other_definitions_do_not_overlap(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.reset(members=10, programmes={"A": 1, "B": 2}, behavior={"track_amounts": False})
    contact = sandbox.contact_ids(1)[0]
    for _ in range(20):
        caller.set_balances([row(contact, 1)])
        caller.set_balances([row(contact, 1, definition=2)])
    sandbox.set_fault("lost_before")
    with pytest.raises(httpx.RemoteProtocolError):
        caller.set_balances([row(contact, 1)])
    caller.set_balances([row(contact, 1)])
    assert sandbox.report()["overlaps"]["count"] == 0


def test_time_stamps_that_do_not_grow_are_seen_even_if_the_first_answer_was_lost(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    stamp = "2026-01-01T00:00:00Z"
    sandbox.set_fault("lost_before")
    with pytest.raises(httpx.RemoteProtocolError):
        caller.set_balances([row(contacts[0], 1, stamp=stamp)])
    caller.set_balances([row(contacts[0], 1, stamp=stamp)])
    report = sandbox.report()
    assert report["time_stamps_not_growing"]["count"] == 1
    assert report["older_than_accepted"]["count"] == 0
    caller.set_balances([row(contacts[0], 1, stamp="2025-12-31T00:00:00Z")])
    report = sandbox.report()
    assert report["time_stamps_not_growing"]["count"] == 2
    assert report["older_than_accepted"]["count"] == 1


def test_an_amount_older_than_one_accepted_is_stale_and_one_that_never_was_is_foreign(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    for points in (10, 20, 10, 30):
        sandbox.set_points({contacts[0]: points})
    for points in (10, 20, 10):
        caller.set_balances([row(contacts[0], points)])
    assert sandbox.report()["problems"] == []
    caller.set_balances([row(contacts[0], 20)])
    assert sandbox.report()["stale_amounts"]["count"] == 1
    caller.set_balances([row(contacts[0], 30)])
    caller.set_balances([row(contacts[0], 10)])
    assert sandbox.report()["stale_amounts"]["count"] == 2
    caller.set_balances([row(contacts[0], 99)])
    assert sandbox.report()["foreign_amounts"]["examples"] == [
        {"contactId": contacts[0], "definitionId": 1, "amount": "99"}
    ]


def test_a_receipt_that_is_booked_twice_is_seen(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    for receipt in ("A", "B", "A"):
        caller.transact(contacts[0], loads=1, context={"receiptNr": receipt})
    assert sandbox.report()["repeated_receipts"] == {"A": 2}


def test_rows_are_not_tracked_where_that_is_switched_off(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.behave(track_rows=False, track_amounts=False)
    stamp = "2026-01-01T00:00:00Z"
    for _ in range(2):
        caller.set_balances([row(contacts[0], 99, stamp=stamp)])
    assert sandbox.report()["problems"] == []
    assert sandbox.report()["rows"]["accepted"] == 2
