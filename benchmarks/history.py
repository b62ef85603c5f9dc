"""Measure the points history: `python benchmarks/history.py` prints how fast logs are read, and files written.

Logs are read from a sandbox in a process of its own, over HTTP: once within the default rate, of which the history has
half, once without a limit. The files hold so many movements of a year; the peak is that of the whole process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from databases import running_server

from treazure_pipeline.balance_sync.snapshot import merge_snapshot, take_snapshot
from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.database import schema
from treazure_pipeline.ledger.coverage import next_window
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.points_history.export import export
from treazure_pipeline.points_history.refresh import refresh
from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, sandbox_process
from treazure_pipeline.settings import Settings, load_settings

_FILL = """
insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, shop_id,
                            receipt_nr, comment)
select {programme}, md5((n / 10)::text)::uuid, 1000 + n %% 10, '2024-01-01'::timestamptz + n %% 365 * interval '1 day',
       10.25, n %% 1000, 'Load', 'shop-' || n %% 50, 'R-' || n, 'Purchase'
from (select generate_series(1, %s) as n) movements
"""
_COUNT = """
insert into points_history_month select {programme}, date_trunc('month', date_time)::date, count(*), now()
from points_history where position >= 1000 group by 1, 2
on conflict (programme, month) do update set rows = points_history_month.rows + excluded.rows, changed_at = now()
"""


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/history.py", description=__doc__)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--movements", type=int, default=2_000_000)
    chosen = parser.parse_args()
    with running_server() as url, sandbox_process("--members", str(chosen.members)) as sandbox:
        schema.upgrade(url)
        for limit in (40, 0):
            with Connections(_settings(sandbox.base_url, url, limit), Priority.BACKGROUND) as connections:
                account = _known(connections)
                done = refresh(connections.ledger, connections.treazure, account, everybody=True)
            allowed = f"{limit // 2} a second allowed" if limit else "no limit"
            print(f"{allowed}: {done.read:,} logs in {done.seconds:.1f} s, {done.read / done.seconds:.1f} a second, "
                  f"{sandbox.report()['treazure_largest_in_one_second']} in the busiest one")  # fmt: skip
            sandbox.forget()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"set search_path to {schema.SCHEMA}")
            fill(connection, account, chosen.movements)
        with (
            tempfile.TemporaryDirectory() as folder,
            Connections(_settings(sandbox.base_url, url, 0)) as connections,
        ):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            done = export(connections.ledger, account, folder)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet")) // 10**6
            print(f"{done.rows:,} movements in {done.written} files ({size} MB) in {done.seconds:.1f} s, "
                  f"{done.rows / done.seconds:,.0f} a second; peak {peak} MB, {before} MB before")  # fmt: skip
            again = export(connections.ledger, account, folder)
            print(f"again, nothing changed: {again.written} files written in {again.seconds * 1000:.0f} ms")


def fill(connection: psycopg.Connection[Any], account: Account, movements: int) -> None:
    """Make so many movements over a year."""
    connection.execute(_FILL.format(programme=account.id), [movements])
    connection.execute(_COUNT.format(programme=account.id))
    connection.execute("analyze points_history")


def _settings(address: str, url: str, limit: int) -> Settings:
    return load_settings(
        {
            "TREAZURE_BASE_URL": address, "TREAZURE_CLIENT_ID": CLIENT_ID, "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
            "TREAZURE_LOYALTY_ID": LOYALTY_ID, "ENGAGE_BASE_URL": address, "ENGAGE_API_KEY": API_KEY,
            "TREAZURE_PIPELINE_DATABASE_URL": url, "TREAZURE_MAX_REQUESTS_PER_SECOND": str(limit),
        }
    )  # fmt: skip


def _known(connections: Connections) -> Account:
    """Let the ledger know every contact's balance."""
    run = Run.of(connections, connections.settings.programmes[0], "benchmark")
    take_snapshot(run, next_window(run.ledger, run.account, full=True))
    merge_snapshot(run)
    return run.account


if __name__ == "__main__":
    main()
