from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr

from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.pacing import RetryPolicy, now
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import (
    AuthenticationError,
    GatewayError,
    InvalidAnswerError,
    NoAnswerError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    RemoteError,
    SettingsError,
    TransientError,
)
from treazure_pipeline_tests.clients.conftest import Reply, Stub, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "/identity/connect/token"
EXPORT = "/api/v1.0/LoyaltyVault/Balances/Get"
RESULT = "/api/v1.0/LoyaltyVault/Balances/7/result"
GUID = "5f0c5b5e-2a53-4c0e-9a63-0d8a3c2f7a10"
ACCOUNT = f"/api/v1.0/LoyaltyVault/Account/{GUID}"
SECRET = "s3cr3t-of-treazure"
NOON = datetime(2024, 5, 16, 12, tzinfo=UTC)
FAST = RetryPolicy(scale=0.0001)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A pacer that lets everybody through and remembers what it was told."""

    def __init__(self) -> None:
        self.slots = 0
        self.paused: list[float] = []

    @contextmanager
    def slot(self) -> Iterator[float]:
        self.slots += 1
        yield now()

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def token(name: str, expires_in: float = 3600) -> Reply:
    return answer({"access_token": name, "expires_in": expires_in, "token_type": "Bearer"})


def account(balance: Any = 12.5) -> Reply:
    return answer({"loyaltyPrograms": [{"balance": balance, "loyaltyPointDefinitionId": "points"}]})


def client(stub: Stub, **options: Any) -> TreazureClient:
    return TreazureClient(stub.url, "us", SecretStr(SECRET), **{"retry": FAST, "timeout": 10.0, **options})


def bearers(stub: Stub, path: str = ACCOUNT) -> list[str]:
    return [asked.headers["authorization"] for asked in stub.asked_for(path)]


@pytest.fixture(autouse=True)
def signed_in(stub: Stub) -> None:
    stub.on(TOKEN, token("one"), token("two"), token("three"))
    stub.on(ACCOUNT, account())


def test_the_login_is_the_form_that_the_vendor_documents(stub: Stub) -> None:
    with client(stub) as treazure:
        treazure.check()
    (asked,) = stub.asked
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["us"],
        "client_secret": [SECRET],
        "scope": ["api_loyaltyvault"],
    }
    assert asked.headers["user-agent"].startswith("treazure-pipeline/")


@pytest.mark.parametrize(
    ("expires_in", "kept", "replaced"),
    [(3600, 3299, 3300), (86400, 3299, 3300), (1200, 899, 900), (60, 29, 30)],
)
def test_a_token_is_replaced_after_55_minutes_or_before_a_shorter_life_ends(
    stub: Stub, expires_in: float, kept: float, replaced: float
) -> None:
    stub.on(TOKEN, token("one", expires_in), token("two"))
    clock = Clock()
    with client(stub, clock=clock) as treazure:
        for moment in (0.0, kept, replaced):
            clock.now = 1000 + moment
            treazure.account_balance(GUID, "points")
    assert bearers(stub) == ["Bearer one", "Bearer one", "Bearer two"]


@pytest.mark.parametrize("written", ['"3600"', '"3600.0"', "null", '"soon"', '"NaN"', "-1", "0", "1e999", "[]"])
def test_a_token_whose_life_is_a_text_or_unknown_is_kept_for_55_minutes(stub: Stub, written: str) -> None:
    stub.on(TOKEN, Reply(200, f'\ufeff{{"access_token":"one","expires_in":{written}}}'.encode()), token("two"))
    clock = Clock()
    with client(stub, clock=clock) as treazure:
        for moment in (0, 3299, 3300):
            clock.now = 1000.0 + moment
            treazure.account_balance(GUID, "points")
    assert bearers(stub) == ["Bearer one", "Bearer one", "Bearer two"]


def test_many_threads_fetch_one_token(stub: Stub) -> None:
    with client(stub) as treazure, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: treazure.account_balance(GUID, "points"), range(40)))
    assert found == [Decimal("12.5")] * 40
    assert len(stub.asked_for(TOKEN)) == 1


def test_a_token_refused_in_mid_flight_is_replaced_once(stub: Stub) -> None:
    stub.on(ACCOUNT, account(), Reply(401), account(13))
    with client(stub) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal("12.5")
        assert treazure.account_balance(GUID, "points") == 13
    assert bearers(stub) == ["Bearer one", "Bearer one", "Bearer two"]


def test_a_new_token_that_is_refused_too_is_an_authentication_error(stub: Stub) -> None:
    stub.on(ACCOUNT, Reply(401))
    with client(stub) as treazure, pytest.raises(AuthenticationError, match="TREAZURE_CLIENT_SECRET"):
        treazure.account_balance(GUID, "points")
    assert bearers(stub) == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_credentials_refused_at_the_login_are_an_authentication_error_without_the_secret(
    stub: Stub, status: int
) -> None:
    stub.on(TOKEN, Reply(status, f'{{"error":"invalid_client","got":"{SECRET}"}}'.encode()))
    with client(stub) as treazure, pytest.raises(AuthenticationError, match="invalid_client") as caught:
        treazure.check()
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert len(stub.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"access_token":"a b"}', b'{"access_token":"x\\ny"}'])
def test_a_login_page_is_no_token(stub: Stub, body: bytes) -> None:
    stub.on(TOKEN, Reply(200, body))
    with client(stub) as treazure, pytest.raises(InvalidAnswerError):
        treazure.check()


@pytest.mark.parametrize(
    "body",
    [
        {"href": "/api/v1.0/LoyaltyVault/Balances/7"},
        {"hRef": "api/v1.0/LoyaltyVault/Balances/7"},
        {"href": "BASE/api/v1.0/LoyaltyVault/Balances/7"},
        {"links": [{"hRef": "/api/v1.0/LoyaltyVault/Balances/7", "rel": "self"}]},
        {"links": [{"href": EXPORT, "rel": "self"}, {"href": "/api/v1.0/LoyaltyVault/Balances/7", "rel": "result"}]},
        {
            "href": None,
            "links": [
                "?",
                {"rel": "doc", "href": "/doc"},
                {"rel": "Export", "hRef": "BASE/api/v1.0/LoyaltyVault/Balances/7"},
            ],
        },
    ],
)
def test_the_export_is_found_in_all_spellings_of_its_link(stub: Stub, body: dict[str, Any]) -> None:
    reply = answer(body, 202)
    stub.on(EXPORT, Reply(202, reply.body.replace(b"BASE", stub.url.encode())))
    stub.on(RESULT, answer([]))
    with client(stub) as treazure:
        href = treazure.request_balances("points", NOON - timedelta(hours=2), NOON).path
        with treazure.open_balances(href) as pieces:
            assert b"".join(pieces) == b"[]"
    (asked,) = stub.asked_for(EXPORT)
    assert asked.body == (
        b'{"mutatedFrom":"2024-05-16T10:00:00.000000Z","mutatedTo":"2024-05-16T12:00:00.000000Z",'
        b'"loyaltyPointDefinitionId":"points"}'
    )
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"links":[]}', b'{"href":7}', b'{"href":"  "}'])
def test_an_export_without_a_link_is_an_invalid_answer(stub: Stub, body: bytes) -> None:
    stub.on(EXPORT, Reply(200, body))
    with client(stub) as treazure, pytest.raises(InvalidAnswerError):
        treazure.request_balances("points", NOON, NOON)


@pytest.mark.parametrize(
    "href",
    [
        "http://localhost:PORT/x",
        "https://127.0.0.1:PORT/x",
        "http://127.0.0.1:1/x",
        "//evil.example/x",
        "http://127.0.0.1:PORT@evil.example/x",
        "ftp://127.0.0.1/x",
        "javascript:alert(1)",
        "http://[::1/x",
    ],
)
def test_a_link_to_another_host_is_refused_before_anything_is_sent(stub: Stub, href: str) -> None:
    href = href.replace("PORT", stub.url.rpartition(":")[2])
    stub.on(EXPORT, answer({"href": href}))
    with client(stub) as treazure:
        with pytest.raises(InvalidAnswerError):
            treazure.request_balances("points", NOON, NOON)
        with pytest.raises(InvalidAnswerError), treazure.open_balances(href):
            pass
    assert {asked.target for asked in stub.asked} == {TOKEN, EXPORT}


def test_the_refusal_of_a_foreign_link_names_the_host(stub: Stub) -> None:
    with (
        client(stub) as treazure,
        pytest.raises(InvalidAnswerError, match=r"evil\.example"),
        treazure.open_balances("https://evil.example/x"),
    ):
        pass


@pytest.mark.parametrize("href", ["@evil.example/x", ".evil.example/x", "\\evil.example/x", "/\\evil.example/x"])
def test_a_tricky_relative_link_stays_on_the_host(stub: Stub, href: str) -> None:
    stop = threading.Event()
    stop.set()
    with (
        client(stub, retry=RetryPolicy(stop=stop)) as treazure,
        pytest.raises(RemoteError),
        treazure.open_balances(href),
    ):
        pass
    assert [asked.target for asked in stub.asked if asked.target != TOKEN]


@pytest.mark.parametrize("location", ["https://evil.example/x", "//evil.example/x"])
def test_a_redirect_of_a_call_with_a_body_is_not_followed(stub: Stub, location: str) -> None:
    stub.on(EXPORT, Reply(307, headers={"Location": location}))
    with client(stub) as treazure, pytest.raises(InvalidAnswerError, match=r"evil\.example"):
        treazure.request_balances("points", NOON, NOON)


def test_a_redirect_on_the_same_host_leads_to_the_result(stub: Stub) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": "/files/7/result"}))
    stub.on("/files/7/result", answer([]))
    with client(stub) as treazure, treazure.open_balances(RESULT) as pieces:
        assert b"".join(pieces) == b"[]"


def test_an_export_is_asked_for_until_it_is_ready_and_comes_whole(stub: Stub) -> None:
    body = b"[" + b" " * 3_000_000 + b"]"
    stub.on(RESULT, Reply(404), Reply(202, headers={"Retry-After": "0"}), Reply(503), Reply(401), Reply(200, body))
    pacer = Recorder()
    with (
        client(stub, pacer=pacer) as treazure,
        treazure.open_balances("/api/v1.0/LoyaltyVault/Balances/7") as pieces,
    ):
        received = list(pieces)
    assert b"".join(received) == body
    assert max(map(len, received)) <= 1024 * 1024
    assert bearers(stub, RESULT)[-2:] == ["Bearer one", "Bearer two"]
    assert pacer.slots == 5


def test_an_export_that_breaks_off_is_no_answer(stub: Stub) -> None:
    stub.on(RESULT, Reply(200, b"[" + b" " * 100_000, cut=True))
    with client(stub) as treazure, treazure.open_balances(RESULT) as pieces, pytest.raises(NoAnswerError):
        b"".join(pieces)


def test_an_error_of_the_reader_of_an_export_goes_through_and_the_client_stays_usable(stub: Stub) -> None:
    stub.on(RESULT, Reply(200, b"[" + b" " * 3_000_000))
    with client(stub, concurrency=1) as treazure:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError), treazure.open_balances(RESULT) as pieces:
                len(next(pieces)) / 0
        assert treazure.account_balance(GUID, "points") == Decimal("12.5")


@pytest.mark.parametrize("written", ["12.5", "0.30000000000000004", "123456789012345.123456", "-3", "1e2"])
def test_an_account_balance_keeps_every_digit(stub: Stub, written: str) -> None:
    stub.on(
        ACCOUNT,
        Reply(
            200,
            f'{{"loyaltyPrograms":[{{"loyaltyPointDefinitionId":"x","balance":1}},'
            f'{{"loyaltyPointDefinitionId":"Points","balance":{written}}}]}}'.encode(),
        ),
    )
    with client(stub) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal(written)


def test_what_is_wrong_with_another_programme_of_the_account_does_not_matter(stub: Stub) -> None:
    others = [
        {"loyaltyPointDefinitionId": None},
        {"loyaltyPointDefinitionId": "x", "balance": None},
        {"balance": "NaN"},
    ]
    ours = {"loyaltyPointDefinitionId": "points", "balance": "12.50"}
    stub.on(ACCOUNT, answer({"loyaltyPrograms": [*others, ours]}))
    with client(stub) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal("12.50")


NO_POINTS = ["null", '"NaN"', '"Infinity"', "1e400000", "1e16", '""', "true", "{}"]


@pytest.mark.parametrize("written", NO_POINTS)
def test_a_balance_that_is_no_number_of_points_is_not_taken(stub: Stub, written: str) -> None:
    stub.on(
        ACCOUNT,
        Reply(200, f'{{"loyaltyPrograms":[{{"loyaltyPointDefinitionId":"points","balance":{written}}}]}}'.encode()),
    )
    with client(stub) as treazure, pytest.raises(InvalidAnswerError, match="not a number"):
        treazure.account_balance(GUID, "points")


@pytest.mark.parametrize("written", NO_POINTS[1:])
def test_a_transaction_whose_balance_is_no_number_of_points_was_taken_all_the_same(stub: Stub, written: str) -> None:
    stub.on(f"{ACCOUNT}/Transaction", Reply(200, f'{{"balance":{written}}}'.encode()))
    with client(stub) as treazure:
        assert treazure.post_transaction(GUID, "points", Decimal(1), receipt="r", comment="c") is None


def test_an_account_outside_the_programme_has_no_balance(stub: Stub) -> None:
    stub.on(ACCOUNT, answer({"loyaltyPrograms": []}))
    with client(stub) as treazure:
        assert treazure.account_balance(GUID, "points") is None


HTML = Reply(404, b"<html>no such page</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("reply", "kind"), [(Reply(404), NotFoundError), (answer({}, 404), NotFoundError), (HTML, GatewayError)]
)
def test_a_404_is_neither_an_empty_log_nor_an_account_without_points(
    stub: Stub, reply: Reply, kind: type[PermanentError]
) -> None:
    stub.on(ACCOUNT, reply)
    stub.on(f"{ACCOUNT}/LoyaltyPrograms/points/History", reply)
    with client(stub) as treazure:
        for read in (treazure.account_balance, treazure.history):
            with pytest.raises(PermanentError) as caught:
                read(GUID, "points")
            assert type(caught.value) is kind


@pytest.mark.parametrize(
    "reply",
    [Reply(200), Reply(200, b"<html>"), answer([]), answer({}), account(None), account("NaN"), account([])],
)
def test_a_failed_read_is_not_an_empty_result(stub: Stub, reply: Reply) -> None:
    stub.on(ACCOUNT, reply)
    with client(stub) as treazure, pytest.raises(InvalidAnswerError):
        treazure.account_balance(GUID, "points")


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again_four_times(stub: Stub, status: int) -> None:
    stub.on(ACCOUNT, Reply(status, b"busy", {"X-Request-Id": "abc-1"}))
    with client(stub) as treazure, pytest.raises(TransientError) as caught:
        treazure.account_balance(GUID, "points")
    assert len(stub.asked_for(ACCOUNT)) == 5
    error = caught.value
    assert (error.system, error.call.method, error.call.path, error.status) == ("treazure", "GET", ACCOUNT, status)
    assert error.request_id == "abc-1"
    assert error.hint
    assert all(part in str(error) for part in (ACCOUNT, str(status), "abc-1"))
    assert "busy" in error.message
    assert "busy" not in str(error), "an answer about a contact may quote the contact's data"


def test_a_connection_that_ends_without_an_answer_is_tried_again(stub: Stub) -> None:
    stub.on(ACCOUNT, Reply(silent=True), Reply(200, b"{", cut=True), account())
    with client(stub) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal("12.5")


def test_a_refusal_for_good_is_not_tried_again(stub: Stub) -> None:
    stub.on(EXPORT, Reply(422, b'{"message":"window too long"}'))
    with client(stub) as treazure, pytest.raises(PermanentError) as caught:
        treazure.request_balances("points", NOON, NOON)
    assert "window too long" in str(caught.value)
    assert len(stub.asked_for(EXPORT)) == 1


def test_being_told_to_come_later_costs_no_try_and_pauses_everybody(stub: Stub) -> None:
    later = [Reply(429, headers={"Retry-After": "0"}), Reply(429), Reply(503, headers={"Retry-After": "0"})]
    stub.on(ACCOUNT, *later * 4, account())
    pacer = Recorder()
    with client(stub, pacer=pacer) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal("12.5")
    assert len(pacer.paused) == 12


class Aged(Recorder):
    """Its first slot is a minute old when it is to be used."""

    @contextmanager
    def slot(self) -> Iterator[float]:
        self.slots += 1
        yield now() - (60 if self.slots == 1 else 0)


def test_a_slot_that_is_too_old_is_not_used_but_taken_again(stub: Stub) -> None:
    pacer = Aged()
    with client(stub, pacer=pacer) as treazure:
        assert treazure.account_balance(GUID, "points") == Decimal("12.5")
    assert pacer.slots == 2
    assert len(stub.asked_for(ACCOUNT)) == 1


def test_a_wait_longer_than_the_patience_is_not_begun(stub: Stub) -> None:
    stub.on(ACCOUNT, Reply(429, headers={"Retry-After": "86400"}))
    with client(stub) as treazure, pytest.raises(RateLimitedError) as caught:
        treazure.account_balance(GUID, "points")
    assert caught.value.retry_after == 900


def test_no_connection_is_a_failure_without_effect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        once = RetryPolicy(waits=())
        with (
            TreazureClient(url, "us", SecretStr(SECRET), retry=once) as treazure,
            pytest.raises(TransientError, match="no connection") as caught,
        ):
            treazure.check()
    assert not isinstance(caught.value, NoAnswerError)
    assert outcome.of(caught.value).effect == "none"


def test_a_server_that_never_answers_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with (
            TreazureClient(url, "us", SecretStr(SECRET), timeout=0.2, retry=RetryPolicy(waits=())) as treazure,
            pytest.raises(NoAnswerError) as caught,
        ):
            treazure.check()
    assert outcome.of(caught.value).effect == "possible"


def test_a_base_url_may_have_a_path(stub: Stub) -> None:
    stub.on(f"/treazure{TOKEN}", token("one"))
    stub.on(f"/treazure{RESULT}", answer([]))
    with TreazureClient(f"{stub.url}/treazure/", "us", SecretStr(SECRET), retry=FAST) as treazure:
        for href in (RESULT, f"/treazure{RESULT}", f"{stub.url}/treazure{RESULT}"):
            with treazure.open_balances(href) as pieces:
                assert b"".join(pieces) == b"[]"


def test_a_proxy_of_the_environment_never_sees_what_is_meant_for_this_machine(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with client(stub) as treazure:
        treazure.check()


def test_no_secret_is_shown_anywhere(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stub.on(TOKEN, token("t0k3n-of-treazure"))
    stub.on(ACCOUNT, Reply(500, f"who are you? Bearer t0k3n-of-treazure {SECRET}".encode()))
    with client(stub) as treazure, pytest.raises(TransientError) as caught:
        treazure.account_balance(GUID, "points")
    shown = f"{caplog.text} {treazure!r} {vars(treazure)} {caught.value!r} {caught.value} {vars(caught.value)}"
    assert "who are you?" in caught.value.message
    assert SECRET not in shown
    assert "t0k3n" not in shown


@pytest.mark.parametrize("secret", ["", "line\nbreak", "caf\u00e9"])
def test_a_secret_that_cannot_be_one_is_a_settings_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(SettingsError, match="TREAZURE_CLIENT_SECRET") as caught:
        TreazureClient("http://127.0.0.1:1", "us", SecretStr(secret))
    assert not secret or secret not in str(caught.value)
