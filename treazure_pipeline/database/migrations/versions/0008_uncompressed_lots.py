"""Lots and batches are stored as they are.

GUIDs don't compress, and of amounts there are six bytes each: trying to compress them took a seventh of a large merge
and as much again of each claim, for lots that would be a third smaller.

Revision ID: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = """
alter table change alter contacts set storage external, alter before set storage external, alter after set storage external;
alter table batch alter contacts set storage external, alter amounts set storage external;
"""


def upgrade() -> None:
    """Store new rows uncompressed; existing ones stay as they are."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Compress new rows again."""
    op.execute(SCHEMA.replace("external", "extended"))
