"""What may be shown of people, and how texts that others wrote are shown without harm (I9).

Of a member, logs, errors, alerts and Dagster show the contact id. Whatever others wrote (a body, a comment, a value
that can't be understood) stands in a message between « and » (`said`). The ledger keeps it, for those who may read it
and for TEXT_RETENTION_DAYS; everything else shows the message without it (`public`).

Belongs here: these decisions, for texts of any kind. Secrets are taken out of them here too (`redacted`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

SHOWN = frozenset({
    "contact", "programme", "origin", "field", "reason", "error", "kind", "verdict", "state", "source", "mode", "id",
    "run_id", "receipt", "digest", "observation", "batch", "position", "transaction_type", "rows", "count", "seen",
    "times", "tries", "rounds", "gone", "marked", "balance", "before", "after", "points", "amount", "sent", "shown",
    "master", "sum", "difference", "log_balance", "unreadable", "first_unreadable",
    "since", "first_seen", "last_seen", "next_try", "noted_at",
    "received_at", "read_at", "tried_at", "date_time", "mutated_at", "window_from", "window_to",
})  # fmt: skip
"""The columns that samples of the ledger may show outside of it; every other column stays away."""

_SAID = re.compile("«[^»]*(?:»|$)")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
# Where Markdown or an HTML parser would see more than a character. GUIDs, numbers and times stay as they are.
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&#!@]|(?<=:)//|www\.")
_LINES = {"\n", "\t"}
_LOOKS_SECRET = re.compile(
    r"""(?ix) (bearer|basic) \s+ [^\s"'<>,]+ | eyJ[\w-]{5,}(\.[\w-]+)* | whsec_[\w+/=-]+
    | (?<= secret | apikey ) ["']? \s* [:=] \s* ["']? [^\s"'&,}<>]+
    | (?<= api_key | api-key ) ["']? \s* [:=] \s* ["']? [^\s"'&,}<>]+
    | (?<= token ) ["']? \s* [:=] \s* ["']? [^\s"'&,}<>]+
    | (?<= password ) ["']? \s* [:=] \s* ["']? [^\s"'&,}<>]+"""
)


def said(text: str) -> str:
    """Quote, within a message of ours, what others wrote."""
    return f"«{text.replace('«', '<').replace('»', '>')}»"


def value(given: object) -> str:
    """Show an invalid value: null, booleans and numbers as they are, everything else quoted."""
    shown = printable(f"{given!r:.100}")
    return shown if given is None or isinstance(given, int | float | Decimal) else said(shown)


def public(message: str) -> str:
    """Return a message without what others wrote."""
    return _SAID.sub("«…»", message)


def word(text: str) -> str:
    """Return a name that a system gave, such as a type; what is no single plain word is quoted as others' text."""
    return text if _WORD.fullmatch(text) else said(printable(text[:60]))


def printable(text: str) -> str:
    """Return text that moves no cursor, colors nothing and reverses no line: such characters show as �."""
    if text.isprintable():
        return text
    return "".join(
        one if one in _LINES or unicodedata.category(one)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def markdown(text: str) -> str:
    """Return text as Markdown that shows nothing but the text, on one line."""
    return _MARKUP.sub(lambda found: "".join(f"\\{one}" for one in found[0]), " ".join(printable(text).split()))


def redacted(text: str, secrets: Sequence[str] = ()) -> str:
    """Return text without the given secrets and without whatever looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _LOOKS_SECRET.sub("***", text)
