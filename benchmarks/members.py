"""The members that every measurement plays with: number n is the same contact in all of them."""

from __future__ import annotations

import random
import uuid
from hashlib import md5

LOYALTY_ID = "BENCHMARK"
ROWS_PER_REQUEST = 1000

CONTACT_SQL = "md5(n::text)::uuid"
BEFORE_SQL = "n % 1000 + 0.25"
"""The same as `contact` and `before`, in SQL."""


def contact(number: int) -> str:
    """Return the GUID of a member; in no order, as GUIDs are."""
    return str(uuid.UUID(md5(str(number).encode(), usedforsecurity=False).hexdigest()))


def before(number: int) -> str:
    """Return the balance that both systems had."""
    return f"{number % 1000}.25"


def after(number: int) -> str:
    """Return the balance that the export shows."""
    return f"{number % 1000 + 1000}.5"


def changed(changes: int, base: int) -> list[int]:
    """Return which of the members 1 to `base` changed, in the export's order: any."""
    return random.Random(changes).sample(range(1, base + 1), changes)  # noqa: S311 - no secret
