"""What every request of the two systems passes: observation, rates, and the faults that can hit any of them.

A request is read to its end before anything else happens, so that a lost answer is lost after the
client has sent everything, and a balance request is observed whatever happens to it later.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from treazure_pipeline.sandbox.batches import Batch, read_batch, take_off
from treazure_pipeline.sandbox.faults import ENGAGE, Fault, Operation
from treazure_pipeline.sandbox.world import SECOND

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from treazure_pipeline.sandbox.observations import Flight
    from treazure_pipeline.sandbox.world import World

_ROUTES: tuple[tuple[str, str, Operation], ...] = (
    ("POST", r"/identity/connect/token", "token"),
    ("POST", r"/api/v1\.0/LoyaltyVault/Balances/Get", "export_request"),
    ("GET", r"/api/v1\.0/LoyaltyVault/Balances/[^/]+/result", "export_result"),
    ("GET", r"/api/v1\.0/LoyaltyVault/Account/[^/]+", "account"),
    ("POST", r"/api/v1\.0/LoyaltyVault/Account/[^/]+/Transaction", "transaction"),
    ("GET", r"/api/v1\.0/LoyaltyVault/Account/[^/]+/LoyaltyPrograms/[^/]+/History", "history"),
    ("POST", r"/api/v[23]/point-accounts/balances", "set_balances"),
    ("POST", r"/api/v[23]/point-accounts/transactions", "add_transactions"),
    ("GET", r"/api/v[23]/point-accounts/transactions(?:/[^/]+)?", "read_transactions"),
    ("GET", r"/api/v[23]/point-accounts/definitions(?:/[^/]+)?", "definitions"),
    ("GET", r"/api/v[23]/point-accounts(?:/[^/]+)?", "read_accounts"),
    ("GET", r"/api/v[23]/contacts(?:/[^/]+)?/count", "contact_count"),
)
_PATTERNS = [(method, re.compile(pattern), operation) for method, pattern, operation in _ROUTES]

_HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please wait...</body></html>"


def operation_of(method: str, path: str) -> Operation | None:
    """Return the kind of a request; None for one that belongs to neither system."""
    for wanted, pattern, operation in _PATTERNS:
        if method == wanted and pattern.fullmatch(path):
            return operation
    return None


@dataclass(slots=True)
class Call:
    """One request on its way through the sandbox; the handlers find it as ``request.state.call``."""

    operation: Operation
    arrival: float
    headers: dict[str, str]
    body: bytes = b""
    batch: Batch | None = None
    flights: list[Flight] = field(default_factory=list)


class RequestMiddleware:
    """Wraps the application directly below uvicorn, since it has to reach the connection itself."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        operation = operation_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if operation is None:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(operation, time.monotonic(), headers)
        await _Passage(self._app.state.world, self._app, scope, call).go(receive, send)


class _Passage:
    def __init__(self, world: World, app: ASGIApp, scope: Scope, call: Call) -> None:
        self._world = world
        self._app = app
        self._scope = scope
        self._call = call
        self._open = True
        self._spoilt = False

    async def go(self, receive: Receive, send: Send) -> None:
        call, world = self._call, self._world
        key = call.headers.get("apikey", "") if call.operation in ENGAGE else None
        if "cookie" in call.headers:
            world.observations.add("cookies", 1)
        within_rate = world.observations.arrived(call.operation, key, call.arrival, world.behavior)
        body = await _body(receive)
        if body is None:
            world.observations.answered(call.operation, "abandoned")
            return
        call.body = body
        if call.operation == "set_balances":
            call.batch, call.flights = await run_in_threadpool(_observe, world, call)
        try:
            if within_rate:
                await self._with_faults(receive, send)
            else:
                await self._answer(send, 429, b'{"message":"Too many requests"}', headers={"retry-after": "1"})
        finally:
            self._land()
            if self._spoilt and call.operation == "transaction":
                world.adjustments.unanswered(call.body)

    async def _with_faults(self, receive: Receive, send: Send) -> None:
        take, operation = self._world.faults.take, self._call.operation
        slow = take(operation, "slow")
        pause = self._world.behavior.latency
        if operation == "transaction":
            pause += self._world.behavior.transaction_latency
        if slow:
            pause += 5 if slow.seconds is None else slow.seconds
        if slow and slow.effect is False:
            await self._wait(pause, receive)
            pause = 0
        instead = take(operation, "lost_before", "rate_limited", "html", "empty", "not_array")
        if instead:
            self._spoilt = instead.name != "rate_limited"
            await self._wait(pause, receive)
            await self._instead(instead, receive, send)
            return
        after = take(operation, "lost_after", "server_error")
        self._spoilt = after is not None
        if after and after.name == "server_error" and not after.effect:
            await self._wait(pause, receive)
            await self._server_error(after, send)
            return
        answer = _Answer(pause, after)
        spoken = _with_mark(send) if self._world.behavior.bom else send
        await self._app(self._inner_scope(), _replay(self._call.body), self._relay(answer, receive, spoken))
        if after and after.name == "lost_after":
            await self._lose(receive, send)
        elif after and after.name == "server_error":
            await self._server_error(after, send)
        elif answer.broken:
            await self._lose(receive, send)

    def _date(self) -> str:
        """The time on the called system's clock, as an HTTP date."""
        world = self._world
        now = world.engage_now() if self._call.operation in ENGAGE else world.treazure_now()
        return formatdate(now / SECOND, usegmt=True)

    def _inner_scope(self) -> Scope:
        return {**self._scope, "state": {**self._scope.get("state", {}), "call": self._call}}

    def _relay(self, answer: _Answer, receive: Receive, send: Send) -> Send:
        async def relay(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._wait(answer.pause, receive)
                answer.start = message
                if answer.fault is None and message["status"] == 200:
                    answer.fault = self._world.faults.take(self._call.operation, "truncated")
                if answer.fault is None:
                    self._world.observations.answered(self._call.operation, str(message["status"]))
                    message["headers"] = [
                        *message["headers"],
                        (b"x-request-id", secrets.token_hex(8).encode()),
                        (b"date", self._date().encode()),
                    ]
                    await send(message)
                return
            if answer.fault is None:
                if not message.get("more_body"):
                    self._land()
                await send(message)
            elif answer.fault.name == "truncated" and not answer.cut:
                answer.cut = True
                await self._truncate(answer, message.get("body", b""), send)

        return relay

    async def _truncate(self, answer: _Answer, body: bytes, send: Send) -> None:
        assert answer.start is not None
        assert answer.fault is not None
        self._spoilt = True
        headers = [(name, value) for name, value in answer.start["headers"] if name != b"content-length"]
        await send({**answer.start, "headers": headers})
        # At least one byte: an empty body would mean that the export is not ready yet.
        await send({"type": "http.response.body", "body": body[: max(1, len(body) // 2)], "more_body": True})
        self._world.observations.answered(self._call.operation, "truncated")
        if answer.fault.clean:
            self._land()
            await send({"type": "http.response.body", "body": b""})
        else:
            answer.broken = True

    async def _instead(self, fault: Fault, receive: Receive, send: Send) -> None:
        if fault.name == "lost_before":
            await self._lose(receive, send)
        elif fault.name == "rate_limited":
            seconds = 1 if fault.seconds is None else fault.seconds
            await self._answer(send, 429, b'{"message":"Too many requests"}', headers={"retry-after": f"{seconds:g}"})
        elif fault.name == "html":
            await self._answer(send, fault.status or 200, _HTML, content_type="text/html; charset=utf-8")
        elif fault.name == "empty":
            await self._answer(send, 200, b"")
        else:
            await self._answer(send, 200, b'{"message":"An unexpected answer"}')

    async def _server_error(self, fault: Fault, send: Send) -> None:
        headers = {} if fault.seconds is None else {"retry-after": f"{fault.seconds:g}"}
        body = b'{"message":"An error has occurred"}'
        if fault.quotes:
            said = f"An error has occurred: {self._call.body.decode(errors='replace')}"
            body = json.dumps({"message": said}).encode()
        await self._answer(send, fault.status or 503, body, headers=headers)

    async def _answer(
        self,
        send: Send,
        status: int,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        self._world.observations.answered(self._call.operation, str(status))
        all_headers = {
            "content-type": content_type,
            "content-length": str(len(body)),
            "x-request-id": secrets.token_hex(8),
            "date": self._date(),
            **(headers or {}),
        }
        pairs = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        self._land()
        await send({"type": "http.response.body", "body": body})

    async def _lose(self, receive: Receive, send: Send) -> None:
        """Close the connection. ASGI has no message for that, so this takes uvicorn's transport behind `send`."""
        self._world.observations.answered(self._call.operation, "lost")
        self._land()
        transport: Any = send.__self__.transport  # type: ignore[attr-defined]
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _wait(self, seconds: float, receive: Receive) -> None:
        """Wait. If the client hangs up meanwhile, nothing of this request is in flight any more."""
        if seconds <= 0:
            return
        gone = asyncio.ensure_future(_gone(receive))
        started = time.monotonic()
        done, _ = await asyncio.wait({gone}, timeout=seconds)
        if done:
            self._land()
            await asyncio.sleep(seconds - (time.monotonic() - started))
        gone.cancel()

    def _land(self) -> None:
        if self._open:
            self._open = False
            for flight in self._call.flights:
                self._world.observations.landed(flight)


@dataclass(slots=True)
class _Answer:
    """An answer on its way back, and what happens to it."""

    pause: float
    fault: Fault | None
    start: Message | None = None
    cut: bool = False
    broken: bool = False


def _observe(world: World, call: Call) -> tuple[Batch, list[Flight]]:
    batch = read_batch(world, call.body)
    return batch, take_off(world, batch, call.arrival)


async def _body(receive: Receive) -> bytes | None:
    """The whole request body; None if the client hung up before it was sent."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes) -> Receive:
    sent = False
    never = asyncio.Event()

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await never.wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_mark(send: Send) -> Send:
    """Send a byte order mark before the body, if there is a body."""
    start: Message | None = None

    async def marked(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        if start is not None:
            if message.get("body"):
                message["body"] = codecs.BOM_UTF8 + message["body"]
                start["headers"] = [
                    (name, str(int(value) + len(codecs.BOM_UTF8)).encode() if name == b"content-length" else value)
                    for name, value in start["headers"]
                ]
            await send(start)
            start = None
        await send(message)

    return marked


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
