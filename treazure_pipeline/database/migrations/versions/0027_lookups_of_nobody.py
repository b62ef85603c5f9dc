"""Look-ups that found nobody are kept too.

Revision ID: 0027
"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"

SCHEMA = """
alter table lookup alter column contact drop not null;
comment on column lookup.contact is 'whom; null where the key was nobody''s. What was looked for is not kept';
"""


def upgrade() -> None:
    """Allow them."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Forget them."""
    op.execute("delete from lookup where contact is null; alter table lookup alter column contact set not null")
