"""Fetches the points log of every contact of a shard, in parallel, and stores them part by part.

A part is committed as a whole, so a crash only loses what was in flight. A contact whose log can't be read is noted with the reason, between two
parts, and the shard's next run reads it alone. For accounts that moved after the cut-off, the balance at the cut-off is computed here: the
present balance, minus what the log shows after the cut-off.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from treazure_pipeline import people, phrases
from treazure_pipeline.clients import wire
from treazure_pipeline.clients.points_log import lost, reaches
from treazure_pipeline.errors import AuthenticationError, PipelineError, RemoteError
from treazure_pipeline.point_migration import backfill, parts, roster_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from datetime import datetime

    from treazure_pipeline.clients.pacing import RetryPolicy
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.clients.wire import Movement
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration, Progress
    from treazure_pipeline.point_migration.roster_store import ToRead

logger = logging.getLogger(__name__)

PART_CONTACTS = 200
_PAGE = 2_000
_MOST_READS = 3
_AHEAD = 4
_UNREAD_IN_A_ROW = 50
_REPORT_SECONDS = 30.0


class UnreadLogsError(PipelineError):
    """The logs of some contacts could not be read. The others are kept."""


class UndecidedBalanceError(PipelineError):
    """An account's balance at the cut-off can't be determined."""


@dataclass(frozen=True)
class Fetched:
    """What a run fetched for a shard. `progress` is the shard's after all its runs.

    `unreadable`: movements that can't be read but moved no points, so that their contacts are imported without them.
    """

    contacts: int
    movements: int
    unreadable: int
    progress: Progress
    seconds: float

    @property
    def sentence(self) -> str:
        """How many logs were read, and how far the shard has got."""
        whole = self.progress
        told = f"{phrases.counted(self.contacts, 'log')} read, {phrases.counted(self.movements, 'movement')}"
        return f"{told}; the shard has {whole.fetched:,} of {phrases.counted(whole.contacts, 'contact')}" + "".join(
            f", {part}" for part in phrases.some(left_out=whole.left_out, unreadable_movements=self.unreadable)
        )


@dataclass(frozen=True)
class _Log:
    contact: str
    movements: list[Movement]
    balance: Decimal | None
    unreadable: int = 0


def fetch_shard(
    ledger: Ledger,
    treazure: TreazureClient,
    account: Account,
    shard: int,
    *,
    concurrency: int,
    retry: RetryPolicy,
    leave_out_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
    part_contacts: int = PART_CONTACTS,
) -> Fetched:
    """Fetch the logs that a shard still lacks; in balance mode, only those of accounts that moved after the cut-off.

    `progress` is called with the contacts just done and with all that this run has to do. `leave_out_unreadable`: a person's decision to import
    the shard without the contacts whose log can't be read. Raises UnreadLogsError if some logs can't be read, after all others were fetched.
    Refused credentials and many failures in a row are raised at once.
    """
    began = time.perf_counter()
    with backfill.holding(ledger, account, shard):
        migration = backfill.opened(ledger, account)
        backfill.require(migration, "ready")
        if leave_out_unreadable:
            roster_store.leave_out_unread(ledger, migration, shard)
        run = _Shard(ledger, treazure, account, migration, shard, retry, progress, part_contacts)
        run.fetch(concurrency)
        state = backfill.progress(ledger, migration, shard)
        if state.unread:
            raise UnreadLogsError(_unread_message(ledger, migration, shard, state.unread))
    return Fetched(run.contacts, run.movements, run.unreadable, state, time.perf_counter() - began)


class _Shard:
    """One run over one shard: reads ahead in threads, and stores in order."""

    def __init__(
        self,
        ledger: Ledger,
        treazure: TreazureClient,
        account: Account,
        migration: Migration,
        shard: int,
        retry: RetryPolicy,
        progress: Callable[[int, int], None] | None,
        part_contacts: int,
    ) -> None:
        self._ledger = ledger
        self._treazure = treazure
        self._account = account
        self._migration = migration
        self._shard = shard
        self._retry = retry
        self._progress = progress
        self._part_contacts = part_contacts
        self._part: list[_Log] = []
        self._left = 0
        self._unread_in_a_row = 0
        self.contacts = 0
        self.movements = 0
        self.unreadable = 0

    def fetch(self, concurrency: int) -> None:
        state = backfill.progress(self._ledger, self._migration, self._shard)
        self._left = left = state.contacts - state.fetched - state.left_out
        began = reported = time.monotonic()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="history") as threads:
            reading: deque[tuple[ToRead, Future[_Log]]] = deque()
            try:
                for wanted in self._to_read():
                    reading.append((wanted, threads.submit(self._read, wanted)))
                    if len(reading) >= concurrency * _AHEAD:
                        self._take(*reading.popleft())
                    now = time.monotonic()
                    if now - reported > _REPORT_SECONDS and self.contacts:
                        reported = now
                        seconds = (now - began) / self.contacts * (left - self.contacts)
                        done = (self._shard, self.contacts, left, seconds)
                        logger.info("shard %d: %d of %d contacts, about %.0f s left", *done)
                while reading:
                    self._take(*reading.popleft())
            except BaseException:
                for _, future in reading:
                    future.cancel()
                if self._retry.stop is not None:
                    self._retry.stop.set()
                raise
            finally:
                self._keep()

    def _to_read(self) -> Iterator[ToRead]:
        after = None
        while page := roster_store.to_read(self._ledger, self._migration, self._shard, after=after, limit=_PAGE):
            yield from page
            after = page[-1].contact

    def _read(self, wanted: ToRead) -> _Log:
        if wanted.settled:
            log = self._treazure.history(wanted.contact, self._account.loyalty_id)
            if not log.unreadable:
                return _Log(wanted.contact, log.movements, None)
        return read_moved(self._treazure, self._account, wanted.contact, self._migration.cut_off, self._retry)

    def _take(self, wanted: ToRead, future: Future[_Log]) -> None:
        """Take the next contact's log, in order. One that can't be read ends the part before it."""
        try:
            log = future.result()
        except AuthenticationError:
            raise
        except (RemoteError, UndecidedBalanceError) as error:
            self._keep()
            roster_store.note_unread(self._ledger, self._migration, self._shard, wanted.contact, str(error))
            self._unread_in_a_row += isinstance(error, RemoteError)
            if self._unread_in_a_row >= _UNREAD_IN_A_ROW:
                raise
            return
        self._unread_in_a_row = 0
        if wanted.alone:
            self._keep()
        self._part.append(log)
        if wanted.alone or len(self._part) >= self._part_contacts:
            self._keep()

    def _keep(self) -> None:
        """Commit what was read since the last part as one part, with the movements up to the cut-off."""
        if not self._part:
            return
        until = self._migration.cut_off
        logs = {log.contact: [each for each in log.movements if each.date_time <= until] for log in self._part}
        movements = sum(map(len, logs.values()))
        roster_store.add_part(
            self._ledger, self._migration, self._shard, list(logs), movements=movements,
            body=parts.encode(logs) if self._migration.mode == "log" else None,
            balances={log.contact: log.balance for log in self._part if log.balance is not None},
        )  # fmt: skip
        self.contacts += len(self._part)
        self.movements += movements
        self.unreadable += sum(log.unreadable for log in self._part)
        if self._progress is not None:
            self._progress(len(self._part), self._left)
        self._part = []


def read_moved(treazure: TreazureClient, account: Account, contact: str, cut_off: datetime, retry: RetryPolicy) -> _Log:
    """Read a log together with the balance that it ends with, and compute the balance at the cut-off.

    They fit together if the log reaches that balance, or if the balance is the same before and after the log was read. Raises
    UndecidedBalanceError if neither is the case.
    """
    shown: Decimal | None = None
    for attempt in range(1, _MOST_READS + 1):
        shown = treazure.account_balance(contact, account.loyalty_id)
        before = shown or Decimal(0)
        log = treazure.history(contact, account.loyalty_id)
        movements = log.movements
        if reaches(movements, before) or _is_still(shown, treazure.account_balance(contact, account.loyalty_id)):
            missing = lost(movements, log.unreadable, before)
            if missing is not None:
                raise UndecidedBalanceError(
                    f"The log does not add up to the balance without what can't be read: {missing}.",
                    hint="Correct it in Treazure, or leave the contact out (leave_out_unreadable).",
                )
            return _Log(contact, movements, before - moved_after(movements, cut_off), len(log.unreadable))
        if attempt < _MOST_READS:
            retry.sleep(retry.wait_after(1))
    if shown is None:
        raise UndecidedBalanceError(
            "Treazure shows the account without this programme, and its points log does not add up to 0.",
            hint="Ask Treazure which of the two is right, or leave the contact out (leave_out_unreadable).",
        )
    raise UndecidedBalanceError(
        "The account changes while it is being read, so its balance at the cut-off can't be determined.",
        hint="The shard's next run tries again.",
    )


def _is_still(before: Decimal | None, after: Decimal | None) -> bool:
    """Return whether an account did not move. If it is shown without the programme, there is no balance to compare."""
    return before is not None and before == after


def moved_after(movements: Sequence[Movement], cut_off: datetime) -> Decimal:
    """Return the points that moved after the cut-off. Raises UndecidedBalanceError for a movement of unknown type."""
    later = [movement for movement in movements if movement.date_time > cut_off]
    unknown = {movement.transaction_type for movement in later} - wire.MOVING - wire.INFORMATIONAL
    if unknown:
        raise UndecidedBalanceError(
            f"A movement after the cut-off has the unknown type {people.word(min(unknown))}; how many points it moves is unknown.",
            hint="Leave the contact out (leave_out_unreadable). The hourly sync sets its balance.",
        )
    return sum((movement.amount for movement in later if movement.transaction_type in wire.MOVING), Decimal(0))


def _unread_message(ledger: Ledger, migration: Migration, shard: int, count: int) -> str:
    listed = roster_store.unread(ledger, migration, shard, limit=5)
    examples = "; ".join(f"{contact} ({tries} tries): {reason}" for contact, reason, tries in listed)
    return (
        f"The points log of {count} contacts of shard {shard} can't be read; the others are kept. {examples} "
        "Run the shard again; if that does not help, leave them out with leave_out_unreadable."
    )
