"""Who looked up whom in the console.

Revision ID: 0022
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"

SCHEMA = """
create table lookup (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    looked_by text not null,
    contact uuid not null
);
comment on table lookup is 'who looked up whom in the console; rows go after LEDGER_HISTORY_DAYS';
comment on column lookup.looked_by is 'the name from the sign-in';
create index lookup_at on lookup (at);
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("drop table lookup")
