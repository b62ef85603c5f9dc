"""`liability_daily`: opening + added - decreased = closing, whoever moves the points (I10)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import alembic.command
import psycopg
import pytest

from treazure_pipeline.database import schema, upgrading
from treazure_pipeline_tests.reporting.conftest import Reader

DAYS = (
    "select day::text, opening, added, decreased, closing from liability_daily where programme = 'points' order by day"
)
# From other records: every contact's balance, and every change of one.
BALANCES = "select sum(master_balance) from contact_balance where programme = 'points'"
CHANGES = (
    "select (noted_at at time zone 'UTC')::date::text, coalesce(sum(points) filter (where points > 0), 0), "
    "coalesce(-sum(points) filter (where points < 0), 0) from balance_change "
    "where programme = 'points' group by 1 order by 1"
)


def test_syncs_and_adjustments_at_the_same_time_add_up_to_the_points_outstanding(reader: Reader) -> None:
    adjustment_shop = reader.adjustment_shop
    contacts = adjustment_shop.contacts(60)
    adjustment_shop.sync()

    def give() -> None:
        for number in range(10):
            adjustment_shop.give(contacts[number], 25)
            adjustment_shop.process()

    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(give)
        while not giving.done():
            adjustment_shop.sandbox.play_hour(changes=8)
            adjustment_shop.sandbox.add_points({contacts[20]: -3, contacts[21]: "7.25"})
            adjustment_shop.sync(complete=False)
        giving.result()
    adjustment_shop.wait_until(
        lambda: bool(adjustment_shop.process()) and set(adjustment_shop.states()) <= {"posted", "done"}
    )
    adjustment_shop.sync(complete=False)

    days = reader.ask(DAYS)
    opening = Decimal(0)
    for _, begins, added, decreased, ends in days:
        assert (begins, begins + added - decreased) == (opening, ends)
        opening = ends
    assert [opening] == list(reader.row(BALANCES))
    assert [(day, added, decreased) for day, _, added, decreased, _ in days] == reader.ask(CHANGES)
    assert all(added > decreased > 0 for _, _, added, decreased, _ in days)
    assert reader.row("select count(*), sum(points) from adjustment where state in ('posted', 'done')") == (10, 250)


def test_a_process_of_the_version_before_is_counted_too(reader: Reader) -> None:
    """It moves the total and knows nothing else."""
    reader.adjustment_shop.sync()
    ((_, opening, added, decreased, closing),) = reader.ask(DAYS)

    for change in (30, -12):
        reader.adjustment_shop.sql("update programme set points_total = points_total + %s", change)

    assert [row[1:] for row in reader.ask(DAYS)] == [(opening, added + 30, decreased + 12, closing + 18)]


def test_days_on_which_nothing_moved_are_there_too(reader: Reader) -> None:
    reader.adjustment_shop.sync()
    reader.adjustment_shop.sql("update liability_day set day = day - 3")

    days = reader.ask(DAYS)

    assert len(days) == 4
    assert [row[1:] for row in days[1:]] == [(days[0][4], 0, 0, days[0][4])] * 3


def test_a_ledger_that_was_there_before_opens_with_what_is_outstanding(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as the_version_before:
        the_version_before.setattr(
            upgrading, "alembic_upgrade", lambda config, _: alembic.command.upgrade(config, "0017")
        )
        schema.upgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "insert into treazure_pipeline.programme (name, loyalty_id, definition_id, points_total) "
            "values ('club', 'L', 1, 1234.5), ('new', 'M', 2, 0)"
        )

    schema.upgrade(empty_database_url)

    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "update treazure_pipeline.programme set points_total = points_total - 34.5 where name = 'club'"
        )
        connection.execute(
            "update treazure_pipeline.programme set points_total = 7, points_added = 10 where name = 'new'"
        )
        rows = connection.execute(
            "select programme, opening, added, decreased, closing from treazure_reporting.liability_daily order by 1"
        ).fetchall()
    assert rows == [("club", Decimal("1234.5"), 0, Decimal("34.5"), 1200), ("new", 0, 10, 3, 7)]
