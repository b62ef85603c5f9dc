"""The shape of an answer without its content: the names and kinds of its values, for `doctor --contract`.

Everything here can be shown to anybody. No text, number, id or address from an answer is kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx

from treazure_pipeline import conventions
from treazure_pipeline.clients.answers import http_date
from treazure_pipeline.clients.wire import BOM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

MOST_KEPT = 256 * 1024
_MOST_ROWS = 200
_IDS = re.compile(
    r"(?i)(?<=/)(?:[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|[^/]*\d[^/.]{5,})(?=/|$)"
)
_NAME = re.compile(r"[A-Za-z_][\w.$-]{0,40}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.(\d+))?)?(Z|[+-]\d\d:?\d\d)?)?")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass
class Seen:
    """An answer as it came. `call` has no ids, `clock` is its `Date`, and `body` is the start of it.

    `redirected_to`: `this host` or `another host`; None if it is not a redirect.
    """

    call: str
    status: int
    content_type: str
    clock: datetime | None
    redirected_to: str | None
    raw: bytearray = field(default_factory=bytearray)
    encoding: str | None = None

    @property
    def body(self) -> bytes:
        """The start of the body, decompressed."""
        if self.encoding is None:
            return bytes(self.raw)
        try:
            return httpx.Response(200, headers={"content-encoding": self.encoding}, content=bytes(self.raw)).content
        except httpx.DecodingError:
            return b""

    @property
    def shape(self) -> str:
        """How the body looks: `[{accountNumber: GUID, balance: decimal}] x 120`."""
        body = self.body
        if not body.strip():
            return "an empty body"
        mark = "BOM, " if body.startswith(BOM) else ""
        value = value_of(body)
        if value is None:
            is_html = body.lstrip().lower().startswith((b"<!doctype", b"<html"))
            return mark + ("HTML" if is_html else "no JSON")
        return mark + shape(value)


class Recorder:
    """Records the answers that a client gets, as a hook of httpx. In `seen`, the newest is last."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._host: str | None = None

    def __call__(self, response: httpx.Response) -> None:
        """Record an answer, and the start of its body while the client reads it."""
        request = response.request
        target = response.headers.get("location") if response.is_redirect else None
        same = target is None or request.url.join(target).host == request.url.host
        seen = Seen(
            f"{request.method} {self._path(request.url)}",
            response.status_code,
            response.headers.get("content-type", "no content type").partition(";")[0],
            http_date(response.headers.get("date", "")),
            None if target is None else "this host" if same else "another host",
            encoding=response.headers.get("content-encoding"),
        )
        self.seen.append(seen)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Tee(response.stream, seen.raw)

    def _path(self, url: httpx.URL) -> str:
        """Return a path without ids; for any other host than the first, only that it is a storage host."""
        self._host = self._host or url.netloc.decode()
        return _IDS.sub("…", url.path) if url.netloc.decode() == self._host else "a storage host"


class _Tee(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._kept += piece[: MOST_KEPT - len(self._kept)]
            yield piece

    def close(self) -> None:
        self._stream.close()


def value_of(body: bytes) -> Any:
    """Return a body's JSON, or the complete rows of an array that was cut short; None if it is not JSON."""
    text = body.removeprefix(BOM).decode("utf-8", "replace").strip()
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        pass
    if not text.startswith("["):
        return None
    decoder = json.JSONDecoder(parse_float=Decimal)
    rows: list[Any] = []
    position = 1
    while len(rows) < _MOST_ROWS:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        try:
            row, position = decoder.raw_decode(text, position)
        except ValueError:
            break
        rows.append(row)
    return rows or None


def without_ids(text: str) -> str:
    """Return one of our texts without the ids of contacts and exports in it."""
    return conventions.GUID.sub("…", text)


def shape(value: Any) -> str:
    """Return the shape of a JSON value."""
    return _merged([value])


def _merged(values: list[Any]) -> str:
    """Return the shape of the values found in one place, each kind once."""
    objects = [value for value in values if isinstance(value, dict)]
    lists = [value for value in values if isinstance(value, list)]
    kinds = {kind(value) for value in values if not isinstance(value, dict | list)}
    found = sorted(kinds)
    if lists:
        items = [item for value in lists for item in value[:_MOST_ROWS]]
        count = f" x {len(lists[0])}" if len(values) == 1 else ""
        found.append(f"[{_merged(items)}]{count}" if items else "[]")
    if objects:
        names = dict.fromkeys(name for each in objects for name in each)
        members = []
        for name in names:
            there = [each[name] for each in objects if name in each]
            optional = "?" if len(there) < len(objects) else ""
            members.append(f"{name if _NAME.fullmatch(name) else '…'}{optional}: {_merged(there)}")
        found.append(f"{{{', '.join(members)}}}")
    return " | ".join(found)


def kind(value: Any) -> str:
    """Return the kind of a value that is neither an array nor an object."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float() | Decimal():
            return "decimal"
        case str():
            return _kind_of_text(value)
    return type(value).__name__


def _kind_of_text(text: str) -> str:
    if not text:
        return "empty text"
    if conventions.GUID.fullmatch(text):
        return "GUID" if text == text.lower() else "GUID in upper case"
    if found := _TIME.fullmatch(text):
        if len(text) == 10:
            return "date"
        zone = {None: "no zone", "Z": "Z"}.get(found[2], "offset")
        return f"time ({len(found[1] or '')} digits of a second, {zone})"
    return "number as text" if _NUMBER.fullmatch(text) else "text"


def fits(value: Any, pattern: Any) -> bool:
    """Return whether a value fits a pattern: an object's required names, a list's items, or kinds separated by |."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], expected) for name, expected in pattern.items()
        )
    if isinstance(pattern, list):
        return isinstance(value, list) and all(fits(item, pattern[0]) for item in value)
    if isinstance(value, dict | list):
        return False
    return any(kind(value).startswith(each) for each in pattern.split("|"))
