"""Alerts: what is wrong, told once when it begins and once when it is over.

They are level-triggered like the sync: each evaluation finds everything that is wrong now, the ledger remembers what each target was told, and
the difference is sent. So nothing is told twice, and what could not be sent is sent later.

The addresses of targets are secrets, and are only used to reach the target.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
from pydantic import SecretStr

from treazure_pipeline.alerts import state
from treazure_pipeline.alerts.state import Health, Message, Queue
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.settings import Programme
from treazure_pipeline.verification.rounds import Standing

logger = logging.getLogger(__name__)

STALE_AFTER = timedelta(hours=3)
# Engage gives up on a delivery, and on the order of events, after 27.5 hours.
QUEUE_LATE_AFTER = timedelta(hours=1)
RECEIVER_SILENT_AFTER = timedelta(hours=24)
REJECTIONS_LIMIT = 100
REJECTIONS_SHARE = 1000
PING_SECONDS = 60.0
_PING_TIMEOUT = 5.0
# An evaluation has a minute. What is not sent by then waits for the next one.
_SENDING_SECONDS = 20.0
_MOST_REASONS = 5
# They log addresses, or paths that contain a token.
_TALKATIVE = ("apprise", "urllib3", "requests", "httpx", "httpcore")


@dataclass(frozen=True)
class Alert:
    """Something that is wrong now: what happened, with figures, and what to do next. Its `key` never changes."""

    key: str
    title: str
    body: str


@dataclass(frozen=True)
class Told:
    """How many messages were sent, and how many still have to be."""

    sent: int
    unsent: int


def of_programme(programme: Programme, health: Health, standing: Standing, ui: str) -> Iterator[Alert]:
    """Find what is wrong with a programme; `ui` is the address of its assets in Dagster."""
    name = programme.name
    if health.covered_until is not None and health.now - health.covered_until > STALE_AFTER:
        yield Alert(
            f"{name}:stale_data",
            f"{name}: balances are stale",
            f"Changes in Treazure after {_utc(health.covered_until)} have not been fetched.\n"
            "Do: `treazure-pipeline doctor` says whether the daemon runs and Treazure answers. The next run makes up "
            f"for everything that was missed; to do it now: `treazure-pipeline run balance-sync`.\n{ui}/treazure_balance_snapshot",
        )
    if health.plan is not None:
        reasons = health.plan_reasons or []
        shown = "; ".join(reasons[:_MOST_REASONS])
        yield Alert(
            f"{name}:guard_tripped",
            f"{name}: changes wait for approval",
            f"A guard has tripped: {shown}. What it holds back stays pending.\n"
            f"Do: look at it with `treazure-pipeline plan`. If it is right: `treazure-pipeline approve {health.plan}`. "
            f"If it is wrong, correct it in Treazure; the next run checks again.\n{ui}/engage_balance_push",
        )
    limit = max(REJECTIONS_LIMIT, health.known // REJECTIONS_SHARE)
    if health.rejected + health.refused > limit:
        yield Alert(
            f"{name}:rejections",
            f"{name}: more than {limit:,} rows are rejected",
            f"{health.rejected:,} rows of exports can't be understood, {health.refused:,} balances are refused by "
            f"Engage, the oldest since {_utc(health.rejected_since)}. All others go on.\n"
            f"Do: `treazure-pipeline rejections list` shows the reasons.\n{ui}/engage_balance_push",
        )
    if standing.drift:
        yield Alert(
            f"{name}:drift",
            f"{name}: Engage does not hold what it accepted",
            f"Contacts that differ: {standing.drift:,}, the oldest since {_utc(standing.oldest)}. Sent again "
            f"without effect: {standing.will_not_heal:,}.\n"
            "Do: nothing at first, the next push sends them again. If that did not help: `treazure-pipeline explain "
            f"CONTACT`, and ask Voyado with the transaction id.\n{ui}/engage_balance_verification",
        )


def of_queue(queue: Queue, ui: str) -> Iterator[Alert]:
    """Find what is wrong with the adjustments; `ui` is the address of their asset in Dagster."""
    if queue.uncertain:
        yield Alert(
            "adjustments:uncertain",
            "Adjustments are uncertain",
            f"Adjustments of which nobody knows whether Treazure has them: {queue.uncertain:,}, the oldest since "
            f"{_utc(queue.uncertain_since)}. Later ones of their contacts wait.\n"
            "Do: `treazure-pipeline adjustments list --state uncertain`; look for the receipt number in the account's "
            f"history in Treazure, then `adjustments retry`, or `adjustments discard --posted`.\n{ui}",
        )
    if queue.waiting_since is not None and queue.now - queue.waiting_since > QUEUE_LATE_AFTER:
        yield Alert(
            "adjustments:stand_still",
            "Adjustments wait for more than an hour",
            f"On their way to Treazure: {queue.waiting:,}, the oldest since {_utc(queue.waiting_since)}.\n"
            "Do: `treazure-pipeline doctor` says whether Treazure answers and the daemon runs; `treazure-pipeline "
            f"adjustments list` says why they wait.\n{ui}",
        )
    if queue.last_delivery is not None and queue.now - queue.last_delivery > RECEIVER_SILENT_AFTER:
        yield Alert(
            "adjustments:receiver_silent",
            "Engage has delivered nothing for a day",
            f"The last webhook that proved to be Engage's came at {_utc(queue.last_delivery)}. Engage gives up on a "
            "delivery after 27.5 hours, and on the endpoint after 5 days.\n"
            "Do: see whether the receiver is up and can be reached from outside, whether ENGAGE_WEBHOOK_SECRET is "
            f"still the endpoint's, and whether Engage has disabled the endpoint.\n{ui}",
        )


def tell(ledger: Ledger, firing: Sequence[Alert], urls: Sequence[SecretStr]) -> Told:
    """Record what is wrong now, and tell every target what it has not been told. Never raises if a target fails.

    The caller is the only one that evaluates (`state.evaluating`). If the process is killed after a target took a message and before that is
    recorded, the message is sent again.
    """
    _silence()
    state.record(ledger, [(alert.key, alert.title, alert.body) for alert in firing])
    until = time.monotonic() + _SENDING_SECONDS
    sent = unsent = 0
    for number, url in enumerate(urls, start=1):
        target = hashlib.sha256(url.get_secret_value().encode()).hexdigest()[:16]
        messages = state.untold(ledger, target)
        taken = 0
        for message in messages:
            if time.monotonic() > until:
                break
            if not _send(url, message):
                logger.warning(
                    "target %d of TREAZURE_PIPELINE_ALERT_URLS did not accept an alert; it will be tried again", number
                )
                state.not_told(ledger, target, message)
                break
            state.told(ledger, target, message)
            taken += 1
        sent += taken
        unsent += len(messages) - taken
    return Told(sent, unsent)


def misunderstood(urls: Sequence[SecretStr]) -> list[int]:
    """Return the numbers (from 1) of addresses that apprise can't send to. Nothing is sent."""
    import apprise  # noqa: PLC0415 - every run would import it, and few processes tell anything

    _silence()
    return [number for number, url in enumerate(urls, start=1) if not apprise.Apprise().add(url.get_secret_value())]


def is_fresh(healths: Sequence[Health]) -> bool:
    """Return whether every programme was fetched recently, which the dead man's switch reports, besides a living daemon."""
    return all(
        health.covered_until is not None and health.now - health.covered_until <= STALE_AFTER for health in healths
    )


def ping(url: SecretStr) -> bool:
    """Tell the dead man's switch that all is well; return whether that worked. Never raises."""
    _silence()
    try:
        heard = httpx.get(url.get_secret_value(), timeout=_PING_TIMEOUT, follow_redirects=True).is_success
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError):  # the latter of proxies, certificates
        heard = False
    if not heard:
        logger.warning("DEAD_MAN_URL did not answer a ping; it will be pinged again")
    return heard


def _send(url: SecretStr, message: Message) -> bool:
    import apprise  # noqa: PLC0415 - see above

    target = apprise.Apprise()
    try:
        return target.add(url.get_secret_value()) and bool(
            target.notify(
                title=message.title if message.firing else f"Over: {message.title}",
                body=_body(message),
                notify_type=apprise.NotifyType.FAILURE if message.firing else apprise.NotifyType.SUCCESS,
                body_format=apprise.NotifyFormat.TEXT,
            )
        )
    except Exception as error:  # noqa: BLE001 - a target's own code; its errors may hold its address
        logger.warning("an alert could not be sent (%s)", type(error).__name__)
        return False


def _body(message: Message) -> str:
    if message.firing:
        return f"Since {_utc(message.began)}. {message.body}"
    assert message.ended is not None
    return f"It lasted from {_utc(message.began)} to {_utc(message.ended)}. It began with:\n{message.body}"


def _utc(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _silence() -> None:
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
