"""What the delivery of a migration's files needs to know after a restore.

Revision ID: 0017
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"

SCHEMA = """
alter table migration add column ledger text;
alter table migration alter column ledger set default treazure_pipeline.ledger_identity();
comment on column migration.ledger is 'the server and timeline on which it began: on any other, files may have left that it does not know of';
comment on column migration_file.state is 'uploaded: it may stand at the target; the notes beside it tell';
"""


def upgrade() -> None:
    """Add the column."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("alter table migration drop column ledger")
