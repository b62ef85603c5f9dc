from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.sandbox.caller import VAULT, Caller


def test_a_token_is_given_to_the_right_client_only(caller: Caller) -> None:
    given = caller.token()
    assert given.status_code == 200
    assert given.json()["expires_in"] == 3600
    assert given.json()["token_type"] == "Bearer"
    assert caller.token(client_secret="wrong").status_code == 401
    assert caller.token(client_id="wrong").status_code == 401
    assert caller.token(scope="wrong").status_code == 400
    assert caller.token(grant_type="password").status_code == 400


def test_the_discovery_names_the_token_endpoint(sandbox: Sandbox, caller: Caller) -> None:
    found = caller.http.get("/identity/.well-known/openid-configuration").json()
    assert found["token_endpoint"] == f"{sandbox.base_url}/identity/connect/token"


def test_a_missing_unknown_or_expired_token_gets_401(sandbox: Sandbox, caller: Caller) -> None:
    path = f"{VAULT}/Account/{sandbox.contact_ids(1)[0]}"
    assert caller.http.get(path).status_code == 401
    assert caller.http.get(path, headers={"Authorization": "Bearer x"}).status_code == 401
    assert caller.treazure("GET", path).status_code == 200
    sandbox.move_clock(3599)
    assert caller.treazure("GET", path).status_code == 200
    sandbox.move_clock(2)
    assert caller.treazure("GET", path).status_code == 401


def test_an_export_lists_every_account_once_with_its_exact_balance(sandbox: Sandbox, caller: Caller) -> None:
    guid = "00000000-0000-0000-0000-0000000000AB"
    sandbox.set_points({guid: "123456789012.123456"})
    rows = {row["accountNumber"]: row for row in caller.export()}
    assert rows[guid.lower()]["balance"] == Decimal("123456789012.123456")
    assert {contact: row["balance"] for contact, row in rows.items()} == {
        side["contactId"]: Decimal(side["treazure"]) for side in sandbox.balances()
    }
    assert {row["loyaltyPointDefinitionId"] for row in rows.values()} == {"LOYALTY"}


def test_an_export_has_the_accounts_of_its_window_with_their_balance_at_the_time_of_the_result(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    start = datetime.now(UTC)
    sandbox.set_points({contacts[0]: 10, contacts[1]: 20})
    window = {"start": start.isoformat(), "end": (start + timedelta(hours=2)).isoformat()}
    href = caller.request_export(**window).json()["href"]
    sandbox.set_points({contacts[1]: 30})
    assert caller.result(href).status_code == 202
    rows = caller.result(href).json()
    assert {row["accountNumber"]: row["balance"] for row in rows} == {contacts[0]: 10, contacts[1]: 30}
    assert all(start <= datetime.fromisoformat(row["mutatedAt"]) for row in rows)
    assert caller.export(end=start.isoformat(), start=start.isoformat()) == []


@pytest.mark.parametrize("status", [202, 404])
def test_a_result_is_not_ready_for_so_many_polls(sandbox: Sandbox, caller: Caller, status: int) -> None:
    sandbox.behave(export_polls=2, export_not_ready=status, export_retry_after=3)
    href = caller.request_export().json()["href"]
    for _ in range(2):
        answer = caller.result(href)
        assert answer.status_code == status
        assert answer.headers["retry-after"] == "3"
    assert caller.result(href).status_code == 200


def test_an_old_export_is_gone(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(token_life=100_000, export_polls=0)
    href = caller.request_export().json()["href"]
    assert caller.result(href).status_code == 200
    sandbox.move_clock(3601)
    assert caller.result(href).status_code == 410


def test_the_address_of_an_export_comes_in_each_spelling(sandbox: Sandbox, caller: Caller) -> None:
    def spelled(style: str) -> dict[str, object]:
        sandbox.behave(href=style)
        answer: dict[str, object] = caller.request_export().json()
        return answer

    assert list(spelled("hRef")) == ["hRef"]
    assert "href" in json.dumps(spelled("links.href")["links"])
    assert "hRef" in json.dumps(spelled("links.hRef")["links"])
    assert str(spelled("absolute")["href"]).startswith(f"{sandbox.base_url}/api/")
    sandbox.set_fault("foreign_link")
    assert str(spelled("href")["href"]).startswith("https://elsewhere.example/")


def test_export_rows_come_in_each_spelling(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.behave(account_key="contactId", mutated_at=False, upper_case=True)
    rows = caller.export()
    assert {frozenset(row) for row in rows} == {frozenset({"contactId", "loyaltyPointDefinitionId", "balance"})}
    assert {row["contactId"] for row in rows} == {contact.upper() for contact in contacts}


def test_a_transaction_changes_the_balance_and_stands_in_the_history(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.set_points({contacts[0]: 100})
    context = {"receiptNr": "R-1", "comment": "x" * 100, "shopId": "s", "posId": "p", "operatorId": "o"}
    answer = caller.transact(contacts[0], loads=50, redemptions="20.5", context=context)
    assert answer.status_code == 200
    assert answer.json()["loyaltyPrograms"][0]["balance"] == 129.5
    account = caller.treazure("GET", f"{VAULT}/Account/{contacts[0].upper()}").json()
    assert account["loyaltyPrograms"][0]["balance"] == 129.5
    load, redeem = caller.history(contacts[0])[-2:]
    assert (load["amount"], load["transactionType"], load["balance"]) == (50, "Load", 150)
    assert (redeem["amount"], redeem["transactionType"], redeem["balance"]) == (
        Decimal("-20.5"),
        "Redeem",
        Decimal("129.5"),
    )
    assert load["receiptNr"] == redeem["receiptNr"] == "R-1"
    assert load["comment"] == "x" * 100
    assert sandbox.report()["transactions"] == 1


def test_a_transaction_can_answer_with_the_bare_balance(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.set_points({contacts[0]: 1})
    sandbox.behave(transaction_answer="balance")
    assert caller.transact(contacts[0], loads=2).json() == {"balance": 3}


def test_a_refused_transaction_changes_nothing(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.set_points({contacts[0]: 100})
    before = caller.history(contacts[0])
    for too_long in ("x" * 101, "\U0001f381" * 51):
        assert caller.transact(contacts[0], loads=1, context={"comment": too_long}).status_code == 400
    assert caller.transact(contacts[0], redemptions=101).status_code == 422
    assert caller.transact(contacts[0], loads=0).status_code == 400
    assert caller.transact(contacts[0], loads=-1).status_code == 400
    assert caller.transact(contacts[0]).status_code == 400
    assert caller.transact("00000000-0000-0000-0000-000000000000", loads=1).status_code == 404
    assert caller.transact("nobody", loads=1).status_code == 400
    assert caller.history(contacts[0]) == before


def test_every_history_adds_up_to_its_balance(sandbox: Sandbox, caller: Caller) -> None:
    for _ in range(3):
        sandbox.play_hour(share=0.5)
    for side in sandbox.balances(limit=10):
        history = caller.history(side["contactId"])
        assert sum(line["amount"] for line in history) == Decimal(side["treazure"])
        assert history[-1]["balance"] == Decimal(side["treazure"])
        assert [line["dateTime"] for line in history] == sorted(line["dateTime"] for line in history)


def test_a_late_commit_is_visible_nowhere_before_its_time_but_keeps_its_stamp(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.set_points({contacts[0]: 100})
    sandbox.behave(commit_delay=60)
    started = datetime.now(UTC)
    caller.transact(contacts[0], loads=5, context={"receiptNr": "late"})
    assert sandbox.differences()["uncommitted"] == 1
    account = caller.treazure("GET", f"{VAULT}/Account/{contacts[0]}").json()
    assert account["loyaltyPrograms"][0]["balance"] == 100
    assert "late" not in {line["receiptNr"] for line in caller.history(contacts[0])}
    assert caller.export(start=started.isoformat()) == []
    sandbox.move_clock(61)
    (row,) = caller.export(start=started.isoformat())
    assert row["balance"] == 105
    assert datetime.fromisoformat(row["mutatedAt"]) < started + timedelta(seconds=30)
    assert caller.history(contacts[0])[-1]["receiptNr"] == "late"


def test_a_commit_can_wait_for_export_requests(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.behave(commit_calls=2)
    started = datetime.now(UTC).isoformat()
    sandbox.add_points({contacts[0]: 5})
    assert caller.export(start=started) == []
    assert len(caller.export(start=started)) == 1


def test_a_clock_that_is_ahead_stamps_ahead(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.behave(treazure_clock=600)
    sandbox.add_points({contacts[0]: 1})
    ahead = datetime.now(UTC) + timedelta(seconds=500)
    assert [row["accountNumber"] for row in caller.export(start=ahead.isoformat())] == [contacts[0]]


def test_programmes_are_apart(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=5, programmes={"A": 1, "B": 7})
    contact = sandbox.contact_ids(1)[0]
    sandbox.set_points({contact: 11}, "B")
    assert {row["accountNumber"]: row["balance"] for row in caller.export(loyalty_id="B")}[contact] == 11
    account = caller.treazure("GET", f"{VAULT}/Account/{contact}").json()
    assert [entry["loyaltyPointDefinitionId"] for entry in account["loyaltyPrograms"]] == ["A", "B"]
    assert caller.request_export(loyalty_id="C").status_code == 404


def test_receipts_can_come_back_cut_folded_or_not_at_all_and_movements_backdated(
    sandbox: Sandbox, caller: Caller
) -> None:
    contact = sandbox.contact_ids(1)[0]
    before = caller.history(contact)
    sandbox.behave(history_receipt_length=2, history_receipt_case="lower")
    assert [line["receiptNr"] for line in caller.history(contact)] == [line["receiptNr"][:2].lower() for line in before]
    sandbox.behave(history_receipt_length=0)
    assert {line["receiptNr"] for line in caller.history(contact)} == {""}
    sandbox.behave(history_receipt_length=None, history_receipt_case="kept", history_backdated=86_400)
    shown = caller.history(contact)
    assert sorted(line["balance"] for line in shown) == sorted(line["balance"] for line in before)
    assert [line["dateTime"] for line in shown] == sorted(line["dateTime"] for line in shown)
