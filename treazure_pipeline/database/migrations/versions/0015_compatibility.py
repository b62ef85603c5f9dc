"""Since which revision nothing was taken away, so that a process one version behind goes on beside a newer schema.

A migration that takes something away, which an older version still uses, sets it to itself.

Revision ID: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"

SCHEMA = """
create table compatibility (
    one boolean primary key default true check (one),
    compatible_since text not null
);
comment on table compatibility is 'versions that know this revision go on working beside a newer schema; one row';
insert into compatibility (compatible_since) values ('0015');
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("drop table compatibility")
