"""A mapping file with mistakes: each is found with its line, and none spoils the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.migration.keys import KeyFile, KeyRow, unknown
from treazure_pipeline_tests.migration.vault import contact


def read(path: Path, *lines: str | bytes, header: str = "contact;key") -> tuple[list[KeyRow], KeyFile]:
    texts = [header, *lines]
    path.write_bytes(b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in texts) + b"\r\n")
    file = KeyFile(path)
    return [row for block in file.blocks(rows=2) for row in block], file


def test_right_lines_come_in_order_with_their_numbers(tmp_path: Path) -> None:
    rows, file = read(
        tmp_path / "keys.csv",
        f"{contact(1)};M-1",
        "",
        f'"{{{contact(2).upper()}}}";"M;2"',
        f"{contact(3)}; +46 70 1 ",
        header="\ufeffContact;Key",
    )
    assert rows == [
        KeyRow(2, contact(1), "M-1"),
        KeyRow(4, contact(2), "M;2"),
        KeyRow(5, contact(3), "+46 70 1"),
    ]
    assert file.findings == []


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_any_usual_separator_is_taken(tmp_path: Path, separator: str) -> None:
    rows, _ = read(tmp_path / "keys.csv", f"{contact(1)}{separator}7", header=f"contact{separator}key")
    assert rows == [KeyRow(2, contact(1), "7")]


def test_every_wrong_line_is_found_and_left_out(tmp_path: Path) -> None:
    rows, file = read(
        tmp_path / "keys.csv",
        f"{contact(1)};",
        "not-a-guid;M-2",
        f"{contact(3)};M\x00-3",
        f"{contact(4)};M-4;more",
        f"{contact(5)};".encode() + b"M\xe5",
        f'{contact(6)};"never closed',
        f"{contact(7)};1,23457E+11",
        f"{contact(8)};M-8",
    )
    assert rows == [KeyRow(9, contact(8), "M-8")]
    assert [(finding.line, finding.field) for finding in file.findings] == [
        (2, "key"),
        (3, "contact"),
        (4, "key"),
        (5, "line"),
        (6, "line"),
        (7, "line"),
        (8, "key"),
    ]
    assert all(finding.advice for finding in file.findings)


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
    with pytest.raises(SettingsError, match=r"first line should be contact;key"):
        read(tmp_path / "keys.csv", f"{contact(1)};M-1", header="member;id")


def test_contacts_that_the_roster_does_not_have_are_listed() -> None:
    (finding,) = unknown([KeyRow(17, contact(1), "M-1")])
    assert (finding.line, finding.value) == (17, contact(1))
