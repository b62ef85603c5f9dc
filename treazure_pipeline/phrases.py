"""Numbers, time spans and lists in the form that sentences of reports use."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

_TO = "\N{EN DASH}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 request``, ``2,000 requests``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def points(amount: Decimal | int | str) -> str:
    """Return points exactly: ``120``, ``1,234.50``, ``-0.125``. A fraction has two digits or as many as it needs."""
    amount = Decimal(amount)
    whole, _, fraction = f"{amount or 0:,f}".partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction:0<2}" if fraction else whole


def change(amount: Decimal | int | str) -> str:
    """Return points with their sign: ``+120``, ``-0.50``, and ``0``."""
    return f"+{points(amount)}" if Decimal(amount) > 0 else points(amount)


def span(start: datetime, end: datetime) -> str:
    """Return a span in UTC: times of day if it is within one day, otherwise dates with times."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if start.date() == end.date():
        return f"{start:%H:%M}{_TO}{end:%H:%M}"
    return f"{start:%Y-%m-%d %H:%M} {_TO} {end:%Y-%m-%d %H:%M}"


def some(**counts: int) -> list[str]:
    """Return ``12 rejected`` for each count that is not zero; underscores become spaces."""
    return [f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number]


def sentence(parts: Iterable[str]) -> str:
    """Return the parts that are not empty, separated by commas."""
    return ", ".join(part for part in parts if part)
