"""Reserved for: evidence.

Revision ID: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

SCHEMA = ""


def upgrade() -> None:
    """Nothing yet."""
    if SCHEMA:
        op.execute(SCHEMA)


def downgrade() -> None:
    """Nothing yet."""
