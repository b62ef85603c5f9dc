"""What a request costs in the shared limiter, alone and beside an old snapshot that holds vacuum back.

    python benchmarks/limiter.py [REQUESTS]

Takes and frees slots with the product's own statements, one request after the other, of 45 slots. Only the second of
rest is left out, since 30,000 requests would take eleven minutes. A loop in the server does it, each statement in a
transaction of its own. Prints the server's CPU for a request in each tenth of them, in ms, and the table's size. Needs
Linux.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg
from databases import running_server
from psycopg.sql import SQL, Literal

from treazure_pipeline.database import schema

_TENTHS = 10
_REQUESTS = SQL("""
do $$
declare
    got record;
begin
    set search_path to treazure_pipeline;
    set synchronous_commit to off;
    for n in 1..{requests} loop
        select * into strict got from take_slot({bucket}, 45, 2, interval '65 seconds');
        commit;
        update rate_slot set free_at = clock_timestamp(), set_at = clock_timestamp(), turn = turn + 1
            where bucket = {bucket} and slot = got.taken and turn = got.its_turn;
        commit;
    end loop;
end $$
""")


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot for the block, as a long report would."""
    with psycopg.connect(url) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select count(*) from pg_class")
        yield


def cpu(process: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, bucket: str, requests: int) -> tuple[list[float], float]:
    """Return the ms of CPU for a request in each tenth of them, and the table's MB afterwards."""
    took = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set search_path to treazure_pipeline")
        connection.execute("select take_slot(%s, 45, 2, interval '1 second')", (bucket,))
        time.sleep(1.1)  # the first ones are free after a second
        for _ in range(_TENTHS):
            began = cpu(connection.info.backend_pid)
            connection.execute(_REQUESTS.format(requests=Literal(requests // _TENTHS), bucket=Literal(bucket)))
            took.append((cpu(connection.info.backend_pid) - began) / (requests // _TENTHS) * 1000)
        (size,) = connection.execute("select pg_total_relation_size('rate_slot')").fetchone() or (0,)
    return took, size / 1e6


def main() -> None:
    """Measure both."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    with running_server() as url:
        schema.upgrade(url)
        for name, beside in (("alone", nullcontext()), ("beside an old snapshot", old_snapshot(url))):
            with beside:
                took, megabytes = measure(url, name, requests)
            print(f"{name:24}", " ".join(f"{one:.3f}" for one in took), f"{megabytes:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
