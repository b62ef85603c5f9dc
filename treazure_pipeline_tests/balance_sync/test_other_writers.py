from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice

import httpx

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import process, work_of
from treazure_pipeline.balance_sync.push import push
from treazure_pipeline.connections import Connections, Listener
from treazure_pipeline.sandbox import API_KEY, LOYALTY_ID
from treazure_pipeline.verification.other_writers import foreign_balances, foreign_transactions
from treazure_pipeline_tests.balance_sync.shop import (
    Shop,
    account_of,
    assert_adds_up,
    assert_in_step,
    fetch,
    merge,
    run_of,
)


def test_a_balance_that_somebody_else_set_in_engage_is_noticed(shop: Shop) -> None:
    shop.sync()
    with shop.connect() as connections:
        account, programme = account_of(connections), connections.settings.programmes[0]
        assert foreign_balances(connections.ledger, connections.engage, account, programme, grace=0) == []
        contacts = [row[0] for row in shop.sql("select contact::text from ledger")]
        now = datetime.now(UTC).isoformat()
        rows = [{"contactId": c, "amount": 987_654, "definitionId": 1, "timeStamp": now} for c in contacts]
        answer = httpx.post(
            f"{shop.sandbox.base_url}/api/v2/point-accounts/balances",
            json=rows,
            headers={"apikey": API_KEY, "User-Agent": "somebody/1"},
        )
        assert answer.is_success
        shop.sandbox.apply_queue()
        signs = foreign_balances(connections.ledger, connections.engage, account, programme, grace=0)
    assert signs
    assert "987654" in signs[0].text


def test_a_movement_that_repeats_an_adjustment_without_our_receipt_is_noticed(shop: Shop) -> None:
    shop.sync()
    contact = shop.sandbox.contact_ids(1)[0]
    payload = {"contactId": contact, "amount": Decimal("7.5"), "pointDefinitionId": 1, "description": "gift"}
    with shop.connect() as connections:
        account = account_of(connections)
        queue.add(connections.ledger, "event-1", payload)
        process(work_of(connections, connections.settings.programmes, "run"))
        assert foreign_transactions(connections.ledger, connections.treazure, account) == []
        connections.treazure.post_transaction(
            contact, LOYALTY_ID, Decimal("7.5"), receipt="middleware-1", comment="gift"
        )
        signs = foreign_transactions(connections.ledger, connections.treazure, account)
    assert [sign.contact for sign in signs] == [contact]
    assert "middleware-1" in signs[0].text


def test_adjustments_made_between_a_merge_and_the_end_of_its_push_are_not_undone_by_it(
    new_shop: Callable[..., Shop],
) -> None:
    shop = new_shop(members=300)
    given = iter(shop.sandbox.contact_ids(300))

    class Adjusting(Listener):
        def progressed(self, rows: int, total: int) -> None:
            adjust(rows, total)

    few = shop.settings(ENGAGE_BATCH_SIZE="50", ENGAGE_CONCURRENCY="1")
    with Connections(few, listener=Adjusting()) as connections:
        account = account_of(connections)
        work = work_of(connections, connections.settings.programmes, "other")

        def adjust(answered: int, of: int) -> None:
            assert answered <= of
            for contact in islice(given, 10):
                payload = {"contactId": contact, "amount": Decimal(7), "pointDefinitionId": 1, "description": "gift"}
                queue.add(connections.ledger, f"event-{contact}", payload)
            process(work)

        connections.ledger.hold(account)
        fetch(connections, account)
        merge(connections, account)
        adjust(0, 0)
        pushed = push(run_of(connections, account))
        assert pushed.error is None
        assert len(shop.sql("select id from adjustment where state = 'done'")) >= 70
        assert shop.pending() == {}
        assert_adds_up(connections, account)
    assert_in_step(shop)
