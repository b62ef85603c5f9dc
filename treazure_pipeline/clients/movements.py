"""Reads an account's points log from Treazure: first strictly and fast, and if that fails, tolerantly.

Treazure looks like ASP.NET, so its logs may contain what ASP.NET writes: years 1 and 9999 for no time, empty texts for
null, numbers for texts, half a surrogate pair. If a movement still can't be read, only that movement is lost, not the
log.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from treazure_pipeline import conventions
from treazure_pipeline.clients.wire import INFORMATIONAL, MOVING, NO_TIME, Movement, WireError, is_points, points_of
from treazure_pipeline.texts import clean

NO_TYPE = "unknown"
"""The type of a movement without one."""

_KINDS = {kind.casefold(): kind for kind in MOVING | INFORMATIONAL}
# Control characters, which msgspec leaves in texts, and points as texts, where it accepts things like "1_000".
_NOT_STRICT = re.compile(rb'\\u00[01]|\\[bf]|"(?:amount|balance)"\s*:\s*"')

_WRITTEN_OUT = 100  # digits of a number that stands for a text; 1e999999999 written out would fill the memory

# Created at import, for the reason given in `wire`.
_STRICT = msgspec.json.Decoder(list[Movement])


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A movement that can't be read: its place in the answer, from 1, the reason, and what could be read.

    `moves` is False only if its type says that it moves no points.
    """

    place: int
    reason: str
    receipt: str | None
    moves: bool

    def __str__(self) -> str:
        """Describe it without any of its values."""
        return f"movement {self.place} of the log can't be read: {self.reason}"


@dataclass(frozen=True, slots=True)
class Log:
    """An account's movements in the order of the answer, with times in UTC, and those that can't be read."""

    movements: list[Movement]
    unreadable: list[Unreadable] = field(default_factory=list)


class _OddError(Exception):
    """A movement that can't be read, at least not strictly. The text says what is wrong."""


def read_log(body: bytes) -> Log:
    """Read an account's log. A time without a zone is UTC.

    Raises WireError if the body is not a log, or if it has movements but none of them can be read.
    """
    if _NOT_STRICT.search(body) is None:
        try:
            return Log([_sound(movement) for movement in _STRICT.decode(body)])
        except (msgspec.MsgspecError, UnicodeDecodeError, _OddError):
            pass
    return _tolerantly(body)


def _sound(movement: Movement) -> Movement:
    """Return a movement with valid points, UTC times and the usual spelling of its type. Raises _OddError."""
    if not is_points(movement.amount) or (movement.balance is not None and not is_points(movement.balance)):
        raise _OddError("its amount or balance is not a number of points")
    happened = _utc(movement.date_time)
    if happened is None:
        raise _OddError("its dateTime is missing")
    expires = None if movement.expires_at is None else _utc(movement.expires_at)
    kind = _kind(movement.transaction_type)
    if happened is movement.date_time and expires is movement.expires_at and kind == movement.transaction_type:
        return movement
    return msgspec.structs.replace(movement, date_time=happened, expires_at=expires, transaction_type=kind)


def _utc(moment: datetime) -> datetime | None:
    """Return a time in UTC; None for .NET's first and last years, which mean no time."""
    if moment.year in NO_TIME:
        return None
    return moment if moment.tzinfo is UTC else conventions.in_utc(moment)


def _tolerantly(body: bytes) -> Log:
    try:
        rows = json.JSONDecoder(parse_float=_number, parse_int=_number, parse_constant=_number, strict=False).decode(
            body.decode("utf-8", "replace")
        )
    except (ValueError, RecursionError) as error:
        raise WireError(f"it is not a history ({type(error).__name__})") from None
    if not isinstance(rows, list):
        raise WireError("it is not a history (not a JSON array)")
    log = Log([])
    for place, row in enumerate(rows, start=1):
        names = {str(name).casefold(): value for name, value in row.items()} if isinstance(row, dict) else {}
        kind = _kind(names.get("transactiontype"))
        try:
            log.movements.append(_sound(_movement(names, kind)))
        except _OddError as error:
            receipt = _text(names.get("receiptnr"))
            log.unreadable.append(Unreadable(place, str(error), receipt, kind not in INFORMATIONAL))
    if not log.movements and any(one.moves for one in log.unreadable):
        raise WireError(f"it is not a history that can be read ({log.unreadable[0]})")
    return log


def _movement(names: dict[str, Any], kind: str) -> Movement:
    if not names:
        raise _OddError("it is not an object, or is empty")
    happened = _moment(names.get("datetime"), "dateTime")
    if happened is None:
        raise _OddError("its dateTime is missing")
    amount = _points(names.get("amount"), "amount")
    if amount is None and (kind in MOVING or kind == NO_TYPE):
        raise _OddError("its amount is missing")
    return Movement(
        date_time=happened,
        amount=Decimal(0) if amount is None else amount,
        transaction_type=kind,
        balance=_points(names.get("balance"), "balance"),
        receipt_nr=_text(names.get("receiptnr")),
        comment=_text(names.get("comment")),
        expires_at=_moment(names.get("expiresat"), "expiresAt"),
        operator_id=_text(names.get("operatorid")),
        shop_id=_text(names.get("shopid")),
        pos_id=_text(names.get("posid")),
        properties=_plain(names.get("properties")),
    )


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


def _points(value: object, name: str) -> Decimal | None:
    """Return the exact points of a number or its text; None for null and empty text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    points = points_of(str(value)) if isinstance(value, str | Decimal) else None
    if points is None:
        raise _OddError(f"its {name} is not a number of points")
    return points


def _moment(value: object, name: str) -> datetime | None:
    """Return a time in UTC; None for null, empty text, and .NET's first and last years."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise _OddError(f"its {name} is not a time")
    try:
        return _utc(msgspec.convert(value.strip(), datetime))
    except msgspec.ValidationError:
        pass
    try:
        return _utc(datetime.fromisoformat(value.strip()))
    except ValueError:
        raise _OddError(f"its {name} is not a time") from None


def _kind(value: object) -> str:
    kind = (_text(value) or "").strip()
    return _KINDS.get(kind.casefold(), kind) or NO_TYPE


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value and clean(value)
    if isinstance(value, Decimal):
        return f"{value:f}" if abs(value.adjusted()) < _WRITTEN_OUT else str(value)
    return clean(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Return decoded JSON with clean texts and ordinary numbers; a number too large for a float becomes text."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Decimal):
        if value.as_tuple().exponent == 0:
            return int(value)
        return float(value) if math.isfinite(float(value)) else str(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): _plain(one) for name, one in value.items()}
    return value
