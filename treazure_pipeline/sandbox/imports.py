"""Engage's import of points from a file: what it refuses, what it adds, which contacts it creates.

Values can't be quoted: a file with a quote, an apostrophe, or a semicolon inside a value is broken. A file that breaks
a rule about files is refused as a whole; a row that breaks a rule about rows is refused alone. Points are added:
importing the same file twice doubles them.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from treazure_pipeline.sandbox.follower import Added
from treazure_pipeline.sandbox.points import DIGITS, AmountError, moment_text, to_micros, to_text, to_units
from treazure_pipeline.sandbox.world import World, WrongRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = (
    "Key;KeyType;PointDefinitionId;Amount;TransactionType;TransactionDate;CreatedOn;ValidTo;CreatedBy;Description;"
    "Source;ExpireAfterMonthsInactive"
)
EXAMPLE = f"""{HEADER}
00000000-0000-0000-0000-000000000001;ContactId;1;100.5;Purchase;2023-01-01T08:14:00.829Z;;;;Test description;;
"""
MOST_ROWS = 20_000
RESERVED = "\"'"
"""Besides the semicolon, which shows up as an extra field."""
MANDATORY = ("Key", "KeyType", "PointDefinitionId", "Amount", "TransactionType", "TransactionDate")
TYPES = frozenset({"purchase", "return", "adjustment", "rewardvoucher"})
KEY_TYPES = {"contactid": "ContactId", "membernumber": "MemberNumber", "externalid": "ExternalId"}
MOST_ERRORS = 1000
"""The most errors that an answer lists; all are counted."""
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"


class RefusedFileError(ValueError):
    """The file as a whole breaks a rule; nothing of it was imported."""


class _RowError(ValueError):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class _Row:
    definition: int
    units: int
    stamp: int
    expires: int
    source: str
    description: str


def import_points(world: World, body: bytes) -> dict[str, Any]:
    """Import one file and return what happened to its rows; raises RefusedFileError."""
    rows = _rows(body)
    if len(rows) > MOST_ROWS:
        raise RefusedFileError(f"The file has {len(rows)} rows, at most {MOST_ROWS} are allowed")
    key_type = _key_type(rows)
    errors: list[dict[str, Any]] = []
    total, created, expired, imported = Decimal(0), 0, 0, 0
    members: dict[str, int] = {}
    with world.lock:
        world.settle()
        for number, row in enumerate(rows, start=2):
            try:
                read = _read(world, row)
                if row["Key"] not in members:
                    members[row["Key"]], new = _member(world, key_type, row["Key"])
                    created += new
            except _RowError as error:
                errors.append(
                    {"row": number, "field": error.name, "value": row.get(error.name, ""), "message": str(error)}
                )
                continue
            imported += 1
            total += Decimal(to_text(read.units))
            expired += _add(world, members[row["Key"]], read)
    return {
        "rows": len(rows),
        "imported": imported,
        "refused": len(errors),
        "key_type": key_type,
        "amount": str(total),
        "expired_rows": expired,
        "contacts_created": created,
        "errors": errors[:MOST_ERRORS],
    }


def _rows(body: bytes) -> list[dict[str, str]]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RefusedFileError(f"The file is not UTF-8: {error}") from None
    first = text.partition("\n")[0].rstrip("\r")
    if first != HEADER:
        hint = "" if ";" in first else ", it is not separated by semicolons"
        raise RefusedFileError(f"The header is {first[:200]!r}{hint}; it should be {HEADER}")
    return list(_dictionaries(text.removesuffix("\n").split("\n")[1:]))


def _dictionaries(lines: list[str]) -> Iterator[dict[str, str]]:
    names = HEADER.split(";")
    for number, line in enumerate(lines, start=2):
        if found := next((sign for sign in RESERVED if sign in line), None):
            raise RefusedFileError(f"Line {number} holds the reserved character {found}")
        values = line.removesuffix("\r").split(";")
        if len(values) != len(names):
            raise RefusedFileError(f"Line {number} has {len(values)} fields instead of {len(names)}")
        yield dict(zip(names, values, strict=True))


def _key_type(rows: list[dict[str, str]]) -> str:
    """Return the first row's key type, which counts for all rows."""
    first = next((row["KeyType"] for row in rows if row.get("KeyType")), "")
    if rows and first.lower() not in KEY_TYPES:
        raise RefusedFileError(f"The first KeyType is {first!r}; it should be one of {', '.join(KEY_TYPES.values())}")
    return KEY_TYPES.get(first.lower(), "")


def _read(world: World, row: dict[str, str]) -> _Row:
    for name in MANDATORY:
        if not row[name].strip():
            raise _RowError(name, f"{name} is missing")
    if row["TransactionType"].lower() not in TYPES:
        raise _RowError("TransactionType", "TransactionType should be Purchase, Return, Adjustment or RewardVoucher")
    if not row["PointDefinitionId"].isdecimal() or int(row["PointDefinitionId"]) not in world.followers:
        raise _RowError("PointDefinitionId", "There is no such point definition")
    if row["ValidTo"] and row["ExpireAfterMonthsInactive"]:
        raise _RowError("ValidTo", "Only one of ValidTo and ExpireAfterMonthsInactive may be set")
    return _Row(
        int(row["PointDefinitionId"]),
        _units(row["Amount"]),
        _moment(row, "TransactionDate"),
        _moment(row, "ValidTo") if row["ValidTo"] else 0,
        row["Source"],
        row["Description"],
    )


def _units(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _RowError("Amount", "Amount is no number")
    if len(text.partition(".")[2].rstrip("0")) > DIGITS:
        raise _RowError("Amount", f"Amount has more than {DIGITS} decimals")
    try:
        return to_units(text)
    except AmountError as error:
        raise _RowError("Amount", str(error)) from None


def _moment(row: dict[str, str], name: str) -> int:
    try:
        return to_micros(datetime.strptime(row[name], _MOMENT).replace(tzinfo=UTC))
    except ValueError:
        raise _RowError(name, f"{name} should be a time in UTC such as 2023-01-01T08:14:00.829Z") from None


def _member(world: World, key_type: str, key: str) -> tuple[int, bool]:
    """Return the contact's index, and whether Engage created the contact for this row."""
    if key_type == "ContactId":
        index = int(world.members.find([key])[0])
        if index < 0 or not world.known[index]:
            raise _RowError("Key", "There is no such contact")
        return index, False
    found = world.keyed(key_type, key)
    if found is None:
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key_type} {key}"))
        index = int(world.join([name])[0])
        world.created[key_type, key] = index
        return index, True
    new = not world.known[found]
    world.known[found] = True
    return found, new


def _add(world: World, member: int, row: _Row) -> bool:
    """Add the points unless they have already expired; return whether they have."""
    follower = world.follower(row.definition)
    valid_to = moment_text(row.expires) if row.expires else None
    follower.added.setdefault(member, []).append(
        Added(row.units, row.stamp, row.source, row.description, None, valid_to)
    )
    expired = 0 < row.expires <= world.engage_now()
    follower.add(member, 0 if expired else row.units, row.stamp, row.expires, world.behavior)
    return expired


def keys(world: World, key_type: str, offset: int, limit: int) -> dict[str, str]:
    """The keys of a page of members by contact id; raises WrongRequestError."""
    if key_type not in {"MemberNumber", "ExternalId"}:
        msg = f"no key type {key_type}"
        raise WrongRequestError(msg)
    with world.lock:
        some = range(offset, max(offset, min(offset + limit, len(world.members))))
        return {world.members.text(index): world.key(key_type, index) for index in some}
