"""Conventions that several folders rely on, each stated once.

Belongs here: what both systems and the ledger agree on. Does not: anything that only one folder needs. The movement
types of Treazure are in `clients.wire`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import ip_address

GUID_PATTERN = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
GUID = re.compile(GUID_PATTERN, re.ASCII)
"""A contact's id as both systems write it: upper and lower case mean the same."""

SCHEMA_LOCK = 7_281_001
"""Advisory lock of the transaction that changes the ledger's schema."""
FOLD_LOCKS = 7_281_003
"""Class of the advisory locks that keep folds and merges apart; the second key is the programme's number."""


def is_loopback(host: str | None) -> bool:
    """Tell whether a host, as a name or an address, is this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def in_utc(moment: datetime) -> datetime:
    """Return a time in UTC, and aware. A time without a zone is taken to be UTC.

    Raises:
        OverflowError: The time has no counterpart in UTC between the years 1 and 9999.
    """
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
