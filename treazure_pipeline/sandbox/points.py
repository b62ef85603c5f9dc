"""Exact points as whole micro-points in 64-bit integers, so that millions of balances are one array.

A balance is exact from -9,223,372,036,854 to 9,223,372,036,854 points with six decimals.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGITS = 6
"""Decimals that the sandbox stores."""
UNIT = 10**DIGITS
"""Micro-points in one point."""
LARGEST = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Integers = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class AmountError(ValueError):
    """An amount that is not a finite number or does not fit."""


def to_units(amount: Decimal | str | int) -> int:
    """Micro-points of an amount, rounded half up beyond six decimals; raises AmountError."""
    try:
        number = Decimal(amount)
        if not number.is_finite():
            msg = f"{amount} is not a finite number"
            raise AmountError(msg)
        units = int((number * UNIT).to_integral_value(ROUND_HALF_UP))
    except InvalidOperation as error:
        msg = f"{amount!r} is no number"
        raise AmountError(msg) from error
    if abs(units) > LARGEST:
        msg = f"{amount} does not fit into the sandbox's balances"
        raise AmountError(msg)
    return units


def to_decimal(units: int) -> Decimal:
    """Points of a number of micro-points, without trailing zeros."""
    return Decimal(to_text(units))


def to_text(units: int) -> str:
    """Points as an exact decimal text, such as ``-12.5``, never with an exponent."""
    whole, part = divmod(abs(units), UNIT)
    sign = "-" if units < 0 else ""
    return f"{sign}{whole}.{part:06d}".rstrip("0") if part else f"{sign}{whole}"


def to_texts(units: Iterable[int]) -> list[str]:
    """Texts of many balances."""
    return [str(value // UNIT) if value % UNIT == 0 else to_text(value) for value in units]


def rounded(units: Integers, digits: int | None) -> Integers:
    """The balances rounded half away from zero to this many digits; None keeps all."""
    if digits is None or digits >= DIGITS:
        return units
    step = 10 ** (DIGITS - digits)
    return np.asarray(np.sign(units) * ((np.abs(units) + step // 2) // step * step), dtype=np.int64)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of a moment; one without a zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def parse_moment(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 text; raises ValueError."""
    return to_micros(datetime.fromisoformat(text))


def moment_text(micros: int) -> str:
    """ISO 8601 in UTC with microseconds, such as ``2023-05-16T12:20:03.807000Z``."""
    return (EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment_texts(micros: Integers) -> list[str]:
    """Texts of many moments."""
    texts: list[str] = np.datetime_as_string(micros.astype("datetime64[us]"), unit="us", timezone="UTC").tolist()
    return texts
