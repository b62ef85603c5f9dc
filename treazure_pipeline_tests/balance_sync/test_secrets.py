from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from treazure_pipeline.errors import PipelineError
from treazure_pipeline.sandbox import API_KEY, CLIENT_SECRET
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

SECRETS = (API_KEY, CLIENT_SECRET)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The access tokens that Treazure gave out, overheard on the wire."""
    heard: list[str] = []
    send = httpx.Client.send

    def overhear(client: httpx.Client, request: httpx.Request, **keywords: Any) -> httpx.Response:
        response = send(client, request, **keywords)
        authorization = response.request.headers.get("authorization", "")
        if authorization:
            heard.append(authorization.removeprefix("Bearer "))
        return response

    monkeypatch.setattr(httpx.Client, "send", overhear)
    return heard


def everything_shown(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    records = [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records]
    return "\n".join([out, err, caplog.text, *records])


def test_a_good_run_shows_no_secret(
    shop: Shop, tokens: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")  # which the command line keeps quiet
    run = shop.sync()
    shown = everything_shown(caplog, capfd) + repr(run)
    assert tokens
    assert caplog.records
    assert [secret for secret in (*SECRETS, *tokens) if secret in shown] == []
    assert_in_step(shop)


@pytest.mark.parametrize(
    ("fault", "on", "status"),
    [
        ("server_error", ["token"], 400),
        ("server_error", ["token"], 503),
        ("token_expired", ["export_request"], 401),
        ("server_error", ["export_result"], 403),
        ("html", ["export_result"], 200),
        ("lost_after", ["export_request"], 0),
        ("server_error", ["set_balances"], 401),
        ("server_error", ["set_balances"], 500),
        ("lost_before", ["set_balances"], 0),
        ("rate_limited", ["set_balances"], 429),
    ],
)
def test_a_failed_run_shows_no_secret(
    shop: Shop,
    tokens: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    on: list[str],
    status: int,
) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.pacing.SHORTEST_PATIENCE_SECONDS", 0.2)
    caplog.set_level(logging.DEBUG)
    parameters = {"status": status} if fault == "server_error" else {}
    shop.sandbox.set_fault(fault, on=on, count=None, **parameters)
    seen: list[Any] = []
    try:
        run = shop.sync(complete=False)
    except PipelineError as error:
        chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
        seen += [f"{one!s} {one!r} {vars(one)}" for one in chain if one is not None]
    else:
        assert run.pushed.error is not None
        seen += [repr(run), str(run.pushed.error), repr(vars(run.pushed.error))]
    shown = everything_shown(caplog, capfd) + "".join(map(str, seen))
    kept = str(shop.sql("select * from batch")) + str(shop.sql("select * from observation"))
    assert [secret for secret in (*SECRETS, *tokens) if secret in shown + kept] == []


def test_nothing_that_is_printed_of_the_connections_shows_a_secret(shop: Shop) -> None:
    with shop.connect() as connections:
        shown = " ".join(
            repr(part) + str(part)
            for part in (
                connections,
                connections.settings,
                connections.ledger,
                connections.treazure,
                connections.engage,
            )
        )
    assert [secret for secret in SECRETS if secret in shown] == []


def test_a_key_that_a_header_can_t_hold_is_named_and_not_shown(shop: Shop) -> None:
    with pytest.raises(PipelineError, match="ENGAGE_API_KEY") as raised:
        shop.sync(ENGAGE_API_KEY="two words")
    assert "two words" not in str(raised.value)
