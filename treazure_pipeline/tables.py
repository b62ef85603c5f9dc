"""Reads tables that people made, often with a spreadsheet: line by line, without guessing or skipping any."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import fsspec

from treazure_pipeline import people
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.people import redacted

if TYPE_CHECKING:
    from typing import IO

SEPARATORS = ";,\t"
_LONGEST_SHOWN = 100
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The order matters: the mark of UTF-32 starts with that of UTF-16."""


class Row(NamedTuple):
    """A line's values by column, exactly as in the file. A column that the file lacks is empty."""

    line: int
    fields: Mapping[str, str]


class WrongLine(NamedTuple):
    """A line that can't be split into fields: its text, and what to do."""

    line: int
    value: str
    advice: str


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, by path or fsspec URL, with commas, semicolons or tabs, in UTF-8, UTF-16 or UTF-32.

    `columns`: the possible headings of each column, in lower case, without spaces and `_`. Those in `needed` are
    required.
    """

    source: str
    columns: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name, without folder and secrets."""
        return self.source.rstrip("/").rpartition("/")[2].partition("?")[0]

    def rows(self) -> Iterator[Row | WrongLine]:
        """Yield every line that is not empty.

        Raises:
            SettingsError: It can't be read, or its first line does not name these columns.
        """
        try:
            with fsspec.open(self.source, "rb") as opened:
                encoding = _encoding(opened)
                errors = "surrogateescape" if "8" in encoding else "replace"
                with io.TextIOWrapper(opened, encoding, errors, newline="") as lines:
                    yield from self._rows(lines)
        except (OSError, ImportError, ValueError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or redacted(str(error), [self.source]) or type(error).__name__
            raise SettingsError(f"The file {self.name} can't be read: {said}.") from None

    def _rows(self, lines: IO[str]) -> Iterator[Row | WrongLine]:
        heading = next(lines, "").rstrip("\r\n")
        separator, names = self._headings(heading)
        for number, text in enumerate(lines, start=2):
            line = text.rstrip("\r\n")
            if not line.strip(separator + " "):
                continue
            try:
                values = next(csv.reader([line], delimiter=separator, strict=True))
                line.encode()
            except csv.Error:
                yield WrongLine(number, shown(line), "Close the quote that this line opens, or leave it out.")
            except UnicodeEncodeError:
                yield WrongLine(number, shown(line), "Save the file as CSV in UTF-8; this line is not UTF-8.")
            else:
                if len(values) == len(names):
                    yield Row(number, dict.fromkeys(self.columns, "") | dict(zip(names, values, strict=True)))
                else:
                    yield WrongLine(number, shown(line), _count(len(values), len(names), separator))

    def _headings(self, line: str) -> tuple[str, list[str]]:
        """Return the separator and the columns in the order of the file."""
        known = {heading: column for column, headings in self.columns.items() for heading in headings}
        found: list[tuple[int, str, list[str]]] = []
        for separator in SEPARATORS:
            headings = next(csv.reader([line], delimiter=separator), [])
            names = [known.get(heading.strip().lower().replace("_", "").replace(" ", ""), "") for heading in headings]
            if all(names) and len(set(names)) == len(names) and set(self.needed) <= set(names):
                return separator, names
            found.append((len(headings), separator, names))
        raise SettingsError(
            f"The file {self.name} begins with {people.said(shown(line))}.",
            hint=f"Its first line should name the columns {', '.join(self.columns)} and no others, separated by "
            f"commas, semicolons or tabs. Needed: {', '.join(self.needed)}.",
        )


def shown(value: str) -> str:
    """Return a value for printing and keeping: invisible characters become visible, and long values are cut."""
    return repr(value[:_LONGEST_SHOWN])[1:-1]


def _encoding(opened: IO[bytes]) -> str:
    begins = opened.read(64)
    opened.seek(0)
    for mark, encoding in _MARKS.items():
        if begins.startswith(mark):
            return encoding
    if b"\0" in begins[1::2] and b"\0" not in begins[::2]:
        return "utf-16-le"
    if b"\0" in begins[::2] and b"\0" not in begins[1::2]:
        return "utf-16-be"
    return "utf-8"


def _count(values: int, names: int, separator: str) -> str:
    called = {";": "semicolon", ",": "comma", "\t": "tab"}[separator]
    return (
        f"It has {values} fields under {names} headings: quote the value that holds a {called}, such as a decimal one, "
        "or separate by another character."
    )
