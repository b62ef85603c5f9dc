"""The points history under all dialects at once, drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline.points_history.refresh import refresh
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of
from treazure_pipeline_tests.balance_sync.test_dialects import SEEDS


@pytest.mark.chance
@pytest.mark.parametrize("seed", SEEDS)
def test_every_log_is_read_and_adds_up_in_any_dialect(new_shop: Callable[..., Shop], seed: int) -> None:
    shop = new_shop(members=40)
    shop.sync()
    shop.sandbox.play_hour(changes=15)
    drawn = shop.sandbox.draw_dialects(seed)
    shop.sync()
    with shop.connect("background_connections") as connections:
        done = refresh(connections.ledger, connections.treazure, account_of(connections), everybody=True)
    assert (done.read, done.failed, done.differing, done.unreadable) == (40, 0, 0, 0), drawn
    assert done.movements > 40
