"""What a file for Engage's points import looks like, and what Treazure's movements become in it.

Every name and choice that may turn out wrong is here, so that one edit corrects it. The format is Engage's (developer.voyado.com,
"Importing historical points"). The choice of types is **assumed**; Engage only reads the amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

KeyType = Literal["ContactId", "MemberNumber", "ExternalId"]
Mode = Literal["log", "balance"]

COLUMNS = (
    "Key",
    "KeyType",
    "PointDefinitionId",
    "Amount",
    "TransactionType",
    "TransactionDate",
    "CreatedOn",
    "ValidTo",
    "CreatedBy",
    "Description",
    "Source",
    "ExpireAfterMonthsInactive",
)
MOST_ROWS = 20_000
"""How many rows Engage accepts in a file."""
MOMENT_FORMAT = "%Y-%m-%dT%H:%M:%S%.3fZ"
"""As in Engage's own examples: ISO 8601 in UTC with milliseconds."""
ORIGIN = "Treazure"
"""The value of CreatedBy and Source."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a movement becomes: the type and text for points that are `added`, and for points that are `taken`."""

    added: str
    taken: str
    words_added: str
    words_taken: str


MEANINGS = {
    "Load": Meaning("Purchase", "Return", "Points earned", "Points taken back"),
    "Redeem": Meaning("RewardVoucher", "RewardVoucher", "Used points returned", "Points used"),
    "Convert": Meaning(
        "RewardVoucher", "RewardVoucher", "Voucher turned back into points", "Points turned into a voucher"
    ),
    "Expire": Meaning("Adjustment", "Adjustment", "Expired points restored", "Points expired"),
    "Transfer": Meaning("Adjustment", "Adjustment", "Points transferred in", "Points transferred out"),
}
OPENING = "Opening balance"
"""The text of the row that makes a contact's rows add up to its balance if the log does not."""
BALANCE = "Balance at the migration"
"""The text of the only row of a contact whose log is not imported."""

_ALL = [*MEANINGS.values(), Meaning("Adjustment", "Adjustment", OPENING, OPENING)]
OPENING_KIND = len(MEANINGS)
_TYPES = pl.Series([kind for one in _ALL for kind in (one.added, one.taken)])
_WORDS = pl.Series([words for one in _ALL for words in (one.words_added, one.words_taken)])

RESERVED = "\"';"
"""Engage's importer rejects a file if a value contains one of these, quoted or not."""
_INSTEAD = {'"': "\u201d", "'": "\u2019", ";": ","}
_BEFORE_FORMULA = "\u2019"
"""Put before a text that a spreadsheet would take for a formula. Nobody reserves it."""

UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_FORMULA = r"^[=+\-@\uff1d\uff0b\uff0d\uff20]"
_AROUND = r"^[\s\u200b\u2060\ufeff]+|\s+$"
_ODD = rf"{UNPRINTABLE}|{_FORMULA}|{_AROUND}"
_NO_KEY = rf"{UNPRINTABLE}|[{RESERVED}]|^[=@]|^[+-].*[^0-9 ()./-]|{_AROUND}"


def kinds(types: pl.Expr) -> pl.Expr:
    """Return the number of each type's meaning; null for an unknown type."""
    return types.replace_strict(list(MEANINGS), range(len(MEANINGS)), default=None, return_dtype=pl.Int8)


def cleaned(texts: pl.Series) -> pl.Series:
    """Return texts that the importer accepts and a spreadsheet does not compute. Null becomes empty.

    Control characters and line breaks become spaces, reserved characters typographic ones, and outer spaces are removed.
    """
    texts = texts.fill_null("").str.replace_many(_INSTEAD)
    odd = texts.str.contains(_ODD).arg_true()
    if odd.is_empty():
        return texts
    plain = texts.gather(odd).str.replace_all(UNPRINTABLE, " ").str.replace_all(_AROUND, "")
    return texts.scatter(odd, plain.zip_with(~plain.str.contains(_FORMULA), _BEFORE_FORMULA + plain))


def is_no_key(keys: pl.Expr) -> pl.Expr:
    """Return which keys can't be in a file. A bad key is left out and never corrected, since it would name somebody else."""
    return keys.str.contains(_NO_KEY)


def file_rows(rows: pl.DataFrame, definition_id: int, key_type: KeyType, decimals: int) -> pl.DataFrame:
    """Return the columns of the file from key, kind, amount, date_time, valid_to, comment, receipt_nr."""
    code = rows.select(pl.col("kind").cast(pl.Int16) * 2 + (pl.col("amount") < 0).cast(pl.Int16)).to_series()
    happened = rows["date_time"].dt.to_string(MOMENT_FORMAT)
    return rows.select(
        Key="key",
        KeyType=pl.lit(key_type),
        PointDefinitionId=pl.lit(definition_id),
        Amount=pl.col("amount").cast(pl.Decimal(38, decimals)),
        TransactionType=_TYPES.gather(code),
        TransactionDate=happened,
        CreatedOn=happened,
        ValidTo=pl.col("valid_to").dt.to_string(MOMENT_FORMAT),
        CreatedBy=pl.lit(ORIGIN),
        Description=_descriptions(rows, code),
        Source=pl.lit(ORIGIN),
        ExpireAfterMonthsInactive=pl.lit(None, pl.String),
    )


def _descriptions(rows: pl.DataFrame, code: pl.Series) -> pl.Series:
    """Return each row's comment, or if it has none, what happened and the receipt."""
    comments = cleaned(rows["comment"])
    if not (comments == "").any():
        return comments
    words = pl.DataFrame({"words": _WORDS.gather(code), "receipt": cleaned(rows["receipt_nr"])})
    with_receipt = pl.format("{}, receipt {}", "words", "receipt")
    instead = words.select(pl.when(pl.col("receipt") == "").then("words").otherwise(with_receipt)).to_series()
    return comments.zip_with(comments != "", instead)
