"""What a verified delivery is: an adjustment to queue, a dead letter to keep, or something only to count."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Self

import msgspec

from treazure_pipeline.receiver.limits import LIMITS

ADJUSTMENT = "loyalty.addPoints"

_LONG_NUMBER = re.compile(rf"[0-9]{{{LIMITS.digits + 1}}}")
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


class _Body(msgspec.Struct, rename="camel"):
    event_type: Any = None
    id: Any = None
    is_encrypted: Any = None
    payload: msgspec.Raw = msgspec.Raw()


class _Essentials(msgspec.Struct, rename="camel"):
    contact_id: Any = None
    amount: Any = None
    point_definition_id: Any = None


_DECODER = msgspec.json.Decoder(_Body)
_ESSENTIALS = msgspec.json.Decoder(_Essentials, float_hook=Decimal)


@dataclass(frozen=True)
class Event:
    """A verified delivery.

    Attributes:
        delivery_id: The sender's, the same at each try.
        id: What makes two deliveries the same event: the body's own id, else the delivery's.
        kind: The event type, where there is one.
        payload: The JSON text of an adjustment's payload as it came (no number of it has been through a float).
        dead: Why it is to be kept as a dead letter.
        body: All of it.
    """

    delivery_id: str
    id: str
    kind: str | None
    payload: str | None
    dead: str | None
    body: str

    @classmethod
    def read(cls, delivery_id: str, body: bytes) -> Self:
        """Read a delivery whose signature is right; whatever it holds, this finds a place for it."""
        text = body.decode()
        if is_too_deep(text):
            return cls(
                delivery_id, delivery_id, None, None, f"It is nested more than {LIMITS.depth} levels deep.", text
            )
        if _LONG_NUMBER.search(text):
            reason = f"It holds a number of more than {LIMITS.digits:,} digits."
            return cls(delivery_id, delivery_id, None, None, reason, text)
        try:
            found = _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return cls(delivery_id, delivery_id, None, None, f"The body is not a JSON object: {error}.", text)
        kind = found.event_type
        event_id = found.id if isinstance(found.id, str) and found.id else delivery_id
        payload = bytes(found.payload).decode()
        dead = None
        if not isinstance(kind, str) or not 0 < len(kind) <= LIMITS.event_id:
            kind, dead = None, "The event has no usable eventType."
        elif found.is_encrypted is True:
            dead = "The payload is encrypted: end-to-end encryption has to be switched off at the endpoint in Engage."
        elif kind == ADJUSTMENT and not payload.startswith("{"):
            dead = "The payload is no object."
        elif kind == ADJUSTMENT and len(event_id) > LIMITS.event_id:
            dead = f"The event's id has more than {LIMITS.event_id} characters."
        queued = kind == ADJUSTMENT and dead is None
        return cls(delivery_id, event_id, kind, payload if queued else None, dead, text)

    @property
    def other_id(self) -> str:
        """What names an adjustment whose id has been used for another one: the id and what is asked for."""
        asked = _ESSENTIALS.decode(self.payload or "{}")
        values = (asked.contact_id, asked.amount, asked.point_definition_id)
        digest = hashlib.sha256(repr([_same(value) for value in values]).encode()).hexdigest()
        return f"{self.id}#{digest[:16]}"

    def unstorable(self) -> Event:
        """The same as a dead letter, since PostgreSQL can't hold a part of it (NUL, or a number beyond all bounds)."""
        return replace(self, kind=None, payload=None, dead=self.dead or "The event holds what no database can keep.")


def _same(value: object) -> str:
    """Return the same text for the same contact in any case, and for the same number however it is written."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(Decimal(value).normalize())
    return str(value).lower()


def is_too_deep(text: str) -> bool:
    """Tell whether a JSON text nests objects and lists deeper than any event does."""
    if text.count("[") + text.count("{") <= LIMITS.depth:
        return False
    depth = 0
    for found in _STRINGS_AND_BRACKETS.finditer(text):
        mark = found[0]
        depth += (mark in {"[", "{"}) - (mark in {"]", "}"})
        if depth > LIMITS.depth:
            return True
    return False
