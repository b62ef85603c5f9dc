"""When a pending balance changed last, so that a request claimed before that does not settle it.

Revision ID: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

SCHEMA = """
alter table pending add column changed_at timestamptz not null default clock_timestamp();
comment on column pending.changed_at is 'when its balance changed last: only a request claimed after that settles the row';
"""


def upgrade() -> None:
    """Add the column; rows that are pending now are settled by the next request."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop the column."""
    op.execute("alter table pending drop column changed_at")
