"""A target that alerts are sent to over HTTP, and the sensor that sends them, as the daemon has it evaluated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests.adjustments.adjustment_shop import (
    _adjustment_sandbox,
    adjustment_shop,
    new_adjustment_shop,
)
from treazure_pipeline_tests.balance_sync.shop import Shop, new_shop, one_sandbox, shop

__all__ = ["_adjustment_sandbox", "adjustment_shop", "new_adjustment_shop", "new_shop", "one_sandbox", "shop"]

TOKEN = "t0ken-in-the-path"
SECRET = "pass-word-of-the-target"


@dataclass
class Target:
    """A server that takes messages and pings; with `status` it refuses them."""

    port: int
    status: int = 200
    messages: list[dict[str, str]] = field(default_factory=list)
    pings: int = 0
    asked: int = 0
    before_answer: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """The address for TREAZURE_PIPELINE_ALERT_URLS, with a user, a password and a token."""
        return f"json://pager:{SECRET}@127.0.0.1:{self.port}/{TOKEN}"

    @property
    def ping_url(self) -> str:
        """The address for DEAD_MAN_URL."""
        return f"http://127.0.0.1:{self.port}/ping/{TOKEN}"

    @property
    def titles(self) -> list[str]:
        """The titles of the messages taken, in their order."""
        return [message["title"] for message in self.messages]


@pytest.fixture
def new_target() -> Iterator[Callable[[], Target]]:
    servers: list[ThreadingHTTPServer] = []

    def new() -> Target:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self._answer(lambda: taker.messages.append(json.loads(body)))

            def do_GET(self) -> None:
                def count() -> None:
                    taker.pings += 1

                self._answer(count)

            def _answer(self, take: Callable[[], None]) -> None:
                taker.asked += 1
                taker.before_answer()
                if taker.status < 300:
                    take()
                with suppress(ConnectionError):
                    self.send_response(taker.status)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is not ours
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        taker = Target(server.server_address[1])
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return taker

    yield new
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def target(new_target: Callable[[], Target]) -> Target:
    return new_target()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@dataclass
class AlertShop:
    """The alert sensor of a shop, on one instance for the whole test; `cursor` is what Dagster keeps for it."""

    shop: Shop
    instance: dg.DagsterInstance
    changes: dict[str, str]
    cursor: str | None = None

    def tick(self, **changes: str) -> str:
        """Evaluate the sensor once; returns what it says."""
        definitions = build_definitions(self.shop.settings(**self.changes, **changes))
        sensor = definitions.resolve_sensor_def("alert_sensor")
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            repository_def=definitions.get_repository_def(),
            resources=definitions.resources,
        ) as context:
            evaluated = sensor.evaluate_tick(context)
        self.cursor = evaluated.cursor
        assert not evaluated.run_requests
        return evaluated.skip_message or ""

    def run(self, job: str = "hourly_balance_sync", **changes: str) -> dg.ExecuteInProcessResult:
        """Run a job, as the daemon would have it run."""
        job_def = build_definitions(self.shop.settings(**changes)).resolve_job_def(job)
        return job_def.execute_in_process(instance=self.instance, raise_on_error=False)


@pytest.fixture
def alert_shop(shop: Shop, instance: dg.DagsterInstance, target: Target) -> AlertShop:
    return AlertShop(shop, instance, {"TREAZURE_PIPELINE_ALERT_URLS": target.url})
