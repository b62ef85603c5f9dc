"""What Engage holds: point accounts of one definition, and the queue of what was accepted but not applied.

Columns, one element per member. Everything here is called with the world's lock held. Amounts are
micro-points, times microseconds since 1970.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from treazure_pipeline.sandbox.expiring_points import ExpiringPoints
from treazure_pipeline.sandbox.points import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from treazure_pipeline.sandbox.behavior import Behavior
    from treazure_pipeline.sandbox.points import Flags, Indices, Integers


@dataclass(frozen=True, slots=True)
class Added:
    """One points transaction added to an account through Engage's API."""

    amount: int
    stamp: int
    source: str
    description: str
    valid_from: str | None
    valid_to: str | None


@dataclass(frozen=True, slots=True)
class _Accepted:
    due: int
    member: Indices
    amount: Integers
    stamp: Integers


@dataclass(frozen=True, slots=True)
class _Addition:
    due: int
    member: int
    amount: int
    stamp: int
    expires: int


MOST_DEFINITIONS = 10_000
"""Engage's definitions have numbers below this in the sandbox."""


def account_number(member: int, definition_id: int) -> int:
    """Return the id of a member's account, an integer under v2."""
    return (member + 1) * MOST_DEFINITIONS + definition_id


@dataclass(slots=True)
class PointAccounts:
    """One point definition of Engage; `stamp` is the timeStamp of the balance that is held.

    `announce` is called with the members whose balances the job changed. A row that was added with a date counts until
    then; a total that is lower than the balance uses the points that expire first.
    """

    definition_id: int
    balance: Integers
    stamp: Integers
    exists: Flags
    announce: Callable[[int, Indices], None]
    added: dict[int, list[Added]] = field(default_factory=dict)
    applied: int = 0
    ignored: int = 0
    expiring: ExpiringPoints = field(default_factory=ExpiringPoints)
    _queue: deque[_Accepted | _Addition] = field(default_factory=deque)

    @classmethod
    def empty(cls, definition_id: int, members: int, announce: Callable[[int, Indices], None]) -> PointAccounts:
        """A definition in which nobody has an account."""
        zeros = np.zeros(members, np.int64)
        return cls(definition_id, zeros, zeros.copy(), np.zeros(members, np.bool_), announce)

    def grow(self, members: int) -> None:
        """Make room for members that came later."""
        more = np.zeros(members - len(self.balance), np.int64)
        self.balance = np.concatenate([self.balance, more])
        self.stamp = np.concatenate([self.stamp, more])
        self.exists = np.concatenate([self.exists, more.astype(np.bool_)])

    def accept(self, due: int, member: Indices, amount: Integers, stamp: Integers) -> None:
        """Put totals into the queue."""
        self._queue.append(_Accepted(due, member, amount, stamp))

    def accept_addition(self, due: int, member: int, amount: int, stamp: int, expires: int) -> None:
        """Put points to add into the queue; `expires` is 0 if they don't."""
        self._queue.append(_Addition(due, member, amount, stamp, expires))

    def put(self, member: Indices, amount: Integers, exists: Flags) -> None:
        """Change accounts of distinct members past the queue, as somebody in Engage would; the timeStamps stay."""
        self.balance[member] = np.where(exists, amount, 0)
        self.exists[member] = exists

    @property
    def queued(self) -> int:
        """Number of rows that wait to be applied."""
        return sum(1 if isinstance(entry, _Addition) else len(entry.member) for entry in self._queue)

    def settle(self, now: int, behavior: Behavior, *, everything: bool = False) -> None:
        """Apply what is due, in the order in which it was accepted, and let points expire."""
        while self._queue and (everything or self._queue[0].due <= now):
            accepted = self._queue.popleft()
            self._expire(min(accepted.due, now), behavior)
            if isinstance(accepted, _Addition):
                expired = 0 < accepted.expires <= accepted.due
                amount = 0 if expired else accepted.amount
                self.add(accepted.member, amount, accepted.stamp, accepted.expires, behavior)
                self.applied += 1
                continue
            if len(np.unique(accepted.member)) == len(accepted.member):
                self._apply(accepted.member, accepted.amount, accepted.stamp, behavior)
                continue
            for at in range(len(accepted.member)):
                row = slice(at, at + 1)
                self._apply(accepted.member[row], accepted.amount[row], accepted.stamp[row], behavior)
        self._expire(now, behavior)

    def add(self, member: int, amount: int, stamp: int, expires: int, behavior: Behavior) -> None:
        """Add points now that expire then (0: never). A negative amount does not use up expiring points."""
        self._hold(np.array([member]), np.array([int(self.balance[member]) + amount]), behavior)
        self.stamp[member] = max(stamp, int(self.stamp[member]))
        if expires and amount > 0:
            self.expiring.add(member, expires, amount)

    def _expire(self, now: int, behavior: Behavior) -> None:
        for _, member, amount in self.expiring.due(now):
            left = int(self.balance[member])
            self._hold(np.array([member]), np.array([left - min(amount, max(left, 0))]), behavior)

    def _apply(self, member: Indices, amount: Integers, stamp: Integers, behavior: Behavior) -> None:
        held = self.stamp[member]
        if behavior.time_stamps != "not_looked_at":
            takes = stamp >= held if behavior.time_stamps == "ignore_older" else stamp > held
            self.ignored += len(member) - int(takes.sum())
            member, amount, stamp = member[takes], amount[takes], stamp[takes]
        if self.expiring:
            for one, used in zip(member.tolist(), (self.balance[member] - amount).tolist(), strict=True):
                self.expiring.use(one, used)
        self._hold(member, amount, behavior)
        self.stamp[member] = stamp
        self.applied += len(member)

    def _hold(self, member: Indices, amount: Integers, behavior: Behavior) -> None:
        amount = rounded(amount, behavior.digits)
        changed = member[(self.balance[member] != amount) | ~self.exists[member]]
        self.balance[member] = amount
        self.exists[member] = True
        if behavior.balance_events and len(changed):
            self.announce(self.definition_id, changed)
