"""The points log of contacts, for the data team; and dead letters that a person has dealt with.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = """
create table points_history (
    programme smallint not null references programme,
    contact uuid not null,
    position integer not null,
    date_time timestamptz not null,
    amount numeric not null,
    balance numeric not null,
    transaction_type text not null,
    expires_at timestamptz,
    comment text,
    operator_id text,
    shop_id text,
    pos_id text,
    receipt_nr text,
    properties jsonb,
    primary key (programme, contact, position)
);
comment on table points_history is 'Treazure''s points log of each contact, as it was when it was last read (points_history_read)';
comment on column points_history.programme is 'programme.id';
comment on column points_history.contact is 'the contact''s GUID, the same in Treazure and Engage';
comment on column points_history.position is 'the movement''s place in the contact''s log, from 1, oldest first';
comment on column points_history.date_time is 'when the points moved';
comment on column points_history.amount is 'points, exact; negative where they go';
comment on column points_history.balance is 'the contact''s balance after the movement';
comment on column points_history.transaction_type is
    'Load, Convert, Redeem, Expire, Transfer, RedeemVoucher (informational: moves no points), or one that is new';
comment on column points_history.expires_at is 'only where the programme expires points by the date they were earned';
comment on column points_history.receipt_nr is 'of an adjustment from Engage: adjustment.receipt';
comment on column points_history.properties is 'what else Treazure says of the movement';
create index points_history_time on points_history (programme, date_time);

create table points_history_read (
    programme smallint not null references programme,
    contact uuid not null,
    read_at timestamptz,
    tried_at timestamptz not null,
    rows integer,
    sum numeric,
    log_balance numeric,
    balance numeric,
    difference numeric generated always as (balance - sum) stored,
    error text,
    primary key (programme, contact)
);
comment on table points_history_read is 'when each contact''s log was read, and whether it adds up';
comment on column points_history_read.read_at is 'when the log that is in points_history was asked for';
comment on column points_history_read.sum is 'of all amounts but those of informational movements';
comment on column points_history_read.log_balance is 'the balance after the newest movement, 0 without any';
comment on column points_history_read.balance is 'the account''s balance at that time; null where Treazure has no such account';
comment on column points_history_read.error is 'why the last try failed; the rows are those of the last good read';
create index points_history_differs on points_history_read (programme, contact)
    where difference is distinct from 0 or log_balance is distinct from balance;
create index points_history_failed on points_history_read (programme, contact) where error is not null;

create table points_history_due (
    programme smallint not null,
    contact uuid not null,
    change bigint not null,
    failed_at timestamptz not null default 'epoch',
    since timestamptz not null default clock_timestamp(),
    primary key (programme, contact)
);
comment on table points_history_due is 'contacts whose log is to be read (again)';
comment on column points_history_due.change is 'the newest change.id that made it due, 0 where all were asked for';
comment on column points_history_due.failed_at is 'when its last try failed, epoch where none has: those come first';
create index points_history_due_next on points_history_due (programme, failed_at, contact);

create table points_history_mark (
    programme smallint primary key references programme,
    change bigint not null,
    noted_at timestamptz not null
);
comment on table points_history_mark is 'the newest change.id whose contacts are in points_history_due or have been read';

create table points_history_month (
    programme smallint not null references programme,
    month date not null,
    rows bigint not null,
    changed_at timestamptz not null,
    primary key (programme, month)
) with (fillfactor = 50);
comment on table points_history_month is 'movements by month (UTC), and when one of them changed last: what an export has to write';

alter table dead_letter add column settled_at timestamptz;
alter table dead_letter add column settled_reason text;
comment on column dead_letter.settled_at is 'when a person said that nothing more is to be done about it';
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute(
        "drop table points_history, points_history_read, points_history_due, points_history_mark, points_history_month; "
        "alter table dead_letter drop column settled_at, drop column settled_reason;"
    )
