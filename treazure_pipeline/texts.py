"""Texts of the vendors made fit to be kept: what PostgreSQL and UTF-8 can't hold never costs the row it stands in."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def storable(text: str) -> str:
    """Return the text with U+FFFD for each half surrogate pair and NUL; two halves that meet become one character."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", REPLACEMENT)
