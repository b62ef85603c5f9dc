"""A mapping file with mistakes: each is found with its line, and none spoils the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.point_migration.keys import KeyFile, KeyFinding, KeyRow, unknown, what_is_wrong
from treazure_pipeline_tests.point_migration.small_treazure import contact

DATA = Path(__file__).parent / "data"


def read(path: Path, *lines: str | bytes, header: str = "contact;key") -> tuple[list[KeyRow], KeyFile]:
    texts = [header, *lines]
    path.write_bytes(b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in texts) + b"\r\n")
    file = KeyFile(str(path))
    return [row for block in file.blocks(rows=2) for row in block], file


def test_right_lines_come_in_order_with_their_numbers(tmp_path: Path) -> None:
    rows, file = read(
        tmp_path / "keys.csv",
        f"{contact(1)};M-1",
        "",
        f'"{{{contact(2).upper()}}}";"M,2"',
        f"{contact(3)};+46 70 1",
        header="\ufeffContact;Key",
    )
    assert rows == [
        KeyRow(2, contact(1), "M-1"),
        KeyRow(4, contact(2), "M,2"),
        KeyRow(5, contact(3), "+46 70 1"),
    ]
    assert file.findings == []


def test_what_a_spreadsheet_did_to_a_mapping_is_found_line_by_line() -> None:
    file = KeyFile(str(DATA / "mapping-damaged-keys.csv"))
    rows = {row.line: row.key for block in file.blocks() for row in block}
    findings = {finding.line: finding for finding in file.findings}
    for line, expected in json.loads((DATA / "mapping-damaged-keys.expected.json").read_text()).items():
        number = int(line.removeprefix("line "))
        assert (number in rows) is expected.startswith("taken"), expected
        assert (number in findings) is (not expected.startswith("taken") or "reported" in expected), expected
    assert rows == {2: "12345001", 3: "0012345002", 15: "12345014"}
    assert findings[15] == KeyFinding(15, "key", "12345014 ", findings[15].advice, taken=True)
    assert all(finding.value or finding.line == 14 for finding in file.findings)


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (["1\u00a02", "1\u20072", "1\u20282"], "special space"),
        (
            ["1\u200b2", "\ufeff12", "1\u00ad2", "1\u200f2", "1\ufe0f2", "1\u31642", "12\t", "1\x002", "1\u2066"],
            "invisible",
        ),
        (["\uff11\uff12", "\u0661\u0662", "\u0967"], "only looks like one"),
        (["\uff2d-1", "①2", "Jose\u0301", "ﬁ1"], "look like others"),
        (["M\ufffd1", "\ufffd"], "lost on the way"),
        (["12345.0", "12345,00", "12345."], "decimal point"),
        (["1E11", "1e+11", "1,23457E+11", "1.2E-5"], "shortened"),
        (["=1+1", '="12345"', "@M1", "+SUM(A1)", "-A1"], "formula"),
        (["'12345", "'"], "apostrophe before"),
        (['M"1', "M'1", "M;1"], "takes no quotes"),
        (["#N/A", "#NV", "#n/d", "#REF!", "#NAME?", "#WERT!", "####", "#"], "spreadsheet error"),
        (
            ["NULL", "null", "None", "NaN", "n/a", "(null)", "<NULL>", "\\N", "-", "--", "?", "Undefined", "TRUE"],
            "no key",
        ),
        (["3-Mar", "12. Dez", "1/Sept", "01-jan-2024"], "date"),
        ([""], "Give this contact a key"),
    ],
)
def test_every_kind_of_damage_is_told(keys: list[str], advice: str) -> None:
    for key in keys:
        assert advice in (what_is_wrong(key) or "nothing is wrong"), repr(key)


@pytest.mark.parametrize(
    "key", ["0", "0012", "M-1", "+46 70-123", "12E", "A1E11", "nulls", "Łódź", "会員1", "1.2.3", "#12"]
)
def test_keys_that_only_look_odd_are_taken(key: str) -> None:
    assert what_is_wrong(key) is None


def test_numbers_shorter_than_most_are_taken_and_reported(tmp_path: Path) -> None:
    lines = [f"{contact(number)};{number + 10_000_000}" for number in range(12)]
    rows, file = read(
        tmp_path / "keys.csv", *lines, f"{contact(20)};345678", f"{contact(21)};M-1", f"{contact(22)};123456789"
    )
    assert len(rows) == 15
    (finding,) = file.findings
    assert (finding.line, finding.value, finding.taken) == (14, "345678", True)
    assert "Most have 8: has it lost leading zeros?" in finding.advice


def test_every_wrong_line_is_found_and_left_out(tmp_path: Path) -> None:
    rows, file = read(
        tmp_path / "keys.csv",
        f"{contact(1)};",
        "not-a-guid;M-2",
        f"{contact(4)};M-4;more",
        f"{contact(5)};".encode() + b"M\xe5",
        f'{contact(6)};"never closed',
        f"{contact(8)};M-8",
    )
    assert rows == [KeyRow(7, contact(8), "M-8")]
    places = [(finding.line, finding.field) for finding in file.findings]
    assert places == [(2, "key"), (3, "contact"), (4, "line"), (5, "line"), (6, "line")]
    assert all(finding.advice and not finding.taken for finding in file.findings)


def test_what_contradicts_itself_is_left_out_whole_and_a_line_that_comes_again_counts_once(tmp_path: Path) -> None:
    rows, file = read(
        tmp_path / "keys.csv",
        f"{contact(1)};SAME",
        f"{contact(2)};M-2",
        f"{contact(3)};SAME",
        f"{contact(4)};M-4",
        f"{contact(4).upper()};M-4",
        f"{contact(5)};M-5a",
        f"{contact(5)};M-5b",
    )
    assert rows == [KeyRow(3, contact(2), "M-2"), KeyRow(5, contact(4), "M-4")]
    assert [finding.line for finding in file.findings] == [2, 4, 6, 7, 8]
    assert "lines 2, 4" in file.findings[0].advice
    assert "line 5 counts" in file.findings[2].advice
    assert "several keys" in file.findings[3].advice


def test_a_file_without_the_header_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"first line should name the columns contact, key"):
        read(tmp_path / "keys.csv", f"{contact(1)};M-1", header="member;id")


def test_contacts_that_the_roster_does_not_have_are_listed() -> None:
    (finding,) = unknown([KeyRow(17, contact(1), "M-1")])
    assert (finding.line, finding.value) == (17, contact(1))
