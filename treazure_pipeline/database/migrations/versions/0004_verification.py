"""Reading balances back: what Engage showed, and how each round of reading went.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = """
create table verification (
    programme smallint not null,
    contact uuid not null,
    verdict text not null check (verdict in ('equal', 'drift', 'missing')),
    sent numeric not null,
    shown numeric,
    read_at timestamptz not null,
    since timestamptz,
    rounds integer not null default 0,
    primary key (programme, contact)
) with (fillfactor = 75);
comment on table verification is 'the last verdict on each contact that was read back from Engage';
comment on column verification.sent is 'what Engage had accepted last when it was read';
comment on column verification.shown is 'what Engage showed; null where it has no account';
comment on column verification.since is 'when it was first found to differ; null while it is equal';
comment on column verification.rounds is 'how often in a row it was found to differ and marked for sending again';
create index verification_outstanding on verification (programme) where verdict <> 'equal';

create table finding (
    id bigint generated always as identity primary key,
    programme smallint not null,
    contact uuid not null,
    verdict text not null check (verdict in ('drift', 'missing', 'healed')),
    sent numeric not null,
    shown numeric,
    read_at timestamptz not null,
    since timestamptz not null,
    marked boolean not null,
    run_id text not null
);
comment on table finding is 'every time that a contact was found to differ, or to be equal again';
create index finding_contact on finding (programme, contact);

create table verification_run (
    id bigint generated always as identity primary key,
    programme smallint not null references programme,
    run_id text not null,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    figures jsonb not null default '{}',
    error text
);
comment on table verification_run is 'each run and what it found, kept up to date while it runs; not ended: killed, or still at it';
create index verification_run_programme on verification_run (programme, id);

create table verification_progress (
    programme smallint primary key references programme,
    batch bigint not null,
    position integer not null default 0,
    cursor uuid,
    master_cursor uuid,
    round integer not null default 0,
    round_started timestamptz,
    round_size bigint not null default 0,
    round_passed bigint not null default 0,
    read_through_from timestamptz,
    read_through_at timestamptz
) with (fillfactor = 20);
comment on column verification_progress.batch is 'rows of earlier batches, and `position` rows of this one, were read back or came too late for that';
comment on column verification_progress.cursor is 'the round has passed all contacts up to this one';
comment on column verification_progress.master_cursor is 'contacts up to this one have been compared with the master';
comment on column verification_progress.round_started is 'null between two rounds';
comment on column verification_progress.read_through_from is 'when the last round that came to its end began';
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute("drop table verification_progress, verification_run, finding, verification;")
