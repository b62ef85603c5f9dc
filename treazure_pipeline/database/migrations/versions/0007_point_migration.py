"""The point migration: roster, points log, files, delivery, audit.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = """
create table migration (
    id integer generated always as identity primary key,
    programme smallint not null references programme,
    state text not null default 'roster' check (state in ('roster', 'ready', 'delivered', 'closed', 'abandoned')),
    cut_off timestamptz not null,
    mode text not null check (mode in ('log', 'balance')),
    key_type text not null check (key_type in ('ContactId', 'MemberNumber', 'ExternalId')),
    shards smallint not null check (shards between 1 and 256),
    decimals smallint not null,
    run_id text not null,
    roster_answered timestamptz,
    delivered_by text check (delivered_by in ('files', 'api')),
    delivered_to text,
    delivered_at timestamptz,
    ended_at timestamptz,
    ended_by text,
    ended_because text,
    figures jsonb not null default '{}'
);
comment on table migration is 'a programme on its way into Engage before its go-live; one at a time is open';
comment on column migration.cut_off is 'movements up to this moment are imported, later ones come by the hourly sync; never moved';
comment on column migration.ended_by is 'who accepted what still differed, or gave the migration up';
create unique index migration_open on migration (programme) where state not in ('closed', 'abandoned');

create table migration_window (
    id integer generated always as identity primary key,
    migration integer not null references migration on delete cascade,
    kind text not null check (kind in ('all', 'moved')),
    state text not null default 'open' check (state in ('open', 'done', 'split')),
    window_from timestamptz not null,
    window_to timestamptz not null,
    asked timestamptz,
    answered timestamptz,
    fetched bigint,
    rejected bigint,
    error text
);
comment on table migration_window is 'exports that the roster is read by; one that fails is split in halves';
comment on column migration_window.kind is 'moved: asked for after all others, to find the accounts that moved meanwhile';

create table migration_contact (
    migration integer not null,
    shard smallint not null,
    contact uuid not null,
    balance numeric not null,
    mutated_at timestamptz,
    settled boolean not null,
    key text,
    left_out text,
    rows integer,
    imported numeric,
    read_at timestamptz,
    read_back numeric,
    primary key (migration, shard, contact)
) with (fillfactor = 80);
comment on column migration_contact.balance is 'at the cut-off once settled; until then as exported, after a movement that came later';
comment on column migration_contact.left_out is 'why the contact is not imported; the hourly sync sets its balance afterwards';
comment on column migration_contact.imported is 'sum of its rows in the files, read back from them; what Engage has to hold';
comment on column migration_contact.read_back is 'what Engage showed at read_at; null: it has no account';

create table migration_log (
    migration integer not null,
    shard smallint not null,
    first uuid not null,
    last uuid not null,
    contacts integer not null,
    movements bigint not null,
    body bytea not null,
    primary key (migration, shard, first)
);
alter table migration_log alter column body set storage external;
comment on table migration_log is 'points logs as fetched, in parts: those of all contacts of the shard from first to last';

create table migration_unread (
    migration integer not null,
    shard smallint not null,
    contact uuid not null,
    reason text not null,
    tries integer not null default 1,
    since timestamptz not null default clock_timestamp(),
    last_try timestamptz not null default clock_timestamp(),
    primary key (migration, shard, contact)
);
comment on table migration_unread is 'contacts whose points log could not be read; the next run of the shard tries again';

create table migration_shard (
    migration integer not null,
    shard smallint not null,
    contacts bigint not null,
    written_at timestamptz,
    figures jsonb not null default '{}',
    primary key (migration, shard)
);

create table migration_file (
    migration integer not null,
    shard smallint not null,
    name text not null,
    rows bigint not null,
    total numeric not null,
    size bigint not null,
    sha256 text not null,
    state text not null default 'written' check (state in ('written', 'uploaded', 'delivered')),
    delivered_at timestamptz,
    primary key (migration, name)
);
comment on column migration_file.state is 'uploaded: complete under its temporary name, about to get its own';

create table migration_request (
    id bigint generated always as identity primary key,
    migration integer not null,
    name text not null,
    first_row bigint not null,
    rows integer not null,
    idempotency_key text not null unique,
    state text not null check (state in ('sending', 'taken', 'refused', 'uncertain')),
    asked_at timestamptz not null,
    answered_at timestamptz,
    refused integer not null default 0,
    error text,
    unique (migration, name, first_row)
);
comment on table migration_request is 'rows of a file that go to Engage by API in one request, at most once';
comment on column migration_request.asked_at is 'of the first call: Engage remembers the key for 24 hours from then';

create table migration_finding (
    migration integer not null,
    shard smallint,
    origin text not null check (origin in ('roster', 'keys', 'files', 'delivery')),
    contact uuid,
    kind text not null,
    field text not null default '',
    value text not null default '',
    amount numeric,
    remedy text not null default ''
);
comment on table migration_finding is 'what a person should look at before signing: contact, field, value, what to do';
create index migration_finding_migration on migration_finding (migration, origin, shard);
create index migration_finding_contact on migration_finding (migration, contact);
"""


def upgrade() -> None:
    """Create its tables."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop its tables, with their data."""
    op.execute(
        "drop table migration_finding, migration_request, migration_file, migration_shard, migration_unread, "
        "migration_log, migration_contact, migration_window, migration;"
    )
