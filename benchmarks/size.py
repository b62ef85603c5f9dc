"""What size costs: the same work with many contacts and with a tenth of them; prints a table for docs/scaling.md.

    python benchmarks/size.py [--contacts 50000000] [--slices 5]

One size after the other, each on a fresh server, so it needs some 300 bytes of disk a contact. Ledgers are filled by
SQL. Measured are two hourly syncs as the assets do them, with changes of a thousandth and a hundredth of the many
contacts, against a stub of both systems that answers at once; the vacuum after them; a first merge, cut into slices, up
to the `--slices`th; and the export of one of twelve months from a history of a fifth as many movements as contacts.
What other processes do to the machine changes the seconds; it does not change pages and WAL.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import databases
import history
import members
import processes
import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from treazure_pipeline.balance_sync import merge, staging
from treazure_pipeline.database import schema
from treazure_pipeline.ledger.coverage import Window
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.points_history.export import export
from treazure_pipeline.settings import Programme

BATCH = 1000
_COUNTERS = """
select heap_blks_read + heap_blks_hit as heap, idx_blks_read + idx_blks_hit as index,
       heap_blks_read + idx_blks_read as read, (select wal_bytes from pg_stat_wal) / 1000000.0 as wal,
       (select seq_scan from pg_stat_user_tables where relid = io.relid) as scans
from pg_statio_user_tables io where relid = 'ledger'::regclass
"""
_STAGE = SQL("""
insert into {stage} (contact, balance, mutated_at, position)
select {contact}, {balance}, '2026-01-31 12:00+00', n from {members}
""")

Row = tuple[str, float]


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/size.py", description=__doc__)
    parser.add_argument("--contacts", type=int, default=50_000_000)
    parser.add_argument("--slices", type=int, default=5, help="how many slices of a first merge are measured")
    given = parser.parse_args()
    changes = (given.contacts // 1000, given.contacts // 100)
    small, large = (list(measured(base, changes, given.slices)) for base in (given.contacts // 10, given.contacts))
    print(f"| | {given.contacts // 10:,} contacts | {given.contacts:,} | ratio |", "|---|--:|--:|--:|", sep="\n")
    for (what, before), (_, after) in zip(small, large, strict=True):
        print(f"| {what} | {before:,.2f} | {after:,.2f} | {after / before if before else 1:.1f} |")


def measured(base: int, changes: Sequence[int], slices: int) -> Iterator[Row]:
    """Do all of it with so many contacts."""
    for part in (synced(base, changes), first_merge(base, slices), a_month(base // 5)):
        for what, figure in part:
            processes.say(f"{base:,}: {what}: {figure:,.2f}")
            yield what, figure


def synced(base: int, sizes: Sequence[int]) -> Iterator[Row]:
    """Two syncs and a vacuum, in the filled ledger itself."""
    with databases.running_server() as server:
        databases.fill(server, base)
        url = databases.sibling(server, f"filled_{base}")
        with connected(url) as connection:
            for name, size in (("table", "pg_table_size"), ("index", "pg_indexes_size")):
                yield f"the ledger's {name}, MB", asked(connection, f"select {size}('ledger') / 1e6 as size")["size"]
            for changes in sizes:
                connection.execute("checkpoint")
                before = asked(connection, _COUNTERS)
                with processes.stub(changes, base) as systems:
                    done = processes.run("sync", systems, url, ENGAGE_MAX_REQUESTS_PER_SECOND="0")
                after = {name: float(value - before[name]) for name, value in asked(connection, _COUNTERS).items()}
                sync = f"sync of {changes:,} changes:"
                yield f"{sync} s", done["seconds"]
                yield f"{sync} merge and guards, s", done["phases"]["merge"]
                yield f"{sync} fold, s", done["fold"]
                yield f"{sync} pages of the table looked at, thousands", after["heap"] / 1000
                yield f"{sync} pages of the index looked at, thousands", after["index"] / 1000
                yield f"{sync} of both, not in PostgreSQL's cache, thousands", after["read"] / 1000
                yield f"{sync} WAL, MB", after["wal"]
                yield f"{sync} sequential scans of the ledger", after["scans"]
            began = time.perf_counter()
            connection.execute("vacuum ledger")
            yield "vacuum of the ledger after both, s", time.perf_counter() - began


def first_merge(base: int, slices: int) -> Iterator[Row]:
    """A first merge into an empty ledger, up to its first slices."""
    with empty() as (connection, ledger, account):
        observation = staged(connection, ledger, account, base)
        began = time.perf_counter()
        merge._prepare(ledger, account, observation)  # noqa: SLF001 - a merge by its parts
        yield "first merge: bringing it into key order, s", time.perf_counter() - began
        took = []
        for _ in range(slices):
            began = time.perf_counter()
            done = merge._merge_slice(ledger, account, observation, BATCH)  # noqa: SLF001 - a merge by its parts
            took.append(time.perf_counter() - began)
            if done is not None:
                break
        yield "first merge: its first slice, s", took[0]
        yield "first merge: the longest slice, s", max(took)


def staged(connection: psycopg.Connection[dict[str, Any]], ledger: Ledger, account: Account, base: int) -> int:
    """Stage an export of everybody, without the way over HTTP."""
    now = ledger.now()
    observation = staging.ask(ledger, account, Window(now.replace(year=2000), now, is_full=True), "benchmark")
    staging.stage(ledger, account, observation, [], max_rejected_share=Decimal(1))
    connection.execute(
        _STAGE.format(
            stage=staging.table(observation),
            contact=SQL(members.CONTACT_SQL),
            balance=SQL(members.BEFORE_SQL),
            members=databases.MEMBERS.format(base=base),
        )
    )
    connection.execute(
        "update observation set figures = jsonb_set(figures, '{fetched}', to_jsonb(%s::bigint)) where id = %s",
        [base, observation],
    )
    return observation


def a_month(movements: int) -> Iterator[Row]:
    """The export of one month of twelve."""
    with empty() as (connection, ledger, account):
        history.fill(connection, account, movements)
        connection.execute("delete from points_history_month where month <> '2024-06-01'")
        size = asked(connection, "select sum(pg_total_relation_size(inhrelid)) / 1e6 as size from pg_inherits "
                                 "where inhparent = 'points_history'::regclass")  # fmt: skip
        yield "the history's partitions, MB", float(size["size"])
        with tempfile.TemporaryDirectory() as folder:
            done = export(ledger, account, folder)
        yield "export: movements of the month, thousands", done.rows / 1000
        yield "export: s for a million of them", done.seconds / done.rows * 1e6


@contextmanager
def empty() -> Iterator[tuple[psycopg.Connection[dict[str, Any]], Ledger, Account]]:
    """Lend an empty ledger on a server of its own."""
    with databases.running_server() as url:
        schema.upgrade(url)
        with connected(url) as connection, Ledger(url) as ledger:
            yield connection, ledger, ledger.account(Programme(name="points", loyalty_id=members.LOYALTY_ID))


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Connect as the ledger's owner."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(SQL("set search_path to {}").format(Identifier(schema.SCHEMA)))
        yield connection


def asked(connection: psycopg.Connection[dict[str, Any]], question: str) -> dict[str, Any]:
    """Return the one row that answers."""
    row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row


if __name__ == "__main__":
    main()
