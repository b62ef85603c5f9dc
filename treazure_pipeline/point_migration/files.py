"""Turns parts of fetched logs and blocks of the roster into the files that Engage imports.

Both come in order of contacts and are read once, so memory depends on the size of a chunk, not of the shard. Findings are data, and no single row
stops the others. The same parts and blocks give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import polars as pl

from treazure_pipeline import private
from treazure_pipeline.point_migration.meaning import BALANCE, MOST_ROWS, KeyType, Mode, file_rows
from treazure_pipeline.point_migration.parts import ROSTER, SCHEMA, decode
from treazure_pipeline.point_migration.rows import ADVICE, FINDINGS, Chunk, Figures, of_balances, of_logs

CHUNK_ROWS = 100_000
"""At least this many movements are processed together."""
CHUNK_CONTACTS = 20_000
"""This many contacts are processed together if there are no movements."""
CHUNKS_AT_ONCE = 2

_Some = tuple[pl.DataFrame, pl.DataFrame]
"""Movements and the contacts of the roster that go with them."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class File:
    """A file that was written: name in the folder, rows without the header, sum of the amounts, bytes, SHA-256."""

    name: str
    rows: int
    amount: Decimal
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FilesReport:
    """What was written, how every movement and point was treated, and findings about single contacts.

    `findings` has the columns of `FINDINGS` and `advice`, in the order of contacts.
    """

    files: tuple[File, ...]
    figures: Figures
    findings: pl.DataFrame


def write_files(
    parts: Iterable[bytes],
    balances: Iterable[pl.DataFrame],
    folder: Path,
    *,
    definition_id: int,
    cut_off: datetime,
    mode: Mode,
    key_type: KeyType,
    prefix: str,
    decimals: int,
    rows_per_file: int = MOST_ROWS,
) -> FilesReport:
    """Write `{prefix}-0001-{digest}.csv` and so on into the folder, in place of all earlier files of that prefix.

    `parts` are those of `parts.encode`, `balances` blocks of `parts.roster`, each in ascending order of contacts; every
    contact is in one part and one block. In mode `balance` no part is looked at.

    Raises:
        ValueError: The parts or the blocks are not in order, or have a contact twice.
        ArithmeticError: The rows do not add up, which would be an error of this module.
    """
    private.folder(folder)
    for old in folder.iterdir():
        if re.fullmatch(rf"{re.escape(prefix)}-\d+-[0-9a-f]+\.csv", old.name):
            old.unlink()

    def converted(some: _Some) -> tuple[Chunk, pl.DataFrame]:
        movements, contacts = some
        if mode == "log":
            chunk = of_logs(movements, contacts, cut_off, decimals)
        else:
            chunk = of_balances(contacts, cut_off, decimals, BALANCE)
        return chunk, file_rows(chunk.rows, definition_id, key_type, decimals)

    out = _Files(folder, prefix, rows_per_file)
    figures, findings = Figures(), [pl.DataFrame(schema=FINDINGS)]
    for chunk, rows in _in_turn(converted, _chunks(parts if mode == "log" else (), balances, key_type)):
        figures.add(chunk.figures)
        findings.append(chunk.findings)
        out.add(chunk.rows["contact"], rows)
    out.finish()
    figures.check()
    if sum((file.amount for file in out.written), Decimal(0)) != figures.rows:
        raise ArithmeticError("the files do not hold what the rows add up to")
    findings.append(out.spanning())
    said = pl.concat(findings).sort("contact", maintain_order=True)
    advice = pl.col("kind").cast(pl.String).replace_strict(ADVICE, return_dtype=pl.String)
    return FilesReport(tuple(out.written), figures, said.with_columns(advice=advice))


def _chunks(parts: Iterable[bytes], balances: Iterable[pl.DataFrame], key_type: KeyType) -> Iterator[_Some]:
    blocks = _ascending(_keyed(balances, key_type), "the blocks of the roster")
    return _side_by_side(_gathered(_ascending(map(decode, parts), "the parts")), blocks)


def _in_turn(function: Callable[[_Some], _Result], chunks: Iterator[_Some]) -> Iterator[_Result]:
    """Yield the results in the order of the chunks, while the next ones are being worked on."""
    with ThreadPoolExecutor(CHUNKS_AT_ONCE) as threads:
        ahead: deque[Future[_Result]] = deque()
        for chunk in chunks:
            ahead.append(threads.submit(function, chunk))
            if len(ahead) > CHUNKS_AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _keyed(blocks: Iterable[pl.DataFrame], key_type: KeyType) -> Iterator[pl.DataFrame]:
    for block in blocks:
        if block["contact"].n_unique() < block.height:
            raise ValueError("a block of the roster has a contact twice")
        yield block.with_columns(key="contact") if key_type == "ContactId" else block


def _ascending(frames: Iterable[pl.DataFrame], what: str) -> Iterator[pl.DataFrame]:
    """Yield the frames that are not empty. Raises ValueError if contacts are out of order."""
    last = ""
    for frame in frames:
        if frame.is_empty():
            continue
        if frame["contact"][0] <= last or not frame["contact"].is_sorted():
            raise ValueError(f"{what} are not in ascending order of contacts, near {frame['contact'][0]}")
        last = frame["contact"][-1]
        yield frame


def _gathered(parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join parts until they have enough rows to be worth processing."""
    some: list[pl.DataFrame] = []
    for part in parts:
        some.append(part)
        if sum(frame.height for frame in some) >= CHUNK_ROWS:
            yield pl.concat(some)
            some = []
    if some:
        yield pl.concat(some)


def _side_by_side(logs: Iterable[pl.DataFrame], blocks: Iterator[pl.DataFrame]) -> Iterator[_Some]:
    """Yield movements with the contacts of the roster up to their last one, and finally the contacts without a log."""
    rest = pl.DataFrame(schema=ROSTER)
    for movements in logs:
        last = movements["contact"][-1]
        some = []
        while rest.is_empty() or rest["contact"][-1] <= last:
            some.append(rest)
            rest = next(blocks, pl.DataFrame(schema=ROSTER))
            if rest.is_empty():
                break
        some.append(rest.filter(pl.col("contact") <= last))
        rest = rest.filter(pl.col("contact") > last)
        yield movements, pl.concat(some)
    for block in (rest, *blocks):
        for some_contacts in block.iter_slices(CHUNK_CONTACTS):
            yield pl.DataFrame(schema=SCHEMA), some_contacts


def read_rows(body: bytes, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of a file as the importer sees them: texts or null, without quoting."""
    return pl.read_csv(body, separator=";", quote_char=None, columns=columns, infer_schema=False)


@dataclass(slots=True)
class _Files:
    """Puts rows into files: as many complete contacts as fit. Only a contact that is too large for a file spans several."""

    folder: Path
    prefix: str
    limit: int
    written: list[File] = field(default_factory=list)
    _contacts: pl.Series = field(default_factory=lambda: pl.Series("contact", [], pl.String))
    _rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    _divided: list[str] = field(default_factory=list)

    def add(self, contacts: pl.Series, rows: pl.DataFrame) -> None:
        """Take rows of contacts that come after all earlier ones, and write the files that are full."""
        if self._rows.height:
            contacts, rows = pl.concat([self._contacts, contacts]), pl.concat([self._rows, rows])
        ends = contacts.rle_id().rle().struct.field("len").cum_sum() if len(contacts) else contacts.clear()
        begin = 0
        while rows.height - begin > self.limit:
            whole = ends.search_sorted(begin + self.limit, "right")
            end = int(ends[whole - 1]) if whole else begin
            if end <= begin:
                end = begin + self.limit
                self._divided.append(contacts[begin])
            self._write(rows[begin:end])
            begin = end
        self._contacts, self._rows = contacts[begin:], rows[begin:]

    def finish(self) -> None:
        """Write what is left."""
        if self._rows.height:
            self._write(self._rows)
        self._rows = pl.DataFrame()

    def spanning(self) -> pl.DataFrame:
        """Return findings about contacts that are in more than one file."""
        contacts = pl.DataFrame({"contact": list(dict.fromkeys(self._divided))}, schema={"contact": pl.String})
        return contacts.select(
            "contact",
            kind=pl.lit("spans_files"),
            field=pl.lit("rows"),
            value=pl.lit(f"more than {self.limit}"),
            amount=pl.lit(None),
        ).cast(FINDINGS)

    def _write(self, rows: pl.DataFrame) -> None:
        text = io.BytesIO()
        rows.write_csv(text, separator=";", quote_style="never")
        body = text.getvalue()
        sha256 = hashlib.sha256(body).hexdigest()
        name = f"{self.prefix}-{len(self.written) + 1:04d}-{sha256[:12]}.csv"
        private.write(self.folder / name, body)
        total = Decimal(rows["Amount"].sum())
        self.written.append(File(name, rows.height, total, len(body), sha256))
