"""Treazure's account, in every form that its pages allow."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from treazure_pipeline.clients.wire import PointsError, read_account_balance, read_transaction_balance

OWN = {"loyaltyPointDefinitionId": "points", "balance": 12.5}


def balance(*programmes: Any) -> Decimal | None:
    return read_account_balance(json.dumps({"loyaltyPrograms": programmes}).encode(), "points")


@pytest.mark.parametrize("other", [
    None, {}, {"loyaltyPointDefinitionId": None, "balance": None}, {"loyaltyPointDefinitionId": 7, "balance": "?"},
    {"loyaltyPointDefinitionId": ["x"], "balance": {}}, {"balance": 1}, {"loyaltyPointDefinitionId": "", "balance": ""},
])  # fmt: skip
def test_what_other_programmes_say_or_do_not_say_costs_nothing(other: Any) -> None:
    assert balance(other, OWN, other) == Decimal("12.5")
    assert balance(other) is None


def test_an_account_in_no_programme_has_no_balance() -> None:
    assert read_account_balance(b'{"loyaltyPrograms": null}', "points") is None


@pytest.mark.parametrize(("written", "read"), [("12.50", "12.50"), (" 7 ", "7"), ("-1E2", "-100"), (7, "7")])
def test_a_balance_may_be_a_text(written: object, read: str) -> None:
    assert balance(OWN | {"balance": written}) == Decimal(read)
    assert read_transaction_balance(json.dumps({"balance": written}).encode(), "points") == Decimal(read)


@pytest.mark.parametrize("written", [None, "", "NaN", "1,5", "1_000", "\uff11\uff10", True, [], {}, "1e15"])
def test_a_balance_that_is_no_number_is_no_balance(written: object) -> None:
    with pytest.raises(PointsError, match="not a number"):
        balance(OWN | {"balance": written})
