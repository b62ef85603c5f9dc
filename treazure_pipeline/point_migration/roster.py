"""The roster: who is migrated, with which balance, and the moment that separates what is imported from what is synced.

The cut-off is the time on the database's clock when the migration begins. It is compared with the times of Treazure's movements. A balance in an
export is the balance at the cut-off, unless the account moved afterwards. Mutation times tell which accounts did, and so does a last export of
what has changed since shortly before the cut-off, requested when all others have been answered. These accounts are marked, and `logs` computes
their balances from their logs.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.exports import begin_export
from treazure_pipeline.clients.decoding import decode_balances
from treazure_pipeline.errors import (
    BusyError,
    ExportExpiredError,
    InvalidAnswerError,
    NoAnswerError,
    RemoteError,
    SettingsError,
    TransientError,
)
from treazure_pipeline.ledger import batches
from treazure_pipeline.point_migration import backfill, roster_store
from treazure_pipeline.point_migration.backfill import Finding, MigrationError
from treazure_pipeline.point_migration.keys import KeyFile, KeyFinding, KeyRow, unknown

if TYPE_CHECKING:
    from decimal import Decimal

    from treazure_pipeline.clients.pacing import RetryPolicy
    from treazure_pipeline.clients.treazure import TreazureClient
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration, Terms

logger = logging.getLogger(__name__)

_LOCK_PATIENCE_SECONDS = 900.0
_LOCK_POLL_SECONDS = 2.0
_FAILURES_IN_A_ROW = 6


@dataclass(frozen=True)
class Roster:
    """A complete roster. `figures` are those of `roster_store.roster_figures`."""

    migration: Migration
    figures: dict[str, Any]
    seconds: float

    @property
    def sentence(self) -> str:
        """How many contacts and points there are to move, and as of when."""
        found = self.figures
        odd = phrases.some(
            moved_after_it=found["moved"], without_a_key=found["without_key"], rejected=found["rejected"]
        )
        told = f"{phrases.counted(found['contacts'], 'contact')} with {phrases.points(found['points'])} points"
        cut_off = f"at the cut-off, {self.migration.cut_off:%Y-%m-%d %H:%M} UTC"
        return "; ".join(part for part in (f"{told} {cut_off}", phrases.sentence(odd)) if part)


def prepare(
    ledger: Ledger,
    treazure: TreazureClient,
    account: Account,
    terms: Terms,
    *,
    run_id: str,
    retry: RetryPolicy,
    max_rejected_share: Decimal,
    although_loaded: bool = False,
    mapping: str | None = None,
) -> Roster:
    """Make the programme migrating, fix the cut-off and read all contacts. Continues where an earlier run stopped.

    An export that fails is requested again in two halves, by mutation time. Raises MigrationError if the programme has been synced to Engage
    before, BusyError if its sync does not end, ClocksApartError if the times can't be compared, UntrustedExportError if more than
    `max_rejected_share` of an export's rows can't be understood, and RemoteError if Treazure can't be read.
    """
    began = time.perf_counter()
    with backfill.holding(ledger, account):
        if backfill.current(ledger, account) is None:
            now = ledger.now()
            begin_export(
                ledger, treazure, account, now, now
            )  # checks the clocks, since the cut-off is on the database's
        migration = _switch(ledger, account, terms, run_id=run_id, retry=retry, although_loaded=although_loaded)
        if migration.terms != terms:
            raise MigrationError(
                f"Migration {migration.id} began with mode {migration.mode}, key type {migration.key_type}, "
                f"{migration.shards} shards and {migration.decimals} decimals.",
                hint="Set MIGRATION_MODE, MIGRATION_KEY_TYPE, MIGRATION_SHARDS and the programme's decimals to these, "
                "or abandon it first.",
            )
        if migration.state == "roster":
            _read_all(ledger, treazure, account, migration, max_rejected_share)
        if mapping is not None and migration.state in {"roster", "ready"}:
            _read_keys(ledger, migration, mapping)
        roster_store.complete_roster(ledger, migration)
        migration = backfill.opened(ledger, account)
        return Roster(migration, roster_store.roster_figures(ledger, migration), time.perf_counter() - began)


def check(terms: Terms, mapping: str | None) -> list[KeyFinding]:
    """Read the mapping file, if one is needed, and return what is odd in it.

    Raises SettingsError if keys need one and there is none, if it is not needed, or if no line of it can be used.
    """
    if (mapping is None) is not (terms.key_type == "ContactId"):
        raise SettingsError(
            f"Contacts are named by {terms.key_type} (MIGRATION_KEY_TYPE), "
            + ("which needs a mapping file." if mapping is None else "so a mapping file is not used."),
            hint="The file is a CSV with the columns contact and key; give its path or URL as `mapping`.",
        )
    if mapping is None:
        return []
    file = KeyFile(mapping)
    for _ in file.blocks():
        pass
    if not file.taken:
        listed = " ".join(f"Line {each.line}: {each.advice}" for each in file.findings[:5])
        raise SettingsError(f"The mapping file has no line with a usable contact and key. {listed}".rstrip())
    return file.findings


def _switch(
    ledger: Ledger, account: Account, terms: Terms, *, run_id: str, retry: RetryPolicy, although_loaded: bool
) -> Migration:
    """Begin or find the migration between two runs of the sync, and wait for requests that are under way."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS * min(retry.scale, 1)
    while True:
        try:
            with ledger.holding(account):
                migration = backfill.begin(ledger, account, terms, run_id=run_id, although_loaded=although_loaded)
                while left := batches.lease_left(ledger, account):
                    if not retry.sleep(left):
                        break
                batches.abandon(ledger, account)
                batches.fold(ledger, account)
                return migration
        except BusyError:
            if time.monotonic() > deadline or not retry.sleep(min(_LOCK_POLL_SECONDS, retry.scale)):
                raise


def _read_all(
    ledger: Ledger, treazure: TreazureClient, account: Account, migration: Migration, max_rejected_share: Decimal
) -> None:
    failures = 0
    while (window := roster_store.next_window(ledger, migration)) is not None:
        try:
            path, _ = begin_export(ledger, treazure, account, window.start, window.end)
            with treazure.open_balances(path) as chunks:
                fetched, _ = roster_store.add_to_roster(
                    ledger, migration, window, decode_balances(chunks, account.loyalty_id),
                    max_rejected_share=max_rejected_share,
                )  # fmt: skip
            logger.info("roster: %d accounts changed between %s and %s", fetched, window.start, window.end)
            failures = 0
        except (TransientError, ExportExpiredError, InvalidAnswerError) as error:
            failures += 1
            if not _may_be_too_large(error) or failures >= _FAILURES_IN_A_ROW:
                raise
            if not roster_store.split(ledger, window, str(error)):
                raise
            logger.warning("%s The window is split in halves.", error)


def _read_keys(ledger: Ledger, migration: Migration, mapping: str) -> None:
    file = KeyFile(mapping)
    strangers = roster_store.add_keys(ledger, migration, (row for block in file.blocks() for row in block))
    odd = [*file.findings, *unknown(KeyRow(*row) for row in strangers)]
    findings = [
        Finding(None, "key_line", each.field, f"line {each.line}: {each.value}", remedy=each.advice) for each in odd
    ]
    backfill.keep_findings(ledger, migration, "keys", findings)


def _may_be_too_large(error: RemoteError) -> bool:
    """Return whether a smaller export might succeed, which it would not without a connection."""
    return isinstance(error, NoAnswerError | ExportExpiredError | InvalidAnswerError) or error.status is not None
