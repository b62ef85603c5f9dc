from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.points_history import export as points_history_export
from treazure_pipeline.points_history import store
from treazure_pipeline.points_history.export import Exported, ExportError, export
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of
from treazure_pipeline_tests.databases import Databases
from treazure_pipeline_tests.points_history.conftest import Logs, movement, read_logs

A, B = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab")


def exported(shop: Shop, url: Path | str) -> Exported:
    with shop.connect() as connections:
        return export(connections.ledger, account_of(connections), str(url))


def read_back(folder: Path) -> pa.Table:
    return ds.dataset(folder, format="parquet", partitioning="hive", schema=_PARTITIONED).to_table()


_PARTITIONED = points_history_export.SCHEMA.append(pa.field("month", pa.string()))


def logs_of_three_months(logs: Logs) -> None:
    logs.give(A, [movement(f"2026-0{month}-03T00:00:00Z", 10, month * 10, comment="ä;\n") for month in (1, 2, 3)])
    logs.give(B, [movement("2026-02-28T23:59:59.999999Z", 1.25, 1.25), movement("2026-03-01T00:00:00Z", -1, 0.25)])
    read_logs(logs.shop)


def test_every_movement_is_in_the_file_of_its_month_with_exact_points_and_utc_times(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    done = exported(logs.shop, tmp_path)
    assert (done.months, done.written, done.removed, done.rows) == (3, 3, 0, 5)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet")) == [
        f"month=2026-0{month}/points.parquet" for month in (1, 2, 3)
    ]
    table = read_back(tmp_path)
    assert table.schema.field("amount").type == pa.decimal128(38, 18)
    assert table.schema.field("date_time").type == pa.timestamp("us", tz="UTC")
    rows = sorted((row["contact"], row["position"], row["month"], row["amount"]) for row in table.to_pylist())
    assert rows == [
        (A, 1, "2026-01", Decimal(10)),
        (A, 2, "2026-02", Decimal(10)),
        (A, 3, "2026-03", Decimal(10)),
        (B, 1, "2026-02", Decimal("1.25")),
        (B, 2, "2026-03", Decimal(-1)),
    ]
    assert {row["programme"] for row in table.to_pylist()} == {"points"}
    assert table.column("comment").to_pylist().count("ä;\n") == 3


_TEXTS = ["", " ", "plain", 'a "quoted" one', "a,b;c\td", "two\nlines", "two\r\nlines", "a\rb", '"', "\n", "NULL",
          "\\N", "\\.", "ä😀\u2028\ufeff", "'; drop", "x" * 3000]  # fmt: skip
_POINTS = ["0", "-0.10", "0.000000000000000001", "99999999999999999999.999999999999999999",
           "-99999999999999999999.999999999999999999", "1000000000000000", "12.500"]  # fmt: skip
_TIMES = ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "2026-02-28T23:59:59.999999Z", "2026-03-01T00:00:00Z",
          "9999-12-31T23:59:59.999999Z"]  # fmt: skip
_HOSTILE = """
insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, expires_at,
                            comment, operator_id, shop_id, pos_id, receipt_nr, properties)
select {programme}, md5(n::text)::uuid, 1 + n %% 3, t, a, nullif(b, 0), c, e, nullif(c, 'plain'), c, null, c, c,
       json_build_object(c, a)
from (select row_number() over () as n, * from unnest(%(times)s::timestamptz[]) t, unnest(%(texts)s::text[]) c,
      unnest(%(points)s::numeric[]) a, unnest(%(points)s::numeric[]) b,
      unnest(array[null, '9999-12-31T23:59:59.999999Z']::timestamptz[]) e) h
"""
_EACH = """
select 'points' as programme, contact::text as contact, position, {columns} from points_history
where date_time >= %(month)s and date_time < %(month)s + interval '1 month' order by date_time, contact, position
"""


@pytest.mark.parametrize("block_bytes", [1, 5_000, 8 * 1024 * 1024])
def test_a_file_holds_what_a_reading_row_by_row_gives_whatever_the_values(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(points_history_export, "_BLOCK_BYTES", block_bytes)
    times, points = (_TIMES[:3], _POINTS[:2]) if block_bytes == 1 else (_TIMES, _POINTS)
    with logs.shop.connect() as connections:
        account = account_of(connections)
        with connections.ledger.transaction() as connection:
            values = {"times": times, "texts": _TEXTS, "points": points}
            connection.execute(_HOSTILE.format(programme=account.id), values)
            connection.execute(
                "insert into points_history_month select programme, date_trunc('month', date_time)::date, count(*), "
                "now() from points_history group by 1, 2"
            )
        export(connections.ledger, account, str(tmp_path))
        months = store.months(connections.ledger, account)
        assert sum(month.rows for month in months) == len(times) * len(_TEXTS) * len(points) ** 2 * 2
        for month in months:
            columns = ", ".join("properties::text" if name == "properties" else name for name in store.COLUMNS)
            with connections.ledger.reading() as connection:
                cursor = connection.cursor(row_factory=dict_row)
                rows = cursor.execute(_EACH.format(columns=columns), {"month": month.month}).fetchall()
            held = pq.read_table(
                next(tmp_path.glob(f"month={month.month.isoformat()[:7]}/*.parquet")), partitioning=None
            )
            assert held.schema.equals(points_history_export.SCHEMA)
            assert held.equals(pa.Table.from_pylist(rows, schema=points_history_export.SCHEMA))


def test_other_tools_read_the_folder_as_one_table(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    exported(logs.shop, tmp_path)
    frame = pl.scan_parquet(tmp_path, hive_partitioning=True).collect()
    assert frame["amount"].sum() == Decimal("30.25")


def test_again_only_the_months_that_changed_are_written(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    exported(logs.shop, tmp_path)
    assert exported(logs.shop, tmp_path).written == 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    logs.give(B, [movement("2026-02-28T23:59:59.999999Z", 1.25, 1.25), movement("2026-03-01T00:00:00Z", -1, 0.25),
                  movement("2026-03-02T00:00:00Z", 5, 5.25), movement("2026-04-01T00:00:00Z", 1, 6.25)])  # fmt: skip
    read_logs(logs.shop)
    assert exported(logs.shop, tmp_path).written == 2
    changed = {file.parent.name for file in tmp_path.rglob("*.parquet") if file.stat().st_mtime_ns != before.get(file)}
    assert changed == {"month=2026-03", "month=2026-04"}
    assert read_back(tmp_path).num_rows == 7


def test_a_file_that_is_gone_or_broken_is_written_again(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    exported(logs.shop, tmp_path)
    (tmp_path / "month=2026-01" / "points.parquet").unlink()
    (tmp_path / "month=2026-02" / "points.parquet").write_bytes(b"PAR1 broken")
    assert exported(logs.shop, tmp_path).written == 2
    assert read_back(tmp_path).num_rows == 5


def test_the_file_of_a_month_without_movements_is_removed(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    exported(logs.shop, tmp_path)
    logs.give(A, [movement("2026-03-03T00:00:00Z", 10, 10)])
    read_logs(logs.shop)
    done = exported(logs.shop, tmp_path)
    assert (done.months, done.removed) == (2, 1)
    assert not (tmp_path / "month=2026-01" / "points.parquet").exists()
    assert read_back(tmp_path).num_rows == 3


def test_an_object_store_takes_the_files_too(logs: Logs) -> None:
    logs_of_three_months(logs)
    url = "memory://history-of-this-test"
    assert exported(logs.shop, url).written == 3
    assert exported(logs.shop, url).written == 0


def test_digits_that_parquet_can_t_hold_are_named_and_nothing_is_rounded(logs: Logs, tmp_path: Path) -> None:
    logs.give(A, [movement("2026-01-03T00:00:00Z", 10, 10)])
    read_logs(logs.shop)
    logs.shop.sql("update points_history set amount = 0.1234567890123456789")
    with pytest.raises(ExportError, match=rf"points of movement 1 of contact {A} can't be held"):
        exported(logs.shop, tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_what_there_is_no_time_for_is_left_to_the_next_export(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    with logs.shop.connect() as connections:
        done = export(connections.ledger, account_of(connections), str(tmp_path), most_seconds=0)
    assert (done.written, done.left) == (0, 3)
    assert exported(logs.shop, tmp_path).written == 3


def test_each_month_is_read_in_a_snapshot_of_its_own(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs_of_three_months(logs)
    unchanging = store.unchanging

    @contextmanager
    def and_changed_meanwhile(*which: Any) -> Iterator[Any]:
        with unchanging(*which) as snapshot:
            logs.shop.sql("update points_history set amount = amount + 100 where date_time >= '2026-02-01'")
            yield snapshot

    monkeypatch.setattr(store, "unchanging", and_changed_meanwhile)
    exported(logs.shop, tmp_path)
    amounts = {
        row["month"]: int(row["amount"]) // 100 for row in read_back(tmp_path).to_pylist() if row["contact"] == A
    }
    assert amounts == {"2026-01": 0, "2026-02": 1, "2026-03": 2}


def test_a_replica_is_read_where_the_settings_name_one(logs: Logs, tmp_path: Path, databases: Databases) -> None:
    logs_of_three_months(logs)
    name = str(sa.make_url(logs.shop.database_url).database)
    with databases.new(name) as replica:
        logs.shop.sql(f"alter database {replica} set default_transaction_read_only = on")
        logs.shop.sql("delete from points_history; delete from points_history_month")
        url = databases.url(replica, roles.RUNTIME)
        with (
            logs.shop.connect(TREAZURE_PIPELINE_REPLICA_URL=url) as connections,
            connections.for_long_reading() as ledger,
        ):
            assert export(ledger, account_of(connections), str(tmp_path)).rows == 5


def test_a_replica_of_another_ledger_is_refused(logs: Logs, databases: Databases, ledger_template: str) -> None:
    with (
        databases.new(ledger_template) as other,
        logs.shop.connect(TREAZURE_PIPELINE_REPLICA_URL=databases.url(other, roles.RUNTIME)) as connections,
        pytest.raises(SettingsError, match="is not a replica of this ledger"),
        connections.for_long_reading(),
    ):
        pass


def test_texts_and_missing_values_come_back_as_they_are(logs: Logs, tmp_path: Path) -> None:
    comments = [None, "", '"', 'a "b", c;\r\n\\N', "NULL", "é👩‍👩‍👧", "  "]
    logs.give(
        A,
        [
            movement(f"2026-01-0{day}T00:00:00.123456Z", 1, day, comment=comment, properties={"n": comment})
            for day, comment in enumerate(comments, 1)
        ],
    )
    logs.give(B, [movement("1969-12-31T23:59:59.999999Z", -1, -1, expiresAt="2100-01-01T00:00:00Z")])
    read_logs(logs.shop)
    exported(logs.shop, tmp_path)
    rows = read_back(tmp_path).to_pylist()
    early = next(row for row in rows if row["contact"] == B)
    assert (early["month"], early["expires_at"]) == ("1969-12", datetime(2100, 1, 1, tzinfo=UTC))
    assert early["date_time"] == datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert [early[name] for name in ("comment", "shop_id", "properties")] == [None] * 3
    texts = sorted((row["position"], row["comment"], json.loads(row["properties"])) for row in rows if row != early)
    assert [(comment, held["n"]) for _, comment, held in texts] == [(one, one) for one in comments]


def test_no_secret_of_an_address_is_shown(logs: Logs) -> None:
    logs_of_three_months(logs)
    url = "sftp://user:s3cret-pass@127.0.0.1:1/points?token=t0ken"
    with pytest.raises(ExportError) as caught:
        exported(logs.shop, url)
    assert "sftp://127.0.0.1:1/points" in str(caught.value)
    assert "s3cret-pass" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nonsense://user:s3cret-pass@host/x"])
def test_an_address_that_can_t_be_one_is_refused_before_any_work(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        points_history_export.check_url(url)
    assert "s3cret-pass" not in str(caught.value)


def test_memory_does_not_grow_with_the_rows(logs: Logs, tmp_path: Path) -> None:
    logs_of_three_months(logs)
    many = (
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type) "
        "select 1, md5(n::text)::uuid, 1, '2026-05-01', 1, 1, 'Load' from generate_series(1, %s) n"
    )
    logs.shop.sql(many, 300_000)
    logs.shop.sql("insert into points_history_month values (1, '2026-05-01', 300000, now())")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert exported(logs.shop, tmp_path).rows == 300_005
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200 * 1024 * 1024


@pytest.mark.slow
def test_the_command_line_package_is_not_slowed_by_arrow() -> None:
    code = "import sys; import treazure_pipeline.cli.run; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
