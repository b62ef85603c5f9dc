from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from treazure_pipeline.database import schema
from treazure_pipeline_tests.service.conftest import event, serving


@contextmanager
def job(database_url: str, state: str, balance: str | None) -> Iterator[None]:
    """Stands for the job: brings every adjustment to a state, for the block."""
    over = threading.Event()

    def work() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"set search_path to {schema.SCHEMA}".encode())
            while not over.is_set():
                connection.execute(
                    "update adjustment set state = %s, balance = %s where state = 'received'", [state, balance]
                )
                time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("state", ["posted", "done"])
@pytest.mark.parametrize("balance", ["1234.5", "-20", "0", "0.1000000000000000055511151231257827"])
def test_the_answer_is_the_new_balance_digit_by_digit(database_url: str, state: str, balance: str) -> None:
    with serving(database_url, answer_within=14) as running, job(database_url, state, balance):
        first = running.deliver(event())
        again = running.deliver(event())

    for answer in (first, again):
        assert (answer.status_code, answer.text) == (200, f'{{"balance": {balance}}}')
        assert answer.headers["content-type"] == "application/json"


def test_without_a_balance_in_time_the_answer_is_that_it_is_stored(database_url: str) -> None:
    with serving(database_url, answer_within=0.3) as running:
        answer = running.deliver(event())

    assert (answer.status_code, answer.json()) == (202, {"status": "stored"})


@pytest.mark.parametrize("state", ["rejected", "uncertain", "discarded"])
def test_an_adjustment_that_comes_to_nothing_is_still_acknowledged(database_url: str, state: str) -> None:
    with serving(database_url, answer_within=14) as running, job(database_url, state, None):
        answer = running.deliver(event())

    assert answer.status_code == 202


def test_what_is_no_adjustment_is_not_waited_for(database_url: str) -> None:
    with serving(database_url, answer_within=14) as running:
        answers = [running.deliver(content) for content in (event(kind="contact.created"), "no JSON")]

    assert [answer.json()["status"] for answer in answers] == ["counted", "dead_letter"]


def test_by_default_nothing_is_waited_for(database_url: str) -> None:
    with serving(database_url) as running, job(database_url, "done", "7"):
        answers = [running.deliver(event()) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {202}
