"""The application's routes, and the server that runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from treazure_pipeline import people, tracing
from treazure_pipeline.adjustments.events import LONGEST_ID, Event
from treazure_pipeline.adjustments.inbox import Store
from treazure_pipeline.adjustments.queue import receipt_of
from treazure_pipeline.adjustments.signatures import MalformedError, UnsignedError, Verifier
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.points_history.contact_card import Histories
from treazure_pipeline.service.limits import LIMITS, Limits, guarded
from treazure_pipeline.service.metrics import Metrics
from treazure_pipeline.service.openapi import document

_BACKLOG = 2048
# Longer than any request takes.
_GRACE_SECONDS = 20

log = logging.getLogger(__name__)


class _RefusedError(Exception):
    def __init__(self, status: int, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.outcome = outcome


class Receiver:
    """The handlers. A delivery may wait up to `answer_within` seconds after its arrival for its balance.

    Without `histories`, nobody may read a contact's points log.
    """

    def __init__(self, store: Store, verifier: Verifier, answer_within: float, histories: Histories | None) -> None:
        self._store = store
        self._verifier = verifier
        self._answer_within = answer_within
        self._histories = histories
        self._metrics = Metrics(store)

    async def deliver(self, request: Request) -> Response:
        """Take a delivery. Any answer but 2xx, which means that it is stored, makes the sender try again."""
        began = asyncio.get_running_loop().time()
        with tracing.span("webhook", kind="SERVER") as span:
            try:
                outcome, response = await self._deliver(request, began, span)
            except _RefusedError as refused:
                outcome = refused.outcome
                log.warning("delivery not taken (%s): %s", refused.status, refused)
                response = JSONResponse({"error": str(refused)}, refused.status)
                if refused.status in {408, 413}:
                    response.headers["connection"] = "close"
            span.set(outcome=outcome, status=response.status_code)
        self._metrics.deliveries.labels(outcome).inc()
        self._metrics.seconds.observe(asyncio.get_running_loop().time() - began)
        return response

    async def _deliver(self, request: Request, began: float, span: tracing.Span) -> tuple[str, Response]:
        body = await _read(request)
        try:
            delivery_id = self._verifier.verify(body, request.headers)
        except UnsignedError as error:
            raise _RefusedError(401, "unsigned", str(error)) from None
        except MalformedError as error:
            raise _RefusedError(400, "malformed", str(error)) from None
        if len(delivery_id) > LONGEST_ID:
            raise _RefusedError(400, "malformed", f"The delivery's id has more than {LONGEST_ID} characters.")
        event = replace(Event.read(delivery_id, body), trace=tracing.here())
        if event.payload is not None:
            span.set(receipt=receipt_of(event.id))
        try:
            stored = await self._store.add(event)
        except DatabaseError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is complete
            raise _RefusedError(503, "unavailable", "It could not be stored; try again later.") from None
        named = people.public(f"event {people.word(event.id)} of type {people.word(event.kind or '')}")
        log.info("%s: %s", stored, named)
        if self._answer_within > 0 and stored in {"stored", "repeated"}:
            balance = await self._store.balance(event.id, began + self._answer_within)
            if balance is not None:
                # Written as text, since Python's JSON numbers would go through a float.
                return stored, Response(f'{{"balance": {balance}}}', media_type="application/json")
        return stored, JSONResponse({"status": stored}, 202)

    async def history(self, request: Request) -> Response:
        """Return a contact's points log to whoever has the key."""
        began = asyncio.get_running_loop().time()
        if self._histories is None:
            outcome = "off"
            response: Response = JSONResponse(
                {"error": "Points histories are not switched on here (HISTORY_API_KEY)."}, 404
            )
        else:
            outcome, response = await self._histories.get(request)
        self._metrics.histories.labels(outcome).inc()
        self._metrics.history_seconds.observe(asyncio.get_running_loop().time() - began)
        return response

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        """Answer as long as the process is up."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """Return whether deliveries can be stored, and if not, why."""
        try:
            await self._store.check()
        except DatabaseError as error:
            return JSONResponse({"status": "unavailable", "error": str(error)}, 503)
        except psycopg.Error as error:
            return JSONResponse({"status": "unavailable", "error": f"Unexpected {type(error).__name__}."}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """Return the metrics for Prometheus."""
        return Response(await self._metrics.render(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """Return the OpenAPI document."""
        return JSONResponse(document())


def build_app(
    url: str, secrets: Iterable[str], answer_within: float = 0, histories: Histories | None = None
) -> Starlette:
    """Return the receiver for the ledger at `url` and deliveries signed with any of the secrets (`whsec_…`).

    It also starts without the database, and answers 503 until that is there.
    """
    store = Store(url)
    receiver = Receiver(store, Verifier(secrets), answer_within, histories)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with store.opened(), nullcontext() if histories is None else histories.opened():
            yield
        await asyncio.to_thread(tracing.flush)  # uvicorn ends the process with the signal that it got

    routes = [
        Route("/webhooks/engage", receiver.deliver, methods=["POST"]),
        Route("/contacts/{contact}/points-history", receiver.history),
        Route("/healthz", receiver.health),
        Route("/readyz", receiver.ready),
        Route("/metrics", receiver.metrics),
        Route("/openapi.json", receiver.openapi),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a listening socket (port 0: any free one) and its URL. Raises OSError.

    asyncio only sets TCP_NODELAY if the socket names its protocol. Without it, every answer takes 40 ms.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


def server(app: ASGIApp, limits: Limits = LIMITS) -> uvicorn.Server:
    """Return a server for the application, to be run on a socket from `bind`. SIGTERM and SIGINT end it after its last request."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        http=guarded(limits),
        h11_max_incomplete_event_size=limits.header,
        timeout_keep_alive=limits.idle_time,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_BACKLOG,
    )
    return uvicorn.Server(config)


async def _read(request: Request) -> bytes:
    """Return the body. Stops reading one that is too large or too slow, and raises _RefusedError."""
    too_large = _RefusedError(413, "too_large", f"The body has more than {LIMITS.body} bytes.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > LIMITS.body_thrown_away:
        raise too_large
    body = bytearray()
    size = 0
    try:
        async with asyncio.timeout(LIMITS.body_time):
            async for chunk in request.stream():
                size += len(chunk)
                if size > LIMITS.body_thrown_away:
                    break
                if size <= LIMITS.body:
                    body += chunk
    except TimeoutError:
        raise _RefusedError(408, "too_slow", "The body did not arrive in time.") from None
    except ClientDisconnect:
        raise _RefusedError(400, "malformed", "The body broke off.") from None
    if size > LIMITS.body:
        raise too_large
    return bytes(body)
