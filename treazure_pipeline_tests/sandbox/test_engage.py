from __future__ import annotations

import httpx
import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.sandbox.caller import BALANCES, Caller, row

STRANGER = "00000000-0000-0000-0000-00000000dead"


def held(sandbox: Sandbox, contact: str) -> str | None:
    text: str | None = sandbox.balances([contact])[0]["engage"]
    return text


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_set_balance_is_accepted_applied_and_read_back(caller: Caller, contacts: list[str], version: str) -> None:
    base = f"/api/{version}/point-accounts"
    answer = caller.engage("POST", f"{base}/balances", [row(contacts[0].upper(), 12.25)])
    assert answer.status_code == 202
    assert answer.json()["transactionId"]
    assert answer.json()["notAccepted"] == []
    page = caller.engage("GET", f"{base}?contactId={contacts[0]}").json()
    (account,) = page["items"]
    assert page["count"] == 1
    assert (account["contactId"], account["definitionId"], account["balance"]) == (contacts[0], 1, 12.25)
    assert caller.engage("GET", f"{base}/{account['id']}").json() == account
    assert caller.engage("GET", f"{base}/{STRANGER}").status_code == 404


def test_a_balance_changed_by_hand_is_shown_at_once_and_a_later_one_replaces_it(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    caller.set_balances([row(contacts[0], 5), row(contacts[1], 6)])
    sandbox.set_engage_balances({contacts[0].upper(): "7.5", contacts[1]: None})
    assert [held(sandbox, contact) for contact in contacts[:2]] == ["7.5", None]
    assert caller.engage("GET", f"/api/v2/point-accounts?contactId={contacts[1]}").json()["count"] == 0
    caller.set_balances([row(contacts[0], 5), row(contacts[1], 6)])
    assert [held(sandbox, contact) for contact in contacts[:2]] == ["5", "6"]


def test_every_mandatory_header_is_demanded(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(content_type="always")
    path = f"{caller.http.base_url}/api/v2/contacts/count"
    assert caller.engage("GET", "/api/v2/contacts/count").json() == 50
    for missing, status in (("Content-Type", 500), ("apikey", 401)):
        headers = {name: value for name, value in caller.engage_headers.items() if name != missing}
        assert httpx.get(path, headers=headers).status_code == status
    assert caller.engage("GET", path, **{"User-Agent": "nameless"}).status_code == 400
    assert caller.engage("GET", path, apikey="wrong").status_code == 401


def test_definitions_are_paged(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=1, programmes={"A": 1, "B": 2, "C": 5})
    path = "/api/v2/point-accounts/definitions"
    assert [entry["id"] for entry in caller.engage("GET", path).json()] == [1, 2, 5]
    assert [entry["id"] for entry in caller.engage("GET", f"{path}?offset=1&count=1").json()] == [2]


def test_wrong_rows_are_skipped_and_listed_while_the_others_are_accepted(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.know([contacts[1]], known=False)
    rows = [
        row(contacts[0], 1),
        row(contacts[1], 2),
        row(STRANGER, 3),
        row(contacts[2], 4, definition=9),
        row("no-guid", 5),
        row(contacts[3], "6"),
        {"contactId": contacts[4], "amount": 7, "definitionId": 1},
        row(contacts[5], 8, stamp="yesterday"),
    ]
    answer = caller.set_balances(rows)
    assert answer.status_code == 202
    listed = answer.json()
    assert listed["notAccepted"] == rows[1:]
    assert listed["missingContactIds"] == [contacts[1], STRANGER]
    assert listed["missingDefinitionIds"] == [9]
    assert len(listed["errorMessages"]) == 7
    assert [held(sandbox, contact) for contact in contacts[:6]] == ["1", None, None, None, None, None]
    assert sandbox.report()["rows"] == {"received": 8, "accepted": 1, "refused": 7, "swallowed": 0}


def test_a_request_is_refused_as_a_whole_for_too_many_rows_a_poisoned_one_or_no_array(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    assert caller.set_balances(row(contacts[0], 1) for _ in range(1001)).status_code == 400
    assert caller.engage("POST", BALANCES, {"contactId": contacts[0]}).status_code == 400
    sandbox.behave(poison=[contacts[1].upper()])
    assert caller.set_balances([row(contacts[0], 1), row(contacts[1], 1)]).status_code == 400
    assert held(sandbox, contacts[0]) is None
    assert caller.set_balances([row(contacts[0], 1)]).status_code == 202
    assert held(sandbox, contacts[0]) == "1"


def test_accepted_rows_are_applied_later(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.behave(apply_delay=3600)
    caller.set_balances([row(contacts[0], 1)])
    assert held(sandbox, contacts[0]) is None
    assert sandbox.differences()["queued"] == 1
    sandbox.move_clock(3601)
    assert held(sandbox, contacts[0]) == "1"
    caller.set_balances([row(contacts[0], 2)])
    assert held(sandbox, contacts[0]) == "1"
    assert sandbox.apply_queue() == 1
    assert held(sandbox, contacts[0]) == "2"


@pytest.mark.parametrize(
    ("rule", "after"),
    [("ignore_older", "2 2"), ("ignore_older_or_equal", "1 1"), ("not_looked_at", "2 3")],
)
def test_what_an_old_time_stamp_does_is_a_switch(
    sandbox: Sandbox, caller: Caller, contacts: list[str], rule: str, after: str
) -> None:
    sandbox.behave(time_stamps=rule)
    caller.set_balances([row(contacts[0], 1, stamp="2026-01-01T00:00:00.001Z")])
    caller.set_balances([row(contacts[0], 2, stamp="2026-01-01T00:00:00.001Z")])
    after_equal = held(sandbox, contacts[0])
    caller.set_balances([row(contacts[0], 3, stamp="2026-01-01T00:00:00.000Z")])
    assert f"{after_equal} {held(sandbox, contacts[0])}" == after


def test_the_newest_of_two_rows_of_one_request_holds(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    rows = [
        row(contacts[0], 5, stamp="2026-01-02T00:00:00Z"),
        row(contacts[0], 4, stamp="2026-01-01T00:00:00Z"),
    ]
    caller.set_balances(rows)
    assert held(sandbox, contacts[0]) == "5"
    assert sandbox.report()["repeated_in_one_request"]["count"] == 1


def test_balances_are_rounded_to_the_digits_that_engage_keeps(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.behave(digits=1)
    sandbox.set_points({contacts[0]: "2.25", contacts[1]: "-2.25"})
    caller.set_balances([row(contacts[0], 2.25), row(contacts[1], -2.25)])
    assert [held(sandbox, contact) for contact in contacts[:2]] == ["2.3", "-2.3"]
    differing = {line["contactId"] for line in sandbox.differences(limit=100)["examples"]}
    assert differing.isdisjoint(contacts[:2])


def test_more_than_the_allowed_requests_in_a_second_get_429(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(max_requests_per_second=3)
    answers = [caller.engage("GET", "/api/v2/contacts/count") for _ in range(6)]
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert sandbox.report()["answers"]["contact_count"]["429"] == len(refused)


@pytest.mark.parametrize("shape", ["transactionId", "id", "bare", "none"])
def test_the_transaction_comes_in_each_shape(sandbox: Sandbox, caller: Caller, contacts: list[str], shape: str) -> None:
    sandbox.behave(transaction_id=shape, accept_status=200)
    answer = caller.set_balances([row(contacts[0], 1)])
    assert answer.status_code == 200
    named = answer.json() if shape == "bare" else answer.json().get(shape)
    assert (named is None) == (shape == "none")


def test_added_transactions_add_once_for_one_idempotency_key(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    path = "/api/v2/point-accounts/transactions"
    good = row(contacts[0], 5) | {"source": "Migration", "description": "Opening"}
    blank = {"source": " ", "description": "d"}
    wrong = [row(STRANGER, 5) | blank | {"source": "s"}, row(contacts[0], 5), row(contacts[0], 5) | blank]
    first = caller.engage("POST", path, [good, *wrong], **{"Idempotency-Key": "k"})
    again = caller.engage("POST", path, [good, *wrong], **{"Idempotency-Key": "k"})
    assert first.json() == again.json()
    assert first.json()["notAccepted"] == wrong
    assert held(sandbox, contacts[0]) == "5"
    caller.engage("POST", path, [good])
    assert held(sandbox, contacts[0]) == "10"
    listed = caller.engage("GET", f"{path}?contactId={contacts[0]}&definitionId=1&count=1").json()
    assert listed["count"] == 2
    assert [entry["amount"] for entry in listed["items"]] == [5]
    sandbox.move_clock(86_401)
    caller.engage("POST", path, [good], **{"Idempotency-Key": "k"})
    assert held(sandbox, contacts[0]) == "15"
