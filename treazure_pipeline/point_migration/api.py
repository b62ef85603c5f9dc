"""Delivers a migration's rows by API, for a tenant that is already active: each row of the files at most once.

The intent and its `Idempotency-Key` are stored before a request is made. A request without an answer is repeated with the
same key while Engage remembers it (24 hours); after that it is uncertain, and left to a person. So is a request that a
restored ledger knows nothing about: its key comes from the file, so Engage recognizes it for those 24 hours.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from treazure_pipeline import phrases
from treazure_pipeline.clients import engage_wire as wire
from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.pacing import now
from treazure_pipeline.errors import PipelineError, RemoteError
from treazure_pipeline.point_migration import file_store
from treazure_pipeline.point_migration.backfill import Finding, MigrationError
from treazure_pipeline.point_migration.delivery import written_files
from treazure_pipeline.point_migration.files import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from treazure_pipeline.clients.engage import EngageClient
    from treazure_pipeline.clients.pacing import RetryPolicy
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.point_migration.file_store import File, Request

REMEMBERED_SECONDS = 23.5 * 3600
"""Engage remembers a key for 24 hours. Half an hour is left for clocks and slow answers."""


_KEYS = uuid.UUID("5b0f6c1e-9f0e-4c55-8d0b-6f1f2f3c7a10")


class UncertainRowsError(PipelineError):
    """It is unknown whether Engage has added some rows."""


@dataclass
class Added:
    """The results of a delivery by API, counted in rows. `uncertain` and `refused_requests` need a person."""

    rows: int = 0
    sent: int = 0
    sent_before: int = 0
    refused: int = 0
    refused_requests: int = 0
    uncertain: int = 0
    unanswered: int = 0
    requests: int = 0

    @property
    def figures(self) -> dict[str, Any]:
        """The figures that a run shows."""
        return {
            "target": "the API", "rows": self.rows, "sent": self.sent, "sent_before": self.sent_before,
            "refused": self.refused, "refused_requests": self.refused_requests, "requests": self.requests,
        }  # fmt: skip

    @property
    def sentence(self) -> str:
        """How many rows Engage added."""
        told = (
            f"{self.sent:,} of {phrases.counted(self.rows, 'row')} added in {phrases.counted(self.requests, 'request')}"
        )
        odd = phrases.some(had_been_added_before=self.sent_before, refused=self.refused)
        return "; ".join(part for part in (told, phrases.sentence(odd)) if part)


def add_by_api(
    ledger: Ledger,
    engage: EngageClient,
    account: Account,
    migration: Migration,
    body: Callable[[File], bytes],
    *,
    batch_size: int,
    concurrency: int,
    retry: RetryPolicy,
    uncertain_are_taken: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Added:
    """Add all rows of the migration's files in Engage; continue where an earlier run stopped. `body` gives a file's bytes.

    `uncertain_are_taken` is a person's decision on requests whose outcome nobody knows. If some are left without one,
    raises UncertainRowsError after all others have been sent. What would fail every call (credentials) is raised at once.
    """
    require_contact_ids(migration.key_type)
    files = written_files(ledger, migration)
    if any(file.state != "written" for file in files):
        raise MigrationError(
            "Files of this migration have been delivered; sending their rows by API would add them again."
        )
    if uncertain_are_taken is not None:
        file_store.decide_uncertain(ledger, migration, taken=uncertain_are_taken)
    run = _Adding(ledger, engage, account, migration, retry)
    run.result.rows = sum(file.rows for file in files)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="add") as threads:
        under_way: deque[tuple[int, Future[None]]] = deque()

        def finish_one() -> None:
            rows, future = under_way.popleft()
            future.result()
            if progress is not None:
                progress(rows, run.result.rows)

        for file in files:
            for first, rows in _batches(body(file), batch_size):
                under_way.append((len(rows), threads.submit(run.add, file, first, rows)))
                if len(under_way) >= 2 * concurrency:
                    finish_one()
        while under_way:
            finish_one()
    _require_answers(ledger, migration, run.result)
    file_store.complete_delivery(ledger, migration, by="api", to="the API")
    return run.result


def require_contact_ids(key_type: str) -> None:
    """Raise MigrationError unless contacts are named by their id, as the API requires."""
    if key_type != "ContactId":
        raise MigrationError(
            f"The API names contacts by their id, not by {key_type}.",
            hint="Migrate with MIGRATION_KEY_TYPE=ContactId, or deliver files.",
        )


def _require_answers(ledger: Ledger, migration: Migration, result: Added) -> None:
    if result.uncertain or result.unanswered:
        listed = file_store.uncertain_requests(ledger, migration)[:5]
        places = ", ".join(f"{name} from row {first}" for _, name, first, _ in listed)
        raise UncertainRowsError(
            f"{result.unanswered} requests have no answer yet. For {result.uncertain} more it can no longer be "
            f"told whether Engage took them ({places or 'none'}).",
            hint="The next run repeats the unanswered ones. For the others, look at the accounts in Engage, then "
            "set uncertain_are_taken to true or false.",
        )


class _Adding:
    def __init__(
        self, ledger: Ledger, engage: EngageClient, account: Account, migration: Migration, retry: RetryPolicy
    ) -> None:
        self._ledger = ledger
        self._engage = engage
        self._account = account
        self._migration = migration
        self._retry = retry
        self._forgetful = file_store.ledger_has_moved(ledger, migration)
        self._guard = threading.Lock()
        self.result = Added()

    def add(self, file: File, first: int, rows: list[wire.AddedPoints]) -> None:
        """Send some rows of a file, unless they have been sent."""
        request = file_store.claim_request(
            self._ledger, self._migration, file.name, first, len(rows), _key(self._migration, file, first),
            remembered=REMEMBERED_SECONDS, forgetful=self._forgetful,
        )  # fmt: skip
        if request.state == "uncertain":
            self._count(uncertain=1)
        elif request.state == "sending":
            self._send(request, file.name, first, rows)
        else:
            self._count(sent_before=len(rows))

    def _send(self, request: Request, name: str, first: int, rows: list[wire.AddedPoints]) -> None:
        body = wire.encode_added_points(rows, self._account.definition_id)
        until = now() + REMEMBERED_SECONDS - request.seconds
        patient_until = now() + self._retry.patience
        failures, in_doubt = 0, request.repeat
        while True:
            self._count(requests=1)
            try:
                refused = self._engage.add_points(body, request.key, before=until)
            except RemoteError as error:
                became = outcome.of(error)
                in_doubt = in_doubt or became.effect != "none"
                if became.blames == "row":
                    # After an unanswered call, a refusal does not show whether that call took effect.
                    self._refuse(request, name, first, rows, str(error), in_doubt=in_doubt)
                    return
                if not became.again:
                    if not in_doubt:
                        file_store.take_back_request(self._ledger, request)
                    raise
                failures += became.costs_a_try
                wait = self._retry.wait_after(max(failures, 1), error)
                over = failures >= self._retry.attempts if became.costs_a_try else now() + wait > patient_until
                if over or not self._retry.sleep(wait):
                    self._give_up(request, str(error), in_doubt=in_doubt)
                    return
            else:
                self._taken(request, rows, refused)
                return

    def _taken(self, request: Request, rows: list[wire.AddedPoints], refused: list[wire.RefusedPoints]) -> None:
        file_store.note_refused_rows(
            self._ledger, self._migration,
            [Finding(row.contact_id, "refused_by_engage", "Amount", f"{row.amount or 'all rows'}: {row.reason}",
                     remedy="Engage did not add it; the hourly sync sets this contact's balance.") for row in refused],
        )  # fmt: skip
        file_store.answer_request(self._ledger, request, "taken", refused=len(refused))
        self._count(sent=len(rows) - len(refused), refused=len(refused))

    def _refuse(
        self, request: Request, name: str, first: int, rows: list[wire.AddedPoints], said: str, *, in_doubt: bool
    ) -> None:
        if in_doubt:
            file_store.answer_request(self._ledger, request, "uncertain", error=said)
            self._count(uncertain=1)
            return
        file_store.answer_request(self._ledger, request, "refused", refused=len(rows), error=said)
        file_store.note_refused_rows(
            self._ledger, self._migration,
            [Finding(None, "refused_request", name, f"rows {first} to {first + len(rows) - 1}: {said}",
                     remedy="Engage refused them together; the hourly sync sets these contacts' balances.")],
        )  # fmt: skip
        self._count(refused_requests=1, refused=len(rows))

    def _give_up(self, request: Request, said: str, *, in_doubt: bool) -> None:
        if in_doubt:
            file_store.answer_request(self._ledger, request, "sending", error=said)
        else:
            file_store.take_back_request(self._ledger, request)
        self._count(unanswered=1)

    def _count(self, **more: int) -> None:
        with self._guard:
            for name, value in more.items():
                setattr(self.result, name, getattr(self.result, name) + value)


def _key(migration: Migration, file: File, first: int) -> str:
    """Return the same key for the same rows of the same migration, even from a restored ledger."""
    return str(uuid.uuid5(_KEYS, f"{migration.id} {file.sha256} {first}"))


def _batches(body: bytes, size: int) -> Iterator[tuple[int, list[wire.AddedPoints]]]:
    first = 1
    for some in read_rows(body).iter_slices(size):
        yield first, [_added(row) for row in some.iter_rows(named=True)]
        first += some.height


def _added(row: dict[str, str]) -> wire.AddedPoints:
    return wire.AddedPoints(
        contact_id=row["Key"],
        amount=Decimal(row["Amount"]),
        time_stamp=row["TransactionDate"],
        source=row["Source"] or "Treazure",
        description=row["Description"] or row["TransactionType"],
        valid_to=row["ValidTo"] or None,
    )
