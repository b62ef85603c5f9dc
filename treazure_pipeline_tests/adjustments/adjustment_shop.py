"""A shop in which points are given: webhooks reach a receiver, runs post to Treazure and send the balance back."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from treazure_pipeline.adjustments.processing import Processed, Work, process, work_of
from treazure_pipeline.sandbox import WEBHOOK_SECRET, Sandbox, running_sandbox
from treazure_pipeline.sandbox.webhooks import sign
from treazure_pipeline.service.app import bind, build_app, server
from treazure_pipeline_tests.balance_sync.shop import Shop

WAITS = {"TREAZURE_TIMEOUT_SECONDS": "5", "TREAZURE_LOOKUP_WAIT_SECONDS": "5"}
"""Long enough for a busy machine; tests let the time pass by `AdjustmentShop.later`."""


@dataclass
class AdjustmentShop(Shop):
    """A shop, and the address at which it takes Engage's webhooks."""

    receiver_url: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process of this shop."""
        return {**super().variables, **WAITS, **self.environ}

    def contacts(self, count: int) -> list[str]:
        """So many members."""
        return self.sandbox.contact_ids(limit=count)

    def give(self, contact: str, amount: str | int, **details: Any) -> int:
        """Give points in Engage; returns the adjustment's number once the webhook has been acknowledged."""
        given = self.sandbox.give_points(contact, amount, **details)
        self.sandbox.wait_until_delivered()
        ((number,),) = self.sql("select id from adjustment where event_id = %s", given["event_id"])
        return int(number)

    def deliver(self, payload: str, event_id: str | None = None) -> httpx.Response:
        """Deliver an event with this payload, exactly as written."""
        event_id = event_id or uuid.uuid4().hex
        body = f'{{"eventType":"loyalty.addPoints","id":{json.dumps(event_id)},"payload":{payload}}}'.encode()
        now = int(time.time())
        signature = sign(WEBHOOK_SECRET, event_id, now, body)
        headers = {"svix-id": event_id, "svix-timestamp": str(now), "svix-signature": signature}
        return httpx.post(self.receiver_url, content=body, headers=headers, timeout=30)

    def process(self, **changes: str) -> Processed:
        """Process what is due once, as the job does."""
        with self.connect("adjustment_connections", **changes) as connections:
            return process(work_of(connections, connections.settings.programmes, uuid.uuid4().hex))

    @contextmanager
    def working(self, **changes: str) -> Iterator[Work]:
        """What processing works with, for a test that goes step by step."""
        with self.connect("adjustment_connections", **changes) as connections:
            yield work_of(connections, connections.settings.programmes, uuid.uuid4().hex)

    def later(self, seconds: float = 3600) -> None:
        """Let so much time have passed for the queue, by moving its records into the past."""
        self.sql(
            "update adjustment set next_try = next_try - make_interval(secs => %s), "
            "asked = asked - make_interval(secs => %s), lease_until = lease_until - make_interval(secs => %s)",
            seconds, seconds, seconds,
        )  # fmt: skip
        self.sql("update identity set changed_at = changed_at - make_interval(secs => %s)", seconds)
        self.sql("update adjustment set looked_at = looked_at - make_interval(secs => %s)", seconds)
        self.sql("update observation set lags_until = lags_until - make_interval(secs => %s)", seconds)
        self.sql("update reread set next_try = next_try - make_interval(secs => %s)", seconds)

    def finish(self, runs: int = 8) -> None:
        """Process, with time between, until nothing is under way."""
        for _ in range(runs):
            self.process()
            if not self.sql("select 1 from adjustment where state in ('received', 'queued', 'sending', 'posted')"):
                return
            self.later()
            self.leases_end()
        raise AssertionError(self.sql("select id, state, reason from adjustment where finished_at is null"))

    def wait_until(self, reached: Callable[[], bool], patience: float = 60.0) -> None:
        """Wait for what another thread brings about."""
        deadline = time.monotonic() + patience
        while not reached():
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.05)

    def states(self) -> list[str]:
        """The state of each adjustment, in the order of their arrival."""
        return [state for (state,) in self.sql("select state from adjustment order by id")]

    def state(self, number: int) -> tuple[str, str | None]:
        """An adjustment's state and reason."""
        ((state, reason),) = self.sql("select state, reason from adjustment where id = %s", number)
        return state, reason

    def path(self, number: int) -> list[str]:
        """The states that an adjustment has entered."""
        entered = self.sql("select state from adjustment_transition where adjustment = %s order by at", number)
        return [state for (state,) in entered]

    def movements(self, contact: str) -> list[str]:
        """The comments of what was booked in Treazure for a contact, oldest first, read over HTTP."""
        with self.connect() as connections:
            history = connections.treazure.history(contact, connections.settings.programmes[0].loyalty_id).movements
        return [movement.comment or "" for movement in history if (movement.receipt_nr or "").startswith("VE")]

    def booked(self) -> int:
        """How many transactions Treazure has carried out."""
        return int(self.sandbox.report()["transactions"])


def assert_each_once(adjustment_shop: AdjustmentShop, *, never: int = 0) -> None:
    """Treazure has every event once (but for those that it never should), and Engage has what Treazure has."""
    found = adjustment_shop.sandbox.adjustment_report()
    assert found["more_than_once"] == 0, found["examples"]
    assert found["never"] == never, found["examples"]
    assert found["other_transactions"]["count"] == 0, found["other_transactions"]
    report = adjustment_shop.sandbox.report()
    assert report["problems"] == [], json.dumps(report, indent=1)
    differences = adjustment_shop.sandbox.differences()
    assert differences["equal"], differences


@contextmanager
def running_receiver(database_url: str) -> Iterator[str]:
    """The receiver in a thread, for the block; yields the address for webhooks."""
    listener, url = bind("127.0.0.1", 0)
    running = server(build_app(database_url, [WEBHOOK_SECRET]))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, name="receiver", daemon=True)
    thread.start()
    try:
        yield f"{url}/webhooks/engage"
    finally:
        running.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def _adjustment_sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=0) as running:
        yield running


@pytest.fixture
def new_adjustment_shop(_adjustment_sandbox: Sandbox, database_url: str) -> Iterator[Callable[..., AdjustmentShop]]:
    """Makes the shop of a test: `members` and other seeds, `environ`, switches of the sandbox as `behavior`.

    `proved`: its Treazure is known to give receipts back.
    """
    with ExitStack() as stack:

        def new(
            *,
            members: int = 20,
            environ: dict[str, str] | None = None,
            behavior: dict[str, Any] | None = None,
            proved: bool = True,
            **seed: Any,
        ) -> AdjustmentShop:
            url = stack.enter_context(running_receiver(database_url))
            switches = {"apply_delay": 0, "export_polls": 0, "webhook_url": url, "webhook_concurrency": 1}
            _adjustment_sandbox.reset(members=members, in_step=True, behavior=switches | (behavior or {}), **seed)
            adjustment_shop = AdjustmentShop(_adjustment_sandbox, database_url, environ or {}, url)
            if proved:
                adjustment_shop.sql("insert into receipts (address, found, length, checked_at) "
                         "values (%s, 'whole', 26, 'infinity')", _adjustment_sandbox.base_url)  # fmt: skip
            return adjustment_shop

        yield new
        _adjustment_sandbox.reset(members=0)


@pytest.fixture
def adjustment_shop(new_adjustment_shop: Callable[..., AdjustmentShop]) -> AdjustmentShop:
    """A shop of 20 members, in which both systems are in step."""
    return new_adjustment_shop()
