"""Points that expire: how many each member has left, and until when. Each system has its own.

Points that expire first are used first; points without a date are used last, and are not stored here. Amounts are
micro-points, times microseconds since 1970.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class ExpiringPoints:
    """Points with an expiry, of all members, soonest to expire first."""

    _of: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _due: list[tuple[int, int]] = field(default_factory=list)

    def __contains__(self, member: int) -> bool:
        return member in self._of

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, member: int, expires: int, amount: int) -> None:
        """Note when points of a member expire."""
        heapq.heappush(self._of.setdefault(member, []), (expires, amount))
        heapq.heappush(self._due, (expires, member))

    def use(self, member: int, amount: int) -> None:
        """Take points from a member, first those that expire first."""
        points = self._of.get(member, [])
        while amount > 0 and points:
            expires, left = heapq.heappop(points)
            if left > amount:
                heapq.heappush(points, (expires, left - amount))
            amount -= left
        if not points:
            self._of.pop(member, None)

    def due(self, now: int) -> Iterator[tuple[int, int, int]]:
        """Remove expired points, and yield expiry, member and amount of each in the order of time."""
        while self._due and self._due[0][0] <= now:
            expires, member = heapq.heappop(self._due)
            points = self._of.get(member, [])
            amount = 0
            while points and points[0][0] <= expires:
                amount += heapq.heappop(points)[1]
            if not points:
                self._of.pop(member, None)
            if amount:
                yield expires, member, amount
