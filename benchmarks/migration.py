"""Measure stored logs to import files; `python benchmarks/migration.py` writes docs/benchmarks-migration.md.

Each measurement is a process of its own. Beside the product, which maps, checks and divides, stand writers that only
write: they are handed finished columns in memory. What counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks-migration.md"
MOVEMENTS = 10
CONTACTS_A_PART = 500
ROWS_A_FILE = 20_000
CUT_OFF = datetime(2026, 1, 1, tzinfo=UTC)
WANTED = 500_000
WANTED_TIMES = 1.6
"""Beside the csv module, which writes 310,000 rows a second on two such cores at rest."""
WANTED_MB = 500
WRITERS = ("csv module", "pandas.to_csv", "pyarrow", "Polars")


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/migration.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="movements that all are measured with")
    parser.add_argument("--many", type=int, default=10_000_000, help="movements whose memory counts")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is measured; the fastest counts")
    parser.add_argument("--quick", action="store_true", help="small sizes, once; writes nothing but the output")
    chosen = parser.parse_args()
    rows, many, repeat = (100_000, 200_000, 1) if chosen.quick else (chosen.rows, chosen.many, chosen.repeat)
    kinds = ("product, points that expire", "product, points that never expire", *WRITERS)
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, size in (("expire", rows), ("never", rows), ("many", many)):
            run("logs", str(folder / kind), str(size), "never" if kind == "never" else "expire")
        run("columns", str(folder / "expire"), str(folder / "columns.arrow"))
        for _ in range(repeat):
            for kind in kinds:
                runs[kind].append(measured(kind, folder))
                say(f"{kind}: {runs[kind][-1]}")
        large = run("product", str(folder / "many"), str(folder / "files"))
        say(f"{many:,} movements: {large}")
    page = written(runs, large, repeat)
    print(page)
    if not chosen.quick:
        PAGE.write_text(page)


def measured(kind: str, folder: Path) -> dict[str, float]:
    """Measure one kind once."""
    if kind.startswith("product"):
        return run("product", str(folder / ("never" if "never" in kind else "expire")), str(folder / "files"))
    return run("bare", str(folder / "columns.arrow"), str(folder / "files"), kind)


def written(runs: dict[str, list[dict[str, float]]], large: dict[str, float], repeat: int) -> str:
    """Return the page."""
    speeds = {kind: max(run["rows"] / run["seconds"] for run in own) for kind, own in runs.items()}
    product = speeds["product, points that expire"]
    times = product / speeds["csv module"]
    lines = [
        "# Stored logs to import files, measured",
        "",
        (
            f"Written by `python benchmarks/migration.py`. {os.cpu_count()} cores, {platform.system()}, "
            f"Python {platform.python_version()}; the fastest of {repeat} runs each, taking turns. "
            f"Load average over a quarter of an hour: {os.getloadavg()[2]:.1f}; where that is well above the number of "
            "cores, other work had most of the machine, and ratios and processor seconds say more than speeds."
        ),
        "",
        (
            "The product reads parts from disk, maps, checks and rounds every movement and writes files of at "
            "most 20,000 rows; bare writers get finished columns in memory and write the same files without SHA-256."
        ),
        "",
        "| | rows a second | product ÷ it | processor seconds per million | peak MB |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, own in runs.items():
        processor = min(run["processor"] / run["rows"] * 1e6 for run in own)
        peak = max(run["peak_mb"] for run in own)
        lines.append(f"| {kind} | {speeds[kind]:,.0f} | {product / speeds[kind]:.2f} | {processor:.2f} | {peak:.0f} |")
    lines += [
        "",
        "| target | wanted | measured | |",
        "|---|--:|--:|---|",
        target("movements to files, rows a second", f"{WANTED:,}", f"{product:,.0f}", met=product >= WANTED),
        target("times the csv module", f"{WANTED_TIMES}", f"{times:.1f}", met=times >= WANTED_TIMES),
        target(
            f"peak memory at {large['rows']:,.0f} movements, MB",
            f"{WANTED_MB}",
            f"{large['peak_mb']:.0f}",
            met=large["peak_mb"] < WANTED_MB,
        ),
        "",
        (
            f"{large['rows']:,.0f} movements of {large['contacts']:,.0f} contacts took {large['seconds']:.1f} s, "
            f"{large['rows'] / large['seconds']:,.0f} a second, and became {large['files']:,.0f} files."
        ),
        "",
    ]
    return "\n".join(lines)


def target(name: str, wanted: str, measured: str, *, met: bool) -> str:
    """Return a row of the table of targets."""
    return f"| {name} | {wanted} | **{measured}** | {'met' if met else '**missed**'} |"


def run(*arguments: str) -> dict[str, float]:
    """Run this script in a process of its own and return what it printed last."""
    command = [sys.executable, __file__, "--measure", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def logs(folder: str, size: str, expiry: str) -> dict[str, Any]:
    """Store logs and the roster that goes with them, ten movements a contact."""
    import numpy as np
    import polars as pl

    from treazure_pipeline.point_migration.parts import MOMENT, POINTS, SCHEMA

    Path(folder).mkdir()
    rng = np.random.default_rng(1)
    contacts = int(size) // MOVEMENTS
    for first in range(0, contacts, CONTACTS_A_PART):
        own = min(CONTACTS_A_PART, contacts - first)
        count = own * MOVEMENTS
        taken = rng.random((own, MOVEMENTS)) < 0.3
        taken[:, 0] = False
        cents = np.where(taken, -rng.integers(1, 100, taken.shape), rng.integers(1000, 50_000, taken.shape))
        balance = np.cumsum(cents, axis=1)
        seconds = np.sort(rng.integers(1_600_000_000, 1_760_000_000, (own, MOVEMENTS)), axis=1).reshape(-1)
        names = np.array([f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(first, first + own)])
        expires = pl.Series((seconds + 2 * 365 * 86_400) * 1_000_000).cast(MOMENT)
        never = pl.Series(taken.reshape(-1)) | (expiry == "never")
        rows = pl.DataFrame(
            {
                "contact": np.repeat(names, MOVEMENTS),
                "position": pl.Series(np.tile(np.arange(MOVEMENTS), own), dtype=pl.Int32),
                "date_time": pl.Series(seconds * 1_000_000).cast(MOMENT),
                "amount": (pl.Series(cents.reshape(-1)).cast(POINTS) / 100).cast(POINTS),
                "transaction_type": np.where(taken.reshape(-1), "Redeem", "Load"),
                "expires_at": expires.set(never, None),
                "balance": (pl.Series(balance.reshape(-1)).cast(POINTS) / 100).cast(POINTS),
                "comment": [f"Purchase in shop {number % 90}; thank you" for number in range(count)],
                "receipt_nr": [f"R-{number}" for number in range(count)],
                "unusable": pl.Series([None] * count, dtype=pl.String),
            }
        )
        roster = rows.group_by("contact", maintain_order=True).agg(pl.col("balance").last())
        rows.match_to_schema(SCHEMA).write_parquet(f"{folder}/{first:09d}.part", statistics=False)
        roster.with_columns(key=pl.lit(None, pl.String)).write_ipc(f"{folder}/{first:09d}.roster")
    return {}


def product(folder: str, files: str) -> dict[str, Any]:
    """Write the files of stored logs, as the asset does."""
    import polars as pl

    from treazure_pipeline.point_migration.files import write_files

    began, processor = time.perf_counter(), time.process_time()
    report = write_files(
        (path.read_bytes() for path in sorted(Path(folder).glob("*.part"))),
        (pl.read_ipc(path) for path in sorted(Path(folder).glob("*.roster"))),
        Path(files),
        definition_id=1,
        cut_off=CUT_OFF,
        mode="log",
        key_type="ContactId",
        prefix="points",
        decimals=2,
    )
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    if not report.findings.is_empty() or report.figures.movements["used"] != report.figures.movements["read"]:
        raise SystemExit(f"Not what a measurement should do: {report.figures}")
    return {
        "rows": report.figures.movements["read"],
        "contacts": report.figures.contacts["roster"],
        "files": len(report.files),
        "seconds": seconds,
        "processor": processor,
    }


def columns(folder: str, path: str) -> dict[str, Any]:
    """Store the finished columns that the bare writers write."""
    import polars as pl

    with tempfile.TemporaryDirectory() as files:
        product(folder, files)
        texts = {"Amount": pl.Float64}
        rows = [pl.read_csv(file, separator=";", schema_overrides=texts) for file in sorted(Path(files).glob("*.csv"))]
        pl.concat(rows, how="vertical_relaxed").write_ipc(path)
    return {}


def bare(path: str, files: str, kind: str) -> dict[str, Any]:
    """Write finished columns with one of the usual writers, 20,000 rows a file."""
    import polars as pl

    Path(files).mkdir(exist_ok=True)
    rows = pl.read_ipc(path)
    some, write = writer(kind, rows)
    began, processor = time.perf_counter(), time.process_time()
    for number, part in enumerate(some):
        write(part, f"{files}/{number:04d}.csv")
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    return {"rows": rows.height, "seconds": seconds, "processor": processor}


def writer(kind: str, rows: Any) -> tuple[Iterator[Any], Callable[[Any, str], object]]:
    """Return the rows as that writer wants them, in slices, and what writes a slice."""
    starts = range(0, rows.height, ROWS_A_FILE)
    if kind == "Polars":
        return iter(rows.iter_slices(ROWS_A_FILE)), lambda part, path: part.write_csv(path, separator=";")
    if kind == "pyarrow":
        import polars as pl
        import pyarrow.csv

        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        options = pyarrow.csv.WriteOptions(delimiter=";")
        slices = (table.slice(start, ROWS_A_FILE) for start in starts)
        return slices, lambda part, path: pyarrow.csv.write_csv(part, path, options)
    if kind == "pandas.to_csv":
        frame = rows.to_pandas()
        slices = (frame[start : start + ROWS_A_FILE] for start in starts)
        return slices, lambda part, path: part.to_csv(path, sep=";", index=False)
    tuples = rows.rows()

    def write(part: list[tuple[object, ...]], path: str) -> None:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, delimiter=";")
            lines.writerow(rows.columns)
            lines.writerows(part)

    return (tuples[start : start + ROWS_A_FILE] for start in starts), write


def say(line: str) -> None:
    """Tell how far things are."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        figures = {function.__name__: function for function in (logs, columns, product, bare)}[sys.argv[2]](
            *sys.argv[3:]
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps(figures | {"peak_mb": peak / 1e6}))
    else:
        main()
