"""A row that is marked for sending again is pending although nothing changed. Every part must let it be sent."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from treazure_pipeline.balance_sync import readings
from treazure_pipeline.connections import Connections
from treazure_pipeline_tests.balance_sync.shop import account_of, assert_adds_up, assert_in_step, fetch, merge, send
from treazure_pipeline_tests.verification.verification_shop import VerificationShop


@pytest.fixture
def marked(verification_shop: VerificationShop) -> str:
    """A contact that Engage shows with another balance, found out already."""
    (contact,) = verification_shop.drift_by_hand(1)
    verification_shop.verify()
    assert list(verification_shop.marked()) == [contact]
    return contact


def record(connections: Connections, contact: str) -> bool:
    """Read an account of Treazure by itself and record it, as an adjustment does."""
    account = account_of(connections)
    asked = connections.ledger.now()
    balance = connections.treazure.account_balance(contact, account.loyalty_id)
    assert balance is not None
    return readings.record_account(connections.ledger, account, contact, balance, asked, "run")


def test_it_is_sent_though_the_master_s_balance_changed_and_came_back(
    verification_shop: VerificationShop, marked: str
) -> None:
    before = verification_shop.known_master()[marked]
    with verification_shop.connect() as connections:
        account = account_of(connections)
        for points in (before + 1, before):
            verification_shop.sandbox.set_points({marked: points})
            fetch(connections, account)
            merge(connections, account)
            assert verification_shop.marked() == {marked: points}
        assert send(connections, account).sent == 1
        assert_adds_up(connections, account)
    assert_in_step(verification_shop)


def test_an_export_that_confirms_the_balance_leaves_it_marked(verification_shop: VerificationShop, marked: str) -> None:
    run = verification_shop.sync(full=True)
    assert (run.diff.figures.changed, run.diff.figures.carried_over, run.pushed.sent) == (0, 1, 1)
    assert verification_shop.marked() == {}
    assert verification_shop.in_engage(marked) == [f"{verification_shop.known_master()[marked]}"]
    assert_in_step(verification_shop)


def test_the_newest_balance_is_what_is_sent(verification_shop: VerificationShop, marked: str) -> None:
    verification_shop.sandbox.set_points({marked: "321.5"})
    assert verification_shop.sync().pushed.sent == 1
    assert verification_shop.in_engage(marked) == ["321.5"]
    assert verification_shop.pending() == {}
    assert_in_step(verification_shop)


@pytest.mark.parametrize("change", [0, 5])
def test_a_balance_of_a_single_account_leaves_it_marked(
    verification_shop: VerificationShop, marked: str, change: int
) -> None:
    verification_shop.sandbox.add_points({marked: change})
    with verification_shop.connect() as connections:
        assert record(connections, marked)
        assert list(verification_shop.marked()) == [marked]
        assert send(connections, account_of(connections)).sent == 1
        assert_adds_up(connections, account_of(connections))
    assert_in_step(verification_shop)


def test_what_was_pending_and_what_entered_add_up_though_it_is_marked_between_merge_and_push(
    verification_shop: VerificationShop,
) -> None:
    verification_shop.sandbox.play_hour(changes=20)
    with verification_shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account)
        diff = merge(connections, account)
        quiet = set(verification_shop.members(80)) - set(verification_shop.pending())
        verification_shop.sandbox.set_engage_balances(dict.fromkeys(list(quiet)[:7], "1.23"))
        tally = verification_shop.verify().tally
        assert tally.marked == 7
        assert tally.unsettled == diff.figures.changed
        pushed = send(connections, account, diff=diff)
        assert (pushed.entered, pushed.sent) == (7, diff.figures.changed + 7)
    assert_in_step(verification_shop)


def test_it_is_marked_once_however_often_it_is_looked_at_before_the_next_push(
    verification_shop: VerificationShop, marked: str
) -> None:
    for _ in range(3):
        tally = verification_shop.verify().tally
        assert (tally.drift, tally.unsettled, tally.marked) == (0, 1, 0)
    assert list(verification_shop.marked()) == [marked]
    assert verification_shop.sql("select entered from observation where source = 'read_back'") == [(1,)]
    assert verification_shop.sql("select rounds from verification where contact = %s", marked) == [(1,)]


def test_a_refused_one_keeps_its_reason_and_is_tried_again(verification_shop: VerificationShop, marked: str) -> None:
    verification_shop.sandbox.know([marked], known=False)
    assert verification_shop.send_pending().refused == 1
    verification_shop.sandbox.know([marked], known=True)
    verification_shop.time_passes(hours=2)
    assert verification_shop.send_pending().sent == 1
    assert_in_step(verification_shop)


def test_a_lost_answer_leaves_it_pending(verification_shop: VerificationShop, marked: str) -> None:
    verification_shop.sandbox.set_fault("lost_after")
    pushed = verification_shop.send_pending()
    assert (pushed.lost, pushed.sent) == (1, 1)
    assert verification_shop.in_engage(marked) == [f"{verification_shop.known_master()[marked]}"]
    assert_in_step(verification_shop)


def test_a_negative_balance_that_engage_had_accepted_needs_no_second_approval(
    new_verification_shop: Callable[..., VerificationShop],
) -> None:
    verification_shop = new_verification_shop(members=20)
    contact = verification_shop.members(1)[0]
    verification_shop.sync()
    verification_shop.sandbox.set_points({contact: "-12.5"})
    verification_shop.sql("update ledger set sent = -12.5 where contact = %s", contact)
    assert verification_shop.verify().tally.drift == 1
    assert verification_shop.marked() == {contact: Decimal("-12.5")}
    assert verification_shop.sql("select held from unsettled where contact = %s", contact) == [(False,)]
