"""Adjustments under all dialects at once, drawn at random; `DIALECT_SEEDS` says how many draws (5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.adjustments.desk import Desk, assert_each_once
from treazure_pipeline_tests.balance_sync.test_dialects import SEEDS


@pytest.mark.parametrize("seed", SEEDS)
def test_points_are_booked_once_and_come_back_in_any_dialect(new_desk: Callable[..., Desk], seed: int) -> None:
    desk = new_desk()
    drawn = desk.sandbox.draw_dialects(seed)
    desk.sandbox.set_fault("lost_after", on=["transaction"], count=1)
    for contact in desk.contacts(3):
        desk.give(contact, "12.5")
    desk.finish()
    assert desk.booked() == 3, drawn
    assert_each_once(desk)
