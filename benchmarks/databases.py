"""A server for the measurements, filled ledgers as templates, and a clone of one for each measurement."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import members
import psutil
import psycopg
import sqlalchemy as sa
from psycopg.sql import SQL, Identifier

from treazure_pipeline.database import embedded, schema

MEMBERS = SQL("(select generate_series(1, {base}) as n) members")  # a function in `from` would be stored whole first
_FILL = SQL("""
insert into programme (name, loyalty_id, definition_id, covered, export_answered, points_total, audited_at, loaded_at)
select 'points', {loyalty_id}, 1, tstzmultirange(tstzrange('2000-01-01', now() - interval '1 hour')),
       now() - interval '1 hour', coalesce(sum({balance}), 0), now(), now() from {members};
insert into known select 1, {base};
insert into ledger select 1, {contact}, {balance}, 0, 0 from {members} order by 2;
""")


@contextmanager
def running_server() -> Iterator[str]:
    """Start an embedded server for the block, with the product's own tuning; yield its URL."""
    home = Path(tempfile.mkdtemp(prefix="treazure-benchmarks-", dir="/tmp"))
    home.chmod(0o755)
    try:
        yield embedded.start(home)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


def fill(url: str, base: int) -> None:
    """Make the template: a ledger that knows the members 1 to `base` and whose coverage ended an hour ago."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(_template(base)))
    filled = sibling(url, f"filled_{base}")
    schema.upgrade(filled)
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute(SQL("set search_path to {}").format(Identifier(schema.SCHEMA)))
        connection.execute(
            _FILL.format(
                loyalty_id=members.LOYALTY_ID,
                contact=SQL(members.CONTACT_SQL),
                balance=SQL(members.BEFORE_SQL),
                base=base,
                members=MEMBERS.format(base=base),
            )
        )
        connection.execute("vacuum (analyze, freeze)")


@contextmanager
def cloned(url: str, base: int) -> Iterator[str]:
    """A ledger of `base` members as the template has it, for the block; nothing of it in PostgreSQL's own cache."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("create database measured template {} strategy file_copy").format(_template(base)))
        connection.execute("checkpoint")
        try:
            yield sibling(url, "measured")
        finally:
            connection.execute("drop database measured with (force)")


def made(url: str, name: str) -> str:
    """Return the URL of an empty database on the same server, made where it is missing."""
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("select from pg_database where datname = %s", [name]).fetchone():
            connection.execute(SQL("create database {}").format(Identifier(name)))
    return sibling(url, name)


def sequential_scans(url: str) -> int:
    """Return how often the ledger has been read from end to end."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select seq_scan from pg_stat_user_tables where schemaname = %s and relname = 'ledger'",
            [schema.SCHEMA],
        ).fetchone()
    assert row is not None
    return int(row[0])


def cpu_seconds(url: str) -> float:
    """Return the CPU seconds that all processes of the server have used."""
    with psycopg.connect(url) as connection:
        row = connection.execute("show data_directory").fetchone()
    assert row is not None
    postmaster = psutil.Process(int((Path(row[0]) / "postmaster.pid").read_text().split()[0]))
    alive = 0.0
    for process in postmaster.children():
        with suppress(psutil.NoSuchProcess):  # it ended, and counts with the postmaster's children
            alive += sum(process.cpu_times()[:2])
    return alive + sum(postmaster.cpu_times()[:4])


def an_hour_later(url: str) -> None:
    """Move the next tries of refused balances as if an hour had passed."""
    with psycopg.connect(url) as connection:
        connection.execute(SQL("set search_path to {}").format(Identifier(schema.SCHEMA)))
        connection.execute("update pending set next_try = next_try - interval '1 hour'")


def _template(base: int) -> Identifier:
    return Identifier(f"filled_{base}")


def sibling(url: str, database: str) -> str:
    """Return the URL of another database on the same server."""
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)
