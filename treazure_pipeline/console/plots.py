"""Plots as coordinates, for SVG that the templates draw: no scripts, no inline styles."""

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
    """Return bars for the values, aligned to the right of the places.

    Heights are square roots, so that a normal hour is visible beside a first load. Zero or unknown is a stub.
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
    """A line through values: `points` for SVG, and the values of its bottom and top."""

    points: str
    low: Decimal
    high: Decimal


def line(values: Sequence[Decimal]) -> Line:
    """Return the line through evenly spaced values, at least two."""
    low, high = min(values), max(values)
    span = high - low or Decimal(1)
    step = WIDTH / max(1, len(values) - 1)
    at = [
        (round(n * step, 1), round(HEIGHT - 8 - float((one - low) / span) * (HEIGHT - 16), 1))
        for n, one in enumerate(values)
    ]
    return Line(" ".join(f"{x:g},{y:g}" for x, y in at), low, high)
