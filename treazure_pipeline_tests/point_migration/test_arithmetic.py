"""Whatever the logs are like, each contact's rows add up to its balance, and go on doing so as points expire."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration.expiry import left_of_each
from treazure_pipeline_tests.point_migration.small_treazure import (
    CUT_OFF,
    ZERO,
    Account,
    contact,
    found,
    in_engage,
    in_engage_if_oldest_go_first,
    migrate,
    rounded,
    rows_of,
)

BEGINNING = CUT_OFF - timedelta(days=600)
LIVES = st.one_of(st.none(), st.integers(1, 900).map(lambda days: timedelta(days=days)))
AMOUNTS = st.one_of(
    st.integers(1, 500).map(Decimal),
    st.decimals("0.01", "999.99", places=2),
    st.decimals("0.000001", "99", places=6),
    st.decimals("0.00000000000000000001", "9", places=20),
    st.decimals("1", "99999999999", places=3),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "redeem", "convert", "transfer", "transfer_out", "voucher", "wait"]),
        AMOUNTS,
        LIVES,
        st.integers(0, 120),
    ),
    max_size=14,
)


def account(steps: list[tuple[str, Decimal, timedelta | None, int]]) -> Account:
    one = Account(BEGINNING)
    for step, amount, life, days in steps:
        if step == "load":
            one.load(amount, life)
        elif step == "transfer":
            one.load(amount, None, "Transfer")
        elif step == "voucher":
            one.redeem_voucher(amount)
        elif step == "wait":
            one.wait(timedelta(days=days))
        else:
            one.use(amount, {"redeem": "Redeem", "convert": "Convert", "transfer_out": "Transfer"}[step])
        one.wait(timedelta(days=days % 7, seconds=days))
    one.wait(max(CUT_OFF - one.now, timedelta()))
    return one


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with localcontext(prec=60):
        yield


@given(data=st.lists(STEPS, max_size=8), decimals=st.integers(0, 9), direction=st.sampled_from([1, -1]))
@settings(max_examples=60, deadline=None)
def test_engage_agrees_with_treazure_at_the_cut_off_and_after_every_expiry(
    data: list[list[tuple[str, Decimal, timedelta | None, int]]], decimals: int, direction: int
) -> None:
    accounts = {contact(number): account(steps) for number, steps in enumerate(data)}
    accounts = {name: one for name, one in accounts.items() if one.now == CUT_OFF}
    logs = {name: one.log[:: direction if _apart(one.log) else 1] for name, one in accounts.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = migrate(folder, logs, {name: one.balance for name, one in accounts.items()}, decimals=decimals)
        rows = rows_of(folder, report)
    assert report.findings.is_empty()
    for name, one in accounts.items():
        moments = {CUT_OFF, *(expires for expires, _ in one.dated)}
        for moment in moments:
            assert in_engage(rows, name, moment) == rounded(one.balance_in(moment), decimals)
    assert all(row["Amount"].strip("-0.") and Decimal(row["Amount"]) for row in rows)
    assert all(not row["ValidTo"] or datetime.fromisoformat(row["ValidTo"]) > CUT_OFF for row in rows)
    assert sum((file.amount for file in report.files), ZERO) == sum((Decimal(row["Amount"]) for row in rows), ZERO)


@given(
    steps=STEPS,
    drop=st.integers(0, 5),
    unknown=st.sets(st.integers(0, 13)),
    error=st.one_of(st.just(ZERO), AMOUNTS),
    decimals=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_damaged_log_is_closed_to_the_balance_and_the_contact_is_listed(
    steps: list[tuple[str, Decimal, timedelta | None, int]],
    drop: int,
    unknown: set[int],
    error: Decimal,
    decimals: int,
) -> None:
    one = account(steps)
    log = [
        msgspec.structs.replace(movement, transaction_type="Mystery") if place in unknown else movement
        for place, movement in enumerate(one.log)
    ][drop:]
    until = [movement for movement in log if movement.date_time <= CUT_OFF]
    known = [movement for movement in until if movement.transaction_type not in {"Mystery", "RedeemVoucher"}]
    balance = one.balance + error
    missing = balance - sum((movement.amount for movement in known), ZERO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = migrate(folder, {contact(7): log}, {contact(7): balance}, decimals=decimals)
        rows = rows_of(folder, report)
    later = found(report, "later_balance")
    wanted = balance if later.is_empty() else balance - later["amount"][0]
    assert in_engage(rows, contact(7), CUT_OFF) == rounded(wanted, decimals)
    mysteries = [movement for movement in until if movement.transaction_type == "Mystery"]
    assert report.figures.movements["kept_apart"] == len(mysteries)
    assert found(report, "unknown_type")["value"].to_list() == ["Mystery"] * bool(mysteries)
    if missing and later.is_empty():
        assert set(report.findings["contact"]) == {contact(7)}
    assert all(report.findings["advice"])


@given(steps=STEPS, later=STEPS)
@settings(max_examples=40, deadline=None)
def test_what_moved_after_the_cut_off_is_left_to_the_sync(
    steps: list[tuple[str, Decimal, timedelta | None, int]],
    later: list[tuple[str, Decimal, timedelta | None, int]],
) -> None:
    one = account(steps)
    if one.now != CUT_OFF:
        return
    at_cut_off, one.now = one.balance, CUT_OFF + timedelta(seconds=1)
    for step, amount, life, _ in later:
        if step == "load":
            one.load(amount, life)
        else:
            one.use(amount)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = migrate(folder, {contact(1): one.log}, {contact(1): one.balance})
        rows = rows_of(folder, report)
    assert in_engage(rows, contact(1), CUT_OFF) == rounded(at_cut_off, 2)
    assert found(report, "later_balance")["amount"].to_list() == [
        amount for amount in [one.balance - at_cut_off] if amount
    ]


@given(steps=STEPS, life=st.integers(100, 900))
@settings(max_examples=40, deadline=None)
def test_where_all_points_live_as_long_it_does_not_matter_which_rows_engage_uses_up(
    steps: list[tuple[str, Decimal, timedelta | None, int]], life: int
) -> None:
    lasting = timedelta(days=life)
    one = account([("load" if step == "transfer" else step, amount, lasting, days) for step, amount, _, days in steps])
    if one.now != CUT_OFF:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rows_of(folder, migrate(folder, {contact(1): one.log}, {contact(1): one.balance}, decimals=9))
    for moment in {CUT_OFF, *(expires for expires, _ in one.dated)}:
        shown = in_engage_if_oldest_go_first(rows, contact(1), moment)
        assert abs(shown - one.balance_in(moment)) <= Decimal("1e-9") * (len(rows) + 1)


@given(
    movements=st.lists(
        st.tuples(st.integers(-50, 50).map(Decimal), st.integers(0, 400).map(lambda days: CUT_OFF + timedelta(days))),
        max_size=12,
    )
)
def test_what_is_left_of_all_movements_is_what_was_not_used(movements: list[tuple[Decimal, datetime]]) -> None:
    left = left_of_each(movements)
    total = sum((amount for amount, _ in movements), ZERO)
    assert all(ZERO <= rest <= max(amount, ZERO) for rest, (amount, _) in zip(left, movements, strict=True))
    assert sum(left, ZERO) >= max(total, ZERO)
    if all(sum((amount for amount, _ in movements[:end]), ZERO) >= 0 for end in range(len(movements) + 1)):
        assert sum(left, ZERO) == total


def test_points_used_are_those_that_expire_first_also_where_they_were_earned_later(tmp_path: Path) -> None:
    one = Account(CUT_OFF - timedelta(days=100))
    one.load(Decimal(100), timedelta(days=300))
    one.load(Decimal(50), timedelta(days=200))
    one.wait(timedelta(days=10))
    one.use(Decimal(30))
    one.wait(timedelta(days=90))
    rows = rows_of(tmp_path, migrate(tmp_path, {contact(1): one.log}, {contact(1): one.balance}))
    assert [(row["Amount"], row["ValidTo"][:10]) for row in rows] == [
        ("100.00", "2025-12-18"),
        ("30.00", ""),
        ("20.00", "2025-09-09"),
        ("-30.00", ""),
    ]


def test_rounding_never_adds_up(tmp_path: Path) -> None:
    third = Decimal("0.333333")
    log = [Movement(BEGINNING, third, "Load", third * number) for number in range(1, 1001)]
    report = migrate(tmp_path, {contact(1): log}, {contact(1): third * 1000}, decimals=0)
    rows = rows_of(tmp_path, report)
    assert {row["Amount"] for row in rows} == {"1"}
    assert len(rows) == 333
    assert report.figures.rounding == Decimal("-0.333")


def _apart(log: list[Movement]) -> bool:
    """Whether no two movements have the same time, so that the order of an answer can be told."""
    return len({movement.date_time for movement in log}) == len(log)
