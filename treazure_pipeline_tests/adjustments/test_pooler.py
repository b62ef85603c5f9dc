from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from treazure_pipeline.errors import BusyError
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of
from treazure_pipeline_tests.poolers import pooler


@pytest.fixture
def database_url(database_url: str, home: Path) -> Iterator[str]:
    """The ledger behind PgBouncer: each transaction may get another session, and three have to do for all."""
    with pooler(database_url, home) as through:
        yield through.render_as_string(hide_password=False)


def test_the_whole_job_works_behind_a_pooler_in_transaction_mode(
    new_adjustment_shop: Callable[..., AdjustmentShop], database_url: str
) -> None:
    adjustment_shop = new_adjustment_shop(environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "20"})
    with psycopg.connect(database_url, autocommit=True) as other:  # what somebody else leaves in a session
        other.execute("set search_path to nowhere")
    assert adjustment_shop.sync().pushed.sent == 20
    with adjustment_shop.connect() as connections:
        connections.ledger.hold(account_of(connections))
        with pytest.raises(BusyError):
            adjustment_shop.sync()
    for contact in adjustment_shop.contacts(15):
        adjustment_shop.sandbox.give_points(contact, "5")
    ready = adjustment_shop.receiver_url.replace("/webhooks/engage", "/readyz")
    assert {httpx.get(ready, timeout=30).status_code for _ in range(10)} == {200}
    adjustment_shop.sandbox.wait_until_delivered()
    assert adjustment_shop.process().posted == 15
    assert adjustment_shop.sync().pushed.error is None
    assert_each_once(adjustment_shop)
