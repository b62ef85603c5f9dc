"""What people decided: who, when, what, about what, and why. Recorded in the same transaction as the effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Connection

    from treazure_pipeline.ledger.store import Ledger

SOMEBODY = "a person"
"""Who decided, if they have not said who they are."""


@dataclass(frozen=True)
class Decision:
    """A decision: `what`, such as "approved"; its `subject`, such as a plan's digest; `why`, which may be empty."""

    at: datetime
    decided_by: str
    what: str
    subject: str
    why: str


def note(connection: Connection[Any], what: str, subject: str, *, by: str, why: str = "") -> None:
    """Note a decision in the transaction that carries it out."""
    connection.execute(
        "insert into decision (decided_by, what, subject, why) values (%s, %s, %s, %s)", (by, what, subject, why)
    )


@retried
def latest(ledger: Ledger, limit: int, *, subject: str | None = None) -> list[Decision]:
    """Return the latest decisions about one subject, or all, newest first."""
    with ledger.reading() as connection:
        return records(
            connection,
            Decision,
            "select at, decided_by, what, subject, why from decision "
            "where %(subject)s::text is null or subject = %(subject)s order by id desc limit %(limit)s",
            {"subject": subject, "limit": limit},
        )
