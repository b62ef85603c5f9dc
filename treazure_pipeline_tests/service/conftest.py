"""A real receiver on loopback, a sender that signs as Svix does, and a look into what was stored."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from psycopg.rows import TupleRow
from standardwebhooks.webhooks import Webhook

from treazure_pipeline.database import schema
from treazure_pipeline.points_history.contact_card import Histories
from treazure_pipeline.service.app import bind, build_app, server
from treazure_pipeline.service.limits import LIMITS, Limits

# Made once: there is no TLS on loopback, and reading all certificates for each request takes longer than the request.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

SECRET = "whsec_" + base64.b64encode(b"the secret of these tests").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"a secret of somebody else").decode()


def signed(body: str, delivery: str = "msg_1", *, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    """The headers with which Svix would deliver this."""
    at = at or datetime.now(UTC)
    return {
        "svix-id": delivery,
        "svix-timestamp": str(int(at.timestamp())),
        "svix-signature": Webhook(secret).sign(delivery, at, body),
    }


def event(event_id: str | None = "evt_1", kind: str = "loyalty.addPoints", **changes: Any) -> dict[str, Any]:
    """An event as Engage sends it."""
    payload = {"amount": 50.0, "contactId": "5f0c11f0-5b1c-4c86-93f0-a4b5a9b0f1de", "pointDefinitionId": 1}
    return {
        "eventType": kind,
        "id": event_id,
        "isEncrypted": False,
        "tenant": "shop",
        "payload": payload,
        **changes,
    }


@dataclass(frozen=True)
class Running:
    """A receiver that runs, and its database."""

    url: str
    database_url: str

    def post(self, body: str | bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{self.url}/webhooks/engage", content=body, headers=headers, timeout=30, verify=_NO_TLS)

    def deliver(self, content: object, delivery: str = "msg_1") -> httpx.Response:
        """Sign and send; text goes as it is, all else as JSON."""
        body = content if isinstance(content, str) else json.dumps(content)
        return self.post(body, signed(body, delivery))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30, verify=_NO_TLS)

    def rows(self, query: LiteralString) -> list[TupleRow]:
        return rows(self.database_url, query)


def rows(database_url: str, query: LiteralString) -> list[TupleRow]:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"set search_path to {schema.SCHEMA}".encode())
        return connection.execute(query).fetchall()


@contextmanager
def serving(
    database_url: str,
    *secrets: str,
    answer_within: float = 0,
    histories: Histories | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Running]:
    """Run a receiver in a thread for the block."""
    listener, url = bind("127.0.0.1", 0)
    running = server(build_app(database_url, secrets or [SECRET], answer_within, histories), limits)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listener])))
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive(), "the receiver did not start"
            time.sleep(0.01)
        yield Running(url, database_url)
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture
def receiver(database_url: str) -> Iterator[Running]:
    """A receiver with one secret, on an empty ledger."""
    with serving(database_url) as running:
        yield running
