"""A contact's points log, read from Treazure, for Engage's contact card and for service staff.

It must not delay the webhooks. So Treazure is asked in separate threads, with the sync's priority in the shared rate (after adjustments), and
once for everybody who asks for the same log at the same time. Every wait is limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treazure_pipeline import conventions, people
from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.points_log import balance_of, oldest_first
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.connections import treazure_client
from treazure_pipeline.errors import DatabaseError, NotFoundError, PipelineError, RemoteError
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.settings import MasterSettings, Programme

DEFAULT_COUNT = 100
LARGEST_COUNT = 500
CACHED_SECONDS = 30
LONGEST_CALL_SECONDS = 10.0
ANSWER_SECONDS = 15.0
RATE_PATIENCE_SECONDS = 5.0
_MOST_LOGS = 1_000
_MOST_MOVEMENTS = 100_000
_MOST_UNDER_WAY = 100
_RETRY_SECONDS = 5
_NUMBER = re.compile(r"[0-9]{1,9}")
# Exact: a decimal that went through a float could show wrong points.
_EXACT = msgspec.json.Encoder(decimal_format="number")

log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """An answer without a log. `system` is the side that failed, if one did."""

    def __init__(
        self,
        status: int,
        outcome: str,
        reason: str,
        *,
        system: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.outcome = outcome
        self.system = system
        self.request_id = request_id
        self.retry_after = retry_after

    def response(self) -> Response:
        """Return it as a JSON response."""
        content = {"error": str(self)}
        if self.system is not None:
            content["system"] = self.system
        if self.request_id is not None:
            content["requestId"] = self.request_id
        headers = {"cache-control": "no-store"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry_after is not None:
            headers["retry-after"] = f"{max(1, round(self.retry_after))}"
        return JSONResponse(content, self.status, headers)


@dataclass(frozen=True)
class _Log:
    """A log as JSON texts, newest first; None if Treazure has no such account. `until` is on the event loop's clock."""

    items: list[bytes] | None
    balance: bytes
    until: float


@dataclass(frozen=True)
class _Page:
    offset: int
    count: int


class Histories:
    """Serves `/contacts/{contactId}/points-history`. Use it within `opened`, in the same event loop.

    `url` is the ledger's, for the shared rate. `get` answers a request, and also returns the outcome for the metrics.
    """

    def __init__(self, url: str, key: SecretStr, master: MasterSettings) -> None:
        self._url = url
        self._key = key.get_secret_value().encode()
        timeout = min(master.treazure_timeout_seconds, LONGEST_CALL_SECONDS)
        self._master = master.model_copy(update={"treazure_timeout_seconds": timeout})
        self._programmes = {programme.definition_id: programme for programme in master.programmes}
        self._logs: OrderedDict[tuple[int, str], _Log] = OrderedDict()
        self._movements = 0
        self._under_way: dict[tuple[int, str], asyncio.Task[_Log]] = {}
        self._threads = ThreadPoolExecutor(master.treazure_concurrency, thread_name_prefix="history")
        self._closed = threading.Event()
        self._opening = threading.Lock()
        self._resources = contextlib.ExitStack()
        self._treazure: TreazureClient | None = None

    def __repr__(self) -> str:
        """Show neither key nor URL."""
        return f"{type(self).__name__}()"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Serve requests within the block. Connects to nothing before the first request."""
        try:
            yield
        finally:
            self._closed.set()
            for task in self._under_way.values():
                task.cancel()
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
            self._resources.close()

    async def get(self, request: Request) -> tuple[str, Response]:
        """Answer with one page of a contact's log, newest movement first."""
        try:
            return await self._get(request)
        except _RefusedError as refused:
            log.warning("points history not given (%s): %s", refused.status, people.public(str(refused)))
            return refused.outcome, refused.response()

    async def _get(self, request: Request) -> tuple[str, Response]:
        self._authenticate(request)
        contact = request.path_params["contact"].lower()
        if not conventions.GUID.fullmatch(contact):
            raise _malformed(f"The contact id ({_shown(contact)}) must be a GUID.")
        programme = self._programme(request)
        page = _Page(
            _number(request, "offset", 0, 0, 999_999_999), _number(request, "count", DEFAULT_COUNT, 1, LARGEST_COUNT)
        )
        held, fresh = await self._log(programme, contact)
        if held.items is None:
            raise _RefusedError(
                404, "unknown", f"Treazure has no account of contact {contact} in programme {programme.name}."
            )
        return _answered(request, _body(programme, contact, held, page), held, fresh=fresh)

    def _authenticate(self, request: Request) -> None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = [bearer.strip()] if scheme.lower() == "bearer" else []
        shown += [request.headers[name] for name in ("apikey", "x-api-key") if name in request.headers]
        fits = [hmac.compare_digest(key.encode("latin-1"), self._key) for key in shown]
        if not any(fits):
            raise _RefusedError(
                401, "unauthorised", "The key is missing or wrong; send it as `Authorization: Bearer KEY`."
            )

    def _programme(self, request: Request) -> Programme:
        known = ", ".join(map(str, sorted(self._programmes)))
        given = request.query_params.get("definitionId")
        if given is None and len(self._programmes) == 1:
            return next(iter(self._programmes.values()))
        if given is None:
            raise _malformed(f"There are several programmes: definitionId must be one of {known}.")
        if not _NUMBER.fullmatch(given):
            raise _malformed(f"definitionId ({_shown(given)}) must be a whole number.")
        if int(given) not in self._programmes:
            raise _RefusedError(404, "unknown", f"There is no programme with definitionId {given}; there are: {known}.")
        return self._programmes[int(given)]

    async def _log(self, programme: Programme, contact: str) -> tuple[_Log, bool]:
        """Return a log that is at most 30 seconds old, and whether it was fetched for this request."""
        key = (programme.definition_id, contact)
        held = self._logs.get(key)
        if held is not None and held.until > asyncio.get_running_loop().time():
            return held, False
        task = self._under_way.get(key)
        joined = task is not None
        if task is None:
            if len(self._under_way) >= _MOST_UNDER_WAY:
                raise _RefusedError(
                    503, "busy", "Too many histories are being read; try again later.", retry_after=_RETRY_SECONDS
                )
            task = self._under_way[key] = asyncio.create_task(self._fetch(programme, key))
            task.add_done_callback(lambda done: self._landed(key, done))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(task), not joined
        except TimeoutError:
            raise _RefusedError(
                504, "late", f"Treazure did not answer within {ANSWER_SECONDS:g} s.", system="treazure"
            ) from None
        except PipelineError as error:
            raise _refusal(error) from None

    async def _fetch(self, programme: Programme, key: tuple[int, str]) -> _Log:
        loop = asyncio.get_running_loop()
        items, balance = await loop.run_in_executor(self._threads, self._read, programme.loyalty_id, key[1])
        return _Log(items, balance, loop.time() + CACHED_SECONDS)

    def _landed(self, key: tuple[int, str], task: asyncio.Task[_Log]) -> None:
        """Cache what has arrived, whether or not somebody still waits for it, and drop the oldest if there is too much."""
        del self._under_way[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._forget(key)
        self._logs[key] = task.result()
        self._movements += len(task.result().items or ())
        while len(self._logs) > _MOST_LOGS or (self._movements > _MOST_MOVEMENTS and len(self._logs) > 1):
            self._forget(next(iter(self._logs)))

    def _forget(self, key: tuple[int, str]) -> None:
        gone = self._logs.pop(key, None)
        if gone is not None:
            self._movements -= len(gone.items or ())

    def _read(self, loyalty_id: str, contact: str) -> tuple[list[bytes] | None, bytes]:
        """Ask Treazure, in a thread. Return the log as JSON texts, newest first, and the balance that it ends with."""
        treazure = self._client()
        try:
            movements = oldest_first(treazure.history(contact, loyalty_id).movements)
        except NotFoundError:
            # The contact has no log only if Treazure does not know the account either.
            if treazure.knows(contact, loyalty_id):
                raise
            return None, b""
        balance = balance_of(movements)
        # An account that is not in the programme and one without movements both have an empty log.
        if not movements and treazure.account_balance(contact, loyalty_id) is None:
            return None, b""
        return [_EXACT.encode(movement) for movement in reversed(movements)], _EXACT.encode(balance)

    def _client(self) -> TreazureClient:
        with self._opening:
            if self._treazure is None:
                threads = self._master.treazure_concurrency
                ledger = self._resources.enter_context(Ledger(self._url, connections=threads))
                retry = RetryPolicy(waits=(), stop=self._closed)
                self._treazure = self._resources.enter_context(
                    treazure_client(self._master, ledger, retry, Priority.SYNC, patience=RATE_PATIENCE_SECONDS)
                )
            return self._treazure


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if not _NUMBER.fullmatch(given) or not least <= int(given) <= most:
        raise _malformed(f"{name} ({_shown(given)}) must be a whole number from {least} to {most}.")
    return int(given)


def _shown(given: str) -> str:
    return people.said(f"{given!r:.100}")


def _malformed(reason: str) -> _RefusedError:
    return _RefusedError(400, "malformed", reason)


def _refusal(error: PipelineError) -> _RefusedError:
    if isinstance(error, RemoteError):
        became = outcome.of(error)
        if not became.costs_a_try:
            status, result = 503, "rate_used_up"
        elif became.effect == "possible" and error.status is None:
            status, result = 504, "late"
        else:
            status, result = 502, "failed"
        after = None if became.costs_a_try else became.wait or _RETRY_SECONDS
        return _RefusedError(
            status, result, str(error), system="treazure", request_id=error.request_id, retry_after=after
        )
    if isinstance(error, DatabaseError):
        return _RefusedError(503, "unavailable", str(error), system="database", retry_after=_RETRY_SECONDS)
    return _RefusedError(503, "rate_used_up", str(error), system="treazure", retry_after=_RETRY_SECONDS)


def _body(programme: Programme, contact: str, held: _Log, page: _Page) -> bytes:
    items = (held.items or [])[page.offset : page.offset + page.count]
    total = len(held.items or ())
    head = {"contactId": contact, "definitionId": programme.definition_id, "total": total, "offset": page.offset,
            "count": len(items), "links": list(_links(programme, contact, total, page))}  # fmt: skip
    # The items are JSON already.
    return msgspec.json.encode(head)[:-1] + b',"balance":' + held.balance + b',"items":[' + b",".join(items) + b"]}"


def _links(programme: Programme, contact: str, total: int, page: _Page) -> Iterator[dict[str, str]]:
    path = f"/contacts/{contact}/points-history?definitionId={programme.definition_id}&count={page.count}&offset="
    if page.offset + page.count < total:
        yield {"rel": "next", "href": f"{path}{page.offset + page.count}"}
    if page.offset > 0:
        yield {"rel": "prev", "href": f"{path}{max(0, page.offset - page.count)}"}


def _answered(request: Request, body: bytes, held: _Log, *, fresh: bool) -> tuple[str, Response]:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    age = max(0, int(held.until - asyncio.get_running_loop().time()))
    headers = {"etag": tag, "cache-control": f"private, max-age={age}", "vary": "Authorization, apikey, X-Api-Key"}
    wanted = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in wanted or "*" in wanted:
        return "not_modified", Response(status_code=304, headers=headers)
    return "fetched" if fresh else "cached", Response(body, media_type="application/json", headers=headers)
