"""Webhooks as Engage sends them through Svix: signed, at least once, in no guaranteed order.

Each event is a message with its own id. It is sent until a 2xx answer comes in time, up to 8 times in 27.5 hours.
Threads send the messages. Times are on Engage's clock, so moving it forward brings the next try nearer.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import secrets
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import httpx
import msgspec
from standardwebhooks import Webhook

from treazure_pipeline.sandbox.points import moment_text
from treazure_pipeline.sandbox.wire import ended

if TYPE_CHECKING:
    from collections.abc import Mapping

    from treazure_pipeline.sandbox.behavior import Behavior
    from treazure_pipeline.sandbox.faults import Operation
    from treazure_pipeline.sandbox.world import World

EventType = Literal["loyalty.addPoints", "point.balance.updated"]
State = Literal["waiting", "delivered", "failed"]

WAITS = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)
"""Seconds between a try and the next one (Svix)."""
_KEPT_MESSAGES = 1000
_KEPT_SENDS = 20
_KEPT_ANSWER = 200
_SECOND = 1_000_000
_KEEP_ALIVE_SECONDS = 1.0
"""Shorter than any receiver's: if it closed a connection just as it is used again, the try would fail."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_OPERATIONS: Final[dict[EventType, Operation]] = {
    "loyalty.addPoints": "add_points_webhook",
    "point.balance.updated": "balance_webhook",
}


class UnknownMessageError(ValueError):
    """There is no message with this id."""


def sign(secret: str, svix_id: str, timestamp: int, body: bytes) -> str:
    """The `svix-signature` of a body; the secret is ``whsec_`` and base64."""
    return Webhook(secret).sign(svix_id, datetime.fromtimestamp(timestamp, UTC), body.decode())


@dataclass(slots=True)
class Message:
    """One event on its way to the receiver. Another message with the same `event_id` is the same event."""

    svix_id: str
    event_id: str
    event_type: EventType
    body: bytes
    state: State = "waiting"
    tries: int = 0
    open: int = 0
    sends: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_SENDS))

    def report(self) -> dict[str, Any]:
        """The message for the list of deliveries."""
        return {
            "svix_id": self.svix_id,
            "event_id": self.event_id,
            "event_type": self.event_type,
            "state": self.state,
            "tries": self.tries,
            "sends": list(self.sends),
            "body": self.body.decode(),
        }


@dataclass(order=True, slots=True)
class _Due:
    """Something to do at a time: send a message, or (without one) run Engage's job."""

    at: int
    number: int
    message: Message | None = field(compare=False)
    is_try: bool = field(compare=False)


class Deliveries:
    """Messages that wait to be sent, and the outcome of the others. The last 1,000 settled messages stay."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._changed = threading.Condition()
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._messages: dict[str, Message] = {}
        self._settled: dict[str, None] = {}
        self._states: Counter[State] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._workers: list[threading.Thread] = []
        self._http: httpx.Client | None = None
        self._sending = 0
        self._closed = False

    def compose(self, event_type: EventType, payload: Mapping[str, Any], event_id: str | None = None) -> Message:
        """A message that isn't sent yet. `event_id` is the body's `id`: by default a new one, empty for none."""
        encrypted = self._world.faults.take(_OPERATIONS[event_type], "encrypted") is not None
        name = secrets.token_hex(16) if event_id is None else event_id
        behavior = self._world.behavior
        if "description" in payload:
            payload = {**payload, "description": ended(str(payload["description"]), behavior.event_text)}
        if behavior.event_names == "pascal":
            payload = _in_pascal_case(payload)
        body: dict[str, Any] = {
            "eventType": _capitals(event_type) if behavior.event_type == "pascal" else event_type,
            **({"eventId" if behavior.event_names == "eventId" else "id": name} if name else {}),
            "isEncrypted": encrypted,
            "tenant": "sandbox",
            "payload": base64.b64encode(_ENCODER.encode(payload)[::-1]).decode() if encrypted else payload,
        }
        svix_id = f"msg_{secrets.token_hex(14)}"
        if behavior.event_names == "pascal":
            body = _in_pascal_case(body)
        return Message(svix_id, name or svix_id, event_type, _ENCODER.encode(body))

    def send(self, message: Message) -> None:
        """Send a message as soon as there is a free thread."""
        take, operation = self._world.faults.take, _OPERATIONS[message.event_type]
        held = take(operation, "delivery_out_of_order")
        twice = take(operation, "delivered_twice")
        after = 0.0 if held is None else 1.0 if held.seconds is None else held.seconds
        with self._changed:
            self._messages[message.svix_id] = message
            self._states["waiting"] += 1
            self._plan(message, after, is_try=True)
            if twice:
                self._plan(message, after, is_try=False)

    def settle_at(self, moment: int) -> None:
        """Run Engage's job at this time on its clock, so that its changes are announced without anybody asking."""
        with self._changed:
            self._add(_Due(moment, next(self._numbers), None, is_try=False))

    def redeliver(self, svix_id: str, times: int) -> Message:
        """Send a message again, `times` times at once; raises UnknownMessageError."""
        with self._changed:
            message = self._messages.get(svix_id)
            if message is None:
                raise UnknownMessageError(f"no message {svix_id} is stored")
            for _ in range(times):
                self._plan(message, 0, is_try=False)
            return message

    def wake(self) -> None:
        """Check the clock and the switches again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop sending."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._http:
            self._http.close()

    def report(self, limit: int, svix_id: str | None = None, event_id: str | None = None) -> dict[str, Any]:
        """Counts, and the newest messages first."""
        with self._changed:
            newest = (
                message
                for message in reversed(self._messages.values())
                if svix_id in {None, message.svix_id} and event_id in {None, message.event_id}
            )
            return {
                "messages": self._states.total(),
                **{state: self._states[state] for state in get_args(State)},
                "open": self._sending + sum(due.message is not None for due in self._due),
                "outcomes": dict(self._outcomes),
                "last": [message.report() for message in itertools.islice(newest, limit)],
            }

    # --- with `_changed` held

    def _plan(self, message: Message, seconds: float, *, is_try: bool) -> None:
        message.open += 1
        self._settled.pop(message.svix_id, None)
        at = self._world.engage_now() + int(seconds * _SECOND)
        self._add(_Due(at, next(self._numbers), message, is_try))

    def _add(self, due: _Due) -> None:
        heapq.heappush(self._due, due)
        while not self._closed and len(self._workers) < self._world.behavior.webhook_concurrency:
            worker = threading.Thread(target=self._work, name="sandbox-webhooks", daemon=True)
            self._workers.append(worker)
            worker.start()
        self._changed.notify()

    def _move(self, message: Message, state: State) -> None:
        self._states[message.state] -= 1
        message.state = state
        self._states[state] += 1

    def _next(self) -> _Due | None:
        """Wait for what is due next and return it; None when closed."""
        while not self._closed:
            wait = (self._due[0].at - self._world.engage_now()) / _SECOND if self._due else None
            if wait is not None and wait <= 0 and self._sending < self._world.behavior.webhook_concurrency:
                return heapq.heappop(self._due)
            self._changed.wait(wait if wait is None or wait > 0 else None)
        return None

    def _client(self) -> httpx.Client:
        if self._http is None:
            limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_SECONDS)
            self._http = httpx.Client(limits=limits, headers={"User-Agent": "Svix-Webhooks/sandbox"})
        return self._http

    # --- in the threads

    def _work(self) -> None:
        while True:
            with self._changed:
                due = self._next()
                if due is None:
                    return
                if due.message is not None:
                    self._sending += 1
                client = self._client()
            if due.message is None:
                self._world.settle()
            else:
                self._send(client, due.message, is_try=due.is_try)

    def _send(self, client: httpx.Client, message: Message, *, is_try: bool) -> None:
        faults, operation = self._world.faults, _OPERATIONS[message.event_type]
        behavior = self._world.behavior
        self._world.adjustments.sent(message.event_id)
        at = moment_text(self._world.engage_now())
        status, answer = _post(client, message, behavior)
        received = 200 <= status < 300
        outcome = str(status) if status else answer
        again = None
        if received:
            self._world.adjustments.acknowledged(message.event_id)
            if is_try and faults.take(operation, "webhook_answer_lost"):
                received, outcome = False, "answer lost"
            elif is_try:
                again = faults.take(operation, "delivered_again_later")
        with self._changed:
            self._sending -= 1
            self._outcomes[outcome] += 1
            message.sends.append({"at": at, "outcome": outcome, "answer": answer[:_KEPT_ANSWER]})
            message.tries += is_try
            if received:
                self._move(message, "delivered")
            elif is_try and message.tries <= len(WAITS):
                self._plan(message, WAITS[message.tries - 1] * behavior.webhook_wait_scale, is_try=True)
            elif is_try and message.state == "waiting":
                self._move(message, "failed")
            if again:
                self._plan(message, 1 if again.seconds is None else again.seconds, is_try=False)
            message.open -= 1
            if not message.open:
                self._settle(message)

    def _settle(self, message: Message) -> None:
        self._settled[message.svix_id] = None
        if len(self._settled) > _KEPT_MESSAGES:
            oldest = next(iter(self._settled))
            del self._settled[oldest], self._messages[oldest]


def _in_pascal_case(names: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name[0].upper()}{name[1:]}": value for name, value in names.items()}


def _capitals(event_type: str) -> str:
    return ".".join(f"{part[0].upper()}{part[1:]}" for part in event_type.split("."))


def _post(client: httpx.Client, message: Message, behavior: Behavior) -> tuple[int, str]:
    """Send a message once; return the answer's status and body, or 0 and what happened if there was none."""
    if behavior.webhook_url is None:
        return 0, "no receiver"
    timestamp, named = int(time.time()), behavior.event_headers
    secret = behavior.webhook_secret.get_secret_value()
    headers = {
        "Content-Type": "application/json",
        f"{named}-id": message.svix_id,
        f"{named}-timestamp": str(timestamp),
        f"{named}-signature": sign(secret, message.svix_id, timestamp, message.body),
    }
    try:
        answer = client.post(
            behavior.webhook_url, content=message.body, headers=headers, timeout=behavior.webhook_timeout
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0, type(error).__name__
    except RuntimeError:
        return 0, "closed"  # the client was, while the sandbox stops
    return answer.status_code, answer.text
