"""From Treazure into the ledger: fetches a snapshot and merges it. `push` then sends the differences to Engage."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync import merge, readings, staging
from treazure_pipeline.balance_sync.exports import are_apart, begin_export, seconds_ahead
from treazure_pipeline.clients.decoding import decode_balances
from treazure_pipeline.errors import (
    AuthenticationError,
    ExportExpiredError,
    NoAnswerError,
    NotFoundError,
    PipelineError,
    RemoteError,
)
from treazure_pipeline.ledger import batches

if TYPE_CHECKING:
    from decimal import Decimal

    from treazure_pipeline.balance_sync.merge import MergeFigures
    from treazure_pipeline.connections import Run
    from treazure_pipeline.ledger.coverage import Window

logger = logging.getLogger(__name__)

_MOST_EXPIRED_EXPORTS = 3
_MOST_REREADS = 3


@dataclass(frozen=True)
class Snapshot:
    """An export that is staged in the ledger and waits to be merged.

    `seconds`: how long it took. `clock_ahead`: by how many seconds Treazure's clock is ahead of the database's; None if it did not say.
    """

    observation: int
    window: Window
    fetched: int
    rejected: int
    seconds: float
    clock_ahead: float | None

    @property
    def sentence(self) -> str:
        """What was fetched, and for which window."""
        of = "all balances, " if self.window.is_full else ""
        counts = [f"{self.fetched:,} fetched", *phrases.some(rejected=self.rejected)]
        return f"{of}{phrases.span(self.window.start, self.window.end)}: {phrases.sentence(counts)}"


@dataclass(frozen=True)
class Diff:
    """A merged export. `reread`: accounts that were read once more because two observations overlapped."""

    figures: MergeFigures
    reread: int
    seconds: float

    @property
    def sentence(self) -> str:
        """What became of the fetched rows, and of the total."""
        found = self.figures
        counts = phrases.some(
            unchanged=found.unchanged, duplicate=found.duplicate, superseded=found.superseded, rejected=found.rejected
        )
        rows = phrases.sentence([f"{found.changed:,} changed", *counts])
        return (
            f"{found.fetched:,} fetched: {rows}; the total went from {phrases.points(found.points_before)} to "
            f"{phrases.points(found.points_after)}"
        )


class NoSnapshotError(PipelineError):
    """There is no staged export to merge."""


def take_snapshot(run: Run, window: Window) -> Snapshot:
    """Ask Treazure to export the balances that changed in `window`, and stage them in the ledger.

    An export that has expired, or whose body breaks off, is requested again; the client retries everything else. If it raises, the ledger's
    balances have not changed: RemoteError if the export can't be fetched, ClocksApartError if its window can't be trusted,
    UntrustedExportError if more than GUARD_MAX_REJECTED_SHARE of its rows can't be understood.
    """
    ledger, account = run.ledger, run.account
    began = time.perf_counter()
    broken = expired = 0
    while True:
        observation = staging.ask(ledger, account, window, run.id)
        path, ahead = begin_export(ledger, run.treazure, account, window.start, window.end)
        try:
            with run.treazure.open_balances(path) as chunks:
                try:
                    rows = decode_balances(chunks, account.loyalty_id)
                    fetched, rejected = staging.stage(
                        ledger, account, observation, rows, max_rejected_share=run.programme.guards.max_rejected_share
                    )
                    return Snapshot(observation, window, fetched, rejected, time.perf_counter() - began, ahead)
                except NoAnswerError as error:
                    broken += 1
                    if broken >= run.retry.attempts or not run.retry.sleep(run.retry.wait_after(broken, error)):
                        raise
                    logger.warning("%s A new export is requested.", error)
        except ExportExpiredError as error:
            expired += 1
            if expired >= _MOST_EXPIRED_EXPORTS:
                raise
            logger.warning("%s", error)


def merge_snapshot(run: Run) -> Diff:
    """Merge the staged export into the ledger: what differs becomes pending.

    If the export overlaps in time with another observation of an account and differs from it, the account is read once more.
    Raises NoSnapshotError if nothing is staged.
    """
    ledger, account = run.ledger, run.account
    began = time.perf_counter()
    batches.fold(ledger, account)
    batches.return_rows(ledger, account)
    observation = staging.staged(ledger, account)
    if observation is None:
        raise NoSnapshotError(
            f"Programme {account.name!r} has no fetched snapshot to compare.",
            hint="Materialize treazure_balance_snapshot first.",
        )
    figures = merge.merge(ledger, account, observation, batch_size=run.settings.engage_batch_size)
    return Diff(figures, len(reread_accounts(run)), time.perf_counter() - began)


def reread_accounts(run: Run) -> list[str]:
    """Read the accounts again whose observations overlapped and differed. Return the contacts that were due.

    If an account can't be read, its known balance stays. It is tried again after a wait that grows, unless Treazure says that there is
    no such account.
    """
    ledger, account = run.ledger, run.account
    contacts = readings.to_reread(ledger, account)

    def read(contact: str) -> None:
        try:
            read_account(run, contact)
        except AuthenticationError:
            raise
        except RemoteError as error:
            logger.warning("Contact %s can't be read again; its known balance stays. %s", contact, error)
            if isinstance(error, NotFoundError) and not run.treazure.knows(contact, run.account.loyalty_id):
                readings.drop_reread(ledger, account, contact)
            else:
                answer = "no usable answer" if error.status is None else f"status {error.status}"
                readings.postpone_reread(ledger, account, contact, answer, run.retry.scale)

    with ThreadPoolExecutor(run.settings.treazure_concurrency, thread_name_prefix="reread") as threads:
        for _ in threads.map(read, contacts):
            pass
    return contacts


def read_account(run: Run, contact: str) -> Decimal | None:
    """Read one account, record its balance and return it; None if the account is not in the programme.

    Raises NotFoundError if Treazure answers 404, and other RemoteErrors.
    """
    balance = None
    for _ in range(_MOST_REREADS):
        asked = run.ledger.now()
        balance, clock = run.treazure.balance_and_clock(contact, run.account.loyalty_id)
        if balance is None:
            readings.drop_reread(run.ledger, run.account, contact)
            break
        apart = clock is not None and are_apart(seconds_ahead(clock, asked, run.ledger.now()))
        if readings.record_account(run.ledger, run.account, contact, balance, asked, run.id, clocks_apart=apart):
            break
    return balance
