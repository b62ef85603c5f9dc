"""A retailer's mapping from contacts to member numbers or external ids: read line by line, checked, never guessed.

The file is read several times, so that contradictory lines can be left out, and unusual ones noticed. This takes 16 bytes of memory per line.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from treazure_pipeline import conventions
from treazure_pipeline.point_migration.meaning import RESERVED
from treazure_pipeline.tables import CsvFile, Row, WrongLine, shown

_MOST_REMARKS = 5_000
_LENGTHS_FROM = 10
"""This many keys, and more than half of all numbers, must have the same length before others count as unusual."""


class KeyRow(NamedTuple):
    """A contact and its key, with the line of the file."""

    line: int
    contact: str
    key: str


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """A line that is left out, or taken with a remark: the field, its value, and what to do."""

    line: int
    field: str
    value: str
    advice: str
    taken: bool = False


@dataclass(slots=True)
class KeyFile:
    """A mapping file, by path or URL. `findings` is complete once all `blocks` have been read."""

    source: str
    findings: list[KeyFinding] = field(default_factory=list)
    taken: int = 0

    def blocks(self, rows: int = 10_000) -> Iterator[list[KeyRow]]:
        """Yield the lines that are valid and contradict no other, in blocks, in the order of the file.

        Raises:
            SettingsError: It can't be read or has no such header.
        """
        contradicting, usual = self._looked_through()
        self.findings, self.taken = [], 0
        remarks: list[KeyFinding] = []
        block: list[KeyRow] = []
        for row, remark in self._rows():
            if isinstance(row, KeyFinding):
                self.findings.append(row)
                continue
            if row.line in contradicting:
                self.findings.append(contradicting[row.line])
                continue
            if len(remarks) < _MOST_REMARKS:
                remarks += (each for each in (remark, _shorter(row, usual)) if each is not None)
            self.taken += 1
            block.append(row)
            if len(block) >= rows:
                yield block
                block = []
        if block:
            yield block
        self.findings = sorted([*self.findings, *remarks], key=lambda finding: finding.line)

    def _looked_through(self) -> tuple[dict[int, KeyFinding], int]:
        """Return findings, by line, about contradictory or repeated lines, and the usual length of a number."""
        contacts, keys, lengths = array("q"), array("q"), Counter[int]()
        for row in self._right():
            contacts.append(hash(row.contact))
            keys.append(hash(row.key))
            lengths[len(row.key) if row.key.isdecimal() else 0] += 1
        findings: dict[int, KeyFinding] = {}
        by_contact, by_key = self._repeated(_more_than_once(contacts), _more_than_once(keys))
        for rows in by_contact.values():
            if len({row.key for row in rows}) == 1:
                again = f"It comes again; line {rows[0].line} counts."
                findings |= {row.line: KeyFinding(row.line, "contact", row.contact, again) for row in rows[1:]}
            else:
                findings |= _all_wrong(rows, "key", "This contact has several keys; leave one")
        for rows in by_key.values():
            if len({row.contact for row in rows}) > 1:
                findings |= _all_wrong(rows, "key", "Several contacts have this key; give each its own")
        return findings, _usual(lengths)

    def _repeated(
        self, common_contacts: set[int], common_keys: set[int]
    ) -> tuple[dict[str, list[KeyRow]], dict[str, list[KeyRow]]]:
        """Return rows, by contact and by key, that may be there more than once, because their hashes are."""
        by_contact: dict[str, list[KeyRow]] = defaultdict(list)
        by_key: dict[str, list[KeyRow]] = defaultdict(list)
        for row in self._right() if common_contacts or common_keys else ():
            if hash(row.contact) in common_contacts:
                by_contact[row.contact].append(row)
            if hash(row.key) in common_keys:
                by_key[row.key].append(row)
        return by_contact, by_key

    def _right(self) -> Iterator[KeyRow]:
        return (row for row, _ in self._rows() if isinstance(row, KeyRow))

    def _rows(self) -> Iterator[tuple[KeyRow | KeyFinding, KeyFinding | None]]:
        """Yield every line as a row or a finding, with a remark on the row, if any."""
        columns = {"contact": ("contact", "contactid"), "key": ("key",)}
        for row in CsvFile(self.source, columns, needed=("contact", "key")).rows():
            if isinstance(row, WrongLine):
                yield KeyFinding(row.line, "line", row.value, row.advice), None
            else:
                yield _read(row)


def unknown(rows: Iterable[KeyRow]) -> list[KeyFinding]:
    """Return findings about keys of contacts that are not in the roster."""
    advice = "Nothing if this contact has no points. Otherwise correct the contact id."
    return [KeyFinding(row.line, "contact", row.contact, advice) for row in rows]


def what_is_wrong(key: str) -> str | None:
    """Return what to do about a key that looks damaged; None if it looks right.

    A damaged key would give the points to another member, or create a new contact.
    """
    if not key:
        return "Give this contact a key."
    return _odd_characters(key) or next((advice for damage, advice in _DAMAGES if damage.fullmatch(key)), None)


_AS_TEXT = "export the keys as text, straight from the system that gave them."
_DAMAGES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), advice)
    for pattern, advice in (
        (r"[=@].*|[+-].*[^0-9 ()./-].*", f"The file holds a formula instead of its value; {_AS_TEXT}"),
        (r"'.*", f"A spreadsheet has put an apostrophe before the key; {_AS_TEXT}"),
        (
            rf".*[{RESERVED}].*",
            "Engage's importer takes no quotes, apostrophes or semicolons; name the member otherwise.",
        ),
        (r"[0-9]+([.,][0-9]+)?E[+-]?[0-9]+", f"A spreadsheet has shortened this number; {_AS_TEXT}"),
        (r"[0-9]+[.,]0*", f"A spreadsheet has given this number a decimal point; {_AS_TEXT}"),
        (r"#(N/?[AVD]|I/T|#*|.*[!?])", "This is a spreadsheet error. Fix its formula and export again."),
        (
            r"[(<\[]?(null|none|nil|nan|n/?a|n\.a\.|undefined|unknown|missing|blank|empty|true|false)[)>\]]?|[-?]+|\\N",
            "This word stands for no key; give this contact one.",
        ),
        (
            r"[0-9]{1,2}[-/. ]+(jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz]).*",
            f"A spreadsheet has made a date of the key; {_AS_TEXT}",
        ),
    )
)
_EMPTY_GLYPHS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)


def _odd_characters(key: str) -> str | None:
    for character in key:
        category = unicodedata.category(character)
        name = f"U+{ord(character):04X}"
        if character == "\N{REPLACEMENT CHARACTER}":
            return f"A character was lost on the way ({name}); export again in UTF-8."
        if category[0] == "Z" and character != " ":
            return f"Take the no-break or other special space ({name}) out of the key."
        if category[0] == "C" or character in _EMPTY_GLYPHS:
            return f"Take the invisible character ({name}) out of the key."
        if category == "Nd" and not character.isascii():
            return f"Write the digits as 0 to 9; {name} only looks like one."
    if unicodedata.normalize("NFKC", key) != key:
        return "Type the key anew: it holds characters that only look like others."
    return None


def _read(row: Row) -> tuple[KeyRow | KeyFinding, KeyFinding | None]:
    contact, given = row.fields["contact"].strip().strip("{}").lower(), row.fields["key"]
    if not conventions.GUID.fullmatch(contact):
        advice = "Write the contact's id in Engage, a GUID."
        return KeyFinding(row.line, "contact", shown(row.fields["contact"]), advice), None
    key = given.strip(" ")
    wrong = what_is_wrong(key)
    if wrong is not None:
        return KeyFinding(row.line, "key", shown(given), wrong), None
    trimmed = "Nothing: it is taken without the spaces around it."
    remark = None if key == given else KeyFinding(row.line, "key", shown(given), trimmed, taken=True)
    return KeyRow(row.line, contact, key), remark


def _usual(lengths: Counter[int]) -> int:
    """Return the length that most numbers among the keys have; 0 if there is none."""
    numbers = Counter({length: count for length, count in lengths.items() if length})
    (length, count), *_ = numbers.most_common(1) or [(0, 0)]
    return length if count >= _LENGTHS_FROM and 2 * count > numbers.total() else 0


def _shorter(row: KeyRow, usual: int) -> KeyFinding | None:
    if len(row.key) >= usual or not row.key.isdecimal():
        return None
    advice = f"It is taken as it is, with {len(row.key)} digits. Most have {usual}: has it lost leading zeros?"
    return KeyFinding(row.line, "key", row.key, advice, taken=True)


def _more_than_once(hashes: array[int]) -> set[int]:
    values = np.sort(np.frombuffer(hashes, np.int64)) if hashes else np.empty(0, np.int64)
    return set(values[1:][values[1:] == values[:-1]].tolist())


def _all_wrong(rows: list[KeyRow], name: str, advice: str) -> dict[int, KeyFinding]:
    lines = ", ".join(str(row.line) for row in rows[:10])
    return {row.line: KeyFinding(row.line, name, shown(row.key), f"{advice} (lines {lines}).") for row in rows}
