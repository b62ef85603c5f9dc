"""Reads the points logs of contacts from Treazure into the ledger's database, for the data team and for audits.

A log is due when the ledger saw the contact's balance change. Each contact's log is read, compared with its balance, and stored on its own, so a
run can stop anywhere: what is not stored is still due.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treazure_pipeline import phrases
from treazure_pipeline.clients import wire
from treazure_pipeline.clients.points_log import balance_of, oldest_first, reaches, sum_of
from treazure_pipeline.errors import AuthenticationError, RemoteError, TransientError
from treazure_pipeline.points_history import store

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from treazure_pipeline.clients.movements import Log
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.errors import PipelineError
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.points_history.store import Due

logger = logging.getLogger(__name__)

_CONTACTS_AT_ONCE = 1_000
_MOST_OUTAGES_IN_A_ROW = 20


@dataclass
class Refreshed:
    """What a run did.

    Attributes:
        everybody: Whether the logs of all contacts were due.
        due: Logs that were due.
        read: Logs that were read.
        failed: Logs that could not be read.
        rows: Rows written.
        movements: Movements in the logs that were read.
        differing: Logs read in this run that do not add up to the account's balance.
        unknown_types: Movements of types that this version does not know, by type; they are kept.
        unreadable: Movements that can't be read; the rest of their log is kept.
        left: Logs that are still due.
        error: What ended the run early.
    """

    everybody: bool
    due: int
    read: int = 0
    failed: int = 0
    rows: int = 0
    movements: int = 0
    differing: int = 0
    unreadable: int = 0
    left: int = 0
    unknown_types: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    error: PipelineError | None = None

    @property
    def sentence(self) -> str:
        """Whose logs were read, what was found in them, and what is left."""
        whose = "all contacts" if self.everybody else "contacts whose balance changed"
        read = f"{self.read:,} of {phrases.counted(self.due, 'log')} read ({whose})"
        odd = phrases.some(
            that_could_not_be_read=self.failed, that_do_not_add_up=self.differing, left_for_the_next_run=self.left
        )
        return "; ".join([f"{read}, {phrases.counted(self.movements, 'movement')}", *odd])


def refresh(
    ledger: Ledger,
    treazure: TreazureClient,
    account: Account,
    *,
    everybody: bool = False,
    concurrency: int = 8,
    keep_days: int = 400,
    most_seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Read every log that is due, and replace its rows.

    If a log can't be read, its rows stay, the next run tries it again, and the others go on. The result's `error` is set if Treazure refuses
    our credentials, or can't be reached for 20 contacts in a row. Then, and after `most_seconds`, the rest is left to the next run.
    Errors of the database are raised.
    """
    began = time.perf_counter()
    before = ledger.now()
    noted = store.note_due(ledger, account, everybody=everybody, keep_days=keep_days)
    result = Refreshed(noted, store.count_due(ledger, account, before=before))
    reading = _Reading(ledger, treazure, account, result, began + most_seconds, progress)
    last: Due | None = None
    with ThreadPoolExecutor(concurrency, thread_name_prefix="history") as threads:
        while not reading.over and (
            chunk := store.due(ledger, account, before=before, after=last, limit=_CONTACTS_AT_ONCE)
        ):
            last = chunk[-1]
            for _ in threads.map(reading.take, chunk):
                pass
    result.left = store.state(ledger, account).due
    result.seconds = time.perf_counter() - began
    return result


class _Reading:
    """A run's work on single contacts, shared by several threads."""

    def __init__(
        self,
        ledger: Ledger,
        treazure: TreazureClient,
        account: Account,
        result: Refreshed,
        deadline: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._ledger = ledger
        self._treazure = treazure
        self._account = account
        self._result = result
        self._deadline = deadline
        self._progress = progress
        self._guard = threading.Lock()
        self._outages = 0

    @property
    def over(self) -> bool:
        """Whether the run should start nothing more."""
        return self._result.error is not None or time.perf_counter() > self._deadline

    def take(self, due: Due) -> None:
        """Read one contact's log and store it, or note why that failed."""
        if self.over:
            return
        try:
            read = self._read(due)
            written = store.replace(self._ledger, self._account, read)
        except (RemoteError, store.UnstorableError) as error:
            self._failed(due, error)
        else:
            self._done(read, written)

    def _read(self, due: Due) -> store.Read:
        """Read a log. If it does not end with the known balance, ask for the balance, and if needed for the log again.

        So neither a balance that the ledger does not know yet, nor a movement between two calls, looks like a difference.
        """
        balance = due.known
        asked, log = self._log_of(due)
        if not reaches(log.movements, balance):
            balance = self._treazure.account_balance(due.contact, self._account.loyalty_id)
            if balance is not None and not reaches(log.movements, balance):
                asked, log = self._log_of(due)
        movements = oldest_first(log.movements)
        reached = balance if balance is not None and reaches(movements, balance) else balance_of(movements)
        return store.Read(due, asked, movements, sum_of(movements), reached, balance, log.unreadable)

    def _log_of(self, due: Due) -> tuple[datetime, Log]:
        asked = self._ledger.now()
        return asked, self._treazure.history(due.contact, self._account.loyalty_id)

    def _done(self, read: store.Read, written: int) -> None:
        kinds = Counter(movement.transaction_type for movement in read.movements)
        result = self._result
        with self._guard:
            self._outages = 0
            result.read += 1
            result.rows += written
            result.movements += len(read.movements)
            result.unreadable += len(read.unreadable)
            result.differing += read.balance != read.log_balance or read.balance != read.total
            for kind in kinds.keys() - wire.MOVING - wire.INFORMATIONAL:
                result.unknown_types[kind] += kinds[kind]
        self._advance()

    def _failed(self, due: Due, error: PipelineError) -> None:
        if isinstance(error, AuthenticationError):
            with self._guard:
                self._result.error = error
            return
        logger.warning("The log of contact %s could not be read: %s", due.contact, error)
        store.note_failure(self._ledger, self._account, due.contact, str(error))
        with self._guard:
            self._result.failed += 1
            self._outages = self._outages + 1 if isinstance(error, TransientError) else 0
            if self._outages >= _MOST_OUTAGES_IN_A_ROW:
                self._result.error = error
        self._advance()

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress(1, self._result.due)
