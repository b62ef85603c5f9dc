"""What the sandbox observed about its clients, on its own monotonic clock. Tests rely on it.

Memory is bounded by the members (some numbers for each row that was ever sent) and by one second of requests.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from treazure_pipeline.sandbox.points import moment_text, to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from treazure_pipeline.sandbox.behavior import Behavior
    from treazure_pipeline.sandbox.master import MasterAccounts
    from treazure_pipeline.sandbox.members import Members
    from treazure_pipeline.sandbox.points import Indices, Integers

SINGLE_ACCOUNTS = ("account", "transaction", "history")
"""The operations of Treazure that share one rate."""
_EXAMPLES = 10
_WINDOW_SECONDS = 1.0
_NO_AMOUNT = np.int64(-(2**63))


@dataclass(slots=True)
class Flight:
    """One balance request about some rows of one definition, from its arrival to the end of its answer."""

    definition_id: int
    member: Indices
    arrival: float


@dataclass(slots=True)
class _Rate:
    """The requests of the last second, and the most there ever were in one second."""

    arrivals: deque[float] = field(default_factory=deque)
    admitted: deque[float] = field(default_factory=deque)
    most: int = 0

    def arrived(self, now: float, limit: int) -> bool:
        """Note a request; False if it is over the limit (0: there is none)."""
        self.arrivals.append(now)
        _forget(self.arrivals, now)
        self.most = max(self.most, len(self.arrivals))
        _forget(self.admitted, now)
        if limit and len(self.admitted) >= limit:
            return False
        self.admitted.append(now)
        return True


@dataclass(slots=True)
class Findings:
    """How often something was seen, with the first examples."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, count: int, example: Callable[[], dict[str, Any]]) -> None:
        """Note more of them."""
        self.count += count
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example())

    def report(self) -> dict[str, Any]:
        """The findings for the report."""
        return {"count": self.count, "examples": self.examples}


@dataclass(slots=True)
class _Rows:
    """What is stored for each member of one definition."""

    flying: npt.NDArray[np.int16]
    ended: npt.NDArray[np.float64]
    received: Integers
    accepted: Integers
    version: Integers
    amount: Integers

    @classmethod
    def of(cls, members: int) -> _Rows:
        zeros = np.zeros(members, np.int64)
        return cls(
            np.zeros(members, np.int16),
            np.zeros(members, np.float64),
            zeros,
            zeros.copy(),
            zeros.copy(),
            np.full(members, _NO_AMOUNT),
        )

    def grown(self, members: int) -> _Rows:
        """A copy with room for members that came later."""
        more = _Rows.of(members - len(self.flying))
        columns = ((getattr(self, name), getattr(more, name)) for name in self.__slots__)
        return _Rows(*(np.concatenate(pair) for pair in columns))


class Observations:
    """Counts and findings since the start or since they were last forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._by_key: dict[str, _Rate] = {}
        self._single_accounts = _Rate()
        self._rows: dict[int, _Rows] = {}
        self.requests: Counter[str] = Counter()
        self.answers: dict[str, Counter[str]] = {}
        self.counts: Counter[str] = Counter()
        self.receipts: Counter[str] = Counter()
        self.overlaps = Findings()
        self.repeated = Findings()
        self.not_growing = Findings()
        self.older_than_accepted = Findings()
        self.stale_amounts = Findings()
        self.foreign_amounts = Findings()

    def arrived(self, operation: str, key: str | None, arrival: float, behavior: Behavior) -> bool:
        """Note a request (`key` for Engage's); False if it is over the rate of its key, or of Treazure's accounts."""
        with self._lock:
            self.requests[operation] += 1
            if key is not None:
                return self._by_key.setdefault(key, _Rate()).arrived(arrival, behavior.max_requests_per_second)
            if operation in SINGLE_ACCOUNTS:
                return self._single_accounts.arrived(arrival, behavior.treazure_max_requests_per_second)
            return True

    def answered(self, operation: str, outcome: str) -> None:
        """Note a status, or that a request got no answer."""
        with self._lock:
            self.answers.setdefault(operation, Counter())[outcome] += 1

    def add(self, name: str, count: int) -> None:
        """Add to one of the plain counts."""
        with self._lock:
            self.counts[name] += count

    def transacted(self, receipt: str) -> None:
        """Note a transaction that Treazure carried out."""
        with self._lock:
            self.counts["transactions"] += 1
            self.receipts[receipt] += 1

    def take_off(self, flight: Flight, stamp: Integers, members: Members) -> None:
        """Note the rows of a request: overlaps with others, time stamps that don't grow, repetitions."""
        with self._lock:
            definition_id, member = flight.definition_id, flight.member
            rows = self._of(definition_id, len(members))
            unique, first = np.unique(member, return_index=True)
            again = np.delete(member, first) if len(unique) < len(member) else member[:0]
            if len(again):
                self.repeated.add(len(again), lambda: _row(members, int(again[0]), definition_id))
            overlapping = unique[(rows.flying[unique] > 0) | (rows.ended[unique] > flight.arrival)]
            if len(overlapping):
                self.overlaps.add(len(overlapping), lambda: _row(members, int(overlapping[0]), definition_id))
            flat = stamp <= rows.received[member]
            if flat.any():
                example = _stamps(
                    _row(members, int(member[flat][0]), definition_id), stamp[flat], rows.received[member][flat]
                )
                self.not_growing.add(int(flat.sum()), lambda: example)
            np.maximum.at(rows.received, member, stamp)
            rows.flying[unique] += 1

    def landed(self, flight: Flight) -> None:
        """Note that the request was answered, or that its connection is closed."""
        with self._lock:
            rows = self._rows.get(flight.definition_id)
            if rows is None:
                return
            unique = np.unique(flight.member)
            rows.flying[unique] = np.maximum(rows.flying[unique] - 1, 0)
            rows.ended[unique] = time.monotonic()

    def accepted(self, definition_id: int, member: Indices, stamp: Integers, members: Members) -> None:
        """Note rows that Engage accepted."""
        with self._lock:
            rows = self._of(definition_id, len(members))
            older = stamp < rows.accepted[member]
            if older.any():
                example = _stamps(
                    _row(members, int(member[older][0]), definition_id), stamp[older], rows.accepted[member][older]
                )
                self.older_than_accepted.add(int(older.sum()), lambda: example)
            np.maximum.at(rows.accepted, member, stamp)

    def follow_amounts(self, master: MasterAccounts, member: Indices, amount: Integers, members: Members) -> None:
        """Check that each account's amounts follow the order of its balances in Treazure.

        Every amount should be a balance that the account had, none earlier than the one accepted before it. It reads
        the history only of accounts whose amount isn't what Treazure holds now, or differs from the last one.
        Called with the world's lock held.
        """
        with self._lock:
            rows = self._of(master.definition_id, len(members))
            last = rows.amount[member]
            plain = (amount == master.visible[member]) & ((last == _NO_AMOUNT) | (last == amount))
            rows.amount[member[plain]] = amount[plain]
            rest = ~plain & (last != amount)
            for index, units in zip(member[rest].tolist(), amount[rest].tolist(), strict=True):
                self._follow(rows, master, index, units, members)

    def _follow(self, rows: _Rows, master: MasterAccounts, index: int, units: int, members: Members) -> None:
        if rows.amount[index] != _NO_AMOUNT:
            last = master.versions(index, int(rows.amount[index]))
            rows.version[index] = next(
                (version for version in last if version >= rows.version[index]), rows.version[index]
            )
        versions = master.versions(index, units)
        if versions and versions[-1] >= rows.version[index]:
            rows.amount[index] = units
            return
        findings = self.stale_amounts if versions else self.foreign_amounts
        findings.add(1, lambda: _row(members, index, master.definition_id) | {"amount": to_text(units)})

    def _of(self, definition_id: int, members: int) -> _Rows:
        rows = self._rows.get(definition_id)
        if rows is None:
            rows = self._rows[definition_id] = _Rows.of(members)
        elif len(rows.flying) < members:
            rows = self._rows[definition_id] = rows.grown(members)
        return rows

    def _problems(self) -> list[str]:
        seen = {
            "rows were in two requests at once": self.overlaps.count,
            "rows came twice in one request": self.repeated.count,
            "rows had a time stamp that wasn't newer than the last": self.not_growing.count,
            "rows were sent older than one already accepted": self.older_than_accepted.count,
            "amounts were older than one already accepted": self.stale_amounts.count,
            "amounts were never a balance in Treazure": self.foreign_amounts.count,
            "requests brought a cookie back": self.counts["cookies"],
            "requests took credentials to the storage host": self.counts["strayed"],
            "receipts were booked more than once": sum(
                count > 1 for receipt, count in self.receipts.items() if receipt
            ),
        }
        return [f"{count} {what}" for what, count in seen.items() if count]

    def report(self) -> dict[str, Any]:
        """Everything, as JSON-ready values."""
        with self._lock:
            return {
                "problems": self._problems(),
                "seconds": round(time.monotonic() - self._since, 3),
                "requests": dict(self.requests),
                "answers": {operation: dict(outcomes) for operation, outcomes in self.answers.items()},
                "largest_in_one_second": max((rate.most for rate in self._by_key.values()), default=0),
                "largest_in_one_second_by_key": {f"…{key[-4:]}": rate.most for key, rate in self._by_key.items()},
                "treazure_largest_in_one_second": self._single_accounts.most,
                "rows": {name: self.counts[name] for name in ("received", "accepted", "refused", "swallowed")},
                "overlaps": self.overlaps.report(),
                "repeated_in_one_request": self.repeated.report(),
                "time_stamps_not_growing": self.not_growing.report(),
                "older_than_accepted": self.older_than_accepted.report(),
                "stale_amounts": self.stale_amounts.report(),
                "foreign_amounts": self.foreign_amounts.report(),
                "transactions": self.counts["transactions"],
                "repeated_receipts": {
                    receipt: count for receipt, count in self.receipts.items() if count > 1 and receipt
                },
            }


def _forget(window: deque[float], now: float) -> None:
    while window and window[0] <= now - _WINDOW_SECONDS:
        window.popleft()


def _row(members: Members, index: int, definition_id: int) -> dict[str, Any]:
    return {"contactId": members.text(index), "definitionId": definition_id}


def _stamps(row: dict[str, Any], stamp: Integers, newest: Integers) -> dict[str, Any]:
    return row | {"timeStamp": moment_text(int(stamp[0])), "newest": moment_text(int(newest[0]))}
