from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.points_history import contact_card
from treazure_pipeline.points_history.contact_card import Histories
from treazure_pipeline.sandbox import CLIENT_SECRET, LOYALTY_ID
from treazure_pipeline.settings import load_receiver
from treazure_pipeline_tests.balance_sync.shop import Shop, new_shop, one_sandbox, shop
from treazure_pipeline_tests.clients.conftest import Reply, Stub, answer, stub
from treazure_pipeline_tests.service.conftest import SECRET, Running, event, serving

__all__ = ["new_shop", "one_sandbox", "shop", "stub"]

KEY = "a-key-for-the-contact-card-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}
GUID = "5f0c5b5e-2a53-4c0e-9a63-0d8a3c2f7a10"
HISTORY = f"/api/v1.0/LoyaltyVault/Account/{GUID}/LoyaltyPrograms/{LOYALTY_ID}/History"


@contextmanager
def giving(shop: Shop, **changes: str) -> Iterator[Running]:
    """A receiver that gives points histories from the shop's Treazure."""
    variables = {**shop.variables, "ENGAGE_WEBHOOK_SECRET": SECRET, "HISTORY_API_KEY": KEY, **changes}
    settings = load_receiver(variables)
    assert settings.history_api_key is not None
    assert settings.master is not None
    histories = Histories(shop.database_url, settings.history_api_key, settings.master)
    with serving(shop.database_url, histories=histories) as running:
        yield running


def ask(running: Running, contact: str, headers: dict[str, str] | None = None, **query: str | int) -> httpx.Response:
    url = f"{running.url}/contacts/{contact}/points-history"
    return httpx.get(url, headers=BEARER if headers is None else headers, params=query, timeout=60)


def asked_for_histories(shop: Shop) -> int:
    return int(shop.sandbox.report()["requests"].get("history", 0))


def exact(response: httpx.Response) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(response.text, parse_float=Decimal, parse_int=Decimal)
    return read


@pytest.fixture
def stubbed(new_shop: Callable[..., Shop], stub: Stub) -> Shop:
    """A shop whose Treazure answers as the test tells it."""
    stub.on("/identity/connect/token", answer({"access_token": "token", "expires_in": 3600}))
    return new_shop(members=0, environ={"TREAZURE_BASE_URL": stub.url})


def test_the_log_is_treazure_s_newest_first_with_exact_points_and_utc_times(shop: Shop) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.add_points({contact: "0.1"})
    shop.sandbox.add_points({contact: "1234567890.123456"})
    with shop.connect() as connections:
        movements = connections.treazure.history(contact, LOYALTY_ID).movements
    with giving(shop) as running:
        response = ask(running, contact.upper())
    assert response.status_code == 200
    found = exact(response)
    assert (found["contactId"], found["definitionId"]) == (contact, 1)
    assert (found["total"], found["count"], found["offset"], found["links"]) == (len(movements), len(movements), 0, [])
    assert found["balance"] == movements[-1].balance
    newest_first = list(reversed(movements))
    assert [item["amount"] for item in found["items"]] == [one.amount for one in newest_first]
    assert found["items"][0]["amount"] == Decimal("1234567890.123456")
    assert found["items"][0]["dateTime"] == newest_first[0].date_time.isoformat().replace("+00:00", "Z")
    assert {"transactionType", "expiresAt", "comment", "operatorId", "shopId", "posId", "receiptNr", "properties",
            "balance"} < found["items"][0].keys()  # fmt: skip


def test_pages_follow_each_other_by_their_links_and_hold_each_movement_once(shop: Shop) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    for amount in range(1, 12):
        shop.sandbox.add_points({contact: amount})
    with giving(shop) as running:
        whole = ask(running, contact).json()["items"]
        found, path = [], f"/contacts/{contact}/points-history?count=5"
        while path:
            page = httpx.get(f"{running.url}{path}", headers=BEARER).json()
            assert page["total"] == len(whole)
            found += page["items"]
            path = next((link["href"] for link in page["links"] if link["rel"] == "next"), "")
        beyond = ask(running, contact, offset=1000).json()
    assert found == whole
    assert (beyond["items"], beyond["total"]) == ([], len(whole))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"apikey": ""},
        {"X-Api-Key": KEY + "x"},
        {"X-Api-Key": KEY[:-1]},
    ],
)
def test_without_the_key_there_is_nothing(shop: Shop, headers: dict[str, str]) -> None:
    with giving(shop) as running:
        response = ask(running, shop.sandbox.contact_ids(1)[0], headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text
    assert asked_for_histories(shop) == 0


@pytest.mark.parametrize("headers", [BEARER, {"authorization": f"bearer {KEY}"}, {"apikey": KEY}, {"X-Api-Key": KEY}])
def test_the_key_is_taken_from_each_of_its_headers(shop: Shop, headers: dict[str, str]) -> None:
    with giving(shop) as running:
        assert ask(running, shop.sandbox.contact_ids(1)[0], headers).status_code == 200


def test_a_header_of_no_known_alphabet_is_a_wrong_key(shop: Shop) -> None:
    with giving(shop) as running:
        response = httpx.get(
            f"{running.url}/contacts/{GUID}/points-history", headers=[(b"apikey", b"\xff\xfe\xe9")], timeout=60
        )
    assert response.status_code == 401


@pytest.mark.parametrize("query", [{"offset": -1}, {"count": 0}, {"count": 501}, {"count": "many"}, {"offset": "٣"},
                                   {"definitionId": "x"}])  # fmt: skip
def test_an_invalid_page_is_refused_with_its_reason(shop: Shop, query: dict[str, Any]) -> None:
    with giving(shop) as running:
        response = ask(running, GUID, **query)
    assert response.status_code == 400
    assert next(iter(query)) in response.json()["error"]


@pytest.mark.parametrize("contact", ["7", "not-a-guid", GUID + "0", "%00", "' or 1=1"])
def test_what_is_no_guid_is_refused_and_treazure_is_not_asked(shop: Shop, contact: str) -> None:
    with giving(shop) as running:
        assert ask(running, contact).status_code == 400
    assert asked_for_histories(shop) == 0


def test_a_contact_that_treazure_does_not_know_is_not_found(shop: Shop) -> None:
    shop.sync()
    with giving(shop) as running:
        response = ask(running, GUID)
    assert response.status_code == 404
    assert f"Treazure has no account of contact {GUID}" in response.json()["error"]


def test_an_account_without_movements_has_an_empty_log(stubbed: Shop, stub: Stub) -> None:
    stub.on(HISTORY, answer([]))
    account = {"loyaltyPrograms": [{"loyaltyPointDefinitionId": LOYALTY_ID, "balance": 0}]}
    stub.on(f"/api/v1.0/LoyaltyVault/Account/{GUID}", answer(account))
    with giving(stubbed) as running:
        found = ask(running, GUID).json()
    assert (found["total"], found["items"], found["balance"]) == (0, [], 0)


def test_with_several_programmes_the_definition_says_which(new_shop: Callable[..., Shop], tmp_path: Path) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: GOLD, definition_id: 1}\n- {name: silver, loyalty_id: SILVER, definition_id: 2}\n"
    )
    shop = new_shop(programmes={"GOLD": 1, "SILVER": 2}, environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed)})
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.add_points({contact: 77}, "SILVER")
    with giving(shop) as running:
        missing, unknown, silver = (
            ask(running, contact), ask(running, contact, definitionId=3), ask(running, contact, definitionId=2)
        )  # fmt: skip
    assert (missing.status_code, unknown.status_code, silver.status_code) == (400, 404, 200)
    assert "1, 2" in missing.json()["error"]
    assert "1, 2" in unknown.json()["error"]
    assert silver.json()["items"][0]["amount"] == 77


def test_fifty_who_ask_at_once_are_one_question_to_treazure(shop: Shop) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.set_fault("slow", on=["history"], seconds=1)
    with giving(shop) as running, ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: ask(running, contact), range(50)))
    assert {response.status_code for response in answers} == {200}
    assert len({response.text for response in answers}) == 1
    assert asked_for_histories(shop) == 1


def test_an_answer_is_kept_for_a_moment_and_then_requested_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    with giving(shop) as running:
        first = ask(running, contact)
        shop.sandbox.add_points({contact: 5})
        assert ask(running, contact).text == first.text
        assert asked_for_histories(shop) == 1
        assert 0 <= int(first.headers["cache-control"].removeprefix("private, max-age=")) <= contact_card.CACHED_SECONDS
    monkeypatch.setattr(contact_card, "CACHED_SECONDS", 0)
    with giving(shop) as running:
        ask(running, contact)
        shop.sandbox.add_points({contact: 7})
        assert ask(running, contact).json()["items"][0]["amount"] == 7


def test_the_cache_holds_a_bounded_number_of_logs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_card, "_MOST_LOGS", 3)
    contacts = shop.sandbox.contact_ids(5)
    with giving(shop) as running:
        for contact in contacts:
            ask(running, contact)
        before = asked_for_histories(shop)
        ask(running, contacts[-1])
        assert asked_for_histories(shop) == before
        ask(running, contacts[0])
        assert asked_for_histories(shop) == before + 1


def test_an_etag_that_is_known_saves_the_body_until_the_log_changes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_card, "CACHED_SECONDS", 0)
    contact = shop.sandbox.contact_ids(1)[0]
    with giving(shop) as running:
        tag = ask(running, contact).headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            response = ask(running, contact, {**BEARER, "If-None-Match": known})
            assert (response.status_code, response.text, response.headers["etag"]) == (304, "", tag)
        shop.sandbox.add_points({contact: 5})
        assert ask(running, contact, {**BEARER, "If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("reply", "status", "system"),
    [
        (Reply(200, b"<html>"), 502, "treazure"),
        (answer({"message": "down"}, 503), 502, "treazure"),
        (answer({"message": "no"}, 400), 502, "treazure"),
        (answer({"message": "no"}, 401), 502, "treazure"),
        (Reply(silent=True), 504, "treazure"),
        (answer({"message": "slow down"}, 429, **{"Retry-After": "7"}), 503, "treazure"),
    ],
)
def test_an_answer_says_which_side_failed(stubbed: Shop, stub: Stub, reply: Reply, status: int, system: str) -> None:
    stub.on(HISTORY, reply)
    with giving(stubbed) as running:
        response = ask(running, GUID)
    assert (response.status_code, response.json()["system"]) == (status, system)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers.get("retry-after") == ("7" if status == 503 else None)


def test_the_request_id_of_treazure_is_passed_on_for_its_support(stubbed: Shop, stub: Stub) -> None:
    stub.on(HISTORY, answer({"message": "broken"}, 500, **{"X-Request-Id": "req-77"}))
    with giving(stubbed) as running:
        assert ask(running, GUID).json()["requestId"] == "req-77"


def test_a_failure_is_not_kept(stubbed: Shop, stub: Stub) -> None:
    movement = {"dateTime": "2026-01-01T00:00:00Z", "amount": 1, "balance": 1, "transactionType": "Load"}
    stub.on(HISTORY, Reply(200, b"<html>"), answer([movement]))
    with giving(stubbed) as running:
        assert [ask(running, GUID).status_code for _ in range(2)] == [502, 200]


def test_a_treazure_that_does_not_answer_in_time_is_not_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_card, "ANSWER_SECONDS", 0.2)
    shop.sandbox.set_fault("slow", on=["history"], seconds=3)
    with giving(shop) as running:
        response = ask(running, shop.sandbox.contact_ids(1)[0])
    assert (response.status_code, response.json()["system"]) == (504, "treazure")


def test_where_the_rate_is_used_up_the_answer_is_to_come_back_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_card, "RATE_PATIENCE_SECONDS", 0.1)
    with shop.connect(TREAZURE_MAX_REQUESTS_PER_SECOND="5") as others:
        others.treazure._pacer.pause(600)  # noqa: SLF001 - as a Retry-After would
        with giving(shop, TREAZURE_MAX_REQUESTS_PER_SECOND="5") as running:
            response = ask(running, shop.sandbox.contact_ids(1)[0])
    assert (response.status_code, response.json()["system"]) == (503, "treazure")
    assert int(response.headers["retry-after"]) > 0
    assert asked_for_histories(shop) == 0


def test_webhooks_are_taken_while_every_history_waits_for_treazure(shop: Shop) -> None:
    shop.sandbox.set_fault("slow", on=["history"], seconds=5, count=None)
    contacts = shop.sandbox.contact_ids(40)
    with giving(shop) as running, ThreadPoolExecutor(40) as threads:
        waiting = [threads.submit(ask, running, contact) for contact in contacts]
        while asked_for_histories(shop) == 0:
            time.sleep(0.01)
        began = time.monotonic()
        answers = [running.deliver(event(f"evt_{number}"), f"msg_{number}") for number in range(5)]
        took = time.monotonic() - began
        shop.sandbox.clear_faults()
        outcomes = {one.result().status_code for one in waiting}
    assert {response.status_code for response in answers} == {202}
    assert took < 5
    assert outcomes <= {200, 504}


def test_more_questions_at_once_than_can_wait_are_sent_away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_card, "_MOST_UNDER_WAY", 1)
    shop.sandbox.set_fault("slow", on=["history"], seconds=3)
    first, second = shop.sandbox.contact_ids(2)
    with giving(shop) as running, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, running, first)
        while asked_for_histories(shop) == 0:
            time.sleep(0.01)
        assert ask(running, second).status_code == 503
        assert waiting.result().status_code == 200


def test_without_a_database_the_answer_says_so_and_deliveries_are_not_harmed(shop: Shop) -> None:
    missing = shop.database_url.replace(shop.database_url.rpartition("/")[2].partition("?")[0], "no_such_database")
    settings = load_receiver({**shop.variables, "ENGAGE_WEBHOOK_SECRET": SECRET, "HISTORY_API_KEY": KEY})
    assert settings.history_api_key is not None
    assert settings.master is not None
    histories = Histories(missing, settings.history_api_key, settings.master)
    with serving(shop.database_url, histories=histories) as running:
        response = ask(running, shop.sandbox.contact_ids(1)[0])
        assert running.deliver(event()).status_code == 202
    assert (response.status_code, response.json()["system"]) == (503, "database")


def test_without_the_setting_the_address_says_that_it_is_not_switched_on(shop: Shop) -> None:
    with serving(shop.database_url) as running:
        response = ask(running, shop.sandbox.contact_ids(1)[0])
    assert response.status_code == 404
    assert "HISTORY_API_KEY" in response.json()["error"]


def test_the_metrics_count_the_outcome_of_each_request(shop: Shop) -> None:
    contact = shop.sandbox.contact_ids(1)[0]
    with giving(shop) as running:
        for headers in (BEARER, BEARER, {}):
            ask(running, contact, headers)
        metrics = running.get("/metrics").text
    for outcome in ("fetched", "cached", "unauthorised"):
        assert f'treazure_receiver_histories_total{{outcome="{outcome}"}} 1.0' in metrics
    assert "treazure_receiver_history_seconds_count 3.0" in metrics


def test_no_answer_and_no_log_line_shows_a_secret(stubbed: Shop, stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    stub.on(HISTORY, answer({"message": f"{CLIENT_SECRET} and token"}, 500), Reply(200, b"x"), answer({}, 401))
    with giving(stubbed) as running:
        shown = "".join(ask(running, GUID).text for _ in range(3)) + ask(running, GUID, {"apikey": "wr0ng-key"}).text
    for secret in (KEY, CLIENT_SECRET, "wr0ng-key", "Bearer token"):
        assert secret not in shown + caplog.text


def test_the_receiver_needs_treazure_s_settings_only_with_the_key() -> None:
    alone = load_receiver({"ENGAGE_WEBHOOK_SECRET": SECRET})
    assert (alone.history_api_key, alone.master) == (None, None)
    with pytest.raises(SettingsError) as caught:
        load_receiver({"ENGAGE_WEBHOOK_SECRET": SECRET, "HISTORY_API_KEY": KEY})
    for name in ("TREAZURE_BASE_URL", "TREAZURE_CLIENT_ID", "TREAZURE_CLIENT_SECRET", "TREAZURE_LOYALTY_ID"):
        assert name in str(caught.value)
    assert "ENGAGE_API_KEY" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["two wörds that are of thirty-two characters", "wörds", "shorter-than-32-characters"])
def test_a_key_that_fits_no_header_or_can_be_guessed_is_refused_without_being_shown(shop: Shop, key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_receiver({**shop.variables, "ENGAGE_WEBHOOK_SECRET": SECRET, "HISTORY_API_KEY": key})
    assert "HISTORY_API_KEY must have at least 32 visible" in str(caught.value)
    assert "openssl rand -hex 32" in str(caught.value)
    assert key not in str(caught.value)


def test_the_address_keeps_to_the_openapi_document(shop: Shop) -> None:
    shop.sync()
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    options = ["--max-examples", "15", "--seed", "1", "--no-color", "--generation-database", "none"]
    with giving(shop) as running:
        result = subprocess.run(
            [*command, "run", f"{running.url}/openapi.json", "--include-operation-id", "history",
             "-H", f"Authorization: Bearer {KEY}", *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 selected" in result.stdout


def test_the_server_ends_while_a_history_is_under_way(shop: Shop) -> None:
    shop.sandbox.set_fault("slow", on=["history"], seconds=1)
    with giving(shop) as running:
        asking = threading.Thread(target=ask, args=(running, shop.sandbox.contact_ids(1)[0]))
        asking.start()
        while asked_for_histories(shop) == 0:
            time.sleep(0.01)
    asking.join(30)
    assert not asking.is_alive()
