"""What people decided, and why.

Revision ID: 0023
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"

SCHEMA = """
create table decision (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    decided_by text not null,
    what text not null,
    subject text not null,
    why text not null
);
comment on table decision is 'what people decided, and why; kept for ever, but for the words of an erased contact';
comment on column decision.subject is 'what it was about: plan, adjustment, rejection …, and its number or digest';
create index decision_subject on decision (subject);
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("drop table decision")
