"""The points history as Parquet files, one per month and programme, in a folder or an object store (any fsspec URL).

Spark, DuckDB, Polars, pandas and BigQuery read `URL/month=2026-01/PROGRAMME.parquet` as one table partitioned by month. Each file contains the
state of the month it was made from, which tells whether it is out of date.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from treazure_pipeline import people, phrases, private
from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.people import redacted
from treazure_pipeline.points_history import store

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.points_history.store import Block, Month, Snapshot

POINTS = pa.decimal128(38, 18)
TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("programme", pa.string(), nullable=False),
        pa.field("contact", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("date_time", TIME, nullable=False),
        pa.field("amount", POINTS, nullable=False),
        pa.field("balance", POINTS),
        pa.field("transaction_type", pa.string(), nullable=False),
        pa.field("expires_at", TIME),
        *(
            pa.field(name, pa.string())
            for name in ("comment", "operator_id", "shop_id", "pos_id", "receipt_nr", "properties")
        ),
    ]
)
_STATE = b"treazure_pipeline.state"
_BLOCK_BYTES = 8 * 1024 * 1024


class ExportError(PipelineError):
    """The files could not be written or read. Those that exist are complete."""


@dataclass(frozen=True)
class Exported:
    """What an export did: all months, files written and removed, rows written; `url` without secrets.

    `left`: months that the time was not enough for.
    """

    url: str
    months: int
    written: int
    removed: int
    rows: int
    left: int
    seconds: float

    @property
    def sentence(self) -> str:
        """What was written, and where."""
        told = f"{phrases.counted(self.rows, 'row')} of {phrases.counted(self.months, 'month')} in {self.url}, "
        left = f", {phrases.counted(self.left, 'month')} left" if self.left else ""
        return f"{told}{phrases.counted(self.written, 'file')} written{left}"


def check_url(url: str) -> None:
    """Raise SettingsError if fsspec does not know this kind of URL."""
    if not url.strip():
        raise SettingsError("The export's URL is empty; give a folder, or an address such as s3://bucket/points.")
    try:
        fsspec.get_filesystem_class(urlsplit(url).scheme or "file")
    except (ValueError, ImportError):
        raise SettingsError(
            f"The export can't write to {shown(url)}: the package for this kind of address is not installed "
            "(for example s3fs, gcsfs or adlfs), or the address is wrong."
        ) from None


def shown(url: str) -> str:
    """Return a URL without what may be secret: the password and the query."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def has_secret(url: str) -> bool:
    """Return whether a URL has a password or a query, which must not be stored with a run."""
    return bool(_secrets(url))


def export(ledger: Ledger, account: Account, url: str, *, most_seconds: float = math.inf) -> Exported:
    """Write the files of months that are missing or out of date, and remove those of months that are now empty.

    Only reads from the ledger, so it may be a replica. A file gets its name once it is complete. Memory does not grow with the rows.
    No month is started after `most_seconds`. Raises SettingsError for an unusable URL, and ExportError.
    """
    began = time.perf_counter()
    check_url(url)
    try:
        files, root = fsspec.core.url_to_fs(url)
        target = _Target(files, root.rstrip("/"), account.name)
        target.sweep()
        months = store.months(ledger, account)
        removed = sum(target.remove(month) for month in months if not month.rows)
        outdated = [month for month in months if month.rows and target.state_of(month) != _state(month)]
        written: list[Month] = []
        for month in outdated:
            if time.perf_counter() - began >= most_seconds:
                break
            with store.unchanging(ledger, account, month.month) as snapshot:
                target.write(snapshot)
                written.append(snapshot.month)
    except PipelineError:
        raise
    except pa.ArrowInvalid as error:
        wrong = store.too_long(ledger, account, digits=POINTS.precision, decimals=POINTS.scale)
        which = (
            f"The points of movement {wrong[1]} of contact {wrong[0]}"
            if wrong
            else f"A movement ({people.said(str(error))})"
        )
        raise ExportError(
            f"{which} can't be held by a Parquet file: points have at most {POINTS.scale} decimals there.",
            hint="Correct it in Treazure, or read that month from the table points_history.",
        ) from None
    except Exception as error:  # noqa: BLE001 - each kind of store has its own errors
        reason = " ".join(redacted(str(error), _secrets(url)).split())[:300]
        raise ExportError(
            f"The export to {shown(url)} failed: {type(error).__name__}: {reason}",
            hint="Run it again. Files that are complete are not written again.",
        ) from None
    return Exported(
        shown(url), sum(month.rows > 0 for month in months), len(written), removed,
        sum(month.rows for month in written), len(outdated) - len(written), time.perf_counter() - began,
    )  # fmt: skip


class _Target:
    """The files of one programme below one folder."""

    def __init__(self, files: Any, root: str, programme: str) -> None:
        self._files = files
        self._root = root
        self._programme = programme

    def state_of(self, month: Month) -> bytes | None:
        """Return the state that a month's file was made from; None if there is no readable file."""
        path = self._path(month)
        if not self._files.exists(path):
            return None
        try:
            with self._files.open(path, "rb") as file:
                held: bytes | None = (pq.read_schema(file).metadata or {}).get(_STATE)
        except pa.ArrowInvalid:
            return None
        return held

    def write(self, snapshot: Snapshot) -> None:
        """Write a month under a name that readers of the folder ignore, then rename it."""
        month = snapshot.month
        path = self._path(month)
        folder = path.rpartition("/")[0]
        part = f"{folder}/{self._part}{uuid.uuid4().hex}"
        private.make_folder(self._files, folder)
        private.make_file(self._files, part)
        try:
            with (
                self._files.open(part, "wb") as file,
                pq.ParquetWriter(file, SCHEMA.with_metadata({_STATE: _state(month)}), compression="zstd") as writer,
                snapshot.csv(_BLOCK_BYTES) as blocks,
                ThreadPoolExecutor(1) as beside,
            ):
                # While the database sends the next block, Arrow turns this one into a row group.
                written: Future[None] | None = None
                for block in blocks:
                    if written is not None:
                        written.result()
                    written = beside.submit(lambda of: writer.write_table(_table(self._programme, of)), block)
                if written is not None:
                    written.result()
            self._files.mv(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.rm_file(part)
            raise

    def remove(self, month: Month) -> bool:
        """Remove the file of a month that no longer has movements. Return whether there was one."""
        if not self._files.exists(self._path(month)):
            return False
        self._files.rm_file(self._path(month))
        return True

    def sweep(self) -> None:
        """Remove what a killed export has left behind."""
        for part in self._files.glob(f"{self._root}/month=*/{self._part}*"):
            self._files.rm_file(part)

    @property
    def _part(self) -> str:
        return f"_{self._programme}.parquet."

    def _path(self, month: Month) -> str:
        return f"{self._root}/month={month.month.isoformat()[:7]}/{self._programme}.parquet"


def _state(month: Month) -> bytes:
    return f"{month.changed_at.isoformat()} {month.rows}".encode()


def _table(programme: str, block: Block) -> pa.Table:
    """Convert CSV to the schema. Arrow does it ten times as fast as by way of Python objects."""
    held = [field for field in SCHEMA if field.name != "programme"]
    found = csv.read_csv(
        pa.BufferReader(block.text),
        csv.ReadOptions(column_names=[field.name for field in held], use_threads=False, block_size=len(block.text)),
        csv.ParseOptions(newlines_in_values=block.has_breaks),
        csv.ConvertOptions(
            column_types={field.name: field.type for field in held},
            null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
        ),
    )  # fmt: skip
    return pa.table([pa.repeat(programme, found.num_rows), *found.columns], schema=SCHEMA)


def _secrets(url: str) -> list[str]:
    parts = urlsplit(url)
    given = [parts.password or "", *(value for _, value in parse_qsl(parts.query))]
    return [text for secret in given if secret for text in {secret, unquote(secret)}]
