"""A table as a spreadsheet may write it: whatever its encoding and separator, each line is taken whole or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.tables import CsvFile, Row, WrongLine

COLUMNS = {"contact": ("contact", "contactid"), "note": ("note",)}


def read(path: Path, body: bytes) -> list[Row | WrongLine]:
    path.write_bytes(body)
    return list(CsvFile(str(path), COLUMNS, needed=("contact",)).rows())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", ";,\t")
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_encoding_separator_and_line_ending_reads_the_same(
    tmp_path: Path, encoding: str, separator: str, ending: str
) -> None:
    lines = [f"Note{separator} Contact_ID", f"Ł 🎁{separator}1", "", f'"a;b,c\td"{separator}"2"', f" x {separator}"]
    assert read(tmp_path / "t.csv", ending.join([*lines, ""]).encode(encoding)) == [
        Row(2, {"contact": "1", "note": "Ł 🎁"}),
        Row(4, {"contact": "2", "note": "a;b,c\td"}),
        Row(5, {"contact": "", "note": " x "}),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"1,000,5", "It has 3 fields under 2 headings: quote the value that holds a comma"),
        (b"1", "It has 1 fields"),
        (b'1,"never closed', "Close the quote"),
        (b'1,"closed" and more', "Close the quote"),
        (b"1,M\xe5ns", "UTF-8"),
    ],
)
def test_a_line_that_can_not_be_taken_apart_is_named_and_costs_no_other(tmp_path: Path, line: bytes, says: str) -> None:
    first, wrong, last = read(tmp_path / "t.csv", b"contact,note\n0,a\n" + line + b"\n2,b\n")
    assert (first.line, last) == (2, Row(4, {"contact": "2", "note": "b"}))
    assert isinstance(wrong, WrongLine)
    assert wrong.line == 3
    assert says in wrong.advice


def test_a_column_that_is_not_needed_may_be_missing(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", b"contactId\n1\n") == [Row(2, {"contact": "1", "note": ""})]


@pytest.mark.parametrize(
    "heading", [b"", b"note", b"contact,notes", b"contact,contact_id", b"contact|note", b"\x00\xff"]
)
def test_headings_that_are_not_ours_are_one_clear_error(tmp_path: Path, heading: bytes) -> None:
    with pytest.raises(
        SettingsError, match=r"t\.csv begins with .*Its first line should name the columns contact, note"
    ):
        read(tmp_path / "t.csv", heading + b"\n1,2\n")


def test_a_file_that_can_not_be_opened_is_named_without_the_secrets_of_its_url(tmp_path: Path) -> None:
    for source, says in (
        (tmp_path / "no.csv", "No such file"),
        (tmp_path, "directory"),
        ("nowhere://u:pw@h/x?s=pw", ""),
    ):
        with pytest.raises(SettingsError, match=f"can't be read: .*{says}") as raised:
            list(CsvFile(str(source), COLUMNS, needed=()).rows())
        assert "pw" not in str(raised.value)
