"""Converts the bytes of an export to text for PostgreSQL's COPY, block by block.

An export is one JSON array, possibly of millions of rows. It is cut at row boundaries into blocks of about 128 KiB,
which fit the processor's cache. msgspec decodes a block but keeps the text of numbers (a float would lose digits), and
the block is checked column by column. If a block contains anything unusual, it is divided until the odd rows are alone,
and only those are checked one by one. The result does not depend on where the blocks are cut.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from treazure_pipeline import conventions, people
from treazure_pipeline.clients import wire
from treazure_pipeline.clients.transport import excerpt
from treazure_pipeline.errors import Call, InvalidAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BLOCK_BYTES = 128 * 1024
LONGEST_ROW_BYTES = 16 * 1024 * 1024

_MISSING = r"\N"
_SPACE = b" \t\r\n"
_BOUNDARY = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_BOUNDARY_WINDOW = 2 * 1024
_HEX = b"0123456789abcdefABCDEF"
_GUID_LENGTH = 36
_PLAIN_NUMBER = b"0123456789-."
_NO_TIMES = [b"%04d-" % year for year in wire.NO_TIME]
_QUOTED_NUMBER = re.compile(rb'"-?[0-9]+(?:\.[0-9]+)?"')
_GUID_DASHES = (8, 13, 18, 23)
_ONE_BY_ONE = 4
_PARTS = 8
_SURELY_SANE_LENGTH = wire.LARGEST_MAGNITUDE
_RAW_CUT = 2000
_VALUE_CUT = 200
_POSITIONS = 10_000
_FIRST_POSITIONS = [f"{position}\n" for position in range(_POSITIONS)]
_LATER_POSITIONS = [f"{position:04}\n" for position in range(_POSITIONS)]


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row of an export that can't be used.

    Attributes:
        position: The row's place in the export, from 0.
        contact: In lower case; None if the row names none.
        field: The name of the field that is wrong; "row" if the row is not an object.
        value: The field's value as JSON text, cut to 200 characters.
        reason: What was expected.
        raw: The row as it came, cut to 2,000 characters.
    """

    position: int
    contact: str | None
    field: str
    value: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class BalanceBlock:
    r"""Some consecutive rows of an export.

    `copy_text` holds the good ones in PostgreSQL's COPY text format, in the export's order: contact (GUID in lower
    case), balance (numeric), mutated at (timestamptz or `\N`), position (from 0). `rows` counts its lines, so the block
    covers `rows + len(rejected)` rows of the export.
    """

    copy_text: bytes
    rows: int
    rejected: list[RejectedRow] = field(default_factory=list)


def decode_balances(chunks: Iterable[bytes], loyalty_id: str) -> Iterator[BalanceBlock]:
    """Decode an export as it arrives, in chunks of any size. Memory stays small whatever the size of the export.

    A good row has a GUID in `accountNumber` (or else in `contactId`), a finite number or its text in `balance` (below
    10^15, at most 20 digits after the point), and no other programme in `loyaltyPointDefinitionId` than `loyalty_id`
    (in any case). Other rows are rejected one by one. `mutatedAt` without a zone is UTC; if it can't be read, it counts
    as missing.

    Raises InvalidAnswerError if the bytes are not one complete JSON array. The caller must then throw away the blocks
    it has received.
    """
    export = _Export(loyalty_id)
    try:
        for chunk in chunks:
            yield from export.feed(chunk)
        yield from export.finish()
    except RecursionError as error:
        raise export.invalid("is nested too deeply") from error


class _UnusualError(Exception):
    """Rows that the quick way can't handle. `odd`: the places of the odd ones, if known."""

    def __init__(self, odd: Sequence[int] = ()) -> None:
        super().__init__()
        self.odd = odd


class _Export:
    """The state between two chunks. `buffer` starts where a row, or the end of the array, is expected."""

    def __init__(self, loyalty_id: str) -> None:
        self.rows = _Rows(loyalty_id)
        self.buffer = bytearray()
        self.head = b""
        self.opened = False
        self.closed = False
        self.after_comma = False
        self.enough = BLOCK_BYTES

    def invalid(self, what: str) -> InvalidAnswerError:
        begins = f"; it begins with {people.said(excerpt(self.head))}" if self.head else ""
        return InvalidAnswerError(
            f"The export {what}{begins}.",
            Call("treazure", "GET", wire.EXPORT_RESULT),
            hint="None of it is used. The next run requests a new export.",
        )

    def feed(self, chunk: bytes) -> Iterator[BalanceBlock]:
        for start in range(0, len(chunk), BLOCK_BYTES):
            self.buffer += chunk[start : start + BLOCK_BYTES]
            if not self.opened:
                self.open()
            if self.opened and len(self.buffer) >= self.enough:
                yield from self.take()

    def open(self) -> None:
        if len(self.buffer) < len(wire.BOM) and wire.BOM.startswith(self.buffer):
            return
        start = self.buffer.removeprefix(wire.BOM).lstrip(_SPACE)
        if not start:
            del self.buffer[len(wire.BOM) :]
            return
        self.head = bytes(start[:200])
        if not start.startswith(b"["):
            raise self.invalid("is not a JSON array")
        self.opened = True
        self.buffer = start[1:]

    def take(self) -> Iterator[BalanceBlock]:
        """Turn the rows in the buffer, except the last ones, into a block."""
        if not self.closed:
            tail = max(0, len(self.buffer) - _BOUNDARY_WINDOW)
            cut = max(_BOUNDARY.finditer(self.buffer, tail), key=re.Match.start, default=None)
            if cut is not None:
                block = self.rows.block(b"[" + self.buffer[: cut.start() + 1] + b"]")
                if block is not None:
                    del self.buffer[: cut.end()]
                    self.after_comma = True
                    self.enough = BLOCK_BYTES
                    yield block
                    return
            yield from self.scan()
        if self.closed and self.buffer.strip(_SPACE):
            raise self.invalid("goes on after the end of its array")
        if len(self.buffer) > LONGEST_ROW_BYTES:
            raise self.invalid(f"is not valid JSON after its row {self.rows.position}")
        self.enough = max(BLOCK_BYTES, 2 * len(self.buffer))

    def finish(self) -> Iterator[BalanceBlock]:
        if not self.opened:
            raise self.invalid("is empty")
        rest = self.buffer.rstrip(_SPACE)
        if not self.closed and rest.endswith(b"]") and rest[:-1].strip(_SPACE):
            block = self.rows.block(b"[" + rest)
            if block is not None:
                yield block
                return
        if not self.closed:
            yield from self.scan()
        if not self.closed:
            raise self.invalid(f"is cut short, or is not valid JSON, after its row {self.rows.position}")
        if self.buffer.strip(_SPACE):
            raise self.invalid("goes on after the end of its array")

    def scan(self) -> Iterator[BalanceBlock]:
        """Cut complete rows off the buffer one by one, with the decoder that knows NaN and Infinity."""
        text = self.buffer.decode("latin-1")
        raws: list[bytes] = []
        consumed = 0
        while not self.closed:
            start = _next(text, consumed)
            if text.startswith("]", start) and not self.after_comma:
                consumed, self.closed = start + 1, True
                break
            try:
                _, end = _TOLERANT.raw_decode(text, start)
            except JSONDecodeError:
                break
            delimiter = _next(text, end)
            if delimiter == len(text):
                break
            if text[delimiter] not in ",]":
                raise self.invalid(f"is not valid JSON after its row {self.rows.position + len(raws)}")
            raws.append(bytes(self.buffer[start:end]))
            consumed = delimiter + 1
            self.closed = text[delimiter] == "]"
            self.after_comma = True
        del self.buffer[:consumed]
        if raws:
            yield self.rows.tolerant_block(raws)


def _next(text: str, position: int) -> int:
    """Return the position of the next character that is not white space."""
    match = _WHITESPACE.match(text, position)
    return position if match is None else match.end()


_WHITESPACE = re.compile(r"[ \t\r\n]*")


class _Number(str):
    """The text of a JSON number, including NaN and the infinities."""

    __slots__ = ()


_TOLERANT = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number)


class _Judged:
    """COPY lines of good rows (one string may hold several) and the rejected rows, in the export's order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rejected: list[RejectedRow] = []


class _Rows:
    """Judges and counts rows. `position` is that of the next row."""

    def __init__(self, loyalty_id: str) -> None:
        self.loyalty_id = loyalty_id.casefold()
        self.position = 0
        definition = Literal[loyalty_id] | None  # type: ignore[valid-type]
        common: list[Any] = [
            ("balance", msgspec.Raw, msgspec.Raw(b"null")),
            ("definition", definition, None),
            ("mutated_at", str | None, None),
        ]
        names = {"balance": wire.BALANCE, "definition": wire.LOYALTY_ID, "mutated_at": wire.MUTATED_AT}
        first, second = wire.CONTACTS
        fields: list[tuple[list[Any], dict[str, str]]] = [
            ([("contact", str)], {"contact": first}),
            ([("contact", str), ("other", None, None)], {"contact": second, "other": first}),
        ]
        structs = [
            msgspec.defstruct("Row", own + common, rename=names | renamed, gc=False, kw_only=True)
            for own, renamed in fields
        ]
        self.decoders = [msgspec.json.Decoder(list[struct]) for struct in structs]  # type: ignore[valid-type]

    def block(self, array: bytes | bytearray) -> BalanceBlock | None:
        """Judge the rows of a complete array. None if it is not one."""
        try:
            text, count = self.quick(array, self.position)
        except _UnusualError as error:
            try:
                raws = [bytes(raw) for raw in _SPLITTER.decode(array)]
            except msgspec.DecodeError:
                return None
            judged = _Judged()
            self.apart(raws, self.position, error.odd, judged)
            return self.judged_block(judged, len(raws))
        self.position += count
        return BalanceBlock(text.encode(), count)

    def tolerant_block(self, raws: list[bytes]) -> BalanceBlock:
        """Judge rows that have been separated already."""
        judged = _Judged()
        self.divide(raws, self.position, judged)
        return self.judged_block(judged, len(raws))

    def judged_block(self, judged: _Judged, count: int) -> BalanceBlock:
        self.position += count
        return BalanceBlock("".join(judged.lines).encode(), count - len(judged.rejected), judged.rejected)

    def divide(self, raws: Sequence[bytes], position: int, judged: _Judged) -> None:
        """Judge rows the quick way as far as possible."""
        if len(raws) <= _ONE_BY_ONE:
            for place, raw in enumerate(raws):
                self.judge(raw, position + place, judged)
            return
        try:
            text, _ = self.quick(b"[" + b",".join(raws) + b"]", position)
        except _UnusualError as error:
            self.apart(raws, position, error.odd, judged)
        else:
            judged.lines.append(text)

    def apart(self, raws: Sequence[bytes], position: int, odd: Sequence[int], judged: _Judged) -> None:
        """Judge the odd rows one by one, if they are known, and the rows between them the quick way again."""
        if not odd:
            part = -(-len(raws) // _PARTS)
            for start in range(0, len(raws), part):
                self.divide(raws[start : start + part], position + start, judged)
            return
        start = 0
        for place in odd:
            self.divide(raws[start:place], position + start, judged)
            self.judge(raws[place], position + place, judged)
            start = place + 1
        self.divide(raws[start:], position + start, judged)

    def quick(self, array: bytes | bytearray, position: int) -> tuple[str, int]:
        """Return the COPY text of an array of good rows, and their number. Raises _UnusualError."""
        rows = self.decode(array)
        count = len(rows)
        guids = _checked_guids([row.contact for row in rows])
        balances = _checked_amounts([row.balance for row in rows])
        times = _time_texts([row.mutated_at for row in rows])
        prefixes, positions = _position_texts(position, count)
        tabs = ["\t"] * count
        cells = [""] * (7 * count)
        cells[0::7], cells[1::7], cells[2::7], cells[3::7] = guids, tabs, balances, tabs
        cells[4::7], cells[5::7], cells[6::7] = times, prefixes, positions
        return "".join(cells), count

    def decode(self, array: bytes | bytearray) -> list[Any]:
        """Return the rows of an array if all of them name the contact in the same field. Raises _UnusualError."""
        for decoder in self.decoders:
            try:
                return decoder.decode(array)
            except msgspec.ValidationError:
                continue
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise _UnusualError from error
        raise _UnusualError

    def judge(self, raw: bytes, position: int, judged: _Judged) -> None:
        """Judge a single row."""
        outcome = self.outcome(raw, position)
        if isinstance(outcome, str):
            judged.lines.append(outcome)
        else:
            judged.rejected.append(outcome)

    def outcome(self, raw: bytes, position: int) -> str | RejectedRow:
        """Return a row's COPY line, or its rejection."""
        row = _TOLERANT.decode(raw.decode("utf-8", "replace"))
        if not isinstance(row, dict):
            return _rejected(raw, position, {"row": row}, "row", "a row must be a JSON object")
        named = next((name for name in wire.CONTACTS if row.get(name) not in _NONE), wire.CONTACTS[0])
        contact = row.get(named)
        if not isinstance(contact, str) or not conventions.GUID.fullmatch(contact):
            reason = "the contact must be a GUID, such as 00000000-0000-0000-0000-000000000001"
            return _rejected(raw, position, row, named, reason)
        definition = row.get(wire.LOYALTY_ID)
        if definition not in _NONE and str(definition).casefold() != self.loyalty_id:
            reason = "the row belongs to another programme than the one asked for"
            return _rejected(raw, position, row, wire.LOYALTY_ID, reason)
        balance = row.get(wire.BALANCE)
        amount = _amount(balance) if isinstance(balance, str) else None
        if amount is None:
            return _rejected(raw, position, row, wire.BALANCE, _WANTED_BALANCE)
        return f"{contact.lower()}\t{amount}\t{_time_text(row.get(wire.MUTATED_AT))}\t{position}\n"


_NONE = (None, "")
_WANTED_BALANCE = (
    f"the balance must be a number below 10^{wire.LARGEST_MAGNITUDE} in size with at most "
    f"{wire.MOST_FRACTION_DIGITS} digits after the point"
)
_SPLITTER = msgspec.json.Decoder(list[msgspec.Raw])


def _checked_guids(guids: list[str]) -> list[str]:
    """Return GUIDs in lower case. Raises _UnusualError if one of them is not a GUID."""
    if not guids:
        return guids
    # Text that is not ASCII becomes longer, or odd, and fails the checks.
    joined = "\n".join(guids).encode("utf-8", "replace")
    line = _GUID_LENGTH + 1
    dashes = b"-" * len(guids)
    if (
        len(joined) != line * len(guids) - 1
        or joined.translate(None, _HEX) != b"\n".join([b"----"] * len(guids))
        or joined[_GUID_LENGTH::line] != b"\n" * (len(guids) - 1)
        or any(joined[column::line] != dashes for column in _GUID_DASHES)
    ):
        raise _UnusualError([place for place, guid in enumerate(guids) if not conventions.GUID.fullmatch(guid)])
    lower = joined.lower()
    return guids if lower == joined else lower.decode().split("\n")


def _unquoted(raw: msgspec.Raw) -> bytes:
    """Return a plain decimal without its quotes, and anything else as it is."""
    held = bytes(raw)
    return held[1:-1] if _QUOTED_NUMBER.fullmatch(held) else held


def _checked_amounts(raws: list[msgspec.Raw]) -> list[str]:
    """Return JSON values as texts. Raises _UnusualError unless all are sane numbers or texts, without exponents."""
    joined = b"\n".join(raws)
    if b'"' in joined:
        joined = b"\n".join(map(_unquoted, raws))
    if joined.translate(None, _PLAIN_NUMBER + b"\n"):
        raise _UnusualError([at for at, raw in enumerate(raws) if _unquoted(raw).translate(None, _PLAIN_NUMBER)])
    texts = joined.decode().split("\n") if raws else []
    if max(map(len, texts), default=0) > _SURELY_SANE_LENGTH:
        odd = [place for place, text in enumerate(texts) if len(text) > _SURELY_SANE_LENGTH and _amount(text) is None]
        if odd:
            raise _UnusualError(odd)
    return texts


def _amount(text: str) -> str | None:
    """Return a number's exact text without an exponent; None if it is not a number of points."""
    number = wire.points_of(text)
    return None if number is None else f"{number:f}"


def _time_texts(times: list[Any]) -> list[str]:
    """Return times as texts that PostgreSQL reads as the same microsecond, whatever its settings."""
    try:
        joined = "\n".join(times).encode("ascii")
        deque(map(datetime.fromisoformat, times), maxlen=0)
    except (TypeError, ValueError):
        return [_time_text(time) for time in times]
    shapes = joined.translate(None, b"0123456789").replace(b".", b"")
    if shapes != b"\n".join([b"--T::Z"] * len(times)) or any(none in joined for none in _NO_TIMES):
        return [_time_text(time) for time in times]
    longest = len("2024-05-16T12:20:03.807123Z")
    if max(map(len, times), default=0) > longest:
        return [time if len(time) <= longest else f"{time[: longest - 1]}Z" for time in times]
    return times


def _time_text(time: object) -> str:
    """Return a time as text, or COPY's null if it can't be read."""
    if not isinstance(time, str):
        return _MISSING
    try:
        moment = datetime.fromisoformat(time)
        if moment.year in wire.NO_TIME:
            return _MISSING
        moment = conventions.in_utc(moment)
    except (ValueError, OverflowError):
        return _MISSING
    return moment.isoformat().replace("+00:00", "Z")


def _position_texts(position: int, count: int) -> tuple[list[str], list[str]]:
    """Return, for consecutive positions, the tab and leading digits, and the last four digits with the line end."""
    prefixes: list[str] = []
    positions: list[str] = []
    while len(positions) < count:
        high, low = divmod(position + len(positions), _POSITIONS)
        some = min(count - len(positions), _POSITIONS - low)
        prefixes += [f"\t{high}" if high else "\t"] * some
        positions += (_LATER_POSITIONS if high else _FIRST_POSITIONS)[low : low + some]
    return prefixes, positions


def _rejected(raw: bytes, position: int, row: dict[str, Any], name: str, reason: str) -> RejectedRow:
    contacts = (row.get(contact) for contact in wire.CONTACTS)
    contact = next((value for value in contacts if isinstance(value, str)), None)
    value = row.get(name)
    shown = value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False) if name in row else ""
    return RejectedRow(
        position=position,
        contact=None if contact is None else _printable(contact.lower(), _VALUE_CUT),
        field=name,
        value=_printable(shown, _VALUE_CUT),
        reason=reason,
        raw=_printable(raw[: 4 * _RAW_CUT].decode("utf-8", "replace"), _RAW_CUT),
    )


def _printable(text: str, longest: int) -> str:
    """Return text that PostgreSQL can store: no NUL, no lone surrogate, not too long."""
    return text[:longest].replace("\x00", "�").encode("utf-8", "replace").decode()
