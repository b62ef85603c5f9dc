"""One webhook, and one batch, followed through processes to the vendors' request ids, by a collector that listens."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from treazure_pipeline import tracing
from treazure_pipeline_tests.adjustments.adjustment_shop import (
    AdjustmentShop,
    _adjustment_sandbox,
    adjustment_shop,
    new_adjustment_shop,
)
from treazure_pipeline_tests.adjustments.test_worker import worker

__all__ = ["_adjustment_sandbox", "adjustment_shop", "new_adjustment_shop"]

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


@dataclass(frozen=True)
class Seen:
    """A span as it arrived."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    links: set[bytes]
    attributes: dict[str, str | int]


@dataclass
class Collector:
    """Where spans arrive."""

    url: str
    spans: list[Seen] = field(default_factory=list)
    raw: bytes = b""

    def take(self, body: bytes) -> None:
        self.raw += body
        for resource in proto.ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.spans += [
                Seen(
                    service, one.name, one.trace_id, one.span_id, one.parent_span_id,
                    {link.trace_id for link in one.links},
                    {
                        attribute.key.removeprefix("treazure."):
                            attribute.value.string_value or attribute.value.int_value
                        for attribute in one.attributes
                    },
                )
                for scope in resource.scope_spans for one in scope.spans
            ]  # fmt: skip

    def named(self, name: str, trace: bytes | None = None) -> list[Seen]:
        return [one for one in self.spans if one.name == name and trace in (None, one.trace)]

    def under(self, top: Seen) -> list[Seen]:
        """All that came of a span, and of what came of it."""
        children = [one for one in self.spans if (one.trace, one.parent) == (top.trace, top.id)]
        return children + [below for child in children for below in self.under(child)]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this process, and those that it starts, send."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        tracing.provider.cache_clear()
        yield found
        tracing.flush()
        server.shutdown()
    tracing.provider.cache_clear()


def test_a_webhook_is_one_trace_from_the_receiver_through_the_worker_to_both_request_ids(
    collector: Collector, adjustment_shop: AdjustmentShop, home: Path
) -> None:
    [contact] = adjustment_shop.contacts(1)
    adjustment_shop.environ["OTEL_SERVICE_NAME"] = "worker"
    with worker(adjustment_shop, home):
        adjustment_shop.give(contact, "12.5", description="Zebulon found the Quixotel ring")
        adjustment_shop.wait_until(lambda: adjustment_shop.states() == ["done"])
        adjustment_shop.wait_until(lambda: bool(collector.named("push adjusted balances")))
    tracing.flush()

    [webhook] = collector.named("webhook")
    whole = collector.under(webhook)
    [posted], [receipt] = (
        collector.named("post adjustment"),
        [row[0] for row in adjustment_shop.sql("select receipt from adjustment")],
    )
    calls = [one for one in whole if one.name in {"treazure POST", "engage POST"}]
    assert webhook.service == "treazure-pipeline"
    assert webhook.attributes == {"outcome": "stored", "status": 202, "receipt": receipt}
    assert (posted.service, posted.parent, posted.attributes["receipt"]) == ("worker", webhook.id, receipt)
    assert {one.name for one in calls} == {"treazure POST", "engage POST"}
    [(request_id,)] = adjustment_shop.sql("select request_id from batch")
    [batch] = [one for one in calls if one.name == "engage POST"]
    assert batch.attributes["request_id"] == request_id
    assert all(one.attributes["status"] in {200, 202} and one.attributes["request_id"] for one in calls)
    assert contact.encode() not in collector.raw
    assert contact.upper().encode() not in collector.raw
    for mark in (b"Zebulon", b"Quixotel"):
        assert mark not in collector.raw


def test_a_batch_of_a_sync_is_followed_to_its_request_id(collector: Collector, adjustment_shop: AdjustmentShop) -> None:
    synced = adjustment_shop.sync()
    tracing.flush()

    [push] = collector.named("push balances")
    sent = {one.attributes["batch"]: one for one in collector.under(push) if one.name == "send batch"}
    assert push.attributes["run_id"] == synced.id
    batches = adjustment_shop.sql("select id, request_id, cardinality(contacts) from batch")
    assert sent.keys() == {number for number, _, _ in batches} != set()
    for number, request_id, rows in batches:
        [call] = collector.under(sent[number])
        assert sent[number].attributes["rows"] == rows
        assert call.attributes["request_id"] == request_id


def test_adjustments_that_share_a_request_are_linked_to_it(
    collector: Collector, adjustment_shop: AdjustmentShop
) -> None:
    for contact in adjustment_shop.contacts(3):
        adjustment_shop.give(contact, "1")
    adjustment_shop.process()
    tracing.flush()

    webhooks = {one.trace for one in collector.named("webhook")}
    pushes = collector.named("push adjusted balances")
    assert len(webhooks) == 3
    assert {one.trace for one in pushes}.union(*(one.links for one in pushes)) == webhooks


def test_an_error_is_told_by_its_type_alone(collector: Collector) -> None:
    with pytest.raises(ValueError, match="Zebulon"), tracing.span("work"):
        raise ValueError("Zebulon")
    tracing.flush()

    [work] = collector.named("work")
    assert work.attributes == {"error": "ValueError"}
    assert b"Zebulon" not in collector.raw


def test_ids_in_a_path_are_left_out_and_versions_are_not() -> None:
    assert tracing.template("/api/v2/accounts/0b5a0b1e-0000/points") == "/api/v2/accounts/{id}/points"
    assert tracing.template("/api/v1.0/Account/0b5a0b1e/Transaction") == "/api/v1.0/Account/{id}/Transaction"


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
     {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}],
)  # fmt: skip
def test_where_nobody_asks_for_traces_nothing_of_the_extra_is_even_imported(environment: dict[str, str]) -> None:
    script = (
        "import sys; from treazure_pipeline import tracing\n"
        "with tracing.span('work', a=1) as span: span.set(b=2)\n"
        "assert tracing.here() is None; tracing.flush()\n"
        "assert 'opentelemetry.sdk' not in sys.modules and 'opentelemetry.trace' not in sys.modules"
    )
    others = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", script], env={**others, **environment}, check=True)
