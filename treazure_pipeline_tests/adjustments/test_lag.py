"""A replica that lags: what is read soon after a transaction may lack it, and replaces its answer never."""

from __future__ import annotations

import pytest

from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of, run_of


def adjusted(desk: Desk, unseen: int = 0) -> tuple[str, str]:
    """A contact in step whose adjustment is done, while all reads lag behind it; returns its balance too.

    `unseen` points were added since the last sync.
    """
    contact = desk.contacts(1)[0]
    desk.sandbox.add_points({contact: 5})
    desk.sync()
    if unseen:
        desk.sandbox.add_points({contact: unseen})
    desk.sandbox.behave(commit_delay=600)
    desk.give(contact, 50)
    assert desk.process().done == 1
    (held,) = desk.in_engage(contact)
    assert held is not None
    return contact, held


def caught_up(desk: Desk) -> None:
    """The replica has caught up, and the time for which it was mistrusted is over."""
    desk.sandbox.behave(commit_delay=0)
    desk.sandbox.commit()
    desk.sql("update observation set lags_until = now() - interval '1 hour' where lags_until is not null")
    desk.sql("update reread set next_try = now()")


@pytest.mark.parametrize("unseen", [0, 7])
def test_an_export_that_lacks_a_fresh_adjustment_does_not_win_and_the_account_is_read_later(
    desk: Desk, unseen: int
) -> None:
    contact, held = adjusted(desk, unseen)
    figures = desk.sync().diff.figures
    assert (figures.superseded, figures.changed) == (1, 0)
    assert desk.in_engage(contact) == [held]
    assert desk.sql("select contact::text, next_try > now() from reread") == [(contact, True)]
    caught_up(desk)
    assert desk.sync().diff.reread == 1
    assert desk.sql("select * from reread") == []
    assert_each_once(desk)


def test_an_account_that_is_read_too_soon_after_an_adjustment_is_read_once_more_later(desk: Desk) -> None:
    contact, held = adjusted(desk)
    with desk.connect() as connections:
        read_account(run_of(connections, account_of(connections), "read"), contact)
    assert str(desk.known_master()[contact]) == held
    assert desk.sql("select contact::text, next_try > now() from reread") == [(contact, True)]
    caught_up(desk)
    desk.sandbox.add_points({contact: 7})
    desk.sync()
    assert desk.sql("select * from reread") == []
    assert_each_once(desk)


def test_a_second_adjustment_right_after_the_first_counts_at_once(desk: Desk) -> None:
    contact, _ = adjusted(desk)
    desk.give(contact, 3)
    assert desk.process().done == 1
    caught_up(desk)
    assert_each_once(desk)
