"""The stored form of what a migration works on: parts of fetched logs, and blocks of the roster.

A part contains the complete logs of some hundred contacts as Parquet with zstd. What Treazure said is kept as it was, except for texts and ids
that no file needs. A contact with an empty log has one row with only `contact`, which distinguishes it from a log that was not fetched.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext

import polars as pl

from treazure_pipeline.clients.wire import Movement

LARGEST_MAGNITUDE = 12
MOST_FRACTION_DIGITS = 20
"""Anything larger, or with more decimals, is not a number of points."""

PRECISION = 38
"""Digits of a sum."""
POINTS = pl.Decimal(PRECISION, MOST_FRACTION_DIGITS)
"""Sums of up to a million of the largest amounts fit."""
MOMENT = pl.Datetime("us", "UTC")

SCHEMA = pl.Schema(
    {
        "contact": pl.String(),
        "position": pl.Int32(),
        "date_time": MOMENT,
        "amount": POINTS,
        "transaction_type": pl.String(),
        "expires_at": MOMENT,
        "balance": POINTS,
        "comment": pl.String(),
        "receipt_nr": pl.String(),
        "unusable": pl.String(),
    }
)
"""One movement: `position` is its place in the answer; `unusable` is the amount's text if `amount` can't hold it."""

ROSTER = pl.Schema({"contact": pl.String(), "balance": POINTS, "key": pl.String()})
"""One contact: GUID in lower case, balance at the cut-off, and the retailer's key if the key type needs one."""


def encode(histories: Mapping[str, Sequence[Movement]]) -> bytes:
    """Return a part with the logs of these contacts, in the same order."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA}
    for contact, movements in sorted((contact.lower(), movements) for contact, movements in histories.items()):
        for row in _rows(movements):
            for column, value in zip(columns.values(), (contact, *row), strict=True):
                column.append(value)
    stored = io.BytesIO()
    pl.DataFrame(columns, schema=SCHEMA).write_parquet(stored, compression="zstd", statistics=False)
    return stored.getvalue()


def decode(body: bytes) -> pl.DataFrame:
    """Return the rows of a part, contacts in ascending order."""
    return pl.read_parquet(io.BytesIO(body)).match_to_schema(SCHEMA)


def roster(rows: Iterable[tuple[str, Decimal, str | None]]) -> pl.DataFrame:
    """Return a block of the roster from (contact, balance at the cut-off, key) in ascending order of contacts."""
    return pl.DataFrame(list(rows), schema=ROSTER, orient="row")


def _rows(movements: Sequence[Movement]) -> Iterable[tuple[object, ...]]:
    if not movements:
        yield (None,) * (len(SCHEMA) - 1)
    for position, movement in enumerate(movements):
        amount = _exact(movement.amount)
        yield (
            position,
            movement.date_time,
            amount,
            movement.transaction_type,
            movement.expires_at,
            None if movement.balance is None else _exact(movement.balance),
            movement.comment,
            movement.receipt_nr,
            None if amount is not None else str(movement.amount),
        )


def _exact(points: Decimal) -> Decimal | None:
    """Return the points if the stored form can hold them exactly, otherwise None."""
    if not points.is_finite() or points.adjusted() >= LARGEST_MAGNITUDE:
        return None
    with localcontext(prec=LARGEST_MAGNITUDE + MOST_FRACTION_DIGITS):
        held = points.quantize(Decimal(1).scaleb(-MOST_FRACTION_DIGITS))
    return held if held == points else None
