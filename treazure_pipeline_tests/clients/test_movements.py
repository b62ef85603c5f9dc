"""A points log, in every form that Treazure may give it: what it says is read, and what can't be read costs itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.clients.movements import Log, read_log
from treazure_pipeline.clients.points_log import balance_of, lost, oldest_first, reaches, sum_of
from treazure_pipeline.clients.wire import Movement, WireError

DATA = Path(__file__).parent / "data"
GOOD = {"dateTime": "2026-03-01T10:00:00Z", "amount": 5, "transactionType": "Load", "balance": 5}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def log(*rows: object) -> Log:
    return read_log(json.dumps(rows).encode())


def one(**changes: Any) -> Movement:
    """The one movement of a log that is odd in these fields."""
    [movement] = log(GOOD | changes).movements
    return movement


def test_the_log_of_a_service_with_offline_tills_is_read_whole() -> None:
    expected = json.loads((DATA / "history-odd.expected.json").read_text())
    found = read_log((DATA / "history-odd.json").read_bytes())
    assert found.unreadable == []
    informational = [each for each in found.movements if each.transaction_type == "RedeemVoucher"]
    assert (len(informational), len(found.movements)) == (expected["informational"], expected["movements"] + 1)
    assert sum_of(found.movements) == balance_of(found.movements) == Decimal(expected["balance"])
    assert reaches(found.movements, Decimal(expected["balance"]))
    expires = {f"{each.date_time:%Y-%m-%d}": each.expires_at for each in found.movements if each.expires_at}
    assert {day: f"{at:%Y-%m-%dT%H:%M:%SZ}" for day, at in expires.items()} == expected["expires"]
    assert [each.shop_id for each in found.movements] == ["12"] * 5
    assert [each.receipt_nr for each in found.movements] == ["1001", "1002", None, None, "1005"]
    assert found.movements[2].comment == "half \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("text", [
    "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59Z", "9999-12-31", "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "0001-01-01", "", " ", None,
])  # fmt: skip
def test_dotnets_first_and_last_moments_are_no_time(text: str | None) -> None:
    assert one(expiresAt=text).expires_at is None


@pytest.mark.parametrize(("text", "moment"), [
    ("2027-02-11", datetime(2027, 2, 11, tzinfo=UTC)),
    ("2027-02-11T01:30:00+02:00", datetime(2027, 2, 10, 23, 30, tzinfo=UTC)),
    ("2027-02-11T01:30:00", datetime(2027, 2, 11, 1, 30, tzinfo=UTC)),
    ("2027-02-11 01:30:00.1234560Z", datetime(2027, 2, 11, 1, 30, 0, 123456, tzinfo=UTC)),
])  # fmt: skip
def test_times_are_utc_in_whichever_form_they_come(text: str, moment: datetime) -> None:
    odd = {"shopId": 7}  # takes the strict way from one of the two
    for changes in ({}, odd):
        found = one(dateTime=text, expiresAt=text, **changes)
        assert (found.date_time, found.expires_at) == (moment, moment)


@pytest.mark.parametrize(("given", "text"), [
    ("a\0b\x01c\td\n", "abc\td\n"), ("half \ud83d", "half \N{REPLACEMENT CHARACTER}"),
    ("\udc4d half", "\N{REPLACEMENT CHARACTER} half"), ("\ud83d\udc4d", "\N{THUMBS UP SIGN}"),
    (1001, "1001"), (12.50, "12.5"), (True, "true"), (None, None), ("", ""),
])  # fmt: skip
def test_texts_are_clean_whatever_stands_for_them(given: object, text: str | None) -> None:
    found = one(comment=given, receiptNr=given, shopId=given, posId=given, operatorId=given)
    assert [found.comment, found.receipt_nr, found.shop_id, found.pos_id, found.operator_id] == [text] * 5


def test_a_number_for_a_text_is_written_out_only_while_it_is_short() -> None:
    row = json.dumps(GOOD)[:-1]
    [found] = read_log(
        f'[{row}, "receiptNr": 1e999999999, "shopId": 1.2E+3, "posId": 1e-999999999}}]'.encode()
    ).movements
    assert (found.receipt_nr, found.shop_id, found.pos_id) == ("1E+999999999", "1200", "1E-999999999")


@pytest.mark.parametrize("properties", [None, [], ["a", 1], {"a": [1, 2.5, None]}, "a", {"a\0": "\ud83d"}])
def test_properties_may_be_anything(properties: object) -> None:
    found = one(properties=properties, shopId=1).properties
    assert found == ({"a": "\N{REPLACEMENT CHARACTER}"} if properties == {"a\0": "\ud83d"} else properties)


@pytest.mark.parametrize(("kind", "read"), [
    ("Bonus2", "Bonus2"), ("load", "Load"), ("REDEEMVOUCHER", "RedeemVoucher"), (3, "3"), (None, "unknown"),
    ("", "unknown"),
])  # fmt: skip
def test_types_are_known_in_any_case_and_kept_where_they_are_not(kind: object, read: str) -> None:
    assert one(transactionType=kind).transaction_type == read


def test_names_are_read_in_any_case() -> None:
    pascal = {name[0].upper() + name[1:]: value for name, value in GOOD.items()}
    assert log(pascal).movements == log(GOOD).movements


def test_points_are_exact_as_numbers_and_as_texts() -> None:
    assert one(amount="25.50", balance=" 0.1 ").amount == Decimal("25.50")
    exact = json.dumps([GOOD | {"shopId": 1}]).replace('"amount": 5', '"amount": 0.1234567890123456789')
    assert read_log(exact.encode()).movements[0].amount == Decimal("0.1234567890123456789")


def test_what_moves_no_points_needs_neither_amount_nor_balance() -> None:
    for kind in ("RedeemVoucher", "Bonus2"):
        found = one(transactionType=kind, amount=None, balance="")
        assert (found.amount, found.balance) == (Decimal(0), None)


BAD: list[tuple[Any, str]] = [
    (GOOD | {"amount": None}, "amount is missing"),
    (GOOD | {"amount": "1,5"}, "amount is not a number"),
    (GOOD | {"amount": "NaN"}, "amount is not a number"),
    (GOOD | {"amount": float("nan")}, "amount is not a number"),
    (GOOD | {"amount": True}, "amount is not a number"),
    (GOOD | {"amount": 1e300}, "amount is not a number"),
    (GOOD | {"balance": "Infinity"}, "balance is not a number"),
    (GOOD | {"dateTime": "0001-01-01T00:00:00"}, "dateTime is missing"),
    (GOOD | {"dateTime": "yesterday"}, "dateTime is not a time"),
    (GOOD | {"dateTime": 1_772_000_000}, "dateTime is not a time"),
    (GOOD | {"expiresAt": "someone@example.com"}, "expiresAt is not a time"),
    ({}, "not an object"), (None, "not an object"), ("text", "not an object"), ([GOOD], "not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_movement_that_cannot_be_read_costs_itself_and_is_named_without_a_value(bad: Any, reason: str) -> None:
    found = log(GOOD, bad, GOOD)
    assert found.movements == log(GOOD, GOOD).movements
    [unreadable] = found.unreadable
    assert (unreadable.place, unreadable.moves) == (2, True)
    assert reason in str(unreadable)
    assert "example.com" not in str(unreadable)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"a"', b"[" * 100_000, json.dumps([BAD[0][0]]).encode()])
def test_an_answer_of_which_nothing_can_be_read_is_no_log(body: bytes) -> None:
    with pytest.raises(WireError, match="it is not a history"):
        read_log(body)
    assert read_log(b"[]") == Log([])


def test_a_movement_is_lost_only_where_the_others_do_not_add_up_without_it() -> None:
    found = log(GOOD, GOOD | {"amount": "?", "receiptNr": 77})
    assert found.unreadable[0].receipt == "77"
    assert lost(found.movements, found.unreadable, Decimal(5)) is None
    assert lost(found.movements, found.unreadable, Decimal(12)) == found.unreadable[0]
    voucher = log(GOOD, GOOD | {"transactionType": "RedeemVoucher", "dateTime": "?"})
    assert lost(voucher.movements, voucher.unreadable, Decimal(12)) is None


def chain(*steps: tuple[int, int], since: int = 1) -> list[Movement]:
    """Movements of an amount that each left a balance, a day apart."""
    moves = [
        GOOD | {"dateTime": f"2026-03-{since + day:02}T10:00:00Z", "amount": amount, "balance": balance}
        for day, (amount, balance) in enumerate(steps)
    ]
    return log(*moves).movements


@pytest.mark.parametrize(
    ("steps", "complete"),
    [
        ([(5, 5), (10, 15)], True),
        ([(3, 103), (10, 113)], True),  # the oldest are not shown any more
        ([(10, 15)], True),
        ([(5, 5), (10, 22)], False),  # one of 7 between them is not shown yet
        ([(0, 0), (10, 17)], False),
        ([(5, 5), (-5, 0), (10, 17)], False),
        ([(5, 105), (-5, 100), (10, 117)], False),
        ([(5, 5), (10, 15), (7, 22)], True),
    ],
)
def test_a_log_reaches_a_balance_only_where_no_movement_within_it_is_missing(
    steps: list[tuple[int, int]], *, complete: bool
) -> None:
    movements = chain(*steps)
    assert reaches(movements, Decimal(steps[-1][1])) is complete
    assert not reaches(movements, Decimal(steps[-1][1] + 1))


def test_the_balance_of_a_log_is_that_of_the_movement_posted_last_whatever_its_time() -> None:
    sale = GOOD | {"dateTime": "2026-03-02T10:00:00Z", "amount": 10, "balance": 15}
    late = GOOD | {"dateTime": "2026-02-01T10:00:00Z", "amount": 2, "balance": 17}
    assert balance_of(oldest_first(log(GOOD, sale, late).movements)) == 17
    assert balance_of(oldest_first(log(sale, late).movements)) == 17
    assert balance_of([]) == 0


TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
MOVEMENTS = st.fixed_dictionaries(
    {
        "dateTime": st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: f"{at.isoformat()}Z"),  # noqa: DTZ001 - the text says UTC
        "amount": st.integers(-999, 999), "balance": st.none() | st.integers(0, 999),
        "transactionType": st.sampled_from(["Load", "Redeem", "RedeemVoucher", "Bonus2"]), "comment": TEXTS,
        "receiptNr": TEXTS, "properties": st.none() | st.dictionaries(st.sampled_from("ab"), st.floats(-9, 9)),
    }
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(MOVEMENTS, max_size=4))
def test_the_tolerant_way_reads_what_the_strict_one_does(rows: list[dict[str, Any]]) -> None:
    odd = GOOD | {"shopId": 7}
    assert log(*rows, odd).movements[:-1] == log(*rows).movements
