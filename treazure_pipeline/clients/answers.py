"""An answer from one of the two systems: what kind it is, how to describe it, and which error it means.

What the body says is read in `wire`, `engage_wire` and `movements`; what became of the request is decided in `outcome`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from treazure_pipeline.clients.wire import WireError
from treazure_pipeline.errors import (
    AuthenticationError,
    Call,
    GatewayError,
    InvalidAnswerError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    RemoteError,
    System,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

LONGEST_RETRY_AFTER_SECONDS = 900.0
_TRANSIENT = frozenset({408, 409, 423, 425})
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-correlation-id", "x-ms-request-id", "traceparent")
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,40}", re.ASCII)
_CODE = re.compile(r"[A-Za-z][\w.-]{0,60}", re.ASCII)
_CODES = ("error", "code", "errorCode", "type")
_MOST_NAMES = 12
_HINTS: dict[System, tuple[str, str]] = {
    "treazure": (
        "Check TREAZURE_CLIENT_ID and TREAZURE_CLIENT_SECRET; a reset of the secret voids the old one.",
        "Check TREAZURE_BASE_URL, or TREAZURE_CLIENT and TREAZURE_ENVIRONMENT; if that is right, ask Treazure.",
    ),
    "engage": (
        "Check ENGAGE_API_KEY and what this key may do.",
        "Check ENGAGE_BASE_URL (or ENGAGE_CLIENT) and ENGAGE_API_VERSION; if they are right, ask Voyado.",
    ),
}


_ASK: dict[System, str] = {
    "treazure": "If that does not say why, ask Treazure with the request id.",
    "engage": "If that does not say why, ask Voyado with the request id.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of any status; `path` is without the query."""

    system: System
    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def call(self) -> Call:
        """What was asked, for an error message."""
        found = next((self.headers[name] for name in _REQUEST_ID_HEADERS if self.headers.get(name)), None)
        shown = None if found is None else re.sub(r"[^\x21-\x7e]", "?", found[:100])
        return Call(self.system, self.method, self.path, self.status, shown)

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, and so from a gateway or a proxy and not from the system itself."""
        body = self.body.lstrip()
        is_named = "html" in self.headers.get("content-type", "").lower()
        return body.startswith(b"<") or (is_named and not body.startswith((b"{", b"[", b'"')))


def address_hint(system: System) -> str:
    """Return what to check if an answer does not come from the system itself."""
    return _HINTS[system][1]


def failure(answer: Answer, came: str) -> RemoteError:
    """Return the error for a status other than 2xx; `came` describes the answer."""
    status, call = answer.status, answer.call
    credentials, address = _HINTS[answer.system]
    if status < 400:
        target = urlsplit(answer.headers.get("location", "")).hostname
        where = f"it redirects to {target}" if target else "it redirects"
        return InvalidAnswerError(f"the answer can't be used: {where}.", call, hint=address)
    later = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
    hint: str | None
    if status == 429:
        hint = "It is tried again later. Lower the rate if this continues."
        return RateLimitedError("too many requests.", call, hint=hint, retry_after=later)
    if status in _TRANSIENT or status >= 500:
        hint = "This may pass; the next run tries again."
        return TransientError(f"the answer was {came}.", call, hint=hint, retry_after=later)
    if answer.is_page:
        return GatewayError(f"the request was refused by something in front of it, with {came}.", call, hint=address)
    if status in {401, 403}:
        return AuthenticationError(f"the credentials are not accepted; the answer was {came}.", call, hint=credentials)
    kind = NotFoundError if status == 404 else PermanentError
    hint = address if status in {404, 405} else _ASK[answer.system]
    return kind(f"the request was refused; the answer was {came}.", call, hint=hint)


def unusable(answer: Answer, what: str) -> InvalidAnswerError:
    """Return the error for a success whose body is not what the contract says."""
    return InvalidAnswerError(
        f"the answer can't be used: {what}; it was {described(answer)}.", answer.call, hint=address_hint(answer.system)
    )


def read(answer: Answer, reader: Callable[[bytes], T]) -> T:
    """Return what `reader` reads from a success. Raises InvalidAnswerError if the body does not fit the contract."""
    try:
        return reader(answer.body)
    except WireError as error:
        raise unusable(answer, str(error)) from None
    except RecursionError:
        raise unusable(answer, "it is nested too deeply") from None


def described(answer: Answer) -> str:
    """Describe an answer without quoting it: size, content type, names of fields, error code."""
    kind = re.sub(r"[^\w/+.-]", "", answer.headers.get("content-type", "").partition(";")[0])[:50] or "no content type"
    if not answer.body.strip():
        return f"nothing ({kind})"
    body = _decoded(answer)
    shape = ", a list" if isinstance(body, list) else ""
    if isinstance(body, dict):
        names = [name for name in body if _NAME.fullmatch(name)][:_MOST_NAMES]
        codes = [value for name in _CODES if isinstance(value := body.get(name), str) and _CODE.fullmatch(value)]
        shape = f", an object with {', '.join(names) or 'no names'}{f': {codes[0]}' if codes else ''}"
    return f"{len(answer.body):,} bytes ({kind}{shape})"


def _decoded(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` header (seconds or an HTTP date) as seconds, at most 900; None if it can't be read."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        seconds = float(value)
    elif (moment := http_date(value)) is not None:
        seconds = (moment - now).total_seconds()
    else:
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def http_date(value: str) -> datetime | None:
    """Read an HTTP date (RFC 9110, whole seconds) as an aware time; None if it is not one."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
