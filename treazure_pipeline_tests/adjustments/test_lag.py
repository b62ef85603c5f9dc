"""A replica that lags: what is read soon after a transaction may lack it, and replaces its answer never."""

from __future__ import annotations

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of, run_of

LONG = {"TREAZURE_LOOKUP_WAIT_SECONDS": "600"}
"""A margin that is not over by itself, however slow the machine."""


def adjusted(adjustment_shop: AdjustmentShop, unseen: int = 0, hidden: int = 0) -> tuple[str, str]:
    """A contact in step whose adjustment is done, while all reads lag behind it; returns its balance too.

    `unseen` points were added since the last sync; after them `hidden` ones, which no read shows yet either.
    """
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.add_points({contact: 5})
    adjustment_shop.sync()
    if unseen:
        adjustment_shop.sandbox.add_points({contact: unseen})
    adjustment_shop.sandbox.behave(commit_delay=600)
    if hidden:
        adjustment_shop.sandbox.add_points({contact: hidden})
    adjustment_shop.give(contact, 50)
    assert adjustment_shop.process(**LONG).done == 1
    (held,) = adjustment_shop.in_engage(contact)
    assert held is not None
    return contact, held


def is_due(adjustment_shop: AdjustmentShop) -> bool:
    """Whether the sensor and the worker would find something to do."""
    with adjustment_shop.connect() as connections:
        return queue.is_due(connections.ledger, lookup_wait=60)


def caught_up(adjustment_shop: AdjustmentShop) -> None:
    """The replica has caught up, and the time for which it was mistrusted is over."""
    adjustment_shop.sandbox.behave(commit_delay=0)
    adjustment_shop.sandbox.commit()
    adjustment_shop.sql("update observation set lags_until = now() - interval '1 hour' where lags_until is not null")
    adjustment_shop.sql("update reread set next_try = now()")


@pytest.mark.parametrize(("unseen", "hidden"), [(0, 0), (7, 0), (7, 2)])
def test_an_export_that_lacks_a_fresh_adjustment_does_not_win_and_the_account_is_read_later(
    adjustment_shop: AdjustmentShop, unseen: int, hidden: int
) -> None:
    contact, held = adjusted(adjustment_shop, unseen, hidden)
    figures = adjustment_shop.sync().diff.figures
    assert (figures.superseded, figures.changed) == (1, 0)
    assert adjustment_shop.in_engage(contact) == [held]
    assert adjustment_shop.sql("select contact::text, next_try > now() from reread") == [(contact, True)]
    caught_up(adjustment_shop)
    assert adjustment_shop.sync().diff.reread == 1
    assert adjustment_shop.sql("select * from reread") == []
    assert_each_once(adjustment_shop)


def test_a_sale_right_after_an_adjustment_goes_to_engage_once_the_margin_is_over_not_with_the_next_sync(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sync()
    adjustment_shop.give(contact, 50)
    assert adjustment_shop.process(**LONG).done == 1
    adjustment_shop.sandbox.add_points({contact: 3})
    assert adjustment_shop.sync().diff.figures.superseded == 1
    assert not is_due(adjustment_shop)
    adjustment_shop.later(600)
    assert is_due(adjustment_shop)
    done = adjustment_shop.process()
    assert (done.reread, done.posted) == (1, 0)
    assert "1 account read once more" in done.sentence
    assert_each_once(adjustment_shop)
    assert not is_due(adjustment_shop)


def test_a_clock_that_jumps_past_the_margin_does_not_end_it(adjustment_shop: AdjustmentShop) -> None:
    contact, held = adjusted(adjustment_shop, unseen=7)
    adjustment_shop.sync()
    adjustment_shop.later(5400)
    adjustment_shop.sandbox.behave(treazure_clock=-5400)
    assert adjustment_shop.process().reread == 1
    assert adjustment_shop.in_engage(contact) == [held]
    assert adjustment_shop.sql("select contact::text from reread") == [(contact,)]
    assert not is_due(adjustment_shop)
    adjustment_shop.sandbox.behave(treazure_clock=0)
    caught_up(adjustment_shop)
    adjustment_shop.sync()
    assert adjustment_shop.sql("select * from reread") == []
    assert_each_once(adjustment_shop)


def test_an_account_that_can_not_be_read_once_more_starts_no_run(adjustment_shop: AdjustmentShop) -> None:
    adjusted(adjustment_shop)
    adjustment_shop.sync()
    caught_up(adjustment_shop)
    adjustment_shop.sandbox.set_fault("server_error", on=["account"], status=400)
    adjustment_shop.process()
    adjustment_shop.later(7200)
    assert adjustment_shop.sql("select tries, next_try < now() from reread") == [(1, True)]
    assert not is_due(adjustment_shop)


def test_an_account_that_is_read_too_soon_after_an_adjustment_is_read_once_more_later(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact, held = adjusted(adjustment_shop)
    with adjustment_shop.connect() as connections:
        read_account(run_of(connections, account_of(connections), "read"), contact)
    assert str(adjustment_shop.known_master()[contact]) == held
    assert adjustment_shop.sql("select contact::text, next_try > now() from reread") == [(contact, True)]
    caught_up(adjustment_shop)
    adjustment_shop.sandbox.add_points({contact: 7})
    adjustment_shop.sync()
    assert adjustment_shop.sql("select * from reread") == []
    assert_each_once(adjustment_shop)


def test_a_second_adjustment_right_after_the_first_counts_at_once(adjustment_shop: AdjustmentShop) -> None:
    contact, _ = adjusted(adjustment_shop)
    adjustment_shop.give(contact, 3)
    assert adjustment_shop.process().done == 1
    caught_up(adjustment_shop)
    assert_each_once(adjustment_shop)


def test_what_is_read_again_does_not_pass_a_guard(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sync()
    before = adjustment_shop.in_engage(contact)
    adjustment_shop.sandbox.add_points({contact: 500})
    for _ in range(2):  # the second merge turns planned rows into pending ones
        assert adjustment_shop.sync(complete=False, GUARD_MAX_SINGLE_CHANGE="100").pushed.held == 1
    adjustment_shop.sql("insert into reread (programme, contact, since) select programme, contact, now() from pending")
    assert adjustment_shop.process(GUARD_MAX_SINGLE_CHANGE="100").reread == 1
    assert adjustment_shop.in_engage(contact) == before
    adjustment_shop.sync()
    assert_each_once(adjustment_shop)


def test_an_adjustment_whose_account_can_not_be_read_sends_no_older_balance_that_a_guard_holds(
    adjustment_shop: AdjustmentShop,
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sync()
    before = adjustment_shop.in_engage(contact)
    adjustment_shop.sandbox.add_points({contact: 500})
    for _ in range(2):
        adjustment_shop.sync(complete=False, GUARD_MAX_SINGLE_CHANGE="100")
    adjustment_shop.sandbox.behave(transaction_answer="neither")
    adjustment_shop.sandbox.set_fault("server_error", on=["account"], count=None)
    adjustment_shop.give(contact, 5)
    assert adjustment_shop.process().posted == 1
    assert adjustment_shop.in_engage(contact) == before
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.later()
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)
