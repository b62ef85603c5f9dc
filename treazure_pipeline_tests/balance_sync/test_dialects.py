"""The whole hourly sync under all dialects at once, drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.effort import EFFORT

SEEDS = range(5 * EFFORT)


@pytest.mark.chance
@pytest.mark.parametrize("seed", SEEDS)
def test_both_systems_agree_and_each_change_is_sent_once_in_any_dialect(
    new_shop: Callable[..., Shop], seed: int
) -> None:
    shop = new_shop(members=60, behavior={"export_polls": 2, "export_retry_after": None})
    drawn = shop.sandbox.draw_dialects(seed)
    first = shop.sync()
    assert first.pushed.sent == 60, drawn
    for _ in range(2):
        shop.sandbox.play_hour(changes=15)
        shop.sync()
    rows = shop.sandbox.report()["rows"]
    assert rows["received"] == 60 + 2 * 15, drawn
    assert shop.pending() == {}
    assert_in_step(shop)
