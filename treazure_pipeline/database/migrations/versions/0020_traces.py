"""An adjustment knows the trace of the webhook that brought it, so that the trace goes on in another process.

Revision ID: 0020
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"

SCHEMA = """
alter table adjustment add column trace text;
comment on column adjustment.trace is 'the span of its arrival (W3C traceparent); null where traces are off';
"""


def upgrade() -> None:
    """Add the column."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("alter table adjustment drop column trace")
