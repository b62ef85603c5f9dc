from __future__ import annotations

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.databases import backup


@pytest.mark.parametrize("adjusted", [False, True])
def test_a_balance_that_went_back_to_what_the_backup_knows_is_sent_again(shop: Shop, *, adjusted: bool) -> None:
    """Engage holds what came between, of which the restored ledger knows nothing."""
    shop.sync()
    contacts = shop.sandbox.contact_ids()
    with backup(shop.database_url) as restored:
        shop.sandbox.add_points(dict.fromkeys(contacts[:3], 10))
        assert shop.sync().pushed.sent == 3
        shop.sandbox.add_points(dict.fromkeys(contacts[:3], -10))
        shop.database_url = restored
        if adjusted:
            shop.sandbox.add_points({contacts[0]: 5})

        synced = shop.sync()

        assert synced.diff.figures.changed == adjusted
        assert_in_step(shop)
        assert shop.sync().pushed.sent == 0, "once is enough"
