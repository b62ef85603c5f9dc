"""What a reader sees in the reporting views."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import psycopg
from psycopg import sql

from treazure_pipeline_tests.reporting.conftest import WRITTEN, Reader

COLUMNS = (
    "select table_name, column_name, data_type from information_schema.columns "
    "where table_schema = 'treazure_reporting' order by table_name, ordinal_position"
)


def views(reader: Reader) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for view, column, kind in reader.ask(COLUMNS):
        found.setdefault(view, {})[column] = kind
    return found


def test_the_programme_is_a_name_points_are_exact_and_times_have_their_zone_in_every_view(reader: Reader) -> None:
    found = views(reader)
    kinds = {kind for columns in found.values() for kind in columns.values()}

    assert len(found) == 8
    assert {columns["programme"] for columns in found.values()} == {"text"}
    assert kinds == {"bigint", "boolean", "date", "integer", "numeric", "text", "timestamp with time zone", "uuid"}
    assert {
        kind
        for columns in found.values()
        for column, kind in columns.items()
        if "balance" in column or "points" in column or column in {"opening", "added", "decreased", "closing"}
    } == {"numeric"}


def test_every_view_and_every_column_says_what_it_is(reader: Reader) -> None:
    silent = reader.ask(
        "select c.relname, a.attname from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 "
        "where c.relnamespace = 'treazure_reporting'::regnamespace "
        "and (obj_description(c.oid) is null or col_description(c.oid, a.attnum) is null)"
    )
    assert silent == []


def test_every_view_has_rows_once_the_sync_has_lived_a_little(lived: Reader) -> None:
    with psycopg.connect(lived.url) as connection:
        rows = {
            view: connection.execute(
                sql.SQL("select programme from treazure_reporting.{}").format(sql.Identifier(view))
            ).fetchall()
            for view in views(lived)
        }

    assert [view for view, found in rows.items() if not found] == []
    assert {name for found in rows.values() for (name,) in found} == {"points", None}
    assert [view for view, found in rows.items() if (None,) in found] == ["adjustment"]  # one that could not be read


def test_no_view_shows_what_people_wrote(lived: Reader) -> None:
    with psycopg.connect(lived.url) as connection:
        shown = [
            str(row)
            for view in views(lived)
            for row in connection.execute(sql.SQL("table treazure_reporting.{}").format(sql.Identifier(view)))
        ]
    kept = lived.adjustment_shop.sql("select count(*) from rejection where raw like %s", f"%{WRITTEN}%")

    assert kept == [(1,)]
    assert [row for row in shown if WRITTEN in row] == []
    assert [row for row in shown if "«…»" in row] != []


def test_a_contact_s_balance_is_what_both_systems_have(lived: Reader) -> None:
    refused, drifting, *others = lived.adjustment_shop.contacts(60)
    columns = "master_balance, sent_balance, pending, held, verdict"
    ask = f"select {columns} from contact_balance where contact = %s"  # noqa: S608 - constants
    both = {row["contactId"]: Decimal(row["treazure"]) for row in lived.adjustment_shop.sandbox.balances()}

    for contact in others:
        assert lived.row(ask, contact) == (both[contact], both[contact], False, False, "equal")
    assert lived.row(ask, refused) == (both[refused], both[refused] - 5, True, True, None)
    assert lived.row(ask, drifting) == (both[drifting], both[drifting], True, False, "drift")
    assert lived.row("select count(*), count(distinct contact) from contact_balance") == (60, 60)


def test_what_is_refused_rejected_or_drifts_is_listed_until_it_is_not(lived: Reader) -> None:
    refused, drifting, *_ = lived.adjustment_shop.contacts(2)
    assert lived.ask(
        "select origin, contact::text, refused_balance is null from rejection_open order by 1 desc"
    ) == [("export", "00000000-0000-4000-8000-00000000000b", True), ("engage", refused, False)]  # fmt: skip
    assert lived.ask("select contact::text, verdict, shown_balance from drift_open") == [(drifting, "drift", 1)]

    lived.adjustment_shop.sandbox.know([refused], known=True)
    lived.adjustment_shop.sandbox.add_points({refused: 1})
    lived.adjustment_shop.sync(full=True)

    assert lived.ask("select * from rejection_open") == []


def test_a_run_s_rows_add_up(lived: Reader) -> None:
    runs = lived.ask(
        "select fetched - duplicate - rejected - superseded - unchanged - changed, "
        "changed + carried_over - sent - refused, points_after - points_before, state, full_resync, requests > 0, "
        "answered_at >= asked_at and last_answered_at >= answered_at from sync_run order by observation"
    )
    changes = lived.ask(
        "select sum(points) from balance_change where source = 'export' group by observation order by observation"
    )

    assert [run[:2] for run in runs] == [(0, 0), (0, 0)]
    assert [(run[2],) for run in runs] == changes
    assert [run[3:] for run in runs] == [("merged", True, True, True), ("merged", False, True, True)]


def test_movements_and_adjustments_meet_by_their_receipt(lived: Reader) -> None:
    rows = lived.ask(
        "select a.contact = m.contact, a.points, m.points, m.balance_after = a.balance_after, a.state, "
        "a.finished_at - a.received_at, m.read_at > m.moved_at "
        "from adjustment a join movement m using (programme, receipt)"
    )
    assert [row[:5] for row in rows] == [(True, 100, 100, True, "done")]
    assert timedelta(0) < rows[0][5] < timedelta(minutes=5)
    assert rows[0][6]


def test_what_a_person_decided_about_an_adjustment_keeps_its_words_to_itself(lived: Reader) -> None:
    ask = "select state, reason from adjustment order by id desc limit 1"
    (state, reason) = lived.row(ask)
    assert (state, bool(reason)) == ("rejected", True)

    with psycopg.connect(lived.adjustment_shop.database_url) as connection:
        connection.execute(
            "update treazure_pipeline.adjustment set state = 'discarded', reason = %s where state = 'rejected'",
            (WRITTEN,),
        )

    assert lived.row(ask) == ("discarded", None)
