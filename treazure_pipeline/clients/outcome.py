"""The outcome of a request, decided here for all senders: push, adjustments, migration, points history, retries.

It is pure, and decides nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from treazure_pipeline.errors import (
    AuthenticationError,
    ExportExpiredError,
    GatewayError,
    InvalidAnswerError,
    NoAnswerError,
    NotFoundError,
    RateLimitedError,
    RemoteError,
    TooLateError,
    TransientError,
)

Effect = Literal["none", "possible", "certain"]
Blame = Literal["nobody", "row", "path", "address", "credentials", "system"]

_OF_THE_ROW = frozenset({400, 413, 422})
_NOT_TAKEN = frozenset({425, 429})
_GAVE_UP_WAITING = frozenset({502, 504})
_BLAMES: tuple[tuple[type[RemoteError], Blame], ...] = (
    (AuthenticationError, "credentials"),
    (NotFoundError, "path"),
    (GatewayError, "address"),
    (ExportExpiredError, "system"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a request.

    Attributes:
        effect: Whether the system has acted on it.
        blames: What is at fault: a row; the path, which means the account it names or the address; the address or a
            gateway; the credentials;
            the system; or nobody.
        again: Whether it may be sent again unchanged.
        costs_a_try: False if the system said when to come back (I8), or if nothing was sent.
        wait: For how many seconds the system asked us to wait.
        at_work: Whether the system may still be working on it, until the request's timeout.
    """

    effect: Effect
    blames: Blame = "nobody"
    again: bool = False
    costs_a_try: bool = True
    wait: float | None = None
    at_work: bool = False


def of(error: RemoteError | None) -> Outcome:
    """Return the outcome of a request that ended with this error. None: the answer fits the contract."""
    if error is None:
        return Outcome("certain")
    if isinstance(error, TransientError):
        return _of_what_may_pass(error)
    if isinstance(error, InvalidAnswerError):
        is_redirect = error.status is not None and 300 <= error.status < 400
        return Outcome("possible", "address" if is_redirect else "system", again=True)
    blamed = next((blame for kind, blame in _BLAMES if isinstance(error, kind)), None)
    return Outcome("none", blamed or ("row" if error.status in _OF_THE_ROW else "address"))


def _of_what_may_pass(error: TransientError) -> Outcome:
    is_untouched = not error.sent or error.status in _NOT_TAKEN
    is_late = isinstance(error, NoAnswerError) and error.timed_out
    is_told_when = error.retry_after is not None
    return Outcome(
        "none" if is_untouched else "possible",
        "nobody" if isinstance(error, TooLateError) else "system",
        again=True,
        costs_a_try=not (is_told_when or isinstance(error, RateLimitedError | TooLateError)),
        wait=error.retry_after,
        at_work=is_late or error.status in _GAVE_UP_WAITING,
    )
