"""Points given in Engage, and how often Treazure booked each: proves that it happens exactly once, and in order.

A transaction is matched to its event by the receipt number, which the product derives from the event's id. Memory grows
with events and transactions, not with members.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from treazure_pipeline.sandbox.observations import Findings
from treazure_pipeline.sandbox.points import to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXAMPLES = 10


class _Context(msgspec.Struct, rename="camel"):
    receipt_nr: str | None = None


class _Body(msgspec.Struct):
    context: _Context = msgspec.field(default_factory=_Context)


@dataclass(slots=True)
class Given:
    """One event, its micro-points, and how often they were booked.

    `sent` and `acknowledged`: when it was first sent, and first answered with 2xx, in monotonic seconds; `unanswered`:
    how many of its transactions got no clean answer; `refused`: Treazure refused one, so later events may overtake it.
    """

    event_id: str
    contact: str
    definition_id: int
    units: int
    booked: int = 0
    sent: float | None = None
    acknowledged: float | None = None
    unanswered: int = 0
    refused: bool = False

    def report(self) -> dict[str, Any]:
        """As a report shows it."""
        return {
            "event_id": self.event_id,
            "contactId": self.contact,
            "definitionId": self.definition_id,
            "amount": to_text(self.units),
            "booked": self.booked,
            "unanswered": self.unanswered,
        }


class Adjustments:
    """All events that were given. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[str, Given] = {}
        self._latest: dict[str, float] = {}
        self._booked_units = 0
        self._others = Findings()
        self._altered = Findings()
        self._out_of_order = Findings()

    def give(self, event_id: str, contact: str, definition_id: int, units: int) -> None:
        """Note points that were given; the same event given again is still one event.

        A different event with the same id is booked with a receipt that only its client knows.
        """
        new = Given(event_id, contact.lower(), definition_id, units)
        with self._lock:
            first = self._given.setdefault(_receipt_of(event_id), new)
            if (first.contact, first.definition_id, first.units) != (new.contact, definition_id, units):
                new.event_id = f"{event_id}#{len(self._given)}"
                self._given[new.event_id] = new

    def sent(self, event_id: str) -> None:
        """Note that the event is on its way to the receiver."""
        with self._lock:
            given = self._given.get(_receipt_of(event_id))
            if given and given.sent is None:
                given.sent = time.monotonic()

    def acknowledged(self, event_id: str) -> None:
        """Note that the receiver has answered 2xx."""
        with self._lock:
            given = self._given.get(_receipt_of(event_id))
            if given and given.acknowledged is None:
                given.acknowledged = time.monotonic()

    def book(self, receipt: str, contact: str, points: Mapping[int, int]) -> None:
        """Note a transaction that Treazure carried out: micro-points by definition."""
        with self._lock:
            given = self._given.get(receipt) or self._under_a_name_taken(receipt, contact, points)
            booked = {
                "receiptNr": receipt,
                "contactId": contact,
                "points": {str(definition): to_text(units) for definition, units in points.items()},
            }
            if given is None:
                self._others.add(1, lambda: booked)
                return
            given.booked += 1
            self._booked_units += sum(points.values())
            if (given.contact, {given.definition_id: given.units}) != (contact, points):
                self._altered.add(1, lambda: given.report() | {"transaction": booked})
            if given.booked == 1:
                self._follow(given)

    def unanswered(self, body: bytes) -> None:
        """Note that a transaction got no clean answer, whether or not it was carried out."""
        with self._lock:
            given = self._given.get(msgspec.json.decode(body, type=_Body).context.receipt_nr or "")
            if given is not None:
                given.unanswered += 1

    def refused(self, receipt: str) -> None:
        """Note that Treazure refused a transaction. If it is sent again, its order does not matter."""
        with self._lock:
            given = self._given.get(receipt)
            if given is not None:
                given.refused = True

    def _under_a_name_taken(self, receipt: str, contact: str, points: Mapping[int, int]) -> Given | None:
        """Find an event whose id was already taken, by its contact and points; from now on the receipt is its own."""
        for name, given in self._given.items():
            if name == given.event_id and (given.contact, {given.definition_id: given.units}) == (contact, points):
                self._given[receipt] = self._given.pop(name)
                return given
        return None

    def _follow(self, given: Given) -> None:
        """Check whether an event that was sent only after this one was acknowledged is already booked."""
        latest = self._latest.get(given.contact)
        overtaken = latest is not None and given.acknowledged is not None and given.acknowledged <= latest
        if overtaken and not given.refused:
            self._out_of_order.add(1, given.report)
        if given.sent is not None:
            self._latest[given.contact] = max(given.sent, latest or given.sent)

    def problems(self) -> list[str]:
        """What must be wrong, in words."""
        with self._lock:
            seen = {
                "adjustments were booked with other points than given": self._altered.count,
                "adjustments were booked before one that arrived earlier": self._out_of_order.count,
            }
            return [f"{count} {what}" for what, count in seen.items() if count]

    def report(self, *, every: bool = False) -> dict[str, Any]:
        """How often each event was booked, as JSON-ready values; `every` lists each event by its id."""
        with self._lock:
            groups: dict[str, list[Given]] = {"never": [], "once": [], "more_than_once": []}
            for given in self._given.values():
                groups["never" if not given.booked else "once" if given.booked == 1 else "more_than_once"].append(given)
            report: dict[str, Any] = {
                "given": len(self._given),
                "acknowledged": sum(given.acknowledged is not None for given in self._given.values()),
                **{name: len(events) for name, events in groups.items()},
                "times_booked": {
                    str(times): count
                    for times, count in sorted(Counter(given.booked for given in self._given.values()).items())
                },
                "transactions": sum(given.booked for given in self._given.values()),
                "points_given": to_text(sum(given.units for given in self._given.values())),
                "points_booked": to_text(self._booked_units),
                "altered": self._altered.report(),
                "out_of_order": self._out_of_order.report(),
                "other_transactions": self._others.report(),
                "examples": {name: [given.report() for given in groups[name][:_EXAMPLES]] for name in groups},
            }
            if every:
                report["events"] = {given.event_id: given.report() for given in self._given.values()}
            return report


def _receipt_of(event_id: str) -> str:
    """Return an event's receipt number, as documented in docs/adjustments.md."""
    return "VE" + base64.b32encode(hashlib.sha256(event_id.encode()).digest()).decode()[:24]
