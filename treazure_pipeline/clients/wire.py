"""Every name and shape of the two APIs in one place, so that one edit here corrects a wrong assumption.

Facts: docs.treazure.cloud and developer.voyado.com. What is **assumed** says so. Nothing else may spell out a
path or a field of the two systems.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec

# Treazure
TOKEN = "/identity/connect/token"  # noqa: S105 - a path
SCOPE = "api_loyaltyvault"
REQUEST_EXPORT = "/api/v1.0/LoyaltyVault/Balances/Get"
EXPORT_RESULT = "/…/result"
"""How messages name an export's result where its address is not at hand."""

NOT_READY = frozenset({202, 404})
"""Assumed: what an export's result answers until it is there."""
EXPIRED = 410
"""Assumed: what it answers once it is gone."""

CONTACTS = ("accountNumber", "contactId")
"""Assumed: the field of an exported row that names the contact; the first one that is not null counts."""
LOYALTY_ID = "loyaltyPointDefinitionId"
BALANCE = "balance"
MUTATED_AT = "mutatedAt"
"""Assumed, like the whole row."""

MOVING = frozenset({"Load", "Convert", "Redeem", "Expire", "Transfer"})
INFORMATIONAL = frozenset({"RedeemVoucher"})
"""Transaction types of the history that move no points."""

# Engage
UNKNOWN_CONTACT = "Engage does not know this contact"
"""Our words for a contact among `missingContactIds`."""
LARGEST_PAGE = 100
_EXPORT_LINK = re.compile(r"result|export|balances", re.IGNORECASE)
_TRANSACTION_ID = re.compile(r"[^\s<>{}\[\]\"]{1,200}")
_LONGEST_REASON = 500
LARGEST_MAGNITUDE = 15
MOST_FRACTION_DIGITS = 20
"""Points beyond 10^15, or with more decimals, are nowhere accepted."""
_EXACT = msgspec.json.Encoder(decimal_format="number")


class WireError(ValueError):
    """A body is not what the contract says; the text goes on after "the answer can't be used: "."""


class PointsError(WireError):
    """A number of points that is none, or beyond all bounds."""


class Token(msgspec.Struct, frozen=True):
    """An OAuth token; `expires_in` in seconds."""

    access_token: str
    expires_in: float = 3600.0

    def __repr__(self) -> str:
        return "Token(***)"


_NULL = msgspec.Raw(b"null")


class _Programme(msgspec.Struct):
    loyaltyPointDefinitionId: str | int | None = None  # noqa: N815 - the wire's name
    balance: msgspec.Raw = _NULL  # read only of the programme that is asked for


class _Account(msgspec.Struct):
    loyaltyPrograms: list[_Programme]  # noqa: N815 - the wire's name


class _Balance(msgspec.Struct):
    balance: msgspec.Raw = _NULL


class Movement(msgspec.Struct, rename="camel", frozen=True):
    """A movement of points in Treazure's log; `balance` is the one after it, `amount` negative where points go.

    `expires_at` is there only where the programme expires points by the date they were earned.
    """

    date_time: datetime
    amount: Decimal
    transaction_type: str
    balance: Decimal
    receipt_nr: str | None = None
    comment: str | None = None
    expires_at: datetime | None = None
    operator_id: str | None = None
    shop_id: str | None = None
    pos_id: str | None = None
    properties: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BalancesAnswer:
    """What Engage said to one request of balances.

    Rows that are not in `refused` (contact in lower case → reason) are in Engage's queue under
    `transaction_id`, which is None only where the answer lists refusals and names no transaction.
    """

    transaction_id: str | None
    refused: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AddedPoints:
    """Points to be added to one contact's account; times as ISO 8601 texts."""

    contact_id: str
    amount: Decimal
    time_stamp: str
    source: str
    description: str
    valid_to: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedPoints:
    """A row that Engage did not add; `amount` is None where the answer names only the contact."""

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
    """The account of one contact in one point definition, as Engage holds it; `contact_id` in lower case."""

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


class _Page(msgspec.Struct):
    items: list[_PointAccount]
    count: int = 0


class _SentRow(msgspec.Struct, rename="camel"):
    contact_id: str
    definition_id: int


# Made here, in one thread: where several meet a type for the first time, msgspec lets one of them read what another is
# still building, and the process dies.
_NUMBER = msgspec.json.Decoder(Decimal)
_TOKEN = msgspec.json.Decoder(Token)
_ACCOUNT = msgspec.json.Decoder(_Account)
_BALANCE = msgspec.json.Decoder(_Balance)
_HISTORY = msgspec.json.Decoder(list[Movement])
_DEFINITIONS = msgspec.json.Decoder(list[_Definition])
_PAGE = msgspec.json.Decoder(_Page)
_SENT = msgspec.json.Decoder(list[_SentRow])


def is_points(value: Decimal) -> bool:
    """Tell whether a number can be an amount of points: finite, below 10^15 in size, with at most 20 decimals (I6)."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -MOST_FRACTION_DIGITS and value.adjusted() < LARGEST_MAGNITUDE


def _points(raw: msgspec.Raw) -> Decimal:
    """Read a number of points, or its text."""
    try:
        value = _NUMBER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = Decimal("NaN")
    if not is_points(value):
        raise PointsError("its balance is no number, or beyond 10^15")
    return value


def time_text(moment: datetime) -> str:
    """Return an aware time as ISO 8601 in UTC, with microseconds; a ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- Treazure ---


def account_path(account: str) -> str:
    """Return the path of one account; in this integration its number is the Engage contact id."""
    return f"/api/v1.0/LoyaltyVault/Account/{quote(account, safe='')}"


def encode_export_request(loyalty_id: str, mutated_from: datetime, mutated_to: datetime) -> bytes:
    """Return the body that asks for the balances that changed in a window of aware times."""
    return msgspec.json.encode(
        {"mutatedFrom": time_text(mutated_from), "mutatedTo": time_text(mutated_to), LOYALTY_ID: loyalty_id}
    )


def read_token(body: bytes) -> Token:
    """Read the identity server's answer. Raises WireError, which never quotes it."""
    try:
        token = _TOKEN.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WireError("it holds no access token") from None
    if not re.fullmatch(r"[!-~]+", token.access_token):
        raise WireError("its access token is no token")
    return token


def read_export_link(body: bytes) -> str:
    """Find the `href` of an export (assumed spellings: `href` or `hRef`, at top level or in `links`)."""
    answer = _json(body)
    if not isinstance(answer, dict):
        raise WireError("it is no object")
    link = _href(answer)
    if link is not None:
        return link
    links = answer.get("links")
    found = (
        [(str(one.get("rel")), _href(one)) for one in links if isinstance(one, dict)] if isinstance(links, list) else []
    )
    candidates = [(rel, href) for rel, href in found if href is not None and not href.endswith(REQUEST_EXPORT)]
    candidates.sort(key=lambda one: (not _EXPORT_LINK.search(one[0]), not _EXPORT_LINK.search(one[1])))
    if not candidates:
        raise WireError("it has no href of an export")
    return candidates[0][1]


def result_path(path: str) -> str:
    """Return the path of an export's result from that of the export; a query stays at the end."""
    plain, question, query = path.partition("?")
    plain = plain.rstrip("/")
    return f"{plain if plain.endswith('/result') else plain + '/result'}{question}{query}"


def read_account_balance(body: bytes, loyalty_id: str) -> Decimal | None:
    """Return an account's exact balance in one programme, None where it is not in it."""
    try:
        account = _ACCOUNT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is no account ({error})") from None
    for programme in account.loyaltyPrograms:
        if str(programme.loyaltyPointDefinitionId).casefold() == loyalty_id.casefold():
            return _points(programme.balance)
    return None


# --- Engage ---


def transaction_path(account: str) -> str:
    """Return the path at which an account's points are added or taken."""
    return f"{account_path(account)}/Transaction"


def history_path(account: str, loyalty_id: str) -> str:
    """Return the path of an account's points log in one programme."""
    return f"{account_path(account)}/LoyaltyPrograms/{quote(loyalty_id, safe='')}/History"


def encode_transaction(loyalty_id: str, amount: Decimal, receipt: str, comment: str) -> bytes:
    """Encode points to add (positive) or to take; no expiry fields, so that the programme's rules apply."""
    movement = {"loads": [{"value": amount}]} if amount > 0 else {"redemptions": [{"value": -amount}]}
    return _EXACT.encode(
        {
            "loyaltyPrograms": [{LOYALTY_ID: loyalty_id, **movement}],
            "context": {"receiptNr": receipt, "comment": comment},
        }
    )


def read_transaction_balance(body: bytes, loyalty_id: str) -> Decimal | None:
    """Return the balance after a transaction: of the account's shape, or bare; None where it names none."""
    try:
        bare = _BALANCE.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"it is no transaction ({error})") from None
    try:
        return read_account_balance(body, loyalty_id) if bare.balance == _NULL else _points(bare.balance)
    except PointsError:
        return None  # it was taken; the balance is read


def read_history(body: bytes) -> list[Movement]:
    """Return an account's movements in the order of the answer; a time that names no zone is UTC."""
    try:
        return [_sound(movement) for movement in _HISTORY.decode(body)]
    except msgspec.MsgspecError as error:
        raise WireError(f"it is no history ({error})") from None


def _sound(movement: Movement) -> Movement:
    if not (is_points(movement.amount) and is_points(movement.balance)):
        raise WireError(f"an amount or balance of the movement at {movement.date_time} is no number")
    expires_at = movement.expires_at
    if movement.date_time.tzinfo is UTC and (expires_at is None or expires_at.tzinfo is UTC):
        return movement
    try:
        return msgspec.structs.replace(
            movement, date_time=_utc(movement.date_time), expires_at=None if expires_at is None else _utc(expires_at)
        )
    except OverflowError:
        raise WireError(f"the time {movement.date_time} of a movement is beyond all times") from None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def balances_path(version: str) -> str:
    """Return the path that takes new balances."""
    return f"/api/{version}/point-accounts/balances"


def added_points_path(version: str) -> str:
    """Return the path that adds points."""
    return f"/api/{version}/point-accounts/transactions"


def definitions_path(version: str) -> str:
    """Return the path of the point definitions."""
    return f"/api/{version}/point-accounts/definitions"


def point_accounts_path(version: str) -> str:
    """Return the path of the point accounts, asked for by `contactId`."""
    return f"/api/{version}/point-accounts"


def contact_count_path(version: str) -> str:
    """Return the path of the number of contacts."""
    return f"/api/{version}/contacts/count"


def encode_balances(contacts: Sequence[str], amounts: Sequence[str], definition_id: int, time_stamp: datetime) -> bytes:
    """Return the body that sets balances: totals that are true at `time_stamp` (aware, microseconds kept).

    `contacts` are GUIDs, `amounts` exact decimal texts of the same number; both are written as they are.
    """
    tail = f',"definitionId":{definition_id},"timeStamp":"{time_text(time_stamp)}"}}'
    rows = [
        '{"contactId":"' + contact + '","amount":' + amount for contact, amount in zip(contacts, amounts, strict=True)
    ]
    return f"[{f'{tail},'.join(rows)}{tail if rows else ''}]".encode()


def read_balances_answer(body: bytes, sent: bytes, request_id: str | None) -> BalancesAnswer:
    """Read Engage's answer to `sent`. Raises WireError where it doesn't say plainly what became of every row.

    Assumed: a transaction id (bare, or as `transactionId` or `id`), beside it the refused rows as in the
    answer of the sibling endpoint for transactions. A refusal that fits no row sent, or no refused row beside
    error messages, leaves unknown which rows were taken, and so is an error too. A missing definition refuses
    all rows that have it.
    """
    answer = _json(body, bare_text=True)
    if not isinstance(answer, dict):
        return BalancesAnswer(_transaction_id(answer), {}, request_id)
    rows, messages, contacts, definitions = (
        _list(answer, name) for name in ("notAccepted", "errorMessages", "missingContactIds", "missingDefinitionIds")
    )
    refused = _refusals(rows, [str(message) for message in messages], contacts, definitions, sent)
    if messages and not refused:
        raise WireError("it reports errors without naming the rows")
    identifier = answer.get("transactionId", answer.get("id"))
    return BalancesAnswer(None if refused and identifier is None else _transaction_id(identifier), refused, request_id)


def encode_added_points(rows: Sequence[AddedPoints], definition_id: int) -> bytes:
    """Return the body that adds points, in the order given."""
    return _EXACT.encode(
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
    """Read which rows Engage did not add; all others are in. Raises WireError where it doesn't say plainly."""
    answer = _json(body) if body.strip() else {}
    if not isinstance(answer, dict):
        raise WireError("it is no object")
    rows, messages, contacts, definitions = (
        _list(answer, name) for name in ("notAccepted", "errorMessages", "missingContactIds", "missingDefinitionIds")
    )
    texts = [" ".join(str(message).split())[:_LONGEST_REASON] for message in messages]
    missing = {_contact(contact) for contact in contacts}
    refused = []
    for place, row in enumerate(rows):
        contact = _contact(row.get("contactId") if isinstance(row, dict) else row)
        reason = texts[place] if len(texts) == len(rows) else "; ".join(texts)[:_LONGEST_REASON]
        if contact in missing:
            reason = UNKNOWN_CONTACT
        amount = str(row.get("amount")) if isinstance(row, dict) and row.get("amount") is not None else None
        refused.append(RefusedPoints(contact, amount, reason or "Engage gave no reason"))
    named = {row.contact_id for row in refused}
    refused += [RefusedPoints(contact, None, UNKNOWN_CONTACT) for contact in sorted(missing - named)]
    if not refused and (messages or definitions):
        raise WireError("it reports errors without naming the rows")
    return refused


def read_contact_count(body: bytes) -> int:
    """Read the number of contacts."""
    count = _json(body)
    if not isinstance(count, int) or isinstance(count, bool):
        raise WireError("it is no number of contacts")
    return count


def read_definitions(body: bytes) -> list[Definition]:
    """Read one page of point definitions."""
    try:
        page = _DEFINITIONS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is no list of point definitions ({error})") from None
    return [Definition(one.id, one.name) for one in page]


def read_point_accounts(body: bytes) -> tuple[list[PointAccount], int]:
    """Read one page of a contact's point accounts and how many there are in all."""
    try:
        page = _PAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is no page of point accounts ({error})") from None
    accounts = [PointAccount(str(one.id), one.contact_id.lower(), one.definition_id, one.balance) for one in page.items]
    if not all(is_points(account.balance) for account in accounts):
        raise PointsError("a balance is no number, or beyond 10^15")
    return accounts, page.count


def _refusals(
    rows: list[Any], messages: list[str], contacts: list[Any], definitions: list[Any], sent: bytes
) -> dict[str, str]:
    if not (rows or contacts or definitions):
        return {}
    asked = {_contact(row.contact_id): row.definition_id for row in _SENT.decode(sent)}
    missing = {str(definition) for definition in definitions}
    if missing - {str(definition) for definition in asked.values()}:
        raise WireError("it misses a point definition that was not sent")
    refused = {
        contact: f"Engage has no point definition {definition}"
        for contact, definition in asked.items()
        if str(definition) in missing
    }
    for contact in map(_contact, contacts):
        refused.setdefault(contact, UNKNOWN_CONTACT)
    named = [_contact(row.get("contactId") if isinstance(row, dict) else row) for row in rows]
    others = [contact for contact in named if contact not in refused]
    for place, contact in enumerate(others):
        own = [message for message in messages if contact in message.lower()]
        if not own and len(messages) == len(others):
            own = [messages[place]]
        reason = "; ".join(own or messages) or "Engage did not accept the row and gave no reason"
        refused[contact] = " ".join(reason.split())[:_LONGEST_REASON]
    if refused.keys() - asked.keys():
        raise WireError("it refuses a contact that was not sent")
    return refused


def _contact(value: object) -> str:
    if not isinstance(value, str):
        raise WireError("it refuses a row without naming its contact")
    return value.strip().strip("{}").lower()


def _transaction_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and _TRANSACTION_ID.fullmatch(value.strip()):
        return value.strip()
    raise WireError("it has no transaction id")


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise WireError(f"its {name} is no list")
    return value


def _href(link: dict[str, Any]) -> str | None:
    found = next((link[name] for name in ("href", "hRef") if isinstance(link.get(name), str)), "").strip()
    return found or None


def _json(body: bytes, *, bare_text: bool = False) -> Any:
    """Decode JSON; where `bare_text` is fine, an identifier without quotes, which has a digit, too."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
        if bare_text and _TRANSACTION_ID.fullmatch(text) and re.search(r"\d", text):
            return text
        raise WireError("it is no JSON") from None
