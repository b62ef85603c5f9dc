"""One request budget for all processes: at most N requests in any second, by one table in PostgreSQL.

There are N slots. A request takes one and gives it back when it is answered, and one second later the slot is free again. However long a request
is on its way, two requests of one slot reach the server more than a second apart, so it never sees more than N in a second. (Token buckets
let almost 2 N through in one second, and evenly spaced requests bunch up on the way.) The key of a slot includes its turn, which counts up.
So whoever has lost a slot can't free it, and the newest version is found without reading those that vacuum has not removed yet.
"""

from __future__ import annotations

import enum
import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from treazure_pipeline.clients.pacing import Unpaced, now
from treazure_pipeline.errors import RateUsedUpError, RunIncompleteError
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterator

    from treazure_pipeline.clients.pacing import Pacer
    from treazure_pipeline.ledger.store import Ledger

_PAUSE = 0
_LONGEST_NAP = 0.25


class Priority(enum.IntEnum):
    """Who goes first when the budget is short. BACKGROUND gets half of it at most."""

    ADJUSTMENT = 1
    SYNC = 2
    BACKGROUND = 3


class SharedRate:
    """A Pacer shared by all processes that use the same ledger and bucket.

    If a process dies, its slot is free again after `lease` seconds, which must be longer than the client's timeout. Waiting for a slot ends
    with RunIncompleteError once `stop` is set, and with RateUsedUpError after `patience` seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        bucket: str,
        per_second: int,
        priority: Priority,
        lease: float,
        stop: threading.Event,
        *,
        patience: float = math.inf,
    ) -> None:
        self._ledger = ledger
        self._bucket = bucket
        self._slots = max(1, per_second // 2) if priority is Priority.BACKGROUND else per_second
        self._priority = priority
        self._lease = lease
        self._stop = stop
        self._patience = patience

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Wait for a slot, and keep it until the block ends. Yields the time when it was taken (`pacing.now`).

        If the lease had ended and somebody else has taken the slot, it is left alone.
        """
        slot, turn, began = self._take()
        try:
            yield began
        finally:
            self._set_free(slot, turn)

    @retried
    def pause(self, seconds: float) -> None:
        """Keep everybody from sending for `seconds`, because the server said 429 or Retry-After."""
        with self._ledger.transaction() as connection:
            connection.execute(
                "insert into rate_hold values (%s, %s, clock_timestamp() + make_interval(secs => %s)) "
                "on conflict (bucket, priority) do update set set_at = excluded.set_at, until = greatest(excluded.until, "
                "case when rate_hold.set_at <= excluded.set_at then rate_hold.until end)",
                (self._bucket, _PAUSE, seconds),
            )

    def _take(self) -> tuple[int, int, float]:
        until = now() + self._patience
        while True:
            began = now()
            taken, wait, turn = self._try_to_take()
            if taken is not None:
                return taken, turn, began
            if now() > until:
                raise RateUsedUpError(
                    f"No request could be made for {self._patience:g} s: the rate is used up, or the system asked for a pause."
                )
            if self._stop.wait(min(wait, _LONGEST_NAP)):
                raise RunIncompleteError("The run was stopped while waiting for its turn to send.")

    @retried
    def _try_to_take(self) -> tuple[int | None, float, int]:
        with self._ledger.transaction() as connection:
            connection.execute("set local synchronous_commit to off")
            return one(
                connection,
                "select taken, wait, its_turn from take_slot(%s, %s, %s, make_interval(secs => %s))",
                (self._bucket, self._slots, self._priority.value, self._lease),
            )

    @retried
    def _set_free(self, slot: int, turn: int) -> None:
        with self._ledger.transaction() as connection:
            connection.execute("set local synchronous_commit to off")
            connection.execute(
                "update rate_slot set free_at = clock_timestamp() + interval '1 second', set_at = clock_timestamp(), turn = turn + 1 "
                "where bucket = %s and slot = %s and turn = %s",
                (self._bucket, slot, turn),
            )


def shared_rate(
    ledger: Ledger,
    bucket: str,
    per_second: int,
    priority: Priority,
    lease: float,
    stop: threading.Event,
    *,
    patience: float = math.inf,
) -> Pacer:
    """Return the Pacer for a budget. 0 requests per second means no limit. Otherwise as for `SharedRate`."""
    if not per_second:
        return Unpaced()
    return SharedRate(ledger, bucket, per_second, priority, lease, stop, patience=patience)
