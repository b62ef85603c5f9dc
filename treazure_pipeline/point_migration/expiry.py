"""Which of a contact's points are left at the cut-off, and when they expire.

Treazure uses points that expire sooner first (**assumed**), points without an expiry date last, and points from before the log's beginning before
all others. What is left of a row that expires after the cut-off becomes a separate row with that date. So the rows without a date add up to the
points that never expire, and the others to what Engage takes at each date, and Engage agrees with Treazure before and after it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, localcontext

import numpy as np
import polars as pl

from treazure_pipeline.point_migration.meaning import OPENING_KIND
from treazure_pipeline.point_migration.parts import MOMENT, POINTS, PRECISION

_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_ZERO = pl.lit(0, POINTS)


def with_expiry(rows: pl.DataFrame, cut_off: datetime) -> pl.DataFrame:
    """Return the rows with a column `valid_to`, and split those of which only a part is left.

    `rows` has contacts `c` in ascending order, the rows of each in time order, and `kind`, `amount`, `expires_at`.
    """
    rows = rows.with_row_index("r")
    expiring = rows.filter((pl.col("amount") > 0) & (pl.col("expires_at") > cut_off))
    if expiring.is_empty():
        return rows.with_columns(valid_to=pl.lit(None, MOMENT)).drop("r", "expires_at")
    concerned = rows.join(expiring.select("c").unique(), on="c", how="semi", maintain_order="left")
    left = _left(concerned).filter((pl.col("left") > 0) & (pl.col("expires_at") > cut_off)).select("r", "left")
    rows = rows.join(left, on="r", how="left", maintain_order="left").with_columns(pl.col("left").fill_null(_ZERO))
    divided = rows.select((pl.col("left") > 0) & (pl.col("left") < pl.col("amount"))).to_series()
    rows = rows[np.repeat(np.arange(rows.height), divided.to_numpy() + 1)]
    used_part = pl.col("r") == pl.col("r").shift(-1)
    dated = (pl.col("left") > 0) & ~used_part.fill_null(value=False)
    return rows.with_columns(
        amount=pl.when(dated).then("left").otherwise(pl.col("amount") - pl.col("left")),
        valid_to=pl.when(dated).then("expires_at"),
    ).drop("r", "expires_at", "left")


def left_of_each(movements: Iterable[tuple[Decimal, datetime]]) -> list[Decimal]:
    """Return what is left of each movement. Movements are (amount, expiry) in time order. Negative ones use up others."""
    left: list[Decimal] = []
    unused: list[tuple[datetime, int]] = []
    owed = Decimal(0)
    for place, (amount, expires) in enumerate(movements):
        left.append(max(amount, Decimal(0)))
        if amount > 0:
            heapq.heappush(unused, (expires, place))
        else:
            owed -= amount
        while owed and unused:
            _, first = unused[0]
            used = min(owed, left[first])
            left[first] -= used
            owed -= used
            if not left[first]:
                heapq.heappop(unused)
    return left


def _left(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `r`, `expires_at` and `left` of the rows that added points."""
    expires = pl.when(pl.col("kind") == OPENING_KIND).then(_FIRST).otherwise(pl.col("expires_at").fill_null(_NEVER))
    rows = rows.select("r", "c", "amount", "expires_at", expires=expires.cast(MOMENT))
    added = rows.filter(pl.col("amount") > 0)
    follows = pl.col("c") == pl.col("c").shift(1)
    unordered = added.filter(follows & (pl.col("expires") < pl.col("expires").shift(1))).select("c").unique()
    if unordered.is_empty():
        return _left_in_order(rows, added)
    in_order = _left_in_order(
        rows.join(unordered, on="c", how="anti", maintain_order="left"),
        added.join(unordered, on="c", how="anti", maintain_order="left"),
    )
    others = rows.join(unordered, on="c", how="semi", maintain_order="left").partition_by("c")
    return pl.concat([in_order, *map(_left_one_by_one, others)])


def _left_in_order(rows: pl.DataFrame, added: pl.DataFrame) -> pl.DataFrame:
    """Compute what is left for all contacts at once, if no points expire earlier than older ones. Then the newest are left.

    That is the part of the balance that later additions don't cover.
    """
    balances = rows.group_by("c").agg(balance=pl.col("amount").sum())
    added = added.with_columns(reached=pl.col("amount").cum_sum())
    ends = added.group_by("c").agg(end=pl.col("reached").last()).join(balances, on="c")
    later = pl.col("end") - pl.col("reached")
    added = added.join(ends, on="c", how="left", maintain_order="left").with_columns(left=pl.col("balance") - later)
    left = (
        pl.when(pl.col("left") < 0).then(_ZERO).when(pl.col("left") > pl.col("amount")).then("amount").otherwise("left")
    )
    return added.select("r", "expires_at", left=left)


def _left_one_by_one(rows: pl.DataFrame) -> pl.DataFrame:
    with localcontext(prec=PRECISION):
        left = left_of_each(zip(rows["amount"], rows["expires"], strict=True))
    return rows.select("r", "expires_at", left=pl.Series(left, dtype=POINTS))
