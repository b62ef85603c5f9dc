"""Whose ledger it is.

Revision ID: 0012
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

SCHEMA = """
create table owner (
    one boolean primary key default true check (one),
    fingerprint text not null,
    treazure text not null,
    engage text not null,
    since timestamptz not null default clock_timestamp()
);
comment on table owner is 'the two systems that the ledger belongs to; one row, since its first use (I13)';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("drop table owner")
