"""What I4 needs to know before a call: which server an event was received on, and what receipts become in Treazure.

Revision ID: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

SCHEMA = """
-- Differs after a restore, and after a failover: another server, timeline, database or table. A role may be kept from the first.
create function ledger_identity() returns text language plpgsql stable parallel safe as $$
declare
    server text;
    timeline text;
begin
    begin
        select system_identifier::text into server from pg_control_system();
    exception when insufficient_privilege then
        server := '';
    end;
    if not pg_is_in_recovery() then
        begin
            timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
        exception when insufficient_privilege then
            timeline := '';
        end;
    end if;
    return concat_ws('/', server, timeline, (select oid from pg_database where datname = current_database()),
                     'treazure_pipeline.adjustment'::regclass::oid);
end
$$;

create table identity (
    one boolean primary key default true check (one),
    identity text not null,
    changed_at timestamptz
);
comment on table identity is 'the server and timeline that this ledger was seen on last; changed_at: when it was noticed to be another';

alter table adjustment add column ledger text;
alter table adjustment alter column ledger set default treazure_pipeline.ledger_identity();
alter table adjustment add column looked_at timestamptz;
comment on column adjustment.ledger is 'the server and timeline on which it was received: on any other it is looked up before its first call';
comment on column adjustment.looked_at is 'when a look before its call found that Treazure does not have it';

create table receipts (
    address text primary key,
    checked_at timestamptz not null default clock_timestamp(),
    found text not null check (found in ('whole', 'shortened', 'absent')),
    length integer not null
);
comment on table receipts is 'what became of receipt numbers in the history of the Treazure at an address';
"""


def upgrade() -> None:
    """Create the function, the tables and the columns."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop them."""
    op.execute(
        "alter table adjustment drop column ledger, drop column looked_at; drop table receipts, identity; "
        "drop function ledger_identity()"
    )
