from __future__ import annotations

import psycopg
import pytest

from treazure_pipeline.database import schema
from treazure_pipeline_tests import processes

_SHAPE = """
select c.relname::text, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace::regnamespace::text in ('treazure_pipeline', 'treazure_reporting') order by 1, 2, 3
"""


def shape(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(_SHAPE).fetchall()


def upgrade_and_die(url: str, nth: int) -> None:
    """`upgrade` is the name of our function, of alembic's, and of that of each revision."""
    processes.die_at("call", "upgrade", nth)
    schema.upgrade(url)


@pytest.mark.parametrize("revisions", [0, 1, 12, len(schema.revisions()) - 1])
def test_an_upgrade_that_is_killed_leaves_the_schema_as_it_was_and_the_next_one_ends_well(
    empty_database_url: str, database_url: str, revisions: int
) -> None:
    assert processes.killed(upgrade_and_die, empty_database_url, 3 + revisions)
    assert schema.upgrade(empty_database_url) == (None, schema.head())
    assert shape(empty_database_url) == shape(database_url)
    assert schema.upgrade(empty_database_url) == (schema.head(), schema.head())
