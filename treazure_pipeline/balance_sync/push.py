"""Sends what is pending to Engage and records what was accepted (I2, I3, I6, I8). Nothing else does.

Each request first takes a slot of the shared rate and then claims its rows with the newest master balances, so nothing older than the ledger is
ever sent. Several threads send requests, while accepted batches are folded into the ledger.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from treazure_pipeline import tracing
from treazure_pipeline.balance_sync import plans
from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.engage_wire import encode_balances
from treazure_pipeline.clients.pacing import LEASE_MARGIN_SECONDS
from treazure_pipeline.errors import RemoteError, TooLateError
from treazure_pipeline.ledger import batches, figures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from treazure_pipeline.balance_sync.guards import Judgment
    from treazure_pipeline.clients.outcome import Outcome
    from treazure_pipeline.clients.pacing import RetryPolicy
    from treazure_pipeline.connections import Run
    from treazure_pipeline.ledger.batches import Batch
    from treazure_pipeline.ledger.figures import Backlog

logger = logging.getLogger(__name__)

_FOLD_AFTER_BATCHES = 8
_MOST_PASSES = 10
_REFUSED_ALONE_BEFORE_GIVING_UP = 50


@dataclass(frozen=True)
class PushFigures:
    """What a push did: backlog + entered = sent + refused + held + pending, see `figures.Flow`.

    `accepted` counts rows in accepted requests (a row sent twice counts twice), `lost` the requests whose effect is unknown. `error` is why
    not everything could be sent.
    """

    backlog: int
    entered: int
    sent: int
    refused: int
    held: int
    pending: int
    oldest_pending: datetime | None
    requests: int
    accepted: int
    lost: int
    seconds: dict[str, float]
    error: RemoteError | None = None


@dataclass(order=True)
class _Task:
    """Rows to claim again, not before `due` (monotonic seconds)."""

    due: float
    number: int
    contacts: list[str] = field(compare=False)
    failures: int = field(compare=False)


def push(
    run: Run, *, since: Backlog | None = None, judgment: Judgment | None = None, only: Sequence[str] | None = None
) -> PushFigures:
    """Send every pending row that is due, and return the results.

    The caller holds the programme's lock. The figures count from `since` (default: the rows pending now). The listener is told the progress
    after each answered request.
    If `judgment` has reasons, only the rows of an approved plan are sent, and the others are held. Otherwise, if `only` is given, only the
    rows of these contacts are sent, and the others are left pending. A programme that is migrating sends nothing (I11).
    What could not be sent is left pending, and the result's `error` says why. Errors of the database are raised.
    """
    with tracing.span("push balances", run_id=run.id, programme=run.account.id):
        return _push(run, since=since, judgment=judgment, only=only)


def _push(run: Run, *, since: Backlog | None, judgment: Judgment | None, only: Sequence[str] | None) -> PushFigures:
    ledger, account, batch_size = run.ledger, run.account, run.settings.engage_batch_size
    began = time.perf_counter()
    batches.abandon(ledger, account)
    folding = time.perf_counter()
    batches.fold(ledger, account)
    fold_seconds = time.perf_counter() - folding
    started = ledger.now()
    backlog = since or figures.count_backlog(ledger, account)
    sending = _Push(run, started=started, backlog=backlog, concurrency=run.settings.engage_concurrency)
    sending.fold_seconds = fold_seconds
    kept_back = judgment.shift.rows if judgment is not None and judgment.reasons else 0
    if account.mode == "live":
        if kept_back:
            sending.run_only(_batches_of(plans.approved_contacts(ledger, account), batch_size))
        elif only is not None:
            sending.run_only(_batches_of(only, batch_size))
        elif backlog.pending:
            sending.run()
    flow = figures.flow_since(ledger, account, backlog, started)
    kept_back = min(kept_back, flow.left)
    if sending.error is None and account.mode == "live":
        if judgment is not None and judgment.shift.approved:
            plans.mark_used(ledger, account, run_id=run.id, before=started)
        if not flow.left:
            plans.note_loaded(ledger, account)
    return PushFigures(
        backlog=backlog.pending,
        entered=flow.entered,
        sent=flow.sent,
        refused=flow.refused,
        held=flow.held + kept_back,
        pending=flow.left - kept_back,
        oldest_pending=flow.oldest_since,
        requests=sending.requests,
        accepted=sending.accepted,
        lost=sending.lost,
        seconds={"push": time.perf_counter() - began, "fold": sending.fold_seconds},
        error=sending.error,
    )


def push_contacts(run: Run, contacts: Sequence[str]) -> None:
    """Send only the pending rows of these contacts. Needs no lock.

    Each request is tried once; what is not accepted stays pending for the next sync. Rows marked to be sent again are also left to it, unless
    Treazure was asked since: if the ledger's disk was restored, Engage may hold something newer than the ledger knows.
    """
    batches.abandon(run.ledger, run.account)
    batches.fold(run.ledger, run.account)
    sending = _Push(
        run, started=run.ledger.now(), backlog=None, concurrency=1, retry=replace(run.retry, waits=()), doubted=False
    )
    sending.run_only(_batches_of(contacts, run.settings.engage_batch_size))


def _batches_of(contacts: Sequence[str], size: int) -> list[list[str]]:
    return [list(contacts[start : start + size]) for start in range(0, len(contacts), size)]


class _Push:
    """The state that the sending threads share. `_guard` protects all of it, except what claims use (`_claiming`)."""

    def __init__(
        self,
        run: Run,
        *,
        started: datetime,
        backlog: Backlog | None,
        concurrency: int,
        retry: RetryPolicy | None = None,
        doubted: bool = True,
    ) -> None:
        self._ledger = run.ledger
        self._engage = run.engage
        self._pacer = run.connections.engage_pacer
        self._account = run.account
        self._run_id = run.id
        self._run_started = started
        self._backlog = backlog
        self._retry = retry or run.retry
        self._doubted = doubted
        self._batch_size = run.settings.engage_batch_size
        self._concurrency = concurrency
        self._lease = run.settings.engage_timeout_seconds + LEASE_MARGIN_SECONDS
        self._listener = run.connections.listener

        self._guard = threading.Condition()
        self._claiming = threading.Lock()
        self._cursor: str | None = None
        self._pass_over = True
        self._planned_left = True
        self._tasks: list[_Task] = []
        self._taken: set[str] = set()
        self._numbers = itertools.count()
        self._busy = 0
        self._at_work = 0
        self._to_fold = 0
        self._failing = 0
        self._refused_alone = 0
        self._last_success = time.monotonic()
        self._stopping = False
        self._crash: BaseException | None = None

        self.requests = 0
        self.accepted = 0
        self.lost = 0
        self.fold_seconds = 0.0
        self.error: RemoteError | None = None

    def run(self) -> None:
        """Send pending rows until none is due, or the push has to give up."""
        for _ in range(_MOST_PASSES):
            accepted = self.accepted
            self._one_pass()
            if self._stopping or self.error is not None:
                return
            backlog = figures.count_backlog(self._ledger, self._account)
            due = figures.flow_since(self._ledger, self._account, backlog, self._run_started).left
            if not due:
                return
            lease = batches.lease_left(self._ledger, self._account, due=True)
            if lease:
                logger.info("%d rows are in requests under way; waiting at most %.1f s for them", due, lease)
                if not self._wait_for_others(lease):
                    return
            # A lease may also have ended a moment ago.
            freed = batches.abandon(self._ledger, self._account)
            if not lease and not freed and self.accepted == accepted:
                return

    def _wait_for_others(self, lease: float) -> bool:
        """Wait until no request is under way, or until those that were have no lease any more. Return False if `stop` was set."""
        ends = time.monotonic() + lease
        while (left := min(batches.lease_left(self._ledger, self._account, due=True), ends - time.monotonic())) > 0:
            if not self._retry.sleep(min(left + 0.05, 0.5)):
                return False
        return True

    def run_only(self, batches_of_contacts: Sequence[list[str]]) -> None:
        """Send the rows of these contacts, one request per batch."""
        self._tasks = [_Task(0.0, next(self._numbers), contacts, 0) for contacts in batches_of_contacts]
        self._send_all()

    def _one_pass(self) -> None:
        self._cursor, self._pass_over = None, False
        self._taken.clear()
        self._send_all()

    def _send_all(self) -> None:
        self._at_work = self._concurrency
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="push") as threads:
            for _ in range(self._concurrency):
                threads.submit(contextvars.copy_context().run, self._work)  # inside the current span
            try:
                while self._is_worth_folding():
                    self._fold()
            except BaseException as error:
                self._stop(error)
                if self._retry.stop is not None:
                    self._retry.stop.set()
                raise
        if self._crash is not None:
            raise self._crash
        self._fold()

    def _is_worth_folding(self) -> bool:
        """Wait until enough batches are accepted for a fold (True) or all threads have ended (False)."""
        with self._guard:
            self._guard.wait_for(lambda: not self._at_work or self._to_fold >= _FOLD_AFTER_BATCHES)
            return self._at_work > 0

    def _fold(self) -> None:
        with self._guard:
            self._to_fold = 0
        began = time.perf_counter()
        batches.fold(self._ledger, self._account)
        self.fold_seconds += time.perf_counter() - began

    def _work(self) -> None:
        try:
            while (task := self._next_task()) is not None:
                try:
                    self._send(task)
                finally:
                    with self._guard:
                        self._busy -= 1
                        self._guard.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the workers
            self._stop(error)
        finally:
            with self._guard:
                self._at_work -= 1
                self._guard.notify_all()

    def _next_task(self) -> _Task | None:
        """Return what to claim next (no contacts: whatever follows the cursor). Waits while other threads may still add tasks."""
        with self._guard:
            while not self._stopping:
                now = time.monotonic()
                if self._retry.stop is not None and self._retry.stop.is_set():
                    self._stopping = True
                elif self._tasks and self._tasks[0].due <= now:
                    self._busy += 1
                    return heapq.heappop(self._tasks)
                elif not self._pass_over and self._failing < self._concurrency:
                    self._busy += 1
                    return _Task(now, next(self._numbers), [], 0)
                elif not self._tasks and not self._busy:
                    return None
                else:
                    self._guard.wait(min(self._tasks[0].due - now, 0.5) if self._tasks else 0.5)
        return None

    def _send(self, task: _Task) -> None:
        with self._pacer.slot() as began:
            batch = self._claim(task)
            if batch is None:
                return
            body = encode_balances(batch.contacts, batch.amounts, self._account.definition_id, batch.time_stamp)
            with self._guard:
                self.requests += 1
            try:
                # If it were sent later, its slot or its rows could be somebody else's before the answer arrives.
                with tracing.span("send batch", batch=batch.id, rows=len(batch.contacts)) as span:
                    answer = self._engage.set_balances(body, before=began + LEASE_MARGIN_SECONDS)
                    span.set(transaction_id=answer.transaction_id, refused=len(answer.refused))
            except TooLateError as error:
                self._claim_anew(error, batch, task)
                return
            except RemoteError as error:
                self._handle(error, batch, task)
                return
        refused = {contact: reason for contact, reason in answer.refused.items() if contact in set(batch.contacts)}
        batches.accept(
            self._ledger, self._account, batch, transaction_id=answer.transaction_id, request_id=answer.request_id,
            refused=refused, scale=self._retry.scale,
        )  # fmt: skip
        with self._guard:
            self.accepted += len(batch.contacts) - len(refused)
            self._to_fold += 1
            self._failing = 0
            self._last_success = time.monotonic()
            self._guard.notify_all()
        if self._backlog is not None:
            self._listener.progressed(len(batch.contacts), self._backlog.pending)

    def _claim_anew(self, error: TooLateError, batch: Batch, task: _Task) -> None:
        batches.fail(self._ledger, batch, effect_possible=False, error=error.message)
        with self._claiming:
            self._taken.update(batch.contacts)
        with self._guard:
            self.requests -= 1
            heapq.heappush(self._tasks, _Task(0.0, next(self._numbers), batch.contacts, task.failures))
            self._guard.notify_all()

    def _claim(self, task: _Task) -> Batch | None:
        with self._claiming:
            if not task.contacts and self._pass_over:
                return None
            if not task.contacts and self._planned_left:
                batch = batches.claim_planned(self._ledger, self._account, run_id=self._run_id, lease=self._lease)
                if batch is not None:
                    return batch
                self._planned_left = False
            batch = batches.claim(
                self._ledger, self._account, run_id=self._run_id, run_started=self._run_started, size=self._batch_size,
                lease=self._lease, after=None if task.contacts else self._cursor, only=task.contacts or None,
                without=() if task.contacts else list(self._taken), doubted=self._doubted,
            )  # fmt: skip
            if not task.contacts:
                if batch is None:
                    self._pass_over = True
                else:
                    self._cursor = batch.contacts[-1]
            return batch

    def _handle(self, error: RemoteError, batch: Batch, task: _Task) -> None:
        logger.warning("batch %d of %d rows: %s", batch.id, len(batch.contacts), error)
        with self._claiming:
            self._taken.update(batch.contacts)  # from now on only their own tasks claim them
        became = outcome.of(error)
        if became.blames == "row":
            batches.refuse(
                self._ledger, self._account, batch, request_id=error.request_id, reason=error.message,
                scale=self._retry.scale,
            )  # fmt: skip
            self._split(error, batch)
            return
        may_be_in = became.effect != "none"
        batches.fail(self._ledger, batch, effect_possible=may_be_in, error=str(error))
        if not became.again:
            self._give_up(error)
            return
        lease = batches.lease_left(self._ledger, self._account, batch) if became.at_work else 0.0
        if may_be_in and not became.at_work:
            batches.end_lease(self._ledger, batch)
        with self._guard:
            self.lost += may_be_in
        self._try_later(error, became, batch, task, lease)

    def _try_later(self, error: RemoteError, became: Outcome, batch: Batch, task: _Task, lease: float) -> None:
        failures = task.failures + became.costs_a_try
        wait = self._retry.wait_after(max(failures, 1), error) if became.wait is None else became.wait
        if not became.costs_a_try:
            self._pacer.pause(wait)
        wait = max(wait, lease)
        with self._guard:
            self._failing += 1
            out_of_patience = time.monotonic() - self._last_success > self._retry.patience + wait
            if failures >= self._retry.attempts or (not became.costs_a_try and out_of_patience):
                self.error = error
                if self._failing >= self._concurrency:
                    self._stopping = True
            else:
                task = _Task(time.monotonic() + wait, next(self._numbers), batch.contacts, failures)
                heapq.heappush(self._tasks, task)
            self._guard.notify_all()

    def _split(self, error: RemoteError, batch: Batch) -> None:
        """Split a refused batch in half, again and again, until the bad row is alone."""
        half = len(batch.contacts) // 2
        with self._guard:
            if half:
                for contacts in (batch.contacts[:half], batch.contacts[half:]):
                    # The newest half goes first, so one batch is split down to single rows before the next one is.
                    heapq.heappush(self._tasks, _Task(0.0, -next(self._numbers), contacts, 0))
            else:
                self._refused_alone += 1
            systematic = self._refused_alone >= _REFUSED_ALONE_BEFORE_GIVING_UP and not self.accepted
            self._guard.notify_all()
        if systematic:
            self._give_up(error)

    def _give_up(self, error: RemoteError) -> None:
        with self._guard:
            self.error = error
            self._stopping = True
            self._guard.notify_all()

    def _stop(self, error: BaseException) -> None:
        with self._guard:
            self._crash = self._crash or error
            self._stopping = True
            self._guard.notify_all()
