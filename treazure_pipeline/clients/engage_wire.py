"""Every name and shape of Engage's API in one place, so that one edit here corrects a wrong assumption.

Sources: developer.voyado.com and the vendor's SDK. What is **assumed** is marked. No other module may contain a path or
a field name of it. Those of Treazure are in `wire`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from treazure_pipeline import people
from treazure_pipeline.clients.wire import EXACT, PointsError, WireError, is_points, json_of, time_text

UNKNOWN_CONTACT = "Engage does not know this contact"
"""Our reason for a contact in `missingContactIds`."""
LARGEST_PAGE = 100
_TOKEN = re.compile(r"[^\s<>{}\[\]\"]{1,200}")
_IDS = ("transactionid", "batchid", "id")
_LISTS = ("notaccepted", "errormessages", "missingcontactids", "missingdefinitionids")
_COMPLAINTS = frozenset({"message", "error", "errors", "title", "detail", "exceptionmessage"})
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class BalancesAnswer:
    """Engage's answer to a request that sets balances.

    Rows that are not in `refused` (contact in lower case → reason) are in Engage's queue. `transaction_id` is None if
    the answer names none; then only reading back proves that they were applied.
    """

    transaction_id: str | None
    refused: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AddedPoints:
    """Points to add to a contact's account. Times are ISO 8601 texts."""

    contact_id: str
    amount: Decimal
    time_stamp: str
    source: str
    description: str
    valid_to: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedPoints:
    """A row that Engage did not add. `amount` is None if the answer names only the contact."""

    contact_id: str
    amount: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Definition:
    """A point definition of Engage."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class PointAccount:
    """A contact's account in one point definition. `contact_id` is in lower case."""

    id: str
    contact_id: str
    definition_id: int
    balance: Decimal


class _Definition(msgspec.Struct):
    id: int
    name: str = ""


class _PointAccount(msgspec.Struct, rename="camel"):
    id: str | int
    contact_id: str
    definition_id: int
    balance: Decimal


class _Page(msgspec.Struct, rename="camel"):
    items: list[_PointAccount]
    total_count: int | None = None


class _SentRow(msgspec.Struct, rename="camel"):
    contact_id: str
    definition_id: int


# Created at import, for the reason given in `wire`.
_DEFINITIONS = msgspec.json.Decoder(list[_Definition], strict=False)
_PAGE = msgspec.json.Decoder(_Page, strict=False)
_SENT = msgspec.json.Decoder(list[_SentRow])


def balances_path(version: str) -> str:
    """Return the path for setting balances."""
    return f"/api/{version}/point-accounts/balances"


def added_points_path(version: str) -> str:
    """Return the path for adding points."""
    return f"/api/{version}/point-accounts/transactions"


def definitions_path(version: str) -> str:
    """Return the path of the point definitions."""
    return f"/api/{version}/point-accounts/definitions"


def point_accounts_path(version: str) -> str:
    """Return the path of point accounts, to be asked with a `contactId`."""
    return f"/api/{version}/point-accounts"


def contact_count_path(version: str) -> str:
    """Return the path of the number of contacts."""
    return f"/api/{version}/contacts/count"


def encode_balances(contacts: Sequence[str], amounts: Sequence[str], definition_id: int, time_stamp: datetime) -> bytes:
    """Return the body that sets balances as they are at `time_stamp` (aware; microseconds are kept).

    `contacts` are GUIDs, and `amounts` as many exact decimal texts. Both are written as they are.
    """
    tail = f',"definitionId":{definition_id},"timeStamp":"{time_text(time_stamp)}"}}'
    rows = [
        '{"contactId":"' + contact + '","amount":' + amount for contact, amount in zip(contacts, amounts, strict=True)
    ]
    return f"[{f'{tail},'.join(rows)}{tail if rows else ''}]".encode()


def read_balances_answer(body: bytes, sent: bytes, request_id: str | None) -> BalancesAnswer:
    """Read Engage's answer to `sent`. Raises WireError unless it says clearly what happened to every row.

    `_taken` decides whether it was accepted. Refused rows are listed as in the answer of the similar endpoint for
    transactions (**assumed**). It is also an error if a refusal fits no row that was sent, or if there are error
    messages but no refused rows, since it is then unknown which rows were taken. A missing definition refuses all rows
    that have it.
    """
    answer, identifier = _taken(body)
    rows, messages, contacts, definitions = (_list(answer, name) for name in _LISTS)
    refused = _refusals(rows, [str(message) for message in messages], contacts, definitions, sent)
    if messages and not refused:
        raise WireError("it reports errors without naming the rows")
    return BalancesAnswer(identifier, refused, request_id)


def encode_added_points(rows: Sequence[AddedPoints], definition_id: int) -> bytes:
    """Return the body that adds points, in the order given."""
    return EXACT.encode(
        [
            {
                "contactId": row.contact_id,
                "amount": row.amount,
                "definitionId": definition_id,
                "timeStamp": row.time_stamp,
                "source": row.source,
                "description": row.description,
                "validFrom": None,
                "validTo": row.valid_to,
            }
            for row in rows
        ]
    )


def read_added_answer(body: bytes) -> list[RefusedPoints]:
    """Return the rows that Engage did not add; it has added all others. Raises WireError if the answer is unclear."""
    answer, _ = _taken(body)
    rows, messages, contacts, definitions = (_list(answer, name) for name in _LISTS)
    missing = {_contact(contact) for contact in contacts}
    refused = []
    for place, row in enumerate(rows):
        contact = _contact(_field(row, "contactid"))
        reason = _said(messages[place : place + 1] if len(messages) == len(rows) else messages)
        if contact in missing:
            reason = UNKNOWN_CONTACT
        amount = _field(row, "amount") if isinstance(row, dict) else None
        reason = reason or "Engage gave no reason"
        refused.append(RefusedPoints(contact, None if amount is None else str(amount), reason))
    named = {row.contact_id for row in refused}
    refused += [RefusedPoints(contact, None, UNKNOWN_CONTACT) for contact in sorted(missing - named)]
    if not refused and (messages or definitions):
        raise WireError("it reports errors without naming the rows")
    return refused


def read_contact_count(body: bytes) -> int:
    """Read the number of contacts."""
    count = json_of(body)
    if not isinstance(count, int) or isinstance(count, bool):
        raise WireError("it is not a number of contacts")
    return count


def read_definitions(body: bytes) -> list[Definition]:
    """Read one page of point definitions."""
    try:
        page = _DEFINITIONS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is not a list of point definitions ({error})") from None
    return [Definition(one.id, one.name) for one in page]


def read_point_accounts(body: bytes) -> tuple[list[PointAccount], int | None]:
    """Read one page of a contact's point accounts, and how many there are in all (None if it does not say)."""
    try:
        page = _PAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is not a page of point accounts ({error})") from None
    accounts = [PointAccount(str(one.id), one.contact_id.lower(), one.definition_id, one.balance) for one in page.items]
    if not all(is_points(account.balance) for account in accounts):
        raise PointsError("a balance is not a number, or is beyond 10^15")
    return accounts, page.total_count


def _refusals(
    rows: list[Any], messages: list[str], contacts: list[Any], definitions: list[Any], sent: bytes
) -> dict[str, str]:
    if not (rows or contacts or definitions):
        return {}
    asked = {_contact(row.contact_id): row.definition_id for row in _SENT.decode(sent)}
    missing = {str(definition) for definition in definitions}
    if missing - {str(definition) for definition in asked.values()}:
        raise WireError("it says a point definition is missing that was not sent")
    refused = {
        contact: f"Engage has no point definition {definition}"
        for contact, definition in asked.items()
        if str(definition) in missing
    }
    for contact in map(_contact, contacts):
        refused.setdefault(contact, UNKNOWN_CONTACT)
    named = [_contact(_field(row, "contactid")) for row in rows]
    others = [contact for contact in named if contact not in refused]
    for place, contact in enumerate(others):
        own = [message for message in messages if contact in message.lower()]
        if not own and len(messages) == len(others):
            own = [messages[place]]
        refused[contact] = _said(own or messages) or "Engage did not accept the row and gave no reason"
    if refused.keys() - asked.keys():
        raise WireError("it refuses a contact that was not sent")
    return refused


def _said(messages: Sequence[object]) -> str:
    """Return Engage's messages, marked as possibly containing the contact's data (I9)."""
    text = " ".join("; ".join(map(str, messages)).split())[:_LONGEST_REASON]
    return people.said(people.printable(text)) if text else ""


def _field(row: object, name: str) -> object:
    """Return a field of a refused row by its name in lower case. A row that is not an object is the contact itself."""
    return {key.lower(): value for key, value in row.items()}.get(name) if isinstance(row, dict) else row


def _contact(value: object) -> str:
    if not isinstance(value, str):
        raise WireError("it refuses a row without naming its contact")
    return value.strip().strip("{}").lower()


def _taken(body: bytes) -> tuple[dict[str, Any], str | None]:
    """Return the fields of an acceptance, by names in lower case, and its id, if any. Raises WireError for others.

    These mean accepted: an empty body, an id (bare, or as `transactionId`, `id` or `batchId`), or the lists of
    refusals, even if empty; names in any case. An object that complains does not, even if it has an `id`, since that
    may be the error's.
    """
    if not body.strip():
        return {}, None
    try:
        answer = json_of(body)
    except WireError:
        answer = body.decode("utf-8", "replace").strip()
    if not isinstance(answer, dict):
        identifier = _identifier(answer)
        if identifier is None or not re.search(r"\d", identifier):
            raise WireError("it is neither a transaction id nor an object")
        return {}, identifier
    named = {str(name).lower(): value for name, value in answer.items()}
    identifier = next((found for name in _IDS if (found := _identifier(named.get(name)))), None)
    complains = any(named.get(name) for name in _COMPLAINTS) and not (
        named.get("transactionid") or named.get("batchid")
    )
    if complains or (identifier is None and "notaccepted" not in named and not any(map(named.get, _LISTS))):
        raise WireError("it neither names a transaction nor lists what was refused")
    return named, identifier


def _identifier(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = _TOKEN.fullmatch(value.strip()) if isinstance(value, str) else None
    return found and found[0]


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise WireError(f"its {name} is not a list")
    return value


def is_same(shown: Decimal, sent: Decimal, decimals: int) -> bool:
    """Return whether a balance is what was sent, however Engage rounds it to the `decimals` that it keeps."""
    return abs(shown - sent) < Decimal(1).scaleb(-decimals)
