"""What both clients share: how a request is made, and how much of an answer is taken.

`pacing` decides when a request is made and repeated, `answers` what kind of answer came, and `outcome` what that means
for the request. Nothing here knows a path or a body of either system.
"""

from __future__ import annotations

import math
import os
import re
import time
from contextlib import AbstractContextManager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, urlsplit

import httpx

from treazure_pipeline import __version__, conventions, people, tracing
from treazure_pipeline.clients.answers import Answer, address_hint, described, failure, unusable
from treazure_pipeline.clients.pacing import now
from treazure_pipeline.clients.wire import BOM
from treazure_pipeline.errors import (
    Call,
    InvalidAnswerError,
    NoAnswerError,
    PermanentError,
    RemoteError,
    SettingsError,
    System,
    TooLateError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from pydantic import SecretStr

USER_AGENT = f"treazure-pipeline/{__version__}"
LONGEST_CONNECT_SECONDS = 10.0
LARGEST_BODY_BYTES = 64 * 1024 * 1024
LARGEST_STREAM_BYTES = 16 * 1024**3
LONGEST_STREAM_SECONDS = 2 * 3600.0
"""Limits on what a system may send us, after decompression. A stream is an export's body."""

_GOES_OUT = frozenset({"http11.send_request_headers.started", "http11.send_request_body.started"})


def revealed(secret: SecretStr, setting: str) -> str:
    """Return a secret that fits into an HTTP header. Raises SettingsError, which names the setting, not the value."""
    value = secret.get_secret_value()
    if not re.fullmatch(r"[!-~]+", value):
        raise SettingsError(f"{setting} is empty, or contains white space or characters outside ASCII.")
    return value


def excerpt(body: bytes, secrets: Sequence[str] = (), *, longest: int = 80) -> str:
    """Return the start of a body for a message: one line, redacted, cut."""
    text = people.printable(" ".join(people.redacted(body[:20_000].decode("utf-8", "replace"), secrets).split()))
    return f"{text[:longest]}…" if len(text) > longest else text


class _Remaining(dict[str, float]):
    """httpx's time limits for one request. Each phase gets what the earlier phases have left over."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.deadline = time.monotonic() + seconds

    def get(self, phase: str, default: object = None) -> float:  # noqa: ARG002 - as httpcore calls it
        left = max(self.deadline - time.monotonic(), 0.001)
        return min(left, LONGEST_CONNECT_SECONDS) if phase == "connect" else left


class Http:
    """Sends requests to one system behind one base URL, and turns failures into our errors.

    `timeout`, in seconds, limits a whole request, or for a streamed body each wait for more bytes. Answers from the
    paths in `impersonal` may be quoted in errors, since they contain no personal data (I9). Redirects are never
    followed. Proxies from the environment are used unless the host is this machine (I9).
    """

    def __init__(
        self,
        system: System,
        base_url: str,
        *,
        timeout: float,
        concurrency: int,
        secrets: Sequence[str],
        transport: httpx.BaseTransport | None,
        impersonal: Collection[str] = (),
        on_answer: Callable[[httpx.Response], None] | None = None,
        is_foreign: bool = False,
    ) -> None:
        self.system = system
        self.base_url = base_url.rstrip("/")
        self._base = urlsplit(self.base_url)
        self._shown = f"//{self._base.netloc}" if is_foreign else ""
        self._timeout = timeout
        self._on_answer = on_answer
        self._secrets = tuple(secrets)
        self._impersonal = frozenset(impersonal)
        connections = concurrency + 2
        with _named_surroundings():
            self._client = httpx.Client(
                headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
                timeout=httpx.Timeout(timeout, connect=min(timeout, LONGEST_CONNECT_SECONDS)),
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
                follow_redirects=False,
                verify=self._base.scheme == "https",
                trust_env=not conventions.is_loopback(self._base.hostname),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                transport=transport,
                event_hooks={"response": [on_answer] if on_answer else []},
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
        before: float = math.inf,
    ) -> Answer:
        """Send one request and return its complete answer, of any status.

        Raises TooLateError if it would go out after `before` (of `pacing.now`), NoAnswerError if it may have arrived
        but no complete answer came within the timeout, and another TransientError if it can't have arrived.
        """
        limits = _Remaining(self._timeout)
        request = self._request(
            method,
            path,
            params=params,
            content=content,
            data=form,
            headers=headers,
            extensions={"timeout": limits, "trace": self._in_time(method, path, before)},
        )
        with self._span(method, path) as span, self._translated(method, path):
            response = self._client.send(request, auth=auth, stream=True)
            try:
                body = self._whole(response, method, path, limits.deadline)
            finally:
                response.close()
            answer = Answer(
                self.system, method, self._call(method, path).path, response.status_code, response.headers, body
            )
            span.set(status=answer.status, request_id=answer.call.request_id)
        return answer

    def _span(self, method: str, path: str) -> AbstractContextManager[tracing.Span]:
        # On another host, the path alone may give access to the data.
        plain = None if self._shown else tracing.template(path.partition("?")[0])
        return tracing.span(f"{self.system} {method}", kind="CLIENT", method=method, path=plain)

    @contextmanager
    def stream(
        self, path: str, *, auth: httpx.Auth | None = None, before: float = math.inf
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """GET a resource whose body may be large.

        Yields the answer, and the body in pieces of about 1 MiB. If the status is not 200, the answer has the body
        instead.
        """
        request = self._request("GET", path, extensions={"trace": self._in_time("GET", path, before)})
        with self._span("GET", path) as span, self._translated("GET", path):
            response = self._client.send(request, auth=auth, stream=True)
            span.set(status=response.status_code)
        try:
            with self._translated("GET", path):
                deadline = time.monotonic() + self._timeout
                body = b"" if response.status_code == 200 else self._whole(response, "GET", path, deadline)
            yield (
                Answer(self.system, "GET", self._call("GET", path).path, response.status_code, response.headers, body),
                self._pieces(response, path),
            )
        finally:
            response.close()

    def local_path(self, href: str, method: str, path: str) -> str:
        """Return the path and query of a link to this system.

        Raises InvalidAnswerError, which names the host, for any other link, since credentials must not go there.
        """
        try:
            link = urlsplit(href.strip())
            foreign = (link.scheme or link.netloc) and _origin(link, self._base.scheme) != _origin(self._base)
        except ValueError:
            raise self._invalid(method, path, "it names a link that can't be read") from None
        if foreign:
            host = link.netloc.rpartition("@")[2] or link.scheme
            raise self._invalid(
                method,
                path,
                f"it leads to the host {host!r} instead of {self._base.netloc}",
                hint="Nothing was sent there, to keep the credentials safe.",
            )
        local = f"/{link.path.lstrip('/')}"
        if self._base.path and (local == self._base.path or local.startswith(f"{self._base.path}/")):
            local = local.removeprefix(self._base.path)
        return f"{local}?{link.query}" if link.query else local

    def is_own(self, url: str) -> bool:
        """Return whether a URL leads to this system."""
        try:
            return _origin(urlsplit(url)) == _origin(self._base)
        except ValueError:
            return False

    def elsewhere(self, url: str, answer: Answer) -> tuple[Http, str]:
        """Return a client for a URL on another host, without any credentials, and the path and query there.

        Raises InvalidAnswerError if the URL has a user, or is not https (unless both hosts are this machine).
        """
        try:
            link = urlsplit(url)
            host, port = link.hostname, _origin(link)[2]
        except ValueError:
            raise InvalidAnswerError("it redirects to a link that can't be read.", answer.call) from None
        is_plain = (
            link.scheme == "http" and conventions.is_loopback(host) and conventions.is_loopback(self._base.hostname)
        )
        if not host or not port or link.username or not (link.scheme == "https" or is_plain):
            raise InvalidAnswerError(
                f"it redirects to {host or link.scheme!r}, which is no https link without a user.",
                answer.call,
                hint="Nothing was sent there.",
            )
        other = Http(
            self.system, f"{link.scheme}://{link.netloc}", timeout=self._timeout, concurrency=1, secrets=self._secrets,
            transport=None, is_foreign=True, on_answer=self._on_answer,
        )  # fmt: skip
        return other, f"{link.path or '/'}{f'?{link.query}' if link.query else ''}"

    def checked(self, answer: Answer) -> Answer:
        """Return an answer if its status is 2xx. Raises the error that a web page, or any other status, means."""
        if not 200 <= answer.status < 300:
            raise self.failure(answer)
        if answer.is_page:
            raise unusable(answer, "it is a web page")
        return answer

    def _in_time(self, method: str, path: str, before: float) -> Callable[[str, object], None]:
        """Return a hook for httpcore that stops a request before it goes out if its time is up."""

        def trace(event: str, _: object) -> None:
            if event in _GOES_OUT and now() > before:
                raise TooLateError(self._call(method, path))

        return trace

    def failure(self, answer: Answer) -> RemoteError:
        """Return the error for a status other than 2xx."""
        return failure(answer, self._quoted(answer))

    def _call(self, method: str, path: str) -> Call:
        return Call(self.system, method, f"{self._shown}{path.partition('?')[0]}")

    def _invalid(self, method: str, path: str, what: str, *, hint: str | None = None) -> InvalidAnswerError:
        return InvalidAnswerError(f"the answer can't be used: {what}.", self._call(method, path), hint=hint)

    def _quoted(self, answer: Answer) -> str:
        """Describe an answer. What it says about a contact is marked, so that it is shown nowhere (I9)."""
        if not answer.body.strip():
            return described(answer)
        text = excerpt(answer.body, self._secrets, longest=300)
        return f'"{text}"' if answer.path in self._impersonal else f"{described(answer)}, {people.said(text)}"

    def _request(self, method: str, path: str, **parts: object) -> httpx.Request:
        try:
            return self._client.build_request(method, f"{self.base_url}{path}", **parts)  # type: ignore[arg-type]
        except httpx.InvalidURL as error:
            raise self._invalid(method, path, "its link is not a URL") from error

    def _whole(self, response: httpx.Response, method: str, path: str, deadline: float) -> bytes:
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer took too long")
            if len(body) > LARGEST_BODY_BYTES:
                raise self._invalid(method, path, f"it is larger than {LARGEST_BODY_BYTES:,} bytes")
        return bytes(body).removeprefix(BOM)

    def _pieces(self, response: httpx.Response, path: str) -> Iterator[bytes]:
        deadline, size = time.monotonic() + LONGEST_STREAM_SECONDS, 0
        with self._translated("GET", path):
            for piece in response.iter_bytes():
                yield piece
                size += len(piece)
                if size > LARGEST_STREAM_BYTES:
                    raise self._invalid("GET", path, f"it is larger than {LARGEST_STREAM_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the body took longer than {LONGEST_STREAM_SECONDS:g} s")

    @contextmanager
    def _translated(self, method: str, path: str) -> Iterator[None]:
        """Turn httpx's exceptions into ours."""
        call = self._call(method, path)
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            hint = "Check the network, and the host's name in the settings."
            raise TransientError(
                f"no connection to {self._base.netloc}: {self._said(error)}.", call, hint=hint, sent=False
            ) from error
        except httpx.DecodingError as error:
            raise self._invalid(method, path, "its content encoding is broken") from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            # The original's text may quote a header.
            raise PermanentError(
                f"the request could not be made ({type(error).__name__}).", call, hint=address_hint(self.system)
            ) from None
        except httpx.TransportError as error:
            raise NoAnswerError(
                f"no complete answer: {self._said(error)}.",
                call,
                hint="Whether it took effect is unknown.",
                timed_out=isinstance(error, httpx.TimeoutException),
            ) from error

    def _said(self, error: Exception) -> str:
        return people.redacted(str(error), self._secrets).rstrip(".") or type(error).__name__


class Client:
    """A client of one system. Close it, or use it as a context manager."""

    _http: Http

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The base URL."""
        return self._http.base_url

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _origin(url: SplitResult, scheme: str = "") -> tuple[str, str | None, int | None]:
    scheme = (url.scheme or scheme).lower()
    return scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(scheme)


@contextmanager
def _named_surroundings() -> Iterator[None]:
    """Name the environment variables that httpx can't use, but not their values, which may contain a password."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL):
        names = [name for name in os.environ if name.upper() in _PROXIES]
        raise SettingsError(
            f"The proxy that the environment names ({', '.join(names)}) can't be used.",
            hint="It must be http://… or https://…, and NO_PROXY a list of hosts. Unset those that are not meant "
            "for it.",
        ) from None
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        raise SettingsError(
            f"The certificates that {' or '.join(names) or 'the system'} names can't be read: {error.strerror}.",
            hint="Correct it or unset it.",
        ) from None


_PROXIES = {"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
