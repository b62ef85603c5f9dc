"""Reserved for: delivery.

Revision ID: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"

SCHEMA = ""


def upgrade() -> None:
    """Nothing yet."""
    if SCHEMA:
        op.execute(SCHEMA)


def downgrade() -> None:
    """Nothing yet."""
