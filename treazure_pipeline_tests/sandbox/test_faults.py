from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.sandbox.caller import VAULT, Caller, row


def engage_side(sandbox: Sandbox, contact: str) -> str | None:
    text: str | None = sandbox.balances([contact])[0]["engage"]
    return text


def test_an_answer_lost_before_the_effect_closes_the_connection_and_does_nothing(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.set_fault("lost_before")
    with pytest.raises(httpx.RemoteProtocolError):
        caller.set_balances([row(contacts[0], 1)])
    assert engage_side(sandbox, contacts[0]) is None
    assert caller.set_balances([row(contacts[0], 1)]).status_code == 202


def test_an_answer_lost_after_the_effect_closes_the_connection_but_it_is_done(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.set_points({contacts[0]: 1})
    sandbox.set_fault("lost_after", on=["set_balances", "transaction"], count=2)
    with pytest.raises(httpx.RemoteProtocolError):
        caller.set_balances([row(contacts[0], 1)])
    with pytest.raises(httpx.RemoteProtocolError):
        caller.transact(contacts[0], loads=1, context={"receiptNr": "R"})
    assert engage_side(sandbox, contacts[0]) == "1"
    assert caller.history(contacts[0])[-1]["receiptNr"] == "R"
    answers = sandbox.report()["answers"]
    assert answers["set_balances"] == answers["transaction"] == {"lost": 1}


def test_any_operation_of_both_systems_can_lose_its_answer(sandbox: Sandbox, caller: Caller) -> None:
    caller.treazure("GET", f"{VAULT}/Account/{sandbox.contact_ids(1)[0]}")
    sandbox.set_fault("lost_before", on=["all"], count=None)
    calls: tuple[Callable[[], httpx.Response], ...] = (
        caller.token,
        caller.request_export,
        lambda: caller.result(f"{VAULT}/Balances/x"),
        lambda: caller.engage("GET", "/api/v2/contacts/count"),
        lambda: caller.engage("GET", "/api/v3/point-accounts/definitions"),
    )
    for call in calls:
        with pytest.raises(httpx.RemoteProtocolError):
            call()
    sandbox.clear_faults()
    assert caller.token().status_code == 200


def test_refusals_have_no_effect_unless_asked_for(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.set_fault("rate_limited", seconds=7)
    sandbox.set_fault("server_error", status=502, seconds=3)
    limited = caller.set_balances([row(contacts[0], 1)])
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    failed = caller.set_balances([row(contacts[0], 1)])
    assert (failed.status_code, failed.headers["retry-after"]) == (502, "3")
    assert engage_side(sandbox, contacts[0]) is None
    sandbox.set_fault("server_error", effect=True)
    assert caller.set_balances([row(contacts[0], 1)]).status_code == 503
    assert engage_side(sandbox, contacts[0]) == "1"


def test_an_expired_token_is_void_from_then_on(sandbox: Sandbox, caller: Caller) -> None:
    path = f"{VAULT}/Account/{sandbox.contact_ids(1)[0]}"
    assert caller.treazure("GET", path).status_code == 200
    sandbox.set_fault("token_expired")
    assert caller.treazure("GET", path).status_code == 401
    assert caller.treazure("GET", path).status_code == 401
    caller.treazure_headers = {}
    assert caller.treazure("GET", path).status_code == 200


def test_an_expired_export_stays_gone(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(export_polls=0)
    href = caller.request_export().json()["href"]
    sandbox.set_fault("export_expired")
    assert [caller.result(href).status_code for _ in range(2)] == [410, 410]
    assert caller.export_answer().status_code == 200


def test_an_export_can_stay_unready(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.set_fault("export_never_ready", count=None)
    href = caller.request_export().json()["href"]
    assert {caller.result(href).status_code for _ in range(10)} == {202}
    sandbox.clear_faults("export_never_ready")
    assert caller.result(href).status_code == 200


def test_an_export_comes_as_something_else(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(export_polls=0)
    sandbox.set_fault("html")
    sandbox.set_fault("empty")
    sandbox.set_fault("not_array")
    page, nothing, thing, good = (caller.export_answer() for _ in range(4))
    assert {answer.status_code for answer in (page, nothing, thing, good)} == {200}
    assert page.headers["content-type"].startswith("text/html")
    assert page.text.startswith("<!DOCTYPE html>")
    assert nothing.content == b""
    assert isinstance(thing.json(), dict)
    assert len(good.json()) == 50


def test_a_truncated_export_ends_in_the_middle(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.set_fault("truncated")
    whole = caller.export_answer()
    assert whole.status_code == 200
    assert whole.text.startswith("[")
    with pytest.raises(json.JSONDecodeError):
        whole.json()
    sandbox.set_fault("truncated", clean=False)
    with pytest.raises(httpx.RemoteProtocolError):
        caller.export_answer()
    assert len(caller.export()) == 50


def test_bad_rows_come_among_the_good_ones(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.set_fault("bad_rows")
    rows = caller.export()
    good = [line for line in rows if isinstance(line, dict) and line.get("accountNumber") in contacts]
    assert len(good) == 50
    assert len(rows) > 70
    sandbox.set_fault("bad_rows", raw_rows=["17"])
    assert [line for line in caller.export() if not isinstance(line, dict)] == [17]


def test_bad_rows_come_also_where_no_good_ones_are(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=0)
    assert caller.export() == []
    sandbox.set_fault("bad_rows", raw_rows=["null"])
    assert caller.export() == [None]


def test_duplicates_list_an_account_again_with_an_older_balance(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.set_fault("duplicates", share=0.2)
    rows = caller.export()
    assert len(rows) == 60
    newest = {line["accountNumber"]: line["balance"] for line in sorted(rows, key=lambda line: line["mutatedAt"])}
    assert newest == {line["accountNumber"]: line["balance"] for line in caller.export()}
    sandbox.behave(mutated_at=False)
    sandbox.set_fault("duplicates", share=0.2)
    rows = caller.export()
    assert len(rows) == 60
    assert {line["accountNumber"]: line["balance"] for line in rows} == newest


def test_swallowed_rows_are_accepted_but_never_applied(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    sandbox.set_fault("swallowed", share=0.5)
    answer = caller.set_balances(row(contact, 1) for contact in contacts[:10])
    assert answer.json()["notAccepted"] == []
    sandbox.apply_queue()
    assert [engage_side(sandbox, contact) for contact in contacts[:10]].count("1") == 5
    assert sandbox.report()["rows"]["swallowed"] == 5


def test_a_slow_answer_outlasts_the_client_and_the_effect_comes_at_once_or_late(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    caller.http.timeout = httpx.Timeout(0.3)
    sandbox.set_fault("slow", seconds=2)
    with pytest.raises(httpx.ReadTimeout):
        caller.set_balances([row(contacts[0], 1)])
    assert engage_side(sandbox, contacts[0]) == "1"
    sandbox.set_fault("slow", seconds=2, effect=False)
    with pytest.raises(httpx.ReadTimeout):
        caller.set_balances([row(contacts[0], 2)])
    assert engage_side(sandbox, contacts[0]) == "1"
    while engage_side(sandbox, contacts[0]) != "2":
        time.sleep(0.05)


def test_a_fault_happens_so_often_after_so_many_requests(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.set_fault("server_error", on=["contact_count"], after=2, count=2)
    statuses = [caller.engage("GET", "/api/v2/contacts/count").status_code for _ in range(6)]
    assert statuses == [200, 200, 503, 503, 200, 200]
    assert sandbox.faults()["active"] == []
    assert sandbox.faults()["fired"] == {"server_error": 2}


def test_a_fault_with_a_probability_is_repeatable_from_the_seed(sandbox: Sandbox, caller: Caller) -> None:
    def statuses() -> list[int]:
        sandbox.reset(members=1, seed=7)
        sandbox.set_fault("server_error", on=["engage"], probability=0.5, count=None)
        return [caller.engage("GET", "/api/v2/contacts/count").status_code for _ in range(20)]

    first = statuses()
    assert set(first) == {200, 503}
    assert statuses() == first


def test_an_unknown_fault_operation_or_switch_is_refused(sandbox: Sandbox) -> None:
    for refused in (
        lambda: sandbox.set_fault("meteorite"),
        lambda: sandbox.set_fault("slow", on=["everything"]),
        lambda: sandbox.behave(gravity=2),
    ):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            refused()
