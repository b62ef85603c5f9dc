"""What a verified delivery is: an adjustment to queue, a dead letter to keep, or something only to count.

Engage spells its events in several ways: names in any case, `id` or `eventId`, numbers also as texts.
An adjustment's payload is stored in one spelling, so that the same event is the same whichever way it comes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Self

import msgspec

from treazure_pipeline.clients import wire
from treazure_pipeline.texts import clean, clean_all

ADJUSTMENT = "loyalty.addPoints"

LONGEST_ID = 255
"""Characters of an id; ids are unique keys, and no index takes endless ones. Svix's have 31."""
_DEPTH = 64  # of nested JSON: far beyond any event's, far below what a parser, PostgreSQL's too, has a stack for
_DIGITS = 10_000  # of a number in JSON
_LONG_NUMBER = re.compile(rf"[0-9]{{{_DIGITS + 1}}}")
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def _folded(*names: str) -> dict[str, str]:
    return {name.casefold(): name for name in names}


_BODY = _folded("eventType", "id", "eventId", "isEncrypted", "payload")
_NUMBERS = ("amount", "pointDefinitionId")
_PAYLOAD = _folded("contactId", *_NUMBERS, "source", "description", "userId", "userName", "reason", "sourceId")


class _DeadError(Exception):
    """Why a delivery is a dead letter."""


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_JSON = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal, parse_constant=_refused)
_EXACT = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Event:
    """A verified delivery.

    Attributes:
        delivery_id: The sender's, the same at each try.
        id: What makes two deliveries the same event: the body's own id, else the delivery's.
        kind: The event type, where there is one.
        payload: An adjustment's payload as JSON text, in our spelling (no number of it has been through a float).
        dead: Why it is to be kept as a dead letter.
        body: All of it.
        trace: The span of its arrival; None where traces are off.
    """

    delivery_id: str
    id: str
    kind: str | None
    payload: str | None
    dead: str | None
    body: str
    trace: str | None = None

    @classmethod
    def read(cls, delivery_id: str, body: bytes) -> Self:
        """Read a delivery whose signature is right; whatever it holds, this finds a place for it."""
        text = body.decode()
        kind, event_id, payload, dead = None, delivery_id, None, None
        try:
            found = _spelled(_object(text), _BODY)
            kind = _kind(found.get("eventType"))
            _require_open(found.get("isEncrypted"))
            event_id = _id(found.get("id")) or _id(found.get("eventId")) or delivery_id
            payload = _payload(event_id, found.get("payload")) if kind == ADJUSTMENT else None
        except _DeadError as error:
            dead = str(error)
        return cls(delivery_id, event_id, kind, payload, dead, text)

    @property
    def other_id(self) -> str:
        """What names an adjustment whose id has been used for another one: the id and what is asked for."""
        asked = json.loads(self.payload or "{}", parse_float=Decimal, parse_int=Decimal)
        values = [asked.get(name) for name in ("contactId", *_NUMBERS)]
        digest = hashlib.sha256(repr([_same(value) for value in values]).encode()).hexdigest()
        return f"{self.id}#{digest[:16]}"

    def unstorable(self) -> Event:
        """The same as a dead letter, since PostgreSQL can't hold a part of it (a number beyond all bounds)."""
        return replace(self, kind=None, payload=None, dead=self.dead or "The event holds what no database can keep.")


def _spelled(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return an object with these names in our spelling; where one stands there twice, the one in ours counts."""
    result: dict[str, Any] = {}
    for name, value in found.items():
        ours = names.get(name.casefold(), name)
        if ours not in result or name == ours:
            result[ours] = value
    return result


def _object(text: str) -> dict[str, Any]:
    """Return the body's object. Raises _DeadError where it is none, or one that no database could hold."""
    if is_too_deep(text):
        raise _DeadError(f"It is nested more than {_DEPTH} levels deep.")
    if _LONG_NUMBER.search(text):
        raise _DeadError(f"It holds a number of more than {_DIGITS:,} digits.")
    try:
        found = _JSON.decode(text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise _DeadError(f"The body is not a JSON object: {type(error).__name__}.") from None
    if not isinstance(found, dict):
        raise _DeadError("The body is not a JSON object.")
    return found


def _kind(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID or clean(value) != value:
        raise _DeadError("The event has no usable eventType.")
    return ADJUSTMENT if value.casefold() == ADJUSTMENT.casefold() else value


def _require_open(encrypted: object) -> None:
    if str(encrypted).casefold() == "true":
        raise _DeadError("The payload is encrypted: switch end-to-end encryption off at the endpoint in Engage.")


def _id(value: object) -> str | None:
    """Return an id, which may be a number; None where there is none."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value if isinstance(value, str) and value else None


def _payload(event_id: str, found: object) -> str:
    """Return an adjustment's payload as JSON text: names in our spelling, numbers as numbers, clean texts."""
    if not isinstance(found, dict):
        raise _DeadError("The payload is no object.")
    if len(event_id) > LONGEST_ID or clean(event_id) != event_id:
        raise _DeadError(f"The event's id has more than {LONGEST_ID} characters, or some that an id can't have.")
    payload = _spelled(clean_all(found), _PAYLOAD)
    for name in _NUMBERS:
        points = wire.points_of(str(payload.get(name))) if isinstance(payload.get(name), str | Decimal) else None
        if points is not None:
            payload[name] = int(points) if points == points.to_integral_value() else points
    contact = payload.get("contactId")
    return _EXACT.encode(
        payload | ({"contactId": contact.strip().lower()} if isinstance(contact, str) else {})
    ).decode()


def _same(value: object) -> str:
    """Return the same text for the same number however it is written."""
    return str(value.normalize()) if isinstance(value, Decimal) else str(value)


def is_too_deep(text: str) -> bool:
    """Tell whether a JSON text nests objects and lists deeper than any event does."""
    if text.count("[") + text.count("{") <= _DEPTH:
        return False
    depth = 0
    for found in _STRINGS_AND_BRACKETS.finditer(text):
        mark = found[0]
        depth += (mark in {"[", "{"}) - (mark in {"]", "}"})
        if depth > _DEPTH:
            return True
    return False
