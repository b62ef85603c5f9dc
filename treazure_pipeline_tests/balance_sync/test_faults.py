from __future__ import annotations

from collections.abc import Callable
from threading import Timer
from typing import Any

import pytest

from treazure_pipeline.clients import outcome
from treazure_pipeline.errors import (
    AuthenticationError,
    GatewayError,
    InvalidAnswerError,
    NoAnswerError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    TransientError,
)
from treazure_pipeline.sandbox import running_sandbox
from treazure_pipeline_tests.balance_sync.shop import (
    Shop,
    account_of,
    assert_in_step,
    assert_well_behaved,
    fetch,
    merge,
    send,
)

NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("lost_before", {"count": 3}),
        ("lost_after", {"count": 3}),
        ("server_error", {"count": 3}),
        ("server_error", {"count": 2, "effect": True, "status": 500}),
        ("server_error", {"count": 2, "seconds": 0}),
        ("server_error", {"count": 1, "status": 408}),
        ("rate_limited", {"count": 3, "seconds": 0}),
        ("rate_limited", {"count": 6, "seconds": 0.2}),
        ("html", {"on": ["set_balances"], "count": 2}),
        ("not_array", {"on": ["set_balances"], "count": 2}),
    ],
)
def test_answers_that_fail_a_few_times_cost_nothing_but_time(
    shop: Shop, fault: str, parameters: dict[str, Any]
) -> None:
    shop.sandbox.set_fault(fault, **parameters)
    run = shop.sync()
    assert shop.sandbox.report()["faults"][fault] == parameters["count"]
    assert run.pushed.sent == 200
    assert_in_step(shop)


def test_a_lost_answer_is_counted_and_its_rows_are_set_again(shop: Shop) -> None:
    shop.sandbox.set_fault("lost_after", count=1)
    run = shop.sync()
    assert run.pushed.lost == 1
    assert run.pushed.requests == 5
    assert sorted(shop.sql("select state, count(*) from batch group by 1")) == [("folded", 4), ("lost", 1)]
    assert_in_step(shop)


def test_what_is_sent_after_a_failure_is_the_newest_balance(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=20)
    shop.sandbox.set_fault("server_error", count=None)
    failed = shop.sync(complete=False)
    assert isinstance(failed.pushed.error, TransientError)
    shop.sandbox.clear_faults()
    shop.sandbox.play_hour(changes=20)
    shop.sandbox.forget()
    shop.sync()
    assert shop.sandbox.report()["rows"]["received"] == 20
    assert_in_step(shop)


@pytest.mark.parametrize(
    ("fault", "parameters", "error"),
    [
        ("server_error", {}, TransientError),
        ("lost_before", {}, NoAnswerError),
        ("lost_after", {}, NoAnswerError),
        ("html", {"on": ["set_balances"]}, InvalidAnswerError),
        ("not_array", {"on": ["set_balances"]}, InvalidAnswerError),
        ("server_error", {"status": 401}, AuthenticationError),
        ("server_error", {"status": 403}, AuthenticationError),
        ("server_error", {"status": 404}, NotFoundError),
        ("server_error", {"status": 405}, PermanentError),
        ("html", {"on": ["set_balances"], "status": 400}, GatewayError),
    ],
)
def test_a_push_that_cannot_go_on_keeps_what_was_accepted_and_the_next_run_goes_on(
    shop: Shop, fault: str, parameters: dict[str, Any], error: type[Exception]
) -> None:
    shop.sandbox.set_fault(fault, count=None, after=2, **parameters)
    failed = shop.sync(complete=False, ENGAGE_CONCURRENCY="1")
    assert type(failed.pushed.error) is error
    assert failed.pushed.sent == 100
    assert failed.pushed.pending + failed.pushed.refused == 100
    assert failed.pushed.refused == 0
    shop.sandbox.clear_faults()
    shop.sandbox.forget()
    run = shop.sync()
    assert run.pushed.sent == 100
    assert shop.sandbox.report()["rows"]["received"] == 100
    assert_in_step(shop)


def test_while_engage_is_down_nothing_is_lost(shop: Shop) -> None:
    failed = shop.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    assert isinstance(failed.pushed.error, TransientError)
    assert outcome.of(failed.pushed.error).effect == "none"
    assert failed.pushed.lost == 0
    assert failed.pushed.pending == 200
    shop.sandbox.play_hour(changes=10)
    shop.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    shop.sync()
    assert_in_step(shop)


def test_an_engage_that_dies_in_the_middle_of_a_push_loses_nothing(database_url: str) -> None:
    with running_sandbox(members=300, apply_delay=0) as sandbox:
        shop = Shop(sandbox, database_url)
        with running_sandbox(members=300, apply_delay=0) as dying:
            dying.set_fault("server_error", after=3, count=None)
            failed = shop.sync(complete=False, ENGAGE_BASE_URL=dying.base_url)
            assert failed.pushed.sent == 150
        assert shop.send_pending(complete=False, ENGAGE_BASE_URL=dying.base_url).pending == 150
        run = shop.send_pending()
        assert run.sent == 150


def test_a_rate_limit_that_never_ends_fails_the_run_after_a_while(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.pacing.SHORTEST_PATIENCE_SECONDS", 0.3)
    shop.sandbox.set_fault("rate_limited", count=None, seconds=0.1)
    failed = shop.sync(complete=False)
    assert isinstance(failed.pushed.error, RateLimitedError)
    assert failed.pushed.pending == 200
    shop.sandbox.clear_faults()
    shop.sync()
    assert_in_step(shop)


def test_rows_in_a_request_without_an_answer_wait_until_its_lease_is_over(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=20, environ={"ENGAGE_TIMEOUT_SECONDS": "0.5"})
    shop.sandbox.set_fault("slow", seconds=4, count=1)
    run = shop.sync()
    assert run.pushed.lost == 1
    assert run.pushed.sent == 20
    (lost,), (again,) = (
        shop.sql("select lease_until from batch where state = 'lost'"),
        shop.sql("select claimed_at from batch where state = 'folded'"),
    )
    assert again >= lost
    assert_in_step(shop)


def test_a_late_effect_never_overwrites_a_newer_balance(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=20, environ={"ENGAGE_TIMEOUT_SECONDS": "0.5"})
    shop.sandbox.set_fault("slow", seconds=2, effect=False, count=1)
    shop.sync()
    shop.sandbox.play_hour(changes=20)
    shop.sync()
    assert_in_step(shop)


def test_rows_that_engage_swallows_are_sent_and_the_ledger_says_no_more_than_that(shop: Shop) -> None:
    shop.sandbox.set_fault("swallowed", share=0.5, count=2)
    run = shop.sync()
    assert run.pushed.sent == 200
    assert shop.pending() == {}
    assert shop.sandbox.differences()["differing"] > 0
    assert_well_behaved(shop)


def test_accepted_rows_that_engage_applies_late_are_not_sent_again(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(behavior={"apply_delay": 3600})
    shop.sync()
    shop.sync()
    assert shop.sandbox.report()["rows"]["received"] == 200
    assert shop.sandbox.differences()["queued"] == 200
    shop.sandbox.apply_queue()
    assert_in_step(shop)


def test_closing_the_connections_ends_the_waits_between_tries(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=20, environ={"TREAZURE_PIPELINE_RETRY_SCALE": "1000"})
    shop.sandbox.set_fault("server_error", count=None)
    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account)
        diff = merge(connections, account)
        timer = Timer(0.5, connections.stop.set)
        timer.start()
        pushed = send(connections, account, diff=diff)
        timer.join()
    assert (pushed.sent, pushed.pending) == (0, 20)
