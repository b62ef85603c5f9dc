"""Conventions that several folders rely on, each stated once.

What only one folder needs is not here. Treazure's movement types are in `clients.wire`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import ip_address

GUID_PATTERN = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
GUID = re.compile(GUID_PATTERN, re.ASCII)
"""A contact's id as both systems write it; case does not matter."""

SCHEMA_LOCK = 7_281_001
"""The advisory lock of the transaction that changes the ledger's schema."""
FOLD_LOCKS = 7_281_003
"""The class of advisory locks that keep folds and merges apart. The second key is the programme's number."""


def is_loopback(host: str | None) -> bool:
    """Return whether a host, as a name or an address, is this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def in_utc(moment: datetime) -> datetime:
    """Return an aware time in UTC. A time without a zone counts as UTC.

    Raises:
        OverflowError: The time has no counterpart in UTC between the years 1 and 9999.
    """
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
