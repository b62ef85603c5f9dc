"""Autovacuum comes in time for the tables of the history too, which grow for LEDGER_HISTORY_DAYS.

Revision ID: 0026
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"

# As for the others (0024): a fifth of a year of batches and changes is too late for the space of those that were pruned.
LARGE = ("batch", "change", "observation", "finding", "adjustment", "adjustment_transition")


def upgrade() -> None:
    """Set it; nobody waits for that."""
    for table in LARGE:
        op.execute(
            f"alter table {table} set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)"
        )


def downgrade() -> None:
    """Leave it."""
