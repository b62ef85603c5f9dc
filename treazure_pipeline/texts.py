"""Texts from outside, in a form that everything behind the clients can hold. Costs nothing where they are in order."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text that PostgreSQL, JSON and UTF-8 can hold.

    Half a surrogate pair becomes the replacement character; NUL and the other control characters go, but for line
    breaks and tabs.
    """
    if _ODD.search(text) is None:
        return text
    return _CONTROLS.sub("", text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
