from __future__ import annotations

from typing import Any

import alembic.command
import psycopg
import pytest

from treazure_pipeline.database import schema, upgrading

ROWS = "select programme, contact, position, points_history.date_time, amount from points_history order by 2, 3"
KIND = "select relkind::text from pg_class where oid = 'points_history'::regclass"
PARTS = "select count(*), min(n) > 0 from (select tableoid, count(*) n from points_history group by 1) p"


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(
        url, autocommit=True, options="-c search_path=treazure_pipeline -c timezone=UTC"
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def before(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger of the version before, with the history of 2,000 contacts."""
    with monkeypatch.context() as the_version_before:
        the_version_before.setattr(
            upgrading, "alembic_upgrade", lambda config, _: alembic.command.upgrade(config, "0023")
        )
        schema.upgrade(empty_database_url)
    ask(
        empty_database_url,
        "insert into programme (name, loyalty_id, definition_id) values ('club', 'L', 1); "
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type) "
        "select 1, md5(n::text)::uuid, p, '2026-05-01', p, p, 'Load' "
        "from generate_series(1, 2000) n, generate_series(1, 2) p",
    )
    return empty_database_url


def test_a_history_that_was_there_before_is_spread_over_the_partitions_and_keeps_its_view(before: str) -> None:
    rows = ask(before, ROWS)
    schema.upgrade(before)
    assert ask(before, KIND) == [("p",)]
    assert ask(before, PARTS) == [(32, True)]
    assert ask(before, ROWS) == rows
    assert ask(before, "select count(*), sum(points) from treazure_reporting.movement") == [(4000, 6000)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        ask(before, "insert into points_history select * from points_history limit 1")


def test_one_that_somebody_reads_meanwhile_holds_no_upgrade_up_and_is_spread_later(before: str) -> None:
    rows = ask(before, ROWS)
    with psycopg.connect(before) as reader:
        reader.execute("select 1 from treazure_pipeline.points_history limit 1")
        assert schema.upgrade(before) == ("0023", schema.head())
    assert ask(before, KIND) == [("r",)]
    assert ask(before, "select partition_points_history()") == [(4000,)]
    assert ask(before, "select partition_points_history()") == [(0,)]
    assert (ask(before, KIND), ask(before, ROWS)) == ([("p",)], rows)
