"""Texts that are kept for a while only, and who had a contact's erased.

Revision ID: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

SCHEMA = """
create table erasure (
    id bigint generated always as identity primary key,
    contact uuid not null,
    erased_at timestamptz not null default clock_timestamp(),
    erased_by text not null,
    why text not null
);
comment on table erasure is 'when the texts kept of a contact were erased, by whom and why';
create index erasure_contact on erasure (contact);

alter table adjustment add column blanked_at timestamptz;
comment on column adjustment.blanked_at is
    'when its texts went (TEXT_RETENTION_DAYS, or an erasure); of the payload is left what tells it from another event';
create index adjustment_texts on adjustment (finished_at) where blanked_at is null;

alter table points_history_read add column texts boolean not null default true;
comment on column points_history_read.texts is 'whether comment, operator_id and properties are as they were read';
create index points_history_texts on points_history_read (read_at) where texts;
"""


def upgrade() -> None:
    """Make room."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop what was noted."""
    op.execute(
        "drop table erasure; drop index adjustment_texts; alter table adjustment drop column blanked_at; "
        "alter table points_history_read drop column texts;"
    )
