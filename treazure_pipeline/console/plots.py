"""Plots as coordinates, for SVG that the templates draw: no script, no style of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import sqrt

WIDTH, HEIGHT = 960, 120
_GAP = 4


@dataclass(frozen=True)
class Bar:
    """A bar from the bottom up."""

    x: float
    y: float
    width: float
    height: float


def bars(values: Sequence[float | None], places: int) -> list[Bar]:
    """Return bars for values, the last one rightmost of so many places.

    Heights go by the square root, so that a usual hour is seen beside a first load; what is zero or unknown is a stub.
    """
    most = sqrt(max((value or 0 for value in values), default=0)) or 1
    step = WIDTH / places
    heights = [max(6.0, HEIGHT * sqrt(value or 0) / most) for value in values]
    first = places - len(heights)
    return [
        Bar(round((first + n) * step + _GAP / 2, 1), round(HEIGHT - height, 1), round(step - _GAP, 1), round(height, 1))
        for n, height in enumerate(heights)
    ]


@dataclass(frozen=True)
class Line:
    """A line through values: `points` as SVG takes them, and what its top and bottom stand for."""

    points: str
    low: Decimal
    high: Decimal


def line(values: Sequence[Decimal]) -> Line:
    """Return the line through values, evenly apart; it needs two at least to be one."""
    low, high = min(values), max(values)
    span = high - low or Decimal(1)
    step = WIDTH / max(1, len(values) - 1)
    at = [
        (round(n * step, 1), round(HEIGHT - 8 - float((one - low) / span) * (HEIGHT - 16), 1))
        for n, one in enumerate(values)
    ]
    return Line(" ".join(f"{x:g},{y:g}" for x, y in at), low, high)
