"""What a ledger that was restored sends again, because Engage may have been sent more than the ledger knows.

Revision ID: 0021
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"

SCHEMA = """
alter table programme add column resend tstzmultirange not null default '{}';
comment on column programme.resend is
    'mutation times whose balances are sent again, even those that Engage is believed to hold: the ledger was restored since';
"""


def upgrade() -> None:
    """Add the column."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("alter table programme drop column resend")
