"""What Treazure holds: accounts of one programme with balance, time of the last mutation, and all movements.

Columns, one element per member; a member without an account has `mutated` 0. Everything here is called with
the world's lock held. Amounts are micro-points, times microseconds since 1970.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treazure_pipeline.sandbox.expiring_points import ExpiringPoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from treazure_pipeline.sandbox.points import Flags, Indices, Integers

KINDS = ("Load", "Convert", "Redeem", "Expire", "Transfer", "RedeemVoucher")
"""Treazure's transaction types; a movement's kind is an index into them."""
LOAD, CONVERT, REDEEM, EXPIRE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Details:
    """What came with a transaction."""

    receipt: str = ""
    shop: str = ""
    pos: str = ""
    operator: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Movement:
    """One movement of one account; `balance` is the balance after it."""

    sequence: int
    kind: int
    amount: int
    balance: int
    stamp: int
    details: Details


@dataclass(frozen=True, slots=True)
class Block:
    """Movements of distinct members, ordered by member."""

    member: Indices
    kind: npt.NDArray[np.int8]
    amount: Integers
    balance: Integers
    stamp: Integers
    details: Details | None = None


@dataclass(slots=True)
class _Late:
    due: int
    calls: int
    first: int
    block: Block


@dataclass(slots=True)
class MasterAccounts:
    """One programme of Treazure.

    `balance` is up to date at once; `visible` is what exports and accounts show, the same array unless a mutation
    is committed late. `expires` has the expiry of points by the movement's sequence, if they expire.
    """

    loyalty_id: str
    definition_id: int
    balance: Integers
    visible: Integers
    mutated: Integers
    sequence: int = 0
    expires: dict[int, int] = field(default_factory=dict)
    _expiring: ExpiringPoints = field(default_factory=ExpiringPoints)
    _blocks: list[tuple[int, Block]] = field(default_factory=list)
    _singles: dict[int, list[Movement]] = field(default_factory=dict)
    _late: deque[_Late] = field(default_factory=deque)

    @classmethod
    def empty(cls, loyalty_id: str, definition_id: int, members: int) -> MasterAccounts:
        """A programme in which nobody has an account."""
        balance = np.zeros(members, np.int64)
        return cls(loyalty_id, definition_id, balance, balance, np.zeros(members, np.int64))

    def grow(self, members: int) -> None:
        """Make room for members that came later."""
        more = members - len(self.balance)
        late = self.visible is not self.balance
        self.balance = np.concatenate([self.balance, np.zeros(more, np.int64)])
        self.visible = np.concatenate([self.visible, np.zeros(more, np.int64)]) if late else self.balance
        self.mutated = np.concatenate([self.mutated, np.zeros(more, np.int64)])

    def move(
        self,
        member: Indices,
        kind: npt.NDArray[np.int8],
        amount: Integers,
        stamp: Integers,
        *,
        expires: Integers | None = None,
        details: Details | None = None,
        due: int = 0,
        calls: int = 0,
    ) -> None:
        """Change balances of distinct members; visible when `due` is past and `calls` exports were asked.

        `expires` is when points added expire, 0: never.
        """
        order = np.argsort(member, kind="stable")
        member, kind, amount, stamp = member[order], kind[order], amount[order], stamp[order]
        late = bool(due or calls or self._late)
        if late and self.visible is self.balance:
            self.visible = self.balance.copy()
        if self._expiring:
            for one, used in zip(member.tolist(), (-amount).tolist(), strict=True):
                self._expiring.use(one, used)
        if expires is not None:
            self._expire_later(member, amount, expires[order])
        self.balance[member] += amount
        block = Block(member, kind, amount, self.balance[member], stamp, details)
        if late:
            self._late.append(_Late(due, calls, self.sequence, block))
        else:
            self._log(self.sequence, block)
        self.sequence += len(member)

    def export_requested(self) -> None:
        """Count one export request for the mutations that wait for some."""
        for late in self._late:
            late.calls = max(0, late.calls - 1)

    def settle(self, now: int, *, everything: bool = False) -> None:
        """Make the late mutations visible whose time has come, in the order in which they happened; expire points."""
        while self._late and (everything or (self._late[0].due <= now and self._late[0].calls == 0)):
            late = self._late.popleft()
            self.visible[late.block.member] += late.block.amount
            self._log(late.first, late.block)
        if not self._late:
            self.visible = self.balance
        for moment, member, amount in self._expiring.due(now):
            left = min(amount, max(int(self.balance[member]), 0))
            if left:
                self._expiring.add(member, moment, left)  # for the movement to use up, and no others
                self.move(np.array([member]), np.array([EXPIRE], np.int8), np.array([-left]), np.array([moment]))

    @property
    def uncommitted(self) -> int:
        """Number of mutations that aren't visible yet."""
        return sum(len(late.block.member) for late in self._late)

    def mutated_between(self, start: int, end: int) -> Indices:
        """Members whose account changed in [start, end]."""
        return np.nonzero((self.mutated >= max(start, 1)) & (self.mutated <= end))[0].astype(np.int64)

    def accounts(self) -> Flags:
        """Which members have an account."""
        return self.mutated > 0

    def history(self, member: int) -> list[Movement]:
        """All visible movements of one account, oldest first."""
        blocks = _movements(member, self._blocks)
        return sorted([*self._singles.get(member, ()), *blocks], key=lambda movement: movement.sequence)

    def versions(self, member: int, balance: int) -> list[int]:
        """When the account had this balance: numbers that grow with each movement, late ones included."""
        late = _movements(member, ((late.first, late.block) for late in self._late))
        movements = [*self.history(member), *late]
        return [movement.sequence for movement in movements if movement.balance == balance]

    def _expire_later(self, member: Indices, amount: Integers, expires: Integers) -> None:
        """Note when points expire that are about to be added; what only pays back a debt is never there to expire."""
        left = np.minimum(amount, self.balance[member] + amount)
        for at in np.nonzero(expires)[0].tolist():
            self.expires[self.sequence + at] = int(expires[at])
            if left[at] > 0:
                self._expiring.add(int(member[at]), int(expires[at]), int(left[at]))

    def _log(self, first: int, block: Block) -> None:
        self.mutated[block.member] = np.maximum(self.mutated[block.member], block.stamp)
        if len(block.member) == 1:
            self._singles.setdefault(int(block.member[0]), []).append(_movement(first, block, 0))
        else:
            self._blocks.append((first, block))


def _movements(member: int, blocks: Iterable[tuple[int, Block]]) -> Iterator[Movement]:
    for first, block in blocks:
        at = int(np.searchsorted(block.member, member))
        if at < len(block.member) and block.member[at] == member:
            yield _movement(first + at, block, at)


def _movement(sequence: int, block: Block, at: int) -> Movement:
    details = block.details or Details(receipt=f"S-{sequence}", shop="shop-1", pos="pos-1", operator="operator-1")
    return Movement(
        sequence, int(block.kind[at]), int(block.amount[at]), int(block.balance[at]), int(block.stamp[at]), details
    )
