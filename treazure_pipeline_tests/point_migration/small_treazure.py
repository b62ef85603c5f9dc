"""A Treazure small enough to be right at a glance, whose logs the tests migrate, and what Engage makes of the files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import polars as pl

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration.files import FilesReport, write_files
from treazure_pipeline.point_migration.parts import encode, roster

CUT_OFF = datetime(2025, 6, 1, tzinfo=UTC)
ZERO = Decimal(0)


@dataclass
class Account:
    """One contact's points: a log, and the points with an expiry; those that expire first are used first."""

    now: datetime
    log: list[Movement] = field(default_factory=list)
    dated: list[tuple[datetime, Decimal]] = field(default_factory=list)
    balance: Decimal = ZERO

    def load(self, amount: Decimal, life: timedelta | None = None, kind: str = "Load") -> None:
        expires = None if life is None else self.now + life
        if expires:
            self.dated.append((expires, amount))
        self._move(kind, amount, expires)

    def use(self, amount: Decimal, kind: str = "Redeem") -> None:
        amount = min(amount, self.balance)
        left, self.dated = amount, sorted(self.dated)
        for place, (expires, points) in enumerate(self.dated):
            used = min(left, points)
            left -= used
            self.dated[place] = (expires, points - used)
        self._move(kind, -amount, None)

    def redeem_voucher(self, amount: Decimal) -> None:
        self.log.append(Movement(self.now, amount, "RedeemVoucher", self.balance))

    def wait(self, time: timedelta) -> None:
        until = self.now + time
        for expires, amount in sorted(self.dated):
            if self.now <= expires <= until and amount:
                self.now = expires
                self._move("Expire", -amount, None)
        self.dated = [(expires, amount) for expires, amount in self.dated if expires > until]
        self.now = until

    def balance_in(self, moment: datetime) -> Decimal:
        """What will be left if nothing but time passes."""
        return self.balance - sum((amount for expires, amount in self.dated if expires <= moment), ZERO)

    def _move(self, kind: str, amount: Decimal, expires: datetime | None) -> None:
        self.balance += amount
        self.log.append(Movement(self.now, amount, kind, self.balance, expires_at=expires))


def contact(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def migrate(
    folder: Path,
    logs: Mapping[str, Sequence[Movement]],
    balances: Mapping[str, Decimal],
    *,
    keys: Mapping[str, str] | None = None,
    part_size: int = 3,
    block_size: int = 4,
    **options: Any,
) -> FilesReport:
    """Write the files of these contacts, stored in parts and blocks of a few."""
    parts = (encode({name: logs[name] for name in names}) for names in _some(sorted(logs), part_size))
    blocks = (
        roster([(name, balances[name], (keys or {}).get(name)) for name in names])
        for names in _some(sorted(balances), block_size)
    )
    return write(parts, blocks, folder, **options)


def write(parts: Iterable[bytes], blocks: Iterable[pl.DataFrame], folder: Path, **options: Any) -> FilesReport:
    settings: dict[str, Any] = {
        "definition_id": 1,
        "cut_off": CUT_OFF,
        "mode": "log",
        "key_type": "ContactId",
        "decimals": 2,
    }
    return write_files(parts, blocks, folder, prefix="points", **(settings | options))


def rows_of(folder: Path, report: FilesReport) -> list[dict[str, str]]:
    """All rows of all files in order, as the importer sees them."""
    rows: list[dict[str, str]] = []
    for file in report.files:
        with (folder / file.name).open(encoding="utf-8", newline="") as lines:
            rows.extend(csv.DictReader(lines, delimiter=";", quoting=csv.QUOTE_NONE))
    return rows


def in_engage(rows: Iterable[Mapping[str, str]], key: str, moment: datetime) -> Decimal:
    """The balance that Engage shows: each row counts until its ValidTo."""
    own = (row for row in rows if row["Key"] == key)
    counted = (row for row in own if not row["ValidTo"] or datetime.fromisoformat(row["ValidTo"]) > moment)
    return sum((Decimal(row["Amount"]) for row in counted), ZERO)


def in_engage_if_oldest_go_first(rows: Iterable[Mapping[str, str]], key: str, moment: datetime) -> Decimal:
    """The balance that Engage would show if rows that take points used up the oldest ones."""
    added: list[tuple[str, Decimal]] = []
    for row in rows:
        amount = Decimal(row["Amount"])
        if row["Key"] != key:
            continue
        if amount > 0:
            added.append((row["ValidTo"], amount))
        while amount < 0:
            (valid_to, points), *added = added
            if points + amount > 0:
                added.insert(0, (valid_to, points + amount))
            amount = min(points + amount, ZERO)
    return sum(
        (points for valid_to, points in added if not valid_to or datetime.fromisoformat(valid_to) > moment), ZERO
    )


def rounded(points: Decimal, decimals: int) -> Decimal:
    return points.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)


def found(report: FilesReport, kind: str) -> pl.DataFrame:
    return report.findings.filter(pl.col("kind") == kind)


def _some(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
