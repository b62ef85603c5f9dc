"""The audit of a migration: do the files match the roster, does Engage match the files, and who accepts what differs?

It closes the migration: every contact is read back from Engage and compared, and what Engage shows becomes the ledger's
sent balance. Only then is the programme live again.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from treazure_pipeline import people, phrases
from treazure_pipeline.errors import NotFoundError, PipelineError
from treazure_pipeline.point_migration import audit_store, backfill
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.report import as_markdown, write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from treazure_pipeline.clients.engage import EngageClient
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.audit_store import ReadBack
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.point_migration.target import Target

_PROBES = 50
_CHUNK = 500


class NotImportedYetError(PipelineError):
    """Engage shows no points yet for contacts that get some from the files: a person has to import them first."""

    exit_code = 6


class PausedError(PipelineError):
    """This run's time was over before all balances had been read back; another run continues.

    `since`: when the first of these runs began, on the database's clock.
    """

    exit_code = 6

    def __init__(self, message: str, since: datetime) -> None:
        super().__init__(message)
        self.since = since


class DifferencesError(PipelineError):
    """Engage shows different balances from those that were imported."""


@dataclass(frozen=True)
class Audited:
    """What an audit found, counted in contacts; the report in Markdown, and its URL without secrets. `pending`: left to the hourly sync."""

    contacts: int
    read: int
    equal: int
    differing: int
    missing: int
    left_out: int
    pending: int
    balance: Decimal
    imported: Decimal
    in_engage: Decimal
    report: str
    markdown: str
    seconds: float

    @property
    def sentence(self) -> str:
        """Whether Engage holds what was imported."""
        told = (
            f"{self.equal:,} of {phrases.counted(self.contacts, 'contact')} have in Engage what was imported for them"
        )
        odd = phrases.some(
            differ=self.differing, without_an_account=self.missing, left_out=self.left_out,
            left_to_the_hourly_sync=self.pending,
        )  # fmt: skip
        return "; ".join([told, *([phrases.sentence(odd)] if odd else []), "the programme is live"])


def require_conserved(ledger: Ledger, migration: Migration) -> None:
    """Raise MigrationError if a contact's rows do not add up to its balance, or two contacts share a key."""
    wrong = audit_store.unequal(ledger, migration, limit=5)
    doubled = audit_store.doubled_keys(ledger, migration, limit=5)
    if doubled:
        keys = ", ".join(f"{people.said(f'{key:.60}')} ({count} contacts)" for key, count in doubled)
        raise MigrationError(
            f"These keys each belong to several contacts: {keys}.",
            hint="Fix the mapping file, then run prepare_migration again.",
        )
    if wrong:
        listed = "; ".join(f"{contact}: balance {balance}, rows {rows}" for contact, balance, rows in wrong)
        raise MigrationError(
            f"Rows do not add up to the balance at the cut-off: {listed}.",
            hint="Run point_migration for these shards again. Nothing is delivered until they add up.",
        )


def audit(
    ledger: Ledger,
    engage: EngageClient,
    account: Account,
    target: Target,
    *,
    concurrency: int,
    run_id: str,
    accepted_by: str | None = None,
    since: datetime | None = None,
    most_seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Audited:
    """Read every balance back from Engage, compare, report; close the migration if nothing differs.

    A later run does not read again what was equal, or was read after `since` (database clock; None: now). `accepted_by`
    is the person who accepts what still differs: those contacts become pending, so the hourly sync sets them. Raises
    NotImportedYetError, PausedError after `most_seconds`, and DifferencesError; the programme then stays in migration.
    """
    began = time.perf_counter()
    with backfill.holding(ledger, account):
        migration = backfill.opened(ledger, account)
        backfill.require(migration, "delivered")
        try:
            _require_import(ledger, engage, account, migration, concurrency)
            started = since or ledger.now()
            _read_back(ledger, engage, account, migration, concurrency, progress, started, began + most_seconds)
        finally:
            report = write_report(ledger, account, migration, target, accepted_by=accepted_by)
        found = audit_store.shards(ledger, migration)
        differing = sum(shard.differing for shard in found)
        if differing and not accepted_by:
            listed = "; ".join(
                f"{each.contact}: imported {each.imported or 0}, "
                f"Engage shows {'no account' if each.shown is None else each.shown}"
                for each in audit_store.differences(ledger, migration, limit=5)
            )
            raise DifferencesError(
                f"{differing} contacts differ in Engage from what was imported: {listed}.",
                hint=f"See {report}. Run finish_migration again when Engage's import has finished; what can't be fixed "
                "is accepted with accepted_by, and the hourly sync then sets these balances.",
            )
        with ledger.holding(account):
            reason = f"{differing} contacts differed" if differing else "all balances are equal"
            closed = audit_store.close(
                ledger, account, migration, run_id=run_id, accepted_by=accepted_by, reason=reason
            )
    return Audited(
        contacts=sum(shard.contacts for shard in found),
        read=sum(shard.read for shard in found),
        equal=sum(shard.equal for shard in found),
        differing=differing,
        missing=sum(shard.missing for shard in found),
        left_out=sum(shard.left_out for shard in found),
        pending=closed["pending"],
        balance=sum((shard.balance for shard in found), Decimal(0)),
        imported=sum((shard.imported for shard in found), Decimal(0)),
        in_engage=sum((shard.in_engage for shard in found), Decimal(0)),
        report=report,
        markdown=as_markdown(ledger, migration, accepted_by=accepted_by),
        seconds=time.perf_counter() - began,
    )


def _require_import(
    ledger: Ledger, engage: EngageClient, account: Account, migration: Migration, concurrency: int
) -> None:
    """Look at a few contacts before reading all, since they show whether the import has begun."""
    probed = audit_store.probe(ledger, migration, _PROBES)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="probe") as threads:
        shown = list(threads.map(lambda row: _probed(engage, account, row.contact), probed))
    if probed and not any(shown):
        raise NotImportedYetError(
            f"Not imported yet: none of {len(probed)} contacts that get points from the files has any in Engage.",
            hint="Run finish_migration again when Engage has imported the files; until then nothing is sent to Engage.",
        )


def _read_back(
    ledger: Ledger,
    engage: EngageClient,
    account: Account,
    migration: Migration,
    concurrency: int,
    progress: Callable[[int, int], None] | None,
    started: datetime,
    deadline: float,
) -> None:
    total = audit_store.read_back_left(ledger, migration, started)
    after: ReadBack | None = None
    with ThreadPoolExecutor(concurrency, thread_name_prefix="read-back") as threads:
        while rows := audit_store.to_read_back(ledger, migration, before=started, after=after, limit=_CHUNK):
            shown = list(threads.map(lambda row: engage.balance(row.contact, account.definition_id), rows))
            audit_store.record_read_back(ledger, migration, rows, shown)
            after = rows[-1]
            if progress is not None:
                progress(len(rows), total)
            if time.perf_counter() >= deadline and (left := audit_store.read_back_left(ledger, migration, started)):
                raise PausedError(f"{left} contacts are still to be read back; another run continues.", started)


def _probed(engage: EngageClient, account: Account, contact: str) -> Decimal | None:
    """Return what Engage shows for a contact; nothing if it answers 404, as it may for everybody before the import."""
    try:
        return engage.balance(contact, account.definition_id)
    except NotFoundError:
        return None
