"""The state of both systems: members, the points in Treazure and in Engage, exports, and hours of shopping.

Plain functions and one lock; nothing here knows about HTTP.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from treazure_pipeline.sandbox.adjustments import Adjustments
from treazure_pipeline.sandbox.behavior import LOYALTY_ID, Behavior
from treazure_pipeline.sandbox.faults import Faults
from treazure_pipeline.sandbox.follower import PointAccounts, account_number
from treazure_pipeline.sandbox.master import EXPIRE, LOAD, REDEEM, Details, MasterAccounts
from treazure_pipeline.sandbox.members import Members, is_guid
from treazure_pipeline.sandbox.observations import Observations
from treazure_pipeline.sandbox.points import UNIT, rounded, to_decimal, to_text
from treazure_pipeline.sandbox.webhooks import Deliveries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from treazure_pipeline.sandbox.points import Flags, Indices, Integers

SECOND = 1_000_000
"""Microseconds in a second."""
_OLDEST_DAYS = 400
_NEWEST_DAYS = 1
_DAY = 86_400 * SECOND
_CENT = UNIT // 100
_ZERO_SHARE = 0.05
_REDEEMED_SHARE = 0.3
_FIRST_MEMBER_NUMBER = 10_000_000


class WrongRequestError(ValueError):
    """The request asks for something that isn't there or can't be."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What a sandbox starts with.

    `programmes` pairs loyalty ids with definition ids. `unknown_share` of the members are not contacts in
    Engage; `in_step` starts Engage with Treazure's balances instead of none.
    """

    seed: int = 1
    members: int = 1000
    programmes: Mapping[str, int] = field(default_factory=lambda: {LOYALTY_ID: 1})
    unknown_share: float = 0.0
    in_step: bool = False


@dataclass(slots=True)
class Export:
    """One balance export: requested, polled, fetched, gone."""

    loyalty_id: str
    start: int
    end: int
    created: int
    polls: int = 0
    gone: bool = False


class World:
    """Everything the sandbox holds. Hold `lock` while using `members`, `masters`, `followers` or `known`."""

    def __init__(self, seed: Seed, behavior: Behavior | None = None) -> None:
        self.lock = threading.RLock()
        self.seed = seed
        self.behavior = behavior or Behavior()
        self.faults = Faults(seed.seed)
        self.observations = Observations()
        self.adjustments = Adjustments()
        self.deliveries = Deliveries(self)
        self.moved_seconds = 0.0
        self.tokens: dict[str, int] = {}
        self.exports: dict[str, Export] = {}
        self.idempotent: dict[str, tuple[int, bytes]] = {}
        self.unread: dict[tuple[str, int], int] = {}
        self.created: dict[tuple[str, str], int] = {}
        self.hours = 0
        rng = np.random.default_rng(seed.seed)
        self.members = Members(seed.members, rng)
        self.known: Flags = rng.random(seed.members) >= seed.unknown_share
        self.masters: dict[str, MasterAccounts] = {}
        self.followers: dict[int, PointAccounts] = {}
        for loyalty_id, definition_id in seed.programmes.items():
            if definition_id in self.followers:
                msg = f"definition {definition_id} has two programmes"
                raise WrongRequestError(msg)
            master = self.masters[loyalty_id] = MasterAccounts.empty(loyalty_id, definition_id, seed.members)
            follower = self.followers[definition_id] = PointAccounts.empty(definition_id, seed.members, self._announce)
            self._open_accounts(master, rng)
            if seed.in_step:
                follower.balance = np.where(self.known, master.balance, 0)
                follower.stamp = np.where(self.known, master.mutated, 0)
                follower.exists = self.known & master.accounts()

    # --- clocks

    def treazure_now(self) -> int:
        """Treazure's clock, microseconds since 1970."""
        return self._now(self.behavior.treazure_clock)

    def engage_now(self) -> int:
        """Engage's clock, microseconds since 1970."""
        return self._now(self.behavior.engage_clock)

    def _now(self, ahead: float) -> int:
        return time.time_ns() // 1000 + int((self.moved_seconds + ahead) * SECOND)

    # --- Treazure

    def master(self, loyalty_id: str) -> MasterAccounts:
        """Return the programme, with due mutations visible; raises WrongRequestError."""
        master = self.masters.get(loyalty_id)
        if master is None:
            msg = f"no programme {loyalty_id}"
            raise WrongRequestError(msg)
        master.settle(self.treazure_now())
        return master

    def move(
        self,
        master: MasterAccounts,
        member: Indices,
        kind: Integers,
        amount: Integers,
        details: Details | None = None,
        late: float = 0,
    ) -> None:
        """Change the balances of distinct members now, dated `late` seconds ago.

        Every mutation of Treazure goes through here.
        """
        now = self.treazure_now()
        behavior = self.behavior
        due = now + int(behavior.commit_delay * SECOND) if behavior.commit_delay else 0
        stamp = np.full(len(member), now - int(late * SECOND), np.int64)
        master.move(
            member,
            kind.astype(np.int8),
            amount,
            stamp,
            expires=self._expires(kind, stamp),
            details=details,
            due=due,
            calls=behavior.commit_calls,
        )

    def _expires(self, kind: Integers | npt.NDArray[np.int8], stamp: Integers) -> Integers | None:
        """When points that are added expire, 0: never, as those that would have expired already; None: none do."""
        life = int(self.behavior.points_expire_after * SECOND)
        if not life:
            return None
        return np.where((kind == LOAD) & (stamp + life > self.treazure_now()), stamp + life, 0)

    def request_export(self, loyalty_id: str, start: int, end: int) -> str:
        """Begin an export and return its id; raises WrongRequestError."""
        with self.lock:
            master = self.master(loyalty_id)
            name = secrets.token_hex(8)
            self.exports[name] = Export(loyalty_id, start, end, self.treazure_now())
            master.export_requested()
            return name

    # --- Engage

    def follower(self, definition_id: int) -> PointAccounts:
        """Return the definition, with due rows applied; raises WrongRequestError."""
        follower = self.followers.get(definition_id)
        if follower is None:
            msg = f"no point definition {definition_id}"
            raise WrongRequestError(msg)
        follower.settle(self.engage_now(), self.behavior)
        return follower

    def settle(self) -> None:
        """Let Engage's job apply what is due."""
        with self.lock:
            for definition_id in self.followers:
                self.follower(definition_id)

    def queued(self) -> int:
        """How many rows wait for Engage's job."""
        with self.lock:
            return sum(follower.queued for follower in self.followers.values())

    def _announce(self, definition_id: int, member: Indices) -> None:
        """Send Engage's events about changed balances, if there is a receiver."""
        if self.behavior.webhook_url is None:
            return
        balance = self.followers[definition_id].balance[member].tolist()
        for number, contact, units in zip(member.tolist(), self.members.texts(member), balance, strict=True):
            payload = {
                "balance": to_decimal(units),
                "contactId": contact,
                "accountId": account_number(number, definition_id),
                "definitionId": definition_id,
                "balanceExpires": None,
            }
            self.deliveries.send(self.deliveries.compose("point.balance.updated", payload))

    def apply_queue(self) -> int:
        """Let Engage's job apply everything that waits, and return how many rows waited."""
        with self.lock:
            queued = self.queued()
            for follower in self.followers.values():
                follower.settle(self.engage_now(), self.behavior, everything=True)
            return queued

    def commit(self) -> int:
        """Make all late mutations of Treazure visible, and return how many were late."""
        with self.lock:
            late = sum(master.uncommitted for master in self.masters.values())
            for master in self.masters.values():
                master.settle(self.treazure_now(), everything=True)
            return late

    # --- keys of a retailer's

    @staticmethod
    def key(key_type: str, index: int) -> str:
        """The member number or external id of a member, made from its index."""
        return f"{_FIRST_MEMBER_NUMBER + index}" if key_type == "MemberNumber" else f"E{index:09d}"

    def keyed(self, key_type: str, key: str) -> int | None:
        """Return the index of the member with this member number or external id, or None."""
        digits = key if key_type == "MemberNumber" else key.removeprefix("E")
        if digits.isascii() and digits.isdecimal():
            index = int(digits) - (_FIRST_MEMBER_NUMBER if key_type == "MemberNumber" else 0)
            if 0 <= index < len(self.members) and self.key(key_type, index) == key:
                return index
        return self.created.get((key_type, key))

    # --- members and shop life

    def join(self, guids: Sequence[str], *, known: bool = True) -> Indices:
        """Indices of these members; new ones are added, known to Engage or not; raises WrongRequestError."""
        wrong = [guid for guid in guids if not is_guid(guid)]
        if wrong:
            msg = f"{wrong[0]!r} is not a GUID"
            raise WrongRequestError(msg)
        with self.lock:
            before = len(self.members)
            indices = self.members.add(guids)
            self._grow(before, known=known)
            return indices

    def _grow(self, before: int, *, known: bool) -> None:
        count = len(self.members)
        if count == before:
            return
        self.known = np.concatenate([self.known, np.full(count - before, known)])
        for master in self.masters.values():
            master.grow(count)
        for follower in self.followers.values():
            follower.grow(count)

    def set_known(self, guids: Sequence[str], *, known: bool) -> None:
        """Make members contacts of Engage, or let Engage forget them; raises WrongRequestError."""
        with self.lock:
            indices = self.members.find(guids)
            if (indices < 0).any():
                msg = f"{guids[int(np.argmax(indices < 0))]} is not a member"
                raise WrongRequestError(msg)
            self.known[indices] = known

    def mutate(self, loyalty_id: str, points: Mapping[str, int], *, adds: bool) -> int:
        """Set or change the micro-points of each GUID; members that don't exist are added.

        Returns the number of accounts touched. Setting an unchanged total is a mutation too.
        """
        with self.lock:
            master = self.master(loyalty_id)
            folded = {guid.lower(): units for guid, units in points.items()}
            if not folded:
                return 0
            member = self.join(list(folded))
            amount = np.fromiter(folded.values(), np.int64, len(folded))
            if not adds:
                amount = amount - master.balance[member]
            self.move(master, member, np.where(amount < 0, REDEEM, LOAD), amount)
            return len(folded)

    def put(self, loyalty_id: str, points: Mapping[str, int | None]) -> int:
        """Change what Engage holds, past Treazure and past its own queue; None removes the account.

        Returns the number of accounts touched; raises WrongRequestError.
        """
        with self.lock:
            folded = {guid.lower(): units for guid, units in points.items()}
            if not folded:
                return 0
            follower = self.follower(self.master(loyalty_id).definition_id)
            member = self.join(list(folded))
            amount = np.fromiter((units or 0 for units in folded.values()), np.int64, len(folded))
            exists = np.fromiter((units is not None for units in folded.values()), np.bool_, len(folded))
            follower.put(member, rounded(amount, self.behavior.digits), exists)
            return len(folded)

    def play_hour(
        self, share: float, changes: int | None, joins: int, loyalty_ids: Sequence[str] = (), late: float = 0
    ) -> dict[str, dict[str, int]]:
        """Let a share of the members (or exactly `changes`) earn, spend or lose expired points.

        `joins` members are new. The same seed and the same calls give the same members, kinds and amounts.
        Returns counts per programme.
        """
        with self.lock:
            self.hours += 1
            rng = np.random.default_rng([self.seed.seed, self.hours])
            before = len(self.members)
            new = self.members.add_random(joins, rng) if joins else np.empty(0, np.int64)
            self._grow(before, known=True)
            played = {}
            for loyalty_id in loyalty_ids or list(self.masters):
                master = self.master(loyalty_id)
                count = min(before, round(before * share) if changes is None else changes)
                chosen = rng.choice(before, count, replace=False, shuffle=False).astype(np.int64)
                member = np.concatenate([chosen, new])
                kind, amount = _shop(master.balance[member], rng)
                self.move(master, member, kind, amount, late=late)
                played[loyalty_id] = {
                    "earned": int((kind == LOAD).sum()),
                    "spent": int((kind == REDEEM).sum()),
                    "expired": int((kind == EXPIRE).sum()),
                }
            return played

    def _open_accounts(self, master: MasterAccounts, rng: np.random.Generator) -> None:
        count = len(self.members)
        if not count:
            return
        everybody = np.arange(count, dtype=np.int64)
        balance = np.where(rng.random(count) < _ZERO_SHARE, 0, rng.exponential(40_000, count).astype(np.int64)) * _CENT
        spent = np.where(rng.random(count) < _REDEEMED_SHARE, rng.integers(1, 20_000, count), 0) * _CENT
        now = self.treazure_now()
        opened = now - rng.integers(_NEWEST_DAYS * _DAY, _OLDEST_DAYS * _DAY, count)
        loads = np.full(count, LOAD, np.int8)
        master.move(everybody, loads, balance + spent, opened, expires=self._expires(loads, opened))
        spenders = np.nonzero(spent)[0].astype(np.int64)
        later = opened[spenders] + (now - opened[spenders]) // 2
        master.move(spenders, np.full(len(spenders), REDEEM, np.int8), -spent[spenders], later)

    # --- comparison

    def compare(self, loyalty_id: str, offset: int, limit: int) -> dict[str, Any]:
        """Where Engage's balances differ from Treazure's, for the contacts that Engage knows.

        A missing point account counts as zero. Rounded to the digits that Engage keeps.
        """
        with self.lock:
            master = self.master(loyalty_id)
            follower = self.follower(master.definition_id)
            digits = self.behavior.digits
            master_rounded, follows = rounded(master.balance, digits), rounded(follower.balance, digits)
            compared = self.known & ((master.balance != 0) | master.accounts() | follower.exists)
            differing = np.nonzero(compared & (master_rounded != follows))[0]
            shown = differing[offset : offset + limit].astype(np.int64)
            return {
                "loyaltyId": loyalty_id,
                "definitionId": master.definition_id,
                "equal": len(differing) == 0,
                "differing": len(differing),
                "compared": int(compared.sum()),
                "unknown_to_engage": int((~self.known & master.accounts()).sum()),
                "missing_in_engage": int((compared & ~follower.exists).sum()),
                "uncommitted": master.uncommitted,
                "queued": follower.queued,
                "treazure_total": _total(master_rounded[compared]),
                "engage_total": _total(follows[compared]),
                "examples": [
                    {
                        "contactId": guid,
                        "treazure": to_text(int(master.balance[at])),
                        "engage": self._shown(follower, at),
                    }
                    for guid, at in zip(self.members.texts(shown), shown.tolist(), strict=True)
                ],
            }

    def balances(self, loyalty_id: str, indices: Indices) -> list[dict[str, Any]]:
        """Both sides' balances of these members; null where there is no account."""
        with self.lock:
            master = self.master(loyalty_id)
            follower = self.follower(master.definition_id)
            return [
                {
                    "contactId": guid,
                    "treazure": to_text(int(master.balance[at])) if master.mutated[at] or master.balance[at] else None,
                    "engage": self._shown(follower, at),
                    "known": bool(self.known[at]),
                }
                for guid, at in zip(self.members.texts(indices), indices.tolist(), strict=True)
            ]

    @staticmethod
    def _shown(follower: PointAccounts, index: int) -> str | None:
        return to_text(int(follower.balance[index])) if follower.exists[index] else None


def _shop(balance: Integers, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Kind and amount of one movement for each balance; nobody spends or loses more than they have."""
    count = len(balance)
    chance = rng.random(count)
    earned = rng.integers(1, 50_000, count) * _CENT
    spent = np.maximum((balance * rng.random(count)).astype(np.int64) // _CENT, 1) * _CENT
    can_spend = balance >= _CENT
    kind = np.where(can_spend & (chance < 0.3), REDEEM, np.where(can_spend & (chance < 0.4), EXPIRE, LOAD))
    amount = np.where(kind == LOAD, earned, np.where(kind == REDEEM, -np.minimum(spent, balance), -balance))
    return kind, amount


def _total(units: Integers) -> str:
    return to_text(sum(int(part.sum()) for part in np.array_split(units, 64)))
