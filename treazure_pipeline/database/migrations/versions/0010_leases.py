"""Leases with fencing tokens instead of locks that a session holds.

Revision ID: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = """
create table lease (
    name text primary key,
    token bigint not null,
    holder text not null,
    taken_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    unique (name, token)
) with (fillfactor = 50);
comment on table lease is 'exclusive work, such as sync:1 for the run of programme 1; renewed by its holder, free once expired';
comment on column lease.holder is 'the process that holds it: boot, process namespace, process, its start';
comment on column lease.token is 'one more with each holder; whoever has an older one can''t write any more';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("drop table lease")
