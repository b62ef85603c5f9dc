"""Posts adjustments from the queue to Treazure, exactly once, and sends the new balances to Engage (I4, I5).

Several threads post. One thread pushes what they have posted, many rows per request, so that Engage's rate is not a bottleneck.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from treazure_pipeline import conventions, people, phrases, tracing
from treazure_pipeline.adjustments import evidence, queue
from treazure_pipeline.adjustments.look import judged
from treazure_pipeline.balance_sync import plans, readings
from treazure_pipeline.balance_sync.guards import tripped
from treazure_pipeline.balance_sync.push import push_contacts
from treazure_pipeline.balance_sync.snapshot import read_account, reread_accounts
from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.pacing import LEASE_MARGIN_SECONDS, now
from treazure_pipeline.clients.points_log import reaches
from treazure_pipeline.connections import Run
from treazure_pipeline.errors import AuthenticationError, GatewayError, PipelineError, RemoteError, TransientError
from treazure_pipeline.ledger import identity
from treazure_pipeline.texts import clean, cut, length

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from treazure_pipeline.adjustments.queue import Adjustment, Received
    from treazure_pipeline.clients.pacing import RetryPolicy
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.settings import Programme, Settings

logger = logging.getLogger(__name__)

LONGEST_DESCRIPTION = 100  # UTF-16 units
LARGEST_AMOUNT = Decimal(10) ** 12
MOST_DECIMALS = 6
_LOOKS = 2
_UNDECIDED_LOOKS = 5
_WAIT_GROWS = 4
_PROVE_EVERY = 86_400.0
_PUSH_AT_ONCE = 1000
_LINGER_NO_LONGER = 60.0
_LOOK_EVERY = 0.25


class SenselessError(ValueError):
    """An event that can't be an adjustment. The text names the field, its value and what is expected."""


@dataclass
class Processed:
    """What a run did, counted in adjustments. `error` is what ended it early.

    `shortened`: queued ones whose description was cut; `looked_up`: looks at a history after a lost answer. `reread`:
    accounts that were read once more.
    """

    queued: int = 0
    shortened: int = 0
    reread: int = 0
    rejected: int = 0
    posted: int = 0
    done: int = 0
    waiting: int = 0
    looked_up: int = 0
    uncertain: int = 0
    points: Decimal = Decimal(0)
    seconds: float = 0.0
    error: RemoteError | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def sentence(self) -> str:
        """What was posted, and what waits or needs a person."""
        points = f" ({phrases.change(self.points)} points)" if self.posted else ""
        moved = [f"{self.posted:,} posted to Treazure{points}", f"{self.done:,} set in Engage"]
        left = [
            phrases.counted(self.waiting, "waits for its next try", "wait for their next try") if self.waiting else "",
            phrases.counted(self.uncertain, "is", "are") + " uncertain" if self.uncertain else "",
            phrases.counted(self.rejected, "is", "are") + " rejected" if self.rejected else "",
        ]
        reread = phrases.counted(self.reread, "account") + " read once more" if self.reread else ""
        told = phrases.sentence([*phrases.some(queued=self.queued), *moved, reread])
        return "; ".join(part for part in (told, phrases.sentence(left)) if part)

    def count(self, **more: int | Decimal) -> None:
        """Add to the figures. Thread-safe."""
        with self._guard:
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Work:
    """What processing works with. `runs` has one run per programme, by the account's number; those that are migrating wait (I11).

    `linger`: how many seconds to wait for more events after one, since the next run takes seconds to start.
    """

    connections: Connections
    run_id: str
    runs: Mapping[int, Run]
    linger: float = 0.0

    @property
    def live(self) -> list[Run]:
        """The runs of programmes that are not migrating."""
        return [run for run in self.runs.values() if run.account.mode == "live"]

    @property
    def ledger(self) -> Ledger:
        """The ledger, which has the queue."""
        return self.connections.ledger

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.connections.settings

    @property
    def retry(self) -> RetryPolicy:
        """When a failed call is made again."""
        return self.connections.retry

    @property
    def lookup_wait(self) -> float:
        """After how many seconds to look for the effect of a call without an answer."""
        return self.settings.treazure_lookup_wait_seconds


def work_of(connections: Connections, programmes: Sequence[Programme], run_id: str, *, linger: float = 0.0) -> Work:
    """Return what processing needs. The connections should have the adjustments' priority."""
    runs = [Run.of(connections, programme, run_id) for programme in programmes]
    return Work(connections, run_id, {run.account.id: run for run in runs}, linger)


def process(work: Work) -> Processed:
    """Judge what was received, post what is due, and set the new balances in Engage, until nothing more is due.

    If one adjustment fails, it waits, is rejected or becomes uncertain, and the others go on. If Treazure refuses our credentials, the run
    ends and the result's `error` is set. Errors of the database are raised.
    """
    last_start = time.monotonic() + _LINGER_NO_LONGER
    result = Processed()
    identity.notice(work.ledger)
    _read_again(work, result)
    prove_receipts(work)
    while True:
        began = time.perf_counter()
        judge(work, result)
        _post_all(work, result)
        result.seconds += time.perf_counter() - began
        linger = work.linger if result.queued and time.monotonic() < last_start else 0.0
        if result.error is not None or not _more_arrives(work, linger):
            break
    queue.postpone_posted(work.ledger, work.retry.wait_after(2))
    return result


def _more_arrives(work: Work, linger: float) -> bool:
    until = time.monotonic() + linger
    while not queue.received(work.ledger, limit=1):
        if time.monotonic() >= until or not work.retry.sleep(_LOOK_EVERY):
            return False
    return True


def _post_all(work: Work, result: Processed) -> None:
    posted = threading.Event()
    over = threading.Event()
    with ThreadPoolExecutor(work.settings.treazure_concurrency + 1, thread_name_prefix="adjust") as threads:
        pusher = threads.submit(_push_posted, work, result, posted, over)
        workers = [threads.submit(_work, work, result, posted) for _ in range(work.settings.treazure_concurrency)]
        try:
            for worker in workers:
                worker.result()
        finally:
            over.set()
            posted.set()
        pusher.result()


def judge(work: Work, result: Processed) -> None:
    """Queue every received event that is valid, and reject the others with a reason."""
    definitions = {run.account.definition_id: run.account for run in work.runs.values()}
    refuse_long = work.settings.adjustment_long_description == "reject"
    while events := queue.received(work.ledger):
        with queue.judging(work.ledger) as verdicts:
            for event in events:
                try:
                    values = sense(event, definitions, refuse_long=refuse_long)
                except (SenselessError, RecursionError) as error:
                    queue.reject(verdicts, event, str(error))
                    result.count(rejected=1)
                else:
                    queue.accept(verdicts, event, **values)
                    result.count(queued=1, shortened=int(values["comment"] != values["description"]))


def sense(event: Received, definitions: Mapping[int, Account], *, refuse_long: bool) -> dict[str, Any]:
    """Return what an event asks for: account, contact, amount, description and comment. Raises SenselessError."""
    if event.unreadable is not None:
        raise SenselessError(event.unreadable)
    payload = event.payload
    definition = payload.get("pointDefinitionId")
    if type(definition) is not int or definition not in definitions:
        known = ", ".join(map(str, sorted(definitions))) or "none"
        raise SenselessError(
            f"pointDefinitionId ({people.value(definition)}) belongs to no programme (there are: {known})."
        )
    contact = payload.get("contactId")
    if not isinstance(contact, str) or not conventions.GUID.fullmatch(contact):
        raise SenselessError(f"contactId ({people.value(str(contact))}) must be a GUID.")
    amount = exact_amount(payload.get("amount"))
    description = payload.get("description")
    description = "" if description is None else clean(str(description))
    if refuse_long and length(description) > LONGEST_DESCRIPTION:
        raise SenselessError(
            f"description has {length(description)} characters as Treazure counts them (an emoji is two or more); it "
            f"takes {LONGEST_DESCRIPTION} at most (ADJUSTMENT_LONG_DESCRIPTION=reject)."
        )
    return {
        "account": definitions[definition],
        "contact": contact.lower(),
        "amount": amount,
        "description": description,
        "comment": cut(description, LONGEST_DESCRIPTION),
    }


def exact_amount(value: object) -> Decimal:
    """Return an amount of points from JSON exactly. Raises SenselessError if it is not a valid one."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise SenselessError(f"amount ({people.value(value)}) must be a number.")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise SenselessError(f"amount ({people.value(value)}) must be a number.") from None
    if not amount.is_finite() or abs(amount) > LARGEST_AMOUNT:
        raise SenselessError(f"amount ({people.value(value)}) must be at most {LARGEST_AMOUNT:,} in size.")
    if amount == 0:
        raise SenselessError("amount (0) changes nothing.")
    if amount != round(amount, MOST_DECIMALS):
        raise SenselessError(f"amount ({people.value(value)}) must have at most {MOST_DECIMALS} decimals.")
    return amount


def _work(work: Work, result: Processed, posted: threading.Event) -> None:
    # A call begins within one timeout of its claim, and nobody looks for its effect until the whole wait after that is over.
    timeout = work.settings.treazure_timeout_seconds
    lease = timeout + max(timeout, work.lookup_wait) + LEASE_MARGIN_SECONDS
    while result.error is None and not (work.retry.stop is not None and work.retry.stop.is_set()):
        began = now()
        claimed = queue.claim(
            work.ledger, [run.account for run in work.live], lease=lease, lookup_wait=work.lookup_wait,
            first_after=work.settings.treazure_lookup_first_after_seconds,
        )  # fmt: skip
        if claimed is None:
            return
        run = work.runs[claimed.programme]
        is_new = claimed.state == "queued" and not claimed.look_first
        with tracing.span("post adjustment" if is_new else "look up adjustment", after=claimed.trace,
                          adjustment=claimed.id, receipt=claimed.receipt, tries=claimed.tries, run_id=run.id):  # fmt: skip
            if is_new:
                _post(work, run, claimed, result, before=began + timeout)
            else:
                _look_up(work, run, claimed, result)
        posted.set()


def _post(work: Work, run: Run, adjustment: Adjustment, result: Processed, *, before: float) -> None:
    asked = adjustment.asked
    assert asked is not None
    try:
        balance = run.treazure.post_transaction(
            adjustment.contact, run.account.loyalty_id, adjustment.amount,
            receipt=adjustment.receipt, comment=adjustment.comment, before=before,
        )  # fmt: skip
    except RemoteError as error:
        _handle(work, adjustment, result, error)
        return
    if balance is None or not readings.record_account(
        run.ledger,
        run.account,
        adjustment.contact,
        balance,
        asked,
        run.id,
        lag=work.lookup_wait,
    ):
        try:
            read_account(run, adjustment.contact)
        except RemoteError:
            _posted(
                work,
                adjustment,
                result,
                balance,
                "Treazure has taken it, but its account can't be read yet",
                reread=True,
            )
            return
    answered = "no balance" if balance is None else f"the balance {phrases.points(balance)}"
    _posted(work, adjustment, result, balance, f"Treazure answered with {answered}")


def _posted(
    work: Work, adjustment: Adjustment, result: Processed, balance: Decimal | None, answer: str, *, reread: bool = False
) -> None:
    if queue.settle(work.ledger, adjustment, "posted", answer=answer, balance=balance, reread=reread,
                    wait=work.retry.wait_after(2), run_id=work.run_id):  # fmt: skip
        result.count(posted=1, points=adjustment.amount)


def _handle(work: Work, adjustment: Adjustment, result: Processed, error: RemoteError) -> None:
    became = outcome.of(error)
    if became.blames == "credentials":
        queue.settle(work.ledger, adjustment, "queued", reason=str(error), wait=work.retry.wait_after(1),
                     run_id=work.run_id)  # fmt: skip
        result.error = error
    elif became.blames == "row" or (became.blames == "path" and not _may_know(work, adjustment)):
        queue.settle(work.ledger, adjustment, "rejected", reason=error.message, answer=str(error), run_id=work.run_id)
        result.count(rejected=1)
    elif became.effect != "none":
        queue.settle(work.ledger, adjustment, "sending", reason="no usable answer; to be looked up in the history",
                     answer=str(error), wait=work.lookup_wait, run_id=work.run_id)  # fmt: skip
        result.count(waiting=1)
    else:
        wait = work.retry.wait_after(max(adjustment.tries, 1), error) if became.wait is None else became.wait
        queue.settle(work.ledger, adjustment, "queued", reason="Treazure could not take it", answer=str(error),
                     wait=wait, run_id=work.run_id)  # fmt: skip
        result.count(waiting=1)


def _may_know(work: Work, adjustment: Adjustment) -> bool:
    """Tell whether Treazure may have the account. Only Treazure itself can say that it has not."""
    try:
        run = work.runs[adjustment.programme]
        return run.treazure.knows(adjustment.contact, run.account.loyalty_id)
    except RemoteError:
        return True


def _look_up(work: Work, run: Run, adjustment: Adjustment, result: Processed) -> None:
    """Find out the outcome of a call without an answer. If it can't be decided, it is uncertain, never guessed."""
    result.count(looked_up=1)
    try:
        reading = _read(run, adjustment)
    except RemoteError as error:  # nothing was read, so no look is counted
        queue.settle(work.ledger, adjustment, "sending", reason=str(error), wait=work.lookup_wait * _WAIT_GROWS,
                     run_id=work.run_id)  # fmt: skip
        result.count(waiting=1)
        if isinstance(error, AuthenticationError):
            result.error = error
        return
    wait = max(work.lookup_wait, work.settings.treazure_timeout_seconds)
    verdict = judged(run.ledger, run.treazure.address, adjustment, reading, wait=wait)
    if verdict.outcome == "happened":
        unread = reading.account_failure is not None
        _posted(work, adjustment, result, reading.balance, verdict.reason, reread=unread)
    elif verdict.outcome == "undecided":
        _undecided(work, adjustment, result, verdict.reason)
    elif adjustment.tries > 0 and adjustment.lookups + 1 < _LOOKS:
        queue.settle(work.ledger, adjustment, "sending", reason=f"{verdict.reason}; one more look",
                     wait=work.lookup_wait, looked=True, run_id=work.run_id)  # fmt: skip
        result.count(waiting=1)
    else:
        again = "sent again" if adjustment.tries else "to be sent"
        queue.settle(work.ledger, adjustment, "queued", reason=f"{verdict.reason}: {again}", looked=True,
                     run_id=work.run_id)  # fmt: skip


def _read(run: Run, adjustment: Adjustment) -> evidence.Reading:
    """Read the history and then the account. The result includes failures.

    Raises AuthenticationError and, for an adjustment that was never called, errors that may pass: then it only waits.
    """
    asked = run.ledger.now()
    try:
        log = run.treazure.history(adjustment.contact, run.account.loyalty_id)
    except AuthenticationError:
        raise
    except RemoteError as error:
        if isinstance(error, TransientError | GatewayError) and not (adjustment.tries or adjustment.restored):
            raise
        return evidence.Reading(asked, failure=str(error))
    try:
        balance = read_account(run, adjustment.contact)
    except RemoteError as error:
        return evidence.Reading(asked, log.movements, account_failure=str(error), unreadable=log.unreadable)
    return evidence.Reading(asked, log.movements, balance, unreadable=log.unreadable)


def _undecided(work: Work, adjustment: Adjustment, result: Processed, reason: str) -> None:
    if adjustment.lookups + 1 < _UNDECIDED_LOOKS:
        queue.settle(work.ledger, adjustment, "sending", reason=reason, looked=True,
                     wait=work.lookup_wait * _WAIT_GROWS**adjustment.lookups, run_id=work.run_id)  # fmt: skip
        result.count(waiting=1)
    else:
        queue.settle(work.ledger, adjustment, "uncertain", reason=reason, looked=True, run_id=work.run_id)
        result.count(uncertain=1)


def prove_receipts(work: Work, *, every: float = _PROVE_EVERY) -> None:
    """From time to time, check in the history how the receipt of the latest posted adjustment came back."""
    wait = max(work.lookup_wait, work.settings.treazure_timeout_seconds)
    for run in work.live:
        sample = queue.to_prove(run.ledger, run.account, run.treazure.address, wait=wait, every=every)
        if sample is not None:
            contact, receipt = sample
            try:
                movements = run.treazure.history(contact, run.account.loyalty_id).movements
                balance = run.treazure.account_balance(contact, run.account.loyalty_id)
            except RemoteError as error:
                logger.warning("Whether receipts come back could not be checked. %s", error)
                continue
            returned = evidence.returned(receipt, movements)
            if returned.length or reaches(
                movements, balance
            ):  # a history that lags proves nothing about what is missing
                queue.keep_receipts(run.ledger, run.treazure.address, returned)


def _read_again(work: Work, result: Processed) -> None:
    """Read the accounts that are due to be read again, and send what they show.

    They are those of posted adjustments, and those that an export within the lag margin of an adjustment showed with
    another balance: a sale of these seconds does not wait for the next sync. While a guard trips, only the sync sends.
    """
    for run in work.live:
        try:
            contacts = reread_accounts(run)
            result.count(reread=len(contacts))
            if contacts and not tripped(plans.shift(run.ledger, run.account), run.programme.guards):
                push_contacts(run, contacts)
        except AuthenticationError as error:
            logger.warning("%s Accounts are read again later.", error)
        except PipelineError as error:
            logger.warning("%s The hourly sync sends these balances.", error)


def _push_posted(work: Work, result: Processed, posted: threading.Event, over: threading.Event) -> None:
    """Set the balances of posted adjustments in Engage, all that there are in one request, until the work is over."""
    last = False
    while not last:
        posted.wait()
        posted.clear()
        last = over.is_set()
        for run in work.live:
            contacts = queue.contacts_to_push(run.ledger, run.account, limit=_PUSH_AT_ONCE)
            if contacts:
                first, *others = dict.fromkeys(contacts.values())
                try:
                    with tracing.span("push adjusted balances", after=first, beside=others, run_id=run.id):
                        push_contacts(run, list(contacts))
                except PipelineError as error:
                    logger.warning("%s The hourly sync sends these balances.", error)
        result.count(done=queue.finish_posted(work.ledger, work.run_id))
        last = last and not posted.is_set()
