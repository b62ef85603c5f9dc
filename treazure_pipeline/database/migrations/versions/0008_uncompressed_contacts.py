"""The contacts of lots and batches are stored as they are: GUIDs don't compress, and trying to takes its time.

Amounts stay compressed, to less than half: they are kept for as long as the history is.

Revision ID: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = """
alter table change alter contacts set storage external;
alter table batch alter contacts set storage external;
"""


def upgrade() -> None:
    """Store contacts uncompressed from now on; existing rows stay as they are."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Try to compress contacts again."""
    op.execute(SCHEMA.replace("external", "extended"))
