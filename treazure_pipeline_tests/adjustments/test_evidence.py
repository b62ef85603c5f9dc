from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import LiteralString

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.adjustments.evidence import Call, Reading, decide
from treazure_pipeline.adjustments.queue import receipt_of
from treazure_pipeline.clients.movements import Unreadable
from treazure_pipeline.clients.wire import Movement
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.databases import backup
from treazure_pipeline_tests.roles import administrators

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
RECEIPT, OTHER = receipt_of("one"), receipt_of("other")
CALL = Call(RECEIPT, Decimal(5), NOW)


def log(*moves: tuple[int, str | None], seconds: float = 0) -> list[Movement]:
    balance, movements = Decimal(0), []
    for amount, receipt in moves:
        balance += amount
        stamp = NOW + timedelta(seconds=seconds)
        movements.append(Movement(stamp, Decimal(amount), "Load", balance, receipt_nr=receipt))
    return movements


def verdict(movements: list[Movement], *, after: float = 60, proved: bool = True, call: Call = CALL) -> str:
    balance = sum((movement.amount for movement in movements), Decimal(0))
    reading = Reading(NOW + timedelta(seconds=after), movements, balance)
    return decide(call, reading, others=[OTHER], proved=proved, wait=60).outcome


def test_what_counts_as_evidence() -> None:
    assert verdict(log((3, "S-1"), (5, RECEIPT))) == "happened"
    assert verdict(log((5, f" {RECEIPT.lower()[:14]} ")), after=0) == "happened"
    assert verdict(log((5, RECEIPT[:11]))) == "undecided"
    assert verdict(log((3, "S-1"))) == "absent"
    assert verdict([]) == "absent"
    assert verdict(log((3, "S-1")), after=59) == "undecided"
    assert verdict(log((3, "S-1")), proved=False) == "undecided"
    assert verdict(log((3, "S-1")), proved=False, call=Call(RECEIPT, Decimal(5), NOW, called=False)) == "absent"
    assert verdict(log((5, "S-1"))) == "undecided"
    assert verdict(log((5, None))) == "undecided"
    assert verdict(log((5, "S-1"), seconds=-90_000)) == "absent"
    assert verdict(log((5, OTHER))) == "absent"
    assert verdict(log((5, receipt_of("an event that this ledger has lost")))) == "absent"


@pytest.mark.parametrize(
    ("days", "steps", "outcome"),
    [
        (3, [(0, 0), (10, 15)], "undecided"),
        (3, [(8, 8), (-8, 0), (10, 15)], "undecided"),
        (0, [(10, 15)], "undecided"),
        (3, [(8, 8), (10, 18)], "absent"),
        (3, [(8, 108), (10, 118)], "absent"),
    ],
)
def test_a_history_that_shows_later_movements_first_proves_nothing(
    days: int, steps: list[tuple[int, int]], outcome: str
) -> None:
    """The call's own movement, of 5, is not shown yet; in the last two there is none."""
    earlier = [NOW - timedelta(days=days, hours=-place) for place in range(len(steps) - 1)]
    moments = [*earlier, NOW + timedelta(seconds=9)]
    movements = [
        Movement(moment, Decimal(amount), "Load", Decimal(left), receipt_nr=f"S-{left}")
        for moment, (amount, left) in zip(moments, steps, strict=True)
    ]
    reading = Reading(NOW + timedelta(hours=1), movements, Decimal(steps[-1][1]))
    assert decide(CALL, reading, others=[OTHER], proved=True, wait=60).outcome == outcome


def test_what_could_not_be_read_or_does_not_reach_the_account_proves_nothing() -> None:
    late = NOW + timedelta(hours=1)
    for reading in (
        Reading(late, failure="404"),
        Reading(late, account_failure="404"),
        Reading(late, log((3, "S-1")), Decimal(8)),
        Reading(late, [*log((3, "S-1"), (5, "S-2"), (2, "S-3"))[::2]], Decimal(10)),
    ):
        assert decide(CALL, reading, others=[], proved=True, wait=60).outcome == "undecided"
    found = Reading(late, log((5, RECEIPT)), account_failure="500")
    assert decide(CALL, found, others=[], proved=True, wait=60).outcome == "happened"
    cut = Reading(late, log((9, "S-1"), (3, "S-2"), seconds=-90_000)[1:], Decimal(12))
    assert decide(CALL, cut, others=[], proved=True, wait=60).outcome == "absent"


def test_a_movement_that_cannot_be_read_proves_nothing_unless_it_shows_the_receipt_or_moved_nothing() -> None:
    late, balance = NOW + timedelta(hours=1), Decimal(8)

    def outcome(movements: list[Movement], receipt: str | None, *, moves: bool = True) -> str:
        unreadable = [Unreadable(2, "its dateTime is no time", receipt, moves)]
        reading = Reading(late, movements, balance, unreadable=unreadable)
        return decide(CALL, reading, others=[OTHER], proved=True, wait=60).outcome

    reached_by_the_chain = log((2, "S-0"), (3, "S-1"), (3, "S-2"), seconds=-90_000)[1:]
    assert outcome(reached_by_the_chain, "S-0") == "undecided"
    assert outcome(reached_by_the_chain, "S-0", moves=False) == "absent"
    assert outcome(log((8, "S-1")), "S-0") == "absent"
    assert outcome(reached_by_the_chain, RECEIPT.lower()) == "happened"


@settings(max_examples=200, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(-9, 9).filter(bool), st.sampled_from(["S-1", "", OTHER])), max_size=6),
    at=st.integers(0, 6),
    length=st.integers(12, 26),
    lower=st.booleans(),
    seed=st.integers(0, 99),
    missing=st.booleans(),
)
def test_a_movement_that_stands_there_in_whatever_form_and_order_is_never_absent(
    moves: list[tuple[int, str]],
    at: int,
    length: int,
    lower: bool,  # noqa: FBT001 - drawn
    seed: int,
    missing: bool,  # noqa: FBT001 - drawn
) -> None:
    shown = RECEIPT[:length].lower() if lower else RECEIPT[:length]
    movements = log(*moves[:at], (5, "" if missing else shown), *moves[at:])
    chance = random.Random(seed)  # noqa: S311 - an order, no secret
    chance.shuffle(movements)
    assert verdict(movements) == ("undecided" if missing else "happened")


@pytest.fixture(params=[(), ("pg_control_system()", "pg_current_wal_lsn()")], ids=["all rights", "few rights"])
def rights_of(request: pytest.FixtureRequest, database_url: str) -> Iterator[None]:
    """The role may see on which server and timeline it is, or not; then it knows only its database and tables."""
    forbidden: tuple[LiteralString, ...] = request.param
    for function in forbidden:
        _administer(database_url, f"revoke execute on function {function} from public")
        with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"select {function}")
    yield
    for function in forbidden:
        _administer(database_url, f"grant execute on function {function} to public")


def _administer(url: str, statement: LiteralString) -> None:
    with psycopg.connect(administrators(url), autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.usefixtures("rights_of")
def test_a_restored_ledger_books_nothing_twice(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop()
    contacts = adjustment_shop.contacts(12)
    numbers = [adjustment_shop.give(contact, 5) for contact in contacts]
    with backup(adjustment_shop.database_url) as restored:
        adjustment_shop.process()
        assert adjustment_shop.booked() == 12
        adjustment_shop.database_url = restored
        adjustment_shop.process()
        adjustment_shop.later()
        adjustment_shop.finish()
        assert adjustment_shop.booked() == 12
        assert [adjustment_shop.state(number)[0] for number in numbers] == ["done"] * 12
        assert_each_once(adjustment_shop)


def test_one_that_was_tried_without_effect_long_ago_is_looked_up_before_it_is_sent_again(
    adjustment_shop: AdjustmentShop,
) -> None:
    """The disk of the ledger may have been put back since: then it was sent, and nobody remembers."""
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("token_expired", on=["transaction"], count=2)
    adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "queued"
    ((*before,),) = adjustment_shop.sql("select tries, lookups, looked_at from adjustment")
    adjustment_shop.later()
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 1
    adjustment_shop.sql(
        "update adjustment set tries = %s, lookups = %s, looked_at = %s, state = 'queued', finished_at = null, "
        "balance = null, asked = asked - interval '1 hour', received_at = received_at - interval '1 hour', "
        "next_try = received_at",
        *before,
    )

    adjustment_shop.process()
    adjustment_shop.later()
    adjustment_shop.finish()

    assert adjustment_shop.booked() == 1
    assert adjustment_shop.state(number)[0] == "done"


@pytest.mark.parametrize(
    "clock",
    [
        "update adjustment set received_at = clock_timestamp() + interval '90 minutes'",
        "update programme set last_time_stamp = clock_timestamp() + interval '18 minutes'",
    ],
    ids=["by more than its age", "by less than its age"],
)
def test_an_old_adjustment_is_looked_up_first_where_the_clock_went_back_since(
    adjustment_shop: AdjustmentShop, clock: str
) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    adjustment_shop.sql(
        "update adjustment set state = 'queued', tries = 0, lookups = 0, asked = null, looked_at = null, "
        "finished_at = null, next_try = clock_timestamp() - interval '1 hour', balance = null"
    )
    adjustment_shop.sql(clock)
    adjustment_shop.process()
    assert adjustment_shop.booked() == 1
    adjustment_shop.sql("update adjustment set received_at = clock_timestamp() - interval '1 hour'")
    adjustment_shop.sql("update programme set last_time_stamp = clock_timestamp()")
    adjustment_shop.later()
    adjustment_shop.finish()
    assert adjustment_shop.state(number)[0] == "done"
    assert adjustment_shop.booked() == 1


def test_a_lost_answer_is_found_by_a_shortened_receipt(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop(
        behavior={"history_receipt_length": 20, "history_receipt_case": "lower", "history_backdated": 9e4}
    )
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.later()
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


def test_a_later_look_decides_nothing_without_new_evidence() -> None:
    foreign = log((5, "S-1"))
    for days in (0, 2, 10):
        call = Call(RECEIPT, Decimal(5), NOW + timedelta(days=days), called=False, since=NOW)
        assert verdict(foreign, after=days * 86_400, proved=False, call=call) == "undecided"


def test_where_receipts_do_not_come_back_no_lost_answer_is_sent_again(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(behavior={"history_receipt_length": 0}, proved=False)
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_before", on=["transaction"])
    adjustment_shop.process()
    for _ in range(5):
        adjustment_shop.later(90_000)
        adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "uncertain"


def test_a_404_on_history_and_account_proves_nothing(new_adjustment_shop: Callable[..., AdjustmentShop]) -> None:
    adjustment_shop = new_adjustment_shop()
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.sandbox.set_fault("server_error", on=["history", "account"], status=404, count=None)
    for _ in range(3):
        adjustment_shop.later(90_000)
        adjustment_shop.process()
        assert adjustment_shop.state(number)[0] == "sending"
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.later(90_000)
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 1
    assert_each_once(adjustment_shop)


def test_a_receipt_found_while_the_account_cannot_be_read_is_posted(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop()
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.later()
    adjustment_shop.sandbox.set_fault("server_error", on=["account"], status=404, count=None)
    adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "posted"
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.finish()
    assert_each_once(adjustment_shop)


def test_receipts_are_proved_by_any_answer_and_never_disproved_by_a_history_that_lags(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(
        behavior={"history_delay": 7200, "transaction_answer": "neither"}, proved=False
    )
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    adjustment_shop.later()
    adjustment_shop.process()
    assert adjustment_shop.sql("select found from receipts") == []
    adjustment_shop.sandbox.behave(history_delay=0)
    adjustment_shop.process()
    assert adjustment_shop.sql("select found from receipts") == [("whole",)]
