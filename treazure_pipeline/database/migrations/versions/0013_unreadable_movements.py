"""Movements of a log that can't be read are counted; informational ones may have no balance.

Revision ID: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"

SCHEMA = """
alter table points_history alter column balance drop not null;
comment on column points_history.balance is 'the contact''s balance after the movement; null where Treazure names none';
alter table points_history_read add column unreadable integer not null default 0;
alter table points_history_read add column first_unreadable text;
comment on column points_history_read.unreadable is 'movements of the log that can''t be read; the others are in points_history';
comment on column points_history_read.first_unreadable is 'the first of them, and what is wrong with it';
create index points_history_unreadable on points_history_read (programme, contact) where unreadable > 0;
"""


def upgrade() -> None:
    """Make room."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop what was counted; movements without a balance go."""
    op.execute(
        "drop index points_history_unreadable; "
        "alter table points_history_read drop column unreadable, drop column first_unreadable; "
        "delete from points_history where balance is null; "
        "alter table points_history alter column balance set not null;"
    )
