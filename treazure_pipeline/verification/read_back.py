"""Reading balances back from Engage: accepted is not applied, and only this proves what Engage holds (I3).

Belongs here: reading in turns, and when to stop. Does not: whose turn it is and what follows from a reading
(`ledger.verification`). What differs is sent again by the next push, like anything pending.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.clients.engage_wire import is_same
from treazure_pipeline.errors import AuthenticationError, NotFoundError, RemoteError
from treazure_pipeline.ledger import coverage
from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.rounds import Reading, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from treazure_pipeline.clients.engage import EngageClient
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.verification.rounds import Chunk, Row

T = TypeVar("T")
logger = logging.getLogger(__name__)

CHUNK = 100
MASTER_SAMPLE = 50
WAITS = (10.0, 30.0)
"""Seconds between the tries of a reading: what can't be read now has its turn again."""
_LATELY_OF_FOUR = 3
_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Work:
    """What verifying works with. Its clients should have the background's priority and few tries.

    `decimals`: digits that Engage keeps; `grace`: seconds that Engage may take to apply what it accepted; `seconds`:
    when no further chunk is begun; `most_contacts`: how many are looked at, whatever the time.
    """

    ledger: Ledger
    engage: EngageClient
    treazure: TreazureClient
    account: Account
    run_id: str
    decimals: int = 2
    grace: float = 1800.0
    seconds: float = 2400.0
    most_contacts: int = 100_000
    engage_concurrency: int = 8
    treazure_concurrency: int = 8


@dataclass(frozen=True)
class Verified:
    """What a run came to; with `error` it ended early, since Engage as a whole could not be read."""

    tally: Tally
    seconds: float
    error: RemoteError | None


def verify(work: Work) -> Verified:
    """Read balances back until everything has had its turn, or the time is over.

    Three of four chunks are rows that were sent lately, as long as there are any; every four chunks it looks for new
    ones. What is read is kept chunk by chunk, so a run that is killed loses one at most, and the next goes on from
    there. A failed reading is no verdict. A programme in state migrating is left alone (I11). Raises BusyError beside
    another verification of the programme.
    """
    began = time.monotonic()
    run = _Run(work)
    if work.account.mode == "live":
        with rounds.holding(work.ledger, work.account):
            run.run(began + work.seconds)
    return Verified(run.tally, time.monotonic() - began, run.engage.error)


class _System:
    """How readings of one system went, in many threads: when one after the other fails, it is given up."""

    def __init__(self) -> None:
        self.error: RemoteError | None = None
        self.asked = self.failed = 0
        self._in_a_row = 0
        self._guard = threading.Lock()

    def read(self, once: Callable[[], T]) -> T | None:
        """Return what a reading returns; None where it failed, or was not begun since the system was given up."""
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


class _Run:
    def __init__(self, work: Work) -> None:
        self._work = work
        self.tally = Tally()
        self.engage = _System()
        self._treazure = _System()

    def run(self, deadline: float) -> None:
        work = self._work
        number = rounds.begin(work.ledger, work.account, work.run_id)
        self._sample_the_master()
        with ThreadPoolExecutor(work.engage_concurrency, thread_name_prefix="verify") as threads:
            self._take_turns(number, threads, deadline)
        error = None if self.engage.error is None else str(self.engage.error)
        rounds.end(work.ledger, number, self.tally, error)

    def _take_turns(self, number: int, threads: ThreadPoolExecutor, deadline: float) -> None:
        work = self._work
        lately_left = round_left = True
        looked_at = 0
        for turn in itertools.count():
            over = time.monotonic() >= deadline or looked_at >= work.most_contacts or self.engage.error is not None
            if over or not (lately_left or round_left):
                return
            place = turn % 4
            if not round_left or (place < _LATELY_OF_FOUR and (lately_left or place == 0)):
                chunk = rounds.sent_lately(work.ledger, work.account, grace=work.grace, size=CHUNK)
                lately_left = not chunk.is_last
            else:
                chunk = rounds.next_of_round(work.ledger, work.account, grace=work.grace, size=CHUNK)
                round_left = not chunk.is_last
            looked_at += chunk.passed
            self._read_chunk(number, chunk, threads)

    def _read_chunk(self, number: int, chunk: Chunk, threads: ThreadPoolExecutor) -> None:
        readings = [reading for reading in threads.map(self._read, chunk.rows) if reading is not None]
        self.tally.failed = self.engage.failed
        self.tally.requests = self.engage.asked
        rounds.record(
            self._work.ledger, self._work.account, number, self._work.run_id, chunk, readings, self.tally,
            finished=self.engage.error is None, grace=self._work.grace,
        )  # fmt: skip

    def _read(self, row: Row) -> Reading | None:
        work = self._work

        def once() -> Reading:
            try:
                accounts = work.engage.point_accounts(row.contact)
            except NotFoundError:
                accounts = []
            shown = {account.definition_id: account.balance for account in accounts}.get(work.account.definition_id)
            return Reading(row, shown, shown is not None and is_same(shown, row.sent, work.decimals))

        return self.engage.read(once)

    def _sample_the_master(self) -> None:
        """Read some settled contacts from Treazure, and record what is not what the ledger knows.

        What moved before the next window begins has been fetched: what differs without a later movement was missed.
        """
        work, tally = self._work, self.tally
        window = coverage.next_window(work.ledger, work.account)
        rows = rounds.next_for_master(work.ledger, work.account, size=MASTER_SAMPLE)

        def once(row: Row) -> tuple[bool, bool]:
            balance = work.treazure.account_balance(row.contact, work.account.loyalty_id)
            if balance is None or balance == row.sent:
                return False, False
            log = work.treazure.history(row.contact, work.account.loyalty_id)
            moved = [movement.date_time for movement in log.movements]
            read_account(work.ledger, work.treazure, work.account, row.contact, run_id=work.run_id)
            return True, not window.is_full and max(moved, default=window.start) <= window.start

        with ThreadPoolExecutor(work.treazure_concurrency, thread_name_prefix="sample") as threads:
            for found in threads.map(lambda row: self._treazure.read(lambda: once(row)), rows):
                if found is not None:
                    tally.master_read += 1
                    tally.master_recorded += found[0]
                    tally.master_differs += found[1]
        tally.master_failed = self._treazure.failed
