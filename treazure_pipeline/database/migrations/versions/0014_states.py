"""Reserved for: states.

Revision ID: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

SCHEMA = ""


def upgrade() -> None:
    """Nothing yet."""
    if SCHEMA:
        op.execute(SCHEMA)


def downgrade() -> None:
    """Nothing yet."""
