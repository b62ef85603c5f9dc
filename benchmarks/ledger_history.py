"""Measure reading and pruning the history; prints a table for docs/ledger-history.md.

Run as `ledger_history.py [DAYS]`: so many days of 24 exports, each of which changed 20,000 of a million contacts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import databases
import members
import psycopg

from treazure_pipeline.ledger import frames
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.retention.prune import megabytes, prune
from treazure_pipeline.settings import Programme

BASE = 1_000_000
BATCHES = 20
DOCUMENTATION = Path(__file__).parents[1] / "docs" / "ledger-history.md"

FILL = """
insert into observation (programme, source, state, run_id, asked, answered, window_from, window_to)
select 1, 'export', 'merged', 'benchmark', t, t, t - interval '4 hours', t
from generate_series(0, %(hours)s - 1) h, lateral (select now() - make_interval(hours => %(hours)s - h) as t) at;
insert into change (programme, observation, planned, noted_at, contacts, before, after)
select 1, h + 1, false, now() - make_interval(hours => %(hours)s - h), array_agg(contact), array_agg(b), array_agg(a)
from (select h, batch, md5((1 + (random() * (%(base)s - 1))::int)::text)::uuid as contact,
             (random() * 100000)::int / 100.0 as b, (random() * 100000)::int / 100.0 as a
      from generate_series(0, %(hours)s - 1) h, generate_series(1, %(batches)s) batch, generate_series(1, 1000) n) r
group by h, batch order by h, batch;
insert into batch (programme, run_id, observation, state, contacts, amounts, time_stamp, claimed_at, lease_until)
select 1, 'benchmark', observation, 'folded', contacts, after, noted_at, noted_at, noted_at from change order by id;
update ledger l set batch = x.id, sent = x.amount
from (select distinct on (r.contact) r.contact, r.amount, b.id
      from batch b, unnest(b.contacts, b.amounts) r (contact, amount) order by r.contact, b.id desc) x
where l.programme = 1 and l.contact = x.contact;
"""


def main(days: int) -> None:
    """Fill, read, prune."""
    with databases.running_server() as server:
        databases.fill(server, BASE)
        with databases.cloned(server, BASE) as url:
            with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
                connection.execute("set search_path to treazure_pipeline")
                connection.execute(FILL, {"hours": 24 * days, "batches": BATCHES, "base": BASE})
                connection.execute("vacuum analyze")
            print(f"{24 * days * BATCHES * 1000:,} changes in {days} days\n")
            with Ledger(url) as ledger:
                account = ledger.account(Programme(name="points", loyalty_id=members.LOYALTY_ID))
                print(f"MB: {megabytes(ledger)}\n")
                read(url)
                day = ledger.now() - timedelta(days=1)
                timed("frames.changes of a day", lambda: len(frames.changes(ledger, account, start=day)))
                timed("prune half of it", lambda: prune(ledger, days // 2))
                timed("prune again", lambda: prune(ledger, days // 2))


def read(url: str) -> None:
    """Time the queries of the documentation, and the first of them for one day."""
    text = DOCUMENTATION.read_text()
    queries = [query.partition("```")[0].strip() for query in text.split("```sql\n")[1:]]
    with psycopg.connect(url) as connection:
        connection.execute("set timezone to 'UTC'")
        for query in (queries[0].replace("90 days", "1 day"), *queries):
            timed(query.splitlines()[0], lambda query=query: len(connection.execute(query).fetchall()))


def timed(what: str, work: Callable[[], Any]) -> None:
    """Do something and print how long it took and what it returned."""
    began = time.perf_counter()
    result = work()
    print(f"{what}: {time.perf_counter() - began:.2f} s ({result})", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
