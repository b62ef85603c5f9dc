"""A small stub of both systems that plays one fault and remembers what it was sent; for benchmarks/peers.py.

It serves in threads of this process. Treazure's side exports the balances that changed, as they are now; Engage's side
takes balances, keeps the one with the latest time, and counts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import members
from stub import ACCEPTED, HREF, TOKEN


@dataclass
class World:
    """What both systems hold, the fault that is played (if any), and what came of it."""

    middle: int
    """The request with balances at which a fault strikes."""
    fault: str | None = None
    odd: frozenset[str] = frozenset()
    """The contacts that are refused, or listed twice."""
    master: dict[str, Decimal] = field(default_factory=dict)
    mutated: dict[str, datetime] = field(default_factory=dict)
    follower: dict[str, tuple[datetime, Decimal]] = field(default_factory=dict)
    accepted: set[tuple[str, Decimal]] = field(default_factory=set)
    doubled: int = 0
    stale: int = 0
    requests: int = 0
    run: object = field(default_factory=object)
    struck: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def calm(self) -> None:
        """End the run with the fault, and what is left of its connections; from here on nothing goes wrong."""
        with self.lock:
            self.fault, self.run = None, object()
        self.released.set()

    def change(self, numbers: range, balance: Decimal) -> None:
        """Give members a new balance in Treazure, each a millisecond later than the one before."""
        now = datetime.now(UTC)
        for number in numbers:
            contact = members.contact(number)
            self.master[contact] = balance + number
            self.mutated[contact] = now + timedelta(milliseconds=number % 1000)

    def lost(self) -> int:
        """Return how many contacts end with another balance than Treazure's."""
        return sum(self.follower.get(contact, (None, None))[1] != balance for contact, balance in self.master.items())

    def take(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Accept balances, but for those that the fault refuses; return the answer."""
        refused = [row for row in rows if self.fault == REFUSED and row["contactId"].lower() in self.odd]
        for row in rows:
            contact, amount = row["contactId"].lower(), Decimal(str(row["amount"]))
            if row in refused:
                continue
            self.doubled += (contact, amount) in self.accepted
            self.stale += amount != self.master[contact]
            self.accepted.add((contact, amount))
            moment = datetime.fromisoformat(row["timeStamp"])
            if contact not in self.follower or moment >= self.follower[contact][0]:
                self.follower[contact] = (moment, amount)
        if not refused:
            return dict(json.loads(ACCEPTED))
        return {
            "notAccepted": refused,
            "errorMessages": ["Contact not found"],
            "missingContactIds": [row["contactId"] for row in refused],
            "missingDefinitionIds": [],
        }

    def export(self) -> bytes:
        """Return the balances that changed; with one fault, an older one of some contacts after the newer."""
        rows = [self.row(contact, balance, self.mutated[contact]) for contact, balance in self.master.items()]
        if self.fault == TWICE:
            rows += [
                self.row(each, self.master[each] - 1, self.mutated[each] - timedelta(minutes=1)) for each in self.odd
            ]
        return f"[{','.join(rows)}]".encode()

    @staticmethod
    def row(contact: str, balance: Decimal, mutated: datetime) -> str:
        """Return a row of an export."""
        moment = mutated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return (
            f'{{"accountNumber":"{contact}","loyaltyPointDefinitionId":"{members.LOYALTY_ID}",'
            f'"balance":{balance},"mutatedAt":"{moment}"}}'
        )


ONE_500 = "one request answered with 500"
MANY_500 = "500 from the middle on"
KILLED = "SIGKILL in the middle"
REFUSED = "rows refused inside a 200"
TWICE = "contacts twice in the export"
CUT_EXPORT = "the export's body cut"
CUT_ANSWER = "the answer to a request cut"
FAULTS = (ONE_500, MANY_500, KILLED, REFUSED, TWICE, CUT_EXPORT, CUT_ANSWER)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    world: World

    def setup(self) -> None:
        """Remember in which run the client connected."""
        self.run = self.world.run
        super().setup()

    def do_GET(self) -> None:
        """Serve the export and single accounts."""
        world = self.world
        if self.path.endswith("/result"):
            body = world.export()
            if world.fault == CUT_EXPORT and not world.struck.is_set():
                world.struck.set()
                self.answer(body, sent=len(body) // 2)
            else:
                self.answer(body)
            return
        contact = self.path.rsplit("/", 1)[-1].lower()
        balance = str(world.master[contact])
        programme = {"loyaltyPointDefinitionId": members.LOYALTY_ID, "balance": balance}
        self.answer(json.dumps({"loyaltyPrograms": [programme]}).encode())

    def do_POST(self) -> None:
        """Serve the token and the link to the export; take balances."""
        length = int(self.headers["content-length"])
        content = self.rfile.read(length)
        if not self.path.endswith("/point-accounts/balances"):
            self.answer(TOKEN if self.path.endswith("/token") else HREF)
            return
        world = self.world
        with world.lock:
            if self.run is not world.run or len(content) < length:  # its sender has been killed
                self.close_connection = True
                return
            world.requests += 1
            now = world.requests == world.middle
            if (world.fault == ONE_500 and now) or (world.fault == MANY_500 and world.requests >= world.middle):
                self.answer(b'{"message":"An error has occurred"}', status=500)
                return
            answer = world.take(json.loads(content))
        if world.fault == KILLED and world.requests >= world.middle:
            world.struck.set()
            world.released.wait()
        self.answer(json.dumps(answer).encode(), sent=10 if world.fault == CUT_ANSWER and now else None)

    def answer(self, body: bytes, *, status: int = 200, sent: int | None = None) -> None:
        """Answer; where only so many bytes are sent, the connection ends after them."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = self.close_connection or sent is not None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A thread a connection."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""


@contextmanager
def serving(world: World) -> Iterator[str]:
    """Serve for the block; yield the URL."""
    handler = type("Bound", (Handler,), {"world": world})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            world.released.set()
            server.shutdown()
