"""A shard's files: written from what was fetched, read back once, and recorded with each contact's sum."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING

import polars as pl

from treazure_pipeline import phrases
from treazure_pipeline.point_migration import backfill, file_store, parts, roster_store
from treazure_pipeline.point_migration.backfill import Finding, MigrationError
from treazure_pipeline.point_migration.file_store import File
from treazure_pipeline.point_migration.files import read_rows, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.point_migration.files import FilesReport


@dataclass(frozen=True)
class Written:
    """A shard's files, and findings about its contacts."""

    files: int
    rows: int
    total: Decimal
    findings: int
    contacts: int
    movements: int
    seconds: float

    @property
    def sentence(self) -> str:
        """What the shard's files contain."""
        told = f"{phrases.counted(self.files, 'file')} with {phrases.counted(self.rows, 'row')}"
        findings = f"; {phrases.counted(self.findings, 'finding')} to look at" if self.findings else ""
        return (
            f"{told} and {phrases.points(self.total)} points of {phrases.counted(self.contacts, 'contact')}{findings}"
        )


def folder_of(home: Path, account: Account, migration: Migration) -> Path:
    """Return the folder below the home for a migration's files and reports."""
    return home / "migration" / account.name / str(migration.id)


def write_shard(ledger: Ledger, account: Account, shard: int, home: Path) -> Written:
    """Write the files of a shard whose logs are all there. Running it again gives the same bytes.

    Raises MigrationError where logs are missing, or where the shard has been delivered and would change.
    """
    began = time.perf_counter()
    with backfill.holding(ledger, account, shard):
        migration = backfill.opened(ledger, account)
        backfill.require(migration, "ready", "delivered")
        state = backfill.progress(ledger, migration, shard)
        if missing := state.contacts - state.fetched - state.left_out:
            raise MigrationError(
                f"{missing} of {state.contacts} contacts of shard {shard} have not been read.",
                hint="Materialize migration_points_log for this shard first.",
            )
        folder = folder_of(home, account, migration) / "files"
        report = _write(ledger, account, migration, shard, folder)
        files = [File(shard, file.name, file.rows, file.amount, file.size, file.sha256) for file in report.files]
        file_store.record_files(
            ledger,
            migration,
            shard,
            files,
            _findings(report),
            _sums(folder, files, migration.decimals),
            _figures(report),
        )
    return Written(
        files=len(files),
        rows=sum(file.rows for file in files),
        total=sum((file.total for file in files), Decimal(0)),
        findings=report.findings.height,
        contacts=state.contacts,
        movements=state.movements,
        seconds=time.perf_counter() - began,
    )


def body_of(ledger: Ledger, account: Account, migration: Migration, file: File, home: Path) -> bytes:
    """Return a file's bytes; where this machine has not written them, they are written again from what was fetched.

    Raises MigrationError where they are not what was recorded.
    """
    folder = folder_of(home, account, migration) / "files"
    for written in (False, True):
        if written:
            with backfill.holding(ledger, account, file.shard):
                _write(ledger, account, migration, file.shard, folder)
        with suppress(FileNotFoundError):
            body = (folder / file.name).read_bytes()
            if hashlib.sha256(body).hexdigest() == file.sha256:
                return body
    raise MigrationError(
        f"{file.name} can't be written again as it was: its data has changed, or the way files are written.",
        hint=f"Run point_migration for shard {file.shard} again.",
    )


def _write(ledger: Ledger, account: Account, migration: Migration, shard: int, folder: Path) -> FilesReport:
    return write_files(
        roster_store.parts(ledger, migration, shard) if migration.mode == "log" else (),
        map(parts.roster, roster_store.roster(ledger, migration, shard)),
        folder,
        definition_id=account.definition_id,
        cut_off=migration.cut_off,
        mode=migration.mode,
        key_type=migration.key_type,
        prefix=f"{account.name}-{migration.id}-{shard:03}",
        decimals=migration.decimals,
    )


def _findings(report: FilesReport) -> Iterator[Finding]:
    for contact, kind, field, value, amount, advice in report.findings.select(
        "contact", pl.col("kind").cast(pl.String), "field", "value", "amount", "advice"
    ).iter_rows():
        yield Finding(contact, kind, field, value or "", amount, advice)


def _figures(report: FilesReport) -> dict[str, object]:
    """Return the writer's figures for JSON, with points as exact text."""
    values = {field.name: getattr(report.figures, field.name) for field in fields(report.figures)}
    return {name: str(value) if isinstance(value, Decimal) else dict(value) for name, value in values.items()}


def _sums(folder: Path, files: Sequence[File], decimals: int) -> Iterator[tuple[str, Decimal, int]]:
    """Read the files as the importer does, and return the sum and the number of rows of each key."""
    if not files:
        return
    each = [
        read_rows((folder / file.name).read_bytes(), ["Key", "Amount"])
        .group_by("Key")
        .agg(pl.col("Amount").cast(pl.Decimal(38, decimals)).sum(), rows=pl.len())
        for file in files
    ]
    yield from pl.concat(each).group_by("Key").agg(pl.col("Amount").sum(), pl.col("rows").sum()).sort("Key").iter_rows()
