from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal

import psycopg
import pytest

from treazure_pipeline.adjustments.queue import RECEIVE, receipt_of
from treazure_pipeline.database.schema import SCHEMA
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.effort import EFFORT

EVENTS, DELIVERIES, CONTACTS, ROUNDS = 120 * EFFORT, 2_000 * EFFORT, 24 * EFFORT, 5


@pytest.mark.chance
@pytest.mark.timeout(300 * EFFORT)
def test_random_deliveries_and_faults_end_with_every_event_applied_once(
    new_adjustment_shop: Callable[..., AdjustmentShop],
) -> None:
    adjustment_shop = new_adjustment_shop(members=CONTACTS, environ={"TREAZURE_CONCURRENCY": "8"})
    chance = random.Random(3)  # noqa: S311 - repeatable on purpose
    contacts = adjustment_shop.contacts(CONTACTS)
    adjustment_shop.sandbox.set_points(dict.fromkeys(contacts, 100_000_000))
    adjustment_shop.sync()
    model = dict.fromkeys(contacts, Decimal(100_000_000))
    senseless = 0
    events: list[tuple[str, str]] = []
    for number in range(EVENTS):
        contact, kind = chance.choice(contacts), chance.random()
        amount = Decimal(chance.randint(-2_000_000, 2_000_000)) / 10 ** chance.randint(0, 6)
        if kind < 0.02:
            amount = Decimal(0)
        senseless += not amount
        model[contact] += amount
        spelled = contact.upper() if kind > 0.5 else contact
        payload = f'{{"contactId":"{spelled}","pointDefinitionId":1,"amount":{amount:f},"description":"{number}"}}'
        events.append((f"event-{number}", payload))
    # Each event once at least; first deliveries of all events in their order, repeated ones whenever they like.
    deliveries = sorted(
        [(position, n) for n, position in enumerate(sorted(chance.random() for _ in range(EVENTS)))]
        + [(chance.random(), chance.randrange(EVENTS)) for _ in range(DELIVERIES - EVENTS)]
    )
    parts = [deliveries[start :: ROUNDS * 2] for start in range(ROUNDS * 2)]
    for fault, parameters in (
        ("lost_before", {"on": ["transaction", "set_balances"], "probability": 0.04}),
        ("lost_after", {"on": ["transaction", "set_balances"], "probability": 0.04}),
        ("server_error", {"on": ["transaction", "history", "account"], "probability": 0.03}),
        ("server_error", {"on": ["transaction"], "effect": True, "probability": 0.02}),
        ("rate_limited", {"on": ["transaction", "history", "set_balances"], "probability": 0.03, "seconds": 0.01}),
        ("html", {"on": ["transaction", "account"], "probability": 0.02}),
        ("truncated", {"on": ["transaction"], "probability": 0.02}),
        ("token_expired", {"on": ["transaction"], "probability": 0.02}),
    ):
        adjustment_shop.sandbox.set_fault(fault, count=None, **parameters)

    def deliver(part: list[tuple[float, int]]) -> None:
        with psycopg.connect(adjustment_shop.database_url, autocommit=True) as connection:
            connection.execute(f"set search_path to {SCHEMA}")
            rows = [
                {"event_id": event, "delivery_id": None, "payload": payload, "receipt": receipt_of(event)}
                for event, payload in (events[number] for _, number in part)
            ]
            for row in rows:
                connection.execute(RECEIVE, row)

    for turn in range(ROUNDS):
        workers = [threading.Thread(target=deliver, args=(part,)) for part in parts[turn * 2 : turn * 2 + 2]]
        workers += [threading.Thread(target=adjustment_shop.process) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        adjustment_shop.later()
        adjustment_shop.leases_end()
    adjustment_shop.sandbox.clear_faults()
    adjustment_shop.finish()

    states = adjustment_shop.states()
    assert len(states) == EVENTS
    assert states.count("rejected") == senseless
    assert states.count("done") == EVENTS - senseless
    assert adjustment_shop.booked() == EVENTS - senseless
    report = adjustment_shop.sandbox.report()
    assert report["problems"] == []
    assert {row["contactId"]: Decimal(row["treazure"]) for row in adjustment_shop.sandbox.balances(contacts)} == model
    assert adjustment_shop.sandbox.differences()["equal"]
    arrived = defaultdict(list)
    for contact, text in adjustment_shop.sql(
        "select contact::text, description from adjustment where state = 'done' order by id"
    ):
        arrived[contact].append(text)
    assert all(adjustment_shop.movements(contact) == arrived[contact] for contact in contacts[:20])
