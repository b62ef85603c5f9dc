from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.command import upgrade as alembic_upgrade

from treazure_pipeline.database import schema, upgrading
from treazure_pipeline_tests import processes

_SHAPE = """
select c.relname::text, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace::regnamespace::text in ('treazure_pipeline', 'treazure_reporting') order by 1, 2, 3
"""
_WAITING = """
select from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database() where not l.granted
"""


def shape(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(_SHAPE).fetchall()


def upgrade_and_die(url: str, nth: int) -> None:
    """`upgrade` is the name of our function, of alembic's, and of that of each revision."""
    processes.die_at("call", "upgrade", nth)
    schema.upgrade(url)


def upgrade_to(url: str, revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upgrade as a version did that knew no later revision."""
    with monkeypatch.context() as older:
        older.setattr(upgrading, "alembic_upgrade", lambda config, _: alembic_upgrade(config, revision))
        schema.upgrade(url)


def test_an_upgrade_that_waits_for_a_table_keeps_nobody_from_the_others_and_ends_well(
    empty_database_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0016 changes the table of programmes, 0020 that of adjustments.
    upgrade_to(empty_database_url, "0015", monkeypatch)
    with psycopg.connect(empty_database_url) as held, ThreadPoolExecutor(1) as beside:
        held.execute("lock table treazure_pipeline.adjustment in access share mode")
        ended = beside.submit(schema.upgrade, empty_database_url)
        with psycopg.connect(empty_database_url, autocommit=True) as sync:
            while sync.execute(_WAITING).fetchone() is None:
                assert not ended.done()
                time.sleep(0.01)
            sync.execute("set lock_timeout to '1s'")
            sync.execute("update treazure_pipeline.programme set name = name")
            # Those who want the table itself wait for a few seconds at most.
            sync.execute("set lock_timeout to '20s'")
            sync.execute("select from treazure_pipeline.adjustment")
        assert not ended.done()
        held.rollback()
        assert ended.result(60) == ("0015", schema.head())
    assert shape(empty_database_url) == shape(database_url)


@pytest.mark.parametrize("revisions", [0, 1, 12, len(schema.revisions()) - 1])
def test_an_upgrade_that_is_killed_leaves_the_schema_as_it_was_and_the_next_one_ends_well(
    empty_database_url: str, database_url: str, revisions: int
) -> None:
    assert processes.killed(upgrade_and_die, empty_database_url, 3 + revisions)
    assert schema.upgrade(empty_database_url) == (None, schema.head())
    assert shape(empty_database_url) == shape(database_url)
    assert schema.upgrade(empty_database_url) == (schema.head(), schema.head())
