"""When a request is made: within the shared rate, in time, and again after a failure.

Belongs here: what those need to know who wait, limit or retry, without the HTTP client. Does not: what a failure means
(`outcome`), nor the rate itself (`ledger.limiter`).
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from treazure_pipeline.clients import outcome
from treazure_pipeline.errors import RemoteError, TooLateError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
logger = logging.getLogger(__name__)
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

VENDOR_WAITS = (10.0, 30.0, 60.0, 300.0)
PATIENCE_SECONDS = 1800.0
SHORTEST_PATIENCE_SECONDS = 30.0
LEASE_MARGIN_SECONDS = 5.0
"""A claim's lease, and a slot's, is the client's timeout and this much: so long after it was taken it may be used."""


class Pacer(Protocol):
    """The rate that all processes share with one system."""

    def slot(self) -> AbstractContextManager[float]:
        """Wait for a slot of the shared rate, held until the answer is there; lends when it was taken (`now`)."""

    def pause(self, seconds: float) -> None:
        """Make everybody wait: the system asked for it."""


class Unpaced:
    """The pacer of a limit that is switched off."""

    def slot(self) -> AbstractContextManager[float]:
        """Hand out a slot at once."""
        return nullcontext(now())

    def pause(self, seconds: float) -> None:
        """Do nothing: the one that was told to wait waits by itself."""


def now() -> float:
    """Return the seconds of a clock that never goes back, and goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(_CLOCK)


def in_time(pacer: Pacer, send: Callable[[float], T], before: float = math.inf) -> T:
    """Send within a slot of the shared rate; `send` gets until when, by `now`, it may.

    A slot that has become too old meanwhile is not used but taken anew. Raises TooLateError once `before` is over.
    """
    while True:
        with pacer.slot() as taken:
            try:
                return send(min(before, taken + LEASE_MARGIN_SECONDS))
            except TooLateError:
                if now() > before:
                    raise


def jittered(seconds: float) -> float:
    """Spread waits of many threads and processes by up to a tenth, upwards."""
    return seconds * random.uniform(1.0, 1.1)  # noqa: S311 - spreads load, protects nothing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late a failed call is made again; the one owner of HTTP retries.

    `waits` are the vendor's for background work (Voyado, "API retry policy"), in seconds, multiplied by
    `scale`; with none of them a call has one try. `stop`, once set, ends every wait at once: the failure is
    raised then.
    """

    waits: tuple[float, ...] = VENDOR_WAITS
    scale: float = 1.0
    stop: threading.Event | None = None

    @property
    def attempts(self) -> int:
        """How many tries a call has: the first one and one after each wait."""
        return len(self.waits) + 1

    @property
    def patience(self) -> float:
        """Seconds for which a call puts up with being told to come back later (429, `Retry-After`)."""
        return max(PATIENCE_SECONDS * self.scale, SHORTEST_PATIENCE_SECONDS) if self.waits else 0.0

    def wait_after(self, failures: int, error: RemoteError | None = None) -> float:
        """Return the seconds to wait after the n-th failure (from 1), no less than the system asked for."""
        asked = outcome.of(error).wait or 0.0
        ours = self.waits[min(failures, len(self.waits)) - 1] * self.scale if self.waits else 0.0
        return max(jittered(ours), asked)

    def sleep(self, seconds: float) -> bool:
        """Wait; return False where the wait was, or had been, called off."""
        if self.stop is None:
            time.sleep(seconds)
            return True
        return not self.stop.wait(seconds)

    def call(self, attempt: Callable[[], T], *, pacer: Pacer | None = None) -> T:
        """Make an idempotent call until it succeeds, fails for good, or tries or patience are used up.

        A 429, or another failure with `Retry-After`, pauses `pacer` and costs no try. An answer that can't be used is
        not asked for again: a wrong address would be waited for. Raises what the last try raised.
        """
        failures = postponed = 0
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return attempt()
            except TransientError as error:
                if outcome.of(error).costs_a_try:
                    failures += 1
                    wait = self.wait_after(failures, error)
                    over = failures >= self.attempts
                else:
                    postponed += 1
                    wait = self.wait_after(postponed, error)
                    over = time.monotonic() + wait > deadline
                    if pacer is not None:
                        pacer.pause(wait)
                if over:
                    raise
                logger.warning("%s Trying again in %.1f s.", error, wait)
                if not self.sleep(wait):
                    raise
