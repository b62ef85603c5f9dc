"""Reads balances back from Engage. Accepted does not mean applied; only this proves what Engage holds (I3).

`rounds` decides who is next and what follows from a reading. What differs is sent again by the next push, like anything pending.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import AuthenticationError, RemoteError
from treazure_pipeline.ledger import coverage
from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.rounds import Reading, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from treazure_pipeline.connections import Run
    from treazure_pipeline.verification.rounds import Chunk, Row

T = TypeVar("T")
logger = logging.getLogger(__name__)

CHUNK = 100
MOST_CONTACTS = 100_000
MASTER_SAMPLE = 50
WAITS = (10.0, 30.0)
"""Seconds between the tries of a reading. What still can't be read gets another turn later."""
_RECENT_OF_FOUR = 3
_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Verified:
    """The result of a run. With an `error`, it ended early because Engage as a whole could not be read.

    If the programme is `migrating`, nothing is read.
    """

    tally: Tally
    seconds: float
    error: RemoteError | None
    migrating: bool = False

    @property
    def sentence(self) -> str:
        """What was read, what differs, and what was not judged."""
        found = self.tally
        if self.migrating:
            return "nothing is read back: the programme is migrating"
        counts = phrases.some(
            equal=found.equal, differing=found.drift, without_an_account=found.missing,
            not_judged=found.unsettled, failed=found.failed,
        )  # fmt: skip
        told = f"{found.read:,} read back from Engage" + (f": {phrases.sentence(counts)}" if counts else "")
        sent = [*phrases.some(marked_for_sending_again=found.marked), *phrases.some(equal_again=found.healed)]
        master = [f"{found.master_differs:,} of {found.master_read:,} read in Treazure had changed unnoticed"]
        parts = [told, *sent, *(master if found.master_differs else [])]
        return "; ".join(parts)


def verify(run: Run, *, seconds: float | None = None, most_contacts: int = MOST_CONTACTS) -> Verified:
    """Read balances back until everything has had its turn or the time is up.

    Three of four chunks are recently sent rows, as long as there are any; every four chunks it looks for new ones. Results are stored chunk by
    chunk, so a killed run loses one chunk at most, and the next run continues from there. A failed reading is not a verdict. Nothing is read
    while the programme is migrating (I11). No chunk is started after `seconds` (default: ENGAGE_VERIFY_SECONDS) or `most_contacts`.
    Raises BusyError if another verification of the programme is under way.
    """
    began = time.monotonic()
    reading = _Verification(run, most_contacts)
    if run.account.mode == "live":
        with rounds.holding(run.ledger, run.account):
            reading.run(began + (run.settings.engage_verify_seconds if seconds is None else seconds))
    migrating = run.account.mode == "migrating"
    return Verified(reading.tally, time.monotonic() - began, reading.engage.error, migrating)


class _System:
    """Readings of one system by several threads. After too many failures in a row, the system is given up."""

    def __init__(self) -> None:
        self.error: RemoteError | None = None
        self.asked = self.failed = 0
        self._in_a_row = 0
        self._guard = threading.Lock()

    def read(self, once: Callable[[], T]) -> T | None:
        """Return what `once` returns; None if it failed, or if the system was given up before."""
        with self._guard:
            if self.error is not None:
                return None
            self.asked += 1
        try:
            found = once()
        except RemoteError as error:
            logger.warning("not read: %s", error)
            with self._guard:
                self.failed += 1
                self._in_a_row += 1
                if self._in_a_row >= _FAILURES_IN_A_ROW or isinstance(error, AuthenticationError):
                    self.error = error
            return None
        with self._guard:
            self._in_a_row = 0
        return found


class _Verification:
    def __init__(self, run: Run, most_contacts: int) -> None:
        self._run = run
        self._grace = run.settings.engage_verify_grace_seconds
        self._most_contacts = most_contacts
        self.tally = Tally()
        self.engage = _System()
        self._treazure = _System()

    def run(self, deadline: float) -> None:
        run = self._run
        number = rounds.begin(run.ledger, run.account, run.id)
        self._sample_the_master()
        with ThreadPoolExecutor(run.settings.engage_concurrency, thread_name_prefix="verify") as threads:
            self._take_turns(number, threads, deadline)
        error = None if self.engage.error is None else str(self.engage.error)
        rounds.end(run.ledger, number, self.tally, error)

    def _take_turns(self, number: int, threads: ThreadPoolExecutor, deadline: float) -> None:
        run = self._run
        recent_left = round_left = True
        looked_at = 0
        for turn in itertools.count():
            over = time.monotonic() >= deadline or looked_at >= self._most_contacts or self.engage.error is not None
            if over or not (recent_left or round_left):
                return
            place = turn % 4
            if not round_left or (place < _RECENT_OF_FOUR and (recent_left or place == 0)):
                chunk = rounds.sent_recently(run.ledger, run.account, grace=self._grace, size=CHUNK)
                recent_left = not chunk.is_last
            else:
                chunk = rounds.next_of_round(run.ledger, run.account, grace=self._grace, size=CHUNK)
                round_left = not chunk.is_last
            looked_at += chunk.passed
            self._read_chunk(number, chunk, threads)

    def _read_chunk(self, number: int, chunk: Chunk, threads: ThreadPoolExecutor) -> None:
        readings = [reading for reading in threads.map(self._read, chunk.rows) if reading is not None]
        self.tally.failed = self.engage.failed
        self.tally.requests = self.engage.asked
        rounds.record(
            self._run.ledger, self._run.account, number, self._run.id, chunk, readings, self.tally,
            finished=self.engage.error is None, grace=self._grace,
        )  # fmt: skip

    def _read(self, row: Row) -> Reading | None:
        run = self._run

        def once() -> Reading:
            shown = run.engage.balance(row.contact, run.account.definition_id)
            return Reading(row, shown, shown is not None and is_same(shown, row.sent, run.programme.decimals))

        return self.engage.read(once)

    def _sample_the_master(self) -> None:
        """Read some settled contacts from Treazure, and record balances that differ from what the ledger knows.

        Everything that moved before the start of the next window should have been fetched. So a balance that differs without a later
        movement was missed.
        """
        run, tally = self._run, self.tally
        window = coverage.next_window(run.ledger, run.account)
        rows = rounds.next_for_master(run.ledger, run.account, size=MASTER_SAMPLE)

        def once(row: Row) -> tuple[bool, bool]:
            balance = run.treazure.account_balance(row.contact, run.account.loyalty_id)
            if balance is None or balance == row.sent:
                return False, False
            log = run.treazure.history(row.contact, run.account.loyalty_id)
            moved = [movement.date_time for movement in log.movements]
            read_account(run, row.contact)
            return True, not window.is_full and max(moved, default=window.start) <= window.start

        with ThreadPoolExecutor(run.settings.treazure_concurrency, thread_name_prefix="sample") as threads:
            for found in threads.map(lambda row: self._treazure.read(lambda: once(row)), rows):
                if found is not None:
                    tally.master_read += 1
                    tally.master_recorded += found[0]
                    tally.master_differs += found[1]
        tally.master_failed = self._treazure.failed
