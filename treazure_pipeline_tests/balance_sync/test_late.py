"""A sender that stands still between its claim and its sending."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from decimal import Decimal

import pytest

from treazure_pipeline.balance_sync import readings
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.engage_wire import BalancesAnswer
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, fetch, merge, send


class Standing(EngageClient):
    """Stands still, once, as its balances are about to go out; `meanwhile` is what happens then."""

    meanwhile: Callable[[], None] | None = None

    def set_balances(self, body: bytes, *, before: float = math.inf) -> BalancesAnswer:
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()
        return super().set_balances(body, before=before)


def test_what_was_claimed_before_a_standstill_is_not_sent_after_it_but_claimed_again(
    new_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treazure_pipeline.balance_sync.push.LEASE_MARGIN_SECONDS", 0.2)
    shop = new_shop(members=5, environ={"ENGAGE_CONCURRENCY": "1"})
    contact = shop.sandbox.contact_ids(1)[0]
    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        fetch(connections, account)
        diff = merge(connections, account)

        def a_newer_balance_and_too_long() -> None:
            asked = connections.ledger.now()
            shop.sandbox.set_points({contact: 77})
            assert readings.record_account(connections.ledger, account, contact, Decimal(77), asked, "other")
            time.sleep(0.3)

        settings = connections.settings
        connections.engage = Standing(settings.engage_base_url, settings.engage_api_key)
        connections.engage.meanwhile = a_newer_balance_and_too_long
        pushed = send(connections, account, diff=diff)
    assert (pushed.requests, pushed.lost, pushed.error) == (1, 0, None)
    assert shop.sandbox.report()["rows"]["received"] == 5
    assert shop.in_engage(contact) == ["77"]
    assert_in_step(shop)
