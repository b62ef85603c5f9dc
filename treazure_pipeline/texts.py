"""Texts from outside: cleaned so that everything can store them, and measured as the vendors measure them.

Both vendors run on .NET, which counts UTF-16 units: an emoji is two of them, a family of emoji up to eleven.
"""

from __future__ import annotations

import re
from typing import Any

import regex

ELLIPSIS = "…"

_CHARACTER = regex.compile(r"\X")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text that PostgreSQL, JSON and UTF-8 can store.

    Half a surrogate pair becomes the replacement character. NUL and the other control characters are removed, except
    for line breaks and tabs.
    """
    if _ODD.search(text) is None:
        return text
    return _CONTROLS.sub("", text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def clean_all(value: Any) -> Any:
    """Return decoded JSON with clean texts and names."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_all(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): clean_all(one) for name, one in value.items()}
    return value


def length(text: str) -> int:
    """Return how many UTF-16 units a text has."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` UTF-16 units; if it was longer, it ends with an ellipsis.

    What readers see as one character is never cut in half: an accent stays with its letter, and a flag or a family of
    emoji is removed as a whole.
    """
    if length(text) <= most:
        return text
    left, end = most - length(ELLIPSIS), 0
    for found in _CHARACTER.finditer(text):
        left -= length(found[0])
        if left < 0:
            break
        end = found.end()
    return text[:end] + ELLIPSIS
