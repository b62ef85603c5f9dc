"""The stored form of fetched logs gives back what Treazure said."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration.parts import (
    LARGEST_MAGNITUDE,
    MOST_FRACTION_DIGITS,
    SCHEMA,
    decode,
    encode,
    roster,
)

AMOUNTS = st.decimals(
    min_value=-(10**LARGEST_MAGNITUDE) + 1,
    max_value=10**LARGEST_MAGNITUDE - 1,
    places=MOST_FRACTION_DIGITS,
    allow_nan=False,
)
MOMENT = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)


def movement(amount: Decimal, *, at: datetime = MOMENT, comment: str | None = None) -> Movement:
    return Movement(at, amount, "Load", amount, comment=comment)


@given(amounts=st.lists(AMOUNTS, max_size=20), comment=st.text())
def test_a_log_comes_back_exactly_as_it_was(amounts: list[Decimal], comment: str) -> None:
    part = decode(encode({"A": [movement(amount, comment=comment) for amount in amounts]}))
    assert part.schema == SCHEMA
    if not amounts:
        assert part["position"].to_list() == [None]
        return
    assert part["amount"].to_list() == amounts
    assert part["position"].to_list() == list(range(len(amounts)))
    assert set(part["comment"]) == {comment}


def test_contacts_come_in_order_and_in_lower_case_and_an_empty_log_is_told_from_a_missing_one() -> None:
    part = decode(encode({"CC": [movement(Decimal(1))], "aa": [], "Bb": [movement(Decimal(2)), movement(Decimal(3))]}))
    assert part["contact"].to_list() == ["aa", "bb", "bb", "cc"]
    assert part["position"].to_list() == [None, 0, 1, 0]
    assert decode(encode({})).is_empty()


def test_an_amount_that_cannot_be_held_exactly_is_kept_as_text() -> None:
    amounts = [Decimal("1e400"), Decimal("NaN"), Decimal("1e-25"), Decimal("1e12"), Decimal("-999999999999.5")]
    part = decode(encode({"a": [movement(amount) for amount in amounts]}))
    assert part["amount"].to_list() == [None, None, None, None, Decimal("-999999999999.5")]
    assert part["unusable"].to_list() == ["1E+400", "NaN", "1E-25", "1E+12", None]


def test_the_same_logs_are_the_same_bytes() -> None:
    logs = {contact: [movement(Decimal(7), comment="åäö")] * 3 for contact in ("b", "a")}
    assert encode(logs) == encode(dict(sorted(logs.items())))


def test_a_block_of_the_roster_holds_exact_balances() -> None:
    block = roster([("a", Decimal("0.1"), None), ("b", Decimal("1E+2"), "M-7")])
    assert block.rows() == [("a", Decimal("0.1"), None), ("b", Decimal(100), "M-7")]
