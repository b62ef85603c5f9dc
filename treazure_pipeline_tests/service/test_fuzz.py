"""Whatever is sent, the receiver answers or hangs up, stays small, and goes on serving others."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treazure_pipeline_tests.service.conftest import Running, event, signed

# The receiver's threads use `random`, which Hypothesis takes for the strategies' doing.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

MOST_GROWTH = 64 * 1024 * 1024
SECONDS = 20

fuzzed = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LINES = [
    b"POST /webhooks/engage HTTP/1.1", b"GET /contacts/%00/points-history?count=9 HTTP/1.1", b"GET /readyz HTTP/1.0",
    b"HEAD /metrics HTTP/1.1", b"OPTIONS * HTTP/1.1", b"Host: here", b"Content-Length: 5", b"Content-Length: -1",
    b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Expect: 100-continue", b"Connection: upgrade", b"Upgrade: websocket", b"svix-id: a", b"svix-timestamp: 1e999",
    b"svix-signature: v1,AAAA", b"", b"ffffffffffffffff", b"5;" + b"x" * 3000, b"hello", b"0", b"\x00\xff\r",
]  # fmt: skip
WIRE = st.lists(st.sampled_from(LINES) | st.binary(max_size=200), max_size=25).map(b"\r\n".join)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5))
NAMES = st.sampled_from(["eventType", "id", "isEncrypted", "payload", "tenant"])
EVENTS = st.dictionaries(NAMES, JSON).map(lambda changes: json.dumps(event() | changes))
NESTED = st.integers(0, 100_000).map(lambda depth: "[" * depth)
BODIES = EVENTS | NESTED | st.text(max_size=2000) | JSON.map(json.dumps)


class Watched:
    """The receiver's process, which is the tests' own."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.before = self.process.memory_info().rss

    def check(self, receiver: Running) -> None:
        assert receiver.get("/readyz").status_code == 200
        assert self.process.memory_info().rss - self.before < MOST_GROWTH


def test_bytes_of_any_kind_are_answered_or_end_the_connection(receiver: Running) -> None:
    address = urlsplit(receiver.url)
    watched = Watched()

    @fuzzed
    @given(WIRE)
    def send(wire: bytes) -> None:
        with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
            try:
                connection.sendall(wire)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
            except ConnectionError:
                pass

    send()
    watched.check(receiver)


def test_a_signed_body_of_any_kind_finds_a_place(receiver: Running) -> None:
    watched = Watched()
    number = iter(range(1_000_000))

    @fuzzed
    @given(BODIES)
    def send(body: str) -> None:
        encoded: Any = body.encode("utf-8", "replace")
        answer = receiver.post(encoded, signed(encoded.decode(), f"msg_{next(number)}"))
        assert answer.status_code == 202, answer.text

    send()
    watched.check(receiver)
