"""The outcome of a request for every possible answer: the one table that push, adjustments and migration use."""

from __future__ import annotations

import json
import socket
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from treazure_pipeline.clients import outcome, wire
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.engage_wire import BalancesAnswer, encode_balances
from treazure_pipeline.clients.outcome import Outcome
from treazure_pipeline.clients.pacing import RetryPolicy, now
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import PermanentError, RemoteError, TooLateError
from treazure_pipeline_tests.clients.conftest import Asked, Reply, Stub, answer
from treazure_pipeline_tests.clients.test_engage import BALANCES, NOON
from treazure_pipeline_tests.clients.test_exports import HREF, RESULT, ROWS, STORED, TOKEN, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GUID = "0b5a0b1e-0000-4000-8000-000000000001"
ACCOUNT = f"/api/v1.0/LoyaltyVault/Account/{GUID}"
TRANSACTION = f"{ACCOUNT}/Transaction"
HTML = {"Content-Type": "text/html"}
CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "answers.json").read_text(encoding="utf-8")
)

ROW = Outcome("none", "row")
ADDRESS = Outcome("none", "address")
CREDENTIALS = Outcome("none", "credentials")
UNKNOWN = Outcome("possible", "system", again=True)
TABLE: list[tuple[Reply, Outcome]] = [
    (Reply(200, b'"t-1"'), Outcome("certain")),
    (Reply(200, b'{"message":"queue is full"}'), UNKNOWN),
    (Reply(200, b"<html>", HTML), UNKNOWN),
    (Reply(200, b"", HTML), UNKNOWN),
    (Reply(302, headers={"Location": "https://login.example/"}), Outcome("possible", "address", again=True)),
    (Reply(400, b'{"message":"bad"}'), ROW),
    (Reply(413), ROW),
    (Reply(422), ROW),
    (Reply(400, b"<html>", HTML), ADDRESS),
    (Reply(401), CREDENTIALS),
    (Reply(403, b'{"message":"no"}'), CREDENTIALS),
    (Reply(403, b"<html>a firewall</html>", HTML), ADDRESS),
    (Reply(404, b'{"message":"?"}'), Outcome("none", "path")),
    (Reply(404, b"<html>", HTML), ADDRESS),
    (Reply(405), ADDRESS),
    (Reply(415), ADDRESS),
    (Reply(408), UNKNOWN),
    (Reply(409), UNKNOWN),
    (Reply(425), Outcome("none", "system", again=True)),
    (Reply(429), Outcome("none", "system", again=True, costs_a_try=False)),
    (Reply(429, headers={"Retry-After": "7"}), Outcome("none", "system", again=True, costs_a_try=False, wait=7)),
    (Reply(500), UNKNOWN),
    (Reply(503, b"<html>", HTML), UNKNOWN),
    (Reply(503, headers={"Retry-After": "7"}), Outcome("possible", "system", again=True, costs_a_try=False, wait=7)),
    (Reply(502), Outcome("possible", "system", again=True, at_work=True)),
    (Reply(504), Outcome("possible", "system", again=True, at_work=True)),
    (Reply(silent=True), UNKNOWN),
    (Reply(200, b'"t-1', cut=True), UNKNOWN),
]  # fmt: skip


@pytest.fixture
def engage(stub: Stub) -> Iterator[EngageClient]:
    with EngageClient(stub.url, SecretStr("key"), retry=RetryPolicy(waits=()), timeout=10, concurrency=1) as client:
        yield client


@pytest.fixture
def treazure(stub: Stub) -> Iterator[TreazureClient]:
    stub.on(TOKEN, answer({"access_token": "one"}))
    with TreazureClient(stub.url, "us", SecretStr("s"), retry=RetryPolicy(scale=0.0001), timeout=10) as client:
        yield client


def became(call: Callable[[], object]) -> tuple[Outcome, object]:
    try:
        return outcome.of(None), call()
    except RemoteError as error:
        return outcome.of(error), error


def send(engage: EngageClient, **options: float) -> BalancesAnswer:
    return engage.set_balances(encode_balances([GUID], ["1"], 1, NOON), **options)


def post(treazure: TreazureClient) -> Decimal | None:
    return treazure.post_transaction(GUID, "points", Decimal(1), receipt="r", comment="c")


@pytest.mark.parametrize(("reply", "expected"), TABLE)
def test_every_answer_has_one_outcome(stub: Stub, engage: EngageClient, reply: Reply, expected: Outcome) -> None:
    stub.on(BALANCES, reply)
    assert became(lambda: send(engage))[0] == expected


def test_what_never_went_out_had_no_effect(stub: Stub) -> None:
    with EngageClient("http://127.0.0.1:9", SecretStr("key"), retry=RetryPolicy(waits=())) as nobody:
        assert became(lambda: send(nobody))[0] == Outcome("none", "system", again=True)
    with EngageClient(stub.url, SecretStr("key"), retry=RetryPolicy(waits=())) as engage:
        assert became(lambda: send(engage, before=now() - 1))[0] == Outcome("none", again=True, costs_a_try=False)
    assert stub.asked == []


def test_a_request_whose_time_ran_out_may_still_be_at_work() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        EngageClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", SecretStr("key"), timeout=0.2) as engage,
    ):
        assert became(lambda: send(engage))[0] == Outcome("possible", "system", again=True, at_work=True)


@pytest.mark.parametrize("case", CASES["engage POST point-accounts/balances"], ids=lambda case: case["means"])
def test_engages_answers_to_balances(stub: Stub, engage: EngageClient, case: dict[str, Any]) -> None:
    headers = HTML if case["body"].startswith("<") else {}
    stub.on(BALANCES, Reply(case["status"], case["body"].encode(), headers))
    result, found = became(lambda: send(engage))
    means = case["means"]
    if means.startswith("accepted"):
        assert result.effect == "certain"
        assert isinstance(found, BalancesAnswer)
        assert (found.transaction_id or "no id", found.refused) == (means.removeprefix("accepted, "), {})
    elif means == "unknown":
        assert result == UNKNOWN
    else:
        assert (means[:8], result) == ("not ours", ADDRESS)


@pytest.mark.parametrize("case", CASES["treazure GET …/result"], ids=lambda case: case["means"])
def test_treazures_answers_at_a_result(stub: Stub, treazure: TreazureClient, case: dict[str, Any]) -> None:
    def fetch() -> bytes:
        with treazure.open_balances(HREF) as pieces:
            return b"".join(pieces)

    location = {"Location": storage(stub) + "?sig=1"} if "location" in case else {}
    stub.on(RESULT, Reply(case["status"], case.get("body", "").encode(), location), Reply(200, ROWS))
    stub.on(STORED, Reply(200, ROWS))
    _, found = became(fetch)
    asked = len(stub.asked_for(RESULT))
    match case["means"]:
        case "not ready":
            assert (asked, found) == (2, ROWS)
        case "failed now":
            assert (asked, type(found)) == (1, PermanentError)
        case "followed without the token":
            (stored,) = stub.asked_for(STORED)
            assert found == ROWS
            assert "authorization" not in stored.headers
        case _:
            assert (asked, found) == (1, case["body"].encode())


@pytest.mark.parametrize("case", CASES["treazure POST …/token"], ids=lambda case: case["means"])
def test_treazures_answers_to_the_login(case: dict[str, Any]) -> None:
    token = wire.read_token(case["body"].encode())
    assert (token.access_token, token.expires_in) == ("t", 3600)


@pytest.mark.parametrize("case", CASES["treazure POST …/Transaction"], ids=lambda case: case["means"])
def test_treazures_answers_to_a_transaction(stub: Stub, treazure: TreazureClient, case: dict[str, Any]) -> None:
    stub.on(TRANSACTION, Reply(case["status"], case["body"].encode()))
    result, found = became(lambda: post(treazure))
    match case["means"]:
        case "posted; the balance is read":
            assert (result.effect, found) == ("certain", None)
        case "posted or not: looked up":
            assert result.effect == "possible"
        case _:
            assert result == ADDRESS


def test_no_claim_goes_out_after_its_time_however_long_it_waits_for_a_connection(stub: Stub) -> None:
    release, begun = threading.Event(), threading.Event()

    def held(_: Asked) -> None:
        begun.set()
        release.wait(10)

    stub.before_reply = held
    stub.on(BALANCES, Reply(200, b'"t-1"'))
    with EngageClient(stub.url, SecretStr("key"), timeout=10, concurrency=-1) as engage:
        first = threading.Thread(target=lambda: send(engage))
        first.start()
        begun.wait(10)
        threading.Timer(0.3, release.set).start()
        with pytest.raises(TooLateError):
            send(engage, before=now() + 0.1)
        first.join()
    assert len(stub.asked) == 1
