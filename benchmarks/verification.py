"""Measure reading back and explaining; `python benchmarks/verification.py` writes docs/benchmarks-verification.md.

A ledger in which every member was sent once, in batches of a thousand. First what each statement of a verification
costs, beside a ledger of a tenth; then a verification of a few seconds at the default rate, against the sandbox.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import members
import psycopg
from databases import cloned, fill, running_server, sibling

from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.database.schema import SCHEMA
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, sandbox_process
from treazure_pipeline.settings import Settings, load_settings
from treazure_pipeline.verification import rounds as verification_rounds
from treazure_pipeline.verification.explain import explain
from treazure_pipeline.verification.read_back import CHUNK, verify
from treazure_pipeline.verification.rounds import Chunk, Reading, Tally

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks-verification.md"
T = TypeVar("T")
SECONDS = 20
_SENT = f"""
set search_path to {SCHEMA};
insert into batch (programme, run_id, observation, state, contacts, amounts, time_stamp, claimed_at, lease_until,
                   answered_at, settled)
select 1, 'fill', 0, 'folded', array_agg(contact), array_agg(sent), now(), now(), now(), now() - interval '1 hour',
       count(*)
from (select contact, sent, row_number() over () as n from ledger) l group by (n - 1) / 1000 order by (n - 1) / 1000;
insert into change (programme, observation, planned, contacts, before, after)
select 1, 0, false, contacts, amounts, amounts from batch;
update ledger l set batch = b.id from batch b, unnest(b.contacts) c where l.contact = c;
vacuum analyze;
"""  # noqa: S608 - constants


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/verification.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few members; writes nothing but the output")
    quick = parser.parse_args().quick
    base = 50_000 if quick else 2_000_000
    with running_server() as url:
        small, large = statements(url, base // 10), statements(url, base)
        rate = reading(url)
    text = markdown(base, small, large, rate)
    print(text)
    if not quick:
        PAGE.write_text(f"# Reading back, measured\n\n{text}\n", encoding="utf-8")


def statements(url: str, base: int) -> dict[str, float]:
    """Return the median milliseconds of each statement, by what it does."""
    fill(url, base)
    with psycopg.connect(sibling(url, f"filled_{base}"), autocommit=True) as connection:
        for statement in _SENT.strip().split(";\n"):
            connection.execute(statement)  # type: ignore[call-overload]
    with cloned(url, base) as database, Connections(settings("http://127.0.0.1:9", database)) as connections:
        ledger, (programme,) = connections.ledger, connections.settings.programmes
        account = ledger.account(programme)
        run = verification_rounds.begin(ledger, account, "run")
        rounds, lately = verification_rounds.next_of_round, verification_rounds.sent_recently

        def record(chunk: Chunk, shown: int | None) -> None:
            readings = [
                Reading(row, row.sent if shown is None else Decimal(shown), equal=shown is None) for row in chunk.rows
            ]
            verification_rounds.record(ledger, account, run, "run", chunk, readings, Tally(), finished=True)

        def in_turn(shown: int | None) -> tuple[float, float]:
            chunk, asked = timed(lambda: rounds(ledger, account, grace=1800, size=CHUNK))
            return asked, timed(lambda: record(chunk, shown))[1]

        equal = [in_turn(None) for _ in range(20)]
        drift = [in_turn(1) for _ in range(20)]
        turns = [timed(lambda: lately(ledger, account, grace=1800, size=CHUNK))[1] for _ in range(20)]
        contact = members.contact(base // 2)
        return {
            f"the next {CHUNK} of a round": statistics.median(asked for asked, _ in equal),
            f"the next {CHUNK} of what was sent lately": statistics.median(turns),
            f"keeping {CHUNK} equal": statistics.median(kept for _, kept in equal),
            f"keeping {CHUNK} that differ, marked": statistics.median(kept for _, kept in drift),
            "how it stands (`status`)": timed(lambda: verification_rounds.standing(ledger, account))[1],
            "beginning a run and a round": restarted(connections, account),
            "`explain` of one contact": statistics.median(
                timed(lambda: explain(ledger, programme, contact))[1] for _ in range(3)
            ),
        }


def restarted(connections: Connections, account: Account) -> float:
    """Return the milliseconds that the beginning of the first run takes."""
    with connections.ledger.transaction() as connection:
        connection.execute("delete from verification_progress")
    return timed(lambda: verification_rounds.begin(connections.ledger, account, "again"))[1]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what the work returns, and its milliseconds."""
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1000


def reading(url: str) -> float:
    """Return how many contacts a second are read from the sandbox at the default rate."""
    with sandbox_process("--members", "2000", "--in-step", "--set", "latency=0.05") as box:
        fill(url, 0)
        with cloned(url, 0) as database, Connections(settings(box.base_url, database)) as connections:
            account = connections.ledger.account(connections.settings.programmes[0])
            with connections.ledger.transaction() as connection, connection.cursor() as cursor:
                cursor.executemany(
                    "insert into ledger values (%s, %s, %s, 0, 0)",
                    [(account.id, row["contactId"], row["engage"]) for row in box.balances() if row["engage"]],
                )
            verified = verify(Run.of(connections, connections.settings.programmes[0], "run"), seconds=SECONDS)
            print(verified, file=sys.stderr)
            return verified.tally.read / verified.seconds


def settings(system: str, database: str) -> Settings:
    """Return the defaults for this system and database."""
    return load_settings(
        {
            "TREAZURE_BASE_URL": system, "TREAZURE_CLIENT_ID": CLIENT_ID, "TREAZURE_CLIENT_SECRET": CLIENT_SECRET,
            "ENGAGE_BASE_URL": system, "ENGAGE_API_KEY": API_KEY, "TREAZURE_LOYALTY_ID": members.LOYALTY_ID,
            "TREAZURE_PIPELINE_DATABASE_URL": database,
        }
    )  # fmt: skip


def markdown(base: int, small: dict[str, float], large: dict[str, float], rate: float) -> str:
    """Return what was measured as Markdown."""
    load = os.getloadavg()[1]
    rows = [f"| {what} | {small[what]:,.1f} | {large[what]:,.1f} |" for what in large]
    about = (
        f"Written by `python benchmarks/verification.py`. {os.cpu_count()} cores, load average {load:.1f} at the end, "
        "with PostgreSQL and the sandbox on the same machine. Every contact was sent once, in batches of 1,000."
    )
    reads = (
        f"At the default rate of 45 requests a second, of which reading back gets half, with answers after 50 ms: "
        f"**{rate:.1f} contacts a second**, so {rate * 2400:,.0f} in the 40 minutes that a run has, and a million in "
        f"{1_000_000 / (rate * 2400):.0f} hourly runs."
    )
    table = [f"| milliseconds (median) | {base // 10:,} contacts | {base:,} contacts |", "|---|--:|--:|", *rows]
    return "\n".join([about, "", *table, "", reads])


if __name__ == "__main__":
    main()
