"""When everything was asked for last; accounts to be read once more keep their tries; answers that reads may lag behind.

Revision ID: 0016
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"

SCHEMA = """
alter table programme add column full_asked_at timestamptz;
alter table programme add column full_tried_at timestamptz;
comment on column programme.full_asked_at is 'when the last full export that was merged was requested';
comment on column programme.full_tried_at is 'when a full export was requested last, whatever became of it';
update programme g set full_asked_at = o.asked, full_tried_at = o.asked
from (select programme, max(asked) as asked from observation
      where source = 'export' and state = 'merged' and is_full group by programme) o
where o.programme = g.id;

alter table reread add column tries smallint not null default 0;
alter table reread add column next_try timestamptz not null default clock_timestamp();
alter table reread add column reason text;
comment on column reread.tries is 'how often it could not be read; then it waits, longer each time';

alter table observation add column lags_until timestamptz;
alter table observation add column outdated numeric[];
comment on column observation.lags_until is
    'of the answer to a transaction: a read that was asked before may come from a replica that lags';
comment on column observation.outdated is 'the balances that such a replica may still show';
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop them."""
    op.execute(
        "alter table programme drop column full_asked_at, drop column full_tried_at; "
        "alter table reread drop column tries, drop column next_try, drop column reason; "
        "alter table observation drop column lags_until, drop column outdated"
    )
