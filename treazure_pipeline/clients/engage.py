"""The client of Voyado Engage, the points follower."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import httpx

from treazure_pipeline.clients import engage_wire as wire
from treazure_pipeline.clients.absence import is_about_one, nobody
from treazure_pipeline.clients.answers import Answer, read
from treazure_pipeline.clients.pacing import Pacer, RetryPolicy, Unpaced, in_time
from treazure_pipeline.clients.transport import Client, Http, revealed
from treazure_pipeline.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from decimal import Decimal

    from pydantic import SecretStr

_HEADERS = {"Content-Type": "application/json"}
_MOST_PAGES = 1000


class _ApiKey(httpx.Auth):
    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["apikey"] = self._key
        yield request


class EngageClient(Client):
    """Engage's API with one key. May be used by several threads.

    `timeout`, in seconds, limits each request; `concurrency` is how many threads use the client at once; `witnesses`
    are contacts that Engage should know, and it is asked for them when it answers 404.

    All methods raise RemoteErrors: TransientError (for reads, after the last try), AuthenticationError if the key is
    refused, PermanentError for any other refusal, InvalidAnswerError for an answer that does not fit the contract.
    """

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr,
        *,
        api_version: str = "v2",
        timeout: float = 60.0,
        concurrency: int = 8,
        retry: RetryPolicy | None = None,
        pacer: Pacer | None = None,
        transport: httpx.BaseTransport | None = None,
        on_answer: Callable[[httpx.Response], None] | None = None,
        witnesses: Callable[[], Iterable[str]] = nobody,
    ) -> None:
        self._witnesses = witnesses
        key = revealed(api_key, "ENGAGE_API_KEY")
        self._version = api_version
        self._retry = retry or RetryPolicy()
        self._pacer = pacer or Unpaced()
        self._auth = _ApiKey(key)
        self._http = Http(
            "engage",
            base_url,
            timeout=timeout,
            concurrency=concurrency,
            secrets=[key],
            impersonal=[wire.definitions_path(api_version), wire.contact_count_path(api_version)],
            transport=transport,
            on_answer=on_answer,
        )

    def set_balances(self, body: bytes, *, before: float = math.inf) -> wire.BalancesAnswer:
        """Send balances (`wire.encode_balances`) once. The caller paces, and repeats only with the newest balances.

        Engage accepts balances first and applies them later. A request that would go out after `before` (of
        `pacing.now`) is not sent, and raises TooLateError. After an error, its `outcome` says what happened to the
        rows. Setting balances again is harmless.
        """
        path = wire.balances_path(self._version)
        answer = self._http.ask("POST", path, content=body, headers=_HEADERS, auth=self._auth, before=before)
        identifier = answer.call.request_id
        return read(self._http.checked(answer), lambda received: wire.read_balances_answer(received, body, identifier))

    def add_points(self, body: bytes, idempotency_key: str, *, before: float = math.inf) -> list[wire.RefusedPoints]:
        """Add points (`wire.encode_added_points`) once, and return the rows that Engage did not take.

        A request that would go out after `before` (of `pacing.now`) is not sent, and raises TooLateError. After an
        error, its `outcome` says whether points were added. Engage remembers the key for 24 hours. Until then,
        repeating the request with it adds nothing twice.
        """
        path = wire.added_points_path(self._version)
        headers = {**_HEADERS, "Idempotency-Key": idempotency_key}
        answer = in_time(
            self._pacer,
            lambda until: self._http.ask("POST", path, content=body, headers=headers, auth=self._auth, before=until),
            before,
        )
        return read(self._http.checked(answer), wire.read_added_answer)

    def contact_count(self) -> int:
        """Return how many contacts Engage has. The vendor recommends this as a connection check."""
        return read(self._get(wire.contact_count_path(self._version)), wire.read_contact_count)

    def definitions(self) -> list[wire.Definition]:
        """Return all point definitions."""
        found: dict[int, wire.Definition] = {}
        for _ in range(_MOST_PAGES):
            params = {"offset": len(found), "count": wire.LARGEST_PAGE}
            page = read(self._get(wire.definitions_path(self._version), params), wire.read_definitions)
            known = len(found)
            found |= {definition.id: definition for definition in page}
            if len(page) < wire.LARGEST_PAGE or len(found) == known:
                break
        return list(found.values())

    def balance(self, contact_id: str, definition_id: int) -> Decimal | None:
        """Return a contact's balance in a definition; None if Engage shows no account or does not know the contact.

        Raises NotFoundError for a 404 that may be about everything (see `absence`).
        """
        try:
            accounts = self.point_accounts(contact_id)
        except NotFoundError:
            if not is_about_one(self.point_accounts, contact_id, self._witnesses):
                raise
            return None
        return next((one.balance for one in accounts if one.definition_id == definition_id), None)

    def point_accounts(self, contact_id: str) -> list[wire.PointAccount]:
        """Return a contact's accounts. Raises NotFoundError if Engage does not know the contact."""
        found: dict[str, wire.PointAccount] = {}
        for _ in range(_MOST_PAGES):
            params: dict[str, str | int] = {"contactId": contact_id, "offset": len(found), "count": wire.LARGEST_PAGE}
            answer = self._get(wire.point_accounts_path(self._version), params)
            page, total = read(answer, wire.read_point_accounts)
            known = len(found)
            found |= {account.id: account for account in page}
            is_last = len(page) < wire.LARGEST_PAGE if total is None else len(found) >= total
            if is_last or len(found) == known:
                break
        return list(found.values())

    def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> Answer:
        def once() -> Answer:
            answer = in_time(
                self._pacer,
                lambda until: self._http.ask(
                    "GET", path, params=params, headers=_HEADERS, auth=self._auth, before=until
                ),
            )
            return self._http.checked(answer)

        return self._retry.call(once, pacer=self._pacer)
