"""Decides what a verified delivery is: an adjustment to queue, a dead letter to keep, or an event that is only counted.

Engage writes its events in several ways: names in any case, `id` or `eventId`, numbers also as texts. An adjustment's payload is stored in one
form, so that the same event is recognized however it is written.
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
"""Characters of an id. Ids are unique keys, and an index only takes limited ones. Svix's have 31."""
_DEPTH = (
    64  # of nested JSON: far more than any event has, and far less than fills the stack of a parser, also PostgreSQL's
)
_DIGITS = 10_000  # of all numbers in a body, written out. Many of 1e100000 would be more than PostgreSQL gives back.
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def _folded(*names: str) -> dict[str, str]:
    return {name.casefold(): name for name in names}


_BODY = _folded("eventType", "id", "eventId", "isEncrypted", "payload")
_NUMBERS = ("amount", "pointDefinitionId")
_PAYLOAD = _folded("contactId", *_NUMBERS, "source", "description", "userId", "userName", "reason", "sourceId")


class _DeadError(Exception):
    """Why a delivery is a dead letter."""


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_EXACT = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Event:
    """A verified delivery.

    Attributes:
        delivery_id: The sender's id for the delivery, the same at each try.
        id: Identifies the event: the body's own id, or else the delivery's.
        kind: The event type; None if there is no usable one.
        payload: An adjustment's payload as JSON text, in our form; its numbers are exact.
        dead: Why it is a dead letter; None if it is not.
        body: The whole body.
        trace: The span of its arrival; None if traces are off.
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
        """Read a delivery whose signature is right. Whatever it contains, it becomes an event."""
        text = body.decode()
        kind, event_id, payload, dead = None, delivery_id, None, None
        try:
            found = _spelled(_object(text.removeprefix("\N{BOM}")), _BODY)
            kind = _kind(found.get("eventType"))
            _require_open(found.get("isEncrypted"))
            event_id = _id(found.get("id")) or _id(found.get("eventId")) or delivery_id
            payload = _payload(event_id, found.get("payload")) if kind == ADJUSTMENT else None
        except _DeadError as error:
            dead = str(error)
        return cls(delivery_id, event_id, kind, payload, dead, text)

    @property
    def other_id(self) -> str:
        """The id to use if another adjustment has the same one: the id and a digest of what is asked for."""
        asked = json.loads(self.payload or "{}", parse_float=Decimal, parse_int=Decimal)
        values = [asked.get(name) for name in ("contactId", *_NUMBERS)]
        digest = hashlib.sha256(repr([_same(value) for value in values]).encode()).hexdigest()
        return f"{self.id}#{digest[:16]}"

    def unstorable(self) -> Event:
        """Return it as a dead letter, because PostgreSQL can't store some of it, such as a huge number."""
        return replace(
            self,
            kind=None,
            payload=None,
            dead=self.dead or "The event contains something that the database can't store.",
        )


def _spelled(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return an object with these names in our spelling. If a name is there twice, the one in our spelling counts."""
    result: dict[str, Any] = {}
    for name, value in found.items():
        ours = names.get(name.casefold(), name)
        if ours not in result or name == ours:
            result[ours] = value
    return result


def _object(text: str) -> dict[str, Any]:
    """Return the body's object. Raises _DeadError if it is not an object, or one that no database could store."""
    if is_too_deep(text):
        raise _DeadError(f"It is nested more than {_DEPTH} levels deep.")
    left = _DIGITS

    def number(digits: str) -> Decimal:
        nonlocal left
        value = Decimal(digits)
        left -= max(len(digits), abs(value.adjusted()))
        if left < 0:
            raise _DeadError(f"Its numbers have more than {_DIGITS:,} digits.")
        return value

    try:
        found = json.loads(text, parse_float=number, parse_int=number, parse_constant=_refused)
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
        raise _DeadError("The payload is encrypted. Switch off end-to-end encryption for the endpoint in Engage.")


def _id(value: object) -> str | None:
    """Return an id, which may be a number; None if there is none."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value if isinstance(value, str) and value else None


def _payload(event_id: str, found: object) -> str:
    """Return an adjustment's payload as JSON text, with names in our spelling, numbers as numbers, and clean texts."""
    if not isinstance(found, dict):
        raise _DeadError("The payload is not an object.")
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
    """Return the same text for the same number, however it is written."""
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
