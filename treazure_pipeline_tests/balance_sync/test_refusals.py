from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from treazure_pipeline.errors import PermanentError
from treazure_pipeline.ledger import figures
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step

REAL_WAITS = {"TREAZURE_PIPELINE_RETRY_SCALE": "1"}


def test_a_batch_refused_as_a_whole_is_split_until_the_bad_row_stands_alone(shop: Shop) -> None:
    bad = shop.sandbox.contact_ids(200)[77]
    shop.sandbox.behave(poison=[bad.upper()])
    run = shop.sync()
    assert (run.pushed.sent, run.pushed.refused) == (199, 1)
    assert list(shop.pending()) == [bad]
    assert shop.sql("select tries, reason <> '' from pending") == [(1, True)]
    assert shop.sandbox.differences()["differing"] == 1
    assert run.pushed.requests < 4 + 2 * 7
    shop.sandbox.behave(poison=[])
    shop.time_passes(hours=1)
    assert shop.sync().pushed.sent == 1
    assert_in_step(shop)


def test_many_bad_rows_are_all_found_and_the_others_sent(shop: Shop) -> None:
    bad = sorted(shop.sandbox.contact_ids(200)[::23])
    shop.sandbox.behave(poison=bad)
    run = shop.sync()
    assert run.pushed.refused == len(bad)
    assert run.pushed.sent == 200 - len(bad)
    assert list(shop.pending()) == bad
    shop.sandbox.behave(poison=[])
    shop.time_passes(hours=1)
    shop.sync()
    assert_in_step(shop)


def test_too_many_rows_for_engage_are_sent_in_smaller_requests(shop: Shop) -> None:
    shop.sandbox.behave(max_rows=20)
    run = shop.sync()
    assert (run.pushed.sent, run.pushed.refused) == (200, 0)
    assert_in_step(shop)


def test_a_refused_row_is_tried_once_a_run_and_waits_longer_each_time(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30, environ=REAL_WAITS)
    bad = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.behave(poison=[bad])
    waits: list[timedelta] = []
    assert shop.sync().pushed.refused == 1
    for tries in range(1, 7):
        ((counted, wait),) = shop.sql("select tries, next_try - refused_last from pending")
        assert counted == tries
        waits.append(wait)
        shop.sandbox.forget()
        held = shop.sync().pushed
        assert (held.refused, held.held, held.requests) == (0, 1, 0)
        shop.time_passes(hours=wait.total_seconds() / 3600)
        again = shop.sync().pushed
        assert (again.refused, again.held, again.requests) == (1, 0, 1)
    assert waits == sorted(waits)
    assert waits[0] < timedelta(hours=1)
    assert waits[1] > 1.5 * waits[0]
    assert waits[-1] <= timedelta(hours=24) + timedelta(seconds=1)


def test_an_unknown_contact_blocks_nobody_and_is_sent_once_engage_knows_it(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(unknown_share=0.1)
    run = shop.sync()
    unknown = sorted(row["contactId"] for row in shop.sandbox.balances(limit=200) if not row["known"])
    assert unknown
    assert list(shop.pending()) == unknown
    assert (run.pushed.sent, run.pushed.refused) == (200 - len(unknown), len(unknown))
    assert {reason for (reason,) in shop.sql("select reason from pending")}
    assert_in_step(shop)
    shop.sandbox.know(unknown[:2], known=True)
    shop.time_passes(hours=1)
    assert shop.sync().pushed.sent == 2
    assert list(shop.pending()) == unknown[2:]
    assert_in_step(shop)


def test_a_refused_row_that_changes_is_sent_with_its_newest_balance(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30)
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.know([contact], known=False)
    shop.sync()
    shop.sandbox.set_points({contact: "123.45"})
    shop.sandbox.know([contact], known=True)
    shop.time_passes(hours=1)
    shop.sync()
    assert shop.in_engage(contact) == ["123.45"]
    assert_in_step(shop)


def test_a_contact_unknown_for_thirty_days_is_gone_shown_and_no_longer_tried(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30)
    contact = shop.sandbox.contact_ids(1)[0]
    shop.sandbox.know([contact], known=False)
    shop.sync()
    for _ in range(4):
        shop.time_passes(hours=7 * 24)
        assert shop.sync().pushed.refused == 1
        assert shop.sql("select gone from pending") == [(False,)]
    shop.time_passes(hours=49)
    assert shop.sync().pushed.refused == 1
    assert shop.sql("select gone from pending") == [(True,)]
    shop.time_passes(hours=48)
    shop.sandbox.forget()
    gone = shop.sync().pushed
    assert (gone.held, gone.requests) == (1, 0)
    with shop.connect() as connections:
        status = figures.status(connections.ledger, account_of(connections))
        assert (status.gone, status.pending) == (1, 1)
    assert_in_step(shop)


def test_a_poison_row_is_never_gone(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30)
    shop.sandbox.behave(poison=[shop.sandbox.contact_ids(1)[0]])
    shop.sync()
    shop.time_passes(hours=31 * 24)
    shop.sync()
    assert shop.sql("select gone, tries from pending") == [(False, 2)]


def test_when_engage_refuses_every_row_the_run_gives_up_instead_of_asking_for_each(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=1000)
    shop.sandbox.set_fault("server_error", status=400, count=None)
    failed = shop.sync(complete=False)
    assert isinstance(failed.pushed.error, PermanentError)
    assert failed.pushed.requests < 250
    shop.sandbox.clear_faults()
    shop.time_passes(hours=25)
    shop.sync()
    assert_in_step(shop)


def test_a_definition_that_engage_lacks_fails_the_run_or_holds_the_rows_and_loses_none(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=30)
    run = shop.sync(complete=False, ENGAGE_DEFINITION_ID="9")
    assert run.pushed.sent == 0
    assert "definition" in str(shop.sql("select min(reason) from pending"))
    assert shop.sandbox.differences()["engage_total"] == "0"


@pytest.mark.parametrize("transaction_id", ["transactionId", "id", "bare"])
@pytest.mark.parametrize("status", [200, 202])
def test_acceptance_is_understood_in_every_spelling(shop: Shop, transaction_id: str, status: int) -> None:
    shop.sandbox.behave(transaction_id=transaction_id, accept_status=status)
    shop.sync()
    assert all(name for (name,) in shop.sql("select transaction_id from batch"))
    assert_in_step(shop)


@pytest.mark.parametrize("members", [1, 3])
def test_a_wrong_key_is_held_against_no_row(new_shop: Callable[..., Shop], members: int) -> None:
    shop = new_shop(members=members, environ=REAL_WAITS)
    run = shop.sync(complete=False, ENGAGE_API_KEY="wrong")
    assert run.pushed.error is not None
    assert (run.pushed.refused, run.pushed.pending) == (0, members)
    assert shop.sync().pushed.sent == members
    assert_in_step(shop)
