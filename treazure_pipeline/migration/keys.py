"""A retailer's mapping from contacts to member numbers or external ids: read line by line, checked, never guessed.

The file is CSV in UTF-8 with the columns `contact` and `key`, separated by semicolons, commas or tabs. It is gone
through several times, so that what contradicts itself can be left out; that takes 16 bytes of memory a line.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from treazure_pipeline import people
from treazure_pipeline.errors import SettingsError

HEADER = ["contact", "key"]
_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?E\+[0-9]+", re.IGNORECASE)
_LONGEST_VALUE = 100


class KeyRow(NamedTuple):
    """One contact and its key, from that line of the file."""

    line: int
    contact: str
    key: str


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """A line that is left out: the field that is wrong, its value, and what to do."""

    line: int
    field: str
    value: str
    advice: str


@dataclass(slots=True)
class KeyFile:
    """A mapping file. `findings` is complete, in the order of lines, once `blocks` has been gone through."""

    path: Path
    findings: list[KeyFinding] = field(default_factory=list)

    def blocks(self, rows: int = 10_000) -> Iterator[list[KeyRow]]:
        """Yield the lines that are right and contradict no other, some at a time, in the order of the file.

        Raises:
            SettingsError: It has no such header.
            OSError: It can't be read.
        """
        contradicting = self._contradicting()
        self.findings = []
        block: list[KeyRow] = []
        for row in self._rows():
            if isinstance(row, KeyFinding):
                self.findings.append(row)
            elif row.line in contradicting:
                self.findings.append(contradicting[row.line])
            else:
                block.append(row)
            if len(block) >= rows:
                yield block
                block = []
        if block:
            yield block

    def _contradicting(self) -> dict[int, KeyFinding]:
        """Findings, by line, about contacts with several keys, keys of several contacts, and lines that come again."""
        findings: dict[int, KeyFinding] = {}
        by_contact, by_key = self._repeated()
        for rows in by_contact.values():
            if len({row.key for row in rows}) == 1:
                again = f"It comes again; line {rows[0].line} counts."
                findings |= {row.line: KeyFinding(row.line, "contact", row.contact, again) for row in rows[1:]}
            else:
                findings |= _all_wrong(rows, "key", "This contact has several keys; leave one")
        for rows in by_key.values():
            if len({row.contact for row in rows}) > 1:
                findings |= _all_wrong(rows, "key", "Several contacts have this key; give each its own")
        return findings

    def _repeated(self) -> tuple[dict[str, list[KeyRow]], dict[str, list[KeyRow]]]:
        """Rows by contacts, and by keys, that may be there more than once: those whose hash is."""
        contacts, keys = array("q"), array("q")
        for row in self._right():
            contacts.append(hash(row.contact))
            keys.append(hash(row.key))
        common_contacts, common_keys = _more_than_once(contacts), _more_than_once(keys)
        by_contact: dict[str, list[KeyRow]] = defaultdict(list)
        by_key: dict[str, list[KeyRow]] = defaultdict(list)
        for row in self._right() if common_contacts or common_keys else ():
            if hash(row.contact) in common_contacts:
                by_contact[row.contact].append(row)
            if hash(row.key) in common_keys:
                by_key[row.key].append(row)
        return by_contact, by_key

    def _right(self) -> Iterator[KeyRow]:
        return (row for row in self._rows() if isinstance(row, KeyRow))

    def _rows(self) -> Iterator[KeyRow | KeyFinding]:
        with self.path.open("rb") as lines:
            separator = _separator(lines.readline(), self.path)
            for number, raw in enumerate(lines, start=2):
                row = _read(number, raw, separator)
                if row is not None:
                    yield row


def unknown(rows: Iterable[KeyRow]) -> list[KeyFinding]:
    """Findings about keys of contacts that are not in the roster."""
    advice = "Nothing if this contact has no points; otherwise mend the contact id."
    return [KeyFinding(row.line, "contact", row.contact, advice) for row in rows]


def _separator(header: bytes, path: Path) -> str:
    text = header.decode("utf-8-sig", "replace").strip()
    for separator in ";,\t":
        if [name.strip().strip('"').lower() for name in text.split(separator)] == HEADER:
            return separator
    raise SettingsError(
        f"The mapping file {path.name} begins with {people.said(people.printable(text[:_LONGEST_VALUE]))}.",
        hint="Its first line should be contact;key, in UTF-8.",
    )


def _read(number: int, raw: bytes, separator: str) -> KeyRow | KeyFinding | None:
    try:
        values = next(csv.reader([raw.decode().rstrip("\r\n")], delimiter=separator, strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return KeyFinding(number, "line", repr(raw[:_LONGEST_VALUE]), "Write the line as CSV in UTF-8.")
    if not any(value.strip() for value in values):
        return None
    if len(values) != len(HEADER):
        return KeyFinding(number, "line", _shown(separator.join(values)), "Give the line two fields, contact and key.")
    contact, key = values[0].strip().strip("{}").lower(), values[1].strip(" ")
    if not _GUID.fullmatch(contact):
        return KeyFinding(number, "contact", _shown(values[0]), "Write the contact's id in Engage, a GUID.")
    advice = _advice(key)
    return KeyFinding(number, "key", _shown(key), advice) if advice else KeyRow(number, contact, key)


def _advice(key: str) -> str | None:
    """What to do about a key that is none."""
    if not key:
        return "Give this contact a key."
    if _UNPRINTABLE.search(key):
        return "Take the control characters out of the key."
    if _SHORTENED.fullmatch(key):
        return "A spreadsheet has shortened this number; export the key as text."
    return None


def _more_than_once(hashes: array[int]) -> set[int]:
    values = np.sort(np.frombuffer(hashes, np.int64)) if hashes else np.empty(0, np.int64)
    return set(values[1:][values[1:] == values[:-1]].tolist())


def _all_wrong(rows: list[KeyRow], name: str, advice: str) -> dict[int, KeyFinding]:
    lines = ", ".join(str(row.line) for row in rows[:10])
    return {row.line: KeyFinding(row.line, name, _shown(row.key), f"{advice} (lines {lines}).") for row in rows}


def _shown(value: str) -> str:
    return repr(value[:_LONGEST_VALUE])[1:-1]
