from __future__ import annotations

from decimal import Decimal

import pytest

from treazure_pipeline import phrases


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (120, "120"),
        ("120.00", "120"),
        ("711509.1", "711,509.10"),
        ("-0.125", "-0.125"),
        ("-0.00", "0"),
        ("1E+3", "1,000"),
        ("123456789012345678901234567890.10", "123,456,789,012,345,678,901,234,567,890.10"),
    ],
)
def test_points_are_exact_and_a_fraction_has_two_digits_at_least(amount: int | str, written: str) -> None:
    assert phrases.points(amount if isinstance(amount, int) else Decimal(amount)) == written


def test_a_change_has_its_sign() -> None:
    assert [phrases.change(amount) for amount in ("20.0", "-0.5", 0)] == ["+20", "-0.50", "0"]
