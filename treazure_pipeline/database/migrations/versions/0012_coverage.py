"""Reserved for: coverage.

Revision ID: 0012
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

SCHEMA = ""


def upgrade() -> None:
    """Nothing yet."""
    if SCHEMA:
        op.execute(SCHEMA)


def downgrade() -> None:
    """Nothing yet."""
