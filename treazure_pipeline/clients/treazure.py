"""The client of Treazure, the points master."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import httpx

from treazure_pipeline.clients import movements, wire
from treazure_pipeline.clients.absence import is_about_one, nobody
from treazure_pipeline.clients.answers import Answer, http_date, read
from treazure_pipeline.clients.exports import Exports
from treazure_pipeline.clients.pacing import Pacer, RetryPolicy, Unpaced, in_time
from treazure_pipeline.clients.transport import Client, Http, revealed
from treazure_pipeline.errors import AuthenticationError, NotFoundError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from contextlib import AbstractContextManager
    from decimal import Decimal

    from pydantic import SecretStr

TOKEN_LIFE_SECONDS = 55 * 60.0
TOKEN_MARGIN_SECONDS = 5 * 60.0


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


class _Tokens:
    """The current token, fetched when one is needed, and only once for all threads."""

    def __init__(self, fetch: Callable[[], wire.Token], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._current: _Bearer | None = None
        self._replace_at = 0.0

    def get(self) -> _Bearer:
        with self._lock:
            if self._current is None or self._clock() >= self._replace_at:
                asked = self._clock()
                token = self._fetch()
                self._current = _Bearer(token.access_token)
                life = max(token.expires_in - TOKEN_MARGIN_SECONDS, token.expires_in / 2)
                self._replace_at = asked + min(TOKEN_LIFE_SECONDS, life)
            return self._current

    def drop(self, refused: _Bearer) -> None:
        """Forget a token that was refused, unless another thread has replaced it already."""
        with self._lock:
            if self._current is refused:
                self._current = None


@dataclass(frozen=True)
class BegunExport:
    """A requested export: its path, and the time on Treazure's clock (`Date`), None if it did not say."""

    path: str
    clock: datetime | None


class TreazureClient(Client):
    """Treazure's API with one OAuth client. May be used by several threads.

    A token is fetched when one is needed, and replaced after 55 minutes (the vendor's advice), or sooner if it lives
    less than an hour. After a 401 it is dropped, and the call is made once more with a new one. `timeout`, in seconds,
    limits each request; `concurrency` is how many threads use the client at once; `clock` returns seconds and never
    goes back; `witnesses` are accounts that Treazure should have, and it is asked for them when it answers 404.

    All methods raise RemoteErrors: TransientError after the last try, AuthenticationError if the credentials are
    refused, PermanentError for any other refusal, InvalidAnswerError for an answer that does not fit the contract.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: SecretStr,
        *,
        timeout: float = 30.0,
        concurrency: int = 8,
        retry: RetryPolicy | None = None,
        pacer: Pacer | None = None,
        transport: httpx.BaseTransport | None = None,
        on_answer: Callable[[httpx.Response], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        witnesses: Callable[[], Iterable[str]] = nobody,
    ) -> None:
        self._witnesses = witnesses
        self._client_id = client_id
        self._client_secret = client_secret
        self._retry = retry or RetryPolicy()
        self._pacer = pacer or Unpaced()
        self._http = Http(
            "treazure",
            base_url,
            timeout=timeout,
            concurrency=concurrency,
            secrets=[revealed(client_secret, "TREAZURE_CLIENT_SECRET")],
            impersonal=[wire.TOKEN, wire.REQUEST_EXPORT],
            transport=transport,
            on_answer=on_answer,
        )
        self._tokens = _Tokens(self._fetch_token, clock)
        self._exports = Exports(self._http, self._look, self._retry, self._pacer)

    def check(self) -> None:
        """Log in, unless there is a valid token."""
        self._retry.call(self._tokens.get)

    def request_balances(self, loyalty_id: str, mutated_from: datetime, mutated_to: datetime) -> BegunExport:
        """Ask Treazure to export the balances that changed between two aware times.

        Asking twice, after a lost answer, is harmless. A link to another host is an InvalidAnswerError.
        """
        body = wire.encode_export_request(loyalty_id, mutated_from, mutated_to)
        answer = self._retry.call(lambda: self._ask("POST", wire.REQUEST_EXPORT, content=body), pacer=self._pacer)
        location = answer.headers.get("location")
        href = read(answer, lambda received: wire.read_export_link(received, location))
        return BegunExport(
            self._http.local_path(href, answer.method, answer.path), http_date(answer.headers.get("date", ""))
        )

    def open_balances(self, href: str) -> AbstractContextManager[Iterator[bytes]]:
        """Wait until an export is ready, then yield its body in pieces of about 1 MiB as they arrive.

        Polls at growing intervals, or when `Retry-After` says, for half an hour at most (scaled like the waits). A
        redirect to a storage host is followed without our token. Raises ExportExpiredError if the result is gone. If
        the body breaks off, the pieces raise NoAnswerError, and the caller starts again with a new export.
        """
        return self._exports.open(href)

    def account_balance(self, account: str, loyalty_id: str) -> Decimal | None:
        """Return an account's present balance; None if the account is not in this programme.

        Raises NotFoundError if Treazure answers 404.
        """
        return self.balance_and_clock(account, loyalty_id)[0]

    def balance_and_clock(self, account: str, loyalty_id: str) -> tuple[Decimal | None, datetime | None]:
        """Return the same, and the time of Treazure's clock if the answer names it."""
        answer = self._retry.call(lambda: self._ask("GET", wire.account_path(account)), pacer=self._pacer)
        balance = read(answer, lambda received: wire.read_account_balance(received, loyalty_id))
        return balance, http_date(answer.headers.get("date", ""))

    def knows(self, account: str, loyalty_id: str) -> bool:
        """Return whether Treazure may have this account. A 404 only counts if others are found (see `absence`)."""

        def ask(asked: str) -> object:
            return self.account_balance(asked, loyalty_id)

        try:
            ask(account)
        except NotFoundError:
            return not is_about_one(ask, account, self._witnesses)
        return True

    def post_transaction(
        self, account: str, loyalty_id: str, amount: Decimal, *, receipt: str, comment: str, before: float = math.inf
    ) -> Decimal | None:
        """Add points, or take them if `amount` is negative, ONCE: this is never tried again.

        Returns the account's new balance, or None if the answer does not have it. A call that would go out after
        `before` (of `pacing.now`) is not made, and raises TooLateError. If the `outcome` of an error is a possible
        effect, only the history tells what happened: look for `receipt` there.
        """
        content = wire.encode_transaction(loyalty_id, amount, receipt, comment)
        answer = self._ask("POST", wire.transaction_path(account), content=content, before=before)
        return read(answer, lambda received: wire.read_transaction_balance(received, loyalty_id))

    def history(self, account: str, loyalty_id: str) -> movements.Log:
        """Return an account's points log in one programme. Raises NotFoundError if Treazure answers 404."""
        path = wire.history_path(account, loyalty_id)
        answer = self._retry.call(lambda: self._ask("GET", path), pacer=self._pacer)
        return read(answer, movements.read_log)

    def _ask(self, method: str, path: str, *, content: bytes | None = None, before: float = math.inf) -> Answer:
        """Make one try, and after a 401 a second one with a new token."""
        token = self._tokens.get()
        answer = self._once(token, method, path, content, before)
        if answer.status == 401:
            self._tokens.drop(token)
            answer = self._once(self._tokens.get(), method, path, content, before)
        return self._http.checked(answer)

    def _once(self, token: _Bearer, method: str, path: str, content: bytes | None, before: float) -> Answer:
        headers = {"Content-Type": "application/json"} if content is not None else None
        return in_time(
            self._pacer,
            lambda until: self._http.ask(method, path, content=content, headers=headers, auth=token, before=until),
            before,
        )

    def _fetch_token(self) -> wire.Token:
        answer = self._http.ask(
            "POST",
            wire.TOKEN,
            form={
                "grant_type": "client_credentials",
                "client_id": self._client_id,
                "client_secret": self._client_secret.get_secret_value(),
                "scope": wire.SCOPE,
            },
        )
        try:
            return read(self._http.checked(answer), wire.read_token)
        except PermanentError as error:
            if error.status != 400:
                raise
            hint = "Check TREAZURE_CLIENT_ID and TREAZURE_CLIENT_SECRET."
            raise AuthenticationError(error.message, error.call, hint=hint) from None

    def _look(self, path: str, stack: ExitStack) -> tuple[Answer, Iterator[bytes]]:
        """Open a result with a token; the stack keeps the connection."""
        token = self._tokens.get()
        answer, pieces = self._open_once(token, path, stack)
        if answer.status == 401:
            self._tokens.drop(token)
            answer, pieces = self._open_once(self._tokens.get(), path, stack)
        return answer, pieces

    def _open_once(self, token: _Bearer, path: str, stack: ExitStack) -> tuple[Answer, Iterator[bytes]]:
        return in_time(
            self._pacer, lambda until: stack.enter_context(self._http.stream(path, auth=token, before=until))
        )
