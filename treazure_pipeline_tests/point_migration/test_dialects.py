"""A migration under all dialects at once, drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.balance_sync.test_dialects import SEEDS
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


@pytest.mark.chance
@pytest.mark.parametrize("seed", SEEDS)
def test_a_migration_adds_up_in_any_dialect(new_migration_shop: Callable[..., MigrationShop], seed: int) -> None:
    migration_shop = new_migration_shop(members=40)
    drawn = migration_shop.shop.sandbox.draw_dialects(seed)
    found = migration_shop.by_files()
    assert (found.equal, found.differing, found.left_out) == (40, 0, 0), drawn
    assert_in_step(migration_shop.shop)
