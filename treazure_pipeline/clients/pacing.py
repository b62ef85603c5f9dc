"""When a request is made: within the shared rate, in time, and again after a failure.

What a failure means is decided in `outcome`. The rate itself is in `ledger.limiter`.
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
"""A claim or slot may be used for this long after it was taken. Its lease is the client's timeout plus this."""


class Pacer(Protocol):
    """The rate that all processes share with one system."""

    def slot(self) -> AbstractContextManager[float]:
        """Wait for a slot of the shared rate, and hold it until the answer is there. Yields when it was taken."""

    def pause(self, seconds: float) -> None:
        """Make everybody wait, because the system asked for it."""


class Unpaced:
    """The pacer of a limit that is switched off."""

    def slot(self) -> AbstractContextManager[float]:
        """Yield a slot at once."""
        return nullcontext(now())

    def pause(self, seconds: float) -> None:
        """Do nothing. The caller waits by itself."""


def now() -> float:
    """Return the seconds of a clock that never goes back and, if the system has one, runs while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


def in_time(pacer: Pacer, send: Callable[[float], T], before: float = math.inf) -> T:
    """Send within a slot of the shared rate. `send` is told until when (`now`) the request may go out.

    If the slot becomes too old before that, a new one is taken. Raises TooLateError once `before` has passed.
    """
    while True:
        with pacer.slot() as taken:
            try:
                return send(min(before, taken + LEASE_MARGIN_SECONDS))
            except TooLateError:
                if now() > before:
                    raise


def jittered(seconds: float) -> float:
    """Lengthen a wait by up to a tenth, so that threads and processes don't all wake up together."""
    return seconds * random.uniform(1.0, 1.1)  # noqa: S311 - spreads load, protects nothing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late a failed HTTP call is made again. Nothing else retries HTTP calls.

    `waits`, in seconds, are the vendor's for background work (Voyado, "API retry policy"), and are multiplied by
    `scale`. Without any, a call has one try. Once `stop` is set, every wait ends at once and the failure is raised.
    """

    waits: tuple[float, ...] = VENDOR_WAITS
    scale: float = 1.0
    stop: threading.Event | None = None

    @property
    def attempts(self) -> int:
        """How many tries a call has: one, and one more after each wait."""
        return len(self.waits) + 1

    @property
    def patience(self) -> float:
        """For how many seconds a call accepts being told to come back later (429, `Retry-After`)."""
        return max(PATIENCE_SECONDS * self.scale, SHORTEST_PATIENCE_SECONDS) if self.waits else 0.0

    def wait_after(self, failures: int, error: RemoteError | None = None) -> float:
        """Return the seconds to wait after the n-th failure (from 1), but no less than the system asked for."""
        asked = outcome.of(error).wait or 0.0
        ours = self.waits[min(failures, len(self.waits)) - 1] * self.scale if self.waits else 0.0
        return max(jittered(ours), asked)

    def sleep(self, seconds: float) -> bool:
        """Wait. Return False if `stop` was set."""
        if self.stop is None:
            time.sleep(seconds)
            return True
        return not self.stop.wait(seconds)

    def call(self, attempt: Callable[[], T], *, pacer: Pacer | None = None) -> T:
        """Make an idempotent call until it succeeds, fails for good, or tries or patience are used up.

        A 429, or another failure with `Retry-After`, pauses `pacer` and costs no try. After an answer that can't be
        used, the call is not repeated, since the address may be wrong. Raises what the last try raised.
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
