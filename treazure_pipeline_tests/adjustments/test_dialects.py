"""Adjustments under all dialects at once, drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.test_dialects import SEEDS


@pytest.mark.chance
@pytest.mark.parametrize("seed", SEEDS)
def test_points_are_booked_once_and_come_back_in_any_dialect(
    new_adjustment_shop: Callable[..., AdjustmentShop], seed: int
) -> None:
    adjustment_shop = new_adjustment_shop()
    drawn = adjustment_shop.sandbox.draw_dialects(seed)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"], count=1)
    for contact in adjustment_shop.contacts(3):
        adjustment_shop.give(contact, "12.5")
    adjustment_shop.finish()
    assert adjustment_shop.booked() == 3, drawn
    assert_each_once(adjustment_shop)
