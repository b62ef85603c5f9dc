"""Measure the webhook receiver; `python benchmarks/receiver.py` runs this and writes docs/benchmarks-receiver.md.

The receiver is one process with everything that it does in production, on an embedded server that waits for its disk.
Beside it stands the floor: the same server process, connection pool and settings, one bare INSERT a request, nothing
verified or read. Both take turns; server, database and the sender share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from databases import running_server
from psycopg_pool import AsyncConnectionPool
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from treazure_pipeline.database import schema
from treazure_pipeline.service.app import bind, server

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks-receiver.md"
SECRET = "whsec_" + base64.b64encode(b"benchmark-secret-24-bytes").decode()
CONNECTIONS = 32
STEADY_RATE = 200
_BARE = """
insert into adjustment (event_id, delivery_id, source, payload, receipt) values (%s, %s, 'webhook', %s, %s)
"""


_INTRODUCTION = """\
One process, {cores} cores shared with PostgreSQL and the sender, {connections} connections; {plan.burst:,} events as
fast as they are answered, then {rate} a second for {plan.steady_seconds} s; medians of {plan.repeat} runs, in turns.
Every event that was acknowledged was counted in the database afterwards. Written by `python benchmarks/receiver.py`.

The floor is a bare INSERT and a commit a request over the same pool. The receiver verifies, reads and counts each event
as well, and lets those that arrive during a commit share the next one.
"""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    burst: int
    steady_seconds: int
    repeat: int


FULL = Plan(burst=5_000, steady_seconds=15, repeat=3)
QUICK = Plan(burst=2_000, steady_seconds=5, repeat=1)


@dataclass(frozen=True)
class Run:
    """One kind, once: events a second as fast as it goes, and latencies in ms at the steady rate."""

    kind: str
    a_second: float
    p50: float
    p99: float


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/receiver.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events, once; writes nothing but the output")
    parser.add_argument("--floor", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.floor:
        serve_floor(chosen.floor)
        return
    plan = QUICK if chosen.quick else FULL
    with running_server() as url:
        schema.upgrade(url)
        runs = [measured(kind, url, plan) for _ in range(plan.repeat) for kind in ("floor", "receiver")]
    text = markdown(runs, plan)
    print(text)
    if not chosen.quick:
        PAGE.write_text(f"# The webhook receiver, measured\n\n{text}\n", encoding="utf-8")


def measured(kind: str, url: str, plan: Plan) -> Run:
    """Run one kind in a process of its own and count that every event it acknowledged is in the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"truncate {schema.SCHEMA}.adjustment, {schema.SCHEMA}.webhook_kind cascade")
        connection.execute("checkpoint")
    steady = STEADY_RATE * plan.steady_seconds
    with running(kind, url) as port:
        asyncio.run(burst(port, requests(200)))
        seconds = asyncio.run(burst(port, requests(plan.burst)))
        latencies = asyncio.run(paced(port, requests(steady), STEADY_RATE))
    with psycopg.connect(url) as connection:
        connection.execute(f"set search_path to {schema.SCHEMA}")
        row = connection.execute("select count(*) from adjustment").fetchone()
    if row != (200 + plan.burst + steady,):
        sys.exit(f"{kind}: {row} rows instead of {200 + plan.burst + steady}")
    cuts = statistics.quantiles(latencies, n=100)
    return Run(kind, plan.burst / seconds, statistics.median(latencies) * 1000, cuts[98] * 1000)


@contextmanager
def running(kind: str, url: str) -> Iterator[int]:
    """Start a server of this kind for the block; yield its port."""
    main = "from treazure_pipeline.cli import main; main()"
    command = ["-c", main, "receiver", "--port", "0"] if kind == "receiver" else [__file__, "--floor", url]
    environment = {**os.environ, "TREAZURE_PIPELINE_DATABASE_URL": url, "ENGAGE_WEBHOOK_SECRET": SECRET}
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split("/webhooks", 1)[0]
        yield int(address.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def serve_floor(url: str) -> None:
    """Serve the floor until the process is ended."""
    pool = AsyncConnectionPool(
        url, min_size=4, max_size=4, kwargs={"autocommit": True}, configure=_configure, open=False
    )

    async def deliver(request: Request) -> Response:
        body = await request.body()
        async with pool.connection() as connection:
            key = uuid.uuid4().hex
            await connection.execute(_BARE, [key, key, body.decode(), key])
        return Response(status_code=202)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    app = Starlette(routes=[Route("/webhooks/engage", deliver, methods=["POST"])], lifespan=lifespan)
    listener, address = bind("127.0.0.1", 0)
    print(address, flush=True)
    asyncio.run(server(app).serve(sockets=[listener]))


async def _configure(connection: psycopg.AsyncConnection) -> None:
    await connection.execute(f"set search_path to {schema.SCHEMA}")


def requests(count: int) -> list[bytes]:
    """Signed deliveries, each of a new event, as bytes: signing and encoding are not what is measured."""
    webhook = Webhook(SECRET)
    made = []
    for number in range(count):
        event_id, now = f"msg_{uuid.uuid4().hex}", datetime.now(UTC)
        payload = {
            "amount": 50.0,
            "contactId": str(uuid.uuid4()),
            "pointDefinitionId": 1,
            "source": "Manual",
            "description": f"Compensation for order {number}",
            "userId": str(uuid.uuid4()),
            "userName": "someone@shop.example",
        }
        event = {"eventType": "loyalty.addPoints", "id": event_id, "isEncrypted": False, "payload": payload}
        body = json.dumps(event)
        head = (
            "POST /webhooks/engage HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nsvix-id: {event_id}\r\nsvix-timestamp: {int(now.timestamp())}\r\n"
            f"svix-signature: {webhook.sign(event_id, now, body)}\r\n\r\n"
        )
        made.append((head + body).encode())
    return made


class Sender:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, request: bytes) -> None:
        """Send a request and read its answer; anything but 202 ends the measurement."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 202"):
            sys.exit(f"not acknowledged: {head!r}")
        await self._reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]))

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@asynccontextmanager
async def senders(port: int) -> AsyncIterator[asyncio.Queue[Sender]]:
    """Open all connections for the block."""
    idle: asyncio.Queue[Sender] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(Sender(*await asyncio.open_connection("127.0.0.1", port)))
    yield idle
    while not idle.empty():
        idle.get_nowait().close()


async def burst(port: int, made: Sequence[bytes]) -> float:
    """Send all, each connection as fast as it is answered; return the seconds that took."""
    left = iter(made)

    async def work(idle: asyncio.Queue[Sender]) -> None:
        sender = await idle.get()
        for request in left:
            await sender.send(request)
        idle.put_nowait(sender)

    async with senders(port) as idle:
        began = time.perf_counter()
        await asyncio.gather(*(work(idle) for _ in range(CONNECTIONS)))
        return time.perf_counter() - began


async def paced(port: int, made: Sequence[bytes], rate: int) -> list[float]:
    """Send one at each tick, whether or not the one before is answered; return the seconds from tick to answer."""
    began = time.perf_counter()

    async def one(idle: asyncio.Queue[Sender], tick: float, request: bytes) -> float:
        await asyncio.sleep(tick - time.perf_counter())
        sender = await idle.get()
        await sender.send(request)
        idle.put_nowait(sender)
        return time.perf_counter() - tick

    async with senders(port) as idle:
        return await asyncio.gather(*(one(idle, began + 1 + index / rate, made[index]) for index in range(len(made))))


def markdown(runs: Sequence[Run], plan: Plan) -> str:
    """Return medians, ratios and targets as Markdown."""

    def median(kind: str, field: str) -> float:
        return statistics.median(float(getattr(run, field)) for run in runs if run.kind == kind)

    rows = [
        f"| {name} | {median(kind, 'a_second'):.0f} | {median(kind, 'p50'):.1f} | {median(kind, 'p99'):.1f} |"
        for kind, name in (("floor", "floor: a bare INSERT a request"), ("receiver", "receiver"))
    ]
    ratios = [median("receiver", field) / median("floor", field) for field in ("a_second", "p50", "p99")]
    a_second, p99 = median("receiver", "a_second"), median("receiver", "p99")
    lines = [
        _INTRODUCTION.format(cores=os.cpu_count(), connections=CONNECTIONS, rate=STEADY_RATE, plan=plan),
        f"| | events a second | p50 at {STEADY_RATE}/s, ms | p99 at {STEADY_RATE}/s, ms |",
        "|---|--:|--:|--:|",
        *rows,
        "| receiver ÷ floor | " + " | ".join(f"**{ratio:.2f}**" for ratio in ratios) + " |",
        "",
        "| target | wanted | measured | |",
        "|---|--:|--:|---|",
        f"| events a second, each stored before its answer | ≥ 500 | {a_second:.0f} | {_met(ok=a_second >= 500)} |",
        f"| p99 at {STEADY_RATE} a second, ms | < 100 | {p99:.1f} | {_met(ok=p99 < 100)} |",
    ]
    return "\n".join(lines)


def _met(*, ok: bool) -> str:
    return "met" if ok else "**missed**"


if __name__ == "__main__":
    main()
