"""What Engage holds: point accounts of one definition, and the queue of what was accepted but not applied.

Columns, one element per member. Everything here is called with the world's lock held. Amounts are
micro-points, times microseconds since 1970.
"""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from treazure_pipeline.sandbox.points import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from treazure_pipeline.sandbox.behaviour import Behaviour
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
    adds: bool


def other_id(guid: str, definition_id: int) -> str:
    """The id of a contact's account by the contact's GUID, and the other way round; empty for no GUID."""
    try:
        return str(uuid.UUID(int=uuid.UUID(guid).int ^ (definition_id << 16 | 0xA5A5)))
    except ValueError:
        return ""


@dataclass(slots=True)
class PointAccounts:
    """One point definition of Engage; `stamp` is the timeStamp of the balance that is held.

    `announce` is told which members' balances the job has changed.
    """

    definition_id: int
    balance: Integers
    stamp: Integers
    exists: Flags
    announce: Callable[[int, Indices], None]
    added: dict[int, list[Added]] = field(default_factory=dict)
    applied: int = 0
    ignored: int = 0
    _queue: deque[_Accepted] = field(default_factory=deque)

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

    def accept(self, due: int, member: Indices, amount: Integers, stamp: Integers, *, adds: bool = False) -> None:
        """Put rows into the queue."""
        self._queue.append(_Accepted(due, member, amount, stamp, adds))

    def put(self, member: Indices, amount: Integers, exists: Flags) -> None:
        """Change accounts of distinct members past the queue, as somebody in Engage would; the timeStamps stay."""
        self.balance[member] = np.where(exists, amount, 0)
        self.exists[member] = exists

    @property
    def queued(self) -> int:
        """Number of rows that wait for being applied."""
        return sum(len(accepted.member) for accepted in self._queue)

    def settle(self, now: int, behaviour: Behaviour, *, everything: bool = False) -> None:
        """Apply what is due, in the order in which it was accepted."""
        while self._queue and (everything or self._queue[0].due <= now):
            accepted = self._queue.popleft()
            if len(np.unique(accepted.member)) == len(accepted.member):
                self._apply(accepted.member, accepted.amount, accepted.stamp, behaviour, adds=accepted.adds)
                continue
            for at in range(len(accepted.member)):
                row = slice(at, at + 1)
                self._apply(
                    accepted.member[row],
                    accepted.amount[row],
                    accepted.stamp[row],
                    behaviour,
                    adds=accepted.adds,
                )

    def _apply(self, member: Indices, amount: Integers, stamp: Integers, behaviour: Behaviour, *, adds: bool) -> None:
        held = self.stamp[member]
        if adds:
            amount = self.balance[member] + amount
        elif behaviour.time_stamps != "not_looked_at":
            takes = stamp >= held if behaviour.time_stamps == "ignore_older" else stamp > held
            self.ignored += len(member) - int(takes.sum())
            member, amount, stamp, held = member[takes], amount[takes], stamp[takes], held[takes]
        amount = rounded(amount, behaviour.digits)
        changed = member[(self.balance[member] != amount) | ~self.exists[member]]
        self.balance[member] = amount
        self.stamp[member] = np.maximum(stamp, held) if adds else stamp
        self.exists[member] = True
        self.applied += len(member)
        if behaviour.balance_events and len(changed):
            self.announce(self.definition_id, changed)
