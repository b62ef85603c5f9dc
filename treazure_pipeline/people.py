"""What may be shown about people, and how to show other people's texts safely (I9).

Logs, errors, alerts and Dagster only show a member's contact id. In messages, anything written by others (a body, a
comment, a value that can't be understood) is put between « and » (`said`). The ledger keeps it for TEXT_RETENTION_DAYS,
for those who may read it. Everywhere else, the message is shown without it (`public`). Secrets are removed here too
(`redacted`).
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
"""The columns of the ledger that samples may show elsewhere, for example in Dagster."""

_SAID = re.compile("«[^»]*(?:»|$)")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
# Where Markdown or HTML would see more than a character. GUIDs, numbers and times are not affected.
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
    """Quote what others wrote, for use in our messages."""
    return f"«{text.replace('«', '<').replace('»', '>')}»"


def value(given: object) -> str:
    """Return an invalid value for a message: null, booleans and numbers as they are, anything else quoted."""
    shown = printable(f"{given!r:.100}")
    return shown if given is None or isinstance(given, int | float | Decimal) else said(shown)


def public(message: str) -> str:
    """Return a message without what others wrote."""
    return _SAID.sub("«…»", message)


def word(text: str) -> str:
    """Return a name from a system, such as a type. If it is not a single plain word, it is quoted."""
    return text if _WORD.fullmatch(text) else said(printable(text[:60]))


def printable(text: str) -> str:
    """Return text without terminal sequences and other control characters, which are shown as �."""
    if text.isprintable():
        return text
    return "".join(
        one if one in _LINES or unicodedata.category(one)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def markdown(text: str) -> str:
    """Return text as one line of Markdown that shows just the text."""
    return _MARKUP.sub(lambda found: "".join(f"\\{one}" for one in found[0]), " ".join(printable(text).split()))


def redacted(text: str, secrets: Sequence[str] = ()) -> str:
    """Return text without the given secrets and without whatever looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _LOOKS_SECRET.sub("***", text)
