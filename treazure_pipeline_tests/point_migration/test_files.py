"""The files themselves: format, texts, sizes, order, and what is said of single contacts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration import files
from treazure_pipeline.point_migration.parts import encode, roster
from treazure_pipeline.texts import clean
from treazure_pipeline_tests.point_migration.small_treazure import (
    CUT_OFF,
    ZERO,
    Account,
    contact,
    found,
    in_engage,
    migrate,
    rows_of,
    write,
)

BEGINNING = CUT_OFF - timedelta(days=30)
HEADER = (
    "Key;KeyType;PointDefinitionId;Amount;TransactionType;TransactionDate;CreatedOn;ValidTo;CreatedBy;Description;"
    "Source;ExpireAfterMonthsInactive"
)


def loads(count: int, comment: str | None = None) -> list[Movement]:
    return [
        Movement(BEGINNING + timedelta(seconds=number), Decimal(1), "Load", Decimal(number + 1), comment=comment)
        for number in range(count)
    ]


def movement(kind: str, amount: int, balance: int, days: int = 0) -> Movement:
    return Movement(BEGINNING + timedelta(days=days), Decimal(amount), kind, Decimal(balance), receipt_nr="S-1")


def test_a_file_is_exactly_as_engage_documents_it(tmp_path: Path) -> None:
    one = Account(BEGINNING + timedelta(microseconds=829_999))
    one.load(Decimal("100.5"), timedelta(days=365))
    one.use(Decimal("0.25"))
    report = migrate(tmp_path, {contact(1): one.log}, {contact(1): one.balance}, definition_id=7, decimals=3)
    (file,) = report.files
    body = (tmp_path / file.name).read_bytes()
    key, date = contact(1), "2025-05-02T00:00:00.829Z"
    assert body.decode().split("\n") == [
        HEADER,
        f"{key};ContactId;7;0.250;Purchase;{date};{date};;Treazure;Points earned;Treazure;",
        f"{key};ContactId;7;100.250;Purchase;{date};{date};2026-05-02T00:00:00.829Z;Treazure;Points earned;Treazure;",
        f"{key};ContactId;7;-0.250;RewardVoucher;{date};{date};;Treazure;Points used;Treazure;",
        "",
    ]
    digest = hashlib.sha256(body).hexdigest()
    assert (file.name, file.rows, file.amount) == (f"points-0001-{digest[:12]}.csv", 3, Decimal("100.25"))
    assert (file.size, file.sha256) == (len(body), digest)


@pytest.mark.parametrize(
    ("kind", "amount", "becomes", "words"),
    [
        ("Load", 5, "Purchase", "Points earned, receipt S-1"),
        ("Load", -5, "Return", "Points taken back, receipt S-1"),
        ("Redeem", -5, "RewardVoucher", "Points used, receipt S-1"),
        ("Redeem", 5, "RewardVoucher", "Used points returned, receipt S-1"),
        ("Convert", -5, "RewardVoucher", "Points turned into a voucher, receipt S-1"),
        ("Convert", 5, "RewardVoucher", "Voucher turned back into points, receipt S-1"),
        ("Expire", -5, "Adjustment", "Points expired, receipt S-1"),
        ("Expire", 5, "Adjustment", "Expired points restored, receipt S-1"),
        ("Transfer", -5, "Adjustment", "Points transferred out, receipt S-1"),
        ("Transfer", 5, "Adjustment", "Points transferred in, receipt S-1"),
    ],
)
def test_each_movement_has_one_meaning(tmp_path: Path, kind: str, amount: int, becomes: str, words: str) -> None:
    log = [movement(kind, amount, amount)]
    (row,) = rows_of(tmp_path, migrate(tmp_path, {contact(1): log}, {contact(1): Decimal(amount)}))
    assert (row["Amount"], row["TransactionType"], row["Description"]) == (f"{amount}.00", becomes, words)


def test_what_moves_no_points_is_left_out_and_counted(tmp_path: Path) -> None:
    log = [movement("Load", 10, 10), movement("RedeemVoucher", -7, 10, 1), movement("Load", 0, 10, 2)]
    report = migrate(tmp_path, {contact(1): log}, {contact(1): Decimal(10)})
    assert [row["Amount"] for row in rows_of(tmp_path, report)] == ["10.00"]
    counts = report.figures.movements
    assert (counts["read"], counts["used"], counts["informational"], counts["zero"]) == (3, 1, 1, 1)
    assert report.findings.is_empty()


def test_a_truncated_log_is_closed_by_an_opening_row_before_its_first(tmp_path: Path) -> None:
    log = [movement("Load", 10, 50, 1), movement("Redeem", -20, 30, 2)]
    report = migrate(tmp_path, {contact(1): log}, {contact(1): Decimal(30)})
    opening, *others = rows_of(tmp_path, report)
    assert (opening["Amount"], opening["TransactionType"], opening["Description"]) == (
        "40.00",
        "Adjustment",
        "Opening balance",
    )
    assert opening["TransactionDate"] < others[0]["TransactionDate"]
    assert [row["Amount"] for row in others] == ["10.00", "-20.00"]
    (finding,) = report.findings.rows(named=True)
    assert (finding["contact"], finding["kind"]) == (contact(1), "beginning_missing")
    assert (finding["field"], finding["value"], finding["amount"]) == ("balance", "-10", Decimal(40))
    assert "opening row" in finding["advice"]


def test_each_reason_for_an_opening_row_is_told_apart(tmp_path: Path) -> None:
    wrong_inside = [movement("Load", 10, 10), movement("Load", 5, 25, 1)]
    logs = {contact(1): wrong_inside, contact(2): [], contact(3): [], contact(9): loads(2)}
    balances = {contact(number): Decimal(25 * number) for number in (1, 2, 4)} | {contact(3): ZERO}
    report = migrate(tmp_path, logs, balances)
    assert {row["contact"]: row["kind"] for row in report.findings.rows(named=True)} == {
        contact(1): "does_not_add_up",
        contact(2): "log_empty",
        contact(4): "log_not_fetched",
        contact(9): "not_in_roster",
    }
    rows = rows_of(tmp_path, report)
    assert [in_engage(rows, name, CUT_OFF) for name in sorted(balances)] == [25, 50, 0, 100]
    assert in_engage(rows, contact(9), CUT_OFF) == 0
    assert report.figures.contacts == {"roster": 4, "written": 3, "without_points": 1}


def test_a_balance_that_was_read_too_late_is_told_from_a_truncated_log(tmp_path: Path) -> None:
    after = CUT_OFF + timedelta(minutes=5)
    truncated = [movement("Load", 20, 30), Movement(after, Decimal(10), "Load", Decimal(40))]
    too_late = [movement("Load", 20, 20), Movement(after, Decimal(10), "Load", Decimal(30))]
    only_later = [Movement(after, Decimal(10), "Load", Decimal(30))]
    logs = {contact(1): truncated, contact(2): too_late, contact(3): only_later}
    report = migrate(tmp_path, logs, dict.fromkeys(logs, Decimal(30)))
    rows = rows_of(tmp_path, report)
    assert [in_engage(rows, name, CUT_OFF) for name in logs] == [30, 20, 20]
    said = [(row["contact"], row["kind"], row["amount"]) for row in report.findings.rows(named=True)]
    assert said == [
        (contact(1), "beginning_missing", Decimal(10)),
        (contact(2), "later_balance", Decimal(10)),
        (contact(3), "later_balance", Decimal(10)),
        (contact(3), "beginning_missing", Decimal(20)),
    ]


def test_unknown_movements_are_kept_apart_and_their_points_stay(tmp_path: Path) -> None:
    log = [movement("Load", 10, 10), movement("Bonus", 7, 17, 1), movement("Bonus", 1, 18, 2), movement("", 2, 20, 3)]
    log.append(Movement(BEGINNING + timedelta(days=4), Decimal("1e30"), "Load", Decimal(20)))
    report = migrate(tmp_path, {contact(1): log}, {contact(1): Decimal(20)})
    opening, load = rows_of(tmp_path, report)
    assert (opening["Amount"], load["Amount"]) == ("10.00", "10.00")
    apart = [(row["kind"], row["field"], row["value"], row["amount"]) for row in report.findings.rows(named=True)]
    assert apart == [
        ("unknown_type", "transactionType", "Bonus", Decimal(8)),
        ("unknown_type", "transactionType", "", Decimal(2)),
        ("unusable_amount", "amount", "1E+30", ZERO),
    ]
    assert report.figures.movements["kept_apart"] == 4


def test_movements_that_are_unknown_and_a_log_that_is_truncated_are_both_said(tmp_path: Path) -> None:
    log = [movement("Load", 10, 50, 1), movement("Bonus", 7, 57, 2)]
    report = migrate(tmp_path, {contact(1): log}, {contact(1): Decimal(57)})
    assert report.findings["kind"].to_list() == ["unknown_type", "does_not_add_up"]
    assert report.findings["amount"].to_list() == [Decimal(7), Decimal(47)]


def test_an_answer_that_begins_with_the_newest_is_turned_round(tmp_path: Path) -> None:
    log = [movement("Load", 10, 10), movement("Load", 20, 30, 1), movement("Redeem", -25, 5, 1)]
    report = migrate(tmp_path, {contact(1): log[::-1]}, {contact(1): Decimal(5)})
    assert [row["Amount"] for row in rows_of(tmp_path, report)] == ["10.00", "20.00", "-25.00"]


def test_what_is_left_after_each_expiry_is_rounded_like_the_balance_then(tmp_path: Path) -> None:
    one = Account(CUT_OFF)
    for days, amount in ((300, "0.4"), (100, "0.4"), (200, "0.4"), (400, "0.4")):
        one.load(Decimal(amount), timedelta(days=days))
    rows = rows_of(tmp_path, migrate(tmp_path, {contact(1): one.log}, {contact(1): one.balance}, decimals=0))
    left = [in_engage(rows, contact(1), CUT_OFF + timedelta(days=days)) for days in (0, 100, 200, 300, 400)]
    assert left == [2, 1, 1, 0, 0]


# As lists, since Hypothesis leaves half a surrogate pair out of texts.
_HOSTILE = st.lists(
    st.sampled_from(list("\"';=+-@\t\r\n\x00\u2028\ud83d\ufeff\u200b\uff1d \u00a0")) | st.characters(), max_size=40
).map("".join)


@given(text=_HOSTILE, receipt=_HOSTILE, key=_HOSTILE, mode=st.sampled_from(["log", "balance"]))
@settings(deadline=None, max_examples=200)
def test_whatever_a_text_or_a_key_holds_no_value_breaks_the_import(
    tmp_path_factory: pytest.TempPathFactory, text: str, receipt: str, key: str, mode: str
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    log = [Movement(BEGINNING, Decimal(1), "Load", Decimal(1), comment=clean(text), receipt_nr=clean(receipt))]
    keys = {contact(1): key.encode("utf-8", "ignore").decode(), contact(2): "M-2"}
    report = migrate(
        folder, dict.fromkeys(keys, log), dict.fromkeys(keys, Decimal(1)), keys=keys, key_type="ExternalId", mode=mode
    )
    (file,) = report.files
    header, *lines = (folder / file.name).read_text("utf-8").removesuffix("\n").splitlines()
    assert header == HEADER
    assert len(lines) == file.rows == 2 - report.findings.filter(pl.col("field") == "key").height
    for line in lines:
        values = dict(zip(HEADER.split(";"), line.split(";"), strict=True))
        assert not {"'", '"'} & set(line)
        assert values["Key"] in keys.values()
        assert values["Description"][0] not in "=+-@\t\r "
        assert [values[name] for name in ("KeyType", "Amount", "Source")] == ["ExternalId", "1.00", "Treazure"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('He said "hi"; then left', "He said \u201dhi\u201d, then left"),
        ("Member's birthday", "Member\u2019s birthday"),
        ("one\r\ntwo\nthree\x00four\u2028five\x85six", "one  two threefour five six"),
        ("half \ud83d and \ud83c\udf81", "half \ufffd and \U0001f381"),
        ("=HYPERLINK(1)", "\u2019=HYPERLINK(1)"),
        (" \t-5 @home", "\u2019-5 @home"),
        ("\ufeff+46", "\u2019+46"),
        ("@SUM", "\u2019@SUM"),
        ("\uff1dSUM", "\u2019\uff1dSUM"),
        ("a=b", "a=b"),
        ("Köp i 東京 مرحبا 🎁", "Köp i 東京 مرحبا 🎁"),
        (" \n ", "Points earned"),
        (None, "Points earned"),
    ],
)
def test_hostile_texts_are_made_harmless_and_others_stay_as_they_are(
    tmp_path: Path, text: str | None, shown: str
) -> None:
    (row,) = rows_of(
        tmp_path, migrate(tmp_path, {contact(1): loads(1, text and clean(text))}, {contact(1): Decimal(1)})
    )
    assert row["Description"] == shown


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([], []),
        ([0], []),
        ([1], [1]),
        ([20_000], [20_000]),
        ([20_001], [20_000, 1]),
        ([60_001], [20_000, 20_000, 20_000, 1]),
        ([12_000, 8_000, 1], [20_000, 1]),
        ([12_000, 8_001, 1], [12_000, 8_002]),
        ([5, 25_000, 10], [5, 20_000, 5_010]),
        ([19_999, 40_001, 2], [19_999, 20_000, 20_000, 3]),
    ],
)
def test_contacts_stay_together_where_they_fit_and_no_file_is_too_long(
    tmp_path: Path, counts: list[int], sizes: list[int]
) -> None:
    logs = {contact(number): loads(count) for number, count in enumerate(counts)}
    balances = {name: Decimal(len(log)) for name, log in logs.items()}
    report = migrate(tmp_path, logs, balances)
    assert [file.rows for file in report.files] == sizes
    assert [(file.name[:12], file.amount) for file in report.files] == [
        (f"points-{number:04d}-", Decimal(size)) for number, size in enumerate(sizes, start=1)
    ]
    rows = rows_of(tmp_path, report)
    assert [row["Key"] for row in rows] == [name for name in sorted(logs) for _ in logs[name]]
    dates = [(row["Key"], row["TransactionDate"]) for row in rows]
    assert dates == sorted(dates)
    assert len(found(report, "spans_files")) == sum(count > 20_000 for count in counts)


def test_how_logs_were_cut_into_parts_and_blocks_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {contact(number): loads(number % 7, "text") for number in range(60)}
    balances = {name: Decimal(len(log)) for name, log in logs.items()}
    del logs[contact(11)], logs[contact(59)]
    reports = []
    for part_size, block_size, rows in ((1, 60, 1), (7, 2, 20), (60, 5, 100_000)):
        monkeypatch.setattr(files, "CHUNK_ROWS", rows)
        folder = tmp_path / str(rows)
        report = migrate(folder, logs, balances, part_size=part_size, block_size=block_size, rows_per_file=20)
        reports.append((report.files, report.figures, report.findings.rows()))
        assert sorted(path.name for path in folder.iterdir()) == [file.name for file in report.files]
    assert reports[0] == reports[1] == reports[2]


def test_files_of_an_earlier_run_with_the_same_prefix_are_replaced(tmp_path: Path) -> None:
    migrate(tmp_path, {contact(1): loads(50)}, {contact(1): Decimal(50)}, rows_per_file=10)
    others = {"others-0001.csv", "points-others-0001.csv"}
    for name in others:
        (tmp_path / name).write_text("not ours")
    (file,) = migrate(tmp_path, {contact(1): loads(5)}, {contact(1): Decimal(5)}, rows_per_file=10).files
    assert {path.name for path in tmp_path.iterdir()} == others | {file.name}


def test_files_are_written_while_parts_still_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_ROWS", 100)
    written: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(10):
            yield encode({contact(number): loads(100)})
            written.append(len(list(tmp_path.iterdir())))

    blocks = (roster([(contact(number), Decimal(100), None)]) for number in range(10))
    write(parts(), blocks, tmp_path, rows_per_file=10)
    assert written[-1] >= 5 * 10


def test_a_balance_is_one_row_where_only_balances_are_wanted(tmp_path: Path) -> None:
    balances = {contact(1): Decimal("12.345"), contact(2): ZERO, contact(3): Decimal(-4), contact(4): Decimal("0.001")}
    report = migrate(tmp_path, {contact(1): loads(3)}, balances, mode="balance")
    rows = rows_of(tmp_path, report)
    assert [(row["Key"], row["Amount"], row["TransactionType"]) for row in rows] == [
        (contact(1), "12.35", "Adjustment"),
        (contact(3), "-4.00", "Adjustment"),
    ]
    assert {row["Description"] for row in rows} == {"Balance at the migration"}
    assert {row["TransactionDate"] for row in rows} == {"2025-06-01T00:00:00.000Z"}
    assert report.findings.is_empty()


def test_contacts_without_a_key_that_can_be_written_are_in_no_file_and_listed(tmp_path: Path) -> None:
    written = ["+46 70 1", "M-1", "0012", "Łódź 7"]
    unusable = ["M;1", 'M"1', "M'1", "M\n1", "=2", "@M", "+SUM(1)", " M1", "\u00a0M1", "M1\t"]
    names = [contact(number) for number in range(len(written) + len(unusable) + 2)]
    keys = dict(zip(names, [*written, *unusable, ""], strict=False))
    report = migrate(
        tmp_path,
        {name: loads(3) for name in names},
        dict.fromkeys(names, Decimal(3)),
        keys=keys,
        key_type="MemberNumber",
    )
    assert [row["Key"] for row in rows_of(tmp_path, report)] == [key for key in written for _ in range(3)]
    assert found(report, "key_missing")["contact"].to_list() == names[-2:]
    assert sorted(found(report, "key_unusable")["value"]) == sorted(unusable)
    assert (report.figures.left_out, report.figures.rows) == (Decimal(36), Decimal(12))
    assert report.figures.movements["key_missing"] == 36


def test_every_movement_and_every_point_is_accounted_for(tmp_path: Path) -> None:
    logs = {contact(number): loads(number) for number in range(1, 30)}
    logs[contact(3)].append(movement("Bonus", 5, 8, 20))
    logs[contact(4)].append(Movement(CUT_OFF + timedelta(1), Decimal(9), "Load", Decimal(13)))
    logs[contact(5)] = logs[contact(5)][2:]
    balances = {name: Decimal(number) for number, name in enumerate(sorted(logs), start=1)}
    keys = {name: f"M{number}" for number, name in enumerate(sorted(logs)) if number != 7}
    del balances[contact(9)]
    report = migrate(tmp_path, logs, balances, keys=keys, key_type="ExternalId")
    counts = report.figures.movements
    parts = ("not_in_roster", "key_missing", "after_cut_off", "informational", "kept_apart", "zero", "used")
    assert counts["read"] == sum(len(log) for log in logs.values()) == sum(counts[name] for name in parts)
    figures = report.figures
    assert figures.rows == sum(Decimal(row["Amount"]) for row in rows_of(tmp_path, report))
    assert figures.rows == figures.balances - figures.left_out == figures.logs + figures.openings


@pytest.mark.parametrize("wrong", ["parts", "roster"])
def test_contacts_out_of_order_are_refused(tmp_path: Path, wrong: str) -> None:
    logs = [encode({contact(number): loads(1)}) for number in (1, 2)]
    blocks = [roster([(contact(number), Decimal(1), None)]) for number in (1, 2)]
    with pytest.raises(ValueError, match="not in ascending order"):
        write(logs[:: -1 if wrong == "parts" else 1], blocks[:: -1 if wrong == "roster" else 1], tmp_path)


def test_a_contact_that_comes_twice_is_refused(tmp_path: Path) -> None:
    part, contacts = encode({contact(1): loads(1)}), [(contact(1), Decimal(1), None)]
    with pytest.raises(ValueError, match="not in ascending order"):
        write([part, part], [roster(contacts)], tmp_path)
    with pytest.raises(ValueError, match="a contact twice"):
        write([part], [roster(contacts * 2)], tmp_path)
