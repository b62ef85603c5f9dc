"""Every name and shape of Treazure's API in one place, so that one edit here corrects a wrong assumption.

Source: docs.treazure.cloud. What is **assumed** is marked. No other module may contain a path or a field name of it.
Those of Engage are in `engage_wire`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec

TOKEN = "/identity/connect/token"  # noqa: S105 - a path
SCOPE = "api_loyaltyvault"
REQUEST_EXPORT = "/api/v1.0/LoyaltyVault/Balances/Get"
EXPORT_RESULT = "/…/result"
"""How messages name an export's result if its address is not known."""

NOT_READY = frozenset({202, 204, 404, 409, 425})
"""Possible answers until an export's result is ready; also 200 with an empty body or a status."""
EXPIRED = 410
"""Assumed: the answer once the result is gone."""

BOM = b"\xef\xbb\xbf"
"""Any body may start with it."""

CONTACTS = ("accountNumber", "contactId")
"""Assumed: the field of an exported row that names the contact; the first one that is not null counts."""
LOYALTY_ID = "loyaltyPointDefinitionId"
BALANCE = "balance"
MUTATED_AT = "mutatedAt"
"""Assumed, like the whole row."""

MOVING = frozenset({"Load", "Convert", "Redeem", "Expire", "Transfer"})
INFORMATIONAL = frozenset({"RedeemVoucher"})
"""Transaction types of the history that move no points."""
NO_TIME = (1, 9999)
"""The years of .NET's first and last moments, which mean no time."""

_STATUSES = ("status", "state", "exportStatus")
_FAILED = re.compile(r"fail|error|fault|cancel|abort|reject", re.IGNORECASE)
_LONGEST_REASON = 200
_EXPORT_LINK = re.compile(r"result|export|balances", re.IGNORECASE)
LARGEST_MAGNITUDE = 15
MOST_FRACTION_DIGITS = 20
"""Points beyond 10^15, or with more decimals, are not accepted anywhere."""
EXACT = msgspec.json.Encoder(decimal_format="number")


_LONGEST_NUMBER = 60
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,5})?")


class WireError(ValueError):
    """A body does not fit the contract. The text continues "the answer can't be used: "."""


class PointsError(WireError):
    """A value that is not a number of points, or is out of bounds."""


_NULL = msgspec.Raw(b"null")
_HOUR = 3600.0


class _Token(msgspec.Struct):
    access_token: str
    expires_in: msgspec.Raw = _NULL


@dataclass(frozen=True, slots=True)
class Token:
    """An OAuth token. `expires_in` is in seconds; an hour if the answer does not say."""

    access_token: str = field(repr=False)
    expires_in: float = _HOUR


class _Programme(msgspec.Struct):
    loyaltyPointDefinitionId: Any = None  # noqa: N815 - the wire's name
    balance: msgspec.Raw = _NULL  # only decoded for the programme that is asked for


class _Account(msgspec.Struct):
    loyaltyPrograms: list[_Programme | None] | None  # noqa: N815 - the wire's name


class _Balance(msgspec.Struct):
    balance: msgspec.Raw = _NULL


class Movement(msgspec.Struct, rename="camel", frozen=True):
    """A movement of points in Treazure's log. `amount` is negative if points are taken; `balance` is the one after it.

    `balance` is None if the answer has none. `expires_at` is only set if the programme's points expire by the date they
    were earned. `transaction_type` may be one that this version does not know.
    """

    date_time: datetime
    amount: Decimal
    transaction_type: str
    balance: Decimal | None
    receipt_nr: str | None = None
    comment: str | None = None
    expires_at: datetime | None = None
    operator_id: str | None = None
    shop_id: str | None = None
    pos_id: str | None = None
    properties: Any = None


# Created here, in one thread: if several threads use a type for the first time at once, msgspec lets one read what
# another is still building, and the process dies.
_TOKEN = msgspec.json.Decoder(_Token)
_SECONDS = msgspec.json.Decoder(float, strict=False)
_ACCOUNT = msgspec.json.Decoder(_Account)
_BALANCE = msgspec.json.Decoder(_Balance)


def is_points(value: Decimal) -> bool:
    """Whether a number can be an amount of points: finite, below 10^15 in size, with at most 20 decimals (I6)."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -MOST_FRACTION_DIGITS and value.adjusted() < LARGEST_MAGNITUDE


def points_of(text: str) -> Decimal | None:
    """Return the exact points in a number's text; None if it is not a number of points."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text.strip(" ")):
        return None
    value = Decimal(text.strip(" "))
    return value if is_points(value) else None


def _points(raw: msgspec.Raw) -> Decimal:
    """Read a number of points, or its text."""
    value = json_of(bytes(raw)) if bytes(raw).startswith(b'"') else bytes(raw).decode("utf-8", "replace")
    points = points_of(value)
    if points is None:
        raise PointsError("its balance is not a number, or is beyond 10^15")
    return points


def time_text(moment: datetime) -> str:
    """Return an aware time as ISO 8601 in UTC, with microseconds. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def account_path(account: str) -> str:
    """Return the path of an account. In this integration, its number is the Engage contact id."""
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
        raise WireError("its access token is not usable")
    return Token(token.access_token, _seconds(token.expires_in))


def _seconds(raw: msgspec.Raw) -> float:
    try:
        seconds = _SECONDS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _HOUR
    return seconds if 0 < seconds < math.inf else _HOUR


def read_export_link(body: bytes, location: str | None = None) -> str:
    """Return an export's address: `href` in any case, at top level or in `links`, or else the `Location` header."""
    try:
        answer = json_of(body)
    except WireError:
        answer = None
    link = _href(answer) if isinstance(answer, dict) else None
    if link is not None:
        return link
    links = _named(answer, "links")
    found = (
        [(str(one.get("rel")), _href(one)) for one in links if isinstance(one, dict)] if isinstance(links, list) else []
    )
    candidates = [(rel, href) for rel, href in found if href is not None and not href.endswith(REQUEST_EXPORT)]
    candidates.sort(key=lambda one: (not _EXPORT_LINK.search(one[0]), not _EXPORT_LINK.search(one[1])))
    if candidates:
        return candidates[0][1]
    if location and location.strip():
        return location.strip()
    raise WireError("it has no href of an export")


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """The status of an export whose data are not ready. `reason` is Treazure's, cut."""

    name: str
    reason: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it will never be ready."""
        return bool(_FAILED.search(self.name))

    @property
    def is_gone(self) -> bool:
        """Whether it was ready once, and has expired."""
        return "expired" in self.name.lower()


def read_export_status(body: bytes) -> ExportStatus | None:
    """Read an object with a status; None for any other body."""
    try:
        answer = json_of(body)
    except WireError:
        return None
    status = next((found for name in _STATUSES if (found := _named(answer, name)) is not None), None)
    if not isinstance(status, str | int) or isinstance(status, bool):
        return None
    reasons = (_named(answer, name) for name in ("message", "reason", "error", "errorMessage"))
    reason = next((one for one in reasons if isinstance(one, str)), "")
    return ExportStatus(str(status)[:50], " ".join(reason.split())[:_LONGEST_REASON])


def _named(answer: object, name: str) -> Any:
    """Return an object's field by name, in any case."""
    if not isinstance(answer, dict):
        return None
    return next((value for key, value in answer.items() if str(key).lower() == name.lower()), None)


def result_path(path: str) -> str:
    """Return the path of an export's result from the path of the export. A query stays at the end."""
    plain, question, query = path.partition("?")
    plain = plain.rstrip("/")
    return f"{plain if plain.endswith('/result') else plain + '/result'}{question}{query}"


def read_account_balance(body: bytes, loyalty_id: str) -> Decimal | None:
    """Return an account's exact balance in one programme; None if it is not in it."""
    try:
        account = _ACCOUNT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"it is not an account ({error})") from None
    for programme in account.loyaltyPrograms or ():
        if programme is not None and str(programme.loyaltyPointDefinitionId).casefold() == loyalty_id.casefold():
            return _points(programme.balance)
    return None


def transaction_path(account: str) -> str:
    """Return the path for adding or taking an account's points."""
    return f"{account_path(account)}/Transaction"


def history_path(account: str, loyalty_id: str) -> str:
    """Return the path of an account's points log in one programme."""
    return f"{account_path(account)}/LoyaltyPrograms/{quote(loyalty_id, safe='')}/History"


def encode_transaction(loyalty_id: str, amount: Decimal, receipt: str, comment: str) -> bytes:
    """Return the body that adds points, or takes them if negative. Without expiry, the programme's rules apply."""
    movement = {"loads": [{"value": amount}]} if amount > 0 else {"redemptions": [{"value": -amount}]}
    return EXACT.encode(
        {
            "loyaltyPrograms": [{LOYALTY_ID: loyalty_id, **movement}],
            "context": {"receiptNr": receipt, "comment": comment},
        }
    )


def read_transaction_balance(body: bytes, loyalty_id: str) -> Decimal | None:
    """Return the balance after a transaction, in an account or bare; None if the answer has none."""
    try:
        bare = _BALANCE.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"it is not a transaction ({error})") from None
    try:
        return read_account_balance(body, loyalty_id) if bare.balance == _NULL else _points(bare.balance)
    except PointsError:
        return None  # the transaction took place; its balance is read separately


def _href(link: dict[str, Any]) -> str | None:
    found = _named(link, "href")
    return (found.strip() or None) if isinstance(found, str) else None


def json_of(body: bytes) -> Any:
    """Decode JSON. Raises WireError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WireError("it is not JSON") from None
